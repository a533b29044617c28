"""Progress of a whole configuration, and the quorum questions that are asked about it."""

from __future__ import annotations

from itertools import product

import pytest

from rafter_core import InvariantError, Membership
from rafter_core.changer import ChangeResult
from rafter_core.progress import PROBE, REPLICATE
from rafter_core.quorum import VoteResult
from rafter_core.tracker import ProgressTracker

JOINT = Membership((1, 2, 3), (3, 4, 5), (6,))


def tracker(*voters: int, node_id: int = 1, last_index: int = 0) -> ProgressTracker:
    return ProgressTracker(node_id, Membership(voters), 10, 1000, last_index)


def tracker_of(membership: Membership, node_id: int = 1) -> ProgressTracker:
    return ProgressTracker(node_id, membership, 10, 1000)


def hold(item: ProgressTracker, **matches: int) -> None:
    """Let nodes acknowledge: hold(item, n2=5)."""
    for name, index in matches.items():
        item.progress[int(name[1:])].acknowledge(index)


def test_iteration_is_in_ascending_order_of_ids() -> None:
    item = tracker_of(Membership((2, 4), (1, 4), (3,)), node_id=2)
    assert list(item.progress) == [1, 2, 3, 4]
    assert [progress.node for progress in item.progress.values()] == [1, 2, 3, 4]
    assert [peer.node for peer in item.peers] == [1, 3, 4]
    assert item.own is item.progress[2]


@pytest.mark.parametrize(("last_index", "next_index"), [(0, 1), (1, 1), (2, 2), (9, 9)])
def test_a_new_node_is_probed_with_the_last_entry_and_counts_as_active(
    last_index: int, next_index: int
) -> None:
    progress = tracker(1, 2, last_index=last_index).progress[2]
    assert (progress.match, progress.next, progress.mode) == (0, next_index, PROBE)
    assert progress.recent_active
    assert (progress.inflights.messages_max, progress.inflights.bytes_max) == (10, 1000)


def test_a_faulty_configuration_is_refused() -> None:
    with pytest.raises(InvariantError, match=r"voters \(2, 1\) do not ascend"):
        tracker(2, 1)
    item = tracker(1, 2)
    with pytest.raises(InvariantError, match="both voter and learner"):
        item.restore(Membership((1, 2), learners=(2,)), 5)
    assert item.membership == Membership((1, 2))


# ---- switching ---------------------------------------------------------------------------------


def test_nodes_that_stay_keep_their_progress() -> None:
    item = tracker(1, 2, 3)
    hold(item, n1=5, n2=4, n3=3)
    kept = item.progress[2]
    item.switch(ChangeResult(Membership((1, 2), learners=(4,)), frozenset((4,))), 7)
    assert item.membership == Membership((1, 2), learners=(4,))
    assert list(item.progress) == [1, 2, 4]
    assert item.progress[2] is kept
    assert (item.progress[4].match, item.progress[4].next) == (0, 7)
    assert item.progress[4].recent_active
    assert [peer.node for peer in item.peers] == [2, 4]


def test_a_node_that_was_removed_and_added_again_starts_anew() -> None:
    item = tracker(1, 2, 3)
    hold(item, n2=4)
    item.switch(ChangeResult(Membership((1, 2, 3)), frozenset((2,))), 7)
    assert (item.progress[2].match, item.progress[2].next) == (0, 7)


def test_a_node_that_was_never_known_starts_anew_even_if_not_named_fresh() -> None:
    item = tracker(1, 2)
    item.switch(ChangeResult(Membership((1, 2, 3)), frozenset()), 7)
    assert (item.progress[3].match, item.progress[3].next) == (0, 7)


def test_restoring_starts_everything_anew() -> None:
    item = tracker(1, 2, 3)
    hold(item, n1=5, n2=4, n3=3)
    item.restore(Membership((1, 2, 3)), 9)
    assert [(p.match, p.next, p.mode) for p in item.progress.values()] == [(0, 9, PROBE)] * 3
    assert item.own is item.progress[1]


def test_this_node_outlives_its_own_removal() -> None:
    item = tracker(1, 2, 3)
    own = item.own
    item.switch(ChangeResult(Membership((2, 3)), frozenset()), 7)
    assert list(item.progress) == [2, 3]
    assert item.own is own
    assert [peer.node for peer in item.peers] == [2, 3]


def test_the_quorum_follows_the_configuration() -> None:
    item = tracker(1, 2, 3)
    hold(item, n1=9, n2=5, n3=1)
    assert item.committed_index() == 5
    item.switch(ChangeResult(Membership((1,)), frozenset()), 9)
    assert item.committed_index() == 9
    item.switch(ChangeResult(Membership((1, 2), (1,)), frozenset((2,))), 9)
    assert item.committed_index() == 0


def test_reset_knows_only_the_own_log() -> None:
    item = tracker(1, 2, 3)
    hold(item, n1=3, n2=5)
    item.progress[2].become_replicate()
    item.progress[2].read_acknowledged = 4
    item.reset(8)
    assert (item.own.match, item.own.next, item.own.mode) == (8, 9, PROBE)
    assert not item.own.recent_active
    for peer in item.peers:
        assert (peer.match, peer.next, peer.mode) == (0, 9, PROBE)
        assert (peer.recent_active, peer.read_acknowledged) == (False, 0)


def test_reset_reaches_this_node_outside_of_the_configuration() -> None:
    item = tracker(2, 3, node_id=1)
    item.reset(8)
    assert (item.own.match, item.own.next) == (8, 9)


# ---- indexes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "expected"), [(1, 10), (2, 10), (3, 20), (4, 20), (5, 30)])
def test_committed_index_is_what_a_majority_holds(count: int, expected: int) -> None:
    item = tracker(*range(1, count + 1))
    for node, progress in item.progress.items():
        progress.acknowledge(node * 10)
    assert item.committed_index() == expected


def test_committed_index_of_three_is_right_in_every_order() -> None:
    for indexes in product(range(1, 4), repeat=3):
        item = tracker(1, 2, 3)
        for node, index in zip((1, 2, 3), indexes, strict=True):
            item.progress[node].acknowledge(index)
        assert item.committed_index() == sorted(indexes)[1]


def test_committed_index_of_four_is_right_in_every_order() -> None:
    for indexes in product(range(1, 4), repeat=4):
        item = tracker(1, 2, 3, 4)
        for node, index in zip((1, 2, 3, 4), indexes, strict=True):
            item.progress[node].acknowledge(index)
        assert item.committed_index() == sorted(indexes)[1]


def test_committed_index_needs_both_halves_and_no_learner() -> None:
    item = tracker_of(JOINT)
    hold(item, n1=9, n2=9, n6=9)
    assert item.committed_index() == 0
    hold(item, n3=7)
    assert item.committed_index() == 0
    hold(item, n5=6)
    assert item.committed_index() == 6
    hold(item, n4=8)
    assert item.committed_index() == 7


def test_a_confirmed_read_needs_a_quorum() -> None:
    item = tracker(1, 2, 3, 4, 5)
    item.progress[1].read_acknowledged = 9
    item.progress[2].read_acknowledged = 7
    assert item.confirmed_read() == 0
    item.progress[5].read_acknowledged = 8
    assert item.confirmed_read() == 7


def test_a_confirmed_read_needs_both_halves() -> None:
    item = tracker_of(JOINT)
    for node in (1, 2, 6):
        item.progress[node].read_acknowledged = 9
    assert item.confirmed_read() == 0
    item.progress[3].read_acknowledged = 8
    item.progress[4].read_acknowledged = 7
    assert item.confirmed_read() == 7


def test_a_node_outside_of_the_configuration_is_not_counted() -> None:
    item = tracker(2, 3, node_id=1)
    item.own.acknowledge(8)
    assert item.committed_index() == 0
    assert 1 not in item.progress
    assert [peer.node for peer in item.peers] == [2, 3]
    hold(item, n2=8, n3=7)
    assert item.committed_index() == 7


# ---- activity and votes ------------------------------------------------------------------------


def test_activity_is_forgotten_for_all_but_this_node() -> None:
    item = tracker(1, 2, 3)
    assert item.is_quorum_active()
    item.forget_activity()
    assert [p.recent_active for p in item.progress.values()] == [True, False, False]
    assert not item.is_quorum_active()
    item.progress[3].recent_active = True
    assert item.is_quorum_active()


def test_activity_is_needed_in_both_halves_and_learners_do_not_count() -> None:
    item = tracker_of(JOINT)
    item.forget_activity()
    item.progress[2].recent_active = True
    item.progress[6].recent_active = True
    assert not item.is_quorum_active()
    item.progress[4].recent_active = True
    assert not item.is_quorum_active()
    item.progress[5].recent_active = True
    assert item.is_quorum_active()


def test_the_first_answer_of_a_node_counts() -> None:
    item = tracker(1, 2, 3)
    item.record_vote(2, False)
    item.record_vote(2, True)
    item.record_vote(1, True)
    assert item.votes == {1: True, 2: False}
    assert item.election_result() is VoteResult.PENDING
    item.record_vote(3, False)
    assert item.election_result() is VoteResult.LOST


def test_an_election_is_won_in_both_halves() -> None:
    item = tracker_of(JOINT)
    for node in (1, 2, 6):
        item.record_vote(node, True)
    assert item.election_result() is VoteResult.PENDING
    item.record_vote(4, False)
    assert item.election_result() is VoteResult.PENDING
    item.record_vote(5, True)
    assert item.election_result() is VoteResult.PENDING
    item.record_vote(3, True)
    assert item.election_result() is VoteResult.WON


def test_replication_modes_survive_a_switch() -> None:
    item = tracker(1, 2)
    item.progress[2].become_replicate()
    item.switch(ChangeResult(Membership((1,), learners=(2,)), frozenset()), 4)
    assert item.progress[2].mode is REPLICATE
