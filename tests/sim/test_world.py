"""Virtual time and the order of events."""

from __future__ import annotations

import pytest

from tests.sim.world import Violation, World


def test_events_happen_in_the_order_of_time_and_then_of_planning() -> None:
    world, seen = World(1), list[str]()
    world.after(2.0, seen.append, "late")
    world.after(1.0, seen.append, "first")
    world.after(1.0, seen.append, "second")
    world.at(-5.0, seen.append, "past")
    world.run_until(1.5)
    assert (seen, world.now) == (["past", "first", "second"], 1.5)
    world.run_until(3.0)
    assert seen[-1] == "late"


def test_a_violation_ends_the_run_at_its_event() -> None:
    world, seen = World(1), list[str]()
    world.after(1.0, world.violated, "no")
    world.after(1.0, seen.append, "after")
    with pytest.raises(Violation, match="no"):
        world.run_until(2.0)
    assert not seen


def test_waiting_ends_when_it_holds_or_the_time_is_over() -> None:
    world, seen = World(1), list[int]()
    world.after(0.5, seen.append, 1)
    world.wait(5.0, lambda: bool(seen))
    assert 0.5 <= world.now < 0.6
    world.wait(1.0, lambda: False)
    assert world.now == pytest.approx(1.5, abs=0.05)


def test_the_trace_is_a_hash_of_all_lines() -> None:
    shown: list[str] = []
    world, other = World(1, shown.append), World(1)
    for each in (world, other):
        each.note("a")
    assert shown == ["0.000000 a"]
    assert world.trace.digest == other.trace.digest
    other.note("b")
    assert world.trace.digest != other.trace.digest


def test_drawn_numbers_are_within_their_bounds() -> None:
    world = World(1)
    drawn = [world.between(0.01, 10.0) for _ in range(1000)]
    assert 0.01 <= min(drawn) < 0.02
    assert 5.0 < max(drawn) <= 10.0
    assert sum(number < 0.1 for number in drawn) > 200
    assert not world.chance(0.0)
    assert world.chance(1.0)
