"""What shards tell each other about the cluster's map, on the channel CLUSTER_MAP."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from rafter_core import DecodeError
from rafterd.cluster_map import MapState, NodeId, NodeRecord, Progress, Replacement, Word
from rafterd.config_schema import NODES_MAX

__all__ = [
    "Asked",
    "Message",
    "Publication",
    "ReplaceAnswer",
    "message_from_wire",
    "publication_of",
]


class Publication(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="map"
):
    """From shard 0 to its sisters: what registries are made of, and which nodes are replaced."""

    version: Word
    nodes: Annotated[list[NodeRecord], Meta(max_length=NODES_MAX)]
    replacements: Annotated[list[Replacement], Meta(max_length=NODES_MAX)] = []


class Asked(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="replace"
):
    """From any shard to the leader of the system group: replace a node. `number` is the asker's."""

    number: Word
    node: NodeId
    incarnation: Word


class ReplaceAnswer(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="replaced"
):
    """The answer: recorded in the map, or why not."""

    number: Word
    refusal: Annotated[str, Meta(max_length=1024)] | None


Message = Publication | Progress | Asked | ReplaceAnswer


def message_from_wire(item: object) -> Message:
    """Return the message that an item is. Raises DecodeError."""
    try:
        message: Message = msgspec.convert(item, Message)
    except msgspec.ValidationError as error:
        raise DecodeError(f"this is no message about the cluster's map: {error}") from error
    return message


def publication_of(state: MapState) -> Publication:
    """Return what the shards of a node are told of a map."""
    return Publication(state.version, list(state.nodes.values()), list(state.replacements.values()))
