"""Choosing what is rewritten forward, so that the oldest segment can go.

Segments leave a log oldest first: a younger one may hold the record that voids something in an
older one. So a single idle group could pin every file behind it (the known weakness of logs that
several groups share). When the records of a log take about twice the bytes of those that are
needed, what is still needed of its oldest segment is written again at the head. At least a third of
what is passed over is garbage then, so that a log without new garbage comes to rest, and at most
two bytes are copied for each that became garbage.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from rafter_storage.errors import StorageError
from rafter_storage.group_state import Draft, GroupState
from rafter_storage.reader import RecordReader
from rafter_storage.record import PREFIX_BYTES

__all__ = ["COPY_BYTES_MAX", "Cleaner"]

logger = logging.getLogger(__name__)

COPY_BYTES_MAX = 256 << 10
"""What one job rewrites, about: the loop reads and encodes it, and must not be kept for long."""

_SLOTS_MAX = 256


class Cleaner:
    """Rewrites what is needed of the oldest segment of a log. Owner thread."""

    def __init__(self, reader: RecordReader) -> None:
        self._reader = reader
        # Segments with something unreadable that is still needed. They stay as they are.
        self._damaged: set[int] = set()

    def is_cleanable(self, sequence: int) -> bool:
        """Whether rewriting can free the segment."""
        return sequence not in self._damaged

    def drafts(self, sequence: int, states: Iterable[GroupState]) -> list[Draft]:
        """Return records that rewrite the next part of what is needed of a segment.

        No job may be under way. An empty list: nothing is left there, or it is damaged.
        """
        drafts: list[Draft] = []
        bytes_left = COPY_BYTES_MAX
        for state in states:
            if bytes_left <= 0:
                break
            if state.record_sequence == sequence or state.metadata_sequence == sequence:
                drafts.append(state.describe())
                bytes_left -= PREFIX_BYTES + len(drafts[-1].body)
            for slot in state.index.slots_in(sequence, _SLOTS_MAX):
                if bytes_left <= 0:
                    break
                try:
                    stored = self._reader.read(state.group, sequence, slot.offset, slot.length)
                except StorageError as error:
                    logger.error("segment %d is kept, damaged as it is: %s", sequence, error)
                    self._damaged.add(sequence)
                    return []
                start = slot.first_index - stored[0].index
                count = slot.last_index - slot.first_index + 1
                drafts.append(state.copy(slot, stored[start : start + count]))
                bytes_left -= slot.length
        return drafts
