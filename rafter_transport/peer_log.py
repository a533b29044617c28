"""Logging about peers, at most once a minute for each peer and reason."""

import logging
import time
from collections.abc import Callable

INTERVAL_SECONDS = 60.0
REMEMBERED_MAX = 1024


class PeerLog:
    """A logger that says the same about the same peer once a minute.

    Peers and reasons come from outside, so what is remembered is bounded; while the table is
    full of fresh lines, further ones are swallowed, which bounds the log as well.
    """

    __slots__ = ("_clock", "_lines", "_logger")

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        # (peer, reason) -> when it was last logged, and how often it was swallowed since.
        self._lines: dict[tuple[str, str], tuple[float, int]] = {}

    def report(self, peer: str, reason: str, text: str) -> bool:
        """Log `text` about `peer`, unless `reason` was logged for it within the last minute.

        Returns whether it was logged.
        """
        now_seconds = self._clock()
        key = (peer, reason)
        known = self._lines.get(key)
        if known is not None and now_seconds - known[0] < INTERVAL_SECONDS:
            self._lines[key] = (known[0], known[1] + 1)
            return False
        if known is None and len(self._lines) >= REMEMBERED_MAX:
            self._forget(now_seconds)
            if len(self._lines) >= REMEMBERED_MAX:
                return False
        self._lines[key] = (now_seconds, 0)
        repeated = "" if known is None or not known[1] else f" ({known[1]} more since)"
        self._logger.warning("%s: %s%s", peer, text, repeated)
        return True

    def _forget(self, now_seconds: float) -> None:
        """Drop the lines that may be logged again anyway."""
        self._lines = {
            key: line for key, line in self._lines.items()
            if now_seconds - line[0] < INTERVAL_SECONDS
        }  # fmt: skip
