"""When keys are due: the deadlines of one group's keys, bucket by bucket, earliest first.

Each bucket has a dict (key -> deadline) that is the truth, and a heap in which outdated entries
stay until they surface or outnumber the true ones. Over the heaps lies one more, of buckets, by
their earliest deadline. So no structure grows with the whole key space, no pause does either,
and the order in which keys are handed out, (deadline, bucket, key), does not depend on which
outdated entries a replica happens to carry: a replica restored from a snapshot carries none.
"""

from collections.abc import Sized
from heapq import heapify, heappop, heappush

HEAP_SLACK = 32
"""Outdated entries a bucket's heap may hold beyond the number of its true ones."""


class Deadlines:
    """Deadlines in milliseconds of log time. The caller says which bucket a key belongs to."""

    __slots__ = ("_buckets_max", "_due_buckets", "_heaps", "by_bucket")

    by_bucket: list[dict[bytes, int]]
    """Key -> deadline. For reading; change it through the methods only."""

    def __init__(self, bucket_count: int) -> None:
        self.by_bucket = [{} for _ in range(bucket_count)]
        self._heaps: list[list[tuple[int, bytes]]] = [[] for _ in range(bucket_count)]
        # Holds for every bucket with deadlines an entry no later than its earliest one.
        self._due_buckets: list[tuple[int, int]] = []
        self._buckets_max = 4 * bucket_count

    def __len__(self) -> int:
        return sum(map(len, self.by_bucket))

    def set(self, number: int, key: bytes, deadline_ms: int) -> None:
        """Give a key of bucket ``number`` a deadline, in place of the one it may have."""
        bucket, heap = self.by_bucket[number], self._heaps[number]
        bucket[key] = deadline_ms
        heappush(heap, (deadline_ms, key))
        if heap[0][0] == deadline_ms:
            self._push_bucket(deadline_ms, number)
        self._trim(number)

    def discard(self, number: int, key: bytes) -> bool:
        """Forget a key's deadline and tell whether it had one."""
        if self.by_bucket[number].pop(key, None) is None:
            return False
        self._trim(number)
        return True

    def due_bucket(self, now_ms: int) -> int | None:
        """Return the bucket of the earliest deadline if that has passed, else None."""
        first = self._first()
        return None if first is None or first[0] > now_ms else first[1]

    def first_key(self, number: int) -> bytes:
        """Return the key whose deadline ``take_first`` would forget."""
        return self._heaps[number][0][1]

    def take_first(self, number: int) -> bytes:
        """Forget the earliest deadline of a bucket that ``due_bucket`` has just named."""
        _, key = heappop(self._heaps[number])
        del self.by_bucket[number][key]
        return key

    def next_ms(self) -> int | None:
        """Return the earliest deadline, None when there is none."""
        first = self._first()
        return None if first is None else first[0]

    def clear(self) -> None:
        """Forget all deadlines."""
        for number, heap in enumerate(self._heaps):
            # Another one, since frozen keys may hold on to what was there.
            self.by_bucket[number] = {}
            heap.clear()
        self._due_buckets.clear()

    def parts(self) -> list[Sized]:
        """Return what it is made of, so that it can be freed part by part."""
        return [*self.by_bucket, *self._heaps]

    def _first(self) -> tuple[int, int] | None:
        """Surface the earliest true (deadline, bucket): outdated entries before it go."""
        due_buckets = self._due_buckets
        while due_buckets:
            first = due_buckets[0]
            number = first[1]
            bucket, heap = self.by_bucket[number], self._heaps[number]
            while heap and bucket.get(heap[0][1]) != heap[0][0]:
                heappop(heap)
            if heap and heap[0][0] == first[0]:
                return first
            heappop(due_buckets)
            if heap:
                heappush(due_buckets, (heap[0][0], number))
        return None

    def _push_bucket(self, deadline_ms: int, number: int) -> None:
        due_buckets = self._due_buckets
        heappush(due_buckets, (deadline_ms, number))
        if len(due_buckets) > self._buckets_max:
            due_buckets[:] = [(heap[0][0], at) for at, heap in enumerate(self._heaps) if heap]
            heapify(due_buckets)

    def _trim(self, number: int) -> None:
        """Rebuild a heap most of which is outdated. Its earliest entry can only become later."""
        bucket, heap = self.by_bucket[number], self._heaps[number]
        if len(heap) > 2 * len(bucket) + HEAP_SLACK:
            heap[:] = [(deadline_ms, key) for key, deadline_ms in bucket.items()]
            heapify(heap)
