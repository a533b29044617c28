"""The checks of raft's properties see what they are there for."""

from __future__ import annotations

from typing import Any

import pytest

from rafter_core import HardState, Message, MessageKind
from rafter_core.state_machine import Update
from tests.sim.checks import Checks
from tests.sim.world import Violation, World


class FakeMachine:
    """A state machine that has the hash it is given."""

    def __init__(self, digest: int) -> None:
        self.digest = digest

    def hash(self) -> int:
        return self.digest


class FakeNode:
    def __init__(self) -> None:
        self.commit = 5
        self.term = 3
        self.is_leader = False


class FakeReplica:
    def __init__(self) -> None:
        self.group = 1
        self.node = FakeNode()
        self.hard_state = HardState(term=3, vote=0, commit=5)


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
    checks.saw_replica(2, replica)
    replica.node.commit = 6
    checks.saw_replica(2, replica)
    assert not is_violated(checks)
    replica.node.commit = 4
    checks.saw_replica(2, replica)
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
