"""Tests of rafter_storage.log_space. What it means for a whole log is tested in test_cleaner.py."""

import pytest

from rafter_core.entries import HardState
from rafter_storage.group_state import GroupState, GroupWrite
from rafter_storage.log_space import LogSpace
from rafter_storage.segment import SegmentHeader
from rafter_storage.segment_index import SegmentIndex
from tests.storage.support import SEGMENT_BYTES, entries


def header(sequence: int, previous_end: int = 60_000, size: int = SEGMENT_BYTES) -> SegmentHeader:
    return SegmentHeader(sequence, sequence * 11, 1, previous_end, size, 1)


def space_of(*sequences: int) -> LogSpace:
    space = LogSpace(SEGMENT_BYTES)
    for sequence in sequences:
        space.add(header(sequence))
    if sequences:
        space.begin_at(sequences[0])
    return space


def state_in(*sequences: int) -> GroupState:
    """A group with one entry in each of the segments."""
    state = GroupState(1, 0)
    for index, sequence in enumerate(sequences, start=1):
        write = GroupWrite(1, HardState(1, 0, 0), entries(index, index))
        for draft in state.begin_write(write):
            state.apply(draft, SegmentIndex(sequence), 4096, 100)
    return state


def test_log_without_segments_takes_nothing() -> None:
    space = space_of()
    assert (len(space), space.oldest_on_disk, space.allocated_bytes) == (0, 0, 0)


def test_segments_count_as_they_are_allocated() -> None:
    space = space_of(3, 4)
    space.add(header(5, size=3 * SEGMENT_BYTES))
    assert (len(space), space.oldest_on_disk) == (3, 3)
    assert space.allocated_bytes == 5 * SEGMENT_BYTES
    assert (space.first_sequence, space.begun_first_sequence) == (3, 3)


def test_segments_leave_oldest_first_and_once() -> None:
    space = space_of(3, 4, 5, 6)
    assert [left.sequence for left in space.advance_to(5)] == [3, 4]
    assert (len(space), space.oldest_on_disk, space.first_sequence) == (2, 5, 5)
    assert space.allocated_bytes == 2 * SEGMENT_BYTES
    for first_sequence in (5, 3, 0):
        assert list(space.advance_to(first_sequence)) == []
        assert space.first_sequence == 5


def test_oldest_needed_is_that_of_any_group_and_at_most_the_head() -> None:
    space = space_of(3, 4, 5, 6)
    assert space.oldest_needed([], 6) == 6
    space.changed()
    assert space.oldest_needed([state_in(5, 6), state_in(4, 6), GroupState(9, 0)], 6) == 4


def test_oldest_needed_is_looked_for_again_only_after_a_change() -> None:
    space = space_of(3, 4)
    assert space.oldest_needed([state_in(3)], 4) == 3
    assert space.oldest_needed([], 4) == 3
    space.changed()
    assert space.oldest_needed([], 4) == 4
    space.add(header(5))
    assert space.oldest_needed([], 5) == 5


@pytest.mark.parametrize(
    ("live_bytes", "is_wasteful"),
    [
        # 2 sealed segments up to 60 000 and a head up to 10 000: 130 000 bytes in use.
        (0, True),
        (80_000, True),
        (86_000, True),
        (87_000, False),
        (130_000, False),
    ],
)
def test_small_log_is_wasteful_with_a_third_of_garbage(
    live_bytes: int,
    is_wasteful: bool,
) -> None:
    space = space_of(3, 4, 5)
    space.live_bytes = live_bytes
    assert space.is_wasteful(3, 10_000) == is_wasteful


@pytest.mark.parametrize(("live_bytes", "is_wasteful"), [(337_000, True), (338_000, False)])
def test_large_log_is_wasteful_with_half_of_garbage_less_a_segment(
    live_bytes: int,
    is_wasteful: bool,
) -> None:
    space = space_of(*range(1, 12))
    space.live_bytes = live_bytes
    assert space.is_wasteful(1, 10_000) == is_wasteful


def test_segments_that_are_free_already_are_no_waste() -> None:
    space = space_of(3, 4, 5)
    space.live_bytes = 50_000
    assert space.is_wasteful(3, 10_000)
    assert not space.is_wasteful(4, 10_000)
