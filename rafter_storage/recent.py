"""The newest entries of a group, kept in memory under a byte bound.

Followers that are nearly caught up and the apply loop read only these, so that the disk is not
read at all in ordinary running. The cache always ends at the log's last index: whatever the log
cuts is cut here in the same call (cockroach#63473 is the bug of a cache that did not).
"""

from collections import deque
from collections.abc import Sequence

from rafter_core.entries import Entry

__all__ = ["ENTRY_OVERHEAD_BYTES", "RecentEntries"]

# What a small entry costs in CPython beside its payload: a tuple, two ints, the bytes object.
ENTRY_OVERHEAD_BYTES = 200


class RecentEntries:
    """A suffix of one group's log. Owner thread only.

    Entries are counted and evicted in the batches that they came in, because to look at each one
    would cost more than all else that is done for it.
    """

    __slots__ = ("_batches", "_bytes", "_bytes_max", "_entries", "first_index")

    def __init__(self, bytes_max: int, last_index: int = 0) -> None:
        self.first_index = last_index + 1
        self._entries: list[Entry] = []
        # (first index, bytes) of each batch, in order.
        self._batches: deque[tuple[int, int]] = deque()
        self._bytes = 0
        self._bytes_max = bytes_max

    def __len__(self) -> int:
        return len(self._entries)

    def restart(self, last_index: int) -> None:
        """Forget everything; the next entry to come is ``last_index + 1`` or lower."""
        self._entries.clear()
        self._batches.clear()
        self._bytes = 0
        self.first_index = last_index + 1

    def append(self, entries: Sequence[Entry], size_bytes: int) -> None:
        """Add entries at their index, dropping what was there and above.

        ``size_bytes`` is at least what their payloads take. The oldest batches are evicted until at
        most ``bytes_max`` bytes are held, each entry counted with its overhead. The newest batch
        always stays, so the bound is exceeded by at most one batch.
        """
        first_index = entries[0].index
        if first_index <= self.first_index:
            self.restart(first_index - 1)
        elif first_index < self.first_index + len(self._entries):
            self._truncate(first_index)
        size_bytes += ENTRY_OVERHEAD_BYTES * len(entries)
        self._entries += entries
        self._batches.append((first_index, size_bytes))
        self._bytes += size_bytes
        if self._bytes > self._bytes_max:
            self._evict()

    def slice(self, low: int, high: int) -> list[Entry]:
        """Return the entries [low, high); ``low`` must be at ``first_index`` or above."""
        return self._entries[low - self.first_index : high - self.first_index]

    def _truncate(self, first_index: int) -> None:
        del self._entries[first_index - self.first_index :]
        # A batch that is cut in the middle keeps its bytes: counted too high until it goes.
        while self._batches[-1][0] >= first_index:
            self._bytes -= self._batches.pop()[1]

    def _evict(self) -> None:
        # A sixteenth goes at once: so a full cache does not move its list on every small append,
        # and no append has to let go of thousands of entries, which takes longer than a sync.
        bytes_target = self._bytes_max - self._bytes_max // 16
        batches = self._batches
        while len(batches) > 1 and self._bytes > bytes_target:
            self._bytes -= batches.popleft()[1]
        first_index = batches[0][0]
        del self._entries[: first_index - self.first_index]
        self.first_index = first_index
