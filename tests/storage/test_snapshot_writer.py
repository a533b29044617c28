"""Tests of rafter_storage.snapshot_writer."""

import errno
from dataclasses import replace

import pytest

from rafter_storage.errors import SnapshotFailed, SnapshotRefused
from rafter_storage.snapshot_manifest import FILES_MAX
from rafter_storage.snapshot_reader import verify_directory
from rafter_storage.snapshot_writer import SnapshotWriter
from tests.storage.fake_file_system import FakeFileSystem
from tests.storage.snapshot_support import CHUNK_BYTES, contents, manifest_of, paths_in, read_all


def writer_on(files: FakeFileSystem) -> SnapshotWriter:
    manifest = replace(manifest_of(), files=())
    return SnapshotWriter(files, paths_in(files.base), manifest, CHUNK_BYTES)


def write_all(writer: SnapshotWriter) -> None:
    for name, data in contents(10).items():
        writer.write(name, data)


def write_and_finish(writer: SnapshotWriter) -> None:
    write_all(writer)
    writer.finish()


def names(files: FakeFileSystem) -> list[str]:
    return [path.relative_to(files.base / "group").as_posix() for path in files.paths()[1:]]


def test_snapshot_is_published_in_the_order_that_survives_a_crash() -> None:
    """Files, manifest, directory, rename, directories above (items 26, 34)."""
    files = FakeFileSystem()
    writer = writer_on(files)
    assert files.journal == []
    write_all(writer)
    info = writer.finish()
    steps = [
        (call.method, call.path.name)
        for call in files.journal
        if call.method in {"sync_data", "sync_directory", "rename"}
    ]
    assert steps == [
        ("sync_data", "state"),
        ("sync_data", "extra.1"),
        ("sync_data", "manifest"),
        ("sync_directory", "temporary"),
        ("rename", "temporary"),
        ("sync_directory", "group"),
        ("sync_directory", files.base.name),
    ]
    assert info.manifest == manifest_of() == writer.manifest
    assert read_all(files, info) == contents(10)
    assert len(files.calls("open")) == len(files.calls("close"))


@pytest.mark.parametrize(
    "data", [{}, {"state": b""}, {"a": b"", "b": b"x", "c": b""}, {"state": b"x" * CHUNK_BYTES * 2}]
)
def test_empty_snapshots_empty_files_and_whole_chunks(data: dict[str, bytes]) -> None:
    files = FakeFileSystem()
    writer = writer_on(files)
    for name, file in data.items():
        writer.write(name, file)
    info = writer.finish()
    assert info.manifest == manifest_of(10, data)
    assert read_all(files, info) == data


@pytest.mark.parametrize("name", ["", "..", "a/b", "manifest", ".x"])
def test_names_that_cannot_be_are_refused_and_change_nothing(name: str) -> None:
    files = FakeFileSystem()
    writer = writer_on(files)
    writer.write("state", b"1")
    with pytest.raises(SnapshotRefused):
        writer.write(name, b"x")
    writer.write("state", b"2")
    assert read_all(files, writer.finish()) == {"state": b"12"}


def test_files_follow_one_another() -> None:
    writer = writer_on(FakeFileSystem())
    write_all(writer)
    with pytest.raises(SnapshotRefused, match="the file state has been written"):
        writer.write("state", b"x")


def test_number_of_files_is_bounded() -> None:
    writer = writer_on(FakeFileSystem(is_journaled=False))
    for number in range(FILES_MAX):
        writer.write(f"f{number}", b"")
    with pytest.raises(SnapshotRefused, match="4096 files at most"):
        writer.write("one-more", b"")
    assert len(writer.finish().manifest.files) == FILES_MAX


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize(
    ("method", "count"),
    [("make_directory", 2), ("open", 3), ("pwritev", 5), ("sync_data", 3), ("sync_directory", 3),
     ("rename", 1)],
)  # fmt: skip
def test_any_failure_ends_the_draft_and_leaves_nothing_behind(
    method: str, count: int, error: int
) -> None:
    for nth in range(1, count + 1):
        files = FakeFileSystem()
        files.fail(method, nth, error)
        writer = writer_on(files)
        with pytest.raises(SnapshotFailed, match=r"cannot \w+ for .*published") as caught:
            write_and_finish(writer)
        assert not files._failures[0].failures_left
        assert caught.value.is_disk_full == (error != errno.EIO)
        assert writer.is_over
        assert writer.info is None
        if (method, nth) in {("sync_directory", 2), ("sync_directory", 3)}:
            # Renamed, perhaps not durably: it is whole, and the next start decides.
            assert verify_directory(files, files.base / "group/published").faults == ()
        else:
            assert names(files) == []
        assert len(files.calls("open")) == len(files.calls("close")) + (method == "open")
        with pytest.raises(SnapshotRefused, match="is over"):
            writer.finish()


def test_full_disk_is_told_and_its_space_is_given_back() -> None:
    files = FakeFileSystem(capacity_bytes=8192)
    writer = writer_on(files)
    with pytest.raises(SnapshotFailed, match="No space left") as caught:
        writer.write("state", bytes(20000))
    assert caught.value.is_disk_full
    assert files.free_bytes(files.base) == 8192


def test_aborted_draft_is_gone_and_refuses_everything() -> None:
    files = FakeFileSystem()
    writer = writer_on(files)
    writer.abort()
    assert files.paths() == []
    writer = writer_on(files)
    write_all(writer)
    writer.abort()
    writer.abort()
    assert names(files) == []
    for action in (writer.finish, lambda: writer.write("state", b"x")):
        with pytest.raises(SnapshotRefused, match="is over"):
            action()
    assert len(files.calls("open")) == len(files.calls("close"))


def test_abort_raises_nothing_on_a_dead_disk_and_nothing_after_the_end() -> None:
    files = FakeFileSystem()
    writer = writer_on(files)
    writer.write("state", bytes(20))
    files.fail("unlink", 1, errno.EIO)
    writer.abort()
    assert "temporary/state" in names(files)
    files = FakeFileSystem()
    writer = writer_on(files)
    info = writer.finish()
    writer.abort()
    assert read_all(files, info) == {}


def test_what_stands_in_the_place_is_moved_aside_or_is_an_error() -> None:
    files = FakeFileSystem()
    first = writer_on(files)
    first.write("state", b"old")
    first.finish()
    second = writer_on(files)
    write_all(second)
    assert read_all(files, second.finish()) == contents(10)
    assert second.displaced == files.base / "group/displaced"
    assert files.contents(files.base / "group/displaced/state") == b"old"
    manifest = replace(manifest_of(), files=())
    third = SnapshotWriter(files, paths_in(files.base, None), manifest, CHUNK_BYTES)
    with pytest.raises(SnapshotFailed, match="something already"):
        third.finish()
    assert "temporary" not in names(files)
