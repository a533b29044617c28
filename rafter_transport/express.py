"""Express: the snapshots of groups on their way from this shard to shards of other nodes, and back.

Each transfer has a connection of its own, in a lane of the peer port, so bulk never stands in the
way of raft's messages, nor one transfer in that of another. What is sent comes from a Source, what
arrives goes to a Sink; express judges neither the snapshots nor the messages that announce them.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from rafter_transport.dial import Connect, LaneUser, dial_lane
from rafter_transport.express_ends import Sink, SinkError, Source, make_workshop
from rafter_transport.express_limits import ExpressLimits
from rafter_transport.express_messages import BUSY, NUMBER_MAX, Offer
from rafter_transport.express_receiving import Receiving
from rafter_transport.express_sender import Ending, Outcome
from rafter_transport.express_sending import Sending
from rafter_transport.handshake import NODE_ID_MAX, U64_MAX, Hello, Lane
from rafter_transport.limits import Limits
from rafter_transport.link import SocketLink
from rafter_transport.registry import Registry
from rafter_transport.tls import PeerTls

__all__ = ["Express", "Transfer"]

_LANES_PER_RECEIVE = 4

OnSent = Callable[[int, int, Outcome], None]
OnReceived = Callable[[int, int, bytes], None]
OpenSink = Callable[[int, bytes], Sink]


class Transfer(NamedTuple):
    """How far one transfer is: `chunks` of `chunk_count` are with the receiver."""

    group: int
    node: int
    is_sent: bool
    chunks: int
    chunk_count: int


class Express:
    """Sends and receives snapshots for one shard. Every method is called on `loop`, its shard's.

    `open_sink(group, manifest)` makes the sink of an offer, or raises SinkError to refuse it: for a
    group that is not this shard's. `on_received(group, sender's node, message)` is called when a
    snapshot is verified, durable and in use; it comes again if the sender did not learn of that.
    `on_sent(group, node, outcome)` is called exactly once for each `send` that returned
    True. Neither is called from within `send`.
    """

    def __init__(
        self,
        *,
        hello: Hello,
        registry: Registry,
        limits: ExpressLimits,
        link_limits: Limits,
        open_sink: OpenSink,
        on_sent: OnSent,
        on_received: OnReceived,
        loop: asyncio.AbstractEventLoop,
        generator: random.Random | None = None,
        tls: PeerTls | None = None,
        connect: Connect | None = None,
    ) -> None:
        """Begin with nothing to do. Raises ValueError for impossible limits.

        With `tls` the connections that are dialled use it; those that are accepted are the
        listener's business. `open_lane` is to be made known to it, as that of Lane.EXPRESS.
        """
        self._workshop = make_workshop(hello.node_id, limits, loop)
        self.counters = self._workshop.counters
        self._hello = hello
        self._registry = registry
        self._limits = limits
        self._link_limits = link_limits
        self._open_sink = open_sink
        self._on_sent = on_sent
        self._on_received = on_received
        self._loop = loop
        self._generator = generator or random.Random()
        self._tls = tls
        self._connect = connect
        self._sendings: dict[tuple[int, int], Sending] = {}
        self._waiting: deque[Sending] = deque()
        self._running: set[Sending] = set()
        self._lanes: set[Receiving] = set()
        self._receivings: dict[int, Receiving] = {}
        self._links: set[SocketLink] = set()
        self._is_closed = False

    def send(self, node: int, shard: int, group: int, message: bytes, source: Source) -> bool:
        """Send the snapshot `source` of `group` to another node's shard, announced by `message`.

        With True the source is express's to close, and `on_sent` will be called. With False
        nothing happens and the source stays the caller's: there is a transfer of this group to this
        node already, `waiting_max` transfers wait, a message or chunk is above the limits, or
        express is closed.
        """
        limits = self._limits
        if (
            self._is_closed
            or (group, node) in self._sendings
            or len(message) > limits.message_bytes_max
            or source.chunk_bytes > limits.chunk_bytes_max
            or (len(self._running) >= limits.sends_max and len(self._waiting) >= limits.waiting_max)
        ):
            return False
        if node == self._hello.node_id or not 1 <= node <= NODE_ID_MAX:
            raise ValueError(f"node {node} is not another node")
        if not 0 <= group <= NUMBER_MAX:
            raise ValueError(f"group {group} is out of range")
        offer = Offer(
            self._generator.randint(0, U64_MAX), group, self._hello.node_id, node,
            source.chunk_count, message, b"",
        )  # fmt: skip
        sending = Sending(
            node, shard, offer, source,
            dial=self._dial, workshop=self._workshop, generator=self._generator,
            on_over=self._over, on_left=self._left,
        )  # fmt: skip
        self.counters.sends_started_total += 1
        self._sendings[sending.key] = sending
        self._waiting.append(sending)
        self._start_waiting()
        return True

    def cancel(self, group: int, node: int) -> bool:
        """End the transfer of a group to a node; `on_sent` is called before this returns.

        Then another `send` for them is taken. The receiver removes what it has. Returns False if
        there is none.
        """
        sending = self._sendings.get((group, node))
        if sending is None:
            return False
        sending.cancel("by the sender")
        return True

    def cancel_receive(self, group: int) -> bool:
        """End the transfer of a group to here and remove what came; the sender does not retry.

        A snapshot that is being finished at this moment may still come to be there; `on_received`
        is not called for it. Returns False if there is none.
        """
        receiving = self._receivings.get(group)
        if receiving is None or receiving.outcome is not None:
            return False
        receiving.cancel("by the receiver")
        return True

    def transfers(self) -> list[Transfer]:
        """Return all transfers that are under way or waiting."""
        found = [
            Transfer(*key, True, sending.chunks, sending.offer.chunk_count)
            for key, sending in self._sendings.items()
        ]
        for group, receiving in self._receivings.items():
            offer = receiving.machine.offer
            if offer is not None and receiving.outcome is None:
                found.append(
                    Transfer(
                        group, offer.sender, False, receiving.machine.written, offer.chunk_count
                    )
                )
        return found

    def open_lane(self, link: SocketLink, hello: Hello) -> Receiving:
        """Take a connection that a peer has dialled for this lane; for the listener."""
        self._keep(link)
        receiving = Receiving(link, hello.node_id, reception=self, workshop=self._workshop)
        if self._is_closed:
            receiving.drop()
        elif len(self._lanes) >= _LANES_PER_RECEIVE * self._limits.receives_max:
            self.counters.lanes_over_limit_total += 1
            receiving.drop()
        else:
            self._lanes.add(receiving)
        return receiving

    async def close(self) -> None:
        """End every transfer; `on_sent` is called for each, and nothing else any more.

        What was received in part is kept by its sink, and a peer keeps what it has: another
        transfer of the same snapshot goes on there. Waits for calls to the disk, at most
        `close_seconds`. On return no socket is open. May be called twice.
        """
        if self._is_closed:
            return
        self._is_closed = True
        for sending in [*self._sendings.values()]:
            sending.cancel("express is closing", is_told=False)
        for receiving in [*self._lanes]:
            receiving.drop()
        tasks = self._tasks()
        deadline_seconds = self._loop.time() + self._limits.close_seconds
        while tasks and (left_seconds := deadline_seconds - self._loop.time()) > 0:
            await asyncio.wait(tasks, timeout=left_seconds)
            # One that has ended may have begun its clean-up.
            await asyncio.sleep(0)
            tasks = self._tasks()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for link in self._links:
            link.abort()
        if self._links:
            lost = [link.lost for link in self._links]
            await asyncio.wait(lost, timeout=self._limits.close_seconds)
        self._workshop.executor.shutdown(wait=False, cancel_futures=True)

    # What follows is called by the transfers.

    async def claim(self, receiving: Receiving) -> Sink:
        """Give a place to an offer, and return its sink. Raises SinkError to refuse it."""
        offer = receiving.machine.offer
        assert offer is not None
        older = self._receivings.get(offer.group)
        if older is None or older.released.done():
            if len(self._receivings) >= self._limits.receives_max:
                raise SinkError(BUSY, f"{len(self._receivings)} snapshots are being received")
        elif older.peer != receiving.peer and older.outcome is None:
            raise SinkError(BUSY, f"node {older.peer} is sending a snapshot of this group")
        self._receivings[offer.group] = receiving
        if older is not None:
            # Its sender has begun again before we noticed that the connection is gone.
            older.replace()
            await asyncio.shield(older.released)
        return self._open_sink(offer.group, offer.manifest)

    def received(self, offer: Offer) -> None:
        """Hand on that a snapshot is here."""
        if not self._is_closed:
            self._on_received(offer.group, offer.sender, offer.message)

    def release(self, receiving: Receiving) -> None:
        """Free the place of a transfer that is over, and count how it has ended."""
        self._lanes.discard(receiving)
        offer = receiving.machine.offer
        if offer is None:
            return
        assert receiving.outcome is not None
        self.counters.add(f"receives_{_name(receiving.outcome.ending)}")
        if self._receivings.get(offer.group) is receiving:
            del self._receivings[offer.group]

    async def _dial(self, node: int, shard: int, user: LaneUser) -> SocketLink:
        link = await dial_lane(
            node,
            shard,
            Lane.EXPRESS,
            user,
            hello=self._hello,
            registry=self._registry,
            limits=self._link_limits,
            frame_bytes_max=self._limits.frame_bytes_max,
            loop=self._loop,
            tls=self._tls,
            connect=self._connect,
        )
        self._keep(link)
        return link

    def _keep(self, link: SocketLink) -> None:
        """Know of a connection for as long as it is open."""
        self._links.add(link)
        link.lost.add_done_callback(lambda _: self._links.discard(link))

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < self._limits.sends_max:
            sending = self._waiting.popleft()
            self._running.add(sending)
            sending.start()

    def _over(self, sending: Sending, outcome: Outcome) -> None:
        """Report the end of a transfer, which may still have something to clean up."""
        if self._sendings.get(sending.key) is sending:
            del self._sendings[sending.key]
        self.counters.add(f"sends_{_name(outcome.ending)}")
        self._on_sent(*sending.key, outcome)

    def _left(self, sending: Sending) -> None:
        """Give the place of a transfer to the next one."""
        self._running.discard(sending)
        with contextlib.suppress(ValueError):
            self._waiting.remove(sending)
        if not self._is_closed:
            self._start_waiting()

    def _tasks(self) -> "list[asyncio.Task[None]]":
        sendings = [sending.task for sending in self._running]
        works = [receiving.work for receiving in self._lanes]
        return [task for task in (*sendings, *works) if task is not None]


def _name(ending: Ending) -> str:
    return ending.value.replace(" ", "_")
