"""Each limit at one below, at the limit, and at one above: between real ends, on every loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

import pytest

from rafter_transport import Channel, Limits
from rafter_transport.framing import HEADER_BYTES, frame_header
from rafter_transport.handshake import decode_answer, encode_hello
from rafter_transport.limits import HANDSHAKE_BYTES_MAX
from rafter_transport.payload import ITEM_OVERHEAD_BYTES, pack_item
from tests.transport.support import (
    QUICK,
    Peer,
    RawPeer,
    addresses,
    eventually,
    every_loop,
    make_hello,
    run,
)

EDGES = (-1, 0, 1)
SMALL = QUICK._replace(
    frame_bytes_max=4096, pending_bytes_max=8192, node_bytes_max=3 * 4096, connections_max=10
)


async def shake_hands(peer: Peer, node: int = 2, shard: int = 0, shards: int = 64) -> RawPeer:
    """Connect to a peer as a shard of another node."""
    raw = await RawPeer.dial(peer.port)
    raw.write(encode_hello(make_hello(node, shard=shard, shards=shards)))
    decode_answer(await raw.read())
    return raw


@contextlib.asynccontextmanager
async def one(limits: Limits) -> AsyncIterator[Peer]:
    """Start one shard with nobody to dial that would answer."""
    async with Peer(make_hello(1), addresses(1, 2, 3), limits=limits) as peer:
        yield peer


@contextlib.asynccontextmanager
async def two(limits: Limits, shards: int = 1) -> AsyncIterator[tuple[Peer, list[Peer]]]:
    """Start a shard, and the shards of another node, all linked to each other."""
    nodes = addresses(1, 2, shards=shards)
    async with contextlib.AsyncExitStack() as stack:
        others = [Peer(make_hello(2, shard=n, shards=shards), nodes) for n in range(shards)]
        for other in others:
            await stack.enter_async_context(other)
        peer = await stack.enter_async_context(Peer(make_hello(1), nodes, limits=limits))
        await peer.until_up(2)
        for shard in range(shards):
            peer.exchanger.post(2, shard, Channel.ADMIN, None)
            await peer.until_up(2, shard)
        peer.exchanger.flush()
        yield peer, others


def item_of(size: int) -> bytes:
    """Return an item that takes so many bytes packed."""
    item = bytes(size - 5)
    while len(pack_item(item)) < size:
        item += b"\0"
    assert len(pack_item(item)) == size
    return item


@every_loop
@pytest.mark.parametrize("edge", EDGES)
def test_the_length_of_a_frame_that_is_taken(loop_kind: str, edge: int) -> None:
    async def main() -> None:
        async with one(SMALL) as peer:
            raw = await shake_hands(peer)
            size = SMALL.frame_bytes_max + edge
            # [[channel, [item]]] with an item of two bytes of header.
            item = b"\xc5" + (size - 7).to_bytes(2, "big") + bytes(size - 7)
            payload = b"\x91\x92" + bytes([Channel.REPLY]) + b"\x91" + item
            assert len(payload) == size
            raw.write(payload)
            if edge <= 0:
                await peer.recorder.until(
                    lambda: peer.recorder.of(Channel.REPLY) == [bytes(size - 7)]
                )
            else:
                await raw.until_closed()
                assert peer.exchanger.counters.bad_frames_total == 1
                assert peer.recorder.items == []
            await raw.close()

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("edge", EDGES)
def test_the_length_of_a_frame_of_the_handshake(loop_kind: str, edge: int) -> None:
    async def main() -> None:
        async with one(SMALL) as peer:
            raw = await RawPeer.dial(peer.port)
            raw.write(bytes(HANDSHAKE_BYTES_MAX + edge))
            if edge <= 0:
                # Read, and found to be nonsense.
                assert b"malformed" in await raw.read()
            await raw.until_closed()
            counters = peer.exchanger.counters
            assert counters.handshakes_refused_total == (1 if edge <= 0 else 0)
            assert counters.bad_frames_total == (0 if edge <= 0 else 1)
            await raw.close()

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("edge", EDGES)
def test_the_length_of_an_item_that_is_posted(loop_kind: str, edge: int) -> None:
    async def main() -> None:
        async with two(SMALL) as (peer, others):
            item = item_of(SMALL.frame_bytes_max - ITEM_OVERHEAD_BYTES + edge)
            assert peer.exchanger.post(2, 0, Channel.REQUEST, item) == (edge <= 0)
            peer.exchanger.flush()
            assert peer.exchanger.counters.items_oversized_total == (1 if edge > 0 else 0)
            if edge <= 0:
                recorder = others[0].recorder
                await recorder.until(lambda: recorder.of(Channel.REQUEST) == [item])

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("edge", EDGES)
def test_what_waits_for_one_destination(loop_kind: str, edge: int) -> None:
    async def main() -> None:
        async with two(SMALL) as (peer, _):
            post = peer.exchanger.post
            assert post(2, 0, Channel.REQUEST, item_of(4000))
            assert post(2, 0, Channel.REQUEST, item_of(4000))
            left = SMALL.pending_bytes_max - peer.exchanger.pending_bytes(2, 0)
            assert post(2, 0, Channel.REQUEST, item_of(left + edge)) == (edge <= 0)

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("edge", EDGES)
def test_what_waits_for_all_shards_of_a_node(loop_kind: str, edge: int) -> None:
    async def main() -> None:
        async with two(SMALL, shards=4) as (peer, _):
            post, pending_bytes = peer.exchanger.post, peer.exchanger.pending_bytes
            counters = peer.exchanger.counters
            refused = counters.posts_refused_total
            for shard in (0, 1, 2):
                assert post(2, shard, Channel.REQUEST, item_of(3500))
            left = SMALL.node_bytes_max - sum(pending_bytes(2, shard) for shard in range(4))
            assert 0 < left < SMALL.pending_bytes_max
            assert post(2, 3, Channel.REQUEST, item_of(left + edge)) == (edge <= 0)
            assert counters.posts_refused_total == refused + (1 if edge > 0 else 0)

    run(loop_kind, main())


@every_loop
def test_what_waits_for_a_node_is_bounded_however_much_was_posted_before(loop_kind: str) -> None:
    async def main() -> None:
        async with two(SMALL, shards=4) as (peer, others):
            for count in range(1, 101):
                for shard in range(4):
                    assert peer.exchanger.post(2, shard, Channel.REQUEST, item_of(2500))
                peer.exchanger.flush()
                for other in others:
                    await eventually(partial(arrived, other, count))
            refused = 0
            for shard in (0, 1, 2, 3) * 20:
                refused += not peer.exchanger.post(2, shard, Channel.REQUEST, item_of(1000))
            waiting = sum(peer.exchanger.pending_bytes(2, shard) for shard in range(4))
            assert SMALL.node_bytes_max - 1000 < waiting <= SMALL.node_bytes_max
            assert refused == 80 - waiting // 1000

    run(loop_kind, main())


def arrived(peer: Peer, count: int) -> bool:
    """Tell whether so many requests have come."""
    return len(peer.recorder.of(Channel.REQUEST)) == count


async def held(peer: Peer, node: int, size: int) -> None:
    """Wait until the unfinished frames of a node hold so much."""
    budget = peer.exchanger._listener.budget(node)
    await eventually(lambda: budget.held_bytes == size)


@every_loop
@pytest.mark.parametrize("edge", EDGES)
def test_what_unfinished_frames_of_a_node_hold(loop_kind: str, edge: int) -> None:
    async def main() -> None:
        async with one(SMALL) as peer:
            raws = [await shake_hands(peer, shard=shard) for shard in range(4)]
            size = SMALL.node_bytes_max // 4
            begun = frame_header(SMALL.frame_bytes_max) + bytes(size - HEADER_BYTES)
            for count, raw in enumerate(raws[:3], 1):
                raw.writer.write(begun)
                await held(peer, 2, count * size)
            # Another node has a budget of its own.
            other = await shake_hands(peer, node=3)
            other.writer.write(begun)
            await held(peer, 3, size)
            raws[3].writer.write((begun + b"x")[: size + edge])
            if edge <= 0:
                await held(peer, 2, SMALL.node_bytes_max + edge)
            else:
                await raws[3].until_closed()
                await held(peer, 2, 3 * size)
            assert peer.exchanger.counters.bad_frames_total == (1 if edge > 0 else 0)
            # What was begun can be ended, and then holds nothing.
            raws[0].writer.write(bytes(SMALL.frame_bytes_max + HEADER_BYTES - size))
            for raw in (*raws, other):
                await raw.close()
            await held(peer, 2, 0)
            await held(peer, 3, 0)

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("edge", EDGES)
def test_connections_that_have_not_finished_their_handshake(loop_kind: str, edge: int) -> None:
    async def main() -> None:
        limits = SMALL._replace(handshaking_max=3)
        async with one(limits) as peer:
            # One that has finished is none of them.
            shaken = await shake_hands(peer)
            mute = [await RawPeer.dial(peer.port) for _ in range(3 + edge)]
            if edge > 0:
                await mute[-1].until_closed()
            last = mute[2 + min(edge, 0)]
            last.write(encode_hello(make_hello(2, shard=1, shards=64)))
            decode_answer(await last.read())
            counters = peer.exchanger.counters
            assert counters.connections_over_limit_total == (1 if edge > 0 else 0)
            for raw in (shaken, *mute):
                await raw.close()

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("edge", EDGES)
def test_connections_in_all(loop_kind: str, edge: int) -> None:
    async def main() -> None:
        async with one(SMALL) as peer:
            count = SMALL.connections_max + edge
            raws = [await shake_hands(peer, shard=shard) for shard in range(min(count, 10))]
            assert peer.exchanger._listener.connection_count == min(count, 10)
            if edge > 0:
                more = await RawPeer.dial(peer.port)
                await more.until_closed()
                await more.close()
            counters = peer.exchanger.counters
            assert counters.connections_over_limit_total == (1 if edge > 0 else 0)
            # One that goes makes room for another.
            await raws.pop().close()
            listener = peer.exchanger._listener
            await eventually(lambda: listener.connection_count == min(count, 10) - 1)
            raws.append(await shake_hands(peer, shard=20))
            for raw in raws:
                await raw.close()

    run(loop_kind, main())


@every_loop
def test_a_handshake_within_its_time_and_one_without_end(loop_kind: str) -> None:
    async def main() -> None:
        async with one(SMALL._replace(handshake_seconds=0.3)) as peer:
            mute = await RawPeer.dial(peer.port)
            slow = await RawPeer.dial(peer.port)
            hello = encode_hello(make_hello(2))
            for byte in frame_header(len(hello)) + hello:
                slow.writer.write(bytes((byte,)))
                await asyncio.sleep(0)
            decode_answer(await slow.read())
            await mute.until_closed()
            # The time of the one is over, and that of the other does not count any more.
            slow.write(b"\x91\x92\x03\x91\xa4late")
            await peer.recorder.until(lambda: peer.recorder.of(Channel.REPLY) == ["late"])
            await mute.close()
            await slow.close()

    run(loop_kind, main())
