"""Waiting for conditions with a deadline, without sleeping through them."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

Value = TypeVar("Value")

DEADLINE_SECONDS = 20.0


class HasFileno(Protocol):
    """A socket or file."""

    def fileno(self) -> int: ...


def wait_readable(descriptor: int | HasFileno, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait until a descriptor is readable; fail at the deadline."""
    readable, _, _ = select.select([descriptor], [], [], seconds)
    assert readable, f"nothing to read within {seconds} s"


def wait_until(
    condition: Callable[[], Value], seconds: float = DEADLINE_SECONDS, what: str = "the condition"
) -> Value:
    """Ask until a condition that nothing announces holds; return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not hold within {seconds} s"
        select.select([], [], [], 0.01)
    return value
