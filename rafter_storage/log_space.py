"""What a log takes on disk, and how much of that is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rafter_storage.group_state import GroupState
from rafter_storage.segment import SegmentHeader

__all__ = ["LogSpace"]


class LogSpace:
    """The segments of a log as far as its jobs are complete. Owner thread.

    ``first_sequence`` is what a durable MARK says of where the log begins, ``begun_first_sequence``
    what the newest MARK says that is on its way. ``live_bytes`` are those of the records that are
    needed.
    """

    def __init__(self, segment_bytes: int) -> None:
        self.first_sequence = 1
        self.begun_first_sequence = 1
        self.live_bytes = 0
        self.allocated_bytes = 0
        self._segment_bytes = segment_bytes
        self._headers: dict[int, SegmentHeader] = {}
        # Where the records of each sealed segment end.
        self._ends: dict[int, int] = {}
        # Their sum, since every turn of an event loop may ask for it.
        self._sealed_bytes = 0
        # The oldest segment that is needed, None when something may have changed it.
        self._oldest_sequence: int | None = None

    def __len__(self) -> int:
        return len(self._headers)

    @property
    def oldest_on_disk(self) -> int:
        """The oldest segment that is still there, 0 without any."""
        return min(self._headers, default=0)

    def begin_at(self, first_sequence: int) -> None:
        """Say where the recovered log begins."""
        self.first_sequence = self.begun_first_sequence = first_sequence

    def add(self, header: SegmentHeader) -> None:
        """Take in a segment; it seals the one before it."""
        self._headers[header.sequence] = header
        self.allocated_bytes += header.segment_bytes
        if header.sequence - 1 in self._headers:
            self._ends[header.sequence - 1] = header.previous_end
            self._sealed_bytes += header.previous_end
        self.changed()

    def changed(self) -> None:
        """Say that an older segment may not be needed any more."""
        self._oldest_sequence = None

    def advance_to(self, first_sequence: int) -> Iterator[SegmentHeader]:
        """Take out and yield the segments that a durable MARK says are not needed."""
        for sequence in range(self.first_sequence, first_sequence):
            header = self._headers.pop(sequence)
            self.allocated_bytes -= header.segment_bytes
            self._sealed_bytes -= self._ends.pop(sequence)
            yield header
        self.first_sequence = max(self.first_sequence, first_sequence)

    def oldest_needed(self, states: Iterable[GroupState], head_sequence: int) -> int:
        """Return the oldest segment that something complete is needed of."""
        if self._oldest_sequence is None:
            oldest = head_sequence
            for state in states:
                if state.record_sequence:
                    oldest = min(oldest, state.oldest_sequence)
            self._oldest_sequence = oldest
        return self._oldest_sequence

    def is_wasteful(self, oldest_sequence: int, head_end: int) -> bool:
        """Whether the log, needed from a segment on, holds too much that is not needed."""
        live_bytes = self.live_bytes
        # Twice the live bytes less the segment that has to be copied before anything is freed; but
        # with a third of garbage at least, or a small log would be rewritten for nothing.
        tolerated_bytes = max(2 * live_bytes - self._segment_bytes, live_bytes + live_bytes // 2)
        # Older segments are free already, and wait for their MARK.
        free = range(self.first_sequence, oldest_sequence)
        free_bytes = sum(self._ends[sequence] for sequence in free)
        return self._sealed_bytes - free_bytes + head_end > tolerated_bytes
