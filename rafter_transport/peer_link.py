"""A dialled link: connects to one shard of another node, and again for as long as it is wanted."""

import asyncio
import logging
import random
from collections.abc import Callable

from rafter_transport.addresses import format_address
from rafter_transport.backoff import Backoff, retry
from rafter_transport.counters import Counters
from rafter_transport.handshake import (
    HandshakeError,
    HandshakeRefusedError,
    Hello,
    check,
    common_version,
    decode_answer,
    encode_hello,
)
from rafter_transport.limits import HANDSHAKE_BYTES_MAX, Limits
from rafter_transport.link import SocketLink
from rafter_transport.peer_log import PeerLog
from rafter_transport.registry import Registry

_logger = logging.getLogger(__name__)

# What a try may fail with: OSError covers refused, unreachable, unresolved and timed out,
# UnicodeError a host name that the resolver cannot even encode.
_FAILURES = (OSError, HandshakeError, UnicodeError)


class PeerLink:
    """The way from this shard to one shard of another node: carries what this side sends.

    `run` is its one task. `on_up(self)` is called when the handshake is done and `socket_link` can
    send; `on_down(self)` once for each `on_up`, when that connection is gone; `on_hello` with
    each hello that was found in order, before `on_up`.
    """

    __slots__ = ("_backoff", "_counters", "_hello", "_limits", "_log", "_loop", "_on_down",
                 "_on_hello", "_on_up", "_registry", "_sleep", "node", "shard",
                 "socket_link")  # fmt: skip

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
        on_hello: Callable[[Hello], None],
        loop: asyncio.AbstractEventLoop,
        generator: random.Random,
    ) -> None:
        self.node = node
        self.shard = shard
        self.socket_link: SocketLink | None = None
        self._hello = hello
        self._registry = registry
        self._limits = limits
        self._counters = counters
        self._on_up = on_up
        self._on_down = on_down
        self._on_hello = on_hello
        self._loop = loop
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

    async def run(self) -> None:
        """Keep the link up until cancelled. A cancelled run leaves no socket behind."""
        while True:
            link = await retry(self._try, self._backoff, failures=_FAILURES)
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
        """Connect once; on failure count it, log it at most once a minute, and raise."""
        try:
            return await self._connect()
        except _FAILURES as error:
            self._counters.connect_failures_total += 1
            reason = type(error).__name__
            if isinstance(error, HandshakeError):
                reason = error.code
            if isinstance(error, HandshakeRefusedError):
                self._counters.handshakes_refused_total += 1
            self._log.report(self.name, reason, f"cannot connect: {error or reason}")
            raise

    async def _connect(self) -> SocketLink:
        """Connect and shake hands; on return the link is up and announced.

        A connection that fails on the way is gone when the exception arrives.
        """
        host, port = self._registry.peer_address(self.node, self.shard)
        address = format_address(host, port)
        answer: asyncio.Future[bytes] = self._loop.create_future()

        def take_answer(payload: bytes) -> None:
            if answer.done():
                # This connection carries our sends; theirs come on one that they dial.
                link.abort(HandshakeError("the peer sent data after its answer"))
            else:
                answer.set_result(payload)

        link = SocketLink(
            HANDSHAKE_BYTES_MAX, on_frame=take_answer, on_lost=self._lost, loop=self._loop
        )
        try:
            async with asyncio.timeout(self._limits.connect_seconds):
                await self._loop.create_connection(lambda: link, host, port)
        except TimeoutError:
            link.abort()
            raise TimeoutError(f"{address} did not accept in time") from None
        try:
            if link.is_connected_to_itself():
                raise ConnectionRefusedError(f"nobody listens at {address}")
            link.tune(self._limits.unacknowledged_seconds)
            remote = await self._shake_hands(link, answer, address)
        except BaseException:
            link.abort()
            await asyncio.shield(link.lost)
            raise
        self.socket_link = link
        version = common_version(self._hello, remote)
        _logger.info("%s: connected to %s, protocol version %d", self.name, address, version)
        self._on_hello(remote)
        self._on_up(self)
        return link

    async def _shake_hands(
        self, link: SocketLink, answer: asyncio.Future[bytes], address: str
    ) -> Hello:
        """Send our hello and return the peer's, checked."""
        link.send(encode_hello(self._hello))
        try:
            async with asyncio.timeout(self._limits.handshake_seconds):
                await asyncio.wait((answer, link.lost), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise TimeoutError(f"{address} did not answer the handshake in time") from None
        if not answer.done():
            raise ConnectionResetError(f"{address} closed the connection during the handshake")
        remote = decode_answer(answer.result())
        refusal = check(self._hello, remote, expected=(self.node, self.shard))
        refusal = refusal or self._registry.check(remote)
        if refusal is not None:
            raise HandshakeRefusedError(refusal, by_peer=False)
        if link.is_closing:
            raise ConnectionResetError(f"{address} closed the connection after the handshake")
        return remote

    def _lost(self, link: SocketLink) -> None:
        """Take down what is up; a connection that never came up is its try's concern."""
        if self.socket_link is link:
            _logger.info("%s: connection lost (%s)", self.name, link.error or "closed")
            self._on_down(self)
            self.socket_link = None
