"""One encoding of entries, messages and snapshots, in msgpack, for disk and wire alike.

- Entries are one flat array: [first index, term, kind, payload, term, kind, payload, ...]. Indexes
  are contiguous by construction. The entries of a proposal have no place in a log yet: their first
  index and their terms are all 0, and are so nowhere else.
- A message is an array of twelve: [group, kind, to, sender, term, log term, index, commit, reject,
  reject hint, context, entries]. Requests for votes have a thirteenth item, the priority; a
  SNAPSHOT has one, the snapshot. No other kind has more, and only kinds that travel are known.
- A membership is [voters, outgoing voters, learners, next learners, auto leave, witnesses], each
  but the flag an array of node ids. A snapshot is [index, term, membership, data].

Payloads and data are opaque: they are packed once, with the array around them, and never looked at.

Decoding trusts nothing: types are exact (a bool is no number), numbers in range, terms never fall,
counts are bounded and nothing is left over. Anything else is a DecodeError, and nothing but a
DecodeError is ever raised. Every array is taken apart at a known depth; there is no recursion.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgpack

from rafter_core.entries import NO_NODE, NUMBER_MAX, Entry, EntryKind
from rafter_core.errors import DecodeError, InvariantError
from rafter_core.membership import MEMBERS_MAX, Membership
from rafter_core.messages import (
    APPEND,
    ENTRIES_MAX,
    KINDS,
    PRE_VOTE,
    PROPOSE,
    REMOTE_KINDS,
    SNAPSHOT,
    VOTE,
    Message,
)
from rafter_core.snapshot import Snapshot

MEMBERSHIP_FORMAT = 1
"""The version that stands before a membership on its own, on disk."""

_MEMBERSHIP_BYTES_MAX = 1 << 14  # five lists of MEMBERS_MAX numbers of nine bytes are 11.5 KiB
_ENTRY_KINDS: tuple[EntryKind, ...] = tuple(EntryKind)
_NORMAL = EntryKind.NORMAL
_STRIPPED = EntryKind.STRIPPED
_NO_ENTRIES: tuple[Entry, ...] = ()
_new_message = object.__new__
_new_tuple = tuple.__new__

_COLUMNS_MIN = 8
"""From so many entries on, encoding by columns pays."""

_MESSAGE_ITEMS = 12
_KIND_COUNT = len(KINDS)
_ITEMS_BY_KIND: tuple[int, ...] = tuple(
    0 if kind not in REMOTE_KINDS else _MESSAGE_ITEMS + (kind in (VOTE, PRE_VOTE, SNAPSHOT))
    for kind in KINDS
)
"""The length of a message by the number of its kind; 0 if the kind never travels."""
_IS_PLAIN: tuple[bool, ...] = tuple(items == _MESSAGE_ITEMS for items in _ITEMS_BY_KIND)


# Entries ------------------------------------------------------------------------------------------


def entries_to_wire(entries: Sequence[Entry]) -> list[object]:
    """Return the flat array of contiguous entries, or of proposals; an empty array for none."""
    if not entries:
        return []
    if len(entries) >= _COLUMNS_MIN:
        return _columns_to_wire(entries)
    items: list[object] = [entries[0].index]
    for term, _, kind, payload in entries:
        items += (term, +kind, payload)  # +: a plain int of an enumeration
    return items


def _columns_to_wire(entries: Sequence[Entry]) -> list[object]:
    """Do the same column by column: for many entries several times faster than one by one.

    And without one container more for each entry, as `zip(*entries)` would make them: those set off
    the garbage collector, which takes longer than all of this.
    """
    items: list[Any] = list(chain.from_iterable(entries))
    items[0], items[1] = items[1], items[0]
    del items[5::4]  # the indexes, but the first
    kinds = items[2::3]
    items[2::3] = [+kind for kind in kinds] if any(kinds) else [0] * len(kinds)
    return items


def entries_from_wire(items: object) -> list[Entry]:
    """Return the entries of a flat array, checked one by one. Raises DecodeError."""
    size = _check_length(items)
    if size == 0:
        return []
    assert type(items) is list
    index = items[0]
    if type(index) is not int or not 1 <= index <= NUMBER_MAX - size:
        raise DecodeError("the first index of entries is out of range")
    entries: list[Entry] = []
    last_term = 1
    position = 1
    # Most messages have one entry: so no range, and no method bound in advance.
    while position < size:
        term = items[position]
        kind = items[position + 1]
        payload = items[position + 2]
        if type(term) is not int or not last_term <= term <= NUMBER_MAX:
            raise DecodeError(f"the term of entry {index} is out of range or falls")
        if type(payload) is not bytes:
            raise DecodeError(
                f"the payload of entry {index} is {type(payload).__name__}, not bytes"
            )
        if kind or type(kind) is not int:
            kind = _other_kind(index, kind, payload)
        else:
            kind = _NORMAL
        # Entry(...) would go through a Python-level constructor, three times as slow.
        entries.append(_new_tuple(Entry, (term, index, kind, payload)))
        last_term = term
        index += 1
        position += 3
    return entries


def _check_length(items: object) -> int:
    """Return the length of an array of entries, if an array of entries can have it."""
    if type(items) is not list:
        raise DecodeError(f"entries are {type(items).__name__}, not an array")
    size = len(items)
    if size == 1 or (size % 3 != 1 and size):
        raise DecodeError(f"an array of entries cannot have {size} items")
    return size


def _other_kind(index: int, kind: object, payload: bytes) -> EntryKind:
    """Return the kind of an entry that is not a NORMAL one."""
    if type(kind) is not int or not 0 <= kind < len(_ENTRY_KINDS):
        raise DecodeError(f"the kind of entry {index} is unknown")
    if kind == _STRIPPED and payload:
        raise DecodeError(f"entry {index} is stripped and has a payload")
    return _ENTRY_KINDS[kind]


def pack_entries(entries: Sequence[Entry]) -> bytes:
    """Return the encoding of contiguous entries: the body of a log record."""
    packed: bytes = msgpack.packb(entries_to_wire(entries))
    return packed


def unpack_entries(data: bytes | memoryview) -> list[Entry]:
    """Decode what `pack_entries` wrote, all of it and nothing more. Raises DecodeError.

    Their number is bounded by the length of `data` alone: what was stored can be read.
    """
    return entries_from_wire(_unpack(data))


# Messages -----------------------------------------------------------------------------------------


def message_to_wire(group: int, message: Message) -> list[object]:
    """Return a message as an array for msgpack, payloads shared, not copied.

    Raises InvariantError for a kind that never travels, and for a snapshot that cannot be decoded.
    `vote` and `responses` are left out: no kind that travels has them.
    """
    kind = +message.kind
    entries = message.entries
    items: list[object] = [
        group,
        kind,
        message.to,
        message.sender,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.reject,
        message.reject_hint,
        message.context,
        entries_to_wire(entries) if entries else [],
    ]
    if not _IS_PLAIN[kind]:
        items.append(_last_item(message))
    return items


def _last_item(message: Message) -> object:
    """Return the thirteenth item of a message that has one."""
    kind = message.kind
    if kind is VOTE or kind is PRE_VOTE:
        return message.priority
    if kind is not SNAPSHOT:
        raise InvariantError(f"a message of kind {kind.name} was to leave its node")
    if message.snapshot is None:
        raise InvariantError("a SNAPSHOT message was to leave without its snapshot")
    return snapshot_to_wire(message.snapshot)


def message_from_wire(item: object) -> tuple[int, Message]:
    """Return (group, message), every type and range checked. Raises DecodeError.

    The kind is one of REMOTE_KINDS. Whether the message makes sense (sender, term, and which fields
    its kind uses) is RawNode.step's to judge.
    """
    if type(item) is not list or not _MESSAGE_ITEMS <= len(item) <= _MESSAGE_ITEMS + 1:
        raise DecodeError(f"a message is not an array of {_MESSAGE_ITEMS} items or one more")
    size = len(item)
    last: object = None
    if size != _MESSAGE_ITEMS:
        *item, last = item
    group, kind, to, sender, term, log_term, index, commit, reject, hint, context, items = item
    if not (
        type(group) is int
        and type(kind) is int
        and type(to) is int
        and type(sender) is int
        and type(term) is int
        and type(log_term) is int
        and type(index) is int
        and type(commit) is int
        and type(hint) is int
        and type(reject) is bool
        and type(context) is bytes
    ):
        raise DecodeError("a field of a message has the wrong type")
    # One comparison for all: a negative number makes the whole negative, and NUMBER_MAX is all
    # ones.
    if not 0 <= (group | to | sender | term | log_term | index | commit | hint) <= NUMBER_MAX:
        raise DecodeError("a number in a message is out of range")
    if not 0 <= kind < _KIND_COUNT or _ITEMS_BY_KIND[kind] != size:
        raise _wrong_kind(kind, size)
    # Storing the fields one by one takes a quarter of the time of the constructor with keywords.
    message = _new_message(Message)
    message.kind = KINDS[kind]
    message.to = to
    message.sender = sender
    message.term = term
    message.log_term = log_term
    message.index = index
    message.commit = commit
    message.reject = reject
    message.reject_hint = hint
    message.context = context
    # Entries need no copy of their own index here: step compares them with `index`.
    if items or type(items) is not list:
        message.entries = _message_entries(kind, items)
    else:
        message.entries = _NO_ENTRIES
    message.priority = 0
    message.snapshot = None
    message.vote = NO_NODE
    message.responses = ()
    if size != _MESSAGE_ITEMS:
        _set_last_item(message, last)
    return group, message


def _wrong_kind(kind: int, size: int) -> DecodeError:
    if not 0 <= kind < _KIND_COUNT:
        return DecodeError(f"message kind {kind} is unknown")
    if _ITEMS_BY_KIND[kind] == 0:
        return DecodeError(f"messages of kind {KINDS[kind].name} do not travel")
    return DecodeError(f"a message of kind {KINDS[kind].name} does not have {size} items")


def _message_entries(kind: int, items: object) -> list[Entry]:
    """Return the entries of a message that has some, as its kind allows."""
    size = _check_length(items)
    if size > 1 + 3 * ENTRIES_MAX:
        raise DecodeError(f"a message has {size // 3} entries, more than {ENTRIES_MAX}")
    if kind == APPEND:
        return entries_from_wire(items)
    if kind == PROPOSE:
        return _proposals_from_wire(items)
    raise DecodeError(f"a message of kind {KINDS[kind].name} has no entries")


def _proposals_from_wire(items: object) -> list[Entry]:
    """Return the entries of a forwarded proposal: without term and index, with their payload."""
    assert type(items) is list
    if type(items[0]) is not int or items[0] != 0:
        raise DecodeError("the first index of proposals is not 0")
    entries: list[Entry] = []
    for position in range(1, len(items), 3):
        term, kind, payload = items[position : position + 3]
        if type(term) is not int or term != 0:
            raise DecodeError("the term of a proposal is not 0")
        if type(payload) is not bytes:
            raise DecodeError(f"the payload of a proposal is {type(payload).__name__}, not bytes")
        if type(kind) is not int or not 0 <= kind < _STRIPPED:
            raise DecodeError("the kind of a proposal is unknown")
        entries.append(Entry(0, 0, _ENTRY_KINDS[kind], payload))
    return entries


def _set_last_item(message: Message, last: object) -> None:
    """Store the thirteenth item of a message whose kind has one."""
    if message.kind is SNAPSHOT:
        message.snapshot = snapshot_from_wire(last)
        return
    if type(last) is not int or not 0 <= last <= NUMBER_MAX:
        raise DecodeError("the priority of a candidate is out of range")
    message.priority = last


# Snapshots and memberships ------------------------------------------------------------------------


def snapshot_to_wire(snapshot: Snapshot) -> list[object]:
    """Return a snapshot as an array for msgpack. Raises InvariantError if it is not decodable."""
    index, term, membership, data = snapshot
    if not (1 <= index <= NUMBER_MAX and 1 <= term <= NUMBER_MAX and membership.voters):
        raise InvariantError(f"a snapshot of nothing, or for nobody, was to be encoded: {snapshot}")
    return [index, term, membership_to_wire(membership), data]


def snapshot_from_wire(item: object) -> Snapshot:
    """Return a snapshot of at least one entry and one voter, all checked. Raises DecodeError."""
    if type(item) is not list or len(item) != 4:
        raise DecodeError("a snapshot is not an array of 4 items")
    index, term, members, data = item
    if type(index) is not int or not 1 <= index <= NUMBER_MAX:
        raise DecodeError("the index of a snapshot is out of range")
    if type(term) is not int or not 1 <= term <= NUMBER_MAX:
        raise DecodeError("the term of a snapshot is out of range")
    if type(data) is not bytes:
        raise DecodeError(f"the data of a snapshot is {type(data).__name__}, not bytes")
    membership = membership_from_wire(members)
    if not membership.voters:
        # An empty half counts as agreeing: with nobody to ask, every election would be won.
        raise DecodeError("a snapshot has no voters")
    return Snapshot(index, term, membership, data)


def membership_to_wire(membership: Membership) -> list[object]:
    """Return a membership as an array for msgpack. Raises InvariantError if it is not decodable."""
    fault = membership.fault()
    if fault is not None:
        raise InvariantError(f"a membership was to be encoded that is none: {fault:.200}")
    voters, outgoing, learners, learners_next, auto_leave, witnesses = membership
    return [
        list(voters),
        list(outgoing),
        list(learners),
        list(learners_next),
        auto_leave,
        list(witnesses),
    ]


def membership_from_wire(item: object) -> Membership:
    """Return a membership without fault and of at most MEMBERS_MAX nodes. Raises DecodeError."""
    if type(item) is not list or len(item) != 6:
        raise DecodeError("a membership is not an array of 6 items")
    voters, outgoing, learners, learners_next, auto_leave, witnesses = item
    if type(auto_leave) is not bool:
        raise DecodeError(f"auto_leave is {type(auto_leave).__name__}, not a bool")
    membership = Membership(
        _nodes_from_wire(voters),
        _nodes_from_wire(outgoing),
        _nodes_from_wire(learners),
        _nodes_from_wire(learners_next),
        auto_leave,
        _nodes_from_wire(witnesses),
    )
    fault = membership.fault()
    if fault is not None:
        raise DecodeError(f"a membership is none: {fault:.200}")
    return membership


def _nodes_from_wire(items: object) -> tuple[int, ...]:
    if type(items) is not list or len(items) > MEMBERS_MAX:
        raise DecodeError(f"the nodes of a membership are not an array of at most {MEMBERS_MAX}")
    for node in items:
        if type(node) is not int or not 1 <= node <= NUMBER_MAX:
            raise DecodeError("the id of a node in a membership is out of range")
    return tuple(items)


def pack_membership(membership: Membership) -> bytes:
    """Return the encoding of a membership on its own, its format first: for disk."""
    packed: bytes = msgpack.packb([MEMBERSHIP_FORMAT, *membership_to_wire(membership)])
    return packed


def unpack_membership(data: bytes | memoryview) -> Membership:
    """Decode what `pack_membership` wrote, all of it and nothing more. Raises DecodeError."""
    if len(data) > _MEMBERSHIP_BYTES_MAX:
        raise DecodeError(f"a membership cannot have {len(data)} bytes")
    items = _unpack(data)
    if type(items) is not list or not items or type(items[0]) is not int:
        raise DecodeError("a membership does not begin with the number of its format")
    if items[0] != MEMBERSHIP_FORMAT:
        raise DecodeError(
            f"a membership has format {items[0]}; this version reads {MEMBERSHIP_FORMAT}"
        )
    return membership_from_wire(items[1:])


def _unpack(data: bytes | memoryview) -> object:
    """Return the one msgpack value of arrays, numbers, flags and bytes that `data` is."""
    try:
        # msgpack bounds every length by that of the input, before it allocates, and the depth; what
        # has no place here is refused while reading.
        return msgpack.unpackb(data, max_str_len=0, max_map_len=0, max_ext_len=0)
    except (
        ValueError, TypeError, OverflowError, RecursionError, MemoryError, msgpack.UnpackException,
    ) as error:  # fmt: skip
        # Not its repr: that holds what was decoded, however long and however deeply nested.
        raise DecodeError(f"this is not msgpack: {type(error).__name__}: {error}") from error
