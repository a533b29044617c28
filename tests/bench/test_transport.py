"""Tests of bench.transport: that it measures what it says, on a small scale."""

from __future__ import annotations

import socket

import pytest

from bench import transport
from bench.figures import Figure
from bench.transport import (
    AnyLink,
    Endpoint,
    Load,
    measure_links,
    measure_round_trips,
    open_link,
    run_on_uvloop,
)
from rafter_transport.framing import frame_header
from rafter_transport.ring_pair import is_supported, make_ring_pair

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


def ends_with_a_frame(kind: str) -> tuple[Endpoint, Endpoint]:
    """Return the ends of a link to which a frame has come before anybody opened it."""
    if kind == "ring":
        ours, theirs = make_ring_pair()
        rings = theirs.map(100)
        rings.producer.push(b"x")
        rings.release()
        return ours, theirs
    here, there = socket.socketpair()
    there.sendall(frame_header(1) + b"x")
    return here, there


@pytest.mark.parametrize("kind", ["ring", "socketpair"])
def test_a_link_is_known_before_its_first_frame(kind: str) -> None:
    ours, theirs = ends_with_a_frame(kind)
    links: list[AnyLink] = []
    links_known: list[int] = []

    async def main() -> None:
        await open_link(ours, lambda _: links_known.append(len(links)), links.append)
        theirs.close()
        await links[0].lost

    run_on_uvloop(main())
    assert links_known == [1]
