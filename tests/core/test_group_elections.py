"""Elections among several nodes: who wins, what the loser is left with, and that somebody wins."""

from __future__ import annotations

from typing import Any

import pytest

from rafter_core import Change, ChangeKind, ConfChange, HardState, Membership, MessageKind, Role
from tests.core.network import Host, Network
from tests.core.support import both_modes, with_and_without_pre_vote

FOLLOWER, CANDIDATE, LEADER, PRE_CANDIDATE = Role
Logs = tuple[tuple[int, ...] | None, ...]


def group(*logs: tuple[int, ...] | None, **config: Any) -> Network:
    """Return nodes with these terms in their logs; None stands for a node that nobody reaches."""
    membership = Membership(tuple(range(1, len(logs) + 1)))
    network = Network(
        *(Host(node, membership, terms=log or (), **config) for node, log in enumerate(logs, 1))
    )
    for node, log in enumerate(logs, 1):
        if log is None:
            network.isolate(node)
    return network


@both_modes
@with_and_without_pre_vote
@pytest.mark.parametrize(
    ("logs", "role", "term"),
    [
        (((), (), ()), LEADER, 1),
        (((), (), None), LEADER, 1),
        (((), None, None), CANDIDATE, 1),
        (((), None, None, ()), CANDIDATE, 1),
        (((), None, None, (), ()), LEADER, 1),
        # Three are ahead.
        (((), (1,), (1,), (1, 1), ()), FOLLOWER, 1),
        # Two are ahead, two are not: enough.
        (((1,), (1, 1), (1, 1), (1,), ()), LEADER, 2),
        # Everybody else is behind.
        (((1,), (), (1,), (), ()), LEADER, 2),
    ],
)
def test_a_majority_of_reachable_nodes_that_are_not_ahead_elects(
    logs: Logs, role: Role, term: int, pre_vote: bool, async_storage_writes: bool
) -> None:
    network = group(*logs, pre_vote=pre_vote, async_storage_writes=async_storage_writes)
    network.campaign(1)
    if pre_vote and role is CANDIDATE:
        # It never got as far as a real election.
        role, term = PRE_CANDIDATE, term - 1
    assert (network[1].node.role, network[1].node.term) == (role, term)


@with_and_without_pre_vote
def test_each_node_can_be_elected_in_turn(pre_vote: bool) -> None:
    network = Network(count=3, pre_vote=pre_vote, check_quorum=False)
    for term, candidate in enumerate((1, 2, 3, 1), 1):
        network.campaign(candidate)
        assert network.leaders() == [candidate]
        assert [host.node.term for host in network.hosts.values()] == [term] * 3
        assert [host.node.leader for host in network.hosts.values()] == [candidate] * 3


@both_modes
@with_and_without_pre_vote
def test_a_leader_overwrites_uncommitted_entries_of_higher_terms(
    pre_vote: bool, async_storage_writes: bool
) -> None:
    """1, 2 led term 1, 3 led term 2 and reached nobody; 4 and 5 voted for 3 and hold nothing."""
    voters = Membership((1, 2, 3, 4, 5))
    config: dict[str, Any] = {"pre_vote": pre_vote, "async_storage_writes": async_storage_writes}
    network = Network(
        Host(1, voters, terms=(1,), **config),
        Host(2, voters, terms=(1,), **config),
        Host(3, voters, terms=(2,), **config),
        Host(4, voters, hard_state=HardState(2, 3, 0), **config),
        Host(5, voters, hard_state=HardState(2, 3, 0), **config),
    )
    # The first try fails: 3, 4 and 5 know term 2. But 1 learns it.
    network.campaign(1)
    assert (network[1].node.role, network[1].node.term) == (FOLLOWER, 2)
    network.campaign(1)
    assert (network[1].node.role, network[1].node.term) == (LEADER, 3)
    for host in network.hosts.values():
        assert host.log == [(1, 1, b""), (3, 2, b"")]


@both_modes
def test_without_pre_vote_a_duel_raises_the_term_of_the_leader(async_storage_writes: bool) -> None:
    network = Network(
        count=3, pre_vote=False, check_quorum=False, async_storage_writes=async_storage_writes
    )
    network.cut(1, 3)
    network.campaign(1)
    network.campaign(3)
    # 1 wins with the vote of 2; 3 was refused by 2 and does not hear of 1.
    assert network.roles() == [LEADER, FOLLOWER, CANDIDATE]
    network.heal()
    network.campaign(3)
    # Its log lacks the no-op of term 1, so it loses; but its term unseated the leader.
    assert network.roles() == [FOLLOWER, FOLLOWER, FOLLOWER]
    assert [host.node.term for host in network.hosts.values()] == [2, 2, 2]
    assert [len(host.log) for host in network.hosts.values()] == [1, 1, 0]


def test_with_pre_vote_the_loser_of_a_duel_disturbs_nobody() -> None:
    network = Network(count=3, check_quorum=False)
    network.cut(1, 3)
    network.campaign(1)
    network.campaign(3)
    # 3 reached only 2, which holds the no-op already and refuses, in its term.
    assert network.roles() == [LEADER, FOLLOWER, FOLLOWER]
    assert (network[3].node.term, network[3].node.leader) == (1, 0)
    network.heal()
    network.campaign(3)
    assert network.roles() == [LEADER, FOLLOWER, FOLLOWER]
    assert [host.node.term for host in network.hosts.values()] == [1, 1, 1]


@with_and_without_pre_vote
def test_a_candidate_concedes_to_a_leader_and_adopts_its_log(pre_vote: bool) -> None:
    network = Network(count=3, pre_vote=pre_vote, check_quorum=False)
    network.isolate(1)
    network.campaign(1)
    network.campaign(3)
    assert network.leaders() == [3]
    assert network[1].node.role in (CANDIDATE, PRE_CANDIDATE)
    network.heal()
    # The heartbeat finds the candidate, the next append brings it up to date.
    network.tick(3)
    network.propose(3, b"force follower")
    assert network.roles() == [FOLLOWER, FOLLOWER, LEADER]
    assert (network[1].node.term, network[1].node.leader) == (1, 3)
    assert network[1].log == network[3].log == [(1, 1, b""), (1, 2, b"force follower")]


@both_modes
@with_and_without_pre_vote
def test_one_node_elects_itself(pre_vote: bool, async_storage_writes: bool) -> None:
    network = Network(count=1, pre_vote=pre_vote, async_storage_writes=async_storage_writes)
    network.campaign(1)
    assert (network[1].node.role, network[1].node.term, network[1].node.commit) == (LEADER, 1, 1)


@pytest.mark.parametrize("kind", [MessageKind.HEARTBEAT, MessageKind.APPEND])
def test_a_lagging_candidate_takes_the_term_of_the_leader_it_hears(kind: MessageKind) -> None:
    network = Network(count=3, pre_vote=False, check_quorum=False)
    network.campaign(1)
    network.isolate(3)
    network.campaign(2)
    network.campaign(1)
    network.campaign(3)
    assert (network[3].node.role, network[3].node.term) == (CANDIDATE, 2)
    assert network[1].node.term == 3
    network.heal()
    other = {MessageKind.HEARTBEAT: MessageKind.APPEND, MessageKind.APPEND: MessageKind.HEARTBEAT}
    network.lose(other[kind])
    if kind is MessageKind.HEARTBEAT:
        network.tick(1)
    else:
        network[1].node.report_unreachable(3)
        network[1].node._raft.tracker.progress[3].flow_paused = False
        network.propose(1)
    assert (network[3].node.role, network[3].node.term, network[3].node.leader) == (FOLLOWER, 3, 1)


def test_pre_candidates_that_split_the_vote_elect_in_the_next_round() -> None:
    network = Network(count=3)
    network.campaign(1)
    network.isolate(1)
    for node in (2, 3):
        network[node].node.campaign()
    network.run()
    # Both pre-votes succeeded, and each voted for itself.
    assert network.roles()[1:] == [CANDIDATE, CANDIDATE]
    assert [network[node].node.term for node in (2, 3)] == [2, 2]
    network.campaign(2)
    assert network.roles()[1:] == [LEADER, FOLLOWER]
    assert [network[node].node.term for node in (2, 3)] == [3, 3]


@pytest.mark.parametrize("check_quorum", [False, True])
def test_a_node_with_a_smaller_term_does_not_block_elections(check_quorum: bool) -> None:
    network = Network(count=3, check_quorum=check_quorum)
    network.campaign(1)
    # 3 is away while the others go on: it knows term 1 only.
    network.isolate(3)
    network.tick(3, 20)
    assert (network[3].node.role, network[3].node.term) == (PRE_CANDIDATE, 1)
    network.propose(1)
    network[1].node.transfer_leadership(2)
    network.run()
    assert (network[2].node.role, network[2].node.term) == (LEADER, 2)
    # Now the leader is away, and 3 is back.
    network.heal()
    network.isolate(2)
    network.campaign(3)
    assert (network[3].node.role, network[3].node.term) == (FOLLOWER, 2)
    network.campaign(1)
    assert network.roles()[0] is LEADER
    assert network[1].node.term == network[3].node.term == 3


def upgraded_group(*, check_quorum: bool) -> Network:
    """1 leads 2 in term 1; 3 is at term 3 with a shorter log, and has just learned of pre-votes."""
    voters = Membership((1, 2, 3))
    network = Network(
        *(
            Host(node, voters, pre_vote=node != 3, check_quorum=check_quorum, heartbeat_ticks=2)
            for node in (1, 2, 3)
        )
    )
    network.campaign(1)
    network.isolate(3)
    network.propose(1)
    network.campaign(3)
    network.campaign(3)
    network[3].restart(pre_vote=True)
    assert [host.node.term for host in network.hosts.values()] == [1, 1, 3]
    network.heal()
    return network


@pytest.mark.parametrize("check_quorum", [False, True])
def test_a_group_that_turned_on_pre_votes_elects_without_its_leader(check_quorum: bool) -> None:
    """Higher term and shorter log against lower term and longer log (etcd#8501)."""
    network = upgraded_group(check_quorum=check_quorum)
    network.isolate(1)
    network.tick(2, 10)
    for _ in range(2):
        network.campaign(3)
        network.campaign(2)
    assert network.roles()[1:] == [LEADER, FOLLOWER]
    assert network[2].node.term == network[3].node.term == 4
    assert network[3].log == network[2].log


def test_a_pre_candidate_stuck_at_a_higher_term_is_freed_by_the_leaders_heartbeat() -> None:
    network = upgraded_group(check_quorum=False)
    network.campaign(3)
    network.campaign(3)
    # Its pre-votes are refused for the shorter log, in a term that it does not listen to any more.
    assert network.roles() == [LEADER, FOLLOWER, PRE_CANDIDATE]
    assert network[3].node.term == 3
    # The heartbeat is answered by an empty append response of the higher term: 1 gives way.
    network.tick(1, 2)
    assert network[1].node.role is FOLLOWER
    assert network[1].node.term == 3
    network.campaign(1)
    assert network.roles() == [LEADER, FOLLOWER, FOLLOWER]
    assert [host.node.term for host in network.hosts.values()] == [4, 4, 4]


def test_a_learner_campaigns_once_it_is_promoted() -> None:
    membership = Membership((1,), learners=(2,))
    network = Network(Host(1, membership), Host(2, membership))
    network.campaign(1)
    network.tick(2, 40)
    assert network.leaders() == [1]
    network.change(1, ConfChange((Change(ChangeKind.ADD_VOTER, 2),)))
    assert network[2].node.membership == Membership((1, 2))
    network.tick(2, 19)
    network.campaign(2)
    assert network.leaders() == [1]  # The leader is alive and does not vote.
    network.tick(1, 9)
    network.cut(1, 2)
    network.tick(1, 20)
    network.heal()
    network.campaign(2)
    assert network.roles() == [FOLLOWER, LEADER]


@pytest.mark.parametrize("is_v1", [False, True])
def test_a_committed_change_that_is_not_applied_blocks_elections(is_v1: bool) -> None:
    network = Network(count=3)
    network.campaign(1)
    network[2].is_applying = False
    network.change(1, ConfChange((Change(ChangeKind.REMOVE_NODE, 3),), is_v1=is_v1))
    network.tick(1)
    assert network[2].node.commit == network[1].node.commit == 2
    assert network[2].node.membership.voters == (1, 2, 3)
    # Neither its own timer nor the leader's order makes it campaign.
    for _ in range(20):
        network[2].node.tick()
        network.send(*network[2].pump())
    assert (network[2].node.role, network[2].node.term) == (FOLLOWER, 1)
    network[1].node.transfer_leadership(2)
    network.run()
    assert network.leaders() == [1]
    network.tick(1, 10)
    network[2].apply_withheld()
    network[1].node.transfer_leadership(2)
    network.run()
    assert network[2].node.is_leader
    assert network[2].node.term == 2
