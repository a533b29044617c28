from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core import (
    ENTRY_OVERHEAD_BYTES,
    Compacted,
    Entry,
    InvariantError,
    MemoryStorage,
    Unavailable,
)
from rafter_core.log import RaftLog
from tests.core.support import THREE, entry, log_of

LIMIT = 1 << 20


def raft_log(
    *stored: int, unstable: tuple[int, ...] = (), commit: int = 0, limit: int = LIMIT
) -> RaftLog:
    storage = MemoryStorage(THREE)
    storage.append(log_of(*stored))
    log = RaftLog(storage, commit, 0, limit)
    for index, term in enumerate(unstable, len(stored) + 1):
        log.append(entry(term, index))
    return log


def terms(log: RaftLog) -> list[int]:
    return [log.term(index) for index in range(1, log.last_index + 1)]


def test_terms_are_read_across_storage_and_memory() -> None:
    log = raft_log(1, 2, unstable=(3, 4))
    assert terms(log) == [1, 2, 3, 4]
    assert (log.term(0), log.last_term, log.stable_index) == (0, 4, 2)
    with pytest.raises(Unavailable):
        log.term(5)


def test_slice_spans_storage_and_memory_within_the_limit() -> None:
    log = raft_log(1, 1, unstable=(1, 1))
    assert [e.index for e in log.slice(1, 5, LIMIT)] == [1, 2, 3, 4]
    assert [e.index for e in log.slice(2, 5, 2 * ENTRY_OVERHEAD_BYTES)] == [2, 3]
    assert [e.index for e in log.slice(1, 5, ENTRY_OVERHEAD_BYTES)] == [1]
    assert [e.index for e in log.slice(3, 5, 1)] == [3]
    assert [e.index for e in log.slice(1, 3, LIMIT)] == [1, 2]


@pytest.mark.parametrize(("low", "high"), [(1, 6), (3, 3), (4, 3)])
def test_slice_out_of_bounds_is_refused(low: int, high: int) -> None:
    with pytest.raises(InvariantError, match="out of bounds"):
        raft_log(1, 1, unstable=(1, 1)).slice(low, high, LIMIT)


def test_compacted_entries_are_reported_as_such() -> None:
    storage = MemoryStorage(THREE)
    storage.append(log_of(1, 1, 1))
    storage.compact(2)
    log = RaftLog(storage, 3, 2, LIMIT)
    assert log.first_index == 3
    with pytest.raises(Compacted):
        log.slice(2, 4, LIMIT)
    assert not log.matches(1, 1)


@pytest.mark.parametrize(
    ("term", "index", "expected"),
    [(2, 9, False), (3, 2, False), (3, 3, True), (3, 4, True), (4, 1, True)],
)
def test_up_to_date_compares_term_then_index(term: int, index: int, expected: bool) -> None:
    assert raft_log(1, 2, unstable=(3,)).is_up_to_date(term, index) is expected


@pytest.mark.parametrize(
    ("index", "term", "expected"),
    [
        (6, 5, (6, 5)),
        (6, 4, (4, 4)),
        (6, 3, (2, 2)),
        (6, 2, (2, 2)),
        (5, 1, (0, 0)),
        (6, 9, (6, 5)),
        (7, 5, (7, 0)),
    ],
)
def test_conflict_search_skips_whole_terms(
    index: int, term: int, expected: tuple[int, int]
) -> None:
    assert raft_log(2, 2, 4, unstable=(4, 5, 5)).find_conflict_by_term(index, term) == expected


def test_conflict_search_stops_at_the_compacted_part() -> None:
    storage = MemoryStorage(THREE)
    storage.append(log_of(3, 4, 5, 5))
    storage.compact(2)
    log = RaftLog(storage, 4, 2, LIMIT)
    assert log.find_conflict_by_term(4, 3) == (1, 0)


def test_append_after_a_missing_or_different_entry_is_refused() -> None:
    log = raft_log(1, 2)
    assert log.maybe_append(2, 3, [entry(2, 4)], 0) is None
    assert log.maybe_append(1, 2, [entry(2, 3)], 0) is None
    assert log.last_index == 2


def test_present_entries_are_never_cut_by_a_delayed_append() -> None:
    log = raft_log(1, 1, unstable=(1, 1))
    assert log.maybe_append(1, 1, [entry(1, 2)], 0) == 2
    assert log.maybe_append(1, 1, [], 0) == 1
    assert log.last_index == 4


def test_a_conflict_replaces_the_rest_even_of_the_stored_log() -> None:
    log = raft_log(1, 1, 1, unstable=(1,))
    assert log.maybe_append(1, 1, [entry(1, 2), entry(2, 3)], 0) == 3
    assert terms(log) == [1, 1, 2]
    assert log.stable_index == 2
    assert log.unstable.take() == [entry(2, 3)]


def test_a_conflict_with_a_committed_entry_stops_the_shard() -> None:
    log = raft_log(1, 1, 1, commit=2)
    with pytest.raises(InvariantError, match="entry 2 conflicts with a committed entry"):
        log.maybe_append(1, 1, [entry(2, 2)], 0)


def test_commit_advances_no_further_than_what_the_append_verified() -> None:
    log = raft_log(1, 1, 1, 1)
    assert log.maybe_append(1, 1, [entry(1, 2)], 4) == 2
    assert log.committed == 2


def test_commit_never_goes_back_nor_beyond_the_log() -> None:
    log = raft_log(1, 1, commit=2)
    log.commit_to(1)
    assert log.committed == 2
    with pytest.raises(InvariantError, match="commit index 3 is beyond the last index 2"):
        log.commit_to(3)


def test_only_durable_entries_are_handed_out() -> None:
    log = raft_log(1, unstable=(1, 1), commit=1)
    log.commit_to(3)
    assert [e.index for e in log.take_committed()] == [1]
    assert not log.has_committed()
    assert log.take_committed() == []


def test_entries_are_handed_out_once_within_the_budget() -> None:
    limit = 2 * ENTRY_OVERHEAD_BYTES
    log = raft_log(*[1] * 5, commit=5, limit=limit)
    assert [e.index for e in log.take_committed()] == [1, 2]
    assert not log.has_committed()
    assert log.take_committed() == []
    assert log.applied_to(1) == 0
    assert not log.has_committed()
    log.applied_to(2)
    assert [e.index for e in log.take_committed()] == [3, 4]
    log.applied_to(4)
    assert [e.index for e in log.take_committed()] == [5]


def test_applying_out_of_range_is_refused() -> None:
    log = raft_log(1, 1, commit=2)
    with pytest.raises(InvariantError, match="out of range"):
        log.applied_to(1)
    log.take_committed()
    log.applied_to(2)
    with pytest.raises(InvariantError, match="out of range"):
        log.applied_to(1)


def test_a_log_that_lost_committed_entries_does_not_open() -> None:
    with pytest.raises(InvariantError, match="truncated or lost"):
        raft_log(1, commit=2)


def test_a_machine_behind_the_log_does_not_open() -> None:
    storage = MemoryStorage(THREE)
    storage.append(log_of(1, 1, 1))
    storage.compact(2)
    with pytest.raises(InvariantError, match="the entries between them are gone"):
        RaftLog(storage, 3, 1, LIMIT)


def test_what_a_durable_machine_applied_was_committed() -> None:
    storage = MemoryStorage(THREE)
    storage.append(log_of(1, 1, 1))
    log = RaftLog(storage, 1, 3, LIMIT)
    assert (log.committed, log.applied) == (3, 3)


class LyingStorage(MemoryStorage):
    """Returns other entries than asked for, as a broken index on disk would."""

    answer: list[Entry]

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [[], [entry(1, 2)], [entry(1, 1), entry(1, 3)], [entry(1, i) for i in range(1, 5)]],
)
def test_wrong_answers_of_storage_stop_the_shard(answer: list[Entry]) -> None:
    storage = LyingStorage(THREE)
    storage.append(log_of(1, 1, 1))
    storage.answer = answer
    log = RaftLog(storage, 3, 0, LIMIT)
    with pytest.raises(InvariantError, match="storage returned"):
        log.take_committed()


def test_missing_stored_entries_stop_the_shard() -> None:
    class Forgetful(MemoryStorage):
        def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
            raise Unavailable("gone")

    storage = Forgetful(THREE)
    storage.append(log_of(1))
    with pytest.raises(InvariantError, match="must be in storage: gone"):
        RaftLog(storage, 1, 0, LIMIT).take_committed()


@given(st.data())
def test_appends_in_any_order_never_shorten_a_log_without_conflict(data: st.DataObject) -> None:
    """Any prefix, repetition and reordering of one leader's appends ends in its log."""
    leader = log_of(*sorted(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))))
    log = raft_log(*data.draw(st.lists(st.just(1), max_size=2)))
    if log.last_index and leader[0].term != 1:
        return
    longest = 0
    for _ in range(data.draw(st.integers(1, 12))):
        start = data.draw(st.integers(0, len(leader) - 1))
        end = data.draw(st.integers(start, len(leader)))
        previous = leader[start - 1].term if start else 0
        matched = log.maybe_append(previous, start, leader[start:end], end)
        if matched is not None:
            longest = max(longest, matched)
            assert log.committed <= max(longest, 1)
        assert log.last_index >= longest
        assert terms(log)[:longest] == [e.term for e in leader[:longest]]
