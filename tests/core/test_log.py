"""The log across storage and memory: reading, searching, appending, committing, opening."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core import (
    Compacted,
    Entry,
    InvariantError,
    MemoryStorage,
    Snapshot,
    SnapshotUnavailable,
    Unavailable,
    entry_bytes,
)
from rafter_core.log import RaftLog
from tests.core.support import THREE, entry, log_of

LIMIT = 1 << 20
SIZE = entry_bytes(entry(1, 1))


def raft_log(
    *stored: int, unstable: tuple[int, ...] = (), commit: int = 0, first: int = 1
) -> RaftLog:
    """Return a log of these terms; `first` > 1 leaves a snapshot of term 1 before it."""
    storage = MemoryStorage(THREE)
    if first > 1:
        storage.apply_snapshot(Snapshot(first - 1, 1, THREE))
    storage.append([entry(term, first + i) for i, term in enumerate(stored)])
    log = RaftLog(storage, commit, first - 1, LIMIT)
    log.append([entry(term, log.last_index + 1 + i) for i, term in enumerate(unstable)])
    return log


def terms(log: RaftLog) -> list[int]:
    return [log.term(index) for index in range(log.first_index, log.last_index + 1)]


def indexes(entries: Sequence[Entry]) -> list[int]:
    return [item.index for item in entries]


# ---- terms -------------------------------------------------------------------------------------


def test_terms_are_read_across_storage_and_memory() -> None:
    log = raft_log(1, 2, unstable=(3, 4))
    assert terms(log) == [1, 2, 3, 4]
    assert (log.term(0), log.last_term, log.last_index, log.stable_index) == (0, 4, 4, 2)
    with pytest.raises(Unavailable, match="index 5 is beyond the last index 4"):
        log.term(5)


def test_the_ends_of_an_empty_log() -> None:
    log = raft_log()
    assert (log.first_index, log.last_index, log.last_term, log.stable_index) == (1, 0, 0, 0)
    assert (log.term(0), log.committed, log.applied, log.applying) == (0, 0, 0, 0)
    assert log.matches(0, 0)
    assert not log.matches(0, 1)


def test_terms_behind_a_compacted_part() -> None:
    log = raft_log(5, 6, unstable=(7,), first=101)
    assert (log.first_index, log.last_index, log.last_term) == (101, 103, 7)
    with pytest.raises(Compacted, match="index 99 is before the first index 101"):
        log.term(99)
    assert [log.term(index) for index in range(100, 104)] == [1, 5, 6, 7]
    with pytest.raises(Unavailable):
        log.term(104)


def test_the_last_term_of_a_stored_or_compacted_log_is_known() -> None:
    assert raft_log(1, 4).last_term == 4
    assert raft_log(first=101).last_term == 1


def test_an_unstable_snapshot_hides_the_stored_log() -> None:
    log = raft_log(1, 1, first=101)
    log.restore(Snapshot(105, 3, THREE))
    assert (log.first_index, log.last_index, log.last_term) == (106, 105, 3)
    assert log.term(105) == 3
    for index in (100, 101, 104):
        with pytest.raises(Compacted, match=f"index {index} is before the snapshot at 105"):
            log.term(index)
    with pytest.raises(Unavailable):
        log.term(106)
    log.append([entry(4, 106)])
    assert (log.first_index, log.term(106)) == (106, 4)
    assert indexes(log.slice(106, 107, LIMIT)) == [106]
    with pytest.raises(Compacted, match="index 105 is before the snapshot at 105"):
        log.slice(105, 107, LIMIT)


@pytest.mark.parametrize(
    ("term", "index", "expected"),
    [(1, 1, True), (2, 1, False), (3, 3, True), (1, 3, False), (3, 4, False), (0, 0, True)],
)
def test_matching_needs_the_term_at_the_index(term: int, index: int, expected: bool) -> None:
    assert raft_log(1, 2, unstable=(3,)).matches(term, index) is expected


def test_nothing_matches_in_the_compacted_part() -> None:
    log = raft_log(1, first=3)
    assert not log.matches(1, 1)
    assert log.matches(1, 2)


@pytest.mark.parametrize(
    ("term", "index", "expected"),
    [
        (2, 9, False), (3, 2, False), (3, 3, True), (3, 4, True), (4, 1, True), (4, 3, True),
        (4, 4, True), (2, 2, False), (2, 3, False), (2, 4, False),
    ],
)  # fmt: skip
def test_up_to_date_compares_term_then_index(term: int, index: int, expected: bool) -> None:
    assert raft_log(1, 2, unstable=(3,)).is_up_to_date(term, index) is expected


# ---- slices ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "bytes_max", "expected"),
    [
        (1, 5, LIMIT, [1, 2, 3, 4]),
        (1, 3, LIMIT, [1, 2]),
        (2, 3, LIMIT, [2]),
        (2, 4, LIMIT, [2, 3]),
        (3, 5, LIMIT, [3, 4]),
        (3, 4, LIMIT, [3]),
        (4, 5, LIMIT, [4]),
        # Limits within storage, at the border, across it, and within memory.
        (1, 5, 0, [1]),
        (1, 5, SIZE, [1]),
        (1, 5, 2 * SIZE - 1, [1]),
        (1, 5, 2 * SIZE, [1, 2]),
        (1, 5, 3 * SIZE - 1, [1, 2]),
        (1, 5, 3 * SIZE, [1, 2, 3]),
        (1, 5, 4 * SIZE - 1, [1, 2, 3]),
        (1, 5, 4 * SIZE, [1, 2, 3, 4]),
        (2, 5, 2 * SIZE, [2, 3]),
        (2, 5, SIZE, [2]),
        (3, 5, 1, [3]),
        (3, 5, 2 * SIZE - 1, [3]),
        (3, 5, 2 * SIZE, [3, 4]),
    ],
)
def test_a_slice_spans_storage_and_memory_within_the_limit(
    low: int, high: int, bytes_max: int, expected: list[int]
) -> None:
    log = raft_log(1, 1, unstable=(1, 1))
    assert indexes(log.slice(low, high, bytes_max)) == expected


@pytest.mark.parametrize(("low", "high"), [(1, 6), (3, 3), (4, 3), (5, 5), (5, 6), (6, 7)])
def test_a_slice_out_of_bounds_is_refused(low: int, high: int) -> None:
    with pytest.raises(InvariantError, match=rf"slice \[{low}, {high}\) is out of bounds, last 4"):
        raft_log(1, 1, unstable=(1, 1)).slice(low, high, LIMIT)


def test_a_slice_of_the_compacted_part_says_so() -> None:
    log = raft_log(1, first=3)
    with pytest.raises(Compacted, match="index 2 is before the first index 3"):
        log.slice(2, 4, LIMIT)
    assert indexes(log.slice(3, 4, LIMIT)) == [3]


class ShortStorage(MemoryStorage):
    """Returns one entry at a time, as any storage may, and counts how often it is asked."""

    calls = 0

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        self.calls += 1
        return super().entries(low, high, bytes_max)[:1]


def test_a_slice_has_no_hole_where_storage_returned_less() -> None:
    storage = ShortStorage(THREE)
    storage.append(log_of(1, 1))
    log = RaftLog(storage, 0, 0, LIMIT)
    log.append([entry(1, 3)])
    assert indexes(log.slice(1, 4, LIMIT)) == [1]
    assert indexes(log.slice(2, 4, LIMIT)) == [2, 3]


class LyingStorage(MemoryStorage):
    """Returns other entries than asked for, as a broken index on disk would."""

    answer: list[Entry]

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ([], r"storage returned other entries than \[1, 4\)"),
        ([entry(1, 2)], r"storage returned other entries than \[1, 4\)"),
        ([entry(1, 0), entry(1, 1)], r"storage returned other entries than \[1, 4\)"),
        ([entry(1, 1), entry(1, 3)], r"storage returned other entries than \[1, 4\)"),
        ([entry(1, i) for i in range(1, 5)], r"storage returned more entries than \[1, 4\)"),
    ],
)
def test_wrong_answers_of_storage_stop_the_shard(answer: list[Entry], text: str) -> None:
    storage = LyingStorage(THREE)
    storage.append(log_of(1, 1, 1))
    storage.answer = answer
    log = RaftLog(storage, 3, 0, LIMIT)
    with pytest.raises(InvariantError, match=text):
        log.slice(1, 4, LIMIT)
    storage.answer = log_of(1, 1, 1)
    assert log.slice(1, 4, LIMIT) == log_of(1, 1, 1)


def test_missing_stored_entries_stop_the_shard() -> None:
    class Forgetful(MemoryStorage):
        def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
            raise Unavailable("gone")

    storage = Forgetful(THREE)
    storage.append(log_of(1))
    with pytest.raises(InvariantError, match=r"entries \[1, 2\) must be in storage: gone"):
        RaftLog(storage, 1, 0, LIMIT).slice(1, 2, LIMIT)


@pytest.mark.parametrize(
    ("page_bytes", "expected"),
    [
        (0, [[2], [3], [4], [5]]),
        (SIZE, [[2], [3], [4], [5]]),
        (2 * SIZE, [[2, 3], [4, 5]]),
        (3 * SIZE, [[2, 3, 4], [5]]),
        (LIMIT, [[2, 3, 4, 5]]),
    ],
)
def test_a_scan_goes_by_pages(page_bytes: int, expected: list[list[int]]) -> None:
    log = raft_log(1, 1, 1, unstable=(1, 1, 1))
    assert [indexes(page) for page in log.scan(2, 6, page_bytes)] == expected


def test_a_scan_of_nothing_yields_nothing() -> None:
    log = raft_log(1, 1)
    assert list(log.scan(3, 3, LIMIT)) == []
    assert list(log.scan(3, 2, LIMIT)) == []


def test_a_scan_reads_no_further_than_it_is_followed() -> None:
    storage = ShortStorage(THREE)
    storage.append(log_of(1, 1, 1))
    pages = RaftLog(storage, 0, 0, LIMIT).scan(1, 4, LIMIT)
    assert indexes(next(pages)) == [1]
    assert storage.calls == 1
    assert indexes(next(pages)) == [2]
    assert storage.calls == 2


def test_a_scan_of_the_compacted_part_says_so() -> None:
    with pytest.raises(Compacted):
        list(raft_log(1, 1, first=3).scan(1, 5, LIMIT))


# ---- searching ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "term", "expected"),
    [
        (6, 9, (6, 5)),
        (6, 5, (6, 5)),
        (6, 4, (4, 4)),
        (6, 3, (2, 2)),
        (6, 2, (2, 2)),
        (4, 5, (4, 4)),
        (3, 3, (2, 2)),
        (1, 2, (1, 2)),
        (5, 1, (0, 0)),
        (0, 0, (0, 0)),
        (0, 9, (0, 0)),
        (7, 5, (7, 0)),
        (99, 5, (99, 0)),
    ],
)
def test_the_conflict_search_skips_whole_terms(
    index: int, term: int, expected: tuple[int, int]
) -> None:
    assert raft_log(2, 2, 4, unstable=(4, 5, 5)).find_conflict_by_term(index, term) == expected


@pytest.mark.parametrize(
    ("index", "term", "expected"),
    [(4, 6, (4, 5)), (4, 3, (2, 1)), (3, 1, (2, 1)), (4, 0, (1, 0)), (1, 5, (1, 0))],
)
def test_the_conflict_search_stops_at_the_compacted_part(
    index: int, term: int, expected: tuple[int, int]
) -> None:
    assert raft_log(4, 5, first=3).find_conflict_by_term(index, term) == expected


# ---- appending ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "index", "new", "commit", "matched", "committed", "expected_terms"),
    [
        # The entry before is not what it should be, or missing.
        (2, 3, [], 3, None, 1, [1, 2, 3]),
        (2, 3, [(4, 4)], 3, None, 1, [1, 2, 3]),
        (3, 4, [(4, 5)], 4, None, 1, [1, 2, 3]),
        # Nothing new: the commit index goes as far as was verified, and never back.
        (3, 3, [], 2, 3, 2, [1, 2, 3]),
        (3, 3, [], 3, 3, 3, [1, 2, 3]),
        (3, 3, [], 4, 3, 3, [1, 2, 3]),
        (2, 2, [], 3, 2, 2, [1, 2, 3]),
        (3, 3, [], 0, 3, 1, [1, 2, 3]),
        (0, 0, [], 3, 0, 1, [1, 2, 3]),
        # Entries after the end.
        (3, 3, [(4, 4)], 3, 4, 3, [1, 2, 3, 4]),
        (3, 3, [(4, 4)], 4, 4, 4, [1, 2, 3, 4]),
        (3, 3, [(4, 4)], 5, 4, 4, [1, 2, 3, 4]),
        (3, 3, [(4, 4), (4, 5)], 5, 5, 5, [1, 2, 3, 4, 4]),
        # Entries that are here already are not cut.
        (0, 0, [(1, 1)], 0, 1, 1, [1, 2, 3]),
        (1, 1, [(2, 2)], 3, 2, 2, [1, 2, 3]),
        (0, 0, [(1, 1), (2, 2), (3, 3)], 3, 3, 3, [1, 2, 3]),
        (1, 1, [(2, 2), (3, 3), (3, 4)], 4, 4, 4, [1, 2, 3, 3]),
        # A conflict cuts.
        (2, 2, [(4, 3)], 3, 3, 3, [1, 2, 4]),
        (1, 1, [(4, 2)], 1, 2, 1, [1, 4]),
        (1, 1, [(4, 2)], 3, 2, 2, [1, 4]),
        (1, 1, [(4, 2), (4, 3)], 3, 3, 3, [1, 4, 4]),
        (1, 1, [(2, 2), (4, 3), (4, 4)], 1, 4, 1, [1, 2, 4, 4]),
    ],
)
@pytest.mark.parametrize("stored", [0, 1, 2, 3])
def test_append_of_a_leader(
    stored: int,
    term: int,
    index: int,
    new: list[tuple[int, int]],
    commit: int,
    matched: int | None,
    committed: int,
    expected_terms: list[int],
) -> None:
    before = (1, 2, 3)
    log = raft_log(*before[:stored], unstable=before[stored:])
    log.commit_to(1)
    assert log.maybe_append(term, index, [entry(t, i) for t, i in new], commit) == matched
    assert terms(log) == expected_terms
    assert (log.committed, log.last_index) == (committed, len(expected_terms))
    assert log.last_term == expected_terms[-1]
    for position in range(1, log.last_index + 1):
        low = log.slice(position, position + 1, LIMIT)
        assert low == [entry(expected_terms[position - 1], position)]


def test_a_conflict_replaces_the_rest_even_of_the_stored_log() -> None:
    log = raft_log(1, 1, 1, unstable=(1,))
    assert log.maybe_append(1, 1, [entry(1, 2), entry(2, 3)], 0) == 3
    assert terms(log) == [1, 1, 2]
    assert (log.stable_index, log.unstable.previous_term) == (2, 1)
    assert log.unstable.take() == [entry(2, 3)]
    assert indexes(log.slice(1, 4, LIMIT)) == [1, 2, 3]


def test_the_term_before_a_conflict_is_that_of_the_entry_before_it() -> None:
    log = raft_log(1, 2, 2, 2)
    assert log.maybe_append(1, 1, [entry(2, 2), entry(2, 3), entry(5, 4)], 0) == 4
    assert log.unstable.previous_term == 2
    log = raft_log(1, 2, 2, 2)
    assert log.maybe_append(1, 1, [entry(5, 2)], 0) == 2
    assert log.unstable.previous_term == 1


@pytest.mark.parametrize("commit", [2, 3])
def test_a_conflict_with_a_committed_entry_stops_the_shard(commit: int) -> None:
    log = raft_log(1, 1, 1, commit=commit)
    with pytest.raises(
        InvariantError,
        match=rf"entry 2 conflicts with a committed entry \(committed {commit}\)",
    ):
        log.maybe_append(1, 1, [entry(2, 2)], 0)
    assert terms(log) == [1, 1, 1]


def test_a_conflict_just_behind_the_commit_index_is_replaced() -> None:
    log = raft_log(1, 1, 1, commit=2)
    assert log.maybe_append(1, 1, [entry(1, 2), entry(2, 3)], 3) == 3
    assert (terms(log), log.committed) == ([1, 1, 2], 3)


@pytest.mark.parametrize(("index", "expected"), [(0, 2), (1, 2), (2, 2), (3, 3), (4, 4)])
def test_commit_never_goes_back(index: int, expected: int) -> None:
    log = raft_log(1, 1, 1, unstable=(1,), commit=2)
    log.commit_to(index)
    assert log.committed == expected


def test_commit_never_goes_beyond_the_log() -> None:
    log = raft_log(1, 1, unstable=(1,), commit=2)
    with pytest.raises(
        InvariantError,
        match="commit index 4 is beyond the last index 3: the log was corrupted, truncated or lost",
    ):
        log.commit_to(4)
    assert log.committed == 2


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


# ---- completions and compaction ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "index", "stable"), [(1, 1, 1), (2, 2, 2), (2, 1, 0), (1, 2, 0), (1, 3, 0)]
)
def test_the_durable_part_grows_by_completions_that_fit(term: int, index: int, stable: int) -> None:
    log = raft_log(unstable=(1, 2))
    log.unstable.take()
    log.unstable.stable_to(term, index)
    assert log.stable_index == stable


@pytest.mark.parametrize(
    ("term", "index", "stable"),
    [(2, 6, 6), (3, 6, 5), (2, 5, 5), (2, 4, 5), (3, 5, 5), (2, 7, 5)],
)
def test_completions_behind_a_snapshot(term: int, index: int, stable: int) -> None:
    log = raft_log(first=6, unstable=(2,))
    log.unstable.take()
    log.unstable.stable_to(term, index)
    assert log.stable_index == stable


def test_compaction_changes_nothing_behind_it() -> None:
    storage = MemoryStorage(THREE)
    storage.append([entry(i, i) for i in range(1, 76)])
    log = RaftLog(storage, 75, 0, LIMIT)
    log.append([entry(i, i) for i in range(76, 101)])
    log.commit_to(100)
    log.take_committed()
    log.applied_to(75)
    storage.compact(50)
    assert (log.first_index, log.last_index) == (51, 100)
    assert [log.term(index) for index in range(50, 101)] == list(range(50, 101))
    assert all(log.matches(index, index) for index in range(50, 101))
    assert not log.matches(49, 49)
    assert indexes(log.unstable.take()) == list(range(76, 101))
    log.append([entry(100, 101)])
    assert log.last_index == 101
    assert len(log.slice(51, 102, LIMIT)) == 51
    with pytest.raises(Compacted):
        log.slice(50, 102, LIMIT)


@pytest.mark.parametrize("indexes_compacted", [(300, 500, 800, 900), (300,), (1000,)])
def test_what_compaction_leaves(indexes_compacted: tuple[int, ...]) -> None:
    storage = MemoryStorage(THREE)
    storage.append([entry(1, i) for i in range(1, 1001)])
    log = RaftLog(storage, 1000, 1000, LIMIT)
    for index in indexes_compacted:
        storage.compact(index)
        assert log.first_index == index + 1
        assert log.last_index == 1000
        assert len(list(log.scan(index + 1, 1001, LIMIT))) == (index < 1000)


# ---- opening and restoring ---------------------------------------------------------------------


def test_restoring_starts_behind_the_snapshot() -> None:
    log = raft_log(1, 1, unstable=(1,))
    snapshot = Snapshot(1000, 7, THREE)
    log.restore(snapshot)
    assert (log.first_index, log.last_index, log.committed) == (1001, 1000, 1000)
    assert (log.unstable.offset, log.stable_index, log.last_term) == (1001, 1000, 7)
    assert log.term(1000) == 7
    assert log.snapshot() is snapshot
    assert (log.applied, log.applying) == (0, 0)


def test_a_log_behind_a_stored_snapshot_opens_there() -> None:
    log = raft_log(first=1001)
    assert (log.first_index, log.last_index, log.last_term) == (1001, 1000, 1)
    assert (log.committed, log.applied, log.applying, log.unstable.offset) == (
        1000, 1000, 1000, 1001,
    )  # fmt: skip


def test_the_snapshot_to_send_comes_from_storage_unless_a_newer_one_was_received() -> None:
    log = raft_log(first=5)
    assert log.snapshot() == Snapshot(4, 1, THREE)
    log.restore(Snapshot(9, 1, THREE))
    assert log.snapshot() == Snapshot(9, 1, THREE)
    with pytest.raises(SnapshotUnavailable):
        raft_log(1).snapshot()


@pytest.mark.parametrize(("commit", "applied"), [(2, 0), (0, 2), (1, 2)])
def test_a_log_that_lost_committed_entries_does_not_open(commit: int, applied: int) -> None:
    storage = MemoryStorage(THREE)
    storage.append(log_of(1))
    with pytest.raises(
        InvariantError,
        match="commit or applied index 2 is beyond the last stored index 1: "
        "the log was truncated or lost",
    ):
        RaftLog(storage, commit, applied, LIMIT)


def test_a_machine_behind_the_log_does_not_open() -> None:
    storage = MemoryStorage(THREE)
    storage.append(log_of(1, 1, 1))
    storage.compact(2)
    with pytest.raises(
        InvariantError,
        match="applied index 1 is before the first stored index 3: "
        "the entries between them are gone",
    ):
        RaftLog(storage, 3, 1, LIMIT)
    assert RaftLog(storage, 3, 2, LIMIT).applied == 2


@pytest.mark.parametrize(
    ("commit", "applied", "expected"), [(1, 3, 3), (3, 1, 3), (0, 0, 0), (2, 2, 2)]
)
def test_what_a_durable_machine_applied_was_committed(
    commit: int, applied: int, expected: int
) -> None:
    storage = MemoryStorage(THREE)
    storage.append(log_of(1, 1, 1))
    log = RaftLog(storage, commit, applied, LIMIT)
    assert (log.committed, log.applied, log.applying) == (expected, applied, applied)
