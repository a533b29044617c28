"""A segment: one preallocated file of a shard's log.

A segment starts with a header block that gives it an identity (a random seed, mixed into every
checksum of its records) and ties it to the segment before: that one's seed, and the offset where
its records end. It is made of a spare file, or of a new one under a temporary name, gets its
header, is synced, and only then renamed: a file with a segment's name has always had a durable
header. And because the segment before is synced first, the existence of a segment proves that the
one before it had been durable up to ``previous_end``.

A spare is a file of a segment's size whose blocks have been written before: with zeros, or as an
earlier segment. Writing to it is then a matter of the file's bytes alone, and nearly twice as fast
as to one that is only allocated (performance.md §3).

Header, little endian: 0 magic (8 bytes), 8 u32 format version, 12 u32 header bytes, 16 u64
sequence, 24 u64 seed, 32 u64 previous seed, 40 u64 previous end, 48 u64 segment bytes, 56 u64
first sequence, 64 u64 checksum of the bytes before it; zeros up to 4096.
"""

import contextlib
import mmap
import os
import re
import secrets
import struct
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from rafter_storage.errors import StorageError
from rafter_storage.file_system import Buffer, FileSystem, read_exactly, write_exactly

__all__ = [
    "FORMAT_VERSION",
    "HEADER_BYTES",
    "SEGMENT_BYTES_MAX",
    "LoadedSegment",
    "SegmentHeader",
    "create_segment",
    "decode_header",
    "draw_seed",
    "encode_header",
    "load_segment",
    "segment_path",
    "sequence_of",
    "spare_number_of",
    "spare_path",
]

FORMAT_VERSION = 2
HEADER_BYTES = 4096
SEGMENT_BYTES_MAX = (1 << 32) - HEADER_BYTES

_MAGIC = b"RAFTRWAL"
_HEADER = struct.Struct("<8sIIQQQQQQ")
_CHECKSUM = struct.Struct("<Q")
_NAME = re.compile(r"([0-9]{20})\.log")
_SPARE_NAME = re.compile(r"spare-([0-9]{20})\.free")
_BLOCK_BYTES = 1 << 20
_ZEROS = bytes(_BLOCK_BYTES)


class SegmentHeader(NamedTuple):
    """The identity of a segment. ``previous_*`` are zero in the first segment of a log.

    ``first_sequence`` is the oldest segment that the log needed when this one was made.
    """

    sequence: int
    seed: int
    previous_seed: int
    previous_end: int
    segment_bytes: int
    first_sequence: int


def segment_path(directory: Path, sequence: int) -> Path:
    """Return where the segment ``sequence`` of the log in ``directory`` lives."""
    return directory / f"{sequence:020d}.log"


def sequence_of(name: str) -> int | None:
    """Return the sequence number in a segment's file name, or None for any other name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def spare_path(directory: Path, number: int) -> Path:
    """Return where the spare file ``number`` of the log in ``directory`` lives."""
    return directory / f"spare-{number:020d}.free"


def spare_number_of(name: str) -> int | None:
    """Return the number in a spare file's name, or None for any other name."""
    match = _SPARE_NAME.fullmatch(name)
    return int(match[1]) if match else None


def draw_seed() -> int:
    """Draw a segment's seed: never 0, and small enough that seed + offset fits 64 bits."""
    return secrets.randbits(63) or 1


def encode_header(header: SegmentHeader) -> bytes:
    """Build the header block of a segment."""
    fields = _HEADER.pack(_MAGIC, FORMAT_VERSION, HEADER_BYTES, *header)
    block = fields + _CHECKSUM.pack(xxh3_64_intdigest(fields))
    return block.ljust(HEADER_BYTES, b"\0")


def decode_header(path: Path, block: Buffer) -> SegmentHeader | None:
    """Return the header in ``block``, or None if it is damaged.

    Raises ``StorageError`` for an intact header of a version that this program cannot read.
    """
    if len(block) < HEADER_BYTES:
        return None
    fields = bytes(block[: _HEADER.size])
    (checksum,) = _CHECKSUM.unpack_from(block, _HEADER.size)
    if checksum != xxh3_64_intdigest(fields):
        return None
    magic, version, header_bytes, *numbers = _HEADER.unpack(fields)
    if magic != _MAGIC or header_bytes != HEADER_BYTES:
        return None
    if version != FORMAT_VERSION:
        raise StorageError(
            f"{path} has log format {version}, this program reads format {FORMAT_VERSION}: "
            "start the version of rafterd that wrote it"
        )
    return SegmentHeader(*numbers)


def create_segment(
    files: FileSystem,
    directory: Path,
    header: SegmentHeader,
    spare: Path | None = None,
    flags: int = 0,
) -> int:
    """Create a segment and return a descriptor for writing it, opened with ``flags``.

    On return the file, its whole allocation, its header and its name are durable. ``spare``, which
    must have the segment's size, becomes the segment; after an error it is a spare still. A
    temporary file is removed after an error, so that a full disk is not made fuller; what a crash
    leaves of it the next recovery removes. Errors are ``OSError``.
    """
    path = segment_path(directory, header.sequence)
    temporary = path.with_suffix(".tmp") if spare is None else spare
    creation = os.O_CREAT | os.O_TRUNC if spare is None else 0
    descriptor = files.open(temporary, os.O_RDWR | creation)
    try:
        if spare is None:
            files.allocate(descriptor, header.segment_bytes)
        write_exactly(files, descriptor, [encode_header(header)], 0)
        files.sync_data(descriptor)
        if flags:
            writable = files.open(temporary, os.O_RDWR | flags)
            files.close(descriptor)
            descriptor = writable
        files.rename(temporary, path)
        files.sync_directory(directory)
    except BaseException:
        files.close(descriptor)
        if spare is None:
            with contextlib.suppress(OSError):
                files.unlink(temporary)
        raise
    return descriptor


class LoadedSegment(NamedTuple):
    """A segment's bytes in memory. At ``used`` and behind there are zeros alone."""

    data: mmap.mmap | bytes
    used: int


def load_segment(files: FileSystem, path: Path) -> LoadedSegment:
    """Read a whole segment in large steps.

    The bytes are copied, not mapped from the file: a read error is then an ``OSError`` here, and
    not a signal that kills the process. Blocks of zeros are not stored, so that a young segment
    costs the memory of what was written to it.
    """
    descriptor = files.open(path, os.O_RDONLY)
    try:
        size = files.size(descriptor)
        if size > SEGMENT_BYTES_MAX:
            raise StorageError(f"{path} has {size} bytes, a segment has at most 4 GiB")
        if size == 0:
            return LoadedSegment(b"", 0)
        data = mmap.mmap(-1, size)
        used = 0
        for offset in range(0, size, _BLOCK_BYTES):
            length = min(_BLOCK_BYTES, size - offset)
            block = read_exactly(files, descriptor, length, offset)
            if block != _ZEROS:
                used = offset + len(block)
                data[offset:used] = block
    finally:
        files.close(descriptor)
    return LoadedSegment(data, used)
