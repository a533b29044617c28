"""Chapter 4.1 of the thesis, safety of changes of one server.

The core does this etcd's way: a configuration comes into force when its entry is *applied*, not
when it is appended. So nothing is rolled back when an entry is overwritten, a leader counts itself
until its removal is committed, and there is never more than one change on its way.
"""

from __future__ import annotations

from itertools import combinations

import pytest

from rafter_core import (
    Change,
    ChangeKind,
    ConfChangeError,
    Entry,
    EntryKind,
    HardState,
    Membership,
    MessageKind,
    Role,
)
from rafter_core.changer import simple
from tests.core.network import Host
from tests.core.support import THREE, Driven
from tests.paper.support import (
    PLAIN,
    TIMEOUT_TICKS,
    Cluster,
    add,
    add_learner,
    group,
    last_kinds,
    led_cluster,
    memberships,
    remove,
)

# ---- safety, 4.1


def majorities(voters: tuple[int, ...]) -> list[set[int]]:
    """Return every smallest majority."""
    return [set(some) for some in combinations(voters, len(voters) // 2 + 1)]


@pytest.mark.parametrize("size", range(1, 8))
def test_majorities_before_and_after_one_change_overlap(size: int) -> None:
    """Thesis 4.1, figure 4.3: so one server at a time may be added or removed in one step."""
    old = group(size)
    changes = [Change(ChangeKind.ADD_VOTER, size + 1)]
    if size > 1:
        changes += [Change(ChangeKind.REMOVE_NODE, node) for node in old.voters]
    for change in changes:
        new = simple(old, [change]).membership
        for one in majorities(old.voters):
            assert all(one & other for other in majorities(new.voters))


@pytest.mark.parametrize(
    "changes",
    [
        [Change(ChangeKind.ADD_VOTER, 4), Change(ChangeKind.ADD_VOTER, 5)],
        [Change(ChangeKind.REMOVE_NODE, 2), Change(ChangeKind.REMOVE_NODE, 3)],
        [Change(ChangeKind.ADD_VOTER, 4), Change(ChangeKind.REMOVE_NODE, 3)],
    ],
)
def test_two_changes_in_one_step_are_impossible(changes: list[Change]) -> None:
    """Thesis 4.1, figure 4.2: with two at a time there could be two disjoint majorities."""
    with pytest.raises(ConfChangeError, match="more than one voter changed"):
        simple(THREE, changes)


def test_a_change_is_in_force_once_it_is_applied() -> None:
    """Thesis 4.1, done etcd's way: not already when it is appended, as the thesis has it.

    The entry is on every disk; as long as the leader does not know, the old configuration holds.
    """
    cluster = led_cluster()
    cluster.lose(MessageKind.APPEND_RESPONSE)
    cluster.change(1, add(4))
    assert [host.node.last_index for host in cluster.hosts.values()] == [2, 2, 2]
    assert memberships(cluster) == [THREE] * 3
    cluster.heal()
    cluster.tick(1, 2)
    assert memberships(cluster) == [group(4)] * 3


def test_an_overwritten_change_was_never_in_force() -> None:
    """Thesis 4.1, done etcd's way: where the thesis must fall back, nothing has happened here."""
    cluster = led_cluster(**PLAIN)
    cluster.isolate(1)
    cluster.change(1, remove(3))
    assert last_kinds(cluster[1].node, 1) == [EntryKind.CONFIG_CHANGE_V2]
    cluster.campaign(2)
    cluster.heal()
    cluster.tick(2, 2)
    assert cluster[1].log == cluster[2].log
    assert memberships(cluster) == [THREE] * 3


def test_a_second_change_waits_for_the_first() -> None:
    """Thesis 4.1: only one at a time; a second one becomes an empty entry while one is pending."""
    driven = Driven()
    driven.lead_replicating()
    assert driven.node.propose_conf_change(add(4)) == 2
    assert driven.node.propose_conf_change(add(5)) == 3
    assert last_kinds(driven.node, 2) == [EntryKind.CONFIG_CHANGE_V2, EntryKind.NORMAL]
    driven.pump()
    driven.acknowledge(2)
    assert (driven.node.applied, driven.node.membership) == (3, group(4))
    driven.node.propose_conf_change(add(5))
    assert last_kinds(driven.node, 1) == [EntryKind.CONFIG_CHANGE_V2]


def test_a_committed_change_that_is_not_applied_still_blocks_the_next() -> None:
    """Thesis 4.1, done etcd's way: what counts is the leader's own applied index."""
    cluster = led_cluster()
    cluster[1].is_applying = False
    cluster.change(1, add_learner(4))
    assert (cluster[1].node.commit, cluster[1].node.applied) == (2, 1)
    cluster.change(1, add_learner(5))
    assert last_kinds(cluster[1].node, 1) == [EntryKind.NORMAL]
    cluster[1].apply_withheld()
    cluster.run()
    cluster.change(1, add_learner(5))
    assert cluster[1].node.membership == Membership((1, 2, 3), learners=(4, 5))


def test_a_new_leader_changes_nothing_before_it_has_applied_what_it_inherited() -> None:
    """Thesis 4.1 and the correction published after it: first an entry of the own term commits.

    Inherited entries commit with the leader's own no-op at the earliest, and one of them may be a
    change. So a change is refused until the leader has applied all it had when it was elected.
    """
    driven = Driven(terms=[1], hard_state=HardState(1, 0, 0))
    driven.lead()
    assert driven.node.status().pending_change_index == 1
    driven.node.propose_conf_change(add(4))
    assert last_kinds(driven.node, 1) == [EntryKind.NORMAL]
    driven.pump()
    driven.acknowledge(2)
    assert driven.node.applied == 3
    driven.node.propose_conf_change(add(4))
    assert last_kinds(driven.node, 1) == [EntryKind.CONFIG_CHANGE_V2]


def test_no_change_is_in_force_before_an_entry_of_the_own_term_is_committed() -> None:
    """Thesis 4.1 and the correction published after it, where nothing was inherited unapplied.

    The change may then be appended at once, but it stands behind the no-op and cannot be applied
    before that is committed.
    """
    driven = Driven(terms=[1, 1], hard_state=HardState(1, 0, 2))
    driven.pump()
    assert driven.node.applied == 2
    driven.lead()
    assert driven.node.propose_conf_change(add(4)) == 4
    assert last_kinds(driven.node, 2) == [EntryKind.NORMAL, EntryKind.CONFIG_CHANGE_V2]
    driven.pump()
    driven.acknowledge(2, 2)
    assert (driven.node.commit, driven.node.membership) == (2, THREE)
    driven.acknowledge(2, 4)
    assert [(entry.term, entry.index) for entry in driven.committed[-2:]] == [(2, 3), (2, 4)]


def test_leaders_of_competing_changes_never_have_disjoint_majorities() -> None:
    """Thesis 4.1, the bug that was found after it was published, as a schedule.

    S1 adds S5 and crashes before anybody has the entry; S2 leads next and removes S4. By the text
    of the thesis S2 and S3 could commit that, while S1, S4 and S5 elect S1. Here both changes need
    a majority of the four founders, and S2 and S3 alone are none; nor are S1 and S4.
    """
    hosts = [Host(node, group(4), **PLAIN) for node in range(1, 6)]
    cluster = Cluster(*hosts)
    cluster.campaign(1)
    cluster.isolate(1)
    cluster.change(1, add(5))
    assert last_kinds(cluster[1].node, 1) == [EntryKind.CONFIG_CHANGE_V2]
    cluster.crash(1)
    cluster.heal()
    cluster.campaign(2)
    assert cluster.leaders() == [2]
    commit = cluster[2].node.commit
    cluster.partition((1, 4, 5), (2, 3))
    cluster.change(2, remove(4))
    assert last_kinds(cluster[3].node, 1) == [EntryKind.CONFIG_CHANGE_V2]
    assert (cluster[2].node.commit, cluster[2].node.membership) == (commit, group(4))
    cluster.restart(1)
    for _ in range(4):
        cluster.campaign(1)
    assert cluster.leaders() == [2]
    assert cluster[5].log == []
    # Together again, one of the two lines wins: that of S2, whose log is the better one.
    cluster.heal()
    while cluster.leaders() != [3]:
        cluster.campaign(3)
    cluster.tick(3, 3)
    assert [cluster[node].node.membership for node in (1, 2, 3)] == [group(3)] * 3


def test_nobody_campaigns_with_a_committed_change_it_has_not_applied() -> None:
    """Thesis 4.1, needed where changes come into force when applied: etcd#12133.

    With the older configuration a node could win by a majority that is none any more.
    """
    cluster = led_cluster()
    cluster[2].is_applying = False
    cluster.change(1, remove(3))
    assert (cluster[2].node.commit, cluster[2].node.membership) == (2, THREE)
    cluster.crash(1)
    for _ in range(2 * TIMEOUT_TICKS):
        cluster.tick(2)
    cluster.campaign(2)
    assert (cluster[2].node.role, cluster[2].node.term) == (Role.FOLLOWER, 1)
    cluster[2].apply_withheld()
    cluster.campaign(2)
    assert cluster[2].node.role is Role.PRE_CANDIDATE


def test_a_leader_outside_of_the_own_configuration_is_followed() -> None:
    """Thesis 4.1: a server may not know yet that the leader belongs to the group; it obeys."""
    driven = Driven()
    answers = driven.step(MessageKind.APPEND, 9, term=3)
    assert [(m.kind, m.to, m.reject) for m in answers] == [(MessageKind.APPEND_RESPONSE, 9, False)]
    assert driven.node.leader == 9


def test_a_candidate_outside_of_the_own_configuration_gets_the_vote() -> None:
    """Thesis 4.1: or a group could not elect anybody before all have heard of a new server."""
    driven = Driven()
    answers = driven.step(MessageKind.VOTE, 9, term=3)
    assert [(m.kind, m.to, m.reject) for m in answers] == [(MessageKind.VOTE_RESPONSE, 9, False)]


def test_a_smaller_majority_commits_what_waited() -> None:
    """Thesis 4.1: from the moment a configuration is in force, commitment is counted by it."""
    driven = Driven(membership=group(2))
    driven.lead_replicating()
    driven.node.propose_conf_change(remove(2))
    driven.node.propose(b"waits")
    driven.pump()
    assert driven.node.commit == 1
    # Node 2 holds its own removal and nothing after it.
    driven.acknowledge(2, 2)
    assert driven.node.membership == group(1)
    assert driven.node.commit == 3
    assert driven.committed[-1].payload == b"waits"


def test_entries_of_all_kinds_keep_their_place_around_a_change() -> None:
    """Thesis 4.1: a change is an entry like any other, replicated in the order of the log."""
    cluster = led_cluster()
    cluster.propose(1, b"before")
    cluster.change(1, add_learner(4))
    cluster.propose(1, b"after")
    applied: list[Entry] = cluster[3].applied
    assert [entry.kind for entry in applied] == [
        EntryKind.NORMAL,
        EntryKind.NORMAL,
        EntryKind.CONFIG_CHANGE_V2,
        EntryKind.NORMAL,
    ]
    assert [entry.payload for entry in applied][1::2] == [b"before", b"after"]
