"""The files of a snapshot: written once in chunks, and read back with every chunk verified.

Memory is bounded by a chunk. Nothing here knows of groups or of what is kept how long.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from xxhash import xxh3_64, xxh3_64_intdigest

from rafter_storage.errors import Damage, SnapshotCorrupted, StorageError
from rafter_storage.file_system import FileSystem, read_exactly, write_exactly
from rafter_storage.snapshot_manifest import (
    MANIFEST_BYTES_MAX,
    MANIFEST_NAME,
    InvalidManifest,
    Manifest,
    SnapshotFile,
    decode_manifest,
    encode_manifest,
)

__all__ = [
    "ChunkReader",
    "ChunkWriter",
    "check_file",
    "read_manifest",
    "write_manifest",
]

_SYNC_BYTES = 32 << 20
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class ChunkWriter:
    """Writes one file from its first byte to its last. One thread at a time; raises OSError.

    The file is new, or with ``is_there`` one that an earlier writer left: see ``take_over``. What
    was written is synced every 32 MiB, so that the last sync does not hold up the log that shares
    the disk.
    """

    def __init__(
        self, files: FileSystem, path: Path, chunk_bytes: int, *, is_there: bool = False
    ) -> None:
        self._files = files
        self._path = path
        self._chunk_bytes = chunk_bytes
        self._pending = bytearray()
        self._checksums = bytearray()
        self._whole = xxh3_64()
        self._offset = 0
        self._unsynced_bytes = 0
        self._is_there = is_there
        self._descriptor: int | None = files.open(path, os.O_RDWR if is_there else _CREATE)

    @property
    def chunks_begun(self) -> int:
        """Return how many chunks the bytes so far make, the last of them perhaps not whole."""
        return len(self._checksums) // 8 + bool(self._pending)

    def write(self, data: bytes | memoryview) -> None:
        """Append ``data``, of any length. Durable after ``finish``."""
        view = memoryview(data)
        position = 0
        if self._pending:
            position = self._chunk_bytes - len(self._pending)
            self._pending += view[:position]
            if len(self._pending) < self._chunk_bytes:
                return
            self._write_chunk(memoryview(bytes(self._pending)))
            self._pending.clear()
        while len(view) - position >= self._chunk_bytes:
            self._write_chunk(view[position : position + self._chunk_bytes])
            position += self._chunk_bytes
        self._pending += view[position:]

    def take_over(self, length: int, checksum: int) -> bool:
        """Go on behind the next chunk if the file has it already; tell whether it has.

        It is written once more: whoever wrote it may have been killed before a sync, or behind one
        that failed, and then the bytes that are read here are in the page cache alone.
        """
        assert self._descriptor is not None
        assert not self._pending
        data = read_exactly(self._files, self._descriptor, length, self._offset)
        if len(data) != length or xxh3_64_intdigest(data) != checksum:
            return False
        self._write_chunk(memoryview(data))
        return True

    def finish(self) -> SnapshotFile:
        """Write the rest, sync, close, and return what the manifest says of the file."""
        if self._pending:
            self._write_chunk(memoryview(self._pending))
        assert self._descriptor is not None
        if self._is_there:
            self._files.truncate(self._descriptor, self._offset)
        self._files.sync_data(self._descriptor)
        self.close()
        return SnapshotFile(
            self._path.name,
            self._offset,
            self._chunk_bytes,
            bytes(self._checksums),
            self._whole.intdigest(),
        )

    def close(self) -> None:
        """Close the file as it is. May be called again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._files.close(descriptor)

    def _write_chunk(self, chunk: memoryview) -> None:
        assert self._descriptor is not None
        write_exactly(self._files, self._descriptor, [chunk], self._offset)
        self._checksums += xxh3_64_intdigest(chunk).to_bytes(8, "little")
        self._whole.update(chunk)
        self._offset += len(chunk)
        self._unsynced_bytes += len(chunk)
        if self._unsynced_bytes >= _SYNC_BYTES:
            self._files.sync_data(self._descriptor)
            self._unsynced_bytes = 0


class ChunkReader:
    """Reads one file of a snapshot, in any order of chunks. One thread at a time.

    Raises ``SnapshotCorrupted`` where the file is not what the manifest says, ``StorageError``
    where it cannot be read for another reason. A sector that the disk gives up counts as corrupt:
    its bytes are as lost as if they were wrong.
    """

    def __init__(self, files: FileSystem, directory: Path, file: SnapshotFile) -> None:
        self._files = files
        self._path = directory / file.name
        self._file = file
        self._descriptor: int | None = None
        check_file(files, self._path, file)
        try:
            self._descriptor = files.open(self._path, os.O_RDONLY)
        except OSError as error:
            _raise_unreadable(self._path, 0, error)

    def chunk(self, number: int) -> bytes:
        """Return a chunk, verified. Raises ``IndexError`` for one that the file does not have."""
        file = self._file
        if not 0 <= number < file.chunk_count:
            raise IndexError(f"{self._path} has {file.chunk_count} chunks and no number {number}")
        assert self._descriptor is not None
        offset = number * file.chunk_bytes
        length = file.chunk_length(number)
        try:
            data = read_exactly(self._files, self._descriptor, length, offset)
        except OSError as error:
            _raise_unreadable(self._path, offset, error)
        if len(data) != length:
            reason = f"the file ends at {offset + len(data)}, expected {file.size} bytes"
            raise SnapshotCorrupted(Damage(self._path, offset + len(data), reason))
        found = xxh3_64_intdigest(data)
        expected = file.chunk_checksum(number)
        if found != expected:
            reason = f"chunk {number} has the checksum {found:016x}, expected {expected:016x}"
            raise SnapshotCorrupted(Damage(self._path, offset, reason))
        return data

    def chunks(self) -> Iterator[bytes]:
        """Yield the file from start to end, each chunk verified before it is handed out."""
        for number in range(self._file.chunk_count):
            yield self.chunk(number)

    def close(self) -> None:
        """Close the file. May be called again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._files.close(descriptor)


def check_file(files: FileSystem, path: Path, file: SnapshotFile) -> None:
    """Raise ``SnapshotCorrupted`` unless an ordinary file of the right size is at ``path``."""
    try:
        status = files.status(path)
    except OSError as error:
        _raise_unreadable(path, 0, error)
    offset = 0
    if status is None:
        reason = "the file is missing"
    elif not status.is_file:
        reason = "this is not an ordinary file"  # and to open it might hang
    elif status.size != file.size:
        offset = min(status.size, file.size)
        reason = f"the file has {status.size} bytes, expected {file.size}"
    else:
        return
    raise SnapshotCorrupted(Damage(path, offset, reason))


def write_manifest(
    files: FileSystem, directory: Path, manifest: Manifest, *, is_there: bool = False
) -> None:
    """Write the manifest of a snapshot, a new file or one that ``is_there``; durable on return.

    Its name is durable after a sync of ``directory``. Raises ``OSError``, and ``InvariantError``
    for a manifest that could not be read back.
    """
    data = encode_manifest(manifest)
    descriptor = files.open(directory / MANIFEST_NAME, os.O_WRONLY if is_there else _CREATE)
    try:
        write_exactly(files, descriptor, [data], 0)
        files.sync_data(descriptor)
    finally:
        files.close(descriptor)


def read_manifest(
    files: FileSystem,
    directory: Path,
    group: int | None = None,
    index: int | None = None,
    *,
    with_files: bool = True,
) -> Manifest:
    """Read the manifest in ``directory``; ``with_files``, see that they are there in their sizes.

    Their bytes are not read. Raises ``SnapshotCorrupted`` if the snapshot cannot be whole, or is
    not of this group and index, where given; ``StorageError`` if the disk cannot be read.
    """
    path = directory / MANIFEST_NAME
    try:
        data = _read_bounded(files, path)
        manifest = decode_manifest(data, group, index)
    except InvalidManifest as error:
        raise SnapshotCorrupted(Damage(path, error.offset, error.reason)) from error
    except OSError as error:
        _raise_unreadable(path, 0, error)
    if with_files:
        for file in manifest.files:
            check_file(files, directory / file.name, file)
    return manifest


def _read_bounded(files: FileSystem, path: Path) -> bytes:
    status = files.status(path)
    if status is None:
        raise InvalidManifest(0, "the manifest is missing")
    if not status.is_file:
        raise InvalidManifest(0, "this is not an ordinary file")
    if status.size > MANIFEST_BYTES_MAX:
        raise InvalidManifest(0, f"a manifest cannot have {status.size} bytes")
    descriptor = files.open(path, os.O_RDONLY)
    try:
        return read_exactly(files, descriptor, status.size, 0)
    finally:
        files.close(descriptor)


def _raise_unreadable(path: Path, offset: int, error: OSError) -> NoReturn:
    if error.errno in {errno.EIO, errno.ENOENT}:
        raise SnapshotCorrupted(Damage(path, offset, f"cannot be read: {error}")) from error
    raise StorageError(f"cannot read {path} at offset {offset}: {error}") from error
