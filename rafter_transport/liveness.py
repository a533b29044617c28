"""Liveness: a connection between nodes is ended once nothing has come on it for too long.

Both ends send an empty frame, a pulse, every second, or three times in `idle_seconds` if that
is more often; so silence means that the way between them is broken. The kernel finds a host that
vanished; it does not find a middlebox that acknowledges and forgets, nor a process that hangs.
"""

import asyncio
from typing import Protocol

__all__ = ["PULSE", "IdleError", "Liveness"]

PULSE = b"\x90"
"""A payload without channels. Whoever knows nothing of pulses finds nothing in it."""
PULSE_SECONDS = 1.0
"""Two ends need not agree on `idle_seconds`, if none of them has less than three of these."""
PULSES_MIN = 3


class IdleError(TimeoutError):
    """Nothing has come on a connection for `idle_seconds`."""


class Watched(Protocol):
    """What is watched: a link that says when it was last heard, in the time of its loop."""

    heard_seconds: float

    @property
    def pending_bytes(self) -> int:
        """Bytes sent here that the operating system has not taken yet."""

    def send(self, payload: bytes) -> None:
        """Send one frame."""

    def abort(self, error: Exception | None = None) -> None:
        """Close at once, for this reason."""


class Liveness:
    """Watches one connection from its handshake on, until `stop`, or until it aborts the link.

    Both ends must have it. While bytes wait to leave no pulse is sent: they will be heard.
    """

    __slots__ = ("_due_seconds", "_idle_seconds", "_interval_seconds", "_link", "_loop",
                 "_timer")  # fmt: skip

    def __init__(self, link: Watched, idle_seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self._link = link
        self._idle_seconds = idle_seconds
        self._interval_seconds = min(PULSE_SECONDS, idle_seconds / PULSES_MIN)
        self._loop = loop
        self._due_seconds = loop.time() + self._interval_seconds
        self._timer = loop.call_at(self._due_seconds, self._look)

    def stop(self) -> None:
        """Watch no more: the link is gone."""
        self._timer.cancel()

    def _look(self) -> None:
        now_seconds = self._loop.time()
        link = self._link
        if now_seconds - self._due_seconds > self._interval_seconds:
            # It was this process that stood still. What came meanwhile may not be read yet.
            link.heard_seconds = now_seconds
        end_seconds = link.heard_seconds + self._idle_seconds
        if now_seconds >= end_seconds:
            link.abort(IdleError(f"nothing came for {self._idle_seconds:g} s"))
            return
        if not link.pending_bytes:
            link.send(PULSE)
        self._due_seconds = min(end_seconds, now_seconds + self._interval_seconds)
        self._timer = self._loop.call_at(self._due_seconds, self._look)
