"""Promises that hold between any two inputs: whoever breaks one stops the next input."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rafter_core import ConfChange, HardState, InvariantError, Message, MessageKind, RawNode
from rafter_core.invariants import Guard
from tests.core.support import Driven


def lower_term(node: RawNode) -> None:
    node._raft.term -= 1


def change_vote(node: RawNode) -> None:
    node._raft.vote = 3


def take_vote_back(node: RawNode) -> None:
    node._raft.vote = 0


def lower_commit(node: RawNode) -> None:
    node._raft.log.committed -= 1


def apply_beyond_commit(node: RawNode) -> None:
    node._raft.log.applied = node._raft.log.applying = 3


def apply_beyond_applying(node: RawNode) -> None:
    node._raft.log.applied = 1


def commit_beyond_log(node: RawNode) -> None:
    node._raft.log.committed = 99


def voter() -> Driven:
    """Return a node in term 5 that voted for 2 and knows 2 of its 3 entries to be committed."""
    return Driven(terms=[1, 1, 1], hard_state=HardState(5, 2, 2))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lower_term, "^term fell from 5 to 4$"),
        (change_vote, "^vote of term 5 changed from 2 to 3$"),
        (take_vote_back, "^vote of term 5 changed from 2 to 0$"),
        (lower_commit, "^commit index went back from 2 to 1$"),
        (
            apply_beyond_commit,
            "^log marks out of order: applied 3, applying 3, committed 2, last 3$",
        ),
        (
            apply_beyond_applying,
            "^log marks out of order: applied 1, applying 0, committed 2, last 3$",
        ),
        (
            commit_beyond_log,
            "^log marks out of order: applied 0, applying 0, committed 99, last 3$",
        ),
    ],
)
def test_a_broken_promise_stops_the_next_input(
    damage: Callable[[RawNode], None], text: str
) -> None:
    node = voter().node
    node.tick()
    damage(node)
    with pytest.raises(InvariantError, match=text):
        node.tick()


INPUTS: list[Callable[[RawNode], object]] = [
    lambda node: node.tick(),
    lambda node: node.step(
        Message(kind=MessageKind.HEARTBEAT_RESPONSE, to=1, sender=2, term=node.term)
    ),
    lambda node: node.propose(b"x"),
    lambda node: node.propose_many([b"x", b"y"]),
    lambda node: node.propose_conf_change(ConfChange()),
    lambda node: node.apply_conf_change(ConfChange()),
    lambda node: node.campaign(),
    lambda node: node.read_index(b"a"),
    lambda node: node.transfer_leadership(2),
    lambda node: node.forget_leader(),
    lambda node: node.report_unreachable(2),
    lambda node: node.report_snapshot(2, True),
    lambda node: node.storage_done(node.ready()),
    lambda node: node.apply_done(1),
]


@pytest.mark.parametrize("number", range(len(INPUTS)))
def test_every_input_looks_after_the_promises(number: int) -> None:
    driven = Driven()
    driven.lead_replicating()
    driven.node._raft.log.committed = 0
    driven.node._raft.log.applied = driven.node._raft.log.applying = 0
    with pytest.raises(InvariantError):
        INPUTS[number](driven.node)


def test_a_vote_may_be_cast_once() -> None:
    node = Driven(hard_state=HardState(5, 0, 0)).node
    node._raft.vote = 2
    node.tick()
    node._raft.vote = 0
    with pytest.raises(InvariantError, match="changed from 2 to 0"):
        node.tick()


def test_a_new_term_is_a_new_vote() -> None:
    node = Driven(hard_state=HardState(5, 2, 0)).node
    guard = Guard(node._raft)
    node._raft.term, node._raft.vote = 6, 3
    guard.check(node._raft)
    node._raft.term, node._raft.vote = 7, 0
    guard.check(node._raft)
    node._raft.vote = 1
    guard.check(node._raft)
    node._raft.vote = 3
    with pytest.raises(InvariantError, match="vote of term 7 changed from 1 to 3"):
        guard.check(node._raft)


def test_equal_marks_are_in_order() -> None:
    driven = voter()
    driven.pump()
    log = driven.node._raft.log
    assert (log.applied, log.applying, log.committed) == (2, 2, 2)
    driven.node.tick()
    log.committed = log.applying = log.applied = 3
    driven.node.tick()
