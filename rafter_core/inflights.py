"""The window of appends that were sent to one follower and not yet acknowledged."""

from __future__ import annotations

from collections import deque

from rafter_core.errors import InvariantError


class Inflights:
    """A queue of (last index, bytes) of messages, limited by count and by bytes.

    The byte limit is soft: the last message may overshoot it. Nothing is allocated before use,
    since a node has thousands of idle replicas.
    """

    __slots__ = ("_queue", "bytes_max", "bytes_total", "is_full", "messages_max")

    def __init__(self, messages_max: int, bytes_max: int) -> None:
        self.messages_max = messages_max
        self.bytes_max = bytes_max
        self.bytes_total = 0
        self.is_full = False
        self._queue: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, last_index: int, size_bytes: int) -> None:
        """Record a message that was sent. Must not be called on a full window."""
        if self.is_full:
            raise InvariantError("cannot add to a full window of inflight messages")
        self._queue.append((last_index, size_bytes))
        self.bytes_total += size_bytes
        self._update()

    def free_to(self, index: int) -> None:
        """Forget every message whose entries are all acknowledged up to `index`."""
        queue = self._queue
        while queue and queue[0][0] <= index:
            self.bytes_total -= queue.popleft()[1]
        self._update()

    def reset(self) -> None:
        """Forget everything, bytes included (etcd-io/raft#54 leaked them)."""
        self._queue.clear()
        self.bytes_total = 0
        self.is_full = False

    def _update(self) -> None:
        self.is_full = len(self._queue) >= self.messages_max or self.bytes_total >= self.bytes_max
