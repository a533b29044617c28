"""Tests of rafter_storage.index."""

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_storage.index import GroupIndex, Slot, SlotColumns

SEQUENCE = 7

# A place in the log: sequence, offset, length.
Place = tuple[int, int, int]


def add(index: GroupIndex, first: int, last: int, offset: int, term: int = 1) -> None:
    index.append(first, last, term, SEQUENCE, offset, 100)


def slots(index: GroupIndex) -> list[tuple[int, int, int]]:
    """First index, last index and offset of every slot."""
    found = [index.slot(position) for position in range(len(index))]
    return [(slot.first_index, slot.last_index, slot.offset) for slot in found]


def test_empty_index_ends_before_its_first_index() -> None:
    index = GroupIndex()
    assert (index.first_index, index.last_index, len(index)) == (1, 0, 0)
    assert (index.live_bytes, index.slots_by_sequence, index.missing()) == (0, {}, None)


def test_slots_follow_each_other() -> None:
    index = GroupIndex()
    index.append(1, 3, 1, 4, 100, 10)
    index.append(4, 4, 1, 4, 200, 20)
    index.append(5, 9, 2, 5, 300, 30)
    assert [index.position(i) for i in range(1, 10)] == [0, 0, 0, 1, 2, 2, 2, 2, 2]
    assert index.slot(0) == Slot(1, 3, 1, 4, 100, 10)
    assert index.slot(1) == Slot(4, 4, 1, 4, 200, 20)
    assert index.slot(2) == Slot(5, 9, 2, 5, 300, 30)
    assert [index.term(i) for i in range(1, 10)] == [1, 1, 1, 1, 2, 2, 2, 2, 2]
    assert index.live_bytes == 60
    assert index.slots_by_sequence == {4: 2, 5: 1}


def test_overlap_in_the_middle_of_a_slot_trims_it_and_drops_later_ones() -> None:
    index = GroupIndex()
    add(index, 1, 5, 100)
    add(index, 6, 9, 200)
    add(index, 3, 4, 300, term=2)
    assert index.last_index == 4
    assert slots(index) == [(1, 2, 100), (3, 4, 300)]
    assert [index.term(i) for i in range(1, 5)] == [1, 1, 2, 2]
    assert index.live_bytes == 200


def test_overlap_from_the_start_replaces_everything() -> None:
    index = GroupIndex()
    add(index, 1, 5, 100)
    add(index, 1, 1, 200, term=3)
    assert (len(index), index.last_index, index.term(1)) == (1, 1, 3)


def test_move_of_a_whole_slot_changes_its_place_alone() -> None:
    index = GroupIndex()
    for first, offset in ((1, 100), (4, 200), (7, 300)):
        add(index, first, first + 2, offset)
    index.move(Slot(4, 6, 1, 9, 900, 50))
    assert slots(index) == [(1, 3, 100), (4, 6, 900), (7, 9, 300)]
    assert index.slots_by_sequence == {SEQUENCE: 2, 9: 1}
    assert index.live_bytes == 250
    assert index.last_index == 9


def test_move_within_a_slot_leaves_both_its_ends_where_they_were() -> None:
    index = GroupIndex()
    add(index, 1, 9, 100)
    index.move(Slot(4, 6, 1, 9, 900, 50))
    assert slots(index) == [(1, 3, 100), (4, 6, 900), (7, 9, 100)]
    assert index.slots_by_sequence == {SEQUENCE: 2, 9: 1}


def test_move_across_slots_takes_a_part_of_each() -> None:
    index = GroupIndex()
    for first, offset in ((1, 100), (4, 200), (7, 300)):
        add(index, first, first + 2, offset)
    index.move(Slot(2, 8, 1, 9, 900, 50))
    assert slots(index) == [(1, 1, 100), (2, 8, 900), (9, 9, 300)]


def test_move_into_a_hole_fills_it() -> None:
    index = GroupIndex()
    index.move(Slot(7, 9, 1, 9, 900, 50))
    assert (index.last_index, index.missing()) == (9, 1)
    index.move(Slot(1, 3, 1, 9, 800, 50))
    assert (index.last_index, index.missing()) == (9, 4)
    index.move(Slot(4, 6, 1, 9, 850, 50))
    assert (index.last_index, index.missing()) == (9, None)
    assert slots(index) == [(1, 3, 800), (4, 6, 850), (7, 9, 900)]


def test_compaction_within_a_slot_keeps_what_is_behind() -> None:
    index = GroupIndex()
    add(index, 1, 3, 100)
    add(index, 4, 9, 200)
    index.compact(5)
    assert (index.first_index, index.last_index, len(index)) == (6, 9, 1)
    assert index.slot(0).last_index == 9
    assert index.live_bytes == 100
    assert [index.position(i) for i in range(6, 10)] == [0] * 4


def test_move_of_what_compaction_left_of_a_slot_leaves_nothing_behind() -> None:
    # What would be left below the log would pin its segment for good.
    index = GroupIndex()
    add(index, 1, 10, 100)
    index.compact(4)
    index.move(Slot(5, 10, 1, 9, 900, 50))
    assert slots(index) == [(5, 10, 900)]
    assert index.slots_by_sequence == {9: 1}


def test_compaction_beyond_the_log_leaves_an_empty_one_that_begins_there() -> None:
    index = GroupIndex()
    add(index, 1, 3, 100)
    index.compact(8)
    assert (index.first_index, index.last_index, len(index)) == (9, 8, 0)
    assert (index.live_bytes, index.slots_by_sequence) == (0, {})


def test_reset_forgets_all_and_begins_elsewhere() -> None:
    index = GroupIndex()
    add(index, 1, 9, 100)
    index.reset(20)
    assert (index.first_index, index.last_index, len(index)) == (21, 20, 0)
    index.reset(0)
    assert (index.first_index, index.last_index) == (1, 0)


def test_extension_by_nothing_changes_nothing() -> None:
    index = GroupIndex()
    add(index, 1, 3, 100)
    index.extend(8, SlotColumns())
    assert (index.last_index, index.slots_by_sequence) == (3, {SEQUENCE: 1})


def test_slots_of_a_segment_are_found_in_order_and_no_more_than_asked_for() -> None:
    index = GroupIndex()
    for number in range(10):
        index.append(number + 1, number + 1, 1, 4 + number % 2, 100 * number, 10)
    assert [slot.offset for slot in index.slots_in(5, 3)] == [100, 300, 500]
    assert [slot.offset for slot in index.slots_in(4, 99)] == [0, 200, 400, 600, 800]
    assert index.slots_in(6, 99) == []
    assert index.slots_in(4, 0) == []


@pytest.mark.parametrize(("first_index", "offset"), [(1 << 64, 1), (1, 1 << 32)])
def test_values_too_large_for_a_column_are_an_error_and_not_cut(
    first_index: int, offset: int
) -> None:
    index = GroupIndex()
    with pytest.raises(OverflowError):
        index.append(first_index, first_index, 1, 1, offset, 1)


class Model:
    """The index as a plain dict from a log index to (term, place)."""

    def __init__(self) -> None:
        self.first_index = 1
        self.last_index = 0
        self.entries: dict[int, tuple[int, Place]] = {}

    def put(self, first: int, last: int, term: int, place: Place) -> None:
        self.entries |= dict.fromkeys(range(first, last + 1), (term, place))
        self.last_index = max(self.last_index, last)

    def truncate(self, first: int) -> None:
        self.entries = {index: at for index, at in self.entries.items() if index < first}
        self.last_index = min(self.last_index, first - 1)

    def compact(self, last: int) -> None:
        self.entries = {index: at for index, at in self.entries.items() if index > last}
        self.first_index = last + 1
        self.last_index = max(self.last_index, last)

    def slots(self) -> list[Slot]:
        """Neighbours of one place, each of which one slot must hold."""
        found = []
        ranked = enumerate(sorted(self.entries))
        for (_, (term, place)), run in groupby(
            ranked, lambda item: (item[1] - item[0], self.entries[item[1]])
        ):
            indexes = [index for _, index in run]
            found.append(Slot(indexes[0], indexes[-1], term, *place))
        return found

    def missing(self) -> int | None:
        holes = set(range(self.first_index, self.last_index + 1)) - set(self.entries)
        return min(holes, default=None)


def check(index: GroupIndex, model: Model) -> None:
    """All that an index answers is what the model says."""
    assert (index.first_index, index.last_index) == (model.first_index, model.last_index)
    expected = model.slots()
    counts = {slot.sequence: 0 for slot in expected}
    for slot in expected:
        counts[slot.sequence] += 1
    assert index.slots_by_sequence == counts
    assert index.live_bytes == sum(slot.length for slot in expected)
    assert len(index) == len(expected)
    assert index.missing() == model.missing()
    for log_index, (term, place) in model.entries.items():
        slot = index.slot(index.position(log_index))
        assert slot.first_index <= log_index <= slot.last_index
        assert (slot.term, (slot.sequence, slot.offset, slot.length)) == (term, place)
        assert index.term(log_index) == term
    for sequence in range(1, 6):
        ends = [slot.last_index for slot in expected if slot.sequence == sequence]
        assert [slot.last_index for slot in index.slots_in(sequence, 99)] == ends


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "extend", "truncate", "move", "compact", "reset"]),
        st.integers(0, 8),
        st.integers(1, 5),
        st.integers(1, 5),
    ),
    max_size=40,
)


@given(STEPS)
def test_any_sequence_of_changes_equals_a_plain_dict(
    steps: list[tuple[str, int, int, int]],
) -> None:
    index = GroupIndex()
    model = Model()
    for number, (kind, a, count, sequence) in enumerate(steps, 1):
        term, place = number, (sequence, 1000 * number, 90 + number)
        # Somewhere near the end, but never below the log, which nothing is said of.
        first = max(model.first_index, model.last_index + 3 - a)
        last = first + count - 1
        if kind == "append":
            first = min(first, model.last_index + 1)
            index.append(first, first + count - 1, term, *place)
            model.truncate(first)
            model.put(first, first + count - 1, term, place)
        elif kind == "extend":
            index.truncate(first)
            model.truncate(first)
            columns = SlotColumns()
            for part in range(count):
                start = first + 2 * part
                columns.append(start, start + 1, term, place[1] + part, place[2])
                model.put(start, start + 1, term, (sequence, place[1] + part, place[2]))
            index.extend(sequence, columns)
        elif kind == "truncate":
            index.truncate(first)
            model.truncate(first)
        elif kind == "move":
            index.move(Slot(first, last, term, *place))
            model.put(first, last, term, place)
        elif kind == "compact":
            index.compact(first)
            model.compact(first)
        elif a == 0:
            index.reset(first)
            model.truncate(0)
            model.compact(first)
        check(index, model)


@given(
    st.lists(st.tuples(st.integers(-4, 3), st.integers(1, 5), st.integers(0, 2)), max_size=40),
)
def test_columns_of_one_segment_equal_a_plain_dict(steps: list[tuple[int, int, int]]) -> None:
    columns = SlotColumns()
    model: dict[int, tuple[int, int]] = {}
    end = 10
    for offset, (step, count, kind) in enumerate(steps):
        first = max(1, end + step)
        if kind == 0:
            columns.truncate(first)
        else:
            columns.append(first, first + count - 1, offset + 1, offset, count)
        model = {index: at for index, at in model.items() if index < first}
        if kind:
            model |= dict.fromkeys(range(first, first + count), (offset + 1, offset))
            end = first + count
        held: dict[int, tuple[int, int]] = {}
        for low, high, term, place, _ in zip(*columns.columns(), strict=True):
            assert low <= high
            assert not held or low > max(held)
            held |= dict.fromkeys(range(low, high + 1), (term, place))
        assert held == model
        assert {len(column) for column in columns.columns()} == {len(columns)}
