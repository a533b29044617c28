"""A seed determines a run: its trace is the same whenever and wherever it runs."""

from __future__ import annotations

import functools
import os
import random
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sim.determinism import determined_by
from tests.sim.plans import quick
from tests.sim.simulation import Result, Simulation
from tests.sim.world import World

ROOT = Path(__file__).parents[2]


@functools.cache
def first_run(seed: int) -> Result:
    return Simulation(seed, change=quick).run()


@pytest.mark.parametrize("seed", [14, 20])
def test_a_run_has_the_same_trace_again(seed: int) -> None:
    first = first_run(seed)
    again = Simulation(seed, change=quick).run()
    assert first.digest == again.digest
    assert first.tally == again.tally
    assert first.history.operations == again.history.operations


def test_another_seed_has_another_trace() -> None:
    assert first_run(14).digest != first_run(20).digest


def test_the_trace_does_not_depend_on_the_hashes_of_strings() -> None:
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    printed = subprocess.run(
        [sys.executable, "-m", "tests.sim", "--quick", "--seed", "14"],
        cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": other}, capture_output=True, check=True,
        text=True,
    ).stdout  # fmt: skip
    assert f"trace {first_run(14).digest}," in printed


def test_time_and_chance_are_the_worlds_until_the_end() -> None:
    real = (time.time, time.perf_counter, time.sleep, os.urandom, secrets.randbits)
    drawn = []
    for _ in range(2):
        world = World(7)
        with determined_by(world):
            assert time.monotonic() == time.perf_counter() == world.now
            time.sleep(1000.0)
            drawn.append((os.urandom(8), secrets.randbits(64)))
    assert drawn[0] == drawn[1]
    assert (time.time, time.perf_counter, time.sleep, os.urandom, secrets.randbits) == real


def test_a_generator_without_a_seed_is_not_determined() -> None:
    """So none may be made while a simulation runs: the real code takes one from its environment."""
    values = set()
    for _ in range(2):
        with determined_by(World(7)):
            values.add(random.Random().random())
    assert len(values) == 2
