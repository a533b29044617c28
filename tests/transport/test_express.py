"""Express between two services on loopback, with restarts and broken links."""

import asyncio
import threading
from pathlib import Path

import pytest

from rafter_transport.express import Transfer
from rafter_transport.express_ends import Opened, Run, SinkError
from rafter_transport.handshake import Lane, decode_answer, encode_hello
from rafter_transport.registry import NodeInfo
from tests.ports import free_ports
from tests.transport.express_support import (
    CHUNK_BYTES,
    QUICK_EXPRESS,
    MemorySink,
    MemorySource,
    MemoryStore,
    Station,
    chunks_of,
    manifest_for,
    two_nodes,
)
from tests.transport.support import HOST, RawPeer, every_loop, make_hello, run
from tests.transport.tls_support import Authority

GROUP = 7


@every_loop
@pytest.mark.parametrize(("count", "last_bytes"), [(0, 0), (1, 1), (1, 10), (30, 10), (31, 3)])
def test_a_snapshot_of_any_length_arrives_whole(
    loop_kind: str, count: int, last_bytes: int
) -> None:
    async def main() -> None:
        nodes = two_nodes()
        async with Station(1, nodes) as sender, Station(2, nodes) as receiver:
            chunks = chunks_of(count, last_bytes)
            source = MemorySource(chunks)
            assert sender.express.send(2, 0, GROUP, b"install", source)
            assert sender.sent == [], "never from within send"
            await sender.until(lambda: sender.sent != [])
            assert sender.sent == [(GROUP, 2, True, "")]
            assert receiver.received == [(GROUP, 1, b"install")]
            assert receiver.store.whole == {manifest_for(chunks): chunks}
            await sender.until(lambda: source.closed == 1)
            assert source.reads == [*range(count)]
            assert sender.counters.bytes_sent_total == sum(map(len, chunks))
            assert receiver.counters.bytes_received_total == sum(map(len, chunks))
            assert receiver.store.in_use == 0

    run(loop_kind, main())


@every_loop
def test_a_snapshot_travels_over_tls_and_not_to_who_has_none(
    loop_kind: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)

    async def main() -> None:
        nodes = two_nodes()
        chunks = chunks_of(30)
        sender = Station(1, nodes, tls=authority.tls(1))
        async with sender, Station(2, nodes, tls=authority.tls(2)) as receiver:
            assert sender.express.send(2, 0, GROUP, b"install", MemorySource(chunks))
            await sender.until(lambda: sender.sent != [])
            assert sender.sent == [(GROUP, 2, True, "")]
            assert receiver.received == [(GROUP, 1, b"install")]
            assert receiver.store.whole == {manifest_for(chunks): chunks}

    async def refused() -> None:
        nodes = two_nodes()
        limits = QUICK_EXPRESS._replace(tries_max=2)
        sender = Station(1, nodes, limits=limits)
        async with sender, Station(2, nodes, tls=authority.tls(2)) as receiver:
            assert sender.express.send(2, 0, GROUP, b"install", MemorySource(chunks_of(3)))
            await sender.until(lambda: sender.sent != [])
            (end,) = sender.sent
            assert end[2] is False
            assert end[3].startswith("peer gone")
            assert receiver.received == []

    run(loop_kind, main())
    run(loop_kind, refused())


class SlowSink(MemorySink):
    """Takes its time to verify what is there, and counts how often it did."""

    gate = threading.Event()
    begins = 0

    async def begin(self, run: Run) -> Opened:
        SlowSink.begins += 1
        await run(lambda: SlowSink.gate.wait(20))
        return await super().begin(run)


@every_loop
def test_a_sender_that_loses_patience_finds_the_part_verified_at_its_next_try(
    loop_kind: str,
) -> None:
    """What came before a restart is verified before the offer is accepted, however long it is."""
    SlowSink.gate.clear()
    SlowSink.begins = 0

    async def main() -> None:
        nodes = two_nodes()
        chunks = chunks_of(40)
        store = MemoryStore()
        store.parts[manifest_for(chunks)] = chunks[:30]
        impatient = QUICK_EXPRESS._replace(progress_seconds=0.05)
        async with (
            Station(1, nodes, limits=impatient) as sender,
            Station(2, nodes, open_sink=lambda _, manifest: SlowSink(store, manifest)) as receiver,
        ):
            assert sender.express.send(2, 0, GROUP, b"install", MemorySource(chunks))
            await sender.until(lambda: sender.counters.sends_retried_total >= 3)
            assert SlowSink.begins == 1, "the others wait for it"
            SlowSink.gate.set()
            await sender.until(lambda: sender.sent != [])
            assert sender.sent == [(GROUP, 2, True, "")]
            assert store.whole == {manifest_for(chunks): chunks}
            assert 10 <= sender.counters.chunks_sent_total < 40, "not from its beginning"
            await receiver.until(lambda: store.in_use == 0)

    run(loop_kind, main())


@every_loop
def test_a_transfer_follows_a_receiver_that_restarts_on_another_address(loop_kind: str) -> None:
    """The original rafter kept the first address that it had heard of a node for ever."""

    async def main() -> None:
        nodes = two_nodes()
        chunks = chunks_of(40)
        store = MemoryStore()
        is_half_way = threading.Event()
        store.on_write = lambda number: is_half_way.set() if number == 20 else None
        sender = Station(1, nodes, limits=QUICK_EXPRESS._replace(bytes_per_second=4000))
        async with sender:
            assert sender.express.send(2, 0, GROUP, b"install", MemorySource(chunks))
            async with Station(2, nodes, store) as before:
                await sender.until(is_half_way.is_set)
            moved = nodes | {2: (HOST, free_ports())}
            async with Station(2, moved, store) as after:
                news = NodeInfo(2, *moved[2], 1, after.hello.incarnation)
                assert sender.registry.update([news]) == set()
                await sender.until(lambda: sender.sent != [])
                assert sender.sent == [(GROUP, 2, True, "")]
                assert (before.received, after.received) == ([], [(GROUP, 1, b"install")])
            assert store.whole == {manifest_for(chunks): chunks}

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("tenth", range(10))
@pytest.mark.parametrize("killed", ["receiver", "sender", "link"])
def test_a_transfer_goes_on_where_it_was_when_an_end_or_the_link_is_lost(
    loop_kind: str, killed: str, tenth: int
) -> None:
    async def main() -> None:
        nodes = two_nodes()
        chunks = chunks_of(40, 7)
        store = MemoryStore()
        reached = threading.Event()
        proceed = threading.Event()

        def on_write(number: int) -> None:
            if number == tenth * 4:
                reached.set()
                assert proceed.wait(20)

        store.on_write = on_write
        sender = Station(1, nodes)
        receiver = Station(2, nodes, store)
        async with sender, receiver:
            assert sender.express.send(2, 0, GROUP, b"install", MemorySource(chunks))
            await sender.until(reached.is_set)
            store.on_write = lambda number: None
            if killed == "receiver":
                stopping = asyncio.ensure_future(receiver.stop())
                proceed.set()
                await stopping
                receiver = Station(2, nodes, store)
                await receiver.__aenter__()
            elif killed == "sender":
                await sender.stop()
                assert sender.sent == [(GROUP, 2, False, "cancelled: express is closing")]
                proceed.set()
                sender = Station(1, nodes)
                assert sender.express.send(2, 0, GROUP, b"install", MemorySource(chunks))
            else:
                for link in [*sender.express._links]:
                    link.abort()
                proceed.set()
            await sender.until(lambda: sender.sent != [])
            assert sender.sent == [(GROUP, 2, True, "")]
            assert store.whole == {manifest_for(chunks): chunks}
            assert (GROUP, 1, b"install") in receiver.received
            # What was on the disk was not sent again.
            assert receiver.counters.receives_resumed_total == 1
            assert sender.counters.sends_resumed_total == 1
            await receiver.until(lambda: store.in_use == 0)
        await sender.stop()
        await receiver.stop()

    run(loop_kind, main())


@every_loop
def test_a_sender_that_missed_the_end_learns_of_it_without_a_chunk_sent_again(
    loop_kind: str,
) -> None:
    async def main() -> None:
        nodes = two_nodes()
        store = MemoryStore()
        chunks = chunks_of(5)
        async with Station(1, nodes) as sender, Station(2, nodes, store) as receiver:
            store.finish_gate.clear()
            assert sender.express.send(2, 0, GROUP, b"install", MemorySource(chunks))
            await sender.until(
                lambda: sender.express.transfers() == [Transfer(GROUP, 2, True, 5, 5)]
            )
            for link in [*sender.express._links]:
                link.abort()
            store.finish_gate.set()
            await sender.until(lambda: sender.sent != [])
            assert sender.sent == [(GROUP, 2, True, "")]
            assert sender.counters.chunks_sent_total == 5
            assert set(receiver.received) == {(GROUP, 1, b"install")}

    run(loop_kind, main())


@every_loop
def test_cancel_reports_at_once_tells_the_receiver_and_makes_room_for_a_newer_snapshot(
    loop_kind: str,
) -> None:
    async def main() -> None:
        nodes = two_nodes()
        store = MemoryStore()
        newer = chunks_of(6, seed=1)
        async with Station(1, nodes) as sender, Station(2, nodes, store) as receiver:
            store.gate.clear()
            assert sender.express.send(2, 0, GROUP, b"old", MemorySource(chunks_of(20)))
            assert not sender.express.send(2, 0, GROUP, b"new", MemorySource(newer)), "one at most"
            await receiver.until(lambda: receiver.counters.chunks_received_total >= 4)
            assert sender.express.cancel(GROUP, 2)
            assert sender.sent == [(GROUP, 2, False, "cancelled: by the sender")]
            assert not sender.express.cancel(GROUP, 2)
            assert sender.express.send(2, 0, GROUP, b"new", MemorySource(newer))
            await receiver.until(lambda: receiver.counters.sends_cancelled_total == 0)
            store.gate.set()
            await sender.until(lambda: len(sender.sent) == 2)
            assert sender.sent[1] == (GROUP, 2, True, "")
            assert receiver.received == [(GROUP, 1, b"new")]
            assert store.whole == {manifest_for(newer): newer}

    run(loop_kind, main())


@every_loop
def test_a_receiver_that_cancels_ends_the_transfer_for_good(loop_kind: str) -> None:
    async def main() -> None:
        nodes = two_nodes()
        store = MemoryStore()
        async with Station(1, nodes) as sender, Station(2, nodes, store) as receiver:
            assert not receiver.express.cancel_receive(GROUP)
            store.gate.clear()
            source = MemorySource(chunks_of(20))
            assert sender.express.send(2, 0, GROUP, b"", source)
            await receiver.until(lambda: receiver.counters.chunks_received_total >= 1)
            assert receiver.express.cancel_receive(GROUP)
            assert not receiver.express.cancel_receive(GROUP)
            await sender.until(lambda: sender.sent != [])
            assert sender.sent == [(GROUP, 2, False, "cancelled: by the receiver: by the receiver")]
            store.gate.set()
            # Counted last, when the sink is let go: its clean-up is over by then.
            await receiver.until(lambda: receiver.counters.receives_cancelled_total == 1)
            assert store.aborted == 1
            assert receiver.received == []

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("code", ["refused", "busy"])
def test_a_refusal_is_final_or_tried_again_by_its_code(loop_kind: str, code: str) -> None:
    async def main() -> None:
        nodes = two_nodes()
        store = MemoryStore()
        store.refusal = SinkError(code, "for a test")
        limits = QUICK_EXPRESS._replace(tries_max=3)
        async with Station(1, nodes, limits=limits) as sender, Station(2, nodes, store):
            assert sender.express.send(2, 0, GROUP, b"", MemorySource(chunks_of(3)))
            await sender.until(lambda: sender.sent != [])
            assert sender.sent == [(GROUP, 2, False, "refused: for a test")]
            assert sender.counters.sends_retried_total == (2 if code == "busy" else 0)

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("error", [SinkError("disk-full", "no space"), ValueError("a bug")])
def test_a_failing_sink_ends_the_transfer_and_removes_the_part(
    loop_kind: str, error: Exception
) -> None:
    async def main() -> None:
        nodes = two_nodes()
        store = MemoryStore()

        def fail(number: int) -> None:
            if number == 5:
                raise error

        store.on_write = fail
        errors: list[object] = []
        loop = asyncio.get_running_loop()
        async with Station(1, nodes) as sender, Station(2, nodes, store) as receiver:
            if isinstance(error, ValueError):
                loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
            assert sender.express.send(2, 0, GROUP, b"", MemorySource(chunks_of(20)))
            await sender.until(lambda: sender.sent != [])
            _, _, is_ok, reason = sender.sent[0]
            assert not is_ok
            assert reason.startswith("failed: ")
            await receiver.until(lambda: receiver.counters.receives_failed_total == 1)
            assert store.aborted == 1
            assert store.parts == {}
        assert errors == ([error] if isinstance(error, ValueError) else [])

    run(loop_kind, main())


@every_loop
def test_a_source_that_cannot_be_read_ends_the_transfer(loop_kind: str) -> None:
    async def main() -> None:
        nodes = two_nodes()
        store = MemoryStore()
        async with Station(1, nodes) as sender, Station(2, nodes, store):
            source = MemorySource(chunks_of(20))
            source.fails_at = 9
            assert sender.express.send(2, 0, GROUP, b"", source)
            await sender.until(lambda: source.closed == 1)
            assert sender.sent == [(GROUP, 2, False, "failed: cannot read: a bad sector")]
            await sender.until(lambda: store.aborted == 1)

    run(loop_kind, main())


@every_loop
def test_a_receiver_that_stands_still_is_given_up(loop_kind: str) -> None:
    async def main() -> None:
        nodes = two_nodes()
        store = MemoryStore()
        store.gate.clear()
        limits = QUICK_EXPRESS._replace(progress_seconds=0.05, tries_max=1)
        async with Station(1, nodes, limits=limits) as sender, Station(2, nodes, store):
            assert sender.express.send(2, 0, GROUP, b"", MemorySource(chunks_of(20)))
            await sender.until(lambda: sender.sent != [])
            assert sender.sent == [(GROUP, 2, False, "timed out: the receiver makes no progress")]
            store.gate.set()

    run(loop_kind, main())


@every_loop
def test_a_node_that_is_not_there_is_reported_after_the_last_try(loop_kind: str) -> None:
    async def main() -> None:
        nodes = two_nodes()
        limits = QUICK_EXPRESS._replace(tries_max=3)
        async with Station(1, nodes, limits=limits) as sender:
            source = MemorySource(chunks_of(3))
            assert sender.express.send(2, 0, GROUP, b"", source)
            await sender.until(lambda: source.closed == 1)
            assert len(sender.sent) == 1
            assert sender.sent[0][3].startswith("peer gone: ")
            assert sender.counters.connect_failures_total == 3

    run(loop_kind, main())


@every_loop
def test_sends_beyond_the_limit_wait_and_beyond_the_queue_are_refused(loop_kind: str) -> None:
    async def main() -> None:
        nodes = two_nodes()
        limits = QUICK_EXPRESS._replace(sends_max=2, waiting_max=1)
        store = MemoryStore()
        store.gate.clear()
        async with Station(1, nodes, limits=limits) as sender, Station(2, nodes, store) as receiver:
            sources = [MemorySource(chunks_of(3, seed=seed)) for seed in range(4)]
            taken = [
                sender.express.send(2, 0, group, b"", source)
                for group, source in enumerate(sources)
            ]
            assert taken == [True, True, True, False]
            await receiver.until(lambda: receiver.counters.receives_started_total == 2)
            assert sources[2].reads == []
            store.gate.set()
            await sender.until(lambda: len(sender.sent) == 3)
            assert sorted(sender.sent) == [(group, 2, True, "") for group in range(3)]
            assert sources[3].closed == 0, "still the caller's"

    run(loop_kind, main())


@every_loop
def test_offers_beyond_the_receiving_limit_are_tried_again_until_there_is_room(
    loop_kind: str,
) -> None:
    async def main() -> None:
        nodes = two_nodes()
        store = MemoryStore()
        limits = QUICK_EXPRESS._replace(receives_max=1)
        async with Station(1, nodes) as sender, Station(2, nodes, store, limits=limits):
            store.gate.clear()
            for group in range(3):
                source = MemorySource(chunks_of(3, seed=group))
                assert sender.express.send(2, 0, group, b"", source)
            await sender.until(lambda: sender.counters.sends_retried_total >= 3)
            store.gate.set()
            await sender.until(lambda: len(sender.sent) == 3)
            assert sorted(sender.sent) == [(group, 2, True, "") for group in range(3)]

    run(loop_kind, main())


@every_loop
def test_all_sends_of_a_shard_share_one_rate(loop_kind: str) -> None:
    async def main() -> None:
        nodes = two_nodes()
        limits = QUICK_EXPRESS._replace(bytes_per_second=2000)
        loop = asyncio.get_running_loop()
        async with Station(1, nodes, limits=limits) as sender, Station(2, nodes):
            begun_seconds = loop.time()
            for group in range(2):
                source = MemorySource(chunks_of(50, seed=group))
                assert sender.express.send(2, 0, group, b"", source)
            await sender.until(lambda: len(sender.sent) == 2)
            sent_bytes = 2 * 50 * CHUNK_BYTES
            # The bucket's content is free, and no machine is too slow to fail this.
            assert loop.time() - begun_seconds >= (sent_bytes - 200) / 2000 - 0.01

    run(loop_kind, main())


@every_loop
def test_what_makes_no_sense_on_a_lane_costs_the_connection_alone(loop_kind: str) -> None:
    async def main() -> None:
        nodes = two_nodes()
        async with Station(1, nodes) as sender, Station(2, nodes) as receiver:
            for payload in (b"", b"\x93\x05\x01\x01", b"\x91\x63"):
                raw = await RawPeer.dial(receiver.port)
                raw.write(encode_hello(make_hello(1, version_max=2, lane=Lane.EXPRESS)))
                decode_answer(await raw.read())
                raw.write(payload)
                await raw.until_closed()
                await raw.close()
            assert receiver.counters.bad_messages_total == 3
            assert sender.express.send(2, 0, GROUP, b"", MemorySource(chunks_of(3)))
            await sender.until(lambda: sender.sent == [(GROUP, 2, True, "")])

    run(loop_kind, main())


@every_loop
def test_close_reports_every_transfer_once_and_leaves_nothing_behind(loop_kind: str) -> None:
    async def main() -> None:
        nodes = two_nodes()
        limits = QUICK_EXPRESS._replace(sends_max=1)
        sender = Station(1, nodes, limits=limits)
        sources = [MemorySource(chunks_of(3)) for _ in range(3)]
        async with sender:
            for group, source in enumerate(sources):
                assert sender.express.send(2, 0, group, b"", source)
        reason = "cancelled: express is closing"
        assert sorted(sender.sent) == [(group, 2, False, reason) for group in range(3)]
        assert [source.closed for source in sources] == [1, 1, 1]
        await sender.express.close()
        assert not sender.express.send(2, 0, 9, b"", sources[0])

    run(loop_kind, main())
