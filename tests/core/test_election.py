"""One node's side of an election: when it stands, whom it votes for, what it counts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from rafter_core import (
    Change,
    ChangeKind,
    ConfChange,
    Entry,
    EntryKind,
    HardState,
    Membership,
    Message,
    MessageKind,
    ReadMode,
    Role,
    StepError,
)
from rafter_core.conf_change import encode
from rafter_core.messages import CAMPAIGN_TRANSFER
from tests.core.support import THREE, Driven, both_modes, of_kind, with_and_without_pre_vote

VOTE = MessageKind.VOTE
VOTE_RESPONSE = MessageKind.VOTE_RESPONSE
PRE_VOTE = MessageKind.PRE_VOTE
PRE_VOTE_RESPONSE = MessageKind.PRE_VOTE_RESPONSE
HEARTBEAT = MessageKind.HEARTBEAT
APPEND = MessageKind.APPEND
NORMAL = EntryKind.NORMAL


@with_and_without_pre_vote
def test_only_a_transfer_asks_for_votes_in_the_leaders_name(pre_vote: bool) -> None:
    driven = Driven(pre_vote=pre_vote)
    votes = of_kind(driven.campaign(), VOTE)
    assert [message.context for message in votes] == [b"", b""]


def test_a_campaign_asks_every_other_voter_in_ascending_order() -> None:
    driven = Driven(membership=Membership((1, 2, 3, 5)), pre_vote=False, terms=[1, 2])
    votes = driven.campaign()
    assert [m.to for m in votes] == [2, 3, 5]
    assert all((m.kind, m.term, m.log_term, m.index) == (VOTE, 3, 2, 2) for m in votes)
    assert driven.storage.initial_state()[0] == HardState(3, 1, 0)


def test_pre_vote_asks_for_the_next_term_and_changes_nothing() -> None:
    driven = Driven(terms=[1])
    driven.node.campaign()
    ready = driven.node.ready()
    assert ready.hard_state is None
    assert [(m.kind, m.term) for m in ready.messages] == [(PRE_VOTE, 2)] * 2
    assert (driven.node.term, driven.node.role) == (1, Role.PRE_CANDIDATE)


def test_vote_requests_wait_until_term_and_vote_are_durable() -> None:
    driven = Driven(pre_vote=False)
    driven.node.campaign()
    ready = driven.node.ready()
    assert ready.must_sync
    assert ready.messages == []
    assert len(of_kind(ready.messages_after_sync, VOTE)) == 2


def test_the_own_vote_counts_only_when_it_is_durable() -> None:
    driven = Driven(pre_vote=False)
    driven.node.campaign()
    ready = driven.node.ready()
    driven.node.step(Message(kind=VOTE_RESPONSE, to=1, sender=2, term=1))
    assert driven.node.role is Role.CANDIDATE
    driven.store(ready)
    assert driven.node.is_leader


@both_modes
@with_and_without_pre_vote
def test_one_voter_elects_itself_after_its_sync(pre_vote: bool, async_storage_writes: bool) -> None:
    driven = Driven(
        membership=Membership((1,)), pre_vote=pre_vote, async_storage_writes=async_storage_writes
    )
    driven.node.campaign()
    assert not driven.node.is_leader
    driven.pump()
    assert driven.node.is_leader
    assert driven.node.commit == 1


def test_requests_leave_before_the_sync_if_messages_do_not_wait_for_the_term() -> None:
    driven = Driven(pre_vote=False, messages_wait_for_term=False)
    driven.node.campaign()
    ready = driven.node.ready()
    assert ready.hard_state == HardState(1, 1, 0)
    assert [(m.kind, m.to) for m in ready.messages] == [(VOTE, 2), (VOTE, 3)]
    assert ready.messages_after_sync == []


def test_votes_wait_for_the_sync_though_messages_do_not_wait_for_the_term() -> None:
    driven = Driven(messages_wait_for_term=False)
    driven.node.step(Message(kind=VOTE, to=1, sender=2, term=3))
    ready = driven.node.ready()
    assert ready.messages == []
    assert [(m.kind, m.to, m.reject) for m in ready.messages_after_sync] == [
        (VOTE_RESPONSE, 2, False)
    ]


@with_and_without_pre_vote
def test_in_a_joint_configuration_every_voter_is_asked_once(pre_vote: bool) -> None:
    driven = Driven(
        membership=Membership((1, 2, 5), voters_outgoing=(1, 3, 5), learners=(6,)),
        pre_vote=pre_vote,
    )
    driven.node.campaign()
    kind = PRE_VOTE if pre_vote else VOTE
    assert [(m.kind, m.to, m.term) for m in driven.pump()] == [
        (kind, 2, 1),
        (kind, 3, 1),
        (kind, 5, 1),
    ]


def test_a_joint_election_needs_both_majorities() -> None:
    driven = Driven(membership=Membership((1, 2, 3), voters_outgoing=(1, 4, 5)), pre_vote=False)
    driven.campaign()
    driven.step(VOTE_RESPONSE, 2)
    driven.step(VOTE_RESPONSE, 3)
    assert driven.node.role is Role.CANDIDATE
    driven.step(VOTE_RESPONSE, 4)
    assert driven.node.is_leader


def test_a_joint_election_is_lost_with_either_majority() -> None:
    driven = Driven(membership=Membership((1, 2, 3), voters_outgoing=(1, 4, 5)), pre_vote=False)
    driven.campaign()
    roles = [driven.node.role]
    for voter in (4, 5):
        driven.step(VOTE_RESPONSE, voter, reject=True)
        roles.append(driven.node.role)
    assert roles == [Role.CANDIDATE, Role.CANDIDATE, Role.FOLLOWER]


@pytest.mark.parametrize("pre_vote", [False, True])
def test_a_late_own_vote_of_a_lost_election_is_ignored(pre_vote: bool) -> None:
    driven = Driven(pre_vote=pre_vote)
    driven.node.campaign()
    first = driven.node.ready()
    driven.node.step(Message(kind=HEARTBEAT, to=1, sender=2, term=5))
    driven.node.campaign()
    second = driven.node.ready()
    driven.store(first)
    role = Role.PRE_CANDIDATE if pre_vote else Role.CANDIDATE
    assert driven.node.role is role
    kind = PRE_VOTE_RESPONSE if pre_vote else VOTE_RESPONSE
    driven.node.step(Message(kind=kind, to=1, sender=3, term=6))
    assert driven.node.role is role
    driven.store(second)
    assert driven.node.role is (Role.CANDIDATE if pre_vote else Role.LEADER)


def test_a_stale_own_pre_vote_is_not_counted_as_a_vote() -> None:
    driven = Driven()
    driven.node.campaign()
    pre_vote = driven.node.ready()
    for sender in (2, 3):
        driven.node.step(Message(kind=PRE_VOTE_RESPONSE, to=1, sender=sender, term=1))
    assert driven.node.role is Role.CANDIDATE
    driven.store(pre_vote)
    assert driven.node.role is Role.CANDIDATE


def test_a_majority_of_refusals_ends_the_election_in_the_same_term() -> None:
    driven = Driven(pre_vote=False)
    driven.campaign()
    driven.step(VOTE_RESPONSE, 2, reject=True)
    assert driven.node.role is Role.CANDIDATE
    driven.step(VOTE_RESPONSE, 3, reject=True)
    assert (driven.node.role, driven.node.term, driven.node.vote) == (Role.FOLLOWER, 1, 1)


def test_repeated_answers_count_once() -> None:
    driven = Driven(membership=Membership((1, 2, 3, 4, 5)), pre_vote=False)
    driven.campaign()
    for _ in range(3):
        driven.step(VOTE_RESPONSE, 2)
    assert not driven.node.is_leader
    driven.step(VOTE_RESPONSE, 4)
    assert driven.node.is_leader


def test_answers_of_an_older_term_are_not_counted() -> None:
    driven = Driven(pre_vote=False)
    driven.campaign()
    driven.node.campaign()
    driven.pump()
    assert driven.node.term == 2
    driven.step(VOTE_RESPONSE, 2, term=1)
    assert driven.node.role is Role.CANDIDATE


def test_answers_of_the_other_kind_are_not_counted() -> None:
    driven = Driven()
    driven.node.campaign()
    driven.pump()
    driven.step(PRE_VOTE_RESPONSE, 2, term=1)
    assert driven.node.role is Role.CANDIDATE
    driven.step(PRE_VOTE_RESPONSE, 3, term=1)
    assert driven.node.role is Role.CANDIDATE


def test_a_late_pre_vote_grant_of_the_own_term_counts_as_in_etcd() -> None:
    """A pre-vote promises nothing, so it is harmless that the grant was for an older campaign."""
    driven = Driven(terms=[1])
    driven.node.campaign()
    driven.pump()
    driven.step(PRE_VOTE_RESPONSE, 2, term=1)
    assert (driven.node.role, driven.node.term) == (Role.CANDIDATE, 2)


def test_a_pre_vote_refusal_teaches_the_term() -> None:
    driven = Driven()
    driven.node.campaign()
    driven.pump()
    driven.step(PRE_VOTE_RESPONSE, 2, term=7, reject=True)
    assert (driven.node.term, driven.node.role) == (7, Role.FOLLOWER)


def test_losing_a_pre_vote_keeps_the_term() -> None:
    driven = Driven(terms=[1])
    driven.node.campaign()
    driven.pump()
    for sender in (2, 3):
        driven.step(PRE_VOTE_RESPONSE, sender, term=1, reject=True)
    assert (driven.node.term, driven.node.role) == (1, Role.FOLLOWER)


def test_a_pre_candidate_forgets_its_leader() -> None:
    driven = Driven()
    driven.step(HEARTBEAT, 2, term=1)
    assert driven.node.leader == 2
    driven.node.campaign()
    assert driven.node.leader == 0


@pytest.mark.parametrize(
    ("log_term", "index", "granted"),
    [(1, 9, False), (2, 1, False), (2, 2, True), (2, 3, True), (3, 1, True)],
)
@pytest.mark.parametrize("kind", [VOTE, PRE_VOTE])
def test_votes_go_to_logs_at_least_as_complete(
    kind: MessageKind, log_term: int, index: int, granted: bool
) -> None:
    driven = Driven(terms=[1, 2])
    (answer,) = driven.step(kind, 2, term=3, log_term=log_term, index=index)
    assert answer.reject is not granted
    assert answer.term == (3 if granted or kind is VOTE else 2)


@pytest.mark.parametrize(
    ("role", "log_term", "index", "vote", "rejected"),
    [
        (Role.FOLLOWER, 0, 0, 0, True),
        (Role.FOLLOWER, 1, 0, 0, True),
        (Role.FOLLOWER, 2, 0, 0, True),
        (Role.FOLLOWER, 3, 0, 0, False),
        (Role.FOLLOWER, 0, 1, 0, True),
        (Role.FOLLOWER, 1, 1, 0, True),
        (Role.FOLLOWER, 2, 1, 0, True),
        (Role.FOLLOWER, 3, 1, 0, False),
        (Role.FOLLOWER, 0, 2, 0, True),
        (Role.FOLLOWER, 1, 2, 0, True),
        (Role.FOLLOWER, 2, 2, 0, False),
        (Role.FOLLOWER, 3, 2, 0, False),
        (Role.FOLLOWER, 0, 3, 0, True),
        (Role.FOLLOWER, 1, 3, 0, True),
        (Role.FOLLOWER, 2, 3, 0, False),
        (Role.FOLLOWER, 3, 3, 0, False),
        (Role.FOLLOWER, 3, 2, 2, False),
        (Role.FOLLOWER, 3, 2, 3, True),
        (Role.LEADER, 3, 3, 1, True),
        (Role.PRE_CANDIDATE, 3, 3, 1, True),
        (Role.CANDIDATE, 3, 3, 1, True),
    ],
)
@pytest.mark.parametrize("kind", [VOTE, PRE_VOTE])
def test_in_one_term_a_vote_needs_a_log_and_a_voter_that_is_free(
    kind: MessageKind, role: Role, log_term: int, index: int, vote: int, rejected: bool
) -> None:
    """Node 1 holds two entries of term 2 and is in the term of the request already."""
    term = max(2, log_term)
    driven = Driven(
        terms=[2, 2],
        hard_state=HardState(term - (role in (Role.CANDIDATE, Role.LEADER)), vote, 0),
        pre_vote=role is Role.PRE_CANDIDATE,
    )
    if role is Role.LEADER:
        driven.lead()
    elif role is not Role.FOLLOWER:
        driven.node.campaign()
        driven.pump()
    assert (driven.node.role, driven.node.term, driven.node.vote) == (role, term, vote)
    (answer,) = driven.step(kind, 2, term=term, log_term=log_term, index=index)
    assert (answer.kind.name, answer.to) == (kind.name + "_RESPONSE", 2)
    assert (answer.reject, answer.term) == (rejected, term)
    granted = kind is VOTE and not rejected
    assert driven.node.vote == (2 if granted else vote)


@pytest.mark.parametrize("kind", [VOTE, PRE_VOTE])
@pytest.mark.parametrize("role", Role)
def test_in_any_role_a_vote_for_a_higher_term_is_granted(role: Role, kind: MessageKind) -> None:
    driven = Driven(pre_vote=role is Role.PRE_CANDIDATE, check_quorum=False)
    if role is Role.LEADER:
        driven.lead()
    elif role is not Role.FOLLOWER:
        driven.node.campaign()
        driven.pump()
    before = driven.node.status()
    term = before.term + 1
    (answer,) = driven.step(kind, 2, term=term, log_term=term, index=42)
    assert (answer.reject, answer.term) == (False, term)
    node = driven.node
    if kind is VOTE:
        assert (node.role, node.term, node.vote, node.leader) == (Role.FOLLOWER, term, 2, 0)
    else:
        # A pre-vote promises nothing.
        assert node.status() == before


def test_a_learner_votes_when_asked() -> None:
    """It may be a voter already without knowing it yet (raft-rs#57)."""
    driven = Driven(node_id=2, membership=Membership((1,), learners=(2,)))
    (answer,) = driven.step(VOTE, 1, term=2, log_term=11, index=11)
    assert (answer.kind, answer.reject, driven.node.vote) == (VOTE_RESPONSE, False, 1)


def test_one_vote_in_a_term_and_granting_again_is_idempotent() -> None:
    driven = Driven()
    for sender, granted in ((2, True), (3, False), (2, True)):
        (answer,) = driven.step(VOTE, sender, term=1)
        assert answer.reject is not granted
    assert driven.node.vote == 2


@pytest.mark.parametrize("kind", [VOTE, PRE_VOTE])
def test_who_knows_the_leader_of_a_term_votes_for_nobody_in_it(kind: MessageKind) -> None:
    driven = Driven(terms=[1])
    driven.step(HEARTBEAT, 2)
    assert driven.node.vote == 0
    (answer,) = driven.step(kind, 3, log_term=1, index=9)
    assert answer.reject
    assert driven.node.vote == 0


def test_a_pre_vote_that_is_refused_in_term_zero_is_not_answered() -> None:
    """There is no term to teach, and no peer may send a message without one."""
    driven = Driven(priority=1)
    assert driven.step(PRE_VOTE, 2, term=1) == []
    (answer,) = driven.step(PRE_VOTE, 2, term=1, priority=1)
    assert (answer.reject, answer.term) == (False, 1)


@pytest.mark.parametrize(
    "membership",
    [THREE, Membership((2, 3), learners=(1,)), Membership((2, 3))],
    ids=["voter", "learner", "removed"],
)
def test_whoever_votes_asks_for_the_whole_of_its_log(membership: Membership) -> None:
    """A removed node too: what lies behind its removal may be committed with its own answer."""
    driven = Driven(membership=membership, terms=[1, 2, 2], hard_state=HardState(3, 0, 2))
    driven.restart(applied=2)
    (answer,) = driven.step(VOTE, 2, term=4, log_term=2, index=2)
    assert answer.reject


def test_the_vote_survives_a_restart() -> None:
    driven = Driven(hard_state=HardState(3, 2, 0))
    (answer,) = driven.step(VOTE, 3, term=3)
    assert answer.reject
    (answer,) = driven.step(VOTE, 2, term=3)
    assert not answer.reject


def test_stepping_down_in_the_same_term_keeps_the_vote() -> None:
    driven = Driven(pre_vote=False)
    driven.campaign()
    driven.step(APPEND, 2)
    assert (driven.node.role, driven.node.vote, driven.node.leader) == (Role.FOLLOWER, 1, 2)
    (answer,) = driven.step(VOTE, 3, index=9, log_term=1)
    assert answer.reject


def test_granting_a_vote_restarts_the_timer_and_a_pre_vote_does_not() -> None:
    for kind, elapsed in ((VOTE, 0), (PRE_VOTE, 3)):
        driven = Driven()
        driven.tick(3)
        driven.step(kind, 2, term=1)
        assert driven.node._raft.election_elapsed == elapsed


@pytest.mark.parametrize("kind", [VOTE, PRE_VOTE])
def test_a_live_leader_is_guarded_for_one_election_timeout(kind: MessageKind) -> None:
    driven = Driven(election_timeout_ticks=10, seed=3)
    driven.step(HEARTBEAT, 2, term=1)
    driven.node._raft.election_timeout = 19
    driven.tick(9)
    assert driven.step(kind, 3, term=2) == []
    assert driven.node.term == 1
    driven.tick()
    assert driven.step(kind, 3, term=2) != []


def test_a_leader_guards_itself_unless_it_asked_for_the_election() -> None:
    driven = Driven()
    driven.lead_replicating()
    term = driven.node.term
    assert driven.step(VOTE, 2, term=term + 1, index=9, log_term=term) == []
    assert driven.node.is_leader
    (answer,) = driven.step(
        VOTE, 2, term=term + 1, index=9, log_term=term, context=CAMPAIGN_TRANSFER
    )
    assert not answer.reject
    assert driven.node.vote == 2


def test_without_check_quorum_a_higher_term_unseats_the_leader() -> None:
    driven = Driven(check_quorum=False)
    driven.lead_replicating()
    driven.step(VOTE, 2, term=driven.node.term + 1)
    assert driven.node.role is Role.FOLLOWER


def test_a_leader_without_a_quorum_steps_down_within_two_timeouts() -> None:
    driven = Driven(election_timeout_ticks=5)
    driven.lead_replicating()
    driven.tick(5)
    assert driven.node.is_leader
    driven.tick(5)
    assert (driven.node.role, driven.node.leader) == (Role.FOLLOWER, 0)


def test_a_leader_that_hears_one_of_two_followers_stays() -> None:
    driven = Driven(election_timeout_ticks=5)
    driven.lead_replicating()
    for _ in range(10):
        driven.tick(4)
        driven.step(MessageKind.HEARTBEAT_RESPONSE, 3)
    assert driven.node.is_leader


def test_timeouts_are_spread_evenly_over_one_election_timeout() -> None:
    driven = Driven(election_timeout_ticks=10)
    timeouts = Counter[int]()
    for term in range(1, 1001):
        driven.node._raft.become_follower(term, 0)
        timeouts[driven.node._raft.election_timeout] += 1
    assert sorted(timeouts) == list(range(10, 20))
    assert min(timeouts.values()) > 70
    assert max(timeouts.values()) < 130


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE])
def test_the_timer_fires_exactly_at_the_drawn_timeout(role: Role) -> None:
    for seed in range(30):
        driven = Driven(seed=seed, pre_vote=False)
        if role is Role.CANDIDATE:
            driven.campaign()
        term = driven.node.term
        timeout = driven.node._raft.election_timeout
        assert driven.tick(timeout - 1) == []
        assert {(m.kind, m.term) for m in driven.tick()} == {(VOTE, term + 1)}


def test_a_pre_candidate_keeps_its_timer() -> None:
    driven = Driven()
    driven.tick(3)
    raft = driven.node._raft
    timeout = raft.election_timeout
    driven.node.campaign()
    driven.pump()
    assert driven.node.role is Role.PRE_CANDIDATE
    assert (raft.election_elapsed, raft.election_timeout) == (3, timeout)


def test_nodes_rarely_time_out_together() -> None:
    """Paper 5.2: in a group of five, fewer than 3 in 10 elections may collide."""
    conflicts = 0
    for seed in range(500):
        nodes = [Driven(seed=seed * 5 + node).node._raft for node in range(5)]
        timeouts = sorted(node.election_timeout for node in nodes)
        conflicts += timeouts[0] == timeouts[1]
    assert conflicts / 500 < 0.3


@pytest.mark.parametrize(
    "membership",
    [THREE, Membership((1, 2, 3), learners=(4,)), Membership((4,), witnesses=(4,))],
    ids=["stranger", "learner", "witness"],
)
@with_and_without_pre_vote
def test_a_node_that_cannot_lead_never_campaigns(membership: Membership, pre_vote: bool) -> None:
    driven = Driven(node_id=4, membership=membership, pre_vote=pre_vote)
    assert driven.tick(50) == []
    driven.node.campaign()
    assert driven.pump() == []
    driven.step(HEARTBEAT, 2, term=1)
    assert driven.step(MessageKind.TIMEOUT_NOW, 2) == []
    assert (driven.node.role, driven.node.term) == (Role.FOLLOWER, 1)
    assert "campaign_refused" in driven.event_names()


@with_and_without_pre_vote
def test_campaigning_as_leader_does_nothing(pre_vote: bool) -> None:
    driven = Driven(pre_vote=pre_vote)
    driven.lead()
    term = driven.node.term
    driven.node.campaign()
    assert driven.pump() == []
    assert (driven.node.is_leader, driven.node.term) == (True, term)


def test_an_answer_of_an_unknown_node_is_refused() -> None:
    driven = Driven(pre_vote=False)
    driven.campaign()
    for term in (1, 9):
        with pytest.raises(StepError, match="no member"):
            driven.step(VOTE_RESPONSE, 7, term=term)
    assert (driven.node.term, driven.node.role) == (1, Role.CANDIDATE)


def with_change(applied: int) -> Driven:
    """Return a node of 1, 2, 3 with entries 1 and 3, and between them a change; all committed."""
    change = ConfChange((Change(ChangeKind.REMOVE_NODE, 3),))
    driven = Driven(terms=[1], committed_bytes_per_ready_max=1)
    driven.storage.append(
        [Entry(1, 2, change.entry_kind, encode(change)), Entry(1, 3, NORMAL, b"x")]
    )
    driven.storage.set_hard_state(HardState(1, 0, 3))
    driven.restart(applied=applied)
    return driven


def test_a_change_that_is_committed_and_not_applied_forbids_to_campaign() -> None:
    """Wherever it stands among the unapplied entries, which are looked through page by page."""
    driven = with_change(applied=0)
    driven.node.campaign()
    driven.node.step(Message(kind=MessageKind.TIMEOUT_NOW, to=1, sender=2, term=1))
    assert (driven.node.role, driven.node.term) == (Role.FOLLOWER, 1)
    assert driven.event_names().count("campaign_refused") == 2
    driven.pump()
    assert driven.node.applied == 3
    driven.node.campaign()
    assert driven.node.role is Role.PRE_CANDIDATE


def test_a_change_that_is_applied_or_not_committed_forbids_nothing() -> None:
    driven = with_change(applied=2)
    driven.node.campaign()
    assert driven.node.role is Role.PRE_CANDIDATE
    driven = with_change(applied=0)
    driven.storage.set_hard_state(HardState(1, 0, 1))
    driven.restart()
    driven.node.campaign()
    assert driven.node.role is Role.PRE_CANDIDATE


# Leases rest on the patience of those who granted them.


def patient(**config: Any) -> Driven:
    """Return node 1, following node 2 in a group with leases."""
    driven = Driven(read_mode=ReadMode.LEASE, **config)
    driven.step(HEARTBEAT, 2, term=1)
    return driven


def test_with_leases_a_driver_cannot_make_a_follower_campaign_too_early() -> None:
    driven = patient()
    driven.tick(9)
    driven.node.campaign()
    assert (driven.node.role, driven.node.leader) == (Role.FOLLOWER, 2)
    assert driven.event_names()[-1] == "campaign_refused"
    driven.node._raft.election_timeout = 19
    driven.tick()
    driven.node.campaign()
    assert driven.node.role is Role.PRE_CANDIDATE


def test_with_leases_a_leader_is_not_forgotten() -> None:
    driven = patient()
    driven.node.forget_leader()
    assert driven.node.leader == 2
    driven = Driven()
    driven.step(HEARTBEAT, 2, term=1)
    driven.node.forget_leader()
    assert (driven.node.leader, driven.node.term, driven.node.role) == (0, 1, Role.FOLLOWER)


def test_forgetting_the_leader_keeps_the_timer_and_frees_the_vote() -> None:
    driven = Driven()
    driven.step(HEARTBEAT, 2, term=1)
    driven.tick(4)
    assert driven.step(PRE_VOTE, 3, term=2) == []
    driven.node.forget_leader()
    assert driven.node._raft.election_elapsed == 4
    (answer,) = driven.step(PRE_VOTE, 3, term=2)
    assert not answer.reject
    driven.step(HEARTBEAT, 2)
    assert driven.node.leader == 2


@pytest.mark.parametrize("role", [Role.CANDIDATE, Role.PRE_CANDIDATE, Role.LEADER])
def test_only_a_follower_forgets_its_leader(role: Role) -> None:
    driven = Driven(pre_vote=role is Role.PRE_CANDIDATE)
    if role is Role.LEADER:
        driven.lead()
    else:
        driven.node.campaign()
        driven.pump()
    before = driven.node.status()
    driven.node.forget_leader()
    assert driven.node.status() == before
    assert "leader_forgotten" not in driven.event_names()


@pytest.mark.parametrize(
    ("read_mode", "term", "is_guarded"),
    [(ReadMode.LEASE, 1, True), (ReadMode.LEASE, 0, False), (ReadMode.SAFE, 1, False)],
)
def test_with_leases_a_restarted_node_is_patient_for_an_election_timeout(
    read_mode: ReadMode, term: int, is_guarded: bool
) -> None:
    """It may have confirmed a lease just before it stopped; if it was in any term at all."""
    driven = Driven(hard_state=HardState(term, 0, 0), read_mode=read_mode)
    driven.node._raft.election_timeout = 19
    driven.tick(9)
    assert (driven.step(VOTE, 3, term=term + 1) == []) is is_guarded
    driven.tick()
    (answer,) = driven.step(VOTE, 3, term=term + 1)
    assert not answer.reject


@pytest.mark.parametrize("kind", [VOTE, PRE_VOTE])
def test_who_confirmed_a_lease_votes_for_nobody_though_a_higher_term_came(
    kind: MessageKind,
) -> None:
    driven = patient()
    driven.step(HEARTBEAT, 2, context=(1).to_bytes(8, "little"))
    driven.tick(3)
    # A refusal of a later term: the leader of the old one may still hold its lease.
    driven.step(MessageKind.APPEND_RESPONSE, 3, term=4)
    assert (driven.node.term, driven.node.leader) == (4, 0)
    assert driven.step(kind, 3, term=4) == []
    assert driven.step(kind, 3, term=5) == []
    (answer,) = driven.step(kind, 3, term=4, context=CAMPAIGN_TRANSFER)
    assert not answer.reject


def test_patience_for_a_lease_lasts_one_election_timeout_from_the_last_heartbeat() -> None:
    driven = patient()
    for number in (1, 2):
        driven.tick(4)
        driven.step(HEARTBEAT, 2, context=number.to_bytes(8, "little"))
    driven.step(MessageKind.APPEND_RESPONSE, 3, term=2)
    driven.node._raft.election_timeout = 19
    driven.tick(9)
    assert driven.step(VOTE, 3, term=2) == []
    driven.tick()
    (answer,) = driven.step(VOTE, 3, term=2)
    assert not answer.reject
