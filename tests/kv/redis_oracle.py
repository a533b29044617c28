"""A real redis-server to compare with, one node of a cluster so that it answers as one."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kv.raw_client import RawClient
from tests.ports import free_ports


def need(program: str) -> str:
    """Return the path of a program; skip the test where it is not installed."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[int]:
    """Run redis-server for the length of a block; yields its port."""
    program = need("redis-server")
    port, cluster_port = free_ports(), free_ports()
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "cluster-enabled": "yes",
        "cluster-port": str(cluster_port),
        "dir": str(directory),
        "logfile": str(directory / "log"),
        "appendonly": "no",
        "save": "",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
    try:
        _wait_until_ready(process, port)
        yield port
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        assert process.poll() is None, "redis-server ended; its log is in its directory"
        assert time.monotonic() < deadline, "redis-server does not get ready"
        with contextlib.suppress(OSError, EOFError), RawClient(port) as client:
            client.command(b"CLUSTER", b"ADDSLOTSRANGE", b"0", b"16383")
            if b"cluster_state:ok" in client.command(b"CLUSTER", b"INFO"):
                return
        time.sleep(0.01)
