"""The values that every room shares: log entries, hard state and membership.

All of them are immutable tuples. An entry is created once, by the leader that proposes it, and
the same object travels through the log, the storage room and the messages: nothing in the core
copies a payload.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

NO_NODE = 0
"""The id that no node has: "no leader", "no vote"."""

NUMBER_MAX = (1 << 63) - 1
"""Terms, indexes and node ids stay below this, so that each fits a signed 64-bit field on disk."""

ENTRY_OVERHEAD_BYTES = 16
"""What an entry counts beyond its payload, so that a flood of empty entries is bounded too."""


class EntryKind(IntEnum):
    """What an entry's payload means. The numbers are etcd's and are stored on disk."""

    NORMAL = 0
    CONFIG_CHANGE = 1
    CONFIG_CHANGE_V2 = 2


class Entry(NamedTuple):
    """One position of the log, identified by (term, index). Opaque payload, empty = no-op."""

    term: int
    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    kind: EntryKind
    payload: bytes


class HardState(NamedTuple):
    """What must be durable before it is spoken of. `commit` alone may lag behind on disk."""

    term: int = 0
    vote: int = NO_NODE
    commit: int = 0


class Membership(NamedTuple):
    """The configuration of a group: who votes.

    Joint consensus adds a second set of voters. Every quorum is therefore computed over `halves`,
    the sets that must agree, and no code looks at `voters` to count.
    """

    voters: tuple[int, ...]

    @property
    def halves(self) -> tuple[tuple[int, ...], ...]:
        """Return the sets of voters of which each must give a majority."""
        return (self.voters,)

    @property
    def nodes(self) -> tuple[int, ...]:
        """Return every node that the leader replicates to, ascending and without duplicates."""
        return tuple(sorted(set(self.voters)))


def entry_bytes(entry: Entry) -> int:
    """Return what an entry counts against the byte limits of messages and Readys."""
    return len(entry.payload) + ENTRY_OVERHEAD_BYTES


def limit_bytes(entries: list[Entry], bytes_max: int) -> list[Entry]:
    """Return the longest prefix within `bytes_max`, but at least one entry if there is any.

    Returns the argument itself when all of it fits. Storage rooms use this to keep the same
    measure.
    """
    total = 0
    for position, entry in enumerate(entries):
        total += len(entry.payload) + ENTRY_OVERHEAD_BYTES
        if total > bytes_max and position > 0:
            return entries[:position]
    return entries
