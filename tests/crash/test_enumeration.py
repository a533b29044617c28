"""Crashes after every operation of a drawn workload; and the faults of other logs, by name.

The numbers are those of the checklist of known faults that the design keeps.
"""

from __future__ import annotations

import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from rafter_core.entries import Entry, EntryKind, HardState
from rafter_core.snapshot import Snapshot
from rafter_core.state_machine import Update
from rafter_kv.batch import Batch, pack_payload
from rafter_kv.machine import KeyValueMachine
from rafter_storage.record import RecordKind
from rafter_storage.segment import HEADER_BYTES, SegmentHeader
from rafter_storage.segment_manager import GroupChange, GroupWrite, SegmentManager
from rafter_storage.snapshot_store import SnapshotStore
from rafter_storage.write_job import LogHead, WriteJob
from tests.crash import enumeration
from tests.crash.enumeration import Enumeration
from tests.crash.model import FOUNDING, Groups, observe
from tests.crash.node import ManagerType, Node, open_manager, open_store
from tests.crash.watched import WatchedFileSystem
from tests.crash.workload import Workload
from tests.storage.fake_file_system import CrashMode, FakeFileSystem
from tests.storage.fake_support import once_per_disk

_MODES = (
    *[(mode, 0) for mode in (CrashMode.LOST, CrashMode.KEPT, CrashMode.SIZE_ONLY)],
    *[(mode, draw) for mode in (CrashMode.TORN, CrashMode.REORDERED) for draw in range(2)],
)

Check = Callable[[FakeFileSystem], None]


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    logger = logging.getLogger("rafter_storage")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


def crash_after_each_operation(script: Callable[[WatchedFileSystem], None], check: Check) -> int:
    """Run a script and check what every crash leaves; return how many states that were."""
    states = 0

    def crash() -> None:
        nonlocal states
        for mode, number in _MODES:
            draw = random.Random(f"{watched.fake.operations} {number}")
            check(watched.fake.crash(mode, draw))
            states += 1

    fake = FakeFileSystem(is_journaled=False)
    fake.make_directory(fake.base / "shard")
    fake.settle()
    watched = WatchedFileSystem(fake, crash)
    script(watched)
    return states


def entry(index: int, term: int = 1, size: int = 40) -> Entry:
    return Entry(term, index, EntryKind.NORMAL, (b"%d/%d/" % (index, term)).ljust(size, b"."))


def do(manager: SegmentManager, writes: list[GroupWrite], *changes: GroupChange) -> None:
    job = manager.begin(writes, changes)
    job.run()
    manager.complete(job)


def take(store: SnapshotStore, index: int) -> None:
    writer = store.begin(1, index, 1, FOUNDING, 0)
    writer.write("state", b"state after %d" % index * 100)
    writer.finish()
    store.admit(writer)


def recovered(files: FakeFileSystem) -> Groups:
    manager = open_manager(files, 77)
    seen = observe(manager)
    manager.close()
    return seen


# ---- the enumeration -----------------------------------------------------------------------------


def test_no_crash_state_loses_anything() -> None:
    found = Enumeration(states_max=1000, modes_max=1)
    found.run(0)
    assert [str(failure) for failure in found.failures] == []
    assert found.states >= 1000


def test_the_workload_does_everything_there_is() -> None:
    counts: Counter[str] = Counter()
    for seed in range(8):
        node = Node(FakeFileSystem(is_journaled=False), lambda: None, seed=seed)
        Workload(node, seed).run(enumeration.STEPS)
        counts += node.counts
    kinds = {kind.name for kind in RecordKind} - {"MARK", "PADDING"}
    chores = {"PrewriteSpare", "DumpIndex", "RetireSegment"}
    rolls = {"rolls with a spare", "rolls without a spare", "marks", "disk full", "poisoned"}
    ends = {"broken off", "repeated", "closed", "killed", "snapshots retired", "received in part"}
    modes = {f"crashed {mode}" for mode in ("LOST", "KEPT", "TORN", "REORDERED")}
    assert {*kinds, *chores, *rolls, *ends, *modes} <= {*(+counts)}


def test_a_crash_in_recovery_can_be_replayed_too() -> None:
    replayed = Enumeration(states_max=10)
    replayed.replay(0, 60, "torn:0+2+lost")
    assert (replayed.states, replayed.failures) == (1, [])


class WithOldHeaders(SegmentManager):
    """Writes into a segment's header what was durable when the job was begun, not when it ran."""

    def _next_header(self, bytes_total: int) -> SegmentHeader:
        return super()._next_header(bytes_total)._replace(first_sequence=self._space.first_sequence)


@pytest.mark.parametrize("method", ["sync_data", "sync_directory"])
def test_a_node_that_forgets_a_sync_is_caught(method: str) -> None:
    found = Enumeration(states_max=500, modes_max=2, omitted=frozenset({method}), failures_max=1)
    found.run(0)
    assert found.failures


def test_a_node_that_acknowledges_before_the_write_is_caught() -> None:
    found = Enumeration(states_max=500, modes_max=2, is_hasty=True, failures_max=1)
    found.run(0)
    assert found.failures[0].kind == "lost"


class OnceRetired(Enumeration):
    """Tries no state in which all segments that ever were are there: none of them can be missed."""

    def _try(self, mode: str, name: str) -> bool:
        return self._node.counts["RetireSegment"] > 0 and super()._try(mode, name)


def crashes_of_lost_mode(manager_type: ManagerType = SegmentManager) -> Enumeration:
    found = OnceRetired(
        states_max=3000, modes_max=1, manager_type=manager_type, failures_max=1, modes=["lost"]
    )
    # This workload retires segments early.
    found.run(15)
    return found


def test_a_log_that_lets_go_of_segments_without_a_mark_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def place_none(_head: LogHead, job: WriteJob, first_sequence: int) -> None:
        job.first_sequence = first_sequence
        job.must_sync = True

    monkeypatch.setattr(LogHead, "place_mark", place_none)
    assert crashes_of_lost_mode().failures[0].kind == "unbootable"


def test_a_segment_that_asks_for_more_than_the_mark_before_it_is_caught() -> None:
    assert crashes_of_lost_mode(WithOldHeaders).failures[0].kind == "unbootable"


def test_a_failure_is_seen_again_when_it_is_replayed() -> None:
    found = Enumeration(states_max=500, is_hasty=True, failures_max=1)
    found.run(0)
    failure = found.failures[0]
    again = Enumeration(states_max=500, is_hasty=True)
    again.replay(failure.seed, failure.operation, failure.mode)
    assert again.failures == [failure]
    assert f"--operation {failure.operation} --mode {failure.mode}" in str(failure)


def test_the_last_line_counts_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert enumeration.main(["--states", "20"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"[2-9][0-9] crash states, 0 lost, 0 unbootable, 0 divergent", last)


# ---- known faults --------------------------------------------------------------------------------


def test_no_term_that_was_spoken_of_is_forgotten() -> None:
    """1: a term was raised in memory, and not persisted before votes were asked for."""
    spoken = HardState()

    def campaign(watched: WatchedFileSystem) -> None:
        nonlocal spoken
        manager = open_manager(watched, 1)
        for term in range(1, 8):
            do(manager, [GroupWrite(1, HardState(term, 1 + term % 3, 0))])
            spoken = HardState(term, 1 + term % 3, 0)
        manager.close()

    def check(files: FakeFileSystem) -> None:
        seen = recovered(files)
        state = seen[1].hard_state if seen else HardState()
        assert state.term >= spoken.term
        assert state.term > spoken.term or state.vote == spoken.vote

    assert crash_after_each_operation(campaign, check) >= 80


def test_a_single_voter_loses_nothing_acknowledged() -> None:
    """24: a group of one voter acknowledged what it had not synced itself."""
    acknowledged = 0

    def serve(watched: WatchedFileSystem) -> None:
        nonlocal acknowledged
        manager = open_manager(watched, 1)
        for index in range(1, 30):
            do(manager, [GroupWrite(1, HardState(1, 1, index), [entry(index, size=5000)])])
            acknowledged = index
        manager.close()

    @once_per_disk
    def last_index_on(files: FakeFileSystem) -> int:
        seen = recovered(files)
        last_index = seen[1].last_index if seen else 0
        assert not seen or [*seen[1].entries] == [
            entry(index, size=5000) for index in range(1, last_index + 1)
        ]
        return last_index

    def check(files: FakeFileSystem) -> None:
        assert last_index_on(files) >= acknowledged

    assert crash_after_each_operation(serve, check) >= 300


def snapshots_and_cuts(watched: WatchedFileSystem, say: Callable[[int], None]) -> None:
    """Take snapshots, cut the log behind them, retire old ones, install one."""
    manager = open_manager(watched, 1)
    store = open_store(watched)
    last_index = 0
    for snapshot in range(10, 60, 10):
        added = [entry(index) for index in range(last_index + 1, snapshot + 4)]
        last_index = added[-1].index
        do(manager, [GroupWrite(1, HardState(1, 1, snapshot + 2), added)])
        take(store, snapshot)
        say(snapshot)
        change = GroupChange(1, snapshot=(snapshot, 1), compact_to=store.compactable_index(1))
        do(manager, [GroupWrite(1, None, [entry(last_index + 1)])], change)
        last_index += 1
        store.retire(1).run()
    take(store, 100)
    say(100)
    do(manager, [GroupWrite(1, HardState(1, 1, 100), [], Snapshot(100, 1, FOUNDING))])
    store.retire(1).run()
    manager.close()


def test_a_crash_while_a_snapshot_is_taken_leaves_a_sound_one() -> None:
    """26: a snapshot was truncated in place, and a crash lost the old one and the new one."""
    newest = 0

    def say(index: int) -> None:
        nonlocal newest
        newest = index

    @once_per_disk
    def newest_on(files: FakeFileSystem) -> int:
        store = open_store(files)
        assert store.damaged == []
        info = store.newest(1)
        assert info is None or store.verify(info) == []
        return 0 if info is None else info.index

    def check(files: FakeFileSystem) -> None:
        assert newest_on(files) >= newest

    states = crash_after_each_operation(lambda files: snapshots_and_cuts(files, say), check)
    assert states >= 300


def test_the_log_is_cut_no_further_than_a_durable_snapshot_reaches() -> None:
    """27: the log was cut before the snapshot was durable, and the start found a gap."""

    @once_per_disk
    def check(files: FakeFileSystem) -> None:
        store = open_store(files)
        for state in recovered(files).values():
            base_index = state.metadata.base_index
            indexes = [info.index for info in store.snapshots(1)]
            assert base_index == 0 or any(
                base_index <= index <= state.last_index for index in indexes
            )

    states = crash_after_each_operation(
        lambda files: snapshots_and_cuts(files, lambda _: None), check
    )
    assert states >= 300


def test_the_log_reaches_back_to_the_oldest_retained_snapshot() -> None:
    """28: with a damaged newest snapshot there was an older one, and no log behind it."""

    @once_per_disk
    def check(files: FakeFileSystem) -> None:
        store = open_store(files)
        for state in recovered(files).values():
            metadata = state.metadata
            indexes = [info.index for info in store.snapshots(1)]
            if 100 in indexes:
                # Behind an installed snapshot there is nothing to fall back to: a peer has it.
                continue
            fallback = 0 if len(indexes) < 2 else indexes[-2]
            assert metadata.base_index <= fallback
            assert state.last_index >= metadata.snapshot_index

    states = crash_after_each_operation(
        lambda files: snapshots_and_cuts(files, lambda _: None), check
    )
    assert states >= 300


TAIL_SIZES = (300, 1200, 2500)


@pytest.mark.parametrize("filling", [b"\0", b"\xff", b"old"])
def test_a_tail_torn_at_any_piece_is_cut(filling: bytes) -> None:
    """48: a torn page, a run of zeros or leftovers at the tail, and the node did not start."""
    files = FakeFileSystem()
    files.make_directory(files.base / "shard")
    manager = open_manager(files, 1)
    do(manager, [GroupWrite(1, HardState(1, 1, 1), [entry(1)])])
    ends = [manager.statistics().appended_bytes + HEADER_BYTES]
    for index, size in enumerate(TAIL_SIZES, 2):
        job = manager.begin([GroupWrite(1, None, [entry(index, size=size)])])
        job.must_sync = False
        job.run()
        manager.complete(job)
        ends.append(manager.statistics().appended_bytes + HEADER_BYTES)
    (path,) = [path for path in files.paths() if path.suffix == ".log"]
    whole = files.contents(path)
    for torn_at in range(ends[0] // 512 * 512 + 512, ends[-1] + 512, 512):
        image = whole[:torn_at] + (filling * len(whole))[: len(whole) - torn_at]
        state = files.crash(CrashMode.KEPT)
        descriptor = state.open(path, 2)
        state.pwritev(descriptor, [image], 0)
        state.close(descriptor)
        expected = sum(end <= torn_at for end in ends)
        seen = recovered(state)
        assert seen[1].last_index == expected
        manager = open_manager(state, 5)
        do(manager, [GroupWrite(1, HardState(2, 2, 1), [entry(expected + 1, 2)])])
        manager.close()
        assert recovered(state)[1].entries[-1] == entry(expected + 1, 2)


def test_a_tail_with_a_length_that_looks_valid_is_cut() -> None:
    """48: what followed the last record was taken for one by its length."""
    files = FakeFileSystem()
    files.make_directory(files.base / "shard")
    manager = open_manager(files, 1)
    do(manager, [GroupWrite(1, HardState(1, 1, 1), [entry(1)])])
    end = manager.statistics().appended_bytes + HEADER_BYTES
    (path,) = [path for path in files.paths() if path.suffix == ".log"]
    record = files.contents(path)[HEADER_BYTES:end]
    # The first record once more, and its prefix alone: whole, and in the wrong place.
    for leftover in (record, record[:96], record[:16] + bytes(80)):
        state = files.crash(CrashMode.KEPT)
        descriptor = state.open(path, 2)
        state.pwritev(descriptor, [leftover], end)
        state.close(descriptor)
        assert recovered(state)[1].last_index == 1


def test_a_cut_record_does_not_come_back_behind_one_that_is_written_again() -> None:
    """A leader asks again for what was torn: the record that followed it then must stay cut."""
    files = FakeFileSystem()
    files.make_directory(files.base / "shard")
    files.settle()
    manager = open_manager(files, 1)
    first = GroupWrite(1, HardState(1, 1, 0), [entry(1, size=700)])
    do(manager, [GroupWrite(3, HardState(1, 1, 0))])
    manager.close()
    manager = open_manager(files, 2)
    before = files.operations
    job = manager.begin([first, GroupWrite(2, HardState(5, 3, 0))])
    files.stop_at = before + 1
    files.stopped_write_pieces = 100
    with pytest.raises(Exception, match="stopped"):
        job.run()
    torn = 0
    for number in range(200):
        state = files.crash(CrashMode.REORDERED, random.Random(number))
        manager = open_manager(state, 3)
        if set(observe(manager)) == {3}:
            torn += 1
            do(manager, [first])
            assert set(recovered(state.crash(CrashMode.LOST))) == {1, 3}
        manager.close()
    assert torn > 20


# ---- the state machine above the log ------------------------------------------------------------


def increments(index: int) -> bytes:
    """Return a payload that nobody may apply twice, or skip."""
    return pack_payload(
        index, [Batch(1, 1, index, index, [[b"INCR", b"n"], [b"APPEND", b"s", b"x"]])]
    )


def digests(count: int) -> list[int]:
    """Return the state's digest at each index of a life without crashes."""
    machine = KeyValueMachine()
    found = [machine.hash()]
    for index in range(1, count + 1):
        machine.update([Update(index, increments(index))])
        found.append(machine.hash())
    return found


def test_after_any_crash_the_machine_is_what_its_log_makes_of_it() -> None:
    """44: the applied index was kept apart from the state, and a crash applied twice or skipped.

    Here an image and the index it is of are published by one rename, and the log is applied from
    there on.
    """
    count = 40
    expected = digests(count)
    acknowledged = 0

    def serve(watched: WatchedFileSystem) -> None:
        nonlocal acknowledged
        store = open_store(watched)
        manager = open_manager(watched, 5)
        machine = KeyValueMachine()
        for index in range(1, count + 1):
            entry_ = Entry(1, index, EntryKind.NORMAL, increments(index))
            do(manager, [GroupWrite(1, HardState(1, 1, index), [entry_])])
            acknowledged = index
            machine.update([Update(index, entry_.payload)])
            if index % 8 == 0:
                writer = store.begin(1, index, 1, FOUNDING, 0)
                for chunk in machine.save_snapshot(machine.prepare_snapshot()):
                    writer.write("state", chunk)
                writer.finish()
                store.admit(writer)
                cut = GroupChange(1, snapshot=(index, 1), compact_to=store.compactable_index(1))
                do(manager, [], cut)
                store.retire(1).run()
        manager.close()

    @once_per_disk
    def reached_on(files: FakeFileSystem) -> int:
        store = open_store(files)
        manager = open_manager(files, 6)
        log = manager.group_log(1, FOUNDING)
        machine = KeyValueMachine()
        applied = 0
        info = store.newest(1)
        if info is not None:
            reader = store.read(info)
            machine.recover_from_snapshot(reader.chunks("state"))
            reader.close()
            applied = info.index
            assert machine.hash() == expected[applied]
        commit = log.initial_state()[0].commit
        for stored in log.entries(applied + 1, commit + 1, 1 << 30) if commit > applied else []:
            machine.update([Update(stored.index, stored.payload)])
            assert machine.hash() == expected[stored.index]
        manager.close()
        return max(applied, commit)

    def check(files: FakeFileSystem) -> None:
        assert reached_on(files) >= acknowledged

    assert crash_after_each_operation(serve, check) >= 500
