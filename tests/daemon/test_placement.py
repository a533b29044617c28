from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafterd.placement import group_members, groups_of_node, groups_of_shard, shard_of_group

node_sets = st.sets(st.integers(1, 65535), min_size=1, max_size=9)


def test_members_follow_cyclically_from_the_groups_position() -> None:
    assert group_members(1, [1, 2, 3], 2) == (2, 3)
    assert group_members(2, [1, 2, 3], 2) == (3, 1)
    assert group_members(3, [1, 2, 3], 2) == (1, 2)


def test_the_order_in_which_nodes_are_given_does_not_matter() -> None:
    assert group_members(5, [30, 10, 20], 3) == group_members(5, [10, 20, 30], 3)


@pytest.mark.parametrize("replication", [0, 4])
def test_impossible_replication_is_refused(replication: int) -> None:
    with pytest.raises(ValueError, match="impossible"):
        group_members(1, [1, 2, 3], replication)


@given(nodes=node_sets, group=st.integers(0, 16383), data=st.data())
def test_members_are_distinct_nodes(nodes: set[int], group: int, data: st.DataObject) -> None:
    replication = data.draw(st.integers(1, len(nodes)))
    members = group_members(group, nodes, replication)
    assert len(set(members)) == len(members) == replication
    assert set(members) <= nodes


@given(nodes=node_sets, groups=st.integers(1, 200), data=st.data())
def test_replicas_and_preferred_leaders_spread_evenly(
    nodes: set[int], groups: int, data: st.DataObject
) -> None:
    replication = data.draw(st.integers(1, len(nodes)))
    first = Counter(group_members(g, nodes, replication)[0] for g in range(1, groups + 1))
    loads = [len(groups_of_node(node, nodes, groups, replication)) for node in nodes]
    leads = [first[node] for node in nodes]
    assert max(leads) - min(leads) <= 1
    assert max(loads) - min(loads) <= replication
    assert sum(loads) == groups * replication


@given(shards=st.integers(1, 64), groups=st.integers(1, 300))
def test_every_group_belongs_to_exactly_one_shard(shards: int, groups: int) -> None:
    owned = [g for shard in range(shards) for g in groups_of_shard(shard, shards, groups)]
    assert sorted(owned) == list(range(1, groups + 1))
    assert all(
        shard_of_group(g, shards) == shard
        for shard in range(shards)
        for g in groups_of_shard(shard, shards, groups)
    )
