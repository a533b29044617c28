import os

import pytest

from rafterd.placement import shard_of_group
from rafterd.shared import Counter, GroupState, GroupWord, PeerWord, SharedState


def test_words_start_at_zero_and_do_not_overlap() -> None:
    shared = SharedState(3, 5)
    for shard in range(3):
        for counter in Counter:
            assert shared.get(shard, counter) == 0
            shared.set_counter(shard, counter, 1000 * (shard + 1) + counter)
    for group in range(6):
        for word in GroupWord:
            assert shared.get_group(group, word) == 0
            shared.set_group(group, word, 100_000 * (group + 1) + word)
    assert all(
        shared.get(shard, counter) == 1000 * (shard + 1) + counter
        for shard in range(3)
        for counter in Counter
    )
    assert all(
        shared.get_group(group, word) == 100_000 * (group + 1) + word
        for group in range(6)
        for word in GroupWord
    )


def test_a_forked_child_writes_what_the_parent_reads() -> None:
    shared = SharedState(1, 1)
    pid = os.fork()
    if pid == 0:
        shared.add(0, Counter.HEARTBEAT, 7)
        shared.set_route(1, 3, 9)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert shared.get(0, Counter.HEARTBEAT) == 7
    assert shared.route(1) == (3, 9)


def test_route_holds_the_largest_leader_and_term() -> None:
    shared = SharedState(1, 1)
    shared.set_route(1, 65535, (1 << 48) - 1)
    assert shared.route(1) == (65535, (1 << 48) - 1)


@pytest.mark.parametrize(("leader", "term"), [(65536, 1), (1, 1 << 48), (-1, 1)])
def test_a_route_out_of_range_is_refused(leader: int, term: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        SharedState(1, 1).set_route(1, leader, term)


def test_counters_wrap_instead_of_failing() -> None:
    shared = SharedState(1, 1)
    shared.set_counter(0, Counter.COMMANDS_TOTAL, (1 << 64) - 1)
    shared.add(0, Counter.COMMANDS_TOTAL, 2)
    assert shared.get(0, Counter.COMMANDS_TOTAL) == 1


def test_total_is_the_sum_over_shards() -> None:
    shared = SharedState(4, 1)
    for shard in range(4):
        shared.set_counter(shard, Counter.CLIENTS, 10 + shard)
    assert shared.total(Counter.CLIENTS) == 46


def test_views_are_the_words_themselves() -> None:
    shared = SharedState(2, 2)
    shared.counter_words(1)[Counter.COMMANDS_TOTAL] += 5
    shared.group_words(2)[GroupWord.COMMIT] = 8
    assert shared.get(1, Counter.COMMANDS_TOTAL) == 5
    assert shared.get_group(2, GroupWord.COMMIT) == 8


def test_clearing_a_dead_shard_leaves_the_others_alone() -> None:
    shared = SharedState(2, 4)
    for shard in range(2):
        shared.set_counter(shard, Counter.CLIENTS, 3)
    for group in range(1, 5):
        shared.set_route(group, 1, 2)
        shared.set_group(group, GroupWord.STATE, GroupState.SERVING)
    shared.clear_shard(1)
    assert [shared.get(shard, Counter.CLIENTS) for shard in range(2)] == [3, 0]
    for group in range(1, 5):
        is_cleared = shard_of_group(group, 2) == 1
        assert shared.route(group) == ((0, 0) if is_cleared else (1, 2))


def test_each_shard_has_words_of_its_own_for_each_node_that_was_foreseen() -> None:
    shared = SharedState(2, 3, (1, 2, 7))
    for shard in range(2):
        for node in (1, 2, 7):
            words = shared.peer_words(shard, node)
            assert words is not None
            assert not any(words), "no other's words"
            words[PeerWord.LINKS_UP] = words[PeerWord.ROUND_TRIP_MICROSECONDS] = 10 * shard + node
    shared.clear_shard(0)
    for node in (1, 2, 7):
        cleared, kept = shared.peer_words(0, node), shared.peer_words(1, node)
        assert cleared is not None
        assert kept is not None
        assert not any(cleared)
        assert kept[PeerWord.LINKS_UP] == 10 + node
    assert shared.get_group(3, GroupWord.ROUTE) == 0
    assert shared.peer_words(0, 3) is None


@pytest.mark.parametrize("shard", [-1, 2])
def test_a_shard_outside_the_map_is_refused(shard: int) -> None:
    with pytest.raises(IndexError):
        SharedState(2, 3).get(shard, Counter.PID)


@pytest.mark.parametrize("group", [-1, 4])
def test_a_group_outside_the_map_is_refused(group: int) -> None:
    with pytest.raises(IndexError):
        SharedState(2, 3).get_group(group, GroupWord.ROUTE)


@pytest.mark.parametrize(("shards", "groups"), [(0, 1), (1, 0)])
def test_a_map_without_shards_or_groups_is_refused(shards: int, groups: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        SharedState(shards, groups)


def test_a_closed_map_is_gone() -> None:
    shared = SharedState(1, 1)
    shared.close()
    with pytest.raises(ValueError, match="released"):
        shared.get(0, Counter.PID)
