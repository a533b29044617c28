"""Housekeeping that touches the disk: prewriting spares, dumping indexes, retiring segments.

A chore is made by the owner thread, runs on the flusher thread between two jobs, in steps of about
a millisecond, and is then completed by the owner thread. None is needed for anything to be durable;
a crash in the middle leaves what the next start puts in order.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol

from rafter_storage.file_system import FileSystem, write_exactly
from rafter_storage.index_dump import dump_path, encode_dump, write_dump
from rafter_storage.recovery import SealedIndex
from rafter_storage.segment import segment_path, spare_path

__all__ = ["Chore", "DumpIndex", "PrewriteSpare", "RetireSegment"]

STEP_BYTES = 1 << 20

_ZEROS = bytes(STEP_BYTES)


class Chore(Protocol):
    """A step of housekeeping."""

    def run(self) -> None:
        """Do it, on the flusher thread. Raises ``OSError``; then it may be made and run anew."""


class DumpIndex:
    """Writes the index of a sealed segment beside it."""

    def __init__(self, files: FileSystem, directory: Path, sealed: SealedIndex) -> None:
        self._files = files
        self._directory = directory
        self.sealed = sealed

    def run(self) -> None:
        """Encode and write the dump."""
        header, end, index = self.sealed
        data = encode_dump(index, header, end)
        write_dump(self._files, self._directory, header.sequence, data)


class RetireSegment:
    """Takes a segment that nothing needs out of the log: it becomes a spare, or is removed.

    A durable MARK must say that the log does not begin before the next segment. The dump goes
    first: one without a segment would be taken for nothing, but would stay for good.
    """

    def __init__(
        self, files: FileSystem, directory: Path, sequence: int, spare_number: int | None
    ) -> None:
        self._files = files
        self._directory = directory
        self.sequence = sequence
        self.spare = None if spare_number is None else spare_path(directory, spare_number)

    def run(self) -> None:
        """Rename or unlink, and make that durable. May be run again after an error."""
        with contextlib.suppress(FileNotFoundError):
            self._files.unlink(dump_path(self._directory, self.sequence))
        path = segment_path(self._directory, self.sequence)
        with contextlib.suppress(FileNotFoundError):
            # Not found: an earlier run did it, and failed behind it.
            if self.spare is None:
                self._files.unlink(path)
            else:
                self._files.rename(path, self.spare)
        self._files.sync_directory(self._directory)
        if self.spare is not None and self._files.status(self.spare) is None:
            self.spare = None


class PrewriteSpare:
    """Makes a spare file full of zeros, one step for each ``run``; ``is_done`` after the last."""

    def __init__(self, files: FileSystem, directory: Path, number: int, segment_bytes: int) -> None:
        self._files = files
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._written_bytes = 0
        self.spare = spare_path(directory, number)
        self.is_done = False

    @property
    def is_begun(self) -> bool:
        """Whether there is a file already."""
        return bool(self._written_bytes)

    def give_up(self) -> None:
        """Remove what there is. On the owner thread, while no chore runs."""
        self._written_bytes = 0
        with contextlib.suppress(OSError):
            self._files.unlink(self.spare.with_suffix(".tmp"))

    def run(self) -> None:
        """Write and sync the next step; name the file a spare when it is whole.

        It is opened for each step, so that nothing has to be closed when the log is. On an error
        the file is removed, and the next run begins anew.
        """
        temporary = self.spare.with_suffix(".tmp")
        creation = 0 if self._written_bytes else os.O_CREAT | os.O_TRUNC
        try:
            descriptor = self._files.open(temporary, os.O_RDWR | creation)
            try:
                self._fill(descriptor)
            finally:
                self._files.close(descriptor)
            if self._written_bytes == self._segment_bytes:
                self._files.rename(temporary, self.spare)
                self._files.sync_directory(self._directory)
                self.is_done = True
        except BaseException:
            self._written_bytes = 0
            for path in (temporary, self.spare):
                with contextlib.suppress(OSError):
                    self._files.unlink(path)
            raise

    def _fill(self, descriptor: int) -> None:
        if not self._written_bytes:
            self._files.allocate(descriptor, self._segment_bytes)
        length = min(STEP_BYTES, self._segment_bytes - self._written_bytes)
        write_exactly(self._files, descriptor, [memoryview(_ZEROS)[:length]], self._written_bytes)
        self._files.sync_data(descriptor)
        self._written_bytes += length
