"""The exchanger: one shard's way to all other shards, of its own node and of the others.

Callers post items for a (node, shard) and a channel; one flush per loop iteration makes one frame
per destination of all that was posted. What arrives goes to the handler of its channel, a frame's
items at once. The exchanger knows nothing of what the items mean.

To other nodes each side dials: the connection that a shard dialled carries its sends, the
one it accepted carries its receives. To the node's other shards there is one pair of rings in
shared memory each, or one socketpair where rings are not to be had, which carries both ways.
"""

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from rafter_core.errors import DecodeError
from rafter_transport.addresses import format_address
from rafter_transport.counters import Counters
from rafter_transport.framing import HEADER_BYTES, FrameError
from rafter_transport.handshake import Hello, Lane, validate_hello
from rafter_transport.limits import Limits
from rafter_transport.link import Link, SocketLink
from rafter_transport.listener import Listener, OpenLane
from rafter_transport.outbox import NodeOutboxes, Outbox
from rafter_transport.payload import Channel, PayloadError, pack_item, unpack_payload
from rafter_transport.peer_counters import PeerCounters, PeerState
from rafter_transport.peer_link import PeerLink
from rafter_transport.peer_log import PeerLog
from rafter_transport.registry import NodeInfo, Registry
from rafter_transport.ring_link import RingLink
from rafter_transport.ring_pair import RingEnd, ShardEnd
from rafter_transport.tls import PeerTls

__all__ = ["Channel", "Exchanger", "Handler", "OnLinkState"]

_logger = logging.getLogger(__name__)

Handler = Callable[[int, int, list[Any]], None]
OnLinkState = Callable[[int, int, bool], None]
ShardLink = RingLink | SocketLink
Part = TypeVar("Part")


class Exchanger:
    """Sends and receives for one shard. Every method is called on `loop`, its shard's.

    `handlers[channel](node, shard, items)` runs inside the read callback, once per channel of a
    frame; items are in the order in which they were posted. A handler raises PayloadError or
    rafter_core's DecodeError for items that make no sense: the connection they came on is
    closed. Anything else it raises reaches the loop's exception handler.

    `on_link_state(node, shard, is_up)` tells when items can be posted to a shard, and once when
    they no longer can; what was posted and had not arrived by then may be lost. Neither is
    called once `close` has begun.
    """

    def __init__(
        self,
        *,
        hello: Hello,
        registry: Registry,
        limits: Limits,
        handlers: Mapping[Channel, Handler],
        on_link_state: OnLinkState,
        loop: asyncio.AbstractEventLoop,
        shard_ends: Mapping[int, ShardEnd] | None = None,
        generator: random.Random | None = None,
        tls: PeerTls | None = None,
    ) -> None:
        """Take this shard's hello and the ends to its sister shards (as by `attach_shard`).

        With `tls` all connections with other nodes use it, those that are dialled and the others.
        Raises HandshakeError or ValueError for an impossible hello or limit.
        """
        validate_hello(hello)
        limits.validate()
        if hello.node_id != registry.local_node:
            raise ValueError(f"hello of node {hello.node_id}, registry of {registry.local_node}")
        registry.learn(hello)
        self.counters = Counters()
        self._hello = hello
        self._registry = registry
        self._limits = limits
        self._handlers: dict[int, Handler] = {int(key): value for key, value in handlers.items()}
        self._on_link_state = on_link_state
        self._loop = loop
        self._generator = generator or random.Random()
        self._tls = tls
        self._log = PeerLog(_logger)
        self._peers: dict[int, PeerCounters] = {}
        self._outboxes: dict[tuple[int, int], Outbox] = {}
        self._nodes: dict[int, NodeOutboxes] = {}
        self._dirty: list[Outbox] = []
        self._peer_links: dict[tuple[int, int], tuple[PeerLink, asyncio.Task[None]]] = {}
        self._shard_links: dict[int, ShardLink] = {}
        self._open_links: set[ShardLink] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_started = False
        self._is_closed = False
        self._listener = Listener(
            hello=hello,
            registry=registry,
            limits=limits,
            counters=self.counters,
            receive=self._receive,
            on_hello=self._greeted,
            loop=loop,
            tls=tls,
        )
        for shard, end in (shard_ends or {}).items():
            self.attach_shard(shard, end)

    @property
    def port(self) -> int:
        """The port that the peer listener is bound to."""
        return self._listener.port

    def serve_lane(self, lane: Lane, open_lane: OpenLane) -> None:
        """Let peers open connections of a further lane to here. Called before `start`."""
        self._listener.lanes[lane] = open_lane

    async def start(self, host: str, port: int) -> None:
        """Listen for peers, and begin to dial every other node; port 0 takes a free one.

        On return the port is bound and the attached sister shards are up; the links to other
        nodes come up when those answer. Raises OSError if the address cannot be bound.
        """
        await self._listener.start(host, port)
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._is_started = True
        for node in self._registry.nodes():
            self._dial_base(node)

    def post(self, node: int, shard: int, channel: Channel, item: object) -> bool:
        """Queue one item for a shard; it leaves with the next `flush`.

        Returns False if it was refused: the link is down (a first post to a shard begins to dial
        it), more than `pending_bytes_max` wait for that shard or `node_bytes_max` for its node, or
        no frame can hold the item. The item is packed here and may be changed afterwards. It
        consists of bytes, int, str, float, bool, None and lists or tuples of such; anything else is
        the caller's error, found here (TypeError) or by the peer, which then closes the link.
        """
        outbox = self._outboxes.get((node, shard))
        if outbox is None:
            self._want(node, shard)
            return self._refuse(node, channel, 1)
        packed = pack_item(item)
        if not outbox.fits(packed):
            return self._refuse_oversized(node, shard, channel, packed)
        return self._add(outbox, node, channel, packed, 1)

    def post_joined(
        self,
        node: int,
        shard: int,
        channel: Channel,
        parts: Sequence[Part],
        join: Callable[[Sequence[Part]], object],
    ) -> bool:
        """Queue `join(parts)` as one item, or as several where a frame cannot hold it.

        The items are of parts that follow each other, and keep their order. Returns False if any of
        it was refused, for the reasons of `post`; the counters count the parts.
        """
        outbox = self._outboxes.get((node, shard))
        if outbox is None:
            self._want(node, shard)
            return self._refuse(node, channel, len(parts))
        packed = pack_item(join(parts))
        if outbox.fits(packed):
            return self._add(outbox, node, channel, packed, len(parts))
        if len(parts) == 1:
            return self._refuse_oversized(node, shard, channel, packed)
        del packed  # it may be large, and so may be what comes
        middle = len(parts) // 2
        is_head_posted = self.post_joined(node, shard, channel, parts[:middle], join)
        is_tail_posted = self.post_joined(node, shard, channel, parts[middle:], join)
        return is_head_posted and is_tail_posted

    def flush(self) -> None:
        """Send what was posted: one frame per destination, more only above the frame limit."""
        dirty = self._dirty
        if dirty:
            self._dirty = []
            for outbox in dirty:
                outbox.flush()

    def is_up(self, node: int, shard: int) -> bool:
        """Whether items can be posted to this shard."""
        return (node, shard) in self._outboxes

    def peers(self) -> Iterator[tuple[int, PeerCounters, PeerState]]:
        """Tell of each node that this shard has had to do with: what was counted, how it stands.

        Asks the kernel once for each link, so not for each round.
        """
        for node, counters in sorted(self._peers.items()):
            boxes = [outbox for key, outbox in self._outboxes.items() if key[0] == node]
            measured = [
                seconds
                for outbox in boxes
                if isinstance(outbox.link, SocketLink)
                and (seconds := outbox.link.round_trip_seconds()) is not None
            ]
            pending_bytes = sum(outbox.pending_bytes for outbox in boxes)
            yield node, counters, PeerState(len(boxes), pending_bytes, max(measured, default=None))

    def _peer(self, node: int) -> PeerCounters:
        counters = self._peers.get(node)
        if counters is None:
            counters = self._peers[node] = PeerCounters()
        return counters

    def pending_bytes(self, node: int, shard: int) -> int:
        """How much waits for this shard: posted items and what its socket has not taken."""
        outbox = self._outboxes.get((node, shard))
        return 0 if outbox is None else outbox.pending_bytes

    def present_hellos(self) -> dict[int, Hello]:
        """Return the hello of each node that is connected to this shard now, and this one's."""
        return {**self._listener.present(), self._hello.node_id: self._hello}

    def disowning(self) -> set[int]:
        """Return the nodes that last said they know another incarnation of this one."""
        return {node for (node, _), (link, _) in self._peer_links.items() if link.is_disowned}

    def has_tried(self, node: int) -> bool:
        """Whether it is known how some try to reach a node went."""
        return any(
            link.is_tried for (peer, _), (link, _) in self._peer_links.items() if peer == node
        )

    def version_of(self, node: int) -> int:
        """Return the highest version of the protocol that a node speaks, 0 if it was not heard."""
        return self._registry.version_of(node)

    def take_map(self, nodes: Iterable[NodeInfo]) -> None:
        """Take over what the cluster's map says of nodes, before `start` or at any time after.

        Links with a node that is not allowed in any longer are closed at once.
        """
        if self._is_closed:
            return
        disowned = self._registry.update(nodes)
        for node in disowned:
            self._listener.drop(node)
            self._drop_dialled(node)
        if self._is_started:
            for node in self._registry.nodes():
                self._dial_base(node)

    def attach_shard(self, shard: int, end: ShardEnd) -> None:
        """Use one end of a pair of rings or of a socketpair as the link to a shard of this node.

        Takes ownership of it. Replaces an earlier one, whose end is reported first. The new link is
        reported up in a later loop iteration, or within `start`. If the other end closes, or its
        process ends, the link is down until the next attach: the supervisor makes a new pair when
        it restarts a shard. An end that cannot be used is logged, and there is no link then.
        """
        if self._is_closed:
            end.close()
            return
        if not 0 <= shard < self._hello.shards or shard == self._hello.shard:
            end.close()
            raise ValueError(f"shard {shard} is not another of this node's {self._hello.shards}")
        older = self._shard_links.pop(shard, None)
        if older is not None:
            self._take_down(self._hello.node_id, shard, older)
            older.abort()
        try:
            link = self._make_shard_link(shard, end)
        except (OSError, FrameError) as error:
            _logger.error("shard %d: its link cannot be used: %s", shard, error)
            return
        self._shard_links[shard] = link
        task = self._loop.create_task(self._connect_shard(shard, end, link))
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    async def close(self) -> None:
        """Flush, let the links send what they hold within `close_seconds`, and close everything.

        From the first moment no handler and no link state is called. On return no socket and no
        task of the exchanger is left. May be called twice.
        """
        if self._is_closed:
            return
        self.flush()
        self._is_closed = True
        for link in self._open_links:
            link.close()
        for _, task in self._peer_links.values():
            task.cancel()
        tasks = [*self._tasks, *(task for _, task in self._peer_links.values())]
        await self._listener.close()
        if tasks:
            await asyncio.wait(tasks)
        lost = [link.lost for link in self._open_links]
        if lost:
            _, late = await asyncio.wait(lost, timeout=self._limits.close_seconds)
            for link in tuple(self._open_links):
                link.abort()
            if late:
                await asyncio.wait(late)
        self._outboxes.clear()
        self._peer_links.clear()
        self._shard_links.clear()
        self._open_links.clear()

    # Links coming and going.

    def _dial(self, node: int, shard: int) -> None:
        """Begin to keep a link to another node's shard, unless there is one."""
        if self._is_closed or (node, shard) in self._peer_links:
            return
        peer_link = PeerLink(
            node,
            shard,
            hello=self._hello,
            registry=self._registry,
            limits=self._limits,
            counters=self.counters,
            on_up=self._peer_up,
            on_down=self._peer_down,
            on_hello=self._learn,
            loop=self._loop,
            generator=self._generator,
            tls=self._tls,
        )
        task = self._loop.create_task(peer_link.run())
        task.add_done_callback(self._task_done)
        self._peer_links[node, shard] = (peer_link, task)

    def _dial_base(self, node: int) -> None:
        """Keep the links that this shard has to every other node.

        Shard 0 tells how many there are. It is kept: every node has one, and it is the first to
        tell when a node comes back with another count.
        """
        if node == self._hello.node_id:
            return
        self._dial(node, 0)
        shards = self._registry.shard_count(node)
        if shards is not None:
            self._dial(node, self._hello.shard % shards)

    def _drop_dialled(self, node: int) -> None:
        """Close the links to a node, to be dialled anew."""
        for (peer, _), (peer_link, _) in self._peer_links.items():
            if peer == node:
                peer_link.drop()

    def _want(self, node: int, shard: int) -> None:
        """Dial a shard that somebody posts to, if it is known to exist."""
        if node == self._hello.node_id:
            if shard == self._hello.shard:
                raise ValueError("a shard does not post to itself")
            return
        shards = self._registry.shard_count(node)
        if shards is not None and 0 <= shard < shards:
            self._dial(node, shard)

    def _greeted(self, remote: Hello) -> None:
        """Take in the hello of one who connected, maybe from where the node was not before."""
        if not self._is_closed and self._learn(remote):
            _logger.info(
                "node %d is at %s now",
                remote.node_id, format_address(remote.peer_host, remote.peer_port),
            )  # fmt: skip
            self._drop_dialled(remote.node_id)

    def _learn(self, remote: Hello) -> bool:
        """Take in a hello that was found in order; see to the link that each node gets.

        Returns whether the node is dialled elsewhere now.
        """
        if self._is_closed:
            return False
        node = remote.node_id
        is_moved = self._registry.learn(remote)
        gone = [key for key in self._peer_links if key[0] == node and key[1] >= remote.shards]
        for key in gone:
            # The node came back with fewer shards: nobody will answer there again.
            peer_link, task = self._peer_links.pop(key)
            if peer_link.socket_link is not None:
                peer_link.socket_link.abort()
            self._tasks.add(task)
            task.cancel()
        self._dial(node, self._hello.shard % remote.shards)
        return is_moved

    def _peer_up(self, peer_link: PeerLink) -> None:
        link = peer_link.socket_link
        assert link is not None
        self._open_links.add(link)
        if self._is_closed:
            link.abort()
        else:
            self._take_up(peer_link.node, peer_link.shard, link)

    def _peer_down(self, peer_link: PeerLink) -> None:
        link = peer_link.socket_link
        assert link is not None
        self._open_links.discard(link)
        self._take_down(peer_link.node, peer_link.shard, link)

    def _make_shard_link(self, shard: int, end: ShardEnd) -> ShardLink:
        def on_frame(payload: bytes) -> None:
            self._receive(link, self._hello.node_id, shard, payload)

        def on_lost(lost: ShardLink) -> None:
            self._shard_lost(shard, lost)

        link: ShardLink
        frame_bytes_max, on_made = self._limits.frame_bytes_max, self._open_links.add
        if isinstance(end, RingEnd):
            link = RingLink(
                end, frame_bytes_max,
                on_made=on_made, on_frame=on_frame, on_lost=on_lost, loop=self._loop,
            )  # fmt: skip
        else:
            link = SocketLink(
                frame_bytes_max,
                on_made=on_made, on_frame=on_frame, on_lost=on_lost, loop=self._loop,
            )  # fmt: skip
        return link

    async def _connect_shard(self, shard: int, end: ShardEnd, link: ShardLink) -> None:
        """Give a sister shard's end to the loop, and report the link up."""
        try:
            if isinstance(link, RingLink):
                link.start()
            elif isinstance(end, socket.socket):
                end.setblocking(False)
                await self._loop.connect_accepted_socket(lambda: link, end)
        except OSError as error:
            end.close()
            _logger.error("shard %d: its link cannot be used: %s", shard, error)
            if self._shard_links.get(shard) is link:
                del self._shard_links[shard]
            return
        if self._shard_links.get(shard) is not link or self._is_closed:
            link.abort()
        elif not link.is_closing:
            self._take_up(self._hello.node_id, shard, link)

    def _shard_lost(self, shard: int, link: ShardLink) -> None:
        self._open_links.discard(link)
        if isinstance(link.error, FrameError):
            self.counters.bad_frames_total += 1
            self._log.report(f"shard {shard}", "frame", f"link closed: {link.error}")
        if self._shard_links.get(shard) is link:
            del self._shard_links[shard]
            self._take_down(self._hello.node_id, shard, link)

    def _take_up(self, node: int, shard: int, link: Link) -> None:
        outbox = Outbox(link, self._limits.frame_bytes_max, self.counters, self._peer(node))
        self._outboxes[node, shard] = outbox
        together = self._nodes.setdefault(node, NodeOutboxes(self._limits.node_bytes_max))
        together.outboxes.add(outbox)
        self.counters.links_up_total += 1
        self._on_link_state(node, shard, True)

    def _take_down(self, node: int, shard: int, link: Link) -> None:
        """Drop what waits for a shard and say so, once for each time that the link was up."""
        outbox = self._outboxes.get((node, shard))
        if outbox is None or outbox.link is not link:
            return
        del self._outboxes[node, shard]
        self._nodes[node].outboxes.discard(outbox)
        outbox.clear()
        self.counters.links_down_total += 1
        if not self._is_closed:
            self._on_link_state(node, shard, False)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        """Let no error of a task of ours pass in silence."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler(
                {"message": "a task of the exchanger failed", "exception": error, "task": task}
            )

    # Items.

    def _add(self, outbox: Outbox, node: int, channel: Channel, packed: bytes, count: int) -> bool:
        """Queue an item that `count` parts were joined to, unless too much waits already."""
        size, together = len(packed), self._nodes[node]
        is_full = outbox.pending_bytes + size > self._limits.pending_bytes_max
        if is_full or not together.take(size):
            return self._refuse(node, channel, count)
        if not outbox.queued_bytes:
            self._dirty.append(outbox)
        outbox.add(channel, packed)
        return True

    def _refuse_oversized(self, node: int, shard: int, channel: Channel, packed: bytes) -> bool:
        self.counters.items_oversized_total += 1
        self._log.report(
            f"node {node} shard {shard}", "oversized",
            f"an item of {len(packed)} bytes does not fit a frame "
            f"of {self._limits.frame_bytes_max}",
        )  # fmt: skip
        return self._refuse(node, channel, 1)

    def _refuse(self, node: int, channel: Channel, count: int) -> bool:
        self._peer(node).refused_total += count
        if channel == Channel.RAFT:
            self.counters.raft_dropped_total += count
        else:
            self.counters.posts_refused_total += count
        return False

    def _receive(self, link: ShardLink, node: int, shard: int, payload: bytes) -> None:
        """Deliver one frame; a peer that sends what makes no sense loses its connection."""
        if self._is_closed:
            return
        for counters in (self.counters, self._peer(node)):
            counters.frames_received_total += 1
            counters.bytes_received_total += HEADER_BYTES + len(payload)
        try:
            for channel, items in unpack_payload(payload):
                handler = self._handlers.get(channel)
                if handler is None:
                    raise PayloadError(f"no handler for channel {channel}")
                handler(node, shard, items)
        except (PayloadError, DecodeError) as error:
            self.counters.bad_frames_total += 1
            self._log.report(f"node {node} shard {shard}", "payload", f"bad frame: {error}")
            link.abort(error)
