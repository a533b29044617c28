"""Rings: one producer and one consumer over real shared memory, here in one process."""

import mmap
import os
import struct
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_transport.framing import FrameError
from rafter_transport.ring import (
    FRAMES_PER_BUNDLE,
    HEADER_BYTES,
    RING_BYTES_MIN,
    RingConsumer,
    RingError,
    RingProducer,
    check_ring,
    fence,
    format_ring,
)

CAPACITY = 256
PIECE = CAPACITY // 4
FRAME_BYTES_MAX = 10_000
TAIL, HEAD = 16, 32
SKIP = (1 << 32) - 1
MORE = 1 << 31
BUNDLE = 1 << 30


class Ring(NamedTuple):
    """One ring, both its sides, and the eventfd of each."""

    memory: mmap.mmap
    producer: RingProducer
    consumer: RingConsumer
    consumer_event: int
    producer_event: int

    def word(self, number: int, value: int) -> None:
        struct.pack_into("<Q", self.memory, 8 * number, value)

    def kicks(self, event: int) -> int:
        try:
            return os.eventfd_read(event)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        self.producer.release()
        self.consumer.release()
        self.memory.close()
        os.close(self.consumer_event)
        os.close(self.producer_event)


def make_ring(capacity: int = CAPACITY, frame_bytes_max: int = FRAME_BYTES_MAX) -> Ring:
    memory = mmap.mmap(-1, HEADER_BYTES + capacity)
    format_ring(memory, 0, 7, capacity)
    events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
    producer = RingProducer(memory, 0, events[0])
    return Ring(memory, producer, RingConsumer(memory, 0, events[1], frame_bytes_max), *events)


@pytest.fixture
def ring() -> Iterator[Ring]:
    made = make_ring()
    yield made
    made.close()


def test_frames_come_out_as_they_went_in_at_every_offset(ring: Ring) -> None:
    for turn in range(3 * CAPACITY):
        frame = bytes([turn % 251]) * (turn % (PIECE + 1))
        assert ring.producer.push(frame)
        assert ring.consumer.pop_all(10) == [frame]
    assert ring.consumer.is_empty


def test_a_full_ring_refuses_a_frame_and_keeps_the_earlier_ones(ring: Ring) -> None:
    frames: list[bytes] = []
    while ring.producer.push(frame := bytes([len(frames)]) * 20):
        frames.append(frame)
    assert len(frames) == CAPACITY // 24
    assert not ring.producer.push(frame)
    assert ring.consumer.pop_all(100) == frames
    assert ring.producer.push(b"room again")


def test_no_more_frames_are_taken_than_asked_for(ring: Ring) -> None:
    for number in range(5):
        assert ring.producer.push(b"%d" % number)
    assert ring.consumer.pop_all(2) == [b"0", b"1"]
    assert not ring.consumer.is_empty
    assert ring.consumer.pop_all(9) == [b"2", b"3", b"4"]
    assert ring.consumer.pop_all(9) == []


@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, CAPACITY, CAPACITY + 1, 9_999])
def test_a_frame_of_any_size_passes_in_pieces(ring: Ring, size: int) -> None:
    frame = os.urandom(size)
    assert ring.producer.push(frame)
    taken: list[bytes] = []
    for _ in range(size):
        taken += ring.consumer.pop_all(10)
        if ring.producer.advance() and taken:
            break
        assert ring.producer.unsent_bytes < size
    assert taken == [frame]
    assert ring.producer.unsent_bytes == 0


def test_no_frame_overtakes_one_that_is_unfinished(ring: Ring) -> None:
    assert ring.producer.push(bytes(4 * CAPACITY))
    assert not ring.producer.push(b"next")
    ring.producer.drop_rest()
    assert ring.producer.unsent_bytes == 0


@pytest.mark.parametrize("size", [0, 1, 5, 7, 8])
def test_bundles_come_out_as_they_went_in_at_every_offset(ring: Ring, size: int) -> None:
    for turn in range(3 * CAPACITY):
        frames = [bytes([turn % 251]) * size, b"", b"%d" % (turn % 10)]
        assert ring.producer.push_some(deque(frames)) == 3
        assert ring.consumer.pop_all(10) == frames
    assert ring.consumer.is_empty


def test_a_bundle_takes_what_a_piece_of_it_may_hold_and_leaves_the_rest(ring: Ring) -> None:
    frames = [b"12345"] * 5
    # Half a piece, 32 bytes: the number of frames, and three lengths with five bytes each.
    assert ring.producer.push_some(frames) == 3
    assert ring.producer.push_some([bytes(27), b""]) == 1, "a frame that fills it goes alone"
    assert ring.producer.push_some([bytes(3 * CAPACITY), b""]) == 1
    assert ring.producer.push_some([b"behind", b"it"]) == 0, "a frame is unfinished"
    assert ring.consumer.pop_all(4) == [*frames[:3], bytes(27)]


def test_a_bundle_has_no_more_frames_than_its_consumer_accepts() -> None:
    ring = make_ring(1 << 12)
    try:
        assert ring.producer.push_some([b""] * 100) == FRAMES_PER_BUNDLE
        assert ring.consumer.pop_all(1) == [b""] * FRAMES_PER_BUNDLE, "a bundle is taken whole"
    finally:
        ring.close()


def test_a_full_ring_refuses_a_bundle_and_keeps_the_earlier_ones(ring: Ring) -> None:
    frames = [b"1", b"23", b"456"]
    taken = 0
    while ring.producer.push_some(frames):
        taken += 1
    assert taken == CAPACITY // 32
    assert ring.consumer.pop_all(100) == frames * taken
    assert ring.producer.push_some(frames) == 3


def test_a_bundled_frame_above_the_limit_is_refused() -> None:
    ring = make_ring(1 << 12, frame_bytes_max=10)
    try:
        ring.producer.push_some([bytes(10), bytes(10)])
        assert ring.consumer.pop_all(9) == [bytes(10)] * 2
        ring.producer.push_some([bytes(10), bytes(11)])
        with pytest.raises(FrameError, match="above the limit of 10"):
            ring.consumer.pop_all(9)
    finally:
        ring.close()


@pytest.mark.parametrize(("excess", "is_taken"), [(-1, True), (0, True), (1, False)])
@pytest.mark.parametrize("limit", [PIECE // 2, 3 * PIECE])
def test_a_frame_above_the_limit_is_refused(limit: int, excess: int, is_taken: bool) -> None:
    ring = make_ring(frame_bytes_max=limit)
    try:
        assert ring.producer.push(bytes(limit + excess))
        if is_taken:
            assert ring.consumer.pop_all(1) == [bytes(limit + excess)]
        else:
            with pytest.raises(FrameError, match=f"above the limit of {limit}"):
                ring.consumer.pop_all(1)
    finally:
        ring.close()


Step = bytes | list[bytes] | int
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.binary(max_size=3 * CAPACITY),
    st.lists(st.binary(max_size=12), min_size=1, max_size=5),
    st.integers(1, 5),
)


@given(st.lists(STEPS, max_size=60), st.sampled_from([RING_BYTES_MIN, 128, CAPACITY, 1024]))
def test_a_ring_is_a_queue(steps: list[Step], capacity: int) -> None:
    ring = make_ring(capacity)
    expected: deque[bytes] = deque()
    try:
        for step in steps:
            ring.producer.advance()
            if isinstance(step, int):
                for frame in ring.consumer.pop_all(step):
                    assert frame == expected.popleft()
            elif isinstance(step, list):
                expected += step[: ring.producer.push_some(step)]
            elif ring.producer.push(step):
                expected.append(step)
        for _ in range(10_000):
            if not expected:
                break
            ring.producer.advance()
            for frame in ring.consumer.pop_all(3):
                assert frame == expected.popleft()
        assert not expected
        assert ring.producer.unsent_bytes == 0
    finally:
        ring.close()


def test_only_a_consumer_that_sleeps_is_woken(ring: Ring) -> None:
    ring.producer.push(b"1")
    assert not ring.producer.kick()
    assert ring.kicks(ring.consumer_event) == 0
    assert not ring.consumer.prepare_sleep(), "there is a frame"
    assert ring.consumer.pop_all(9) == [b"1"]
    assert ring.consumer.prepare_sleep()
    ring.producer.push(b"2")
    assert ring.producer.kick()
    assert not ring.producer.kick(), "it was woken already"
    assert ring.kicks(ring.consumer_event) == 1
    ring.consumer.awake()
    assert not ring.producer.kick()


def test_a_producer_that_waits_is_woken_by_what_is_taken(ring: Ring) -> None:
    while ring.producer.push(bytes(20)):
        pass
    assert ring.producer.prepare_wait()
    assert ring.consumer.pop_all(1) == [bytes(20)]
    assert ring.kicks(ring.producer_event) == 1
    assert not ring.producer.prepare_wait(), "there is room"
    ring.consumer.pop_all(1)
    assert ring.kicks(ring.producer_event) == 0, "it does not wait any more"


def test_a_consumer_about_to_sleep_wakes_the_producer_that_it_has_missed(ring: Ring) -> None:
    while ring.producer.push(bytes(20)):
        pass
    ring.consumer.pop_all(100)
    # The producer looked before the frames were taken, and its wish is seen only now.
    struct.pack_into("<Q", ring.memory, 8 * 64, 1)
    assert ring.consumer.prepare_sleep()
    assert ring.kicks(ring.producer_event) == 1


@pytest.mark.parametrize("tail", [1 << 40, CAPACITY + 8])
def test_an_impossible_tail_is_an_error(ring: Ring, tail: int) -> None:
    ring.word(TAIL, tail)
    with pytest.raises(RingError, match="tail"):
        ring.consumer.pop_all(9)


@pytest.mark.parametrize("head", [1 << 40, 1 << 63])
def test_an_impossible_head_is_an_error(ring: Ring, head: int) -> None:
    while ring.producer.push(bytes(20)):
        pass
    ring.word(HEAD, head)
    with pytest.raises(RingError, match="head"):
        ring.producer.push(bytes(20))


@pytest.mark.parametrize(
    "header",
    [PIECE, PIECE + 1, MORE | (PIECE + 1), MORE - 1, SKIP - 1, 17, BUNDLE, BUNDLE | MORE | 8],
    ids=hex,
)
def test_impossible_pieces_are_errors(ring: Ring, header: int) -> None:
    assert ring.producer.push(b"a")
    struct.pack_into("<I", ring.memory, HEADER_BYTES, header)
    with pytest.raises(RingError, match="piece"):
        ring.consumer.pop_all(9)


@pytest.mark.parametrize(
    "bundle",
    [
        [0], [1, 3], [1, 5], [2, 4], [2, 2, 3], [2, 2, 1, 0], [65] + [0] * 65, [0x4000_0000],
        [0xFFFF_FFFF],
    ],
    ids=str,
)  # fmt: skip
def test_impossible_bundles_are_errors(bundle: list[int]) -> None:
    ring = make_ring(1 << 12)
    try:
        size = 4 * len(bundle) + 4
        content = struct.pack(f"<{len(bundle) + 1}I", BUNDLE | size, *bundle)
        ring.memory[HEADER_BYTES : HEADER_BYTES + len(content)] = content
        ring.word(TAIL, (size + 11) & ~7)
        with pytest.raises(RingError, match="piece"):
            ring.consumer.pop_all(9)
    finally:
        ring.close()


def test_a_bundle_that_would_go_beyond_the_memory_is_an_error(ring: Ring) -> None:
    while ring.producer.push(bytes(20)):
        pass
    # The last four bytes of the ring: what a damaged index may take for the begin of a piece.
    ring.word(HEAD, CAPACITY - 4)
    ring.word(TAIL, CAPACITY + 8)
    struct.pack_into("<I", ring.memory, HEADER_BYTES + CAPACITY - 4, BUNDLE | 8)
    events = os.eventfd(0, os.EFD_NONBLOCK)
    consumer = RingConsumer(ring.memory, 0, events, FRAME_BYTES_MAX)
    try:
        with pytest.raises(RingError, match="piece"):
            consumer.pop_all(9)
    finally:
        consumer.release()
        os.close(events)


def test_a_bundle_in_the_middle_of_a_frame_is_an_error(ring: Ring) -> None:
    assert ring.producer.push(bytes(PIECE + 1))
    struct.pack_into("<III", ring.memory, HEADER_BYTES + PIECE + 8, BUNDLE | 8, 1, 0)
    with pytest.raises(RingError, match="piece"):
        ring.consumer.pop_all(9)


@given(st.binary(min_size=CAPACITY, max_size=CAPACITY), st.integers(0, CAPACITY // 8))
def test_whatever_the_memory_holds_is_frames_or_an_error(content: bytes, words: int) -> None:
    ring = make_ring(frame_bytes_max=100)
    try:
        ring.memory[HEADER_BYTES:] = content
        ring.word(TAIL, 8 * words)
        try:
            frames = ring.consumer.pop_all(1000)
        except FrameError:
            return
        assert sum(map(len, frames)) <= CAPACITY
    finally:
        ring.close()


def test_memory_of_another_generation_or_capacity_is_no_ring(ring: Ring) -> None:
    check_ring(ring.memory, 0, 7, CAPACITY)
    for generation, capacity in ((6, CAPACITY), (8, CAPACITY), (7, CAPACITY * 2)):
        with pytest.raises(RingError, match="expected a ring of generation"):
            check_ring(ring.memory, 0, generation, capacity)


def test_an_unpublished_frame_does_not_exist(ring: Ring) -> None:
    """A producer that dies in the middle of a push has not moved the tail."""
    ring.producer.push(b"whole")
    struct.pack_into("<I", ring.memory, HEADER_BYTES + 16, 4)
    assert ring.consumer.pop_all(9) == [b"whole"]
    assert ring.consumer.is_empty


def test_a_fence_is_free_while_another_thread_is_in_one() -> None:
    from rafter_transport import ring as module

    with module._fence_lock:
        fence()
    assert not module._fence_lock.locked()
