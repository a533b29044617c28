"""Reading a published or exported snapshot: no byte is handed out that was not verified."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Self

from xxhash import xxh3_64

from rafter_core.membership import Membership
from rafter_core.snapshot import Snapshot
from rafter_storage.errors import Damage, SnapshotCorrupted, StorageError
from rafter_storage.file_system import FileSystem
from rafter_storage.snapshot_files import ChunkReader, read_manifest
from rafter_storage.snapshot_manifest import MANIFEST_NAME, Manifest, SnapshotFile

__all__ = ["FAULTS_MAX", "SnapshotInfo", "SnapshotReader", "SnapshotReport", "verify_directory"]

FAULTS_MAX = 100
"""How many faults a report lists: a file of zeros has one for each of its chunks."""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A snapshot whose manifest is whole: where it is, and what it holds."""

    path: Path
    manifest: Manifest

    @property
    def group(self) -> int:
        """The group whose state it is."""
        return self.manifest.group

    @property
    def index(self) -> int:
        """The index of the last entry in the state."""
        return self.manifest.index

    @property
    def term(self) -> int:
        """The term of that entry."""
        return self.manifest.term

    @property
    def membership(self) -> Membership:
        """The group's configuration at that entry."""
        return self.manifest.membership

    @property
    def membership_index(self) -> int:
        """The index of the entry that brought the configuration."""
        return self.manifest.membership_index

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot as the core sees it, without data."""
        return self.manifest.snapshot


class SnapshotReader:
    """Reads the files of one snapshot, in any order. One thread at a time; close it in the end.

    ``SnapshotStore.retire`` leaves a snapshot alone as long as a reader of it is open.
    """

    def __init__(self, files: FileSystem, info: SnapshotInfo) -> None:
        self.info = info
        self.is_open = True
        self._files = files
        self._current: tuple[str, ChunkReader] | None = None

    def chunk(self, name: str, number: int) -> bytes:
        """Return one chunk of a file, verified.

        Raises ``SnapshotCorrupted`` naming the place, ``StorageError`` if the disk cannot be
        read, ``KeyError`` and ``IndexError`` for a file and a chunk that the snapshot lacks.
        """
        return self._reader(name).chunk(number)

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield a file from start to end, each chunk verified before. Raises as ``chunk``."""
        for number in range(_file(self.info.manifest, name).chunk_count):
            yield self.chunk(name, number)

    def close(self) -> None:
        """Close what is open. May be called again."""
        self.is_open = False
        current, self._current = self._current, None
        if current is not None:
            current[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reader(self, name: str) -> ChunkReader:
        if not self.is_open:
            raise ValueError(f"the reader of {self.info.path} is closed")
        if self._current is not None:
            if self._current[0] == name:
                return self._current[1]
            self._current[1].close()
            self._current = None
        reader = ChunkReader(self._files, self.info.path, _file(self.info.manifest, name))
        self._current = name, reader
        return reader


def _file(manifest: Manifest, name: str) -> SnapshotFile:
    file = manifest.file(name)
    if file is None:
        raise KeyError(f"the snapshot has no file {name!r}")
    return file


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """What a whole check of a snapshot found; ``faults`` is empty if all of it is sound.

    ``manifest`` is None if it cannot be read, and ``faults[0]`` says why.
    """

    path: Path
    manifest: Manifest | None
    faults: tuple[Damage, ...]


def verify_directory(
    files: FileSystem,
    path: Path,
    *,
    group: int | None = None,
    index: int | None = None,
    only: str | None = None,
) -> SnapshotReport:
    """Read every byte of a snapshot, or of its file ``only``, and report what is wrong with it.

    Up to ``FAULTS_MAX`` faults, in the order of the manifest. Any thread. Raises ``StorageError``
    if the disk cannot be read, ``KeyError`` if the manifest knows no file ``only``.
    """
    try:
        manifest = read_manifest(files, path, group, index, with_files=False)
    except SnapshotCorrupted as error:
        return SnapshotReport(path, None, (error.damage,))
    if only is None:
        chosen = manifest.files
    else:
        chosen = () if only == MANIFEST_NAME else (_file(manifest, only),)
    faults = [_file_faults(files, path, file) for file in chosen]
    if only is None:
        faults.insert(0, _unknown_files(files, path, manifest))
    return SnapshotReport(path, manifest, tuple(islice(chain(*faults), FAULTS_MAX)))


def _unknown_files(files: FileSystem, path: Path, manifest: Manifest) -> Iterator[Damage]:
    known = {MANIFEST_NAME, *(file.name for file in manifest.files)}
    for name in _names(files, path):
        if name not in known:
            yield Damage(path / name, 0, "the manifest knows no such file")


def _names(files: FileSystem, path: Path) -> list[str]:
    try:
        return files.names(path)
    except OSError as error:
        raise StorageError(f"cannot list {path}: {error}") from error


def _file_faults(files: FileSystem, directory: Path, file: SnapshotFile) -> Iterator[Damage]:
    try:
        reader = ChunkReader(files, directory, file)
    except SnapshotCorrupted as error:
        yield error.damage
        return
    whole = xxh3_64()
    is_whole = True
    try:
        for number in range(file.chunk_count):
            try:
                whole.update(reader.chunk(number))
            except SnapshotCorrupted as error:
                is_whole = False
                yield error.damage
    finally:
        reader.close()
    if is_whole and whole.intdigest() != file.checksum:
        reason = "the chunks are sound, the checksum of the whole file is not theirs"
        yield Damage(directory / file.name, 0, reason)
