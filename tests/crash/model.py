"""What a log must say after a crash: a model of it, record by record.

The log of a shard is one sequence of records, and a crash leaves a prefix of it: all records up to
some place between two bounds, the ``floor`` of what was acknowledged and the ``top`` of what was
being written. So the model keeps the state of all groups after every record. A job is no unit: of
its records a prefix may survive, of a write that needs several records too (a snapshot and entries,
or entries of several terms). Records that only move things, and marks, change no state and do not
appear here.

What the model leaves open is how much of a write's commit index the records before its last one
carry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from rafter_core.entries import Entry, HardState
from rafter_core.membership import Membership
from rafter_storage.errors import StorageError
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.segment_manager import FoundedGroup, GroupChange, GroupWrite, SegmentManager

__all__ = [
    "FOUNDING",
    "Divergent",
    "GroupModel",
    "Groups",
    "History",
    "Lost",
    "Unbootable",
    "Violation",
    "observe",
]

FOUNDING = Membership((1, 2, 3))
_UNLIMITED = 1 << 62


class Violation(Exception):
    """A claim that does not hold of a crash state."""


class Unbootable(Violation):
    """The log does not open, or does not serve a group."""


class Lost(Violation):
    """Something acknowledged is not there."""


class Divergent(Violation):
    """What is there was never the state of the log."""


class GroupModel(NamedTuple):
    """A group's state. The commit index on disk is ``commit_min`` … ``hard_state.commit``."""

    hard_state: HardState = HardState()
    commit_min: int = 0
    metadata: GroupMetadata = GroupMetadata()
    entries: tuple[Entry, ...] = ()

    @property
    def last_index(self) -> int:
        return self.metadata.base_index + len(self.entries)

    def term(self, index: int) -> int:
        """Return the term at an index, which must be the base or in the log."""
        base = self.metadata.base_index
        return self.metadata.base_term if index == base else self.entries[index - base - 1].term

    def allows(self, seen: GroupModel) -> bool:
        """Tell whether this may be what is seen on disk."""
        state, commit = seen.hard_state, seen.hard_state.commit
        return (
            state[:2] == self.hard_state[:2]
            and self.commit_min <= commit <= self.hard_state.commit
            and seen.metadata == self.metadata
            and seen.entries == self.entries
        )

    def lacks(self, seen: GroupModel) -> str | None:
        """Return what of this state a later one could not be without, None if nothing."""
        if seen.hard_state.term < self.hard_state.term:
            return f"the term is {seen.hard_state.term} after {self.hard_state.term}"
        is_same_term = seen.hard_state.term == self.hard_state.term
        if is_same_term and self.hard_state.vote and seen.hard_state.vote != self.hard_state.vote:
            return f"the vote is {seen.hard_state.vote} after {self.hard_state.vote}"
        if seen.hard_state.commit < self.commit_min:
            return f"the commit index is {seen.hard_state.commit} after {self.commit_min}"
        for entry in self.entries:
            base = seen.metadata.base_index
            if base < entry.index and (
                entry.index > seen.last_index or seen.entries[entry.index - base - 1] != entry
            ):
                return f"the entry {entry.index} of term {entry.term} is not there"
        return None

    # One record each.

    def written(self, write: GroupWrite) -> Iterator[GroupModel]:
        """Yield the states after each record of a write."""
        state = self
        target = self.hard_state if write.hard_state is None else write.hard_state
        if write.snapshot is not None:
            index, term, membership, _ = write.snapshot
            metadata = GroupMetadata(index, term, ((index, membership),), index, term)
            state = GroupModel(target._replace(commit=index), index, metadata, ())
            target = target._replace(commit=max(target.commit, index))
            yield state
        runs = [tuple(run) for _, run in groupby(write.entries, key=lambda entry: entry.term)]
        for run in runs:
            kept = state.entries[: run[0].index - state.metadata.base_index - 1]
            entries = kept + run
            commit_min = state.commit_min
            commit = max(commit_min, min(target.commit, run[-1].index))
            if run is runs[-1]:
                commit_min = commit = target.commit
            state = GroupModel(target._replace(commit=commit), commit_min, state.metadata, entries)
            yield state
        if not runs and write.snapshot is None and target != self.hard_state:
            yield self._replace(hard_state=target, commit_min=target.commit)

    def changed(self, change: GroupChange) -> GroupModel:
        """Return the state after a change; this one if it changes nothing."""
        metadata = self.metadata
        if change.membership is not None:
            metadata = metadata.with_membership(*change.membership)
        if change.snapshot is not None and change.snapshot[0] > metadata.snapshot_index:
            index, term = change.snapshot
            metadata = metadata._replace(snapshot_index=index, snapshot_term=term)
        entries = self.entries
        if change.compact_to > metadata.base_index:
            index = change.compact_to
            entries = entries[index - metadata.base_index :]
            metadata = metadata.with_base(index, self.term(index))
        if metadata == self.metadata:
            return self
        commit = max(self.hard_state.commit, metadata.base_index)
        return GroupModel(self.hard_state._replace(commit=commit), commit, metadata, entries)


Groups = dict[int, GroupModel]


class History:
    """The states of all groups after each record, and the bounds of what a crash may leave."""

    def __init__(self, groups: Groups | None = None) -> None:
        self.states: list[Groups] = [groups or {}]
        self.floor = 0
        self.top = 0

    @property
    def newest(self) -> Groups:
        """The state when all that was begun is done."""
        return self.states[-1]

    def begin(
        self,
        writes: Sequence[GroupWrite],
        changes: Sequence[GroupChange] = (),
        founded: Sequence[FoundedGroup] = (),
    ) -> tuple[int, bool]:
        """Note a job; return its last state's number, and whether it is durable after its run."""
        must_sync = bool(founded)
        for group, metadata, hard_state in founded:
            commit = metadata.base_index
            self._add(group, GroupModel(hard_state._replace(commit=commit), commit, metadata))
        for write in writes:
            before = self.newest.get(write.group, GroupModel())
            for state in before.written(write):
                self._add(write.group, state)
            after = self.newest.get(write.group, before).hard_state
            has_content = bool(write.entries) or write.snapshot is not None
            must_sync = must_sync or has_content or after[:2] != before.hard_state[:2]
        for change in changes:
            before = self.newest.get(change.group, GroupModel())
            if change.is_removed:
                self._add(change.group, None)
            elif (after_change := before.changed(change)) is not before:
                self._add(change.group, after_change)
        return len(self.states) - 1, must_sync

    def acknowledge(self, number: int) -> None:
        """Say that everything up to a state is durable."""
        self.floor = max(self.floor, number)
        self.top = max(self.top, number)

    def restart(self, seen: Groups) -> None:
        """Go on from what was recovered, which is durable from now on."""
        self.states = [seen]
        self.floor = self.top = 0

    def check(self, seen: Groups) -> None:
        """Raise ``Lost`` or ``Divergent`` unless a crash now may leave what is seen."""
        for number in range(self.top, self.floor - 1, -1):
            if _allows(self.states[number], seen):
                return
        for number in range(self.floor):
            if _allows(self.states[number], seen):
                raise Lost(f"the log is as after record {number}, acknowledged is {self.floor}")
        possible = self.states[self.floor : self.top + 1]
        faults = []
        for group in sorted({*seen, *self.states[self.floor]}):
            fault = _fault(group, possible, seen.get(group))
            if fault is not None:
                faults.append(fault)
        for fault in faults:
            if isinstance(fault, Lost):
                raise fault
        if faults:
            raise faults[0]
        raise Divergent("each group is as it was at some time, and never all at once")

    def _add(self, group: int, state: GroupModel | None) -> None:
        groups = dict(self.newest)
        if state is None:
            groups.pop(group, None)
        else:
            groups[group] = state
        self.states.append(groups)


def _allows(expected: Groups, seen: Groups) -> bool:
    return expected.keys() == seen.keys() and all(
        state.allows(seen[group]) for group, state in expected.items()
    )


def _fault(group: int, possible: list[Groups], seen: GroupModel | None) -> Violation | None:
    """Return what is wrong with one group, None if it is as it was at some possible time."""
    expected = [groups.get(group) for groups in possible]
    if seen is None:
        return None if None in expected else Lost(f"group {group} is not there")
    states = [state for state in expected if state is not None]
    if any(state.allows(seen) for state in states):
        return None
    if not states:
        return Divergent(f"group {group} is there: {_brief(seen)}")
    lacking = [state.lacks(seen) for state in states]
    if None not in lacking:
        return Lost(f"group {group}: {lacking[0]}; found {_brief(seen)}")
    return Divergent(f"group {group}: found {_brief(seen)}, expected {_brief(states[-1])}")


def _brief(state: GroupModel) -> str:
    terms = [(term, len(list(run))) for term, run in groupby(entry.term for entry in state.entries)]
    return f"{tuple(state.hard_state)}, {state.metadata}, entries (term, count) {terms}"


def observe(manager: SegmentManager) -> Groups:
    """Read everything that a log says. Raises ``Unbootable`` for damage, ``Divergent`` for gaps."""
    if manager.shard_damage is not None:
        raise Unbootable(f"the shard is damaged: {manager.shard_damage}")
    for group, damage in manager.damaged.items():
        raise Unbootable(f"group {group} is damaged: {damage}")
    return {group: _observe_group(manager, group) for group in manager.groups()}


def _observe_group(manager: SegmentManager, group: int) -> GroupModel:
    metadata = manager.metadata(group)
    log = manager.group_log(group, FOUNDING, metadata.base_index)
    hard_state, membership = log.initial_state()
    first_index, last_index = log.first_index(), log.last_index()
    try:
        entries = tuple(log.entries(first_index, last_index + 1, _UNLIMITED))
        terms = [log.term(index) for index in range(first_index - 1, last_index + 1)]
    except StorageError as error:
        raise Unbootable(f"group {group} cannot be read: {error}") from error
    recorded = metadata.membership_at(metadata.base_index)
    if [entry.index for entry in entries] != [*range(first_index, last_index + 1)]:
        raise Divergent(f"group {group}: the entries are not {first_index} to {last_index}")
    if (first_index, terms[0]) != (metadata.base_index + 1, metadata.base_term):
        raise Divergent(f"group {group}: the log begins at {first_index}, {metadata}")
    if terms[1:] != [entry.term for entry in entries]:
        raise Divergent(f"group {group}: the terms are not those of the entries")
    if not metadata.base_index <= hard_state.commit <= last_index:
        raise Divergent(f"group {group}: {hard_state} with the log {first_index} to {last_index}")
    if membership != (FOUNDING if recorded is None else recorded):
        raise Divergent(f"group {group}: the membership is {membership}, recorded is {recorded}")
    if metadata.base_index and metadata.snapshot_index < metadata.base_index:
        raise Divergent(f"group {group}: the log begins behind its snapshot, {metadata}")
    return GroupModel(hard_state, hard_state.commit, metadata, entries)
