"""The outbox of one link: what was posted to a shard since the last flush.

Items are packed when they are posted: their size is then known and not guessed, and what
the caller does with the object afterwards cannot change what is sent.
"""

from rafter_transport.counters import Counters
from rafter_transport.framing import HEADER_BYTES
from rafter_transport.link import Link
from rafter_transport.payload import (
    CHANNEL_OVERHEAD_BYTES,
    ITEM_OVERHEAD_BYTES,
    PAYLOAD_OVERHEAD_BYTES,
    join_payload,
)
from rafter_transport.peer_counters import PeerCounters


class Outbox:
    """Items waiting for the next flush, already cut into frames no larger than the limit.

    Belongs to one link for as long as that is up; with the link its items are gone.
    The caller keeps to `fits` and to its limits before `add`.
    """

    __slots__ = ("_channels", "_counters", "_frame_bytes", "_frame_bytes_max", "_frames", "_peer",
                 "link", "queued_bytes")  # fmt: skip

    def __init__(
        self, link: Link, frame_bytes_max: int, counters: Counters, peer: PeerCounters
    ) -> None:
        self.link = link
        self._peer = peer
        self.queued_bytes = 0
        self._frame_bytes_max = frame_bytes_max
        self._counters = counters
        self._frames: list[bytes] = []
        self._channels: dict[int, list[bytes]] = {}
        self._frame_bytes = PAYLOAD_OVERHEAD_BYTES

    @property
    def pending_bytes(self) -> int:
        """Bytes posted or sent to this shard that the operating system has not taken yet."""
        return self.queued_bytes + self.link.pending_bytes

    def fits(self, packed: bytes) -> bool:
        """Whether a frame can hold this item at all."""
        return len(packed) + ITEM_OVERHEAD_BYTES <= self._frame_bytes_max

    def add(self, channel: int, packed: bytes) -> None:
        """Append one packed item to the frame in the making, or to a new one if that is full."""
        size = len(packed)
        if self._frame_bytes + CHANNEL_OVERHEAD_BYTES + size > self._frame_bytes_max:
            self._seal()
        items = self._channels.get(channel)
        if items is None:
            self._channels[channel] = [packed]
            self._frame_bytes += CHANNEL_OVERHEAD_BYTES + size
        else:
            items.append(packed)
            self._frame_bytes += size
        self.queued_bytes += size

    def flush(self) -> None:
        """Hand everything to the link: one frame, more only where the limit demands it."""
        if self._channels:
            self._seal()
        frames = self._frames
        if not frames:
            return
        self._frames = []
        self.queued_bytes = 0
        sent_bytes = 0
        for frame in frames:
            self.link.send(frame)
            sent_bytes += HEADER_BYTES + len(frame)
        for counters in (self._counters, self._peer):
            counters.frames_sent_total += len(frames)
            counters.bytes_sent_total += sent_bytes

    def clear(self) -> None:
        """Forget everything: the link is gone."""
        self._frames = []
        self._channels = {}
        self._frame_bytes = PAYLOAD_OVERHEAD_BYTES
        self.queued_bytes = 0

    def _seal(self) -> None:
        """Close the frame in the making."""
        if self._channels:
            self._frames.append(join_payload(self._channels))
            self._channels = {}
        self._frame_bytes = PAYLOAD_OVERHEAD_BYTES


class NodeOutboxes:
    """The outboxes of all shards of one node, which have a bound together.

    To add them all up at each post would cost more than the post. So the sum is known from above:
    what it was when it was last added up, and all that was posted since.
    """

    __slots__ = ("_bytes_max", "_known_bytes", "outboxes")

    def __init__(self, bytes_max: int) -> None:
        self.outboxes: set[Outbox] = set()
        self._bytes_max = bytes_max
        self._known_bytes = 0

    def take(self, size: int) -> bool:
        """Let so much more wait; return False, and change nothing, if it would be too much."""
        known_bytes = self._known_bytes + size
        if known_bytes > self._bytes_max:
            self._known_bytes = sum(outbox.pending_bytes for outbox in self.outboxes)
            known_bytes = self._known_bytes + size
            if known_bytes > self._bytes_max:
                return False
        self._known_bytes = known_bytes
        return True
