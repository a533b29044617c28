"""The link over rings: two ends on one loop, and one whose other process dies."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from rafter_transport.framing import FrameError
from rafter_transport.ring import RingError
from rafter_transport.ring_link import RingLink
from rafter_transport.ring_pair import RingEnd, is_supported, make_ring_pair
from tests.daemon.engine_bench import until
from tests.transport.support import DEADLINE_SECONDS, every_loop, run

pytestmark = pytest.mark.skipif(not is_supported(), reason="no rings on this machine")

FRAME_BYTES_MAX = 1 << 20


class Side:
    """One end as a link, and what it was told."""

    def __init__(self, end: RingEnd, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self.frames: list[bytes] = []
        self.lost_count = 0
        self.made_count = 0
        self.on_frame: Callable[[bytes], None] = self.frames.append
        self.link = RingLink(
            end,
            frame_bytes_max,
            on_frame=lambda frame: self.on_frame(frame),
            on_lost=self._lost,
            on_made=self._made,
            loop=asyncio.get_running_loop(),
        )

    def _made(self, link: RingLink) -> None:
        self.made_count += 1

    def _lost(self, link: RingLink) -> None:
        self.lost_count += 1

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await until(condition)

    async def until_lost(self) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self.link.lost
        assert self.lost_count == 1


@asynccontextmanager
async def pair(ring_bytes: int = 1 << 12) -> AsyncIterator[tuple[Side, Side]]:
    ends = make_ring_pair(0, ring_bytes)
    sides = (Side(ends[0]), Side(ends[1]))
    for side in sides:
        side.link.start()
    yield sides
    for side in sides:
        side.link.abort()
        await side.until_lost()


@every_loop
def test_frames_arrive_in_order_both_ways(loop_kind: str) -> None:
    async def main() -> None:
        async with pair() as (one, other):
            assert (one.made_count, one.link.is_closing) == (1, False)
            sent = [b"%d" % number * (number % 700) for number in range(500)]
            for frame in sent:
                one.link.send(frame)
                other.link.send(frame[::-1])
            await other.until(lambda: len(other.frames) == 500)
            await one.until(lambda: len(one.frames) == 500)
            assert other.frames == sent
            assert one.frames == [frame[::-1] for frame in sent]
            assert one.link.pending_bytes == 0

    run(loop_kind, main())


@every_loop
def test_frames_of_one_iteration_arrive_in_order_whatever_their_sizes(loop_kind: str) -> None:
    async def main() -> None:
        async with pair(ring_bytes=1 << 16) as (one, other):
            sizes = (1, 0, 100, 9_000, 20, 30, 70_000, 5, *[3] * 200)
            for turn in range(20):
                sent = [bytes([turn]) * size for size in sizes]
                for frame in sent:
                    one.link.send(frame)
                waiting_bytes = one.link.pending_bytes
                assert waiting_bytes >= sum(sizes[1:]), "behind the first they wait to be joined"
                await other.until(lambda: len(other.frames) == len(sizes))
                assert other.frames == sent
                assert one.link.pending_bytes == 0
                other.frames.clear()

    run(loop_kind, main())


def test_the_first_frame_of_an_iteration_waits_for_no_other() -> None:
    async def main() -> None:
        ours, theirs = make_ring_pair()
        one = Side(ours)
        one.link.start()
        rings = theirs.map(FRAME_BYTES_MAX)
        one.link.send(b"first")
        one.link.send(b"second")
        assert rings.consumer.pop_all(9) == [b"first"]
        await asyncio.sleep(0)
        assert rings.consumer.pop_all(9) == [b"second"]
        rings.release()
        theirs.close()
        await one.until_lost()

    run("uvloop", main())


@every_loop
def test_a_link_that_slept_is_woken(loop_kind: str) -> None:
    async def main() -> None:
        async with pair() as (one, other):
            for number in range(20):
                await asyncio.sleep(0.002)
                one.link.send(b"%d" % number)
                await other.until(lambda: other.frames[-1:] == [b"%d" % number])  # noqa: B023

    run(loop_kind, main())


@every_loop
def test_a_frame_larger_than_the_ring_passes(loop_kind: str) -> None:
    async def main() -> None:
        async with pair(ring_bytes=256) as (one, other):
            frame = os.urandom(100_000)
            one.link.send(frame)
            one.link.send(b"behind it")
            assert one.link.pending_bytes > 90_000
            await other.until(lambda: len(other.frames) == 2)
            assert other.frames == [frame, b"behind it"]
            assert one.link.pending_bytes == 0

    run(loop_kind, main())


def test_what_the_ring_has_no_room_for_is_pending() -> None:
    async def main() -> None:
        ends = make_ring_pair(0, 256)
        one = Side(ends[0])
        one.link.start()
        for _ in range(100):
            one.link.send(bytes(50))
        await asyncio.sleep(0.03)
        full_bytes = one.link.pending_bytes
        assert 95 * 50 < full_bytes < 100 * 60, "nobody takes them"
        other = Side(ends[1])
        other.link.start()
        await other.until(lambda: len(other.frames) == 100)
        await one.until(lambda: one.link.pending_bytes == 0)
        for side in (one, other):
            side.link.abort()
            await side.until_lost()

    run("uvloop", main())


@every_loop
def test_close_delivers_what_was_sent_before(loop_kind: str) -> None:
    async def main() -> None:
        async with pair(ring_bytes=256) as (one, other):
            sent = [bytes([number]) * 100 for number in range(50)]
            for frame in sent:
                one.link.send(frame)
            one.link.close()
            one.link.send(b"too late")
            await other.until_lost()
            await one.until_lost()
            assert other.frames == sent
            assert one.link.error is None
            assert other.link.error is None

    run(loop_kind, main())


@every_loop
def test_nothing_is_delivered_after_close(loop_kind: str) -> None:
    async def main() -> None:
        async with pair() as (one, other):

            def close_at_second(frame: bytes) -> None:
                other.frames.append(frame)
                if len(other.frames) == 2:
                    other.link.close()

            other.on_frame = close_at_second
            for number in range(5):
                one.link.send(b"%d" % number)
            await other.until_lost()
            await one.until_lost()
            assert other.frames == [b"0", b"1"]
            one.link.send(b"to nobody")
            assert one.link.pending_bytes == 0

    run(loop_kind, main())


def test_abort_keeps_its_reason_and_tells_once() -> None:
    async def main() -> None:
        async with pair() as (one, other):
            reason = FrameError("nonsense")
            one.link.abort(reason)
            one.link.abort(FrameError("later"))
            assert one.lost_count == 0, "the owner hears of it in a later iteration"
            assert one.link.is_closing
            await one.until_lost()
            await other.until_lost()
            assert one.link.error is reason

    run("uvloop", main())


@every_loop
def test_what_a_dead_process_had_sent_is_delivered_before_its_end(loop_kind: str) -> None:
    async def main() -> None:
        ours, theirs = make_ring_pair()
        child = os.fork()
        if child == 0:
            try:
                ours.close()
                rings = theirs.map(FRAME_BYTES_MAX)
                for number in range(300):
                    rings.producer.push(b"%d" % number)
                # No kick: it dies before.
            finally:
                os._exit(0)
        theirs.close()
        one = Side(ours)
        one.link.start()
        await one.until_lost()
        await asyncio.to_thread(os.waitpid, child, 0)
        assert one.frames == [b"%d" % number for number in range(300)]
        assert one.link.error is None

    run(loop_kind, main())


def test_what_on_frame_raises_loses_the_link_and_reaches_the_loop() -> None:
    async def main() -> None:
        told: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async with pair() as (one, other):

            def fail(frame: bytes) -> None:
                raise RuntimeError("a bug")

            other.on_frame = fail
            one.link.send(b"x")
            await other.until_lost()
            assert isinstance(other.link.error, RuntimeError)
            assert [context["exception"] for context in told] == [other.link.error]

    run("uvloop", main())


@pytest.mark.parametrize(("size", "is_taken"), [(999, True), (1000, True), (1001, False)])
def test_a_frame_above_the_limit_loses_the_link(size: int, is_taken: bool) -> None:
    async def main() -> None:
        ends = make_ring_pair()
        one, other = Side(ends[0]), Side(ends[1], frame_bytes_max=1000)
        one.link.start()
        other.link.start()
        one.link.send(bytes(size))
        if is_taken:
            await other.until(lambda: other.frames == [bytes(size)])
            other.link.abort()
        await one.until_lost()
        await other.until_lost()
        assert isinstance(other.link.error, FrameError) is not is_taken

    run("uvloop", main())


def test_a_flood_leaves_turns_to_others() -> None:
    async def main() -> None:
        async with pair() as (one, other):
            seen_at: list[int] = []

            def slowly(frame: bytes) -> None:
                other.frames.append(frame)
                sum(range(20_000))

            other.on_frame = slowly
            for _ in range(60):
                one.link.send(b"x")
            while len(other.frames) < 60:
                await asyncio.sleep(0)
                seen_at.append(len(other.frames))
            assert len(set(seen_at)) > 3, "the loop went round between the frames"

    run("uvloop", main())


def test_a_link_that_was_never_started_closes() -> None:
    async def main() -> None:
        ends = make_ring_pair()
        one = Side(ends[0])
        ends[1].close()
        assert one.link.is_closing
        one.link.send(b"lost")
        one.link.close()
        one.link.abort()
        await one.until_lost()
        one.link.start()
        assert one.made_count == 0

    run("uvloop", main())


def test_memory_that_cannot_be_used_closes_the_end() -> None:
    async def main() -> None:
        ours, theirs = make_ring_pair(1)
        ours.generation = 2
        with pytest.raises(RingError):
            Side(ours)
        assert ours.memory_descriptor == -1
        assert theirs.lifeline.recv(1) == b""
        theirs.close()

    run("uvloop", main())
