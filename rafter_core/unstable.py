"""The part of the log that is not known to be durable yet.

    stored, durable | handed out in a Ready, being stored | not handed out yet
                    ^ offset                              ^ in_progress      ^ end

Truncation by a new leader may reach into any of the three parts. A storage completion names the
(term, index) it made durable and is ignored when that is no longer what the log holds there.

A snapshot that was received stands before the entries until it is durable: then the stored part
counts for nothing, and the log begins at the snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence

from rafter_core.entries import Entry
from rafter_core.errors import InvariantError
from rafter_core.snapshot import Snapshot


class Unstable:
    """Entries from `offset` on. `previous_term` is the term of the entry at offset - 1."""

    __slots__ = (
        "entries",
        "in_progress",
        "is_snapshot_in_progress",
        "offset",
        "previous_term",
        "snapshot",
    )

    def __init__(self, offset: int, previous_term: int) -> None:
        self.offset = offset
        self.previous_term = previous_term
        self.in_progress = offset
        self.entries: list[Entry] = []
        self.snapshot: Snapshot | None = None
        self.is_snapshot_in_progress = False

    def take(self) -> list[Entry]:
        """Return the entries not handed out yet, and count them as being stored from now on."""
        entries = self.entries
        start = self.in_progress - self.offset
        self.in_progress = self.offset + len(entries)
        return entries[start:]

    def take_snapshot(self) -> Snapshot | None:
        """Return the snapshot if it is not handed out yet, and count it as being stored."""
        if self.is_snapshot_in_progress:
            return None
        self.is_snapshot_in_progress = self.snapshot is not None
        return self.snapshot

    def stable_to(self, term: int, index: int) -> bool:
        """Drop the entries up to (term, index), which are durable. Return False if it is outdated.

        The caller has made sure that the log was not rewritten in another term meanwhile (A-B-A:
        see Raft.storage_done); what is left here are completions for entries that were replaced.
        """
        position = index - self.offset
        if position < 0 or index >= self.in_progress:
            return False
        entries = self.entries
        if entries[position].term != term:
            return False
        del entries[: position + 1]
        self.offset = index + 1
        self.previous_term = term
        return True

    def stable_snapshot_to(self, index: int) -> None:
        """Drop the snapshot of this index, which is durable."""
        if self.snapshot is not None and self.snapshot.index == index:
            self.snapshot = None
            self.is_snapshot_in_progress = False

    def restore(self, snapshot: Snapshot) -> None:
        """Replace everything by a snapshot that is not durable yet."""
        self.offset = self.in_progress = snapshot.index + 1
        self.previous_term = snapshot.term
        self.entries = []
        self.snapshot = snapshot
        self.is_snapshot_in_progress = False

    def truncate_and_append(self, entries: Sequence[Entry], previous_term: int) -> None:
        """Append, replacing all at and after the first entry; `previous_term` is that before it."""
        first = entries[0].index
        end = self.offset + len(self.entries)
        if first == end:
            self.entries.extend(entries)
        elif first > end:
            raise InvariantError(f"missing log entry: the log ends at {end - 1}, append at {first}")
        elif first <= self.offset:
            # Everything here is replaced, and so is a part of what is durable already.
            self.offset = self.in_progress = first
            self.entries = list(entries)
            self.previous_term = previous_term
        else:
            del self.entries[first - self.offset :]
            self.entries.extend(entries)
            self.in_progress = min(self.in_progress, first)
