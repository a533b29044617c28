"""The encoding of one log record: a fixed, scannable prefix, then the body.

The prefix alone tells the index everything it needs, so that a scan can skip the body, and it has a
checksum of its own, so that its length can be believed before the body is read. Both checksums are
seeded with the segment's seed plus the record's offset: bytes of another segment, or of another
place in this one, never pass. The prefix checksum covers the body's checksum, which ties the two
together, and the checksum of the prefix before (``chain``), which ties the record to its
predecessor: what is left over of a tail that was cut can never continue the log.

Layout, little endian (``docs/storage.md`` has the same table with more words)::

     0  u32  magic              16  u64  group         56  u64  last index
     4  u32  kind               24  u64  term          64  u64  term of the entries
     8  u32  length             32  u64  vote          72  u64  chain
    12  u32  synced offset      40  u64  commit        80  u64  body checksum
                                48  u64  first index   88  u64  prefix checksum
    96  body, then zeros up to a multiple of 8

The format's version stands once, in the segment's header.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from rafter_core.entries import HardState
from rafter_storage.file_system import Buffer

__all__ = [
    "ALIGNMENT",
    "PADDING",
    "PREFIX_BYTES",
    "RECORD_BYTES_MAX",
    "RecordKind",
    "RecordPrefix",
    "align",
    "decode_prefix",
    "encode_prefix",
    "is_body_valid",
    "magic_bytes",
]

ALIGNMENT = 8
PREFIX_BYTES = 96
RECORD_BYTES_MAX = 1 << 30
PADDING = tuple(bytes(count) for count in range(ALIGNMENT))

# A constant, and something of the segment's own: in a recycled file a search for this segment's
# records is then not led astray by those of an earlier one.
_MAGIC = int.from_bytes(b"RfLr", "little")
_MAGIC_MASK = (1 << 32) - 1
_FIELDS = struct.Struct("<4I9Q")
_CHECKSUM = struct.Struct("<Q")
_FIELDS_BYTES = _FIELDS.size
assert _FIELDS_BYTES + _CHECKSUM.size == PREFIX_BYTES


class RecordKind(IntEnum):
    """What a record is. Numbers are on disk: never reuse one."""

    ENTRIES = 1
    """A group's hard state, and zero or more entries of one term."""
    MARK = 2
    """No group's: this segment is synced up to here, and the log begins at segment first_index."""
    GROUP = 3
    """A group's metadata, whole: the newest one holds."""
    RESET = 4
    """As GROUP, and all entries before it are void: a snapshot took their place."""
    COPY = 5
    """Entries of an older segment, rewritten: only their place changes."""
    REMOVED = 6
    """The group is gone, with all that was said of it before."""
    PADDING = 7
    """Nothing: fills a block, where the disk is written in whole blocks."""


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
    entries_term: int
    chain: int
    body_checksum: int
    checksum: int


def align(length: int) -> int:
    """Round a length up to the alignment of records."""
    return (length + 7) & ~7


def magic_bytes(seed: int) -> bytes:
    """Return the four bytes that every record of the segment with this seed begins with."""
    return ((seed ^ _MAGIC) & _MAGIC_MASK).to_bytes(4, "little")


def encode_prefix(
    seed: int,
    offset: int,
    synced_offset: int,
    chain: int,
    kind: int,
    group: int,
    hard_state: HardState,
    entries_range: tuple[int, int, int],
    body: bytes,
) -> tuple[bytes, int]:
    """Build the prefix of the record that will be written at ``offset`` of the segment ``seed``.

    ``entries_range`` is (first index, last index, term) of the entries in ``body``. Returns the
    prefix and its checksum, which is the next record's ``chain``; the first record of a segment has
    the seed as its chain. Values beyond 64 bits raise ``struct.error``.
    """
    place = seed + offset
    term, vote, commit = hard_state
    first_index, last_index, entries_term = entries_range
    fields = _FIELDS.pack(
        (seed ^ _MAGIC) & _MAGIC_MASK,
        kind,
        PREFIX_BYTES + len(body),
        synced_offset,
        group,
        term,
        vote,
        commit,
        first_index,
        last_index,
        entries_term,
        chain,
        xxh3_64_intdigest(body, place),
    )
    checksum: int = xxh3_64_intdigest(fields, place)
    return fields + _CHECKSUM.pack(checksum), checksum


def decode_prefix(
    seed: int, data: Buffer, position: int, offset: int, offset_end: int
) -> RecordPrefix | None:
    """Return the prefix found at ``data[position:]``, or None if there is no valid one.

    ``offset`` is where those bytes lie in the segment, ``offset_end`` where the segment ends. A
    prefix is valid when its checksum matches at this place and the record fits the segment. Whether
    its chain continues the record before is the caller's to look at.
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
        entries_term,
        chain,
        body_checksum,
    ) = _FIELDS.unpack(fields)
    if magic != (seed ^ _MAGIC) & _MAGIC_MASK or length < PREFIX_BYTES or synced_offset > offset:
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
        entries_term,
        chain,
        body_checksum,
        checksum,
    )


def is_body_valid(
    seed: int, prefix: RecordPrefix, data: Buffer, position: int, offset: int
) -> bool:
    """Tell whether the body of the record at ``data[position:]`` is the one that was written."""
    body = memoryview(data)[position + PREFIX_BYTES : position + prefix.length]
    if len(body) != prefix.length - PREFIX_BYTES:
        return False
    return bool(xxh3_64_intdigest(body, seed + offset) == prefix.body_checksum)
