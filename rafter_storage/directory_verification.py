"""Verifying a node's data directory from outside: whose it is, and that its parts fit together.

Everything is opened for reading alone. The lock is looked at and let go of at once: whoever looks
must not keep a node from starting.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from rafter_storage.data_directory import (
    IDENTITY_NAME,
    IDENTITY_TEMPORARY_NAME,
    LOCK_NAME,
    WAL_NAME,
    is_directory,
    layout_directory,
    shard_directory,
    snapshots_directory,
)
from rafter_storage.errors import Damage, DataDirectoryError, SnapshotCorrupted, StorageError
from rafter_storage.file_system import DIRECTORY_MODE, FILE_MODE, FileSystem, read_exactly
from rafter_storage.identity import IDENTITY_FORMAT
from rafter_storage.inspection import list_log
from rafter_storage.log_verification import LogReport, verify_log
from rafter_storage.snapshot_directory import group_directory, place_of, published_name
from rafter_storage.snapshot_files import read_manifest

__all__ = [
    "DirectoryKind",
    "NodeReport",
    "ShardLog",
    "data_directory_above",
    "holder_of",
    "kind_of",
    "logs_below",
    "verify_node",
]

_IDENTITY_BYTES_MAX = 64 << 10
_LAYOUT_NAME = re.compile(r"shards-[0-9]{5,9}")
_SHARD_NAME = re.compile(r"[0-9]{5,9}")
_HOLDER_BYTES = 20
# <data_dir>/snapshots/<group>/<index>/<file> is as deep as it gets.
_PARENTS_MAX = 5


class DirectoryKind(NamedTuple):
    """What a directory is: at most one of these is true. None is: it is nothing of a node's."""

    is_node: bool = False
    is_shard: bool = False
    is_log: bool = False


class ShardLog(NamedTuple):
    """A log's directory. ``shard`` is None if it is not known which shard's it is."""

    shard: int | None
    directory: Path


class NodeReport:
    """What was found in a data directory beside and in its logs; ``damages`` has all of it."""

    def __init__(self) -> None:
        self.damages: list[Damage] = []
        self.notes: list[str] = []
        self.logs: list[tuple[ShardLog, LogReport]] = []


def kind_of(files: FileSystem, path: Path) -> DirectoryKind:
    """Tell what the directory ``path`` is. Raises ``DataDirectoryError`` if it is none of ours."""
    try:
        if not is_directory(files, path):
            status = files.status(path)
            reason = "there is no" if status is None else "not a directory:"
            raise DataDirectoryError(f"{reason} {path}")
        names = files.names(path)
    except OSError as error:
        raise DataDirectoryError(f"cannot read {path}: {error}") from error
    if IDENTITY_NAME in names or any(_LAYOUT_NAME.fullmatch(name) for name in names):
        return DirectoryKind(is_node=True)
    if WAL_NAME in names:
        return DirectoryKind(is_shard=True)
    listing = list_log(files, path)
    if listing.segments or path.name == WAL_NAME:
        return DirectoryKind(is_log=True)
    raise DataDirectoryError(
        f"{path} is neither a node's data directory, nor a shard's, nor that of a log"
    )


def data_directory_above(files: FileSystem, path: Path) -> Path | None:
    """Return the data directory that ``path``, which is absolute, is or lies in; None if none."""
    for candidate in (path, *path.parents)[:_PARENTS_MAX]:
        if _is_there(files, candidate / LOCK_NAME):
            return candidate
    return None


def holder_of(files: FileSystem, data_directory: Path) -> str | None:
    """Return the process that runs a node on a data directory, None if nobody does.

    Raises ``DataDirectoryError`` if that cannot be told.
    """
    path = data_directory / LOCK_NAME
    try:
        if files.status(path) is None:
            return None
        descriptor = files.open(path, os.O_RDONLY)
        try:
            if files.lock(descriptor):
                return None
            holder = files.pread(descriptor, _HOLDER_BYTES, 0).decode("ascii", "replace").strip()
        finally:
            files.close(descriptor)
    except OSError as error:
        raise DataDirectoryError(
            f"cannot tell from {path} whether a node is running: {error}"
        ) from error
    return holder or "unknown"


def logs_below(files: FileSystem, path: Path) -> list[ShardLog]:
    """Return the logs in a directory of any kind: of a node, those of its present layout.

    Raises ``DataDirectoryError`` if it is none of ours, or if its identity cannot be read.
    """
    kind = kind_of(files, path)
    if kind.is_node:
        layout, shards = _read_identity(files, path / IDENTITY_NAME)
        directories = [shard_directory(path, layout, shard) / WAL_NAME for shard in range(shards)]
        return [
            ShardLog(shard, directory)
            for shard, directory in enumerate(directories)
            if _is_there(files, directory)
        ]
    directory = path / WAL_NAME if kind.is_shard else path
    name = directory.parent.name
    return [ShardLog(int(name) if _SHARD_NAME.fullmatch(name) else None, directory)]


def verify_node(files: FileSystem, path: Path, place: Callable[[int, int], int]) -> NodeReport:
    """Verify a data directory: identity, logs, where groups lie, snapshots, modes, in this order.

    ``place(group, shards)`` is the shard that owns a group. Of snapshots the manifests are
    verified, and that the files are there. Raises ``StorageError`` if the disk cannot be read.
    """
    report = NodeReport()
    try:
        _verify_parts(files, path, place, report)
        report.damages += _mode_faults(files, path)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error}") from error
    return report


def _verify_parts(
    files: FileSystem, path: Path, place: Callable[[int, int], int], report: NodeReport
) -> None:
    try:
        layout, shards = _read_identity(files, path / IDENTITY_NAME)
    except DataDirectoryError as error:
        reason = f"{error}; without it nothing says which logs are valid"
        report.damages.append(Damage(path / IDENTITY_NAME, 0, reason))
        return
    if not layout:
        report.notes.append(f"{path} has no logs yet; the next start makes them")
    present = layout_directory(path, layout)
    for name in files.names(path):
        if _LAYOUT_NAME.fullmatch(name) and path / name != present:
            report.notes.append(f"{path / name} is not used any more; the next start removes it")
    for shard in range(shards):
        directory = shard_directory(path, layout, shard) / WAL_NAME
        if not is_directory(files, directory):
            reason = f"the log of shard {shard} is missing"
            report.damages.append(Damage(directory, 0, reason))
            continue
        log = verify_log(files, directory)
        report.logs.append((ShardLog(shard, directory), log))
        report.damages += log.damages
        report.notes += log.notes
        for group in log.groups:
            if place(group, shards) != shard:
                reason = f"group {group} is here, and belongs to shard {place(group, shards)}"
                report.damages.append(Damage(directory, 0, reason))
    snapshots = _verify_snapshots(files, path, report)
    for _, log in report.logs:
        report.damages += _missing_snapshots(path, log, snapshots)


def _verify_snapshots(files: FileSystem, path: Path, report: NodeReport) -> dict[Path, int | None]:
    """Return the term of every published snapshot by its directory, None if it is damaged."""
    root = snapshots_directory(path)
    if not is_directory(files, root):
        report.damages.append(Damage(root, 0, "the directory of the snapshots is missing"))
        return {}
    found: dict[Path, int | None] = {}
    for parent in (root / name for name in files.names(root)):
        below = files.names(parent) if is_directory(files, parent) else []
        for directory in (parent / name for name in below):
            place = place_of(directory)
            if place is None:
                report.notes.append(f"{directory} is not a published snapshot")
                continue
            try:
                found[directory] = read_manifest(files, directory, *place).term
            except SnapshotCorrupted as error:
                found[directory] = None
                report.damages.append(error.damage)
    return found


def _missing_snapshots(
    path: Path, log: LogReport, snapshots: dict[Path, int | None]
) -> Iterator[Damage]:
    """Yield what the metadata of groups says of snapshots that is not so."""
    for group, history in log.groups.items():
        index, term = history.metadata.snapshot_index, history.metadata.snapshot_term
        if not index:
            continue
        directory = group_directory(snapshots_directory(path), group) / published_name(index)
        if directory not in snapshots:
            reason = f"the snapshot at {index} of group {group} is missing, which the log names"
            yield Damage(directory, 0, reason)
        elif snapshots[directory] not in (None, term):
            reason = f"the snapshot has term {snapshots[directory]}, the log says {term}"
            yield Damage(directory, 0, reason)


def _mode_faults(files: FileSystem, path: Path) -> Iterator[Damage]:
    """Yield what a start would refuse for its mode or owner.

    The owner is held against that of the data directory: an administrator may be looking.
    """
    own = files.status(path)
    assert own is not None, "the directory has been read"
    top = (LOCK_NAME, IDENTITY_NAME, IDENTITY_TEMPORARY_NAME, snapshots_directory(path).name)
    pending = [path] + [
        path / name for name in files.names(path) if name in top or _LAYOUT_NAME.fullmatch(name)
    ]
    while pending:
        below = pending.pop(0)
        status = files.status(below)
        if status is None:
            continue
        if not (status.is_directory or status.is_file):
            yield Damage(below, 0, "this is neither a directory nor an ordinary file")
            continue
        expected = DIRECTORY_MODE if status.is_directory else FILE_MODE
        if status.mode != expected:
            reason = (
                f"mode {status.mode:04o}, expected {expected:04o}: run chmod {expected:o} {below}"
            )
            yield Damage(below, 0, reason)
        if status.owner != own.owner:
            reason = f"it belongs to user {status.owner}, the data directory to {own.owner}"
            yield Damage(below, 0, reason)
        if status.is_directory and below != path:
            pending += [below / name for name in files.names(below)]


def _read_identity(files: FileSystem, path: Path) -> tuple[int, int]:
    """Return the present layout and its number of shards, both 0 before there are logs.

    Raises ``DataDirectoryError``.
    """
    try:
        descriptor = files.open(path, os.O_RDONLY)
        try:
            data = read_exactly(files, descriptor, _IDENTITY_BYTES_MAX, 0)
        finally:
            files.close(descriptor)
        fields = json.loads(data)
        checksum = fields.pop("checksum")
        layout, shards = fields["layout"], fields["shards"]
        expected = f"{xxh3_64_intdigest(json.dumps(fields, sort_keys=True).encode()):016x}"
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataDirectoryError(f"the identity cannot be read: {error!r}") from error
    if checksum != expected:
        raise DataDirectoryError("the identity's checksum does not match")
    is_sound = all(type(number) is int and number >= 0 for number in (layout, shards))
    if fields.get("format") != IDENTITY_FORMAT or not is_sound or (not layout) != (not shards):
        raise DataDirectoryError(
            f"the identity has format {fields.get('format')}, layout {layout} and {shards} shards; "
            f"this program reads format {IDENTITY_FORMAT}"
        )
    return layout, shards


def _is_there(files: FileSystem, path: Path) -> bool:
    try:
        return files.status(path) is not None
    except OSError as error:
        raise DataDirectoryError(f"cannot read {path}: {error}") from error
