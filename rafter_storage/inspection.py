"""Looking at a log's files from outside, byte by byte, without recovering it.

What is here reads and never writes, trusts no index dump, and holds one record in memory at a time.
It judges the bytes by the rules of ``docs/storage.md`` alone, so that it is a second opinion to
``recovery``: a place is *torn* if nothing proves that it had ever been synced, and *damaged* if
something does. The tools of ``rafterd wal`` are built on it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rafter_core.entries import Entry, HardState
from rafter_core.errors import DecodeError
from rafter_core.serializer import unpack_entries
from rafter_storage.errors import StorageError
from rafter_storage.file_system import FileSystem, read_exactly
from rafter_storage.group_metadata import GroupMetadata, unpack_metadata
from rafter_storage.index_dump import decode_dump, dump_path, dumped_sequence_of
from rafter_storage.record import (
    ALIGNMENT,
    PREFIX_BYTES,
    RecordKind,
    RecordPrefix,
    align,
    decode_prefix,
    is_body_valid,
    magic_bytes,
)
from rafter_storage.segment import HEADER_BYTES, SegmentHeader, decode_header, sequence_of
from rafter_storage.segment_index import SegmentIndex

__all__ = [
    "BAD_BODY",
    "BAD_CHAIN",
    "BAD_PREFIX",
    "UNREADABLE",
    "Content",
    "FoundRecord",
    "LogListing",
    "SegmentFile",
    "SegmentWalk",
    "decode_body",
    "list_log",
    "read_dump",
    "sealed_end",
]

BAD_PREFIX = "no valid record prefix"
BAD_CHAIN = "the record does not continue the one before it"
BAD_BODY = "the record's body does not match its checksum"
UNREADABLE = "cannot be read"

_WINDOW_BYTES = 256 << 10
_WITHOUT_GROUP = (RecordKind.MARK, RecordKind.PADDING)
_NO_RANGE = (0, 0, 0)

Content = list[Entry] | GroupMetadata | None
"""What a record's body holds: entries, a group's metadata, or nothing."""


class SegmentFile(NamedTuple):
    """A file with a segment's name. ``header`` is None if it is not sound, for ``fault``."""

    path: Path
    sequence: int
    size: int
    header: SegmentHeader | None
    fault: str | None


class LogListing(NamedTuple):
    """The files in a log's directory: segments ascending, sequences of dumps, other names."""

    segments: list[SegmentFile]
    dumps: list[int]
    others: list[str]


class FoundRecord(NamedTuple):
    """What stands at a place where a record should begin.

    ``prefix`` is None if there is none. ``fault`` is None, or one of ``BAD_PREFIX``,
    ``BAD_CHAIN``, ``BAD_BODY``, or begins with ``UNREADABLE``. ``body`` is as it was found, also
    if it is bad.
    """

    offset: int
    prefix: RecordPrefix | None
    body: bytes
    fault: str | None


def list_log(files: FileSystem, directory: Path) -> LogListing:
    """List a log's directory and read all headers. Raises ``StorageError`` if it cannot."""
    segments, dumps, others = [], [], []
    try:
        for name in files.names(directory):
            sequence = sequence_of(name)
            dumped = dumped_sequence_of(name)
            if sequence is not None:
                segments.append(_read_segment_file(files, directory / name, sequence))
            elif dumped is not None:
                dumps.append(dumped)
            else:
                others.append(name)
    except OSError as error:
        raise StorageError(f"cannot read {directory}: {error}") from error
    return LogListing(segments, dumps, others)


def _read_segment_file(files: FileSystem, path: Path, sequence: int) -> SegmentFile:
    status = files.status(path)
    if status is None or not status.is_file:
        return SegmentFile(path, sequence, 0, None, "this is not an ordinary file")
    descriptor = files.open(path, os.O_RDONLY)
    try:
        block = read_exactly(files, descriptor, HEADER_BYTES, 0)
        header = decode_header(path, block)
    except StorageError as error:
        return SegmentFile(path, sequence, status.size, None, str(error))
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return SegmentFile(path, sequence, status.size, None, f"{UNREADABLE}: {error}")
    finally:
        files.close(descriptor)
    if header is None:
        return SegmentFile(path, sequence, status.size, None, "the segment's header is damaged")
    if header.sequence != sequence:
        fault = f"the file holds segment {header.sequence} of a log"
        return SegmentFile(path, sequence, status.size, None, fault)
    return SegmentFile(path, sequence, status.size, header, None)


def sealed_end(segment: SegmentFile, following: SegmentFile | None) -> int | None:
    """Return where a segment's records end as the one behind it says; None if that is unknown."""
    if following is None or following.header is None or segment.header is None:
        return None
    header = following.header
    if header.sequence != segment.sequence + 1 or header.previous_seed != segment.header.seed:
        return None
    end = header.previous_end
    is_possible = HEADER_BYTES <= end <= segment.header.segment_bytes and end % ALIGNMENT == 0
    return end if is_possible else None


class SegmentWalk:
    """The records of one segment, in order, each verified; it can be iterated again and again.

    With ``end``, where the records are known to reach to, all of them must be there. Without, this
    is the tail: the walk ends at the first record that is not right and not proved to have been
    synced. The proof is a record behind it with a greater synced offset. Behind a place without
    a valid record the walk goes on at the next valid prefix.

    After a whole iteration ``end`` is where the records end, ``torn_bytes`` how far behind that
    there are records that were never synced, and ``first_sequence`` the newest that was recorded.
    Raises ``StorageError`` if the file cannot be read at all.
    """

    def __init__(self, files: FileSystem, segment: SegmentFile, end: int | None) -> None:
        assert segment.header is not None, "a segment without a header has no seed"
        self._files = files
        self._path = segment.path
        self._size = segment.size
        self._seed = segment.header.seed
        self._sealed_end = end
        self._first_sequence = segment.header.first_sequence
        self._offset_end = segment.size if end is None else end
        # How far the tail is proved to be synced, and where the last valid record in it ends;
        # unknown until a record is not right.
        self._proof: tuple[int, int] | None = None
        self.first_sequence = self._first_sequence
        self.end = HEADER_BYTES
        self.torn_bytes = 0

    def __iter__(self) -> Iterator[FoundRecord]:
        self.first_sequence = self._first_sequence
        self.torn_bytes = 0
        self.end = HEADER_BYTES
        try:
            descriptor = self._files.open(self._path, os.O_RDONLY)
        except OSError as error:
            raise StorageError(f"cannot read {self._path}: {error}") from error
        try:
            yield from self._walk(_Window(self._files, descriptor, self._size))
        except OSError as error:
            if error.errno != errno.EIO:
                raise StorageError(f"cannot read {self._path}: {error}") from error
            yield FoundRecord(self.end, None, b"", f"{UNREADABLE}: {error}")
        finally:
            self._files.close(descriptor)

    def _walk(self, window: _Window) -> Iterator[FoundRecord]:
        chain: int | None = self._seed
        while self._sealed_end is None or self.end < self._sealed_end:
            found = self._record(window, self.end, chain)
            prefix = found.prefix
            if found.fault is not None and self._is_unproved(window):
                if found.fault != BAD_BODY or prefix is None or prefix.kind not in _WITHOUT_GROUP:
                    self.torn_bytes = max(0, self._prove(window)[1] - self.end)
                    return
                # Its body says nothing, and was never synced.
                found = found._replace(fault=None)
            yield found
            if prefix is not None:
                if prefix.kind == RecordKind.MARK and found.fault is None:
                    self.first_sequence = prefix.first_index
                self.end += align(prefix.length)
                chain = prefix.checksum
                continue
            behind = next(self._prefixes(window, self.end + ALIGNMENT), None)
            if behind is None:
                return
            self.end, chain = behind[0], None

    def _record(self, window: _Window, offset: int, chain: int | None) -> FoundRecord:
        """Return what is at ``offset``; without ``chain`` it may continue anything."""
        prefix = decode_prefix(
            self._seed, window.read(offset, PREFIX_BYTES), 0, offset, self._offset_end
        )
        if prefix is None:
            return FoundRecord(offset, None, b"", BAD_PREFIX)
        record = window.read(offset, prefix.length)
        fault = None
        if chain is not None and prefix.chain != chain:
            fault = BAD_CHAIN
        elif not is_body_valid(self._seed, prefix, record, 0, offset):
            fault = BAD_BODY
        return FoundRecord(offset, prefix, record[PREFIX_BYTES:], fault)

    def _is_unproved(self, window: _Window) -> bool:
        return self._sealed_end is None and self.end >= self._prove(window)[0]

    def _prove(self, window: _Window) -> tuple[int, int]:
        if self._proof is None:
            synced_offset = last_end = 0
            for offset, prefix in self._prefixes(window, self.end):
                synced_offset = max(synced_offset, prefix.synced_offset)
                last_end = max(last_end, offset + align(prefix.length))
            self._proof = synced_offset, last_end
        return self._proof

    def _prefixes(self, window: _Window, start: int) -> Iterator[tuple[int, RecordPrefix]]:
        """Yield every valid prefix at ``start`` or behind, whatever stands between them."""
        magic = magic_bytes(self._seed)
        for block_offset in range(start, self._offset_end, _WINDOW_BYTES):
            block = window.read(block_offset, _WINDOW_BYTES)
            # Neither a magic at its alignment nor a block ever straddles a block's end.
            position = block.find(magic)
            while position >= 0:
                offset = block_offset + position
                if offset % ALIGNMENT == 0:
                    data = window.read(offset, PREFIX_BYTES)
                    prefix = decode_prefix(self._seed, data, 0, offset, self._offset_end)
                    if prefix is not None:
                        yield offset, prefix
                position = block.find(magic, position + 1)


class _Window:
    """Reads pieces of a file, forwards for the most part, in steps of a bounded size."""

    def __init__(self, files: FileSystem, descriptor: int, size: int) -> None:
        self._files = files
        self._descriptor = descriptor
        self._size = size
        self._offset = 0
        self._data = b""

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes, fewer only where the file ends."""
        length = max(0, min(length, self._size - offset))
        position = offset - self._offset
        if position < 0 or position + length > len(self._data):
            wanted = min(max(length, _WINDOW_BYTES), max(0, self._size - offset))
            self._data = read_exactly(self._files, self._descriptor, wanted, offset)
            self._offset, position = offset, 0
        return self._data[position : position + length]


def decode_body(prefix: RecordPrefix, body: bytes) -> Content:
    """Return what a record with a sound checksum holds, held against its prefix.

    Raises ``DecodeError`` if they contradict each other, or the kind is unknown.
    """
    kind = prefix.kind
    found_range = (prefix.first_index, prefix.last_index, prefix.entries_term)
    if kind == RecordKind.COPY or (kind == RecordKind.ENTRIES and found_range != _NO_RANGE):
        return _decode_entries(found_range, body)
    if kind in (RecordKind.GROUP, RecordKind.RESET):
        if found_range != _NO_RANGE:
            raise DecodeError(f"metadata with the range of entries {found_range}")
        return unpack_metadata(body)
    if kind not in list(RecordKind):
        raise DecodeError(
            f"a record of kind {kind}, which this program does not know: "
            "use the version of rafterd that wrote it"
        )
    if body and kind != RecordKind.PADDING:
        raise DecodeError(f"a record of kind {RecordKind(kind).name} with a body")
    if kind == RecordKind.MARK:
        found_range = (0, *found_range[1:])
    if found_range != _NO_RANGE:
        raise DecodeError(f"a record of kind {RecordKind(kind).name} with entries {found_range}")
    is_stateless = kind == RecordKind.ENTRIES or prefix.hard_state == HardState()
    if not is_stateless or (kind in _WITHOUT_GROUP and prefix.group):
        raise DecodeError(
            f"a record of kind {RecordKind(kind).name} of group {prefix.group}, {prefix.hard_state}"
        )
    return None


def _decode_entries(expected: tuple[int, int, int], body: bytes) -> list[Entry]:
    entries = unpack_entries(body)
    if not entries:
        raise DecodeError("no entries, where the prefix has a range of them")
    # Their indexes are contiguous by construction, and their terms never fall.
    found = (entries[0].index, entries[-1].index, entries[0].term)
    if found != expected or entries[-1].term != entries[0].term:
        raise DecodeError(
            f"the entries {found[0]} to {found[1]} of terms {found[2]} to {entries[-1].term}, "
            f"the prefix says {expected[0]} to {expected[1]} of term {expected[2]}"
        )
    return entries


def read_dump(
    files: FileSystem, directory: Path, header: SegmentHeader, end: int
) -> SegmentIndex | bool:
    """Return what the dump of a sealed segment says; False if it is missing, True if it is bad.

    Raises ``StorageError`` if it cannot be read.
    """
    path = dump_path(directory, header.sequence)
    try:
        if files.status(path) is None:
            return False
        descriptor = files.open(path, os.O_RDONLY)
        try:
            data = read_exactly(files, descriptor, files.size(descriptor), 0)
        finally:
            files.close(descriptor)
    except OSError as error:
        if error.errno == errno.EIO:
            return True
        raise StorageError(f"cannot read {path}: {error}") from error
    index = decode_dump(data, header, end)
    return True if index is None else index
