"""Tests of rafter_storage.file_system: what the real one and the fake one both promise."""

import errno
import mmap
import os
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from rafter_storage.file_system import (
    REFUSALS,
    Buffer,
    FileStatus,
    FileSystem,
    RealFileSystem,
    read_exactly,
    write_exactly,
)
from tests.storage.fake_file_system import FakeFileSystem
from tests.storage.support import open_manager
from tests.storage.verification_support import fill_small_log

NEW = os.O_RDWR | os.O_CREAT


class Volume(NamedTuple):
    """A file system with an empty directory on it, and short ways to what the tests do most."""

    files: FileSystem
    base: Path

    def write(self, name: str, data: bytes = b"") -> Path:
        path = self.base / name
        descriptor = self.files.open(path, NEW | os.O_TRUNC)
        write_exactly(self.files, descriptor, [data] if data else [], 0)
        self.files.close(descriptor)
        return path

    def read(self, name: str) -> bytes:
        descriptor = self.files.open(self.base / name, os.O_RDONLY)
        data = read_exactly(self.files, descriptor, 1 << 20, 0)
        self.files.close(descriptor)
        return data

    def directory(self, name: str) -> Path:
        self.files.make_directory(self.base / name)
        return self.base / name

    def names(self) -> list[str]:
        return self.files.names(self.base)


@pytest.fixture(params=["real", "fake"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Volume:
    if request.param == "real":
        return Volume(RealFileSystem(), tmp_path)
    fake = FakeFileSystem()
    return Volume(fake, fake.base)


def error_of(call: Callable[[], object]) -> str:
    """The name of the error number that a call ends with."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is what is compared
        call()
    return errno.errorcode[caught.value.errno or 0]


# ---- opening -----------------------------------------------------------------------------------


def test_created_files_and_directories_are_private(volume: Volume) -> None:
    file = volume.files.status(volume.write("file", b"abc"))
    assert file == FileStatus(False, True, 0o600, os.getuid(), 3)
    directory = volume.files.status(volume.directory("directory"))
    assert directory is not None
    assert directory._replace(size=0) == FileStatus(True, False, 0o700, os.getuid(), 0)


def test_nothing_has_no_status(volume: Volume) -> None:
    volume.write("file")
    assert volume.files.status(volume.base / "gone") is None
    assert volume.files.status(volume.base / "gone" / "below") is None
    assert volume.files.status(volume.base / "file" / "below") is None


def test_opening_takes_what_stands_there(volume: Volume) -> None:
    volume.write("file", b"abc")
    volume.files.close(volume.files.open(volume.base / "file", NEW))
    assert volume.read("file") == b"abc"
    volume.files.close(volume.files.open(volume.base / "file", NEW | os.O_TRUNC))
    assert volume.read("file") == b""


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        ("gone", os.O_RDONLY, "ENOENT"),
        ("gone", os.O_WRONLY | os.O_TRUNC, "ENOENT"),
        ("gone/file", NEW, "ENOENT"),
        ("file/below", NEW, "ENOTDIR"),
        ("file", NEW | os.O_EXCL, "EEXIST"),
        ("directory", NEW | os.O_EXCL, "EEXIST"),
        ("directory", os.O_WRONLY, "EISDIR"),
        ("directory", os.O_RDWR, "EISDIR"),
        ("directory", os.O_RDONLY | os.O_CREAT, "EISDIR"),
        ("file", os.O_RDONLY | os.O_DIRECTORY, "ENOTDIR"),
        ("x" * 256, NEW, "ENAMETOOLONG"),
    ],
)
def test_what_cannot_be_opened(volume: Volume, name: str, flags: int, expected: str) -> None:
    volume.write("file", b"abc")
    volume.directory("directory")
    assert error_of(lambda: volume.files.open(volume.base / name, flags)) == expected
    assert volume.names() == ["directory", "file"]
    assert volume.read("file") == b"abc"


def test_an_exclusive_open_creates_what_is_not_there(volume: Volume) -> None:
    volume.files.close(volume.files.open(volume.base / "file", NEW | os.O_EXCL))
    assert volume.names() == ["file"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert error_of(lambda: RealFileSystem().open(tmp_path / "link", os.O_RDONLY)) == "ELOOP"


def test_closed_descriptors_are_refused(volume: Volume) -> None:
    files = volume.files
    closed = files.open(volume.base / "file", NEW)
    files.close(closed)
    calls: list[Callable[[], object]] = [
        lambda: files.close(closed),
        lambda: files.size(closed),
        lambda: files.pread(closed, 1, 0),
        lambda: files.pwritev(closed, [b"x"], 0),
        lambda: files.allocate(closed, 1),
        lambda: files.truncate(closed, 0),
        lambda: files.sync_data(closed),
        lambda: files.lock(closed),
    ]
    assert [error_of(call) for call in calls] == ["EBADF"] * len(calls)


def test_descriptors_do_what_they_were_opened_for(volume: Volume) -> None:
    files = volume.files
    path = volume.write("file", b"abc")
    reader = files.open(path, os.O_RDONLY)
    writer = files.open(path, os.O_WRONLY)
    assert error_of(lambda: files.pwritev(reader, [b"x"], 0)) == "EBADF"
    assert error_of(lambda: files.allocate(reader, 10)) == "EBADF"
    assert error_of(lambda: files.truncate(reader, 0)) == "EINVAL"
    assert error_of(lambda: files.pread(writer, 1, 0)) == "EBADF"
    assert files.pwritev(writer, [b"x"], 0) == 1
    files.sync_data(writer)
    files.sync_data(reader)
    assert files.pread(reader, 10, 0) == b"xbc"
    files.close(reader)
    files.close(writer)


def test_a_directory_can_be_opened_and_not_read(volume: Volume) -> None:
    files = volume.files
    descriptor = files.open(volume.base, os.O_RDONLY | os.O_DIRECTORY)
    files.sync_data(descriptor)
    assert error_of(lambda: files.pread(descriptor, 1, 0)) == "EISDIR"
    files.close(descriptor)


# ---- bytes -------------------------------------------------------------------------------------


def test_reads_end_where_the_file_ends(volume: Volume) -> None:
    descriptor = volume.files.open(volume.write("file", b"abcdef"), os.O_RDONLY)
    reads = [(6, 0), (100, 0), (2, 3), (100, 4), (1, 6), (5, 1000), (0, 2)]
    assert [volume.files.pread(descriptor, length, offset) for length, offset in reads] == [
        b"abcdef", b"abcdef", b"de", b"ef", b"", b"", b"",
    ]  # fmt: skip
    volume.files.close(descriptor)


def test_buffers_are_written_in_order(volume: Volume) -> None:
    anonymous = mmap.mmap(-1, 4096)
    anonymous[:2] = b"mm"
    buffers: list[Buffer] = [b"abc", b"", bytearray(b"de"), memoryview(b"fgh")[1:], anonymous]
    descriptor = volume.files.open(volume.base / "file", NEW)
    assert volume.files.pwritev(descriptor, buffers, 0) == 4103
    assert volume.files.pwritev(descriptor, [], 2) == 0
    assert volume.files.size(descriptor) == 4103
    volume.files.close(descriptor)
    assert volume.read("file") == b"abcdeghmm" + bytes(4094)


def test_the_gap_before_a_write_reads_as_zeros(volume: Volume) -> None:
    descriptor = volume.files.open(volume.write("file", b"abc"), os.O_RDWR)
    assert volume.files.pwritev(descriptor, [b"xy"], 600) == 2
    assert volume.files.pwritev(descriptor, [b""], 900) == 0
    volume.files.close(descriptor)
    assert volume.read("file") == b"abc" + bytes(597) + b"xy"


def test_what_is_written_is_read_at_once_by_every_descriptor(volume: Volume) -> None:
    path = volume.write("file", b"abc")
    writer, reader = volume.files.open(path, os.O_RDWR), volume.files.open(path, os.O_RDONLY)
    volume.files.pwritev(writer, [b"XYZ"], 2)
    assert volume.files.pread(reader, 10, 0) == b"abXYZ"
    volume.files.close(writer)
    volume.files.close(reader)


def test_wrong_arguments_are_refused(volume: Volume) -> None:
    files = volume.files
    descriptor = files.open(volume.write("file", b"abc"), os.O_RDWR)
    calls: list[Callable[[], object]] = [
        lambda: files.pread(descriptor, 1, -1),
        lambda: files.pwritev(descriptor, [b"x"], -2),
        lambda: files.pwritev(descriptor, [b"x"] * 1025, 0),
        lambda: files.allocate(descriptor, 0),
        lambda: files.allocate(descriptor, -1),
        lambda: files.truncate(descriptor, -1),
    ]
    assert [error_of(call) for call in calls] == ["EINVAL"] * len(calls)
    files.close(descriptor)
    assert volume.read("file") == b"abc"


def test_allocating_fills_with_zeros_and_never_shrinks(volume: Volume) -> None:
    descriptor = volume.files.open(volume.write("file", b"abc"), os.O_RDWR)
    volume.files.allocate(descriptor, 2)
    assert volume.files.pread(descriptor, 100, 0) == b"abc"
    volume.files.allocate(descriptor, 5000)
    assert volume.files.size(descriptor) == 5000
    volume.files.allocate(descriptor, 4000)
    volume.files.close(descriptor)
    assert volume.read("file") == b"abc" + bytes(4997)


def test_truncating_cuts_and_grows(volume: Volume) -> None:
    descriptor = volume.files.open(volume.write("file", b"abcdef"), os.O_RDWR)
    volume.files.truncate(descriptor, 2)
    assert volume.files.pread(descriptor, 100, 0) == b"ab"
    volume.files.truncate(descriptor, 5)
    volume.files.close(descriptor)
    assert volume.read("file") == b"ab\0\0\0"


def test_a_write_through_o_dsync_is_a_write(volume: Volume) -> None:
    descriptor = volume.files.open(volume.base / "file", NEW | os.O_DSYNC)
    assert volume.files.pwritev(descriptor, [b"abc"], 1) == 3
    volume.files.close(descriptor)
    assert volume.read("file") == b"\0abc"


def test_a_synced_write_is_a_write(volume: Volume) -> None:
    files = volume.files
    descriptor = files.open(volume.base / "file", NEW)
    assert files.write_synced(descriptor, [b"abc", b"", bytearray(b"de")], 1) == 5
    assert files.write_synced(descriptor, [b"X"], 2) == 1
    assert files.write_synced(descriptor, [], 0) == 0
    assert files.pread(descriptor, 100, 0) == b"\0aXcde"
    reader = files.open(volume.base / "file", os.O_RDONLY)
    assert error_of(lambda: files.write_synced(reader, [b"x"], 0)) == "EBADF"
    assert error_of(lambda: files.write_synced(descriptor, [b"x"], -2)) == "EINVAL"
    assert error_of(lambda: files.write_synced(descriptor, [b"x"] * 1025, 0)) == "EINVAL"
    files.close(reader)
    files.close(descriptor)
    assert error_of(lambda: files.write_synced(descriptor, [b"x"], 0)) == "EBADF"


def test_a_system_without_synced_writes_refuses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = RealFileSystem()
    descriptor = files.open(tmp_path / "file", NEW)
    monkeypatch.delattr(os, "RWF_DSYNC", raising=False)
    with pytest.raises(OSError, match="not supported") as caught:
        files.write_synced(descriptor, [b"x"], 0)
    assert caught.value.errno in REFUSALS
    assert files.size(descriptor) == 0
    files.close(descriptor)


def test_aligned_writes_go_through_o_direct(volume: Volume) -> None:
    files = volume.files
    path = volume.write("file", bytes(8192))
    try:
        descriptor = files.open(path, os.O_WRONLY | os.O_DIRECT)
    except OSError:
        pytest.skip("the file system of the temporary directory has no O_DIRECT")
    block = mmap.mmap(-1, 8192)
    block[:] = b"a" * 4096 + b"b" * 4096
    assert files.pwritev(descriptor, [memoryview(block)[4096:]], 0) == 4096
    assert files.pwritev(descriptor, [block], 4096) == 8192
    files.close(descriptor)
    assert volume.read("file") == b"b" * 4096 + b"a" * 4096 + b"b" * 4096


# ---- names -------------------------------------------------------------------------------------


def test_names_are_sorted(volume: Volume) -> None:
    for name in ["b", "a10", "c", "a2"]:
        volume.write(name)
    volume.directory("B")
    assert volume.names() == ["B", "a10", "a2", "b", "c"]
    assert volume.files.names(volume.base / "B") == []
    assert error_of(lambda: volume.files.names(volume.base / "gone")) == "ENOENT"
    assert error_of(lambda: volume.files.names(volume.base / "a2")) == "ENOTDIR"


def test_directories_are_made_and_removed(volume: Volume) -> None:
    files, base = volume.files, volume.base
    volume.directory("directory")
    volume.write("directory/file")
    assert error_of(lambda: files.make_directory(base / "directory")) == "EEXIST"
    assert error_of(lambda: files.make_directory(base / "directory" / "file")) == "EEXIST"
    assert error_of(lambda: files.make_directory(base / "gone" / "new")) == "ENOENT"
    assert error_of(lambda: files.make_directory(base / "directory" / "file" / "x")) == "ENOTDIR"
    assert error_of(lambda: files.remove_directory(base / "directory")) == "ENOTEMPTY"
    assert error_of(lambda: files.remove_directory(base / "directory" / "file")) == "ENOTDIR"
    assert error_of(lambda: files.remove_directory(base / "gone")) == "ENOENT"
    files.unlink(base / "directory" / "file")
    files.remove_directory(base / "directory")
    assert volume.names() == []


def test_directories_alone_are_synced(volume: Volume) -> None:
    volume.write("file")
    volume.files.sync_directory(volume.base)
    assert error_of(lambda: volume.files.sync_directory(volume.base / "file")) == "ENOTDIR"
    assert error_of(lambda: volume.files.sync_directory(volume.base / "gone")) == "ENOENT"


def test_a_rename_replaces_its_target(volume: Volume) -> None:
    old = volume.files.open(volume.write("target", b"old"), os.O_RDONLY)
    new = volume.files.open(volume.write("source", b"new"), os.O_RDWR)
    volume.files.rename(volume.base / "source", volume.base / "target")
    assert volume.names() == ["target"]
    assert volume.read("target") == b"new"
    assert volume.files.pread(old, 10, 0) == b"old"
    volume.files.pwritev(new, [b"N"], 0)
    assert volume.read("target") == b"New"
    volume.files.close(old)
    volume.files.close(new)


def test_directories_are_renamed_with_what_is_in_them(volume: Volume) -> None:
    volume.directory("a")
    volume.directory("b")
    volume.write("a/file", b"abc")
    volume.files.rename(volume.base / "a", volume.base / "b" / "c")
    assert volume.names() == ["b"]
    assert volume.read("b/c/file") == b"abc"
    volume.files.rename(volume.base / "b" / "c" / "file", volume.base / "moved")
    assert volume.names() == ["b", "moved"]
    # Linux replaces a directory that is empty.
    volume.directory("d")
    volume.files.rename(volume.base / "b", volume.base / "d")
    assert volume.files.names(volume.base / "d") == ["c"]


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("gone", "new", "ENOENT"),
        ("file", "gone/new", "ENOENT"),
        ("file", "other/new", "ENOTDIR"),
        ("file", "directory", "EISDIR"),
        ("directory", "file", "ENOTDIR"),
        ("directory", "full", "ENOTEMPTY"),
        ("full", "full/below", "EINVAL"),
        ("full", "full/directory/below", "EINVAL"),
    ],
)
def test_what_cannot_be_renamed(volume: Volume, source: str, target: str, expected: str) -> None:
    volume.write("file")
    volume.write("other")
    for name in ["directory", "full", "full/directory"]:
        volume.directory(name)
    base = volume.base
    assert error_of(lambda: volume.files.rename(base / source, base / target)) == expected
    assert volume.names() == ["directory", "file", "full", "other"]
    assert volume.files.names(base / "full") == ["directory"]


def test_a_rename_to_itself_changes_nothing(volume: Volume) -> None:
    path = volume.write("file", b"abc")
    volume.files.link(path, volume.base / "other")
    volume.files.rename(path, path)
    volume.files.rename(path, volume.base / "other")
    assert volume.names() == ["file", "other"]
    assert volume.read("file") == b"abc"


def test_a_link_is_the_same_file(volume: Volume) -> None:
    path = volume.write("file", b"abc")
    volume.files.link(path, volume.base / "other")
    descriptor = volume.files.open(path, os.O_RDWR)
    volume.files.pwritev(descriptor, [b"X"], 0)
    volume.files.close(descriptor)
    assert volume.read("other") == b"Xbc"
    volume.files.unlink(path)
    assert volume.names() == ["other"]
    assert volume.read("other") == b"Xbc"


def test_what_cannot_be_linked(volume: Volume) -> None:
    files, base = volume.files, volume.base
    volume.write("file")
    volume.directory("directory")
    assert error_of(lambda: files.link(base / "gone", base / "new")) == "ENOENT"
    assert error_of(lambda: files.link(base / "file", base / "gone" / "new")) == "ENOENT"
    assert error_of(lambda: files.link(base / "file", base / "file")) == "EEXIST"
    assert error_of(lambda: files.link(base / "file", base / "directory")) == "EEXIST"
    assert error_of(lambda: files.link(base / "directory", base / "new")) == "EPERM"


def test_an_unlinked_file_lives_on_in_its_descriptors(volume: Volume) -> None:
    path = volume.write("file", b"abc")
    descriptor = volume.files.open(path, os.O_RDWR)
    volume.files.unlink(path)
    assert volume.names() == []
    volume.write("file", b"another")
    volume.files.pwritev(descriptor, [b"X"], 3)
    volume.files.sync_data(descriptor)
    assert volume.files.pread(descriptor, 10, 0) == b"abcX"
    assert volume.files.size(descriptor) == 4
    volume.files.close(descriptor)
    assert volume.read("file") == b"another"


def test_what_cannot_be_unlinked(volume: Volume) -> None:
    volume.directory("directory")
    volume.write("file")
    assert error_of(lambda: volume.files.unlink(volume.base / "gone")) == "ENOENT"
    assert error_of(lambda: volume.files.unlink(volume.base / "file" / "x")) == "ENOTDIR"
    assert error_of(lambda: volume.files.unlink(volume.base / "directory")) == "EISDIR"


# ---- locks and space ---------------------------------------------------------------------------


def test_a_lock_excludes_every_other_descriptor_until_it_is_closed(volume: Volume) -> None:
    files = volume.files
    path = volume.write("file")
    first, second = files.open(path, os.O_RDWR), files.open(path, os.O_RDONLY)
    assert [files.lock(first), files.lock(first), files.lock(second)] == [True, True, False]
    files.close(files.open(path, os.O_RDONLY))
    assert not files.lock(second)
    files.close(first)
    assert files.lock(second)
    files.close(second)


def test_free_bytes_are_told_of_what_exists(volume: Volume) -> None:
    assert volume.files.free_bytes(volume.base) > 0
    assert volume.files.free_bytes(volume.write("file")) > 0
    assert error_of(lambda: volume.files.free_bytes(volume.base / "gone")) == "ENOENT"


# ---- writing and reading exactly ---------------------------------------------------------------


@pytest.mark.parametrize("is_synced", [False, True])
@pytest.mark.parametrize("short_bytes", [1, 2, 3, 7, 10, 100])
def test_short_writes_are_continued_likewise(short_bytes: int, *, is_synced: bool) -> None:
    files = FakeFileSystem()
    files.short_write_bytes = short_bytes
    descriptor = files.open(files.base / "file", NEW)
    buffers: list[Buffer] = [b"abc", b"", b"defgh", memoryview(b"ij")]
    write_exactly(files, descriptor, buffers, 4, is_synced=is_synced)
    assert files.contents(files.base / "file") == b"\0\0\0\0abcdefghij"
    calls = {method: len(files.calls(method)) for method in ("pwritev", "write_synced")}
    count = -(-10 // short_bytes)
    assert calls == {"pwritev": count * (not is_synced), "write_synced": count * is_synced}


def test_write_of_nothing_is_an_error_and_no_endless_loop() -> None:
    files = FakeFileSystem()
    files.short_write_bytes = 0
    descriptor = files.open(files.base / "file", NEW)
    with pytest.raises(OSError, match="wrote 0 of 3 bytes"):
        write_exactly(files, descriptor, [b"abc"], 0)


def test_more_buffers_than_one_call_takes_are_all_written(volume: Volume) -> None:
    descriptor = volume.files.open(volume.base / "file", NEW)
    write_exactly(volume.files, descriptor, [b"%04d" % i for i in range(2500)], 0)
    volume.files.close(descriptor)
    assert volume.read("file") == b"".join(b"%04d" % i for i in range(2500))


def test_as_few_calls_are_made_as_the_number_of_buffers_allows() -> None:
    files = FakeFileSystem()
    descriptor = files.open(files.base / "file", NEW)
    write_exactly(files, descriptor, [b"%04d" % i for i in range(2500)], 0)
    assert [call.length for call in files.calls("pwritev")] == [4096, 4096, 1808]


def test_short_reads_are_continued_up_to_the_end_of_the_file() -> None:
    files = FakeFileSystem()
    descriptor = files.open(files.base / "file", NEW)
    write_exactly(files, descriptor, [b"abcdefghij"], 0)
    files.short_read_bytes = 3
    assert read_exactly(files, descriptor, 7, 1) == b"bcdefgh"
    assert read_exactly(files, descriptor, 100, 4) == b"efghij"


# ---- a whole log -------------------------------------------------------------------------------


def test_a_log_is_the_same_bytes_on_both(tmp_path: Path) -> None:
    fake = FakeFileSystem()
    images = []
    for volume in (Volume(RealFileSystem(), tmp_path), Volume(fake, fake.base)):
        draw = partial(random.Random(1).getrandbits, 62)
        fill_small_log(open_manager(volume.base, volume.files, draw=draw))
        names = volume.files.names(volume.base / "wal")
        images.append({name: volume.read(f"wal/{name}") for name in names})
    real, faked = images
    assert real == faked
    assert Counter(Path(name).suffix for name in real) == {".log": 3, ".index": 2, ".free": 1}
