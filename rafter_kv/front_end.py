"""What a connection needs from the server around it: the `FrontEnd`, and the values it hands out.

`rafterd` implements `FrontEnd` once per shard; tests implement it over a plain state machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from rafter_kv.connection import RespConnection
    from rafter_kv.reply_slot import Gather, ReplySlot


class ClientLimits(NamedTuple):
    """Bounds of the client side of one shard. Nothing a client sends can exceed them.

    `unanswered_commands_max` and `unanswered_bytes_max` stop reading from a connection until half
    of them are answered; `write_buffer_bytes_max` does so for a client that does not read.
    """

    connections_max: int = 10_000
    query_buffer_bytes_max: int = 64 * 1024 * 1024
    bulk_bytes_max: int = 512 * 1024 * 1024
    value_bytes_max: int = 8 * 1024 * 1024
    key_bytes_max: int = 64 * 1024
    unanswered_commands_max: int = 8192
    unanswered_bytes_max: int = 16 * 1024 * 1024
    write_buffer_bytes_max: int = 1024 * 1024
    linger_seconds: float = 1.0


class NodeView(NamedTuple):
    """A node as clients reach it: shard i listens on `shard_ports[i]`, all shards on `port`."""

    node: int
    host: str
    port: int
    peer_port: int
    shard_ports: tuple[int, ...]


class GroupView(NamedTuple):
    """A group, the slots `slot_first` to `slot_last` that it serves, and its replicas' nodes.

    `leader` is 0 while none is known.
    """

    group: int
    slot_first: int
    slot_last: int
    leader: int
    term: int
    replicas: tuple[int, ...]


class ClusterView(NamedTuple):
    """The cluster as this shard sees it now; nodes in order of their ids, groups of theirs.

    A node whose shard count is not known yet has one shard port: its base port.
    """

    cluster_id: int
    node: int
    shard: int
    nodes: tuple[NodeView, ...]
    groups: tuple[GroupView, ...]


class ClientRegistry:
    """The connections of one shard, by client id, and the counters that they keep.

    All counters only grow. Bounded by `connections_max`.
    """

    __slots__ = (
        "commands_total",
        "connections",
        "connections_max",
        "connections_total",
        "protocol_errors_total",
        "rejected_total",
        "request_bytes_total",
    )

    def __init__(self, connections_max: int) -> None:
        self.connections_max = connections_max
        self.connections: dict[int, RespConnection] = {}
        self.connections_total = 0
        self.rejected_total = 0
        self.commands_total = 0
        self.request_bytes_total = 0
        self.protocol_errors_total = 0

    def add(self, client_id: int, connection: RespConnection) -> bool:
        """Enter a new connection; False if there are as many as there may be."""
        self.connections_total += 1
        if len(self.connections) >= self.connections_max:
            self.rejected_total += 1
            return False
        self.connections[client_id] = connection
        return True

    def remove(self, client_id: int) -> None:
        """Forget a connection that is lost; it may be unknown."""
        self.connections.pop(client_id, None)


class FrontEnd(Protocol):
    """The server behind a shard's connections. Called on the loop's thread only."""

    @property
    def group_by_slot(self) -> Sequence[int]:
        """The group that serves each of the 16384 slots."""

    @property
    def groups(self) -> Sequence[int]:
        """The data groups in ascending order."""

    @property
    def limits(self) -> ClientLimits:
        """What clients may do; a connection reads it when it is made."""

    @property
    def clients(self) -> ClientRegistry:
        """The connections of this shard."""

    def submit(
        self,
        group: int,
        command: list[bytes],
        is_write: bool,  # positional on the hot path
        slot: ReplySlot | Gather,
        position: int,
    ) -> None:
        """Execute one command of one group; takes over `command`, whose name is canonical.

        Fills `slot.replies[position]`, takes one from `slot.waiting` and at zero calls
        `slot.complete()`, exactly once and possibly before it returns. Commands of one connection
        to one group take effect in the order of the calls. Never raises: what cannot be done is an
        error result.
        """

    def touch(self, connection: RespConnection) -> None:
        """Ask for one `connection.flush_replies()` at the end of this iteration of the loop."""

    def request_status(self, slot: ReplySlot, position: int) -> None:
        """Fill the position, as `submit` does, with the map that RAFTER.STATUS answers."""

    def request_replacement(self, node: int, slot: ReplySlot, position: int) -> None:
        """Have a node replaced, and fill the position with +OK, or with an error that says why not.

        It returns as soon as that is decided for good; the replacement itself takes its time.
        """

    def cluster_view(self) -> ClusterView:
        """Return the nodes and groups as known now."""

    def server_info(self) -> Mapping[str, Mapping[str, object]]:
        """Return node-wide fields of INFO by section, such as {"Stats": {…}, "Raft": {…}}.

        They override or add to what `server_commands_info` answers by itself.
        """

    def configuration(self) -> Mapping[str, str]:
        """Return the parameters that CONFIG GET shows, besides those it derives from `limits`."""

    def reset_statistics(self) -> None:
        """Let the counters that `server_info` shows begin at zero again (CONFIG RESETSTAT)."""

    def next_client_id(self) -> int:
        """Return a positive id that no other connection of this node has had."""
