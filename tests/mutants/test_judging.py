"""Mutants are really found, and the sound product is not condemned."""

from __future__ import annotations

import itertools
import random
from collections import Counter as Tally

import pytest

from tests.mutants import judging
from tests.mutants.judging import JudgeFailed, Verdict, acquit, fitting_seeds, judge, run_script
from tests.mutants.mutant import Script, Sim
from tests.mutants.registry import MUTANTS
from tests.sim.campaign import Run
from tests.sim.plans import Plan, make_plan

SEEDS_MAX = 10
CHEAP = ("single-voter-hasty", "log-not-synced")


@pytest.mark.long
@pytest.mark.parametrize("name", CHEAP)
def test_the_simulator_finds_a_mutant_and_nothing_without_it(name: str) -> None:
    mutant = MUTANTS[name]
    verdict = judge(mutant, SEEDS_MAX, 1)
    assert verdict.is_found
    assert not acquit(mutant.judge, verdict).is_found


def test_a_test_finds_a_mutant_and_nothing_without_it() -> None:
    mutant = MUTANTS["late-completion"]
    verdict = judge(mutant, 1, 1)
    assert verdict.is_found
    assert not acquit(mutant.judge).is_found


def test_a_script_that_is_not_there_is_an_error() -> None:
    with pytest.raises(JudgeFailed, match="test_of_nothing"):
        run_script(Script(("tests/core/test_log.py::test_of_nothing",)), "")


def test_seeds_are_those_whose_plan_has_the_faults_and_fits() -> None:
    def is_small(plan: Plan) -> bool:
        return plan.nodes == 3

    sim = Sim(("drop", "pause"), is_small)
    seeds = list(itertools.islice(fitting_seeds(sim, 5), 4))
    assert seeds == sorted(set(seeds))
    assert seeds[0] >= 5
    for seed in seeds:
        plan = make_plan(random.Random(seed), sim.kinds)
        assert (plan.nodes, plan.fault_kinds) == (3, ("drop", "pause"))


@pytest.mark.parametrize(
    ("violation", "seen"),
    [
        ("group 1: two leaders\nmore", "group 1: two leaders"),
        ("Traceback (most recent call last):\n  File\nKeyError: 1\n", "KeyError: 1"),
    ],
)
def test_what_was_seen_is_told_in_one_line(violation: str, seen: str) -> None:
    assert judging._summary(violation) == seen


def test_a_verdict_counts_the_seeds_to_the_first_violation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = {1: "", 2: "", 3: "two leaders", 4: "never run"}

    def run_seed(seed: int, kinds: tuple[str, ...]) -> Run:
        assert kinds == ()
        return Run(seed, "", runs[seed], "", 0, Tally(), 0.0)

    monkeypatch.setattr(judging, "fitting_seeds", lambda _judge, first: itertools.count(first))
    monkeypatch.setattr(judging, "run_seed", run_seed)
    sim = Sim(())
    found = judging.run_simulations(sim, 1, 4, 1)
    assert found == Verdict("two leaders", "simulation", 3, 3)
    assert judging.run_simulations(sim, 1, 2, 1) == Verdict("", "simulation", 2)
    assert acquit(sim, found) == found._replace(seeds=1)
