"""Dialling a lane: one connection to another shard, shaken, used in both directions."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from rafter_transport.addresses import format_address
from rafter_transport.handshake import (
    LANE_VERSION,
    HandshakeRefusedError,
    Hello,
    Lane,
    check,
    decode_answer,
    encode_hello,
)
from rafter_transport.limits import HANDSHAKE_BYTES_MAX, Limits
from rafter_transport.link import SocketLink
from rafter_transport.registry import Registry

Connect = Callable[[Callable[[], SocketLink], str, int], Awaitable[object]]
"""How a connection is made: by default as `loop.create_connection(factory, host, port)`."""


class LaneUser(Protocol):
    """Who uses the lane once it is there."""

    def received(self, payload: bytes) -> None:
        """Take one frame."""

    def lost(self, link: SocketLink) -> None:
        """Take note that the connection is gone, for the reason in `link.error`. Called once."""


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
    connect: Connect | None = None,
) -> SocketLink:
    """Connect to a node's shard for `lane` and shake hands; from the return on `user` is served.

    Raises OSError, HandshakeError, UnicodeError (a host name that cannot be resolved),
    UnknownNodeError and ValueError (no such shard); the connection is gone then.
    """
    host, port = registry.peer_address(node, shard)
    address = format_address(host, port)
    answer: asyncio.Future[bytes] = loop.create_future()
    is_served = False

    def take(payload: bytes) -> None:
        if answer.done():
            link.abort(ConnectionAbortedError("the peer sent data after its answer"))
        else:
            answer.set_result(payload)

    def lost(link: SocketLink) -> None:
        if is_served:
            user.lost(link)

    link = SocketLink(HANDSHAKE_BYTES_MAX, on_frame=take, on_lost=lost, loop=loop)
    try:
        async with asyncio.timeout(limits.connect_seconds):
            if connect is None:
                await loop.create_connection(lambda: link, host, port)
            else:
                await connect(lambda: link, host, port)
    except TimeoutError:
        link.abort()
        raise TimeoutError(f"{address} did not accept in time") from None
    except BaseException:
        link.abort()
        raise
    try:
        if link.is_connected_to_itself():
            raise ConnectionRefusedError(f"nobody listens at {address}")
        link.tune(limits.unacknowledged_seconds)
        await _shake_hands(
            link, answer, (node, shard), lane, hello=hello, registry=registry, limits=limits
        )
    except BaseException:
        link.abort()
        await asyncio.shield(link.lost)
        raise
    link.on_frame = user.received
    link.set_frame_bytes_max(frame_bytes_max)
    is_served = True
    return link


async def _shake_hands(
    link: SocketLink,
    answer: "asyncio.Future[bytes]",
    target: tuple[int, int],
    lane: Lane,
    *,
    hello: Hello,
    registry: Registry,
    limits: Limits,
) -> None:
    """Ask for the lane; on return the target has granted it."""
    address = format_address(*registry.peer_address(*target))
    # An older peer would take this connection for another link of the exchanger.
    link.send(encode_hello(hello._replace(lane=lane, version_min=LANE_VERSION)))
    try:
        async with asyncio.timeout(limits.handshake_seconds):
            await asyncio.wait((answer, link.lost), return_when=asyncio.FIRST_COMPLETED)
    except TimeoutError:
        raise TimeoutError(f"{address} did not answer the handshake in time") from None
    if not answer.done():
        raise ConnectionResetError(f"{address} closed the connection during the handshake")
    remote = decode_answer(answer.result())
    refusal = check(hello, remote, expected=target) or registry.check(remote)
    if refusal is not None:
        raise HandshakeRefusedError(refusal, by_peer=False)
    if link.is_closing:
        raise ConnectionResetError(f"{address} closed the connection after the handshake")
