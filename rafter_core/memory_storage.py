"""A log store in memory: for tests, examples, and as the reference for what LogStorage means."""

from __future__ import annotations

from collections.abc import Sequence

from rafter_core.entries import Entry, HardState, limit_bytes
from rafter_core.errors import (
    Compacted,
    InvariantError,
    SnapshotOutOfDate,
    SnapshotUnavailable,
    Unavailable,
)
from rafter_core.membership import Membership
from rafter_core.ready import Ready
from rafter_core.snapshot import Snapshot

_NOTHING = Snapshot(0, 0, Membership(()))


class MemoryStorage:
    """LogStorage over a list. Nothing here survives the process: "durable" means "stored"."""

    __slots__ = (
        "_entries",
        "_hard_state",
        "_membership",
        "_previous_index",
        "_previous_term",
        "_snapshot",
    )

    def __init__(self, membership: Membership = _NOTHING.membership) -> None:
        """Start empty, with a configuration or with none: a node that waits for a snapshot."""
        self._membership = membership
        self._hard_state = HardState()
        self._entries: list[Entry] = []
        self._snapshot = _NOTHING
        # The identity of the entry before the first one, known although it is compacted away.
        self._previous_index = 0
        self._previous_term = 0

    def initial_state(self) -> tuple[HardState, Membership]:
        """Return what was stored last: the configuration is that of the newest snapshot."""
        return self._hard_state, self._membership

    def first_index(self) -> int:
        """Return the first index that is still held."""
        return self._previous_index + 1

    def last_index(self) -> int:
        """Return the last stored index."""
        return self._previous_index + len(self._entries)

    def term(self, index: int) -> int:
        """Return the term at `index`, from first_index() - 1 to last_index()."""
        position = index - self._previous_index - 1
        if position == -1:
            return self._previous_term
        if position < 0:
            raise Compacted(f"index {index} is before the first index {self.first_index()}")
        if position >= len(self._entries):
            raise Unavailable(f"index {index} is beyond the last index {self.last_index()}")
        return self._entries[position].term

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        """Return entries [low, high) within the limit, at least one."""
        start = self._previous_index + 1
        if low < start:
            raise Compacted(f"index {low} is before the first index {start}")
        if high > self.last_index() + 1:
            raise Unavailable(f"index {high - 1} is beyond the last index {self.last_index()}")
        return limit_bytes(self._entries[low - start : high - start], bytes_max)

    def snapshot(self) -> Snapshot:
        """Return the newest snapshot. Raises SnapshotUnavailable if there never was one."""
        if not self._snapshot.index:
            raise SnapshotUnavailable("no snapshot was made yet")
        return self._snapshot

    def store(self, ready: Ready) -> None:
        """Persist what a Ready asks for."""
        if ready.hard_state is not None:
            self._hard_state = ready.hard_state
        if ready.snapshot is not None:
            self.apply_snapshot(ready.snapshot)
        if ready.entries:
            self.append(ready.entries)

    def set_hard_state(self, hard_state: HardState) -> None:
        """Replace the hard state."""
        self._hard_state = hard_state

    def append(self, entries: Sequence[Entry]) -> None:
        """Store entries, replacing everything at and after the first of them.

        Those that are compacted already are skipped.
        """
        skipped = max(0, self.first_index() - entries[0].index) if entries else 0
        entries = entries[skipped:]
        if not entries:
            return
        position = entries[0].index - self._previous_index - 1
        if position > len(self._entries):
            raise InvariantError(
                f"missing log entry: last is {self.last_index()}, append at {entries[0].index}"
            )
        self._entries[position:] = entries

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Replace the whole log by a snapshot. Raises SnapshotOutOfDate unless it is newer.

        One of index 0 gives an empty storage its configuration.
        """
        if snapshot.index <= self._snapshot.index and self.last_index():
            raise SnapshotOutOfDate(
                f"snapshot {snapshot.index} is not newer than {self._snapshot.index}"
            )
        self._snapshot = snapshot
        self._membership = snapshot.membership
        self._previous_index = snapshot.index
        self._previous_term = snapshot.term
        self._entries = []

    def create_snapshot(self, index: int, membership: Membership, data: bytes = b"") -> Snapshot:
        """Keep the state after `index` as the newest snapshot; the log is not cut by this.

        `membership` is the configuration at that index. Raises SnapshotOutOfDate, Unavailable.
        """
        if index <= self._snapshot.index:
            raise SnapshotOutOfDate(f"snapshot {index} is not newer than {self._snapshot.index}")
        if index > self.last_index():
            raise Unavailable(f"index {index} is beyond the last index {self.last_index()}")
        self._snapshot = Snapshot(index, self.term(index), membership, data)
        self._membership = membership
        return self._snapshot

    def compact(self, index: int) -> None:
        """Drop every entry up to and including `index`, which the caller must have applied."""
        if index <= self._previous_index:
            raise Compacted(f"index {index} is compacted already")
        if index > self.last_index():
            raise Unavailable(f"index {index} is beyond the last index {self.last_index()}")
        self._previous_term = self.term(index)
        del self._entries[: index - self._previous_index]
        self._previous_index = index
