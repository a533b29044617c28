"""What the storage tests share: short ways to write a log, and a file system that can fail."""

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rafter_core.entries import Entry, EntryKind, HardState
from rafter_core.membership import Membership
from rafter_storage.errors import StorageError
from rafter_storage.file_system import Buffer, FileSystem, RealFileSystem
from rafter_storage.group_log import GroupLog
from rafter_storage.segment import draw_seed, sequence_of
from rafter_storage.segment_manager import GroupChange, GroupWrite, SegmentManager

MEMBERSHIP = Membership((1, 2, 3))
SEGMENT_BYTES = 64 << 10
UNLIMITED = 1 << 62


def entry(index: int, term: int = 1, payload: bytes | None = None) -> Entry:
    """An entry whose payload tells its index and term."""
    if payload is None:
        payload = b"%d/%d" % (index, term)
    return Entry(term, index, EntryKind.NORMAL, payload)


def entries(first: int, last: int, term: int = 1) -> list[Entry]:
    return [entry(index, term) for index in range(first, last + 1)]


def has_log(files: FileSystem, directory: Path) -> bool:
    """Tell whether there is a segment below a shard's directory."""
    wal = directory / "wal"
    return files.status(wal) is not None and any(map(sequence_of, files.names(wal)))


def open_manager(
    directory: Path,
    files: FileSystem | None = None,
    tail_bytes_max: int = 1 << 20,
    segment_bytes: int = SEGMENT_BYTES,
    *,
    spares_max: int = 1,
    is_direct: bool = False,
    draw: Callable[[], int] = draw_seed,
) -> SegmentManager:
    """Open a log, which is made if there is no segment of one."""
    disk = files or RealFileSystem()
    manager = SegmentManager(
        directory,
        segment_bytes=segment_bytes,
        tail_bytes_max=tail_bytes_max,
        spares_max=spares_max,
        is_direct=is_direct,
        files=disk,
        draw=draw,
    )
    if not has_log(disk, directory):
        manager.create()
    manager.open()
    return manager


def write(
    manager: SegmentManager, *writes: GroupWrite, changes: Sequence[GroupChange] = ()
) -> None:
    """Do a whole job."""
    job = manager.begin(list(writes), changes)
    job.run()
    manager.complete(job)


def change(manager: SegmentManager, *changes: GroupChange) -> None:
    """Do a whole job of changes alone, which is not synced."""
    write(manager, changes=changes)


def do_chores(manager: SegmentManager) -> None:
    """Do all housekeeping there is, but no rewriting."""
    while (chore := manager.chore()) is not None:
        chore.run()
        manager.complete_chore(chore, None)


def append(
    manager: SegmentManager,
    group: int,
    added: list[Entry],
    hard_state: HardState | None = None,
) -> None:
    write(manager, GroupWrite(group, hard_state, added))


def log_of(manager: SegmentManager, group: int) -> GroupLog:
    return manager.group_log(group, MEMBERSHIP)


def all_entries(log: GroupLog) -> list[Entry]:
    if log.last_index() < log.first_index():
        return []
    return log.entries(log.first_index(), log.last_index() + 1, UNLIMITED)


def segment_files(directory: Path) -> list[Path]:
    return sorted((directory / "wal").glob("*.log"))


def abandon(manager: SegmentManager) -> None:
    """Let go of the files as a killed process does: nothing more is synced or marked."""
    with contextlib.suppress(StorageError):
        manager.begin([])
    manager.close()


def flip(path: Path, position: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


class FaultyFiles(RealFileSystem):
    """The real file system, with faults at chosen calls.

    ``fail_at`` maps (method, n-th call of it from now, 1-based) to an error number. ``short_bytes``
    bounds what one call writes. ``calls`` lists the methods in order.
    """

    def __init__(self) -> None:
        self.fail_at: dict[tuple[str, int], int] = {}
        self.short_bytes: int | None = None
        self.calls: list[str] = []

    def reset(self) -> None:
        self.calls.clear()

    def _called(self, method: str) -> None:
        self.calls.append(method)
        number = self.fail_at.pop((method, self.calls.count(method)), None)
        if number is not None:
            raise OSError(number, os.strerror(number))

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        self._called("pwritev")
        if self.short_bytes is None:
            return super().pwritev(descriptor, buffers, offset)
        return super().pwritev(descriptor, [b"".join(buffers)[: self.short_bytes]], offset)

    def write_synced(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        self._called("write_synced")
        if self.short_bytes is None:
            return super().write_synced(descriptor, buffers, offset)
        return super().write_synced(descriptor, [b"".join(buffers)[: self.short_bytes]], offset)

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        self._called("pread")
        return super().pread(descriptor, length, offset)

    def sync_data(self, descriptor: int) -> None:
        self._called("sync_data")
        super().sync_data(descriptor)

    def sync_directory(self, path: Path) -> None:
        self._called("sync_directory")
        super().sync_directory(path)

    def allocate(self, descriptor: int, length: int) -> None:
        self._called("allocate")
        super().allocate(descriptor, length)

    def rename(self, source: Path, target: Path) -> None:
        self._called("rename")
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._called("unlink")
        super().unlink(path)

    def open(self, path: Path, flags: int) -> int:
        self._called("open")
        return super().open(path, flags)


EIO = errno.EIO
ENOSPC = errno.ENOSPC


class UnsyncedFiles(RealFileSystem):
    """The real file system without its syncs, for tests that build the states of a crash."""

    def write_synced(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        return self.pwritev(descriptor, buffers, offset)

    def sync_data(self, descriptor: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass
