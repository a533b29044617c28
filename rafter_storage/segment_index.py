"""What one segment says of each group, as a whole: the unit in which a log is recovered.

A scan of a segment makes one, record by record, and so does the manager while it writes. When the
segment is sealed it is dumped beside it (``index_dump``), so that the next start need not scan. To
recover a log is to let each group absorb its sections of all segments, oldest first.
"""

from __future__ import annotations

from rafter_core.entries import HardState
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.index import Slot, SlotColumns

__all__ = ["Section", "SegmentIndex"]


class Section:
    """What one segment says of one group: the outcome of its records there, not each of them.

    - ``is_reset``: everything that older segments say of the log is void.
    - ``is_removed``: what older segments say of the group is void, and there is no group.
    - ``hard_state``: the newest one.
    - ``metadata``: the newest one; None if the segment has none.
    - ``truncated_from``: the lowest index that entries were appended at since the reset, 0 for
      none: older segments' entries from there on are void.
    - ``appended``: the entries that were appended here and not replaced here.
    - ``copies``: entries that were appended in an older segment and rewritten here, in the order of
      their records.
    - ``fault``: None, or how the records contradict each other.
    """

    __slots__ = (
        "appended",
        "copies",
        "fault",
        "hard_state",
        "is_removed",
        "is_reset",
        "metadata",
        "truncated_from",
    )

    def __init__(self) -> None:
        self.is_reset = False
        self.is_removed = False
        self.hard_state = HardState()
        self.metadata: GroupMetadata | None = None
        self.truncated_from = 0
        self.appended = SlotColumns()
        self.copies: list[Slot] = []
        self.fault: str | None = None

    def append(
        self,
        hard_state: HardState,
        first_index: int,
        last_index: int,
        term: int,
        offset: int,
        length: int,
    ) -> None:
        """Take an ENTRIES record; ``first_index`` is 0 if it has no entries."""
        if first_index:
            appended = self.appended
            commit = self.hard_state.commit
            if first_index <= commit:
                self.fault = f"entries from {first_index} replace the committed {commit}"
            if appended and first_index > appended.last_indexes[-1] + 1:
                last = appended.last_indexes[-1]
                self.fault = f"entries from {first_index} do not follow the log's {last}"
            if not self.truncated_from or first_index < self.truncated_from:
                self.truncated_from = first_index
                if self.copies:
                    self._trim_copies(first_index)
            appended.append(first_index, last_index, term, offset, length)
        self.hard_state = hard_state
        self.is_removed = False

    def copy(self, hard_state: HardState, slot: Slot) -> None:
        """Take a COPY record, whose place is ``slot``."""
        self.copies.append(slot)
        self.hard_state = hard_state
        self.is_removed = False

    def describe(self, hard_state: HardState, metadata: GroupMetadata) -> None:
        """Take a GROUP record."""
        self.metadata = metadata
        self.hard_state = hard_state
        self.is_removed = False

    def reset(self, hard_state: HardState, metadata: GroupMetadata) -> None:
        """Take a RESET record."""
        self._void()
        self.describe(hard_state, metadata)

    def remove(self) -> None:
        """Take a REMOVED record."""
        self._void()
        self.fault = None
        self.is_removed = True
        self.hard_state = HardState()
        self.metadata = None

    def damage(self, reason: str) -> None:
        """Take a record that cannot be read, and had been durable."""
        self.fault = self.fault or reason
        self.is_removed = False

    def _void(self) -> None:
        self.is_reset = True
        self.truncated_from = 0
        self.appended = SlotColumns()
        self.copies.clear()

    def _trim_copies(self, first_index: int) -> None:
        self.copies = [
            slot._replace(last_index=min(slot.last_index, first_index - 1))
            for slot in self.copies
            if slot.first_index < first_index
        ]


class SegmentIndex:
    """The sections of one segment, by group."""

    __slots__ = ("sections", "sequence")

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.sections: dict[int, Section] = {}

    def section(self, group: int) -> Section:
        """Return the group's section, an empty one if the segment was silent of it."""
        section = self.sections.get(group)
        if section is None:
            section = self.sections[group] = Section()
        return section
