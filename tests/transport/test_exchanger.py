"""The exchanger between real processes' ends: sockets on loopback, all loops."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from rafter_core.errors import DecodeError
from rafter_transport import (
    Channel,
    Exchanger,
    Limits,
    PayloadError,
    Registry,
)
from rafter_transport.handshake import (
    LANE_VERSION,
    HandshakeError,
    Hello,
    Lane,
    decode_answer,
    encode_accepted,
    encode_hello,
)
from rafter_transport.link import SocketLink
from rafter_transport.ring_pair import ShardEnd, is_supported, make_ring_pair
from tests.transport.support import (
    HOST,
    QUICK,
    LogRecorder,
    Peer,
    RawPeer,
    RawServer,
    Recorder,
    addresses,
    every_kind_of_link,
    every_loop,
    make_hello,
    run,
)


@every_loop
def test_items_reach_the_handler_of_their_channel_in_order(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        async with Peer(make_hello(1), nodes) as first, Peer(make_hello(2), nodes) as second:
            await first.until_up(2)
            await second.until_up(1)
            post = first.exchanger.post
            assert post(2, 0, Channel.RAFT, [1, b"a", None, True, 1.5, "text", [[]]])
            assert post(2, 0, Channel.REQUEST, "request")
            assert post(2, 0, Channel.RAFT, 2)
            assert first.exchanger.pending_bytes(2, 0) > 0
            first.exchanger.flush()
            assert first.exchanger.counters.frames_sent_total == 1
            second.send(1, 0, Channel.REPLY, b"reply")
            await second.recorder.until(lambda: len(second.recorder.items) == 2)
            await first.recorder.until(lambda: len(first.recorder.items) == 1)
            assert second.recorder.items == [
                (Channel.RAFT, 1, 0, [[1, b"a", None, True, 1.5, "text", [[]]], 2]),
                (Channel.REQUEST, 1, 0, ["request"]),
            ]
            assert first.recorder.items == [(Channel.REPLY, 2, 0, [b"reply"])]
            received = second.exchanger.counters
            assert received.frames_received_total == 1
            assert received.bytes_received_total == first.exchanger.counters.bytes_sent_total

    run(loop_kind, main())


@every_loop
def test_each_shard_keeps_a_link_to_every_node_and_dials_others_on_first_post(
    loop_kind: str,
) -> None:
    async def main() -> None:
        nodes = addresses(1, 2, shards=3)
        mine = Peer(make_hello(1, shard=1, shards=2), nodes)
        theirs = [Peer(make_hello(2, shard=shard, shards=3), nodes) for shard in range(3)]
        for peer in (mine, *theirs):
            await peer.start()
        await mine.until_up(2, 0)
        await mine.until_up(2, 1)
        assert mine.registry.shard_count(2) == 3
        assert not mine.exchanger.is_up(2, 2)
        assert not mine.exchanger.post(2, 2, Channel.REQUEST, b"x")
        await mine.until_up(2, 2)
        mine.send(2, 2, Channel.REQUEST, b"x")
        await theirs[2].recorder.until(lambda: theirs[2].recorder.of(Channel.REQUEST) == [b"x"])
        assert theirs[2].recorder.items[0][1:3] == (1, 1)
        assert not mine.exchanger.post(2, 3, Channel.REQUEST, b"x"), "there is no such shard"
        assert not mine.exchanger.post(9, 0, Channel.RAFT, b"x"), "there is no such node"
        assert mine.exchanger.counters.posts_refused_total == 2
        assert mine.exchanger.counters.raft_dropped_total == 1
        for peer in (mine, *theirs):
            await peer.exchanger.close()

    run(loop_kind, main())


@every_loop
def test_a_link_comes_back_after_the_peer_restarts(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        async with Peer(make_hello(1), nodes) as first:
            async with Peer(make_hello(2), nodes):
                await first.until_up(2)
                assert first.exchanger.post(2, 0, Channel.RAFT, b"lost with the link")
            await first.until_down(2)
            assert not first.exchanger.post(2, 0, Channel.RAFT, b"x")
            first.exchanger.flush()
            async with Peer(make_hello(2), nodes) as second:
                await first.until_up(2)
                first.send(2, 0, Channel.RAFT, b"y")
                await second.recorder.until(lambda: second.recorder.of(Channel.RAFT) == [b"y"])
            await first.until_down(2)
            states = [is_up for _, _, is_up in first.recorder.states]
            assert states == [True, False, True, False]
            assert first.exchanger.counters.raft_dropped_total == 1

    run(loop_kind, main())


@every_loop
def test_posts_above_the_frame_limit_are_split_and_stay_in_order(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        limits = QUICK._replace(frame_bytes_max=4096, pending_bytes_max=1 << 20)
        async with (
            Peer(make_hello(1), nodes, limits=limits) as first,
            Peer(make_hello(2), nodes, limits=limits) as second,
        ):
            await first.until_up(2)
            items = [bytes([number]) * 1000 for number in range(20)]
            first.send(2, 0, Channel.REQUEST, *items)
            assert first.exchanger.counters.frames_sent_total == 5
            await second.recorder.until(lambda: second.recorder.of(Channel.REQUEST) == items)

    run(loop_kind, main())


@every_loop
def test_an_item_is_refused_from_one_byte_above_the_frame_limit(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        limits = QUICK._replace(frame_bytes_max=4096, pending_bytes_max=8192)
        async with (
            Peer(make_hello(1), nodes, limits=limits) as first,
            Peer(make_hello(2), nodes, limits=limits) as second,
        ):
            await first.until_up(2)
            # Eight bytes of arrays and channel, three of the item's own header.
            largest = 4096 - 8 - 3
            assert not first.exchanger.post(2, 0, Channel.REQUEST, bytes(largest + 1))
            assert first.exchanger.counters.items_oversized_total == 1
            sizes = [largest - 1, largest]
            first.send(2, 0, Channel.REQUEST, *(bytes(size) for size in sizes))
            await second.recorder.until(lambda: len(second.recorder.of(Channel.REQUEST)) == 2)
            assert [len(item) for item in second.recorder.of(Channel.REQUEST)] == sizes

    run(loop_kind, main())


@every_loop
def test_a_peer_that_stops_reading_costs_no_more_than_the_pending_limit(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        limits = QUICK._replace(frame_bytes_max=65536, pending_bytes_max=1 << 20)
        server = RawServer()
        await server.start(nodes[2][1])
        async with Peer(make_hello(1), nodes, limits=limits) as first:
            peer = await server.accepted.get()
            await peer.read()
            peer.write(encode_accepted(make_hello(2)))
            await first.until_up(2)
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport reads
            item = bytes(10000)
            exchanger = first.exchanger
            posted = 0
            while exchanger.post(2, 0, Channel.RAFT, item):
                exchanger.flush()
                posted += 1
                assert exchanger.pending_bytes(2, 0) <= limits.pending_bytes_max + 1000
                # Whatever the kernel takes, it takes in these turns of the loop.
                await asyncio.sleep(0)
            assert exchanger.counters.raft_dropped_total == 1
            assert exchanger.pending_bytes(2, 0) > limits.pending_bytes_max - 2 * len(item)
            assert first.recorder.states == [(2, 0, True)], "full is not down"
            peer.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
            for _ in range(posted):
                await peer.read()
            # Everything that was taken has arrived, and there is room again.
            first.send(2, 0, Channel.RAFT, item)
            await peer.read()
            await first.exchanger.close()
        await server.close()

    run(loop_kind, main())


@every_loop
def test_the_pending_limit_holds_at_its_edge(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        limits = QUICK._replace(frame_bytes_max=4096, pending_bytes_max=8192)
        async with (
            Peer(make_hello(1), nodes, limits=limits) as first,
            Peer(make_hello(2), nodes, limits=limits),
        ):
            await first.until_up(2)
            item = bytes(2048 - 3)  # 2048 packed
            assert all(first.exchanger.post(2, 0, Channel.REQUEST, item) for _ in range(3))
            assert not first.exchanger.post(2, 0, Channel.REQUEST, bytes(2049 - 3))
            assert first.exchanger.post(2, 0, Channel.REQUEST, bytes(2047 - 3))
            assert first.exchanger.pending_bytes(2, 0) == 8191
            assert first.exchanger.post(2, 0, Channel.REQUEST, 1)
            assert first.exchanger.pending_bytes(2, 0) == 8192
            assert not first.exchanger.post(2, 0, Channel.REQUEST, 1)
            assert first.exchanger.counters.posts_refused_total == 2

    run(loop_kind, main())


@every_loop
def test_joined_parts_leave_in_as_few_items_as_frames_allow(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        limits = QUICK._replace(frame_bytes_max=4096)
        async with (
            Peer(make_hello(1), nodes, limits=limits) as first,
            Peer(make_hello(2), nodes, limits=limits) as second,
        ):
            await first.until_up(2)
            exchanger = first.exchanger
            small = [b"%d" % number for number in range(100)]
            large = [number.to_bytes(1) * 1500 for number in range(8)]
            assert exchanger.post_joined(2, 0, Channel.RAFT, small, list)
            assert exchanger.post_joined(2, 0, Channel.RAFT, large, list)
            exchanger.flush()
            await second.recorder.until(lambda: len(second.recorder.of(Channel.RAFT)) == 5)
            # Two parts of 1500 bytes fit a frame, and four do not.
            pairs = [large[begin : begin + 2] for begin in (0, 2, 4, 6)]
            assert second.recorder.of(Channel.RAFT) == [small, *pairs]
            assert exchanger.counters.raft_dropped_total == 0
            assert exchanger.counters.items_oversized_total == 0

    run(loop_kind, main())


@every_loop
def test_of_joined_parts_only_those_that_fit_no_frame_are_refused(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        limits = QUICK._replace(frame_bytes_max=4096, pending_bytes_max=8192)
        async with (
            Peer(make_hello(1), nodes, limits=limits) as first,
            Peer(make_hello(2), nodes, limits=limits) as second,
        ):
            await first.until_up(2)
            exchanger = first.exchanger
            parts = [b"one", bytes(5000), b"three", b"four", b"five"]
            assert not exchanger.post_joined(2, 0, Channel.RAFT, parts, list)
            exchanger.flush()
            await second.recorder.until(lambda: len(second.recorder.of(Channel.RAFT)) == 2)
            assert second.recorder.of(Channel.RAFT) == [[b"one"], [b"three", b"four", b"five"]]
            assert exchanger.counters.raft_dropped_total == 1
            assert exchanger.counters.items_oversized_total == 1

    run(loop_kind, main())


@every_loop
def test_refused_parts_are_counted_one_by_one(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        limits = QUICK._replace(frame_bytes_max=4096, pending_bytes_max=4096)
        async with Peer(make_hello(1), nodes, limits=limits) as first:
            exchanger = first.exchanger
            parts = [b"a", b"b", b"c"]
            assert not exchanger.post_joined(2, 0, Channel.RAFT, parts, list), "the link is down"
            assert exchanger.counters.raft_dropped_total == 3
            async with Peer(make_hello(2), nodes, limits=limits):
                await first.until_up(2)
                assert exchanger.post(2, 0, Channel.RAFT, bytes(4000))
                large = [bytes(50)] * 3
                assert not exchanger.post_joined(2, 0, Channel.RAFT, large, list), "it is full"
                assert exchanger.counters.raft_dropped_total == 6
                assert exchanger.post_joined(2, 0, Channel.RAFT, parts, list)

    run(loop_kind, main())


MAKE_ENDS: dict[str, Callable[[], tuple[ShardEnd, ShardEnd]]] = {
    "socket": socket.socketpair,
    "ring": make_ring_pair,
}


@every_loop
@every_kind_of_link
def test_shards_of_a_node_talk_over_their_link(loop_kind: str, kind: str) -> None:
    make_ends = MAKE_ENDS[kind]

    async def main() -> None:
        nodes = addresses(1, shards=2)
        left, right = make_ends()
        zero = Peer(make_hello(1, 0, 2), nodes, shard_ends={1: left})
        one = Peer(make_hello(1, 1, 2), nodes, shard_ends={0: right})
        async with zero, one:
            assert zero.exchanger.is_up(1, 1), "start waits for the attached shards"
            assert zero.recorder.states == [(1, 1, True)]
            zero.send(1, 1, Channel.REQUEST, b"ask")
            one.send(1, 0, Channel.REPLY, b"answer")
            await one.recorder.until(lambda: one.recorder.items != [])
            await zero.recorder.until(lambda: zero.recorder.items != [])
            assert one.recorder.items == [(Channel.REQUEST, 1, 0, [b"ask"])]
            assert zero.recorder.items == [(Channel.REPLY, 1, 1, [b"answer"])]
            await one.exchanger.close()
            await zero.until_down(1, 1)
            assert zero.recorder.states == [(1, 1, True), (1, 1, False)]
            # The supervisor restarts shard 1 and sends both a new pair.
            left, right = make_ends()
            zero.exchanger.attach_shard(1, left)
            again = Peer(make_hello(1, 1, 2), nodes, shard_ends={0: right})
            async with again:
                await zero.until_up(1, 1)
                zero.send(1, 1, Channel.REQUEST, b"again")
                await again.recorder.until(lambda: again.recorder.of(Channel.REQUEST) == [b"again"])

    run(loop_kind, main())


@every_loop
def test_attaching_a_shard_again_replaces_its_link(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, shards=2)
        older, older_end = socket.socketpair()
        skipped, skipped_end = socket.socketpair()
        newer, newer_end = socket.socketpair()
        async with Peer(make_hello(1, 0, 2), nodes, shard_ends={1: older}) as zero:
            assert zero.exchanger.post(1, 1, Channel.REQUEST, b"gone with the older link")
            zero.exchanger.attach_shard(1, skipped)
            zero.exchanger.attach_shard(1, newer)
            assert not zero.exchanger.post(1, 1, Channel.REQUEST, b"x")
            zero.exchanger.flush()
            await zero.until_up(1, 1)
            assert zero.recorder.states == [(1, 1, True), (1, 1, False), (1, 1, True)]
            zero.send(1, 1, Channel.REQUEST, b"y")
            peer = RawPeer(*await asyncio.open_connection(sock=newer_end))
            assert await peer.read() == b"\x91\x92\x02\x91\xc4\x01y"
            for end in (older_end, skipped_end):
                closed = RawPeer(*await asyncio.open_connection(sock=end))
                assert await closed.reader.read() == b"", "nothing came over it"
                await closed.close()
            with pytest.raises(ValueError, match="shard 2 is not another"):
                zero.exchanger.attach_shard(2, socket.socket())
            with pytest.raises(ValueError, match="shard 0 is not another"):
                zero.exchanger.attach_shard(0, socket.socket())
            await peer.close()
        late, late_end = socket.socketpair()
        zero.exchanger.attach_shard(1, late)
        assert late.fileno() == -1, "a closed exchanger closes what it is given"
        late_end.close()

    run(loop_kind, main())


@pytest.mark.skipif(not is_supported(), reason="no rings on this machine")
def test_rings_of_another_generation_make_no_link_and_no_noise() -> None:
    async def main() -> None:
        nodes = addresses(1, shards=2)
        stale, other = make_ring_pair(6)
        other.close()
        stale.generation = 7
        async with Peer(make_hello(1, 0, 2), nodes, shard_ends={1: stale}) as zero:
            assert not zero.exchanger.is_up(1, 1)
            assert zero.recorder.states == []
            ours, theirs = make_ring_pair(7)
            zero.exchanger.attach_shard(1, ours)
            await zero.until_up(1, 1)
            theirs.close()
            await zero.until_down(1, 1)

    run("uvloop", main())


BAD_PAYLOADS = {
    "empty": b"",
    "not an array": b"\xc0",
    "not msgpack": b"\xc1",
    "bytes behind": b"\x90\xc0",
    "no such channel": b"\x91\x92\x0f\x90",
    "a channel that is true": b"\x91\x92\xc3\x90",
    "items that are bytes": b"\x91\x92\x01\xc4\x00",
    "a third field": b"\x91\x93\x01\x90\x90",
    "a map": b"\x91\x92\x01\x91\x80",
    "an extension": b"\x91\x92\x01\x91\xd4\x05\x00",
    "a 4 GiB string": b"\x91\x92\x01\x91\xdb\xff\xff\xff\xff",
    "a 4 Gi array": b"\x91\x92\x01\xdd\xff\xff\xff\xff",
    "nested too deep": b"\x91\x92\x01" + b"\x91" * 2000 + b"\xc0",
    "text that is not UTF-8": b"\x91\x92\x01\x91\xa1\xff",
}


@pytest.mark.parametrize("name", BAD_PAYLOADS)
def test_a_bad_frame_closes_its_connection_and_no_other(name: str) -> None:
    async def main() -> None:
        nodes = addresses(1, shards=2)
        ours, theirs = socket.socketpair()
        sister, sister_end = socket.socketpair()
        hello = make_hello(1, 0, 3)
        async with Peer(hello, nodes, shard_ends={1: ours, 2: sister}) as zero:
            bad = RawPeer(*await asyncio.open_connection(sock=theirs))
            good = RawPeer(*await asyncio.open_connection(sock=sister_end))
            bad.write(BAD_PAYLOADS[name])
            bad.write(b"\x91\x92\x01\x91\x01")
            await bad.until_closed()
            await zero.until_down(1, 1)
            assert zero.recorder.states[-1] == (1, 1, False)
            good.write(b"\x91\x92\x01\x91\x02")
            await zero.recorder.until(lambda: zero.recorder.of(Channel.RAFT) == [2])
            assert zero.exchanger.counters.bad_frames_total == 1
            await bad.close()
            await good.close()

    run("asyncio", main())


@every_loop
@pytest.mark.parametrize("excess", [0, 1])
def test_a_length_above_the_limit_closes_the_connection(loop_kind: str, excess: int) -> None:
    async def main() -> None:
        nodes = addresses(1)
        ours, theirs = socket.socketpair()
        limits = QUICK._replace(frame_bytes_max=4096)
        hello = make_hello(1, 0, 2)
        with LogRecorder() as log:
            async with Peer(hello, nodes, shard_ends={1: ours}, limits=limits) as zero:
                peer = RawPeer(*await asyncio.open_connection(sock=theirs))
                item = bytes(4096 + excess - 7)
                peer.write(b"\x91\x92\x01\x91\xc5" + len(item).to_bytes(2) + item)
                if excess:
                    await peer.until_closed()
                    await zero.until_down(1, 1)
                    assert zero.exchanger.counters.bad_frames_total == 1
                    assert "frame of 4097 bytes is above the limit of 4096" in log.lines[0]
                else:
                    await zero.recorder.until(lambda: zero.recorder.of(Channel.RAFT) == [item])
                await peer.close()

    run(loop_kind, main())


@pytest.mark.parametrize("error", [PayloadError, DecodeError])
def test_a_handler_that_refuses_an_item_closes_the_connection(error: type[Exception]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        recorder = Recorder()

        def refuse(node: int, shard: int, items: list[Any]) -> None:
            raise error("term is not a number")

        exchanger = Exchanger(
            hello=make_hello(1, 0, 2),
            registry=Registry(1, addresses(1)),
            limits=Limits(),
            handlers={Channel.RAFT: refuse},
            on_link_state=recorder.link_state,
            loop=asyncio.get_running_loop(),
            shard_ends={1: ours},
        )
        await exchanger.start(HOST, 0)
        assert exchanger.port > 0
        peer = RawPeer(*await asyncio.open_connection(sock=theirs))
        peer.write(b"\x91\x92\x01\x91\x01")
        await recorder.until(lambda: recorder.states == [(1, 1, True), (1, 1, False)])
        assert exchanger.counters.bad_frames_total == 1
        await peer.close()
        await exchanger.close()

    run("asyncio", main())


@every_loop
def test_an_error_of_our_own_in_a_handler_reaches_the_loop(loop_kind: str) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        recorder = Recorder()
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()
        contexts: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: contexts.append(context))

        def broken(node: int, shard: int, items: list[Any]) -> None:
            raise AssertionError("an invariant")

        exchanger = Exchanger(
            hello=make_hello(1, 0, 2),
            registry=Registry(1, addresses(1)),
            limits=Limits(),
            handlers={Channel.RAFT: broken},
            on_link_state=recorder.link_state,
            loop=loop,
            shard_ends={1: ours},
        )
        await exchanger.start(HOST, 0)
        peer = RawPeer(*await asyncio.open_connection(sock=theirs))
        peer.write(b"\x91\x92\x01\x91\x01")
        await recorder.until(lambda: (1, 1, False) in recorder.states)
        assert [type(context["exception"]) for context in contexts] == [AssertionError]
        loop.set_exception_handler(before)
        await peer.close()
        await exchanger.close()

    run(loop_kind, main())


@every_loop
def test_close_sends_what_was_posted_and_calls_nobody(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        async with Peer(make_hello(2), nodes) as second:
            first = Peer(make_hello(1), nodes)
            await first.start()
            await first.until_up(2)
            await second.until_up(1)
            item = bytes(8 << 20)
            assert first.exchanger.post(2, 0, Channel.REQUEST, item)
            states = list(first.recorder.states)
            await first.exchanger.close()
            await first.exchanger.close()
            assert first.recorder.states == states
            assert not first.exchanger.is_up(2, 0)
            assert not first.exchanger.post(2, 0, Channel.RAFT, b"x")
            await second.recorder.until(lambda: second.recorder.of(Channel.REQUEST) == [item])

    run(loop_kind, main())


@every_loop
def test_close_is_bounded_when_the_peer_does_not_read(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        limits = QUICK._replace(close_seconds=0.05)
        server = RawServer()
        await server.start(nodes[2][1])
        first = Peer(make_hello(1), nodes, limits=limits)
        await first.start()
        peer = await server.accepted.get()
        await peer.read()
        peer.write(encode_accepted(make_hello(2)))
        await first.until_up(2)
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport reads
        first.send(2, 0, Channel.REQUEST, *[bytes(8 << 20)] * 4)
        assert first.exchanger.pending_bytes(2, 0) > 0
        await first.exchanger.close()
        await server.close()

    run(loop_kind, main())


@every_loop
def test_a_lane_is_served_on_the_same_port_beside_the_links(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        opened: list[Hello] = []
        first = Peer(make_hello(1, version_max=LANE_VERSION), nodes)

        def open_lane(link: SocketLink, hello: Hello) -> LaneUser:
            opened.append(hello)
            return LaneUser(link)

        first.exchanger.serve_lane(Lane.EXPRESS, open_lane)
        async with first, Peer(make_hello(2), nodes) as second:
            await first.until_up(2)
            hello = make_hello(2, version_max=LANE_VERSION, lane=Lane.EXPRESS)
            raw = await RawPeer.dial(first.port)
            raw.write(encode_hello(hello))
            assert decode_answer(await raw.read()).node_id == 1
            assert [each.lane for each in opened] == [Lane.EXPRESS]
            raw.write(b"over the lane")
            assert await raw.read() == b"over the lane"
            # The links are as they were: a lane is none of them.
            second.send(1, 0, Channel.RAFT, 1)
            await first.recorder.until(lambda: first.recorder.of(Channel.RAFT) == [1])
            await raw.close()

    run(loop_kind, main())


class LaneUser:
    """Sends back what comes."""

    frame_bytes_max = 1000

    def __init__(self, link: SocketLink) -> None:
        self.link = link

    def received(self, payload: bytes) -> None:
        self.link.send(payload)

    def lost(self, link: SocketLink) -> None:
        assert link is self.link


@every_loop
def test_links_to_shards_that_a_node_no_longer_has_are_given_up(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2, shards=4)
        async with Peer(make_hello(1, 3, 4), nodes) as mine:
            theirs = [Peer(make_hello(2, shard, 4), nodes) for shard in range(4)]
            for peer in theirs:
                await peer.start()
            await mine.until_up(2, 3)
            for peer in theirs:
                await peer.exchanger.close()
            fewer = [Peer(make_hello(2, shard, 2), nodes) for shard in range(2)]
            for peer in fewer:
                await peer.start()
            await mine.until_up(2, 1)
            assert mine.registry.shard_count(2) == 2
            assert not mine.exchanger.post(2, 3, Channel.RAFT, b"x")
            for peer in fewer:
                await peer.exchanger.close()

    run(loop_kind, main())


def test_impossible_settings_are_refused_before_anything_is_opened() -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        with pytest.raises(HandshakeError, match="shard = 2: must be from 0 to 1"):
            Peer(make_hello(1, 2, 2), nodes)
        with pytest.raises(ValueError, match="hello of node 3, registry of 2"):
            Exchanger(
                hello=make_hello(3),
                registry=Registry(2, nodes),
                limits=Limits(),
                handlers={},
                on_link_state=Recorder().link_state,
                loop=asyncio.get_running_loop(),
            )
        with pytest.raises(ValueError, match="pending_bytes_max"):
            Peer(make_hello(1), nodes, limits=Limits(pending_bytes_max=1))
        async with Peer(make_hello(1), nodes) as first:
            with pytest.raises(ValueError, match="does not post to itself"):
                first.exchanger.post(1, 0, Channel.RAFT, b"x")
            other = Peer(make_hello(2), nodes)
            with pytest.raises(OSError, match=r"cannot listen for peers on 127\.0\.0\.1"):
                await other.start(first.port)
            await other.exchanger.close()

    run("asyncio", main())
