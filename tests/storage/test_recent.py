"""Tests of rafter_storage.recent."""

from hypothesis import given
from hypothesis import strategies as st

from rafter_core.entries import Entry
from rafter_storage.recent import ENTRY_OVERHEAD_BYTES, RecentEntries
from tests.storage.support import entries, entry


def held(recent: RecentEntries) -> list[Entry]:
    return recent.slice(recent.first_index, recent.first_index + len(recent))


def add(recent: RecentEntries, added: list[Entry]) -> None:
    recent.append(added, sum(len(e.payload) for e in added))


def test_appended_entries_are_held_in_order() -> None:
    recent = RecentEntries(1 << 20)
    add(recent, entries(1, 3))
    add(recent, entries(4, 5))
    assert recent.slice(2, 5) == entries(2, 4)


def test_overlap_drops_what_the_log_dropped() -> None:
    recent = RecentEntries(1 << 20)
    add(recent, entries(1, 5))
    add(recent, entries(3, 3, term=2))
    assert held(recent) == entries(1, 2) + entries(3, 3, term=2)


def test_overlap_from_before_the_cache_restarts_it() -> None:
    recent = RecentEntries(1 << 20, last_index=10)
    add(recent, entries(11, 15))
    add(recent, entries(4, 6, term=2))
    assert recent.first_index == 4
    assert held(recent) == entries(4, 6, term=2)


def test_bytes_are_bounded_and_the_newest_stay() -> None:
    one = len(b"x" * 100) + ENTRY_OVERHEAD_BYTES
    recent = RecentEntries(10 * one)
    for index in range(1, 1001):
        add(recent, [entry(index, payload=b"x" * 100)])
        assert len(recent) <= 10
    assert recent.first_index + len(recent) == 1001
    assert len(recent) >= 7


def test_no_append_lets_go_of_much_more_than_a_sixteenth() -> None:
    one = len(b"x" * 100) + ENTRY_OVERHEAD_BYTES
    recent = RecentEntries(160 * one)
    for index in range(1, 1001):
        before = len(recent)
        add(recent, [entry(index, payload=b"x" * 100)])
        assert before - len(recent) <= 160 // 16
    assert recent.first_index > 1


def test_the_newest_batch_stays_however_large() -> None:
    recent = RecentEntries(0)
    add(recent, entries(1, 3))
    newest = [entry(4), entry(5, payload=b"x" * 10_000)]
    add(recent, newest)
    assert held(recent) == newest


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 8)), max_size=40))
def test_cache_is_always_a_suffix_of_the_log_and_within_its_bound(
    steps: list[tuple[int, int]],
) -> None:
    bytes_max = 12 * (ENTRY_OVERHEAD_BYTES + 8)
    recent = RecentEntries(bytes_max)
    log: list[Entry] = []
    for term, (back, count) in enumerate(steps, 1):
        first = max(1, len(log) + 1 - back)
        added = entries(first, first + count - 1, term)
        log = log[: first - 1] + added
        add(recent, added)
        assert held(recent) == log[recent.first_index - 1 :]
        size = sum(len(e.payload) + ENTRY_OVERHEAD_BYTES for e in held(recent))
        assert size <= bytes_max
