"""Chapter 4.3 of the thesis, arbitrary changes through joint consensus.

The core does this etcd's way: the joint configuration is in force once its entry is applied, so the
entry itself is committed by the old majority alone; from then on both must agree.
"""

from __future__ import annotations

import pytest

from rafter_core import (
    Change,
    ChangeKind,
    ConfChange,
    EntryKind,
    Membership,
    MessageKind,
    Role,
    Transition,
)
from tests.core.network import Host
from tests.core.support import Driven, of_kind
from tests.paper.support import TIMEOUT_TICKS, Cluster, group

OLD = (1, 2, 3)
NEW = (1, 4, 5)
JOINT = Membership(NEW, OLD)


def swap(*removed: int, added: tuple[int, ...], transition: Transition) -> ConfChange:
    """Return the change that removes and adds these voters at once."""
    removals = [Change(ChangeKind.REMOVE_NODE, node) for node in removed]
    additions = [Change(ChangeKind.ADD_VOTER, node) for node in added]
    return ConfChange((*removals, *additions), transition)


def cluster_of_five() -> Cluster:
    """Return a group of 1 to 3, led by 1, and the empty servers 4 and 5 beside it."""
    cluster = Cluster(*[Host(node, group(3)) for node in range(1, 6)])
    cluster.campaign(1)
    return cluster


TO_NEW = swap(2, 3, added=(4, 5), transition=Transition.AUTO)
TO_NEW_EXPLICITLY = swap(2, 3, added=(4, 5), transition=Transition.JOINT_EXPLICIT)
LEAVE = ConfChange()


# ---- what the joint configuration is


@pytest.mark.parametrize(
    ("acknowledging", "is_committed"),
    [
        ([], False),
        ([2], False),
        ([2, 3], False),
        ([4], False),
        ([4, 5], False),
        ([2, 4], True),
        ([3, 5], True),
        ([2, 3, 4, 5], True),
    ],
)
def test_entries_need_a_majority_of_both(acknowledging: list[int], is_committed: bool) -> None:
    """Thesis 4.3: agreement needs separate majorities of the old and of the new configuration."""
    driven = Driven(membership=JOINT)
    driven.campaign()
    for voter in (2, 3, 4, 5):
        driven.step(MessageKind.PRE_VOTE_RESPONSE, voter, term=1)
    for voter in (2, 4):
        driven.step(MessageKind.VOTE_RESPONSE, voter, term=1)
    assert driven.node.is_leader
    for follower in acknowledging:
        driven.acknowledge(follower, 1)
    assert (driven.node.commit == 1) is is_committed


@pytest.mark.parametrize(
    ("granting", "refusing", "role"),
    [
        ([2, 4], [], Role.LEADER),
        ([3, 5], [], Role.LEADER),
        ([2, 3], [], Role.CANDIDATE),
        ([4, 5], [], Role.CANDIDATE),
        ([2, 3, 4], [], Role.LEADER),
        ([2, 3], [4, 5], Role.FOLLOWER),
        ([4, 5], [2, 3], Role.FOLLOWER),
        ([2], [3, 4], Role.CANDIDATE),
    ],
)
def test_an_election_needs_a_majority_of_both(
    granting: list[int], refusing: list[int], role: Role
) -> None:
    """Thesis 4.3: and it is lost as soon as one of them is."""
    driven = Driven(membership=JOINT, pre_vote=False)
    assert [m.to for m in driven.campaign()] == [2, 3, 4, 5]
    for voter in granting:
        driven.step(MessageKind.VOTE_RESPONSE, voter, term=1)
    for voter in refusing:
        driven.step(MessageKind.VOTE_RESPONSE, voter, term=1, reject=True)
    assert driven.node.role is role


def test_entries_go_to_all_servers_of_both() -> None:
    """Thesis 4.3: the log is replicated to the old and the new servers, each of them once."""
    driven = Driven(membership=JOINT, pre_vote=False)
    driven.campaign()
    driven.step(MessageKind.VOTE_RESPONSE, 2)
    appends = driven.step(MessageKind.VOTE_RESPONSE, 4)
    assert [(m.kind, m.to) for m in appends] == [(MessageKind.APPEND, to) for to in (2, 3, 4, 5)]


@pytest.mark.parametrize("node_id", [1, 2, 4])
def test_a_server_of_either_may_lead(node_id: int) -> None:
    """Thesis 4.3: one of both, one of the old only, one of the new only."""
    driven = Driven(node_id=node_id, membership=JOINT)
    driven.lead()
    assert driven.node.is_leader


def test_a_leader_must_hear_a_quorum_of_both() -> None:
    """Thesis 4.3 and 6.2: or it steps down, since it could not commit anything."""
    driven = Driven(membership=JOINT)
    driven.lead()
    driven.tick(TIMEOUT_TICKS)
    for _ in range(TIMEOUT_TICKS):
        driven.tick()
        for follower in (2, 3):
            if driven.node.is_leader:
                driven.step(MessageKind.HEARTBEAT_RESPONSE, follower)
    assert driven.node.role is Role.FOLLOWER


# ---- the transition


def test_an_arbitrary_change_goes_over_in_two_steps() -> None:
    """Thesis 4.3, figure 4.8: into the joint configuration, and out of it to the new one."""
    cluster = cluster_of_five()
    cluster.propose(1, b"before")
    cluster.change(1, TO_NEW_EXPLICITLY)
    cluster.tick(1, 3)
    assert [host.node.membership for host in cluster.hosts.values()] == [JOINT] * 5
    cluster.change(1, LEAVE)
    assert cluster[1].node.membership == Membership(NEW)
    assert cluster[4].payloads == cluster[5].payloads == [b"before"]
    cluster.propose(1, b"after")
    assert [cluster[node].payloads[-1] for node in NEW] == [b"after"] * 3
    assert cluster[2].payloads == cluster[3].payloads == [b"before"]


def test_an_implicit_transition_is_left_by_the_leader() -> None:
    """Thesis 4.3: once the joint configuration is committed the leader goes on by itself."""
    cluster = cluster_of_five()
    cluster.change(1, TO_NEW)
    cluster.tick(1, 3)
    assert cluster[1].node.membership == Membership(NEW)
    changes = [entry for entry in cluster[1].applied if entry.kind is EntryKind.CONFIG_CHANGE_V2]
    assert [entry.payload == b"" for entry in changes] == [False, True]


def test_the_old_majority_alone_commits_the_joint_entry() -> None:
    """Thesis 4.3, done etcd's way: there the joint entry itself needs both majorities.

    Leaving it needs both here as well, so the new servers must be up by then.
    """
    cluster = cluster_of_five()
    cluster.crash(4, 5)
    cluster.change(1, TO_NEW)
    expected = JOINT._replace(auto_leave=True)
    assert [cluster[node].node.membership for node in OLD] == [expected] * 3
    assert not cluster[1].payloads
    cluster.propose(1, b"x")
    assert cluster[1].payloads == []
    cluster.restart(4, 5)
    cluster.tick(1, 3)
    assert cluster[1].node.membership == Membership(NEW)
    assert [cluster[node].payloads for node in NEW] == [[b"x"]] * 3


def test_the_new_configuration_commits_without_the_old_servers() -> None:
    """Thesis 4.3: after the transition those that left are not needed any more."""
    cluster = cluster_of_five()
    cluster.change(1, TO_NEW)
    cluster.tick(1, 3)
    cluster.crash(2, 3)
    cluster.propose(1, b"x")
    assert [cluster[node].payloads for node in NEW] == [[b"x"]] * 3


def test_no_other_change_begins_in_the_joint_configuration() -> None:
    """Thesis 4.3: the transition under way comes first."""
    cluster = cluster_of_five()
    cluster.change(1, TO_NEW_EXPLICITLY)
    cluster.tick(1, 3)
    cluster.change(1, ConfChange((Change(ChangeKind.ADD_LEARNER, 9),)))
    assert cluster[1].node.membership == JOINT
    assert cluster[1].applied[-1].kind is EntryKind.NORMAL


def test_there_is_nothing_to_leave_outside_of_it() -> None:
    """Thesis 4.3: the empty change means something in a joint configuration only."""
    cluster = cluster_of_five()
    cluster.change(1, LEAVE)
    assert cluster[1].applied[-1].kind is EntryKind.NORMAL
    assert cluster[1].node.membership == group(3)


def test_a_new_leader_completes_the_transition() -> None:
    """Thesis 4.3: whoever leads next is in the joint configuration too, and leaves it."""
    cluster = cluster_of_five()
    cluster.crash(4, 5)
    cluster.change(1, TO_NEW)
    assert cluster[2].node.membership.is_joint
    cluster.restart(4, 5)
    # Node 1 brings the new servers up to date, but never hears that they have the leaving entry.
    cluster.is_lost = lambda m: m.kind is MessageKind.APPEND_RESPONSE and m.index > 2
    cluster.tick(1, 3)
    assert cluster[4].node.membership.is_joint
    assert cluster[4].node.last_index == 3
    cluster.crash(1)
    cluster.heal()
    cluster.tick_all(4 * TIMEOUT_TICKS)
    assert len(cluster.leaders()) == 1
    cluster.restart(1)
    assert cluster[1].node.membership.is_joint
    cluster.tick_all(4 * TIMEOUT_TICKS)
    assert [cluster[node].node.membership for node in NEW] == [Membership(NEW)] * 3


def test_a_leader_that_is_not_in_the_new_configuration_brings_it_through() -> None:
    """Thesis 4.3: it manages servers that it does not belong to, and steps down at the end."""
    cluster = cluster_of_five()
    cluster.change(1, swap(1, added=(4, 5), transition=Transition.JOINT_EXPLICIT))
    cluster.tick(1, 3)
    assert cluster.leaders() == [1]
    assert cluster[1].node.membership == Membership((2, 3, 4, 5), OLD)
    cluster.change(1, LEAVE)
    assert cluster[1].node.role is Role.FOLLOWER
    assert cluster[2].node.membership == Membership((2, 3, 4, 5))
    cluster.tick_all(3 * TIMEOUT_TICKS)
    assert len(cluster.leaders()) == 1
    assert cluster[1].node.role is Role.FOLLOWER


def test_a_group_can_be_replaced_as_a_whole() -> None:
    """Thesis 4.3: the old and the new configuration need not have anybody in common."""
    cluster = Cluster(*[Host(node, group(3)) for node in range(1, 7)])
    cluster.campaign(1)
    cluster.propose(1, b"before")
    cluster.change(1, swap(1, 2, 3, added=(4, 5, 6), transition=Transition.AUTO))
    cluster.tick(1, 4)
    cluster.tick_all(3 * TIMEOUT_TICKS)
    leaders = cluster.leaders()
    assert len(leaders) == 1
    assert leaders[0] in (4, 5, 6)
    cluster.crash(1, 2, 3)
    assert cluster.propose(leaders[0], b"after")
    for node in (4, 5, 6):
        assert cluster[node].payloads == [b"before", b"after"]
        assert cluster[node].node.membership == Membership((4, 5, 6))


def test_a_voter_to_be_demoted_votes_until_the_transition_ends() -> None:
    """Thesis 4.3 with the learners of 4.2.1: in the old half it counts, so it is no learner yet."""
    driven = Driven()
    driven.lead_replicating()
    change = ConfChange(
        (Change(ChangeKind.ADD_LEARNER, 3), Change(ChangeKind.ADD_LEARNER, 2)),
        Transition.JOINT_EXPLICIT,
    )
    driven.node.propose_conf_change(change)
    driven.pump()
    driven.acknowledge(2)
    joint = Membership((1,), OLD, learners_next=(2, 3))
    assert driven.node.membership == joint
    index = driven.node.propose_conf_change(LEAVE)
    driven.pump()
    assert driven.node.commit == index - 1
    driven.acknowledge(3, index)
    assert driven.node.membership == Membership((1,), learners=(2, 3))


def test_one_change_may_take_the_joint_way_too() -> None:
    """Thesis 4.3: it is the general way; the simple one of 4.1 is a short cut."""
    driven = Driven()
    driven.lead_replicating()
    driven.node.propose_conf_change(
        ConfChange((Change(ChangeKind.ADD_VOTER, 4),), Transition.JOINT_IMPLICIT)
    )
    driven.pump()
    messages = driven.acknowledge(2)
    assert driven.node.membership == Membership((1, 2, 3, 4), OLD, auto_leave=True)
    # The leader proposed to leave at once.
    assert driven.node.last_index == 3
    assert 4 in [m.to for m in of_kind(messages, MessageKind.APPEND)]
