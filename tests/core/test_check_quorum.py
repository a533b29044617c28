"""A leader that hears no quorum steps down; followers keep to a leader that they hear."""

from __future__ import annotations

from itertools import combinations

import pytest

from rafter_core import Change, ChangeKind, ConfChange, Membership, Message, MessageKind, Role
from tests.core.network import Host, Network
from tests.core.support import Driven, both_modes, with_and_without_pre_vote

FOLLOWER, CANDIDATE, LEADER, PRE_CANDIDATE = Role
TIMEOUT = 10


def timed(*timeouts: int, **config: bool) -> Network:
    """Return nodes whose next election timeouts are these."""
    network = Network(count=len(timeouts), election_timeout_ticks=TIMEOUT, **config)
    for node, timeout in enumerate(timeouts, 1):
        network[node].node._raft.election_timeout = timeout
    return network


def expire(network: Network, node: int) -> None:
    """Let just so much time pass for a node that its election timer runs out."""
    raft = network[node].node._raft
    network.tick(node, max(0, raft.election_timeout - raft.election_elapsed))


def test_a_leader_that_hears_a_quorum_stays() -> None:
    driven = Driven(election_timeout_ticks=5)
    driven.lead_replicating()
    for _ in range(20):
        driven.step(MessageKind.HEARTBEAT_RESPONSE, 2)
        driven.tick()
    assert driven.node.is_leader


def test_a_leader_that_hears_nobody_stays_for_one_period_and_leaves_after_the_second() -> None:
    driven = Driven(election_timeout_ticks=5)
    driven.lead_replicating()
    roles = []
    for _ in range(10):
        driven.tick()
        roles.append(driven.node.role)
    # What was heard before counts for the first period.
    assert roles == [LEADER] * 9 + [FOLLOWER]
    assert (driven.node.term, driven.node.leader, driven.node.vote) == (1, 0, 1)
    assert "quorum_lost" in driven.event_names()


def test_without_the_check_a_leader_stays_alone() -> None:
    driven = Driven(election_timeout_ticks=5, check_quorum=False)
    driven.lead_replicating()
    driven.tick(50)
    assert driven.node.is_leader


@pytest.mark.parametrize("kind", ["response", "append_response", "refusal"])
def test_any_answer_counts_as_a_sign_of_life(kind: str) -> None:
    driven = Driven(election_timeout_ticks=5)
    driven.lead_replicating()
    for _ in range(4):
        driven.tick(4)
        if kind == "response":
            driven.step(MessageKind.HEARTBEAT_RESPONSE, 3)
        elif kind == "append_response":
            driven.acknowledge(3, 1)
        else:
            driven.step(MessageKind.APPEND_RESPONSE, 3, index=1, reject=True, reject_hint=1)
        driven.tick()
        assert driven.node.is_leader


def test_learners_do_not_make_a_quorum_active() -> None:
    driven = Driven(membership=Membership((1, 2), learners=(3, 4)), election_timeout_ticks=5)
    driven.lead_replicating()
    for _ in range(10):
        driven.tick()
        for learner in (3, 4):
            driven.step(MessageKind.HEARTBEAT_RESPONSE, learner)
    assert driven.node.role is FOLLOWER


def test_in_a_joint_configuration_both_halves_must_be_active() -> None:
    driven = Driven(
        membership=Membership((1, 2, 3), voters_outgoing=(1, 4, 5)), election_timeout_ticks=5
    )
    driven.lead_replicating()
    for _ in range(10):
        driven.tick()
        for node in (2, 3):
            driven.step(MessageKind.HEARTBEAT_RESPONSE, node)
    assert driven.node.role is FOLLOWER


def test_a_new_node_counts_as_active_for_a_while() -> None:
    """Else the first check after adding it could fail before it had a chance to speak."""
    driven = Driven(membership=Membership((1,)), election_timeout_ticks=5)
    driven.node.campaign()
    driven.pump()
    driven.tick(4)
    driven.change(ConfChange((Change(ChangeKind.ADD_VOTER, 2),)))
    assert driven.node.status().progress[2].recent_active
    driven.tick()
    assert driven.node.is_leader
    driven.tick(5)
    assert driven.node.role is FOLLOWER


@both_modes
def test_votes_are_refused_while_the_leader_is_alive(async_storage_writes: bool) -> None:
    network = timed(
        TIMEOUT, TIMEOUT + 1, TIMEOUT + 2, pre_vote=False, async_storage_writes=async_storage_writes
    )
    network.campaign(1)
    assert network.roles() == [LEADER, FOLLOWER, FOLLOWER]
    # 3 heard nothing for a while, 2 did.
    network.cut(1, 3)
    expire(network, 3)
    assert network.roles() == [LEADER, FOLLOWER, CANDIDATE]
    assert network[2].node.term == 1
    # Once 2 has not heard the leader either, it votes. 1 has not heard anybody by then.
    network.cut(1, 2)
    network.tick(2, TIMEOUT)
    network.campaign(3)
    assert network[3].node.is_leader


def test_with_the_check_the_first_election_succeeds() -> None:
    network = timed(TIMEOUT, TIMEOUT + 1, TIMEOUT + 2, pre_vote=False)
    # Nobody leads yet, so nobody is guarded.
    network.campaign(1)
    assert network.roles() == [LEADER, FOLLOWER, FOLLOWER]
    # The leader and 2 have heard nothing for an election timeout.
    network.cut(1, 2)
    network.cut(1, 3)
    network.tick(1, 2 * TIMEOUT)
    network.tick(2, TIMEOUT)
    network.heal()
    network.campaign(3)
    assert network.roles() == [FOLLOWER, FOLLOWER, LEADER]


def test_a_candidate_stuck_at_a_higher_term_is_freed_by_the_leaders_heartbeat() -> None:
    network = Network(count=3, pre_vote=False)
    network.campaign(1)
    network.isolate(1)
    network.campaign(3)
    # 2 has heard the leader: the candidate cannot win, and raises its term.
    assert (network[3].node.role, network[3].node.term) == (CANDIDATE, 2)
    network.campaign(3)
    assert (network[2].node.term, network[3].node.term) == (1, 3)
    network.heal()
    # The heartbeat of the lower term is answered with an empty append response of the higher one.
    network.tick(1)
    assert network[1].node.role is FOLLOWER
    assert network[1].node.term == network[3].node.term == 3
    network.campaign(3)
    assert network.leaders() in ([], [3])
    network.tick_all(3 * TIMEOUT)
    assert len(network.leaders()) == 1


def test_a_voter_that_does_not_know_of_its_promotion_follows_under_the_check() -> None:
    """2 is no voter in its own view, and must not block those that count it as one."""
    network = Network(
        Host(1, Membership((1, 2)), pre_vote=False), Host(2, Membership((1,)), pre_vote=False)
    )
    network.tick(2, 3 * TIMEOUT)
    assert network[2].node.role is FOLLOWER
    network.campaign(1)
    assert network.roles() == [LEADER, FOLLOWER]
    assert network[2].node.leader == 1


def test_a_follower_that_comes_back_with_a_higher_term_disturbs_the_group_without_pre_vote() -> (
    None
):
    network = timed(TIMEOUT + 2, TIMEOUT + 2, TIMEOUT + 1, pre_vote=False)
    network.campaign(1)
    # 3 misses the heartbeats and times out, at the wrong moment.
    network.lose(MessageKind.HEARTBEAT)
    expire(network, 3)
    assert (network[3].node.role, network[3].node.term) == (CANDIDATE, 2)
    # Its request was ignored by the others: they are still in term 1.
    assert [network[node].node.term for node in (1, 2)] == [1, 1]
    network.heal()
    network.tick(1)
    assert [network[node].node.role for node in (1, 2)] == [FOLLOWER, FOLLOWER]
    assert network[1].node.term == 2


def test_a_follower_that_comes_back_disturbs_nobody_with_pre_vote() -> None:
    network = timed(TIMEOUT + 2, TIMEOUT + 2, TIMEOUT + 1)
    network.campaign(1)
    network.lose(MessageKind.HEARTBEAT)
    expire(network, 3)
    assert (network[3].node.role, network[3].node.term) == (PRE_CANDIDATE, 1)
    network.heal()
    network.tick(1)
    assert network.roles() == [LEADER, FOLLOWER, FOLLOWER]
    assert [host.node.term for host in network.hosts.values()] == [1, 1, 1]


def test_pre_candidates_elect_after_the_leader_is_gone_under_the_check() -> None:
    """The stale leader id must not make the remaining nodes refuse each other (etcd#8334)."""
    network = Network(count=3)
    network.campaign(1)
    network.isolate(1)
    network.tick(2, TIMEOUT)
    network.campaign(3)
    assert (network[3].node.role, network[2].node.leader) == (LEADER, 3)
    network = Network(count=3)
    network.campaign(1)
    network.isolate(1)
    # Even without waiting: a pre-candidate forgets its leader.
    for node in (2, 3):
        network[node].node.campaign()
    network.run()
    network.campaign(2)
    network.campaign(3)
    assert len([node for node in network.leaders() if node != 1]) == 1


@with_and_without_pre_vote
@pytest.mark.parametrize("check_quorum", [False, True])
def test_a_node_that_was_cut_off_is_taken_back(pre_vote: bool, check_quorum: bool) -> None:
    network = Network(count=3, pre_vote=pre_vote, check_quorum=check_quorum)
    network.campaign(1)
    network.isolate(3)
    network.tick_all(4 * TIMEOUT)
    assert network[1].node.is_leader
    term = network[1].node.term
    network.heal()
    network.tick_all(4 * TIMEOUT)
    (leader,) = network.leaders()
    assert [host.node.leader for host in network.hosts.values()] == [leader] * 3
    assert network.propose(leader, b"x")
    assert [host.payloads for host in network.hosts.values()] == [[b"x"]] * 3
    if pre_vote:
        assert (leader, network[1].node.term) == (1, term)


def test_a_removed_node_with_a_high_term_unseats_nobody() -> None:
    """3 was removed while it was cut off, and does not know it (logcabin#56)."""
    network = Network(count=3)
    network.campaign(1)
    network.isolate(3)
    network.change(1, ConfChange((Change(ChangeKind.REMOVE_NODE, 3),)))
    assert network[1].node.membership.voters == (1, 2)
    network[3].restart(pre_vote=False)
    network.tick(3, 10 * TIMEOUT)
    assert network[3].node.term > 3
    network.heal()
    for _ in range(5 * TIMEOUT):
        network.tick_all()
    assert network.leaders() == [1]
    assert network[1].node.term == 1


LINKS = {count: list(combinations(range(1, count + 1), 2)) for count in (3, 5)}
BROKEN = [
    (count, link, one_way)
    for count, links in LINKS.items()
    for pair in links
    for link, one_way in ((pair, False), (pair, True), (pair[::-1], True))
]


@pytest.mark.parametrize(("count", "link", "one_way"), BROKEN)
def test_with_one_broken_link_a_leader_emerges_and_stays(
    count: int, link: tuple[int, int], one_way: bool
) -> None:
    """Cloudflare 2020: a leader that not everybody hears must not be unseated again and again."""
    network = Network(count=count)
    network.campaign(1)
    network.cut(*link, one_way=one_way)
    network.tick_all(6 * TIMEOUT)
    working = [node for node in network.leaders() if is_connected(network, node)]
    assert len(working) == 1
    (leader,) = working
    term = network[leader].node.term
    network.tick_all(10 * TIMEOUT)
    assert network[leader].node.is_leader
    assert network[leader].node.term == term
    assert network.propose(leader, b"x")
    assert network[leader].payloads == [b"x"]


def is_connected(network: Network, leader: int) -> bool:
    """Return whether a node exchanges messages with a majority."""
    count = sum(
        (leader, node) not in network.cut_links and (node, leader) not in network.cut_links
        for node in network.hosts
    )
    return count > len(network.hosts) // 2


def test_a_leader_that_is_heard_but_hears_nobody_gives_way() -> None:
    """All links to it are broken, all from it work: the followers must not wait forever."""
    network = Network(count=3)
    network.campaign(1)
    for node in (2, 3):
        network.cut(node, 1, one_way=True)
    network.tick_all(8 * TIMEOUT)
    (leader,) = network.leaders()
    assert leader in (2, 3)
    assert network.propose(leader, b"x")


def test_a_message_of_a_guarded_election_changes_no_timer() -> None:
    driven = Driven(pre_vote=False)
    driven.step(MessageKind.HEARTBEAT, 2, term=1)
    driven.tick(5)
    before = driven.node.status()
    driven.node.step(Message(kind=MessageKind.VOTE, to=1, sender=3, term=9))
    assert driven.node.status() == before
    assert driven.node._raft.election_elapsed == 5
    assert not driven.node.has_ready()
