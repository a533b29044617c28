"""The encoding of one log record: a fixed, scannable prefix, then the body.

A record is what one Ready of one group wrote: the group's hard state and a run of entries. The
prefix alone tells the index everything it needs, so that a scan can skip the body, and it has a
checksum of its own, so that its length can be believed before the body is read. Both checksums
are seeded with the segment's seed plus the record's offset: bytes of another segment, or of
another place in this one, never pass. The prefix checksum covers the body's checksum, which ties
the two together.

Layout, little endian (``docs/storage.md`` has the same table with more words)::

     0  u32  magic              16  u64  group         56  u64  last index
     4  u32  kind               24  u64  term          64  u64  term of the first entry
     8  u32  length             32  u64  vote          72  u64  term of the last entry
    12  u32  synced offset      40  u64  commit        80  u64  body checksum
                                48  u64  first index   88  u64  prefix checksum
    96  body, then zeros up to a multiple of 8

The format's version stands once, in the segment's header.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from rafter_core.entries import Entry, HardState
from rafter_storage.file_system import Buffer

__all__ = [
    "ALIGNMENT",
    "MAGIC_BYTES",
    "PADDING",
    "PREFIX_BYTES",
    "RECORD_BYTES_MAX",
    "RecordKind",
    "RecordPrefix",
    "align",
    "decode_prefix",
    "encode_prefix",
    "is_body_valid",
]

ALIGNMENT = 8
PREFIX_BYTES = 96
RECORD_BYTES_MAX = 1 << 30
MAGIC_BYTES = b"RfLr"
PADDING = tuple(bytes(count) for count in range(ALIGNMENT))

_MAGIC = int.from_bytes(MAGIC_BYTES, "little")
_FIELDS = struct.Struct("<4I9Q")
_CHECKSUM = struct.Struct("<Q")
_FIELDS_BYTES = _FIELDS.size
assert _FIELDS_BYTES + _CHECKSUM.size == PREFIX_BYTES


class RecordKind(IntEnum):
    """What a record is. Numbers are on disk: never reuse one."""

    ENTRIES = 1
    """A group's hard state and zero or more entries."""
    SYNC_MARK = 2
    """No group's: says that this segment was synced up to ``synced_offset``."""


class RecordPrefix(NamedTuple):
    """The decoded prefix of a record.

    ``length`` counts prefix and body, without padding. ``first_index`` is 0 when there are no
    entries. ``synced_offset`` is how far this segment was known to be synced when the record was
    written: the proof, on recovery, that a bad record before it had once been whole.
    """

    kind: int
    length: int
    synced_offset: int
    group: int
    hard_state: HardState
    first_index: int
    last_index: int
    first_term: int
    last_term: int
    body_checksum: int


def align(length: int) -> int:
    """Round a length up to the alignment of records."""
    return (length + 7) & ~7


def encode_prefix(
    seed: int,
    offset: int,
    synced_offset: int,
    group: int,
    hard_state: HardState,
    entries: list[Entry],
    body: bytes,
    kind: int = RecordKind.ENTRIES,
) -> bytes:
    """Build the prefix of the record that will be written at ``offset`` of the segment ``seed``.

    Whether entries of one record are contiguous, and the body what it should be, is the caller's
    promise. Values beyond 64 bits raise ``struct.error``.
    """
    place = seed + offset
    if entries:
        first, last = entries[0], entries[-1]
        first_index, last_index = first.index, last.index
        first_term, last_term = first.term, last.term
    else:
        first_index = last_index = first_term = last_term = 0
    term, vote, commit = hard_state
    fields = _FIELDS.pack(
        _MAGIC,
        kind,
        PREFIX_BYTES + len(body),
        synced_offset,
        group,
        term,
        vote,
        commit,
        first_index,
        last_index,
        first_term,
        last_term,
        xxh3_64_intdigest(body, place),
    )
    return fields + _CHECKSUM.pack(xxh3_64_intdigest(fields, place))


def decode_prefix(
    seed: int, data: Buffer, position: int, offset: int, offset_end: int
) -> RecordPrefix | None:
    """Return the prefix found at ``data[position:]``, or None if there is no valid one.

    ``offset`` is where those bytes lie in the segment, ``offset_end`` where the segment ends. A
    prefix is valid when its checksum matches at this place and the record fits the segment.
    """
    if position + PREFIX_BYTES > len(data):
        return None
    fields = memoryview(data)[position : position + _FIELDS_BYTES]
    (checksum,) = _CHECKSUM.unpack_from(data, position + _FIELDS_BYTES)
    if checksum != xxh3_64_intdigest(fields, seed + offset):
        return None
    (
        magic,
        kind,
        length,
        synced_offset,
        group,
        term,
        vote,
        commit,
        first_index,
        last_index,
        first_term,
        last_term,
        body_checksum,
    ) = _FIELDS.unpack(fields)
    if magic != _MAGIC or length < PREFIX_BYTES or synced_offset > offset:
        return None
    if offset + length > offset_end:
        return None
    return RecordPrefix(
        kind,
        length,
        synced_offset,
        group,
        HardState(term, vote, commit),
        first_index,
        last_index,
        first_term,
        last_term,
        body_checksum,
    )


def is_body_valid(
    seed: int, prefix: RecordPrefix, data: Buffer, position: int, offset: int
) -> bool:
    """Tell whether the body of the record at ``data[position:]`` is the one that was written."""
    body = memoryview(data)[position + PREFIX_BYTES : position + prefix.length]
    if len(body) != prefix.length - PREFIX_BYTES:
        return False
    return xxh3_64_intdigest(body, seed + offset) == prefix.body_checksum
