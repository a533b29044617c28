"""Dialling a lane against peers that answer wrongly, late, or are too old."""

import asyncio

import pytest

from rafter_transport import HandshakeError, HandshakeRefusedError, Limits, Registry
from rafter_transport.dial import dial_lane
from rafter_transport.handshake import Lane, decode_hello, encode_accepted, encode_hello
from rafter_transport.link import SocketLink
from tests.transport.express_support import Station, two_nodes
from tests.transport.support import (
    QUICK,
    Peer,
    RawServer,
    every_loop,
    make_hello,
    run,
)


class User:
    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.losses: list[SocketLink] = []
        self.changed = asyncio.Event()

    def received(self, payload: bytes) -> None:
        self.frames.append(payload)
        self.changed.set()

    def lost(self, link: SocketLink) -> None:
        self.losses.append(link)
        self.changed.set()


async def dial(
    nodes: dict[int, tuple[str, int]], user: User, limits: Limits = QUICK, lane: Lane = Lane.EXPRESS
) -> SocketLink:
    return await dial_lane(
        2, 0, lane, user, hello=make_hello(1, version_max=2), registry=Registry(1, nodes),
        limits=limits, frame_bytes_max=10000, loop=asyncio.get_running_loop(),
    )  # fmt: skip


@every_loop
def test_a_lane_carries_frames_both_ways_and_tells_its_loss_once(loop_kind: str) -> None:
    async def main() -> None:
        nodes = two_nodes()
        server = RawServer()
        await server.start(nodes[2][1])
        user = User()
        dialling = asyncio.ensure_future(dial(nodes, user))
        peer = await server.accepted.get()
        hello = decode_hello(await peer.read())
        assert hello.lane == Lane.EXPRESS
        assert hello.version_min == 2, "a peer that knows no lanes refuses it"
        peer.write(encode_accepted(make_hello(2, version_max=2)))
        link = await dialling
        link.send(b"there")
        assert await peer.read() == b"there"
        peer.write(b"x" * 9000)
        await user.changed.wait()
        assert user.frames == [b"x" * 9000]
        user.changed.clear()
        await peer.close()
        await user.changed.wait()
        assert user.losses == [link]
        await server.close()

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (encode_accepted(make_hello(3, version_max=2)), "but node 3 shard 0 answers"),
        (encode_accepted(make_hello(2, cluster_id=5, version_max=2)), "other cluster"),
        (encode_hello(make_hello(2)), "not answered by an answer"),
    ],
)
def test_a_wrong_answer_leaves_no_connection(loop_kind: str, answer: bytes, reason: str) -> None:
    async def main() -> None:
        nodes = two_nodes()
        server = RawServer()
        await server.start(nodes[2][1])
        user = User()
        dialling = asyncio.ensure_future(dial(nodes, user))
        peer = await server.accepted.get()
        peer.write(answer)
        with pytest.raises(HandshakeError, match=reason):
            await dialling
        await peer.until_closed()
        assert user.losses == []
        await server.close()

    run(loop_kind, main())


@every_loop
def test_a_peer_without_lanes_refuses_by_the_version_and_keeps_its_links(loop_kind: str) -> None:
    async def main() -> None:
        nodes = two_nodes()
        async with Peer(make_hello(2), nodes) as peer:
            with pytest.raises(HandshakeRefusedError, match="no common version"):
                await dial(nodes, User())
            assert peer.exchanger.counters.connections_accepted_total == 0

    run(loop_kind, main())


@every_loop
def test_a_peer_that_is_silent_or_absent_is_given_up(loop_kind: str) -> None:
    async def main() -> None:
        nodes = two_nodes()
        with pytest.raises(ConnectionRefusedError):
            await dial(nodes, User())
        server = RawServer()
        await server.start(nodes[2][1])
        with pytest.raises(TimeoutError, match="did not answer the handshake in time"):
            await dial(nodes, User(), QUICK._replace(handshake_seconds=0.05))
        await server.close()

    run(loop_kind, main())


@every_loop
def test_a_lane_that_nobody_serves_is_refused_and_others_are_not_counted_as_handshaking(
    loop_kind: str,
) -> None:
    async def main() -> None:
        nodes = two_nodes()
        limits = QUICK._replace(handshaking_max=1)
        async with Station(2, nodes, link_limits=limits) as station:
            links = [await dial(nodes, User()) for _ in range(3)]
            assert station.listener.connection_count == 3, "a peer may have several"
            station.listener.lanes.clear()
            with pytest.raises(HandshakeRefusedError, match="lane 1 is not served here") as caught:
                await dial(nodes, User())
            assert caught.value.code == "lane"
            for link in links:
                link.abort()
                await link.lost

    run(loop_kind, main())
