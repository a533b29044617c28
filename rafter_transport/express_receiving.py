"""Receiving one snapshot: a connection, the disk and the clock around `ReceiveMachine`."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from rafter_transport.express_ends import Sink, SinkError, Workshop
from rafter_transport.express_messages import Chunk, ExpressError, Message, Offer, decode, encode
from rafter_transport.express_receiver import ReceiveMachine, Task
from rafter_transport.express_sender import Ending, Outcome
from rafter_transport.link import SocketLink

_KEPT = frozenset({Ending.PEER_GONE, Ending.TIMED_OUT})


class Reception(Protocol):
    """Who owns the receiving transfers: the service."""

    async def claim(self, receiving: "Receiving") -> Sink:
        """Give a place to an offer, and return its sink. Raises SinkError to refuse it."""

    def received(self, offer: Offer) -> None:
        """Take note that the offered snapshot is verified, durable and in use."""

    def release(self, receiving: "Receiving") -> None:
        """Take note that nothing of it runs any more, and that its connection is of no use."""


class Receiving:
    """One accepted connection, from its first frame to the end of it.

    `released` is done when the sink is let go. What the sender does wrong ends this alone.
    """

    def __init__(
        self, link: SocketLink, peer: int, *, reception: Reception, workshop: Workshop
    ) -> None:
        self.link = link
        self.peer = peer
        self.released: asyncio.Future[None] = workshop.loop.create_future()
        self.machine = ReceiveMachine(workshop.node, peer, workshop.limits, workshop.loop.time())
        self._reception = reception
        self._workshop = workshop
        self._sink: Sink | None = None
        self._is_broken = False
        self._work: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._pump()

    @property
    def frame_bytes_max(self) -> int:
        """The longest frame that this connection takes."""
        return self._workshop.limits.frame_bytes_max

    @property
    def work(self) -> "asyncio.Task[None] | None":
        """What is being done with the sink, None if nothing is."""
        return self._work

    @property
    def outcome(self) -> Outcome | None:
        """How it has ended; None before."""
        return self.machine.outcome

    def received(self, payload: bytes) -> None:
        """Take one frame of the sender's."""
        workshop = self._workshop
        try:
            message = decode(payload)
            answer = self.machine.receive(message, workshop.loop.time())
        except ExpressError as error:
            workshop.counters.bad_messages_total += 1
            workshop.log.report(f"node {self.peer}", "express", f"transfer ended: {error}")
            self.machine.lose(f"the sender breaks the protocol: {error}")
            self.link.abort(error)
        else:
            if isinstance(message, Chunk) and self.machine.outcome is None:
                workshop.counters.chunks_received_total += 1
                workshop.counters.bytes_received_total += len(message.data)
            self._answer(answer)
        self._pump()

    def lost(self, link: SocketLink) -> None:
        """Take note that the connection is gone."""
        self.machine.lose(str(link.error or "the connection was closed"))
        if self._linger is not None:
            self._linger.cancel()
        self._pump()

    def replace(self) -> None:
        """End it: the sender has begun again on another connection. What is there is kept."""
        self._answer(self.machine.fail("replaced", "a newer offer came", Ending.PEER_GONE))
        self._pump()

    def cancel(self, text: str) -> None:
        """End it as its owner wants; what is there is removed."""
        self._answer(self.machine.cancel(text))
        self._pump()

    def drop(self) -> None:
        """End it without a word, keeping what is there: express is closing."""
        self.machine.lose("express is closing")
        self.link.abort()
        self._pump()

    def _pump(self) -> None:
        """Do what is to be done next, and see to be called again."""
        loop = self._workshop.loop
        machine = self.machine
        self._answer(machine.expire(loop.time()))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if machine.outcome is not None:
            self._settle(machine.outcome)
            return
        # The machine knows that a task is done a moment before its coroutine has returned.
        task = machine.task if self._work is None else Task.NOTHING
        if task is Task.BEGIN:
            machine.begin()
            self._start(self._begin())
        elif task is Task.WRITE:
            self._start(self._write(machine.take()))
        elif task is Task.FINISH:
            machine.finish()
            self._start(self._finish())
        deadline_seconds = machine.deadline_seconds
        if deadline_seconds is not None:
            self._timer = loop.call_at(deadline_seconds, self._pump)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._work is None
        self._work = self._workshop.loop.create_task(work)
        self._work.add_done_callback(self._worked)

    def _worked(self, work: "asyncio.Task[None]") -> None:
        self._work = None
        error = None if work.cancelled() else work.exception()
        if error is not None:
            self._is_broken = True
            self._workshop.report_error("receiving a snapshot failed", error)
            self._answer(self.machine.fail("internal", "internal error of the receiver"))
        elif work.cancelled():
            # A thread may still be in the sink: it is left alone, as by a process that is killed.
            self._sink = None
            self.machine.lose("express is closing")
        self._pump()

    async def _begin(self) -> None:
        counters = self._workshop.counters
        counters.receives_started_total += 1
        if self.machine.outcome is not None:
            # It has ended before the loop came to this: no older transfer is to make room for it.
            return
        try:
            sink = await self._reception.claim(self)
            if self.machine.outcome is not None:
                return
            self._sink = sink
            opened = await sink.begin(self._workshop.run)
        except SinkError as error:
            self._answer(self.machine.refuse(error.code, str(error)))
            return
        if opened.next_chunk:
            counters.receives_resumed_total += 1
        self._answer(self.machine.begun(*opened, self._workshop.loop.time()))

    async def _write(self, chunks: list[Chunk]) -> None:
        sink = self._sink
        assert sink is not None

        def write() -> None:
            for chunk in chunks:
                sink.write_chunk(chunk.number, chunk.data)

        try:
            await self._workshop.run(write)
        except SinkError as error:
            self._fail(error)
        else:
            self._answer(self.machine.wrote(len(chunks), self._workshop.loop.time()))

    async def _finish(self) -> None:
        assert self._sink is not None
        assert self.machine.offer is not None
        try:
            await self._sink.finish(self._workshop.run)
        except SinkError as error:
            self._fail(error)
            return
        self._sink = None
        outcome = self.machine.outcome
        # With a sender that is gone the snapshot is here nevertheless, and raft is to know.
        if outcome is None or outcome.ending is not Ending.CANCELLED:
            self._reception.received(self.machine.offer)
        self._answer(self.machine.finished())

    def _fail(self, error: SinkError) -> None:
        self._is_broken = True
        self._answer(self.machine.fail(error.code, str(error)))

    def _answer(self, message: Message | None) -> None:
        if message is not None:
            self.link.send(encode(message))

    def _settle(self, outcome: Outcome) -> None:
        """Let the sink go once nothing uses it, and the connection once the sender has read."""
        if self._work is not None or self.released.done():
            return
        sink, self._sink = self._sink, None
        if sink is not None and self._is_kept(outcome):
            sink.suspend()
        elif sink is not None:
            self._start(sink.abort(self._workshop.run))
            return
        self.released.set_result(None)
        self._reception.release(self)
        if not self.link.is_closing:
            # The sender closes. To close first, with chunks unread, would reset the connection
            # and might destroy our last words on their way.
            self._linger = self._workshop.loop.call_later(
                self._workshop.limits.linger_seconds, self.link.abort
            )

    def _is_kept(self, outcome: Outcome) -> bool:
        """Whether another connection may go on with what is there."""
        if self._is_broken:
            return False
        return outcome.ending in _KEPT or self.machine.is_damaged
