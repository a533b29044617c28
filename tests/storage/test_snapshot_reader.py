"""Tests of rafter_storage.snapshot_reader."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from rafter_core.snapshot import Snapshot
from rafter_storage.errors import SnapshotCorrupted, StorageError
from rafter_storage.snapshot_files import write_manifest
from rafter_storage.snapshot_reader import (
    FAULTS_MAX,
    SnapshotInfo,
    SnapshotReader,
    verify_directory,
)
from tests.storage.fake_file_system import FakeFileSystem
from tests.storage.snapshot_support import (
    CHUNK_BYTES,
    GROUP,
    MEMBERSHIP,
    contents,
    open_store,
    read_all,
    take,
)


def published(data: dict[str, bytes] | None = None) -> tuple[FakeFileSystem, SnapshotInfo]:
    files = FakeFileSystem()
    info = take(open_store(files, files.base), 10, data)
    files.settle()
    return files, info


def test_info_tells_what_the_snapshot_is_of() -> None:
    _, info = published()
    found = info.group, info.index, info.term, info.membership, info.membership_index
    assert found == (GROUP, 10, 3, MEMBERSHIP, 4)
    assert info.snapshot == Snapshot(10, 3, MEMBERSHIP)


def test_chunks_come_by_number_for_sending_that_goes_on() -> None:
    files, info = published()
    data = contents(10)
    with SnapshotReader(files, info) as reader:
        for name, number in [("state", 2), ("extra.1", 0), ("state", 0), ("state", 1)]:
            start = number * CHUNK_BYTES
            assert reader.chunk(name, number) == data[name][start : start + CHUNK_BYTES]
        assert b"".join(reader.chunks("state")) == data["state"]
        with pytest.raises(KeyError, match="no file 'gone'"):
            reader.chunk("gone", 0)
        with pytest.raises(KeyError, match="no file 'manifest'"):
            next(reader.chunks("manifest"))
        with pytest.raises(IndexError):
            reader.chunk("state", 3)
    with pytest.raises(ValueError, match="closed"):
        reader.chunk("state", 0)
    reader.close()


def test_no_more_than_one_descriptor_is_open() -> None:
    files, info = published()
    opened = len(files.calls("open")) - len(files.calls("close"))
    reader = SnapshotReader(files, info)
    for name in ("state", "extra.1", "state"):
        reader.chunk(name, 0)
        assert len(files.calls("open")) - len(files.calls("close")) == opened + 1
    reader.close()
    assert len(files.calls("open")) == len(files.calls("close"))


def test_every_byte_of_every_file_flipped_is_detected_or_harmless() -> None:
    """Never are wrong bytes yielded, and verification finds every one of them (item 34)."""
    files, info = published()
    lengths = {name: len(data) for name, data in contents(10).items()}
    lengths["manifest"] = files.status(info.path / "manifest").size  # type: ignore[union-attr]
    for name, length in lengths.items():
        for offset in range(length):
            files.flip_bit(info.path / name, offset, offset % 8)
            report = verify_directory(files, info.path)
            assert [damage.path.name for damage in report.faults] == [name]
            assert (report.manifest is None) == (name == "manifest")
            if name != "manifest":
                assert report.faults[0].offset == offset // CHUNK_BYTES * CHUNK_BYTES
                with pytest.raises(SnapshotCorrupted):
                    read_all(files, info)
            files.flip_bit(info.path / name, offset, offset % 8)
    assert verify_directory(files, info.path).faults == ()


def test_swapped_files_are_detected() -> None:
    files, info = published({"a": b"1" * 20, "b": b"2" * 20})
    files.rename(info.path / "a", info.path / "c")
    files.rename(info.path / "b", info.path / "a")
    files.rename(info.path / "c", info.path / "b")
    assert [
        (damage.path.name, damage.offset) for damage in verify_directory(files, info.path).faults
    ] == [("a", 0), ("a", 16), ("b", 0), ("b", 16)]


def test_missing_and_unknown_files_are_reported() -> None:
    files, info = published()
    files.rename(info.path / "state", info.path / "other")
    faults = verify_directory(files, info.path).faults
    assert [(damage.path.name, damage.reason) for damage in faults] == [
        ("other", "the manifest knows no such file"),
        ("state", "the file is missing"),
    ]


def test_manifest_of_another_place_is_reported() -> None:
    files, info = published()
    report = verify_directory(files, info.path, group=GROUP, index=11)
    assert report.manifest is None
    assert "the manifest of index 10, expected 11" in report.faults[0].reason


def test_one_file_can_be_checked_alone() -> None:
    files, info = published()
    files.flip_bit(info.path / "extra.1", 0, 0)
    assert len(verify_directory(files, info.path, only="extra.1").faults) == 1
    assert verify_directory(files, info.path, only="state").faults == ()
    assert verify_directory(files, info.path, only="manifest").faults == ()
    with pytest.raises(KeyError):
        verify_directory(files, info.path, only="gone")


def test_checksum_of_the_whole_is_checked_too() -> None:
    files, info = published()
    target = files.base / "copy"
    files.rename(info.path, target)
    files.unlink(target / "manifest")
    state, extra = info.manifest.files
    changed = state._replace(checksum=state.checksum ^ 1)
    write_manifest(files, target, replace(info.manifest, files=(changed, extra)))
    faults = verify_directory(files, target).faults
    assert [damage.path.name for damage in faults] == ["state"]
    assert "whole file" in faults[0].reason


def test_report_of_a_file_of_zeros_is_bounded() -> None:
    files, info = published({"a": b"1" * CHUNK_BYTES * 70, "b": b"2" * CHUNK_BYTES * 70})
    files.read_hook = lambda path, _offset, data: (
        data if path.name == "manifest" else bytes(len(data))
    )
    files.journal.clear()
    assert len(verify_directory(files, info.path).faults) == FAULTS_MAX
    assert len(files.calls("pread")) == FAULTS_MAX + 1


def test_disk_that_cannot_be_read_is_no_verdict() -> None:
    files, info = published()
    files.fail("names", 1, errno.EACCES)
    with pytest.raises(StorageError, match="cannot list"):
        verify_directory(files, info.path)
    files.fail("pread", 2, errno.ENOMEM)
    with pytest.raises(StorageError, match="cannot read"):
        verify_directory(files, info.path)
    assert len(files.calls("open")) == len(files.calls("close"))
    assert verify_directory(files, Path("/nowhere")).faults[0].reason == "the manifest is missing"
