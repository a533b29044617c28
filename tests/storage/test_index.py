"""Tests of rafter_storage.index."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_storage.index import GroupIndex, Slot
from tests.storage.support import entries


def add(index: GroupIndex, first: int, last: int, offset: int, term: int = 1) -> None:
    index.append(first, last, 1, offset, last - first + 1)
    index.add_terms(entries(first, last, term))


def test_empty_index_ends_before_its_first_index() -> None:
    index = GroupIndex()
    assert (index.first_index, index.last_index, len(index)) == (1, 0, 0)


def test_slots_follow_each_other() -> None:
    index = GroupIndex()
    add(index, 1, 3, 100)
    add(index, 4, 4, 200)
    add(index, 5, 9, 300)
    assert [index.position(i) for i in range(1, 10)] == [0, 0, 0, 1, 2, 2, 2, 2, 2]
    assert index.slot(0) == Slot(1, 3, 1, 100, 3)
    assert index.slot(1) == Slot(4, 4, 1, 200, 1)
    assert index.slot(2) == Slot(5, 9, 1, 300, 5)


def test_overlap_in_the_middle_of_a_slot_trims_it_and_drops_later_ones() -> None:
    index = GroupIndex()
    add(index, 1, 5, 100)
    add(index, 6, 9, 200)
    add(index, 3, 4, 300, term=2)
    assert index.last_index == 4
    assert len(index) == 2
    assert index.slot(0) == Slot(1, 2, 1, 100, 5)
    assert index.slot(1) == Slot(3, 4, 1, 300, 2)
    assert [index.term(i) for i in range(1, 5)] == [1, 1, 2, 2]


def test_overlap_from_the_start_replaces_everything() -> None:
    index = GroupIndex()
    add(index, 1, 5, 100)
    add(index, 1, 1, 200, term=3)
    assert (len(index), index.last_index, index.term(1)) == (1, 1, 3)


def test_gap_is_refused() -> None:
    index = GroupIndex()
    add(index, 1, 5, 100)
    with pytest.raises(AssertionError, match="gap"):
        index.append(7, 7, 1, 200, 1)
    with pytest.raises(AssertionError, match="gap"):
        index.append(0, 7, 1, 200, 1)


def test_terms_are_kept_as_runs_within_one_record() -> None:
    index = GroupIndex()
    mixed = entries(1, 2, 1) + entries(3, 3, 4) + entries(4, 6, 9)
    index.append(1, 6, 1, 100, 10)
    index.add_terms(mixed)
    assert [index.term(i) for i in range(1, 7)] == [1, 1, 4, 9, 9, 9]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5), st.integers(0, 2)), max_size=40))
def test_any_sequence_of_overlaps_equals_a_plain_dict(steps: list[tuple[int, int, int]]) -> None:
    index = GroupIndex()
    model: dict[int, tuple[int, int]] = {}
    term = 1
    for offset, (back, count, term_step) in enumerate(steps):
        term += term_step
        first = max(1, len(model) + 1 - back)
        add(index, first, first + count - 1, offset, term)
        model = {i: place for i, place in model.items() if i < first}
        model |= dict.fromkeys(range(first, first + count), (offset, term))
        assert index.last_index == len(model)
    for i, (offset, entry_term) in model.items():
        slot = index.slot(index.position(i))
        assert slot.offset == offset
        assert slot.first_index <= i <= slot.last_index
        assert index.term(i) == entry_term
