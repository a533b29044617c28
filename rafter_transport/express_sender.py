"""The sending side of one try of a transfer, without sockets, disks and clocks.

Its driver passes in what the receiver said and what time it is, sends the chunks that it names, and
stops once there is an `outcome`. Times are seconds of any clock that never goes back.
"""

from enum import Enum, StrEnum
from typing import NamedTuple

from rafter_transport.express_messages import (
    OK,
    RETRIED_CODES,
    Accept,
    Ack,
    Cancel,
    Done,
    ExpressError,
    Message,
    Offer,
    Refuse,
)


class Ending(StrEnum):
    """How a transfer, or one try of it, has ended."""

    FINISHED = "finished"
    REFUSED = "refused"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    CANCELLED = "cancelled"
    PEER_GONE = "peer gone"


class Outcome(NamedTuple):
    """The end of a transfer or of a try; `is_retried` if another try may end better."""

    ending: Ending
    text: str
    is_retried: bool = False

    @property
    def reason(self) -> str:
        """For a caller or a log; empty if all went well."""
        return "" if self.ending is Ending.FINISHED else f"{self.ending.value}: {self.text}"


class _State(Enum):
    OFFERED = 1
    SENDING = 2
    ENDED = 3


class SendMachine:
    """One try: offered when it is made, then accepted, sent, done.

    `acknowledged` is the number of chunks that the receiver has written, `resumed_at` what it had
    at the beginning of this try. `outcome` is set once and stays.
    """

    __slots__ = ("_chunk_count", "_finish_seconds", "_next_chunk", "_offer", "_progress_seconds",
                 "_quiet_since_seconds", "_state", "_window_chunks", "acknowledged", "outcome",
                 "resumed_at")  # fmt: skip

    def __init__(
        self,
        offer: Offer,
        *,
        window_chunks: int,
        progress_seconds: float,
        finish_seconds: float,
        now_seconds: float,
    ) -> None:
        self.outcome: Outcome | None = None
        self.acknowledged = 0
        self.resumed_at = 0
        self._offer = offer
        self._chunk_count = offer.chunk_count
        self._window_chunks = window_chunks
        self._progress_seconds = progress_seconds
        self._finish_seconds = finish_seconds
        self._quiet_since_seconds = now_seconds
        self._next_chunk = 0
        self._state = _State.OFFERED

    @property
    def next_to_read(self) -> int | None:
        """The chunk that is sent next, be there room for it or not; None if no chunk is left."""
        is_left = self._state is _State.SENDING and self._next_chunk < self._chunk_count
        return self._next_chunk if is_left else None

    @property
    def next_to_send(self) -> int | None:
        """The chunk to send now; None while the window is full, and when none is left."""
        if self._next_chunk >= self.acknowledged + self._window_chunks:
            return None
        return self.next_to_read

    @property
    def deadline_seconds(self) -> float | None:
        """When to call `expire`; None while it is this side's turn to do something."""
        if self._state is _State.ENDED:
            return None
        if self._state is _State.SENDING:
            if self.acknowledged == self._chunk_count:
                return self._quiet_since_seconds + self._finish_seconds
            if self._next_chunk == self.acknowledged:
                return None
        return self._quiet_since_seconds + self._progress_seconds

    def sent(self, number: int, now_seconds: float) -> None:
        """Take note that the chunk `next_to_send` is on its way."""
        assert number == self.next_to_send
        if self._next_chunk == self.acknowledged:
            self._quiet_since_seconds = now_seconds
        self._next_chunk += 1

    def receive(self, message: Message, now_seconds: float) -> None:
        """Take in what the receiver says. Raises ExpressError if it makes no sense.

        After the end everything is ignored: it was on its way.
        """
        if self._state is _State.ENDED:
            return
        if message.transfer != self._offer.transfer:
            raise ExpressError("a message of another transfer")
        if isinstance(message, Refuse) and self._state is _State.OFFERED:
            self._end(Ending.REFUSED, message.text, message.code in RETRIED_CODES)
        elif isinstance(message, Accept) and self._state is _State.OFFERED:
            self._accepted(message, now_seconds)
        elif isinstance(message, Ack) and self._state is _State.SENDING:
            if not self.acknowledged < message.next_chunk <= self._next_chunk:
                raise ExpressError(
                    f"chunks to {message.next_chunk} acknowledged, {self._next_chunk} are sent "
                    f"and {self.acknowledged} were acknowledged before"
                )
            self.acknowledged = message.next_chunk
            self._quiet_since_seconds = now_seconds
        elif isinstance(message, Done) and self._state is _State.SENDING:
            self._done(message)
        elif isinstance(message, Cancel):
            self._end(Ending.CANCELLED, f"by the receiver: {message.text}")
        else:
            raise ExpressError(f"{type(message).__name__} came out of turn")

    def expire(self, now_seconds: float) -> None:
        """End the try if its deadline has passed."""
        deadline_seconds = self.deadline_seconds
        if deadline_seconds is not None and now_seconds >= deadline_seconds:
            self._end(Ending.TIMED_OUT, "the receiver makes no progress", is_retried=True)

    def lose(self, text: str) -> None:
        """End the try: the connection is gone."""
        self._end(Ending.PEER_GONE, text, is_retried=True)

    def fail(self, text: str, *, is_retried: bool = False) -> None:
        """End the try: this side cannot go on, or the receiver's messages make no sense."""
        self._end(Ending.FAILED, text, is_retried)

    def cancel(self, text: str) -> Cancel | None:
        """End the try as its owner wants; return what to tell the receiver, None if it is over."""
        if self._state is _State.ENDED:
            return None
        self._end(Ending.CANCELLED, text)
        return Cancel(self._offer.transfer, text)

    def _accepted(self, message: Accept, now_seconds: float) -> None:
        if message.next_chunk > self._chunk_count:
            raise ExpressError(
                f"chunk {message.next_chunk} is asked for, there are {self._chunk_count}"
            )
        self.acknowledged = self.resumed_at = self._next_chunk = message.next_chunk
        self._window_chunks = min(self._window_chunks, message.window_chunks)
        self._quiet_since_seconds = now_seconds
        self._state = _State.SENDING

    def _done(self, message: Done) -> None:
        if message.code != OK:
            self._end(Ending.FAILED, message.text, message.code in RETRIED_CODES)
        elif self.acknowledged < self._chunk_count:
            raise ExpressError("done before all chunks were acknowledged")
        else:
            self._end(Ending.FINISHED, "")

    def _end(self, ending: Ending, text: str, is_retried: bool = False) -> None:
        if self.outcome is None:
            self._state = _State.ENDED
            self.outcome = Outcome(ending, text, is_retried)
