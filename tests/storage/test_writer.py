"""Tests of rafter_storage.writer."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rafter_storage.buffer import FragmentedBuffer, FragmentPool
from rafter_storage.errors import DiskFull, Poisoned, StorageError
from rafter_storage.file_system import REFUSALS
from rafter_storage.segment import SegmentHeader, create_segment, segment_path, spare_path
from rafter_storage.writer import DIRECT_BLOCK_BYTES, DIRECT_FLAGS, SegmentWriter
from tests.storage.fake_file_system import CrashMode, FakeFileSystem
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


def writing_calls(files: FakeFileSystem) -> list[str]:
    """The writes and syncs since the last question."""
    methods = ("pwritev", "write_synced", "sync_data")
    found = [call.method for call in files.journal if call.method in methods]
    files.journal.clear()
    return found


def lost_bytes(files: FakeFileSystem, expected: bytes) -> bool:
    """Whether a crash now could cost the first segment something of these records."""
    survivor = files.crash(CrashMode.LOST)
    return not has_prefix(survivor, 1, expected)


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


@pytest.mark.parametrize("method", ["pwritev", "sync_data", "write_synced"])
@pytest.mark.parametrize("number", [EIO, ENOSPC])
def test_failed_writer_refuses_everything_without_trying(method: str, number: int) -> None:
    files, writer = make()
    writer.sync()
    files.fail(method, 1, number)
    failing: dict[str, Callable[[], object]] = {
        "pwritev": lambda: writer.write(buffer_of(b"x"), 4096),
        "sync_data": writer.sync,
        "write_synced": lambda: writer.write_synced(buffer_of(b"x"), 4096),
    }
    message = os.strerror(number)
    with pytest.raises(Poisoned, match=message):
        failing[method]()
    files.journal.clear()
    actions: list[Callable[[], object]] = [
        lambda: writer.write(buffer_of(b"x"), 4096),
        lambda: writer.write_synced(buffer_of(b"x"), 4096),
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


# ---- writes that are synced in the same call ---------------------------------------------------


def test_write_behind_synced_bytes_is_synced_in_the_same_call() -> None:
    files, writer = make()
    writer.sync()
    writing_calls(files)
    writer.write_synced(buffer_of(b"one"), 4096)
    writer.write_synced(buffer_of(b"two"), 4099)
    assert writing_calls(files) == ["write_synced", "write_synced"]
    assert not lost_bytes(files, b"onetwo")
    writer.close()


def test_write_behind_unsynced_bytes_makes_them_durable_too() -> None:
    files, writer = make()
    writer.sync()
    for number in range(3):
        writing_calls(files)
        at = 4096 + number * 2000
        writer.write(buffer_of(b"a" * 1000), at)
        assert lost_bytes(files, b"a" * 1000) == (number == 0)
        writer.write_synced(buffer_of(b"b" * 1000), at + 1000)
        assert writing_calls(files) == ["pwritev", "pwritev", "sync_data"]
        assert not lost_bytes(files, (b"a" * 1000 + b"b" * 1000) * (number + 1))
    writer.write_synced(buffer_of(b"c"), 10096)
    assert writing_calls(files) == ["write_synced"]
    writer.close()


def test_file_that_was_opened_as_it_stood_may_have_unsynced_bytes() -> None:
    files, writer = make()
    writer.write_synced(buffer_of(b"one"), 4096)
    assert writing_calls(files) == ["pwritev", "sync_data"]
    writer.close()


def test_new_segment_has_no_unsynced_bytes_whatever_the_old_one_had() -> None:
    files, writer = make()
    writer.write(buffer_of(b"one"), 4096)
    writer.roll(1, SECOND, None)
    writing_calls(files)
    writer.write_synced(buffer_of(b"two"), 4096)
    assert writing_calls(files) == ["write_synced"]
    survivor = files.crash(CrashMode.LOST)
    assert has_prefix(survivor, 1, b"one\0")
    assert has_prefix(survivor, 2, b"two\0")
    writer.close()


@pytest.mark.parametrize("short_bytes", [1, 2, 5])
def test_rest_of_a_short_synced_write_is_synced_too(short_bytes: int) -> None:
    files, writer = make()
    writer.sync()
    writing_calls(files)
    files.short_write_bytes = short_bytes
    writer.write_synced(buffer_of(b"abc", b"de"), 4096)
    assert writing_calls(files) == ["write_synced"] * -(-5 // short_bytes)
    assert not lost_bytes(files, b"abcde")
    writer.close()


@pytest.mark.parametrize("number", sorted(REFUSALS))
def test_disk_that_refuses_synced_writes_is_asked_once(number: int) -> None:
    files, writer = make()
    writer.sync()
    writing_calls(files)
    files.fail("write_synced", 1, number)
    writer.write_synced(buffer_of(b"one"), 4096)
    assert writer.poison is None
    writer.write_synced(buffer_of(b"two"), 4099)
    two_calls = ["pwritev", "sync_data"]
    assert writing_calls(files) == ["write_synced", *two_calls, *two_calls]
    assert not lost_bytes(files, b"onetwo")
    writer.close()


def test_disk_that_has_taken_a_synced_write_cannot_refuse_the_next() -> None:
    files, writer = make()
    writer.sync()
    writer.write_synced(buffer_of(b"one"), 4096)
    files.fail("write_synced", 1, errno.EOPNOTSUPP)
    writing_calls(files)
    with pytest.raises(Poisoned, match=r"cannot write and sync .*0001\.log"):
        writer.write_synced(buffer_of(b"two"), 4099)
    assert writing_calls(files) == ["write_synced"]
    writer.close()


def test_interrupted_synced_write_poisons_too() -> None:
    files, writer = make()
    writer.sync()

    def interrupted(_path: Path) -> bool:
        raise KeyboardInterrupt

    files.fail("write_synced", 1, EIO, interrupted)
    with pytest.raises(Poisoned):
        writer.write_synced(buffer_of(b"x"), 4096)
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
    assert writer.write_synced(buffer_of(), 4096) == 0.0
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
