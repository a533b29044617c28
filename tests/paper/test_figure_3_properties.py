"""Figure 3 of the paper: the five properties, watched over random schedules.

A schedule ticks, delivers in any order, loses and duplicates messages, cuts links and crashes
nodes, as its seed says; every step is recorded. Each property is then a question about the record.
A telling example of each is in the tests of the other figures.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import pytest

from rafter_core import Message, ProposalDropped, RequestRefused, StepError
from tests.core.network import Host
from tests.paper.support import PLAIN, group

STEPS = 3000
SEEDS = range(24)


class Observation(NamedTuple):
    """What was seen of one node after one step. `log` is (term, payload) from index 1 on."""

    node: int
    term: int
    is_leader: bool
    commit: int
    log: tuple[tuple[int, bytes], ...]


class Record(NamedTuple):
    """One schedule: every observation in order, and what each node applied by the end."""

    observations: list[Observation]
    applied: dict[int, list[tuple[int, int, bytes]]]


class Schedule:
    """A group under everything that a network and a power supply may do to it."""

    def __init__(self, seed: int) -> None:
        self.generator = random.Random(seed)
        size = self.generator.choice((3, 3, 5))
        settings: dict[str, Any] = {} if seed % 2 else dict(PLAIN)
        self.hosts = [Host(node, group(size), **settings) for node in range(1, size + 1)]
        self.pending: list[Message] = []
        self.is_cut: set[tuple[int, int]] = set()
        self.proposed = 0
        self.observations: list[Observation] = []

    def run(self) -> Record:
        """Do every step and return what was seen."""
        for _ in range(STEPS):
            host = self._step()
            self.pending += host.pump()
            log = tuple((term, payload) for term, _, payload in host.log)
            node = host.node
            self.observations.append(
                Observation(node.node_id, node.term, node.is_leader, node.commit, log)
            )
        applied = {
            host.node_id: [(entry.index, entry.term, entry.payload) for entry in host.applied]
            for host in self.hosts
        }
        return Record(self.observations, applied)

    def _step(self) -> Host:
        host = self.generator.choice(self.hosts)
        dice = self.generator.random()
        if dice < 0.70 and self.pending:
            return self._deliver() or host
        if dice < 0.92:
            host.node.tick()
        elif dice < 0.98:
            host = self._preferably_a_leader(host)
            self._propose(host)
        elif dice < 0.99:
            self.pending = [m for m in self.pending if m.to != host.node_id]
            host.restart()
        else:
            self._change_links()
        return host

    def _deliver(self) -> Host | None:
        position = self.generator.randrange(min(len(self.pending), 6))
        message = self.pending[position]
        dice = self.generator.random()
        if dice > 0.05:
            del self.pending[position]
        if dice > 0.95 or (message.sender, message.to) in self.is_cut:
            return None
        host = self.hosts[message.to - 1]
        try:
            host.node.step(message)
        except (StepError, RequestRefused) as error:
            host.errors.append(error)
        return host

    def _preferably_a_leader(self, host: Host) -> Host:
        leaders = [other for other in self.hosts if other.node.is_leader]
        return self.generator.choice(leaders) if leaders else host

    def _propose(self, host: Host) -> None:
        self.proposed += 1
        try:
            host.node.propose(b"%d" % self.proposed)
        except ProposalDropped as error:
            host.errors.append(error)

    def _change_links(self) -> None:
        self.is_cut.clear()
        if self.generator.random() < 0.6:
            lonely = self._preferably_a_leader(self.generator.choice(self.hosts)).node_id
            for host in self.hosts:
                self.is_cut.add((host.node_id, lonely))
                if self.generator.random() < 0.8:
                    self.is_cut.add((lonely, host.node_id))


@cache
def record_of(seed: int) -> Record:
    """Return the record of a seed; every property looks at the same one."""
    return Schedule(seed).run()


def leaders_of(record: Record) -> Iterator[Observation]:
    """Yield every observation of a leader."""
    return (seen for seen in record.observations if seen.is_leader)


def commits_of(record: Record) -> dict[int, tuple[int, tuple[int, bytes]]]:
    """Return by index in which term an entry was first seen committed, and the entry."""
    commits: dict[int, tuple[int, tuple[int, bytes]]] = {}
    for seen in record.observations:
        for index in range(len(commits) + 1, seen.commit + 1):
            commits[index] = (seen.term, seen.log[index - 1])
    return commits


@pytest.mark.parametrize("seed", SEEDS)
def test_election_safety(seed: int) -> None:
    """Figure 3, Election Safety: no term ever has two leaders."""
    leaders: dict[int, int] = {}
    for seen in leaders_of(record_of(seed)):
        assert leaders.setdefault(seen.term, seen.node) == seen.node


@pytest.mark.parametrize("seed", SEEDS)
def test_leader_append_only(seed: int) -> None:
    """Figure 3, Leader Append-Only: as long as it leads, a node's log only grows at its end."""
    logs: dict[tuple[int, int], tuple[tuple[int, bytes], ...]] = {}
    for seen in leaders_of(record_of(seed)):
        before = logs.get((seen.node, seen.term), ())
        assert seen.log[: len(before)] == before
        logs[seen.node, seen.term] = seen.log


@pytest.mark.parametrize("seed", SEEDS)
def test_log_matching(seed: int) -> None:
    """Figure 3, Log Matching: the same index and term mean the same entry and the same past.

    By induction that is: one (index, term) has one payload and one term before it.
    """
    known: dict[tuple[int, int], tuple[bytes, int]] = {}
    for seen in record_of(seed).observations:
        previous_term = 0
        for index, (term, payload) in enumerate(seen.log, 1):
            identity = (payload, previous_term)
            assert known.setdefault((index, term), identity) == identity
            assert previous_term <= term <= seen.term
            previous_term = term


@pytest.mark.parametrize("seed", SEEDS)
def test_leader_completeness(seed: int) -> None:
    """Figure 3, Leader Completeness: what a term committed is in the log of every later leader."""
    record = record_of(seed)
    commits = commits_of(record)
    for seen in leaders_of(record):
        for index, (term, entry) in commits.items():
            if seen.term > term:
                assert seen.log[index - 1 : index] == (entry,)


@pytest.mark.parametrize("seed", SEEDS)
def test_state_machine_safety(seed: int) -> None:
    """Figure 3, State Machine Safety: no two servers apply different entries at one index.

    Each applies them in order and without a gap, and only what is committed.
    """
    record = record_of(seed)
    commits = commits_of(record)
    for applied in record.applied.values():
        assert [index for index, _, _ in applied] == list(range(1, len(applied) + 1))
        for index, term, payload in applied:
            assert commits[index][1] == (term, payload)


def test_the_schedules_show_what_the_properties_are_about() -> None:
    """Figure 3: nothing would be proved without changes of leaders, conflicts and commits."""
    terms = commits = conflicts = 0
    for seed in SEEDS:
        record = record_of(seed)
        terms += len({seen.term for seen in leaders_of(record)})
        commits += len(commits_of(record))
        logs: dict[int, tuple[tuple[int, bytes], ...]] = {}
        for seen in record.observations:
            before = logs.get(seen.node, ())
            conflicts += seen.log[: len(before)] != before
            logs[seen.node] = seen.log
    assert terms > 4 * len(SEEDS)
    assert commits > 40 * len(SEEDS)
    assert conflicts > 2 * len(SEEDS)
