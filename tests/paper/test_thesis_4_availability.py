"""Chapters 4.2.1, 4.2.2 and 4.2.4 of the thesis: availability while the membership changes."""

from __future__ import annotations

import pytest

from rafter_core import (
    ConfChange,
    EntryKind,
    Membership,
    MessageKind,
    ProposalDropped,
    Role,
)
from tests.core.network import Host
from tests.core.support import THREE, Driven, of_kind
from tests.paper.support import (
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


def newcomer(cluster: Cluster, node: int) -> Host:
    """Start an empty server that knows the founding configuration, without itself."""
    return cluster.add(Host(node, cluster[1].storage.initial_state()[1]))


# ---- catching up new servers, 4.2.1


def test_a_new_server_gets_the_log_before_it_counts() -> None:
    """Thesis 4.2.1: it joins as a learner, and is made a voter once it has caught up."""
    cluster = led_cluster()
    cluster.propose(1, b"before")
    newcomer(cluster, 4)
    cluster.change(1, add_learner(4))
    cluster.tick(1, 2)
    assert cluster[4].payloads == [b"before"]
    assert cluster[4].node.membership == Membership((1, 2, 3), learners=(4,))
    assert cluster[1].node.status().progress[4].match == cluster[1].node.last_index
    cluster.change(1, add(4))
    assert memberships(cluster) == [group(4)] * 4


def test_a_learner_does_not_count_for_commitment() -> None:
    """Thesis 4.2.1: its acknowledgement is none of the majority's."""
    driven = Driven(membership=Membership((1, 2, 3), learners=(4, 5)))
    driven.lead()
    assert [m.to for m in of_kind(driven.tick(), MessageKind.HEARTBEAT)] == [2, 3, 4, 5]
    for learner in (4, 5):
        driven.acknowledge(learner, 1)
    assert driven.node.commit == 0
    driven.acknowledge(2, 1)
    assert driven.node.commit == 1


def test_a_learner_never_starts_an_election() -> None:
    """Thesis 4.2.1: a non-voting member waits, however long it hears nothing."""
    driven = Driven(node_id=4, membership=Membership((1, 2, 3), learners=(4,)))
    assert driven.tick(10 * TIMEOUT_TICKS) == []
    driven.node.campaign()
    assert driven.pump() == []
    assert (driven.node.role, driven.node.term) == (Role.FOLLOWER, 0)


def test_a_learner_votes_when_it_is_asked() -> None:
    """Thesis 4.2.1, as etcd: it may be a voter already and only not know it."""
    driven = Driven(node_id=4, membership=Membership((1, 2, 3), learners=(4,)))
    assert [m.reject for m in driven.step(MessageKind.VOTE, 1, term=1)] == [False]


@pytest.mark.parametrize(
    ("change", "is_available"), [(add_learner(4), True), (add(4), False)], ids=["learner", "voter"]
)
def test_an_empty_voter_costs_availability_and_a_learner_does_not(
    change: ConfChange, is_available: bool
) -> None:
    """Thesis 4.2.1, figure 4.4: with one of three down, a fourth voter that lags stops commits."""
    cluster = led_cluster(check_quorum=False)
    cluster.change(1, change)
    cluster.crash(3)
    cluster.propose(1, b"x")
    assert (cluster[1].payloads == [b"x"]) is is_available


def test_a_new_server_is_sent_a_snapshot_where_the_log_is_gone() -> None:
    """Thesis 4.2.1 and 5.3: it begins with the leader's snapshot and goes on with the log."""
    cluster = led_cluster()
    cluster.propose(1, b"a")
    for host in (cluster[1], cluster[2], cluster[3]):
        host.storage.create_snapshot(2, THREE, b"image")
        host.storage.compact(2)
    newcomer(cluster, 4)
    cluster.change(1, add_learner(4))
    # The snapshot of index 2 does not know the newcomer: it must come from a later one.
    cluster[1].storage.create_snapshot(3, cluster[1].node.membership, b"image")
    cluster[1].storage.compact(3)
    cluster[1].node.report_snapshot(4, is_ok=False)
    cluster.propose(1, b"b")
    cluster.tick(1, 3)
    assert cluster[4].storage.snapshot().index == 3
    assert cluster[4].payloads == [b"b"]
    assert cluster[4].node.membership == Membership((1, 2, 3), learners=(4,))


def test_a_demoted_voter_no_longer_counts() -> None:
    """Thesis 4.2.1, the other way round: as a learner it goes on receiving the log."""
    cluster = led_cluster()
    cluster.change(1, add_learner(3))
    cluster.crash(2)
    cluster.propose(1, b"x")
    assert cluster[1].payloads == []
    cluster.restart(2)
    cluster.tick(1, 2)
    assert cluster[1].payloads == [b"x"]
    assert cluster[3].payloads == [b"x"]


# ---- removing the current leader, 4.2.2


def test_a_removed_leader_leads_until_its_removal_is_committed() -> None:
    """Thesis 4.2.2: it brings the change through, and then steps down."""
    cluster = led_cluster()
    cluster.lose(MessageKind.APPEND_RESPONSE)
    cluster.change(1, remove(1))
    assert cluster.leaders() == [1]
    cluster.heal()
    cluster.tick(1, 2)
    assert cluster.leaders() == []
    assert memberships(cluster) == [Membership((2, 3))] * 3
    cluster.tick_all(2 * TIMEOUT_TICKS)
    assert cluster.leaders() in ([2], [3])
    assert cluster.propose(cluster.leaders()[0], b"x")
    assert cluster[2].payloads == cluster[3].payloads == [b"x"]
    assert cluster[1].payloads == []


def test_a_leader_counts_itself_until_its_removal_is_applied() -> None:
    """Thesis 4.2.2, done etcd's way: there it replicates its removal without counting itself.

    Here the old configuration decides, so node 1 and one more are enough of three.
    """
    cluster = led_cluster()
    cluster.crash(3)
    cluster.change(1, remove(1))
    assert [cluster[node].node.membership for node in (1, 2)] == [Membership((2, 3))] * 2
    assert cluster[1].node.role is Role.FOLLOWER


def test_a_removed_server_does_not_campaign() -> None:
    """Thesis 4.2.2: once it knows that it is no member it stays quiet."""
    cluster = led_cluster()
    cluster.change(1, remove(1))
    cluster.forget()
    cluster.tick(1, 5 * TIMEOUT_TICKS)
    assert cluster[1].node.role is Role.FOLLOWER
    assert cluster.delivered == []


def test_without_stepping_down_a_removed_leader_serves_a_group_it_is_not_in() -> None:
    """Thesis 4.2.2: it does not count itself any more, and takes no commands of its own."""
    cluster = led_cluster(step_down_on_removal=False)
    cluster.change(1, remove(1))
    assert cluster.leaders() == [1]
    with pytest.raises(ProposalDropped, match="removed"):
        cluster[1].node.propose(b"x")
    cluster.forget()
    cluster.tick(1)
    assert [m.to for m in cluster.sent(MessageKind.HEARTBEAT)] == [2, 3]


def test_after_a_transfer_the_old_leader_is_removed_like_anybody() -> None:
    """Thesis 4.2.2: the alternative with the transfer extension, without a time of no leader."""
    cluster = led_cluster()
    cluster[1].node.transfer_leadership(2)
    cluster.run()
    cluster.change(2, remove(1))
    assert cluster.leaders() == [2]
    assert [cluster[node].node.membership for node in (2, 3)] == [Membership((2, 3))] * 2


def test_a_last_voter_is_never_removed() -> None:
    """Thesis 4.2.2: a group must be able to decide; the leader refuses such a change."""
    driven = Driven(membership=group(1))
    driven.lead_replicating()
    driven.node.propose_conf_change(remove(1))
    assert last_kinds(driven.node, 1) == [EntryKind.NORMAL]


# ---- availability, 4.2.4


def test_a_change_survives_its_leader_if_a_majority_has_it() -> None:
    """Thesis 4.2.4: the next leader holds the entry, commits it, and puts it in force."""
    cluster = led_cluster(count=4)
    cluster.lose(MessageKind.APPEND_RESPONSE)
    cluster.change(1, remove(4))
    cluster.heal()
    cluster.crash(1)
    cluster.tick_all(TIMEOUT_TICKS)
    cluster.campaign(2)
    assert cluster.leaders() == [2]
    assert [cluster[node].node.membership for node in (2, 3)] == [group(3)] * 2


def test_a_group_goes_on_while_the_new_server_is_not_even_started() -> None:
    """Thesis 4.2.4: with a majority of the new configuration up, commands commit."""
    cluster = led_cluster()
    cluster.change(1, add(4))
    cluster.propose(1, b"x")
    assert [cluster[node].payloads for node in (1, 2, 3)] == [[b"x"]] * 3
    assert cluster[1].node.membership == group(4)
