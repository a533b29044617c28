"""Tests of bench.transport: that it measures what it says, on a small scale."""

from __future__ import annotations

import pytest

from bench import transport
from bench.figures import Figure
from bench.transport import Load, measure_links, measure_round_trips
from rafter_transport.ring_pair import is_supported

pytestmark = pytest.mark.skipif(not is_supported(), reason="no rings on this machine")


def by_name(figures: list[Figure]) -> dict[str, float]:
    return {figure.name: figure.value for figure in figures}


def test_a_ring_is_compared_with_a_socketpair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LOADS", (Load("few", b"x" * 100, 1, 200, 16, ""),))
    found = by_name(measure_links(turns=2))
    assert found.keys() == {
        "few_ratio",
        "few_ring_rate",
        "few_ring_us",
        "few_socketpair_rate",
        "few_socketpair_us",
    }
    assert all(value > 0 for value in found.values())


def test_round_trips_are_measured_on_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "ROUND_TRIPS_PER_TURN", 5)
    found = by_name(measure_round_trips(turns=2))
    assert found.keys() == {"round_trip_ring_us", "round_trip_socketpair_us"}
    assert all(value > 0 for value in found.values())
