from __future__ import annotations

import pytest

from rafter_core import InvariantError
from rafter_core.unstable import Unstable
from tests.core.support import entry


def unstable(*terms: int, offset: int = 5, previous_term: int = 1) -> Unstable:
    item = Unstable(offset, previous_term)
    item.entries = [entry(term, offset + i) for i, term in enumerate(terms)]
    return item


def test_take_hands_out_each_entry_once() -> None:
    item = unstable(1, 1)
    assert [e.index for e in item.take()] == [5, 6]
    assert item.take() == []
    item.truncate_and_append([entry(1, 7)], 1)
    assert [e.index for e in item.take()] == [7]


def test_what_was_handed_out_is_not_changed_by_later_appends() -> None:
    item = unstable(1)
    taken = item.take()
    item.truncate_and_append([entry(2, 5), entry(2, 6)], 1)
    assert taken == [entry(1, 5)]


def test_stable_entries_leave_and_their_last_term_is_remembered() -> None:
    item = unstable(1, 2, 3)
    item.take()
    assert item.stable_to(2, 6)
    assert (item.offset, item.previous_term, item.entries) == (7, 2, [entry(3, 7)])


def test_completion_for_a_replaced_entry_is_ignored() -> None:
    item = unstable(1, 1)
    item.take()
    item.truncate_and_append([entry(2, 6)], 1)
    assert not item.stable_to(1, 6)
    assert item.offset == 5


def test_completion_for_a_replaced_entry_is_ignored_while_its_replacement_is_being_stored() -> None:
    item = unstable(1, 1)
    item.take()
    item.truncate_and_append([entry(2, 6)], 1)
    item.take()
    assert not item.stable_to(1, 6)
    assert item.stable_to(2, 6)


def test_completion_for_what_was_not_handed_out_is_ignored() -> None:
    item = unstable(1, 1)
    assert not item.stable_to(1, 6)
    item.take()
    assert not item.stable_to(1, 7)
    assert not item.stable_to(1, 4)
    assert item.stable_to(1, 6)


@pytest.mark.parametrize(
    ("first", "kept", "offset"), [(7, [5, 6], 5), (6, [5], 5), (5, [], 5), (3, [], 3)]
)
def test_append_replaces_everything_from_its_first_entry_on(
    first: int, kept: list[int], offset: int
) -> None:
    item = unstable(1, 1)
    item.take()
    item.truncate_and_append([entry(2, first)], 1)
    assert [e.index for e in item.entries] == [*kept, first]
    assert item.offset == offset
    assert item.in_progress == first
    assert item.take() == [entry(2, first)]


def test_a_gap_is_refused() -> None:
    with pytest.raises(InvariantError, match="missing log entry"):
        unstable(1, 1).truncate_and_append([entry(2, 8)], 1)
