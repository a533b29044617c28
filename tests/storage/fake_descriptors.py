"""Descriptors of the fake file system, and what may be wrong with a call through one."""

import ctypes
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rafter_storage.file_system import Buffer
from tests.storage.fake_disk import BLOCK_BYTES, File, Node
from tests.storage.fake_names import path_error

__all__ = ["Misdirection", "Opened", "check_alignment"]


class Opened(NamedTuple):
    """An open descriptor: the path and the flags of its open, and what it stands for."""

    path: Path
    node: Node
    flags: int

    def has(self, flag: int) -> bool:
        return bool(self.flags & flag)

    def can_read(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    def can_write(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    def writable_file(self) -> File:
        if not self.can_write() or not isinstance(self.node, File):
            raise path_error(errno.EBADF, self.path)
        return self.node


class Misdirection(NamedTuple):
    """A range of a file whose reads return what stands elsewhere."""

    file: File
    offset: int
    length: int
    source: File
    source_offset: int

    def apply(self, data: bytes, offset: int) -> bytes:
        """Replace what a read of the file at ``offset`` got from the range."""
        first = max(offset, self.offset)
        end = min(offset + len(data), self.offset + self.length)
        if first >= end:
            return data
        source_offset = self.source_offset + first - self.offset
        other = self.source.read(end - first, source_offset).ljust(end - first, b"\0")
        return data[: first - offset] + other + data[end - offset :]


def check_alignment(path: Path, buffers: Sequence[Buffer], offset: int) -> None:
    """Refuse what a device may refuse of a write through O_DIRECT."""
    numbers = [offset]
    for buffer in buffers:
        view = memoryview(buffer)
        if view.nbytes == 0:
            continue
        if view.readonly:
            raise path_error(errno.EINVAL, path)
        numbers += [view.nbytes, ctypes.addressof(ctypes.c_char.from_buffer(buffer))]
    if any(number % BLOCK_BYTES for number in numbers):
        raise path_error(errno.EINVAL, path)
