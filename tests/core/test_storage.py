"""What LogStorage means, as a suite for any implementation; here for the one in memory."""

from __future__ import annotations

import pytest

from rafter_core import (
    Compacted,
    HardState,
    LogStorage,
    MemoryStorage,
    Snapshot,
    SnapshotUnavailable,
    Unavailable,
    entry_bytes,
)
from tests.core.support import THREE, entry, log_of

SIZE = entry_bytes(entry(3, 6))


@pytest.fixture(name="stored")
def fixture_stored() -> LogStorage:
    """Return a storage with entries 3..6 of terms 2, 2, 3, 3, compacted up to 2 of term 1."""
    storage = MemoryStorage(THREE)
    storage.append(log_of(1, 1, 2, 2, 3, 3))
    storage.create_snapshot(4, THREE, b"data")
    storage.compact(2)
    storage.set_hard_state(HardState(3, 1, 4))
    return storage


def test_bounds_are_inclusive(stored: LogStorage) -> None:
    assert (stored.first_index(), stored.last_index()) == (3, 6)


def test_initial_state_is_what_was_stored(stored: LogStorage) -> None:
    assert stored.initial_state() == (HardState(3, 1, 4), THREE)


def test_term_is_known_from_one_before_the_first_to_the_last(stored: LogStorage) -> None:
    assert [stored.term(index) for index in range(2, 7)] == [1, 2, 2, 3, 3]
    with pytest.raises(Compacted):
        stored.term(1)
    with pytest.raises(Compacted):
        stored.term(0)
    with pytest.raises(Unavailable):
        stored.term(7)


@pytest.mark.parametrize(
    ("low", "high", "bytes_max", "expected"),
    [
        (3, 4, 1 << 20, [3]),
        (3, 6, 1 << 20, [3, 4, 5]),
        (3, 7, 1 << 20, [3, 4, 5, 6]),
        (6, 7, 1 << 20, [6]),
        (3, 7, 0, [3]),
        (3, 7, 2 * SIZE - 1, [3]),
        (3, 7, 2 * SIZE, [3, 4]),
        (3, 7, 3 * SIZE - 1, [3, 4]),
        (3, 7, 4 * SIZE - 1, [3, 4, 5]),
        (3, 7, 4 * SIZE, [3, 4, 5, 6]),
        (4, 6, SIZE + 1, [4]),
    ],
)
def test_entries_are_half_open_and_bounded(
    stored: LogStorage, low: int, high: int, bytes_max: int, expected: list[int]
) -> None:
    assert [e.index for e in stored.entries(low, high, bytes_max)] == expected


def test_entries_outside_are_refused(stored: LogStorage) -> None:
    with pytest.raises(Compacted):
        stored.entries(2, 4, 100)
    with pytest.raises(Compacted):
        stored.entries(2, 99, 100)
    with pytest.raises(Unavailable):
        stored.entries(5, 8, 100)


def test_the_snapshot_reaches_the_log(stored: LogStorage) -> None:
    snapshot = stored.snapshot()
    assert snapshot == Snapshot(4, 2, THREE, b"data")
    assert snapshot.index >= stored.first_index() - 1


def test_an_empty_log_starts_at_one() -> None:
    empty: LogStorage = MemoryStorage(THREE)
    assert (empty.first_index(), empty.last_index(), empty.term(0)) == (1, 0, 0)
    assert empty.initial_state() == (HardState(), THREE)
    with pytest.raises(SnapshotUnavailable):
        empty.snapshot()
    with pytest.raises(Unavailable):
        empty.entries(1, 2, 100)
