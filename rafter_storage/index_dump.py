"""The index of a sealed segment beside it on disk, so that a start need not scan the segment.

A dump holds nothing that a scan would not find: one that is missing, damaged or of another segment
is no loss, and is written anew. It is bound to its segment by the seed and by where the records
end.

Layout, little endian: 0 magic (8 bytes), 8 u32 format version, 12 u32 zero, 16 u64 sequence, 24
u64 seed, 32 u64 end of the records, 40 u64 length of the body, 48 u64 checksum of the body, 56 u64
checksum of the bytes before it; then the body: msgpack, an array with one array for each group.
Both checksums are xxh3-64 with the segment's seed.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from array import array
from pathlib import Path

import msgpack
from xxhash import xxh3_64_intdigest

from rafter_core.entries import HardState
from rafter_core.errors import DecodeError
from rafter_storage.file_system import FileSystem, read_exactly, write_exactly
from rafter_storage.group_metadata import pack_metadata, unpack_metadata
from rafter_storage.index import Slot, SlotColumns
from rafter_storage.segment import SegmentHeader, segment_path, sequence_of
from rafter_storage.segment_index import Section, SegmentIndex

__all__ = [
    "DUMP_FORMAT_VERSION",
    "decode_dump",
    "dump_path",
    "dumped_sequence_of",
    "encode_dump",
    "load_dump",
    "write_dump",
]

DUMP_FORMAT_VERSION = 1

_MAGIC = b"RAFTRIDX"
_SUFFIX = ".index"
_HEADER = struct.Struct("<8sIIQQQQQ")
_CHECKSUM = struct.Struct("<Q")
_HEADER_BYTES = _HEADER.size + _CHECKSUM.size
_SECTION_ITEMS = 10
_IS_RESET, _IS_REMOVED = 1, 2


def dump_path(directory: Path, sequence: int) -> Path:
    """Return where the dump of the segment ``sequence`` lives."""
    return segment_path(directory, sequence).with_suffix(_SUFFIX)


def dumped_sequence_of(name: str) -> int | None:
    """Return the sequence number in a dump's file name, or None for any other name."""
    stem = name.removesuffix(_SUFFIX)
    return None if stem == name else sequence_of(f"{stem}.log")


def encode_dump(index: SegmentIndex, header: SegmentHeader, end: int) -> bytes:
    """Return the dump of a segment whose records end at ``end``."""
    body = msgpack.packb(
        [_section_to_wire(group, section) for group, section in sorted(index.sections.items())]
    )
    seed = header.seed
    fields = _HEADER.pack(
        _MAGIC,
        DUMP_FORMAT_VERSION,
        0,
        header.sequence,
        seed,
        end,
        len(body),
        xxh3_64_intdigest(body, seed),
    )
    return fields + _CHECKSUM.pack(xxh3_64_intdigest(fields, seed)) + bytes(body)


def decode_dump(data: bytes, header: SegmentHeader, end: int) -> SegmentIndex | None:
    """Return the index in ``data``; None unless it is whole, and of this segment up to ``end``."""
    if len(data) < _HEADER_BYTES:
        return None
    seed = header.seed
    fields = data[: _HEADER.size]
    (checksum,) = _CHECKSUM.unpack_from(data, _HEADER.size)
    body = memoryview(data)[_HEADER_BYTES:]
    body_checksum = xxh3_64_intdigest(body, seed)
    expected = (
        _MAGIC,
        DUMP_FORMAT_VERSION,
        0,
        header.sequence,
        seed,
        end,
        len(body),
        body_checksum,
    )
    if checksum != xxh3_64_intdigest(fields, seed) or _HEADER.unpack(fields) != expected:
        return None
    index = SegmentIndex(header.sequence)
    try:
        for item in msgpack.unpackb(body, use_list=True):
            group, section = _section_from_wire(item, header.sequence)
            index.sections[group] = section
    except (ValueError, TypeError, msgpack.UnpackException, DecodeError):
        # Whole as it is, it was not written by this version's rules.
        return None
    return index


def write_dump(files: FileSystem, directory: Path, sequence: int, data: bytes) -> None:
    """Put a dump in place. Errors are ``OSError``; what is left of a failed try is removed."""
    path = dump_path(directory, sequence)
    temporary = path.with_suffix(".index.tmp")
    descriptor = files.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        try:
            write_exactly(files, descriptor, [data], 0)
            files.sync_data(descriptor)
        finally:
            files.close(descriptor)
        files.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            files.unlink(temporary)
        raise


def load_dump(
    files: FileSystem, directory: Path, header: SegmentHeader, end: int
) -> SegmentIndex | None:
    """Return a sealed segment's index from its dump; None if there is no good one."""
    path = dump_path(directory, header.sequence)
    try:
        descriptor = files.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        data = read_exactly(files, descriptor, files.size(descriptor), 0)
    except OSError:
        # It cannot be read: the segment itself can perhaps.
        return None
    finally:
        files.close(descriptor)
    return decode_dump(data, header, end)


def _section_to_wire(group: int, section: Section) -> list[object]:
    flags = _IS_RESET * section.is_reset | _IS_REMOVED * section.is_removed
    copies = SlotColumns()
    for first_index, last_index, term, _, offset, length in section.copies:
        for column, value in zip(
            copies.columns(), (first_index, last_index, term, offset, length), strict=True
        ):
            column.append(value)
    metadata = section.metadata
    return [
        group,
        flags,
        *section.hard_state,
        None if metadata is None else pack_metadata(metadata),
        section.truncated_from,
        section.fault,
        [_bytes_of(column) for column in section.appended.columns()],
        [_bytes_of(column) for column in copies.columns()],
    ]


def _section_from_wire(item: list[object], sequence: int) -> tuple[int, Section]:
    if type(item) is not list or len(item) != _SECTION_ITEMS:
        raise DecodeError(f"a section has not {_SECTION_ITEMS} items")
    group, flags, term, vote, commit, metadata, truncated_from, fault, appended, copies = item
    numbers = (group, flags, term, vote, commit, truncated_from)
    if not all(type(number) is int for number in numbers):
        raise DecodeError("a section has something else in the place of a number")
    assert isinstance(group, int)
    assert isinstance(flags, int)
    assert isinstance(truncated_from, int)
    section = Section()
    section.is_reset = bool(flags & _IS_RESET)
    section.is_removed = bool(flags & _IS_REMOVED)
    section.hard_state = HardState(term, vote, commit)  # type: ignore[arg-type]  # checked above
    if metadata is not None:
        section.metadata = unpack_metadata(metadata)  # type: ignore[arg-type]  # raises for others
    section.truncated_from = truncated_from
    section.fault = None if fault is None else str(fault)
    _fill(section.appended, appended)
    moved = SlotColumns()
    _fill(moved, copies)
    section.copies = [
        Slot(first_index, last_index, entries_term, sequence, offset, length)
        for first_index, last_index, entries_term, offset, length in zip(
            *moved.columns(), strict=True
        )
    ]
    return group, section


def _fill(columns: SlotColumns, items: object) -> None:
    if type(items) is not list or len(items) != len(columns.columns()):
        raise DecodeError("a section lacks columns")
    for column, data in zip(columns.columns(), items, strict=True):
        column.frombytes(data)
        if sys.byteorder == "big":
            column.byteswap()
    if len({len(column) for column in columns.columns()}) != 1:
        raise DecodeError("the columns of a section are not of one length")


def _bytes_of(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()
