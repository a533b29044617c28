"""Virtual time, the order of events, random draws, and the trace of one simulation.

Everything that happens is an event at a time; events of one time happen in the order in which they
were planned. Nothing else decides, so that a seed determines a whole run.
"""

from __future__ import annotations

import heapq
import random
import traceback
from collections import Counter as Tally
from collections.abc import Callable
from typing import Any

import xxhash

NANOSECONDS = 1_000_000_000
WAIT_STEP_SECONDS = 0.02


class Violation(Exception):
    """What must never be was seen: the run ends here."""


class Trace:
    """A line for each event that matters, hashed, and handed to `show` if there is one."""

    def __init__(self, show: Callable[[str], None] | None = None) -> None:
        self._hash = xxhash.xxh3_64()
        self._show = show
        self.lines = 0

    def add(self, now_seconds: float, line: str) -> None:
        text = f"{now_seconds:.6f} {line}"
        self.lines += 1
        self._hash.update(text.encode())
        if self._show is not None:
            self._show(text)

    @property
    def digest(self) -> str:
        """The hash of all lines so far."""
        return self._hash.hexdigest()


class World:
    """The one clock and the one source of chance of a simulation."""

    def __init__(self, seed: int, show: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.now = 0.0
        """Seconds since the beginning."""
        self.draw = random.Random(seed)
        self.trace = Trace(show)
        self.tally: Tally[str] = Tally()
        """How often each kind of fault, and each rare branch, has occurred."""
        self.loops: list[object] = []
        """All loops there were, those of dead processes too."""
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._planned = 0
        self._is_over = False
        self._is_failed: Violation | None = None

    def at(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        """Plan an event; one that lies in the past happens next."""
        if self._is_over:
            return
        self._planned += 1
        heapq.heappush(self._events, (max(seconds, self.now), self._planned, action, arguments))

    def after(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        """Plan an event some time from now."""
        self.at(self.now + seconds, action, *arguments)

    def run_until(self, seconds: float) -> None:
        """Let time pass. Raises the first Violation, at the event that showed it."""
        events = self._events
        while events and events[0][0] <= seconds:
            self.now, _, action, arguments = heapq.heappop(events)
            action(*arguments)
            self.raise_violation()
        self.now = seconds

    def wait(self, seconds: float, is_over: Callable[[], bool]) -> None:
        """Let time pass until something holds, for so many seconds at most."""
        end = self.now + seconds
        while not is_over() and self.now < end:
            self.run_until(min(self.now + WAIT_STEP_SECONDS, end))

    def end(self) -> None:
        """Let go of everything that happened and would have; nothing can be planned any more."""
        self._is_over = True
        self.loops.clear()
        self._events.clear()
        self._is_failed = None

    def violated(self, what: str) -> None:
        """End the run: what must never be was seen. May be called where exceptions are lost."""
        if self._is_failed is None:
            self.note(f"VIOLATION {what}")
            self._is_failed = Violation(what)

    def raise_violation(self) -> None:
        """Raise the first Violation, if there was one."""
        if self._is_failed is not None:
            raise self._is_failed

    def violated_by(self, what: str, error: BaseException) -> None:
        """End the run for an error that no fault explains; it tells where it comes from."""
        where = "".join(traceback.format_exception(error))
        self.violated(f"{what}\n{where}")

    def note(self, line: str) -> None:
        """Add a line to the trace."""
        self.trace.add(self.now, line)

    def chance(self, probability: float) -> bool:
        """Draw whether something happens."""
        return self.draw.random() < probability

    def between(self, low: float, high: float) -> float:
        """Draw a number, small ones more often: of each order of magnitude alike."""
        number: float = low * (high / low) ** self.draw.random()
        return number

    def random_bits(self, bits: int) -> int:
        """Draw bits, for code that wants them of its environment."""
        return self.draw.getrandbits(bits)
