"""Handing out committed entries: which, how many at a time, and what waits for what."""

from __future__ import annotations

import pytest

from rafter_core import EntryKind, InvariantError, MemoryStorage, Snapshot, entry_bytes
from rafter_core.entries import Entry
from rafter_core.log import RaftLog
from tests.core.support import THREE, entry

LIMIT = 1 << 20
SIZE = entry_bytes(entry(1, 1))


def log_behind_snapshot(
    *,
    stored: int = 5,
    last: int = 6,
    commit: int = 5,
    limit: int = LIMIT,
    payload: bytes = b"",
    is_unstable_applied: bool = False,
) -> RaftLog:
    """Return a log with a snapshot at 3, entries up to `stored` in storage, and up to `last`."""
    storage = MemoryStorage(THREE)
    storage.apply_snapshot(Snapshot(3, 1, THREE))
    storage.append([entry(1, index, payload) for index in range(4, stored + 1)])
    log = RaftLog(storage, 3, 3, limit, is_unstable_applied=is_unstable_applied)
    log.append([entry(1, index, payload) for index in range(stored + 1, last + 1)])
    log.commit_to(commit)
    return log


def taken(log: RaftLog) -> list[int]:
    return [item.index for item in log.take_committed()]


@pytest.mark.parametrize(
    ("commit", "stored", "is_unstable_applied", "expected"),
    [
        (3, 6, False, []),
        (4, 6, False, [4]),
        (6, 6, False, [4, 5, 6]),
        (6, 5, False, [4, 5]),
        (6, 4, False, [4]),
        (6, 3, False, []),
        (5, 5, False, [4, 5]),
        (3, 3, True, []),
        (4, 3, True, [4]),
        (6, 3, True, [4, 5, 6]),
        (6, 5, True, [4, 5, 6]),
    ],
)
def test_in_the_asynchronous_mode_only_durable_entries_are_handed_out(
    commit: int, stored: int, is_unstable_applied: bool, expected: list[int]
) -> None:
    log = log_behind_snapshot(stored=stored, commit=commit, is_unstable_applied=is_unstable_applied)
    assert log.has_committed() is bool(expected)
    assert taken(log) == expected
    assert log.applying == (expected[-1] if expected else 3)
    assert log.applied == 3
    assert not log.has_committed()
    assert taken(log) == []


@pytest.mark.parametrize("is_unstable_applied", [False, True])
def test_nothing_is_handed_out_while_a_snapshot_waits_to_be_durable(
    is_unstable_applied: bool,
) -> None:
    log = log_behind_snapshot(is_unstable_applied=is_unstable_applied)
    log.restore(Snapshot(9, 2, THREE))
    log.append([entry(2, 10)])
    log.unstable.take()
    log.unstable.stable_to(2, 10)
    log.commit_to(10)
    assert not log.has_committed()
    assert taken(log) == []
    log.snapshot_stored(9)
    assert (log.applied, log.applying, log.unstable.snapshot) == (9, 9, None)
    assert log.has_committed()


def test_the_asynchronous_mode_is_the_usual_one() -> None:
    log = RaftLog(MemoryStorage(THREE), 0, 0, LIMIT)
    log.append([entry(1, 1)])
    log.commit_to(1)
    assert not log.has_committed()


def test_entries_that_become_durable_are_handed_out_then() -> None:
    log = log_behind_snapshot(stored=4, last=6, commit=6)
    assert taken(log) == [4]
    stored = log.unstable.take()
    assert [item.index for item in stored] == [5, 6]
    storage = log._storage
    assert isinstance(storage, MemoryStorage)
    storage.append(stored)
    log.unstable.stable_to(1, 6)
    assert log.has_committed()
    assert taken(log) == [5, 6]


# ---- the byte budget ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "batches"),
    [
        (1, [[4], [5], [6]]),
        (SIZE, [[4], [5], [6]]),
        (2 * SIZE - 1, [[4], [5], [6]]),
        (2 * SIZE, [[4, 5], [6]]),
        (3 * SIZE - 1, [[4, 5], [6]]),
        (3 * SIZE, [[4, 5, 6]]),
    ],
)
def test_entries_are_handed_out_once_within_the_budget(
    limit: int, batches: list[list[int]]
) -> None:
    log = log_behind_snapshot(stored=6, commit=6, limit=limit)
    for batch in batches:
        assert log.has_committed()
        assert taken(log) == batch
        assert not log.has_committed()
        assert taken(log) == []
        log.applied_to(batch[-1])
        assert log.applied == batch[-1]
    assert not log.has_committed()


def test_the_budget_counts_everything_that_is_not_applied_yet() -> None:
    log = log_behind_snapshot(stored=8, last=8, commit=4, limit=3 * SIZE)
    assert taken(log) == [4]
    log.commit_to(8)
    assert taken(log) == [5, 6]
    assert not log.has_committed()
    log.applied_to(4)
    assert log.has_committed()
    assert taken(log) == [7]
    log.applied_to(6)
    assert taken(log) == [8]


def test_a_batch_that_was_cut_short_waits_for_some_of_it_to_be_applied() -> None:
    """Room was left for a part of an entry: without waiting each batch would be a single one."""
    log = log_behind_snapshot(stored=6, commit=6, limit=3 * SIZE - 1)
    assert taken(log) == [4, 5]
    assert not log.has_committed()
    log.applied_to(4)
    assert log.has_committed()
    assert taken(log) == [6]


@pytest.mark.parametrize(
    ("limit", "is_paused"), [(2 * SIZE, True), (2 * SIZE + 1, False), (3 * SIZE, False)]
)
def test_an_exhausted_budget_pauses_even_if_nothing_was_cut(limit: int, is_paused: bool) -> None:
    log = log_behind_snapshot(stored=8, last=8, commit=5, limit=limit)
    assert taken(log) == [4, 5]
    log.commit_to(6)
    assert log.has_committed() is not is_paused
    assert taken(log) == ([] if is_paused else [6])


def test_applying_in_part_keeps_the_pause_of_an_exhausted_budget() -> None:
    log = log_behind_snapshot(stored=8, last=8, commit=8, limit=2 * SIZE)
    assert taken(log) == [4, 5]
    log.applied_to(4)
    assert log.applied == 4
    assert not log.has_committed()
    log.applied_to(5)
    assert taken(log) == [6, 7]


def test_one_entry_larger_than_the_budget_passes() -> None:
    log = log_behind_snapshot(stored=5, last=5, commit=5, limit=10, payload=bytes(100))
    assert taken(log) == [4]
    assert not log.has_committed()
    log.applied_to(4)
    assert taken(log) == [5]


# ---- applied -----------------------------------------------------------------------------------


def test_applying_frees_the_payload_bytes_of_whole_batches() -> None:
    log = log_behind_snapshot(stored=8, last=8, commit=5, payload=b"abc")
    assert taken(log) == [4, 5]
    log.commit_to(8)
    assert taken(log) == [6, 7, 8]
    assert log.applied_to(4) == 0
    assert log.applied_to(5) == 6
    assert log.applied_to(5) == 0
    assert log.applied_to(8) == 9
    assert log.applied_to(8) == 0


def test_applying_several_batches_at_once_frees_them_all() -> None:
    log = log_behind_snapshot(stored=8, last=8, commit=5, limit=6 * (SIZE + 4), payload=b"abc")
    assert taken(log) == [4, 5]
    log.commit_to(8)
    assert taken(log) == [6, 7, 8]
    assert log.applied_to(8) == 15
    assert log.applied == 8


def test_payload_bytes_are_counted_without_what_is_around_them() -> None:
    storage = MemoryStorage(THREE)
    storage.append([Entry(1, 1, EntryKind.CONFIG_CHANGE, b"abcd"), entry(1, 2), entry(1, 3, b"x")])
    log = RaftLog(storage, 3, 0, LIMIT)
    assert taken(log) == [1, 2, 3]
    assert log.applied_to(3) == 5


def test_applied_never_goes_back() -> None:
    log = log_behind_snapshot()
    assert taken(log) == [4, 5]
    log.applied_to(5)
    log.applied_to(4)
    assert log.applied == 5


@pytest.mark.parametrize("index", [4, 6])
def test_applying_beyond_what_was_handed_out_is_refused(index: int) -> None:
    log = log_behind_snapshot(commit=5)
    with pytest.raises(InvariantError, match=f"applied index {index} is beyond 3, handed out"):
        log.applied_to(index)
    assert log.applied == 3


def test_applying_exactly_what_was_handed_out_is_allowed() -> None:
    log = log_behind_snapshot(commit=5)
    assert log.applied_to(3) == 0
    log.take_committed()
    with pytest.raises(InvariantError, match="applied index 6 is beyond 5"):
        log.applied_to(6)
    log.applied_to(5)
    assert (log.applied, log.applying) == (5, 5)


# ---- snapshots overtake ------------------------------------------------------------------------


def test_a_stored_snapshot_moves_the_marks_forward_only() -> None:
    log = log_behind_snapshot()
    assert taken(log) == [4, 5]
    log.restore(Snapshot(9, 2, THREE))
    log.snapshot_stored(9)
    assert (log.applied, log.applying) == (9, 9)
    log.snapshot_stored(7)
    assert (log.applied, log.applying) == (9, 9)


def test_entries_may_still_be_applied_while_a_snapshot_arrives() -> None:
    """They were handed out before; their completion moves nothing once the snapshot is in."""
    log = log_behind_snapshot(payload=b"abc")
    assert taken(log) == [4, 5]
    log.restore(Snapshot(9, 2, THREE))
    assert log.applied_to(4) == 0
    assert (log.applied, log.applying) == (4, 5)
    log.snapshot_stored(9)
    assert (log.applied, log.applying) == (9, 9)
    assert log.applied_to(5) == 6
    assert (log.applied, log.applying) == (9, 9)


def test_a_snapshot_leaves_what_was_handed_out_behind_it() -> None:
    """A snapshot below `applying` is one that was taken in before entries went on behind it."""
    log = log_behind_snapshot(stored=8, last=8, commit=8)
    assert taken(log) == [4, 5, 6, 7, 8]
    log.snapshot_stored(6)
    assert (log.applied, log.applying) == (6, 8)
