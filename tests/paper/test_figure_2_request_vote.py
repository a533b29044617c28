"""Figure 2 of the paper, box "RequestVote RPC": its arguments, its result, its receiver."""

from __future__ import annotations

from typing import Any

import pytest

from rafter_core import Message, MessageKind, Role
from tests.core.support import Driven, of_kind
from tests.paper.support import PLAIN

VOTE = MessageKind.VOTE
VOTE_RESPONSE = MessageKind.VOTE_RESPONSE


# ---- arguments and results


@pytest.mark.parametrize(
    ("terms", "index", "log_term"), [([], 0, 0), ([1], 1, 1), ([1, 2, 2], 3, 2)]
)
def test_a_request_carries_the_four_arguments(terms: list[int], index: int, log_term: int) -> None:
    """Figure 2, RequestVote RPC, arguments: the new term, the candidate, its last entry's identity.

    Section 5.4.1: the request says how complete the candidate's log is.
    """
    driven = Driven(terms=terms, **PLAIN)
    term = driven.node.term + 1
    assert driven.campaign() == [
        Message(kind=VOTE, to=to, sender=1, term=term, index=index, log_term=log_term)
        for to in (2, 3)
    ]


def test_a_granted_vote_carries_the_term() -> None:
    """Figure 2, RequestVote RPC, results: the term it was given in, and that it was given."""
    driven = Driven(**PLAIN)
    assert driven.step(VOTE, 2, term=4) == [
        Message(kind=VOTE_RESPONSE, to=2, sender=1, term=4, reject=False)
    ]


def test_a_refused_vote_carries_the_term() -> None:
    """Figure 2, RequestVote RPC, results: the receiver's term, for a candidate that lags."""
    driven = Driven(terms=[3], **PLAIN)
    assert driven.step(VOTE, 2, term=4, index=1, log_term=2) == [
        Message(kind=VOTE_RESPONSE, to=2, sender=1, term=4, reject=True)
    ]


def test_a_candidate_learns_a_higher_term_from_a_refusal() -> None:
    """Figure 2, RequestVote RPC, results: the candidate updates itself and gives up."""
    driven = Driven(**PLAIN)
    driven.campaign()
    driven.step(VOTE_RESPONSE, 2, term=9, reject=True)
    assert (driven.node.role, driven.node.term, driven.node.vote) == (Role.FOLLOWER, 9, 0)


# ---- receiver 1


@pytest.mark.parametrize("settings", [PLAIN, {}], ids=["plain", "default"])
def test_a_request_of_an_older_term_gets_no_vote(settings: dict[str, Any]) -> None:
    """Figure 2, RequestVote RPC, receiver 1: no vote in a term that is over.

    The core follows etcd and does not even answer: the candidate hears the term from the next
    message of the new leader or candidate.
    """
    driven = Driven(terms=[1, 2], **settings)
    assert driven.step(VOTE, 2, term=1, index=9, log_term=1) == []
    assert (driven.node.vote, driven.node.term) == (0, 2)


def test_a_pre_vote_request_of_an_older_term_is_answered() -> None:
    """Figure 2, RequestVote RPC, receiver 1: the one lower-term request that needs an answer.

    A pre-candidate that nobody answers never raises its term and never learns the others' one.
    """
    driven = Driven(terms=[1, 2])
    assert driven.step(MessageKind.PRE_VOTE, 2, term=1, index=9, log_term=1) == [
        Message(kind=MessageKind.PRE_VOTE_RESPONSE, to=2, sender=1, term=2, reject=True)
    ]


# ---- receiver 2, the vote


def test_the_first_candidate_of_a_term_gets_the_vote() -> None:
    """Figure 2, RequestVote RPC, receiver 2: first come, first served; one vote in a term."""
    driven = Driven(**PLAIN)
    answers = [driven.step(VOTE, sender, term=1)[0] for sender in (2, 3)]
    assert [(m.to, m.reject) for m in answers] == [(2, False), (3, True)]
    assert driven.node.vote == 2


@pytest.mark.parametrize(
    ("vote", "candidate", "reject"),
    [(0, 2, False), (0, 3, False), (2, 2, False), (3, 3, False), (2, 3, True), (3, 2, True)],
)
def test_a_vote_is_given_once_in_a_term(vote: int, candidate: int, reject: bool) -> None:
    """Figure 2, RequestVote RPC, receiver 2: if unspent, or spent on this same candidate.

    Asking again is idempotent, so a lost answer does not cost the election.
    """
    driven = Driven(**PLAIN)
    if vote:
        driven.step(VOTE, vote, term=1)
    answers = driven.step(VOTE, candidate, term=1)
    assert [(m.to, m.term, m.reject) for m in answers] == [(candidate, 1, reject)]
    assert driven.node.vote == (vote or candidate)


def test_a_candidate_has_spent_its_vote_on_itself() -> None:
    """Figure 2, RequestVote RPC, receiver 2: two candidates of a term refuse each other."""
    driven = Driven(**PLAIN)
    driven.campaign()
    assert [m.reject for m in driven.step(VOTE, 2, term=1)] == [True]
    assert (driven.node.vote, driven.node.role) == (1, Role.CANDIDATE)


def test_an_append_does_not_give_the_vote_back() -> None:
    """Figure 2, RequestVote RPC, receiver 2: becoming a follower in the same term keeps the vote.

    A candidate that meets the leader of its term has voted in that term all the same.
    """
    driven = Driven(**PLAIN)
    driven.campaign()
    driven.step(MessageKind.APPEND, 2, term=1)
    assert (driven.node.role, driven.node.vote) == (Role.FOLLOWER, 1)
    assert [m.reject for m in driven.step(VOTE, 3, term=1)] == [True]


def test_a_new_term_brings_a_new_vote() -> None:
    """Figure 2, state, votedFor: it belongs to the current term."""
    driven = Driven(**PLAIN)
    for term, candidate in ((1, 2), (2, 3), (5, 2)):
        assert [m.reject for m in driven.step(VOTE, candidate, term=term)] == [False]
        assert (driven.node.term, driven.node.vote) == (term, candidate)


def test_a_term_adopted_from_a_stale_candidate_leaves_the_vote_unspent() -> None:
    """Figure 2, RequestVote RPC, receiver 2: a refusal spends nothing, another gets it."""
    driven = Driven(terms=[2, 2], **PLAIN)
    assert [m.reject for m in driven.step(VOTE, 2, term=5, index=1, log_term=2)] == [True]
    assert (driven.node.term, driven.node.vote) == (5, 0)
    assert [m.reject for m in driven.step(VOTE, 3, term=5, index=2, log_term=2)] == [False]
    assert driven.node.vote == 3


def test_no_vote_is_given_in_a_term_that_has_a_leader() -> None:
    """Figure 2, RequestVote RPC, receiver 2: stricter than the paper, as in etcd.

    An unspent vote is of no use to anybody once the term's leader is known.
    """
    driven = Driven(**PLAIN)
    driven.step(MessageKind.APPEND, 2, term=1)
    assert [m.reject for m in driven.step(VOTE, 3, term=1)] == [True]
    assert driven.node.vote == 0


def test_anybody_votes_in_a_higher_term_whatever_it_is() -> None:
    """Figure 2, RequestVote RPC, receiver 2: a leader too has a vote in the next term."""
    for prepare in (Driven.campaign, Driven.lead):
        driven = Driven(**PLAIN)
        prepare(driven)
        answers = driven.step(VOTE, 3, term=2, index=5, log_term=1)
        assert [(m.to, m.term, m.reject) for m in answers] == [(3, 2, False)]
        assert (driven.node.role, driven.node.vote) == (Role.FOLLOWER, 3)


# ---- receiver 2, the log


@pytest.mark.parametrize(
    ("terms", "log_term", "index", "reject"),
    [
        # The same last term: the longer log.
        ([1], 1, 1, False),
        ([1], 1, 2, False),
        ([1, 1], 1, 1, True),
        # A higher last term wins, however short the log is.
        ([1], 2, 1, False),
        ([1], 2, 2, False),
        ([1, 1], 2, 1, False),
        # A lower one loses, however long it is.
        ([2], 1, 1, True),
        ([2], 1, 2, True),
        ([2, 2], 1, 1, True),
        ([2], 1, 99, True),
        # Empty logs.
        ([], 0, 0, False),
        ([], 1, 1, False),
        ([1], 0, 0, True),
    ],
)
def test_only_a_log_that_is_no_worse_gets_the_vote(
    terms: list[int], log_term: int, index: int, reject: bool
) -> None:
    """Figure 2, RequestVote RPC, receiver 2, and section 5.4.1: last terms first, then lengths."""
    driven = Driven(terms=terms, **PLAIN)
    answers = driven.step(VOTE, 2, term=5, log_term=log_term, index=index)
    assert [(m.kind, m.reject) for m in answers] == [(VOTE_RESPONSE, reject)]
    assert driven.node.vote == (0 if reject else 2)


def test_the_same_candidate_is_refused_if_its_log_is_worse() -> None:
    """Figure 2, RequestVote RPC, receiver 2: both halves of the rule must hold, each time."""
    driven = Driven(terms=[1, 1], **PLAIN)
    assert [m.reject for m in driven.step(VOTE, 2, term=2, log_term=1, index=2)] == [False]
    assert [m.reject for m in driven.step(VOTE, 2, term=2, log_term=1, index=1)] == [True]


# ---- what a vote does to the voter's patience


def test_a_granted_vote_restarts_the_election_timer_and_a_refused_one_does_not() -> None:
    """Figure 2, rules for servers, followers 2: only granting a vote postpones one's own election.

    A candidate with a stale log could otherwise hold off those that can win.
    """
    for log_term, is_granted in ((2, True), (1, False)):
        driven = Driven(terms=[2], **PLAIN)
        driven.step(VOTE, 3, term=3, log_term=1, index=1)
        timeout = driven.node._raft.election_timeout
        driven.tick(timeout - 1)
        driven.step(VOTE, 2, term=3, log_term=log_term, index=1)
        requests = of_kind(driven.tick(), VOTE)
        assert bool(requests) is not is_granted
