from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core import InvariantError
from rafter_core.inflights import Inflights
from rafter_core.progress import PROBE, REPLICATE, Progress


def progress(match: int = 0, next_index: int = 1, *, replicate: bool = False) -> Progress:
    item = Progress(2, next_index, Inflights(2, 1000))
    item.reset(match, next_index)
    if replicate:
        item.become_replicate()
        item.next = next_index
    return item


def test_probe_sends_one_append_with_entries_and_pauses() -> None:
    item = progress()
    item.sent(3, 30, 0)
    assert item.flow_paused
    assert item.next == 1


def test_an_empty_append_does_not_pause_a_probe() -> None:
    item = progress()
    item.sent(0, 0, 0)
    assert not item.flow_paused


def test_replicate_advances_next_optimistically_until_the_window_is_full() -> None:
    item = progress(replicate=True)
    item.sent(2, 20, 0)
    assert (item.next, item.flow_paused) == (3, False)
    item.sent(1, 10, 0)
    assert (item.next, item.flow_paused) == (4, True)


def test_acknowledgement_raises_match_and_next_and_unpauses() -> None:
    item = progress(3, 5)
    item.flow_paused = True
    assert item.acknowledge(7)
    assert (item.match, item.next, item.flow_paused) == (7, 8, False)


def test_stale_acknowledgement_teaches_nothing() -> None:
    item = progress(3, 5)
    assert not item.acknowledge(3)
    assert not item.acknowledge(2)
    assert (item.match, item.next) == (3, 5)


def test_probe_counts_only_the_refusal_of_the_outstanding_append() -> None:
    item = progress(0, 10)
    assert not item.reject(8, 8)
    assert item.reject(9, 4)
    assert item.next == 5


def test_refusal_never_pushes_next_to_match() -> None:
    item = progress(5, 10)
    assert item.reject(9, 2)
    assert item.next == 6


def test_replicate_ignores_a_refusal_at_or_below_match() -> None:
    item = progress(5, 10, replicate=True)
    assert not item.reject(5, 3)
    assert item.reject(9, 3)
    assert item.next == 6


def test_regression_of_next_forgets_the_commit_that_may_be_lost() -> None:
    item = progress(0, 10)
    item.sent(0, 0, 9)
    assert not item.lacks_commit(9)
    item.reject(9, 4)
    assert item.sent_commit == 4


def test_an_append_for_the_commit_index_is_pointless_beyond_next() -> None:
    item = progress(3, 4, replicate=True)
    assert item.lacks_commit(3)
    item.sent(0, 0, 3)
    assert not item.lacks_commit(9)


def test_become_probe_starts_just_behind_match() -> None:
    item = progress(3, 9, replicate=True)
    item.sent(1, 10, 8)
    item.become_probe()
    assert (item.mode, item.next, len(item.inflights), item.sent_commit) == (PROBE, 4, 0, 3)


def test_reset_to_an_impossible_position_is_refused() -> None:
    with pytest.raises(InvariantError, match="match 4 must be below next 4"):
        progress(4, 4)


@given(
    st.lists(
        st.tuples(st.sampled_from("arpsm"), st.integers(0, 12), st.integers(0, 12)), max_size=40
    )
)
def test_match_stays_below_next_whatever_arrives(
    inputs: list[tuple[str, int, int]],
) -> None:
    item = progress(0, 6)
    best = 0
    for action, first, second in inputs:
        if action == "a":
            if item.acknowledge(first) and item.mode is PROBE:
                item.become_replicate()
            item.inflights.free_to(first)
        elif action == "r":
            if item.reject(first, second) and item.mode is REPLICATE:
                item.become_probe()
        elif action == "p":
            item.become_probe()
        elif action == "m":
            item.flow_paused = False
        elif not item.flow_paused and not item.inflights.is_full:
            item.sent(first % 3, first, second)
        assert 0 <= item.match < item.next
        assert item.match >= best
        best = item.match


def test_repr_shows_what_an_operator_needs() -> None:
    item = progress(3, 4, replicate=True)
    item.sent(1, 10, 0)
    item.needs_snapshot = item.flow_paused = True
    assert repr(item) == ("<REPLICATE match=3 next=5 paused needs_snapshot inactive inflight=1>")
