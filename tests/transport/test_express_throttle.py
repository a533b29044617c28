"""The throttle in virtual time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_transport.express_throttle import Throttle


def test_without_a_rate_nobody_waits() -> None:
    throttle = Throttle(None, 0.0)
    assert [throttle.reserve(1 << 40, 0.0) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_a_full_bucket_is_free_and_each_reservation_waits_for_those_before_it() -> None:
    throttle = Throttle(1000, 0.0, burst_seconds=0.1)
    assert [throttle.reserve(100, 0.0) for _ in range(3)] == pytest.approx([0.0, 0.1, 0.2])
    # A hundred of them are paid by then.
    assert throttle.reserve(100, 0.1) == pytest.approx(0.2)


def test_idle_time_fills_the_bucket_and_no_more() -> None:
    throttle = Throttle(1000, 0.0, burst_seconds=0.1)
    assert throttle.reserve(100, 0.0) == 0.0
    assert throttle.reserve(100, 1000.0) == 0.0
    assert throttle.reserve(100, 1000.0) == pytest.approx(0.1)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    throttle = Throttle(1000, 10.0, burst_seconds=0.1)
    throttle.reserve(100, 10.0)
    assert throttle.reserve(100, 5.0) == pytest.approx(0.1)
    assert throttle.reserve(100, 10.0) == pytest.approx(0.2)


def test_an_impossible_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        Throttle(0, 0.0)


@given(
    st.integers(1, 10**6),
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 5)), min_size=1, max_size=30),
)
def test_in_no_span_more_leaves_than_rate_and_bucket_allow(
    rate: int, steps: list[tuple[int, float]]
) -> None:
    throttle = Throttle(rate, 0.0, burst_seconds=0.1)
    now_seconds = 0.0
    sent_bytes = 0
    for length, pause_seconds in steps:
        now_seconds += pause_seconds
        leaves_seconds = now_seconds + throttle.reserve(length, now_seconds)
        sent_bytes += length
        assert sent_bytes <= (leaves_seconds + 0.1) * rate * (1 + 1e-9) + 1e-3
