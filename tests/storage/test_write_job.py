"""Tests of rafter_storage.write_job."""

import pytest

from rafter_core.entries import HardState
from rafter_storage import write_job
from rafter_storage.buffer import FragmentPool
from rafter_storage.errors import DiskFull, InvalidWrite, Poisoned, StorageError
from rafter_storage.group_state import Draft, GroupState
from rafter_storage.record import PREFIX_BYTES, RecordKind, RecordPrefix, align, decode_prefix
from rafter_storage.segment import HEADER_BYTES, SegmentHeader, create_segment, segment_path
from rafter_storage.write_job import LogHead, WriteJob
from rafter_storage.writer import DIRECT_BLOCK_BYTES, DIRECT_FLAGS, SegmentWriter
from tests.storage.fake_file_system import FakeFileSystem
from tests.storage.support import EIO, ENOSPC

SEGMENT_BYTES = 1 << 16
HEADER = SegmentHeader(1, 1234, 0, 0, SEGMENT_BYTES, 1)
STATE = GroupState(7, 1000)


def make(*, is_direct: bool = False) -> tuple[FakeFileSystem, SegmentWriter]:
    files = FakeFileSystem()
    flags = DIRECT_FLAGS if is_direct else 0
    descriptor = create_segment(files, files.base, HEADER, None, flags)
    files.journal.clear()
    return files, SegmentWriter(files, files.base, HEADER, descriptor, is_direct=is_direct)


def job_of(
    writer: SegmentWriter,
    head: LogHead,
    number: int = 1,
    roll: SegmentHeader | None = None,
    pool: FragmentPool | None = None,
) -> WriteJob:
    return WriteJob(writer, number, head.header.sequence, head.end, roll, None, pool)


def draft(body: bytes, first_index: int = 1, last_index: int = 1) -> Draft:
    entries_range = (first_index, last_index, 3)
    return Draft(RecordKind.ENTRIES, STATE, HardState(3, 2, 0), entries_range, body)


def prefixes(
    files: FakeFileSystem, header: SegmentHeader = HEADER
) -> list[tuple[int, RecordPrefix]]:
    """Every record of a segment, as far as the chain holds."""
    data = files.contents(segment_path(files.base, header.sequence))
    found = []
    offset, chain = HEADER_BYTES, header.seed
    while (prefix := decode_prefix(header.seed, data, offset, offset, len(data))) is not None:
        if prefix.chain != chain:
            break
        found.append((offset, prefix))
        offset += align(prefix.length)
        chain = prefix.checksum
    return found


def written(files: FakeFileSystem) -> list[str]:
    methods = ("pwritev", "sync_data", "write_synced")
    return [call.method for call in files.journal if call.method in methods]


def test_records_follow_each_other_aligned_and_chained_over_jobs() -> None:
    files, writer = make()
    head = LogHead.at_start(HEADER)
    first = job_of(writer, head)
    for length in range(1, 9):
        head.place(first, draft(b"x" * length))
    second = job_of(writer, head, 2)
    head.place(second, draft(b"y" * 100))
    for job in (first, second):
        job.run()
        assert job.has_run
    found = prefixes(files)
    assert [prefix.length - PREFIX_BYTES for _, prefix in found] == [*range(1, 9), 100]
    assert all(offset % 8 == 0 for offset, _ in found)
    assert [offset for offset, _ in found] == [
        offset for job in (first, second) for _, offset, _ in job.drafts
    ]
    assert {prefix.group for _, prefix in found} == {7}
    assert {prefix.hard_state for _, prefix in found} == {HardState(3, 2, 0)}
    assert (first.end, second.end) == (second.offset, head.end)


def test_job_is_one_write_and_is_synced_only_if_it_must() -> None:
    files, writer = make()
    head = LogHead.at_start(HEADER)
    for number, must_sync in ((1, False), (2, True)):
        job = job_of(writer, head, number)
        job.must_sync = must_sync
        head.place(job, draft(b"x"))
        head.place(job, draft(b"y"))
        files.journal.clear()
        job.run()
        assert written(files) == ["pwritev", "sync_data"][: 1 + must_sync]
        assert job.syncs == must_sync


def test_job_behind_synced_ones_is_one_call_that_counts_as_a_sync() -> None:
    files, writer = make()
    writer.sync()
    head = LogHead.at_start(HEADER)
    job = job_of(writer, head)
    job.must_sync = True
    head.place(job, draft(b"x"))
    files.journal.clear()
    job.run()
    assert written(files) == ["write_synced"]
    assert job.syncs == 1
    assert job.sync_seconds > 0


def test_job_without_records_writes_nothing() -> None:
    files, writer = make()
    job_of(writer, LogHead.at_start(HEADER)).run()
    assert written(files) == []


def test_mark_is_synced_and_names_the_first_segment() -> None:
    files, writer = make()
    head = LogHead.at_start(HEADER)
    assert head.is_marked
    job = job_of(writer, head)
    head.place(job, draft(b"x"))
    assert not head.is_marked
    head.synced_offset = head.end
    head.place_mark(job, 5)
    assert (job.must_sync, job.first_sequence, len(job.drafts)) == (True, 5, 1)
    job.run()
    assert written(files) == ["pwritev", "sync_data"]
    _, mark = prefixes(files)[-1]
    assert (mark.kind, mark.first_index, mark.group) == (RecordKind.MARK, 5, 0)
    assert mark.synced_offset == HEADER_BYTES + PREFIX_BYTES + 8


@pytest.mark.parametrize("body_bytes", [*range(4000 - 104, 4000 + 8, 8), 0, 20_000])
def test_padding_fills_the_block_whatever_is_missing(body_bytes: int) -> None:
    files, writer = make(is_direct=True)
    head = LogHead.at_start(HEADER)
    job = job_of(writer, head, pool=FragmentPool())
    head.place(job, draft(b"x" * body_bytes))
    head.place_padding(job, DIRECT_BLOCK_BYTES)
    assert job.end % DIRECT_BLOCK_BYTES == 0
    assert job.end - job.offset - PREFIX_BYTES - body_bytes < DIRECT_BLOCK_BYTES + PREFIX_BYTES
    job.run()
    found = prefixes(files)
    last_offset, last = found[-1]
    assert last_offset + align(last.length) == job.end
    assert [prefix.kind for _, prefix in found[1:]] in ([], [RecordKind.PADDING])
    assert {prefix.hard_state for _, prefix in found[1:]} <= {HardState()}


def test_fragments_go_back_to_their_pool_after_the_write() -> None:
    _, writer = make(is_direct=True)
    pool = FragmentPool()
    head = LogHead.at_start(HEADER)
    job = job_of(writer, head, pool=pool)
    head.place(job, draft(b"x" * 50))
    head.place_padding(job, DIRECT_BLOCK_BYTES)
    job.run()
    assert pool.idle_count == 1


def test_job_that_rolls_syncs_what_was_before_even_if_it_need_not_be_synced_itself() -> None:
    files, writer = make()
    head = LogHead.at_start(SegmentHeader(2, 77, HEADER.seed, HEADER_BYTES, SEGMENT_BYTES, 1))
    job = job_of(writer, head, roll=head.header)
    head.place(job, draft(b"x"))
    job.run()
    assert written(files) == ["sync_data", "pwritev", "sync_data", "pwritev"]
    assert (job.syncs, job.sequence) == (1, 2)
    assert len(prefixes(files, head.header)) == 1


def test_job_that_finds_no_room_is_run_again_as_it_was() -> None:
    files, writer = make()
    head = LogHead.at_start(SegmentHeader(2, 77, HEADER.seed, HEADER_BYTES, SEGMENT_BYTES, 1))
    job = job_of(writer, head, roll=head.header)
    head.place(job, draft(b"x" * 100))
    job.must_sync = True
    files.fail("allocate", 1, ENOSPC, times=3)
    for _ in range(3):
        with pytest.raises(DiskFull):
            job.run()
        assert not job.has_run
    job.run()
    assert (job.has_run, job.syncs) == (True, 2)
    assert [prefix.length for _, prefix in prefixes(files, head.header)] == [196]


def test_jobs_run_once_and_in_order() -> None:
    _, writer = make()
    head = LogHead.at_start(HEADER)
    first, second = job_of(writer, head, 1), job_of(writer, head, 2)
    with pytest.raises(StorageError, match="job 2 cannot run after job 0"):
        second.run()
    first.run()
    with pytest.raises(StorageError, match="job 1 cannot run after job 1"):
        first.run()
    second.run()


@pytest.mark.parametrize("method", ["pwritev", "sync_data", "write_synced"])
def test_failed_job_has_not_run(method: str) -> None:
    files, writer = make()
    if method == "write_synced":
        writer.sync()
    head = LogHead.at_start(HEADER)
    job = job_of(writer, head)
    head.place(job, draft(b"x"))
    job.must_sync = True
    files.fail(method, 1, EIO)
    with pytest.raises(Poisoned):
        job.run()
    assert not job.has_run
    with pytest.raises(Poisoned):
        job.run()


def test_record_beyond_its_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_job, "RECORD_BYTES_MAX", 1000)
    _, writer = make()
    head = LogHead.at_start(HEADER)
    job = job_of(writer, head)
    head.place(job, draft(b"x" * (1000 - PREFIX_BYTES)))
    with pytest.raises(InvalidWrite, match="group 7: a record of 1001 bytes, 1 GiB is allowed"):
        head.place(job, draft(b"x" * (1001 - PREFIX_BYTES)))
