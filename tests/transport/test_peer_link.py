"""The dialling side against peers that answer wrongly, late, or not at all."""

import socket
from collections.abc import Awaitable, Callable

import pytest

from rafter_transport import Channel, Limits, Refusal
from rafter_transport.handshake import (
    decode_hello,
    encode_accepted,
    encode_hello,
    encode_refused,
)
from tests.transport.support import (
    QUICK,
    LogRecorder,
    Peer,
    RawPeer,
    RawServer,
    addresses,
    every_loop,
    make_hello,
    run,
)

WRONG_ANSWERS = {
    "other cluster": encode_accepted(make_hello(2, cluster_id=5)),
    "node 2 shard 0 was dialled, but node 3 shard 0 answers": encode_accepted(make_hello(3)),
    "node 2 shard 0 was dialled, but node 2 shard 1 answers": encode_accepted(
        make_hello(2, shard=1, shards=2)
    ),
    "the peer says that it is node 1": encode_accepted(make_hello(1)),
    "no common version": encode_accepted(make_hello(2, version_min=2, version_max=2)),
    "refused by the peer: for a test": encode_refused(Refusal("test", "for a test")),
    "not answered by an answer": encode_hello(make_hello(2)),
    "undecodable payload": b"\xc1",
}


async def play(
    check: Callable[[Peer, RawServer, LogRecorder], Awaitable[None]],
    limits: Limits = QUICK,
) -> None:
    """Run node 1 against a hand-written node 2."""
    nodes = addresses(1, 2, 3)
    server = RawServer()
    await server.start(nodes[2][1])
    with LogRecorder() as log:
        async with Peer(make_hello(1), nodes, limits=limits) as first:
            await check(first, server, log)
    await server.close()


async def next_dial(server: RawServer) -> RawPeer:
    peer = await server.accepted.get()
    assert decode_hello(await peer.read()) == make_hello(1)
    return peer


@every_loop
@pytest.mark.parametrize("reason", WRONG_ANSWERS)
def test_a_wrong_answer_ends_the_try_and_the_next_one_may_succeed(
    loop_kind: str, reason: str
) -> None:
    async def check(first: Peer, server: RawServer, log: LogRecorder) -> None:
        for _ in range(3):
            peer = await next_dial(server)
            peer.write(WRONG_ANSWERS[reason])
            await peer.until_closed()
        assert not first.exchanger.is_up(2, 0)
        peer = await next_dial(server)
        assert len([line for line in log.lines if reason in line]) == 1
        assert log.lines[0].startswith(("node 2 shard 0: cannot connect: ", "node 3 shard 0: "))
        peer.write(encode_accepted(make_hello(2)))
        await first.until_up(2)
        assert first.recorder.states == [(2, 0, True)]
        # Node 3 is not there at all: its tries are counted too.
        assert first.exchanger.counters.connect_failures_total >= 3

    run(loop_kind, play(check))


@every_loop
def test_a_node_that_comes_back_emptied_is_not_talked_to(loop_kind: str) -> None:
    async def check(first: Peer, server: RawServer, log: LogRecorder) -> None:
        peer = await next_dial(server)
        peer.write(encode_accepted(make_hello(2)))
        await first.until_up(2)
        await peer.close()
        await first.until_down(2)
        peer = await next_dial(server)
        peer.write(encode_accepted(make_hello(2, incarnation=7)))
        await peer.until_closed()
        assert await log.until("its data directory was replaced")
        assert not first.exchanger.is_up(2, 0)
        assert first.exchanger.counters.handshakes_refused_total == 1

    run(loop_kind, play(check))


@every_loop
def test_a_peer_that_does_not_answer_is_given_up_at_the_deadline(loop_kind: str) -> None:
    async def check(first: Peer, server: RawServer, log: LogRecorder) -> None:
        for _ in range(2):
            peer = await next_dial(server)
            await peer.until_closed()
        assert await log.until("did not answer the handshake in time")

    run(loop_kind, play(check, QUICK._replace(handshake_seconds=0.05)))


@every_loop
def test_a_host_that_swallows_connections_is_given_up_at_the_deadline(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        deaf = socket.create_server(nodes[2], backlog=0)
        with deaf, socket.socket() as filler, LogRecorder() as log:
            # Linux drops connection requests to a socket whose queue of one is full.
            filler.connect(nodes[2])
            limits = QUICK._replace(connect_seconds=0.05)
            async with Peer(make_hello(1), nodes, limits=limits):
                await log.until("did not accept in time")
            # And close need not wait for a try that would have hung for long.
            async with Peer(make_hello(1), nodes):
                pass

    run(loop_kind, main())


@every_loop
def test_a_peer_that_hangs_up_in_the_handshake_is_dialled_again(loop_kind: str) -> None:
    async def check(first: Peer, server: RawServer, log: LogRecorder) -> None:
        peer = await next_dial(server)
        await peer.close()
        assert await log.until("closed the connection during the handshake")
        peer = await next_dial(server)
        peer.write(encode_accepted(make_hello(2)))
        # Gone before this side could have looked at the answer.
        await peer.close()
        peer = await next_dial(server)
        peer.write(encode_accepted(make_hello(2)))
        await first.until_up(2)
        first.send(2, 0, Channel.RAFT, b"x")
        assert await peer.read() == b"\x91\x92\x01\x91\xc4\x01x"

    run(loop_kind, play(check))


@every_loop
def test_data_behind_the_answer_closes_the_link(loop_kind: str) -> None:
    async def check(first: Peer, server: RawServer, log: LogRecorder) -> None:
        peer = await next_dial(server)
        peer.write(encode_accepted(make_hello(2)))
        await first.until_up(2)
        peer.write(b"\x91\x92\x01\x91\x01")
        await peer.until_closed()
        await first.until_down(2)
        assert first.recorder.items == []
        assert first.recorder.states == [(2, 0, True), (2, 0, False)]

    run(loop_kind, play(check))


@every_loop
def test_close_ends_a_dial_in_every_stage(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2, 3)
        server = RawServer()
        await server.start(nodes[2][1])
        # Node 2 accepts and never answers, node 3 refuses and is in its backoff.
        waiting = Peer(make_hello(1), nodes)
        await waiting.start()
        await next_dial(server)
        await waiting.exchanger.close()
        # And one that is closed before its tasks have run at all.
        early = Peer(make_hello(1), nodes)
        await early.start()
        await early.exchanger.close()
        await server.close()

    run(loop_kind, main())


@every_loop
def test_a_host_without_an_address_is_a_failure_like_any_other(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1) | {2: ("x" * 64 + ".invalid", 1), 3: ("..", 1)}
        with LogRecorder() as log:
            async with Peer(make_hello(1), nodes):
                await log.until("node 2 shard 0: cannot connect")
                await log.until("node 3 shard 0: cannot connect")

    run(loop_kind, main())
