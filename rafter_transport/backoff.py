"""Backoff: how long to wait before the next try, and the loop that tries.

Full jitter: each delay is drawn uniformly between zero and a ceiling that grows by a factor up to a
cap. Without jitter all shards of a cluster would knock in step on the door of a node that returns.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

Result = TypeVar("Result")


class Backoff:
    """The delays between the tries of one operation.

    `tries_max` counts tries, not delays: with three tries there are two delays. None never gives
    up. Not safe to share between operations: each holds its own ceiling.
    """

    __slots__ = ("_ceiling_seconds", "_generator", "_tries_left", "base_seconds", "cap_seconds",
                 "factor", "tries_max")  # fmt: skip

    def __init__(
        self,
        base_seconds: float,
        factor: float,
        cap_seconds: float,
        tries_max: int | None,
        generator: random.Random,
    ) -> None:
        if base_seconds <= 0:
            raise ValueError(f"base_seconds = {base_seconds}: must be more than 0")
        if factor < 1:
            raise ValueError(f"factor = {factor}: must be at least 1")
        if cap_seconds < base_seconds:
            raise ValueError(f"cap_seconds = {cap_seconds}: must be at least base_seconds")
        if tries_max is not None and tries_max < 1:
            raise ValueError(f"tries_max = {tries_max}: must be at least 1")
        self.base_seconds = base_seconds
        self.factor = factor
        self.cap_seconds = cap_seconds
        self.tries_max = tries_max
        self._generator = generator
        self.reset()

    def reset(self) -> None:
        """Begin again at the base: the operation has succeeded."""
        self._ceiling_seconds = self.base_seconds
        self._tries_left = self.tries_max

    def next_delay(self) -> float | None:
        """Return the seconds to wait after a failed try, or None if it was the last one."""
        if self._tries_left is not None:
            self._tries_left -= 1
            if self._tries_left <= 0:
                self._tries_left = 0
                return None
        delay_seconds = self._generator.uniform(0.0, self._ceiling_seconds)
        # Clamped at each step: a power of the tries would overflow after some hours of failures.
        self._ceiling_seconds = min(self.cap_seconds, self._ceiling_seconds * self.factor)
        return delay_seconds


async def retry(
    attempt: Callable[[], Awaitable[Result]],
    backoff: Backoff,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    *,
    failures: tuple[type[Exception], ...] = (OSError,),
) -> Result:
    """Await `attempt()` until it returns, and return its result.

    An exception of `failures` is a failed try (a TimeoutError is an OSError); any other ends the
    loop at once. After the last try its exception is raised without another delay. Cancellation
    is never swallowed: it ends a try and a delay alike. `backoff` is not reset here, because only
    the caller knows whether the result is worth that.
    """
    while True:
        try:
            return await attempt()
        except failures:
            delay_seconds = backoff.next_delay()
            if delay_seconds is None:
                raise
        await sleep(delay_seconds)
