"""The newest entries of a group, kept in memory under a byte bound.

Followers that are nearly caught up and the apply loop read only these, so that the disk is not
read at all in ordinary running. The cache always ends at the log's last index: whatever the log
cuts is cut here in the same call (cockroach#63473 is the bug of a cache that did not).
"""

from rafter_core.entries import Entry

__all__ = ["ENTRY_OVERHEAD_BYTES", "RecentEntries"]

# What a small entry costs in CPython beside its payload: a tuple, two ints, the bytes object.
ENTRY_OVERHEAD_BYTES = 200


class RecentEntries:
    """A suffix of one group's log. Owner thread only."""

    __slots__ = ("_bytes", "_bytes_max", "_entries", "first_index")

    def __init__(self, bytes_max: int, last_index: int = 0) -> None:
        self.first_index = last_index + 1
        self._entries: list[Entry] = []
        self._bytes = 0
        self._bytes_max = bytes_max

    def __len__(self) -> int:
        return len(self._entries)

    def restart(self, last_index: int) -> None:
        """Forget everything; the next entry to come is ``last_index + 1`` or lower."""
        self._entries.clear()
        self._bytes = 0
        self.first_index = last_index + 1

    def append(self, entries: list[Entry]) -> None:
        """Add entries at their index, dropping what was there and above.

        The oldest are evicted until at most ``bytes_max`` bytes are held. The newest entry always
        stays, so the bound is exceeded by at most one entry.
        """
        first_index = entries[0].index
        if first_index <= self.first_index:
            self.restart(first_index - 1)
        elif first_index < self.first_index + len(self._entries):
            start = first_index - self.first_index
            self._bytes -= _bytes_of(self._entries[start:])
            del self._entries[start:]
        self._entries += entries
        self._bytes += _bytes_of(entries)
        if self._bytes > self._bytes_max:
            self._evict()

    def slice(self, low: int, high: int) -> list[Entry]:
        """Return the entries [low, high); ``low`` must be at ``first_index`` or above."""
        return self._entries[low - self.first_index : high - self.first_index]

    def _evict(self) -> None:
        # A quarter goes at once, so that a full cache does not move its list on every append.
        bytes_target = self._bytes_max - self._bytes_max // 4
        count = 0
        for entry in self._entries[:-1]:
            if self._bytes <= bytes_target:
                break
            self._bytes -= len(entry.payload) + ENTRY_OVERHEAD_BYTES
            count += 1
        del self._entries[:count]
        self.first_index += count


def _bytes_of(entries: list[Entry]) -> int:
    if len(entries) == 1:
        return len(entries[0].payload) + ENTRY_OVERHEAD_BYTES
    return sum(len(entry.payload) for entry in entries) + ENTRY_OVERHEAD_BYTES * len(entries)
