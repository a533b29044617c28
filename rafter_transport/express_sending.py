"""Sending one snapshot: connections, the disk and the clock around `SendMachine`, try after try."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable

from rafter_transport.backoff import Backoff
from rafter_transport.dial import LaneUser
from rafter_transport.express_ends import Source, SourceError, Workshop
from rafter_transport.express_messages import (
    Cancel,
    ExpressError,
    Offer,
    decode,
    encode,
    make_chunk,
    readable,
)
from rafter_transport.express_sender import Ending, Outcome, SendMachine
from rafter_transport.handshake import HandshakeError
from rafter_transport.link import SocketLink

_READ_AHEAD_CHUNKS = 2
_FAILURES = (OSError, HandshakeError, UnicodeError)

Dial = Callable[[int, int, LaneUser], Awaitable[SocketLink]]


class SendTry:
    """One connection: chunks are read ahead while others are on their way.

    All of it happens in callbacks of the loop, and nothing of it waits. `done` gets the outcome,
    once no read of the source is under way any more.
    """

    def __init__(self, offer: Offer, source: Source, workshop: Workshop) -> None:
        self._offer = offer
        self._source = source
        self._workshop = workshop
        limits = workshop.limits
        self.machine = SendMachine(
            offer,
            window_chunks=limits.window_chunks(source.chunk_bytes),
            progress_seconds=limits.progress_seconds,
            finish_seconds=limits.finish_seconds,
            now_seconds=workshop.loop.time(),
        )
        self.done: asyncio.Future[Outcome] = workshop.loop.create_future()
        self.reading: asyncio.Future[bytes] | None = None
        self._link: SocketLink | None = None
        self._ahead: deque[bytes] = deque()
        self._due_seconds: float | None = None
        self._has_told = False
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, link: SocketLink) -> None:
        """Offer the snapshot on a connection that has just been made."""
        self._link = link
        if self.machine.outcome is None:
            link.send(encode(self._offer))
        self._pump()

    def received(self, payload: bytes) -> None:
        """Take one frame of the receiver's."""
        machine = self.machine
        try:
            machine.receive(decode(payload), self._workshop.loop.time())
        except ExpressError as error:
            self._workshop.counters.bad_messages_total += 1
            machine.fail(f"the receiver breaks the protocol: {error}", is_retried=True)
        self._pump()

    def lost(self, link: SocketLink) -> None:
        """Take note that the connection is gone."""
        self.machine.lose(str(link.error or "the connection was closed"))
        self._pump()

    def cancel(self, text: str, *, is_told: bool) -> None:
        """End it now; with `is_told`, the receiver is to throw away what it has."""
        message = self.machine.cancel(readable(text))
        if message is not None and is_told:
            self._tell(message)
        self._pump()

    def _pump(self) -> None:
        """Do all that can be done now, and see to be called again."""
        loop = self._workshop.loop
        machine = self.machine
        now_seconds = loop.time()
        machine.expire(now_seconds)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if machine.outcome is not None:
            self._end(machine.outcome)
            return
        self._read_ahead()
        self._send_ready(now_seconds)
        wake_seconds = machine.deadline_seconds
        if self._due_seconds is not None:
            wake_seconds = min(wake_seconds or self._due_seconds, self._due_seconds)
        if wake_seconds is not None:
            self._timer = loop.call_at(wake_seconds, self._pump)

    def _read_ahead(self) -> None:
        number = self.machine.next_to_read
        if number is None or self.reading is not None or len(self._ahead) >= _READ_AHEAD_CHUNKS:
            return
        number += len(self._ahead)
        if number < self._offer.chunk_count:
            self.reading = self._workshop.run(lambda: self._source.read_chunk(number))
            self.reading.add_done_callback(self._read)

    def _read(self, reading: "asyncio.Future[bytes]") -> None:
        self.reading = None
        error = None if reading.cancelled() else reading.exception()
        if reading.cancelled():
            self.machine.fail("express is closing")
        elif error is None:
            self._ahead.append(reading.result())
        elif self.machine.outcome is None:
            if not isinstance(error, SourceError):
                self._workshop.report_error("reading a snapshot failed", error)
            self._tell(Cancel(self._offer.transfer, "the sender cannot read its snapshot"))
            self.machine.fail(f"cannot read: {error}")
        self._pump()

    def _send_ready(self, now_seconds: float) -> None:
        """Send what was read, as far as window and rate allow."""
        workshop = self._workshop
        machine = self.machine
        assert self._link is not None
        while self._ahead and (number := machine.next_to_send) is not None:
            if self._due_seconds is None:
                delay_seconds = workshop.throttle.reserve(len(self._ahead[0]), now_seconds)
                self._due_seconds = now_seconds + delay_seconds
            if now_seconds < self._due_seconds:
                return
            self._due_seconds = None
            data = self._ahead.popleft()
            self._link.send(encode(make_chunk(self._offer.transfer, number, data)))
            machine.sent(number, now_seconds)
            workshop.counters.chunks_sent_total += 1
            workshop.counters.bytes_sent_total += len(data)
            self._read_ahead()

    def _tell(self, message: Cancel) -> None:
        if self._link is not None:
            self._link.send(encode(message))
            self._has_told = True

    def _end(self, outcome: Outcome) -> None:
        self._ahead.clear()
        if self._link is not None and not self._link.is_closing:
            # Behind a last word what is on its way may leave; else nobody wants it.
            if self._has_told:
                self._link.close()
            else:
                self._link.abort()
        if self.reading is None and not self.done.done():
            self.done.set_result(outcome)


class Sending:
    """One transfer, from its start to its outcome; `on_over(self, outcome)` is called once.

    `cancel` calls it before it returns. `on_left(self)` is called once more when nothing of the
    transfer runs any more: then its place is free, and the source closed.
    """

    def __init__(
        self,
        node: int,
        shard: int,
        offer: Offer,
        source: Source,
        *,
        dial: Dial,
        workshop: Workshop,
        generator: random.Random,
        on_over: Callable[["Sending", Outcome], None],
        on_left: Callable[["Sending"], None],
    ) -> None:
        self.node = node
        self.shard = shard
        self.offer = offer
        self.outcome: Outcome | None = None
        self.acknowledged = 0
        self.task: asyncio.Task[None] | None = None
        limits = workshop.limits
        self._source = source
        self._dial = dial
        self._workshop = workshop
        self._on_over = on_over
        self._on_left = on_left
        self._try: SendTry | None = None
        self._reading: asyncio.Future[bytes] | None = None
        self._backoff = Backoff(
            limits.retry_base_seconds, limits.retry_factor, limits.retry_cap_seconds,
            limits.tries_max, generator,
        )  # fmt: skip

    @property
    def key(self) -> tuple[int, int]:
        """The group and the node: there is one transfer at most for them."""
        return self.offer.group, self.node

    @property
    def chunks(self) -> int:
        """How many chunks are with the receiver."""
        current = 0 if self._try is None else self._try.machine.acknowledged
        return max(self.acknowledged, current)

    def start(self) -> None:
        """Begin; up to now it has been waiting for its turn."""
        self.task = self._workshop.loop.create_task(self._run())
        self.task.add_done_callback(self._left)

    def cancel(self, text: str, *, is_told: bool = True) -> None:
        """End it now. Without `is_told` the receiver keeps what it has, for another transfer."""
        self._over(Outcome(Ending.CANCELLED, text))
        if self._try is not None:
            self._try.cancel(text, is_told=is_told)
        elif self.task is None:
            self._source.close()
            self._on_left(self)
        elif self._reading is None:
            # It dials, or waits for the next try.
            self.task.cancel()

    async def _run(self) -> None:
        """Try until a try ends for good."""
        outcome = await self._prepare()
        while outcome is None:
            outcome = await self._attempt()
            if not outcome.is_retried or self.outcome is not None:
                break
            delay_seconds = self._backoff.next_delay()
            if delay_seconds is None:
                break
            self._workshop.counters.sends_retried_total += 1
            outcome = None
            await asyncio.sleep(delay_seconds)
        self._over(outcome)

    async def _prepare(self) -> Outcome | None:
        """Read the manifest and complete the offer; return why that cannot be."""
        if self.outcome is not None:
            return self.outcome
        workshop = self._workshop
        self._reading = workshop.run(self._source.read_manifest)
        try:
            # Shielded, so that a cancelled task still knows of the thread that reads.
            manifest = await asyncio.shield(self._reading)
        except SourceError as error:
            self._reading = None
            return Outcome(Ending.FAILED, f"cannot read: {error}")
        self._reading = None
        if self.outcome is not None:
            return self.outcome
        limit = workshop.limits.manifest_bytes_max
        if len(manifest) > limit:
            return Outcome(
                Ending.FAILED, f"the manifest has {len(manifest)} bytes, the limit is {limit}"
            )
        self.offer = self.offer._replace(manifest=manifest)
        return None

    async def _attempt(self) -> Outcome:
        """Make one try on one connection."""
        attempt = SendTry(self.offer, self._source, self._workshop)
        try:
            link = await self._dial(self.node, self.shard, attempt)
        except _FAILURES as error:
            self._workshop.counters.connect_failures_total += 1
            name = f"node {self.node} shard {self.shard}"
            reason = type(error).__name__
            self._workshop.log.report(name, reason, f"cannot connect for express: {error}")
            return Outcome(Ending.PEER_GONE, str(error) or reason, is_retried=True)
        except (LookupError, ValueError) as error:
            return Outcome(Ending.FAILED, str(error))
        self._try = attempt
        attempt.begin(link)
        try:
            outcome = await self._outcome_of(attempt)
        finally:
            self._try = None
            self._reading = attempt.reading
            if not link.is_closing:
                link.abort()
        machine = attempt.machine
        if machine.resumed_at:
            self._workshop.counters.sends_resumed_total += 1
        if machine.acknowledged > self.acknowledged:
            self.acknowledged = machine.acknowledged
            self._backoff.reset()
        return outcome

    async def _outcome_of(self, attempt: SendTry) -> Outcome:
        """Wait for the end of a try, but not for a disk that does not answer."""
        limits = self._workshop.limits
        while not attempt.done.done():
            await asyncio.wait((attempt.done,), timeout=limits.progress_seconds)
            outcome = attempt.machine.outcome
            if outcome is not None and not attempt.done.done():
                await asyncio.wait((attempt.done,), timeout=limits.progress_seconds)
                if not attempt.done.done():
                    return Outcome(Ending.FAILED, "the disk of the sender does not answer")
        return attempt.done.result()

    def _over(self, outcome: Outcome) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self._on_over(self, outcome)

    def _left(self, task: "asyncio.Task[None]") -> None:
        """Clean up behind the task, however it has ended."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._workshop.report_error("a transfer failed", error)
        self._over(Outcome(Ending.FAILED, "internal error" if error else "express is closing"))
        if self._reading is None:
            self._source.close()
        else:
            # The file must not be closed under a thread that still reads it.
            self._reading.add_done_callback(lambda _: self._source.close())
        self._on_left(self)
