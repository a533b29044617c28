"""One sending transfer against disks that hang and receivers written by hand."""

import pytest

from rafter_transport.express_messages import Accept, Cancel, Chunk, Offer, decode, encode
from rafter_transport.handshake import encode_accepted
from tests.transport.express_support import (
    QUICK_EXPRESS,
    MemorySource,
    Station,
    chunks_of,
    two_nodes,
)
from tests.transport.support import RawPeer, RawServer, every_loop, make_hello, run


async def offered(server: RawServer) -> tuple[RawPeer, Offer]:
    peer = await server.accepted.get()
    await peer.read()
    peer.write(encode_accepted(make_hello(2, version_max=2)))
    offer = decode(await peer.read())
    assert isinstance(offer, Offer)
    return peer, offer


@every_loop
def test_a_cancelled_source_is_closed_only_when_its_read_has_returned(loop_kind: str) -> None:
    async def main() -> None:
        nodes = two_nodes()
        async with Station(1, nodes) as sender, Station(2, nodes):
            source = MemorySource(chunks_of(5))
            source.gate.clear()
            assert sender.express.send(2, 0, 7, b"", source)
            await sender.until(lambda: sender.counters.sends_started_total == 1)
            await sender.until(lambda: sender.express.transfers() != [])
            await sender.until(
                lambda: any(one._try and one._try.reading for one in sender.express._running)
            )
            assert sender.express.cancel(7, 2)
            assert source.closed == 0
            source.gate.set()
            await sender.until(lambda: source.closed == 1)
            assert len(sender.sent) == 1

    run(loop_kind, main())


@every_loop
def test_chunks_keep_to_the_window_and_the_last_word_is_cancel(loop_kind: str) -> None:
    async def main() -> None:
        nodes = two_nodes()
        server = RawServer()
        await server.start(nodes[2][1])
        async with Station(1, nodes) as sender:
            assert sender.express.send(2, 0, 7, b"m", MemorySource(chunks_of(9)))
            peer, offer = await offered(server)
            assert (offer.group, offer.sender, offer.to, offer.chunk_count) == (7, 1, 2, 9)
            peer.write(encode(Accept(offer.transfer, 4, 2)))
            for number in (4, 5):
                chunk = decode(await peer.read())
                assert isinstance(chunk, Chunk)
                assert chunk.number == number
            assert sender.express.cancel(7, 2)
            assert decode(await peer.read()) == Cancel(offer.transfer, "by the sender")
            await peer.until_closed()
        await server.close()

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("payload", [b"\xc1", encode(Accept(0, 0, 1))])
def test_a_receiver_that_breaks_the_protocol_is_tried_again_a_bounded_number_of_times(
    loop_kind: str, payload: bytes
) -> None:
    async def main() -> None:
        nodes = two_nodes()
        server = RawServer()
        await server.start(nodes[2][1])
        limits = QUICK_EXPRESS._replace(tries_max=2)
        async with Station(1, nodes, limits=limits) as sender:
            assert sender.express.send(2, 0, 7, b"", MemorySource(chunks_of(3)))
            for _ in range(2):
                peer, _ = await offered(server)
                peer.write(payload)
                await peer.until_closed()
            await sender.until(lambda: sender.sent != [])
            assert sender.sent[0][3].startswith("failed: the receiver breaks the protocol")
            assert sender.counters.bad_messages_total == 2
        await server.close()

    run(loop_kind, main())


@every_loop
def test_a_manifest_above_the_limit_is_not_sent(loop_kind: str) -> None:
    async def main() -> None:
        nodes = two_nodes()
        limits = QUICK_EXPRESS._replace(manifest_bytes_max=8)
        async with Station(1, nodes, limits=limits) as sender:
            source = MemorySource(chunks_of(3))
            assert sender.express.send(2, 0, 7, b"", source)
            await sender.until(lambda: source.closed == 1)
            reason = "failed: the manifest has 20 bytes, the limit is 8"
            assert sender.sent == [(7, 2, False, reason)]

    run(loop_kind, main())
