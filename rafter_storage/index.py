"""The index of one group: from a log index to the record that holds it.

One slot per record with entries, in compact arrays (20 bytes a slot), ordered by first index. The
end of a slot is where the next one begins, so a record that overlaps earlier ones trims them by
being added: the newest record for an index wins, as Raft's log does when a follower's suffix is
replaced (Raft paper, 5.3). Terms are kept as runs, since they change rarely.
"""

from array import array
from bisect import bisect_left, bisect_right
from typing import NamedTuple

from rafter_core.entries import Entry

__all__ = ["GroupIndex", "Slot"]


class Slot(NamedTuple):
    """Where the entries ``first_index`` … ``last_index`` are on disk.

    The record may hold more entries behind ``last_index``; those were replaced by later records.
    """

    first_index: int
    last_index: int
    sequence: int
    offset: int
    length: int


class GroupIndex:
    """Maps the indexes 1 … ``last_index`` of one group to records, and to terms.

    Owner thread only. Memory: 20 bytes a record and 16 bytes a change of term.
    """

    __slots__ = (
        "_first_indexes",
        "_lengths",
        "_offsets",
        "_run_first_indexes",
        "_run_terms",
        "_sequences",
        "first_index",
        "last_index",
    )

    def __init__(self) -> None:
        # The first index the log holds or will hold. It moves once compaction exists.
        self.first_index = 1
        self.last_index = 0
        self._first_indexes = array("Q")
        self._sequences = array("I")
        self._offsets = array("I")
        self._lengths = array("I")
        self._run_first_indexes = array("Q")
        self._run_terms = array("Q")

    def __len__(self) -> int:
        return len(self._first_indexes)

    def append(
        self, first_index: int, last_index: int, sequence: int, offset: int, length: int
    ) -> None:
        """Add a record's entries, dropping everything at ``first_index`` and above.

        The record must leave no gap. ``add_term`` or ``add_terms`` must follow with its terms.
        """
        assert self.first_index <= first_index <= self.last_index + 1, "a gap in the log"
        assert first_index <= last_index, "a record without entries"
        if first_index <= self.last_index:
            self._truncate(first_index)
        self._first_indexes.append(first_index)
        self._sequences.append(sequence)
        self._offsets.append(offset)
        self._lengths.append(length)
        self.last_index = last_index

    def add_term(self, first_index: int, term: int) -> None:
        """Say that entries from ``first_index`` on have ``term``."""
        if not self._run_terms or self._run_terms[-1] != term:
            self._run_first_indexes.append(first_index)
            self._run_terms.append(term)

    def add_terms(self, entries: list[Entry]) -> None:
        """Say the terms of entries just appended. One comparison when all are of one term."""
        term = entries[0].term
        self.add_term(entries[0].index, term)
        if entries[-1].term != term:
            for entry in entries:
                self.add_term(entry.index, entry.term)

    def term(self, index: int) -> int:
        """Return the term at ``index``, which must lie within the log."""
        if index >= self._run_first_indexes[-1]:
            return self._run_terms[-1]
        return self._run_terms[bisect_right(self._run_first_indexes, index) - 1]

    def position(self, index: int) -> int:
        """Return the number of the slot that holds ``index``, which must lie within the log."""
        return bisect_right(self._first_indexes, index) - 1

    def slot(self, position: int) -> Slot:
        """Return slot number ``position``."""
        following = position + 1
        if following < len(self._first_indexes):
            last_index = self._first_indexes[following] - 1
        else:
            last_index = self.last_index
        return Slot(
            self._first_indexes[position],
            last_index,
            self._sequences[position],
            self._offsets[position],
            self._lengths[position],
        )

    def _truncate(self, first_index: int) -> None:
        """Forget all entries at ``first_index`` and above."""
        keep = bisect_left(self._first_indexes, first_index)
        for column in (self._first_indexes, self._sequences, self._offsets, self._lengths):
            del column[keep:]
        keep = bisect_left(self._run_first_indexes, first_index)
        del self._run_first_indexes[keep:]
        del self._run_terms[keep:]
        self.last_index = first_index - 1
