"""The values that every room shares: log entries, hard state, and the measure of their size.

All of them are immutable tuples. An entry is created once, by the leader that proposes it, and
the same object travels through the log, the storage room and the messages: nothing in the core
copies a payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from operator import itemgetter
from typing import NamedTuple

NO_NODE = 0
"""The id that no node has: "no leader", "no vote"."""

NUMBER_MAX = (1 << 63) - 1
"""Terms, indexes and node ids stay below this, so that each fits a signed 64-bit field on disk."""

_OVERHEAD_BYTES_MAX = 32
_payload_of = itemgetter(3)
_kind_of = itemgetter(2)


class EntryKind(IntEnum):
    """What an entry's payload means. The first three numbers are etcd's; all are stored on disk.

    STRIPPED stands in a witness's log where the payload was withheld.
    """

    NORMAL = 0
    CONFIG_CHANGE = 1
    CONFIG_CHANGE_V2 = 2
    STRIPPED = 3


class Entry(NamedTuple):
    """One position of the log, identified by (term, index). Opaque payload, empty = no-op."""

    term: int
    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    kind: EntryKind
    payload: bytes


class HardState(NamedTuple):
    """What must be durable before it is spoken of. `commit` alone may lag behind on disk."""

    term: int = 0
    vote: int = NO_NODE
    commit: int = 0


def entry_bytes(entry: Entry) -> int:
    """Return what an entry counts against the byte limits of messages and Readys.

    It is the size that etcd's encoding of it has, whatever ours is: so limits mean the same here
    and there, and a flood of empty entries is bounded too.
    """
    term, index, kind, payload = entry
    size = 2 + _number_bytes(term) + _number_bytes(index)
    if kind:
        size += 2
    if payload:
        length = len(payload)
        size += 1 + _number_bytes(length) + length
    return size


def entries_bytes(entries: Sequence[Entry]) -> int:
    """Return the sum of `entry_bytes`; fast when the payloads are of similar size."""
    if len(entries) < 4:
        return sum(map(entry_bytes, entries))
    first, last = entries[0], entries[-1]
    lengths = list(map(len, map(_payload_of, entries)))
    length_bytes = _number_bytes(min(lengths))
    index_bytes = _number_bytes(first.index)
    if (
        first.term != last.term
        or index_bytes != _number_bytes(last.index)
        or not lengths[0]
        or 0 in lengths
        or length_bytes != _number_bytes(max(lengths))
    ):
        return sum(map(entry_bytes, entries))
    kinds = sum(map(bool, map(_kind_of, entries)))
    each = 3 + _number_bytes(first.term) + index_bytes + length_bytes
    return each * len(entries) + 2 * kinds + sum(lengths)


def payloads_bytes(entries: Sequence[Entry]) -> int:
    """Return the bytes of all payloads: what counts against windows and uncommitted limits."""
    return sum(map(len, map(_payload_of, entries)))


def limit_bytes(entries: list[Entry], bytes_max: int) -> list[Entry]:
    """Return the longest prefix within `bytes_max`, but at least one entry if there is any.

    Returns the argument itself when all of it fits. Storage rooms use this to keep the same
    measure.
    """
    # The usual case needs no exact sum.
    if payloads_bytes(entries) + _OVERHEAD_BYTES_MAX * len(entries) <= bytes_max:
        return entries
    total = 0
    for position, entry in enumerate(entries):
        total += entry_bytes(entry)
        if total > bytes_max and position > 0:
            return entries[:position]
    return entries


def _number_bytes(number: int) -> int:
    """Return the length of a number in base 128."""
    return (number.bit_length() + 6) // 7 or 1
