"""Sizes of entries, byte limits, and the numbers that are written to disks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core import NO_NODE, NUMBER_MAX, Entry, EntryKind, HardState, entry_bytes, limit_bytes
from rafter_core.entries import entries_bytes, payloads_bytes
from tests.core.support import entry

NORMAL = EntryKind.NORMAL


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (Entry(0, 0, NORMAL, b""), 4),
        (Entry(1, 1, NORMAL, b""), 4),
        (Entry(127, 127, NORMAL, b""), 4),
        (Entry(128, 127, NORMAL, b""), 5),
        (Entry(127, 128, NORMAL, b""), 5),
        (Entry(16383, 16383, NORMAL, b""), 6),
        (Entry(16384, 16384, NORMAL, b""), 8),
        (Entry(NUMBER_MAX, NUMBER_MAX, NORMAL, b""), 20),
        (Entry(1, 1, NORMAL, b"x"), 7),
        (Entry(1, 1, NORMAL, bytes(127)), 133),
        (Entry(1, 1, NORMAL, bytes(128)), 135),
        (Entry(1, 1, NORMAL, bytes(16383)), 4 + 3 + 16383),
        (Entry(1, 1, NORMAL, bytes(16384)), 4 + 4 + 16384),
        (Entry(1, 1, EntryKind.CONFIG_CHANGE, b""), 6),
        (Entry(1, 1, EntryKind.CONFIG_CHANGE_V2, b"xy"), 10),
        (Entry(1, 1, EntryKind.STRIPPED, b""), 6),
    ],
)
def test_an_entry_counts_as_many_bytes_as_its_protobuf_form(item: Entry, expected: int) -> None:
    assert entry_bytes(item) == expected
    assert entries_bytes([item]) == expected


@pytest.mark.parametrize(
    "items",
    [
        [],
        [entry(1, i, b"abc") for i in range(1, 4)],
        [entry(1, i, b"abc") for i in range(1, 5)],
        [entry(1, i, b"abc") for i in range(1, 6)],
        [entry(127, 1, b"a"), entry(127, 2, b"a"), entry(127, 3, b"a"), entry(128, 4, b"a")],
        [entry(127, 1, b"a"), entry(128, 2, b"a"), entry(128, 3, b"a"), entry(128, 4, b"a")],
        [entry(1, i, b"abc") for i in range(125, 130)],
        [entry(1, i, b"abc") for i in range(127, 132)],
        [entry(1, i, bytes(size)) for i, size in enumerate((5, 0, 5, 5), 1)],
        [entry(1, i, bytes(size)) for i, size in enumerate((0, 5, 5, 5), 1)],
        [entry(1, i, bytes(size)) for i, size in enumerate((0, 1, 1, 1), 1)],
        [entry(1, i, bytes(size)) for i, size in enumerate((1, 0, 1, 1), 1)],
        [entry(1, i, bytes(size)) for i, size in enumerate((1, 1, 1, 0), 1)],
        [entry(1, i, bytes(size)) for i, size in enumerate((127, 127, 128, 127), 1)],
        [entry(1, i, bytes(size)) for i, size in enumerate((128, 128, 128, 127), 1)],
        [Entry(1, i, EntryKind(i % 4), b"abc") for i in range(1, 9)],
        [entry(1 << 40, i, b"abc") for i in range(1 << 50, (1 << 50) + 4)],
    ],
)
def test_the_size_of_many_is_the_sum_of_their_sizes(items: list[Entry]) -> None:
    assert entries_bytes(items) == sum(map(entry_bytes, items))


@given(
    st.integers(1, 20_000),
    st.lists(
        st.tuples(
            st.sampled_from((0, 0, 0, 1, 100)),
            st.sampled_from(tuple(EntryKind)),
            st.sampled_from((0, 1, 2, 126, 127, 128, 129)),
        ),
        max_size=12,
    ),
)
def test_the_size_of_any_run_of_entries_is_the_sum_of_their_sizes(
    first: int, parts: list[tuple[int, EntryKind, int]]
) -> None:
    items: list[Entry] = []
    term = 1
    for index, (step, kind, size) in enumerate(parts, first):
        term += step
        items.append(Entry(term, index, kind, bytes(size)))
    assert entries_bytes(items) == sum(map(entry_bytes, items))


def test_the_size_of_payloads_leaves_the_rest_of_the_entries_out() -> None:
    assert payloads_bytes([]) == 0
    assert payloads_bytes([entry(9, 1, b"abc"), entry(9, 2), entry(9, 3, b"de")]) == 5


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(0, 400))
def test_limit_returns_the_longest_prefix_that_fits_but_at_least_one(
    sizes: list[int], bytes_max: int
) -> None:
    entries = [entry(1, index, bytes(size)) for index, size in enumerate(sizes, 1)]
    kept = limit_bytes(entries, bytes_max)
    assert kept == entries[: len(kept)]
    total = sum(map(entry_bytes, kept))
    assert total <= bytes_max or len(kept) == 1
    if len(kept) < len(entries):
        assert len(kept) >= 1
        assert total + entry_bytes(entries[len(kept)]) > bytes_max


@pytest.mark.parametrize(
    ("bytes_max", "count"),
    [(0, 1), (3, 1), (4, 1), (5, 1), (10, 1), (11, 2), (12, 2), (14, 2), (15, 3), (16, 3)],
)
def test_limit_is_inclusive_and_never_empties(bytes_max: int, count: int) -> None:
    entries = [entry(1, 1), entry(1, 2, b"x"), entry(1, 3)]  # 4, 7 and 4 bytes
    assert limit_bytes(entries, bytes_max) == entries[:count]


@pytest.mark.parametrize("bytes_max", [15, 98, 99, 1 << 30])
def test_limit_copies_nothing_when_everything_fits(bytes_max: int) -> None:
    entries = [entry(1, 1), entry(1, 2, b"x"), entry(1, 3)]
    assert limit_bytes(entries, bytes_max) is entries


def test_limit_of_nothing_is_nothing() -> None:
    assert limit_bytes([], 0) == []


def test_the_largest_entry_is_still_measured_exactly_at_its_limit() -> None:
    """No entry has more bytes around its payload than the shortcut of the limit assumes."""
    huge = Entry(NUMBER_MAX, NUMBER_MAX, EntryKind.STRIPPED, b"x" * 200)
    size = entry_bytes(huge)
    assert size == 20 + 2 + 3 + 200
    assert limit_bytes([huge, huge], 2 * size) == [huge, huge]
    assert limit_bytes([huge, huge], 2 * size - 1) == [huge]


def test_kinds_have_the_numbers_that_are_on_disks() -> None:
    assert [(kind.name, kind.value) for kind in EntryKind] == [
        ("NORMAL", 0),
        ("CONFIG_CHANGE", 1),
        ("CONFIG_CHANGE_V2", 2),
        ("STRIPPED", 3),
    ]


def test_the_empty_hard_state_is_all_zero() -> None:
    assert HardState() == (0, NO_NODE, 0) == (0, 0, 0)
    assert HardState(3, 2, 1) == HardState(term=3, vote=2, commit=1)


def test_numbers_fit_a_signed_field_of_64_bits() -> None:
    assert NUMBER_MAX == 2**63 - 1
