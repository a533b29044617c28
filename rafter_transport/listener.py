"""The peer listener: accepts connections of other nodes' shards and reads what they send."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from rafter_transport.addresses import format_address
from rafter_transport.counters import Counters
from rafter_transport.framing import Budget, FrameError
from rafter_transport.handshake import (
    PULSE_VERSION,
    HandshakeError,
    Hello,
    Lane,
    Refusal,
    check,
    common_version,
    decode_hello,
    encode_accepted,
    encode_refused,
)
from rafter_transport.limits import HANDSHAKE_BYTES_MAX, Limits
from rafter_transport.link import SocketLink
from rafter_transport.liveness import PULSE, IdleError, Liveness
from rafter_transport.peer_log import PeerLog
from rafter_transport.registry import Registry
from rafter_transport.tls import PeerTls, TlsRefusedError

_logger = logging.getLogger(__name__)

Receive = Callable[[SocketLink, int, int, bytes], None]


class LaneEnd(Protocol):
    """Who uses one accepted connection of a lane, in both directions, until it is lost."""

    @property
    def frame_bytes_max(self) -> int:
        """The longest frame that is taken."""

    def received(self, payload: bytes) -> None:
        """Take one frame."""

    def lost(self, link: SocketLink) -> None:
        """Take note that the connection is gone. Called once."""


OpenLane = Callable[[SocketLink, Hello], LaneEnd]


class Listener:
    """One shard's peer port.

    `receive(link, node, shard, payload)` is called for each frame after the handshake, and
    `on_hello` with each hello that was found in order. At most one connection per (node, shard) is
    kept: a second one means that the peer has given the first up before we noticed. Of one node all
    connections are of one life of it: who says another address or number of shards than an older
    connection did, ends that.

    That is the lane of the exchanger. `lanes` says who opens connections of the other lanes, of
    which a peer may have several; a lane that nobody opens is refused.

    With `tls` a connection counts from the moment it is accepted, and its deadline covers TLS and
    the handshake together; the certificate must be that of the node which the hello names.
    """

    def __init__(
        self,
        *,
        hello: Hello,
        registry: Registry,
        limits: Limits,
        counters: Counters,
        receive: Receive,
        on_hello: Callable[[Hello], None],
        loop: asyncio.AbstractEventLoop,
        tls: PeerTls | None = None,
    ) -> None:
        self.hello = hello
        self.registry = registry
        self.limits = limits
        self.counters = counters
        self.receive = receive
        self.on_hello = on_hello
        self.loop = loop
        self.tls = tls
        self.log = PeerLog(_logger)
        self.lanes: dict[int, OpenLane] = {}
        self._server: asyncio.Server | None = None
        self._is_closed = False
        self._connections: set[Accepted] = set()
        self._by_peer: dict[tuple[int, int], Accepted] = {}
        self._in_lanes: set[Accepted] = set()
        self._budgets: dict[int, Budget] = {}

    @property
    def port(self) -> int:
        """The bound port (of the first address, if the host has several)."""
        if self._server is None:
            raise RuntimeError("the listener was not started")
        port = self._server.sockets[0].getsockname()[1]
        assert isinstance(port, int)
        return port

    @property
    def connection_count(self) -> int:
        """Connections that are open, handshaken or not."""
        return len(self._connections)

    async def start(self, host: str, port: int) -> None:
        """Bind and accept; port 0 takes a free one. Raises OSError naming the address."""
        try:
            self._server = await self.loop.create_server(
                lambda: Accepted(self).link, host, port, reuse_address=True, backlog=128
            )
        except OSError as error:
            address = format_address(host, port)
            raise OSError(error.errno, f"cannot listen for peers on {address}: {error}") from error
        _logger.info("listening for peers on %s", format_address(host, self.port))

    async def close(self) -> None:
        """Stop accepting, and drop every connection at once: what peers sent is theirs to repeat.

        On return no socket is open and nothing will be received.
        """
        self._is_closed = True
        if self._server is not None:
            self._server.close()
        lost = [accepted.link.lost for accepted in self._connections]
        for accepted in tuple(self._connections):
            accepted.link.abort()
        if lost:
            await asyncio.wait(lost, timeout=self.limits.close_seconds)
        if self._server is not None:
            await self._server.wait_closed()

    def present(self) -> dict[int, Hello]:
        """Return what the nodes say of themselves that are connected to this shard now."""
        return {
            accepted.remote.node_id: accepted.remote
            for accepted in self._by_peer.values()
            if accepted.remote is not None
        }

    def drop(self, node: int) -> None:
        """Close every connection of a node."""
        for accepted in (*self._by_peer.values(), *self._in_lanes):
            if accepted.node == node:
                accepted.link.abort()

    # What follows is called by Accepted.

    def admit(self, accepted: "Accepted") -> str | None:
        """Count a new connection in, or return why there is no room for it."""
        limits = self.limits
        if self._is_closed:
            # The loop may have accepted it before the server closed, and tell only now.
            return "this shard is closing"
        if len(self._connections) >= limits.connections_max:
            return f"{limits.connections_max} connections are open"
        shaken = len(self._by_peer) + len(self._in_lanes)
        if len(self._connections) - shaken >= limits.handshaking_max:
            return f"{limits.handshaking_max} connections have not finished their handshake"
        self._connections.add(accepted)
        return None

    def welcome(self, accepted: "Accepted", remote: Hello) -> None:
        """Make this the connection of its peer, in place of an older one; a lane has many."""
        self.counters.connections_accepted_total += 1
        for other in (*self._by_peer.values(), *self._in_lanes):
            if other.is_of_another_life(remote):
                other.link.abort()
        if accepted.lane_end is not None:
            self._in_lanes.add(accepted)
            return
        key = (remote.node_id, remote.shard)
        older = self._by_peer.get(key)
        self._by_peer[key] = accepted
        if older is not None:
            older.link.abort()

    def budget(self, node: int) -> Budget:
        """Return what the connections of one node share."""
        return self._budgets.setdefault(node, Budget(self.limits.node_bytes_max))

    def forget(self, accepted: "Accepted") -> None:
        """Drop a lost connection from the tables."""
        self._connections.discard(accepted)
        self._in_lanes.discard(accepted)
        key = (accepted.node, accepted.shard)
        if self._by_peer.get(key) is accepted:
            del self._by_peer[key]


class Accepted:
    """One accepted connection: first the handshake, against a deadline, then frames."""

    __slots__ = (
        "_deadline", "_listener", "_liveness", "lane_end", "link", "node", "remote", "shard",
    )  # fmt: skip

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._deadline: asyncio.TimerHandle | None = None
        self._liveness: Liveness | None = None
        self.lane_end: LaneEnd | None = None
        self.remote: Hello | None = None
        self.node = 0
        self.shard = 0
        self.link = SocketLink(
            HANDSHAKE_BYTES_MAX,
            on_made=self._made,
            on_frame=self._hello_received,
            on_lost=self._lost,
            tls=None if listener.tls is None else listener.tls.session(is_server=True),
            loop=listener.loop,
        )

    def is_of_another_life(self, hello: Hello) -> bool:
        """Whether the same node said something else of itself here than in `hello`."""
        remote = self.remote
        if remote is None or remote.node_id != hello.node_id:
            return False
        return remote.node_facts != hello.node_facts

    def _made(self, link: SocketLink) -> None:
        listener = self._listener
        full = listener.admit(self)
        if full is not None:
            listener.counters.connections_over_limit_total += 1
            listener.log.report(link.peer_host, "full", f"connection turned away: {full}")
            link.abort()
            return
        try:
            link.tune(listener.limits.unacknowledged_seconds)
        except OSError as error:
            # Reset by the peer before we came to it.
            link.abort(error)
            return
        self._deadline = listener.loop.call_later(
            listener.limits.handshake_seconds, self._handshake_late
        )

    def _handshake_late(self) -> None:
        self.link.abort(HandshakeError("no handshake in time"))

    def _hello_received(self, payload: bytes) -> None:
        listener = self._listener
        try:
            remote = decode_hello(payload)
        except HandshakeError as error:
            self._refuse(self.link.peer_host, Refusal(error.code, str(error)))
            return
        open_lane = listener.lanes.get(remote.lane)
        refusal = self._judge(remote)
        if refusal is not None:
            peer = f"node {remote.node_id} shard {remote.shard} at {self.link.peer_host}"
            self._refuse(peer, refusal)
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self.remote = remote
        self.node = remote.node_id
        self.shard = remote.shard
        self.link.on_frame = self._frame_received
        self.link.set_frame_bytes_max(listener.limits.frame_bytes_max)
        self.link.share(listener.budget(self.node))
        self.link.send(encode_accepted(listener.hello))
        if open_lane is not None:
            self.lane_end = open_lane(self.link, remote)
            self.link.on_frame = self.lane_end.received
            self.link.set_frame_bytes_max(self.lane_end.frame_bytes_max)
        elif common_version(listener.hello, remote) >= PULSE_VERSION:
            self._liveness = Liveness(self.link, listener.limits.idle_seconds, listener.loop)
        listener.welcome(self, remote)
        listener.on_hello(remote)

    def _judge(self, remote: Hello) -> Refusal | None:
        """Return why the sender of this hello is not let in, or None."""
        listener = self._listener
        if listener.tls is not None:
            # First of all, as the rest is only what the peer says of itself.
            stranger = listener.tls.check(self.link.peer_certificate(), remote.node_id)
            if stranger is not None:
                listener.counters.tls_refused_total += 1
                return stranger
        refusal = check(listener.hello, remote) or listener.registry.check(remote)
        if refusal is None and remote.lane != Lane.EXCHANGE and remote.lane not in listener.lanes:
            refusal = Refusal("lane", f"lane {remote.lane} is not served here")
        return refusal

    def _refuse(self, peer: str, refusal: Refusal) -> None:
        """Answer with the reason and close; the deadline still ends one who does not read it."""
        listener = self._listener
        listener.counters.handshakes_refused_total += 1
        listener.log.report(peer, refusal.code, f"handshake refused: {refusal.text}")
        self.link.send(encode_refused(refusal))
        self.link.close()

    def _frame_received(self, payload: bytes) -> None:
        if payload == PULSE:
            return
        self._listener.receive(self.link, self.node, self.shard, payload)

    def _lost(self, link: SocketLink) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._liveness is not None:
            self._liveness.stop()
        listener = self._listener
        listener.forget(self)
        if self.lane_end is not None:
            self.lane_end.lost(link)
        if isinstance(link.error, FrameError):
            listener.counters.bad_frames_total += 1
        if isinstance(link.error, TlsRefusedError):
            listener.counters.tls_refused_total += 1
        if isinstance(link.error, IdleError):
            listener.counters.connections_idle_total += 1
        if isinstance(link.error, HandshakeError | FrameError | IdleError):
            peer = link.peer_host
            if self.node:
                peer = f"node {self.node} shard {self.shard} at {peer}"
            is_tls = isinstance(link.error, TlsRefusedError)
            reason = str(link.error) if is_tls else type(link.error).__name__
            listener.log.report(peer, reason, f"connection closed: {link.error}")
