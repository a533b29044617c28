"""Heartbeats of many groups in one item, as TiKV and CockroachDB coalesce them.

The item is [to, sender, group, kind, term, commit, context, group, kind, …]. A node with many idle
groups sends little else. Apart, each heartbeat is an item of its own to post, pack and hand out, an
array of twelve of which five say anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from rafter_core.entries import NO_NODE, NUMBER_MAX, Entry
from rafter_core.errors import DecodeError, InvariantError
from rafter_core.messages import HEARTBEAT, HEARTBEAT_RESPONSE, Message

HEARTBEATS_MAX = 1 << 16
"""Heartbeats in one item, for the same reason as ENTRIES_MAX."""

_HEAD_ITEMS = 2
_ITEMS = 5
_NO_ENTRIES: tuple[Entry, ...] = ()
_new_message = object.__new__
_KINDS = {+HEARTBEAT: HEARTBEAT, +HEARTBEAT_RESPONSE: HEARTBEAT_RESPONSE}


def is_heartbeat(message: Message) -> bool:
    """Whether the message is one that `heartbeats_to_wire` takes."""
    kind = message.kind
    return kind is HEARTBEAT or kind is HEARTBEAT_RESPONSE


def heartbeats_to_wire(heartbeats: Sequence[tuple[int, Message]]) -> list[object]:
    """Return (group, message) pairs, at least one, as one array for msgpack.

    All are HEARTBEAT or HEARTBEAT_RESPONSE, from one node to one other. Raises InvariantError for
    anything else, and for a message with a field that the form has no place for.
    """
    first = heartbeats[0][1]
    to, sender = first.to, first.sender
    items: list[object] = [to, sender]
    for group, message in heartbeats:
        kind = message.kind
        if (
            (kind is not HEARTBEAT and kind is not HEARTBEAT_RESPONSE)
            or message.to != to
            or message.sender != sender
            or message.index
            or message.log_term
            or message.entries
            or message.reject
            or message.reject_hint
        ):
            raise InvariantError(f"{message} of group {group} cannot go with heartbeats")
        items += (group, +kind, message.term, message.commit, message.context)
    return items


def heartbeats_from_wire(item: object) -> list[tuple[int, Message]]:
    """Return the (group, message) pairs of an item, every type and range checked.

    Raises DecodeError. Whether a message makes sense is RawNode.step's to judge.
    """
    if type(item) is not list:
        raise DecodeError(f"heartbeats are {type(item).__name__}, not an array")
    size = len(item)
    if (size - _HEAD_ITEMS) % _ITEMS or not _ITEMS < size <= _HEAD_ITEMS + HEARTBEATS_MAX * _ITEMS:
        raise DecodeError(f"an array of heartbeats cannot have {size} items")
    to, sender = item[:_HEAD_ITEMS]
    if type(to) is not int or type(sender) is not int or not 0 <= (to | sender) <= NUMBER_MAX:
        raise DecodeError("heartbeats go from no node, or to none")
    heartbeats: list[tuple[int, Message]] = []
    for position in range(_HEAD_ITEMS, size, _ITEMS):
        group, kind, term, commit, context = item[position : position + _ITEMS]
        if not (
            type(group) is int
            and type(kind) is int
            and type(term) is int
            and type(commit) is int
            and type(context) is bytes
        ):
            raise DecodeError("a field of a heartbeat has the wrong type")
        if not 0 <= (group | term | commit) <= NUMBER_MAX:
            raise DecodeError("a number in a heartbeat is out of range")
        if kind not in _KINDS:
            raise DecodeError(f"a message of kind {kind} stands among heartbeats")
        # As in the serializer: a quarter of the time of the constructor with keywords.
        message = _new_message(Message)
        message.kind = _KINDS[kind]
        message.to = to
        message.sender = sender
        message.term = term
        message.log_term = message.index = message.reject_hint = message.priority = 0
        message.commit = commit
        message.reject = False
        message.context = context
        message.entries = _NO_ENTRIES
        message.snapshot = None
        message.vote = NO_NODE
        message.responses = ()
        heartbeats.append((group, message))
    return heartbeats
