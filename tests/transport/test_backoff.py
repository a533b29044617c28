"""Backoff, with a generator of known draws and a sleep that does not wait."""

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_transport import Backoff, retry


class Ceiling(random.Random):
    """Draws the top of each range, so that the ceilings can be seen."""

    def uniform(self, a: float, b: float) -> float:
        assert a == 0.0
        return b


def make_backoff(tries_max: int | None = None) -> Backoff:
    return Backoff(0.1, 2.0, 0.5, tries_max, Ceiling())


class Sleeper:
    """A sleep that records and returns at once."""

    def __init__(self) -> None:
        self.delays: list[float] = []

    async def __call__(self, delay_seconds: float) -> None:
        self.delays.append(delay_seconds)


class Flaky:
    """An attempt that fails a number of times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.tries = 0

    async def __call__(self) -> str:
        self.tries += 1
        if self.tries <= self.failures:
            raise ConnectionRefusedError(f"try {self.tries}")
        return "done"


def test_delays_grow_by_the_factor_up_to_the_cap_and_reset_to_the_base() -> None:
    backoff = make_backoff()
    assert [backoff.next_delay() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    backoff.reset()
    assert backoff.next_delay() == 0.1


def test_ten_thousand_failures_do_not_overflow() -> None:
    backoff = Backoff(0.1, 10.0, 1.0, None, Ceiling())
    assert [backoff.next_delay() for _ in range(10_000)][-1] == 1.0


@given(st.integers(), st.integers(1, 50))
def test_each_delay_is_drawn_between_zero_and_its_ceiling(seed: int, tries: int) -> None:
    backoff = Backoff(0.1, 2.0, 0.5, None, random.Random(seed))
    ceilings = make_backoff()
    for _ in range(tries):
        delay, ceiling = backoff.next_delay(), ceilings.next_delay()
        assert delay is not None
        assert ceiling is not None
        assert 0.0 <= delay <= ceiling


def test_a_number_of_tries_has_one_delay_less() -> None:
    backoff = make_backoff(tries_max=3)
    assert [backoff.next_delay() for _ in range(5)] == [0.1, 0.2, None, None, None]
    backoff.reset()
    assert backoff.next_delay() == 0.1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((0, 2, 1, None), "base_seconds"),
        ((0.1, 0.9, 1, None), "factor"),
        ((1, 2, 0.5, None), "cap_seconds"),
        ((0.1, 2, 1, 0), "tries_max"),
    ],
)
def test_impossible_settings_are_refused(
    arguments: tuple[float, float, float, int | None], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Backoff(*arguments, random.Random())


def test_retry_returns_the_first_success_and_sleeps_between_tries_only() -> None:
    sleeper, attempt = Sleeper(), Flaky(2)
    assert asyncio.run(retry(attempt, make_backoff(), sleeper)) == "done"
    assert attempt.tries == 3
    assert sleeper.delays == [0.1, 0.2]


def test_retry_does_not_sleep_after_the_last_failure() -> None:
    # The seed's backoff did.
    sleeper, attempt = Sleeper(), Flaky(99)
    with pytest.raises(ConnectionRefusedError, match="try 3"):
        asyncio.run(retry(attempt, make_backoff(tries_max=3), sleeper))
    assert sleeper.delays == [0.1, 0.2]


def test_retry_does_not_repeat_what_is_not_a_failure() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    sleeper = Sleeper()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(retry(broken, make_backoff(), sleeper))
    assert sleeper.delays == []


@pytest.mark.parametrize("moment", ["trying", "sleeping"])
def test_retry_can_be_cancelled_while_it_tries_and_while_it_sleeps(moment: str) -> None:
    async def main() -> None:
        reached = asyncio.Event()

        async def stop_here(*_: object) -> None:
            reached.set()
            await asyncio.Event().wait()

        attempt = stop_here if moment == "trying" else Flaky(99)
        task = asyncio.ensure_future(retry(attempt, make_backoff(), stop_here))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
