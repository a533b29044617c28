"""How the snapshots of a group lie on disk, and what of that counts after a crash.

::

    <root>/<group:020d>/<index:016x>/            published: files and, written last, the manifest
    <root>/<group:020d>/<index:016x>-<n>.taking     unfinished; also .importing
    <root>/<group:020d>/<index:016x>-<n>.receiving  unfinished; the manifest is written first
    <root>/<group:020d>/<index:016x>-<n>.damaged    a damaged one that made way for its replacement
    <root>/<group:020d>/<index:016x>-<n>.removing   retired, being removed
    <root>/<group:020d>-<n>.removing                a whole group that is being removed

Loading removes what is unfinished or being removed, but for the newest draft of a group that is
being received and has a whole manifest: its sender may go on with it. A published snapshot that is
not whole is damage and no rubbish: it stays and is reported. Other names are left alone.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rafter_storage.data_directory import check_private, is_directory, remove_tree
from rafter_storage.errors import Damage, DataDirectoryError, SnapshotCorrupted, StorageError
from rafter_storage.file_system import FileSystem
from rafter_storage.snapshot_files import read_manifest
from rafter_storage.snapshot_manifest import Manifest
from rafter_storage.snapshot_reader import SnapshotInfo

__all__ = [
    "DamagedSnapshot",
    "KeptDraft",
    "LoadedGroup",
    "SnapshotRemoval",
    "group_directory",
    "is_unfinished",
    "load_groups",
    "place_of",
    "published_name",
    "removing_group",
    "temporary_name",
]

_GROUP_NAME = re.compile(r"([0-9]{20})")
_GROUP_REMOVING = re.compile(r"([0-9]{20})-([0-9]{1,18})\.removing")
_INDEX_NAME = re.compile(r"([0-9a-f]{16})")
_TEMPORARY_NAME = re.compile(
    r"([0-9a-f]{16})-([0-9]{1,18})\.(taking|receiving|importing|damaged|removing)"
)


class DamagedSnapshot(NamedTuple):
    """A snapshot that had been published and cannot be used any more."""

    group: int
    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    path: Path
    damage: Damage


class KeptDraft(NamedTuple):
    """What an earlier life received in part, and what it is to become."""

    path: Path
    manifest: Manifest


class LoadedGroup(NamedTuple):
    """What is on disk of a group. ``last_number`` is the highest ``n`` in its temporary names."""

    group: int
    snapshots: list[SnapshotInfo]
    damaged: list[DamagedSnapshot]
    draft: KeptDraft | None
    last_number: int


def group_directory(root: Path, group: int) -> Path:
    """Return where the snapshots of a group are."""
    return root / f"{group:020d}"


def published_name(index: int) -> str:
    """Return the name of a published snapshot."""
    return f"{index:016x}"


def temporary_name(index: int, number: int, ending: str) -> str:
    """Return the name of what is not a published snapshot of this index, or not any more."""
    return f"{index:016x}-{number}.{ending}"


def removing_group(root: Path, group: int, number: int) -> Path:
    """Return where the snapshots of a group wait to be removed."""
    return root / f"{group:020d}-{number}.removing"


def place_of(path: Path) -> tuple[int, int] | None:
    """Return (group, index) of a published snapshot's directory by its name; None for others."""
    group = _GROUP_NAME.fullmatch(path.parent.name)
    index = _INDEX_NAME.fullmatch(path.name)
    return None if group is None or index is None else (int(group[1]), int(index[1], 16))


def is_unfinished(path: Path) -> bool:
    """Tell by its name whether a directory holds what was being written, and not a snapshot."""
    name = _TEMPORARY_NAME.fullmatch(path.name)
    return name is not None and name[3] in {"taking", "receiving", "importing"}


def load_groups(
    files: FileSystem, root: Path, wanted: frozenset[int] | None
) -> Iterator[LoadedGroup]:
    """Yield what there is of the groups ``wanted``, or of all, and remove their leftovers.

    Manifests are read and verified, files looked at for their sizes alone. Raises
    ``DataDirectoryError`` for wrong modes, owners and links, ``OSError`` and ``StorageError`` if
    the disk cannot be used.
    """
    for name in files.names(root):
        match = _GROUP_NAME.fullmatch(name)
        removing = _GROUP_REMOVING.fullmatch(name)
        if match is not None and (wanted is None or int(name) in wanted):
            yield _load_group(files, int(name), root / name)
        elif removing is not None and (wanted is None or int(removing[1]) in wanted):
            _remove(files, root / name)


def _load_group(files: FileSystem, group: int, path: Path) -> LoadedGroup:
    _check_private_directory(files, path)
    snapshots = []
    damaged = []
    aside = []
    drafts = []
    last_number = 0
    for name in files.names(path):
        temporary = _TEMPORARY_NAME.fullmatch(name)
        if temporary is not None:
            last_number = max(last_number, int(temporary[2]))
            if temporary[3] == "damaged":
                aside.append((int(temporary[1], 16), path / name))
            elif temporary[3] == "receiving":
                drafts.append((int(temporary[1], 16), int(temporary[2]), path / name))
            else:
                _remove(files, path / name)
        elif _INDEX_NAME.fullmatch(name) is not None:
            loaded = _load_snapshot(files, group, int(name, 16), path / name)
            if isinstance(loaded, SnapshotInfo):
                snapshots.append(loaded)
            else:
                damaged.append(loaded)
    for index, moved in aside:
        if snapshots and snapshots[-1].index >= index:
            _remove(files, moved)
        else:
            damage = Damage(moved, 0, "it was damaged, and its replacement did not come")
            damaged.append(DamagedSnapshot(group, index, moved, damage))
    draft = _chosen_draft(files, group, snapshots[-1].index if snapshots else 0, drafts)
    return LoadedGroup(group, snapshots, damaged, draft, last_number)


def _chosen_draft(
    files: FileSystem, group: int, newest_index: int, drafts: list[tuple[int, int, Path]]
) -> KeptDraft | None:
    """Return the newest draft that can be gone on with and is of use; remove the others."""
    chosen = None
    for index, _, path in sorted(drafts, reverse=True):
        draft = None
        if chosen is None and index > newest_index:
            draft = chosen = _load_draft(files, group, index, path)
        if draft is None:
            _remove(files, path)
    return chosen


def _load_draft(files: FileSystem, group: int, index: int, path: Path) -> KeptDraft | None:
    """Return what was received in part; None if nothing says what it is to become."""
    if not is_directory(files, path):
        return None
    try:
        return KeptDraft(path, read_manifest(files, path, group, index, with_files=False))
    except SnapshotCorrupted:
        return None


def _load_snapshot(
    files: FileSystem, group: int, index: int, path: Path
) -> SnapshotInfo | DamagedSnapshot:
    _check_private_directory(files, path)
    for name in files.names(path):
        check_private(files, path / name)
    try:
        return SnapshotInfo(path, read_manifest(files, path, group, index))
    except SnapshotCorrupted as error:
        return DamagedSnapshot(group, index, path, error.damage)


class SnapshotRemoval:
    """What has left the store and still takes up disk. ``run`` it on any thread but the loop's.

    If it is never run, the next start removes what is left.
    """

    def __init__(self, files: FileSystem, parent: Path, paths: list[Path]) -> None:
        self.paths = paths
        self._files = files
        self._parent = parent

    def run(self) -> None:
        """Remove it all, durable on return. Raises ``StorageError``; the next start goes on."""
        if not self.paths:
            return
        try:
            # Or else a crash might bring back the old names of snapshots without their files.
            self._files.sync_directory(self._parent)
            for path in self.paths:
                _remove(self._files, path)
        except OSError as error:
            raise StorageError(f"cannot remove snapshots in {self._parent}: {error}") from error


def _check_private_directory(files: FileSystem, path: Path) -> None:
    check_private(files, path)
    if not is_directory(files, path):
        raise DataDirectoryError(f"{path} is not a directory")


def _remove(files: FileSystem, path: Path) -> None:
    """Remove a directory, or what else has come to stand under its name; links not followed."""
    if is_directory(files, path):
        remove_tree(files, path)
    else:
        files.unlink(path)
