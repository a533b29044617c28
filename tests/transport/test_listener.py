"""The peer port against what strangers, impostors and slow ones do to it."""

import asyncio
from typing import Any

import pytest

from rafter_transport import Channel, HandshakeRefusedError
from rafter_transport.handshake import decode_answer, encode_accepted, encode_hello
from rafter_transport.payload import join_payload, pack_item
from tests.transport.support import (
    HOST,
    QUICK,
    LogRecorder,
    Peer,
    RawPeer,
    addresses,
    every_loop,
    make_hello,
    run,
)


def frame_of(item: object) -> bytes:
    return join_payload({Channel.RAFT: [pack_item(item)]})


async def shake_hands(peer: Peer, **changes: Any) -> RawPeer:
    raw = await RawPeer.dial(peer.port)
    raw.write(encode_hello(make_hello(2, **changes)))
    try:
        answer = decode_answer(await raw.read())
    except BaseException:
        await raw.close()
        raise
    assert answer == peer.hello
    return raw


REFUSALS: list[tuple[str, str, dict[str, Any]]] = [
    ("cluster", "other cluster: the peer has cluster id 0000000000000005", {"cluster_id": 5}),
    ("unknown-node", "node 9 is not in this node's registry", {"node_id": 9}),
    ("own-node", "the peer says that it is node 1", {"node_id": 1}),
    ("version", "no common version: the peer speaks 2 to 3", {"version_min": 2, "version_max": 3}),
    ("incarnation", "its data directory was replaced", {"incarnation": 5}),
]


@every_loop
@pytest.mark.parametrize(("code", "text", "changes"), REFUSALS, ids=[row[0] for row in REFUSALS])
def test_a_peer_that_does_not_belong_here_is_told_why_counted_and_logged_once(
    loop_kind: str, code: str, text: str, changes: dict[str, Any]
) -> None:
    async def main() -> None:
        with LogRecorder() as log:
            async with Peer(make_hello(1), addresses(1, 2)) as peer:
                known = await shake_hands(peer)
                for _ in range(3):
                    raw = await RawPeer.dial(peer.port)
                    raw.write(encode_hello(make_hello(2)._replace(**changes)))
                    with pytest.raises(HandshakeRefusedError, match=text) as caught:
                        decode_answer(await raw.read())
                    assert caught.value.code == code
                    assert await raw.reader.read() == b"", "closed behind the reason"
                    await raw.close()
                assert peer.exchanger.counters.handshakes_refused_total == 3
                assert len([line for line in log.lines if text in line]) == 1
                known.write(frame_of(b"still here"))
                await peer.recorder.until(lambda: peer.recorder.of(Channel.RAFT) != [])
                await known.close()

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "undecodable payload"),
        (b"\x90", "does not speak rafter's peer protocol"),
        (b"\xa3abc", "does not speak rafter's peer protocol"),
        (b"\x92\xa6rafter\xc0", "kind is not a number"),
        (encode_accepted(make_hello(2)), "does not begin with a hello"),
        (encode_hello(make_hello(2))[:-1], "undecodable payload"),
    ],
)
def test_what_is_no_hello_is_refused_as_malformed(
    loop_kind: str, payload: bytes, reason: str
) -> None:
    async def main() -> None:
        async with Peer(make_hello(1), addresses(1)) as peer:
            raw = await RawPeer.dial(peer.port)
            raw.write(payload)
            with pytest.raises(HandshakeRefusedError, match=reason) as caught:
                decode_answer(await raw.read())
            assert caught.value.code == "malformed"
            assert await raw.reader.read() == b""
            await raw.close()

    run(loop_kind, main())


@every_loop
def test_a_client_that_speaks_another_protocol_is_closed_before_it_costs_memory(
    loop_kind: str,
) -> None:
    async def main() -> None:
        with LogRecorder() as log:
            async with Peer(make_hello(1), addresses(1)) as peer:
                raw = await RawPeer.dial(peer.port)
                raw.writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await raw.until_closed()
                await raw.close()
                line = await log.until("is above the limit of 4096")
                assert line.startswith("127.0.0.1: connection closed: frame of ")
                assert peer.exchanger.counters.bad_frames_total == 1

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("excess", [-1, 0, 1])
def test_frames_before_the_handshake_have_their_own_limit(loop_kind: str, excess: int) -> None:
    async def main() -> None:
        async with Peer(make_hello(1), addresses(1)) as peer:
            raw = await RawPeer.dial(peer.port)
            raw.write(bytes(4096 + excess))
            if excess <= 0:
                with pytest.raises(HandshakeRefusedError):
                    decode_answer(await raw.read())
            await raw.until_closed()
            assert peer.exchanger.counters.bad_frames_total == max(0, excess)
            await raw.close()

    run(loop_kind, main())


@every_loop
def test_a_connection_without_a_handshake_is_closed_at_the_deadline(loop_kind: str) -> None:
    async def main() -> None:
        limits = QUICK._replace(handshake_seconds=0.05)
        with LogRecorder() as log:
            async with Peer(make_hello(1), addresses(1), limits=limits) as peer:
                silent = await RawPeer.dial(peer.port)
                slow = await RawPeer.dial(peer.port)
                slow.writer.write(b"\x10\x00")
                await silent.until_closed()
                await slow.until_closed()
                assert "no handshake in time" in log.lines[0]
                assert peer.exchanger.counters.connections_accepted_total == 0
                await silent.close()
                await slow.close()

    run(loop_kind, main())


@every_loop
def test_the_deadline_ends_with_the_handshake(loop_kind: str) -> None:
    async def main() -> None:
        limits = QUICK._replace(handshake_seconds=0.05)
        async with Peer(make_hello(1), addresses(1, 2), limits=limits) as peer:
            known = await shake_hands(peer)
            # Its deadline lies behind that of the known one.
            silent = await RawPeer.dial(peer.port)
            await silent.until_closed()
            known.write(frame_of(b"still here"))
            await peer.recorder.until(lambda: peer.recorder.of(Channel.RAFT) == [b"still here"])
            await silent.close()
            await known.close()

    run(loop_kind, main())


@every_loop
def test_connections_that_have_not_shaken_hands_are_bounded(loop_kind: str) -> None:
    async def main() -> None:
        limits = QUICK._replace(handshaking_max=2)
        async with Peer(make_hello(1), addresses(1, 2), limits=limits) as peer:
            known = await shake_hands(peer)
            idle = [await RawPeer.dial(peer.port) for _ in range(2)]
            third = await RawPeer.dial(peer.port)
            await third.until_closed()
            assert peer.exchanger.counters.connections_over_limit_total == 1
            # One finishes, and there is room for another.
            idle[0].write(encode_hello(make_hello(2, shard=1, shards=2)))
            assert decode_answer(await idle[0].read())
            fourth = await shake_hands(peer, shard=0, shards=2)
            for raw in (known, *idle, third, fourth):
                await raw.close()

    run(loop_kind, main())


@every_loop
def test_connections_are_bounded_in_total(loop_kind: str) -> None:
    async def main() -> None:
        limits = QUICK._replace(connections_max=2)
        with LogRecorder() as log:
            async with Peer(make_hello(1), addresses(1, 2), limits=limits) as peer:
                kept = [await shake_hands(peer, shard=shard, shards=3) for shard in range(2)]
                third = await RawPeer.dial(peer.port)
                await third.until_closed()
                assert await log.until("connection turned away: 2 connections are open")
                assert peer.exchanger.counters.connections_over_limit_total == 1
                kept[0].write(frame_of(1))
                await peer.recorder.until(lambda: peer.recorder.of(Channel.RAFT) == [1])
                # A connection that ends makes room, as soon as this side has seen its end.
                await kept[1].close()
                is_admitted = False
                while not is_admitted:
                    try:
                        fourth = await shake_hands(peer, shard=2, shards=3)
                        is_admitted = True
                    except (ConnectionError, asyncio.IncompleteReadError):
                        is_admitted = False
                for raw in (kept[0], third, fourth):
                    await raw.close()

    run(loop_kind, main())


@every_loop
def test_a_second_connection_of_a_shard_replaces_its_first(loop_kind: str) -> None:
    async def main() -> None:
        async with Peer(make_hello(1), addresses(1, 2)) as peer:
            first = await shake_hands(peer, shards=2)
            sister = await shake_hands(peer, shard=1, shards=2)
            second = await shake_hands(peer, shards=2)
            await first.until_closed()
            second.write(frame_of(b"second"))
            sister.write(frame_of(b"sister"))
            await peer.recorder.until(lambda: len(peer.recorder.items) == 2)
            assert sorted(peer.recorder.items) == [
                (Channel.RAFT, 2, 0, [b"second"]),
                (Channel.RAFT, 2, 1, [b"sister"]),
            ]
            third = await shake_hands(peer, shards=2)
            await second.until_closed()
            for raw in (first, second, third, sister):
                await raw.close()

    run(loop_kind, main())


@every_loop
def test_a_node_with_another_address_or_number_of_shards_leaves_no_older_connection(
    loop_kind: str,
) -> None:
    async def main() -> None:
        async with Peer(make_hello(1), addresses(1, 2, 3)) as peer:
            life: dict[str, Any] = {"version_max": 3, "peer_host": HOST, "peer_port": 5}
            old = [await shake_hands(peer, shard=shard, shards=2, **life) for shard in range(2)]
            other = await shake_hands(peer, node_id=3)
            assert peer.exchanger.present_hellos()[2].peer_port == 5
            life["peer_port"] = 6
            moved = await shake_hands(peer, shards=2, **life)
            for raw in old:
                await raw.until_closed()
            assert peer.exchanger.present_hellos()[2].peer_port == 6
            fewer = await shake_hands(peer, **life)
            await moved.until_closed()
            for raw in (fewer, other):
                raw.write(frame_of(b"x"))
            await peer.recorder.until(lambda: len(peer.recorder.items) == 2)
            for raw in (*old, moved, fewer, other):
                await raw.close()

    run(loop_kind, main())


@every_loop
def test_frames_may_arrive_a_byte_at_a_time(loop_kind: str) -> None:
    async def main() -> None:
        async with Peer(make_hello(1), addresses(1, 2)) as peer:
            raw = await RawPeer.dial(peer.port)
            for payload in (encode_hello(make_hello(2)), frame_of(b"x" * 50), frame_of(2)):
                for byte in len(payload).to_bytes(4, "little") + payload:
                    raw.writer.write(bytes((byte,)))
                    await raw.writer.drain()
                    await asyncio.sleep(
                        0
                    )  # gives the loop a turn, and so the byte a read of its own
            await peer.recorder.until(lambda: peer.recorder.of(Channel.RAFT) == [b"x" * 50, 2])
            await raw.close()

    run(loop_kind, main())


def test_a_listener_that_was_not_started_has_no_port() -> None:
    async def main() -> None:
        peer = Peer(make_hello(1), addresses(1))
        with pytest.raises(RuntimeError, match="was not started"):
            peer.exchanger.port  # noqa: B018 - the property raises
        await peer.exchanger.close()

    run("asyncio", main())
