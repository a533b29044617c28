"""Valid histories of a log, record by record, and what they say in plain dicts.

A ``History`` is told what to do by small numbers, so that hypothesis can draw and shrink it. It
keeps the rules that the segment manager keeps, and knows nothing of sections, slots and columns:
what it says of a group is what must come back, however the log is recovered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from rafter_core.entries import HardState
from rafter_core.membership import Membership
from rafter_core.serializer import pack_entries
from rafter_storage.file_system import REAL_FILE_SYSTEM
from rafter_storage.group_metadata import GroupMetadata, pack_metadata
from rafter_storage.group_state import Draft, GroupState
from rafter_storage.index import Slot
from rafter_storage.index_dump import encode_dump, write_dump
from rafter_storage.record import PREFIX_BYTES, RecordKind, align, encode_prefix
from rafter_storage.recovery import Recovery
from rafter_storage.segment import HEADER_BYTES, SegmentHeader, encode_header, segment_path
from rafter_storage.segment_index import SegmentIndex
from tests.storage.support import entries, entry

GROUPS = 3
NO_STATE = HardState()
NO_METADATA = GroupMetadata()
_NO_ENTRIES = (0, 0, 0)

Step = tuple[int, int, int, int]
STEPS = st.lists(
    st.tuples(st.integers(0, 15), st.integers(1, GROUPS), st.integers(0, 4), st.integers(1, 4)),
    max_size=60,
)


class Place(NamedTuple):
    """Where an entry is, and its term."""

    term: int
    sequence: int
    offset: int
    length: int


class Record(NamedTuple):
    """A record with its place."""

    kind: RecordKind
    group: int
    hard_state: HardState
    entries_range: tuple[int, int, int]
    body: bytes
    offset: int
    metadata: GroupMetadata | None = None

    @property
    def length(self) -> int:
        return PREFIX_BYTES + len(self.body)


class Contents(NamedTuple):
    """All that is known of a group, and all that is counted."""

    hard_state: HardState
    metadata: GroupMetadata
    first_index: int
    last_index: int
    places: dict[int, Place]
    slots_by_sequence: dict[int, int]
    live_bytes: int
    record_sequence: int
    metadata_sequence: int


@dataclass
class Group:
    """One group as it is now."""

    hard_state: HardState = NO_STATE
    metadata: GroupMetadata = NO_METADATA
    last_index: int = 0
    places: dict[int, Place] = field(default_factory=dict)
    record_sequence: int = 0
    metadata_sequence: int = 0

    def runs(self) -> list[tuple[int, int, Place]]:
        """First index, last index and place of neighbours that are in one record."""
        found = []
        # Neighbours in one record have one place, and the same difference to their rank.
        ranked = enumerate(sorted(self.places))
        for (_, place), run in groupby(
            ranked, lambda item: (item[1] - item[0], self.places[item[1]])
        ):
            indexes = [index for _, index in run]
            found.append((indexes[0], indexes[-1], place))
        return found

    def contents(self) -> Contents:
        runs = self.runs()
        return Contents(
            self.hard_state,
            self.metadata,
            self.metadata.base_index + 1,
            self.last_index,
            dict(self.places),
            dict(Counter(place.sequence for _, _, place in runs)),
            sum(place.length for _, _, place in runs),
            self.record_sequence,
            self.metadata_sequence,
        )


def contents_of(state: GroupState) -> Contents:
    """The same of a state of the code under test, whose log must have no holes."""
    index = state.index
    places = {}
    for number in range(index.first_index, index.last_index + 1):
        slot = index.slot(index.position(number))
        assert slot.first_index <= number <= slot.last_index
        assert slot.term == index.term(number)
        places[number] = Place(slot.term, slot.sequence, slot.offset, slot.length)
    return Contents(
        state.hard_state,
        state.metadata,
        index.first_index,
        index.last_index,
        places,
        dict(index.slots_by_sequence),
        index.live_bytes,
        state.record_sequence,
        state.metadata_sequence,
    )


class History:
    """The log that comes of some steps.

    ``segments`` holds the records of every segment by its sequence, those that were dropped
    included; ``first_sequence`` is the oldest that is needed; ``groups`` is what it all says.
    """

    def __init__(self, steps: list[Step] | None = None) -> None:
        self.segments: dict[int, list[Record]] = {1: []}
        self.headers_first: dict[int, int] = {1: 1}
        self.first_sequence = 1
        self.sequence = 1
        self.end = HEADER_BYTES
        self.ends: dict[int, int] = {}
        self.groups: dict[int, Group] = {}
        for step in steps or ():
            self.take(step)

    def contents(self) -> dict[int, Contents]:
        return {number: group.contents() for number, group in self.groups.items()}

    def take(self, step: Step) -> None:
        """Do one step; what makes no sense just now is left out."""
        kind, number, a, b = step
        if kind <= 4:
            self.append(number, back=a if kind > 2 else 0, count=b, is_new_term=kind == 3)
        elif kind == 5:
            self.vote(number, b)
        elif kind == 6:
            self.commit(number, b)
        elif kind <= 8:
            self.compact(number, a, has_new_membership=b == 1)
        elif kind == 9:
            self.reset(number, a)
        elif kind == 10:
            self.remove(number)
        elif kind <= 13:
            self.roll()
        else:
            self.clean(runs_max=1 if a == 0 else 100)
            self.drop()

    # Steps.

    def append(self, number: int, *, back: int, count: int, is_new_term: bool = False) -> None:
        group = self.groups.setdefault(number, Group())
        term = max(1, group.hard_state.term) + is_new_term
        first = max(group.hard_state.commit + 1, group.last_index + 1 - back)
        group.hard_state = group.hard_state._replace(term=term)
        record = self._add(
            RecordKind.ENTRIES,
            number,
            (first, first + count - 1, term),
            pack_entries(entries(first, first + count - 1, term)),
        )
        group.places = {index: at for index, at in group.places.items() if index < first}
        group.last_index = first + count - 1
        self._place(group, record)

    def vote(self, number: int, vote: int) -> None:
        group = self.groups.setdefault(number, Group())
        group.hard_state = HardState(group.hard_state.term + 1, vote, group.hard_state.commit)
        self._add(RecordKind.ENTRIES, number)

    def commit(self, number: int, count: int) -> None:
        group = self.groups.get(number)
        if group is not None and group.hard_state.commit < group.last_index:
            commit = min(group.last_index, group.hard_state.commit + count)
            group.hard_state = group.hard_state._replace(commit=commit)
            self._add(RecordKind.ENTRIES, number)

    def compact(self, number: int, kept: int, *, has_new_membership: bool = False) -> None:
        group = self.groups.get(number)
        if group is None or group.hard_state.commit <= group.metadata.base_index:
            return
        commit = group.hard_state.commit
        metadata = group.metadata
        if has_new_membership:
            metadata = metadata.with_membership(commit, Membership((1, 2, 3 + commit)))
        index = max(metadata.base_index, commit - kept)
        if index > metadata.base_index:
            term = group.places[index].term
            metadata = metadata._replace(snapshot_index=index, snapshot_term=term)
            metadata = metadata.with_base(index, term)
        group.metadata = metadata
        group.places = {at: place for at, place in group.places.items() if at > index}
        self._describe(number)

    def reset(self, number: int, ahead: int) -> None:
        group = self.groups.setdefault(number, Group())
        index = group.hard_state.commit + 1 + ahead
        term = max(1, group.hard_state.term)
        membership = Membership((1, 2, 3))
        group.hard_state = group.hard_state._replace(term=term, commit=index)
        group.metadata = GroupMetadata(index, term, ((index, membership),), index, term)
        group.places = {}
        group.last_index = index
        self._describe(number, RecordKind.RESET)

    def remove(self, number: int) -> None:
        if number in self.groups:
            self.groups[number] = Group()
            self._add(RecordKind.REMOVED, number)
            del self.groups[number]

    def roll(self) -> None:
        self.ends[self.sequence] = self.end
        self.sequence += 1
        self.segments[self.sequence] = []
        self.headers_first[self.sequence] = self.first_sequence
        self.end = HEADER_BYTES

    def clean(self, runs_max: int) -> None:
        """Rewrite the oldest segment's entries, all or some, and what else is needed of it."""
        oldest = self.first_sequence
        if oldest == self.sequence:
            return
        for number, group in self.groups.items():
            if oldest in (group.record_sequence, group.metadata_sequence):
                self._describe(number)
            runs = [run for run in group.runs() if run[2].sequence == oldest]
            for first, last, place in runs[:runs_max]:
                body = pack_entries(entries(first, last, place.term))
                record = self._add(RecordKind.COPY, number, (first, last, place.term), body)
                self._place(group, record)

    def drop(self) -> None:
        """Let the oldest segments go that nothing is needed of, and say so."""
        before = self.first_sequence
        while self.first_sequence < self.sequence and not self._is_needed(self.first_sequence):
            self.first_sequence += 1
        if self.first_sequence > before:
            entries_range = (self.first_sequence, 0, 0)
            self._note(Record(RecordKind.MARK, 0, HardState(), entries_range, b"", self.end))

    def _is_needed(self, sequence: int) -> bool:
        return any(
            sequence in (group.record_sequence, group.metadata_sequence)
            or any(place.sequence == sequence for place in group.places.values())
            for group in self.groups.values()
        )

    def _describe(self, number: int, kind: RecordKind = RecordKind.GROUP) -> None:
        group = self.groups[number]
        group.metadata_sequence = self.sequence
        self._add(kind, number, _NO_ENTRIES, pack_metadata(group.metadata), group.metadata)

    def _add(
        self,
        kind: RecordKind,
        number: int,
        entries_range: tuple[int, int, int] = _NO_ENTRIES,
        body: bytes = b"",
        metadata: GroupMetadata | None = None,
    ) -> Record:
        group = self.groups[number]
        group.record_sequence = self.sequence
        record = Record(kind, number, group.hard_state, entries_range, body, self.end, metadata)
        self._note(record)
        return record

    def _note(self, record: Record) -> None:
        self.segments[self.sequence].append(record)
        self.end += align(record.length)

    def _place(self, group: Group, record: Record) -> None:
        first, last, term = record.entries_range
        place = Place(term, self.sequence, record.offset, record.length)
        group.places |= dict.fromkeys(range(first, last + 1), place)

    # Outcomes.

    def indexes(self) -> dict[int, SegmentIndex]:
        """The index of each segment that is still there, made record by record."""
        found = {}
        for sequence in range(self.first_sequence, self.sequence + 1):
            found[sequence] = index_of(sequence, self.segments[sequence])
        return found

    def live_states(self) -> tuple[dict[int, GroupState], dict[int, SegmentIndex]]:
        """The states, and the segments' indexes, as a manager makes them while it writes."""
        states: dict[int, GroupState] = {}
        indexes = {}
        for sequence, records in self.segments.items():
            index = indexes[sequence] = SegmentIndex(sequence)
            for kind, number, hard_state, entries_range, body, offset, metadata in records:
                if kind is RecordKind.MARK:
                    continue
                state = states.setdefault(number, GroupState(number, 0))
                first, last, term = entries_range
                added = entries(first, last, term) if kind is RecordKind.ENTRIES and first else ()
                draft = Draft(kind, state, hard_state, entries_range, body, added, metadata)
                state.apply(draft, index, offset, PREFIX_BYTES + len(body))
                if kind is RecordKind.REMOVED:
                    del states[number]
        return states, indexes

    def write_to(self, directory: Path) -> dict[int, SegmentHeader]:
        """Write the segments that are still there, as files without a byte too many."""
        headers = {}
        for sequence in range(1, self.sequence + 1):
            header = headers[sequence] = SegmentHeader(
                sequence,
                seed_of(sequence),
                0 if sequence == 1 else seed_of(sequence - 1),
                self.ends.get(sequence - 1, 0),
                1 << 16,
                self.headers_first[sequence],
            )
            if sequence >= self.first_sequence:
                write_segment(directory, header, self.segments[sequence])
        return headers


def enter(index: SegmentIndex, record: Record) -> None:
    """Let a section take a record."""
    kind, number, hard_state, (first, last, term), _, offset, metadata = record
    if kind in (RecordKind.MARK, RecordKind.PADDING):
        return
    section = index.section(number)
    if kind is RecordKind.ENTRIES:
        section.append(hard_state, first, last, term, offset, record.length)
    elif kind is RecordKind.COPY:
        section.copy(hard_state, Slot(first, last, term, index.sequence, offset, record.length))
    elif kind is RecordKind.REMOVED:
        section.remove()
    else:
        assert metadata is not None
        take = section.reset if kind is RecordKind.RESET else section.describe
        take(hard_state, metadata)


def said_by(index: SegmentIndex) -> dict[int, tuple[object, ...]]:
    """All that an index says, in a form that can be compared."""
    return {
        group: (
            section.is_reset,
            section.is_removed,
            section.hard_state,
            section.metadata,
            section.truncated_from,
            section.fault,
            [column.tolist() for column in section.appended.columns()],
            list(section.copies),
        )
        for group, section in index.sections.items()
    }


def index_of(sequence: int, records: Iterable[Record]) -> SegmentIndex:
    """The index of a segment that consists of these records."""
    index = SegmentIndex(sequence)
    for record in records:
        enter(index, record)
    return index


def placed(*records: Record) -> list[Record]:
    """The records with their places, one behind the other from the start of a segment."""
    found = []
    offset = HEADER_BYTES
    for record in records:
        found.append(record._replace(offset=offset))
        offset += align(record.length)
    return found


def entries_record(
    group: int,
    first: int,
    last: int,
    term: int = 1,
    hard_state: HardState | None = None,
    payload: bytes | None = None,
    kind: RecordKind = RecordKind.ENTRIES,
) -> Record:
    """A record of entries that has no place yet."""
    body = pack_entries([entry(index, term, payload) for index in range(first, last + 1)])
    return Record(kind, group, hard_state or HardState(term, 1, 0), (first, last, term), body, 0)


def metadata_record(kind: RecordKind, group: int, metadata: GroupMetadata) -> Record:
    """A GROUP or RESET record that has no place yet."""
    hard_state = HardState(5, 1, metadata.base_index)
    return Record(kind, group, hard_state, _NO_ENTRIES, pack_metadata(metadata), 0, metadata)


def bare_record(kind: int, group: int = 0, first_index: int = 0, body: bytes = b"") -> Record:
    """A record of any kind, known or not, that has no place yet."""
    state = HardState()
    return Record(kind, group, state, (first_index, 0, 0), body, 0)  # type: ignore[arg-type]


def seed_of(sequence: int) -> int:
    return 0x5EED0000 + 1_000_003 * sequence


def write_segment(
    directory: Path,
    header: SegmentHeader,
    records: Sequence[Record],
    *,
    synced_offsets: Sequence[int] | None = None,
    size: int = 0,
) -> Path:
    """Write a segment with these records.

    Each says that the segment is synced up to its synced offset, or just before it if none are
    given. The file gets zeros up to ``size``.
    """
    path = segment_path(directory, header.sequence)
    data = encode_header(header) + encode_records(header.seed, records, synced_offsets)
    path.write_bytes(data.ljust(size, b"\0"))
    return path


def encode_records(
    seed: int, records: Sequence[Record], synced_offsets: Sequence[int] | None = None
) -> bytes:
    """The bytes of records that begin behind a segment's header."""
    data = bytearray()
    chain = seed
    if synced_offsets is None:
        synced_offsets = [record.offset for record in records]
    for record, synced_offset in zip(records, synced_offsets, strict=True):
        kind, group, hard_state, entries_range, body, offset, _ = record
        assert offset == HEADER_BYTES + len(data)
        prefix, chain = encode_prefix(
            seed, offset, synced_offset, chain, kind, group, hard_state, entries_range, body
        )
        data += (prefix + body).ljust(align(record.length), b"\0")
    return bytes(data)


def recovered(directory: Path) -> Recovery:
    """The recovery of the log in ``directory``."""
    recovery = Recovery(REAL_FILE_SYSTEM, directory, 0)
    recovery.run()
    return recovery


def contents_found(recovery: Recovery) -> dict[int, Contents]:
    """What every group is, none of which may be damaged."""
    assert (recovery.damaged, recovery.shard_damage) == ({}, None)
    return {group: contents_of(state) for group, state in recovery.groups.items()}


def dump_all(directory: Path, recovery: Recovery) -> None:
    """Write the dumps that are missing."""
    for header, end, index in recovery.undumped:
        data = encode_dump(index, header, end)
        write_dump(REAL_FILE_SYSTEM, directory, header.sequence, data)
