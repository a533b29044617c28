import logging
import os
import secrets
import socket
from pathlib import Path

import pytest

from rafterd.notify import Notifier, watchdog_seconds


@pytest.mark.parametrize("is_abstract", [False, True])
def test_one_datagram_holds_all_lines(tmp_path: Path, is_abstract: bool) -> None:
    name = f"@rafter-{secrets.token_hex(8)}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if is_abstract else name)
        notifier = Notifier({"NOTIFY_SOCKET": name})
        assert notifier.is_active
        assert notifier.send("READY=1", "STATUS=fine")
        assert manager.recv(100) == b"READY=1\nSTATUS=fine"
        assert notifier.reloading()
        first, second = manager.recv(100).decode().split("\n")
        assert first == "RELOADING=1"
        assert int(second.removeprefix("MONOTONIC_USEC=")) > 0


def test_without_a_manager_nothing_is_sent() -> None:
    notifier = Notifier({})
    assert not notifier.is_active
    assert not notifier.send("READY=1")


def test_a_manager_that_is_gone_or_full_does_no_harm(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    notifier = Notifier({"NOTIFY_SOCKET": path})
    assert not notifier.send("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        results = [notifier.send("WATCHDOG=1") for _ in range(5000)]
    assert results[0]
    assert not results[-1]


def test_an_address_of_another_family_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert not Notifier({"NOTIFY_SOCKET": "vsock:2:1"}).is_active
    assert "names no Unix socket" in caplog.text


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_for_the_process_it_names(
    environment: dict[str, str], seconds: float
) -> None:
    assert watchdog_seconds(environment, os.getpid()) == seconds
