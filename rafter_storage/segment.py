"""A segment: one preallocated file of a shard's log.

A segment starts with a header block that gives it an identity (a random seed, mixed into every
checksum of its records) and ties it to the segment before: that one's seed, and the offset where
its records end. A segment is made under a temporary name, allocated, headed and synced, and only
then renamed: a file with a segment's name has always had a durable header. And because the
segment before is synced first, the existence of a segment proves that the one before it had been
durable up to ``previous_end``.

Header, little endian: 0 magic (8 bytes), 8 u32 format version, 12 u32 header bytes, 16 u64
sequence, 24 u64 seed, 32 u64 previous seed, 40 u64 previous end, 48 u64 segment bytes, 56 u64
checksum of the bytes before it; zeros up to 4096.
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
    "used_bytes",
    "zero_from",
]

FORMAT_VERSION = 1
HEADER_BYTES = 4096
SEGMENT_BYTES_MAX = (1 << 32) - HEADER_BYTES

_MAGIC = b"RAFTRWAL"
_HEADER = struct.Struct("<8sIIQQQQQ")
_CHECKSUM = struct.Struct("<Q")
_NAME = re.compile(r"([0-9]{20})\.log")
_BLOCK_BYTES = 1 << 20
_ZEROS = bytes(_BLOCK_BYTES)


class SegmentHeader(NamedTuple):
    """The identity of a segment. ``previous_*`` are zero in the first segment of a log."""

    sequence: int
    seed: int
    previous_seed: int
    previous_end: int
    segment_bytes: int


def segment_path(directory: Path, sequence: int) -> Path:
    """Return where the segment ``sequence`` of the log in ``directory`` lives."""
    return directory / f"{sequence:020d}.log"


def sequence_of(name: str) -> int | None:
    """Return the sequence number in a segment's file name, or None for any other name."""
    match = _NAME.fullmatch(name)
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


def create_segment(files: FileSystem, directory: Path, header: SegmentHeader) -> int:
    """Create a segment and return a descriptor for writing it.

    On return the file, its whole allocation, its header and its name are durable. After an error
    the temporary file is removed, so that a full disk is not made fuller; what a crash leaves of
    it the next recovery removes. Errors are ``OSError``.
    """
    path = segment_path(directory, header.sequence)
    temporary = path.with_suffix(".tmp")
    descriptor = files.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        files.allocate(descriptor, header.segment_bytes)
        write_exactly(files, descriptor, [encode_header(header)], 0)
        files.sync_data(descriptor)
        files.rename(temporary, path)
        files.sync_directory(directory)
    except BaseException:
        files.close(descriptor)
        with contextlib.suppress(OSError):
            files.unlink(temporary)
        raise
    return descriptor


class LoadedSegment(NamedTuple):
    """A segment's bytes in memory; ``used`` is the offset behind the last one that is not zero."""

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
            used_in_block = used_bytes(block)
            if used_in_block:
                data[offset : offset + len(block)] = block
                used = offset + used_in_block
    finally:
        files.close(descriptor)
    return LoadedSegment(data, used)


def used_bytes(block: bytes) -> int:
    """Return the offset behind the last byte of ``block`` that is not zero."""
    if len(block) == _BLOCK_BYTES and block == _ZEROS:
        return 0
    return len(block.rstrip(b"\0"))


def zero_from(files: FileSystem, descriptor: int, offset: int) -> None:
    """Overwrite with zeros all that is not zero at ``offset`` and behind; sync it.

    Records that were cut off must not come back: a later record could end exactly where an old
    one begins. A crash in the middle leaves a tail that is just as torn, and is cut again.
    """
    size = files.size(descriptor)
    while offset < size:
        length = min(_BLOCK_BYTES, size - offset)
        block = read_exactly(files, descriptor, length, offset)
        used = used_bytes(block)
        if used:
            write_exactly(files, descriptor, [_ZEROS[:used]], offset)
        offset += length
    files.sync_data(descriptor)
