"""The end of a log as a file: opened for appending, and marked when it is known to be synced."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rafter_storage.buffer import FragmentedBuffer, FragmentPool
from rafter_storage.file_system import FileSystem
from rafter_storage.record import PREFIX_BYTES
from rafter_storage.recovery import Tail
from rafter_storage.segment import segment_path
from rafter_storage.write_job import LogHead, WriteJob
from rafter_storage.writer import DIRECT_BLOCK_BYTES, DIRECT_FLAGS, SegmentWriter

__all__ = ["mark", "open_directly", "reopen"]


def reopen(files: FileSystem, directory: Path, tail: Tail, first_sequence: int) -> SegmentWriter:
    """Open the last segment for appending; all of the log is durable and marked on return.

    A killed process may have left its last records in the page cache alone, and after a failed sync
    the cache calls them clean. They are about to be believed, so they are written once more, and
    must be durable first. ``tail.head`` moves behind the mark.
    """
    path = segment_path(directory, tail.head.header.sequence)
    descriptor = files.open(path, os.O_RDWR)
    writer = SegmentWriter(files, directory, tail.head.header, descriptor, is_direct=False)
    with _closed_on_error(writer):
        rewritten = FragmentedBuffer()
        rewritten.append(tail.unproved)
        writer.write(rewritten, tail.head.end - len(tail.unproved))
        writer.sync()
        mark(writer, tail.head, first_sequence, None)
    return writer


def open_directly(
    files: FileSystem, directory: Path, head: LogHead, writer: SegmentWriter
) -> SegmentWriter:
    """Let a log go on at a block's begin, through a descriptor without page cache."""
    with _closed_on_error(writer):
        missing = -head.end % DIRECT_BLOCK_BYTES
        # Without room for it, the next job goes to another segment anyway.
        if missing and head.end + missing + PREFIX_BYTES <= head.header.segment_bytes:
            job = WriteJob.outside_of_order(writer, head, None)
            job.must_sync = True
            head.place_padding(job, DIRECT_BLOCK_BYTES)
            job.run()
            head.synced_offset = head.end
    writer.close()
    path = segment_path(directory, head.header.sequence)
    descriptor = files.open(path, os.O_RDWR | DIRECT_FLAGS)
    return SegmentWriter(files, directory, head.header, descriptor, is_direct=True)


def mark(
    writer: SegmentWriter, head: LogHead, first_sequence: int, pool: FragmentPool | None
) -> None:
    """Sync, then write down that everything so far is synced, and sync that.

    From then on damage to any earlier record is known for what it is, and not taken for a torn
    tail. Nothing is written if the last record is a mark, or there is no room for one. ``pool`` is
    that of a direct log.
    """
    room_bytes = PREFIX_BYTES if pool is None else 2 * DIRECT_BLOCK_BYTES
    if head.is_marked or head.end + room_bytes > head.header.segment_bytes:
        return
    writer.sync()
    head.synced_offset = head.end
    job = WriteJob.outside_of_order(writer, head, pool)
    head.place_mark(job, first_sequence)
    if pool is not None:
        head.place_padding(job, DIRECT_BLOCK_BYTES)
    job.run()
    head.synced_offset = head.end
    head.is_marked = True


@contextlib.contextmanager
def _closed_on_error(writer: SegmentWriter) -> Iterator[None]:
    try:
        yield
    except BaseException:
        writer.close()
        raise
