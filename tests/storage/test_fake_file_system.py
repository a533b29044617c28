"""Tests of the fake file system's own: faults that can be ordered, space, stricter rules.

That it behaves like the real one is tested in test_file_system.py; what a crash leaves, in
test_fake_disk.py and test_fake_names.py.
"""

import contextlib
import errno
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rafter_storage.file_system import Buffer, FileSystem
from tests.storage.fake_file_system import UNLIMITED_BYTES, Call, Crashed, CrashMode, FakeFileSystem
from tests.storage.fake_support import (
    NEW,
    PIECE,
    after,
    as_letters,
    created,
    pieces,
)


def test_it_is_a_file_system() -> None:
    files: FileSystem = FakeFileSystem()
    assert files.free_bytes(Path("/")) == UNLIMITED_BYTES


# ---- stopping ----------------------------------------------------------------------------------


def workload(files: FakeFileSystem) -> None:
    """One call of each kind that counts, in between some that do not."""
    base = files.base
    files.make_directory(base / "directory")
    descriptor = files.open(base / "file", NEW)
    files.pwritev(descriptor, [pieces("abc")], 0)
    files.write_synced(descriptor, [pieces("d")], 3 * PIECE)
    files.pread(descriptor, 10, 0)
    files.allocate(descriptor, 4096)
    files.truncate(descriptor, 100)
    files.sync_data(descriptor)
    files.close(descriptor)
    files.sync_directory(base)
    files.link(base / "file", base / "other")
    files.rename(base / "other", base / "third")
    files.unlink(base / "third")
    files.remove_directory(base / "directory")
    files.close(files.open(base / "file", NEW))
    files.close(files.open(base / "file", os.O_WRONLY | os.O_TRUNC))
    files.names(base)


def test_every_call_that_changes_something_is_counted() -> None:
    files = FakeFileSystem()
    workload(files)
    assert files.operations == 13
    assert not files.has_stopped


def test_a_stop_comes_before_the_operation() -> None:
    states = []
    for stop_at in range(1, 15):
        files = FakeFileSystem()
        files.stop_at = stop_at
        with pytest.raises(Crashed) if stop_at <= 13 else contextlib.nullcontext():
            workload(files)
        assert files.has_stopped == (stop_at <= 13)
        file = files.status(files.base / "file")
        states.append((files.paths(), file.size if file else -1))
    assert states[0] == ([], -1)
    unchanged = [number for number in range(1, 14) if states[number - 1] == states[number]]
    assert unchanged == [7, 8], "the syncs alone leave nothing to see"


def test_nothing_changes_after_a_stop() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", b"abc")
    files.stop_at = files.operations + 1
    calls: list[Callable[[], object]] = [
        lambda: files.pwritev(descriptor, [b"X"], 0),
        lambda: files.unlink(files.base / "file"),
        lambda: files.sync_data(descriptor),
        lambda: files.open(files.base / "new", NEW),
    ]
    for call in calls:
        with pytest.raises(Crashed):
            call()
    assert files.has_stopped
    assert files.names(files.base) == ["file"]
    assert files.pread(descriptor, 10, 0) == b"abc"
    survivor = files.crash(CrashMode.KEPT)
    survivor.unlink(survivor.base / "file")


@pytest.mark.parametrize(("kept", "expected"), [(0, "aaaa"), (1, "aBaa"), (2, "aBBa")])
def test_a_stopped_write_may_have_begun(kept: int, expected: str) -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", pieces("aaaa"))
    files.stop_at = files.operations + 1
    files.stopped_write_pieces = kept
    for offset in [PIECE, 0]:
        with pytest.raises(Crashed):
            files.pwritev(descriptor, [pieces("BBB")], offset)
    assert as_letters(after(files, CrashMode.KEPT)) == expected
    assert as_letters(after(files, CrashMode.LOST)) == "aaaa"


# ---- failures ----------------------------------------------------------------------------------


def test_the_nth_call_of_a_method_fails_and_does_nothing() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", b"abc")
    files.fail("pwritev", 2, errno.EIO, times=2)
    files.pwritev(descriptor, [b"1"], 0)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error: '/disk/file'"):
            files.pwritev(descriptor, [b"2"], 1)
    files.pwritev(descriptor, [b"3"], 2)
    assert files.contents(files.base / "file") == b"1b3"


def test_failures_can_be_for_certain_paths() -> None:
    files = FakeFileSystem()
    files.fail("open", 1, errno.EMFILE, lambda path: path.name == "b")
    files.fail("rename", 1, errno.EIO, lambda path: path.name == "d")
    for name in "ac":
        created(files, name)
    with pytest.raises(OSError, match="Too many open files"):
        files.open(files.base / "b", NEW)
    files.rename(files.base / "a", files.base / "b")
    with pytest.raises(OSError, match="Input/output error"):
        files.rename(files.base / "c", files.base / "d")
    assert files.names(files.base) == ["b", "c"]


def test_failures_can_be_taken_back() -> None:
    files = FakeFileSystem()
    files.fail("names", 1, errno.EIO)
    files.clear_failures()
    assert files.names(files.base) == []


def test_a_failure_that_could_never_happen_is_refused() -> None:
    files = FakeFileSystem()
    with pytest.raises(ValueError, match="no method write"):
        files.fail("write", 1, errno.EIO)
    with pytest.raises(ValueError, match="no method write"):
        files.calls("write")
    for nth, times in [(0, 1), (1, 0)]:
        with pytest.raises(ValueError, match="counted from 1"):
            files.fail("open", nth, errno.EIO, times=times)


def test_calls_are_recorded_with_where_they_went() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", b"abc")
    files.pread(descriptor, 2, 1)
    files.rename(files.base / "file", files.base / "new")
    path = files.base / "file"
    assert files.journal == [
        Call("open", path),
        Call("pwritev", path, 0, 3),
        Call("pread", path, 1, 2),
        Call("rename", path, target=files.base / "new"),
    ]
    assert files.calls("pread") == [Call("pread", path, 1, 2)]
    silent = FakeFileSystem(is_journaled=False)
    silent.names(silent.base)
    assert silent.crash(CrashMode.LOST).is_journaled is False
    assert silent.journal == []


def test_a_failed_call_is_recorded_too() -> None:
    files = FakeFileSystem()
    with pytest.raises(FileNotFoundError):
        files.unlink(files.base / "gone")
    assert files.calls("unlink") == [Call("unlink", files.base / "gone")]


# ---- space -------------------------------------------------------------------------------------


def test_writing_stops_where_the_disk_is_full() -> None:
    files = FakeFileSystem(capacity_bytes=8192)
    descriptor = created(files, "file")
    assert files.pwritev(descriptor, [bytes(5000)], 0) == 5000
    assert files.free_bytes(files.base) == 0
    assert files.pwritev(descriptor, [b"x" * 5000], 5000) == 3192
    with pytest.raises(OSError, match="No space left"):
        files.pwritev(descriptor, [b"x"], 8192)
    assert files.size(descriptor) == 8192
    other = created(files, "other")
    with pytest.raises(OSError, match="No space left"):
        files.pwritev(other, [b"x"], 0)
    assert files.pwritev(other, [], 0) == 0


def test_writing_within_what_is_allocated_never_lacks_space() -> None:
    files = FakeFileSystem(capacity_bytes=16384)
    descriptor = created(files, "file")
    files.allocate(descriptor, 8192)
    other = created(files, "other", bytes(8192))
    assert files.free_bytes(files.base) == 0
    assert files.pwritev(descriptor, [bytes(8192)], 0) == 8192
    survivor = files.crash(CrashMode.KEPT)
    assert survivor.free_bytes(files.base) == 0
    reopened = survivor.open(survivor.base / "file", os.O_RDWR)
    assert survivor.pwritev(reopened, [bytes(8192)], 0) == 8192
    with pytest.raises(OSError, match="No space left"):
        files.pwritev(other, [b"x"], 8192)


def test_allocating_is_all_or_nothing() -> None:
    files = FakeFileSystem(capacity_bytes=8192)
    descriptor = created(files, "file", b"abc")
    with pytest.raises(OSError, match="No space left"):
        files.allocate(descriptor, 8193)
    assert files.contents(files.base / "file") == b"abc"
    assert files.free_bytes(files.base) == 4096
    files.allocate(descriptor, 8192)
    files.allocate(descriptor, 8192)


def test_space_is_free_when_the_last_name_and_the_last_descriptor_are_gone() -> None:
    files = FakeFileSystem(capacity_bytes=8192)
    descriptor = created(files, "file", bytes(8192))
    files.link(files.base / "file", files.base / "other")
    free = [files.free_bytes(files.base)]
    files.unlink(files.base / "file")
    free.append(files.free_bytes(files.base))
    files.unlink(files.base / "other")
    free.append(files.free_bytes(files.base))
    files.close(descriptor)
    free.append(files.free_bytes(files.base))
    assert free == [0, 0, 0, 8192]
    files.close(created(files, "new", bytes(8192)))
    files.open(files.base / "empty", NEW)
    files.rename(files.base / "empty", files.base / "new")
    assert files.free_bytes(files.base) == 8192


def test_truncating_frees_and_growing_so_takes_nothing() -> None:
    files = FakeFileSystem(capacity_bytes=8192)
    descriptor = created(files, "file", bytes(8192))
    files.truncate(descriptor, 4096)
    assert files.free_bytes(files.base) == 4096
    files.truncate(descriptor, 8192)
    assert files.free_bytes(files.base) == 4096
    files.capacity_bytes = 4096
    with pytest.raises(OSError, match="No space left"):
        files.pwritev(descriptor, [b"x"], 4096)
    files.capacity_bytes = None
    assert files.pwritev(descriptor, [b"x"], 4096) == 1


def test_what_a_crash_takes_away_takes_no_space() -> None:
    files = FakeFileSystem(capacity_bytes=16384)
    created(files, "durable", bytes(4096))
    created(files, "gone", bytes(8192), is_settled=False)
    assert files.crash(CrashMode.LOST).free_bytes(files.base) == 12288
    survivor = files.crash(CrashMode.KEPT)
    assert survivor.free_bytes(files.base) == 4096
    survivor.unlink(files.base / "durable")
    assert survivor.free_bytes(files.base) == 8192


def test_what_a_crash_brings_back_has_its_space_again() -> None:
    files = FakeFileSystem(capacity_bytes=8192)
    descriptor = created(files, "file", bytes(8192))
    files.truncate(descriptor, 0)
    assert files.free_bytes(files.base) == 8192
    survivor = files.crash(CrashMode.LOST)
    assert survivor.free_bytes(files.base) == 0


def test_what_a_file_grew_by_without_space_has_none_after_a_crash() -> None:
    files = FakeFileSystem(capacity_bytes=8192)
    files.truncate(created(files, "file"), 8192)
    files.settle()
    assert files.crash(CrashMode.LOST).free_bytes(files.base) == 8192


# ---- damage and limits -------------------------------------------------------------------------


def test_a_flipped_bit_is_read_and_stays() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", b"abc")
    files.flip_bit(files.base / "file", 1, 0)
    assert files.pread(descriptor, 3, 0) == b"acc"
    assert {after(files, mode) for mode in CrashMode} == {b"acc"}
    files.flip_bit(files.base / "file", 1, 0)
    assert after(files, CrashMode.LOST) == b"abc"


def test_a_flip_changes_no_other_crash_state() -> None:
    files = FakeFileSystem()
    created(files, "file", b"abc")
    damaged, intact = files.crash(CrashMode.KEPT), files.crash(CrashMode.KEPT)
    damaged.flip_bit(files.base / "file", 0, 7)
    assert damaged.contents(files.base / "file") == b"\xe1bc"
    assert intact.contents(files.base / "file") == b"abc"
    assert files.contents(files.base / "file") == b"abc"


@pytest.mark.parametrize("offset", [1, 3, 4, 100])
def test_only_bytes_on_the_disk_rot(offset: int) -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", b"abc")
    files.pwritev(descriptor, [b"X"], 1)
    files.pwritev(descriptor, [b"X"], 3)
    with pytest.raises(ValueError, match="only synced bytes can rot"):
        files.flip_bit(files.base / "file", offset, 0)
    files.flip_bit(files.base / "file", 0, 0)


def test_misdirected_reads_return_what_stands_elsewhere() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", b"0123456789")
    files.misdirect_read(files.base / "file", 2, 3, 6)
    reads = [(10, 0), (2, 0), (2, 1), (1, 3), (5, 4), (3, 5)]
    assert [files.pread(descriptor, length, offset) for length, offset in reads] == [
        b"0167856789", b"01", b"16", b"7", b"85678", b"567",
    ]  # fmt: skip
    assert files.contents(files.base / "file") == b"0123456789"
    assert after(files, CrashMode.LOST) == b"0123456789"


def test_reads_can_be_misdirected_to_another_file_and_past_its_end() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", b"0123")
    created(files, "other", b"ab")
    files.misdirect_read(files.base / "file", 0, 3, 1, files.base / "other")
    files.rename(files.base / "file", files.base / "renamed")
    assert files.pread(descriptor, 4, 0) == b"b\0\x003"
    other = files.open(files.base / "other", os.O_RDONLY)
    assert files.pread(other, 4, 0) == b"ab"


def test_a_hook_sees_every_read_and_changes_it() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", b"abcd")
    files.read_hook = lambda path, offset, data: f"{path.name}@{offset}:".encode() + data
    assert files.pread(descriptor, 2, 1) == b"file@1:bc"
    assert files.crash(CrashMode.KEPT).read_hook is None


def test_writes_and_reads_can_be_short() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file")
    files.short_write_bytes = 3
    assert files.pwritev(descriptor, [b"ab", b"cd"], 0) == 3
    files.short_read_bytes = 2
    assert files.pread(descriptor, 10, 0) == b"ab"
    assert files.contents(files.base / "file") == b"abc"


def test_direct_writes_are_aligned_in_every_way() -> None:
    files = FakeFileSystem()
    descriptor = files.open(files.base / "file", NEW | os.O_DIRECT)
    block = memoryview(mmap.mmap(-1, 3 * 4096))
    assert files.pwritev(descriptor, [block[:4096], b"", block[4096:]], 4096) == 3 * 4096
    wrong: list[tuple[list[Buffer], int]] = [
        ([block[:4096]], 512),
        ([block[:512]], 0),
        ([block[512 : 512 + 4096]], 0),
        ([block[:4096], block[:100]], 0),
        ([bytes(4096)], 0),
        ([block[:4096].toreadonly()], 0),
    ]
    for buffers, offset in wrong:
        with pytest.raises(OSError, match="Invalid argument"):
            files.pwritev(descriptor, buffers, offset)
    with pytest.raises(OSError, match="Invalid argument"):
        files.pread(descriptor, 4096, 0)
    assert files.contents(files.base / "file") == bytes(4 * 4096)


@pytest.mark.parametrize(
    ("path", "flags"),
    [
        (Path("file"), NEW),
        (Path("/disk/../file"), NEW),
        (Path("/disk/file"), NEW | os.O_APPEND),
    ],
)
def test_what_the_fake_does_not_know_is_refused(path: Path, flags: int) -> None:
    with pytest.raises(ValueError, match="the fake"):
        FakeFileSystem().open(path, flags)


def test_the_base_can_be_anywhere() -> None:
    for base in [Path("/"), Path("/a/b/c")]:
        files = FakeFileSystem(base=base)
        created(files, "file", b"abc")
        assert files.paths() == [base / "file"]
        survivor = files.crash(CrashMode.LOST)
        assert survivor.base == base
        assert survivor.contents(base / "file") == b"abc"


def test_two_threads_may_share_it() -> None:
    files = FakeFileSystem()

    def work(name: str) -> None:
        descriptor = files.open(files.base / name, NEW)
        for number in range(300):
            files.pwritev(descriptor, [bytes([number % 256])], number)
            files.sync_data(descriptor)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = bytes(number % 256 for number in range(300))
    survivor = files.crash(CrashMode.KEPT)
    assert [survivor.contents(files.base / name) for name in "ab"] == [expected] * 2
    assert files.operations == 2 * 601


def test_a_call_keeps_other_threads_out_until_it_returns() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", b"abc")
    could_enter: list[bool] = []

    def hook(path: Path, offset: int, data: bytes) -> bytes:
        other = threading.Thread(
            target=lambda: could_enter.append(files._lock.acquire(blocking=False))
        )
        other.start()
        other.join()
        return data

    files.read_hook = hook
    files.pread(descriptor, 3, 0)
    assert could_enter == [False]
