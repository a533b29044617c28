"""The flusher's side of a shard's log: the one descriptor that is written through.

Nothing here is touched by the owner thread while the manager is open. One failed write or sync
ends it for good.
"""

import errno
import os
import time
from pathlib import Path

from rafter_storage.buffer import FragmentedBuffer
from rafter_storage.errors import DiskFull, Poisoned, StorageError
from rafter_storage.file_system import REFUSALS, FileSystem
from rafter_storage.segment import SegmentHeader, create_segment, segment_path

__all__ = ["DIRECT_BLOCK_BYTES", "DIRECT_FLAGS", "SegmentWriter"]

DIRECT_BLOCK_BYTES = 4096
DIRECT_FLAGS = os.O_DIRECT | os.O_DSYNC

_FULL = (errno.ENOSPC, errno.EDQUOT)


class SegmentWriter:
    """Writes and syncs the last segment. One thread at a time.

    ``poison`` is None, or what failed. It is set once, by the flusher, and read by any thread. With
    ``is_direct`` files are opened with O_DIRECT and O_DSYNC: what is written is durable at once.
    """

    def __init__(
        self,
        files: FileSystem,
        directory: Path,
        header: SegmentHeader,
        descriptor: int,
        *,
        is_direct: bool,
    ) -> None:
        self._files = files
        self._directory = directory
        self._path = segment_path(directory, header.sequence)
        self._descriptor = descriptor
        self._is_open = True
        self.is_direct = is_direct
        self._started_jobs = 0
        # Whether the file may have bytes that no sync has covered. A file that was opened as it
        # stood may: they are another's, and ``sync_data`` covers those too.
        self._has_unsynced = True
        # Whether the disk takes a write and its sync in one call; None until it was tried.
        self._takes_synced_writes: bool | None = None
        self.poison: str | None = None

    def check(self) -> None:
        """Raise ``Poisoned`` if an earlier write or sync failed."""
        if self.poison is not None:
            raise Poisoned(self.poison)

    def start(self, number: int) -> None:
        """Begin job ``number``; the jobs of a log run once each, in order.

        Number 0 is the manager's own, outside of the order, while the flusher has nothing to do.
        """
        self.check()
        if number == 0:
            return
        if number != self._started_jobs + 1:
            raise StorageError(f"job {number} cannot run after job {self._started_jobs}")
        self._started_jobs = number

    def write(self, buffer: FragmentedBuffer, offset: int) -> None:
        """Write a buffer at ``offset``. Durable after the next ``sync`` or ``write_synced``."""
        self.check()
        # Before the call: what fails may have written something.
        self._has_unsynced = True
        try:
            buffer.write(self._files, self._descriptor, offset)
        except BaseException as error:
            raise self._poisoned("write", error) from error

    def write_synced(self, buffer: FragmentedBuffer, offset: int) -> float:
        """Write a buffer at ``offset`` and make it durable, with everything written before.

        Returns how many seconds the sync took, the write included if one call did both.
        """
        self.check()
        # One call syncs the bytes that it writes, and no others.
        if not (self.is_direct or self._has_unsynced or self._takes_synced_writes is False):
            started = time.perf_counter()
            if self._write_at_once(buffer, offset):
                return time.perf_counter() - started
        self.write(buffer, offset)
        return self.sync()

    def _write_at_once(self, buffer: FragmentedBuffer, offset: int) -> bool:
        """Write and sync in one call; return False if the system refuses to."""
        try:
            buffer.write(self._files, self._descriptor, offset, is_synced=True)
        except OSError as error:
            # The same number from a disk that took such a call before is a failure like any other.
            if self._takes_synced_writes is None and error.errno in REFUSALS:
                self._takes_synced_writes = False
                return False
            raise self._poisoned("write and sync", error) from error
        except BaseException as error:
            raise self._poisoned("write and sync", error) from error
        self._takes_synced_writes = True
        return True

    def sync(self) -> float:
        """Make everything written so far durable; return how many seconds it took."""
        self.check()
        if self.is_direct:
            return 0.0
        started = time.perf_counter()
        try:
            self._files.sync_data(self._descriptor)
        except BaseException as error:
            raise self._poisoned("sync", error) from error
        self._has_unsynced = False
        return time.perf_counter() - started

    def roll(self, number: int, header: SegmentHeader, spare: Path | None) -> float:
        """Sync the current segment, make the next one and go on in it, for job ``number``.

        On return the old segment is durable to its end, and the new one exists durably. Returns
        the seconds the first sync took. Raises ``DiskFull`` if there is no room: nothing has
        changed then, the job has not begun, and it may be tried again.
        """
        self.start(number)
        seconds = self.sync()
        flags = DIRECT_FLAGS if self.is_direct else 0
        try:
            descriptor = create_segment(self._files, self._directory, header, spare, flags)
        except OSError as error:
            path = segment_path(self._directory, header.sequence)
            if error.errno in _FULL and self._files.status(path) is None:
                self._started_jobs = number - 1
                raise DiskFull(f"no room for another segment in {self._directory}") from error
            raise self._poisoned("roll to the segment after", error) from error
        except BaseException as error:
            raise self._poisoned("roll to the segment after", error) from error
        self._files.close(self._descriptor)
        self._descriptor = descriptor
        self._path = segment_path(self._directory, header.sequence)
        self._has_unsynced = False
        return seconds

    def close(self) -> None:
        """Close the file, without syncing it. May be called again."""
        if self._is_open:
            self._is_open = False
            self.poison = self.poison or f"the log in {self._directory} is closed"
            self._files.close(self._descriptor)

    def _poisoned(self, action: str, error: BaseException) -> Poisoned:
        self.poison = (
            f"cannot {action} {self._path}: {error}; nothing more is acknowledged by this shard "
            "until it has been restarted and has recovered"
        )
        return Poisoned(self.poison)
