"""Waiting for conditions with a deadline, without sleeping through them."""

from __future__ import annotations

import select
import socket
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


def free_port_range(count: int) -> int:
    """Return the first of `count` consecutive ports that are free on loopback."""
    for _ in range(200):
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            base = int(first.getsockname()[1])
            if base + count > 65535:
                continue
            taken = []
            try:
                for port in range(base + 1, base + count):
                    other = socket.socket()
                    taken.append(other)
                    other.bind(("127.0.0.1", port))
            except OSError:
                continue
            finally:
                for other in taken:
                    other.close()
            return base
    raise AssertionError("no free range of ports")
