"""One receiving transfer against senders written by hand."""

from typing import Any

import pytest

from rafter_transport.express_messages import (
    Accept,
    Ack,
    Done,
    Offer,
    Refuse,
    decode,
    encode,
    make_chunk,
)
from rafter_transport.framing import frame_header
from rafter_transport.handshake import Lane, decode_answer, encode_hello
from tests.transport.express_support import (
    QUICK_EXPRESS,
    Station,
    chunks_of,
    manifest_for,
    two_nodes,
)
from tests.transport.support import RawPeer, every_loop, make_hello, run

CHUNKS = chunks_of(5)
OFFER = Offer(9, 7, 1, 2, 5, b"m", manifest_for(CHUNKS))


async def connect(station: Station) -> RawPeer:
    raw = await RawPeer.dial(station.port)
    raw.write(encode_hello(make_hello(1, version_max=2, lane=Lane.EXPRESS)))
    decode_answer(await raw.read())
    return raw


@every_loop
def test_a_damaged_chunk_is_not_written_and_what_came_before_is_kept(loop_kind: str) -> None:
    async def main() -> None:
        async with Station(2, two_nodes()) as station:
            raw = await connect(station)
            raw.write(encode(OFFER))
            assert decode(await raw.read()) == Accept(9, 0, 4)
            raw.write(encode(make_chunk(9, 0, CHUNKS[0])))
            await raw.read()
            raw.write(encode(make_chunk(9, 1, CHUNKS[1])._replace(data=b"0123456789")))
            assert decode(await raw.read()) == Done(9, "checksum", "chunk 1 was damaged on the way")
            await raw.close()
            await station.until(lambda: station.store.in_use == 0)
            assert station.store.parts == {OFFER.manifest: CHUNKS[:1]}
            again = await connect(station)
            again.write(encode(OFFER))
            assert decode(await again.read()) == Accept(9, 1, 4)
            await again.close()

    run(loop_kind, main())


@every_loop
def test_a_newer_offer_of_the_same_sender_replaces_the_older_connection(loop_kind: str) -> None:
    async def main() -> None:
        async with Station(2, two_nodes()) as station:
            older = await connect(station)
            older.write(encode(OFFER))
            await older.read()
            newer = await connect(station)
            newer.write(encode(OFFER._replace(transfer=10)))
            assert decode(await newer.read()) == Accept(10, 0, 4)
            end = decode(await older.read())
            assert isinstance(end, Done)
            assert end.code == "replaced"
            await older.close()
            await newer.close()

    run(loop_kind, main())


@every_loop
def test_a_transfer_that_ends_before_it_begins_replaces_none_and_is_no_error(
    loop_kind: str,
) -> None:
    # Found by doubling frames on their way: an offer and what ends it came in one read, and the
    # transfer was begun after its end. Earlier tests wait for the answer to each message.
    async def main() -> None:
        async with Station(2, two_nodes()) as station:
            older = await connect(station)
            older.write(encode(OFFER))
            await older.read()
            newer = await connect(station)
            offer = encode(OFFER._replace(transfer=10))
            newer.writer.write(2 * (frame_header(len(offer)) + offer))
            await newer.until_closed()
            await newer.close()
            older.write(encode(make_chunk(9, 0, CHUNKS[0])))
            assert decode(await older.read()) == Ack(9, 1)
            await older.close()
            counters = station.counters
            await station.until(lambda: counters.receives_peer_gone_total == 2)
            assert counters.receives_started_total == 2
            assert counters.bad_messages_total == 1

    run(loop_kind, main())


@every_loop
def test_a_sender_that_brings_nothing_is_given_up_and_its_part_kept(loop_kind: str) -> None:
    async def main() -> None:
        limits = QUICK_EXPRESS._replace(progress_seconds=0.05, linger_seconds=0.05)
        async with Station(2, two_nodes(), limits=limits) as station:
            mute = await connect(station)
            await mute.until_closed()
            await mute.close()
            raw = await connect(station)
            raw.write(encode(OFFER))
            assert decode(await raw.read()) == Accept(9, 0, 4)
            assert decode(await raw.read()) == Done(9, "timed-out", "the sender makes no progress")
            await raw.until_closed()
            await raw.close()
            assert station.counters.receives_timed_out_total == 1
            assert station.store.aborted == 0

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("changes", [{"sender": 3}, {"to": 3}, {"chunk_count": 6}])
def test_an_offer_that_does_not_fit_its_lane_or_manifest_is_refused(
    loop_kind: str, changes: dict[str, Any]
) -> None:
    async def main() -> None:
        async with Station(2, two_nodes()) as station:
            raw = await connect(station)
            raw.write(encode(OFFER._replace(**changes)))
            assert isinstance(decode(await raw.read()), Refuse)
            await raw.close()
            await station.until(lambda: station.counters.receives_refused_total == 1)

    run(loop_kind, main())


@every_loop
def test_lanes_beyond_the_limit_are_closed(loop_kind: str) -> None:
    async def main() -> None:
        limits = QUICK_EXPRESS._replace(receives_max=1)
        async with Station(2, two_nodes(), limits=limits) as station:
            raws = [await connect(station) for _ in range(5)]
            await raws[4].until_closed()
            assert station.counters.lanes_over_limit_total == 1
            for raw in raws:
                await raw.close()

    run(loop_kind, main())
