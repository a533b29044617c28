"""Messages of any number of groups, from one node to one other, as one item for msgpack.

The item is [to, sender, heads, extras, entries]:

- `heads` are bytes, _HEAD for each message: kind, flags, group, term, log term, index, commit,
  reject hint and body. The body of an APPEND or a PROPOSE is the number of its entries, that of a
  request for votes the priority; any other's is 0.
- `extras` hold what few messages have, in their order: the context of each with the flag for it,
  and the snapshot of each SNAPSHOT.
- `entries` hold those of all messages in turn, as [term, kind, payload, ...]. An APPEND's follow
  its index. A PROPOSE's have no place in a log yet, and terms of 0.

A node has a round's messages of all its groups for another at once. Numbers of a fixed length need
no look at their type, and only one comparison for their range: for a message of no entries, that is
half of what it costs to take it in.

Decoding trusts nothing, as in `serializer`: what is not exactly what encoding makes of something is
a DecodeError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from rafter_core.entries import NO_NODE, NUMBER_MAX, Entry, EntryKind
from rafter_core.errors import DecodeError, InvariantError
from rafter_core.messages import (
    APPEND,
    ENTRIES_MAX,
    KINDS,
    MESSAGES_MAX,
    PRE_VOTE,
    PROPOSE,
    REMOTE_KINDS,
    SNAPSHOT,
    VOTE,
    Message,
)
from rafter_core.serializer import (
    entries_at,
    entry_items,
    snapshot_from_wire,
    snapshot_to_wire,
)

_PARTS = 5
_HEAD = struct.Struct("<BB7q")
_REJECT = 1
_CONTEXT = 2
_KIND_BY_BYTE = tuple(
    KINDS[number] if number < len(KINDS) and KINDS[number] in REMOTE_KINDS else None
    for number in range(256)
)
_HAS_BODY: tuple[bool, ...] = tuple(
    kind not in REMOTE_KINDS or kind in (VOTE, PRE_VOTE, SNAPSHOT) for kind in KINDS
)
"""By the number of a kind that has no entries: whether more than its fields is to be looked at."""
_ENTRY_KINDS: tuple[EntryKind, ...] = tuple(EntryKind)
_NO_ENTRIES: tuple[Entry, ...] = ()
_NOTHING = object()
_new_message = object.__new__


# Out ----------------------------------------------------------------------------------------------


def messages_to_wire(messages: Sequence[tuple[int, Message]]) -> list[object]:
    """Return (group, message) pairs, at least one and at most MESSAGES_MAX, as one array.

    Payloads are shared, not copied. Raises InvariantError for messages that are not from one node
    to one other, for a kind that never travels, and for what could not be decoded. `vote` and
    `responses` are left out: no kind that travels has them.
    """
    first = messages[0][1]
    to, sender = first.to, first.sender
    heads: list[bytes] = []
    extras: list[object] = []
    entries: list[Entry] = []
    pack = _HEAD.pack
    for group, message in messages:
        if message.to != to or message.sender != sender:
            raise InvariantError(f"{message} of group {group} cannot go from {sender} to {to}")
        kind = message.kind
        flags = body = 0
        if message.reject:
            flags = _REJECT
        if message.context:
            flags |= _CONTEXT
            extras.append(message.context)
        its_entries = message.entries
        if its_entries:
            # They leave without their indexes.
            if kind is not APPEND or its_entries[0].index != message.index + 1:
                _check_entries(message)
            entries += its_entries
            body = len(its_entries)
        elif _HAS_BODY[kind]:
            body = _body(message, extras)
        try:
            head = pack(
                kind, flags, group, message.term, message.log_term, message.index, message.commit,
                message.reject_hint, body,
            )  # fmt: skip
        except struct.error as error:
            raise InvariantError(f"{message} of group {group}: {error}") from error
        heads.append(head)
    return [to, sender, b"".join(heads), extras, entry_items(entries)]


def _check_entries(message: Message) -> None:
    """Refuse entries that are neither proposals nor those that follow the index of an APPEND."""
    if message.kind is not PROPOSE:
        raise InvariantError(f"{message} cannot have these entries: {message.entries!r:.200}")


def _body(message: Message, extras: list[object]) -> int:
    """Return the body of a message without entries, after adding its snapshot to `extras`."""
    kind = message.kind
    if kind is VOTE or kind is PRE_VOTE:
        return message.priority
    if kind is not SNAPSHOT:
        raise InvariantError(f"a message of kind {kind.name} was to leave its node")
    if message.snapshot is None:
        raise InvariantError("a SNAPSHOT message was to leave without its snapshot")
    extras.append(snapshot_to_wire(message.snapshot))
    return 0


# In -----------------------------------------------------------------------------------------------


def messages_from_wire(item: object) -> list[tuple[int, Message]]:
    """Return the (group, message) pairs of an item, at least one. Raises DecodeError.

    They are of REMOTE_KINDS, and all from one node to one other. Whether a message makes sense
    (sender, term, and which fields its kind uses) is RawNode.step's to judge.
    """
    to, sender, heads, extra_items, entries = _parts(item)
    extras = iter(extra_items)
    position = 0
    messages: list[tuple[int, Message]] = []
    for number, flags, group, term, log_term, index, commit, hint, body in _HEAD.iter_unpack(heads):
        # One comparison for all: a negative number makes the whole negative.
        if (group | term | log_term | index | commit | hint | body) < 0:
            raise DecodeError("a number in a message is out of range")
        kind = _KIND_BY_BYTE[number]
        if kind is None:
            raise _wrong_kind(number)
        # Storing the fields one by one takes a quarter of the time of the constructor with
        # keywords.
        message = _new_message(Message)
        message.kind = kind
        message.to = to
        message.sender = sender
        message.term = term
        message.log_term = log_term
        message.index = index
        message.commit = commit
        message.reject_hint = hint
        message.reject = False
        message.context = b""
        message.entries = _NO_ENTRIES
        message.priority = 0
        message.snapshot = None
        message.vote = NO_NODE
        message.responses = ()
        if flags:
            _set_flags(message, flags, extras)
        if kind is APPEND or kind is PROPOSE:
            if body:
                begin = position
                position += 3 * body
                if body > ENTRIES_MAX or position > len(entries):
                    raise _too_many_entries(body)
                if kind is APPEND:
                    message.entries = entries_at(entries, begin, position, index + 1)
                else:
                    message.entries = _proposals_at(entries, begin, position)
        elif body or kind is SNAPSHOT:
            _set_body(message, body, extras)
        messages.append((group, message))
    if position != len(entries) or next(extras, _NOTHING) is not _NOTHING:
        raise DecodeError("there is more in an item than its messages have")
    return messages


def _parts(item: object) -> tuple[int, int, bytes, list[Any], list[Any]]:
    """Return the parts of an item."""
    if type(item) is not list or len(item) != _PARTS:
        raise DecodeError(f"messages are not an array of {_PARTS} parts")
    to, sender, heads, extras, entries = item
    if type(to) is not int or type(sender) is not int or not 0 <= (to | sender) <= NUMBER_MAX:
        raise DecodeError("messages go from no node, or to none")
    if type(heads) is not bytes or not heads or len(heads) % _HEAD.size:
        raise DecodeError(f"the heads of messages are not {_HEAD.size} bytes for each")
    if len(heads) > MESSAGES_MAX * _HEAD.size:
        raise DecodeError(f"an item has more than {MESSAGES_MAX} messages")
    if type(extras) is not list:
        raise DecodeError(f"the extras of messages are {type(extras).__name__}, not an array")
    if type(entries) is not list:
        raise DecodeError(f"the entries of messages are {type(entries).__name__}, not an array")
    return to, sender, heads, extras, entries


def _wrong_kind(number: int) -> DecodeError:
    if number >= len(KINDS):
        return DecodeError(f"message kind {number} is unknown")
    return DecodeError(f"messages of kind {KINDS[number].name} do not travel")


def _too_many_entries(count: int) -> DecodeError:
    if count > ENTRIES_MAX:
        return DecodeError(f"a message has {count} entries, more than {ENTRIES_MAX}")
    return DecodeError(f"a message has {count} entries, more than are left")


def _set_flags(message: Message, flags: int, extras: Iterator[object]) -> None:
    """Store in a message what its flags stand for."""
    if flags > _REJECT | _CONTEXT:
        raise DecodeError(f"the flags of a message are {flags}")
    message.reject = bool(flags & _REJECT)
    if flags & _CONTEXT:
        context = next(extras, None)
        if type(context) is not bytes or not context:
            raise DecodeError("the context of a message is missing, empty or not bytes")
        message.context = context


def _set_body(message: Message, body: int, extras: Iterator[object]) -> None:
    """Store in a message that can have no entries what its body stands for."""
    kind = message.kind
    if kind is VOTE or kind is PRE_VOTE:
        message.priority = body
    elif body:
        raise DecodeError(f"a message of kind {kind.name} has no entries")
    else:
        message.snapshot = snapshot_from_wire(next(extras, None))


def _proposals_at(items: list[Any], begin: int, end: int) -> list[Entry]:
    """Return the entries of a forwarded proposal: without term and index, with their payload."""
    entries: list[Entry] = []
    for position in range(begin, end, 3):
        term, kind, payload = items[position : position + 3]
        if type(term) is not int or term != 0:
            raise DecodeError("the term of a proposal is not 0")
        if type(payload) is not bytes:
            raise DecodeError(f"the payload of a proposal is {type(payload).__name__}, not bytes")
        if type(kind) is not int or not 0 <= kind < EntryKind.STRIPPED:
            raise DecodeError("the kind of a proposal is unknown")
        entries.append(Entry(0, 0, _ENTRY_KINDS[kind], payload))
    return entries
