"""Writing a snapshot: under a temporary name, every byte synced, and only then renamed.

The order is: files, each synced; manifest, synced; the temporary directory synced; renamed to the
published name; the directories above synced. Whatever a crash leaves is either the whole snapshot
or a temporary directory, which counts for nothing. What was there before is not touched. Who
receives a snapshot has its manifest first: see ``snapshot_receiver``.

A writer belongs to one thread at a time, which need not be the store's; none of its calls belongs
on an event loop.
"""

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rafter_core.errors import InvariantError
from rafter_storage.data_directory import is_directory, remove_tree
from rafter_storage.errors import SnapshotFailed, SnapshotRefused
from rafter_storage.file_system import FileSystem
from rafter_storage.snapshot_files import ChunkWriter, write_manifest
from rafter_storage.snapshot_manifest import (
    FILES_MAX,
    Manifest,
    SnapshotFile,
    name_fault,
)
from rafter_storage.snapshot_reader import SnapshotInfo

__all__ = ["SnapshotDraft", "SnapshotPaths", "SnapshotWriter"]

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class SnapshotPaths(NamedTuple):
    """Where a snapshot is made, where it is published, and where a damaged one there goes."""

    temporary: Path
    published: Path
    displaced: Path | None
    """None if nothing may be displaced: then it is an error that something is there."""
    parents: tuple[Path, ...]
    """The directories to sync for the published name to be durable, from below to above."""


class SnapshotDraft:
    """What taking and receiving have in common. The store makes them; see its ``admit``.

    ``info`` is the published snapshot, None before. ``displaced`` is where that has been moved
    which was in its place, None if nothing was.
    """

    def __init__(self, files: FileSystem, paths: SnapshotPaths, manifest: Manifest) -> None:
        self.paths = paths
        self.info: SnapshotInfo | None = None
        self.displaced: Path | None = None
        self._files = files
        self._manifest = manifest
        self._current: ChunkWriter | None = None
        self._is_made = False
        self._is_aborted = False

    @property
    def manifest(self) -> Manifest:
        """What the snapshot is of; its files as far as they are known."""
        return self._manifest

    @property
    def is_over(self) -> bool:
        """Tell whether it is published, aborted or failed. Any thread."""
        return self._is_aborted or self.info is not None

    def abort(self) -> None:
        """Give it up and remove what was written, as far as the disk allows. May be called again.

        After ``finish`` it does nothing. Raises nothing: what stays counts for nothing.
        """
        if self.is_over:
            return
        self._is_aborted = True
        with contextlib.suppress(OSError):
            self._close_current()
        if self._is_made:
            with contextlib.suppress(OSError):
                remove_tree(self._files, self.paths.temporary)

    def _make(self) -> None:
        """Make the temporary directory, with the first call, and the group's if it is its first."""
        if self._is_made:
            return
        parent = self.paths.temporary.parent
        if not is_directory(self._files, parent):
            with contextlib.suppress(FileExistsError):
                self._files.make_directory(parent)
        self._files.make_directory(self.paths.temporary)
        self._is_made = True

    def _open(self, name: str, chunk_bytes: int) -> ChunkWriter:
        self._make()
        self._current = ChunkWriter(self._files, self.paths.temporary / name, chunk_bytes)
        return self._current

    def _close_current(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            current.close()

    def _publish(self, manifest: Manifest) -> SnapshotInfo:
        """Publish what is durable but for the names in the temporary directory."""
        files, paths = self._files, self.paths
        files.sync_directory(paths.temporary)
        if files.status(paths.published) is not None:
            if paths.displaced is None:
                raise FileExistsError(errno.EEXIST, "there is something already")
            files.rename(paths.published, paths.displaced)
            self.displaced = paths.displaced
        files.rename(paths.temporary, paths.published)
        for parent in paths.parents:
            files.sync_directory(parent)
        self._manifest = manifest
        self.info = SnapshotInfo(paths.published, manifest)
        return self.info

    @contextlib.contextmanager
    def _guarded(self, action: str) -> Iterator[None]:
        """Turn a failure of the disk into the end of the draft."""
        if self.is_over:
            raise SnapshotRefused(
                f"the snapshot in {self.paths.published} is over: cannot {action}"
            )
        try:
            yield
        except (OSError, InvariantError) as error:
            self.abort()
            is_disk_full = isinstance(error, OSError) and error.errno in _DISK_FULL
            raise SnapshotFailed(
                f"cannot {action} for {self.paths.published}: {error}", is_disk_full=is_disk_full
            ) from error


class SnapshotWriter(SnapshotDraft):
    """Writes the snapshot that a state machine yields, one file after the other."""

    def __init__(
        self, files: FileSystem, paths: SnapshotPaths, manifest: Manifest, chunk_bytes: int
    ) -> None:
        super().__init__(files, paths, manifest)
        self._chunk_bytes = chunk_bytes
        self._name: str | None = None
        self._names: set[str] = set()
        self._finished: list[SnapshotFile] = []

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Append ``data``, of any length, to the file ``name``; none of it makes an empty file.

        Another name than before ends the file before. Raises ``SnapshotRefused`` for a name that
        cannot be or has been, and ``SnapshotFailed``, after which the draft is gone.
        """
        with self._guarded("write"):
            if name != self._name:
                self._begin(name)
            assert self._current is not None
            self._current.write(data)

    def finish(self) -> SnapshotInfo:
        """Publish the snapshot, durable on return; the store is to be told by its owner: ``admit``.

        No other snapshot is removed. Raises ``SnapshotFailed``: it is then unknown whether the
        snapshot will be there at the next start, but it is whole if it is.
        """
        with self._guarded("finish"):
            self._end()
            self._make()
            manifest = replace(self._manifest, files=tuple(self._finished))
            write_manifest(self._files, self.paths.temporary, manifest)
            return self._publish(manifest)

    def _begin(self, name: str) -> None:
        fault = name_fault(name)
        if fault is not None:
            raise SnapshotRefused(fault)
        if name in self._names:
            raise SnapshotRefused(f"the file {name} has been written, files follow one another")
        if len(self._names) >= FILES_MAX:
            raise SnapshotRefused(f"a snapshot has {FILES_MAX} files at most")
        self._end()
        self._open(name, self._chunk_bytes)
        self._names.add(name)
        self._name = name

    def _end(self) -> None:
        if self._current is not None:
            self._finished.append(self._current.finish())
            self._current = None
