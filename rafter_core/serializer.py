"""One encoding of entries and messages, in msgpack, for disk and wire alike.

Entries are one flat array: [first index, term, kind, payload, term, kind, payload, ...]. Indexes
are contiguous by construction. Decoding trusts nothing: types are exact, numbers in range, terms
never fall, lengths are bounded by the input, and anything else is a DecodeError. msgpack's
extension types, maps and strings have no place here and are refused by type.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgpack

from rafter_core.entries import NUMBER_MAX, Entry, EntryKind
from rafter_core.errors import DecodeError
from rafter_core.messages import KINDS, Message

_ENTRY_KINDS: tuple[EntryKind, ...] = tuple(EntryKind)
_ENTRY_KIND_COUNT = len(_ENTRY_KINDS)
_KIND_COUNT = len(KINDS)
_WIRE_FIELDS = 12
_NO_ENTRIES: tuple[Entry, ...] = ()


def entries_to_wire(entries: Sequence[Entry]) -> list[object]:
    """Return the flat array of contiguous entries; an empty array for none."""
    if not entries:
        return []
    items: list[object] = [entries[0].index]
    for term, _, kind, payload in entries:
        items += (term, +kind, payload)  # +: a plain int of an enumeration
    return items


def entries_from_wire(items: object) -> list[Entry]:
    """Return the entries of a flat array, checked one by one. Raises DecodeError."""
    if type(items) is not list:
        raise DecodeError(f"entries are {type(items).__name__}, not an array")
    if not items:
        return []
    size = len(items)
    if size < 4 or size % 3 != 1:
        raise DecodeError(f"an array of entries cannot have {size} items")
    index = items[0]
    if type(index) is not int or not 1 <= index <= NUMBER_MAX - size:
        raise DecodeError("the first index of entries is out of range")
    entries: list[Entry] = []
    add = entries.append
    # Entry(...) would go through a Python-level constructor, three times as slow.
    new = tuple.__new__
    last_term = 1
    for position in range(1, size, 3):
        term = items[position]
        kind = items[position + 1]
        payload = items[position + 2]
        if type(term) is not int or not last_term <= term <= NUMBER_MAX:
            raise DecodeError(f"the term of entry {index} is out of range or falls")
        if type(kind) is not int or not 0 <= kind < _ENTRY_KIND_COUNT:
            raise DecodeError(f"the kind of entry {index} is unknown")
        if type(payload) is not bytes:
            raise DecodeError(
                f"the payload of entry {index} is {type(payload).__name__}, not bytes"
            )
        add(new(Entry, (term, index, _ENTRY_KINDS[kind], payload)))
        last_term = term
        index += 1
    return entries


def pack_entries(entries: Sequence[Entry]) -> bytes:
    """Return the encoding of contiguous entries: the body of a log record."""
    packed: bytes = msgpack.packb(entries_to_wire(entries))
    return packed


def unpack_entries(data: bytes | memoryview) -> list[Entry]:
    """Decode what `pack_entries` wrote, all of it and nothing more. Raises DecodeError."""
    try:
        # msgpack bounds every length by that of the input, before it allocates; what has no place
        # here is refused while reading.
        items = msgpack.unpackb(data, max_str_len=0, max_map_len=0, max_ext_len=0)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise DecodeError(f"entries are not msgpack: {error!r}") from error
    return entries_from_wire(items)


def message_to_wire(group: int, message: Message) -> list[object]:
    """Return a message as an array for msgpack, payloads shared, not copied."""
    entries = message.entries
    return [
        group,
        +message.kind,
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


def message_from_wire(item: object) -> tuple[int, Message]:
    """Return (group, message), every type and range checked. Raises DecodeError.

    Whether the message makes sense (kind, sender, term) is RawNode.step's to judge.
    """
    if type(item) is not list or len(item) != _WIRE_FIELDS:
        raise DecodeError(f"a message is an array of {_WIRE_FIELDS} items")
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
    if not 0 <= kind < _KIND_COUNT:
        raise DecodeError(f"message kind {kind} is unknown")
    # Entries need no copy of their own index here: step compares them with `index`.
    entries = entries_from_wire(items) if items else _empty(items)
    return group, Message(
        kind=KINDS[kind],
        to=to,
        sender=sender,
        term=term,
        log_term=log_term,
        index=index,
        entries=entries,
        commit=commit,
        reject=reject,
        reject_hint=hint,
        context=context,
    )


def _empty(items: object) -> Sequence[Entry]:
    if type(items) is not list:
        raise DecodeError(f"entries are {type(items).__name__}, not an array")
    return _NO_ENTRIES
