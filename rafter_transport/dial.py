"""Dialling: one connection to a shard of another node, secured, shaken, ready to carry frames.

The name of the host is resolved anew for each connection. Each step has a deadline of its own: the
connection, and then TLS together with the handshake.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from rafter_transport.addresses import format_address
from rafter_transport.handshake import (
    LANE_VERSION,
    HandshakeError,
    HandshakeRefusedError,
    Hello,
    Lane,
    check,
    decode_answer,
    encode_hello,
)
from rafter_transport.limits import HANDSHAKE_BYTES_MAX, Limits
from rafter_transport.link import SocketLink
from rafter_transport.liveness import PULSE
from rafter_transport.registry import Registry
from rafter_transport.tls import PeerTls, TlsRefusedError

__all__ = ["FAILURES", "Connect", "Dialled", "LaneUser", "dial", "dial_lane"]

FAILURES = (OSError, HandshakeError, UnicodeError)
"""What a try may fail with: OSError covers refused, unreachable, unresolved and timed out,
UnicodeError a host name that the resolver cannot even encode."""

Connect = Callable[[Callable[[], SocketLink], str, int], Awaitable[object]]
"""How a connection is made: by default as `loop.create_connection(factory, host, port)`."""


class Dialled(NamedTuple):
    """A connection that is ready, and the checked answer of the one who accepted it."""

    link: SocketLink
    remote: Hello


class LaneUser(Protocol):
    """Who uses the lane once it is there."""

    def received(self, payload: bytes) -> None:
        """Take one frame."""

    def lost(self, link: SocketLink) -> None:
        """Take note that the connection is gone, for the reason in `link.error`. Called once."""


async def dial(
    node: int,
    shard: int,
    lane: Lane,
    *,
    hello: Hello,
    registry: Registry,
    limits: Limits,
    tls: PeerTls | None,
    on_lost: Callable[[SocketLink], None],
    loop: asyncio.AbstractEventLoop,
    connect: Connect | None = None,
    address: tuple[str, int] | None = None,
) -> Dialled:
    """Connect to a node's shard for `lane` and shake hands, with TLS if `tls` is given.

    `address` is where it is tried, by default where the shard most likely is. From the return on
    `on_lost(link)` tells the end, once. A frame that comes before the caller has set
    `link.on_frame` closes the connection. Raises one of FAILURES, UnknownNodeError and ValueError
    (no such shard); the connection is gone then, and `on_lost` was not called.
    """
    host, port = address or registry.peer_address(node, shard)
    attempt = _Attempt(format_address(host, port), tls, on_lost, loop)
    link = attempt.link
    try:
        async with asyncio.timeout(limits.connect_seconds):
            if connect is None:
                await loop.create_connection(lambda: link, host, port)
            else:
                await connect(lambda: link, host, port)
    except TimeoutError:
        link.abort()
        raise TimeoutError(f"{attempt.address} did not accept in time") from None
    except BaseException:
        link.abort()
        raise
    try:
        if link.is_connected_to_itself():
            raise ConnectionRefusedError(f"nobody listens at {attempt.address}")
        link.tune(limits.unacknowledged_seconds)
        try:
            async with asyncio.timeout(limits.handshake_seconds):
                if tls is not None:
                    await attempt.secure(tls, node)
                remote = await attempt.shake_hands(_for_lane(hello, lane))
        except TimeoutError:
            raise TimeoutError(f"{attempt.address} did not answer the handshake in time") from None
        refusal = check(hello, remote, expected=(node, shard)) or registry.check(remote)
        if refusal is not None:
            raise HandshakeRefusedError(refusal, by_peer=False)
        if link.is_closing:
            raise attempt.loss("after the handshake")
    except BaseException:
        link.abort()
        await asyncio.shield(link.lost)
        raise
    attempt.is_over = True
    return Dialled(link, remote)


async def dial_lane(
    node: int,
    shard: int,
    lane: Lane,
    user: LaneUser,
    *,
    hello: Hello,
    registry: Registry,
    limits: Limits,
    frame_bytes_max: int,
    loop: asyncio.AbstractEventLoop,
    tls: PeerTls | None = None,
    connect: Connect | None = None,
) -> SocketLink:
    """Dial a connection that is used in both directions; from the return on `user` is served.

    Raises as `dial` does.
    """
    dialled = await dial(
        node,
        shard,
        lane,
        hello=hello,
        registry=registry,
        limits=limits,
        tls=tls,
        on_lost=user.lost,
        loop=loop,
        connect=connect,
    )
    dialled.link.on_frame = user.received
    dialled.link.set_frame_bytes_max(frame_bytes_max)
    return dialled.link


def _for_lane(hello: Hello, lane: Lane) -> Hello:
    if lane is Lane.EXCHANGE:
        return hello
    # An older peer would take this connection for another link of the exchanger.
    return hello._replace(lane=lane, version_min=max(hello.version_min, LANE_VERSION))


class _Attempt:
    """One connection on its way."""

    __slots__ = ("_answer", "_on_lost", "_secured", "address", "is_over", "link")

    def __init__(
        self,
        address: str,
        tls: PeerTls | None,
        on_lost: Callable[[SocketLink], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.address = address
        self.is_over = False
        self._on_lost = on_lost
        self._answer: asyncio.Future[bytes] = loop.create_future()
        self._secured: asyncio.Future[None] = loop.create_future()
        self.link = SocketLink(
            HANDSHAKE_BYTES_MAX,
            on_frame=self._take,
            on_secure=self._take_security,
            on_lost=self._lost,
            tls=None if tls is None else tls.session(is_server=False),
            loop=loop,
        )

    async def secure(self, tls: PeerTls, node: int) -> None:
        """Wait for TLS, and see who is there before anything is said to them."""
        await self._first(self._secured, "during the TLS handshake (does it speak TLS?)")
        refusal = tls.check(self.link.peer_certificate(), node)
        if refusal is not None:
            raise TlsRefusedError(refusal.text)

    async def shake_hands(self, hello: Hello) -> Hello:
        """Send our hello and return the peer's, not yet checked."""
        self.link.send(encode_hello(hello))
        await self._first(self._answer, "during the handshake")
        return decode_answer(self._answer.result())

    def loss(self, stage: str) -> Exception:
        """Return why a connection is gone that was to be there still."""
        error = self.link.error
        if isinstance(error, HandshakeError):
            return error
        text = f"{self.address} closed the connection {stage}"
        return ConnectionResetError(text if error is None else f"{text}: {error}")

    async def _first(
        self, event: "asyncio.Future[bytes] | asyncio.Future[None]", stage: str
    ) -> None:
        """Wait for an event, or for the end."""
        lost = self.link.lost
        await asyncio.wait((event, lost), return_when=asyncio.FIRST_COMPLETED)
        if not event.done():
            raise self.loss(stage)

    def _take(self, payload: bytes) -> None:
        if not self._answer.done():
            self._answer.set_result(payload)
        elif payload != PULSE:
            # Nobody has said yet that this connection carries anything to here.
            self.link.abort(HandshakeError("the peer sent data after its answer"))

    def _take_security(self, _link: SocketLink) -> None:
        self._secured.set_result(None)

    def _lost(self, link: SocketLink) -> None:
        if self.is_over:
            self._on_lost(link)
