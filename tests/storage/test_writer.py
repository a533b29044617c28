"""Tests of rafter_storage.writer."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rafter_storage.buffer import FragmentedBuffer, FragmentPool
from rafter_storage.errors import DiskFull, Poisoned, StorageError
from rafter_storage.segment import SegmentHeader, create_segment, segment_path, spare_path
from rafter_storage.writer import DIRECT_BLOCK_BYTES, DIRECT_FLAGS, SegmentWriter
from tests.storage.fake_file_system import FakeFileSystem
from tests.storage.support import EIO, ENOSPC

FIRST = SegmentHeader(1, 11, 0, 0, 1 << 16, 1)
SECOND = SegmentHeader(2, 22, 11, 5000, 1 << 16, 1)


def make(*, is_direct: bool = False) -> tuple[FakeFileSystem, SegmentWriter]:
    files = FakeFileSystem()
    flags = DIRECT_FLAGS if is_direct else 0
    descriptor = create_segment(files, files.base, FIRST, None, flags)
    files.journal.clear()
    return files, SegmentWriter(files, files.base, FIRST, descriptor, is_direct=is_direct)


def buffer_of(*pieces: bytes, pool: FragmentPool | None = None) -> FragmentedBuffer:
    buffer = FragmentedBuffer() if pool is None else FragmentedBuffer(DIRECT_BLOCK_BYTES, pool)
    buffer.extend(pieces)
    return buffer


def changing_calls(files: FakeFileSystem) -> list[tuple[str, str]]:
    return [
        (call.method, call.path.name)
        for call in files.journal
        if call.method in ("pwritev", "sync_data", "rename", "unlink", "sync_directory", "allocate")
    ]


def has_prefix(files: FakeFileSystem, sequence: int, data: bytes) -> bool:
    return files.contents(segment_path(files.base, sequence))[4096:].startswith(data)


def test_writes_go_to_the_new_segment_after_a_roll() -> None:
    files, writer = make()
    writer.start(1)
    writer.write(buffer_of(b"one", b"1"), 4096)
    writer.roll(2, SECOND, None)
    writer.write(buffer_of(b"two"), 4096)
    writer.close()
    assert has_prefix(files, 1, b"one1\0")
    assert has_prefix(files, 2, b"two\0")


def test_roll_syncs_the_old_segment_and_then_makes_the_new_one_durable() -> None:
    files, writer = make()
    writer.roll(1, SECOND, None)
    # A descriptor's path is the one that it was opened by.
    old, temporary = (segment_path(Path(), number).with_suffix(".tmp").name for number in (1, 2))
    assert changing_calls(files) == [
        ("sync_data", old),
        ("allocate", temporary),
        ("pwritev", temporary),
        ("sync_data", temporary),
        ("rename", temporary),
        ("sync_directory", "disk"),
    ]
    writer.close()


def test_roll_takes_a_spare_without_allocating() -> None:
    files, writer = make()
    spare = spare_path(files.base, 7)
    descriptor = files.open(spare, os.O_RDWR | os.O_CREAT)
    files.allocate(descriptor, SECOND.segment_bytes)
    files.close(descriptor)
    files.journal.clear()
    writer.roll(1, SECOND, spare)
    assert files.calls("allocate") == []
    assert [(call.path, call.target) for call in files.calls("rename")] == [
        (spare, segment_path(files.base, 2))
    ]
    writer.close()


def test_old_segment_that_cannot_be_synced_gets_no_successor() -> None:
    files, writer = make()
    files.fail("sync_data", 1, EIO)
    with pytest.raises(Poisoned, match=r"cannot sync .*0001\.log"):
        writer.roll(1, SECOND, None)
    assert files.status(segment_path(files.base, 2)) is None
    writer.close()


@pytest.mark.parametrize("method", ["pwritev", "sync_data"])
@pytest.mark.parametrize("number", [EIO, ENOSPC])
def test_failed_writer_refuses_everything_without_trying(method: str, number: int) -> None:
    files, writer = make()
    files.fail(method, 1, number)
    failing: dict[str, Callable[[], object]] = {
        "pwritev": lambda: writer.write(buffer_of(b"x"), 4096),
        "sync_data": writer.sync,
    }
    message = os.strerror(number)
    with pytest.raises(Poisoned, match=message):
        failing[method]()
    files.journal.clear()
    actions: list[Callable[[], object]] = [
        lambda: writer.write(buffer_of(b"x"), 4096),
        writer.sync,
        lambda: writer.roll(1, SECOND, None),
        lambda: writer.start(1),
        writer.check,
    ]
    for action in actions:
        with pytest.raises(Poisoned, match=message):
            action()
    assert files.journal == []
    writer.close()


def test_interrupted_sync_poisons_too() -> None:
    class Interrupted(FakeFileSystem):
        def sync_data(self, descriptor: int) -> None:
            raise KeyboardInterrupt

    files = Interrupted()
    descriptor = files.open(files.base / "file", os.O_RDWR | os.O_CREAT)
    writer = SegmentWriter(files, files.base, FIRST, descriptor, is_direct=False)
    with pytest.raises(Poisoned):
        writer.sync()
    assert writer.poison is not None
    writer.close()


def test_roll_interrupted_by_anything_poisons() -> None:
    files, writer = make()

    def interrupted(_path: Path) -> bool:
        raise KeyboardInterrupt

    files.fail("rename", 1, EIO, interrupted)
    with pytest.raises(Poisoned, match="cannot roll to the segment after"):
        writer.roll(1, SECOND, None)
    assert writer.poison is not None
    writer.close()


@pytest.mark.parametrize("number", [ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("method", ["open", "allocate", "pwritev", "sync_data", "rename"])
def test_roll_without_room_changes_nothing_and_can_be_done_again(method: str, number: int) -> None:
    files, writer = make()
    writer.start(1)
    writer.write(buffer_of(b"one"), 4096)
    files.fail(method, 2 if method == "sync_data" else 1, number)
    with pytest.raises(DiskFull, match="no room for another segment in /disk"):
        writer.roll(2, SECOND, None)
    assert writer.poison is None
    assert not [name for name in files.names(files.base) if name.endswith(".tmp")]
    # Job 3 cannot go before it.
    with pytest.raises(StorageError, match="job 3 cannot run after job 1"):
        writer.start(3)
    writer.roll(2, SECOND, None)
    writer.write(buffer_of(b"two"), 4096)
    writer.start(3)
    writer.close()
    assert has_prefix(files, 1, b"one\0")
    assert has_prefix(files, 2, b"two\0")


@pytest.mark.parametrize("method", ["open", "pwritev", "sync_data", "rename"])
def test_roll_to_a_spare_without_room_can_be_done_again(method: str) -> None:
    # A directory may have no room for a name, though the spare has its blocks.
    files, writer = make()
    spare = spare_path(files.base, 7)
    descriptor = files.open(spare, os.O_RDWR | os.O_CREAT)
    files.allocate(descriptor, SECOND.segment_bytes)
    files.close(descriptor)
    files.fail(method, 2 if method == "sync_data" else 1, ENOSPC)
    with pytest.raises(DiskFull):
        writer.roll(1, SECOND, spare)
    writer.roll(1, SECOND, spare)
    writer.write(buffer_of(b"two"), 4096)
    writer.close()
    assert has_prefix(files, 2, b"two\0")


@pytest.mark.parametrize("has_spare", [False, True])
def test_roll_whose_new_name_may_be_durable_or_not_poisons_even_on_a_full_disk(
    has_spare: bool,
) -> None:
    # The old segment must not go on once a successor may exist.
    files, writer = make()
    spare = spare_path(files.base, 7)
    descriptor = files.open(spare, os.O_RDWR | os.O_CREAT)
    files.allocate(descriptor, SECOND.segment_bytes)
    files.close(descriptor)
    files.fail("sync_directory", 1, ENOSPC)
    with pytest.raises(Poisoned, match="cannot roll to the segment after"):
        writer.roll(1, SECOND, spare if has_spare else None)
    writer.close()


@pytest.mark.parametrize("method", ["open", "allocate", "rename", "sync_directory"])
def test_roll_that_fails_in_any_other_way_poisons(method: str) -> None:
    files, writer = make()
    files.fail(method, 1, EIO)
    with pytest.raises(Poisoned, match=r"cannot roll to the segment after .*0001\.log"):
        writer.roll(1, SECOND, None)
    with pytest.raises(Poisoned):
        writer.start(2)
    writer.close()


def test_jobs_start_in_order_and_the_managers_own_at_any_time() -> None:
    _, writer = make()
    writer.start(0)
    writer.start(1)
    with pytest.raises(StorageError, match="job 3 cannot run after job 1"):
        writer.start(3)
    with pytest.raises(StorageError, match="job 1 cannot run after job 1"):
        writer.start(1)
    writer.start(0)
    writer.start(2)
    writer.close()


def test_direct_writer_needs_no_sync() -> None:
    files, writer = make(is_direct=True)
    pool = FragmentPool()
    block = b"x" * DIRECT_BLOCK_BYTES
    writer.write(buffer_of(block, pool=pool), 4096)
    assert writer.sync() == 0.0
    assert changing_calls(files) == [("pwritev", segment_path(Path(), 1).with_suffix(".tmp").name)]
    writer.roll(1, SECOND, None)
    writer.write(buffer_of(block, block, pool=pool), 8192)
    writer.close()
    assert files.contents(segment_path(files.base, 2))[8192 : 8192 + 8192] == block * 2


def test_closed_writer_refuses_and_closes_once() -> None:
    files, writer = make()
    writer.close()
    writer.close()
    with pytest.raises(Poisoned, match="is closed"):
        writer.write(buffer_of(b"x"), 4096)
    assert len(files.calls("close")) == 1


def test_closing_keeps_the_reason_of_an_earlier_failure() -> None:
    files, writer = make()
    files.fail("sync_data", 1, EIO)
    with pytest.raises(Poisoned):
        writer.sync()
    writer.close()
    with pytest.raises(Poisoned, match="cannot sync"):
        writer.check()
