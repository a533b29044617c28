"""Tests of a failing and of a full disk under the whole log store (``SegmentManager``)."""

import errno

import pytest

from rafter_core.entries import HardState
from rafter_storage.errors import DiskFull, Poisoned, StorageError
from rafter_storage.segment_manager import GroupWrite
from tests.storage.fake_file_system import CrashMode, FakeFileSystem
from tests.storage.log_on_fake_disk import large, on_fake_disk, reopened, written
from tests.storage.support import (
    EIO,
    ENOSPC,
    SEGMENT_BYTES,
    all_entries,
    append,
    do_chores,
    entries,
    entry,
    log_of,
    open_manager,
    write,
)

# Failures.


@pytest.mark.parametrize("method", ["pwritev", "sync_data", "write_synced"])
@pytest.mark.parametrize("number", [EIO, ENOSPC])
def test_failed_write_or_sync_ends_the_manager_for_good(method: str, number: int) -> None:
    files, manager = on_fake_disk()
    append(manager, 1, entries(1, 5))
    if method != "write_synced":
        # Behind what is not synced, the write and the sync are calls of their own.
        append(manager, 1, [], HardState(0, 0, 1))
    failing = manager.begin([GroupWrite(1, None, entries(6, 6))])
    begun_before = manager.begin([GroupWrite(1, None, entries(7, 7))])
    files.fail(method, 1, number)
    with pytest.raises(Poisoned, match=r"cannot (write|sync) .*\.log: .*nothing more is ack"):
        failing.run()
    # No retry: the file system would succeed now, and it would prove nothing.
    files.journal.clear()
    with pytest.raises(Poisoned):
        begun_before.run()
    with pytest.raises(Poisoned):
        manager.begin([GroupWrite(2, None, entries(1, 1))])
    with pytest.raises(StorageError):
        manager.complete(failing)
    assert manager.chore() is None
    assert all_entries(log_of(manager, 1)) == entries(1, 5)
    manager.close()
    assert written(files) == []
    manager = open_manager(files.base, files)
    assert all_entries(log_of(manager, 1))[:5] == entries(1, 5)
    manager.close()


def test_failure_at_any_call_of_a_roll_ends_the_manager_and_loses_nothing() -> None:
    methods = [
        *(("sync_data", n) for n in (1, 2)),
        *((method, 1) for method in ("pwritev", "write_synced")),
        *((method, 1) for method in ("open", "allocate", "rename", "sync_directory")),
    ]
    for method, number in methods:
        files, manager = on_fake_disk()
        for index in (1, 2):
            append(manager, 1, [large(index)])
        job = manager.begin([GroupWrite(1, None, [large(3)])])
        files.fail(method, number, EIO)
        with pytest.raises(Poisoned):
            job.run()
        with pytest.raises(Poisoned):
            manager.begin([])
        manager.close()
        for survivor in (files, files.crash(CrashMode.LOST)):
            manager = open_manager(survivor.base, survivor)
            assert manager.damaged == {}
            assert all_entries(log_of(manager, 1))[:2] == [large(1), large(2)]
            append(manager, 1, [entry(3, term=2)])
            manager = reopened(survivor, manager)
            assert all_entries(log_of(manager, 1)) == [large(1), large(2), entry(3, term=2)]
            assert not [name for name in survivor.names(survivor.base / "wal") if "tmp" in name]
            manager.close()


@pytest.mark.parametrize("method", ["open", "pwritev", "sync_data"])
def test_failed_housekeeping_does_not_end_the_manager(method: str) -> None:
    files, manager = on_fake_disk()
    for index in range(1, 4):
        append(manager, 1, [large(index)])
    # A dump first, then a spare: each fails once.
    for _ in range(2):
        chore = manager.chore()
        assert chore is not None
        files.fail(method, 1, EIO)
        with pytest.raises(OSError, match="Input/output") as failure:
            chore.run()
        manager.complete_chore(chore, failure.value)
        assert manager.chore() is None
        append(manager, 2, [entry(log_of(manager, 2).last_index() + 1)])
        manager.resume()
        chore = manager.chore()
        assert chore is not None
        chore.run()
        manager.complete_chore(chore, None)
    do_chores(manager)
    assert not manager.statistics().is_disk_full
    manager = reopened(files, manager)
    assert all_entries(log_of(manager, 2)) == entries(1, 2)
    manager.close()


@pytest.mark.parametrize("short_bytes", [1, 7, 96, 100, 1000])
def test_short_writes_are_continued(short_bytes: int) -> None:
    files, manager = on_fake_disk()
    files.short_write_bytes = short_bytes
    write(manager, *(GroupWrite(group, None, entries(1, 3)) for group in range(5)))
    manager = reopened(files, manager)
    for group in range(5):
        assert all_entries(log_of(manager, group)) == entries(1, 3)
    manager.close()


# A full disk.


@pytest.mark.parametrize("number", [ENOSPC, errno.EDQUOT])
def test_job_without_room_for_a_segment_waits_and_nothing_is_lost(number: int) -> None:
    files, manager = on_fake_disk()
    for index in (1, 2):
        append(manager, 1, [large(index)])
    files.fail("allocate", 1, number, times=2)
    job = manager.begin([GroupWrite(1, HardState(4, 1, 2), [large(3)])])
    for _ in range(2):
        with pytest.raises(DiskFull, match="no room for another segment"):
            job.run()
        manager.disk_is_full(job)
        assert manager.statistics().is_disk_full
        # Reads go on, and a crash now loses nothing.
        assert all_entries(log_of(manager, 1)) == [large(1), large(2)]
        survivor = files.crash(CrashMode.LOST)
        recovered = open_manager(survivor.base, survivor)
        assert all_entries(log_of(recovered, 1)) == [large(1), large(2)]
        recovered.close()
    job.run()
    manager.complete(job)
    assert not manager.statistics().is_disk_full
    for _ in range(2):
        assert all_entries(log_of(manager, 1)) == [large(1), large(2), large(3)]
        assert log_of(manager, 1).initial_state()[0] == HardState(4, 1, 2)
        manager = reopened(files, manager)
    manager.close()


def test_prewriting_on_a_full_disk_says_so_pauses_and_heals_without_reopening() -> None:
    files = FakeFileSystem(capacity_bytes=SEGMENT_BYTES + 8192)
    manager = open_manager(files.base, files)
    chore = manager.chore()
    assert chore is not None
    with pytest.raises(OSError, match="No space") as failure:
        chore.run()
    manager.complete_chore(chore, failure.value)
    assert manager.is_disk_full
    assert manager.statistics().is_disk_full
    assert manager.chore() is None
    # What fits the segment is still written.
    append(manager, 1, entries(1, 3))
    files.capacity_bytes = None
    manager.resume()
    do_chores(manager)
    assert not manager.statistics().is_disk_full
    assert manager.statistics().disk_bytes == 2 * SEGMENT_BYTES
    manager.close()


@pytest.mark.parametrize("begins_before", [False, True])
def test_spare_never_takes_the_room_that_a_waiting_job_needs(
    begins_before: bool,
) -> None:
    # Prewriting takes several steps; the roll comes in the middle, or just before the first.
    segment_bytes = 2 << 20
    files = FakeFileSystem(capacity_bytes=2 * segment_bytes + 8192)
    manager = open_manager(files.base, files, segment_bytes=segment_bytes)
    added = [entry(index, payload=bytes([index]) * (900 << 10)) for index in (1, 2, 3)]
    for one in added[:2]:
        append(manager, 1, [one])
    if begins_before:
        chore = manager.chore()
        assert chore is not None
        chore.run()
        manager.complete_chore(chore, None)
        job = manager.begin([GroupWrite(1, None, [added[2]])])
        with pytest.raises(DiskFull):
            job.run()
    else:
        job = manager.begin([GroupWrite(1, None, [added[2]])])
        files.capacity_bytes = segment_bytes
        with pytest.raises(DiskFull):
            job.run()
        files.capacity_bytes = 2 * segment_bytes + 8192
    manager.disk_is_full(job)
    # As the engine does: chores between the tries.
    for _ in range(10):
        manager.resume()
        while (chore := manager.chore()) is not None:
            try:
                chore.run()
            except OSError as error:
                manager.complete_chore(chore, error)
            else:
                manager.complete_chore(chore, None)
        try:
            job.run()
        except DiskFull:
            manager.disk_is_full(job)
            continue
        break
    assert job.has_run, "the job is never done, though there is room for its segment"
    manager.complete(job)
    assert all_entries(log_of(manager, 1)) == added
    manager.close()


@pytest.mark.parametrize("spares_max", [1, 2])
def test_job_whose_spare_meets_a_full_disk_keeps_it_and_says_so(spares_max: int) -> None:
    files, manager = on_fake_disk(spares_max=spares_max)
    do_chores(manager)
    for index in (1, 2):
        append(manager, 1, [large(index)])
    job = manager.begin([GroupWrite(1, None, [large(3)])])
    files.fail("rename", 1, ENOSPC)
    with pytest.raises(DiskFull):
        job.run()
    manager.disk_is_full(job)
    assert manager.statistics().is_disk_full
    job.run()
    manager.complete(job)
    assert not manager.statistics().is_disk_full
    # A second spare is still there for the next segment.
    assert manager.statistics().disk_bytes == (1 + spares_max) * SEGMENT_BYTES
    assert all_entries(log_of(manager, 1)) == [large(1), large(2), large(3)]
    manager.close()
