"""Tests of rafter_storage.segment_manager: jobs, rolls, rules, and groups.

What is rewritten and retired is in test_cleaner.py, what a group's log reads in test_group_log.py,
failing and full disks are in test_failing_disk.py, O_DIRECT in test_direct_log.py.
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import pytest

from rafter_core.entries import HardState
from rafter_core.errors import Unavailable
from rafter_core.membership import Membership
from rafter_core.snapshot import Snapshot
from rafter_storage import segment_manager
from rafter_storage.errors import CorruptionError, InvalidWrite, Poisoned, StorageError
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.group_state import FoundedGroup
from rafter_storage.segment import HEADER_BYTES, SEGMENT_BYTES_MAX, segment_path, spare_path
from rafter_storage.segment_manager import GroupChange, GroupWrite, SegmentManager, WriteJob
from tests.storage.fake_file_system import CrashMode, FakeFileSystem
from tests.storage.log_on_fake_disk import large, on_fake_disk, reopened, written
from tests.storage.support import (
    EIO,
    ENOSPC,
    MEMBERSHIP,
    SEGMENT_BYTES,
    FaultyFiles,
    abandon,
    all_entries,
    append,
    change,
    do_chores,
    entries,
    entry,
    log_of,
    open_manager,
    write,
)

OTHER = Membership((1, 2, 3, 4))


# Jobs.


def test_entries_are_readable_only_once_the_job_is_complete() -> None:
    _, manager = on_fake_disk()
    log = log_of(manager, 1)
    job = manager.begin([GroupWrite(1, HardState(1, 1, 0), entries(1, 2))])
    assert log.last_index() == 0
    job.run()
    assert log.last_index() == 0
    assert log.initial_state() == (HardState(), MEMBERSHIP)
    with pytest.raises(Unavailable):
        log.entries(1, 2, 1000)
    manager.complete(job)
    assert log.last_index() == 2
    assert log.initial_state() == (HardState(1, 1, 0), MEMBERSHIP)
    manager.close()


def test_one_job_of_many_groups_is_one_write_and_one_sync() -> None:
    files, manager = on_fake_disk()
    files.journal.clear()
    write(manager, *(GroupWrite(group, None, entries(1, 1)) for group in range(100)))
    assert written(files) == ["write_synced"]
    manager.close()


def test_job_of_more_records_than_one_call_takes_buffers_is_whole() -> None:
    files, manager = on_fake_disk(segment_bytes=1 << 20)
    write(manager, *(GroupWrite(group, None, entries(1, 1)) for group in range(1500)))
    manager = reopened(files, manager)
    assert manager.groups() == list(range(1500))
    assert all(all_entries(log_of(manager, g)) == entries(1, 1) for g in range(1500))
    manager.close()


def test_change_of_the_commit_index_alone_is_written_and_not_synced() -> None:
    files, manager = on_fake_disk()
    append(manager, 1, entries(1, 3), HardState(1, 1, 0))
    files.journal.clear()
    append(manager, 1, [], HardState(1, 1, 2))
    assert written(files) == ["pwritev"]
    manager = reopened(files, manager)
    assert log_of(manager, 1).initial_state()[0] == HardState(1, 1, 2)
    manager.close()


def test_synced_job_makes_a_job_of_commit_indexes_before_it_durable_too() -> None:
    files, manager = on_fake_disk()
    append(manager, 1, entries(1, 3), HardState(1, 1, 0))
    append(manager, 1, [], HardState(1, 1, 2))
    files.journal.clear()
    append(manager, 2, entries(1, 1))
    assert written(files) == ["pwritev", "sync_data"]
    survivor = files.crash(CrashMode.LOST)
    recovered = open_manager(survivor.base, survivor)
    assert log_of(recovered, 1).initial_state()[0] == HardState(1, 1, 2)
    assert all_entries(log_of(recovered, 2)) == entries(1, 1)
    recovered.close()
    # With nothing left behind, one call is enough again.
    append(manager, 2, entries(2, 2))
    assert written(files) == ["write_synced"]
    manager.close()


def test_changes_of_metadata_alone_are_written_and_not_synced() -> None:
    files, manager = on_fake_disk()
    append(manager, 1, entries(1, 3), HardState(1, 1, 3))
    files.journal.clear()
    change(manager, GroupChange(1, membership=(2, OTHER), snapshot=(3, 1), compact_to=2))
    assert written(files) == ["pwritev"]
    # They are durable with the next job that is.
    lost = files.crash(CrashMode.LOST)
    append(manager, 2, entries(1, 1))
    kept = files.crash(CrashMode.LOST)
    for survivor, first_index in ((lost, 1), (kept, 3)):
        recovered = open_manager(survivor.base, survivor)
        assert log_of(recovered, 1).first_index() == first_index
        recovered.close()
    manager.close()


@pytest.mark.parametrize("state", [HardState(2, 0, 0), HardState(1, 2, 0), HardState(5, 3, 0)])
def test_change_of_term_or_vote_is_synced(state: HardState) -> None:
    """Reliability, item 1 (wenweihu86/raft-java#57): no term or vote is spoken of before it is
    durable, whatever a crash leaves; and item 24 (etcd#14370): nothing is complete before."""
    files, manager = on_fake_disk()
    append(manager, 1, [], HardState(1, 0, 0))
    files.journal.clear()
    job = manager.begin([GroupWrite(1, state, [])])
    assert job.must_sync
    job.run()
    assert written(files) == ["write_synced"]
    survivor = files.crash(CrashMode.LOST)
    recovered = open_manager(survivor.base, survivor)
    assert log_of(recovered, 1).initial_state()[0] == state
    recovered.close()
    manager.close()


def test_installed_snapshot_is_synced_even_without_anything_else() -> None:
    files, manager = on_fake_disk()
    append(manager, 1, [], HardState(1, 0, 0))
    files.journal.clear()
    write(manager, GroupWrite(1, None, (), Snapshot(9, 1, OTHER)))
    assert written(files) == ["write_synced"]
    manager.close()


def test_later_job_proves_that_an_earlier_one_was_synced() -> None:
    files, manager = on_fake_disk()
    for group in (1, 2, 3):
        append(manager, group, entries(1, 3))
    files.flip_bit(segment_path(files.base / "wal", 1), HEADER_BYTES + 100, 0)
    manager = reopened(files, manager)
    # Not taken for a torn tail: that would cut what was acknowledged of all three.
    assert list(manager.damaged) == [1]
    for group in (2, 3):
        assert all_entries(log_of(manager, group)) == entries(1, 3)
    manager.close()


def test_nothing_acknowledged_is_lost_at_any_operation_of_any_job() -> None:
    """Reliability, item 24 (etcd#14370): a single voter acknowledges what its own sync covers."""

    def workload(files: FakeFileSystem, acknowledged: list[int]) -> None:
        manager = open_manager(files.base, files)
        for index in range(1, 7):
            append(manager, 1, [large(index)], HardState(index, 1, index - 1))
            acknowledged.append(index)

    whole = FakeFileSystem()
    workload(whole, [])
    for stop_at in range(1, whole.operations + 2):
        files, acknowledged = FakeFileSystem(), list[int]()
        files.stop_at = stop_at
        try:
            workload(files, acknowledged)
        except BaseException:  # noqa: BLE001 - the end of the machine is none of Exception
            assert files.has_stopped
        survivor = files.crash(CrashMode.LOST)
        manager = open_manager(survivor.base, survivor, tail_bytes_max=0)
        assert (manager.damaged, manager.shard_damage) == ({}, None)
        log = log_of(manager, 1)
        count = len(acknowledged)
        assert all_entries(log)[:count] == [large(index) for index in acknowledged]
        assert log.last_index() <= count + 1
        assert log.initial_state()[0].term >= count
        manager.close()


def test_write_without_hard_state_keeps_the_one_before() -> None:
    files, manager = on_fake_disk()
    append(manager, 1, entries(1, 1), HardState(3, 2, 0))
    append(manager, 1, entries(2, 2, term=3))
    manager = reopened(files, manager)
    assert log_of(manager, 1).initial_state()[0] == HardState(3, 2, 0)
    manager.close()


def test_write_of_several_terms_and_their_commit_index_is_recovered() -> None:
    files, manager = on_fake_disk()
    added = [*entries(1, 2, 1), *entries(3, 4, 2), *entries(5, 6, 5)]
    append(manager, 1, added, HardState(5, 0, 6))
    for _ in range(2):
        assert manager.damaged == {}
        assert all_entries(log_of(manager, 1)) == added
        assert log_of(manager, 1).initial_state()[0] == HardState(5, 0, 6)
        manager = reopened(files, manager)
    manager.close()


def test_write_of_several_terms_may_be_torn_anywhere() -> None:
    added = [*entries(1, 2, 1), *entries(3, 4, 2), entry(5, 5, b"y" * 2000)]
    for pieces in range(6):
        files, manager = on_fake_disk()
        job = manager.begin([GroupWrite(1, HardState(5, 0, 5), added)])
        files.stop_at, files.stopped_write_pieces = files.operations + 1, pieces
        with pytest.raises(BaseException):  # noqa: B017, PT011 - the machine stops
            job.run()
        survivor = files.crash(CrashMode.KEPT)
        manager = open_manager(survivor.base, survivor)
        assert manager.damaged == {}
        log = log_of(manager, 1)
        assert all_entries(log) == added[: log.last_index()]
        assert log.initial_state()[0].commit <= log.last_index()
        manager.close()


def test_jobs_begun_ahead_run_in_order_on_another_thread() -> None:
    files, manager = on_fake_disk()
    jobs = [
        manager.begin([GroupWrite(group, None, entries(index, index)) for group in (1, 2)])
        for index in range(1, 21)
    ]

    def run_all() -> None:
        for job in jobs:
            job.run()

    thread = threading.Thread(target=run_all)
    thread.start()
    thread.join()
    for job in jobs:
        manager.complete(job)
    manager = reopened(files, manager)
    for group in (1, 2):
        assert all_entries(log_of(manager, group)) == entries(1, 20)
    manager.close()


def test_overlap_with_a_write_still_under_way_replaces_its_entries() -> None:
    files, manager = on_fake_disk()
    first = manager.begin([GroupWrite(1, HardState(1, 0, 0), entries(1, 5))])
    second = manager.begin([GroupWrite(1, HardState(2, 0, 0), entries(3, 4, term=2))])
    for job in (first, second):
        job.run()
        manager.complete(job)
    expected = entries(1, 2) + entries(3, 4, term=2)
    assert all_entries(log_of(manager, 1)) == expected
    manager = reopened(files, manager)
    assert all_entries(log_of(manager, 1)) == expected
    manager.close()


def test_two_writes_of_a_group_in_one_job_keep_their_order_and_changes_come_after() -> None:
    _, manager = on_fake_disk()
    append(manager, 1, entries(1, 1), HardState(1, 0, 1))
    write(
        manager,
        GroupWrite(1, HardState(1, 0, 1), entries(2, 3)),
        GroupWrite(1, HardState(2, 0, 2), entries(2, 2, term=2)),
        changes=[GroupChange(1, snapshot=(1, 1), compact_to=1)],
    )
    assert all_entries(log_of(manager, 1)) == entries(2, 2, term=2)
    manager.close()


def test_jobs_run_once_and_in_order() -> None:
    _, manager = on_fake_disk()
    first = manager.begin([GroupWrite(1, None, entries(1, 1))])
    second = manager.begin([GroupWrite(1, None, entries(2, 2))])
    with pytest.raises(StorageError, match="job 2 cannot run after job 0"):
        second.run()
    with pytest.raises(StorageError, match=r"job 1 cannot be completed now: .* it has not run"):
        manager.complete(first)
    first.run()
    with pytest.raises(StorageError, match="job 1 cannot run after job 1"):
        first.run()
    second.run()
    with pytest.raises(StorageError, match=r"job 2 cannot be completed now: .* it has run"):
        manager.complete(second)
    manager.complete(first)
    manager.complete(second)
    with pytest.raises(StorageError, match="job 2 cannot be completed now"):
        manager.complete(second)
    manager.close()


# Rolls.


def test_full_segment_is_followed_by_another() -> None:
    files, manager = on_fake_disk()
    for index in (1, 2):
        append(manager, 1, [large(index)])
    files.journal.clear()
    append(manager, 1, [large(3)])
    # The old segment is synced before the new one exists.
    assert written(files) == [
        "sync_data",
        *("allocate", "pwritev", "sync_data", "rename", "sync_directory"),
        "write_synced",
    ]
    assert manager.statistics().segments == 2
    for _ in range(2):
        assert all_entries(log_of(manager, 1)) == [large(index) for index in (1, 2, 3)]
        manager = reopened(files, manager)
    manager.close()


def test_roll_takes_the_spare_that_waits() -> None:
    files, manager = on_fake_disk()
    do_chores(manager)
    for index in (1, 2):
        append(manager, 1, [large(index)])
    files.journal.clear()
    append(manager, 1, [large(3)])
    assert "allocate" not in written(files)
    assert spare_path(files.base / "wal", 1) not in files.paths()
    manager.close()


def test_spares_of_another_size_are_removed_at_the_start() -> None:
    files, manager = on_fake_disk(spares_max=2)
    do_chores(manager)
    manager.close()
    wal = files.base / "wal"
    assert [name for name in files.names(wal) if name.startswith("spare")] != []
    manager = open_manager(files.base, files, segment_bytes=2 * SEGMENT_BYTES)
    assert files.names(wal) == [segment_path(wal, 1).name]
    do_chores(manager)
    manager.close()
    # One of the right size is taken over, and those that are too many are not kept.
    manager = open_manager(files.base, files, segment_bytes=2 * SEGMENT_BYTES)
    assert manager.statistics().disk_bytes == SEGMENT_BYTES + 2 * SEGMENT_BYTES
    manager.close()
    manager = open_manager(files.base, files, segment_bytes=2 * SEGMENT_BYTES, spares_max=0)
    assert files.names(wal) == [segment_path(wal, 1).name]
    manager.close()


def test_job_larger_than_a_segment_gets_a_segment_of_its_size() -> None:
    files, manager = on_fake_disk()
    do_chores(manager)
    append(manager, 1, entries(1, 1))
    huge = entry(2, payload=b"x" * 300_000)
    append(manager, 1, [huge])
    append(manager, 1, entries(3, 3))
    wal = files.base / "wal"
    sizes = [len(files.contents(segment_path(wal, number))) for number in (1, 2, 3)]
    assert sizes[0] == sizes[2] == SEGMENT_BYTES
    assert 300_000 < sizes[1] < 310_000
    # The spare, too small for it, was kept for the next.
    assert manager.statistics().disk_bytes == sum(sizes)
    manager = reopened(files, manager)
    assert all_entries(log_of(manager, 1)) == [entry(1), huge, entry(3)]
    manager.close()


def test_many_rolls_begun_ahead_of_the_disk_all_arrive() -> None:
    files, manager = on_fake_disk()
    added = [entry(index, payload=b"%05d" % index * 8000) for index in range(1, 9)]
    jobs = [manager.begin([GroupWrite(1, None, [one])]) for one in added]
    for job in jobs:
        job.run()
        manager.complete(job)
    assert manager.statistics().segments == 8
    do_chores(manager)
    for _ in range(2):
        manager = reopened(files, manager, tail_bytes_max=0)
        assert all_entries(log_of(manager, 1)) == added
    manager.close()


@pytest.mark.parametrize("is_direct", [False, True])
def test_records_fill_a_segment_to_its_last_byte(is_direct: bool) -> None:
    for payload_bytes in range(0, 4300 if is_direct else 160, 61 if is_direct else 1):
        files, manager = on_fake_disk(is_direct=is_direct)
        start = SEGMENT_BYTES - HEADER_BYTES - 240 - 4200 * is_direct
        append(manager, 1, [entry(1, payload=b"x" * (start + payload_bytes))])
        append(manager, 1, [entry(2)])
        manager = reopened(files, manager)
        assert manager.damaged == {}
        assert log_of(manager, 1).last_index() == 2
        manager.close()


# Rules.

BROKEN_RULES: list[tuple[str, Callable[[SegmentManager], object]]] = [
    ("entries from 5", lambda m: m.begin([GroupWrite(1, None, entries(5, 5))])),
    ("committed up to 2", lambda m: m.begin([GroupWrite(1, None, entries(2, 2, 2))])),
    (
        "entries of terms 3 to 2",
        lambda m: m.begin([GroupWrite(1, None, [entry(4, 3), entry(5, 2)])]),
    ),
    (
        "an entry of term 3 behind one of term 4",
        lambda m: m.begin([GroupWrite(1, None, [entry(4, 2), entry(5, 4), entry(6, 3)])]),
    ),
    ("vote 1 in term 1", lambda m: m.begin([GroupWrite(1, HardState(1, 1, 2))])),
    ("vote 2 in term 2", lambda m: m.begin([GroupWrite(1, HardState(2, 2, 2))])),
    ("commit index 4", lambda m: m.begin([GroupWrite(1, HardState(2, 1, 4))])),
    (
        "a snapshot of 2 cannot be installed",
        lambda m: m.begin([GroupWrite(1, None, (), Snapshot(2, 2, OTHER))]),
    ),
    (
        "cannot be cut up to 3",
        lambda m: m.begin([], [GroupChange(1, snapshot=(2, 2), compact_to=3)]),
    ),
    (
        "cannot be cut up to 4",
        lambda m: m.begin([], [GroupChange(1, snapshot=(4, 2), compact_to=4)]),
    ),
    (
        "has been removed",
        lambda m: (
            m.begin([], [GroupChange(1, is_removed=True)]),
            m.begin([GroupWrite(1, HardState(3, 0, 2))]),
        ),
    ),
    (
        "is in this log already",
        lambda m: m.begin([], founded=[FoundedGroup(1, GroupMetadata(), HardState())]),
    ),
]


@pytest.mark.parametrize(("message", "broken"), BROKEN_RULES, ids=[m for m, _ in BROKEN_RULES])
def test_write_that_breaks_a_rule_of_the_log_is_refused_and_ends_the_manager(
    message: str, broken: Callable[[SegmentManager], object]
) -> None:
    files, manager = on_fake_disk()
    append(manager, 1, entries(1, 3, term=2), HardState(2, 1, 2))
    with pytest.raises(InvalidWrite, match=message):
        broken(manager)
    with pytest.raises(Poisoned, match="an impossible write was asked for"):
        manager.begin([GroupWrite(2, None, entries(1, 1))])
    assert manager.chore() is None
    manager.close()
    manager = open_manager(files.base, files)
    assert all_entries(log_of(manager, 1)) == entries(1, 3, term=2)
    manager.close()


def test_job_beyond_the_largest_segment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _, manager = on_fake_disk()
    monkeypatch.setattr(segment_manager, "SEGMENT_BYTES_MAX", 200_000)
    with pytest.raises(InvalidWrite, match=r"a job of \d+ bytes does not fit any segment"):
        manager.begin([GroupWrite(1, None, [entry(1, payload=b"x" * 200_000)])])
    with pytest.raises(Poisoned):
        manager.begin([])
    manager.close()


def test_commit_index_may_cover_the_entries_it_comes_with() -> None:
    _, manager = on_fake_disk()
    append(manager, 1, entries(1, 3), HardState(1, 1, 3))
    assert log_of(manager, 1).initial_state()[0].commit == 3
    manager.close()


# Groups that come and go.


def founded_and_removed(files: FakeFileSystem, manager: SegmentManager) -> None:
    metadata = GroupMetadata(20, 3, ((15, OTHER),), 22, 4)
    job = manager.begin(
        [GroupWrite(2, HardState(7, 2, 22), entries(21, 24, 5))],
        founded=[FoundedGroup(2, metadata, HardState(7, 2, 22))],
    )
    assert job.must_sync
    job.run()
    manager.complete(job)
    append(manager, 1, entries(1, 3), HardState(2, 1, 3))
    change(manager, GroupChange(1, is_removed=True), GroupChange(3, is_removed=True))


@pytest.mark.parametrize("has_dumps", [False, True])
@pytest.mark.parametrize("has_rolled", [False, True])
def test_groups_are_founded_removed_and_made_again(
    has_dumps: bool,
    has_rolled: bool,
) -> None:
    files, manager = on_fake_disk()
    founded_and_removed(files, manager)
    assert manager.groups() == [2]
    if has_rolled:
        for index in range(1, 4):
            append(manager, 9, [large(index)])
    append(manager, 1, entries(1, 1, 9), HardState(9, 0, 0))
    for _ in range(3):
        assert (manager.damaged, manager.shard_damage) == ({}, None)
        assert all_entries(log_of(manager, 1)) == entries(1, 1, 9)
        assert log_of(manager, 1).initial_state()[0] == HardState(9, 0, 0)
        assert all_entries(log_of(manager, 2)) == entries(21, 24, 5)
        assert manager.metadata(2) == GroupMetadata(20, 3, ((15, OTHER),), 22, 4)
        assert log_of(manager, 2).term(20) == 3
        assert manager.groups() == [1, 2, *[9] * has_rolled]
        if has_dumps:
            do_chores(manager)
        manager = reopened(files, manager)
    manager.close()


def test_removed_group_stays_removed() -> None:
    files, manager = on_fake_disk()
    founded_and_removed(files, manager)
    for _ in range(2):
        manager = reopened(files, manager)
        assert manager.groups() == [2]
        assert log_of(manager, 1).last_index() == 0
        live_bytes = manager.statistics().live_bytes
        assert 0 < live_bytes - log_of(manager, 2)._index.live_bytes < 300
    manager.close()


def test_log_of_a_removed_group_that_somebody_still_holds_is_never_read_from_another_file() -> None:
    files, manager = on_fake_disk(tail_bytes_max=0)
    append(manager, 1, entries(1, 3))
    append(manager, 1, entries(4, 4))
    log = log_of(manager, 1)
    for index in range(1, 5):
        append(manager, 2, [large(index)])
    change(manager, GroupChange(1, is_removed=True), GroupChange(2, is_removed=True))
    write(manager)
    do_chores(manager)
    assert files.status(segment_path(files.base / "wal", 1)) is None
    with pytest.raises((StorageError, Unavailable)):
        log.entries(1, 3, 1000)
    manager.close()


# Opening and closing.


def test_failing_open_is_a_storage_error_that_names_the_directory(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.fail_at["rename", 1] = ENOSPC
    with pytest.raises(StorageError, match=re.escape(str(tmp_path / "wal"))):
        open_manager(tmp_path, files)


def test_manager_is_opened_once_and_not_used_after_close() -> None:
    _, manager = on_fake_disk()
    with pytest.raises(StorageError, match="open already"):
        manager.open()
    manager.close()
    manager.close()
    with pytest.raises(StorageError, match="not open"):
        manager.begin([])
    assert manager.chore() is None
    assert not manager.needs_cleaning


def test_job_left_over_from_before_close_cannot_run() -> None:
    _, manager = on_fake_disk()
    job = manager.begin([GroupWrite(1, None, entries(1, 1))])
    manager.close()
    with pytest.raises(Poisoned, match="is closed"):
        job.run()


@pytest.mark.parametrize("is_direct", [False, True])
def test_clean_restarts_do_not_let_the_log_grow(is_direct: bool) -> None:
    files, manager = on_fake_disk(is_direct=is_direct)
    append(manager, 1, entries(1, 1))
    manager.close()
    open_manager(files.base, files, is_direct=is_direct).close()
    path = segment_path(files.base / "wal", 1)
    before = files.contents(path)
    for _ in range(3):
        open_manager(files.base, files, is_direct=is_direct).close()
    assert files.contents(path) == before


def test_limits_are_checked() -> None:
    for segment_bytes in (1000, SEGMENT_BYTES_MAX + 1):
        with pytest.raises(
            ValueError, match=f"segment_bytes is {segment_bytes}, allowed are 65536"
        ):
            SegmentManager(Path("x"), segment_bytes=segment_bytes)
    with pytest.raises(ValueError, match="tail_bytes_max is -1"):
        SegmentManager(Path("x"), tail_bytes_max=-1)
    with pytest.raises(ValueError, match="spares_max -1"):
        SegmentManager(Path("x"), spares_max=-1)


def test_segments_are_of_whole_blocks() -> None:
    files, manager = on_fake_disk(segment_bytes=SEGMENT_BYTES + 1)
    assert len(files.contents(segment_path(files.base / "wal", 1))) == SEGMENT_BYTES + 4096
    manager.close()


def test_damaged_shard_is_neither_read_nor_written_nor_changed() -> None:
    files, manager = on_fake_disk()
    append(manager, 1, entries(1, 3))
    manager.close()
    files.flip_bit(segment_path(files.base / "wal", 1), 10, 0)
    files.journal.clear()
    manager = open_manager(files.base, files)
    assert manager.shard_damage is not None
    assert manager.damage_of(1) == manager.damage_of(77) == manager.shard_damage
    for refused in (
        lambda: manager.begin([]),
        lambda: manager.begin([GroupWrite(1, None, entries(4, 4))]),
        lambda: log_of(manager, 1),
    ):
        with pytest.raises(CorruptionError, match="header is damaged"):
            refused()
    assert manager.chore() is None
    manager.close()
    assert set(written(files)) <= {"sync_directory"}


def test_damaged_group_is_refused_without_harm_to_the_others() -> None:
    files, manager = on_fake_disk()
    append(manager, 1, entries(1, 3))
    append(manager, 2, entries(1, 3))
    manager.close()
    files.flip_bit(segment_path(files.base / "wal", 1), HEADER_BYTES + 100, 0)
    manager = open_manager(files.base, files)
    damage = manager.damage_of(1)
    assert damage is not None
    assert damage.offset == HEADER_BYTES
    assert manager.damage_of(2) is None
    for refused in (
        lambda: manager.begin([GroupWrite(2, None, entries(4, 4)), GroupWrite(1, HardState(9))]),
        lambda: manager.begin([], [GroupChange(1, membership=(1, OTHER))]),
        lambda: log_of(manager, 1),
    ):
        with pytest.raises(CorruptionError, match="damaged record body"):
            refused()
    append(manager, 2, entries(4, 4))
    assert all_entries(log_of(manager, 2)) == entries(1, 4)
    assert not manager.needs_cleaning
    manager.close()


@pytest.mark.parametrize("is_direct", [False, True])
def test_failed_open_closes_what_it_opened(is_direct: bool) -> None:
    opened: FakeFileSystem
    for method in ("sync_data", "open", "pwritev", "sync_directory", "pread", "names", "status"):
        for nth in range(1, 5):
            files, manager = on_fake_disk()
            append(manager, 1, entries(1, 3))
            opened = files.crash(CrashMode.KEPT)
            opened.fail(method, nth, EIO)
            again = SegmentManager(
                opened.base, segment_bytes=SEGMENT_BYTES, is_direct=is_direct, files=opened
            )
            with contextlib.suppress(StorageError):
                again.open()
                again.close()
            assert opened._opened == {}, (method, nth)
            opened.clear_failures()
            manager = open_manager(opened.base, opened)
            assert all_entries(log_of(manager, 1)) == entries(1, 3)
            manager.close()


def test_group_that_proves_damaged_while_it_is_read_is_not_written_any_more() -> None:
    files, manager = on_fake_disk(tail_bytes_max=0)
    append(manager, 1, entries(1, 3))
    append(manager, 1, entries(4, 4))
    append(manager, 2, entries(1, 1))
    files.flip_bit(segment_path(files.base / "wal", 1), HEADER_BYTES + 100, 0)
    with pytest.raises(CorruptionError) as found:
        all_entries(log_of(manager, 1))
    manager.condemn(1, found.value.damage)
    manager.condemn(1, found.value.damage._replace(offset=9))
    assert manager.damage_of(1) == found.value.damage
    with pytest.raises(CorruptionError, match="body is damaged"):
        append(manager, 1, entries(5, 5))
    append(manager, 2, entries(2, 2))
    manager.close()


def test_leftovers_of_what_was_being_made_are_removed_at_the_start() -> None:
    files, manager = on_fake_disk()
    append(manager, 1, entries(1, 3))
    wal = files.base / "wal"
    leftovers = [
        segment_path(wal, 2).with_suffix(".tmp"),
        spare_path(wal, 3).with_suffix(".tmp"),
        segment_path(wal, 1).with_suffix(".index.tmp"),
    ]
    for path in leftovers:
        files.close(files.open(path, os.O_RDWR | os.O_CREAT))
    manager = reopened(files, manager)
    assert files.names(wal) == [segment_path(wal, 1).name]
    assert all_entries(log_of(manager, 1)) == entries(1, 3)
    manager.close()


def test_close_that_cannot_sync_says_so_and_closes_all_the_same() -> None:
    files, manager = on_fake_disk()
    append(manager, 1, entries(1, 3))
    files.fail("sync_data", 1, EIO)
    with pytest.raises(Poisoned):
        manager.close()
    assert files._opened == {}


def test_statistics_count_complete_jobs() -> None:
    _, manager = on_fake_disk()
    write(manager, GroupWrite(1, None, entries(1, 3)), GroupWrite(2, None, entries(1, 1)))
    append(manager, 1, [], HardState(0, 0, 1))
    manager.begin([GroupWrite(1, None, entries(4, 4))])
    counts = manager.statistics()
    assert (counts.records, counts.entries, counts.jobs, counts.syncs) == (3, 4, 2, 1)
    assert counts.segments == 1
    assert counts.appended_bytes % 8 == 0
    assert counts.appended_bytes > 3 * 96
    assert counts.sync_seconds > 0
    assert (counts.copied_bytes, counts.disk_bytes) == (0, SEGMENT_BYTES)
    # What describes the two groups counts, though it is written only when they are rewritten.
    assert 4 * 96 < counts.live_bytes <= counts.appended_bytes + 96
    assert (counts.oldest_sequence, counts.oldest_group) == (1, 1)
    assert not counts.is_disk_full
    manager.close()


def test_log_that_nobody_needs_has_no_oldest_group() -> None:
    _, manager = on_fake_disk()
    log_of(manager, 5)
    assert manager.statistics().oldest_group is None
    manager.close()


# On a real disk, with two threads.


def test_owner_begins_reads_and_completes_while_the_flusher_runs(tmp_path: Path) -> None:
    manager = open_manager(tmp_path, tail_bytes_max=5000)
    to_run: SimpleQueue[WriteJob | None] = SimpleQueue()
    done: SimpleQueue[WriteJob] = SimpleQueue()

    def flush() -> None:
        while (job := to_run.get()) is not None:
            job.run()
            done.put(job)

    flusher = threading.Thread(target=flush)
    flusher.start()
    log = log_of(manager, 1)
    for index in range(1, 301):
        to_run.put(
            manager.begin([GroupWrite(g, None, [entry(index, payload=b"x" * 900)]) for g in (1, 2)])
        )
        if index > 2:
            manager.complete(done.get())
            last = log.last_index()
            assert last == index - 2
            assert [e.index for e in log.entries(max(1, last - 20), last + 1, 1 << 20)][-1] == last
    for _ in range(2):
        manager.complete(done.get())
    to_run.put(None)
    flusher.join()
    assert manager.statistics().segments > 5
    assert len(all_entries(log)) == 300
    abandon(manager)
    manager = open_manager(tmp_path)
    assert len(all_entries(log_of(manager, 2))) == 300
    manager.close()
