"""The part of the log that is not durable: handing out, completions, truncation, snapshots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core import Entry, InvariantError, Snapshot
from rafter_core.unstable import Unstable
from tests.core.support import THREE, entry

SNAPSHOT = Snapshot(4, 1, THREE)


def unstable(
    *terms: int, offset: int = 5, previous_term: int = 1, taken: int | None = None
) -> Unstable:
    """Return entries 5, 6, ... of these terms, the first `taken` of them being stored."""
    item = Unstable(offset, previous_term)
    item.entries = [entry(term, offset + i) for i, term in enumerate(terms)]
    if taken is not None:
        item.in_progress = offset + taken
    return item


def marks(item: Unstable) -> tuple[int, int, int, list[int]]:
    return item.offset, item.previous_term, item.in_progress, [e.index for e in item.entries]


def test_a_new_one_is_empty() -> None:
    item = Unstable(5, 2)
    assert marks(item) == (5, 2, 5, [])
    assert (item.snapshot, item.is_snapshot_in_progress) == (None, False)
    assert item.take() == []
    assert item.take_snapshot() is None


# ---- handing out -------------------------------------------------------------------------------


@pytest.mark.parametrize(("taken", "expected"), [(0, [5, 6, 7]), (1, [6, 7]), (2, [7]), (3, [])])
def test_take_hands_out_what_is_not_being_stored(taken: int, expected: list[int]) -> None:
    item = unstable(1, 1, 1, taken=taken)
    assert [e.index for e in item.take()] == expected
    assert item.in_progress == 8
    assert item.take() == []
    item.truncate_and_append([entry(1, 8)], 1)
    assert [e.index for e in item.take()] == [8]
    assert item.in_progress == 9


def test_what_was_handed_out_is_not_changed_by_later_appends() -> None:
    item = unstable(1)
    taken = item.take()
    item.truncate_and_append([entry(2, 5), entry(2, 6)], 1)
    assert taken == [entry(1, 5)]


def test_a_snapshot_is_handed_out_once() -> None:
    item = unstable()
    item.restore(SNAPSHOT)
    assert not item.is_snapshot_in_progress
    assert item.take_snapshot() == SNAPSHOT
    assert item.is_snapshot_in_progress
    assert item.take_snapshot() is None
    assert item.snapshot == SNAPSHOT


def test_asking_for_no_snapshot_starts_nothing() -> None:
    item = unstable()
    assert item.take_snapshot() is None
    assert not item.is_snapshot_in_progress


# ---- completions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "index", "expected", "marks_after"),
    [
        # Before, at and beyond what is being stored.
        (1, 4, False, (5, 9, 7, [5, 6, 7])),
        (1, 5, True, (6, 1, 7, [6, 7])),
        (2, 6, True, (7, 2, 7, [7])),
        (3, 7, False, (5, 9, 7, [5, 6, 7])),
        (3, 8, False, (5, 9, 7, [5, 6, 7])),
        # Another term than what the log holds now.
        (2, 5, False, (5, 9, 7, [5, 6, 7])),
        (1, 6, False, (5, 9, 7, [5, 6, 7])),
        (3, 6, False, (5, 9, 7, [5, 6, 7])),
    ],
)
def test_a_completion_counts_for_exactly_what_is_being_stored(
    term: int, index: int, expected: bool, marks_after: tuple[int, int, int, list[int]]
) -> None:
    item = unstable(1, 2, 3, previous_term=9, taken=2)
    assert item.stable_to(term, index) is expected
    assert marks(item) == marks_after


def test_a_completion_for_everything_leaves_an_empty_tail() -> None:
    item = unstable(1, 2, taken=2)
    assert item.stable_to(2, 6)
    assert marks(item) == (7, 2, 7, [])
    assert not item.stable_to(2, 6)


def test_a_completion_in_an_empty_tail_is_ignored() -> None:
    item = unstable()
    assert not item.stable_to(1, 4)
    assert not item.stable_to(1, 5)
    assert marks(item) == (5, 1, 5, [])


def test_a_completion_for_a_replaced_entry_is_ignored() -> None:
    item = unstable(1, 1, taken=2)
    item.truncate_and_append([entry(2, 6)], 1)
    assert not item.stable_to(1, 6)
    item.take()
    assert not item.stable_to(1, 6)
    assert item.stable_to(2, 6)
    assert marks(item) == (7, 2, 7, [])


def test_a_completion_beside_a_snapshot_leaves_the_snapshot() -> None:
    item = unstable()
    item.restore(SNAPSHOT)
    item.take_snapshot()
    item.truncate_and_append([entry(1, 5), entry(1, 6)], 1)
    item.take()
    assert not item.stable_to(1, 4)
    assert item.stable_to(1, 5)
    assert item.snapshot == SNAPSHOT
    assert marks(item) == (6, 1, 7, [6])


@pytest.mark.parametrize(("index", "is_gone"), [(3, False), (4, True), (5, False)])
def test_only_its_own_completion_drops_a_snapshot(index: int, is_gone: bool) -> None:
    item = unstable()
    item.restore(SNAPSHOT)
    item.take_snapshot()
    item.stable_snapshot_to(index)
    assert (item.snapshot is None) is is_gone
    assert item.is_snapshot_in_progress is not is_gone
    assert item.offset == 5


def test_a_completion_without_a_snapshot_changes_nothing() -> None:
    item = unstable(1)
    item.stable_snapshot_to(4)
    assert item.snapshot is None
    assert marks(item) == (5, 1, 5, [5])


# ---- restoring ---------------------------------------------------------------------------------


def test_a_snapshot_replaces_everything() -> None:
    item = unstable(1, 1, taken=1)
    item.snapshot = SNAPSHOT
    item.is_snapshot_in_progress = True
    newer = Snapshot(6, 2, THREE)
    item.restore(newer)
    assert marks(item) == (7, 2, 7, [])
    assert item.snapshot == newer
    assert not item.is_snapshot_in_progress
    assert item.take() == []
    assert item.take_snapshot() == newer


def test_a_late_completion_does_not_drop_the_newer_snapshot() -> None:
    item = unstable()
    item.restore(SNAPSHOT)
    item.take_snapshot()
    newer = Snapshot(6, 2, THREE)
    item.restore(newer)
    item.stable_snapshot_to(4)
    assert item.snapshot == newer
    assert item.take_snapshot() == newer
    item.stable_snapshot_to(6)
    assert item.snapshot is None


# ---- truncating --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taken", "new", "entries", "offset", "in_progress"),
    [
        # Append to the end.
        (0, [(2, 7)], [(1, 5), (1, 6), (2, 7)], 5, 5),
        (1, [(2, 7), (2, 8)], [(1, 5), (1, 6), (2, 7), (2, 8)], 5, 6),
        (2, [(2, 7)], [(1, 5), (1, 6), (2, 7)], 5, 7),
        # Replace all of it, and perhaps what is durable.
        (0, [(2, 5), (2, 6)], [(2, 5), (2, 6)], 5, 5),
        (0, [(2, 4), (2, 5)], [(2, 4), (2, 5)], 4, 4),
        (1, [(2, 5)], [(2, 5)], 5, 5),
        (2, [(2, 3)], [(2, 3)], 3, 3),
        # Truncate, and append.
        (0, [(2, 6)], [(1, 5), (2, 6)], 5, 5),
        (1, [(2, 6), (2, 7)], [(1, 5), (2, 6), (2, 7)], 5, 6),
        (2, [(2, 6)], [(1, 5), (2, 6)], 5, 6),
    ],
)
def test_append_replaces_everything_from_its_first_entry_on(
    taken: int,
    new: list[tuple[int, int]],
    entries: list[tuple[int, int]],
    offset: int,
    in_progress: int,
) -> None:
    item = unstable(1, 1, previous_term=1, taken=taken)
    item.truncate_and_append([entry(term, index) for term, index in new], 9)
    assert [(e.term, e.index) for e in item.entries] == entries
    assert (item.offset, item.in_progress) == (offset, in_progress)
    assert item.previous_term == (9 if new[0][1] <= 5 else 1)
    assert [e.index for e in item.take()] == [i for _, i in entries if i >= in_progress]


def test_an_append_to_an_empty_tail_keeps_the_term_before_it() -> None:
    item = unstable(previous_term=3)
    item.truncate_and_append([entry(4, 5)], 9)
    assert marks(item) == (5, 3, 5, [5])


def test_appended_sequences_are_copied() -> None:
    item = unstable()
    new = [entry(1, 4)]
    item.truncate_and_append(new, 1)
    item.truncate_and_append([entry(1, 5)], 1)
    assert new == [entry(1, 4)]


@pytest.mark.parametrize("first", [8, 9])
def test_a_gap_is_refused(first: int) -> None:
    item = unstable(1, 1)
    with pytest.raises(
        InvariantError, match=f"missing log entry: the log ends at 6, append at {first}"
    ):
        item.truncate_and_append([entry(2, first)], 1)
    assert marks(item) == (5, 1, 5, [5, 6])


@given(
    st.lists(st.tuples(st.sampled_from("atsx"), st.integers(0, 6), st.integers(1, 3)), max_size=40)
)
def test_the_tail_and_what_was_stored_equal_the_whole_log(
    steps: list[tuple[str, int, int]],
) -> None:
    """A model of storage that writes what it is given in order, completions coming late."""
    item = Unstable(1, 0)
    log: list[Entry] = []
    stored: list[Entry] = []
    term = 1
    writes: list[tuple[int, list[Entry], int, int]] = []
    for action, back, count in steps:
        if action == "x":
            term += 1
            writes.clear()  # what completes now was asked for in an earlier term, and is ignored
        if action in "ax":
            first = len(log) + 1 - (min(back, len(log)) if action == "x" else 0)
            new = [entry(term, first + i) for i in range(count)]
            item.truncate_and_append(new, log[first - 2].term if first > 1 else 0)
            log[first - 1 :] = new
        elif action == "t":
            taken = item.take()
            if taken:
                stored[taken[0].index - 1 :] = taken
                writes.append((term, taken, taken[-1].term, taken[-1].index))
        elif writes:
            _, _, last_term, last_index = writes.pop(0)
            assert item.stable_to(last_term, last_index)
            assert item.offset == last_index + 1
        assert item.entries == log[item.offset - 1 :]
        assert item.offset <= item.in_progress <= len(log) + 1
        assert item.previous_term == (log[item.offset - 2].term if item.offset > 1 else 0)
        assert stored[: item.offset - 1] == log[: item.offset - 1]
