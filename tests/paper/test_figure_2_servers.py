"""Figure 2 of the paper, box "rules for servers": all servers, followers, candidates.

The rules for leaders are in `test_figure_2_leaders`, the randomness of timeouts is in
`test_thesis_3_elections`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rafter_core import Membership, MessageKind, ProposalDropped, Role, Snapshot
from tests.core.support import THREE, Driven, entry, of_kind
from tests.paper.support import PLAIN, group, identities

APPEND = MessageKind.APPEND
HEARTBEAT = MessageKind.HEARTBEAT
SNAPSHOT = MessageKind.SNAPSHOT
VOTE = MessageKind.VOTE
VOTE_RESPONSE = MessageKind.VOTE_RESPONSE


def as_follower(driven: Driven) -> None:
    """Follow node 3 in term 1."""
    driven.step(APPEND, 3, term=1)


ROLES: list[tuple[Role, Callable[[Driven], Any]]] = [
    (Role.FOLLOWER, as_follower),
    (Role.CANDIDATE, Driven.campaign),
    (Role.LEADER, Driven.lead),
]


def snapshot_fields(kind: MessageKind) -> dict[str, Any]:
    """Return what a message of this kind must carry besides its term."""
    return {"snapshot": Snapshot(9, 1, THREE)} if kind is SNAPSHOT else {}


# ---- all servers


def test_what_is_committed_is_applied_in_the_order_of_the_log() -> None:
    """Figure 2, rules for servers, all servers 1: up to the commit index, one after the other."""
    driven = Driven(**PLAIN)
    entries = [entry(1, index, b"%d" % index) for index in range(1, 6)]
    driven.step(APPEND, 2, term=1, entries=entries, commit=2)
    assert driven.committed == entries[:2]
    assert driven.node.applied == 2
    driven.step(HEARTBEAT, 2, commit=5)
    assert driven.committed == entries
    assert driven.node.applied == 5


@pytest.mark.parametrize(("role", "prepare"), ROLES, ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize(
    ("kind", "leader"),
    [
        (APPEND, 2),
        (HEARTBEAT, 2),
        (SNAPSHOT, 2),
        (MessageKind.APPEND_RESPONSE, 0),
        (MessageKind.HEARTBEAT_RESPONSE, 0),
        (VOTE, 0),
        (VOTE_RESPONSE, 0),
        (MessageKind.TRANSFER_LEADER, 0),
        (MessageKind.READ_INDEX_RESPONSE, 0),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_higher_term_makes_everybody_a_follower(
    role: Role, prepare: Callable[[Driven], Any], kind: MessageKind, leader: int
) -> None:
    """Figure 2, rules for servers, all servers 2: adopt the term, whatever the message is.

    Who leads it is known only if the message is one that a leader alone sends.
    """
    driven = Driven(**PLAIN)
    prepare(driven)
    assert (driven.node.role, driven.node.term) == (role, 1)
    driven.step(kind, 2, term=7, **snapshot_fields(kind))
    assert (driven.node.role, driven.node.term) == (Role.FOLLOWER, 7)
    assert driven.node.leader == leader
    assert driven.storage.initial_state()[0].term == 7


@pytest.mark.parametrize("kind", [APPEND, HEARTBEAT, VOTE, VOTE_RESPONSE])
def test_a_lower_term_makes_nobody_a_follower(kind: MessageKind) -> None:
    """Paper, section 5.1: a request or answer of an older term is refused or ignored."""
    driven = Driven(terms=[4], **PLAIN)
    driven.lead()
    driven.step(kind, 2, term=4)
    assert (driven.node.role, driven.node.term) == (Role.LEADER, 5)


# ---- followers


def test_a_server_starts_as_a_follower() -> None:
    """Paper, section 5.2: whatever it was before the crash, it begins as a follower of nobody."""
    driven = Driven(terms=[1, 3], **PLAIN)
    assert (driven.node.role, driven.node.leader, driven.node.term) == (Role.FOLLOWER, 0, 3)
    assert driven.pump() == []


def test_a_follower_is_passive_until_its_timeout() -> None:
    """Figure 2, rules for servers, followers 1: it only answers candidates and leaders."""
    driven = Driven(election_timeout_ticks=10, **PLAIN)
    assert driven.tick(driven.node._raft.election_timeout - 1) == []
    assert [m.kind for m in driven.step(VOTE, 2, term=1)] == [VOTE_RESPONSE]
    assert [m.kind for m in driven.step(APPEND, 2)] == [MessageKind.APPEND_RESPONSE]
    assert [m.kind for m in driven.step(HEARTBEAT, 2)] == [MessageKind.HEARTBEAT_RESPONSE]


def test_a_follower_that_hears_nobody_becomes_a_candidate() -> None:
    """Figure 2, rules for servers, followers 2: silence for an election timeout starts one."""
    driven = Driven(election_timeout_ticks=10, **PLAIN)
    timeout = driven.node._raft.election_timeout
    assert 10 <= timeout < 20
    driven.tick(timeout - 1)
    assert driven.node.term == 0
    driven.tick()
    assert (driven.node.role, driven.node.term) == (Role.CANDIDATE, 1)


@pytest.mark.parametrize("kind", [APPEND, HEARTBEAT, SNAPSHOT], ids=lambda kind: kind.name)
def test_the_leader_postpones_the_election(kind: MessageKind) -> None:
    """Figure 2, rules for servers, followers 2: each message of the leader restarts the timer."""
    driven = Driven(election_timeout_ticks=10, **PLAIN)
    driven.step(kind, 2, term=1, **snapshot_fields(kind))
    for _ in range(5):
        driven.tick(9)
        driven.step(kind, 2, **snapshot_fields(kind))
    assert driven.node.term == 1
    driven.tick(driven.node._raft.election_timeout)
    assert (driven.node.role, driven.node.term) == (Role.CANDIDATE, 2)


@pytest.mark.parametrize("kind", [APPEND, HEARTBEAT], ids=lambda kind: kind.name)
@pytest.mark.parametrize("settings", [PLAIN, {}], ids=["plain", "default"])
def test_a_deposed_leader_does_not_postpone_the_election(
    kind: MessageKind, settings: dict[str, Any]
) -> None:
    """Figure 2, rules for servers, followers 2: only the *current* leader's messages count."""
    driven = Driven(terms=[1, 2], **settings)
    timeout = driven.node._raft.election_timeout
    driven.tick(timeout - 1)
    driven.step(kind, 2, term=1)
    driven.tick()
    assert driven.node.role in (Role.CANDIDATE, Role.PRE_CANDIDATE)


# ---- candidates 1


def start_from(role: Role, driven: Driven) -> None:
    """Bring a node just before its election timeout, as a follower or a candidate."""
    if role is Role.CANDIDATE:
        driven.campaign()
    driven.tick(driven.node._raft.election_timeout - 1)
    assert driven.node.role is role


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE], ids=lambda role: role.name)
def test_an_election_raises_the_term_votes_for_itself_and_asks_everybody(role: Role) -> None:
    """Figure 2, rules for servers, candidates 1 and 4: a new term, its own vote, all requests.

    The same for a first election and for one after another that led to nothing.
    """
    driven = Driven(terms=[1, 1], membership=group(5), **PLAIN)
    start_from(role, driven)
    term = driven.node.term
    messages = driven.tick()
    assert (driven.node.role, driven.node.term) == (Role.CANDIDATE, term + 1)
    assert driven.node.vote == 1
    assert driven.storage.initial_state()[0][:2] == (term + 1, 1)
    assert [(m.kind, m.to, m.term) for m in messages] == [
        (VOTE, to, term + 1) for to in (2, 3, 4, 5)
    ]


def test_a_candidate_knows_no_leader() -> None:
    """Paper, section 5.2: it gave up on the old one, and clients cannot be sent anywhere."""
    driven = Driven(**PLAIN)
    as_follower(driven)
    driven.campaign()
    assert driven.node.leader == 0
    with pytest.raises(ProposalDropped):
        driven.node.propose(b"x")


def test_an_election_restarts_the_timer() -> None:
    """Figure 2, rules for servers, candidates 1: the candidate waits for a whole new timeout."""
    driven = Driven(**PLAIN)
    driven.tick(driven.node._raft.election_timeout)
    assert driven.node._raft.election_elapsed == 0
    driven.tick(driven.node._raft.election_timeout - 1)
    assert driven.node.term == 1
    driven.tick()
    assert (driven.node.role, driven.node.term) == (Role.CANDIDATE, 2)


# ---- candidates 2


@pytest.mark.parametrize(
    ("size", "votes", "role"),
    [
        # Won by a majority, the own vote included.
        (1, {}, Role.LEADER),
        (2, {2: True}, Role.LEADER),
        (3, {2: True, 3: True}, Role.LEADER),
        (3, {2: True}, Role.LEADER),
        (4, {2: True, 3: True}, Role.LEADER),
        (5, {2: True, 3: True, 4: True, 5: True}, Role.LEADER),
        (5, {2: True, 3: True, 4: True}, Role.LEADER),
        (5, {2: True, 3: True}, Role.LEADER),
        (5, {2: False, 3: True, 4: False, 5: True}, Role.LEADER),
        # Lost: a majority refused.
        (2, {2: False}, Role.FOLLOWER),
        (3, {2: False, 3: False}, Role.FOLLOWER),
        (4, {2: False, 3: False}, Role.FOLLOWER),
        (5, {2: False, 3: False, 4: False, 5: False}, Role.FOLLOWER),
        (5, {2: True, 3: False, 4: False, 5: False}, Role.FOLLOWER),
        # Undecided.
        (2, {}, Role.CANDIDATE),
        (3, {}, Role.CANDIDATE),
        (3, {2: False}, Role.CANDIDATE),
        (4, {2: True, 3: False}, Role.CANDIDATE),
        (5, {2: True}, Role.CANDIDATE),
        (5, {2: False, 3: False}, Role.CANDIDATE),
        (5, {}, Role.CANDIDATE),
    ],
)
def test_a_majority_decides_an_election(size: int, votes: dict[int, bool], role: Role) -> None:
    """Figure 2, rules for servers, candidates 2: more than half of all voters make a leader.

    More than half that refuse end the election at once, where the paper waits for the timeout.
    """
    driven = Driven(membership=group(size), **PLAIN)
    driven.campaign()
    for voter, granted in votes.items():
        driven.step(VOTE_RESPONSE, voter, term=1, reject=not granted)
    assert (driven.node.role, driven.node.term, driven.node.vote) == (role, 1, 1)


def test_one_voter_counts_once() -> None:
    """Figure 2, rules for servers, candidates 2: a repeated answer is no second vote."""
    driven = Driven(membership=group(5), **PLAIN)
    driven.campaign()
    for _ in range(4):
        driven.step(VOTE_RESPONSE, 2)
    assert not driven.node.is_leader
    driven.step(VOTE_RESPONSE, 3)
    assert driven.node.is_leader


def test_the_first_answer_of_a_voter_counts() -> None:
    """Figure 2, rules for servers, candidates 2: a vote is final, so a second answer is a ghost."""
    driven = Driven(**PLAIN)
    driven.campaign()
    driven.step(VOTE_RESPONSE, 2, reject=True)
    driven.step(VOTE_RESPONSE, 2)
    assert driven.node.role is Role.CANDIDATE


def test_votes_of_an_earlier_election_do_not_count() -> None:
    """Paper, section 5.1: an answer of an older term is ignored."""
    driven = Driven(**PLAIN)
    driven.campaign()
    driven.campaign()
    driven.step(VOTE_RESPONSE, 2, term=1)
    assert (driven.node.role, driven.node.term) == (Role.CANDIDATE, 2)


def test_a_non_voter_does_not_count() -> None:
    """Figure 2, rules for servers, candidates 2: the majority is one of the configuration."""
    driven = Driven(membership=Membership((1, 2, 3), learners=(4, 5)), **PLAIN)
    assert [m.to for m in driven.campaign()] == [2, 3]
    for learner in (4, 5):
        driven.step(VOTE_RESPONSE, learner)
    assert driven.node.role is Role.CANDIDATE


# ---- candidates 3


@pytest.mark.parametrize("kind", [APPEND, HEARTBEAT, SNAPSHOT], ids=lambda kind: kind.name)
@pytest.mark.parametrize("term", [1, 2])
def test_a_candidate_concedes_to_the_leader_of_its_term(kind: MessageKind, term: int) -> None:
    """Figure 2, rules for servers, candidates 3: somebody else won; follow, in this term or later.

    The message is then handled as a follower handles it.
    """
    driven = Driven(**PLAIN)
    driven.campaign()
    answers = driven.step(kind, 3, term=term, **snapshot_fields(kind))
    assert (driven.node.role, driven.node.term) == (Role.FOLLOWER, term)
    assert driven.node.leader == 3
    assert [(m.to, m.term, m.reject) for m in answers] == [(3, term, False)]


def test_a_candidate_takes_the_entries_of_the_leader_it_concedes_to() -> None:
    """Figure 2, rules for servers, candidates 3: nothing of that append has to be sent again."""
    driven = Driven(terms=[1], **PLAIN)
    driven.campaign()
    answers = driven.step(APPEND, 2, index=1, log_term=1, entries=[entry(2, 2)], commit=2)
    assert [(m.index, m.reject) for m in answers] == [(2, False)]
    assert identities(driven.committed) == [(1, 1), (2, 2)]


def test_a_candidate_does_not_concede_to_an_older_term() -> None:
    """Paper, section 5.2: a leader whose term is over is refused; the election goes on."""
    driven = Driven(terms=[1, 2], **PLAIN)
    driven.campaign()
    driven.step(APPEND, 3, term=2, index=2, log_term=2, entries=[entry(2, 3)])
    assert (driven.node.role, driven.node.term, driven.node.last_index) == (Role.CANDIDATE, 3, 2)


# ---- candidates 4


def test_an_election_without_a_result_is_followed_by_another() -> None:
    """Figure 2, rules for servers, candidates 4: a split vote ends with the timeout."""
    driven = Driven(terms=[1, 2], **PLAIN)
    seen = []
    for _ in range(3):
        requests = of_kind(driven.tick(driven.node._raft.election_timeout), VOTE)
        seen.append([(m.to, m.term) for m in requests])
        driven.step(VOTE_RESPONSE, 2, reject=True)
    assert seen == [[(2, term), (3, term)] for term in (3, 4, 5)]
