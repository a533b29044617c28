"""One encoding of entries, memberships and snapshots, in msgpack, for disk and wire alike.

- Entries on disk are rows, each of which says its own place: [[term, index, kind, payload], ...].
  They were one flat array before: [first index, term, kind, payload, term, kind, payload, ...].
  Both are read. In messages the flat array goes on without its first index (`message_wire`).
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

from rafter_core.entries import NUMBER_MAX, Entry, EntryKind
from rafter_core.errors import DecodeError, InvariantError
from rafter_core.membership import MEMBERS_MAX, Membership
from rafter_core.snapshot import Snapshot

MEMBERSHIP_FORMAT = 1
"""The version that stands before a membership on its own, on disk."""

_MEMBERSHIP_BYTES_MAX = 1 << 14  # five lists of MEMBERS_MAX numbers of nine bytes are 11.5 KiB
_ENTRY_KINDS: tuple[EntryKind, ...] = tuple(EntryKind)
_NORMAL = EntryKind.NORMAL
_STRIPPED = EntryKind.STRIPPED
_new_tuple = tuple.__new__

_ROW_ITEMS = 4
_COLUMNS_MIN = 8
"""From so many entries on, encoding by columns pays."""


# Entries ------------------------------------------------------------------------------------------


def entry_items(entries: Sequence[Entry]) -> list[object]:
    """Return the terms, kinds and payloads of entries in turn."""
    if len(entries) >= _COLUMNS_MIN:
        return _columns(entries)
    items: list[object] = []
    for term, _, kind, payload in entries:
        items += (term, +kind, payload)  # +: a plain int of an enumeration
    return items


def _columns(entries: Sequence[Entry]) -> list[object]:
    """Do the same column by column: for many entries several times faster than one by one.

    And without one container more for each entry, as `zip(*entries)` would make them: those set off
    the garbage collector, which takes longer than all of this.
    """
    items: list[Any] = list(chain.from_iterable(entries))
    del items[1::4]  # the indexes
    kinds = items[1::3]
    items[1::3] = [+kind for kind in kinds] if any(kinds) else [0] * len(kinds)
    return items


def entries_from_wire(items: object) -> list[Entry]:
    """Return the entries of rows or of a flat array, checked one by one. Raises DecodeError."""
    if type(items) is not list:
        raise DecodeError(f"entries are {type(items).__name__}, not an array")
    if not items:
        return []
    if type(items[0]) is list:
        return _entries_of_rows(items)
    size = len(items)
    if size == 1 or size % 3 != 1:
        raise DecodeError(f"a flat array of entries cannot have {size} items")
    return entries_at(items, 1, size, items[0])


def _entries_of_rows(rows: list[Any]) -> list[Entry]:
    """Return the entries of rows, which must be contiguous."""
    if len(rows[0]) != _ROW_ITEMS:
        raise _bad_row()
    index = rows[0][1]
    if type(index) is not int or not 1 <= index < NUMBER_MAX - len(rows):
        raise _bad_first_index()
    entries: list[Entry] = []
    last_term = 1
    for row in rows:
        if type(row) is not list or len(row) != _ROW_ITEMS:
            raise _bad_row()
        term, found, kind, payload = row
        if type(found) is not int or found != index:
            raise DecodeError(f"another entry stands where entry {index} should be")
        if type(term) is not int or not last_term <= term <= NUMBER_MAX:
            raise _bad_term(index)
        if type(payload) is not bytes:
            raise _bad_payload(index, payload)
        if kind or type(kind) is not int:
            kind = _other_kind(index, kind, payload)
        else:
            kind = _NORMAL
        entries.append(_new_tuple(Entry, (term, index, kind, payload)))
        last_term = term
        index += 1
    return entries


def entries_at(items: list[Any], position: int, end: int, index: object) -> list[Entry]:
    """Return the entries that stand at [position, end), the first of which is to have `index`."""
    if type(index) is not int or not 1 <= index < NUMBER_MAX - (end - position):
        raise _bad_first_index()
    entries: list[Entry] = []
    last_term = 1
    # Most messages have one entry: so no range, and no method bound in advance.
    while position < end:
        term = items[position]
        kind = items[position + 1]
        payload = items[position + 2]
        if type(term) is not int or not last_term <= term <= NUMBER_MAX:
            raise _bad_term(index)
        if type(payload) is not bytes:
            raise _bad_payload(index, payload)
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


def _bad_row() -> DecodeError:
    return DecodeError(f"a row of entries is not an array of {_ROW_ITEMS} items")


def _bad_first_index() -> DecodeError:
    return DecodeError("the first index of entries is out of range")


def _bad_term(index: int) -> DecodeError:
    return DecodeError(f"the term of entry {index} is out of range or falls")


def _bad_payload(index: int, payload: object) -> DecodeError:
    return DecodeError(f"the payload of entry {index} is {type(payload).__name__}, not bytes")


def _other_kind(index: int, kind: object, payload: bytes) -> EntryKind:
    """Return the kind of an entry that is not a NORMAL one."""
    if type(kind) is not int or not 0 <= kind < len(_ENTRY_KINDS):
        raise DecodeError(f"the kind of entry {index} is unknown")
    if kind == _STRIPPED and payload:
        raise DecodeError(f"entry {index} is stripped and has a payload")
    return _ENTRY_KINDS[kind]


def pack_entries(entries: Sequence[Entry]) -> bytes:
    """Return the encoding of contiguous entries: the body of a log record.

    An entry is a tuple and its kind a number, so there is nothing to take apart: it is its own row.
    """
    packed: bytes = msgpack.packb(entries)
    return packed


def unpack_entries(data: bytes | memoryview) -> list[Entry]:
    """Decode what `pack_entries` wrote, all of it and nothing more. Raises DecodeError.

    Their number is bounded by the length of `data` alone: what was stored can be read.
    """
    return entries_from_wire(_unpack(data))


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
