"""Logging about peers, on a clock that the test moves."""

import logging

import pytest

from rafter_transport.peer_log import INTERVAL_SECONDS, REMEMBERED_MAX, PeerLog


class Clock:
    def __init__(self) -> None:
        self.now_seconds = 1000.0

    def __call__(self) -> float:
        return self.now_seconds


def test_the_same_reason_of_the_same_peer_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    log = PeerLog(logging.getLogger("rafter_transport.test"), clock)
    assert log.report("node 2", "cluster", "other cluster")
    assert not log.report("node 2", "cluster", "other cluster")
    assert log.report("node 3", "cluster", "other cluster")
    assert log.report("node 2", "version", "no common version")
    clock.now_seconds += INTERVAL_SECONDS - 0.001
    assert not log.report("node 2", "cluster", "other cluster")
    clock.now_seconds += 0.001
    assert log.report("node 2", "cluster", "other cluster")
    assert [record.getMessage() for record in caplog.records] == [
        "node 2: other cluster",
        "node 3: other cluster",
        "node 2: no common version",
        "node 2: other cluster (2 more since)",
    ]


def test_a_flood_of_peers_is_bounded_in_memory_and_in_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    log = PeerLog(logging.getLogger("rafter_transport.test"), clock)
    for number in range(REMEMBERED_MAX + 10):
        log.report(f"peer {number}", "reason", "text")
    assert len(caplog.records) == REMEMBERED_MAX
    clock.now_seconds += INTERVAL_SECONDS
    assert log.report("one more", "reason", "text")
