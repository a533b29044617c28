from __future__ import annotations

from collections.abc import Callable

import pytest

from rafter_core import HardState, InvariantError, RawNode
from tests.core.support import Driven


def lower_term(node: RawNode) -> None:
    node._raft.term -= 1


def change_vote(node: RawNode) -> None:
    node._raft.vote = 3


def lower_commit(node: RawNode) -> None:
    node._raft.log.committed -= 1


def apply_beyond_commit(node: RawNode) -> None:
    node._raft.log.applied = node._raft.log.applying = 3


def commit_beyond_log(node: RawNode) -> None:
    node._raft.log.committed = 99


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lower_term, "term fell from 5 to 4"),
        (change_vote, "vote of term 5 changed from 2 to 3"),
        (lower_commit, "commit index went back from 2 to 1"),
        (apply_beyond_commit, "log marks out of order"),
        (commit_beyond_log, "log marks out of order"),
    ],
)
def test_a_broken_promise_stops_the_next_input(
    damage: Callable[[RawNode], None], text: str
) -> None:
    driven = Driven(terms=[1, 1, 1], hard_state=HardState(5, 2, 2))
    driven.node.tick()
    damage(driven.node)
    with pytest.raises(InvariantError, match=text):
        driven.node.tick()


def test_a_vote_may_be_cast_once() -> None:
    driven = Driven(hard_state=HardState(5, 0, 0))
    driven.node._raft.vote = 2
    driven.node.tick()
    driven.node._raft.vote = 0
    with pytest.raises(InvariantError, match="changed from 2 to 0"):
        driven.node.tick()
