"""Tests of rafter_storage.file_system."""

import os
import stat
from pathlib import Path

import pytest

from rafter_storage.file_system import RealFileSystem, read_exactly, write_exactly
from tests.storage.support import FaultyFiles


def test_created_files_are_private(tmp_path: Path) -> None:
    files = RealFileSystem()
    files.close(files.open(tmp_path / "file", os.O_RDWR | os.O_CREAT))
    files.make_directory(tmp_path / "directory")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "directory").stat().st_mode) == 0o700


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="link"):
        RealFileSystem().open(tmp_path / "link", os.O_RDONLY)


@pytest.mark.parametrize("short_bytes", [1, 2, 3, 7, 10, 100])
def test_short_writes_are_continued(tmp_path: Path, short_bytes: int) -> None:
    files = FaultyFiles()
    files.short_bytes = short_bytes
    descriptor = files.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    write_exactly(files, descriptor, [b"abc", b"", b"defgh", memoryview(b"ij")], 4)
    files.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"\0\0\0\0abcdefghij"


def test_write_of_nothing_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.short_bytes = 0
    descriptor = files.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    with pytest.raises(OSError, match="wrote 0 of 3 bytes"):
        write_exactly(files, descriptor, [b"abc"], 0)
    files.close(descriptor)


def test_more_buffers_than_one_call_takes_are_all_written(tmp_path: Path) -> None:
    files = FaultyFiles()
    descriptor = files.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    write_exactly(files, descriptor, [b"%04d" % i for i in range(2500)], 0)
    files.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"".join(b"%04d" % i for i in range(2500))
    assert files.calls.count("pwritev") == 3


class ShortReads(RealFileSystem):
    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        return super().pread(descriptor, min(length, 3), offset)


def test_short_reads_are_continued_up_to_the_end_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abcdefghij")
    files = ShortReads()
    descriptor = files.open(tmp_path / "file", os.O_RDONLY)
    assert read_exactly(files, descriptor, 7, 1) == b"bcdefgh"
    assert read_exactly(files, descriptor, 100, 4) == b"efghij"
    files.close(descriptor)
