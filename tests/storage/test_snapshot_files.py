"""Tests of rafter_storage.snapshot_files."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rafter_core.errors import InvariantError
from rafter_storage import snapshot_files
from rafter_storage.errors import SnapshotCorrupted, StorageError
from rafter_storage.file_system import RealFileSystem
from rafter_storage.snapshot_files import (
    ChunkReader,
    ChunkWriter,
    check_file,
    read_manifest,
    write_manifest,
)
from tests.storage.fake_file_system import FakeFileSystem
from tests.storage.snapshot_support import CHUNK_BYTES, manifest_of, snapshot_file

DATA = bytes(range(40))


def write(files: FakeFileSystem, name: str, *pieces: bytes) -> Path:
    writer = ChunkWriter(files, files.base / name, CHUNK_BYTES)
    for piece in pieces:
        writer.write(piece)
    assert writer.finish() == snapshot_file(name, b"".join(pieces))
    return files.base / name


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 32, 33, 48, 100])
@pytest.mark.parametrize("piece_bytes", [1, 7, 16, 17, 100])
def test_any_length_in_any_pieces_is_read_back_in_chunks(length: int, piece_bytes: int) -> None:
    """No bytes, exactly n chunks, a last chunk of any size."""
    files = FakeFileSystem()
    data = bytes(i * 7 % 251 for i in range(length))
    pieces = [data[start : start + piece_bytes] for start in range(0, length, piece_bytes)]
    write(files, "state", *pieces)
    reader = ChunkReader(files, files.base, snapshot_file("state", data))
    chunks = [*reader.chunks()]
    assert b"".join(chunks) == data
    assert [len(chunk) for chunk in chunks[:-1]] == [CHUNK_BYTES] * (len(chunks) - 1)
    assert [reader.chunk(number) for number in reversed(range(len(chunks)))] == chunks[::-1]
    for number in (-1, len(chunks)):
        with pytest.raises(IndexError, match=f"no number {number}"):
            reader.chunk(number)
    reader.close()
    reader.close()


def test_chunks_begun_counts_a_part_of_a_chunk(tmp_path: Path) -> None:
    writer = ChunkWriter(RealFileSystem(), tmp_path / "state", 4)
    counts = []
    for piece in (b"", b"123", b"4", b"5"):
        writer.write(piece)
        counts.append(writer.chunks_begun)
    assert counts == [0, 1, 1, 2]
    writer.close()
    writer.close()


def test_file_that_exists_is_never_written_over() -> None:
    """A snapshot is never changed in place (item 26)."""
    files = FakeFileSystem()
    write(files, "state", b"old")
    with pytest.raises(FileExistsError):
        ChunkWriter(files, files.base / "state", CHUNK_BYTES)


def test_large_file_is_synced_while_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_files, "_SYNC_BYTES", 32)
    files = FakeFileSystem()
    write(files, "state", bytes(100))
    assert len(files.calls("sync_data")) == 4


def test_a_file_that_was_left_is_gone_on_with_and_what_is_behind_is_cut_off() -> None:
    """Each chunk that is taken over is written again, so that the next sync covers it."""
    files = FakeFileSystem()
    path = write(files, "state", DATA[:32], b"?" * 100)
    files.journal.clear()
    file = snapshot_file("state", DATA)
    writer = ChunkWriter(files, path, CHUNK_BYTES, is_there=True)
    for number in (0, 1):
        assert writer.take_over(file.chunk_length(number), file.chunk_checksum(number))
    assert not writer.take_over(file.chunk_length(2), file.chunk_checksum(2))
    assert writer.chunks_begun == 2
    assert [call.offset for call in files.calls("pwritev")] == [0, CHUNK_BYTES]
    writer.write(DATA[32:])
    assert writer.finish() == file
    assert files.contents(path) == DATA


def test_a_manifest_may_be_written_over_itself_and_is_durable_then() -> None:
    files = FakeFileSystem()
    write_manifest(files, files.base, manifest_of())
    with pytest.raises(FileExistsError):
        write_manifest(files, files.base, manifest_of())
    files.journal.clear()
    write_manifest(files, files.base, manifest_of(), is_there=True)
    assert read_manifest(files, files.base, with_files=False) == manifest_of()
    assert len(files.calls("sync_data")) == 1


@pytest.mark.parametrize("position", range(len(DATA)))
def test_every_flipped_byte_is_detected_before_its_chunk_is_yielded(position: int) -> None:
    files = FakeFileSystem()
    path = write(files, "state", DATA)
    files.settle()
    files.flip_bit(path, position, position % 8)
    reader = ChunkReader(files, files.base, snapshot_file("state", DATA))
    yielded: list[bytes] = []
    with pytest.raises(SnapshotCorrupted, match=f"chunk {position // CHUNK_BYTES} has") as caught:
        yielded.extend(reader.chunks())
    reader.close()
    assert b"".join(yielded) == DATA[: position // CHUNK_BYTES * CHUNK_BYTES]
    assert caught.value.damage.path == path
    assert caught.value.damage.offset == position // CHUNK_BYTES * CHUNK_BYTES


def replaced(files: FakeFileSystem, data: bytes) -> None:
    files.unlink(files.base / "state")
    write(files, "state", data)


@pytest.mark.parametrize(
    ("data", "message", "offset"),
    [
        (DATA[:-1], "has 39 bytes, expected 40", 39),
        (b"", "has 0 bytes, expected 40", 0),
        (DATA + b"\0", "has 41 bytes, expected 40", 40),
        (bytes(40), "chunk 0 has", 0),
        (DATA[:16] + bytes(24), "chunk 1 has", 16),
        (DATA[16:32] + DATA[:16] + DATA[32:], "chunk 0 has", 0),
        (DATA[:32] + DATA[24:32], "chunk 2 has", 32),
    ],
)
def test_truncated_extended_zeroed_and_swapped_files_are_detected(
    data: bytes, message: str, offset: int
) -> None:
    files = FakeFileSystem()
    write(files, "state", DATA)
    replaced(files, data)
    yielded: list[bytes] = []
    with pytest.raises(SnapshotCorrupted, match=message) as caught:
        yielded.extend(ChunkReader(files, files.base, snapshot_file("state", DATA)).chunks())
    assert caught.value.damage.offset == offset
    assert DATA.startswith(b"".join(yielded))


def test_misdirected_read_is_detected() -> None:
    """The disk returns another block's bytes (fault model, 4)."""
    files = FakeFileSystem()
    path = write(files, "state", DATA)
    files.misdirect_read(path, 16, 16, 0)
    reader = ChunkReader(files, files.base, snapshot_file("state", DATA))
    assert reader.chunk(0) == DATA[:16]
    with pytest.raises(SnapshotCorrupted, match="chunk 1 has"):
        reader.chunk(1)
    assert reader.chunk(2) == DATA[32:]


def test_file_that_shrinks_while_it_is_read_is_detected() -> None:
    files = FakeFileSystem()
    path = write(files, "state", DATA)
    reader = ChunkReader(files, files.base, snapshot_file("state", DATA))
    descriptor = files.open(path, os.O_WRONLY)
    files.truncate(descriptor, 20)
    with pytest.raises(SnapshotCorrupted, match="ends at 20, expected 40") as caught:
        reader.chunk(1)
    assert caught.value.damage.offset == 20


def test_dead_sector_is_corruption_and_other_errors_are_not() -> None:
    files = FakeFileSystem()
    write(files, "state", DATA)
    reader = ChunkReader(files, files.base, snapshot_file("state", DATA))
    files.fail("pread", 1, errno.EIO)
    with pytest.raises(SnapshotCorrupted, match=r"cannot be read: .*Input"):
        reader.chunk(1)
    files.fail("pread", 1, errno.ENOMEM)
    with pytest.raises(StorageError, match=r"cannot read .* at offset 16") as caught:
        reader.chunk(1)
    assert not isinstance(caught.value, SnapshotCorrupted)
    files.fail("open", 1, errno.EMFILE)
    with pytest.raises(StorageError, match="Too many open files"):
        ChunkReader(files, files.base, snapshot_file("state", DATA))


def nothing(_path: Path) -> None:
    pass


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    path.with_name("real").write_bytes(DATA)
    path.symlink_to(path.with_name("real"))


@pytest.mark.parametrize(
    ("make", "message"),
    [(nothing, "missing"), (Path.mkdir, "ordinary"), (make_fifo, "ordinary"), (make_link, "ordi")],
)
def test_what_is_no_ordinary_file_is_not_opened(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    files = RealFileSystem()
    make(tmp_path / "state")
    make(tmp_path / "manifest")
    with pytest.raises(SnapshotCorrupted, match=message):
        ChunkReader(files, tmp_path, snapshot_file("state", DATA))
    with pytest.raises(SnapshotCorrupted, match=message):
        read_manifest(files, tmp_path)


def test_status_that_cannot_be_had_is_told_apart() -> None:
    files = FakeFileSystem()
    files.fail("status", 1, errno.EIO)
    with pytest.raises(SnapshotCorrupted):
        check_file(files, files.base / "state", snapshot_file("state", DATA))
    files.fail("status", 1, errno.EACCES)
    with pytest.raises(StorageError, match="Permission"):
        read_manifest(files, files.base)


def test_manifest_is_written_once_and_read_with_its_files_checked() -> None:
    files = FakeFileSystem()
    manifest = manifest_of(10, {"state": DATA})
    write_manifest(files, files.base, manifest)
    with pytest.raises(FileExistsError):
        write_manifest(files, files.base, manifest)
    with pytest.raises(SnapshotCorrupted, match="state, offset 0: the file is missing"):
        read_manifest(files, files.base)
    assert read_manifest(files, files.base, with_files=False) == manifest
    write(files, "state", DATA)
    assert read_manifest(files, files.base, 7, 10) == manifest
    with pytest.raises(SnapshotCorrupted, match=r"manifest, offset 16: .* expected 8"):
        read_manifest(files, files.base, 8, 10)


def test_unsound_manifest_leaves_no_file() -> None:
    files = FakeFileSystem()
    with pytest.raises(InvariantError):
        write_manifest(files, files.base, manifest_of(10, {"manifest": b""}))
    assert files.names(files.base) == []


def test_failed_write_of_a_manifest_leaves_no_descriptor_open() -> None:
    files = FakeFileSystem()
    files.fail("sync_data", 1, errno.EIO)
    with pytest.raises(OSError, match="Input"):
        write_manifest(files, files.base, manifest_of())
    assert len(files.calls("close")) == 1


def test_oversized_manifest_is_refused_without_being_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = FakeFileSystem()
    write_manifest(files, files.base, manifest_of(10, {}))
    size = len(files.contents(files.base / "manifest"))
    monkeypatch.setattr(snapshot_files, "MANIFEST_BYTES_MAX", size)
    assert read_manifest(files, files.base) == manifest_of(10, {})
    monkeypatch.setattr(snapshot_files, "MANIFEST_BYTES_MAX", size - 1)
    files.journal.clear()
    with pytest.raises(SnapshotCorrupted, match=f"cannot have {size} bytes"):
        read_manifest(files, files.base)
    assert files.calls("open") == []
