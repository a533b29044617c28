"""The measurements run and measure what they say. How long anything takes is not tested."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.core import (
    IDLE_KEYS,
    QUIESCE_AFTER_TICKS,
    SHAPES,
    Leader,
    Shape,
    measure_idle,
    measure_round,
    tables,
)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.key)
def test_every_round_is_complete(shape: Shape) -> None:
    measure_round(shape, repetitions=2, rounds=3)


@pytest.mark.parametrize("quiesce_after_ticks", [0, QUIESCE_AFTER_TICKS])
def test_idle_groups_keep_their_leaders(quiesce_after_ticks: int) -> None:
    assert measure_idle(quiesce_after_ticks, groups=2, seconds=3) > 0


def test_what_was_stored_can_be_stored_again() -> None:
    leader = Leader(3)
    for _ in range(3):
        leader.node.propose(b"x")
        leader.settle()
        leader.store_again()
    assert leader.storage.last_index() == leader.second_storage.last_index() == 4
    assert leader.storage.first_index() == leader.second_storage.first_index() == 4


def test_figures_of_the_compiled_core_stand_beside_the_others() -> None:
    figures = dict.fromkeys([*(shape.key for shape in SHAPES), *IDLE_KEYS], 40.0)
    for compiled, expected in (({}, "-"), (dict.fromkeys(figures, 10.0), "4.0x")):
        console = Console(file=io.StringIO(), width=120)
        for table in tables(figures, compiled):
            console.print(table)
        assert isinstance(console.file, io.StringIO)
        rows = [line for line in console.file.getvalue().splitlines() if " 40.0" in line]
        assert len(rows) == len(figures)
        assert all(expected in row for row in rows)
