"""The index of one group: from a log index to the record that holds it.

One slot per record with entries, in compact arrays (36 bytes a slot), ordered by log index and
without overlaps. A record that overlaps earlier ones trims them by being appended: the newest
record for an index wins, as Raft's log does when a follower's suffix is replaced (Raft paper, 5.3).
A copy of entries that were rewritten forward changes where they are, and nothing else.

The index also knows which segments the group still needs: how many slots lie in each.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from typing import NamedTuple

__all__ = ["GroupIndex", "Slot", "SlotColumns"]


class Slot(NamedTuple):
    """Where the entries ``first_index`` … ``last_index``, all of ``term``, are on disk.

    The record may hold more entries before and behind them, which other records have replaced or
    compaction has dropped.
    """

    first_index: int
    last_index: int
    term: int
    sequence: int
    offset: int
    length: int


class SlotColumns:
    """Slots as parallel arrays, all of one segment: what that segment says of one group's log."""

    __slots__ = ("first_indexes", "last_indexes", "lengths", "offsets", "terms")

    def __init__(self) -> None:
        self.first_indexes = array("Q")
        self.last_indexes = array("Q")
        self.terms = array("Q")
        self.offsets = array("I")
        self.lengths = array("I")

    def __len__(self) -> int:
        return len(self.first_indexes)

    def append(
        self, first_index: int, last_index: int, term: int, offset: int, length: int
    ) -> None:
        """Add a record's entries, dropping everything at ``first_index`` and above."""
        last_indexes = self.last_indexes
        if last_indexes and first_index <= last_indexes[-1]:
            self.truncate(first_index)
        self.first_indexes.append(first_index)
        last_indexes.append(last_index)
        self.terms.append(term)
        self.offsets.append(offset)
        self.lengths.append(length)

    def truncate(self, first_index: int) -> None:
        """Forget all entries at ``first_index`` and above."""
        keep = bisect_left(self.first_indexes, first_index)
        for column in self.columns():
            del column[keep:]
        if keep and self.last_indexes[-1] >= first_index:
            self.last_indexes[-1] = first_index - 1

    def columns(self) -> tuple[array[int], ...]:
        """Return all columns, in the order of ``append``'s arguments."""
        return (self.first_indexes, self.last_indexes, self.terms, self.offsets, self.lengths)


class GroupIndex:
    """Maps the indexes ``first_index`` … ``last_index`` of one group to records, and to terms.

    Owner thread only. While a log is being recovered there may be holes; ``missing`` finds them.
    ``slots_by_sequence`` counts the slots in each segment, ``live_bytes`` the bytes of all records
    that are needed.
    """

    __slots__ = (
        "_first_indexes",
        "_last_indexes",
        "_lengths",
        "_offsets",
        "_sequences",
        "_terms",
        "first_index",
        "last_index",
        "live_bytes",
        "slots_by_sequence",
    )

    def __init__(self) -> None:
        self.first_index = 1
        self.last_index = 0
        self.live_bytes = 0
        self.slots_by_sequence: dict[int, int] = {}
        self._first_indexes = array("Q")
        self._last_indexes = array("Q")
        self._terms = array("Q")
        self._sequences = array("I")
        self._offsets = array("I")
        self._lengths = array("I")

    def __len__(self) -> int:
        return len(self._first_indexes)

    # Changes.

    def append(
        self, first_index: int, last_index: int, term: int, sequence: int, offset: int, length: int
    ) -> None:
        """Add a record's entries, dropping everything at ``first_index`` and above."""
        if first_index <= self.last_index:
            self.truncate(first_index)
        self._first_indexes.append(first_index)
        self._last_indexes.append(last_index)
        self._terms.append(term)
        self._sequences.append(sequence)
        self._offsets.append(offset)
        self._lengths.append(length)
        self.last_index = last_index
        self.live_bytes += length
        counts = self.slots_by_sequence
        counts[sequence] = counts.get(sequence, 0) + 1

    def extend(self, sequence: int, added: SlotColumns) -> None:
        """Append the slots of one segment, all beyond what is left of the log."""
        if not added:
            return
        self._first_indexes.extend(added.first_indexes)
        self._last_indexes.extend(added.last_indexes)
        self._terms.extend(added.terms)
        self._sequences.extend(array("I", [sequence]) * len(added))
        self._offsets.extend(added.offsets)
        self._lengths.extend(added.lengths)
        self.last_index = added.last_indexes[-1]
        self.live_bytes += sum(added.lengths)
        counts = self.slots_by_sequence
        counts[sequence] = counts.get(sequence, 0) + len(added)

    def truncate(self, first_index: int) -> None:
        """Forget all entries at ``first_index`` and above."""
        self._drop(bisect_left(self._first_indexes, first_index), len(self))
        if self._last_indexes and self._last_indexes[-1] >= first_index:
            self._last_indexes[-1] = first_index - 1
        self.last_index = min(self.last_index, first_index - 1)

    def move(self, slot: Slot) -> None:
        """Say that these entries are elsewhere from now on."""
        first_index, last_index = slot.first_index, slot.last_index
        low = bisect_left(self._last_indexes, first_index)
        high = bisect_right(self._first_indexes, last_index)
        rows = [slot]
        if low < high:
            first, last = self.slot(low), self.slot(high - 1)
            if first.first_index < first_index:
                rows.insert(0, first._replace(last_index=first_index - 1))
            if last.last_index > last_index:
                rows.append(last._replace(first_index=last_index + 1))
        self._drop(low, high)
        for column, values in zip(self._columns(), zip(*rows, strict=True), strict=True):
            column[low:low] = array(column.typecode, values)
        for row in rows:
            self.live_bytes += row.length
            self.slots_by_sequence[row.sequence] = self.slots_by_sequence.get(row.sequence, 0) + 1
        self.last_index = max(self.last_index, last_index)

    def compact(self, index: int) -> None:
        """Forget all entries at ``index`` and below; the log begins behind it."""
        self._drop(0, bisect_right(self._last_indexes, index))
        if self._first_indexes and self._first_indexes[0] <= index:
            self._first_indexes[0] = index + 1
        self.first_index = index + 1
        self.last_index = max(self.last_index, index)

    def reset(self, index: int) -> None:
        """Forget all entries; the next one is ``index + 1``."""
        self._drop(0, len(self))
        self.first_index = index + 1
        self.last_index = index

    # Questions.

    def term(self, index: int) -> int:
        """Return the term at ``index``, which must lie within the log."""
        if index >= self._first_indexes[-1]:
            return self._terms[-1]
        return self._terms[bisect_right(self._first_indexes, index) - 1]

    def position(self, index: int) -> int:
        """Return the number of the slot that holds ``index``, which must lie within the log."""
        return bisect_right(self._first_indexes, index) - 1

    def slot(self, position: int) -> Slot:
        """Return slot number ``position``."""
        return Slot(
            self._first_indexes[position],
            self._last_indexes[position],
            self._terms[position],
            self._sequences[position],
            self._offsets[position],
            self._lengths[position],
        )

    def slots_in(self, sequence: int, count_max: int) -> list[Slot]:
        """Return the first slots, up to ``count_max``, that lie in a segment."""
        found: list[Slot] = []
        position = -1
        for _ in range(min(count_max, self.slots_by_sequence.get(sequence, 0))):
            position = self._sequences.index(sequence, position + 1)
            found.append(self.slot(position))
        return found

    def missing(self) -> int | None:
        """Return the lowest index of the log that no slot holds, None if there is none."""
        expected = self.first_index
        for first_index, last_index in zip(self._first_indexes, self._last_indexes, strict=True):
            if first_index > expected:
                return expected
            expected = last_index + 1
        return expected if expected <= self.last_index else None

    def _columns(self) -> tuple[array[int], ...]:
        """Return all columns, in the order of a slot's fields."""
        return (
            self._first_indexes,
            self._last_indexes,
            self._terms,
            self._sequences,
            self._offsets,
            self._lengths,
        )

    def _drop(self, low: int, high: int) -> None:
        """Remove the slots low … high - 1 and what is counted of them."""
        if low >= high:
            return
        counts = self.slots_by_sequence
        for sequence, count in Counter(self._sequences[low:high]).items():
            counts[sequence] -= count
            if not counts[sequence]:
                del counts[sequence]
        self.live_bytes -= sum(self._lengths[low:high])
        for column in self._columns():
            del column[low:high]
