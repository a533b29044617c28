"""Tests of rafter_storage.buffer."""

import ctypes
import itertools
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from rafter_storage.buffer import JOINED_BYTES_MAX, BufferReader, FragmentedBuffer, FragmentPool
from rafter_storage.errors import StorageError
from rafter_storage.file_system import REAL_FILE_SYSTEM, Buffer, RealFileSystem

PAGE = mmap.PAGESIZE
LARGE = JOINED_BYTES_MAX + 1

# What is done to a buffer: bytes are appended, lists of bytes are added, a number is padded to,
# and None asks for the bytes in between.
Step = bytes | list[bytes] | int | None
PIECES = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda length, fill: bytes([fill]) * length,
        st.sampled_from([LARGE - 1, LARGE, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE]),
        st.integers(1, 255),
    ),
)
STEPS = st.lists(
    st.one_of(
        PIECES,
        st.lists(PIECES, max_size=4),
        st.sampled_from([1, 2, 3, 8, 512, PAGE, 5000]),
        st.none(),
    ),
    max_size=12,
)
MODES = st.sampled_from([(1, 1), (512, 1), (512, 3), (PAGE, 1), (PAGE, 2), (PAGE, 32)])


def address(buffer: Buffer) -> int:
    """Where the bytes of a buffer lie in memory."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def make(alignment: int, fragment_pages: int = 1, fragments_max: int = 8) -> FragmentedBuffer:
    if alignment == 1:
        return FragmentedBuffer()
    return FragmentedBuffer(alignment, FragmentPool(fragment_pages * PAGE, fragments_max))


def filled(alignment: int, steps: list[Step], pages: int = 1) -> tuple[FragmentedBuffer, bytes]:
    """A buffer after some steps, and the bytes that should be in it."""
    buffer = make(alignment, pages)
    expected = b""
    for step in steps:
        if isinstance(step, bytes):
            buffer.append(step)
            expected += step
        elif isinstance(step, list):
            buffer.extend(step)
            expected += b"".join(step)
        elif isinstance(step, int):
            padding = -len(expected) % step
            assert buffer.pad_to(step) == padding
            expected += bytes(padding)
        else:
            assert buffer.read(0, len(buffer)) == expected
        if len(expected) % 3:
            assert len(buffer) == len(expected)
    return buffer, expected


@given(MODES, STEPS, st.data())
def test_any_steps_read_back_as_the_concatenation(
    mode: tuple[int, int], steps: list[Step], data: st.DataObject
) -> None:
    alignment, pages = mode
    buffer, expected = filled(alignment, steps, pages)
    assert len(buffer) == len(expected)

    ends = st.integers(0, len(expected))
    start, end = sorted((data.draw(ends), data.draw(ends)))
    found = buffer.views(start, end - start)
    assert all(found)
    assert b"".join(found) == buffer.read(start, end - start) == expected[start:end]
    one = buffer.view(start, end - start)
    assert one == (expected[start:end] if len(found) <= 1 else None)

    buffer.pad_to(alignment)
    expected += bytes(-len(expected) % alignment)
    assert b"".join(buffer.buffers()) == expected
    assert all(len(part) for part in buffer.buffers())


@given(MODES, STEPS, st.integers(0, (1 << 64) - 1), st.data())
def test_checksum_of_a_range_is_that_of_the_joined_bytes(
    mode: tuple[int, int], steps: list[Step], seed: int, data: st.DataObject
) -> None:
    buffer, expected = filled(mode[0], steps, mode[1])
    ends = st.integers(0, len(expected))
    start, end = sorted((data.draw(ends), data.draw(ends)))
    assert buffer.checksum(start, end - start, seed) == xxh3_64_intdigest(expected[start:end], seed)


READS = st.tuples(st.sampled_from([0, 1, 7, 96, 1000, PAGE, 5 * PAGE]), st.booleans())


@given(MODES, STEPS, st.lists(READS, min_size=1, max_size=50))
def test_reader_gives_the_bytes_in_order_at_any_step(
    mode: tuple[int, int], steps: list[Step], reads: list[tuple[int, bool]]
) -> None:
    buffer, expected = filled(mode[0], steps, mode[1])
    reader = BufferReader(buffer.views(0, len(buffer)))
    position = 0
    # Over and over again: to draw every one of them would take nearly all of the time.
    for length, is_read in itertools.cycle(reads):
        if not reader.remaining:
            break
        assert reader.remaining == len(expected) - position
        length = min(length, reader.remaining) or 1
        if is_read:
            assert reader.read_exactly(length) == expected[position : position + length]
        else:
            reader.skip(length)
        position += length
    assert position == len(expected)


@given(st.lists(st.binary(max_size=5)))
def test_reader_takes_blocks_that_were_read_from_a_file(blocks: list[bytes]) -> None:
    reader = BufferReader(blocks)
    expected = b"".join(blocks)
    assert bytes(reader.read_exactly(len(expected))) == expected
    assert reader.remaining == 0
    assert reader.read_exactly(0) == b""


def test_reader_copies_only_what_straddles() -> None:
    reader = BufferReader([b"abcdef", b"ghi"])
    assert isinstance(reader.read_exactly(4), memoryview)
    assert isinstance(reader.read_exactly(3), bytes)
    last = reader.read_exactly(2)
    assert isinstance(last, memoryview)
    assert bytes(last) == b"hi"


@pytest.mark.parametrize("length", [4, -1])
def test_reader_that_is_asked_for_too_much_does_not_move(length: int) -> None:
    reader = BufferReader([b"ab", b"c"])
    with pytest.raises(StorageError, match=f"{length} bytes were asked for where 3 are left"):
        reader.read_exactly(length)
    with pytest.raises(StorageError, match=f"{length} bytes were asked for where 3 are left"):
        reader.skip(length)
    assert reader.read_exactly(3) == b"abc"


# ---- gathering -------------------------------------------------------------------------------


def test_small_neighbours_become_one_buffer_and_large_pieces_stay_where_they_are() -> None:
    buffer = FragmentedBuffer()
    body = b"b" * LARGE
    for piece in (b"prefix", body, b"\0", b"prefix", b"body"):
        buffer.append(piece)
    first, second, third = buffer.buffers()
    assert (first, third) == (b"prefix", b"\0prefixbody")
    assert second is body


def test_a_view_is_not_given_where_it_would_take_a_copy() -> None:
    buffer = FragmentedBuffer()
    buffer.append(b"prefix")
    buffer.append(b"b" * LARGE)
    assert buffer.view(0, 7) is None
    assert buffer.views(4, 4) == [memoryview(b"ix"), memoryview(b"bb")]
    assert buffer.view(0, 6) == memoryview(b"prefix")
    assert buffer.view(6, LARGE) == memoryview(b"b" * LARGE)


def test_the_largest_piece_that_is_joined_is_as_large_as_stated() -> None:
    buffer = FragmentedBuffer()
    buffer.append(b"prefix")
    buffer.append(b"b" * JOINED_BYTES_MAX)
    assert [len(part) for part in buffer.buffers()] == [6 + JOINED_BYTES_MAX]


def test_a_thousand_records_become_one_buffer() -> None:
    buffer = FragmentedBuffer()
    for _ in range(1000):
        buffer.extend((b"p" * 96, b"b" * 121, bytes(7)))
    assert [len(part) for part in buffer.buffers()] == [224_000]


def test_bytes_can_be_appended_after_a_look_at_them() -> None:
    buffer = FragmentedBuffer()
    buffer.append(b"ab")
    seen = buffer.view(0, 2)
    buffer.append(b"cd")
    assert buffer.read(1, 2) == b"bc"
    assert seen is not None
    assert bytes(seen) == b"ab"
    assert buffer.buffers() == [b"ab", b"cd"]


@pytest.mark.parametrize("alignment", [1, PAGE])
def test_an_empty_buffer_has_nothing_to_write(alignment: int) -> None:
    buffer = make(alignment)
    assert buffer.buffers() == []
    buffer.append(b"")
    buffer.extend([b"", b""])
    assert buffer.pad_to(PAGE) == 0
    assert buffer.buffers() == buffer.views(0, 0) == []
    assert buffer.view(0, 0) == memoryview(b"")
    assert (len(buffer), buffer.read(0, 0)) == (0, b"")
    assert buffer.checksum(0, 0, 5) == xxh3_64_intdigest(b"", 5)
    buffer.write(REAL_FILE_SYSTEM, -1, 0)
    buffer.release()


@pytest.mark.parametrize("alignment", [1, PAGE])
@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (0, 11), (10, 1), (11, 0)])
def test_a_range_beyond_the_bytes_is_refused(alignment: int, offset: int, length: int) -> None:
    buffer = make(alignment)
    buffer.append(b"0123456789")
    for look in (buffer.view, buffer.views, buffer.read):
        with pytest.raises(StorageError, match=f"no {length} bytes at {offset} in a buffer of 10"):
            look(offset, length)


# ---- aligned memory --------------------------------------------------------------------------


@given(st.sampled_from([512, PAGE]), STEPS)
def test_aligned_buffers_begin_and_end_on_the_alignment(alignment: int, steps: list[Step]) -> None:
    buffer, _ = filled(alignment, steps, 2)
    buffer.pad_to(alignment)
    parts = buffer.buffers()
    assert all(address(part) % alignment == 0 and len(part) % alignment == 0 for part in parts)


def test_a_fragment_is_filled_to_its_end_before_the_next_is_taken() -> None:
    buffer = make(PAGE)
    buffer.append(b"a" * (PAGE - 1))
    buffer.append(b"b")
    assert [len(part) for part in buffer.buffers()] == [PAGE]
    buffer.append(b"c" * (2 * PAGE + 1))
    assert buffer.pad_to(PAGE) == PAGE - 1
    assert [len(part) for part in buffer.buffers()] == [PAGE] * 4
    assert buffer.read(PAGE - 2, 3) == b"abc"
    assert buffer.read(3 * PAGE, PAGE) == b"c" + bytes(PAGE - 1)


def test_bytes_that_are_not_padded_cannot_be_written() -> None:
    buffer = make(512)
    buffer.append(b"x" * 513)
    with pytest.raises(StorageError, match="513 bytes are no multiple of the alignment 512"):
        buffer.buffers()
    assert buffer.read(0, 513) == b"x" * 513


@pytest.mark.parametrize("alignment", [0, -1, 3, 2 * PAGE])
def test_an_alignment_that_pages_do_not_have_is_refused(alignment: int) -> None:
    with pytest.raises(ValueError, match=f"alignment {alignment} does not divide a page"):
        FragmentedBuffer(alignment)


@pytest.mark.parametrize("fragment_bytes", [0, -PAGE, PAGE + 1])
def test_fragments_are_whole_pages(fragment_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"fragments of {fragment_bytes} bytes"):
        FragmentPool(fragment_bytes)


class ScarceMemory(FragmentPool):
    """A pool that cannot always get memory."""

    left = 1

    def acquire(self) -> mmap.mmap:
        if not self.left:
            raise MemoryError
        self.left -= 1
        return super().acquire()


def test_want_of_memory_loses_and_repeats_nothing() -> None:
    pool = ScarceMemory(PAGE, 8)
    buffer = FragmentedBuffer(PAGE, pool)
    buffer.append(b"a" * PAGE + b"b")
    with pytest.raises(MemoryError):
        buffer.read(0, 1)
    pool.left = 9
    buffer.append(b"c")
    assert buffer.read(0, PAGE + 2) == b"a" * PAGE + b"bc"
    buffer.release()
    assert pool.idle_count == 2


# ---- the pool --------------------------------------------------------------------------------


def build(pool: FragmentPool, data: bytes) -> FragmentedBuffer:
    buffer = FragmentedBuffer(PAGE, pool)
    buffer.append(data)
    buffer.pad_to(PAGE)
    assert b"".join(buffer.buffers()).startswith(data)
    return buffer


def test_fragments_are_used_again_and_show_nothing_of_their_past() -> None:
    pool = FragmentPool(PAGE, 4)
    first = build(pool, b"a" * PAGE)
    place = address(first.buffers()[0])
    first.release()
    second = build(pool, b"b")
    assert address(second.buffers()[0]) == place
    assert second.read(0, PAGE) == b"b" + bytes(PAGE - 1)


def test_a_pool_keeps_no_more_than_its_bound() -> None:
    pool = FragmentPool(PAGE, 2)
    buffers = [build(pool, b"x" * (3 * PAGE)) for _ in range(2)]
    for buffer in buffers:
        buffer.release()
    assert pool.idle_count == 2
    build(pool, b"x" * (5 * PAGE)).release()
    assert pool.idle_count == 2


def test_without_a_pool_nothing_is_kept() -> None:
    buffer = FragmentedBuffer(PAGE)
    buffer.append(b"x" * PAGE)
    assert buffer.read(0, 2) == b"xx"
    buffer.release()
    pool = FragmentPool(PAGE, 0)
    build(pool, b"x").release()
    assert pool.idle_count == 0


USES: dict[str, Callable[[FragmentedBuffer], object]] = {
    "len": len,
    "append": lambda buffer: buffer.append(b"x"),
    "extend": lambda buffer: buffer.extend([b"x"]),
    "pad_to": lambda buffer: buffer.pad_to(8),
    "buffers": lambda buffer: buffer.buffers(),
    "write": lambda buffer: buffer.write(REAL_FILE_SYSTEM, -1, 0),
    "view": lambda buffer: buffer.view(0, 0),
    "views": lambda buffer: buffer.views(0, 0),
    "read": lambda buffer: buffer.read(0, 0),
    "checksum": lambda buffer: buffer.checksum(0, 0, 0),
}


@pytest.mark.parametrize("alignment", [1, PAGE])
@pytest.mark.parametrize("use", USES)
def test_use_after_release_is_refused(alignment: int, use: str) -> None:
    buffer = make(alignment)
    buffer.append(b"x")
    buffer.release()
    with pytest.raises(StorageError, match="after it had been released"):
        USES[use](buffer)


def test_a_buffer_released_twice_gives_its_memory_back_once() -> None:
    pool = FragmentPool(PAGE, 4)
    buffer = build(pool, b"x")
    buffer.release()
    buffer.release()
    assert pool.idle_count == 1


def test_a_fragment_released_twice_is_refused() -> None:
    pool = FragmentPool(PAGE, 4)
    fragment = pool.acquire()
    pool.release(fragment)
    with pytest.raises(StorageError, match="released twice"):
        pool.release(fragment)
    assert pool.idle_count == 1


def test_views_outlive_the_release_and_keep_their_fragment_from_others() -> None:
    pool = FragmentPool(PAGE, 4)
    buffer = build(pool, b"a" * (2 * PAGE))
    seen = buffer.view(5, 10)
    buffer.release()
    assert pool.idle_count == 1
    build(pool, b"b" * (3 * PAGE))
    assert seen is not None
    assert bytes(seen) == b"a" * 10


# ---- writing ---------------------------------------------------------------------------------


class CountedWrites(RealFileSystem):
    def __init__(self) -> None:
        self.counts: list[int] = []

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        self.counts.append(len(buffers))
        return super().pwritev(descriptor, buffers, offset)


@pytest.mark.parametrize(("alignment", "count"), [(1, 3), (512, 2), (PAGE, 2)])
def test_a_job_is_written_with_one_call_of_few_buffers(
    tmp_path: Path, alignment: int, count: int
) -> None:
    records = [b"p" * 96, b"body" * 30, bytes(7)] * 256 + [b"L" * LARGE, b"end"]
    buffer = make(alignment, 8)
    for record in records:
        buffer.append(record)
    buffer.pad_to(alignment)
    expected = b"".join(records)
    expected += bytes(-len(expected) % alignment)
    files = CountedWrites()
    descriptor = files.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    buffer.write(files, descriptor, 8)
    files.close(descriptor)
    buffer.release()
    assert (tmp_path / "file").read_bytes() == bytes(8) + expected
    assert files.counts == [count]


def test_direct_writing_takes_the_aligned_buffers(tmp_path: Path) -> None:
    flags = os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_DSYNC
    try:
        descriptor = REAL_FILE_SYSTEM.open(tmp_path / "file", flags)
    except OSError as error:
        pytest.skip(f"the file system of the tests has no O_DIRECT: {error}")
    pool = FragmentPool(4 * PAGE, 2)
    try:
        expected = b""
        for job in range(3):
            buffer = FragmentedBuffer(PAGE, pool)
            for number in range(50):
                buffer.append(bytes([job * 50 + number]) * (number * 31))
            buffer.append(os.urandom(70_001))
            buffer.pad_to(PAGE)
            data = buffer.read(0, len(buffer))
            buffer.write(REAL_FILE_SYSTEM, descriptor, len(expected))
            buffer.release()
            expected += data
            assert pool.idle_count == 2
    finally:
        os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == expected


def test_direct_writing_refuses_memory_that_is_not_aligned(tmp_path: Path) -> None:
    flags = os.O_RDWR | os.O_CREAT | os.O_DIRECT
    try:
        descriptor = REAL_FILE_SYSTEM.open(tmp_path / "file", flags)
    except OSError as error:
        pytest.skip(f"the file system of the tests has no O_DIRECT: {error}")
    buffer = FragmentedBuffer()
    buffer.append(b"x" * 100)
    try:
        with pytest.raises(OSError, match="Invalid argument"):
            buffer.write(REAL_FILE_SYSTEM, descriptor, 0)
    finally:
        os.close(descriptor)
