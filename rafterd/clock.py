"""The wall clock as the state machines see it: milliseconds since the epoch, never going back."""

import time
from collections.abc import Callable

MILLISECONDS_PER_SECOND = 1000


class Clock:
    """Stamps entries and judges expiry on a leader.

    The value never goes back within one process, whatever happens to the system's clock. That it
    does not go back from leader to leader is the state machine's part, which remembers the newest
    stamp that was applied.
    """

    __slots__ = ("_latest_ms", "_seconds")

    def __init__(self, seconds: Callable[[], float] = time.time) -> None:
        self._seconds = seconds
        self._latest_ms = 0

    def now_ms(self) -> int:
        """Return the time, at least as late as any time returned before."""
        now_ms = int(self._seconds() * MILLISECONDS_PER_SECOND)
        if now_ms > self._latest_ms:
            self._latest_ms = now_ms
        return self._latest_ms
