"""CLUSTER: the nodes, slots and leaders as Redis Cluster clients want to see them.

What such a client calls a node is one *shard* here: a host with the port on which that shard
alone listens. A group's slots are listed under the shard that leads it, its replicas behind;
so a client goes straight to the process that can answer. While a group has no known leader its
first replica stands in, since every shard forwards what it does not lead.
"""

from __future__ import annotations

from hashlib import sha1
from typing import TYPE_CHECKING, Final, NamedTuple

from rafter_kv.local_command import container, local
from rafter_kv.reply_encoding import Verbatim
from rafter_kv.slots import SLOT_COUNT, slot_of

if TYPE_CHECKING:
    from rafter_kv.command_spec import CommandSpec
    from rafter_kv.connection import RespConnection
    from rafter_kv.front_end import ClusterView, GroupView
    from rafter_kv.results import Result


class ShardAddress(NamedTuple):
    """A shard as a cluster client's "node"."""

    node: int
    shard: int
    identity: bytes
    host: str
    port: int
    peer_port: int


class Topology:
    """The shards of a cluster view, and who stands for each group. Made for one reply."""

    def __init__(self, view: ClusterView) -> None:
        self.view = view
        self.shards: dict[tuple[int, int], ShardAddress] = {}
        self._shard_counts: dict[int, int] = {}
        for node in view.nodes:
            self._shard_counts[node.node] = len(node.shard_ports)
            for shard, port in enumerate(node.shard_ports):
                self.shards[node.node, shard] = ShardAddress(
                    node.node,
                    shard,
                    shard_identity(view.cluster_id, node.node, shard),
                    node.host,
                    port,
                    node.peer_port + shard,
                )

    def replicas(self, group: GroupView) -> list[ShardAddress]:
        """Return the shards that hold the group, the one that stands for it first."""
        nodes = [node for node in group.replicas if node in self._shard_counts]
        if group.leader in nodes:
            nodes.remove(group.leader)
            nodes.insert(0, group.leader)
        return [self.shards[node, group.group % self._shard_counts[node]] for node in nodes]

    def served(self) -> dict[ShardAddress, list[GroupView]]:
        """Return the groups that each shard stands for, in order of nodes and shards."""
        groups: dict[ShardAddress, list[GroupView]] = {s: [] for s in self.shards.values()}
        for group in self.view.groups:
            replicas = self.replicas(group)
            if replicas:
                groups[replicas[0]].append(group)
        return groups


def shard_identity(cluster_id: int, node: int, shard: int) -> bytes:
    """Return the 40 hexadecimal digits that name a shard to cluster clients."""
    text = f"rafter {cluster_id} {node} {shard}"
    return sha1(text.encode(), usedforsecurity=False).hexdigest().encode()


def _slot_ranges(groups: list[GroupView]) -> list[tuple[int, int]]:
    """Return the slots of groups as ranges, neighbours joined."""
    ranges: list[tuple[int, int]] = []
    for group in sorted(groups, key=lambda group: group.slot_first):
        if ranges and ranges[-1][1] + 1 == group.slot_first:
            ranges[-1] = (ranges[-1][0], group.slot_last)
        else:
            ranges.append((group.slot_first, group.slot_last))
    return ranges


def _slots(connection: RespConnection, _command: list[bytes]) -> Result:
    topology = Topology(connection.front_end.cluster_view())
    reply: list[Result] = []
    for group in topology.view.groups:
        entry: list[Result] = [group.slot_first, group.slot_last]
        entry += [
            [shard.host.encode(), shard.port, shard.identity, []]
            for shard in topology.replicas(group)
        ]
        if len(entry) > 2:
            reply.append(entry)
    return reply


def _nodes(connection: RespConnection, _command: list[bytes]) -> Result:
    topology = Topology(connection.front_end.cluster_view())
    view = topology.view
    served = topology.served()
    masters: dict[ShardAddress, bytes] = {}
    for group in view.groups:
        replicas = topology.replicas(group)
        for shard in replicas[1:]:
            masters.setdefault(shard, replicas[0].identity)
    lines = []
    for shard, groups in served.items():
        myself = b"myself," if (shard.node, shard.shard) == (view.node, view.shard) else b""
        # A shard may lead some groups and follow in others; Redis knows one role per node.
        is_replica = not groups and shard in masters
        epoch = max((group.term for group in groups), default=0)
        fields = [
            shard.identity,
            f"{shard.host}:{shard.port}@{shard.peer_port}".encode(),
            myself + (b"slave" if is_replica else b"master"),
            masters[shard] if is_replica else b"-",
            b"0 0 %d connected" % epoch,
        ]
        for first_slot, last_slot in _slot_ranges(groups):
            is_single = first_slot == last_slot
            fields.append(b"%d" % first_slot if is_single else b"%d-%d" % (first_slot, last_slot))
        lines.append(b" ".join(fields) + b"\n")
    return Verbatim(b"".join(lines))


def _shards(connection: RespConnection, _command: list[bytes]) -> Result:
    topology = Topology(connection.front_end.cluster_view())
    by_replicas: dict[tuple[ShardAddress, ...], list[GroupView]] = {}
    for group in topology.view.groups:
        replicas = tuple(topology.replicas(group))
        if replicas:
            by_replicas.setdefault(replicas, []).append(group)
    reply: list[Result] = []
    for replicas, groups in by_replicas.items():
        slots: list[Result] = [border for pair in _slot_ranges(groups) for border in pair]
        nodes: list[Result] = [
            {
                b"id": shard.identity,
                b"port": shard.port,
                b"ip": shard.host.encode(),
                b"endpoint": shard.host.encode(),
                b"role": b"replica" if number else b"master",
                b"replication-offset": 0,
                b"health": b"online",
            }
            for number, shard in enumerate(replicas)
        ]
        reply.append({b"slots": slots, b"nodes": nodes})
    return reply


def _info(connection: RespConnection, _command: list[bytes]) -> Result:
    topology = Topology(connection.front_end.cluster_view())
    view = topology.view
    led = [group for group in view.groups if group.leader]
    assigned = sum(group.slot_last - group.slot_first + 1 for group in view.groups)
    in_order = sum(group.slot_last - group.slot_first + 1 for group in led)
    mine = [group for group in led if group.leader == view.node]
    is_ok = in_order == SLOT_COUNT
    fields: tuple[tuple[str, object], ...] = (
        ("cluster_state", "ok" if is_ok else "fail"),
        ("cluster_slots_assigned", assigned),
        ("cluster_slots_ok", in_order),
        ("cluster_slots_pfail", 0),
        ("cluster_slots_fail", assigned - in_order),
        ("cluster_known_nodes", len(topology.shards)),
        ("cluster_size", sum(1 for groups in topology.served().values() if groups)),
        ("cluster_current_epoch", max((group.term for group in view.groups), default=0)),
        ("cluster_my_epoch", max((group.term for group in mine), default=0)),
        ("cluster_stats_messages_sent", 0),
        ("cluster_stats_messages_received", 0),
        ("total_cluster_links_buffer_limit_exceeded", 0),
    )
    return Verbatim("".join(f"{name}:{value}\r\n" for name, value in fields).encode())


def _my_id(connection: RespConnection, _command: list[bytes]) -> Result:
    view = connection.front_end.cluster_view()
    return shard_identity(view.cluster_id, view.node, view.shard)


def _key_slot(_connection: RespConnection, command: list[bytes]) -> Result:
    return slot_of(command[2])


_HELP: Final = (
    "INFO",
    "    Return information about the cluster.",
    "KEYSLOT <key>",
    "    Return the hash slot for <key>.",
    "MYID",
    "    Return the node id.",
    "NODES",
    "    Return cluster configuration seen by node. Output format:",
    "    <id> <ip:port> <flags> <master> <pings> <pongs> <epoch> <link> <slot> ...",
    "SHARDS",
    "    Return information about slot range mappings and the nodes associated with them.",
    "SLOTS",
    "    Return information about slots range mappings. Each range is made of:",
    "    start, end, master and replicas IP addresses, ports and ids",
)


def _part(name: str, arity: int, handler: object, summary: str, since: str) -> CommandSpec:
    return local(
        f"CLUSTER|{name}",
        arity,
        handler,  # type: ignore[arg-type]  # the callers pass handlers
        summary,
        since=since,
        group="cluster",
        flags=("loading", "stale"),
        complexity="O(N) where N is the total number of groups and nodes",
    )


SPECS: Final[tuple[CommandSpec, ...]] = (
    container(
        "CLUSTER",
        "A container for Redis Cluster commands.",
        _HELP,
        (
            _part("INFO", 2, _info, "Returns information about the state of the cluster.", "3.0.0"),
            _part("KEYSLOT", 3, _key_slot, "Returns the hash slot for a key.", "3.0.0"),
            _part("MYID", 2, _my_id, "Returns the ID of the shard.", "3.0.0"),
            _part("NODES", 2, _nodes, "Returns the nodes and their slots.", "3.0.0"),
            _part("SHARDS", 2, _shards, "Returns the slots and their nodes.", "7.0.0"),
            _part("SLOTS", 2, _slots, "Returns the slots and their nodes.", "3.0.0"),
        ),
        since="3.0.0",
        group="cluster",
    ),
)
