"""A node's data directory: whose it is, and that only one process uses it.

Below it: ``lock``, ``identity`` and ``shards/<shard>/wal/<sequence>.log``. Directories have mode
0700 and files 0600, and belong to the user that runs the node; anything else is refused, because
what others could write cannot be trusted, and what they could read may be secret.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from rafter_storage.errors import DataDirectoryError, LockedError
from rafter_storage.file_system import DIRECTORY_MODE, FILE_MODE, REAL_FILE_SYSTEM, FileSystem

__all__ = ["DataDirectory", "check_private", "shard_directory"]

IDENTITY_NAME = "identity"
LOCK_NAME = "lock"
SHARDS_NAME = "shards"


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

        Raises ``LockedError`` naming the process that holds it, ``DataDirectoryError`` for wrong
        modes, owners and links, or if the directory cannot be made.
        """
        try:
            _make_directories(path)
            # The directory itself may be reached through a link; what is in it may not.
            check_private(path.resolve())
            for below in _own_paths(path):
                check_private(below)
            return cls(path, _lock(path), files)
        except OSError as error:
            raise DataDirectoryError(f"cannot use the data directory {path}: {error}") from error

    @property
    def identity_path(self) -> Path:
        """Where the identity is kept."""
        return self.path / IDENTITY_NAME

    def shard_directory(self, shard: int) -> Path:
        """Return the directory of a shard, which a ``SegmentManager`` is made for."""
        return shard_directory(self.path, shard)

    def release(self) -> None:
        """Let go of the lock, in this process. May be called again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            # Not unlocked, but closed: a forked child may still be using the directory.
            os.close(descriptor)


def shard_directory(data_directory: Path, shard: int) -> Path:
    """Return the directory of a shard; for its process, which does not hold the lock itself."""
    return data_directory / SHARDS_NAME / f"{shard:05d}"


def check_private(path: Path) -> None:
    """Raise ``DataDirectoryError`` unless ``path`` is this user's own, with the right mode."""
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode):
        expected = DIRECTORY_MODE
    elif stat.S_ISREG(status.st_mode):
        expected = FILE_MODE
    else:
        raise DataDirectoryError(f"{path} is neither a directory nor an ordinary file")
    mode = stat.S_IMODE(status.st_mode)
    if mode != expected:
        raise DataDirectoryError(
            f"{path} has mode {mode:04o}, expected {expected:04o}: run chmod {expected:o} {path}"
        )
    if status.st_uid != os.geteuid():
        raise DataDirectoryError(
            f"{path} belongs to user {status.st_uid}, but this process runs as user {os.geteuid()}"
        )


def _make_directories(path: Path) -> None:
    """Create ``path`` and what is missing above it, each private."""
    if path.is_dir():
        return
    if path.parent != path:
        _make_directories(path.parent)
    path.mkdir(mode=DIRECTORY_MODE)
    REAL_FILE_SYSTEM.sync_directory(path.parent)


def _own_paths(path: Path) -> Iterator[Path]:
    """Yield all that the node keeps in its data directory, and nothing else that may be there."""
    for name in (LOCK_NAME, IDENTITY_NAME):
        if os.path.lexists(path / name):
            yield path / name
    shards = path / SHARDS_NAME
    if not os.path.lexists(shards):
        return
    yield shards
    for parent, directories, names in os.walk(shards):
        for name in directories + names:
            yield Path(parent, name)


def _lock(path: Path) -> int:
    """Lock the directory, write down whose it is now, and return the descriptor that holds it."""
    lock_path = path / LOCK_NAME
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(lock_path, flags, FILE_MODE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            raise LockedError(
                f"the data directory {path} is in use by process {holder or 'unknown'}: "
                "stop it first, or give this node a directory of its own"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
