"""A node's data directory: whose it is, where things are in it, and that only one process uses it.

Below it: ``lock``, ``identity``, ``snapshots/`` and, for each number of shards that the node is
started with in turn, a **layout**: ``shards-<layout>/<shard>/wal/<sequence>.log``. The identity
names the present layout; ``resharding`` makes the next one and removes what is left of others.

Directories have mode 0700 and files 0600, and belong to the user that runs the node; anything else
is refused, because what others could write cannot be trusted, and what they could read may be
secret. Names that are not ours are left alone.
"""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from rafter_storage.errors import DataDirectoryError, LockedError
from rafter_storage.file_system import (
    DIRECTORY_MODE,
    FILE_MODE,
    REAL_FILE_SYSTEM,
    FileSystem,
    write_exactly,
)

__all__ = [
    "DataDirectory",
    "check_private",
    "is_directory",
    "layout_directory",
    "remove_tree",
    "shard_directory",
    "snapshots_directory",
]

IDENTITY_NAME = "identity"
IDENTITY_TEMPORARY_NAME = "identity.tmp"
LOCK_NAME = "lock"
SNAPSHOTS_NAME = "snapshots"
WAL_NAME = "wal"

_LAYOUT_NAME = re.compile(r"shards-([0-9]{5,9})")
_PID_WIDTH = 20
# What syncing a directory says that somebody else has made ready for this process.
_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL}


class DataDirectory:
    """The data directory of one node, locked by this process and the ones forked from it.

    The lock goes with the open file: forked children hold it too, and it is free once the last of
    them is gone. Programs that are executed do not inherit it.
    """

    def __init__(self, path: Path, descriptor: int, files: FileSystem) -> None:
        self.path = path
        self.files = files
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, path: Path, *, files: FileSystem = REAL_FILE_SYSTEM) -> "DataDirectory":
        """Create the directory if it is not there, check that it is private, and lock it.

        ``path`` itself must not be a link: who allows one resolves it. Raises ``LockedError``
        naming the process that holds it, ``DataDirectoryError`` for wrong modes, owners and links,
        or if the directory cannot be made.
        """
        try:
            _make_directories(files, path)
            check_private(files, path)
            if files.status(path / IDENTITY_NAME) is None:
                _sync_parents(files, path)
            for below in _own_paths(files, path):
                check_private(files, below)
            return cls(path, _lock(files, path), files)
        except OSError as error:
            raise DataDirectoryError(f"cannot use the data directory {path}: {error}") from error

    @property
    def identity_path(self) -> Path:
        """Where the identity is kept."""
        return self.path / IDENTITY_NAME

    @property
    def snapshots_directory(self) -> Path:
        """Where the snapshots of all groups are, whatever the number of shards."""
        return snapshots_directory(self.path)

    def layout_directory(self, layout: int) -> Path:
        """Return the directory of one layout's shards."""
        return layout_directory(self.path, layout)

    def shard_directory(self, layout: int, shard: int) -> Path:
        """Return the directory of a shard, which a ``SegmentManager`` is made for."""
        return shard_directory(self.path, layout, shard)

    def wal_directory(self, layout: int, shard: int) -> Path:
        """Return the directory of a shard's log."""
        return shard_directory(self.path, layout, shard) / WAL_NAME

    def layouts(self) -> list[int]:
        """Return the number of every layout that there is a tree of, ascending. Raises OSError."""
        return sorted(_layouts(self.files, self.path))

    def make_layout(self, layout: int, shards: int) -> None:
        """Make the directories of a layout, durable on return; those that exist are kept.

        Raises OSError.
        """
        wanted = [self.layout_directory(layout)]
        for shard in range(shards):
            wanted += [self.shard_directory(layout, shard), self.wal_directory(layout, shard)]
        self.make_directories(wanted)

    def make_directories(self, paths: list[Path]) -> None:
        """Make directories, each after the one above it, durable on return. Raises OSError.

        One that exists is synced too: an earlier start may have been killed before its sync.
        """
        for path in paths:
            if not is_directory(self.files, path):
                self.files.make_directory(path)
        for parent in dict.fromkeys(path.parent for path in paths):
            self.files.sync_directory(parent)

    def release(self) -> None:
        """Let go of the lock, in this process. May be called again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            # Not unlocked, but closed: a forked child may still be using the directory.
            self.files.close(descriptor)


def layout_directory(data_directory: Path, layout: int) -> Path:
    """Return the directory of one layout's shards."""
    return data_directory / f"shards-{layout:05d}"


def shard_directory(data_directory: Path, layout: int, shard: int) -> Path:
    """Return the directory of a shard; for its process, which does not hold the lock itself."""
    return layout_directory(data_directory, layout) / f"{shard:05d}"


def snapshots_directory(data_directory: Path) -> Path:
    """Return the directory of all snapshots; for processes that do not hold the lock themselves."""
    return data_directory / SNAPSHOTS_NAME


def is_directory(files: FileSystem, path: Path) -> bool:
    """Tell whether ``path`` is a directory, and not a link to one. Raises OSError."""
    status = files.status(path)
    return status is not None and status.is_directory


def remove_tree(files: FileSystem, path: Path) -> None:
    """Remove a directory and all below it, bottom up; durable on return. Raises OSError.

    A crash in between leaves a part of it, to be removed again. Links are removed, not followed.
    """
    _remove(files, path)
    files.sync_directory(path.parent)


def check_private(files: FileSystem, path: Path) -> None:
    """Raise ``DataDirectoryError`` unless ``path`` is this user's own, with the right mode.

    Raises OSError if it cannot be looked at.
    """
    status = files.status(path)
    if status is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if status.is_directory:
        expected = DIRECTORY_MODE
    elif status.is_file:
        expected = FILE_MODE
    else:
        raise DataDirectoryError(f"{path} is neither a directory nor an ordinary file")
    if status.mode != expected:
        raise DataDirectoryError(
            f"{path} has mode {status.mode:04o}, expected {expected:04o}: "
            f"run chmod {expected:o} {path}"
        )
    if status.owner != os.geteuid():
        raise DataDirectoryError(
            f"{path} belongs to user {status.owner}, but this process runs as user {os.geteuid()}"
        )


def _remove(files: FileSystem, path: Path) -> None:
    for name in files.names(path):
        if is_directory(files, path / name):
            _remove(files, path / name)
        else:
            files.unlink(path / name)
    files.remove_directory(path)


def _make_directories(files: FileSystem, path: Path) -> None:
    """Create ``path`` and what is missing above it, each private."""
    if files.status(path) is not None:
        return
    if path.parent != path:
        _make_directories(files, path.parent)
    files.make_directory(path)


def _sync_parents(files: FileSystem, path: Path) -> None:
    """Make durable what this start made, or an earlier one that was killed before it synced."""
    for below in (path, *path.parents):
        status = files.status(below)
        if below == below.parent or status is None or status.owner != os.geteuid():
            return
        try:
            files.sync_directory(below.parent)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
            return


def _layouts(files: FileSystem, path: Path) -> Iterator[int]:
    """Yield the layouts in a data directory. Other names that begin alike are none of ours."""
    for name in files.names(path):
        match = _LAYOUT_NAME.fullmatch(name)
        if match is not None:
            layout = int(match[1])
            if layout and layout_directory(path, layout).name == name:
                yield layout


def _own_paths(files: FileSystem, path: Path) -> Iterator[Path]:
    """Yield all that the node keeps in its data directory, and nothing else that may be there."""
    for name in (LOCK_NAME, IDENTITY_NAME, IDENTITY_TEMPORARY_NAME):
        if files.status(path / name) is not None:
            yield path / name
    roots = [layout_directory(path, layout) for layout in _layouts(files, path)]
    if files.status(snapshots_directory(path)) is not None:
        roots.append(snapshots_directory(path))
    while roots:
        root = roots.pop()
        yield root
        if is_directory(files, root):
            roots += [root / name for name in files.names(root)]


def _lock(files: FileSystem, path: Path) -> int:
    """Lock the directory, write down whose it is now, and return the descriptor that holds it."""
    descriptor = files.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT)
    try:
        if not files.lock(descriptor):
            holder = files.pread(descriptor, _PID_WIDTH, 0).decode("ascii", "replace").strip()
            raise LockedError(
                f"the data directory {path} is in use by process {holder or 'unknown'}: "
                "stop it first, or give this node a directory of its own"
            )
        _write_holder(files, descriptor)
    except BaseException:
        files.close(descriptor)
        raise
    return descriptor


def _write_holder(files: FileSystem, descriptor: int) -> None:
    """Write this process's id into the lock file, always as many bytes, over the last one's."""
    text = f"{os.getpid()}\n".rjust(_PID_WIDTH).encode()
    try:
        write_exactly(files, descriptor, [text], 0)
    except OSError as error:
        # It serves a message alone: a node must be able to start on a full disk.
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
