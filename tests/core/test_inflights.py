"""The window of unacknowledged appends: limits by count and by bytes, and what frees it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core import InvariantError
from rafter_core.inflights import Inflights


def filled(messages_max: int, bytes_max: int, *items: tuple[int, int]) -> Inflights:
    inflights = Inflights(messages_max, bytes_max)
    for last_index, size_bytes in items:
        inflights.add(last_index, size_bytes)
    return inflights


def state(inflights: Inflights) -> tuple[int, int, bool]:
    return len(inflights), inflights.bytes_total, inflights.is_full


def test_a_new_window_is_empty() -> None:
    inflights = Inflights(1, 1)
    assert state(inflights) == (0, 0, False)
    assert (inflights.messages_max, inflights.bytes_max) == (1, 1)


def test_the_window_is_full_by_count() -> None:
    inflights = Inflights(3, 1000)
    inflights.add(1, 1)
    assert state(inflights) == (1, 1, False)
    inflights.add(2, 1)
    assert state(inflights) == (2, 2, False)
    inflights.add(3, 1)
    assert state(inflights) == (3, 3, True)


@pytest.mark.parametrize(("size_bytes", "is_full"), [(98, False), (99, False), (100, True)])
def test_the_window_is_full_by_bytes_at_exactly_its_limit(size_bytes: int, is_full: bool) -> None:
    assert filled(10, 100, (1, size_bytes)).is_full is is_full


def test_the_byte_limit_is_soft_for_the_last_message() -> None:
    assert state(filled(10, 100, (1, 99), (2, 500))) == (2, 599, True)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (0, (3, 60, True)),
        (1, (3, 60, True)),
        (2, (2, 50, False)),
        (3, (2, 50, False)),
        (5, (1, 30, False)),
        (6, (0, 0, False)),
        (99, (0, 0, False)),
    ],
)
def test_an_acknowledgement_frees_every_message_up_to_it(
    index: int, expected: tuple[int, int, bool]
) -> None:
    inflights = filled(3, 1000, (2, 10), (4, 20), (6, 30))
    inflights.free_to(index)
    assert state(inflights) == expected


def test_freeing_keeps_the_order_of_what_is_left() -> None:
    inflights = filled(3, 1000, (2, 10), (4, 20))
    inflights.free_to(2)
    inflights.add(6, 30)
    inflights.add(8, 40)
    assert state(inflights) == (3, 90, True)
    inflights.free_to(4)
    assert state(inflights) == (2, 70, False)
    inflights.free_to(7)
    assert state(inflights) == (1, 40, False)


def test_a_window_may_stay_full_by_bytes_after_a_message_left() -> None:
    inflights = filled(10, 100, (1, 5), (2, 5), (3, 200))
    inflights.free_to(1)
    assert state(inflights) == (2, 205, True)
    inflights.free_to(2)
    assert state(inflights) == (1, 200, True)
    inflights.free_to(3)
    assert state(inflights) == (0, 0, False)


def test_freeing_nothing_of_nothing_is_allowed() -> None:
    inflights = Inflights(2, 10)
    inflights.free_to(100)
    assert state(inflights) == (0, 0, False)


def test_reset_forgets_bytes_too() -> None:
    inflights = filled(3, 10, (1, 10))
    assert inflights.is_full
    inflights.reset()
    assert state(inflights) == (0, 0, False)
    inflights.add(1, 9)
    assert state(inflights) == (1, 9, False)


@pytest.mark.parametrize(("messages_max", "bytes_max"), [(1, 100), (9, 1)])
def test_adding_to_a_full_window_is_refused(messages_max: int, bytes_max: int) -> None:
    inflights = filled(messages_max, bytes_max, (1, 1))
    with pytest.raises(InvariantError, match="cannot add to a full window of inflight messages"):
        inflights.add(2, 1)
    assert state(inflights) == (1, 1, True)


@given(
    st.integers(1, 5),
    st.integers(1, 30),
    st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=60),
)
def test_the_window_equals_a_list_of_what_was_sent(
    messages_max: int, bytes_max: int, steps: list[tuple[bool, int]]
) -> None:
    inflights = Inflights(messages_max, bytes_max)
    model: list[tuple[int, int]] = []
    last = 0
    for is_send, number in steps:
        if is_send and not inflights.is_full:
            last += 1
            inflights.add(last, number)
            model.append((last, number))
        elif not is_send:
            inflights.free_to(last - number)
            model = [item for item in model if item[0] > last - number]
        total = sum(size for _, size in model)
        is_full = len(model) >= messages_max or total >= bytes_max
        assert state(inflights) == (len(model), total, is_full)
