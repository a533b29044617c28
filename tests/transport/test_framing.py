"""The frame decoder: any chunking, and lengths refused before anything is kept."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_transport import FrameDecoder, FrameError
from rafter_transport.framing import HEADER_BYTES, frame_header

payload_lists = st.lists(st.binary(max_size=64), max_size=8)


def framed(payloads: list[bytes]) -> bytes:
    return b"".join(frame_header(len(payload)) + payload for payload in payloads)


@given(payload_lists, st.lists(st.integers(1, 40), max_size=60))
def test_chunking_changes_nothing(payloads: list[bytes], sizes: list[int]) -> None:
    stream = framed(payloads)
    decoder = FrameDecoder(64)
    decoded: list[bytes] = []
    position = 0
    for size in sizes:
        decoded += decoder.feed(stream[position : position + size])
        position += size
    decoded += decoder.feed(stream[position:])
    assert decoded == payloads
    assert decoder.partial_bytes == 0


@given(payload_lists)
def test_byte_at_a_time_gives_each_frame_with_its_last_byte(payloads: list[bytes]) -> None:
    decoder = FrameDecoder(64)
    for payload in payloads:
        *before, last = framed([payload])
        for byte in before:
            assert decoder.feed(bytes((byte,))) == []
            assert decoder.partial_bytes <= HEADER_BYTES + len(payload)
        assert decoder.feed(bytes((last,))) == [payload]


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_any_bytes_give_frames_or_a_frame_error_and_never_more_than_the_limit(
    chunks: list[bytes],
) -> None:
    decoder = FrameDecoder(20)
    for chunk in chunks:
        try:
            frames = decoder.feed(chunk)
        except FrameError:
            return
        assert all(len(frame) <= 20 for frame in frames)
        assert decoder.partial_bytes < HEADER_BYTES + 20


@pytest.mark.parametrize("is_split", [False, True])
@pytest.mark.parametrize("excess", [-1, 0, 1])
def test_a_length_is_refused_from_one_above_the_limit(excess: int, *, is_split: bool) -> None:
    decoder = FrameDecoder(1000)
    header = frame_header(1000 + excess)
    if is_split:
        assert decoder.feed(header[:3]) == []
        header = header[3:]
    if excess > 0:
        with pytest.raises(FrameError, match="frame of 1001 bytes is above the limit of 1000"):
            decoder.feed(header)
    else:
        assert decoder.feed(header) == []
        payload = bytes(1000 + excess)
        assert decoder.feed(payload) == [payload]


def test_an_announced_length_allocates_nothing() -> None:
    decoder = FrameDecoder(1 << 30)
    tracemalloc.start()
    try:
        assert decoder.feed(frame_header(1 << 30) + b"x") == []
        assert tracemalloc.get_traced_memory()[1] < 10_000
        with pytest.raises(FrameError):
            FrameDecoder(1 << 20).feed(frame_header((1 << 32) - 1))
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()


def test_whole_frames_of_a_chunk_come_at_once_and_the_rest_is_kept() -> None:
    decoder = FrameDecoder(100)
    stream = framed([b"one", b"", b"two"]) + frame_header(5) + b"th"
    assert decoder.feed(stream) == [b"one", b"", b"two"]
    assert decoder.partial_bytes == HEADER_BYTES + 2
    assert decoder.feed(b"ree" + framed([b"four"])) == [b"three", b"four"]


def test_a_large_frame_does_not_pin_its_buffer() -> None:
    decoder = FrameDecoder(8 << 20)
    payload = bytes(4 << 20)
    tracemalloc.start()
    try:
        decoder.feed(framed([payload])[:100])
        assert decoder.feed(framed([payload])[100:]) == [payload]
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
