"""Tests of rafter_storage.scan: what is torn, what is corrupt, and what is only left over.

reliability.md §3.5 and 48: a bad record is torn when nothing proves that it had been synced.
Anything else is corruption, and never cut.
"""

import itertools
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core.entries import HardState
from rafter_core.membership import Membership
from rafter_storage.errors import StorageError
from rafter_storage.file_system import REAL_FILE_SYSTEM
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.record import PREFIX_BYTES, RecordKind, align, encode_prefix
from rafter_storage.scan import Fault, TailScan, scan_sealed, scan_tail
from rafter_storage.segment import HEADER_BYTES, SegmentHeader, encode_header, segment_path
from rafter_storage.segment_index import SegmentIndex
from tests.storage.histories import (
    STEPS,
    History,
    Record,
    Step,
    bare_record,
    encode_records,
    entries_record,
    index_of,
    metadata_record,
    placed,
    said_by,
    write_segment,
)
from tests.storage.support import EIO, FaultyFiles

HEADER = SegmentHeader(3, 0xABCDEF, 0x123456, 8192, 1 << 16, 2)
METADATA = GroupMetadata(10, 2, ((10, Membership((1, 2, 3))),), 10, 2)
SIZE = 1 << 16


def end_of(records: list[Record]) -> int:
    return records[-1].offset + align(records[-1].length) if records else HEADER_BYTES


def tail_of(directory: Path, image: bytes) -> tuple[TailScan, SegmentIndex]:
    segment_path(directory, HEADER.sequence).write_bytes(image)
    index = SegmentIndex(HEADER.sequence)
    return scan_tail(REAL_FILE_SYSTEM, directory, HEADER, index), index


def sealed_of(directory: Path, image: bytes, end: int) -> tuple[Fault | None, SegmentIndex]:
    segment_path(directory, HEADER.sequence).write_bytes(image)
    index = SegmentIndex(HEADER.sequence)
    return scan_sealed(REAL_FILE_SYSTEM, directory, HEADER, end, index), index


def image_of(records: list[Record], synced_offsets: list[int] | None = None) -> bytes:
    data = encode_header(HEADER) + encode_records(HEADER.seed, records, synced_offsets)
    return data.ljust(SIZE, b"\0")


def flipped(image: bytes, position: int) -> bytes:
    return image[:position] + bytes([image[position] ^ 0x10]) + image[position + 1 :]


class TwoJobs:
    """A job of three records that the next job's three records prove to have been synced."""

    def __init__(self, payload_bytes: int = 20) -> None:
        payload = b"\xaa" * payload_bytes
        self.records = placed(
            entries_record(1, 1, 3),
            entries_record(2, 1, 2),
            metadata_record(RecordKind.GROUP, 3, METADATA),
            entries_record(1, 3, 4, 2, payload=payload),
            entries_record(2, 3, 3, 1, payload=payload),
            entries_record(3, 11, 12, 5, payload=payload),
        )
        self.start = self.records[3].offset
        self.end = end_of(self.records)
        self.image = image_of(self.records, [HEADER_BYTES] * 3 + [self.start] * 3)

    def said_after(self, count: int) -> dict[int, tuple[object, ...]]:
        return said_by(index_of(HEADER.sequence, self.records[:count]))

    def whole_records(self, image: bytes) -> int:
        """How many records stand before the first byte that is another one."""
        changes = (at for at in range(self.end) if image[at] != self.image[at])
        first = next(changes, self.end)
        return sum(1 for record in self.records if record.offset + align(record.length) <= first)

    def check_torn(self, directory: Path, image: bytes) -> None:
        kept = self.whole_records(image)
        tail, index = tail_of(directory, image)
        assert tail.faults == []
        assert tail.end == end_of(self.records[:kept])
        assert said_by(index) == self.said_after(kept)


@pytest.fixture(scope="module")
def jobs() -> TwoJobs:
    return TwoJobs()


# What is whole.


@given(STEPS)
def test_scans_of_any_history_find_what_was_written(steps: list[Step]) -> None:
    history = History(steps)
    with tempfile.TemporaryDirectory() as name:
        for sequence, records in history.segments.items():
            header = HEADER._replace(sequence=sequence, first_sequence=1)
            write_segment(Path(name), header, records, size=end_of(records) + 512)
            expected = said_by(index_of(sequence, records))
            sealed, last = SegmentIndex(sequence), SegmentIndex(sequence)
            end = end_of(records)
            assert scan_sealed(REAL_FILE_SYSTEM, Path(name), header, end, sealed) is None
            tail = scan_tail(REAL_FILE_SYSTEM, Path(name), header, last)
            assert (tail.end, tail.torn_bytes, tail.faults) == (end, 0, [])
            assert said_by(sealed) == said_by(last) == expected


@given(st.lists(st.sampled_from([0, 50, 5_000, 16_300, 16_384, 20_000, 40_000]), max_size=8))
def test_records_of_any_size_are_found_whatever_is_read_at_once(sizes: list[int]) -> None:
    records = placed(
        *(entries_record(7, i, i, payload=b"x" * size) for i, size in enumerate(sizes, 1)),
        metadata_record(RecordKind.GROUP, 7, METADATA),
    )
    end = end_of(records)
    with tempfile.TemporaryDirectory() as name:
        fault, index = sealed_of(Path(name), image_of(records), end)
    assert fault is None
    assert said_by(index) == said_by(index_of(HEADER.sequence, records))


def test_tail_goes_on_where_its_last_record_ends(tmp_path: Path, jobs: TwoJobs) -> None:
    tail, _ = tail_of(tmp_path, jobs.image)
    assert (tail.end, tail.torn_bytes, tail.is_marked) == (jobs.end, 0, False)
    chain = HEADER.seed
    for kind, group, state, entries_range, body, offset, _ in jobs.records:
        synced = HEADER_BYTES if offset < jobs.start else jobs.start
        _, chain = encode_prefix(
            HEADER.seed, offset, synced, chain, kind, group, state, entries_range, body
        )
    assert tail.chain == chain


def test_records_that_no_other_proves_are_told_apart(tmp_path: Path, jobs: TwoJobs) -> None:
    tail, _ = tail_of(tmp_path, jobs.image)
    assert tail.unproved == jobs.image[jobs.start : jobs.end]


def test_segment_without_records_begins_behind_its_header(tmp_path: Path) -> None:
    tail, index = tail_of(tmp_path, image_of([]))
    assert tail == TailScan(HEADER_BYTES, HEADER.seed, b"", 2, False, 0, [])
    assert index.sections == {}
    fault, index = sealed_of(tmp_path, image_of([]), HEADER_BYTES)
    assert (fault, index.sections) == (None, {})


def test_mark_says_where_the_log_begins_and_that_it_is_synced(tmp_path: Path) -> None:
    records = placed(
        bare_record(RecordKind.MARK, first_index=2),
        entries_record(1, 1, 1),
        bare_record(RecordKind.MARK, first_index=3),
    )
    tail, index = tail_of(tmp_path, image_of(records))
    assert (tail.first_sequence, tail.is_marked) == (3, True)
    assert list(index.sections) == [1]
    tail, _ = tail_of(tmp_path, image_of(records[:2]))
    assert (tail.first_sequence, tail.is_marked) == (2, False)
    padding = bare_record(RecordKind.PADDING, body=bytes(40))
    tail, _ = tail_of(tmp_path, image_of(placed(*records, padding)))
    assert (tail.first_sequence, tail.is_marked) == (3, True)
    tail, _ = tail_of(tmp_path, image_of(placed(*records[:2], padding)))
    assert (tail.first_sequence, tail.is_marked) == (2, False)


# Torn tails.


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_any_512_byte_pieces_of_the_last_job_may_be_missing(tmp_path: Path, fill: bytes) -> None:
    jobs = TwoJobs(payload_bytes=400)
    pieces = range(jobs.start // 512, -(-jobs.end // 512))
    assert 4 <= len(pieces) <= 8
    for count in range(len(pieces) + 1):
        for lost in itertools.combinations(pieces, count):
            image = bytearray(jobs.image)
            for piece in lost:
                low, high = max(piece * 512, jobs.start), piece * 512 + 512
                image[low:high] = fill * (high - low)
            jobs.check_torn(tmp_path, bytes(image))


def test_tail_lost_from_any_byte_is_cut_at_its_record(tmp_path: Path, jobs: TwoJobs) -> None:
    for cut in range(jobs.start, jobs.end + 1):
        jobs.check_torn(tmp_path, jobs.image[:cut].ljust(SIZE, b"\0"))


def test_file_cut_short_is_cut_at_its_record(tmp_path: Path, jobs: TwoJobs) -> None:
    for cut in range(jobs.start, jobs.end):
        kept = jobs.whole_records(jobs.image[:cut].ljust(SIZE, b"\0"))
        tail, index = tail_of(tmp_path, jobs.image[:cut])
        # Zeros that pad a record are no part of it: a file that lacks them holds it whole.
        ends = [record.offset + record.length for record in jobs.records]
        kept = max(kept, sum(1 for end in ends if end <= cut))
        assert tail.faults == []
        assert (tail.end, said_by(index)) == (
            end_of(jobs.records[:kept]),
            jobs.said_after(kept),
        )


def test_bad_record_takes_the_whole_unproved_ones_behind_it_along(
    tmp_path: Path, jobs: TwoJobs
) -> None:
    for number in (3, 4, 5):
        record = jobs.records[number]
        for position in (8, 90, PREFIX_BYTES + 3):
            image = flipped(jobs.image, record.offset + position)
            jobs.check_torn(tmp_path, image)
            tail, _ = tail_of(tmp_path, image)
            is_seen = number < 5 or position >= PREFIX_BYTES
            assert tail.torn_bytes == (jobs.end - record.offset if is_seen else 0)


def test_garbage_with_a_valid_looking_length_is_no_record(tmp_path: Path, jobs: TwoJobs) -> None:
    # reliability.md 48: a length that fits, the right magic, and no matching checksum.
    copied = jobs.image[jobs.start : jobs.end]
    image = bytearray(jobs.image)
    image[jobs.end : jobs.end + len(copied)] = copied
    jobs.check_torn(tmp_path, bytes(image))


def test_records_of_the_file_as_it_was_before_it_was_recycled_never_pass(
    tmp_path: Path, jobs: TwoJobs
) -> None:
    many = placed(*(entries_record(1 + i % 3, 1 + i, 1 + i) for i in range(200)))
    for old_seed in (HEADER.seed + 1, HEADER.seed - 8, HEADER.seed + (1 << 32)):
        old = encode_records(old_seed, many)
        for cut in (jobs.end, jobs.start, HEADER_BYTES):
            image = jobs.image[:cut] + old[cut - HEADER_BYTES :]
            jobs.check_torn(tmp_path, image)
            assert tail_of(tmp_path, image)[0].torn_bytes == 0


def test_old_record_that_begins_right_at_the_end_never_passes(tmp_path: Path) -> None:
    records = placed(*(entries_record(1, i, i) for i in range(1, 10)))
    old = encode_records(HEADER.seed + 1, records)
    for count in range(10):
        cut = end_of(records[:count])
        image = image_of(records)[:cut] + old[cut - HEADER_BYTES :]
        tail, _ = tail_of(tmp_path, image)
        assert (tail.end, tail.faults) == (cut, [])


def test_leftovers_of_a_cut_tail_never_continue_the_log(tmp_path: Path, jobs: TwoJobs) -> None:
    # The third job was torn in its first record and cut; the log goes on there with a record of
    # the same length, and right behind it stands what was left over, whole and of this segment.
    for is_shorter in (False, True):
        first = entries_record(1, 5, 5, 9, payload=b"torn")
        left = [entries_record(2, 4, 4, 9), entries_record(3, 13, 13, 9)]
        new = entries_record(1, 5, 5, 9, payload=b"next")
        torn = placed(*jobs.records, first, *left)
        if is_shorter:
            torn = placed(*jobs.records, first, entries_record(1, 6, 6, 9), *left)
        now = placed(*jobs.records, new)
        marks = [HEADER_BYTES] * 3 + [jobs.start] * 3
        before = image_of(torn, marks + [jobs.end] * (len(torn) - 6))
        image = image_of(now, [*marks, jobs.end])
        end = end_of(now)
        assert before[: jobs.end] == image[: jobs.end]
        assert torn[7].offset == end
        tail, index = tail_of(tmp_path, image[:end] + before[end:])
        assert (tail.end, tail.faults) == (end, [])
        assert tail.torn_bytes == end_of(torn) - end
        assert said_by(index) == said_by(index_of(HEADER.sequence, now))
        # Nor do they prove that what was written in their place had been synced.
        damaged = flipped(image[:end] + before[end:], jobs.end + PREFIX_BYTES + 5)
        tail, index = tail_of(tmp_path, damaged)
        assert (tail.end, tail.faults) == (jobs.end, [])


# Corruption.


def test_damaged_prefix_that_is_proved_is_nobodys_and_stops_the_scan(
    tmp_path: Path, jobs: TwoJobs
) -> None:
    for number, record in enumerate(jobs.records[:3]):
        for position in range(PREFIX_BYTES):
            image = flipped(jobs.image, record.offset + position)
            tail, index = tail_of(tmp_path, image)
            reason = f"no valid record, though the segment was synced up to {jobs.start}"
            assert tail.faults == [Fault(record.offset, reason, None)]
            assert said_by(index) == jobs.said_after(number)


def test_damaged_body_that_is_proved_is_its_groups_and_the_scan_goes_on(
    tmp_path: Path, jobs: TwoJobs
) -> None:
    for record in jobs.records[:3]:
        for position in range(PREFIX_BYTES, record.length):
            tail, index = tail_of(tmp_path, flipped(jobs.image, record.offset + position))
            reason = f"a damaged record body, though the segment was synced up to {jobs.start}"
            assert tail.faults == [Fault(record.offset, reason, record.group)]
            assert tail.end == jobs.end
            found = said_by(index)
            assert index.sections[record.group].fault == reason
            for group in {1, 2, 3} - {record.group}:
                assert found[group] == jobs.said_after(6)[group]


def test_zeroed_record_that_is_proved_is_corruption_and_not_the_end(
    tmp_path: Path, jobs: TwoJobs
) -> None:
    for record in jobs.records[:3]:
        image = bytearray(jobs.image)
        image[record.offset : record.offset + record.length] = bytes(record.length)
        tail, _ = tail_of(tmp_path, bytes(image))
        assert [fault.group for fault in tail.faults] == [None]
        assert tail.end == record.offset


def test_several_damaged_bodies_are_all_told(tmp_path: Path, jobs: TwoJobs) -> None:
    image = jobs.image
    for record in (jobs.records[0], jobs.records[2], jobs.records[4]):
        image = flipped(image, record.offset + PREFIX_BYTES)
    tail, _ = tail_of(tmp_path, image)
    assert [fault.group for fault in tail.faults] == [1, 3]
    assert tail.end == jobs.records[4].offset


def test_one_byte_of_proof_is_enough(tmp_path: Path) -> None:
    # The proof must reach beyond the record's begin, no matter how far.
    records = placed(entries_record(1, 1, 1), entries_record(1, 2, 2), entries_record(1, 3, 3))
    bad = records[1].offset
    for synced, is_proved in ((bad, False), (bad + 8, True), (records[2].offset, True)):
        image = image_of(records, [HEADER_BYTES, HEADER_BYTES, synced])
        tail, _ = tail_of(tmp_path, flipped(image, bad + PREFIX_BYTES + 1))
        assert bool(tail.faults) == is_proved
        if not is_proved:
            assert tail.end == bad


def test_proof_is_found_behind_any_garbage(tmp_path: Path) -> None:
    filler = entries_record(1, 2, 2, payload=b"\xee" * 9_000)
    records = placed(entries_record(1, 1, 1), filler, bare_record(RecordKind.MARK, first_index=2))
    image = bytearray(image_of(records))
    image[records[1].offset : records[2].offset] = os.urandom(records[2].offset - records[1].offset)
    tail, _ = tail_of(tmp_path, bytes(image))
    assert tail.faults[0].offset == records[1].offset


def test_what_looks_like_a_record_off_its_alignment_proves_nothing(tmp_path: Path) -> None:
    # A record's own bytes within an entry, for example: a log that somebody stored in a log.
    end = end_of(placed(entries_record(1, 1, 1)))
    offset = end + PREFIX_BYTES + 13
    prefix, _ = encode_prefix(
        HEADER.seed, offset, end + 8, 5, RecordKind.MARK, 0, HardState(), (1, 0, 0), b""
    )
    image = bytearray(image_of(placed(entries_record(1, 1, 1))))
    image[offset : offset + PREFIX_BYTES] = prefix
    tail, _ = tail_of(tmp_path, bytes(image))
    assert (tail.end, tail.torn_bytes, tail.faults) == (end, 0, [])


@pytest.mark.parametrize("kind", [RecordKind.GROUP, RecordKind.RESET])
def test_damaged_metadata_of_a_sealed_segment_damages_its_group_alone(
    tmp_path: Path, kind: RecordKind
) -> None:
    records = placed(
        entries_record(2, 1, 1), metadata_record(kind, 1, METADATA), entries_record(2, 2, 2)
    )
    for position in range(PREFIX_BYTES, records[1].length):
        image = flipped(image_of(records), records[1].offset + position)
        fault, index = sealed_of(tmp_path, image, end_of(records))
        assert fault is None
        assert f"offset {records[1].offset}" in str(index.sections[1].fault)
        assert "is damaged" in str(index.sections[1].fault)
        assert index.sections[2].fault is None
        assert len(index.sections[2].appended) == 2


@pytest.mark.parametrize("kind", [RecordKind.GROUP, RecordKind.RESET])
def test_whole_metadata_that_cannot_be_decoded_damages_its_group_alone(
    tmp_path: Path, kind: RecordKind
) -> None:
    records = placed(
        entries_record(2, 1, 1), bare_record(kind, 1, body=b"\x90"), entries_record(2, 2, 2)
    )
    for scanned in (
        sealed_of(tmp_path, image_of(records), end_of(records))[1],
        tail_of(tmp_path, image_of(records))[1],
    ):
        assert "not of format 1" in str(scanned.sections[1].fault)
        assert len(scanned.sections[2].appended) == 2


def test_damage_behind_a_removal_is_not_forgotten(tmp_path: Path) -> None:
    records = placed(
        bare_record(RecordKind.REMOVED, 1),
        metadata_record(RecordKind.RESET, 1, METADATA),
        bare_record(RecordKind.MARK, first_index=2),
    )
    image = flipped(image_of(records), records[1].offset + PREFIX_BYTES)
    for index in (
        sealed_of(tmp_path, image, end_of(records))[1],
        tail_of(tmp_path, image)[1],
    ):
        assert index.sections[1].fault is not None
        assert not index.sections[1].is_removed


def test_damaged_padding_says_nothing_and_damages_nobody(tmp_path: Path) -> None:
    records = placed(
        entries_record(0, 1, 1),
        bare_record(RecordKind.PADDING, body=bytes(200)),
        entries_record(0, 2, 2),
    )
    image = flipped(image_of(records), records[1].offset + PREFIX_BYTES + 100)
    tail, index = tail_of(tmp_path, image)
    assert tail.faults == []
    assert len(index.sections[0].appended) == 2
    assert sealed_of(tmp_path, image, end_of(records))[0] is None


def test_bad_prefix_of_a_sealed_segment_is_a_fault_that_stops_the_scan(
    tmp_path: Path, jobs: TwoJobs
) -> None:
    for number, record in enumerate(jobs.records):
        for position in (0, 4, 8, 50, 72, 95):
            image = flipped(jobs.image, record.offset + position)
            fault, index = sealed_of(tmp_path, image, jobs.end)
            assert fault is not None
            assert (fault.offset, fault.group) == (record.offset, None)
            assert said_by(index) == jobs.said_after(number)


def test_bodies_of_entries_in_a_sealed_segment_are_not_read(tmp_path: Path, jobs: TwoJobs) -> None:
    record = jobs.records[0]
    image = flipped(jobs.image, record.offset + PREFIX_BYTES)
    fault, index = sealed_of(tmp_path, image, jobs.end)
    assert fault is None
    assert said_by(index) == jobs.said_after(6)


def test_record_of_another_chain_is_a_fault_of_a_sealed_segment(tmp_path: Path) -> None:
    records = placed(entries_record(1, 1, 1), entries_record(1, 2, 2))
    other = placed(entries_record(1, 1, 1, payload=b"9/9"), entries_record(1, 2, 2))
    cut = records[1].offset
    image = image_of(other)[:cut] + image_of(records)[cut:]
    fault, _ = sealed_of(tmp_path, image, end_of(records))
    assert fault is not None
    assert fault.offset == cut


def test_sealed_segment_that_ends_early_is_a_fault(tmp_path: Path, jobs: TwoJobs) -> None:
    last = jobs.records[5].offset
    for cut in (last + PREFIX_BYTES - 1, last, jobs.start, 0):
        image = jobs.image[:cut]
        fault, _ = sealed_of(tmp_path, image, jobs.end)
        assert fault is not None
    # A record that reaches beyond the end is none of that segment's.
    fault, _ = sealed_of(tmp_path, jobs.image, jobs.end - 8)
    assert fault is not None
    assert fault.offset == jobs.records[5].offset


def test_bytes_behind_the_end_of_a_sealed_segment_do_not_matter(
    tmp_path: Path, jobs: TwoJobs
) -> None:
    image = jobs.image[: jobs.end].ljust(SIZE, b"\xff")
    fault, index = sealed_of(tmp_path, image, jobs.end)
    assert fault is None
    assert said_by(index) == jobs.said_after(6)
    fault, index = sealed_of(tmp_path, jobs.image, jobs.start)
    assert fault is None
    assert said_by(index) == jobs.said_after(3)


# What stops a start.


@pytest.mark.parametrize("kind", [0, 8, 99, (1 << 32) - 1])
def test_record_of_an_unknown_kind_is_refused_and_says_what_to_do(
    tmp_path: Path, kind: int
) -> None:
    records = placed(entries_record(1, 1, 1), bare_record(kind, 1))
    match = rf"offset {records[1].offset}: a record of kind {kind}, .* start the version"
    with pytest.raises(StorageError, match=match):
        tail_of(tmp_path, image_of(records))
    with pytest.raises(StorageError, match=match):
        sealed_of(tmp_path, image_of(records), end_of(records))


@pytest.mark.parametrize("method", ["open", "pread"])
def test_disk_that_cannot_be_read_is_an_error_and_nothing_stays_open(
    tmp_path: Path, jobs: TwoJobs, method: str
) -> None:
    segment_path(tmp_path, HEADER.sequence).write_bytes(jobs.image)
    before = len(os.listdir("/proc/self/fd"))
    for number in (1, 2) if method == "pread" else (1,):
        files = FaultyFiles()
        files.fail_at[method, number] = EIO
        with pytest.raises(OSError, match="Input/output"):
            scan_sealed(files, tmp_path, HEADER, jobs.end, SegmentIndex(3))
    files = FaultyFiles()
    files.fail_at[method, 1] = EIO
    with pytest.raises(OSError, match="Input/output"):
        scan_tail(files, tmp_path, HEADER, SegmentIndex(3))
    assert len(os.listdir("/proc/self/fd")) == before


def test_hard_state_of_the_newest_record_holds(tmp_path: Path) -> None:
    states = [HardState(term, 1, 0) for term in (3, 4, 9)]
    empty = bare_record(RecordKind.ENTRIES, 1)
    records = placed(*(empty._replace(hard_state=state) for state in states))
    _, index = tail_of(tmp_path, image_of(records))
    assert index.sections[1].hard_state == HardState(9, 1, 0)
