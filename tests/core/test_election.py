from __future__ import annotations

import pytest

from rafter_core import HardState, Membership, Message, MessageKind, Role, StepError
from rafter_core.messages import CAMPAIGN_TRANSFER
from tests.core.support import Driven, of_kind

VOTE = MessageKind.VOTE
VOTE_RESPONSE = MessageKind.VOTE_RESPONSE
PRE_VOTE = MessageKind.PRE_VOTE
PRE_VOTE_RESPONSE = MessageKind.PRE_VOTE_RESPONSE
HEARTBEAT = MessageKind.HEARTBEAT
APPEND = MessageKind.APPEND


def test_a_campaign_asks_every_other_voter_in_ascending_order() -> None:
    driven = Driven(membership=Membership((5, 3, 1, 2)), pre_vote=False, terms=[1, 2])
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


def test_one_voter_elects_itself_after_its_sync() -> None:
    driven = Driven(membership=Membership((1,)))
    driven.node.campaign()
    driven.pump()
    assert driven.node.is_leader
    assert driven.node.commit == 1


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


def test_a_pre_vote_granted_for_an_older_campaign_is_not_counted() -> None:
    driven = Driven(terms=[1])
    driven.node.campaign()
    driven.pump()
    driven.step(PRE_VOTE_RESPONSE, 2, term=1)
    assert driven.node.role is Role.PRE_CANDIDATE


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


def test_one_vote_in_a_term_and_granting_again_is_idempotent() -> None:
    driven = Driven()
    for sender, granted in ((2, True), (3, False), (2, True)):
        (answer,) = driven.step(VOTE, sender, term=1)
        assert answer.reject is not granted
    assert driven.node.vote == 2


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


def test_timeouts_are_spread_over_one_election_timeout() -> None:
    timeouts = set()
    for seed in range(300):
        driven = Driven(seed=seed, election_timeout_ticks=10)
        for tick in range(1, 40):
            if driven.tick():
                timeouts.add(tick)
                break
    assert timeouts == set(range(10, 20))


def test_a_node_that_is_no_voter_never_campaigns() -> None:
    driven = Driven(node_id=4)
    assert driven.tick(50) == []
    driven.node.campaign()
    assert driven.pump() == []
    driven.step(HEARTBEAT, 2, term=1)
    assert driven.step(MessageKind.TIMEOUT_NOW, 2) == []
    assert (driven.node.role, driven.node.term) == (Role.FOLLOWER, 1)
    assert "campaign_refused" in driven.event_names()


def test_campaigning_as_leader_does_nothing() -> None:
    driven = Driven()
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
