"""Tests of rafter_storage.log_tail. Whole logs that are reopened are in test_segment_manager.py."""

import pytest

from rafter_core.entries import HardState
from rafter_storage.buffer import FragmentPool
from rafter_storage.errors import Poisoned
from rafter_storage.group_state import Draft, GroupState
from rafter_storage.log_tail import mark, open_directly, reopen
from rafter_storage.record import RecordKind
from rafter_storage.recovery import Tail
from rafter_storage.scan import scan_tail
from rafter_storage.segment import HEADER_BYTES, SegmentHeader, create_segment, segment_path
from rafter_storage.segment_index import SegmentIndex
from rafter_storage.write_job import LogHead, WriteJob
from rafter_storage.writer import DIRECT_BLOCK_BYTES, SegmentWriter
from tests.storage.fake_file_system import CrashMode, FakeFileSystem
from tests.storage.support import EIO, SEGMENT_BYTES, append, entries, entry, log_of, open_manager

HEADER = SegmentHeader(1, 1234, 0, 0, SEGMENT_BYTES, 1)


def make(body_bytes: int = 0) -> tuple[FakeFileSystem, LogHead, SegmentWriter]:
    """A segment with one record of a group, which is not synced."""
    files = FakeFileSystem()
    descriptor = create_segment(files, files.base, HEADER)
    writer = SegmentWriter(files, files.base, HEADER, descriptor, is_direct=False)
    head = LogHead.at_start(HEADER)
    job = WriteJob.outside_of_order(writer, head, None)
    body = b"x" * body_bytes
    draft = Draft(RecordKind.ENTRIES, GroupState(7, 0), HardState(1, 0, 0), (1, 1, 1), body)
    head.place(job, draft)
    job.run()
    files.journal.clear()
    return files, head, writer


def writes(files: FakeFileSystem) -> list[str]:
    methods = ("pwritev", "sync_data", "write_synced")
    return [call.method for call in files.journal if call.method in methods]


def end_of(files: FakeFileSystem) -> tuple[int, bool]:
    """Where a recovery finds the log's end, and whether it is marked."""
    found = scan_tail(files, files.base, HEADER, SegmentIndex(1))
    assert found.faults == []
    return found.end, found.is_marked


def test_mark_is_written_behind_a_sync_and_synced_itself() -> None:
    files, head, writer = make()
    mark(writer, head, 1, None)
    assert writes(files) == ["sync_data", "write_synced"]
    assert (head.is_marked, head.synced_offset) == (True, head.end)
    assert end_of(files.crash(CrashMode.LOST)) == (head.end, True)
    files.journal.clear()
    mark(writer, head, 1, None)
    assert writes(files) == []
    writer.close()


@pytest.mark.parametrize(("room_bytes", "is_marked"), [(88, False), (96, True), (104, True)])
def test_mark_needs_room(
    room_bytes: int,
    is_marked: bool,
) -> None:
    files, head, writer = make(SEGMENT_BYTES - HEADER_BYTES - 96 - room_bytes)
    mark(writer, head, 1, None)
    assert head.is_marked == is_marked
    assert head.end <= SEGMENT_BYTES
    assert len(files.contents(segment_path(files.base, 1))) == SEGMENT_BYTES
    writer.close()


def test_direct_log_begins_at_a_block_wherever_it_ended() -> None:
    for body_bytes in range(0, 4200, 56):
        files, head, buffered = make(body_bytes)
        writer = open_directly(files, files.base, head, buffered)
        assert head.end % DIRECT_BLOCK_BYTES == 0
        mark(writer, head, 1, FragmentPool())
        assert head.end % DIRECT_BLOCK_BYTES == 0
        assert end_of(files.crash(CrashMode.LOST)) == (head.end, True)
        writer.close()
        assert files._opened == {}


def test_direct_log_does_not_outgrow_a_segment_that_is_nearly_full() -> None:
    for room_bytes in range(0, 8400, 56):
        files, head, buffered = make(SEGMENT_BYTES - HEADER_BYTES - 96 - room_bytes)
        writer = open_directly(files, files.base, head, buffered)
        mark(writer, head, 1, FragmentPool())
        assert head.end <= SEGMENT_BYTES
        assert len(files.contents(segment_path(files.base, 1))) == SEGMENT_BYTES
        writer.close()


def test_direct_log_that_cannot_be_padded_is_closed() -> None:
    files, head, buffered = make()
    files.fail("pwritev", 1, EIO)
    with pytest.raises(Poisoned):
        open_directly(files, files.base, head, buffered)
    assert files._opened == {}


def test_direct_log_that_cannot_be_opened_is_closed() -> None:
    files, head, buffered = make()
    files.fail("open", 1, EIO)
    with pytest.raises(OSError, match="Input/output"):
        open_directly(files, files.base, head, buffered)
    assert files._opened == {}


def reopened_tail(files: FakeFileSystem, end: int, unproved: bytes) -> Tail:
    found = scan_tail(files, files.base, HEADER, SegmentIndex(1))
    head = LogHead(HEADER, end, found.chain, is_marked=False)
    return Tail(head=head, segment_index=SegmentIndex(1), unproved=unproved)


def test_what_only_the_page_cache_may_have_is_written_again_and_durable() -> None:
    files, head, writer = make(500)
    writer.close()
    data = files.contents(segment_path(files.base, 1))[HEADER_BYTES : head.end]
    tail = reopened_tail(files, head.end, data)
    files.journal.clear()
    writer = reopen(files, files.base, tail, 1)
    first = files.calls("pwritev")[0]
    assert (first.offset, first.length) == (HEADER_BYTES, len(data))
    assert end_of(files.crash(CrashMode.LOST)) == (tail.head.end, True)
    writer.close()


@pytest.mark.parametrize(
    ("method", "nth"), [("pwritev", 1), ("sync_data", 1), ("sync_data", 2), ("write_synced", 1)]
)
def test_log_that_cannot_be_made_durable_is_closed(method: str, nth: int) -> None:
    files, head, writer = make()
    writer.close()
    data = files.contents(segment_path(files.base, 1))[HEADER_BYTES : head.end]
    tail = reopened_tail(files, head.end, data)
    files.fail(method, nth, EIO)
    with pytest.raises(Poisoned):
        reopen(files, files.base, tail, 1)
    assert files._opened == {}


def test_entries_that_a_failed_sync_left_in_doubt_are_durable_once_they_are_shown() -> None:
    # The kernel calls pages clean whose sync has failed: a later sync alone proves nothing.
    files = FakeFileSystem()
    manager = open_manager(files.base, files)
    append(manager, 1, entries(1, 3))
    # Behind what is not synced, the sync is a call of its own.
    append(manager, 1, [], HardState(0, 0, 1))
    files.fail("sync_data", 1, EIO)
    with pytest.raises(Poisoned):
        append(manager, 1, [entry(4)])
    manager.close()
    manager = open_manager(files.base, files)
    last_index = log_of(manager, 1).last_index()
    survivor = files.crash(CrashMode.LOST)
    manager.close()
    manager = open_manager(survivor.base, survivor)
    assert log_of(manager, 1).last_index() == last_index
    manager.close()
