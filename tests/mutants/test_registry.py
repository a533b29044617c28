"""The mutants themselves: each applies and is undone, and has somebody who can find it."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path
from types import CodeType

import pytest

from tests.mutants.judging import fitting_seeds
from tests.mutants.mutant import Mutant, Script, Sim
from tests.mutants.patching import changed, changed_code
from tests.mutants.registry import MUTANTS, REQUIRED
from tests.sim.faults import KINDS

ROOT = Path(__file__).parents[2]
each_mutant = pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)


def codes_of(mutant: Mutant) -> list[CodeType]:
    return [changed_code(change)[0].__code__ for change in mutant.changes]


@each_mutant
def test_a_mutant_changes_the_product_and_leaves_it_as_it_was(mutant: Mutant) -> None:
    before = codes_of(mutant)
    functions = [changed_code(change)[0] for change in mutant.changes]
    with changed(mutant.changes):
        for function, code in zip(functions, before, strict=True):
            assert function.__code__ != code
    assert [function.__code__ for function in functions] == before


@each_mutant
def test_only_what_is_shipped_is_changed(mutant: Mutant) -> None:
    rooms = ("rafter_core", "rafter_storage", "rafter_transport", "rafter_kv", "rafterd")
    for change in mutant.changes:
        assert change.target.partition(".")[0] in rooms


def test_there_are_enough_of_them() -> None:
    assert len(MUTANTS) >= 20
    assert {number for mutant in MUTANTS.values() for number in mutant.numbers} >= REQUIRED


def test_most_of_them_are_for_the_simulator_to_find() -> None:
    by_simulation = [mutant for mutant in MUTANTS.values() if isinstance(mutant.judge, Sim)]
    assert len(by_simulation) > len(MUTANTS) / 2


@each_mutant
def test_its_judge_is_there(mutant: Mutant) -> None:
    judge = mutant.judge
    if isinstance(judge, Sim):
        assert set(judge.kinds) <= set(KINDS)
        # Not one seed of many only.
        assert list(itertools.islice(fitting_seeds(judge, 1), 3))[-1] < 60
    else:
        assert all(is_test(test) for test in judge.tests)


def is_test(name: str) -> bool:
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body)


def test_the_table_of_the_documentation_has_each_mutant() -> None:
    text = (ROOT / "docs" / "testing.md").read_text("utf-8")
    for mutant in MUTANTS.values():
        numbers = ", ".join(map(str, mutant.numbers))
        by = "a test" if isinstance(mutant.judge, Script) else "the simulator"
        assert f"| {numbers} | `{mutant.name}` | {mutant.wrong} | {by}" in text
