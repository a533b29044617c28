"""A crash after every operation of a change of the number of shards: part of ``make crash``.

A node's logs are drawn, and its number of shards is changed. What a crash leaves after any
operation must open as the old layout or as the new one, with every group in its place and exactly
what it had; and the next start must bring the change to its end.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import random
import sys
from collections.abc import Callable
from pathlib import Path

from rafter_core.entries import Entry, HardState
from rafter_core.membership import Membership
from rafter_core.snapshot import Snapshot
from rafter_storage.data_directory import DataDirectory
from rafter_storage.errors import StorageError
from rafter_storage.file_system import FileSystem
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.identity import Identity
from rafter_storage.resharding import settle_layout
from rafter_storage.segment_manager import GroupChange, GroupWrite, SegmentManager
from tests.crash.failure import Failure
from tests.crash.model import Divergent, Lost, Violation
from tests.crash.watched import WatchedFileSystem
from tests.storage.fake_file_system import CrashMode, FakeFileSystem
from tests.storage.fake_support import fingerprint
from tests.storage.support import SEGMENT_BYTES, all_entries, entries

__all__ = ["LayoutChanges", "main"]

Contents = dict[int, tuple[HardState, GroupMetadata, list[Entry]]]

MEMBERS = Membership((1, 2, 3))
GROUPS = 6
SHARDS_MAX = 3


class _Stop(Exception):
    """Enough states were seen."""


class LayoutChanges:
    """Crash states of changes of the number of shards, until ``states_max`` were tried."""

    def __init__(
        self,
        *,
        states_max: int,
        omitted: frozenset[str] = frozenset(),
        failures_max: int = 20,
        report: Callable[[Failure], None] = lambda _: None,
    ) -> None:
        self.states = 0
        self.failures: list[Failure] = []
        self._states_max = states_max
        self._omitted = omitted
        self._failures_max = failures_max
        self._report = report
        # The disks of one change that were tried: in another mode, or after an operation that
        # only prepares for a sync, a crash often leaves the same.
        self._sound: set[int] = set()

    def run(self, first_seed: int) -> None:
        """Try the change of ``first_seed``, and of those after it."""
        for seed in itertools.count(first_seed):
            if self._is_over:
                return
            self.run_change(seed)

    def run_change(self, seed: int, only: tuple[int, str] | None = None) -> None:
        """Change a drawn node, with crashes after each operation, or one crash alone."""
        self._sound.clear()
        draw = random.Random(f"{seed} layouts")
        before, after = draw.sample(range(SHARDS_MAX + 1), 2)
        if not after:
            before, after = after, before
        files = FakeFileSystem(is_journaled=False)
        path = files.base / "node"
        # From no shards is what a first start does, on a disk that is empty.
        expected = _fill(path, files, before, draw) if before else {}
        files.settle()
        operation = 0

        def crash() -> None:
            nonlocal operation
            operation += 1
            for mode in CrashMode:
                if self._is_over:
                    # The log takes this for a failure, and does what it does after one.
                    raise _Stop
                if only is None or only == (operation, mode.name):
                    state = files.crash(mode, random.Random(f"{seed} {operation} {mode.name}"))
                    self._judge(seed, operation, mode, state, after, expected)

        watched = WatchedFileSystem(files, crash, self._omitted)
        try:
            _start(path, after, watched.as_file_system())
        except (_Stop, StorageError) as error:
            if not self._is_over:
                self._fail("unbootable", seed, operation, "none", error)

    @property
    def _is_over(self) -> bool:
        return self.states >= self._states_max or len(self.failures) >= self._failures_max

    def _judge(
        self,
        seed: int,
        operation: int,
        mode: CrashMode,
        files: FakeFileSystem,
        shards: int,
        expected: Contents,
    ) -> None:
        self.states += 1
        path = files.base / "node"
        disk = fingerprint(files)
        if disk in self._sound:
            return
        try:
            _check(expected, _contents(path, _identity(path, files), files))
            identity = _start(path, shards, files)
            left = files.crash(CrashMode.LOST)
            if identity.shards != shards or _identity(path, left) != identity:
                raise Divergent(f"{identity.shards} shards instead of {shards}, or not for good")
            _check(expected, _contents(path, identity, left))
            self._sound.add(disk)
        except Violation as error:
            kind = "lost" if isinstance(error, Lost) else "divergent"
            self._fail(kind, seed, operation, mode.name, error)
        except (StorageError, OSError) as error:
            self._fail("unbootable", seed, operation, mode.name, error)

    def _fail(self, kind: str, seed: int, operation: int, mode: str, error: Exception) -> None:
        failure = Failure("layouts", kind, seed, operation, mode, str(error))
        self.failures.append(failure)
        self._report(failure)


def _identity(path: Path, files: FileSystem, shards: int = 1) -> Identity:
    directory = DataDirectory.acquire(path, files=files)
    try:
        return Identity.load_or_create(
            directory, cluster_name="demo", node_id=1, groups=GROUPS, replication=1
        )
    finally:
        directory.release()


def _start(path: Path, shards: int, files: FileSystem) -> Identity:
    """What a node does before it forks its shards."""
    identity = _identity(path, files, shards)
    directory = DataDirectory.acquire(path, files=files)
    try:
        return settle_layout(
            directory, identity, shards, place=_place, segment_bytes=SEGMENT_BYTES,
            draw=itertools.count(1).__next__,
        )  # fmt: skip
    finally:
        directory.release()


def _place(group: int, shards: int) -> int:
    return group % shards


def _open(path: Path, identity: Identity, shard: int, files: FileSystem) -> SegmentManager:
    directory = path / f"shards-{identity.layout:05d}" / f"{shard:05d}"
    manager = SegmentManager(
        directory, segment_bytes=SEGMENT_BYTES, tail_bytes_max=0, spares_max=0, files=files
    )
    manager.open()
    return manager


def _contents(path: Path, identity: Identity, files: FileSystem) -> Contents:
    """Read all groups from the disk, each where it belongs."""
    found: Contents = {}
    for shard in range(identity.shards):
        manager = _open(path, identity, shard, files)
        if manager.damaged or manager.shard_damage:
            raise Lost(f"shard {shard}: {manager.shard_damage or manager.damaged}")
        for group in manager.groups():
            if _place(group, identity.shards) != shard:
                raise Divergent(f"group {group} is in shard {shard} of {identity.shards}")
            log = manager.group_log(group, MEMBERS)
            found[group] = (log.initial_state()[0], manager.metadata(group), all_entries(log))
        manager.close()
    return found


def _check(expected: Contents, found: Contents) -> None:
    for group, state in expected.items():
        if group not in found:
            raise Lost(f"group {group} is gone")
        if found[group] != state:
            raise Divergent(f"group {group} is {found[group]!r:.300}, it was {state!r:.300}")
    if found.keys() != expected.keys():
        raise Divergent(f"groups {sorted(found)} instead of {sorted(expected)}")


def _fill(path: Path, files: FakeFileSystem, shards: int, draw: random.Random) -> Contents:
    """Make a node whose groups have drawn logs."""
    identity = _start(path, shards, files)
    for shard in range(shards):
        manager = _open(path, identity, shard, files)
        for group in range(shard, GROUPS, shards):
            for write, change in _drawn(group, draw):
                job = manager.begin([write], [change])
                job.run()
                manager.complete(job)
        manager.close()
    return _contents(path, identity, files)


def _drawn(group: int, draw: random.Random) -> list[tuple[GroupWrite, GroupChange]]:
    """Return the life of one group: a vote, entries of several terms, a snapshot, a cut."""
    nothing = GroupChange(group)
    life = [(GroupWrite(group, HardState(1, draw.randint(0, 3), 0)), nothing)]
    base = 0
    if draw.random() < 0.4:
        base = draw.randint(1, 50)
        installed = Snapshot(base, 1, MEMBERS)
        life.append((GroupWrite(group, HardState(2, 1, base), snapshot=installed), nothing))
    last = base + draw.randint(0, 30)
    if last > base:
        added = entries(base + 1, last, term=2)
        life.append((GroupWrite(group, HardState(2, 1, last), added), nothing))
        added = entries(last + 1, last + 4, term=3)
        life.append((GroupWrite(group, HardState(3, 0, last), added), nothing))
    if last > base + 2 and draw.random() < 0.5:
        changed = GroupChange(group, (last - 1, MEMBERS), (last, 2), last - 2)
        life.append((GroupWrite(group), changed))
    return life


def main(arguments: list[str] | None = None) -> int:
    """Replay one state and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--operation", type=int, required=True)
    parser.add_argument("--mode", required=True)
    options = parser.parse_args(arguments)
    logging.getLogger("rafter_storage").setLevel(logging.CRITICAL + 1)
    changes = LayoutChanges(states_max=1)
    changes.run_change(options.seed, (options.operation, options.mode))
    for failure in changes.failures:
        sys.stdout.write(f"{failure}\n")
    return 1 if changes.failures else 0


if __name__ == "__main__":
    sys.exit(main())
