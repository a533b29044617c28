"""Express behind faulty networks: each snapshot arrives whole, and its sender is told once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from tests.faults.proxy import CUT, STALLED, Faults, Proxy
from tests.ports import free_ports
from tests.transport.express_support import (
    CHUNK_BYTES,
    QUICK_EXPRESS,
    MemorySource,
    Station,
    chunks_of,
    manifest_for,
)
from tests.transport.support import HOST, QUICK, every_loop, run

GROUP = 7
CHUNKS = 60
LIMITS = QUICK_EXPRESS._replace(progress_seconds=0.2)
LINK_LIMITS = QUICK._replace(handshake_seconds=0.2)

LASTING: dict[str, tuple[Faults, Faults]] = {
    "delayed": (Faults(delay_seconds=0.01), Faults(delay_seconds=0.01)),
    "byte by byte": (Faults(piece_bytes=1), Faults(piece_bytes=1)),
    "chunks truncated": (Faults(bytes_left=800), Faults()),
    "answers truncated": (Faults(), Faults(bytes_left=250)),
    "frames doubled": (Faults(doubled=0.2), Faults()),
    # Held for so long that the next frame is there, also on a machine that is busy.
    "frames swapped": (Faults(swapped=0.2, delay_seconds=0.02), Faults()),
    "answers doubled": (Faults(), Faults(doubled=0.2)),
}
"""Through which a transfer comes to its end."""


def _refuse_all(proxy: Proxy) -> None:
    proxy.refuse()
    proxy.reset()


PASSING: dict[str, Callable[[Proxy], None]] = {
    "dials refused": _refuse_all,
    "chunks stalled": lambda proxy: proxy.set(there=STALLED),
    "answers stalled": lambda proxy: proxy.set(back=STALLED),
    "chunks cut": lambda proxy: proxy.set(there=CUT),
    "answers cut": lambda proxy: proxy.set(back=CUT),
    "all cut": lambda proxy: proxy.set(there=CUT, back=CUT),
}
"""Behind which a transfer comes to its end."""


@contextlib.asynccontextmanager
async def stations() -> AsyncIterator[tuple[Station, Station, Proxy]]:
    """Start a sender and a receiver, with a proxy between them."""
    port = free_ports(2)
    with Proxy((HOST, port + 1), is_framed=True) as proxy:
        nodes = {1: (HOST, port), 2: proxy.address}
        own = {**nodes, 2: (HOST, port + 1)}
        async with (
            Station(1, nodes, limits=LIMITS, link_limits=LINK_LIMITS) as sender,
            Station(2, own, limits=LIMITS, link_limits=LINK_LIMITS) as receiver,
        ):
            yield sender, receiver, proxy


async def check_end(sender: Station, receiver: Station, chunks: list[bytes]) -> None:
    """Wait for the end, and find the snapshot whole and nothing left behind."""
    await sender.until(lambda: sender.sent != [])
    assert sender.sent == [(GROUP, 2, True, "")]
    assert receiver.store.whole == {manifest_for(chunks): chunks}
    assert set(receiver.received) == {(GROUP, 1, b"install")}
    await receiver.until(lambda: receiver.store.in_use == 0)
    assert receiver.store.parts == {}
    assert sender.express.transfers() == []


@every_loop
@pytest.mark.parametrize("fault", LASTING)
def test_a_snapshot_arrives_whole_through_a_bad_network(loop_kind: str, fault: str) -> None:
    async def main() -> None:
        async with stations() as (sender, receiver, proxy):
            there, back = LASTING[fault]
            proxy.set(there=there, back=back)
            chunks = chunks_of(CHUNKS)
            assert sender.express.send(2, 0, GROUP, b"install", MemorySource(chunks))
            await check_end(sender, receiver, chunks)
            counts = proxy.counts
            damage = counts["frames_doubled"] + counts["frames_swapped"]
            assert (damage > 0) == bool(there.doubled or there.swapped or back.doubled)
            if there.bytes_left or back.bytes_left:
                # What was written was not sent again.
                assert sender.counters.sends_resumed_total >= 2
            if there.doubled or there.swapped:
                assert receiver.counters.bad_messages_total >= 1

    run(loop_kind, main())


async def half_way(sender: Station, receiver: Station, proxy: Proxy, chunks: list[bytes]) -> None:
    """Begin a transfer and wait until half of it is there, and the rest is not."""
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_write(number: int) -> None:
        if number == len(chunks) // 2:
            loop.call_soon_threadsafe(reached.set)

    receiver.store.on_write = on_write
    proxy.set(there=Faults(delay_seconds=0.005))
    assert sender.express.send(2, 0, GROUP, b"install", MemorySource(chunks))
    await reached.wait()


@every_loop
@pytest.mark.parametrize("end", [Proxy.reset, Proxy.hang_up])
def test_a_transfer_goes_on_where_it_was_when_its_connection_ends(
    loop_kind: str, end: Callable[[Proxy], int]
) -> None:
    async def main() -> None:
        async with stations() as (sender, receiver, proxy):
            chunks = chunks_of(CHUNKS)
            await half_way(sender, receiver, proxy, chunks)
            assert end(proxy) == 1
            await check_end(sender, receiver, chunks)
            assert sender.counters.sends_resumed_total == 1
            assert sender.counters.bytes_sent_total < 2 * CHUNKS * CHUNK_BYTES

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("fault", PASSING)
def test_a_snapshot_arrives_whole_once_the_network_is_well_again(
    loop_kind: str, fault: str
) -> None:
    async def main() -> None:
        async with stations() as (sender, receiver, proxy):
            chunks = chunks_of(CHUNKS)
            await half_way(sender, receiver, proxy, chunks)
            PASSING[fault](proxy)
            await sender.until(lambda: sender.counters.sends_retried_total >= 2)
            assert sender.sent == []
            proxy.heal()
            await check_end(sender, receiver, chunks)
            assert sender.counters.bytes_sent_total < 2 * CHUNKS * CHUNK_BYTES

    run(loop_kind, main())


@every_loop
def test_without_an_end_of_the_trouble_the_sender_is_told_and_the_next_transfer_goes_on(
    loop_kind: str,
) -> None:
    async def main() -> None:
        async with stations() as (sender, receiver, proxy):
            chunks = chunks_of(CHUNKS)
            proxy.set(there=Faults(bytes_left=100))
            assert sender.express.send(2, 0, GROUP, b"install", MemorySource(chunks))
            await sender.until(lambda: sender.sent != [])
            assert sender.sent[0][:3] == (GROUP, 2, False)
            assert sender.express.transfers() == []
            sender.sent.clear()
            proxy.heal()
            assert sender.express.send(2, 0, GROUP, b"install", MemorySource(chunks))
            await check_end(sender, receiver, chunks)

    run(loop_kind, main())
