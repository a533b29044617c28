"""The clocks of a host."""

from __future__ import annotations

import pytest

from tests.sim.clocks import Clock
from tests.sim.world import World


def test_a_fast_clock_gains_and_does_not_jump() -> None:
    world = World(1)
    clock = Clock(world)
    start = clock.seconds()
    clock.drift(1.5)
    assert clock.seconds() == start
    world.run_until(2.0)
    assert clock.seconds() == pytest.approx(start + 3.0)
    assert clock.world_seconds(start + 6.0) == pytest.approx(4.0)
    clock.drift(1.0)
    world.run_until(3.0)
    assert clock.seconds() == pytest.approx(start + 4.0)


def test_a_jump_is_the_wall_clocks_alone() -> None:
    clock = Clock(World(1))
    seconds, wall = clock.seconds(), clock.wall_seconds()
    clock.jump(-60.0)
    assert clock.seconds() == seconds
    assert clock.wall_seconds() == pytest.approx(wall - 60.0)
