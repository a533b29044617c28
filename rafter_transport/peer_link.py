"""A dialled link: connects to one shard of another node, and again for as long as it is wanted."""

import asyncio
import logging
import random
from collections.abc import Callable

from rafter_transport.backoff import Backoff, retry
from rafter_transport.counters import Counters
from rafter_transport.dial import FAILURES, dial
from rafter_transport.handshake import (
    PULSE_VERSION,
    HandshakeError,
    HandshakeRefusedError,
    Hello,
    Lane,
    common_version,
)
from rafter_transport.limits import Limits
from rafter_transport.link import SocketLink
from rafter_transport.liveness import PULSE, IdleError, Liveness
from rafter_transport.peer_log import PeerLog
from rafter_transport.registry import Registry
from rafter_transport.tls import PeerTls, TlsRefusedError

_logger = logging.getLogger(__name__)


class PeerLink:
    """The way from this shard to one shard of another node: carries what this side sends.

    `run` is its one task. It tries the newest address of the node first, then in turn the others
    that the registry remembers: news may be wrong, and a whole cluster may have moved at once.
    `on_up(self)` is called when the handshake is done and `socket_link` can
    send; `on_down(self)` once for each `on_up`, when that connection is gone; `on_hello` with
    each hello that was found in order, before `on_up`.

    `is_tried`: how some try went is known. `is_disowned`: at the last one the peer said that it
    knows another incarnation of this node.
    """

    __slots__ = ("_backoff", "_counters", "_failures", "_hello", "_limits", "_liveness", "_log",
                 "_loop", "_on_down", "_on_hello", "_on_up", "_registry", "_tls", "is_disowned",
                 "is_tried", "node", "shard", "socket_link")  # fmt: skip

    def __init__(
        self,
        node: int,
        shard: int,
        *,
        hello: Hello,
        registry: Registry,
        limits: Limits,
        counters: Counters,
        on_up: Callable[["PeerLink"], None],
        on_down: Callable[["PeerLink"], None],
        on_hello: Callable[[Hello], object],
        loop: asyncio.AbstractEventLoop,
        generator: random.Random,
        tls: PeerTls | None = None,
    ) -> None:
        self.node = node
        self.shard = shard
        self.socket_link: SocketLink | None = None
        self.is_tried = False
        self.is_disowned = False
        self._hello = hello
        self._registry = registry
        self._limits = limits
        self._tls = tls
        self._counters = counters
        # Tries since the last connection: they count through the addresses.
        self._failures = 0
        self._on_up = on_up
        self._on_down = on_down
        self._on_hello = on_hello
        self._loop = loop
        self._liveness: Liveness | None = None
        self._log = PeerLog(_logger)
        self._backoff = Backoff(
            limits.reconnect_base_seconds,
            limits.reconnect_factor,
            limits.reconnect_cap_seconds,
            None,
            generator,
        )

    @property
    def name(self) -> str:
        """How logs call the other end."""
        return f"node {self.node} shard {self.shard}"

    def drop(self) -> None:
        """Give up the connection, if there is one; the next try goes to the newest address."""
        self._failures = 0
        if self.socket_link is not None:
            self.socket_link.abort()

    async def run(self) -> None:
        """Keep the link up until cancelled. A cancelled run leaves no socket behind."""
        while True:
            link = await retry(self._try, self._backoff, failures=FAILURES)
            up_since_seconds = self._loop.time()
            try:
                # Shielded, as the future belongs to the link and not to this wait.
                await asyncio.shield(link.lost)
            finally:
                if not link.lost.done():
                    link.close()
            if self._loop.time() - up_since_seconds > self._limits.reconnect_cap_seconds:
                self._backoff.reset()
            # A peer that accepts and hangs up must not be dialled in a tight loop.
            delay_seconds = self._backoff.next_delay()
            assert delay_seconds is not None
            await asyncio.sleep(delay_seconds)

    async def _try(self) -> SocketLink:
        """Connect once, announced on return; on failure count it, log it, and raise.

        The log has it at most once a minute.
        """
        addresses = self._registry.peer_addresses(self.node, self.shard)
        try:
            dialled = await dial(
                self.node,
                self.shard,
                Lane.EXCHANGE,
                hello=self._hello,
                registry=self._registry,
                limits=self._limits,
                tls=self._tls,
                on_lost=self._lost,
                loop=self._loop,
                address=addresses[self._failures % len(addresses)],
            )
        except FAILURES as error:
            self._failures += 1
            self.is_tried = True
            self.is_disowned = isinstance(error, HandshakeRefusedError) and (
                error.by_peer and error.code == "incarnation"
            )
            self._counters.connect_failures_total += 1
            reason = type(error).__name__
            if isinstance(error, HandshakeError):
                reason = error.code
            if isinstance(error, HandshakeRefusedError):
                self._counters.handshakes_refused_total += 1
            if isinstance(error, TlsRefusedError):
                self._counters.tls_refused_total += 1
            self._log.report(self.name, reason, f"cannot connect: {error or reason}")
            raise
        self._failures = 0
        self.is_tried = True
        self.is_disowned = False
        link, remote = dialled
        self.socket_link = link
        version = common_version(self._hello, remote)
        _logger.info("%s: connected to %s, protocol version %d", self.name, link.peer_host, version)
        if version >= PULSE_VERSION:
            link.on_frame = self._received
            self._liveness = Liveness(link, self._limits.idle_seconds, self._loop)
        self._on_hello(remote)
        self._on_up(self)
        return link

    def _received(self, payload: bytes) -> None:
        """Take a pulse; this connection carries nothing else to here."""
        if payload != PULSE and self.socket_link is not None:
            self.socket_link.abort(HandshakeError("the peer sent data after its answer"))

    def _lost(self, link: SocketLink) -> None:
        """Take down what is up."""
        if self._liveness is not None:
            self._liveness.stop()
        if isinstance(link.error, IdleError):
            self._counters.connections_idle_total += 1
        _logger.info("%s: connection lost (%s)", self.name, link.error or "closed")
        self._on_down(self)
        self.socket_link = None
