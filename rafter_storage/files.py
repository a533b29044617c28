"""The file operations that storage needs, as one small object that can be replaced.

Everything that ``rafter_storage`` does to a disk goes through a ``FileOperations``: faults are
injected by handing in another one, and production code has no branch for tests. The methods are
the system calls of the same names; all raise ``OSError``.
"""

import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

__all__ = [
    "DIRECTORY_MODE",
    "FILE_MODE",
    "OPERATING_SYSTEM",
    "Buffer",
    "FileOperations",
    "OperatingSystemFiles",
    "read_exactly",
    "write_exactly",
]

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600

Buffer = bytes | bytearray | memoryview | mmap.mmap

# Linux refuses more buffers than this in one pwritev (UIO_MAXIOV).
_BUFFERS_MAX = 1024


class FileOperations(Protocol):
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

    def allocate(self, descriptor: int, length: int) -> None:
        """Reserve ``length`` bytes from the file's start; what was never written reads as zeros."""

    def sync_data(self, descriptor: int) -> None:
        """Make the file's bytes, and its size, durable."""

    def sync_directory(self, path: Path) -> None:
        """Make creations, renames and removals in the directory ``path`` durable."""

    def make_directory(self, path: Path) -> None:
        """Create one directory with mode 0700."""

    def names(self, path: Path) -> list[str]:
        """List the names in a directory, sorted."""

    def rename(self, source: Path, target: Path) -> None:
        """Rename within a directory, replacing the target."""

    def unlink(self, path: Path) -> None:
        """Remove a file."""


class OperatingSystemFiles:
    """``FileOperations`` on the real file system."""

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

    def allocate(self, descriptor: int, length: int) -> None:
        """System call: posix_fallocate."""
        os.posix_fallocate(descriptor, 0, length)

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

    def names(self, path: Path) -> list[str]:
        """System call: readdir; sorted."""
        return sorted(os.listdir(path))

    def rename(self, source: Path, target: Path) -> None:
        """System call: rename."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """System call: unlink."""
        path.unlink()


OPERATING_SYSTEM = OperatingSystemFiles()


def write_exactly(
    files: FileOperations, descriptor: int, buffers: Sequence[Buffer], offset: int
) -> None:
    """Write all of ``buffers`` at ``offset``, going on after a short write.

    In the ordinary case this is one system call. It is used only below a file's known size or for
    a file under construction; what it wrote is durable only after a sync.
    """
    pending = list(buffers)
    while pending:
        chunk = pending[:_BUFFERS_MAX]
        expected = sum(map(len, chunk))
        written = files.pwritev(descriptor, chunk, offset)
        if written == expected:
            del pending[:_BUFFERS_MAX]
        elif written > 0:
            _drop_written(pending, written)
        else:
            raise OSError(f"pwritev wrote {written} of {expected} bytes at offset {offset}")
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


def read_exactly(files: FileOperations, descriptor: int, length: int, offset: int) -> bytes:
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
