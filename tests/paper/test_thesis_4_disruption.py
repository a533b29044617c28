"""Chapter 4.2.3 of the thesis, disruptive servers, and chapter 9.6, the pre-vote.

Both are on by default: check-quorum makes voters ignore candidates while their leader lives,
pre-vote keeps a server that cannot win from raising terms.
"""

from __future__ import annotations

from typing import Any

import pytest

from rafter_core import Change, ChangeKind, ConfChange, Membership, Message, MessageKind, Role
from tests.core.support import Driven, of_kind
from tests.paper.support import PLAIN, TIMEOUT_TICKS, Cluster, group

PRE_VOTE = MessageKind.PRE_VOTE
PRE_VOTE_RESPONSE = MessageKind.PRE_VOTE_RESPONSE
VOTE = MessageKind.VOTE


def cluster_with_removed_node(**config: Any) -> Cluster:
    """Return a group led by node 1, of which node 4 was removed and does not know it."""
    cluster = Cluster(count=4, **config)
    cluster.campaign(1)
    # Node 4 has the entry, so its log is as good as any, but not its commitment.
    cluster.is_lost = lambda m: m.to == 4 and m.commit > 1
    cluster.change(1, ConfChange((Change(ChangeKind.REMOVE_NODE, 4),)))
    cluster.heal()
    assert cluster[1].node.membership == group(3)
    assert cluster[4].node.membership == group(4)
    assert cluster[4].log == cluster[1].log
    return cluster


def pass_time(cluster: Cluster, count: int) -> list[int]:
    """Let time pass for everybody; return who led after each tick."""
    leaders = []
    for _ in range(count):
        cluster.tick_all()
        leaders += cluster.leaders()
    return leaders


# ---- disruptive servers, 4.2.3


def test_a_removed_server_disrupts_the_plain_algorithm() -> None:
    """Thesis 4.2.3: it hears no heartbeats any more, campaigns, and unseats the leader."""
    cluster = cluster_with_removed_node(**PLAIN)
    pass_time(cluster, 6 * TIMEOUT_TICKS)
    assert cluster[1].node.term > 1


def test_a_pre_vote_alone_does_not_keep_a_removed_server_quiet() -> None:
    """Thesis 4.2.3: its log is as good as the others', so comparing logs is not enough."""
    cluster = cluster_with_removed_node(pre_vote=True, check_quorum=False)
    pass_time(cluster, 6 * TIMEOUT_TICKS)
    assert cluster[1].node.term > 1


@pytest.mark.parametrize("pre_vote", [True, False])
def test_a_removed_server_disrupts_nobody(pre_vote: bool) -> None:
    """Thesis 4.2.3: voters that hear their leader ignore its requests; nothing happens."""
    cluster = cluster_with_removed_node(pre_vote=pre_vote, check_quorum=True)
    assert pass_time(cluster, 6 * TIMEOUT_TICKS) == [1] * (6 * TIMEOUT_TICKS)
    assert [cluster[node].node.term for node in (1, 2, 3)] == [1, 1, 1]
    assert cluster.propose(1, b"x")


@pytest.mark.parametrize("kind", [VOTE, PRE_VOTE], ids=lambda kind: kind.name)
@pytest.mark.parametrize("ticks", [0, 1, TIMEOUT_TICKS - 1, TIMEOUT_TICKS])
def test_a_voter_is_loyal_for_the_shortest_election_timeout(kind: MessageKind, ticks: int) -> None:
    """Thesis 4.2.3: within that time after it heard the leader it neither votes nor moves on."""
    driven = Driven(election_timeout_ticks=TIMEOUT_TICKS)
    driven.step(MessageKind.HEARTBEAT, 2, term=1)
    # A seed with which the node itself does not campaign yet.
    assert driven.node._raft.election_timeout > TIMEOUT_TICKS
    driven.tick(ticks)
    answers = driven.step(kind, 3, term=2)
    if ticks < TIMEOUT_TICKS:
        assert answers == []
        assert (driven.node.term, driven.node.leader) == (1, 2)
    else:
        assert [(m.to, m.term, m.reject) for m in answers] == [(3, 2, False)]


@pytest.mark.parametrize("kind", [VOTE, PRE_VOTE], ids=lambda kind: kind.name)
def test_a_leader_that_hears_a_quorum_ignores_candidates(kind: MessageKind) -> None:
    """Thesis 4.2.3: it is the leader that it would unseat."""
    driven = Driven()
    driven.lead_replicating()
    for _ in range(3 * TIMEOUT_TICKS):
        driven.tick()
        driven.step(MessageKind.HEARTBEAT_RESPONSE, 2)
        assert driven.step(kind, 3, term=9, index=99, log_term=8) == []
    assert (driven.node.role, driven.node.term) == (Role.LEADER, 1)


def test_a_voter_that_knows_no_leader_votes() -> None:
    """Thesis 4.2.3: the rule protects a leader that is heard, so it costs no first election."""
    driven = Driven()
    answers = driven.step(VOTE, 3, term=1)
    assert [(m.to, m.reject) for m in answers] == [(3, False)]


def test_a_crashed_leader_is_not_protected_for_long() -> None:
    """Thesis 4.2.3: it does not affect normal elections, whose candidates have waited as long."""
    cluster = Cluster(count=3)
    cluster.campaign(1)
    cluster.tick_all(5)
    cluster.crash(1)
    cluster.tick_all(2 * TIMEOUT_TICKS)
    assert cluster.leaders() in ([2], [3])
    assert cluster[2].node.term == 2


def test_a_candidate_of_a_higher_term_is_freed_by_the_answer_to_an_append() -> None:
    """Thesis 4.2.3, its price: voters ignore a server that has raised its term in isolation.

    It refuses the leader's messages, and they ignore its requests. Its answers carry its term,
    which makes the leader step down once, and all go on in a common term.
    """
    cluster = Cluster(count=3, pre_vote=False)
    cluster.campaign(1)
    cluster.isolate(3)
    cluster.campaign(3)
    cluster.campaign(3)
    cluster.heal()
    cluster.campaign(3)
    assert cluster.leaders() == [1]
    assert cluster[3].node.term == 4
    cluster.tick(1)
    assert cluster.leaders() == []
    cluster.tick_all(3 * TIMEOUT_TICKS)
    assert len(cluster.leaders()) == 1
    assert len({host.node.term for host in cluster.hosts.values()}) == 1


# ---- the pre-vote, 9.6


def test_a_pre_vote_asks_about_the_next_term_and_raises_none() -> None:
    """Thesis 9.6: the request names the term that would follow; the node stays in its own."""
    driven = Driven(terms=[1, 3])
    driven.node.campaign()
    assert driven.pump() == [
        Message(kind=PRE_VOTE, to=to, sender=1, term=4, index=2, log_term=3) for to in (2, 3)
    ]
    assert (driven.node.role, driven.node.term, driven.node.vote) == (Role.PRE_CANDIDATE, 3, 0)


@pytest.mark.parametrize(
    ("log_term", "index", "reject"), [(3, 2, False), (4, 1, False), (3, 1, True), (2, 9, True)]
)
def test_a_pre_vote_is_granted_to_whom_a_vote_would_be(
    log_term: int, index: int, reject: bool
) -> None:
    """Thesis 9.6: if no leader is heard and the candidate's log is good enough.

    Nothing changes here by that: no term, no vote, no timer.
    """
    driven = Driven(terms=[1, 3])
    driven.tick(5)
    elapsed = driven.node._raft.election_elapsed
    answers = driven.step(PRE_VOTE, 2, term=4, log_term=log_term, index=index)
    term = 3 if reject else 4
    assert answers == [Message(kind=PRE_VOTE_RESPONSE, to=2, sender=1, term=term, reject=reject)]
    assert (driven.node.term, driven.node.vote) == (3, 0)
    assert driven.node._raft.election_elapsed == elapsed == 5


def test_any_number_of_pre_votes_may_be_granted() -> None:
    """Thesis 9.6: it is no vote, so several may be told that they could win."""
    driven = Driven()
    answers = [driven.step(PRE_VOTE, sender, term=1)[0] for sender in (2, 3, 2)]
    assert [(m.to, m.reject) for m in answers] == [(2, False), (3, False), (2, False)]


def test_a_majority_of_pre_votes_starts_the_real_election() -> None:
    """Thesis 9.6: only then is the term raised, and the vote cast."""
    driven = Driven(membership=group(5))
    driven.node.campaign()
    driven.pump()
    assert driven.step(PRE_VOTE_RESPONSE, 2, term=1) == []
    assert driven.node.term == 0
    messages = driven.step(PRE_VOTE_RESPONSE, 3, term=1)
    assert [(m.kind, m.to, m.term) for m in messages] == [(VOTE, to, 1) for to in (2, 3, 4, 5)]
    assert (driven.node.role, driven.node.term, driven.node.vote) == (Role.CANDIDATE, 1, 1)


def test_a_lost_pre_vote_leaves_everything_as_it_was() -> None:
    """Thesis 9.6: the node follows on in its own term."""
    driven = Driven(terms=[2])
    driven.node.campaign()
    driven.pump()
    for voter in (2, 3):
        driven.step(PRE_VOTE_RESPONSE, voter, term=2, reject=True)
    assert (driven.node.role, driven.node.term, driven.node.vote) == (Role.FOLLOWER, 2, 0)


def test_pre_votes_do_not_count_in_the_real_election() -> None:
    """Thesis 9.6: a late answer to the question is no vote."""
    driven = Driven(membership=group(5))
    driven.campaign()
    assert driven.node.role is Role.CANDIDATE
    for voter in (2, 3, 4, 5):
        driven.step(PRE_VOTE_RESPONSE, voter, term=1)
    assert driven.node.role is Role.CANDIDATE


@pytest.mark.parametrize("pre_vote", [True, False])
def test_a_server_that_rejoins_disturbs_nobody(pre_vote: bool) -> None:
    """Thesis 9.6: with pre-votes it comes back in the term it left; without, terms must rise."""
    cluster = Cluster(count=3, pre_vote=pre_vote, check_quorum=False)
    cluster.campaign(1)
    cluster.isolate(3)
    cluster.tick(3, 20 * TIMEOUT_TICKS)
    assert (cluster[3].node.term == 1) is pre_vote
    cluster.heal()
    cluster.tick_all(2 * TIMEOUT_TICKS)
    assert (cluster[1].node.term == 1) is pre_vote
    assert (cluster.leaders() == [1] and cluster[1].node.term == 1) is pre_vote


def test_a_pre_candidate_that_hears_the_leader_follows_it() -> None:
    """Thesis 9.6: its term never left the group's, so the next heartbeat brings it back."""
    driven = Driven()
    driven.step(MessageKind.HEARTBEAT, 2, term=3)
    driven.node.campaign()
    driven.pump()
    assert driven.node.role is Role.PRE_CANDIDATE
    driven.step(MessageKind.HEARTBEAT, 2, term=3)
    assert (driven.node.role, driven.node.leader) == (Role.FOLLOWER, 2)


def test_the_pre_candidate_forgets_its_leader() -> None:
    """Thesis 9.6 and 4.2.3: or it would ignore other pre-candidates, and nobody could win."""
    cluster = Cluster(count=3)
    cluster.campaign(1)
    cluster.crash(1)
    cluster.lose(PRE_VOTE)
    cluster.tick(2, TIMEOUT_TICKS)
    cluster.tick(3, TIMEOUT_TICKS)
    cluster.campaign(2)
    cluster.campaign(3)
    cluster.heal()
    assert [cluster[node].node.leader for node in (2, 3)] == [0, 0]
    cluster.tick(2, 2 * TIMEOUT_TICKS)
    assert cluster.leaders() == [2]


def test_a_learner_is_not_asked() -> None:
    """Thesis 9.6 and 4.2.1: those who do not vote are not asked whether they would."""
    driven = Driven(membership=Membership((1, 2, 3), learners=(4,)))
    driven.node.campaign()
    assert [m.to for m in of_kind(driven.pump(), PRE_VOTE)] == [2, 3]
