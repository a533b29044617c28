"""The store in memory: writing, snapshots and compaction."""

from __future__ import annotations

import pytest

from rafter_core import (
    Compacted,
    Entry,
    HardState,
    InvariantError,
    Membership,
    MemoryStorage,
    Ready,
    Snapshot,
    SnapshotOutOfDate,
    SnapshotUnavailable,
    Unavailable,
)
from tests.core.support import THREE, entry, log_of

FOUR = Membership((1, 2, 3, 4))


def storage(*terms: int) -> MemoryStorage:
    item = MemoryStorage(THREE)
    item.append(log_of(*terms))
    return item


def storage_behind(index: int, *terms: int) -> MemoryStorage:
    """Return a storage whose log begins behind a snapshot."""
    item = MemoryStorage()
    item.apply_snapshot(Snapshot(index, index, THREE, b"image"))
    item.append([entry(term, index + 1 + i) for i, term in enumerate(terms)])
    return item


def log_in(item: MemoryStorage) -> list[Entry]:
    first, last = item.first_index(), item.last_index()
    return item.entries(first, last + 1, 1 << 20) if last >= first else []


def test_a_storage_without_a_configuration_waits_for_a_snapshot() -> None:
    assert MemoryStorage().initial_state() == (HardState(), Membership(()))


def test_the_hard_state_is_replaced() -> None:
    item = storage()
    item.set_hard_state(HardState(2, 1, 0))
    item.set_hard_state(HardState(3, 2, 1))
    assert item.initial_state() == (HardState(3, 2, 1), THREE)


# ---- appending ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ([], [(3, 4), (4, 5)]),
        ([(3, 4), (4, 5)], [(3, 4), (4, 5)]),
        ([(3, 4), (6, 5)], [(3, 4), (6, 5)]),
        ([(3, 4), (4, 5), (5, 6)], [(3, 4), (4, 5), (5, 6)]),
        # What is compacted is skipped, in whole or in part.
        ([(3, 2)], [(3, 4), (4, 5)]),
        ([(3, 2), (3, 3)], [(3, 4), (4, 5)]),
        ([(3, 3), (5, 4)], [(5, 4)]),
        ([(3, 2), (3, 3), (5, 4)], [(5, 4)]),
        # Conflicts cut.
        ([(5, 4)], [(5, 4)]),
        ([(6, 5)], [(3, 4), (6, 5)]),
        ([(5, 6)], [(3, 4), (4, 5), (5, 6)]),
    ],
)
def test_appending_replaces_from_the_first_entry_on(
    new: list[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    item = storage_behind(3, 3, 4)
    item.append([entry(term, index) for term, index in new])
    assert [(e.term, e.index) for e in log_in(item)] == expected
    assert (item.first_index(), item.last_index(), item.term(3)) == (4, expected[-1][1], 3)


def test_appending_beyond_the_end_is_refused() -> None:
    with pytest.raises(InvariantError, match="missing log entry: last is 1, append at 3"):
        storage(1).append([entry(1, 3)])
    with pytest.raises(InvariantError, match="missing log entry: last is 5, append at 7"):
        storage_behind(3, 3, 4).append([entry(4, 7)])


def test_what_was_returned_is_not_changed_by_later_appends() -> None:
    item = storage(1, 1)
    before = item.entries(1, 3, 1 << 20)
    item.append([entry(2, 1)])
    assert before == log_of(1, 1)


def test_what_is_asked_for_in_vain_is_named() -> None:
    item = storage_behind(3, 4, 5)
    with pytest.raises(Unavailable, match="index 7 is beyond the last index 5"):
        item.entries(4, 8, 1 << 20)
    with pytest.raises(Compacted, match="index 3 is before the first index 4"):
        item.entries(3, 8, 1 << 20)


# ---- compaction --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "first", "term", "length"), [(4, 5, 4, 2), (5, 6, 5, 1), (6, 7, 6, 0)]
)
def test_compaction_keeps_the_term_of_the_last_dropped_entry(
    index: int, first: int, term: int, length: int
) -> None:
    item = storage_behind(3, 4, 5, 6)
    item.compact(index)
    assert (item.first_index(), item.last_index()) == (first, 6)
    assert (item.term(index), len(log_in(item))) == (term, length)
    with pytest.raises(Compacted):
        item.term(index - 1)


def test_compacting_what_is_gone_or_not_there_is_refused() -> None:
    item = storage_behind(3, 4, 5)
    with pytest.raises(Compacted, match="index 2 is compacted already"):
        item.compact(2)
    with pytest.raises(Compacted, match="index 3 is compacted already"):
        item.compact(3)
    with pytest.raises(Unavailable, match="index 6 is beyond the last index 5"):
        item.compact(6)
    assert item.first_index() == 4


def test_compaction_leaves_the_snapshot_and_appending_goes_on() -> None:
    item = storage_behind(3, 4, 5)
    item.compact(5)
    item.append([entry(6, 6)])
    assert (item.first_index(), item.last_index(), item.snapshot().index) == (6, 6, 3)


# ---- snapshots ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("index", "term"), [(4, 4), (5, 5)])
def test_a_snapshot_is_made_of_an_index_in_the_log(index: int, term: int) -> None:
    item = storage_behind(3, 4, 5)
    made = item.create_snapshot(index, FOUR, b"new")
    assert made == Snapshot(index, term, FOUR, b"new") == item.snapshot()
    assert item.initial_state()[1] == FOUR
    assert (item.first_index(), item.last_index()) == (4, 5)


def test_a_snapshot_of_the_past_or_the_future_is_not_made() -> None:
    item = storage_behind(3, 4, 5)
    for index in (2, 3):
        with pytest.raises(SnapshotOutOfDate, match=f"snapshot {index} is not newer than 3"):
            item.create_snapshot(index, FOUR)
    with pytest.raises(Unavailable, match="index 6 is beyond the last index 5"):
        item.create_snapshot(6, FOUR)
    assert item.snapshot() == Snapshot(3, 3, THREE, b"image")
    assert item.create_snapshot(4, THREE).data == b""


def test_a_snapshot_of_what_is_compacted_cannot_be_made() -> None:
    item = storage(1, 1, 1)
    item.compact(2)
    with pytest.raises(Compacted):
        item.create_snapshot(1, THREE)


def test_there_is_no_snapshot_before_the_first() -> None:
    with pytest.raises(SnapshotUnavailable, match="no snapshot was made yet"):
        storage(1).snapshot()


@pytest.mark.parametrize("index", [4, 5, 9])
def test_a_received_snapshot_replaces_log_and_configuration(index: int) -> None:
    item = storage_behind(3, 4, 5)
    newer = Snapshot(index, 7, FOUR, b"newer")
    item.apply_snapshot(newer)
    assert item.snapshot() is newer
    assert item.initial_state()[1] == FOUR
    assert (item.first_index(), item.last_index(), item.term(index)) == (index + 1, index, 7)
    assert log_in(item) == []
    with pytest.raises(Compacted):
        item.term(index - 1)


@pytest.mark.parametrize("index", [2, 3])
def test_a_received_snapshot_that_is_no_newer_is_refused(index: int) -> None:
    item = storage_behind(3, 4)
    with pytest.raises(SnapshotOutOfDate, match=f"snapshot {index} is not newer than 3"):
        item.apply_snapshot(Snapshot(index, 3, FOUR))
    assert (item.snapshot().index, item.last_index()) == (3, 4)
    assert item.initial_state()[1] == THREE


def test_a_snapshot_of_index_zero_gives_an_empty_storage_its_configuration() -> None:
    item = MemoryStorage()
    item.apply_snapshot(Snapshot(0, 0, FOUR))
    assert item.initial_state() == (HardState(), FOUR)
    assert (item.first_index(), item.last_index()) == (1, 0)
    with pytest.raises(SnapshotUnavailable):
        item.snapshot()
    filled = storage(1)
    with pytest.raises(SnapshotOutOfDate):
        filled.apply_snapshot(Snapshot(0, 0, FOUR))


# ---- a Ready -----------------------------------------------------------------------------------


def ready(
    hard_state: HardState | None = None,
    snapshot: Snapshot | None = None,
    entries: list[Entry] | None = None,
) -> Ready:
    """Return a Ready with something to persist, and nothing else."""
    return Ready(
        node_id=1,
        number=1,
        soft_state=None,
        hard_state=hard_state,
        snapshot=snapshot,
        entries=entries or [],
        must_sync=True,
        messages=[],
        messages_after_sync=[],
        committed=[],
        read_states=[],
        term=3,
        last_term=3,
        last_index=1,
        responses=[],
    )


def test_store_takes_hard_state_and_entries_of_a_ready() -> None:
    item = storage()
    item.store(ready(HardState(3, 2, 0), None, log_of(3)))
    assert item.initial_state() == (HardState(3, 2, 0), THREE)
    assert log_in(item) == log_of(3)


def test_store_takes_a_snapshot_before_the_entries_behind_it() -> None:
    item = storage(1, 1)
    item.store(ready(None, Snapshot(7, 3, FOUR), [entry(3, 8)]))
    assert item.initial_state() == (HardState(), FOUR)
    assert (item.first_index(), log_in(item)) == (8, [entry(3, 8)])


def test_store_of_nothing_changes_nothing() -> None:
    item = storage(1, 1)
    item.set_hard_state(HardState(1, 1, 1))
    item.store(ready())
    assert item.initial_state() == (HardState(1, 1, 1), THREE)
    assert log_in(item) == log_of(1, 1)
