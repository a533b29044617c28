"""Keys to slots, slots to groups, and the cursor that carries a SCAN over all groups.

The slot of a key is Redis Cluster's (CRC16 of the key or of its hash tag), so cluster clients
compute the same one. Groups 1 to G own contiguous ranges of slots; group 0 is not for data.
"""

from binascii import crc_hqx
from typing import NamedTuple

SLOT_COUNT = 16384

POSITION_BITS = 34
"""A position inside one group: 10 bits of bucket, 24 bits of hash (see ``keyspace``)."""

CURSOR_BITS = 53
"""Cursors stay below 2**53: clients in JavaScript keep them in a double."""

GROUPS_MAX = 1 << (CURSOR_BITS - POSITION_BITS)
_POSITION_MASK = (1 << POSITION_BITS) - 1


class SlotRange(NamedTuple):
    """The slots ``first`` to ``last``, both included, and the group that owns them."""

    group: int
    first: int
    last: int


class CursorError(ValueError):
    """A client sent a cursor that no SCAN has returned."""


def slot_of(key: bytes) -> int:
    """Return the slot of a key: of the text in its first non-empty {braces}, else of all of it.

    >>> slot_of(b"foo"), slot_of(b"{user1000}.following") == slot_of(b"user1000")
    (12182, True)
    """
    opening = key.find(b"{")
    if opening >= 0:
        closing = key.find(b"}", opening + 1)
        if closing > opening + 1:
            return crc_hqx(key[opening + 1 : closing], 0) & (SLOT_COUNT - 1)
    return crc_hqx(key, 0) & (SLOT_COUNT - 1)


def slot_ranges(groups: int) -> list[SlotRange]:
    """Deal the slots to groups 1 to ``groups`` in contiguous ranges whose sizes differ by one.

    Raises ValueError unless 1 <= groups <= SLOT_COUNT. The result is a function of the number
    alone: every node, at every start, deals them the same way.
    """
    if not 1 <= groups <= SLOT_COUNT:
        raise ValueError(f"the number of groups must be 1 to {SLOT_COUNT}, not {groups}")
    borders = [number * SLOT_COUNT // groups for number in range(groups + 1)]
    return [
        SlotRange(group, borders[group - 1], borders[group] - 1) for group in range(1, groups + 1)
    ]


def group_by_slot(groups: int) -> list[int]:
    """Return the table from slot to group that belongs to ``slot_ranges(groups)``."""
    table: list[int] = []
    for group, first, last in slot_ranges(groups):
        table += [group] * (last - first + 1)
    return table


def encode_cursor(ordinal: int, position: int) -> int:
    """Join the ordinal of a group (0 for the first) and a position in it into one cursor.

    (0, 0) gives 0, the start of a scan. When a group is done the caller goes on with
    (ordinal + 1, 0), and after the last group answers 0, the end of the scan.
    """
    if not 0 <= ordinal < GROUPS_MAX:
        raise ValueError(f"a cursor has room for {GROUPS_MAX} groups, not for ordinal {ordinal}")
    if not 0 <= position <= _POSITION_MASK:
        raise ValueError(f"position {position} does not fit in {POSITION_BITS} bits")
    return ordinal << POSITION_BITS | position


def decode_cursor(cursor: bytes, groups: int) -> tuple[int, int]:
    """Split a client's cursor into (ordinal of the group, position in it).

    Raises CursorError unless it is the plain decimal form of a cursor for this many groups; the
    reply is then ``-ERR invalid cursor``.
    """
    if not cursor.isdigit() or len(cursor) > len(str(1 << CURSOR_BITS)):
        raise CursorError("not a decimal number")
    ordinal, position = divmod(int(cursor), 1 << POSITION_BITS)
    if ordinal >= groups:
        raise CursorError(f"group {ordinal} of {groups}")
    return ordinal, position
