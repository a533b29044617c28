"""The gate that every message passes, the clock, and the changes of role."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rafter_core import (
    ConfigError,
    InvariantError,
    Membership,
    Message,
    MessageKind,
    NotLeader,
    ProposalDropped,
    ReadDropped,
    Role,
    Snapshot,
    StepError,
)
from rafter_core.raft import Raft
from tests.core.support import Driven, entry

APPEND = MessageKind.APPEND
SNAPSHOT = MessageKind.SNAPSHOT
FOLLOWER, CANDIDATE, LEADER, PRE_CANDIDATE = Role


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"to": 2, "sender": 3}, "not from a peer to node 1"),
        ({"sender": 1}, "not from a peer"),
        ({"sender": 0}, "not from a peer"),
        ({"term": 0}, "not from a peer"),
        ({"kind": MessageKind.STORAGE_APPEND_RESPONSE}, "never leaves its node"),
        ({"entries": [entry(1, 2)]}, "do not continue"),
        ({"entries": [entry(1, 1), entry(1, 3)]}, "do not continue"),
        ({"entries": [entry(2, 1)]}, "do not continue"),
        ({"index": 4, "log_term": 2, "entries": [entry(1, 5)], "term": 2}, "do not continue"),
        ({"entries": [entry(1, 1), entry(1, 2), entry(1, 2)]}, "do not continue"),
        ({"entries": [entry(2, 1), entry(1, 2)], "term": 2}, "do not continue"),
        ({"kind": MessageKind.PROPOSE}, "not from a peer"),
        ({"kind": MessageKind.READ_INDEX}, "not from a peer"),
        ({"kind": MessageKind.PROPOSE, "term": 0}, "proposes nothing"),
        ({"kind": MessageKind.VOTE, "sender": -1}, "not from a peer"),
        ({"kind": SNAPSHOT}, "not a snapshot to restore: there is none"),
        (
            {"kind": SNAPSHOT, "snapshot": Snapshot(5, 1, Membership((2, 1)))},
            "not a snapshot to restore: voters .* do not ascend",
        ),
    ],
)
def test_what_no_peer_sends_is_refused_without_effect(fields: dict[str, Any], text: str) -> None:
    driven = Driven()
    before = driven.node.status()
    message: dict[str, Any] = {"kind": APPEND, "to": 1, "sender": 2, "term": 1}
    with pytest.raises(StepError, match=text):
        driven.node.step(Message(**(message | fields)))
    assert driven.node.status() == before
    assert not driven.node.has_ready()


@pytest.mark.parametrize(
    ("index", "log_term", "entries"),
    [
        (0, 0, []),
        (0, 0, [entry(3, 1)]),
        (1, 2, [entry(2, 2)]),
        (1, 2, [entry(2, 2), entry(3, 3), entry(3, 4)]),
    ],
)
def test_entries_that_continue_with_rising_terms_are_taken(
    index: int, log_term: int, entries: list[Any]
) -> None:
    driven = Driven(terms=[2] * index)
    (answer,) = driven.step(APPEND, 2, term=3, index=index, log_term=log_term, entries=entries)
    assert (answer.reject, answer.index) == (False, index + len(entries))


def test_an_impossible_configuration_does_not_start() -> None:
    with pytest.raises(ConfigError, match="heartbeat_ticks is 0"):
        Driven(heartbeat_ticks=0)


def test_a_node_starts_as_follower_without_work() -> None:
    driven = Driven(terms=[1, 2])
    assert (driven.node.role, driven.node.term, driven.node.leader) == (Role.FOLLOWER, 2, 0)
    assert not driven.node.has_ready()


TRANSITIONS: dict[Role, Callable[[Raft], None]] = {
    FOLLOWER: lambda raft: raft.become_follower(raft.term + 1, 2),
    PRE_CANDIDATE: Raft.become_pre_candidate,
    CANDIDATE: Raft.become_candidate,
    LEADER: Raft.become_leader,
}
FORBIDDEN = {(FOLLOWER, LEADER), (LEADER, CANDIDATE), (LEADER, PRE_CANDIDATE)}


@pytest.mark.parametrize("target", Role)
@pytest.mark.parametrize("role", Role)
def test_three_changes_of_role_are_impossible(role: Role, target: Role) -> None:
    raft = Driven().node._raft
    raft.become_candidate()
    if role is FOLLOWER:
        raft.become_follower(1, 3)
    elif role is LEADER:
        raft.become_leader()
    elif role is PRE_CANDIDATE:
        raft.become_pre_candidate()
    assert (raft.role, raft.term) == (role, 1)
    if (role, target) in FORBIDDEN:
        with pytest.raises(InvariantError, match=f"a {role.name} cannot become a {target.name}"):
            TRANSITIONS[target](raft)
        assert (raft.role, raft.term) == (role, 1)
        return
    TRANSITIONS[target](raft)
    assert raft.role is target
    assert raft.term == 1 + (target in (FOLLOWER, CANDIDATE))
    assert raft.leader == {FOLLOWER: 2, LEADER: 1}.get(target, 0)
    assert raft.vote == (0 if target is FOLLOWER else 1)


def test_a_new_term_forgets_what_belonged_to_the_old_one() -> None:
    driven = Driven(uncommitted_bytes_max=100)
    driven.lead_replicating()
    driven.propose(b"x" * 10)
    driven.node.read_index(b"read")
    driven.node.transfer_leadership(2)
    status = driven.node.status()
    assert (status.uncommitted_bytes, status.pending_reads, status.transferee) == (10, 1, 2)
    driven.tick(3)
    driven.step(MessageKind.HEARTBEAT, 3, term=2)
    status = driven.node.status()
    assert (status.uncommitted_bytes, status.pending_reads, status.transferee) == (0, 0, 0)
    assert (status.vote, status.leader, status.pending_change_index) == (0, 3, 0)
    assert driven.node._raft.election_elapsed == 0


def test_a_node_without_a_leader_refuses_every_request() -> None:
    for role in (FOLLOWER, CANDIDATE, PRE_CANDIDATE):
        driven = Driven(pre_vote=role is PRE_CANDIDATE)
        if role is not FOLLOWER:
            driven.node.campaign()
            driven.pump()
        assert driven.node.role is role
        with pytest.raises(ProposalDropped, match="node 1 knows no leader of term"):
            driven.node.propose(b"x")
        with pytest.raises(ReadDropped, match="node 1 knows no leader of term"):
            driven.node.read_index(b"x")
        with pytest.raises(NotLeader, match="node 1 knows no leader of term"):
            driven.node.transfer_leadership(2)
        assert driven.pump() == []


@pytest.mark.parametrize("role", [FOLLOWER, CANDIDATE, LEADER, PRE_CANDIDATE])
def test_only_a_leader_sends_heartbeats(role: Role) -> None:
    driven = Driven(pre_vote=role is PRE_CANDIDATE, heartbeat_ticks=1, election_timeout_ticks=10)
    if role is LEADER:
        driven.lead()
    elif role is not FOLLOWER:
        driven.node.campaign()
        driven.pump()
    beats = [(message.kind, message.to) for message in driven.tick()]
    expected = [(MessageKind.HEARTBEAT, 2), (MessageKind.HEARTBEAT, 3)]
    assert beats == (expected if role is LEADER else [])


def test_ticks_of_a_leader_never_start_an_election() -> None:
    driven = Driven(check_quorum=False)
    driven.lead_replicating()
    driven.tick(100)
    assert driven.node.is_leader


def test_a_candidate_tries_again_in_a_new_term() -> None:
    driven = Driven(pre_vote=False)
    driven.tick(19)
    assert (driven.node.role, driven.node.term) == (Role.CANDIDATE, 1)
    driven.tick(19)
    assert (driven.node.role, driven.node.term) == (Role.CANDIDATE, 2)


def test_the_timeout_is_drawn_anew_in_each_term() -> None:
    driven = Driven(pre_vote=False, election_timeout_ticks=50)
    drawn = set()
    for _ in range(10):
        driven.node.campaign()
        drawn.add(driven.node._raft.election_timeout)
    assert len(drawn) > 3
