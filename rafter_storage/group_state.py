"""One group's state in a shard's log: what was begun, and what is complete.

Writes are checked and turned into drafts of records when they are begun, and take effect when their
job is complete. The checks are always on: a log that breaks a rule must never reach the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import msgspec

from rafter_core.entries import Entry, HardState
from rafter_core.membership import Membership
from rafter_core.snapshot import Snapshot
from rafter_storage.errors import InvalidWrite
from rafter_storage.group_metadata import GroupMetadata, pack_metadata
from rafter_storage.index import GroupIndex, Slot
from rafter_storage.recent import RecentEntries
from rafter_storage.record import PREFIX_BYTES, RecordKind
from rafter_storage.segment_index import Section, SegmentIndex

__all__ = ["Draft", "FoundedGroup", "GroupChange", "GroupState", "GroupWrite"]

_NO_ENTRIES = (0, 0, 0)

# The bytes of ``serializer.pack_entries`` in less of its time: this is the dearest step of a write
# (docs/storage.md).
_pack = msgspec.msgpack.Encoder().encode


class GroupWrite(NamedTuple):
    """What one Ready of one group has to persist, as one unit.

    ``hard_state`` is None when it did not change. ``entries`` are contiguous and replace whatever
    the log has at ``entries[0].index`` and above. ``snapshot``, which must be durable elsewhere
    already, voids the log: it then begins behind the snapshot, and ``entries`` with it.
    """

    group: int
    hard_state: HardState | None = None
    entries: Sequence[Entry] = ()
    snapshot: Snapshot | None = None


class GroupChange(NamedTuple):
    """A change of what a log knows beside entries and hard state.

    ``membership`` is (index of the entry that brought it, configuration). ``snapshot`` is (index,
    term) of a snapshot of this replica that is durable. The entries up to ``compact_to`` are not
    needed any more; a durable snapshot must cover them. ``is_removed``: the group leaves this
    shard, and everything that is known of it is forgotten.
    """

    group: int
    membership: tuple[int, Membership] | None = None
    snapshot: tuple[int, int] | None = None
    compact_to: int = 0
    is_removed: bool = False


class FoundedGroup(NamedTuple):
    """A group that this log has nothing of yet, with the state that it had in another log."""

    group: int
    metadata: GroupMetadata
    hard_state: HardState


class Draft(NamedTuple):
    """A record of one group that has no place yet.

    ``entries_range`` is (first index, last index, term) of what ``body`` holds. ``entries`` are the
    decoded ones of an ENTRIES record, ``metadata`` that of a GROUP or RESET record.
    """

    kind: RecordKind
    state: GroupState
    hard_state: HardState
    entries_range: tuple[int, int, int]
    body: bytes
    entries: Sequence[Entry] = ()
    metadata: GroupMetadata | None = None


class GroupState:
    """What a shard knows of one group: owned by the segment manager, read by the group's log.

    ``begun_*`` run ahead of the rest: they count writes that were begun and are not complete.
    ``record_sequence`` and ``metadata_sequence`` are the segments of the newest record and of the
    newest metadata, 0 for none.
    """

    __slots__ = (
        "begun_hard_state",
        "begun_last_index",
        "begun_metadata",
        "group",
        "hard_state",
        "index",
        "is_leaving",
        "metadata",
        "metadata_bytes",
        "metadata_sequence",
        "recent",
        "record_sequence",
    )

    def __init__(self, group: int, tail_bytes_max: int) -> None:
        self.group = group
        self.hard_state = HardState()
        self.begun_hard_state = self.hard_state
        self.begun_last_index = 0
        self.metadata = GroupMetadata()
        self.begun_metadata = self.metadata
        self.index = GroupIndex()
        self.recent = RecentEntries(tail_bytes_max)
        self.is_leaving = False
        self.record_sequence = 0
        self.metadata_sequence = 0
        self.metadata_bytes = 0

    @property
    def oldest_sequence(self) -> int:
        """The oldest segment that holds something needed of this group; 0 if nothing is written."""
        oldest = self.metadata_sequence or self.record_sequence
        return min(oldest, self.record_sequence, *self.index.slots_by_sequence)

    @property
    def live_bytes(self) -> int:
        """The bytes of all records of this group that are needed."""
        if not self.record_sequence:
            return 0
        # As much as it takes to describe the group once.
        return self.index.live_bytes + self.metadata_bytes + PREFIX_BYTES

    # Beginning: checks, and drafts of records.

    def begin_write(self, write: GroupWrite) -> Iterator[Draft]:
        """Check a write and yield its records, none if it changes nothing.

        Raises ``InvalidWrite``.
        """
        self._check_present()
        before = self.begun_hard_state
        hard_state = before if write.hard_state is None else write.hard_state
        if hard_state is not before:
            _check_vote(self.group, before, hard_state)
        if write.snapshot is not None:
            hard_state = hard_state._replace(commit=max(hard_state.commit, write.snapshot.index))
            yield self._begin_reset(write.snapshot, hard_state)
        entries = write.entries
        if entries:
            self._check_entries(entries)
            self.begun_last_index = entries[-1].index
        commit = self.begun_hard_state.commit
        self._check_commit(hard_state)
        self.begun_hard_state = hard_state
        if entries:
            for run in _runs(self.group, entries):
                entries_range = (run[0].index, run[-1].index, run[0].term)
                # Records that have others of the same write behind them do not commit anything yet:
                # the log may end with them.
                is_last = run[-1].index == entries[-1].index
                recorded = hard_state if is_last else hard_state._replace(commit=commit)
                body = _pack(run)
                yield Draft(RecordKind.ENTRIES, self, recorded, entries_range, body, run)
        elif hard_state != before and write.snapshot is None:
            yield Draft(RecordKind.ENTRIES, self, hard_state, _NO_ENTRIES, b"")

    def begin_change(self, change: GroupChange) -> Draft | None:
        """Check a change and return its record, None if it changes nothing.

        Raises ``InvalidWrite``.
        """
        self._check_present()
        if change.is_removed:
            self.is_leaving = True
            return Draft(RecordKind.REMOVED, self, HardState(), _NO_ENTRIES, b"")
        metadata = self.begun_metadata
        if change.membership is not None:
            metadata = metadata.with_membership(*change.membership)
        if change.snapshot is not None and change.snapshot[0] > metadata.snapshot_index:
            index, term = change.snapshot
            metadata = metadata._replace(snapshot_index=index, snapshot_term=term)
        if change.compact_to > metadata.base_index:
            metadata = self._compacted(metadata, change.compact_to)
        if metadata == self.begun_metadata:
            return None
        self.begun_metadata = metadata
        if self.begun_hard_state.commit < metadata.base_index:
            # What a snapshot covers is committed, though no record has said so yet.
            self.begun_hard_state = self.begun_hard_state._replace(commit=metadata.base_index)
        return self.describe()

    def begin_founding(self, founded: FoundedGroup) -> Draft:
        """Let the log of a group begin that nothing was written of. Raises ``InvalidWrite``."""
        metadata = founded.metadata
        is_known = self.record_sequence or self.begun_last_index or self.begun_metadata.base_index
        if is_known or self.begun_hard_state != HardState():
            raise InvalidWrite(f"group {self.group} is in this log already")
        self.begun_metadata = metadata
        # The commit index follows with the entries that it speaks of.
        self.begun_hard_state = founded.hard_state._replace(commit=metadata.base_index)
        self.begun_last_index = metadata.base_index
        return self._metadata_draft(RecordKind.RESET)

    def describe(self) -> Draft:
        """Return the record of the metadata as it is begun."""
        return self._metadata_draft(RecordKind.GROUP)

    def copy(self, slot: Slot, entries: Sequence[Entry]) -> Draft:
        """Return the record that rewrites a slot. Nothing of this group may be under way."""
        entries_range = (slot.first_index, slot.last_index, slot.term)
        body = _pack(entries)
        return Draft(RecordKind.COPY, self, self.hard_state, entries_range, body)

    def _metadata_draft(self, kind: RecordKind) -> Draft:
        metadata = self.begun_metadata
        body = pack_metadata(metadata)
        return Draft(kind, self, self.begun_hard_state, _NO_ENTRIES, body, (), metadata)

    def _begin_reset(self, snapshot: Snapshot, hard_state: HardState) -> Draft:
        index, term, membership, _ = snapshot
        if index <= self.begun_hard_state.commit:
            raise InvalidWrite(
                f"group {self.group}: a snapshot of {index} cannot be installed, "
                f"{self.begun_hard_state.commit} is committed"
            )
        self.begun_metadata = GroupMetadata(index, term, ((index, membership),), index, term)
        self.begun_last_index = index
        # What the entries behind it commit is said by their records.
        self.begun_hard_state = hard_state._replace(commit=index)
        return self._metadata_draft(RecordKind.RESET)

    def _compacted(self, metadata: GroupMetadata, index: int) -> GroupMetadata:
        if index > metadata.snapshot_index or index > self.index.last_index:
            raise InvalidWrite(
                f"group {self.group}: the log cannot be cut up to {index}, the newest snapshot is "
                f"at {metadata.snapshot_index} and the log ends at {self.index.last_index}"
            )
        return metadata.with_base(index, self.index.term(index))

    def _check_present(self) -> None:
        if self.is_leaving:
            raise InvalidWrite(f"group {self.group} has been removed from this log")

    def _check_entries(self, entries: Sequence[Entry]) -> None:
        """Refuse entries that leave a gap, are out of order, or replace committed ones."""
        first_index, last_index = entries[0].index, entries[-1].index
        commit = self.begun_hard_state.commit
        if not commit < first_index <= self.begun_last_index + 1:
            raise InvalidWrite(
                f"group {self.group}: entries from {first_index}, with a log that ends at "
                f"{self.begun_last_index} and is committed up to {commit}"
            )
        if last_index - first_index + 1 != len(entries):
            raise InvalidWrite(
                f"group {self.group}: {len(entries)} entries from {first_index} to {last_index}"
            )
        if not 0 < entries[0].term <= entries[-1].term:
            raise InvalidWrite(
                f"group {self.group}: entries of terms {entries[0].term} to {entries[-1].term}"
            )

    def _check_commit(self, hard_state: HardState) -> None:
        before = self.begun_hard_state.commit
        if not before <= hard_state.commit <= self.begun_last_index:
            raise InvalidWrite(
                f"group {self.group}: commit index {hard_state.commit} after {before}, "
                f"with a log that ends at {self.begun_last_index}"
            )

    # Completing: drafts that have their place, and are on disk.

    def apply(self, draft: Draft, index: SegmentIndex, offset: int, length: int) -> None:
        """Let a record take effect that is in the segment of ``index`` now."""
        kind, _, hard_state, (first_index, last_index, term), body, entries, metadata = draft
        sequence = index.sequence
        section = index.section(self.group)
        self.record_sequence = sequence
        if kind is RecordKind.ENTRIES:
            section.append(hard_state, first_index, last_index, term, offset, length)
            if entries:
                self.index.append(first_index, last_index, term, sequence, offset, length)
                self.recent.append(entries, length)
        elif kind is RecordKind.COPY:
            slot = Slot(first_index, last_index, term, sequence, offset, length)
            section.copy(hard_state, slot)
            self.index.move(slot)
            return
        elif kind is RecordKind.REMOVED:
            section.remove()
            # Whoever still holds the log finds it empty, and not in files that are others' by then.
            self.index.reset(0)
            self.recent.restart(0)
            self.metadata = GroupMetadata()
            self.hard_state = hard_state
            return
        else:
            assert metadata is not None, "GROUP and RESET records have metadata"
            if kind is RecordKind.RESET:
                section.reset(hard_state, metadata)
                self.index.reset(metadata.base_index)
                self.recent.restart(metadata.base_index)
            else:
                section.describe(hard_state, metadata)
            self._take_metadata(metadata, sequence, len(body))
        self.hard_state = hard_state

    # Recovering.

    def absorb(self, sequence: int, section: Section) -> str | None:
        """Take what the next segment says of this group; return how it contradicts itself, if so.

        A section of a removed group is absorbed by forgetting the state, which is the caller's.
        """
        index, metadata = self.index, section.metadata
        if section.is_reset:
            index.reset(0)
        elif 0 < section.truncated_from <= self.hard_state.commit:
            return (
                f"entries from {section.truncated_from} replace the committed "
                f"{self.hard_state.commit}"
            )
        if section.truncated_from and section.truncated_from <= index.last_index:
            index.truncate(section.truncated_from)
        for slot in section.copies:
            index.move(slot)
        index.extend(sequence, section.appended)
        if metadata is not None:
            self._take_metadata(metadata, sequence, len(pack_metadata(metadata)))
        self.hard_state = section.hard_state
        self.record_sequence = sequence
        return section.fault

    def fault(self) -> str | None:
        """Return how the whole recovered log contradicts itself, if it does."""
        missing = self.index.missing()
        if missing is not None:
            return f"the entry {missing} of group {self.group} is in no segment"
        commit, last_index = self.hard_state.commit, self.index.last_index
        if not self.metadata.base_index <= commit <= last_index:
            return (
                f"group {self.group} has the commit index {commit}, but its log begins behind "
                f"{self.metadata.base_index} and ends at {last_index}"
            )
        return None

    def start(self) -> None:
        """Make ready for writes, after everything was absorbed."""
        self.begun_hard_state = self.hard_state
        self.begun_metadata = self.metadata
        self.begun_last_index = self.index.last_index
        self.recent.restart(self.index.last_index)

    def _take_metadata(self, metadata: GroupMetadata, sequence: int, size_bytes: int) -> None:
        if metadata.base_index >= self.index.first_index:
            self.index.compact(metadata.base_index)
        self.metadata = metadata
        self.metadata_sequence = sequence
        self.metadata_bytes = size_bytes


def _runs(group: int, entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Cut entries where the term changes: a record holds those of one term.

    Raises ``InvalidWrite`` where it falls. Entries that begin and end in the same term are taken to
    have no other in between: to look at each would cost every write.
    """
    if entries[0].term == entries[-1].term:
        yield entries
        return
    before = 0
    for term, run in groupby(entries, key=lambda entry: entry.term):
        if term <= before:
            raise InvalidWrite(
                f"group {group}: an entry of term {term} behind one of term {before}"
            )
        before = term
        yield list(run)


def _check_vote(group: int, before: HardState, after: HardState) -> None:
    """Refuse a term that falls, and a second vote in one term (Raft paper, 5.2)."""
    is_second_vote = after.term == before.term and before.vote and after.vote != before.vote
    if after.term < before.term or is_second_vote:
        raise InvalidWrite(
            f"group {group}: vote {after.vote} in term {after.term} "
            f"after vote {before.vote} in term {before.term}"
        )
