"""What a log's directory needs beside writes: spares, dumps of indexes, and segments to retire."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections import deque
from pathlib import Path

from rafter_storage.chores import Chore, DumpIndex, PrewriteSpare, RetireSegment
from rafter_storage.file_system import FileSystem
from rafter_storage.recovery import SealedIndex
from rafter_storage.segment import spare_number_of

__all__ = ["Housekeeper"]

logger = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Housekeeper:
    """Hands out chores one at a time, and keeps the list of spares. Owner thread.

    ``is_disk_full`` is set when there was no room for a spare or a segment, and holds until there
    is. ``is_stalled``: a job waits for a segment, so no spare may take the room for it.
    """

    def __init__(
        self, files: FileSystem, directory: Path, segment_bytes: int, spares_max: int
    ) -> None:
        self._files = files
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._spares_max = spares_max
        self._spares: list[Path] = []
        self._last_number = 0
        self._retired: deque[tuple[int, int]] = deque()
        self._sealed: deque[SealedIndex] = deque()
        # Chores that are not over: tried again after an error, or with further steps to do.
        self._retiring: RetireSegment | None = None
        self._prewriting: PrewriteSpare | None = None
        self._is_paused = False
        self.is_disk_full = False
        self.is_stalled = False

    @property
    def disk_bytes(self) -> int:
        """What spares and retired segments take on disk."""
        retired_bytes = sum(segment_bytes for _, segment_bytes in self._retired)
        spares = len(self._spares)
        if self._prewriting is not None and self._prewriting.is_begun:
            spares += 1
        return retired_bytes + spares * self._segment_bytes

    def find_spares(self) -> None:
        """Take over the spares that an earlier process left; remove those of another size."""
        for name in self._files.names(self._directory):
            number = spare_number_of(name)
            if number is None:
                continue
            self._last_number = max(self._last_number, number)
            path = self._directory / name
            status = self._files.status(path)
            is_usable = status is not None and status.size == self._segment_bytes
            if is_usable and len(self._spares) < self._spares_max:
                self._spares.append(path)
            else:
                self._files.unlink(path)

    def take_spare(self) -> Path | None:
        """Return a spare that is the caller's from now on, None if there is none."""
        return self._spares.pop() if self._spares else None

    def give_back(self, spare: Path) -> None:
        """Take back a spare that was not needed."""
        self._spares.append(spare)

    def retire(self, sequence: int, segment_bytes: int) -> None:
        """Note a segment that nothing reads any more, and that a durable MARK has excluded."""
        self._retired.append((sequence, segment_bytes))
        if self._sealed:
            kept = (sealed for sealed in self._sealed if sealed.header.sequence != sequence)
            self._sealed = deque(kept)

    def seal(self, sealed: SealedIndex) -> None:
        """Note a sealed segment whose index is to be dumped."""
        self._sealed.append(sealed)

    def chore(self) -> Chore | None:
        """Return the next step, None if there is nothing to do, or not now."""
        if self._is_paused:
            return None
        if self._retiring is not None:
            return self._retiring
        if self._retired:
            sequence, segment_bytes = self._retired[0]
            is_spare = (
                segment_bytes == self._segment_bytes
                and len(self._spares) < self._spares_max
                and self._prewriting is None
                and not self.is_disk_full
            )
            number = self._next_number() if is_spare else None
            self._retiring = RetireSegment(self._files, self._directory, sequence, number)
            return self._retiring
        if self._sealed:
            return DumpIndex(self._files, self._directory, self._sealed[0])
        if self.is_stalled:
            return None
        if self._prewriting is None and len(self._spares) < self._spares_max:
            number = self._next_number()
            self._prewriting = PrewriteSpare(
                self._files, self._directory, number, self._segment_bytes
            )
        return self._prewriting

    def complete(self, chore: Chore, error: Exception | None) -> None:
        """Take note that a step has run. After an error nothing is handed out until ``resume``."""
        if error is not None:
            self._is_paused = True
            if isinstance(error, OSError) and error.errno in _FULL:
                self.is_disk_full = True
            logger.warning("housekeeping in %s failed: %s", self._directory, error)
        elif isinstance(chore, RetireSegment):
            self._retired.popleft()
            self._retiring = None
            if chore.spare is not None:
                self._spares.append(chore.spare)
        elif isinstance(chore, DumpIndex):
            if self._sealed and self._sealed[0] is chore.sealed:
                self._sealed.popleft()
        elif isinstance(chore, PrewriteSpare) and chore.is_done:
            self._spares.append(chore.spare)
            self._prewriting = None
            self.is_disk_full = False

    def stall(self, segment_bytes: int) -> Path | None:
        """Take note that a job finds no room for its segment; return a spare for it if there is.

        No chore may be running. Otherwise spares that do not fit, and one that is being made, give
        their room back.
        """
        self.is_disk_full = True
        self.is_stalled = True
        if self._spares and segment_bytes == self._segment_bytes:
            return self._spares.pop()
        while self._spares:
            with contextlib.suppress(OSError):
                self._files.unlink(self._spares.pop())
        if self._prewriting is not None:
            self._prewriting.give_up()
            self._prewriting = None
        return None

    def resume(self) -> None:
        """Try again what failed. Called now and then."""
        self._is_paused = False

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number
