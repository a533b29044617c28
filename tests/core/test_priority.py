"""Priority: among equals the preferred node leads, and nobody waits for one that does not."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from rafter_core import Membership, MessageKind, Role
from rafter_core.messages import CAMPAIGN_TRANSFER
from tests.core.network import Host, Network
from tests.core.support import Driven, both_modes, of_kind, with_and_without_pre_vote

VOTE = MessageKind.VOTE
PRE_VOTE = MessageKind.PRE_VOTE


def ranked(*priorities: int, **config: Any) -> Network:
    """Return nodes 1, 2, ... with these priorities."""
    voters = Membership(tuple(range(1, len(priorities) + 1)))
    return Network(
        *(
            Host(node, voters, priority=priority, **config)
            for node, priority in enumerate(priorities, 1)
        )
    )


def ask(driven: Driven, kind: MessageKind, priority: int, **fields: Any) -> bool:
    """Ask for a vote in the next term; return whether it is granted."""
    term = driven.node.term + 1
    (answer,) = driven.step(kind, 2, term=term, priority=priority, **fields)
    assert answer.term == (term if kind is VOTE or not answer.reject else term - 1)
    return not answer.reject


@pytest.mark.parametrize(
    ("own", "candidates", "granted"),
    [(0, 0, True), (5, 5, True), (5, 6, True), (5, 4, False), (1, 0, False), (0, 9, True)],
)
@pytest.mark.parametrize("kind", [VOTE, PRE_VOTE])
def test_with_equal_logs_a_lower_priority_is_refused(
    kind: MessageKind, own: int, candidates: int, granted: bool
) -> None:
    driven = Driven(terms=[1, 1], priority=own)
    assert ask(driven, kind, candidates, log_term=1, index=2) is granted
    if kind is VOTE:
        assert driven.node.vote == (2 if granted else 0)


@pytest.mark.parametrize("kind", [VOTE, PRE_VOTE])
@pytest.mark.parametrize(("log_term", "index"), [(1, 3), (2, 1), (2, 2)])
def test_a_better_log_beats_every_priority(kind: MessageKind, log_term: int, index: int) -> None:
    driven = Driven(terms=[1, 1], priority=9)
    assert ask(driven, kind, 0, log_term=log_term, index=index)


@pytest.mark.parametrize("kind", [VOTE, PRE_VOTE])
@pytest.mark.parametrize(("log_term", "index"), [(1, 1), (0, 0)])
def test_a_worse_log_is_refused_whatever_the_priority(
    kind: MessageKind, log_term: int, index: int
) -> None:
    driven = Driven(terms=[1, 1])
    assert not ask(driven, kind, 9, log_term=log_term, index=index)


def test_what_the_leader_wants_beats_every_priority() -> None:
    driven = Driven(terms=[1, 1], priority=9)
    assert ask(driven, VOTE, 0, log_term=1, index=2, context=CAMPAIGN_TRANSFER)


@pytest.mark.parametrize(
    "membership",
    [Membership((1, 2, 3), witnesses=(1,)), Membership((2, 3), learners=(1,)), Membership((2, 3))],
    ids=["witness", "learner", "stranger"],
)
def test_a_voter_that_cannot_lead_itself_prefers_nobody(membership: Membership) -> None:
    driven = Driven(membership=membership, terms=[1, 1], priority=9)
    assert ask(driven, VOTE, 0, log_term=1, index=2)


def test_the_priority_can_be_changed_at_any_time() -> None:
    driven = Driven(terms=[1])
    driven.node.set_priority(3)
    assert not ask(driven, PRE_VOTE, 2, log_term=1, index=1)
    driven.node.set_priority(2)
    assert ask(driven, PRE_VOTE, 2, log_term=1, index=1)
    driven.node.set_priority(7)
    driven.node.campaign()
    assert {m.priority for m in of_kind(driven.pump(), PRE_VOTE)} == {7}


@with_and_without_pre_vote
def test_requests_carry_the_priority(pre_vote: bool) -> None:
    driven = Driven(priority=4, pre_vote=pre_vote)
    driven.node.campaign()
    assert [(m.to, m.priority) for m in driven.pump()] == [(2, 4), (3, 4)]


def test_without_priorities_nothing_is_refused() -> None:
    network = ranked(0, 0, 0)
    for node in (1, 2, 3):
        network[node].node.forget_leader()
    network.campaign(3)
    assert network.leaders() == [3]


@both_modes
@with_and_without_pre_vote
def test_the_preferred_node_wins_where_another_one_is_refused(
    pre_vote: bool, async_storage_writes: bool
) -> None:
    network = ranked(2, 1, 1, pre_vote=pre_vote, async_storage_writes=async_storage_writes)
    network.isolate(3)
    network.campaign(2)
    assert network[2].node.role is not Role.LEADER
    network.campaign(1)
    assert network.leaders() == [1]


@pytest.mark.parametrize("down", [None, 1, 2, 3])
@pytest.mark.parametrize("priorities", [*permutations((0, 1, 2)), (0, 0, 5), (3, 3, 0)])
@with_and_without_pre_vote
def test_a_group_elects_whoever_is_down(
    priorities: tuple[int, ...], down: int | None, pre_vote: bool
) -> None:
    network = ranked(*priorities, pre_vote=pre_vote)
    if down is not None:
        network.isolate(down)
    network.tick_all(100)
    working = [node for node in network.leaders() if node != down]
    assert len(working) == 1
    assert network.propose(working[0], b"x")
    up = [node for node in (1, 2, 3) if node != down]
    assert [network[node].payloads for node in up] == [[b"x"]] * len(up)


@pytest.mark.parametrize("down", [1, 2, 3, 4, 5])
def test_the_best_of_those_that_are_up_gets_a_chance_in_five(down: int) -> None:
    network = ranked(1, 2, 3, 4, 5)
    network.isolate(down)
    network.tick_all(200)
    assert len([node for node in network.leaders() if node != down]) == 1


def test_a_transfer_to_a_node_of_low_priority_succeeds() -> None:
    network = ranked(9, 0, 5)
    network.campaign(1)
    network[1].node.transfer_leadership(2)
    network.run()
    assert network.leaders() == [2]


def test_a_preferred_node_that_is_behind_does_not_stop_others() -> None:
    network = ranked(1, 0, 9)
    network.campaign(1)
    network.isolate(3)
    network.propose(1, b"x")
    network.heal()
    network.isolate(1)
    network.tick_all(60)
    working = [node for node in network.leaders() if node != 1]
    assert len(working) == 1
    assert network[working[0]].payloads == [b"x"]
