"""A crash after every operation of a workload, and what is on the disk then: ``make crash``.

While a drawn workload runs (``workload``), every operation that changes the disk is followed by
crashes of a copy of it, in each mode of the fake file system. Of each state, the log and the
snapshots are opened, everything is read back from the disk and held against the model (``model``),
then every group is written to, and the log closed, opened and checked again. KILLED is the mode in
which only the process stops: what is pending stays so, and the machine stops after the further
writes. Of a sample of states, recovery itself is stopped after each of its operations.

States that were seen before, under the same claims, are not counted and not tried again. A disk
that was recovered a short while ago is only held against the claims of now: what is read from
it, and how it goes on, does not depend on them. A part of all states are those of changes of
the number of shards (``layouts``).

The last line is ``N crash states, 0 lost, 0 unbootable, 0 divergent``. The number of an operation
depends on the code that is tested, so a violation is to be replayed before anything is changed.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from rafter_core.entries import Entry, EntryKind
from rafter_storage.errors import StorageError
from rafter_storage.segment_manager import GroupWrite, SegmentManager
from rafter_storage.snapshot_store import SnapshotStore
from tests.crash.failure import Failure
from tests.crash.layouts import LayoutChanges
from tests.crash.model import Divergent, Groups, History, Lost, Violation, observe
from tests.crash.node import ManagerType, Node, open_manager, open_store
from tests.crash.watched import WatchedFileSystem, killed
from tests.crash.workload import Workload
from tests.storage.fake_file_system import CrashMode, FakeFileSystem
from tests.storage.fake_support import fingerprint

__all__ = ["Enumeration", "main"]

STEPS = 150
# One state in so many is of a change of the number of shards.
_LAYOUTS_SHARE = 8
KILLED = "killed"
_MODES = ("lost", "kept", "size_only", "torn:0", "torn:1", "reordered:0", "reordered:1", KILLED)
# Recovery is followed operation by operation in one of so many states.
_RECOVERY_SAMPLE = 40
_RECOVERY_MODES = ("lost", "torn:0", "reordered:0")
# Crashes leave the same disk again and again until the next sync, and hardly ever after that.
_RECOVERED_MAX = 16


class _Stop(Exception):
    """Enough states were seen."""


class Enumeration:
    """Crash states of one workload after another, until ``states_max`` were tried.

    ``omitted`` methods of the file system do nothing, ``manager_type`` replaces the log, and a
    hasty node believes what it has only begun to write: for tests of the enumeration itself. After
    each operation ``modes_max`` of ``modes`` are tried, drawn if that is not all of them.
    """

    def __init__(
        self,
        *,
        states_max: int,
        omitted: frozenset[str] = frozenset(),
        manager_type: ManagerType = SegmentManager,
        is_hasty: bool = False,
        failures_max: int = 20,
        modes_max: int = len(_MODES),
        modes: Sequence[str] = _MODES,
        report: Callable[[Failure], None] = lambda _: None,
    ) -> None:
        self.states = 0
        self.failures: list[Failure] = []
        self.counts: Counter[str] = Counter()
        self._states_max = states_max
        self._omitted = omitted
        self._manager_type = manager_type
        self._is_hasty = is_hasty
        self._failures_max = failures_max
        self._report = report
        self._modes = modes
        self._modes_max = min(modes_max, len(modes))
        self._only: tuple[int, str] | None = None
        self._seed = 0
        self._operation = 0
        self._is_stopped = False
        self._node: Node
        self._seen: set[tuple[int, int, int]] = set()
        # By the fingerprint of a disk, and by how it was gone on with.
        self._recovered: dict[tuple[int, bool], Groups] = {}

    def run(self, first_seed: int) -> None:
        """Try the workloads of ``first_seed`` and of those after it."""
        seed = first_seed
        while self.states < self._states_max and len(self.failures) < self._failures_max:
            self.run_workload(seed)
            seed += 1

    def replay(self, seed: int, operation: int, mode: str) -> None:
        """Try one state alone."""
        self._only = (operation, mode)
        self.run_workload(seed)

    def run_workload(self, seed: int) -> None:
        """Run one workload, with crashes after each operation."""
        self._seed, self._operation = seed, 0
        self._is_stopped = False
        self._seen.clear()
        self._recovered.clear()
        files = FakeFileSystem(is_journaled=False)
        self._node = Node(
            files,
            self._crash,
            seed=seed,
            omitted=self._omitted,
            manager_type=self._manager_type,
            is_hasty=self._is_hasty,
        )
        try:
            Workload(self._node, seed).run(STEPS)
        except (_Stop, Violation, StorageError, OSError) as error:
            # The log takes any exception in its way for a failure, and raises its own.
            if not self._is_stopped:
                self._fail("workload", error)
        self.counts += self._node.counts

    def _crash(self) -> None:
        """Try the states that a crash may leave now."""
        self._operation += 1
        if self._only is not None and self._only[0] != self._operation:
            return
        draw = random.Random(f"{self._seed} {self._operation} modes")
        modes = draw.sample(self._modes, self._modes_max)
        for mode in modes if self._only is None else [self._only[1]]:
            first_mode, *others = mode.split("+")
            if not others and not self._try(first_mode, mode):
                continue
            draw = random.Random(f"{self._seed} {self._operation} {mode}")
            is_sampled = self._only is None and draw.randrange(_RECOVERY_SAMPLE) == 0
            if others:
                self._crash_recovery(first_mode, [(int(others[0]), others[1])])
            elif is_sampled:
                self._crash_recovery(first_mode, None)
            if self.states >= self._states_max or len(self.failures) >= self._failures_max:
                self._stop()
        if self._only is not None:
            self._stop()

    def _stop(self) -> None:
        self._is_stopped = True
        raise _Stop

    def _try(self, mode: str, name: str) -> bool:
        """Try one state; return whether it is new."""
        state = self._state(self._node.files.fake, mode, name)
        history = self._node.history
        if mode == KILLED:
            self._judge(name, state, None)
            return True
        disk = fingerprint(state)
        key = disk, history.floor, history.top
        if key in self._seen:
            return False
        self._seen.add(key)
        self._judge(name, state, disk)
        return True

    def _crash_recovery(self, mode: str, places: list[tuple[int, str]] | None) -> None:
        """Stop the recovery from a state after each of its operations, or after one of them."""
        files = self._state(self._node.files.fake, mode, mode)
        operation = 0

        def crash() -> None:
            nonlocal operation
            operation += 1
            for second_mode in _RECOVERY_MODES:
                if places is not None and (operation, second_mode) not in places:
                    continue
                name = f"{mode}+{operation}+{second_mode}"
                state = self._state(files, second_mode, name)
                self._judge(name, state, fingerprint(state))

        watched = WatchedFileSystem(files, crash, self._omitted)
        try:
            self._open(watched, random.Random(f"{self._seed} {self._operation} {mode}")).close()
        except (Violation, StorageError, OSError) as error:
            self._fail(mode, error)

    def _state(self, files: FakeFileSystem, mode: str, name: str) -> FakeFileSystem:
        """Return what a crash leaves of a disk."""
        if mode == KILLED:
            return killed(files)
        draw = random.Random(f"{self._seed} {self._operation} {name}")
        return files.crash(CrashMode[mode.partition(":")[0].upper()], draw)

    def _judge(self, name: str, files: FakeFileSystem, disk: int | None) -> None:
        """Judge one state; ``disk`` is its fingerprint, None if something is pending there."""
        self.states += 1
        draw = random.Random(f"{self._seed} {self._operation} {name} after")
        is_crashed_again = draw.random() < 0.5
        try:
            seen = None if disk is None else self._recovered.get((disk, is_crashed_again))
            if seen is not None:
                self._hold_against_claims(files, seen)
                return
            seen = self._examine(files, draw, is_crashed_again=is_crashed_again)
        except (Violation, StorageError, OSError) as error:
            self._fail(name, error)
            return
        if disk is not None:
            self._recovered[disk, is_crashed_again] = seen
            if len(self._recovered) > _RECOVERED_MAX:
                del self._recovered[next(iter(self._recovered))]

    def _fail(self, mode: str, error: Exception) -> None:
        kind = "unbootable"
        if isinstance(error, (Lost, Divergent)):
            kind = "lost" if isinstance(error, Lost) else "divergent"
        failure = Failure("enumeration", kind, self._seed, self._operation, mode, str(error))
        self.failures.append(failure)
        self._report(failure)

    # One state.

    def _examine(
        self, files: FakeFileSystem, draw: random.Random, *, is_crashed_again: bool
    ) -> Groups:
        """Recover, hold what is there against the model, go on, and recover once more.

        Return what the log said at first.
        """
        manager = self._open(files, draw)
        seen = observe(manager)
        store = self._hold_against_claims(files, seen)
        received = self._node.claims.end_drafts(store)
        self.counts["drafts gone on with"] += len(received)
        history = History(seen)
        for writes in _continuation(seen):
            number, _ = history.begin(writes)
            job = manager.begin(writes)
            job.run()
            manager.complete(job)
            history.acknowledge(number)
        # After a mere kill, this alone shows what recovery believed and had not made durable.
        if is_crashed_again:
            files = files.crash(draw.choice([CrashMode.LOST, CrashMode.REORDERED]), draw)
        else:
            manager.close()
        manager = self._open(files, draw)
        history.check(observe(manager))
        manager.close()
        store = open_store(files)
        for info in received:
            if info not in store.snapshots(info.group) or store.verify(info):
                raise Lost(f"{info.path} was received in several lives, and is not whole")
        return seen

    def _hold_against_claims(self, files: FakeFileSystem, seen: Groups) -> SnapshotStore:
        """Hold what a log said, and the snapshots beside it, against the claims of now."""
        node = self._node
        node.history.check(seen)
        store = open_store(files)
        node.claims.check(store, seen)
        return store

    def _open(
        self, files: FakeFileSystem | WatchedFileSystem, draw: random.Random
    ) -> SegmentManager:
        node = self._node
        return open_manager(
            files,
            draw.getrandbits(62),
            spares_max=node.spares_max,
            is_direct=node.is_direct,
            manager_type=self._manager_type,
        )


def _continuation(seen: Groups) -> Iterator[list[GroupWrite]]:
    """Yield the writes of two jobs: an entry for every group, and a group that is new."""
    writes = []
    for group, state in sorted(seen.items()):
        term = state.hard_state.term + 1
        entry = Entry(term, state.last_index + 1, EntryKind.NORMAL, b"after %d" % group)
        hard_state = state.hard_state._replace(term=term, vote=0)
        writes.append(GroupWrite(group, hard_state, [entry]))
    yield writes
    yield [GroupWrite(99, None, [Entry(1, 1, EntryKind.NORMAL, bytes(600))])]


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Run the enumeration and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--states", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0, help="the first workload's, or the replay's")
    parser.add_argument(
        "--modes", type=int, default=len(_MODES), help="how many modes to draw for each operation"
    )
    parser.add_argument("--operation", type=int, help="replay: the number of the operation")
    parser.add_argument("--mode", help="replay: the crash mode, as a failure names it")
    options = parser.parse_args(arguments)
    logging.getLogger("rafter_storage").setLevel(logging.CRITICAL + 1)
    enumeration = Enumeration(
        states_max=options.states - options.states // _LAYOUTS_SHARE,
        modes_max=options.modes,
        report=lambda failure: _say(str(failure)),
    )
    states = 0
    failures = enumeration.failures
    if options.operation is None:
        changes = LayoutChanges(
            states_max=options.states // _LAYOUTS_SHARE, report=lambda failure: _say(str(failure))
        )
        changes.run(options.seed)
        states, failures = changes.states, changes.failures
        enumeration.run(options.seed)
        failures = failures + enumeration.failures
    elif options.mode is None:
        parser.error("--operation needs --mode")
    else:
        enumeration.replay(options.seed, options.operation, options.mode)
    _say(", ".join(f"{name} {count}" for name, count in sorted(enumeration.counts.items())))
    kinds = Counter(failure.kind for failure in failures)
    states += enumeration.states
    _say(
        f"{states} crash states, {kinds['lost']} lost, "
        f"{kinds['unbootable']} unbootable, {kinds['divergent']} divergent"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
