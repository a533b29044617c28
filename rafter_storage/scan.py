"""Reading a segment record by record, to find out what it says of each group.

A sealed segment is read by its prefixes: bodies are skipped, and verified when they are used. The
segment that was being written is read whole, and every byte of its records is verified, because its
end has to be found. There, a record that is not valid is *torn* when nothing proves that it had
ever been synced: then the log ends before it. The proof is a later record whose ``synced_offset``
lies beyond it. What is bad and proved is *corruption*: it is never cut.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rafter_core.errors import DecodeError
from rafter_storage.errors import StorageError
from rafter_storage.file_system import FileSystem, read_exactly
from rafter_storage.group_metadata import unpack_metadata
from rafter_storage.index import Slot
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
from rafter_storage.segment import (
    HEADER_BYTES,
    LoadedSegment,
    SegmentHeader,
    load_segment,
    segment_path,
)
from rafter_storage.segment_index import SegmentIndex

__all__ = ["Fault", "TailScan", "scan_sealed", "scan_tail"]

_WINDOW_BYTES = 16 << 10
_SEARCH_BYTES = 1 << 20
_KINDS = frozenset(RecordKind)
_WITHOUT_GROUP = (RecordKind.MARK, RecordKind.PADDING)
_WITH_METADATA = (RecordKind.GROUP, RecordKind.RESET)


class Fault(NamedTuple):
    """Something durable that is not right: where, what, and whose (None: anybody's)."""

    offset: int
    reason: str
    group: int | None


class TailScan(NamedTuple):
    """What was found in the segment that was being written.

    The next record belongs at ``end``, with ``chain``. ``first_sequence`` is the newest one that is
    recorded. ``is_marked``: the last record is a MARK. ``torn_bytes``: how far behind ``end`` there
    are records that were never synced, 0 if none can be told. ``unproved`` are the bytes before
    ``end`` that no record proves to have been synced. The log must not go on if any fault is
    nobody's in particular.
    """

    end: int
    chain: int
    unproved: bytes
    first_sequence: int
    is_marked: bool
    torn_bytes: int
    faults: list[Fault]


def scan_sealed(
    files: FileSystem, directory: Path, header: SegmentHeader, end: int, index: SegmentIndex
) -> Fault | None:
    """Enter all records of a segment whose records are known to reach to ``end``.

    Returns the first fault, at which the scan stops. Raises ``StorageError`` for a record of an
    unknown kind and ``OSError`` from reads.
    """
    path = segment_path(directory, header.sequence)
    descriptor = files.open(path, os.O_RDONLY)
    try:
        offset, chain = HEADER_BYTES, header.seed
        window, window_offset = b"", 0
        while offset < end:
            position = offset - window_offset
            if position + PREFIX_BYTES > len(window):
                window_offset, position = offset, 0
                length = min(_WINDOW_BYTES, end - offset)
                window = read_exactly(files, descriptor, length, offset)
            prefix = decode_prefix(header.seed, window, position, offset, end)
            if prefix is None or prefix.chain != chain:
                reason = "no valid record prefix, which a later segment proves to have been synced"
                return Fault(offset, reason, None)
            body: bytes | None = None
            if prefix.kind in _WITH_METADATA:
                body = _verified_body(files, descriptor, header.seed, prefix, offset)
            _enter(path, index, prefix, offset, body)
            offset += align(prefix.length)
            chain = prefix.checksum
    finally:
        files.close(descriptor)
    return None


def scan_tail(
    files: FileSystem, directory: Path, header: SegmentHeader, index: SegmentIndex
) -> TailScan:
    """Enter all records of the last segment, and find where the log ends.

    Raises ``StorageError`` for a record of an unknown kind and ``OSError`` from reads.
    """
    path = segment_path(directory, header.sequence)
    segment = load_segment(files, path)
    data = segment.data
    seed = header.seed
    offset, chain = HEADER_BYTES, seed
    first_sequence, is_marked = header.first_sequence, False
    proved_offset = HEADER_BYTES
    faults: list[Fault] = []
    # Once a bad record is met: all valid prefixes behind it, and up to where those prove that the
    # segment was synced.
    behind: list[tuple[int, RecordPrefix]] | None = None
    synced_offset = 0
    while True:
        prefix = decode_prefix(seed, data, offset, offset, len(data))
        is_next = prefix is not None and prefix.chain == chain
        if (
            is_next
            and prefix is not None
            and (prefix.kind in _WITHOUT_GROUP or is_body_valid(seed, prefix, data, offset, offset))
        ):
            body = None
            if prefix.kind in _WITH_METADATA:
                body = data[offset + PREFIX_BYTES : offset + prefix.length]
            _enter(path, index, prefix, offset, body)
            proved_offset = max(proved_offset, prefix.synced_offset)
            if prefix.kind == RecordKind.MARK:
                is_marked = True
                first_sequence = prefix.first_index
            elif prefix.kind != RecordKind.PADDING:
                is_marked = False
            offset += align(prefix.length)
            chain = prefix.checksum
            continue
        if behind is None:
            behind = list(_prefixes(seed, segment, offset))
            synced_offset = max((found.synced_offset for _, found in behind), default=0)
        if offset >= synced_offset:
            break
        if not is_next or prefix is None:
            reason = f"no valid record, though the segment was synced up to {synced_offset}"
            faults.append(Fault(offset, reason, None))
            break
        reason = f"a damaged record body, though the segment was synced up to {synced_offset}"
        faults.append(Fault(offset, reason, prefix.group))
        # It goes into the dump, too: the damage must not be forgotten once the segment is sealed.
        index.section(prefix.group).damage(reason)
        offset += align(prefix.length)
        chain = prefix.checksum
    torn_end = max(
        (at + align(found.length) for at, found in behind if at >= offset), default=offset
    )
    unproved = data[min(proved_offset, offset) : offset]
    torn_bytes = torn_end - offset
    return TailScan(offset, chain, unproved, first_sequence, is_marked, torn_bytes, faults)


def _enter(
    path: Path, index: SegmentIndex, prefix: RecordPrefix, offset: int, body: bytes | None
) -> None:
    """Take a valid record into the index of its segment; ``body`` is needed of metadata alone."""
    kind = prefix.kind
    if kind not in _KINDS:
        raise StorageError(
            f"{path}, offset {offset}: a record of kind {kind}, which this program does not know: "
            "start the version of rafterd that wrote it"
        )
    if kind in _WITHOUT_GROUP:
        return
    section = index.section(prefix.group)
    entries_range = (prefix.first_index, prefix.last_index, prefix.entries_term)
    if kind == RecordKind.ENTRIES:
        section.append(prefix.hard_state, *entries_range, offset, prefix.length)
    elif kind == RecordKind.COPY:
        slot = Slot(*entries_range, index.sequence, offset, prefix.length)
        section.copy(prefix.hard_state, slot)
    elif kind == RecordKind.REMOVED:
        section.remove()
    else:
        if body is None:
            section.damage(f"the metadata at offset {offset}, which had been synced, is damaged")
            return
        try:
            metadata = unpack_metadata(body)
        except DecodeError as error:
            section.damage(f"offset {offset}: {error}")
            return
        if kind == RecordKind.RESET:
            section.reset(prefix.hard_state, metadata)
        else:
            section.describe(prefix.hard_state, metadata)


def _verified_body(
    files: FileSystem, descriptor: int, seed: int, prefix: RecordPrefix, offset: int
) -> bytes | None:
    """Return the body of the record at ``offset``; None if it is not the one that was written."""
    record = read_exactly(files, descriptor, prefix.length, offset)
    if not is_body_valid(seed, prefix, record, 0, offset):
        return None
    return record[PREFIX_BYTES:]


def _prefixes(seed: int, segment: LoadedSegment, start: int) -> Iterator[tuple[int, RecordPrefix]]:
    """Yield every valid prefix at ``start`` or behind, whatever stands between them."""
    data, used = segment
    magic = magic_bytes(seed)
    for block_offset in range(start, used, _SEARCH_BYTES):
        # In pieces, because to search bytes is a hundred times faster than to search an mmap.
        block = data[block_offset : block_offset + _SEARCH_BYTES + len(magic) - 1]
        position = block.find(magic)
        while position >= 0:
            offset = block_offset + position
            if offset % ALIGNMENT == 0:
                prefix = decode_prefix(seed, data, offset, offset, len(data))
                if prefix is not None:
                    yield offset, prefix
            position = block.find(magic, position + 1)
