"""The cluster's map: which nodes and groups there are, and the commands that change it.

Values and their one encoding, for the log of the system group and its snapshots. Everything is a
msgpack array behind a format number; what has another shape than its type is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from rafter_core import DecodeError
from rafter_kv.slots import slot_ranges
from rafter_transport.handshake import Hello
from rafter_transport.registry import NodeInfo
from rafterd.config_schema import GROUPS_MAX, NODES_MAX, Config

FORMAT: Literal[1] = 1
SNAPSHOT_NAME: Literal["rafter-map"] = "rafter-map"

NodeId = Annotated[int, Meta(ge=1, le=65535)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Host = Annotated[str, Meta(max_length=255)]
Group = Annotated[int, Meta(ge=0, le=GROUPS_MAX)]
Slot = Annotated[int, Meta(ge=0, le=16383)]
Word = Annotated[int, Meta(ge=0)]
"""Up to 64 bits: no more come out of msgpack."""


class NodeRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One node. `incarnation` 0: it has not been entered yet, only its address is known.

    `host` and `base_port` are where shard 0 is dialled by other nodes; `client_host` and
    `client_port` are where clients find all its shards.
    """

    node: NodeId
    incarnation: Word
    host: Host
    base_port: Port
    shards: Annotated[int, Meta(ge=0, le=1024)] = 0
    client_host: Host = ""
    client_port: Port = 0

    def info(self) -> NodeInfo:
        """Return what the registry is to know of it."""
        return NodeInfo(
            self.node,
            self.host,
            self.base_port,
            self.shards or None,
            self.incarnation or None,
            self.client_host or None,
            self.client_port or None,
        )


class GroupRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One data group: its slots, both ends included, and its members, preferred leader first."""

    group: Group
    first_slot: Slot
    last_slot: Slot
    members: Annotated[list[NodeId], Meta(max_length=NODES_MAX)]


class Found(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="found"):
    """Make the map, from the configuration of the first leader."""

    nodes: Annotated[list[NodeRecord], Meta(max_length=NODES_MAX)]
    groups: Annotated[list[GroupRecord], Meta(max_length=GROUPS_MAX)]


class Announce(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="announce"
):
    """Enter what a node says of itself now."""

    record: NodeRecord


class Replace(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="replace"
):
    """Give up an incarnation of a node, so that another one can take its place."""

    node: NodeId
    incarnation: Word


class Phase(IntEnum):
    """How far the replacement of a node has come; the numbers are on disk.

    LEAVING: it is being taken out of its groups, and is still shut out. JOINING: it is a member of
    none of them any more, the next incarnation is let in, and is being made what the first was.
    """

    LEAVING = 1
    JOINING = 2


class Replacement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The replacement of a node that is under way.

    `incarnation` is the one given up; `pending` are the groups, ascending, in which the phase is
    not over; `admissions` counts the incarnations that were let in to take its place.
    """

    node: NodeId
    incarnation: Word
    phase: Phase
    pending: Annotated[list[Group], Meta(max_length=GROUPS_MAX + 1)]
    admissions: Annotated[int, Meta(ge=0)] = 0


class Progress(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="progress"
):
    """In some groups a phase of a replacement is over, as their leaders have seen it applied."""

    node: NodeId
    incarnation: Word
    phase: Phase
    groups: Annotated[list[Group], Meta(max_length=GROUPS_MAX + 1)]


Command = Found | Announce | Replace | Progress


class MapState(NamedTuple):
    """The map at one moment. Never changed; a command makes another one.

    `version` counts the changes. The mappings ascend.
    """

    version: int = 0
    nodes: Mapping[int, NodeRecord] = {}
    groups: Mapping[int, GroupRecord] = {}
    replacements: Mapping[int, Replacement] = {}


class _Image(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A snapshot of the map."""

    name: Literal["rafter-map"]
    format: Literal[1]
    version: Word
    nodes: list[NodeRecord]
    groups: list[GroupRecord]
    replacements: list[Replacement]


_encode = msgspec.msgpack.Encoder().encode
_command_decoder = msgspec.msgpack.Decoder(tuple[Literal[1], Command])
_image_decoder = msgspec.msgpack.Decoder(_Image)


def pack_command(command: Command) -> bytes:
    """Return the payload of the entry that proposes a command."""
    return _encode((FORMAT, command))


def unpack_command(payload: bytes) -> Command:
    """Return the command of an entry. Raises DecodeError for one of a later version, or damage."""
    try:
        return _command_decoder.decode(payload)[1]
    except msgspec.MsgspecError as error:
        raise DecodeError(f"a command for the cluster's map cannot be read: {error}") from error


def pack_image(state: MapState) -> bytes:
    """Return the snapshot of a map: equal for equal maps."""
    image = _Image(
        SNAPSHOT_NAME,
        FORMAT,
        state.version,
        list(state.nodes.values()),
        list(state.groups.values()),
        list(state.replacements.values()),
    )
    return _encode(image)


def unpack_image(data: bytes) -> MapState:
    """Return the map of a snapshot. Raises DecodeError."""
    try:
        image = _image_decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise DecodeError(f"a snapshot of the cluster's map cannot be read: {error}") from error
    nodes = {record.node: record for record in image.nodes}
    groups = {record.group: record for record in image.groups}
    replacements = {item.node: item for item in image.replacements}
    return MapState(image.version, nodes, groups, replacements)


def foundation(config: Config) -> Found:
    """Return the command that founds the map of a configuration."""
    nodes = [
        NodeRecord(node, 0, address.host, address.port) for node, address in config.nodes.items()
    ]
    groups = [
        GroupRecord(group, first, last, list(config.members(group)))
        for group, first, last in slot_ranges(config.cluster.groups)
    ]
    return Found(nodes, groups)


def record_of(hello: Hello, known: NodeRecord) -> NodeRecord:
    """Return the record of a node by what it says now; its address stays if it tells none."""
    has_address = hello.peer_port != 0
    return NodeRecord(
        hello.node_id,
        hello.incarnation,
        hello.peer_host if has_address else known.host,
        hello.peer_port if has_address else known.base_port,
        hello.shards,
        hello.client_host,
        hello.client_port,
    )
