from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rafter_core import ENTRY_OVERHEAD_BYTES, Membership, entry_bytes, limit_bytes
from tests.core.support import entry


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


def test_an_empty_entry_is_not_free() -> None:
    assert entry_bytes(entry(1, 1)) == ENTRY_OVERHEAD_BYTES > 0


def test_membership_lists_each_node_once_in_order() -> None:
    assert Membership((3, 1, 2)).nodes == (1, 2, 3)
    assert Membership((3, 1, 2)).halves == ((3, 1, 2),)
