"""Tests of rafter_storage.group_state."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core.entries import Entry, EntryKind, HardState
from rafter_core.membership import Membership
from rafter_core.serializer import pack_entries, unpack_entries
from rafter_core.snapshot import Snapshot
from rafter_storage.errors import InvalidWrite
from rafter_storage.group_metadata import GroupMetadata, unpack_metadata
from rafter_storage.group_state import (
    Draft,
    FoundedGroup,
    GroupChange,
    GroupState,
    GroupWrite,
)
from rafter_storage.record import PREFIX_BYTES, RecordKind
from rafter_storage.segment_index import SegmentIndex
from tests.storage.support import MEMBERSHIP, entries, entry

OTHER = Membership((1, 2, 3, 4))


class Places:
    """Gives drafts places in segments, and lets them take effect."""

    def __init__(self) -> None:
        self.index = SegmentIndex(1)
        self.sealed: list[SegmentIndex] = []
        self.offset = 4096

    def apply(self, drafts: Sequence[Draft | None]) -> None:
        for draft in drafts:
            if draft is not None:
                length = PREFIX_BYTES + len(draft.body)
                draft.state.apply(draft, self.index, self.offset, length)
                self.offset += length

    def roll(self) -> None:
        self.sealed.append(self.index)
        self.index = SegmentIndex(self.index.sequence + 1)
        self.offset = 4096

    def recovered(self) -> GroupState:
        """The state that a recovery would find."""
        state = GroupState(1, 1 << 20)
        for index in (*self.sealed, self.index):
            section = index.sections.get(1)
            if section is not None:
                if section.is_reset:
                    state = GroupState(1, 1 << 20)
                assert state.absorb(index.sequence, section) is None
        state.start()
        return state


def begin(
    state: GroupState,
    added: Sequence[Entry] = (),
    hard_state: HardState | None = None,
    snapshot: Snapshot | None = None,
) -> list[Draft]:
    return list(state.begin_write(GroupWrite(1, hard_state, added, snapshot)))


def written() -> tuple[GroupState, Places]:
    """A group with three entries of term 2, of which two are committed, and a vote."""
    state, places = GroupState(1, 1 << 20), Places()
    places.apply(begin(state, entries(1, 3, term=2), HardState(2, 1, 2)))
    return state, places


def facts(state: GroupState) -> tuple[object, ...]:
    """What must be the same after a recovery; not which records it is spread over."""
    index = state.index
    return (
        state.hard_state,
        state.metadata,
        index.first_index,
        index.last_index,
        index.live_bytes,
        index.slots_by_sequence,
        [index.slot(position) for position in range(len(index))],
        state.record_sequence,
        state.metadata_sequence,
        state.oldest_sequence,
    )


def test_writes_take_effect_when_they_are_applied() -> None:
    state, places = GroupState(1, 1 << 20), Places()
    drafts = begin(state, entries(1, 3), HardState(1, 1, 2))
    assert (state.begun_last_index, state.begun_hard_state) == (3, HardState(1, 1, 2))
    assert (state.index.last_index, state.hard_state) == (0, HardState())
    assert state.oldest_sequence == 0
    places.apply(drafts)
    assert (state.index.last_index, state.hard_state) == (3, HardState(1, 1, 2))
    assert state.recent.slice(1, 4) == entries(1, 3)
    assert state.oldest_sequence == state.record_sequence == 1


def test_entries_of_several_terms_are_one_record_for_each_term() -> None:
    state, places = GroupState(1, 1 << 20), Places()
    added = [*entries(1, 2, 1), *entries(3, 3, 4), *entries(4, 6, 5)]
    drafts = begin(state, added, HardState(5, 0, 0))
    assert [draft.entries_range for draft in drafts] == [(1, 2, 1), (3, 3, 4), (4, 6, 5)]
    assert [one for draft in drafts for one in unpack_entries(draft.body)] == added
    places.apply(drafts)
    assert [state.index.term(index) for index in range(1, 7)] == [1, 1, 4, 5, 5, 5]
    assert state.recent.slice(1, 7) == added


@pytest.mark.parametrize("count", [1, 7, 8, 300])
def test_body_of_a_record_is_the_one_encoding_of_its_entries(count: int) -> None:
    state = GroupState(1, 1 << 20)
    written = [
        Entry(1 << 40, index, EntryKind(index % 3), bytes(index)) for index in range(1, count + 1)
    ]
    (draft,) = state.begin_write(GroupWrite(1, HardState(1 << 40, 0, 0), written))
    assert draft.body == pack_entries(written)


def test_no_record_commits_what_a_later_record_of_the_same_write_brings() -> None:
    # Torn between its records, the write would else leave a commit index beyond the log.
    state = GroupState(1, 1 << 20)
    added = [*entries(1, 2, 1), *entries(3, 3, 4)]
    last_index = 0
    for draft in begin(state, added, HardState(4, 0, 3)):
        last_index = draft.entries_range[1]
        assert draft.hard_state.commit <= last_index
    assert (last_index, state.begun_hard_state.commit) == (3, 3)


def test_reset_does_not_commit_what_the_entries_behind_it_bring() -> None:
    state = GroupState(1, 1 << 20)
    drafts = begin(state, entries(11, 12, 3), HardState(3, 0, 12), Snapshot(10, 2, MEMBERSHIP))
    assert [draft.kind for draft in drafts] == [RecordKind.RESET, RecordKind.ENTRIES]
    assert drafts[0].hard_state == HardState(3, 0, 10)
    assert drafts[1].hard_state == HardState(3, 0, 12)


def test_write_that_changes_nothing_has_no_record() -> None:
    state, _ = written()
    assert begin(state) == []
    assert begin(state, hard_state=HardState(2, 1, 2)) == []
    assert [draft.kind for draft in begin(state, hard_state=HardState(2, 1, 3))] == [
        RecordKind.ENTRIES
    ]


@pytest.mark.parametrize(
    ("added", "hard_state", "message"),
    [
        (entries(5, 5), None, "entries from 5, with a log that ends at 3"),
        (entries(2, 2), None, "is committed up to 2"),
        (entries(0, 0), None, "entries from 0"),
        ([entry(4), entry(6)], None, "2 entries from 4 to 6"),
        (entries(4, 4, term=0), None, "entries of terms 0 to 0"),
        ([entry(4, 3), entry(5, 2)], None, "entries of terms 3 to 2"),
        ([], HardState(1, 1, 2), "vote 1 in term 1 after vote 1 in term 2"),
        ([], HardState(2, 2, 2), "vote 2 in term 2 after vote 1 in term 2"),
        ([], HardState(2, 0, 2), "vote 0 in term 2 after vote 1 in term 2"),
        ([], HardState(2, 1, 1), "commit index 1 after 2"),
        ([], HardState(2, 1, 4), "commit index 4 after 2, with a log that ends at 3"),
        (entries(4, 5, 2), HardState(2, 1, 6), "commit index 6 after 2"),
    ],
)
def test_write_that_breaks_a_rule_of_the_log_is_refused(
    added: list[Entry], hard_state: HardState | None, message: str
) -> None:
    state, _ = written()
    with pytest.raises(InvalidWrite, match=message):
        begin(state, added, hard_state)


def test_rules_hold_for_what_is_begun_and_not_complete_yet() -> None:
    state, places = GroupState(1, 1 << 20), Places()
    first = begin(state, entries(1, 5), HardState(1, 1, 3))
    with pytest.raises(InvalidWrite, match="is committed up to 3"):
        begin(state, entries(3, 3, 2), HardState(2, 0, 3))
    second = begin(state, entries(4, 4, 2), HardState(2, 2, 3))
    with pytest.raises(InvalidWrite, match="ends at 4"):
        begin(state, entries(6, 6, 2))
    with pytest.raises(InvalidWrite, match="vote 3 in term 2 after vote 2"):
        begin(state, hard_state=HardState(2, 3, 3))
    places.apply(first)
    places.apply(second)
    assert state.recent.slice(1, 5) == [*entries(1, 3), *entries(4, 4, 2)]


def test_vote_and_higher_term_are_free_and_granting_again_is_no_second_vote() -> None:
    state, _ = written()
    begin(state, hard_state=HardState(2, 1, 3))
    begin(state, hard_state=HardState(3, 0, 3))
    begin(state, hard_state=HardState(3, 2, 3))
    begin(state, hard_state=HardState(4, 1, 3))


# Metadata.


def test_changes_are_recorded_whole() -> None:
    state, places = written()
    drafts = [
        state.begin_change(GroupChange(1, membership=(2, OTHER))),
        state.begin_change(GroupChange(1, snapshot=(2, 2), compact_to=1)),
    ]
    assert state.metadata == GroupMetadata()
    places.apply(drafts)
    expected = GroupMetadata(1, 2, ((2, OTHER),), 2, 2)
    assert state.metadata == state.begun_metadata == expected
    assert drafts[1] is not None
    assert unpack_metadata(drafts[1].body) == expected
    assert drafts[1].hard_state == HardState(2, 1, 2)
    assert (state.index.first_index, state.metadata_sequence) == (2, 1)


def test_change_that_changes_nothing_has_no_record() -> None:
    state, places = written()
    changes = [
        GroupChange(1),
        GroupChange(1, snapshot=(2, 2), compact_to=2, membership=(1, OTHER)),
        GroupChange(1, snapshot=(1, 2), compact_to=1),
        GroupChange(1, snapshot=(2, 2), compact_to=2),
    ]
    drafts = [state.begin_change(change) for change in changes]
    assert [draft is not None for draft in drafts] == [False, True, False, False]
    places.apply(drafts)
    assert state.metadata == GroupMetadata(2, 2, ((1, OTHER),), 2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (GroupChange(1, compact_to=1), "cannot be cut up to 1, the newest snapshot is at 0"),
        (GroupChange(1, snapshot=(2, 2), compact_to=3), "newest snapshot is at 2 and the log ends"),
        (GroupChange(1, snapshot=(9, 2), compact_to=4), "the log ends at 3"),
    ],
)
def test_compaction_beyond_snapshot_or_log_is_refused(change: GroupChange, message: str) -> None:
    state, _ = written()
    with pytest.raises(InvalidWrite, match=message):
        state.begin_change(change)


def test_what_a_snapshot_covers_is_committed_and_never_cut() -> None:
    state, places = written()
    draft = state.begin_change(GroupChange(1, snapshot=(3, 2), compact_to=3))
    places.apply([draft])
    assert state.begun_hard_state.commit == state.hard_state.commit == 3
    with pytest.raises(InvalidWrite, match="is committed up to 3"):
        begin(state, entries(3, 3, 3))
    assert places.recovered().fault() is None


def test_base_term_outlives_the_entries() -> None:
    state, places = GroupState(1, 1 << 20), Places()
    places.apply(begin(state, [*entries(1, 2, 1), *entries(3, 6, 4)], HardState(4, 0, 6)))
    for base, term in ((2, 1), (3, 4), (6, 4)):
        places.apply([state.begin_change(GroupChange(1, snapshot=(6, 4), compact_to=base))])
        assert (state.metadata.base_index, state.metadata.base_term) == (base, term)
        assert facts(places.recovered()) == facts(state)


def test_installed_snapshot_voids_the_log() -> None:
    state, places = written()
    places.apply(begin(state, entries(11, 12, 5), HardState(5, 0, 2), Snapshot(10, 4, OTHER)))
    assert state.metadata == GroupMetadata(10, 4, ((10, OTHER),), 10, 4)
    assert (state.index.first_index, state.index.last_index) == (11, 12)
    assert state.hard_state == HardState(5, 0, 10)
    assert state.recent.slice(11, 13) == entries(11, 12, 5)
    places.apply(begin(state, hard_state=HardState(5, 0, 12)))
    assert facts(places.recovered()) == facts(state)


def test_installed_snapshot_commits_what_it_covers() -> None:
    state, places = written()
    places.apply(begin(state, snapshot=Snapshot(3, 2, OTHER)))
    assert state.hard_state == HardState(2, 1, 3)
    assert (state.index.first_index, state.index.last_index) == (4, 3)


@pytest.mark.parametrize("index", [1, 2])
def test_snapshot_of_what_is_committed_already_is_refused(index: int) -> None:
    state, _ = written()
    with pytest.raises(InvalidWrite, match=f"snapshot of {index} cannot be installed, 2 is commi"):
        begin(state, snapshot=Snapshot(index, 2, OTHER))


@pytest.mark.parametrize("first_index", [10, 12])
def test_entries_must_follow_the_snapshot_that_they_come_with(first_index: int) -> None:
    state, _ = written()
    with pytest.raises(InvalidWrite, match=f"entries from {first_index}"):
        begin(state, entries(first_index, 12, 5), None, Snapshot(10, 4, OTHER))


def test_removed_group_takes_nothing_more() -> None:
    state, places = written()
    draft = state.begin_change(GroupChange(1, is_removed=True))
    assert draft is not None
    assert (draft.kind, draft.body, draft.hard_state) == (RecordKind.REMOVED, b"", HardState())
    places.apply([draft])
    assert places.index.sections[1].is_removed
    for refused in (
        lambda: begin(state, hard_state=HardState(2, 1, 3)),
        lambda: state.begin_change(GroupChange(1, membership=(2, OTHER))),
        lambda: state.begin_change(GroupChange(1, is_removed=True)),
    ):
        with pytest.raises(InvalidWrite, match="group 1 has been removed from this log"):
            refused()


def test_group_is_founded_with_the_state_it_had_elsewhere() -> None:
    state, places = GroupState(1, 1 << 20), Places()
    metadata = GroupMetadata(20, 3, ((15, OTHER),), 22, 4)
    places.apply([state.begin_founding(FoundedGroup(1, metadata, HardState(7, 2, 24)))])
    # Its commit index may speak of entries that have not come yet.
    assert state.hard_state == HardState(7, 2, 20)
    assert state.metadata == metadata
    assert (state.index.first_index, state.index.last_index) == (21, 20)
    places.apply(begin(state, entries(21, 24, 5), HardState(7, 2, 24)))
    assert state.hard_state == HardState(7, 2, 24)
    assert facts(places.recovered()) == facts(state)


def test_founding_a_known_group_is_refused() -> None:
    founded = FoundedGroup(1, GroupMetadata(), HardState(9, 0, 0))
    known, _ = written()
    only_begun = GroupState(1, 0)
    begin(only_begun, entries(1, 1))
    only_voted = GroupState(1, 0)
    begin(only_voted, hard_state=HardState(1, 1, 0))
    twice = GroupState(1, 0)
    twice.begin_founding(FoundedGroup(1, GroupMetadata(4, 1), HardState()))
    for state in (known, only_begun, only_voted, twice):
        with pytest.raises(InvalidWrite, match="group 1 is in this log already"):
            state.begin_founding(founded)


# What pins segments.


def test_oldest_sequence_is_that_of_entries_metadata_and_newest_record() -> None:
    state, places = GroupState(1, 1 << 20), Places()
    places.apply([state.begin_change(GroupChange(1, membership=(0, OTHER)))])
    places.roll()
    places.apply(begin(state, entries(1, 3), HardState(1, 0, 3)))
    places.roll()
    places.apply(begin(state, entries(4, 5)))
    assert (state.metadata_sequence, state.oldest_sequence) == (1, 1)
    places.apply([state.describe()])
    assert (state.metadata_sequence, state.oldest_sequence) == (3, 2)
    places.apply([state.copy(state.index.slot(0), entries(1, 3))])
    assert (state.record_sequence, state.oldest_sequence) == (3, 3)
    assert facts(places.recovered()) == facts(state)


def test_group_without_entries_and_metadata_pins_its_newest_record() -> None:
    state, places = GroupState(1, 1 << 20), Places()
    places.apply(begin(state, hard_state=HardState(1, 0, 0)))
    places.roll()
    places.apply(begin(state, hard_state=HardState(2, 0, 0)))
    assert state.oldest_sequence == 2


def test_copy_changes_the_place_of_entries_and_nothing_else() -> None:
    state, places = written()
    before = state.hard_state, state.metadata, state.index.live_bytes, state.begun_last_index
    places.roll()
    places.apply([state.copy(state.index.slot(0), entries(1, 3, 2))])
    assert before == (
        state.hard_state,
        state.metadata,
        state.index.live_bytes,
        state.begun_last_index,
    )
    assert state.index.slots_by_sequence == {2: 1}
    assert state.recent.slice(1, 4) == entries(1, 3, 2)


# Recovery.


def test_section_that_replaces_what_older_segments_committed_is_a_fault() -> None:
    state, places = written()
    index = SegmentIndex(2)
    index.section(1).append(HardState(3, 0, 2), 2, 2, 3, 4096, 200)
    assert state.absorb(2, index.section(1)) == "entries from 2 replace the committed 2"
    assert places.recovered().fault() is None


def test_hole_and_commit_index_outside_the_log_are_faults() -> None:
    hole = GroupState(1, 0)
    index = SegmentIndex(2)
    index.section(1).append(HardState(3, 0, 0), 2, 2, 3, 4096, 200)
    assert hole.absorb(2, index.section(1)) is None
    assert hole.fault() == "the entry 1 of group 1 is in no segment"
    beyond = GroupState(1, 0)
    index.section(2).append(HardState(3, 0, 7), 1, 2, 3, 4096, 200)
    beyond.absorb(2, index.section(2))
    assert beyond.fault() is not None
    assert "has the commit index 7, but its log begins behind 0 and ends at 2" in str(
        beyond.fault()
    )
    below = GroupState(1, 0)
    index.section(3).reset(HardState(3, 0, 7), GroupMetadata(10, 2))
    below.absorb(2, index.section(3))
    assert "has the commit index 7, but its log begins behind 10" in str(below.fault())


def test_fault_of_a_section_is_handed_on() -> None:
    index = SegmentIndex(2)
    section = index.section(1)
    section.append(HardState(1, 0, 2), 1, 2, 1, 4096, 200)
    section.append(HardState(1, 0, 2), 2, 2, 1, 4296, 200)
    state = GroupState(1, 0)
    assert state.absorb(2, section) == "entries from 2 replace the committed 2"


def test_reset_whose_metadata_cannot_be_read_empties_the_log() -> None:
    state, _ = written()
    index = SegmentIndex(2)
    section = index.section(1)
    section.remove()
    section.append(HardState(1, 0, 0), 1, 2, 1, 4096, 200)
    assert section.is_reset
    assert state.absorb(2, section) is None
    assert (state.index.first_index, state.index.last_index) == (1, 2)


@given(st.integers(0, 1 << 32))
def test_any_history_is_recovered_as_it_was(seed: int) -> None:
    draw = random.Random(seed)
    state, places = GroupState(1, 300), Places()
    for _ in range(draw.randint(1, 25)):
        step = draw.choice(["append", "append", "commit", "change", "reset", "copy", "roll"])
        index, before = state.index, state.begun_hard_state
        drafts: list[Draft | None] = []
        if step == "append":
            first = draw.randint(before.commit + 1, index.last_index + 1)
            term = before.term + draw.randint(0, 1) or 1
            hard_state = HardState(term, before.vote if term == before.term else 0, before.commit)
            drafts += begin(state, entries(first, first + draw.randint(0, 4), term), hard_state)
        elif step == "commit":
            commit = draw.randint(before.commit, index.last_index)
            drafts += begin(state, hard_state=before._replace(commit=commit))
        elif step == "change" and before.commit > state.metadata.base_index:
            base = draw.randint(state.metadata.base_index + 1, before.commit)
            membership = (base, Membership(tuple(range(1, draw.randint(2, 5)))))
            snapshot = (before.commit, index.term(before.commit))
            compact_to = draw.choice([0, base])
            drafts.append(state.begin_change(GroupChange(1, membership, snapshot, compact_to)))
        elif step == "reset":
            snapshot_index = before.commit + draw.randint(1, 5)
            snapshot_ = Snapshot(snapshot_index, max(1, before.term), OTHER)
            drafts += begin(state, snapshot=snapshot_)
        elif step == "copy" and len(index):
            slot = index.slot(draw.randrange(len(index)))
            low = max(slot.first_index, index.first_index)
            if slot.sequence != places.index.sequence:
                copied = entries(low, slot.last_index, slot.term)
                drafts.append(state.copy(slot._replace(first_index=low), copied))
        elif step == "roll":
            places.roll()
        places.apply(drafts)
        recent = state.recent
        held = recent.slice(max(recent.first_index, index.first_index), index.last_index + 1)
        assert [one.term for one in held] == [index.term(one.index) for one in held]
        assert [one.index for one in held][-1:] in ([], [index.last_index])
    recovered = places.recovered()
    assert recovered.fault() is None
    assert facts(recovered) == facts(state)
