"""The log and the snapshots of a shard, used as a node uses them, and what was promised of them.

``Node`` keeps the model of what must survive up to date with every step it takes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from rafter_storage.errors import Damage, DiskFull
from rafter_storage.file_system import FileSystem
from rafter_storage.segment_manager import (
    FoundedGroup,
    GroupChange,
    GroupWrite,
    SegmentManager,
    WriteJob,
)
from rafter_storage.snapshot_manifest import Manifest, encode_manifest
from rafter_storage.snapshot_reader import SnapshotInfo
from rafter_storage.snapshot_receiver import SnapshotReceiver
from rafter_storage.snapshot_store import SnapshotKind, SnapshotStore
from tests.crash.model import FOUNDING, Divergent, GroupModel, Groups, History, Lost, observe
from tests.crash.watched import WatchedFileSystem, killed
from tests.storage.fake_file_system import CrashMode, FakeFileSystem
from tests.storage.snapshot_support import snapshot_file
from tests.storage.support import has_log

__all__ = ["Job", "ManagerType", "Node", "SnapshotClaims", "open_manager", "open_store"]

SEGMENT_BYTES = 64 << 10
SNAPSHOT_CHUNK_BYTES = 700

ManagerType = Callable[..., SegmentManager]


def open_manager(
    files: FakeFileSystem | WatchedFileSystem,
    seed: int,
    *,
    spares_max: int = 0,
    is_direct: bool = False,
    manager_type: ManagerType = SegmentManager,
) -> SegmentManager:
    """Open the log on a disk, which is made if no crash has left a segment of it.

    Nothing is kept in memory, so that every read is of the disk.
    """
    draw = random.Random(seed)
    base = files.fake.base if isinstance(files, WatchedFileSystem) else files.base
    manager = manager_type(
        base / "shard",
        segment_bytes=SEGMENT_BYTES,
        tail_bytes_max=0,
        spares_max=spares_max,
        is_direct=is_direct,
        files=_as_file_system(files),
        draw=lambda: draw.getrandbits(62) | 1,
    )
    if not has_log(_as_file_system(files), base / "shard"):
        # What that would lose is lost, and is missed.
        manager.create()
    manager.open()
    return manager


def open_store(files: FakeFileSystem | WatchedFileSystem) -> SnapshotStore:
    """Open the snapshots on a disk."""
    base = files.fake.base if isinstance(files, WatchedFileSystem) else files.base
    store = SnapshotStore(
        base / "snapshots", files=_as_file_system(files), chunk_bytes=SNAPSHOT_CHUNK_BYTES
    )
    store.open()
    return store


def receive_rest(receiver: SnapshotReceiver, data: bytes) -> Iterator[None]:
    """Take over what is there, receive what is missing, and publish it; yield before each chunk."""
    while receiver.recover(SNAPSHOT_CHUNK_BYTES):
        pass
    while (place := receiver.next_chunk) is not None:
        yield
        name, number = place
        start = number * SNAPSHOT_CHUNK_BYTES
        receiver.write_chunk(name, number, data[start : start + SNAPSHOT_CHUNK_BYTES])
    receiver.finish()


def _as_file_system(files: FakeFileSystem | WatchedFileSystem) -> FileSystem:
    return files.as_file_system() if isinstance(files, WatchedFileSystem) else files


class SnapshotClaims:
    """Which snapshots must be found after a crash, and which may: (group, index).

    ``offered`` is what was ever begun to be received, by the bytes of its manifest.
    """

    def __init__(self) -> None:
        self.required: set[tuple[int, int]] = set()
        self.possible: set[tuple[int, int]] = set()
        self.offered: dict[bytes, bytes] = {}

    def restart(self, store: SnapshotStore) -> None:
        """Go on from what was found."""
        found = {(info.group, info.index) for group in store.groups()
                 for info in store.snapshots(group)}  # fmt: skip
        self.required, self.possible = found, set(found)

    def let_go(self, group: int, indexes: Sequence[int]) -> None:
        """Say that these need not be there any more; they may."""
        self.required -= {(group, index) for index in indexes}

    def check(self, store: SnapshotStore, seen: Groups) -> None:
        """Hold what is found against the claims, and against what the logs say."""
        for damaged in store.damaged:
            raise Lost(f"a snapshot is damaged: {damaged}")
        infos = [info for group in store.groups() for info in store.snapshots(group)]
        found = {(info.group, info.index) for info in infos}
        if not self.required <= found:
            raise Lost(f"the snapshots {sorted(self.required - found)} are not there")
        if not found <= self.possible:
            raise Divergent(f"snapshots {sorted(found - self.possible)} are there")
        for info in infos:
            if store.verify(info):
                raise Lost(f"a snapshot is not whole: {store.verify(info)}")
        for group, state in seen.items():
            self._check_group(group, state, [info.index for info in store.snapshots(group)])

    def end_drafts(self, store: SnapshotStore) -> list[SnapshotInfo]:
        """Receive the rest of what has come in part; return the snapshots that this makes."""
        ended = []
        for manifest in store.kept():
            data = self.offered.get(encode_manifest(manifest))
            if data is None:
                raise Divergent(f"a part of {manifest} is there, which was not offered")
            receiver = store.receive(manifest)
            assert isinstance(receiver, SnapshotReceiver)
            for _ in receive_rest(receiver, data):
                pass
            ended.append(store.admit(receiver))
        return ended

    def _check_group(self, group: int, state: GroupModel, indexes: list[int]) -> None:
        metadata = state.metadata
        if metadata.snapshot_index and metadata.snapshot_index > max(indexes, default=0):
            raise Lost(f"group {group} has the snapshots {indexes}, its log names {metadata}")
        base, last = metadata.base_index, state.last_index
        if base and not any(base <= index <= last for index in indexes):
            raise Lost(f"group {group} has the snapshots {indexes} and the log {base} to {last}")
        # The older ones are to fall back to: the log must reach back to them, unless it was reset.
        retained = sorted(index for owner, index in self.required if owner == group)[-2:]
        if base != metadata.snapshot_index and retained and retained[0] < base:
            raise Lost(f"group {group} could not fall back to {retained[0]}, its log is {metadata}")


class Node:
    """A shard's log and snapshots on a disk that is watched, and the claims about them."""

    def __init__(
        self,
        files: FakeFileSystem,
        watch: Callable[[], None],
        *,
        seed: int,
        omitted: frozenset[str] = frozenset(),
        manager_type: ManagerType = SegmentManager,
        is_hasty: bool = False,
    ) -> None:
        self._watch = watch
        self._omitted = omitted
        self._manager_type = manager_type
        self._is_hasty = is_hasty
        self._seed = seed
        self._starts = 0
        self.history = History()
        self.claims = SnapshotClaims()
        self.counts: Counter[str] = Counter()
        self.files = self._watched(files)
        files.make_directory(files.base / "shard")
        files.settle()
        self.manager: SegmentManager
        self.store: SnapshotStore
        self._numbers: dict[int, tuple[int, bool]] = {}

    @property
    def spares_max(self) -> int:
        return self._seed % 3

    @property
    def is_direct(self) -> bool:
        return self._seed % 4 == 3

    def _watched(self, files: FakeFileSystem) -> WatchedFileSystem:
        return WatchedFileSystem(files, self._watch, self._omitted)

    # Starting and stopping.

    def start(self) -> None:
        """Open everything, and do what a node does first."""
        self._starts += 1
        self.manager = open_manager(
            self.files,
            self._seed * 1000 + self._starts,
            spares_max=self.spares_max,
            is_direct=self.is_direct,
            manager_type=self._manager_type,
        )
        seen = observe(self.manager)
        self.history.check(seen)
        self.history.restart(seen)
        self.store = open_store(self.files)
        self.claims.check(self.store, seen)
        self.claims.restart(self.store)
        self._numbers.clear()
        for group in self.store.groups():
            self._reconcile(group)

    def _reconcile(self, group: int) -> None:
        """Do with the snapshots that are a step ahead of the log as a start of the daemon does.

        What was taken is used, though the log does not name it. What was received and not installed
        is set aside.
        """
        state = self.history.newest.get(group)
        if state is None:
            self.remove_snapshots(group)
            return
        base = state.metadata.base_index
        for info in self.store.snapshots(group):
            index = info.index
            if index > base and (index > state.last_index or state.term(index) != info.term):
                self.store.mark_damaged(info, Damage(info.path, 0, "not of the log"))
                self.counts["snapshots set aside"] += 1

    def stop(self) -> None:
        """Close the log: then everything is durable."""
        self.manager.close()
        self.history.acknowledge(len(self.history.states) - 1)
        self.counts["closed"] += 1

    def crash(self, mode: CrashMode, draw: random.Random) -> None:
        """Let the machine stop and start again."""
        self.counts[f"crashed {mode.name}"] += 1
        self.files = self._watched(self.files.fake.crash(mode, draw))
        self.start()

    def kill(self) -> None:
        """Let the process stop and start again."""
        self.counts["killed"] += 1
        self.files = self._watched(killed(self.files.fake))
        self.start()

    # Jobs.

    def begin(
        self,
        writes: Sequence[GroupWrite],
        changes: Sequence[GroupChange] = (),
        founded: Sequence[FoundedGroup] = (),
    ) -> Job:
        """Begin a job."""
        number, must_sync = self.history.begin(writes, changes, founded)
        return Job(self, number, must_sync, self.manager.begin(writes, changes, founded))

    def do(
        self,
        writes: Sequence[GroupWrite],
        changes: Sequence[GroupChange] = (),
        founded: Sequence[FoundedGroup] = (),
    ) -> None:
        """Do a whole job."""
        job = self.begin(writes, changes, founded)
        job.run()
        job.complete()

    def keep_house(self, steps_max: int) -> None:
        """Do some steps of housekeeping."""
        for _ in range(steps_max):
            chore = self.manager.chore()
            if chore is None:
                return
            self.counts[type(chore).__name__] += 1
            chore.run()
            self.manager.complete_chore(chore, None)

    # Snapshots.

    def take_snapshot(
        self, group: int, index: int, term: int, data: bytes, kind: SnapshotKind
    ) -> None:
        """Write a snapshot; it is durable on return."""
        self.claims.possible.add((group, index))
        writer = self.store.begin(group, index, term, FOUNDING, 0, kind=kind)
        writer.write("state", data)
        writer.finish()
        self.claims.required.add((group, index))
        self.store.admit(writer)

    def receive_snapshot(self, group: int, index: int, term: int, data: bytes) -> Iterator[None]:
        """Receive a snapshot, and yield before each chunk; it is durable at the end.

        Who breaks it off calls this again after the restart, and it goes on.
        """
        file = snapshot_file("state", data, SNAPSHOT_CHUNK_BYTES)
        manifest = Manifest(group, index, term, FOUNDING, 0, (file,))
        self.claims.possible.add((group, index))
        self.claims.offered[encode_manifest(manifest)] = data
        receiver = self.store.receive(manifest)
        if isinstance(receiver, SnapshotInfo):
            return
        self.store.drop_kept(group).run()
        yield from receive_rest(receiver, data)
        self.claims.required.add((group, index))
        self.store.admit(receiver)

    def retire_snapshots(self, group: int) -> None:
        """Remove the snapshots of a group that are not retained."""
        snapshots = [info.index for info in self.store.snapshots(group)]
        aside = [damaged.index for damaged in self.store.damaged if damaged.group == group]
        indexes = snapshots[:-2]
        indexes += [index for index in aside if index < snapshots[-1] and index not in snapshots]
        self.claims.let_go(group, indexes)
        self.store.retire(group).run()
        self.claims.possible -= {(group, index) for index in indexes}
        self.counts["snapshots retired"] += len(indexes)

    def remove_snapshots(self, group: int) -> None:
        """Remove all snapshots of a group, those that are set aside too."""
        indexes = [info.index for info in self.store.snapshots(group)]
        indexes += [damaged.index for damaged in self.store.damaged if damaged.group == group]
        self.claims.let_go(group, indexes)
        self.store.remove_group(group).run()
        self.claims.possible -= {(group, index) for index in indexes}


class Job:
    """A job of the log, and the state of the model that it leads to."""

    def __init__(self, node: Node, number: int, must_sync: bool, job: WriteJob) -> None:
        self._node = node
        self._number = number
        self._must_sync = must_sync
        self._job = job

    def run(self) -> None:
        """Run it; if the disk is full, once more."""
        node = self._node
        counts = node.counts
        counts["jobs"] += 1
        counts["rolls with a spare"] += self._job.spare is not None
        counts["rolls without a spare"] += self._job.roll is not None and self._job.spare is None
        counts["marks"] += bool(self._job.first_sequence)
        node.history.top = max(node.history.top, self._number)
        if node._is_hasty and self._must_sync:
            node.history.acknowledge(self._number)
        try:
            self._job.run()
        except DiskFull:
            counts["disk full"] += 1
            node.manager.disk_is_full(self._job)
            self._job.run()
        if self._must_sync:
            node.history.acknowledge(self._number)

    def complete(self) -> None:
        """Complete it."""
        self._node.manager.complete(self._job)
        for draft, _, _ in self._job.drafts:
            self._node.counts[draft.kind.name] += 1
