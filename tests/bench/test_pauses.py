"""Tests of bench.pauses: that a probe sees what holds a loop, and tells it from idleness."""

from __future__ import annotations

import asyncio
import time

import uvloop

from bench.pauses import Pauses, Probe, control, joined

HOLD_SECONDS = 0.05


def seen_while(step: str) -> Pauses:
    async def main() -> Pauses:
        probe = Probe()
        probe.start()
        for _ in range(20):
            await asyncio.sleep(0.005)
        until_seconds = time.thread_time() + HOLD_SECONDS
        while step == "hold" and time.thread_time() < until_seconds:
            pass
        await asyncio.sleep(0.005)
        return probe.stop()

    return uvloop.run(main())


def test_what_holds_the_loop_is_seen_as_held() -> None:
    pauses = seen_while("hold")
    assert pauses.max_ms >= pauses.held_max_ms >= HOLD_SECONDS * 1e3 * 0.9
    assert pauses.max_ms >= pauses.p99_ms


def test_an_idle_loop_is_not_held_for_longer_than_its_pauses() -> None:
    pauses = seen_while("rest")
    assert 0 <= pauses.held_max_ms <= pauses.max_ms


def test_an_idle_process_is_watched_meanwhile() -> None:
    with control() as found:
        time.sleep(0.15)
    assert found["control"].max_ms >= found["control"].p99_ms >= 0


def test_turns_are_joined_to_medians_and_the_least_that_was_held() -> None:
    seen = [Pauses(1, 9, 4), Pauses(2, 8, 6), Pauses(3, 7, 5)]
    assert joined(seen) == Pauses(2, 8, 4)
    assert [figure.name for figure in joined(seen).figures("x")] == [
        "x_p99_ms", "x_max_ms", "x_held_ms",
    ]  # fmt: skip
