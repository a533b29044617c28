"""The file operations that storage needs, as one small object that can be replaced.

Everything that ``rafter_storage`` does to a disk goes through a ``FileSystem``: faults are
injected by handing in another one, and production code has no branch for tests. The methods are
the system calls of the same names; all raise ``OSError``. Links are never followed below a data
directory.
"""

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

__all__ = [
    "DIRECTORY_MODE",
    "FILE_MODE",
    "REAL_FILE_SYSTEM",
    "REFUSALS",
    "Buffer",
    "FileStatus",
    "FileSystem",
    "RealFileSystem",
    "read_exactly",
    "write_exactly",
]

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600

Buffer = bytes | bytearray | memoryview | mmap.mmap

REFUSALS = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
"""Error numbers of a ``write_synced`` that a system, or a kind of disk, does not have."""

# Linux refuses more buffers than this in one pwritev (UIO_MAXIOV).
_BUFFERS_MAX = 1024


class FileStatus(NamedTuple):
    """What a name in a directory stands for. ``mode`` has the permission bits alone."""

    is_directory: bool
    is_file: bool
    mode: int
    owner: int
    size: int


class FileSystem(Protocol):
    """What storage asks of a file system."""

    def open(self, path: Path, flags: int) -> int:
        """Open ``path``; a created file gets mode 0600. Symbolic links are not followed."""

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""

    def size(self, descriptor: int) -> int:
        """Return the size of the open file in bytes."""

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        """Read up to ``length`` bytes; fewer only at the end of the file or by a short read."""

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write the buffers in order at ``offset``; return how many bytes were written."""

    def write_synced(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write as ``pwritev`` does; on return the bytes that were written are durable.

        They alone are, and the size that is needed to reach them: what was written to the file
        before and not synced stays so. After an error nobody can tell what of the bytes is on the
        disk, nor can a later ``sync_data``. Raises ``OSError`` with one of ``REFUSALS``, and then
        has written nothing, where a system cannot do both in one call.
        """

    def allocate(self, descriptor: int, length: int) -> None:
        """Reserve ``length`` bytes from the file's start; what was never written reads as zeros."""

    def truncate(self, descriptor: int, length: int) -> None:
        """Set the file's size; what it grows by reads as zeros."""

    def sync_data(self, descriptor: int) -> None:
        """Make the file's bytes, and its size, durable."""

    def sync_directory(self, path: Path) -> None:
        """Make creations, renames and removals in the directory ``path`` durable."""

    def make_directory(self, path: Path) -> None:
        """Create one directory with mode 0700."""

    def remove_directory(self, path: Path) -> None:
        """Remove one directory, which must be empty."""

    def names(self, path: Path) -> list[str]:
        """List the names in a directory, sorted."""

    def status(self, path: Path) -> FileStatus | None:
        """Tell what stands at ``path``, links not followed; None if there is nothing."""

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file, replacing the target, or a directory, whose target must not exist."""

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name, which must not exist."""

    def unlink(self, path: Path) -> None:
        """Remove a file's name; open descriptors go on reading and writing it."""

    def lock(self, descriptor: int) -> bool:
        """Lock an open file for as long as it is open here or in a forked child; False if taken."""

    def free_bytes(self, path: Path) -> int:
        """Return how many bytes can still be written to the disk under ``path``."""


class RealFileSystem:
    """``FileSystem`` on the real file system."""

    def open(self, path: Path, flags: int) -> int:
        """Open or create a file, never through a link, never for executed programs."""
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)

    def close(self, descriptor: int) -> None:
        """System call: close."""
        os.close(descriptor)

    def size(self, descriptor: int) -> int:
        """System call: fstat."""
        return os.fstat(descriptor).st_size

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        """System call: pread."""
        return os.pread(descriptor, length, offset)

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        """System call: pwritev."""
        return os.pwritev(descriptor, buffers, offset)

    def write_synced(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        """System call: pwritev2 with RWF_DSYNC."""
        flag = getattr(os, "RWF_DSYNC", None)
        if flag is None:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        return os.pwritev(descriptor, buffers, offset, flag)

    def allocate(self, descriptor: int, length: int) -> None:
        """System call: posix_fallocate."""
        os.posix_fallocate(descriptor, 0, length)

    def truncate(self, descriptor: int, length: int) -> None:
        """System call: ftruncate."""
        os.ftruncate(descriptor, length)

    def sync_data(self, descriptor: int) -> None:
        """System call: fdatasync; bytes, and the size that is needed to reach them."""
        os.fdatasync(descriptor)

    def sync_directory(self, path: Path) -> None:
        """System call: fsync, of a directory."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def make_directory(self, path: Path) -> None:
        """System call: mkdir."""
        path.mkdir(mode=DIRECTORY_MODE)

    def remove_directory(self, path: Path) -> None:
        """System call: rmdir."""
        path.rmdir()

    def names(self, path: Path) -> list[str]:
        """System call: readdir; sorted."""
        return sorted(os.listdir(path))

    def status(self, path: Path) -> FileStatus | None:
        """System call: lstat."""
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return FileStatus(
            stat.S_ISDIR(found.st_mode),
            stat.S_ISREG(found.st_mode),
            stat.S_IMODE(found.st_mode),
            found.st_uid,
            found.st_size,
        )

    def rename(self, source: Path, target: Path) -> None:
        """System call: rename."""
        source.rename(target)

    def link(self, source: Path, target: Path) -> None:
        """System call: link."""
        target.hardlink_to(source)

    def unlink(self, path: Path) -> None:
        """System call: unlink."""
        path.unlink()

    def lock(self, descriptor: int) -> bool:
        """System call: flock."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def free_bytes(self, path: Path) -> int:
        """System call: statvfs."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize


REAL_FILE_SYSTEM = RealFileSystem()


def write_exactly(
    files: FileSystem,
    descriptor: int,
    buffers: Sequence[Buffer],
    offset: int,
    *,
    is_synced: bool = False,
) -> None:
    """Write all of ``buffers`` at ``offset``, going on after a short write.

    In the ordinary case this is one system call. It is used only below a file's known size or for
    a file under construction; what it wrote is durable only after a sync, or on return if
    ``is_synced``: then every part of it is written by ``write_synced``.
    """
    call = files.write_synced if is_synced else files.pwritev
    pending = list(buffers)
    while pending:
        chunk = pending[:_BUFFERS_MAX]
        expected = sum(map(len, chunk))
        written = call(descriptor, chunk, offset)
        if written == expected:
            del pending[:_BUFFERS_MAX]
        elif written > 0:
            _drop_written(pending, written)
        else:
            raise OSError(f"wrote {written} of {expected} bytes at offset {offset}")
        offset += written


def _drop_written(pending: list[Buffer], written: int) -> None:
    """Remove the first ``written`` bytes from a list of buffers."""
    whole = 0
    while whole < len(pending) and written >= len(pending[whole]):
        written -= len(pending[whole])
        whole += 1
    del pending[:whole]
    if written:
        pending[0] = memoryview(pending[0])[written:]


def read_exactly(files: FileSystem, descriptor: int, length: int, offset: int) -> bytes:
    """Read ``length`` bytes at ``offset``, or fewer only where the file ends."""
    data = files.pread(descriptor, length, offset)
    if len(data) == length:
        return data
    pieces = [data]
    missing = length - len(data)
    while data and missing:
        offset += len(data)
        data = files.pread(descriptor, missing, offset)
        pieces.append(data)
        missing -= len(data)
    return b"".join(pieces)
