"""Snapshots beyond their store: copied out, brought in with another membership, and checked.

An exported snapshot is a directory with the same files and the same manifest as in the store, so
it can be verified anywhere, with nothing else at hand. Importing is how a group that has lost its
majority is brought back: the same snapshot, with a membership of those who are left.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rafter_core.membership import Membership
from rafter_storage.data_directory import is_directory
from rafter_storage.errors import SnapshotRefused, StorageError
from rafter_storage.file_system import REAL_FILE_SYSTEM, FileSystem
from rafter_storage.snapshot_directory import is_unfinished, place_of
from rafter_storage.snapshot_files import read_manifest
from rafter_storage.snapshot_reader import (
    SnapshotInfo,
    SnapshotReader,
    SnapshotReport,
    verify_directory,
)
from rafter_storage.snapshot_receiver import SnapshotReceiver
from rafter_storage.snapshot_store import SnapshotKind, SnapshotStore
from rafter_storage.snapshot_writer import SnapshotDraft, SnapshotPaths

__all__ = ["export_snapshot", "import_snapshot", "verify_path"]


def export_snapshot(
    info: SnapshotInfo, target: Path, *, files: FileSystem = REAL_FILE_SYSTEM
) -> SnapshotInfo:
    """Copy a snapshot to the directory ``target``, which must not exist; durable on return.

    Every chunk is verified on the way. Any thread, with a reader of the store open meanwhile so
    that the snapshot is not removed. A crash leaves nothing at ``target``, and perhaps
    ``<target>.exporting``. Raises ``SnapshotCorrupted``, ``SnapshotRefused`` if something is in
    the way, ``SnapshotFailed`` and ``StorageError`` if the disk cannot be used.
    """
    temporary = target.with_name(f"{target.name}.exporting")
    try:
        for path in (target, temporary):
            if files.status(path) is not None:
                raise SnapshotRefused(f"{path} exists: remove it, or export to another place")
        if not is_directory(files, target.parent):
            raise SnapshotRefused(f"{target.parent} is not a directory to export into")
    except OSError as error:
        raise StorageError(f"cannot export to {target}: {error}") from error
    paths = SnapshotPaths(temporary, target, None, (target.parent,))
    receiver = SnapshotReceiver(files, paths, info.manifest)
    with _abandoned_on_error(receiver), SnapshotReader(files, info) as reader:
        while (place := receiver.next_chunk) is not None:
            receiver.write_chunk(*place, reader.chunk(*place))
        return receiver.finish()


def import_snapshot(
    store: SnapshotStore,
    source: Path,
    group: int,
    membership: Membership,
    *,
    membership_index: int,
    files: FileSystem = REAL_FILE_SYSTEM,
) -> SnapshotInfo:
    """Bring the exported snapshot ``source`` in as one of ``group``; durable on return, and in use.

    Index and term stay. The membership becomes the one given, brought by ``membership_index``:
    the caller's to choose, not below that of the source, whose configuration it is to replace, and
    not above the snapshot's index (matrixone issue 24966). Every node of ``membership`` has to
    import the same. Owner thread, on a node that is stopped. Raises ``SnapshotRefused`` if the
    group has a snapshot of this index or above, which would win: remove the group first; raises
    ``SnapshotCorrupted``, ``SnapshotFailed`` and ``StorageError``.
    """
    manifest = read_manifest(files, source)
    if membership_index < manifest.membership_index:
        raise SnapshotRefused(
            f"the membership in {source} is of index {manifest.membership_index}: one of index "
            f"{membership_index} would look older than the one that it replaces"
        )
    highest = max((damaged.index for damaged in store.damaged if damaged.group == group), default=0)
    if highest >= manifest.index:
        raise SnapshotRefused(
            f"group {group} has a damaged snapshot of index {highest}: remove the group first"
        )
    writer = store.begin(
        group,
        manifest.index,
        manifest.term,
        membership,
        membership_index,
        kind=SnapshotKind.IMPORTING,
    )
    with (
        _abandoned_on_error(writer),
        SnapshotReader(files, SnapshotInfo(source, manifest)) as reader,
    ):
        for file in manifest.files:
            writer.write(file.name, b"")
            for chunk in reader.chunks(file.name):
                writer.write(file.name, chunk)
        writer.finish()
    return store.admit(writer)


def verify_path(path: Path, *, files: FileSystem = REAL_FILE_SYSTEM) -> SnapshotReport:
    """Check the snapshot in the directory ``path``, or the one file ``path`` of a snapshot.

    Needs nothing but the directory. If it is one of a store, by its name, it must also be of that
    group and index. Only reads; any thread. Raises ``SnapshotRefused`` if it is no part of a
    snapshot, nor one that is whole; ``StorageError`` if the disk cannot be read.
    """
    try:
        status = files.status(path)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error}") from error
    if status is None:
        raise SnapshotRefused(f"there is no {path}")
    directory, only = (path, None) if status.is_directory else (path.parent, path.name)
    if is_unfinished(directory):
        raise SnapshotRefused(f"{directory} holds a part of a snapshot, which was being written")
    group, index = place_of(directory) or (None, None)
    try:
        return verify_directory(files, directory, group=group, index=index, only=only)
    except KeyError:
        raise SnapshotRefused(f"the manifest in {directory} knows no file {only}") from None


@contextlib.contextmanager
def _abandoned_on_error(draft: SnapshotDraft) -> Iterator[None]:
    """Abort the draft if the block fails."""
    try:
        yield
    except BaseException:
        draft.abort()
        raise
