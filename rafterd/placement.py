"""Where groups live: which nodes hold a replica, and which shard of a node owns it.

Pure arithmetic over the initial configuration, so that every node computes the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable

SYSTEM_GROUP = 0
"""The group that replicates the cluster's map. It has a replica on every node, and no slots."""


def shard_of_group(group: int, shards: int) -> int:
    """Return the shard that owns a group on a node with that many shards."""
    return group % shards


def groups_of_shard(shard: int, shards: int, groups: int) -> range:
    """Return the data groups (1 to `groups`) that one shard owns, ascending."""
    return range(shard or shards, groups + 1, shards)


def group_members(group: int, nodes: Iterable[int], replication: int) -> tuple[int, ...]:
    """Return the nodes that hold a replica of a group, the first being its preferred leader.

    They are the `replication` nodes that follow, in ascending order of id and cyclically, from
    position `group % number of nodes`: replicas and preferred leaders spread evenly.
    """
    ring = sorted(nodes)
    if not 1 <= replication <= len(ring):
        raise ValueError(f"replication {replication} is impossible with {len(ring)} nodes")
    first = group % len(ring)
    return tuple(ring[(first + step) % len(ring)] for step in range(replication))


def groups_of_node(node: int, nodes: Iterable[int], groups: int, replication: int) -> list[int]:
    """Return the data groups that a node holds a replica of, ascending."""
    ring = sorted(nodes)
    return [
        group for group in range(1, groups + 1) if node in group_members(group, ring, replication)
    ]
