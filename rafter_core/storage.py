"""The protocol between the core and whatever keeps the log durable."""

from __future__ import annotations

from typing import Protocol

from rafter_core.entries import Entry, HardState
from rafter_core.membership import Membership
from rafter_core.snapshot import Snapshot


class LogStorage(Protocol):
    """What is durable, as the core reads it. No call waits for another thread.

    The core only reads. The driver writes what a Ready says and then tells the core; from then on,
    and not later, this object must answer with the new contents. Entries with
    `first_index() <= index <= last_index()` are available.
    """

    def initial_state(self) -> tuple[HardState, Membership]:
        """Return the newest durable hard state and the configuration as of what was applied.

        Called once, at the start.
        """
        ...

    def first_index(self) -> int:
        """Return the first index that `entries` can return; last_index() + 1 if there is none."""
        ...

    def last_index(self) -> int:
        """Return the last durable index; first_index() - 1 if there is none."""
        ...

    def term(self, index: int) -> int:
        """Return the term of an entry; that of first_index() - 1 is known too (0 for index 0).

        Raises Compacted below that, Unavailable beyond last_index().
        """
        ...

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        """Return entries [low, high), as many as fit `bytes_max`, but at least one. low < high.

        The measure is `rafter_core.entries.limit_bytes`; returning fewer is allowed. Raises
        Compacted if low < first_index(), Unavailable if high > last_index() + 1.
        """
        ...

    def snapshot(self) -> Snapshot:
        """Return the newest snapshot to send to a follower: index >= first_index() - 1.

        Raises SnapshotUnavailable while there is none at hand; the core asks again later.
        """
        ...
