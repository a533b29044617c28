"""Tests of rafter_storage.segment_manager: jobs, rolls, rules and failures."""

import re
import threading
from pathlib import Path
from queue import SimpleQueue

import pytest

from rafter_core.entries import Entry, HardState
from rafter_core.errors import Unavailable
from rafter_storage.errors import InvalidWrite, Poisoned, StorageError
from rafter_storage.segment import HEADER_BYTES
from rafter_storage.segment_manager import GroupWrite, SegmentManager, WriteJob
from tests.storage.support import (
    EIO,
    ENOSPC,
    MEMBERSHIP,
    FaultyFiles,
    abandon,
    all_entries,
    append,
    entries,
    entry,
    log_of,
    open_manager,
    segment_files,
    write,
)


def test_entries_are_readable_only_once_the_job_is_complete(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
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


def test_one_job_of_many_groups_is_one_write_and_one_sync(tmp_path: Path) -> None:
    files = FaultyFiles()
    manager = open_manager(tmp_path, files)
    files.reset()
    write(manager, *(GroupWrite(group, None, entries(1, 1)) for group in range(100)))
    assert files.calls == ["pwritev", "sync_data"]
    manager.close()


def test_job_of_more_buffers_than_one_call_takes_is_whole(tmp_path: Path) -> None:
    manager = open_manager(tmp_path, segment_bytes=1 << 20)
    write(manager, *(GroupWrite(group, None, entries(1, 1)) for group in range(1500)))
    abandon(manager)
    manager = open_manager(tmp_path)
    assert manager.groups() == list(range(1500))
    assert all(all_entries(log_of(manager, g)) == entries(1, 1) for g in range(1500))
    manager.close()


def test_change_of_the_commit_index_alone_is_written_and_not_synced(tmp_path: Path) -> None:
    files = FaultyFiles()
    manager = open_manager(tmp_path, files)
    append(manager, 1, entries(1, 3), HardState(1, 1, 0))
    files.reset()
    append(manager, 1, [], HardState(1, 1, 2))
    assert files.calls == ["pwritev"]
    abandon(manager)
    manager = open_manager(tmp_path)
    assert log_of(manager, 1).initial_state()[0] == HardState(1, 1, 2)
    manager.close()


@pytest.mark.parametrize("state", [HardState(2, 0, 0), HardState(1, 2, 0), HardState(5, 3, 0)])
def test_change_of_term_or_vote_is_synced(tmp_path: Path, state: HardState) -> None:
    files = FaultyFiles()
    manager = open_manager(tmp_path, files)
    append(manager, 1, [], HardState(1, 0, 0))
    files.reset()
    job = manager.begin([GroupWrite(1, state, [])])
    assert job.must_sync
    job.run()
    assert files.calls == ["pwritev", "sync_data"]
    abandon(manager)
    manager = open_manager(tmp_path)
    assert log_of(manager, 1).initial_state()[0] == state
    manager.close()


def test_write_without_hard_state_keeps_the_one_before(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    append(manager, 1, entries(1, 1), HardState(3, 2, 0))
    append(manager, 1, entries(2, 2, term=3))
    abandon(manager)
    manager = open_manager(tmp_path)
    assert log_of(manager, 1).initial_state()[0] == HardState(3, 2, 0)
    manager.close()


def test_jobs_begun_ahead_run_in_order_on_another_thread(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
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
    abandon(manager)
    manager = open_manager(tmp_path)
    for group in (1, 2):
        assert all_entries(log_of(manager, group)) == entries(1, 20)
    manager.close()


def test_overlap_with_a_write_still_under_way_replaces_its_entries(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    first = manager.begin([GroupWrite(1, HardState(1, 0, 0), entries(1, 5))])
    second = manager.begin([GroupWrite(1, HardState(2, 0, 0), entries(3, 4, term=2))])
    for job in (first, second):
        job.run()
        manager.complete(job)
    expected = entries(1, 2) + entries(3, 4, term=2)
    assert all_entries(log_of(manager, 1)) == expected
    abandon(manager)
    manager = open_manager(tmp_path)
    assert all_entries(log_of(manager, 1)) == expected
    manager.close()


def test_two_writes_of_a_group_in_one_job_keep_their_order(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    write(
        manager,
        GroupWrite(1, HardState(1, 0, 0), entries(1, 3)),
        GroupWrite(1, HardState(2, 0, 0), entries(2, 2, term=2)),
    )
    assert all_entries(log_of(manager, 1)) == entries(1, 1) + entries(2, 2, term=2)
    manager.close()


def test_jobs_run_once_and_in_order(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
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
    with pytest.raises(StorageError, match="job 2 cannot be completed now"):
        manager.complete(second)
    manager.complete(first)
    manager.complete(second)
    with pytest.raises(StorageError, match="job 2 cannot be completed now"):
        manager.complete(second)
    manager.close()


def test_full_segment_is_followed_by_another(tmp_path: Path) -> None:
    files = FaultyFiles()
    manager = open_manager(tmp_path, files)
    payload = b"x" * 20_000
    for index in range(1, 4):
        append(manager, 1, [entry(index, payload=payload)])
    files.reset()
    append(manager, 1, [entry(4, payload=payload)])
    # The old segment is synced before the new one exists.
    assert files.calls == [
        "sync_data",
        *("open", "allocate", "pwritev", "sync_data", "rename", "sync_directory"),
        *("pwritev", "sync_data"),
    ]
    assert manager.statistics().segments == len(segment_files(tmp_path)) == 2
    for _ in range(2):
        assert all_entries(log_of(manager, 1)) == [entry(i, payload=payload) for i in range(1, 5)]
        abandon(manager)
        manager = open_manager(tmp_path, files)
    manager.close()


def test_job_larger_than_a_segment_gets_a_segment_of_its_size(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    append(manager, 1, entries(1, 1))
    large = entry(2, payload=b"x" * 300_000)
    append(manager, 1, [large])
    append(manager, 1, entries(3, 3))
    sizes = [path.stat().st_size for path in segment_files(tmp_path)]
    assert sizes[0] == 65536
    assert sizes[1] > 300_000
    assert sizes[2:] == [65536]
    abandon(manager)
    manager = open_manager(tmp_path)
    assert all_entries(log_of(manager, 1)) == [entry(1), large, entry(3)]
    manager.close()


def test_many_rolls_begun_ahead_of_the_disk_all_arrive(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    added = [entry(index, payload=b"%05d" % index * 8000) for index in range(1, 9)]
    jobs = [manager.begin([GroupWrite(1, None, [one])]) for one in added]
    for job in jobs:
        job.run()
        manager.complete(job)
    assert manager.statistics().segments == 8
    abandon(manager)
    manager = open_manager(tmp_path)
    assert all_entries(log_of(manager, 1)) == added
    manager.close()


def test_records_fill_a_segment_to_its_last_byte(tmp_path: Path) -> None:
    for payload_bytes in range(40):
        directory = tmp_path / str(payload_bytes)
        directory.mkdir()
        manager = open_manager(directory)
        append(manager, 1, [entry(1, payload=b"x" * (65536 - HEADER_BYTES - 140 + payload_bytes))])
        append(manager, 1, [entry(2)])
        abandon(manager)
        manager = open_manager(directory)
        assert manager.damaged == {}
        assert log_of(manager, 1).last_index() == 2
        manager.close()


@pytest.mark.parametrize(
    ("added", "state", "message"),
    [
        (entries(5, 5), None, "entries from 5, with a log that ends at 3"),
        (entries(2, 2), None, "is committed up to 2"),
        (entries(0, 0), None, "entries from 0"),
        ([entry(4), entry(6)], None, "2 entries from 4 to 6"),
        (entries(4, 4, term=0), None, "entries of terms 0 to 0"),
        ([entry(4, 3), entry(5, 2)], None, "entries of terms 3 to 2"),
        ([], HardState(1, 1, 2), "vote 1 in term 1 after vote 1 in term 2"),
        ([], HardState(2, 2, 2), "vote 2 in term 2 after vote 1 in term 2"),
        ([], HardState(2, 0, 2), "vote 0 in term 2 after vote 1 in term 2"),
        ([], HardState(2, 1, 1), "commit index 1 after 2"),
        ([], HardState(2, 1, 4), "commit index 4 after 2, with a log that ends at 3"),
    ],
)
def test_write_that_breaks_a_rule_of_the_log_is_refused_and_ends_the_manager(
    tmp_path: Path, added: list[Entry], state: HardState | None, message: str
) -> None:
    manager = open_manager(tmp_path)
    append(manager, 1, entries(1, 3, term=2), HardState(2, 1, 2))
    with pytest.raises(InvalidWrite, match=message):
        manager.begin([GroupWrite(1, state, added)])
    with pytest.raises(Poisoned, match="an impossible write was asked for"):
        manager.begin([GroupWrite(2, None, entries(1, 1))])
    manager.close()
    manager = open_manager(tmp_path)
    assert all_entries(log_of(manager, 1)) == entries(1, 3, term=2)
    manager.close()


def test_commit_index_may_cover_the_entries_it_comes_with(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    append(manager, 1, entries(1, 3), HardState(1, 1, 3))
    assert log_of(manager, 1).initial_state()[0].commit == 3
    manager.close()


@pytest.mark.parametrize("method", ["pwritev", "sync_data"])
@pytest.mark.parametrize("number", [EIO, ENOSPC])
def test_failed_write_or_sync_ends_the_manager_for_good(
    tmp_path: Path, method: str, number: int
) -> None:
    files = FaultyFiles()
    manager = open_manager(tmp_path, files)
    append(manager, 1, entries(1, 5))
    failing = manager.begin([GroupWrite(1, None, entries(6, 6))])
    begun_before = manager.begin([GroupWrite(1, None, entries(7, 7))])
    files.reset()
    files.fail_at[method, 1] = number
    with pytest.raises(Poisoned, match=r"cannot (write|sync) .*\.log: .*nothing more is ack"):
        failing.run()
    # No retry: the file system would succeed now, and it would prove nothing.
    files.reset()
    with pytest.raises(Poisoned):
        begun_before.run()
    with pytest.raises(Poisoned):
        manager.begin([GroupWrite(2, None, entries(1, 1))])
    with pytest.raises(StorageError):
        manager.complete(failing)
    assert all_entries(log_of(manager, 1)) == entries(1, 5)
    manager.close()
    assert files.calls.count("sync_data") == files.calls.count("pwritev") == 0
    manager = open_manager(tmp_path)
    assert all_entries(log_of(manager, 1))[:5] == entries(1, 5)
    manager.close()


def test_failure_at_any_call_of_a_roll_ends_the_manager_and_loses_nothing(tmp_path: Path) -> None:
    methods = [
        *(("sync_data", n) for n in (1, 2, 3)),
        *(("pwritev", n) for n in (1, 2)),
        *((method, 1) for method in ("open", "allocate", "rename", "sync_directory")),
    ]
    acknowledged = [entry(i, payload=b"x" * 20_000) for i in range(1, 4)]
    for method, number in methods:
        directory = tmp_path / f"{method}{number}"
        directory.mkdir()
        files = FaultyFiles()
        manager = open_manager(directory, files)
        for one in acknowledged:
            append(manager, 1, [one])
        files.reset()
        files.fail_at[method, number] = EIO
        job = manager.begin([GroupWrite(1, None, [entry(4, payload=b"x" * 20_000)])])
        with pytest.raises(Poisoned):
            job.run()
        with pytest.raises(Poisoned):
            manager.begin([])
        manager.close()
        manager = open_manager(directory)
        assert manager.damaged == {}
        assert all_entries(log_of(manager, 1))[:3] == acknowledged
        append(manager, 1, [entry(4, term=2)])
        abandon(manager)
        manager = open_manager(directory)
        assert all_entries(log_of(manager, 1)) == [*acknowledged, entry(4, term=2)]
        assert not list((directory / "wal").glob("*.tmp"))
        manager.close()


@pytest.mark.parametrize("short_bytes", [1, 7, 96, 100, 1000])
def test_short_writes_are_continued(tmp_path: Path, short_bytes: int) -> None:
    files = FaultyFiles()
    manager = open_manager(tmp_path, files)
    files.short_bytes = short_bytes
    write(manager, *(GroupWrite(group, None, entries(1, 3)) for group in range(5)))
    abandon(manager)
    manager = open_manager(tmp_path)
    for group in range(5):
        assert all_entries(log_of(manager, group)) == entries(1, 3)
    manager.close()


def test_failing_open_is_a_storage_error_that_names_the_directory(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.fail_at["rename", 1] = ENOSPC
    with pytest.raises(StorageError, match=re.escape(str(tmp_path / "wal"))):
        open_manager(tmp_path, files)


def test_manager_is_opened_once_and_not_used_after_close(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    with pytest.raises(StorageError, match="open already"):
        manager.open()
    manager.close()
    manager.close()
    with pytest.raises(StorageError, match="not open"):
        manager.begin([])


def test_job_left_over_from_before_close_cannot_run(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    job = manager.begin([GroupWrite(1, None, entries(1, 1))])
    manager.close()
    with pytest.raises(Poisoned, match="is closed"):
        job.run()


def test_clean_restarts_do_not_let_the_log_grow(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    append(manager, 1, entries(1, 1))
    manager.close()
    before = segment_files(tmp_path)[0].read_bytes()
    for _ in range(3):
        open_manager(tmp_path).close()
    assert segment_files(tmp_path)[0].read_bytes() == before
    assert len(segment_files(tmp_path)) == 1


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="segment_bytes is 1000, allowed are 65536 to"):
        SegmentManager(Path("x"), segment_bytes=1000)
    with pytest.raises(ValueError, match="tail_bytes_max is -1"):
        SegmentManager(Path("x"), tail_bytes_max=-1)


def test_statistics_count_complete_jobs(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    write(manager, GroupWrite(1, None, entries(1, 3)), GroupWrite(2, None, entries(1, 1)))
    append(manager, 1, [], HardState(0, 0, 1))
    manager.begin([GroupWrite(1, None, entries(4, 4))])
    counts = manager.statistics()
    assert (counts.records, counts.entries, counts.jobs, counts.syncs) == (3, 4, 2, 1)
    assert counts.segments == 1
    assert counts.appended_bytes % 8 == 0
    assert counts.appended_bytes > 3 * 96
    assert counts.sync_seconds > 0
    manager.close()


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


def test_failed_open_closes_what_it_opened(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    append(manager, 1, entries(1, 3))
    abandon(manager)
    for method in ("sync_data", "allocate", "pwritev", "sync_directory", "pread"):
        files = OpenFiles()
        files.fail_at[method, 1] = EIO
        with pytest.raises(StorageError):
            open_manager(tmp_path, files)
        assert files.open_descriptors == set()
    manager = open_manager(tmp_path)
    assert all_entries(log_of(manager, 1)) == entries(1, 3)
    manager.close()


class OpenFiles(FaultyFiles):
    """Knows which files are open."""

    def __init__(self) -> None:
        super().__init__()
        self.open_descriptors: set[int] = set()

    def open(self, path: Path, flags: int) -> int:
        descriptor = super().open(path, flags)
        self.open_descriptors.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        self.open_descriptors.remove(descriptor)
        super().close(descriptor)
