"""The same seed gives the same events and messages, whatever the order of Python's hash tables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.core.harness import chaos

SEEDS = ("--seeds", "3", "--start", "7000", "--steps", "120", "--digests")
HASH_SEEDS = ("0", "1")


def digests(hash_seed: str) -> str:
    """Run the harness in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.harness", *SEEDS],
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        text=True,
        timeout=60,
    )
    return done.stdout


def test_the_same_seed_gives_the_same_trace_under_two_hash_seeds() -> None:
    first, second = (digests(seed) for seed in HASH_SEEDS)
    assert first == second
    lines = first.splitlines()
    assert lines[-1] == "3 seeds, 0 failed"
    assert len({line.split()[1] for line in lines[:-1]}) == 3


def test_another_seed_gives_another_trace() -> None:
    one, other = (chaos(seed, steps=50, is_traced=True).digest for seed in (7001, 7002))
    assert one != other


def test_the_same_seed_gives_the_same_trace_in_one_process() -> None:
    one, other = (chaos(7003, steps=50, is_traced=True).digest for _ in range(2))
    assert one == other
