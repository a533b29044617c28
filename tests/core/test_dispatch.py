"""Every pair of role and message is stepped: handled, ignored or refused, never anything else."""

from __future__ import annotations

from typing import Any

import pytest

from rafter_core import (
    LocalMessage,
    Message,
    MessageKind,
    PeerNotFound,
    ProposalDropped,
    Role,
    Snapshot,
    StepError,
)
from rafter_core.dispatch import BY_ROLE, HANDLERS
from rafter_core.messages import (
    APPEND_THREAD,
    APPLY_THREAD,
    KINDS,
    REMOTE_KINDS,
    RESPONSE_KINDS,
    TERMLESS_KINDS,
)
from tests.core.support import THREE, Driven, entry

FOLLOWER, CANDIDATE, LEADER, PRE_CANDIDATE = Role
FROM_LEADER = {
    MessageKind.APPEND,
    MessageKind.HEARTBEAT,
    MessageKind.SNAPSHOT,
    MessageKind.QUIESCE,
}
STORAGE_RESPONSES = {MessageKind.STORAGE_APPEND_RESPONSE, MessageKind.STORAGE_APPLY_RESPONSE}

# Where a message of the own term does not leave the role as it is.
NEXT_ROLE = {
    (FOLLOWER, MessageKind.TIMEOUT_NOW): CANDIDATE,
    (PRE_CANDIDATE, MessageKind.PRE_VOTE_RESPONSE): CANDIDATE,
    (CANDIDATE, MessageKind.VOTE_RESPONSE): LEADER,
    **{(role, kind): FOLLOWER for role in (CANDIDATE, PRE_CANDIDATE) for kind in FROM_LEADER},
}
# And where it is refused.
REFUSED: dict[tuple[Role, MessageKind], type[Exception]] = {
    **{(role, MessageKind.PROPOSE): ProposalDropped for role in Role if role is not LEADER},
    **{(LEADER, kind): StepError for kind in FROM_LEADER - {MessageKind.SNAPSHOT}},
    **{(role, kind): LocalMessage for role in Role for kind in set(KINDS) - REMOTE_KINDS},
}


def in_role(role: Role) -> Driven:
    driven = Driven(pre_vote=role is PRE_CANDIDATE, check_quorum=False, terms=[1])
    if role is LEADER:
        driven.lead()
    elif role is not FOLLOWER:
        driven.node.campaign()
        driven.pump()
    assert driven.node.role is role
    return driven


def message_of(kind: MessageKind, term: int, sender: int = 2) -> Message:
    """Return a message as a peer may send it in this term."""
    fields: dict[str, Any] = {"term": 0 if kind in TERMLESS_KINDS else term}
    if kind is MessageKind.SNAPSHOT:
        fields["snapshot"] = Snapshot(5, 1, THREE)
    if kind is MessageKind.PROPOSE:
        fields["entries"] = [entry(0, 0, b"x")]
    return Message(kind=kind, to=1, sender=sender, **fields)


def test_the_table_is_complete_and_names_only_what_may_be_stepped() -> None:
    assert set(BY_ROLE) == set(Role)
    assert [len(row) for row in HANDLERS] == [len(KINDS)] * len(Role)
    for row in HANDLERS:
        assert {kind for kind in KINDS if row[kind]} <= REMOTE_KINDS | STORAGE_RESPONSES


@pytest.mark.parametrize("kind", MessageKind)
@pytest.mark.parametrize("role", Role)
def test_every_message_of_the_own_term_has_one_outcome(role: Role, kind: MessageKind) -> None:
    driven = in_role(role)
    node = driven.node
    before = node.status()
    message = message_of(kind, node.term)
    refusal = REFUSED.get((role, kind))
    if refusal is not None:
        with pytest.raises(refusal) as caught:
            node.step(message)
        assert caught.type is refusal
        assert node.status() == before
        return
    node.step(message)
    driven.pump()
    next_role = NEXT_ROLE.get((role, kind), role)
    assert node.role is next_role
    is_new_candidate = next_role is CANDIDATE and role is not CANDIDATE
    assert node.term == before.term + is_new_candidate
    if is_new_candidate:
        assert node.vote == 1
    else:
        assert node.vote in (before.vote, 2 if kind is MessageKind.VOTE else before.vote)


@pytest.mark.parametrize("kind", sorted(REMOTE_KINDS - TERMLESS_KINDS))
@pytest.mark.parametrize("role", Role)
def test_a_higher_term_makes_a_follower_unless_it_only_asks(role: Role, kind: MessageKind) -> None:
    driven = in_role(role)
    before = driven.node.status()
    driven.node.step(message_of(kind, before.term + 3))
    if kind is MessageKind.PRE_VOTE:
        assert (driven.node.term, driven.node.role) == (before.term, role)
        return
    if kind is MessageKind.PRE_VOTE_RESPONSE:
        # A grant: of use only to the one who asked.
        is_winner = role is PRE_CANDIDATE
        assert driven.node.role is (CANDIDATE if is_winner else role)
        assert driven.node.term == before.term + is_winner
        return
    starts_election = kind is MessageKind.TIMEOUT_NOW
    assert driven.node.role is (CANDIDATE if starts_election else FOLLOWER)
    assert driven.node.term == before.term + 3 + starts_election
    assert driven.node.leader == (2 if kind in FROM_LEADER else 0)


@pytest.mark.parametrize("role", Role)
def test_a_refused_pre_vote_of_a_higher_term_teaches_the_term(role: Role) -> None:
    driven = in_role(role)
    term = driven.node.term + 3
    driven.step(MessageKind.PRE_VOTE_RESPONSE, 2, term=term, reject=True)
    assert (driven.node.role, driven.node.term, driven.node.leader) == (FOLLOWER, term, 0)


@pytest.mark.parametrize("kind", sorted(REMOTE_KINDS - TERMLESS_KINDS))
@pytest.mark.parametrize("role", Role)
def test_a_lower_term_changes_nothing(role: Role, kind: MessageKind) -> None:
    driven = in_role(role)
    driven.step(MessageKind.VOTE, 3, term=9)
    before = driven.node.status()
    driven.node.step(message_of(kind, 4))
    assert driven.node.status() == before


@pytest.mark.parametrize("kind", sorted(RESPONSE_KINDS))
def test_responses_of_unknown_nodes_are_refused(kind: MessageKind) -> None:
    for role in Role:
        driven = in_role(role)
        before = driven.node.status()
        with pytest.raises(PeerNotFound, match="no member"):
            driven.node.step(message_of(kind, driven.node.term, sender=8))
        assert driven.node.status() == before


@pytest.mark.parametrize("kind", sorted(REMOTE_KINDS - RESPONSE_KINDS))
def test_requests_of_unknown_nodes_are_taken(kind: MessageKind) -> None:
    """A node may be member already without this one knowing it yet."""
    driven = in_role(FOLLOWER)
    driven.step(MessageKind.HEARTBEAT, 8 if kind in FROM_LEADER else 2)
    driven.node.step(message_of(kind, driven.node.term, sender=8))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - REMOTE_KINDS))
@pytest.mark.parametrize("sender", [1, 2, APPEND_THREAD, APPLY_THREAD])
def test_local_kinds_come_only_from_their_storage_thread(kind: MessageKind, sender: int) -> None:
    driven = in_role(FOLLOWER)
    message = message_of(kind, driven.node.term, sender)
    if (kind, sender) in (
        (MessageKind.STORAGE_APPEND_RESPONSE, APPEND_THREAD),
        (MessageKind.STORAGE_APPLY_RESPONSE, APPLY_THREAD),
    ):
        driven.node.step(message)
        return
    with pytest.raises(LocalMessage, match="never leaves its node"):
        driven.node.step(message)
