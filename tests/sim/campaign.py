"""Many runs, side by side, and what they amount to."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.sim.faults import KINDS
from tests.sim.plans import Plan
from tests.sim.simulation import Simulation

RAREST_SHOWN = 5
PAIRS = frozenset(" + ".join(pair) for pair in itertools.combinations(sorted(KINDS), 2))


class Run(NamedTuple):
    """What a campaign keeps of one run."""

    seed: int
    plan: str
    violation: str
    digest: str
    operations: int
    tally: Tally[str]
    cpu_seconds: float


def run_seed(
    seed: int,
    change: Callable[[Plan], Plan] = lambda plan: plan,
    kinds: tuple[str, ...] = tuple(KINDS),
) -> Run:
    """Run one seed, with faults of `kinds`, and its plan as it is drawn or as `change` makes it."""
    began = time.process_time()
    result = Simulation(seed, kinds=kinds, change=change).run()
    return Run(
        seed,
        str(result.plan),
        result.violation,
        result.digest,
        result.operations,
        result.tally,
        time.process_time() - began,
    )


def run_seeds(
    seeds: Iterable[int], processes: int, run: Callable[[int], Run] = run_seed
) -> Iterator[Run]:
    """Run seeds in several processes; yields in their order."""
    if processes == 1:
        yield from map(run, seeds)
        return
    # Forked: what was patched for a mutant is patched there too.
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        yield from pool.imap(run, seeds)


@dataclass
class Summary:
    """The sum of many runs."""

    runs: int = 0
    operations: int = 0
    cpu_seconds: float = 0.0
    tally: Tally[str] = field(default_factory=Tally)
    violated: list[Run] = field(default_factory=list)

    def add(self, run: Run) -> None:
        self.runs += 1
        self.operations += run.operations
        self.cpu_seconds += run.cpu_seconds
        self.tally += run.tally
        if run.violation:
            self.violated.append(run)

    @property
    def faults(self) -> int:
        """How many faults there were, of all kinds."""
        return sum(self.tally[kind] for kind in KINDS)

    @property
    def missing_pairs(self) -> list[str]:
        """The pairs of kinds of faults that never overlapped."""
        return sorted(pair for pair in PAIRS if not self.tally[pair])

    def lines(self) -> Iterator[str]:
        """Yield what to print at the end."""
        yield "faults: " + ", ".join(f"{kind} {self.tally[kind]}" for kind in sorted(KINDS))
        rare = sorted(name for name in self.tally if name.startswith("buggify"))
        if rare:
            yield "rare ways: " + ", ".join(f"{name[8:]} {self.tally[name]}" for name in rare)
        seen = len(PAIRS) - len(self.missing_pairs)
        rarest = sorted(PAIRS, key=lambda pair: (self.tally[pair], pair))[:RAREST_SHOWN]
        yield f"pairs of faults: {seen} of {len(PAIRS)}, the rarest: " + ", ".join(
            f"{pair} {self.tally[pair]}" for pair in rarest
        )
        speed = self.operations / self.cpu_seconds if self.cpu_seconds else 0.0
        yield (
            f"{self.operations} operations in {self.cpu_seconds:.0f} s of CPU, {speed:.0f} a second"
        )
        yield f"{self.runs} seeds, {len(self.violated)} violations"
