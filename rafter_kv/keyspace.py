"""The keys of one group: 1024 small dicts instead of a large one, values as plain bytes.

A large dict stops the world for 100 ms when it grows; a thousandth of it does not. The bucket of
a key comes from its xxh3 hash, which all replicas share, so a SCAN may go on at another replica.
Values are ``bytes``, which the garbage collector need not walk. Deadlines lie beside them.

Nothing here looks at a clock: each method that depends on the time is told it.
"""

from collections.abc import Iterator, Sized
from typing import TypeVar

from xxhash import xxh3_64_intdigest

from rafter_kv.deadlines import Deadlines
from rafter_kv.slots import POSITION_BITS

Item = TypeVar("Item")

BUCKET_BITS = 10
BUCKET_COUNT = 1 << BUCKET_BITS
BUCKET_MASK = BUCKET_COUNT - 1
_HASH_BITS = POSITION_BITS - BUCKET_BITS
_HASH_MASK = (1 << _HASH_BITS) - 1

VALUE_BYTES_MAX = 16 << 20
"""What a value may grow to. Part of the state machine: all replicas must agree on it."""


class ScanPage:
    """Keys found by one step of a scan, and the position of the next step (0: no more)."""

    __slots__ = ("keys", "position")

    def __init__(self, keys: list[bytes], position: int) -> None:
        self.keys = keys
        self.position = position


class FrozenKeys:
    """The keys as they were when it was made, while the key space goes on changing.

    The owner's thread keeps what a key was before its first change. ``bucket`` may be called from
    another thread: a live bucket is copied, and what was kept put back into the copy. A change in
    between is kept before it happens, so it makes no difference. Close it when done.

    Keeping whole buckets would be simpler; but to copy one takes as long as a hundred changes, and
    a batch may touch all of them.
    """

    __slots__ = ("_cleared", "_keyspace", "_originals", "expires_count", "key_count")

    def __init__(self, keyspace: "KeySpace") -> None:
        self._keyspace = keyspace
        # By bucket, and None once that is read: value and deadline of each key that has changed,
        # None for what it had not.
        self._originals: list[dict[bytes, tuple[bytes | None, int | None]] | None]
        self._originals = [{} for _ in range(BUCKET_COUNT)]
        # The buckets of values and of deadlines that were there when all keys were removed.
        self._cleared: tuple[list[dict[bytes, bytes]], list[dict[bytes, int]]] | None = None
        self.key_count = keyspace.key_count
        self.expires_count = keyspace.expires_count

    def keep(self, number: int, key: bytes) -> None:
        """Keep a key of bucket ``number`` as it is before its first change. Owner's thread."""
        originals = self._originals[number]
        if originals is not None and key not in originals and self._cleared is None:
            keyspace = self._keyspace
            value = keyspace.buckets[number].get(key)
            originals[key] = value, keyspace.deadlines.by_bucket[number].get(key)

    def keep_all(self) -> None:
        """Keep the buckets as they are, which are about to be replaced. Owner's thread."""
        if self._cleared is None:
            keyspace = self._keyspace
            self._cleared = [*keyspace.buckets], [*keyspace.deadlines.by_bucket]

    def bucket(self, number: int) -> tuple[dict[bytes, bytes], dict[bytes, int]]:
        """Return the values and deadlines of one bucket as they were; once for each bucket.

        Raises RuntimeError once it is closed, or given up for a later one.
        """
        keyspace = self._keyspace
        values = keyspace.buckets[number].copy()
        deadlines = keyspace.deadlines.by_bucket[number].copy()
        # Only now: whatever was changed in the copies is in here.
        cleared = self._cleared
        if cleared is not None:
            values, deadlines = cleared[0][number].copy(), cleared[1][number].copy()
        originals = self._originals[number]
        changed = {} if originals is None else originals.copy()
        self._originals[number] = None
        if keyspace.frozen is not self or originals is None:
            raise RuntimeError("these frozen keys were read, closed, or given up for later ones")
        for key, (value, deadline_ms) in changed.items():
            _put_back(values, key, value)
            _put_back(deadlines, key, deadline_ms)
        return values, deadlines

    def close(self) -> None:
        """Let the key space change without keeping anything. Closing twice is harmless."""
        if self._keyspace.frozen is self:
            self._keyspace.frozen = None
        # One by one, which lets other threads work meanwhile.
        for number in range(BUCKET_COUNT):
            self._originals[number] = None
        cleared, self._cleared = self._cleared, None
        for buckets in cleared or ():
            while buckets:
                buckets.pop()


def _put_back(bucket: dict[bytes, Item], key: bytes, item: Item | None) -> None:
    if item is None:
        bucket.pop(key, None)
    else:
        bucket[key] = item


class KeySpace:
    """Keys, values and deadlines of one group.

    One owner changes it. Readers of ``buckets`` must hide keys past their deadline themselves;
    writers of ``buckets`` outside this class must clear the deadline, and may not write while
    ``frozen`` is set.
    """

    __slots__ = ("buckets", "deadlines", "frozen")

    def __init__(self) -> None:
        self.buckets: list[dict[bytes, bytes]] = [{} for _ in range(BUCKET_COUNT)]
        self.deadlines = Deadlines(BUCKET_COUNT)
        self.frozen: FrozenKeys | None = None

    def freeze(self) -> FrozenKeys:
        """Return the keys as they are now, for as long as it takes to read them.

        One at a time: an earlier one that is still open is given up.
        """
        self.frozen = FrozenKeys(self)
        return self.frozen

    def release(self) -> list[Sized]:
        """Return its parts, for who lets go of the key space and then of them, one by one.

        Any thread. Frozen keys are given up. Who still looks into the key space finds everything.
        """
        self.frozen = None
        return [*self.buckets, *self.deadlines.parts()]

    @property
    def key_count(self) -> int:
        """Count the keys, those past their deadline and not yet removed included, as Redis does."""
        return sum(map(len, self.buckets))

    @property
    def expires_count(self) -> int:
        """Count the keys that have a deadline."""
        return len(self.deadlines)

    def get(self, key: bytes, now_ms: int) -> bytes | None:
        """Return the value of a key that is there at ``now_ms``. Changes nothing."""
        number = xxh3_64_intdigest(key) & BUCKET_MASK
        value = self.buckets[number].get(key)
        if value is not None:
            deadline_ms = self.deadlines.by_bucket[number].get(key)
            if deadline_ms is not None and deadline_ms <= now_ms:
                return None
        return value

    def take(self, key: bytes, now_ms: int) -> bytes | None:
        """Return the value as ``get`` does, for a write: a key past its deadline is removed.

        So what is then put in its place does not inherit the old deadline.
        """
        value = self.get(key, now_ms)
        if value is None:
            self.remove(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key's value, and clear its deadline."""
        number = xxh3_64_intdigest(key) & BUCKET_MASK
        self._keep(number, key)
        self.buckets[number][key] = value
        self.deadlines.discard(number, key)

    def replace(self, key: bytes, value: bytes) -> None:
        """Set a key's value, and keep its deadline."""
        number = xxh3_64_intdigest(key) & BUCKET_MASK
        self._keep(number, key)
        self.buckets[number][key] = value

    def remove(self, key: bytes) -> bool:
        """Remove a key with its deadline; tell whether it was there, due or not."""
        number = xxh3_64_intdigest(key) & BUCKET_MASK
        if key not in self.buckets[number]:
            return False
        self._keep(number, key)
        del self.buckets[number][key]
        self.deadlines.discard(number, key)
        return True

    def deadline_ms(self, key: bytes) -> int | None:
        """Return the deadline of a key, None if it has none."""
        return self.deadlines.by_bucket[xxh3_64_intdigest(key) & BUCKET_MASK].get(key)

    def set_deadline(self, key: bytes, deadline_ms: int) -> None:
        """Give a key that is there a deadline."""
        number = xxh3_64_intdigest(key) & BUCKET_MASK
        assert key in self.buckets[number], "a deadline needs a key"
        self._keep(number, key)
        self.deadlines.set(number, key, deadline_ms)

    def clear_deadline(self, key: bytes) -> bool:
        """Make a key stay; tell whether it had a deadline."""
        number = xxh3_64_intdigest(key) & BUCKET_MASK
        self._keep(number, key)
        return self.deadlines.discard(number, key)

    def remove_due(self, now_ms: int, count_max: int) -> int:
        """Remove up to ``count_max`` keys past their deadline, earliest first; return how many."""
        for removed in range(count_max):
            number = self.deadlines.due_bucket(now_ms)
            if number is None:
                return removed
            self._keep(number, self.deadlines.first_key(number))
            del self.buckets[number][self.deadlines.take_first(number)]
        return count_max

    def clear(self) -> None:
        """Remove all keys."""
        frozen = self.frozen
        if frozen is not None:
            frozen.keep_all()
        for number in range(BUCKET_COUNT):
            self.buckets[number] = {}
        self.deadlines.clear()

    def keys(self, now_ms: int) -> Iterator[bytes]:
        """Iterate over the keys that are there at ``now_ms``. The key space must not change."""
        for bucket, deadlines in zip(self.buckets, self.deadlines.by_bucket, strict=True):
            if deadlines:
                for key in bucket:
                    if deadlines.get(key, now_ms + 1) > now_ms:
                        yield key
            else:
                yield from bucket

    def scan(self, position: int, count: int, now_ms: int) -> ScanPage:
        """Look at ``count`` keys or a few more, from ``position`` on, in order of their hash.

        A position is (bucket, 24 bits of the hash), so it means the same after any insertion,
        removal or resize, and at every replica: a key that is there from the first step to the
        last is returned, exactly once. Raises ValueError for a position out of range.
        """
        if not 0 <= position < 1 << POSITION_BITS:
            raise ValueError(f"scan position {position} is out of range")
        found: list[bytes] = []
        number, threshold = position >> _HASH_BITS, position & _HASH_MASK
        seen = 0
        while number < BUCKET_COUNT:
            bucket, deadlines = self.buckets[number], self.deadlines.by_bucket[number]
            hashed = sorted(
                (place, key)
                for key in bucket
                if (place := xxh3_64_intdigest(key) >> BUCKET_BITS & _HASH_MASK) >= threshold
            )
            last_place = -1
            for place, key in hashed:
                # Keys that share their place cannot be told apart by a position: all or none.
                if seen >= count and place != last_place:
                    return ScanPage(found, number << _HASH_BITS | place)
                seen, last_place = seen + 1, place
                if deadlines.get(key, now_ms + 1) > now_ms:
                    found.append(key)
            number, threshold = number + 1, 0
        return ScanPage(found, 0)

    def _keep(self, number: int, key: bytes) -> None:
        """Let a key be kept as it is before it changes, if there are frozen keys."""
        # Read once: another thread may close the frozen keys at any moment.
        frozen = self.frozen
        if frozen is not None:
            frozen.keep(number, key)
