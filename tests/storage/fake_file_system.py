"""A file system in memory that loses, after a crash, what a real one may lose.

It does what ``rafter_storage.file_system.RealFileSystem`` does, errors included; the same tests
hold for both (test_file_system.py). The fault model is told in fake_disk.py, the faults that can
be ordered in fake_faults.py.

A test of crashes runs like this::

    files = FakeFileSystem()
    files.stop_at = 17                      # the workload ends before its 17th operation
    with pytest.raises(Crashed):
        workload(files, files.base)
    for seed in range(100):                 # as many states of the disk as wanted
        survivor = files.crash(CrashMode.REORDERED, random.Random(seed))
        check(recover(survivor, survivor.base))

Everything depends on the calls and on the generators handed in, on nothing else. One lock makes
each call atomic: an owner and a flusher thread may use one file system.

Stricter than Linux, on purpose:
- Descriptors are never used again, not even after a crash: a stale one is EBADF.
- O_DIRECT wants offsets, lengths and addresses at multiples of 4096, whatever the device says.
  Where bytes that cannot be changed lie is chance, so read-only buffers are EINVAL. So is pread,
  which reads into such bytes.
- Paths are absolute and without "..", and flags that are not honoured are a ``ValueError``.

More lenient: a write through O_DSYNC or ``write_synced`` syncs all of a file whose size was set and
not synced, and space is reserved from a file's
start to its furthest write, as if there were no holes below it.
"""

import contextlib
import errno
import functools
import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from rafter_storage.file_system import DIRECTORY_MODE, FILE_MODE, Buffer, FileStatus
from tests.storage.fake_descriptors import Misdirection, Opened, check_alignment
from tests.storage.fake_disk import (
    BLOCK_BYTES,
    PIECE_BYTES,
    CrashMode,
    File,
    Node,
    round_to_block,
)
from tests.storage.fake_faults import Call, Crashed, Faults
from tests.storage.fake_names import Directory, NameOperation, Place, Tree, path_error

__all__ = ["UNLIMITED_BYTES", "Call", "CrashMode", "Crashed", "FakeFileSystem"]

UNLIMITED_BYTES = 1 << 40
_BUFFERS_MAX = 1024
_FLAGS = (
    os.O_ACCMODE | os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_DIRECTORY | os.O_DIRECT
    | os.O_SYNC | os.O_NOFOLLOW | os.O_CLOEXEC
)  # fmt: skip

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def _locked(
    method: Callable[Concatenate["FakeFileSystem", _Parameters], _Result],
) -> Callable[Concatenate["FakeFileSystem", _Parameters], _Result]:
    @functools.wraps(method)
    def locked(
        self: "FakeFileSystem", /, *arguments: _Parameters.args, **named: _Parameters.kwargs
    ) -> _Result:
        with self._lock:
            return method(self, *arguments, **named)

    return locked


class FakeFileSystem(Faults):
    """A ``FileSystem`` in memory. ``base`` is an empty directory that exists durably.

    ``capacity_bytes`` is the space for the files' bytes, in blocks of 4096; None for no limit. It
    may be changed at any time. A file's space is free again when its last name and its last
    descriptor are gone.
    """

    def __init__(
        self,
        *,
        base: Path = Path("/disk"),
        capacity_bytes: int | None = None,
        is_journaled: bool = True,
    ) -> None:
        super().__init__(is_journaled=is_journaled)
        self.base = base
        self.capacity_bytes = capacity_bytes
        self._lock = threading.RLock()
        self._tree = Tree()
        self._used_bytes = 0
        self._opened: dict[int, Opened] = {}
        # Far from the real ones: a descriptor of the wrong file system is not open here or there.
        self._next_descriptor = 1000
        self._misdirections: list[Misdirection] = []
        for path in reversed([base, *base.parents][:-1]):
            self._change_name(self._tree.place(path), Directory())
        self._tree.settle()

    # ---- what a crash leaves ------------------------------------------------------------------

    @_locked
    def crash(self, mode: CrashMode, draw: random.Random | None = None) -> "FakeFileSystem":
        """Return a new file system with what survives; this one is untouched.

        Nothing is pending there, nothing is open or locked, and no faults are set. TORN and
        REORDERED draw from ``draw``; calls with equal generators give equal states.
        """
        survivor = FakeFileSystem(
            base=Path("/"), capacity_bytes=self.capacity_bytes, is_journaled=self.is_journaled
        )
        survivor.base = self.base
        survivor._tree = self._tree.survivor(mode, draw)
        survivor._used_bytes = sum(file.reserved_bytes for file in survivor._tree.files())
        survivor._next_descriptor = self._next_descriptor
        return survivor

    @_locked
    def settle(self) -> None:
        """Make everything durable, as a quiet disk does in time. No operation is counted."""
        self._tree.settle()

    @_locked
    def contents(self, path: Path) -> bytes:
        """Return a file's bytes as a descriptor would read them without any fault."""
        return bytes(self._tree.file(path).content)

    @_locked
    def paths(self) -> list[Path]:
        """Return the paths of all files and directories below ``base``, sorted."""
        return [self.base / name for name, _ in self._tree.walk(self.base)]

    @_locked
    def images(self) -> list[tuple[str, bytes | None]]:
        """Return what ``paths`` does, as names below ``base``, with the bytes of each file."""
        return [
            (name, bytes(node.content) if isinstance(node, File) else None)
            for name, node in self._tree.walk(self.base)
        ]

    # ---- damage -------------------------------------------------------------------------------

    @_locked
    def flip_bit(self, path: Path, offset: int, bit: int) -> None:
        """Flip one bit of a synced byte, on the disk and for readers."""
        self._tree.file(path).flip(offset, bit)

    @_locked
    def misdirect_read(
        self,
        path: Path,
        offset: int,
        length: int,
        source_offset: int,
        source: Path | None = None,
    ) -> None:
        """Let reads of a range return the bytes at another place, of this file or another.

        It follows the file through renames and ends with a crash. Past the source's end are zeros.
        """
        file = self._tree.file(path)
        source_file = file if source is None else self._tree.file(source)
        self._misdirections.append(Misdirection(file, offset, length, source_file, source_offset))

    # ---- FileSystem: files --------------------------------------------------------------------

    @_locked
    def open(self, path: Path, flags: int) -> int:
        """Open or create a file. Creating and truncating are operations, opening is not."""
        if flags & ~_FLAGS:
            raise ValueError(f"open flags {flags & ~_FLAGS:#o} are not honoured by the fake")
        found = self._tree.find(path)
        is_operation = (
            bool(flags & os.O_CREAT)
            if found is None
            else bool(flags & os.O_TRUNC) and isinstance(found, File)
        )
        self._called(Call("open", path), is_operation=is_operation)
        if flags & os.O_CREAT and flags & os.O_DIRECTORY:
            raise path_error(errno.EINVAL, path)
        if not flags & os.O_CREAT:
            node = self._tree.node(path)
        else:
            place = self._tree.place(path)
            existing = place.node()
            if existing is not None and flags & os.O_EXCL:
                raise path_error(errno.EEXIST, path)
            node = existing or File()
            if existing is None:
                self._change_name(place, node)
        if isinstance(node, Directory):
            if flags & (os.O_ACCMODE | os.O_CREAT | os.O_TRUNC):
                raise path_error(errno.EISDIR, path)
        elif flags & os.O_DIRECTORY:
            raise path_error(errno.ENOTDIR, path)
        elif isinstance(node, File) and flags & os.O_TRUNC:
            self._resize(node, 0)
        descriptor = self._next_descriptor
        self._next_descriptor += 1
        node.open_count += 1
        self._opened[descriptor] = Opened(path, node, flags)
        return descriptor

    @_locked
    def close(self, descriptor: int) -> None:
        """Close a descriptor; its lock goes with it."""
        opened = self._called_on("close", descriptor)
        del self._opened[descriptor]
        node = opened.node
        node.open_count -= 1
        if node.lock_holder == descriptor:
            node.lock_holder = None
        self._free_if_gone(node)

    @_locked
    def size(self, descriptor: int) -> int:
        """Return a file's size; that of a directory means nothing."""
        node = self._called_on("size", descriptor).node
        return len(node.content) if isinstance(node, File) else BLOCK_BYTES

    @_locked
    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        """Read up to ``length`` bytes."""
        opened = self._called_on("pread", descriptor, offset, length)
        if not opened.can_read():
            raise path_error(errno.EBADF, opened.path)
        if not isinstance(opened.node, File):
            raise path_error(errno.EISDIR, opened.path)
        if length < 0 or offset < 0 or opened.has(os.O_DIRECT):
            raise path_error(errno.EINVAL, opened.path)
        if self.short_read_bytes is not None:
            length = min(length, self.short_read_bytes)
        data = opened.node.read(length, offset)
        for misdirection in self._misdirections:
            if misdirection.file is opened.node:
                data = misdirection.apply(data, offset)
        return data if self.read_hook is None else self.read_hook(opened.path, offset, data)

    @_locked
    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write; pending until the next sync, except through O_DSYNC."""
        is_synced = self._entry(descriptor).has(os.O_DSYNC)
        return self._write_buffers("pwritev", descriptor, buffers, offset, is_synced=is_synced)

    @_locked
    def write_synced(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write; these bytes are durable on return, or in doubt for ever."""
        return self._write_buffers("write_synced", descriptor, buffers, offset, is_synced=True)

    def _write_buffers(
        self,
        method: str,
        descriptor: int,
        buffers: Sequence[Buffer],
        offset: int,
        *,
        is_synced: bool,
    ) -> int:
        data = b"".join(buffers)
        opened = self._entry(descriptor)
        file = opened.node
        try:
            self._called_on(method, descriptor, offset, len(data), is_operation=True)
        except Crashed:
            if self.operations == self.stop_at and self.stopped_write_pieces:
                end = (offset // PIECE_BYTES + self.stopped_write_pieces) * PIECE_BYTES
                with contextlib.suppress(OSError):
                    self._write(opened, data[: end - offset], offset)
            raise
        except OSError:
            if is_synced and isinstance(file, File):
                with contextlib.suppress(OSError):
                    written = self._write(opened, data, offset)
                    file.fail_sync_write(offset, written)
            raise
        if len(buffers) > _BUFFERS_MAX or offset < 0:
            raise path_error(errno.EINVAL, opened.path)
        if opened.has(os.O_DIRECT):
            check_alignment(opened.path, buffers, offset)
        written = self._write(opened, data[: self.short_write_bytes], offset)
        if is_synced and isinstance(file, File):
            if self.synced_write_hook is not None:
                self.synced_write_hook()
            file.sync_write(offset, written)
        return written

    @_locked
    def allocate(self, descriptor: int, length: int) -> None:
        """Reserve space from the start of the file; its size never shrinks. All or nothing."""
        opened = self._called_on("allocate", descriptor, 0, length, is_operation=True)
        file = opened.writable_file()
        if length <= 0:
            raise path_error(errno.EINVAL, opened.path)
        if self._reachable(file, length) < length:
            raise path_error(errno.ENOSPC, opened.path)
        self._reserve(file, length)
        if length > len(file.content):
            file.resize(length)

    @_locked
    def truncate(self, descriptor: int, length: int) -> None:
        """Set a file's size. What it grows by takes no space before it is written."""
        opened = self._called_on("truncate", descriptor, 0, length, is_operation=True)
        if length < 0 or not opened.can_write():
            raise path_error(errno.EINVAL, opened.path)
        self._resize(opened.writable_file(), length)

    @_locked
    def sync_data(self, descriptor: int) -> None:
        """Make a file's bytes and size durable, or leave them in doubt for ever."""
        node = self._entry(descriptor).node
        try:
            self._called_on("sync_data", descriptor, is_operation=True)
        except OSError:
            if isinstance(node, File):
                node.fail_sync()
            raise
        if isinstance(node, File):
            node.sync()
        else:
            assert isinstance(node, Directory)
            self._tree.sync(node)

    @_locked
    def lock(self, descriptor: int) -> bool:
        """Lock a file against every other descriptor."""
        node = self._called_on("lock", descriptor).node
        if node.lock_holder is None:
            node.lock_holder = descriptor
        return node.lock_holder == descriptor

    # ---- FileSystem: names --------------------------------------------------------------------

    @_locked
    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        self._called(Call("sync_directory", path), is_operation=True)
        self._tree.sync(self._tree.directory(path))

    @_locked
    def make_directory(self, path: Path) -> None:
        """Create a directory."""
        self._called(Call("make_directory", path), is_operation=True)
        if self._tree.find(path) is not None:
            raise path_error(errno.EEXIST, path)
        self._change_name(self._tree.place(path), Directory())

    @_locked
    def remove_directory(self, path: Path) -> None:
        """Remove an empty directory."""
        self._called(Call("remove_directory", path), is_operation=True)
        directory = self._tree.directory(path)
        if directory.entries:
            raise path_error(errno.ENOTEMPTY, path)
        self._change_name(self._tree.place(path), None, needs=((directory, None),))

    @_locked
    def names(self, path: Path) -> list[str]:
        """List the names in a directory, sorted."""
        self._called(Call("names", path), is_operation=False)
        return sorted(self._tree.directory(path).entries)

    @_locked
    def status(self, path: Path) -> FileStatus | None:
        """Tell what stands at a path."""
        self._called(Call("status", path), is_operation=False)
        node = self._tree.find(path)
        if node is None:
            return None
        if isinstance(node, File):
            return FileStatus(False, True, FILE_MODE, os.getuid(), len(node.content))
        return FileStatus(True, False, DIRECTORY_MODE, os.getuid(), BLOCK_BYTES)

    @_locked
    def rename(self, source: Path, target: Path) -> None:
        """Rename a file or directory. An empty directory may be replaced, as on Linux."""
        self._called(Call("rename", source, target=target), is_operation=True)
        source_place, target_place = self._tree.place(source), self._tree.place(target)
        moved, replaced = self._tree.node(source), target_place.node()
        needs = target_place.way
        if isinstance(moved, Directory):
            above = [directory for directory, _ in needs]
            if moved in (*above, target_place.directory):
                raise path_error(errno.EINVAL, target)
            if isinstance(replaced, File):
                raise path_error(errno.ENOTDIR, target)
        elif isinstance(replaced, Directory):
            raise path_error(errno.EISDIR, target)
        if replaced is moved:
            return
        if isinstance(replaced, Directory):
            if replaced.entries:
                raise path_error(errno.ENOTEMPTY, target)
            needs = (*needs, (replaced, None))
        changes = (
            (source_place.directory, source_place.name, None),
            (target_place.directory, target_place.name, moved),
        )
        self._tree.apply(NameOperation(target_place.directory, changes, needs))
        self._free_if_gone(replaced)

    @_locked
    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name."""
        self._called(Call("link", source, target=target), is_operation=True)
        source_place, node, place = (
            self._tree.place(source),
            self._tree.node(source),
            self._tree.place(target),
        )
        if place.node() is not None:
            raise path_error(errno.EEXIST, target)
        if not isinstance(node, File):
            raise path_error(errno.EPERM, source)
        # The source is among the changes so that its later removal rests on the link.
        changes = (
            (source_place.directory, source_place.name, node),
            (place.directory, place.name, node),
        )
        self._tree.apply(NameOperation(place.directory, changes, place.way))

    @_locked
    def unlink(self, path: Path) -> None:
        """Remove a file's name."""
        self._called(Call("unlink", path), is_operation=True)
        node = self._tree.node(path)
        if not isinstance(node, File):
            raise path_error(errno.EISDIR, path)
        self._change_name(self._tree.place(path), None)
        self._free_if_gone(node)

    @_locked
    def free_bytes(self, path: Path) -> int:
        """Return what is left of the capacity."""
        self._called(Call("free_bytes", path), is_operation=False)
        self._tree.node(path)
        return self._free_bytes()

    # ---- what they share ----------------------------------------------------------------------

    def _called_on(
        self,
        method: str,
        descriptor: int,
        offset: int = 0,
        length: int = 0,
        *,
        is_operation: bool = False,
    ) -> Opened:
        opened = self._entry(descriptor)
        self._called(Call(method, opened.path, offset, length), is_operation=is_operation)
        return opened

    def _entry(self, descriptor: int) -> Opened:
        opened = self._opened.get(descriptor)
        if opened is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return opened

    def _change_name(
        self,
        place: Place,
        node: Node | None,
        needs: tuple[tuple[Directory, str | None], ...] = (),
    ) -> None:
        changes = ((place.directory, place.name, node),)
        self._tree.apply(NameOperation(place.directory, changes, needs))

    def _write(self, opened: Opened, data: bytes, offset: int) -> int:
        file = opened.writable_file()
        if not data:
            return 0
        end = self._reachable(file, offset + len(data))
        if end <= offset:
            raise path_error(errno.ENOSPC, opened.path)
        self._reserve(file, end)
        file.write(data[: end - offset], offset)
        return end - offset

    def _reachable(self, file: File, end: int) -> int:
        """Return how far a file can reach with what is free, at most ``end``."""
        return min(end, file.reserved_bytes + self._free_bytes())

    def _reserve(self, file: File, end: int) -> None:
        missing = max(round_to_block(end) - file.reserved_bytes, 0)
        file.reserved_bytes += missing
        self._used_bytes += missing

    def _free_bytes(self) -> int:
        if self.capacity_bytes is None:
            return UNLIMITED_BYTES
        free = max(self.capacity_bytes - self._used_bytes, 0)
        return free // BLOCK_BYTES * BLOCK_BYTES

    def _resize(self, file: File, length: int) -> None:
        freed = max(file.reserved_bytes - round_to_block(length), 0)
        file.reserved_bytes -= freed
        self._used_bytes -= freed
        if length != len(file.content):
            file.resize(length)

    def _free_if_gone(self, node: Node | None) -> None:
        if isinstance(node, File) and not node.names_count and not node.open_count:
            self._used_bytes -= node.reserved_bytes
            node.reserved_bytes = 0
