"""Tests of rafter_storage.segment_index, and of how groups absorb what segments say.

The claim that recovery stands on: to absorb the sections of all segments, oldest first, gives the
same state as to apply every record; also when the oldest segments are gone, whose entries were
rewritten before.
"""

from hypothesis import given
from hypothesis import strategies as st

from rafter_core.entries import HardState
from rafter_core.membership import Membership
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.group_state import GroupState
from rafter_storage.index import Slot
from rafter_storage.segment_index import Section, SegmentIndex
from tests.storage.histories import STEPS, Contents, History, Step, contents_of

STATE = HardState(3, 1, 0)
METADATA = GroupMetadata(10, 2, ((10, Membership((1, 2, 3))),), 10, 2)


def added(section: Section, first: int, last: int, offset: int, commit: int = 0) -> None:
    section.append(HardState(1, 1, commit), first, last, 1, offset, 100)


def slots(section: Section) -> list[tuple[int, int, int]]:
    appended = section.appended
    return list(zip(appended.first_indexes, appended.last_indexes, appended.offsets, strict=True))


def absorbed(indexes: dict[int, SegmentIndex]) -> tuple[dict[int, Contents], dict[int, str]]:
    """What groups are after they absorbed the segments in order, and their faults."""
    states: dict[int, GroupState] = {}
    faults: dict[int, str] = {}
    for sequence, index in sorted(indexes.items()):
        for group, section in index.sections.items():
            if section.is_removed:
                states.pop(group, None)
                continue
            if group not in states or section.is_reset:
                states[group] = GroupState(group, 0)
            fault = states[group].absorb(sequence, section)
            if fault is not None:
                faults.setdefault(group, fault)
    for group, state in states.items():
        fault = state.fault()
        if fault is not None:
            faults.setdefault(group, fault)
    return {group: contents_of(state) for group, state in states.items()}, faults


def test_section_of_a_silent_segment_is_empty() -> None:
    index = SegmentIndex(4)
    section = index.section(9)
    assert index.section(9) is section
    assert not section.appended
    assert (section.copies, section.metadata, section.truncated_from) == ([], None, 0)
    assert (section.is_reset, section.is_removed, section.fault) == (False, False, None)


def test_hard_state_without_entries_is_kept_and_cuts_nothing() -> None:
    section = Section()
    added(section, 5, 7, 100)
    section.append(STATE, 0, 0, 0, 200, 96)
    assert section.hard_state == STATE
    assert slots(section) == [(5, 7, 100)]
    assert section.truncated_from == 5


def test_lowest_index_that_was_appended_at_voids_what_older_segments_say() -> None:
    section = Section()
    added(section, 8, 9, 100)
    added(section, 5, 6, 200)
    added(section, 7, 7, 300)
    assert section.truncated_from == 5
    assert slots(section) == [(5, 6, 200), (7, 7, 300)]


def test_entries_cut_the_copies_they_replace() -> None:
    section = Section()
    for slot in (Slot(1, 3, 1, 9, 100, 50), Slot(4, 6, 1, 9, 200, 50), Slot(7, 9, 1, 9, 300, 50)):
        section.copy(STATE, slot)
    added(section, 5, 5, 400)
    assert [(slot.first_index, slot.last_index) for slot in section.copies] == [(1, 3), (4, 4)]
    section.copy(STATE, Slot(1, 2, 1, 9, 500, 50))
    added(section, 6, 6, 600)
    assert len(section.copies) == 3


def test_gap_between_entries_is_a_fault() -> None:
    section = Section()
    added(section, 5, 6, 100)
    added(section, 8, 8, 200)
    assert section.fault == "entries from 8 do not follow the log's 6"


def test_replaced_committed_entry_is_a_fault() -> None:
    section = Section()
    added(section, 5, 6, 100, commit=5)
    added(section, 6, 6, 200, commit=5)
    assert section.fault is None
    added(section, 5, 5, 200, commit=5)
    assert section.fault == "entries from 5 replace the committed 5"


def test_reset_voids_the_log_and_keeps_what_it_brings() -> None:
    section = Section()
    added(section, 5, 6, 100)
    section.copy(STATE, Slot(1, 2, 1, 9, 500, 50))
    section.reset(STATE._replace(commit=10), METADATA)
    assert section.is_reset
    assert (slots(section), section.copies, section.truncated_from) == ([], [], 0)
    assert section.metadata == METADATA
    assert section.hard_state.commit == 10
    added(section, 11, 12, 300)
    assert (section.truncated_from, slots(section)) == (11, [(11, 12, 300)])


def test_removal_forgets_everything_and_whatever_follows_creates_the_group_anew() -> None:
    for number in range(5):
        section = Section()
        added(section, 5, 6, 100, commit=5)
        section.damage("bad")
        section.describe(STATE, METADATA)
        section.remove()
        assert section.is_removed
        assert section.fault is None
        assert (section.metadata, section.hard_state, slots(section)) == (None, HardState(), [])
        if number == 0:
            added(section, 1, 1, 200)
        elif number == 1:
            section.describe(STATE, METADATA)
        elif number == 2:
            section.reset(STATE, METADATA)
        elif number == 3:
            section.copy(STATE, Slot(1, 1, 1, 9, 500, 50))
        else:
            section.damage("worse")
            assert section.fault == "worse"
        assert section.is_reset
        assert not section.is_removed


def test_first_damage_is_the_one_that_is_told() -> None:
    section = Section()
    section.damage("one")
    section.damage("two")
    assert section.fault == "one"


def test_section_that_replaces_what_older_segments_say_is_committed_is_a_fault() -> None:
    state = GroupState(7, 0)
    first, second = Section(), Section()
    added(first, 1, 5, 100, commit=3)
    added(second, 3, 4, 100, commit=3)
    assert state.absorb(1, first) is None
    assert state.absorb(2, second) == "entries from 3 replace the committed 3"


def test_entries_that_no_segment_has_are_a_fault_of_the_whole_log() -> None:
    state = GroupState(7, 0)
    section = Section()
    added(section, 3, 5, 100)
    assert state.absorb(1, section) is None
    assert state.fault() == "the entry 1 of group 7 is in no segment"


def test_commit_index_outside_of_the_log_is_a_fault_of_the_whole_log() -> None:
    state = GroupState(7, 0)
    section = Section()
    added(section, 1, 5, 100, commit=6)
    assert state.absorb(1, section) is None
    assert "commit index 6, but its log begins behind 0 and ends at 5" in str(state.fault())
    state = GroupState(7, 0)
    section = Section()
    section.reset(STATE, METADATA)
    state.absorb(1, section)
    assert "commit index 0, but its log begins behind 10 and ends at 10" in str(state.fault())


@given(STEPS)
def test_absorbed_sections_of_any_history_are_what_its_records_say(steps: list[Step]) -> None:
    history = History(steps)
    found, faults = absorbed(history.indexes())
    assert faults == {}
    assert found == history.contents()


@given(STEPS)
def test_state_that_was_written_live_is_what_is_recovered(steps: list[Step]) -> None:
    history = History(steps)
    states, indexes = history.live_states()
    live = {group: contents_of(state) for group, state in states.items()}
    assert live == history.contents()
    kept = {sequence: indexes[sequence] for sequence in history.indexes()}
    assert absorbed(kept) == (live, {})


def mostly_cleaning(step: Step) -> list[Step]:
    """Steps after each of which the log is rewritten and shortened as far as it can be."""
    return [step, (12, 1, 0, 1), (15, 1, 1, 1)]


@given(
    st.lists(st.tuples(st.integers(0, 10), st.integers(1, 3), st.integers(0, 4), st.integers(1, 4)))
)
def test_log_of_only_the_newest_segments_says_all_once_older_ones_were_rewritten(
    steps: list[Step],
) -> None:
    history = History([part for step in steps for part in mostly_cleaning(step)])
    assert history.sequence - history.first_sequence <= 1
    found, faults = absorbed(history.indexes())
    assert faults == {}
    assert found == history.contents()
