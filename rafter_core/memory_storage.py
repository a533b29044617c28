"""A log store in memory: for tests, examples, and as the reference for what LogStorage means."""

from __future__ import annotations

from rafter_core.entries import Entry, HardState, Membership, limit_bytes
from rafter_core.errors import Compacted, InvariantError, Unavailable
from rafter_core.ready import Ready


class MemoryStorage:
    """LogStorage over a list. Nothing here survives the process: "durable" means "stored"."""

    __slots__ = ("_entries", "_hard_state", "_membership", "_previous_index", "_previous_term")

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._hard_state = HardState()
        self._entries: list[Entry] = []
        # The identity of the entry before the first one, known although it is compacted away.
        self._previous_index = 0
        self._previous_term = 0

    def initial_state(self) -> tuple[HardState, Membership]:
        """Return what was stored last."""
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

    def store(self, ready: Ready) -> None:
        """Persist what a Ready asks for."""
        if ready.hard_state is not None:
            self._hard_state = ready.hard_state
        if ready.entries:
            self.append(ready.entries)

    def set_hard_state(self, hard_state: HardState) -> None:
        """Replace the hard state."""
        self._hard_state = hard_state

    def append(self, entries: list[Entry]) -> None:
        """Store entries, replacing everything at and after the first of them."""
        if not entries:
            return
        position = entries[0].index - self._previous_index - 1
        if position < 0:
            raise InvariantError(f"entry {entries[0].index} is compacted, it cannot be replaced")
        if position > len(self._entries):
            raise InvariantError(
                f"missing log entry: last is {self.last_index()}, append at {entries[0].index}"
            )
        self._entries[position:] = entries

    def compact(self, index: int) -> None:
        """Drop every entry up to and including `index`, which the caller must have applied."""
        if index <= self._previous_index:
            raise Compacted(f"index {index} is compacted already")
        if index > self.last_index():
            raise Unavailable(f"index {index} is beyond the last index {self.last_index()}")
        self._previous_term = self.term(index)
        del self._entries[: index - self._previous_index]
        self._previous_index = index
