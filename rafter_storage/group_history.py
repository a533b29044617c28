"""What a log says of one group, told record by record, and which rules of Raft it breaks.

This is the verifier's own picture of a group: terms by index, and the newest hard state and
metadata. It knows nothing of sections, slots and dumps, and so can contradict them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

from rafter_core.entries import HardState
from rafter_storage.errors import Damage
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.record import RecordKind, RecordPrefix

__all__ = ["GroupHistory", "Place", "Terms"]

Place = tuple[Path, int]
"""A record: its segment's file, and the offset in it."""

_first = attrgetter("first_index")
_last = attrgetter("last_index")


class _Run:
    """Entries of one term that follow each other; ``place`` is the record of the first."""

    __slots__ = ("first_index", "last_index", "place", "term")

    def __init__(self, first_index: int, last_index: int, term: int, place: Place) -> None:
        self.first_index = first_index
        self.last_index = last_index
        self.term = term
        self.place = place


class Terms:
    """The terms of a log by index, as runs that ascend and do not overlap. There may be holes."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    @property
    def last_index(self) -> int:
        """The highest index, 0 without any."""
        return self._runs[-1].last_index if self._runs else 0

    def at(self, index: int) -> int | None:
        """Return the term at ``index``, None if it is not there."""
        position = bisect_left(self._runs, index, key=_last)
        if position < len(self._runs) and self._runs[position].first_index <= index:
            return self._runs[position].term
        return None

    def truncate(self, first_index: int) -> None:
        """Forget what is at ``first_index`` and above."""
        runs = self._runs
        del runs[bisect_left(runs, first_index, key=_first) :]
        if runs and runs[-1].last_index >= first_index:
            runs[-1].last_index = first_index - 1

    def compact(self, index: int) -> None:
        """Forget what is at ``index`` and below."""
        runs = self._runs
        del runs[: bisect_right(runs, index, key=_last)]
        if runs and runs[0].first_index <= index:
            runs[0].first_index = index + 1

    def append(self, first_index: int, last_index: int, term: int, place: Place) -> None:
        """Add entries beyond the last."""
        last = self._runs[-1] if self._runs else None
        if last is not None and (last.last_index + 1, last.term) == (first_index, term):
            last.last_index = last_index
        else:
            self._runs.append(_Run(first_index, last_index, term, place))

    def cover(self, first_index: int, last_index: int, term: int, place: Place) -> int | None:
        """Add what is not there of these entries; return the first index of another term."""
        runs = self._runs
        low = bisect_left(runs, first_index, key=_last)
        high = bisect_right(runs, last_index, key=_first)
        added = []
        expected = first_index
        for run in runs[low:high]:
            if run.term != term:
                return max(run.first_index, first_index)
            if run.first_index > expected:
                added.append(_Run(expected, run.first_index - 1, term, place))
            added.append(run)
            expected = run.last_index + 1
        if expected <= last_index:
            added.append(_Run(expected, last_index, term, place))
        runs[low:high] = added
        return None

    def holes(self, first_index: int) -> Iterator[tuple[int, int, Place]]:
        """Yield first and last index of every hole from ``first_index`` on, and what follows it."""
        expected = first_index
        for run in self._runs:
            if run.first_index > expected:
                yield expected, run.first_index - 1, run.place
            expected = run.last_index + 1

    def falls(self) -> Iterator[tuple[int, int, int, Place]]:
        """Yield (index, term, term before) wherever a term is less than the one before it."""
        for before, run in zip(self._runs, self._runs[1:], strict=False):
            if run.term < before.term:
                yield run.first_index, run.term, before.term, run.place


class GroupHistory:
    """One group, from its oldest record that is still there.

    ``hard_state``, ``metadata``, ``first_index`` and ``last_index`` are what the records up to now
    say. ``is_removed``: the last one was that the group has gone.
    """

    def __init__(self, group: int) -> None:
        self.group = group
        self._restart()

    def _restart(self) -> None:
        self.hard_state = HardState()
        self.metadata = GroupMetadata()
        self.is_removed = False
        self._terms = Terms()
        self._place: Place = (Path(), 0)
        self._metadata_place = self._place
        # Whether anything came before; where the appended entries end, None if that is unknown
        # because they may have been in segments that have gone.
        self._is_new = True
        self._appended_index: int | None = None
        # A record could not be read that may have changed more than entries.
        self._is_unsure = False

    @property
    def first_index(self) -> int:
        """The first index that the log has, or will have."""
        return self.metadata.base_index + 1

    @property
    def last_index(self) -> int:
        """The last index of the log; ``first_index - 1`` if it is empty."""
        return max(self._terms.last_index, self.metadata.base_index)

    def term(self, index: int) -> int | None:
        """Return the term at ``index``, None if the log does not have it."""
        return self._terms.at(index)

    def lose(self, place: Place) -> None:
        """Take a record of metadata that cannot be read: nothing can be held against it."""
        self._restart()
        self._is_unsure = True
        self._is_new = False
        self._place = place

    def take(
        self, prefix: RecordPrefix, metadata: GroupMetadata | None, place: Place
    ) -> Iterator[str]:
        """Take the next record, and yield what is wrong with it. To be iterated to its end.

        ``metadata`` is that of GROUP and RESET records. Bodies of entries are not needed.
        """
        kind = prefix.kind
        if kind == RecordKind.REMOVED:
            self._restart()
            self.is_removed = True
            return
        if self._is_unsure and kind != RecordKind.RESET:
            return
        if self.is_removed or self._is_unsure:
            self._restart()
        before, after = self.hard_state, prefix.hard_state
        if not self._is_new:
            yield from _hard_state_faults(before, after)
        self._place = place
        if kind == RecordKind.ENTRIES:
            if prefix.first_index:
                yield from self._append(prefix, before.commit, place)
        elif kind == RecordKind.COPY:
            yield from self._copy(prefix, place)
        elif metadata is not None:
            if kind == RecordKind.RESET:
                yield from self._reset(metadata, before.commit)
            else:
                yield from self._describe(metadata)
            self.metadata = metadata
            self._metadata_place = place
        self.hard_state = after
        self._is_new = False

    def _append(self, prefix: RecordPrefix, commit: int, place: Place) -> Iterator[str]:
        first, last, term = prefix.first_index, prefix.last_index, prefix.entries_term
        if first <= max(commit, self.metadata.base_index):
            yield f"entries from {first} replace the committed {commit}"
        end = self._appended_index
        if end is not None and first > end + 1:
            yield f"entries from {first} do not follow the log, which ends at {end}"
        self._terms.truncate(first)
        self._terms.append(first, last, term, place)
        self._appended_index = last

    def _copy(self, prefix: RecordPrefix, place: Place) -> Iterator[str]:
        first, last, term = prefix.first_index, prefix.last_index, prefix.entries_term
        if self._appended_index is not None and last > self._appended_index:
            yield f"a copy of the entries {first} to {last}, the log ends at {self._appended_index}"
        other = self._terms.cover(max(first, self.first_index), last, term, place)
        if other is not None:
            yield (
                f"a copy of the entries {first} to {last} of term {term}, "
                f"the entry {other} has term {self._terms.at(other)}"
            )

    def _reset(self, metadata: GroupMetadata, commit: int) -> Iterator[str]:
        if not self._is_new and metadata.base_index < commit:
            yield (f"the log is reset to begin behind {metadata.base_index}, {commit} is committed")
        self._terms = Terms()
        self._appended_index = metadata.base_index

    def _describe(self, metadata: GroupMetadata) -> Iterator[str]:
        base, before = metadata.base_index, self.metadata
        if base < before.base_index:
            yield f"the log begins behind {base}, and began behind {before.base_index} before"
        if metadata.snapshot_index < before.snapshot_index:
            yield (
                f"the newest snapshot is at {metadata.snapshot_index}, "
                f"and was at {before.snapshot_index} before"
            )
        term = self._terms.at(base)
        if term not in (None, metadata.base_term):
            yield f"the log begins behind {base} of term {metadata.base_term}, its term is {term}"
        self._terms.compact(base)

    def damages(self) -> Iterator[Damage]:
        """Yield what is wrong with the group after its last record."""
        if self._is_unsure:
            return
        name = f"group {self.group}"
        base, commit = self.metadata.base_index, self.hard_state.commit
        for low, high, behind in self._terms.holes(self.first_index):
            yield Damage(
                *behind, f"{name}: the entries {low} to {high} before it are in no segment"
            )
        for index, term, before, place in self._terms.falls():
            yield Damage(*place, f"{name}: the entry {index} has term {term} after term {before}")
        if not base <= commit <= self.last_index:
            reason = (
                f"{name}: the commit index is {commit}, the log begins behind {base} "
                f"and ends at {self.last_index}"
            )
            yield Damage(*self._place, reason)
        for reason in self._snapshot_faults():
            yield Damage(*self._metadata_place, f"{name}: {reason}")

    def _snapshot_faults(self) -> Iterator[str]:
        base, base_term, _, index, term = self.metadata
        if index < base:
            yield f"the log begins behind {base}, the newest snapshot is at {index}"
        expected = base_term if index == base else self._terms.at(index)
        if index and expected not in (None, term):
            yield f"the snapshot at {index} has term {term}, the log has term {expected} there"


def _hard_state_faults(before: HardState, after: HardState) -> Iterator[str]:
    if after.term < before.term:
        yield f"term {after.term} after term {before.term}"
    if after.term == before.term and before.vote not in (0, after.vote):
        yield f"a vote for {after.vote} in term {after.term} after one for {before.vote}"
    if after.commit < before.commit:
        yield f"commit index {after.commit} after {before.commit}"
