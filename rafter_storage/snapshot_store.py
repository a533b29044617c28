"""The snapshots of the groups of a shard: what there is, what is kept, what goes.

How they lie on disk is told in ``snapshot_directory``. A damaged snapshot is reported, and the
next older one is used; it goes only when a sound one of its index or above is there. What was
received in part before a restart is *kept*, for its sender to come back.
"""

import contextlib
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

from rafter_core.membership import Membership
from rafter_storage.data_directory import check_private, is_directory
from rafter_storage.errors import Damage, SnapshotRefused, StorageError
from rafter_storage.file_system import REAL_FILE_SYSTEM, FileSystem
from rafter_storage.snapshot_directory import (
    DamagedSnapshot,
    KeptDraft,
    SnapshotRemoval,
    group_directory,
    load_groups,
    published_name,
    removing_group,
    temporary_name,
)
from rafter_storage.snapshot_manifest import CHUNK_BYTES_MAX, Manifest, manifest_fault
from rafter_storage.snapshot_reader import SnapshotInfo, SnapshotReader, verify_directory
from rafter_storage.snapshot_receiver import SnapshotReceiver
from rafter_storage.snapshot_writer import SnapshotDraft, SnapshotPaths, SnapshotWriter

__all__ = [
    "SnapshotKind",
    "SnapshotStore",
]


class SnapshotKind(Enum):
    """How a snapshot comes to be written here; the ending of its temporary directory."""

    TAKING = "taking"
    RECEIVING = "receiving"
    IMPORTING = "importing"


class SnapshotStore:
    """Every snapshot of the groups that were opened here. Owner thread only, no sync on it.

    Exceptions are ``open``, which is for the start, and ``verify``, which only reads. The drafts,
    readers and removals that it gives out work on other threads, one thread at a time for each.
    Several processes may use one root, each for its own groups. ``retained`` is how many sound
    snapshots ``retire`` keeps of each group, at least 1; new files get chunks of ``chunk_bytes``.
    """

    def __init__(
        self,
        root: Path,
        *,
        files: FileSystem = REAL_FILE_SYSTEM,
        retained: int = 2,
        chunk_bytes: int = 256 << 10,
    ) -> None:
        if retained < 1:
            raise ValueError(f"at least one snapshot is retained, not {retained}")
        if not 1 <= chunk_bytes <= CHUNK_BYTES_MAX:
            raise ValueError(f"chunks have 1 to {CHUNK_BYTES_MAX} bytes, not {chunk_bytes}")
        self.root = root
        self.damaged: list[DamagedSnapshot] = []
        self._files = files
        self._retained = retained
        self._chunk_bytes = chunk_bytes
        self._snapshots: dict[int, list[SnapshotInfo]] = {}
        self._drafts: dict[int, list[SnapshotDraft]] = {}
        self._kept: dict[int, KeptDraft] = {}
        self._readers: list[SnapshotReader] = []
        self._last_number = 0

    def open(self, groups: Iterable[int] | None = None) -> dict[int, list[SnapshotInfo]]:
        """Load what there is of ``groups``, or of all, and return it: oldest first.

        Manifests are read and verified, files looked at for their sizes alone. What was unfinished
        is removed, but for the newest that had been received in part of each group. Damage is in
        ``damaged``. May be called again for further groups. Raises ``DataDirectoryError`` for
        wrong modes, owners and links, ``SnapshotRefused`` for a group of which one is being
        written, ``StorageError`` if the disk cannot be used.
        """
        wanted = None if groups is None else frozenset(groups)
        for group in sorted(self._drafts):
            if self._live_drafts(group) and (wanted is None or group in wanted):
                raise SnapshotRefused(f"a snapshot of group {group} is being written")
        try:
            if not is_directory(self._files, self.root):
                with contextlib.suppress(FileExistsError):
                    self._files.make_directory(self.root)
            # Even if it was there: who made it may have been killed before the sync.
            self._files.sync_directory(self.root.parent)
            check_private(self._files, self.root)
            loaded = [*load_groups(self._files, self.root, wanted)]
        except OSError as error:
            raise StorageError(f"cannot use the snapshots in {self.root}: {error}") from error
        for found in loaded:
            self._snapshots[found.group] = found.snapshots
            others = [damaged for damaged in self.damaged if damaged.group != found.group]
            self.damaged = [*others, *found.damaged]
            self._kept.pop(found.group, None)
            if found.draft is not None:
                self._kept[found.group] = found.draft
            self._last_number = max(self._last_number, found.last_number)
        return {found.group: [*found.snapshots] for found in loaded}

    # ---- what there is -------------------------------------------------------------------------

    def groups(self) -> list[int]:
        """Return the groups that have a sound snapshot, ascending."""
        return sorted(group for group, snapshots in self._snapshots.items() if snapshots)

    def snapshots(self, group: int) -> list[SnapshotInfo]:
        """Return the sound snapshots of a group, oldest first."""
        return [*self._snapshots.get(group, ())]

    def newest(self, group: int) -> SnapshotInfo | None:
        """Return the newest sound snapshot of a group, None without any."""
        snapshots = self._snapshots.get(group)
        return snapshots[-1] if snapshots else None

    def oldest_retained_index(self, group: int) -> int:
        """Return the index of the oldest snapshot that ``retire`` keeps, 0 without any."""
        snapshots = self._snapshots.get(group)
        return snapshots[-self._retained :][0].index if snapshots else 0

    def compactable_index(self, group: int) -> int:
        """Return the index up to which the log may be cut so that every fallback still works.

        It is that of the oldest retained snapshot. As long as there are fewer than are to be
        retained it is 0: with the whole log, the beginning is what to fall back to.
        """
        snapshots = self._snapshots.get(group, ())
        return self.oldest_retained_index(group) if len(snapshots) >= self._retained else 0

    def oldest_read_index(self, group: int) -> int | None:
        """Return the index of the oldest snapshot of which a reader is open, None without any.

        Who is sent that one will need the log behind it.
        """
        return min(
            (each.info.index for each in self._open_readers() if each.info.group == group),
            default=None,
        )

    def read(self, info: SnapshotInfo) -> SnapshotReader:
        """Return a reader, to be closed by its user; until then the snapshot is not removed."""
        reader = SnapshotReader(self._files, info)
        self._open_readers().append(reader)
        return reader

    def verify(self, info: SnapshotInfo) -> list[Damage]:
        """Read and check every byte; return the faults, none if it is sound. Any thread.

        Raises ``StorageError`` if the disk cannot be read.
        """
        report = verify_directory(self._files, info.path, group=info.group, index=info.index)
        return [*report.faults]

    def mark_damaged(self, info: SnapshotInfo, damage: Damage) -> None:
        """Take a snapshot out of use, so that ``newest`` is the one before.

        For who has met ``SnapshotCorrupted``. On disk nothing is changed: after the next start it
        counts as sound again until it is read. Nothing happens if the snapshot is not in use.
        """
        snapshots = self._snapshots.get(info.group, [])
        if info in snapshots:
            snapshots.remove(info)
            self.damaged.append(DamagedSnapshot(info.group, info.index, info.path, damage))

    # ---- what comes ----------------------------------------------------------------------------

    def begin(
        self,
        group: int,
        index: int,
        term: int,
        membership: Membership,
        membership_index: int,
        *,
        kind: SnapshotKind = SnapshotKind.TAKING,
    ) -> SnapshotWriter:
        """Begin a snapshot of the state after ``index``. Nothing is on disk yet.

        Raises ``SnapshotRefused`` if there is one of this index or above, if one of this index is
        being written, or if it could not be a snapshot.
        """
        is_imported = kind is SnapshotKind.IMPORTING
        manifest = Manifest(group, index, term, membership, membership_index, (), is_imported)
        fault = manifest_fault(manifest)
        if fault is not None:
            raise SnapshotRefused(f"this cannot be a snapshot: {fault}")
        newest = self.newest(group)
        if newest is not None and newest.index >= index:
            raise SnapshotRefused(
                f"group {group} has a snapshot of index {newest.index}, "
                f"one of index {index} is of no use"
            )
        paths = self._paths(group, index, kind)
        writer = SnapshotWriter(self._files, paths, manifest, self._chunk_bytes)
        self._drafts[group].append(writer)
        return writer

    def receive(self, manifest: Manifest) -> SnapshotReceiver | SnapshotInfo:
        """Begin to receive the snapshot that a peer's manifest describes.

        Returns the snapshot of that place instead if a sound one is there already: it holds the
        same state, whoever took it. If what was kept is of this very manifest, the receiver goes on
        with that and is to ``recover`` first. Raises ``SnapshotRefused`` as ``begin``.
        """
        group, index = manifest.group, manifest.index
        newest = self.newest(group)
        if newest is not None and newest.index >= index:
            if (newest.index, newest.term) == (index, manifest.term):
                return newest
            raise SnapshotRefused(
                f"group {group} has a snapshot of index {newest.index} and term {newest.term}, "
                f"one of index {index} and term {manifest.term} is of no use"
            )
        paths = self._paths(group, index, SnapshotKind.RECEIVING)
        kept = self._kept.get(group)
        is_kept = kept is not None and kept.manifest == manifest
        if is_kept:
            paths = paths._replace(temporary=self._kept.pop(group).path)
        receiver = SnapshotReceiver(self._files, paths, manifest, is_kept=is_kept)
        self._drafts[group].append(receiver)
        return receiver

    def kept(self) -> list[Manifest]:
        """Return what is kept and nobody has come back for, as what it is to become; by group."""
        return [self._kept[group].manifest for group in sorted(self._kept)]

    def drop_kept(self, group: int) -> SnapshotRemoval:
        """Let go of what is kept of a group, if anything is. Returns what is to be run elsewhere.

        For when its sender has offered another snapshot, or did not come back.
        """
        kept = self._kept.pop(group, None)
        paths = [] if kept is None else [kept.path]
        return SnapshotRemoval(self._files, group_directory(self.root, group), paths)

    def admit(self, draft: SnapshotDraft) -> SnapshotInfo:
        """Take a finished draft into use. Older snapshots stay until ``retire``.

        Raises ``SnapshotRefused`` if it is not finished, or was admitted before.
        """
        info = draft.info
        drafts = self._drafts.get(draft.manifest.group, [])
        if info is None or draft not in drafts:
            raise SnapshotRefused(f"the snapshot in {draft.paths.published} is not one to admit")
        drafts.remove(draft)
        if draft.displaced is not None:
            self._displace(info, draft.displaced)
        snapshots = self._snapshots.setdefault(info.group, [])
        snapshots.append(info)
        snapshots.sort(key=lambda snapshot: snapshot.index)
        return info

    # ---- what goes -----------------------------------------------------------------------------

    def retire(self, group: int) -> SnapshotRemoval:
        """Let go of the snapshots beyond the newest ``retained``, and of what they have passed.

        That is damaged ones below them, and what is kept of one that is not newer. Call it once the
        log's metadata that names the newest is durable. The newest stays, and so does what is being
        read. Returns what is to be run elsewhere. Raises ``StorageError``.
        """
        snapshots = self._snapshots.get(group, [])
        read = {reader.info.path for reader in self._open_readers()}
        retired = [info for info in snapshots[: -self._retained] if info.path not in read]
        newest_index = snapshots[-1].index if snapshots else 0
        superseded = [
            damaged
            for damaged in self.damaged
            if damaged.group == group and damaged.index <= newest_index and damaged.path not in read
        ]
        parent = group_directory(self.root, group)
        moved = []
        # One by one, so that a failure leaves the listing as the disk is.
        for info in retired:
            moved.append(self._move_out(info.path, parent, info.index))
            snapshots.remove(info)
        for damaged in superseded:
            moved.append(self._move_out(damaged.path, parent, damaged.index))
            self.damaged.remove(damaged)
        kept = self._kept.get(group)
        if kept is not None and kept.manifest.index <= newest_index:
            moved.append(self._kept.pop(group).path)
        return SnapshotRemoval(self._files, parent, moved)

    def remove_group(self, group: int) -> SnapshotRemoval:
        """Let go of all snapshots of a group, at once or not at all; what is being read too.

        Call it once it is durable elsewhere that the group has gone; after a crash it may have to
        be called again. Raises ``SnapshotRefused`` while one is being written, ``StorageError``.
        """
        if self._live_drafts(group):
            raise SnapshotRefused(f"a snapshot of group {group} is being written: abort it first")
        path = group_directory(self.root, group)
        moved = []
        try:
            if self._files.status(path) is not None:
                moved.append(removing_group(self.root, group, self._next_number()))
                self._files.rename(path, moved[0])
        except OSError as error:
            raise StorageError(f"cannot remove {path}: {error}") from error
        self._snapshots.pop(group, None)
        self._drafts.pop(group, None)
        self._kept.pop(group, None)
        self.damaged = [damaged for damaged in self.damaged if damaged.group != group]
        return SnapshotRemoval(self._files, self.root, moved)

    # ---- below ---------------------------------------------------------------------------------

    def _open_readers(self) -> list[SnapshotReader]:
        self._readers = [reader for reader in self._readers if reader.is_open]
        return self._readers

    def _live_drafts(self, group: int) -> list[SnapshotDraft]:
        """Return the group's drafts that are being written, or finished and not admitted."""
        drafts = self._drafts.setdefault(group, [])
        drafts[:] = [draft for draft in drafts if draft.info is not None or not draft.is_over]
        return drafts

    def _paths(self, group: int, index: int, kind: SnapshotKind) -> SnapshotPaths:
        """Return where a new draft goes. Raises ``SnapshotRefused`` if its place is taken."""
        if any(draft.manifest.index == index for draft in self._live_drafts(group)):
            raise SnapshotRefused(f"a snapshot of group {group}, index {index} is being written")
        parent = group_directory(self.root, group)
        return SnapshotPaths(
            parent / temporary_name(index, self._next_number(), kind.value),
            parent / published_name(index),
            parent / temporary_name(index, self._next_number(), "damaged"),
            (parent, self.root),
        )

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def _displace(self, info: SnapshotInfo, displaced: Path) -> None:
        """Note that what stood in the place of a new snapshot has been moved aside."""
        damage = Damage(info.path, 0, "a sound one came in its place")
        for number, damaged in enumerate(self.damaged):
            if damaged.path == info.path:
                self.damaged[number] = damaged._replace(path=displaced)
                return
        self.damaged.append(DamagedSnapshot(info.group, info.index, displaced, damage))

    def _move_out(self, path: Path, parent: Path, index: int) -> Path:
        """Give what is to be removed a name that says so, and return it."""
        target = parent / temporary_name(index, self._next_number(), "removing")
        try:
            self._files.rename(path, target)
        except OSError as error:
            raise StorageError(f"cannot rename {path} to {target}: {error}") from error
        return target
