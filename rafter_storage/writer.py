"""The flusher's side of a shard's log: the one descriptor that is written through.

Nothing here is touched by the owner thread while the manager is open. One failed write or sync
ends it for good.
"""

import time
from pathlib import Path

from rafter_storage.errors import Poisoned, StorageError
from rafter_storage.file_system import Buffer, FileSystem, write_exactly
from rafter_storage.segment import SegmentHeader, create_segment, segment_path

__all__ = ["SegmentWriter"]


class SegmentWriter:
    """Writes and syncs the last segment. One thread at a time.

    ``poison`` is None, or what failed. It is set once, by the flusher, and read by any thread.
    """

    def __init__(
        self, files: FileSystem, directory: Path, header: SegmentHeader, descriptor: int
    ) -> None:
        self._files = files
        self._directory = directory
        self._path = segment_path(directory, header.sequence)
        self._descriptor = descriptor
        self._is_open = True
        self._started_jobs = 0
        self.poison: str | None = None

    def check(self) -> None:
        """Raise ``Poisoned`` if an earlier write or sync failed."""
        if self.poison is not None:
            raise Poisoned(self.poison)

    def start(self, number: int) -> None:
        """Begin job ``number``; the jobs of a log run once each, in order."""
        self.check()
        if number != self._started_jobs + 1:
            raise StorageError(f"job {number} cannot run after job {self._started_jobs}")
        self._started_jobs = number

    def write(self, buffers: list[Buffer], offset: int) -> None:
        """Write buffers at ``offset``. Durable after the next ``sync``."""
        self.check()
        try:
            write_exactly(self._files, self._descriptor, buffers, offset)
        except BaseException as error:
            raise self._poisoned("write", error) from error

    def sync(self) -> float:
        """Make everything written so far durable; return how many seconds it took."""
        self.check()
        started = time.perf_counter()
        try:
            self._files.sync_data(self._descriptor)
        except BaseException as error:
            raise self._poisoned("sync", error) from error
        return time.perf_counter() - started

    def roll(self, header: SegmentHeader) -> float:
        """Sync the current segment, create the next one and go on in it.

        On return the old segment is durable to its end, and the new one exists durably. Returns
        the seconds the first sync took.
        """
        seconds = self.sync()
        try:
            descriptor = create_segment(self._files, self._directory, header)
            self._files.close(self._descriptor)
        except BaseException as error:
            raise self._poisoned("roll to the segment after", error) from error
        self._descriptor = descriptor
        self._path = segment_path(self._directory, header.sequence)
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
