from __future__ import annotations

from rafter_core import Membership
from rafter_core.quorum import VoteResult
from rafter_core.tracker import ProgressTracker


def tracker(*voters: int, node_id: int = 1) -> ProgressTracker:
    return ProgressTracker(node_id, Membership(voters), 10, 1000)


def test_iteration_is_in_ascending_order_of_ids() -> None:
    item = tracker(3, 1, 2)
    assert list(item.progress) == [1, 2, 3]
    assert [peer.node for peer in item.peers] == [2, 3]
    assert item.own is item.progress[1]


def test_committed_index_is_what_a_majority_holds_for_every_size() -> None:
    for count, expected in ((1, 10), (2, 10), (3, 20), (4, 20), (5, 30)):
        item = tracker(*range(1, count + 1))
        for node, progress in item.progress.items():
            progress.next = 100
            progress.acknowledge(node * 10)
        assert item.committed_index() == expected


def test_committed_index_of_three_is_right_in_every_order() -> None:
    for first in range(1, 4):
        for second in range(1, 4):
            for third in range(1, 4):
                item = tracker(1, 2, 3)
                for node, index in zip((1, 2, 3), (first, second, third), strict=True):
                    item.progress[node].acknowledge(index)
                assert item.committed_index() == sorted((first, second, third))[1]


def test_confirmed_read_needs_a_quorum() -> None:
    item = tracker(1, 2, 3, 4, 5)
    item.progress[1].read_acknowledged = 9
    item.progress[2].read_acknowledged = 7
    assert item.confirmed_read() == 0
    item.progress[5].read_acknowledged = 8
    assert item.confirmed_read() == 7


def test_activity_is_forgotten_for_all_but_this_node() -> None:
    item = tracker(1, 2, 3)
    for progress in item.progress.values():
        progress.recent_active = True
    assert item.is_quorum_active()
    item.forget_activity()
    assert not item.is_quorum_active()
    item.progress[3].recent_active = True
    assert item.is_quorum_active()


def test_first_answer_of_a_node_counts() -> None:
    item = tracker(1, 2, 3)
    item.record_vote(2, False)
    item.record_vote(2, True)
    item.record_vote(1, True)
    assert item.election_result() is VoteResult.PENDING
    item.record_vote(3, False)
    assert item.election_result() is VoteResult.LOST


def test_reset_knows_only_the_durable_part_of_the_own_log() -> None:
    item = tracker(1, 2, 3)
    item.progress[2].acknowledge(5)
    item.reset(last_index=8, stable_index=6)
    assert (item.progress[1].match, item.progress[1].next) == (6, 9)
    assert (item.progress[2].match, item.progress[2].next) == (0, 9)


def test_a_node_outside_of_the_configuration_is_not_counted() -> None:
    item = tracker(2, 3, node_id=1)
    item.own.next = 9
    item.own.acknowledge(8)
    assert item.committed_index() == 0
    assert 1 not in item.progress
    assert not item.is_voter(1)
    assert [peer.node for peer in item.peers] == [2, 3]
