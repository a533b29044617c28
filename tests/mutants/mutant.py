"""What a mutant is: a known bug as a change of the product, and who is to find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.mutants.patching import Change
from tests.sim.plans import Plan


def has_followers(plan: Plan) -> bool:
    """Take plans whose groups have several replicas."""
    return plan.replication > 1


@dataclass(frozen=True)
class Sim:
    """Judged by the simulator.

    `kinds` are the faults that there are, and only seeds whose plan has all of them and `fits` are
    run: so that seeds are spent where the bug can show.
    """

    kinds: tuple[str, ...]
    fits: Callable[[Plan], bool] = has_followers


@dataclass(frozen=True)
class Script:
    """Judged by tests, named as pytest does: the bug is found if one of them fails."""

    tests: tuple[str, ...]


Judge = Sim | Script


@dataclass(frozen=True)
class Mutant:
    """One bug. `numbers` are those of the checklist in docs/testing.md."""

    name: str
    numbers: tuple[int, ...]
    wrong: str
    """What the changed product does wrong."""
    changes: tuple[Change, ...]
    judge: Judge
