"""One round: a cluster, clients and faults at the same time, then the checks."""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.kit import HOST, STOP_SECONDS
from tests.linear.history import History, Outcome
from tests.nemesis import judge
from tests.nemesis.clients import Address, Ballast, Client, Recorder
from tests.nemesis.cluster import Ground, running_ground
from tests.nemesis.faults import FaultRecord, Nemesis
from tests.nemesis.judge import Check
from tests.nemesis.plan import Plan
from tests.nemesis.status import LeaderWatch, Led
from tests.nemesis.workload import TEAM_CLIENTS, Team

TEAMS = 3
THINK_SECONDS = 0.03
"""A client's pause between two operations: the servers shall have the processors."""
BALLAST_PER_SECOND = 12.0
BALLAST_PER_SECOND_WITH_DISK = 60.0
"""Enough to need new room while a disk is full."""

ERRORS_OF_FAULT = {"sync": "rafter_storage.errors.Poisoned"}
"""What nodes say when they meet a fault as they should."""


@dataclass
class Round:
    """A round that is over, with all that a page about it shows."""

    plan: Plan
    begun: int = 0
    """Monotonic nanoseconds of the first operation."""
    ended: int = 0
    history: History = field(default_factory=History)
    faults: list[FaultRecord] = field(default_factory=list)
    leaders: list[Led] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    applied: dict[int, dict[int, int]] = field(default_factory=dict)
    """What each replica had applied in the end: group -> node -> index."""
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    """How many operations ended how."""
    wall_seconds: float = 0.0

    @property
    def operations(self) -> int:
        """How many there were."""
        return self.outcomes.total()

    def forget(self) -> None:
        """Let go of what grows with the number of operations: it has been kept elsewhere."""
        self.history = History()

    @property
    def lost(self) -> int:
        """Acknowledged writes that are not there."""
        return sum(check.lost for check in self.checks)

    @property
    def violations(self) -> int:
        """Everything that is wrong."""
        return sum(len(check.problems) for check in self.checks)

    @property
    def undecided(self) -> int:
        """Searches that were given up."""
        return sum(check.undecided for check in self.checks)

    @property
    def is_passed(self) -> bool:
        """Whether nothing is wrong or left open."""
        return all(check.is_passed for check in self.checks)

    def __str__(self) -> str:
        counts = self.outcomes
        faults = Counter(record.fault for record in self.faults)
        done = ", ".join(f"{count} {fault}" for fault, count in sorted(faults.items()))
        return (
            f"round {self.plan.number}: {self.operations} operations, "
            f"{counts[Outcome.OK]} ok, {counts[Outcome.UNKNOWN]} unknown, "
            f"{counts[Outcome.FAILED]} failed; faults: {done or 'none'}; {self.lost} lost, "
            f"{self.violations} violations, {self.undecided} undecided; {self.wall_seconds:.0f} s"
        )


def run_round(plan: Plan, directory: Path) -> Round:
    """Run a round. Its nodes keep their logs and data in `directory`, but for a small disk."""
    started = time.monotonic()
    result = Round(plan)
    with running_ground(directory, plan.shape, plan.small_disk) as ground:
        with Nemesis(ground, plan) as nemesis:
            final = asyncio.run(_run_clients(ground, plan, nemesis, result))
        result.faults = sorted(nemesis.records, key=lambda record: record.begun)
        problems = [f"{each.fault} {each.nodes}: {each.error}" for each in result.faults]
        failed = [text for text, each in zip(problems, result.faults, strict=True) if each.error]
        result.checks.append(Check("faults", f"{len(result.faults)} were done", failed))
        result.checks.append(_stop(ground))
        nodes = list(ground.cluster)
        directories = {node.node: node.data_directory for node in nodes}
        result.checks += judge.check_disks(directories, result.applied)
        expected = [text for fault, text in ERRORS_OF_FAULT.items() if fault in plan.faults]
        result.checks.append(judge.check_logs((node.log_path for node in nodes), expected))
    result.history.meta = {"plan": str(plan), "shape": str(plan.shape)}
    result.checks += judge.check_history(result.history, final)
    result.wall_seconds = time.monotonic() - started
    return result


async def _run_clients(
    ground: Ground, plan: Plan, nemesis: Nemesis, result: Round
) -> dict[str, Any]:
    """Let clients work while the plan is done; return the last values of all objects."""
    addresses = {node.node: (HOST, node.client_port) for node in ground.cluster}
    recorder = Recorder()
    generator = random.Random(f"{plan.seed}/{plan.number}/clients")
    teams = [Team(number, random.Random(generator.random())) for number in range(TEAMS)]
    watch = LeaderWatch(list(addresses.values()), random.Random(generator.random()))
    workers = [
        *(client.run for client in _clients(teams, list(addresses.values()), recorder, generator)),
        Ballast(
            list(addresses.values()),
            BALLAST_PER_SECOND_WITH_DISK if plan.small_disk else BALLAST_PER_SECOND,
        ).run,
        watch.run,
    ]
    is_over = asyncio.Event()
    result.begun = recorder.now()
    nemesis.start()
    async with asyncio.TaskGroup() as group:
        for work in workers:
            group.create_task(work(is_over))
        await asyncio.sleep(plan.seconds)
        await asyncio.to_thread(nemesis.finish)
        is_over.set()
    result.ended = recorder.now()
    objects = [each for team in teams for each in team.objects]
    result.checks.append(await judge.check_alive(addresses, plan.shape.groups))
    check, final = await judge.read_back(addresses, objects, recorder)
    result.checks.append(check)
    check, result.applied = await judge.check_replicas(addresses)
    result.checks.append(check)
    result.checks.append(Check("replies", "their forms", recorder.strange))
    result.outcomes = Counter(each.outcome for each in recorder.history.operations)
    result.history, result.errors = recorder.history, recorder.errors
    result.leaders = watch.seen
    return final


def _clients(
    teams: Sequence[Team],
    addresses: Sequence[Address],
    recorder: Recorder,
    generator: random.Random,
) -> list[Client]:
    return [
        Client(
            place * TEAM_CLIENTS + number,
            team,
            addresses,
            recorder,
            random.Random(generator.random()),
            THINK_SECONDS,
        )
        for place, team in enumerate(teams)
        for number in range(TEAM_CLIENTS)
    ]


def _stop(ground: Ground) -> Check:
    """Stop all nodes in order and at once: each must end by itself, and with exit code 0."""
    problems = []
    processes = [(node, node.process) for node in ground.cluster if node.process is not None]
    for _, process in processes:
        process.terminate()
    for node, process in processes:
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            problems.append(f"node {node.node} did not end within {STOP_SECONDS:.0f} s")
            continue
        if code:
            problems.append(f"node {node.node} ended with exit code {code}")
    return Check("stop", f"{len(ground.numbers)} nodes ended in order", problems)
