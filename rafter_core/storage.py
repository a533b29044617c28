"""The protocol between the core and whatever keeps the log durable."""

from __future__ import annotations

from typing import Protocol

from rafter_core.entries import Entry, HardState, Membership


class LogStorage(Protocol):
    """What is durable, as the core reads it. No call waits for another thread.

    The core only reads. The driver writes what a Ready says and then calls `storage_done`; from
    that call on, and not later, this object must answer with the new contents. Entries with
    `first_index() <= index <= last_index()` are available.
    """

    def initial_state(self) -> tuple[HardState, Membership]:
        """Return the newest durable hard state and the configuration. Called once, at the start."""
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

        Raises Compacted if low < first_index(), Unavailable if high > last_index() + 1.
        """
        ...
