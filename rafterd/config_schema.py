"""The shape of the configuration: every section, key, default and range, in one place.

Ranges live in the annotations (msgspec.Meta), so that the check and the error texts agree. What
relates one key to another is in config_check.py. Addresses stay strings here, as written; the
properties parse them and may be used once the configuration was checked.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import xxhash
from msgspec import Meta

from rafter_core.membership import MEMBERS_MAX
from rafter_transport.express_limits import ExpressLimits
from rafter_transport.tls import NAME_PATTERN
from rafterd.address import Address, parse_address, parse_member
from rafterd.placement import group_members, groups_of_node

SHARDS_MAX = 64
GROUPS_MAX = 16383
NODES_MAX = MEMBERS_MAX
"""Every node is a member of the system group."""

Count = Annotated[int, Meta(ge=1, le=1 << 20)]
Bytes = Annotated[int, Meta(ge=1024, le=1 << 40)]
Seconds = Annotated[float, Meta(ge=0.01, le=86400)]
Ticks = Annotated[int, Meta(ge=1, le=10_000)]
NodeId = Annotated[int, Meta(ge=1, le=65535)]
File = Annotated[str, Meta(max_length=1024)]


class NodeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[node]: who this node is, and its processes."""

    id: NodeId = 1
    data_dir: Annotated[str, Meta(min_length=1, max_length=1024)] = "data/rafterd"
    shards: Annotated[int, Meta(ge=0, le=SHARDS_MAX)] = 0
    shard_links: Literal["auto", "ring", "socket"] = "auto"
    drain_seconds: Annotated[float, Meta(ge=0, le=3600)] = 10.0
    watchdog_seconds: Annotated[float, Meta(ge=1, le=3600)] = 10.0
    start_seconds_max: Annotated[float, Meta(ge=1, le=86400)] = 300.0


class ClientSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[client]: the RESP listeners and the bounds on what one client may use."""

    listen: str = "127.0.0.1:7379"
    insecure: bool = False
    tls_certificate: File = ""
    tls_key: File = ""
    tls_ca: File = ""
    announce_host: Annotated[str, Meta(max_length=253)] = ""
    connections_max: Count = 10_000
    request_timeout_seconds: Seconds = 5.0
    key_bytes_max: Annotated[int, Meta(ge=1, le=16 << 20)] = 64 << 10
    value_bytes_max: Annotated[int, Meta(ge=1024, le=16 << 20)] = 8 << 20
    query_buffer_bytes_max: Annotated[int, Meta(ge=16384, le=1 << 30)] = 32 << 20
    output_buffer_bytes_max: Annotated[int, Meta(ge=16384, le=1 << 30)] = 64 << 20
    pipeline_commands_max: Count = 16_384

    @property
    def address(self) -> Address:
        """The base listener: all shards. Shard i alone listens on port + 1 + i."""
        return parse_address(self.listen)

    @property
    def host(self) -> str:
        """Host of the base listener."""
        return self.address.host

    @property
    def port(self) -> int:
        """Port of the base listener."""
        return self.address.port

    def shard_port(self, shard: int) -> int:
        """Port on which one shard alone listens for clients."""
        return self.port + 1 + shard

    @property
    def has_tls(self) -> bool:
        """Whether the listeners speak TLS, and nothing else."""
        return bool(self.tls_certificate)


class PeerSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[peer]: the listeners for other nodes and the bounds on their links."""

    listen: str = "127.0.0.1:17379"
    announce_host: Annotated[str, Meta(max_length=253)] = ""
    insecure: bool = False
    tls_certificate: File = ""
    tls_key: File = ""
    tls_ca: File = ""
    tls_name: str = NAME_PATTERN
    frame_bytes_max: Annotated[int, Meta(ge=64 << 10, le=1 << 30)] = 64 << 20
    pending_bytes_max: Annotated[int, Meta(ge=64 << 10, le=1 << 32)] = 128 << 20
    node_bytes_max: Annotated[int, Meta(ge=64 << 10, le=1 << 34)] = 256 << 20
    connections_max: Count = 1024
    handshake_seconds: Seconds = 5.0
    idle_seconds: Annotated[float, Meta(ge=3, le=86400)] = 10.0
    reconnect_seconds_max: Seconds = 1.0

    @property
    def address(self) -> Address:
        """The first listener. Shard i listens on port + i."""
        return parse_address(self.listen)

    @property
    def host(self) -> str:
        """Host of the listeners."""
        return self.address.host

    @property
    def port(self) -> int:
        """Port of shard 0's listener."""
        return self.address.port

    def shard_port(self, shard: int) -> int:
        """Port on which one shard listens for the shards of other nodes."""
        return self.port + shard

    @property
    def has_tls(self) -> bool:
        """Whether the listeners speak TLS, and nothing else."""
        return bool(self.tls_certificate)


class HttpSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[http]: the supervisor's /livez, /readyz and /metrics."""

    listen: str = "127.0.0.1:9379"
    connections_max: Annotated[int, Meta(ge=1, le=4096)] = 64
    request_bytes_max: Annotated[int, Meta(ge=1024, le=1 << 20)] = 8192
    request_seconds: Seconds = 10.0

    @property
    def address(self) -> Address:
        """The listener."""
        return parse_address(self.listen)

    @property
    def host(self) -> str:
        """Host of the listener."""
        return self.address.host

    @property
    def port(self) -> int:
        """Port of the listener."""
        return self.address.port


class ClusterSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[cluster]: what all nodes of a cluster agree on, from their first start on."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "rafter"
    groups: Annotated[int, Meta(ge=1, le=GROUPS_MAX)] = 8
    replication: Annotated[int, Meta(ge=1, le=NODES_MAX)] = 1
    initial: Annotated[list[str], Meta(max_length=NODES_MAX)] = []


class RaftSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[raft]: time in ticks, and the bounds on replication."""

    tick_milliseconds: Annotated[int, Meta(ge=5, le=10_000)] = 50
    heartbeat_ticks: Ticks = 2
    election_timeout_ticks: Ticks = 12
    first_leader: Literal["spread", "self", "none"] = "spread"
    batches_in_flight_max: Annotated[int, Meta(ge=1, le=16)] = 1
    message_bytes_max: Bytes = 1 << 20
    inflight_messages_max: Annotated[int, Meta(ge=1, le=65536)] = 256
    inflight_bytes_max: Bytes = 64 << 20
    uncommitted_bytes_max: Bytes = 64 << 20
    committed_bytes_per_ready_max: Bytes = 512 << 10


class StorageSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[storage]: the write-ahead log of each shard."""

    segment_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 32)] = 64 << 20
    tail_bytes_max: Annotated[int, Meta(ge=64 << 10, le=1 << 32)] = 4 << 20
    sync: Literal["thread", "inline"] = "thread"


class SnapshotSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[snapshot]: when a group's state is saved and its log cut, and how snapshots travel."""

    log_bytes: Annotated[int, Meta(ge=1024, le=1 << 40)] = 64 << 20
    log_entries: Annotated[int, Meta(ge=1, le=1 << 40)] = 1_000_000
    retained: Annotated[int, Meta(ge=1, le=16)] = 2
    chunk_bytes: Annotated[int, Meta(ge=4096, le=1 << 20)] = 256 << 10
    transfers_max: Annotated[int, Meta(ge=1, le=64)] = 4
    bytes_per_second: Annotated[int, Meta(ge=0, le=1 << 40)] = 0


class LogSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[log]: what goes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["logfmt", "json"] = "logfmt"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole configuration, made by config.load_config.

    That resolves what depends on the machine: `node.shards` is at least 1 after it.
    """

    node: NodeSection = NodeSection()
    client: ClientSection = ClientSection()
    peer: PeerSection = PeerSection()
    http: HttpSection = HttpSection()
    cluster: ClusterSection = ClusterSection()
    raft: RaftSection = RaftSection()
    storage: StorageSection = StorageSection()
    snapshot: SnapshotSection = SnapshotSection()
    log: LogSection = LogSection()

    @property
    def nodes(self) -> dict[int, Address]:
        """Peer base address of every node, this one included, in ascending order of id."""
        if not self.cluster.initial:
            return {self.node.id: self.peer.address}
        return dict(sorted(parse_member(item) for item in self.cluster.initial))

    @property
    def express_limits(self) -> ExpressLimits:
        """What one of the node's shards may use for snapshots: the rate is shared out evenly."""
        section, rate = self.snapshot, self.snapshot.bytes_per_second
        defaults = ExpressLimits()
        return defaults._replace(
            sends_max=section.transfers_max,
            receives_max=section.transfers_max,
            bytes_per_second=max(1, rate // self.node.shards) if rate else None,
            retry_cap_seconds=max(self.peer.reconnect_seconds_max, defaults.retry_base_seconds),
        )

    @property
    def cluster_id(self) -> int:
        """64 bits that all nodes of this cluster share and those of another do not.

        The encoding is fixed for good, it is on disk and in the handshake: xxh3_64 over name,
        groups, replication and the ids of the initial nodes, ascending, one to a line. Addresses
        are no part of it, as nodes may move.
        """
        lines = [self.cluster.name, str(self.cluster.groups), str(self.cluster.replication)]
        if self.cluster.initial:
            lines += map(str, self.nodes)
        return int(xxhash.xxh3_64_intdigest("\n".join(lines).encode()))

    @property
    def announce_host(self) -> str:
        """The host that clients are told to connect to, in CLUSTER SLOTS and to other nodes."""
        if self.client.announce_host:
            return self.client.announce_host
        if not self.client.address.is_wildcard:
            return self.client.host
        return self.nodes[self.node.id].host

    @property
    def peer_address(self) -> Address:
        """Where other nodes are told to dial shard 0 of this one."""
        host = self.peer.announce_host or self.nodes[self.node.id].host
        return Address(host, self.peer.port)

    def members(self, group: int) -> tuple[int, ...]:
        """Return the nodes with a replica of a group, preferred leader first."""
        return group_members(group, self.nodes, self.cluster.replication)

    def local_groups(self) -> list[int]:
        """Return the groups that this node has a replica of, ascending."""
        return groups_of_node(
            self.node.id, self.nodes, self.cluster.groups, self.cluster.replication
        )
