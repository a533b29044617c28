"""The receiving side of one connection, without sockets, disks and clocks.

Its driver passes in what the sender said, does what `task` names, and reports it done; what comes
back from those calls is to be sent. It stops once there is an `outcome`.
"""

from enum import Enum

from rafter_transport.express_limits import ExpressLimits
from rafter_transport.express_messages import (
    CHECKSUM,
    OK,
    Accept,
    Ack,
    Cancel,
    Chunk,
    Done,
    ExpressError,
    Message,
    Offer,
    Refuse,
    is_sound,
    readable,
)
from rafter_transport.express_sender import Ending, Outcome

_WRITES_PER_WINDOW = 4


class Task(Enum):
    """What the driver is to do next."""

    NOTHING = 0
    BEGIN = 1
    WRITE = 2
    FINISH = 3


class _State(Enum):
    WAITING = 1
    OPENING = 2
    RECEIVING = 3
    ENDED = 4


class ReceiveMachine:
    """One transfer: waits for the offer, asks for it to be opened, then for chunks to be written.

    `offer` is None before it came. `written` is the number of chunks that are with the sink,
    `resumed_at` how many were there at the beginning. `is_damaged` tells that a chunk came damaged:
    what was written before it is as good as ever. `outcome` is set once and stays.
    """

    __slots__ = ("_chunk_bytes", "_is_working", "_limits", "_node", "_peer",
                 "_queue", "_quiet_since_seconds", "_received", "_state", "_window_chunks",
                 "is_damaged", "offer", "outcome", "resumed_at", "written")  # fmt: skip

    def __init__(self, node: int, peer: int, limits: ExpressLimits, now_seconds: float) -> None:
        """`node` is this one, `peer` the one that the handshake found at the other end."""
        self.offer: Offer | None = None
        self.outcome: Outcome | None = None
        self.is_damaged = False
        self.written = 0
        self.resumed_at = 0
        self._node = node
        self._peer = peer
        self._limits = limits
        self._quiet_since_seconds = now_seconds
        self._state = _State.WAITING
        self._queue: list[Chunk] = []
        self._received = 0
        self._window_chunks = 1
        self._chunk_bytes = 0
        self._is_working = False

    @property
    def task(self) -> Task:
        """What is to be done now; NOTHING while something is being done already."""
        if self._is_working:
            return Task.NOTHING
        if self._state is _State.OPENING:
            return Task.BEGIN
        if self._state is not _State.RECEIVING:
            return Task.NOTHING
        if self._queue:
            return Task.WRITE
        assert self.offer is not None
        return Task.FINISH if self.written == self.offer.chunk_count else Task.NOTHING

    @property
    def deadline_seconds(self) -> float | None:
        """When to call `expire`; None while it is this side's turn to do something."""
        if self._state is _State.ENDED or self._is_working or self.task is not Task.NOTHING:
            return None
        return self._quiet_since_seconds + self._limits.progress_seconds

    def receive(self, message: Message, now_seconds: float) -> Message | None:
        """Take in what the sender says; return what to answer at once.

        Raises ExpressError if it makes no sense. After the end everything is ignored.
        """
        if self._state is _State.ENDED:
            return None
        if self.offer is not None and message.transfer != self.offer.transfer:
            raise ExpressError("a message of another transfer")
        if isinstance(message, Offer) and self._state is _State.WAITING:
            return self._offered(message)
        if isinstance(message, Chunk) and self._state is _State.RECEIVING:
            self._quiet_since_seconds = now_seconds
            return self._chunk(message)
        if isinstance(message, Cancel) and self.offer is not None:
            self._end(Ending.CANCELLED, f"by the sender: {message.text}")
            return None
        raise ExpressError(f"{type(message).__name__} came out of turn")

    def begin(self) -> Offer:
        """Return the offer to open a sink for; the task BEGIN is under way."""
        assert self.task is Task.BEGIN
        assert self.offer is not None
        self._is_working = True
        return self.offer

    def begun(
        self, next_chunk: int, chunk_count: int, chunk_bytes: int, now_seconds: float
    ) -> Message | None:
        """Take note that the sink is open and holds `next_chunk` of its `chunk_count` chunks.

        `chunk_bytes` is the length of its longest chunk. Returns what to send, None after the end.
        """
        self._is_working = False
        if self._state is _State.ENDED:
            return None
        assert self.offer is not None
        assert 0 <= next_chunk <= chunk_count
        if chunk_count != self.offer.chunk_count:
            return self.refuse(
                "manifest",
                f"{self.offer.chunk_count} chunks are offered, the manifest has {chunk_count}",
            )
        if chunk_bytes > self._limits.chunk_bytes_max:
            return self.refuse(
                "chunk-bytes",
                f"chunks of {chunk_bytes} bytes, at most {self._limits.chunk_bytes_max} are taken",
            )
        self._chunk_bytes = chunk_bytes
        self._window_chunks = self._limits.window_chunks(chunk_bytes)
        self.written = self.resumed_at = self._received = next_chunk
        self._quiet_since_seconds = now_seconds
        self._state = _State.RECEIVING
        return Accept(self.offer.transfer, next_chunk, self._window_chunks)

    def refuse(self, code: str, text: str) -> Message | None:
        """End it before it began; return what to send, None after the end."""
        self._is_working = False
        if self._state is _State.ENDED:
            return None
        assert self.offer is not None
        self._end(Ending.REFUSED, text)
        return Refuse(self.offer.transfer, code, readable(text))

    def take(self) -> list[Chunk]:
        """Return the chunks to write, in order, at most a quarter window; WRITE is under way.

        A thread that writes one chunk after the other lets go of the interpreter for so short times
        that the loop may not be quick enough to get it. Between two calls it is.
        """
        assert self.task is Task.WRITE
        self._is_working = True
        count = max(1, self._window_chunks // _WRITES_PER_WINDOW)
        taken, self._queue = self._queue[:count], self._queue[count:]
        return taken

    def wrote(self, count: int, now_seconds: float) -> Message | None:
        """Take note that `count` chunks are written; return the ACK, None after the end."""
        self._is_working = False
        if self._state is _State.ENDED:
            return None
        assert self.offer is not None
        self.written += count
        self._quiet_since_seconds = now_seconds
        return Ack(self.offer.transfer, self.written)

    def finish(self) -> None:
        """Take note that the task FINISH is under way."""
        assert self.task is Task.FINISH
        self._is_working = True

    def finished(self) -> Message | None:
        """Take note that the whole is durable and in use; return the DONE, None after the end."""
        self._is_working = False
        if self._state is _State.ENDED:
            return None
        assert self.offer is not None
        self._end(Ending.FINISHED, "")
        return Done(self.offer.transfer, OK, "")

    def fail(self, code: str, text: str, ending: Ending = Ending.FAILED) -> Message | None:
        """End it as it cannot go on; return what to send, None after the end or before an offer."""
        self._is_working = False
        if self._state is _State.ENDED:
            return None
        was_opening = self._state is _State.OPENING
        self._end(ending, text)
        if self.offer is None:
            return None
        kind = Refuse if was_opening else Done
        return kind(self.offer.transfer, code, readable(text))

    def expire(self, now_seconds: float) -> Message | None:
        """End it if the sender brought nothing for too long; return what to send."""
        deadline_seconds = self.deadline_seconds
        if deadline_seconds is None or now_seconds < deadline_seconds:
            return None
        return self.fail("timed-out", "the sender makes no progress", Ending.TIMED_OUT)

    def lose(self, text: str) -> None:
        """End it: the connection is gone, or of no more use."""
        self._end(Ending.PEER_GONE, text)

    def cancel(self, text: str) -> Message | None:
        """End it as its owner wants; return what to tell the sender, None if it is over."""
        if self._state is _State.ENDED:
            return None
        self._end(Ending.CANCELLED, text)
        return None if self.offer is None else Cancel(self.offer.transfer, readable(text))

    def _offered(self, offer: Offer) -> Message | None:
        self.offer = offer
        if offer.sender != self._peer or offer.to != self._node:
            return self.refuse("other-peer", f"from {offer.sender} to {offer.to} on this lane")
        if (
            len(offer.manifest) > self._limits.manifest_bytes_max
            or len(offer.message) > self._limits.message_bytes_max
        ):
            return self.refuse(
                "too-large",
                f"a manifest of {len(offer.manifest)} bytes, a message of {len(offer.message)}",
            )
        self._state = _State.OPENING
        return None

    def _chunk(self, chunk: Chunk) -> Message | None:
        assert self.offer is not None
        if chunk.number != self._received or chunk.number >= self.offer.chunk_count:
            raise ExpressError(f"chunk {chunk.number} came, {self._received} is due")
        if chunk.number >= self.written + self._window_chunks:
            raise ExpressError(f"chunk {chunk.number} is beyond the window")
        if len(chunk.data) > self._chunk_bytes:
            raise ExpressError(f"chunk {chunk.number} has {len(chunk.data)} bytes")
        if not is_sound(chunk):
            return self._damaged(chunk.number)
        self._queue.append(chunk)
        self._received += 1
        return None

    def _damaged(self, number: int) -> Message:
        assert self.offer is not None
        text = f"chunk {number} was damaged on the way"
        self.is_damaged = True
        self._end(Ending.FAILED, text)
        return Done(self.offer.transfer, CHECKSUM, text)

    def _end(self, ending: Ending, text: str) -> None:
        if self.outcome is None:
            self._state = _State.ENDED
            self.outcome = Outcome(ending, text)
            self._queue.clear()
