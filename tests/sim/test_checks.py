"""The checks of raft's properties see what they are there for."""

from __future__ import annotations

from typing import Any

import pytest

from rafter_core import Entry, EntryKind, HardState, Message, MessageKind
from rafter_core.state_machine import Update
from tests.sim.checks import Checks
from tests.sim.world import Violation, World


class FakeMachine:
    """A state machine that has the hash it is given."""

    def __init__(self, digest: int) -> None:
        self.digest = digest

    def hash(self) -> int:
        return self.digest


class FakeLog:
    """The terms of entries from index 1 on."""

    first_index = 1

    def __init__(self, terms: list[int]) -> None:
        self.terms = terms

    @property
    def last_index(self) -> int:
        return len(self.terms)

    def term(self, index: int) -> int:
        return self.terms[index - 1]


class FakeRaft:
    def __init__(self, terms: list[int]) -> None:
        self.log = FakeLog(terms)


class FakeNode:
    def __init__(self, terms: list[int], term: int) -> None:
        self.commit = len(terms)
        self.term = term
        self.is_leader = False
        self._raft = FakeRaft(terms)


class FakeReplica:
    """A replica of group 1 on one of nodes 1, 2 and 3."""

    voters = (1, 2, 3)

    def __init__(self, *terms: int, term: int = 3) -> None:
        self.group = 1
        self.node = FakeNode(list(terms) or [1, 1, 2, 3, 3, 3, 3], term)
        self.hard_state = HardState(term=3, vote=0, commit=5)

    def lead(self, checks: Any, node: int = 2) -> FakeReplica:
        """Be elected by another voter and itself."""
        self.node.is_leader = True
        vote = Message(
            kind=MessageKind.VOTE_RESPONSE, to=node, sender=1 + node % 3, term=self.node.term
        )
        checks.saw_message(1, vote)
        return self


@pytest.fixture
def checks() -> Any:
    return Checks(World(1))


def is_violated(checks: Any) -> bool:
    try:
        checks._world.run_until(checks._world.now)
        checks._world.after(0.0, int)
        checks._world.run_until(checks._world.now)
    except Violation:
        return True
    return False


def message(kind: MessageKind, sender: int = 2, **fields: Any) -> Message:
    return Message(kind=kind, to=1, sender=sender, term=3, **fields)


def test_two_leaders_in_a_term(checks: Any) -> None:
    checks.saw_message(1, message(MessageKind.APPEND))
    checks.saw_message(2, message(MessageKind.APPEND, sender=3))
    assert not is_violated(checks), "of different groups"
    checks.saw_message(1, message(MessageKind.HEARTBEAT, sender=3))
    assert is_violated(checks)


def test_two_votes_in_a_term(checks: Any) -> None:
    checks.saw_message(1, message(MessageKind.VOTE_RESPONSE))
    other = message(MessageKind.VOTE_RESPONSE)
    other.to = 4
    other.reject = True
    checks.saw_message(1, other)
    assert not is_violated(checks), "a refusal is no vote"
    other.reject = False
    checks.saw_message(1, other)
    assert is_violated(checks)


def test_a_commit_index_that_goes_back(checks: Any) -> None:
    replica = FakeReplica()
    replica.node.commit = 5
    checks.saw_replica(2, replica)
    replica.node.commit = 6
    checks.saw_replica(2, replica)
    assert not is_violated(checks)
    replica.node.commit = 4
    checks.saw_replica(2, replica)
    assert is_violated(checks)


def test_two_entries_committed_at_an_index(checks: Any) -> None:
    checks.saw_replica(1, FakeReplica(1, 1, 2))
    checks.saw_replica(2, FakeReplica(1, 1, 2, 3))
    assert not is_violated(checks)
    checks.saw_replica(3, FakeReplica(1, 1, 3))
    assert is_violated(checks)


def test_a_leader_without_a_majority_of_votes(checks: Any) -> None:
    checks.saw_replica(2, FakeReplica().lead(checks))
    assert not is_violated(checks)
    replica = FakeReplica(term=4)
    replica.node.is_leader = True
    checks.saw_replica(3, replica)
    assert is_violated(checks)


def test_a_leader_that_has_not_got_all_that_was_committed_before(checks: Any) -> None:
    checks.saw_replica(1, FakeReplica(1, 1, 2))
    complete = FakeReplica(1, 1, 2, 4, term=4).lead(checks)
    complete.node.commit = 2
    checks.saw_replica(2, complete)
    assert not is_violated(checks)
    short = FakeReplica(1, 1, term=5).lead(checks, node=3)
    checks.saw_replica(3, short)
    assert is_violated(checks)


def test_a_leader_that_commits_an_older_term_by_counting(checks: Any) -> None:
    replica = FakeReplica(1, 2, 2, 3)
    replica.node.commit = 1
    checks.saw_replica(2, replica.lead(checks))
    assert not is_violated(checks)
    replica.node.commit = 3
    checks.saw_replica(2, replica)
    assert is_violated(checks)


def test_an_entry_that_is_another_elsewhere(checks: Any) -> None:
    first = Entry(3, 7, EntryKind.NORMAL, b"a")
    checks.saw_message(1, message(MessageKind.APPEND, log_term=2, entries=[first]))
    checks.saw_message(1, message(MessageKind.APPEND, log_term=2, entries=[first]))
    assert not is_violated(checks)
    other = Entry(3, 7, EntryKind.NORMAL, b"b")
    checks.saw_message(1, message(MessageKind.APPEND, log_term=2, entries=[other]))
    assert is_violated(checks)


def test_an_entry_behind_another_than_elsewhere(checks: Any) -> None:
    entry = Entry(3, 7, EntryKind.NORMAL, b"a")
    checks.saw_message(1, message(MessageKind.APPEND, log_term=2, entries=[entry]))
    checks.saw_message(1, message(MessageKind.APPEND, log_term=1, entries=[entry]))
    assert is_violated(checks)


def test_a_term_that_is_forgotten(checks: Any) -> None:
    checks.saw_message(1, message(MessageKind.VOTE))
    replica = FakeReplica()
    checks.restarted(2, replica)
    assert not is_violated(checks)
    replica.hard_state = replica.hard_state._replace(term=2)
    checks.restarted(2, replica)
    assert is_violated(checks)


def test_a_pre_vote_promises_no_term(checks: Any) -> None:
    checks.saw_message(1, message(MessageKind.PRE_VOTE))
    replica = FakeReplica()
    replica.hard_state = replica.hard_state._replace(term=2)
    checks.restarted(2, replica)
    assert not is_violated(checks)


def test_two_entries_applied_at_an_index(checks: Any) -> None:
    machine: Any = FakeMachine(1)
    checks.applied(1, 1, [Update(7, b"a", None)], machine)
    checks.applied(2, 1, [Update(7, b"a", None)], machine)
    assert not is_violated(checks)
    checks.applied(3, 1, [Update(7, b"b", None)], machine)
    assert is_violated(checks)


def test_states_that_differ_at_an_index(checks: Any) -> None:
    for index in range(1, 200):
        checks.applied(1, 1, [Update(index, b"a", None)], FakeMachine(1))
        checks.applied(2, 1, [Update(index, b"a", None)], FakeMachine(1))
    assert not is_violated(checks)
    for index in range(1, 200):
        checks.applied(3, 1, [Update(index, b"a", None)], FakeMachine(2))
    assert is_violated(checks)
