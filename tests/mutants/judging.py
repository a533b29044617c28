"""Judging one mutant: run what is to find it, until it is found, and again without the bug."""

from __future__ import annotations

import functools
import itertools
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.mutants.mutant import Judge, Mutant, Script, Sim
from tests.mutants.patching import changed
from tests.sim.campaign import run_seed, run_seeds
from tests.sim.plans import make_plan

ROOT = Path(__file__).parents[2]
VARIABLE = "RAFTER_MUTANT"
"""The name of the mutant that `tests.mutants.plugin` puts in force."""
SCRIPT_SECONDS_MAX = 300
_FAILED = re.compile(r"^FAILED (.*)$", re.MULTILINE)


class Verdict(NamedTuple):
    """Whether a judge saw something wrong."""

    seen: str
    """The first line of what was wrong; empty if nothing was."""
    found_by: str
    seeds: int = 0
    """How many were run."""
    seed: int = 0
    """The one that showed it."""

    @property
    def is_found(self) -> bool:
        """Whether it was found."""
        return bool(self.seen)


class JudgeFailed(Exception):
    """A judge could not do its work."""


def judge(mutant: Mutant, seeds: int, processes: int) -> Verdict:
    """Judge the product with a mutant's bug in it."""
    if isinstance(mutant.judge, Script):
        return run_script(mutant.judge, mutant.name)
    with changed(mutant.changes):
        return run_simulations(mutant.judge, 1, seeds, processes)


def acquit(judge: Judge, verdict: Verdict | None = None) -> Verdict:
    """Judge the product as it is, by the seed or the tests that have found a bug; or by a few."""
    if isinstance(judge, Script):
        return run_script(judge, "")
    if verdict is None:
        return run_simulations(judge, 1, 1, 1)
    return run_simulations(judge, verdict.seed, 1, 1)


def run_simulations(judge: Sim, first: int, count: int, processes: int) -> Verdict:
    """Run up to `count` seeds of those that fit, from `first` on, to the first violation."""
    seeds = itertools.islice(fitting_seeds(judge, first), count)
    runs = run_seeds(seeds, processes, functools.partial(run_seed, kinds=judge.kinds))
    for number, run in enumerate(runs, 1):
        if run.violation:
            return Verdict(_summary(run.violation), "simulation", number, run.seed)
    return Verdict("", "simulation", count)


def _summary(violation: str) -> str:
    """Return the line of a violation that says most."""
    first, *rest = violation.strip().splitlines()
    return rest[-1] if first.startswith("Traceback") and rest else first


def fitting_seeds(judge: Sim, first: int) -> Iterator[int]:
    """Yield the seeds whose plan a judge takes, without end."""
    for seed in itertools.count(first):
        plan = make_plan(random.Random(seed), judge.kinds)
        if set(plan.fault_kinds) == set(judge.kinds) and judge.fits(plan):
            yield seed


def run_script(script: Script, name: str) -> Verdict:
    """Run tests in a process of their own, with the bug called `name`, or none, in the product."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.mutants.plugin", "-n0", "-x"]
    options = ["-p", "no:cacheprovider", "--tb=no", "-rf"]
    done = subprocess.run(
        [*command, *options, *script.tests],
        cwd=ROOT,
        env=os.environ | {VARIABLE: name, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS_MAX,
        check=False,
    )
    found_by = ", ".join(test.partition("::")[2] for test in script.tests)
    if done.returncode == 0:
        return Verdict("", found_by)
    failure = _FAILED.search(done.stdout)
    if done.returncode != 1 or failure is None:
        raise JudgeFailed(f"{' '.join(script.tests)}:\n{done.stdout}{done.stderr}")
    return Verdict(failure[1].partition(" - ")[2] or "the test failed", found_by)
