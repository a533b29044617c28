"""Every pair of role and message is stepped: handled, ignored or refused, never anything else."""

from __future__ import annotations

import pytest

from rafter_core import Message, MessageKind, Role, StepError
from rafter_core.dispatch import BY_ROLE, HANDLERS
from rafter_core.messages import KINDS, REMOTE_KINDS, RESPONSE_KINDS
from tests.core.support import Driven


def in_role(role: Role) -> Driven:
    driven = Driven(pre_vote=role is Role.PRE_CANDIDATE, check_quorum=False, terms=[1])
    if role is Role.LEADER:
        driven.lead()
    elif role is not Role.FOLLOWER:
        driven.node.campaign()
        driven.pump()
    assert driven.node.role is role
    return driven


def test_the_table_is_complete_and_names_only_what_peers_send() -> None:
    assert set(BY_ROLE) == set(Role)
    assert [len(row) for row in HANDLERS] == [len(KINDS)] * len(Role)
    for row in HANDLERS:
        assert {kind for kind in KINDS if row[kind]} <= REMOTE_KINDS


@pytest.mark.parametrize("kind", MessageKind)
@pytest.mark.parametrize("role", Role)
def test_any_message_of_the_own_term_keeps_term_and_vote(role: Role, kind: MessageKind) -> None:
    driven = in_role(role)
    node = driven.node
    term, vote = node.term, node.vote
    message = Message(kind=kind, to=1, sender=2, term=term)
    handled = kind in REMOTE_KINDS
    if role is Role.LEADER and kind in (MessageKind.APPEND, MessageKind.HEARTBEAT):
        handled = False
    if handled:
        node.step(message)
        driven.pump()
    else:
        with pytest.raises(StepError):
            node.step(message)
    starts_election = role is Role.FOLLOWER and kind is MessageKind.TIMEOUT_NOW
    assert node.term == term + starts_election
    if vote:
        assert node.vote in (vote, 1)


@pytest.mark.parametrize("kind", sorted(REMOTE_KINDS))
@pytest.mark.parametrize("role", Role)
def test_a_higher_term_makes_a_follower_unless_it_only_asks(role: Role, kind: MessageKind) -> None:
    driven = in_role(role)
    term = driven.node.term
    driven.node.step(Message(kind=kind, to=1, sender=2, term=term + 3))
    asks = kind in (MessageKind.PRE_VOTE, MessageKind.PRE_VOTE_RESPONSE)
    if asks:
        assert driven.node.term in (term, term + 1)
        return
    expected = Role.CANDIDATE if kind is MessageKind.TIMEOUT_NOW else Role.FOLLOWER
    assert driven.node.role is expected
    leads = kind in (MessageKind.APPEND, MessageKind.HEARTBEAT)
    assert driven.node.leader == (2 if leads else 0)


@pytest.mark.parametrize("kind", sorted(REMOTE_KINDS))
@pytest.mark.parametrize("role", Role)
def test_a_lower_term_changes_nothing(role: Role, kind: MessageKind) -> None:
    driven = in_role(role)
    driven.step(MessageKind.VOTE, 3, term=9)
    before = driven.node.status()
    driven.node.step(Message(kind=kind, to=1, sender=2, term=4, commit=1, entries=()))
    assert driven.node.status() == before


@pytest.mark.parametrize("kind", sorted(RESPONSE_KINDS))
def test_responses_of_unknown_nodes_are_refused(kind: MessageKind) -> None:
    for role in Role:
        driven = in_role(role)
        with pytest.raises(StepError, match="no member"):
            driven.node.step(Message(kind=kind, to=1, sender=8, term=driven.node.term))
