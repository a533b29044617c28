"""Tests of rafter_storage.inspection: a walk finds every record, and says what is wrong with it."""

import errno
import os
from pathlib import Path

import pytest

from rafter_core.entries import HardState
from rafter_core.errors import DecodeError
from rafter_core.serializer import pack_entries
from rafter_storage import inspection
from rafter_storage.errors import StorageError
from rafter_storage.file_system import REAL_FILE_SYSTEM, RealFileSystem
from rafter_storage.group_metadata import GroupMetadata, pack_metadata
from rafter_storage.index_dump import dump_path
from rafter_storage.inspection import (
    BAD_BODY,
    BAD_CHAIN,
    BAD_PREFIX,
    SegmentFile,
    SegmentWalk,
    decode_body,
    list_log,
    read_dump,
    sealed_end,
)
from rafter_storage.record import PREFIX_BYTES, RecordKind, RecordPrefix, align, encode_prefix
from rafter_storage.segment import HEADER_BYTES, SegmentHeader
from rafter_storage.segment_index import SegmentIndex
from tests.storage.support import entries, entry, segment_files
from tests.storage.verification_support import (
    flipped,
    header_of,
    make_small_log,
    patched,
    records_of,
)

FILES = REAL_FILE_SYSTEM
ENTRIES = RecordKind.ENTRIES
NO_STATE = HardState()


@pytest.fixture
def wal(tmp_path: Path) -> Path:
    make_small_log(tmp_path)
    return tmp_path / "wal"


def walk_of(wal: Path, number: int) -> SegmentWalk:
    """The walk over a segment; the last one is the tail."""
    segments = list_log(FILES, wal).segments
    following = segments[number + 1] if number + 1 < len(segments) else None
    return SegmentWalk(FILES, segments[number], sealed_end(segments[number], following))


def places(walk: SegmentWalk) -> list[tuple[int, str | None]]:
    return [(found.offset, found.fault) for found in walk]


def offsets(path: Path) -> list[int]:
    return [offset for offset, _ in records_of(path)]


# ---- walking ---------------------------------------------------------------------------------


@pytest.mark.parametrize("window_bytes", [1 << 10, 256 << 10])
def test_walk_finds_every_record_with_its_body(
    wal: Path, window_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "_WINDOW_BYTES", window_bytes)
    for number, path in enumerate(sorted(wal.glob("*.log"))):
        walk = walk_of(wal, number)
        data = path.read_bytes()
        for _ in range(2):
            found = list(walk)
            assert [(record.offset, record.prefix) for record in found] == records_of(path)
            assert {record.fault for record in found} == {None}
            for record in found:
                assert record.prefix is not None
                end = record.offset + record.prefix.length
                assert record.body == data[record.offset + PREFIX_BYTES : end]
            last, prefix = records_of(path)[-1]
            assert (walk.end, walk.torn_bytes) == (last + align(prefix.length), 0)


def test_walk_holds_one_record_and_not_the_segment(wal: Path) -> None:
    class Counting(RealFileSystem):
        """Notes the longest read."""

        longest = 0

        def pread(self, descriptor: int, length: int, offset: int) -> bytes:
            self.longest = max(self.longest, length)
            return super().pread(descriptor, length, offset)

    files = Counting()
    path = wal / "big"
    path.mkdir()
    make_small_log(path)
    first = segment_files(path)[0]
    os.truncate(first, 8 << 20)
    segments = list_log(files, path / "wal").segments
    list(SegmentWalk(files, segments[0], None))
    assert files.longest <= 256 << 10


@pytest.mark.parametrize("number", [0, 1])
def test_behind_a_bad_prefix_the_walk_of_a_sealed_segment_goes_on_at_the_next_record(
    wal: Path, number: int
) -> None:
    path = sorted(wal.glob("*.log"))[number]
    expected = offsets(path)
    for bad, offset in enumerate(expected):
        with flipped(path, offset + 24):
            found = places(walk_of(wal, number))
        assert found == [(at, BAD_PREFIX if at == expected[bad] else None) for at in expected]


def test_bad_body_is_flagged_and_its_prefix_believed(wal: Path) -> None:
    path = min(wal.glob("*.log"))
    offset = offsets(path)[2]
    with flipped(path, offset + PREFIX_BYTES):
        found = list(walk_of(wal, 0))
    assert [record.fault for record in found].count(BAD_BODY) == 1
    assert found[2].fault == BAD_BODY
    assert found[2].prefix == records_of(path)[2][1]


def test_record_that_continues_another_one_is_flagged(wal: Path) -> None:
    path = min(wal.glob("*.log"))
    header = header_of(path)
    offset = offsets(path)[1]
    length = records_of(path)[1][1].length
    body = path.read_bytes()[offset + PREFIX_BYTES : offset + length]
    # The same record, as if it stood behind another one.
    hard_state = HardState(1, 2, 0)
    prefix, _ = encoded(header, offset, 99, hard_state, body)
    with patched(path, offset, prefix):
        found = places(walk_of(wal, 0))
    assert found[1] == (offset, BAD_CHAIN)
    # The one behind it continues what had been there.
    assert found[2][1] == BAD_CHAIN
    assert {fault for _, fault in found[3:]} == {None}


def encoded(
    header: SegmentHeader, offset: int, chain: int, hard_state: HardState, body: bytes
) -> tuple[bytes, int]:
    return encode_prefix(header.seed, offset, 0, chain, ENTRIES, 2, hard_state, (1, 2, 1), body)


@pytest.mark.parametrize("window_bytes", [1 << 10, 256 << 10])
def test_tail_ends_at_the_first_bad_record_that_nothing_proves(
    wal: Path, window_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "_WINDOW_BYTES", window_bytes)
    path = max(wal.glob("*.log"))
    expected = offsets(path)
    last, prefix = records_of(path)[-1]
    with flipped(path, last + 30):
        walk = walk_of(wal, 2)
        assert places(walk) == [(offset, None) for offset in expected[:-1]]
        assert (walk.end, walk.torn_bytes) == (last, 0)
    # Its predecessor is proved by it.
    with flipped(path, expected[-2] + 30):
        walk = walk_of(wal, 2)
        assert places(walk)[-2:] == [(expected[-2], BAD_PREFIX), (last, None)]
        assert walk.end == last + align(prefix.length)


def test_any_record_behind_is_proof_not_the_last_alone(wal: Path) -> None:
    path = max(wal.glob("*.log"))
    (bad, _), (last, prefix) = records_of(path)[-2:]
    end = last + align(prefix.length)
    behind, _ = encoded(header_of(path), end, prefix.checksum, NO_STATE, b"")
    with patched(path, end, behind), flipped(path, bad + 30):
        assert places(walk_of(wal, 2))[-3:] == [(bad, BAD_PREFIX), (last, None), (end, None)]


def test_newest_first_sequence_is_the_one_of_the_last_mark(wal: Path) -> None:
    path = max(wal.glob("*.log"))
    marks = [p.first_index for _, p in records_of(path) if p.kind == RecordKind.MARK]
    walk = walk_of(wal, 2)
    list(walk)
    assert walk.first_sequence == marks[-1]


def test_file_that_cannot_be_opened_is_an_error(wal: Path) -> None:
    walk = walk_of(wal, 0)
    min(wal.glob("*.log")).unlink()
    with pytest.raises(StorageError, match="cannot read"):
        list(walk)


# ---- listing ---------------------------------------------------------------------------------


def test_listing_tells_segments_dumps_and_the_rest(wal: Path) -> None:
    (wal / "other").write_bytes(b"")
    (wal / "00000000000000000004.log").mkdir()
    (wal / "00000000000000000005.log").write_bytes(b"short")
    listing = list_log(FILES, wal)
    assert [segment.sequence for segment in listing.segments] == [1, 2, 3, 4, 5]
    assert [segment.header is not None for segment in listing.segments] == [True] * 3 + [False] * 2
    assert listing.segments[3].fault == "this is not an ordinary file"
    assert listing.segments[4].fault == "the segment's header is damaged"
    assert (listing.dumps, listing.others) == ([1, 2], ["other"])


def test_header_of_a_newer_format_says_so(wal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rafter_storage.segment.FORMAT_VERSION", 1)
    faults = [segment.fault for segment in list_log(FILES, wal).segments]
    assert all(fault is not None and "format 2" in fault for fault in faults)


class FailingReads(RealFileSystem):
    """Every pread fails."""

    def __init__(self, number: int) -> None:
        self._number = number

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        raise OSError(self._number, os.strerror(self._number))


def test_lost_sector_is_a_fault_and_any_other_failure_an_error(wal: Path) -> None:
    segments = list_log(FailingReads(errno.EIO), wal).segments
    assert all("cannot be read" in (segment.fault or "") for segment in segments)
    with pytest.raises(StorageError, match="cannot read"):
        list_log(FailingReads(errno.EACCES), wal)
    segment = list_log(FILES, wal).segments[0]
    found = list(SegmentWalk(FailingReads(errno.EIO), segment, None))
    assert [record.offset for record in found] == [HEADER_BYTES]
    assert (found[0].fault or "").startswith("cannot be read")
    with pytest.raises(StorageError, match="cannot read"):
        list(SegmentWalk(FailingReads(errno.EACCES), segment, None))
    assert segment.header is not None
    assert read_dump(FailingReads(errno.EIO), wal, segment.header, 4096) is True
    with pytest.raises(StorageError, match="cannot read"):
        read_dump(FailingReads(errno.EACCES), wal, segment.header, 4096)


def test_dump_is_good_missing_or_bad(wal: Path) -> None:
    first, second, _ = list_log(FILES, wal).segments
    end = sealed_end(first, second)
    assert end is not None
    assert first.header is not None
    assert isinstance(read_dump(FILES, wal, first.header, end), SegmentIndex)
    assert read_dump(FILES, wal, first.header, end + 8) is True
    dump_path(wal, 1).unlink()
    assert read_dump(FILES, wal, first.header, end) is False


HEADER = SegmentHeader(1, 7, 0, 0, 65536, 1)
NEXT = SegmentHeader(2, 8, 7, 5000, 65536, 1)


def segment_file(header: SegmentHeader | None, sequence: int) -> SegmentFile:
    return SegmentFile(Path("x"), sequence, 65536, header, None if header else "bad")


@pytest.mark.parametrize(
    ("following", "end"),
    [
        (NEXT, 5000),
        (NEXT._replace(previous_end=HEADER_BYTES), HEADER_BYTES),
        (NEXT._replace(previous_end=65536), 65536),
        (NEXT._replace(previous_end=65544), None),
        (NEXT._replace(previous_end=4088), None),
        (NEXT._replace(previous_end=5001), None),
        (NEXT._replace(previous_seed=9), None),
        (NEXT._replace(sequence=3), None),
        (None, None),
    ],
)
def test_end_of_a_segment_is_believed_of_its_successor_alone(
    following: SegmentHeader | None, end: int | None
) -> None:
    assert sealed_end(segment_file(HEADER, 1), segment_file(following, 2)) == end
    assert sealed_end(segment_file(HEADER, 1), None) is None
    assert sealed_end(segment_file(None, 1), segment_file(NEXT, 2)) is None


# ---- bodies ----------------------------------------------------------------------------------


def prefix_of(
    kind: int,
    entries_range: tuple[int, int, int] = (0, 0, 0),
    group: int = 0,
    hard_state: HardState = NO_STATE,
) -> RecordPrefix:
    return RecordPrefix(kind, 96, 0, group, hard_state, *entries_range, 0, 0, 0)


METADATA = GroupMetadata(3, 1, (), 3, 1)


def test_bodies_are_decoded_by_kind() -> None:
    body = pack_entries(entries(3, 5, 2))
    for kind in (ENTRIES, RecordKind.COPY):
        assert decode_body(prefix_of(kind, (3, 5, 2), 1), body) == entries(3, 5, 2)
    for kind in (RecordKind.GROUP, RecordKind.RESET):
        assert decode_body(prefix_of(kind, group=1), pack_metadata(METADATA)) == METADATA
    assert decode_body(prefix_of(ENTRIES, group=1, hard_state=HardState(1, 1, 1)), b"") is None
    assert decode_body(prefix_of(RecordKind.REMOVED, group=1), b"") is None
    assert decode_body(prefix_of(RecordKind.MARK, (4, 0, 0)), b"") is None
    assert decode_body(prefix_of(RecordKind.PADDING), bytes(100)) is None


@pytest.mark.parametrize(
    ("prefix", "body"),
    [
        (prefix_of(0), b""),
        (prefix_of(8), b""),
        (prefix_of(ENTRIES, (3, 5, 2)), pack_entries(entries(3, 4, 2))),
        (prefix_of(ENTRIES, (3, 5, 2)), pack_entries(entries(4, 5, 2))),
        (prefix_of(ENTRIES, (3, 5, 2)), pack_entries(entries(3, 5, 1))),
        (prefix_of(ENTRIES, (3, 4, 2)), pack_entries([entry(3, 2), entry(4, 3)])),
        (prefix_of(ENTRIES, (3, 5, 2)), pack_entries([])),
        (prefix_of(ENTRIES, (3, 5, 2)), b"\xc1"),
        (prefix_of(ENTRIES, (0, 5, 0)), b""),
        (prefix_of(ENTRIES), b"x"),
        (prefix_of(RecordKind.COPY), b""),
        (prefix_of(RecordKind.GROUP), b"x"),
        (prefix_of(RecordKind.GROUP, (1, 1, 1)), pack_metadata(METADATA)),
        (prefix_of(RecordKind.MARK, (4, 1, 0)), b""),
        (prefix_of(RecordKind.MARK, (4, 0, 0), 1), b""),
        (prefix_of(RecordKind.MARK, (4, 0, 0)), b"x"),
        (prefix_of(RecordKind.PADDING, group=1), b""),
        (prefix_of(RecordKind.PADDING, hard_state=HardState(1)), b""),
        (prefix_of(RecordKind.REMOVED, group=1, hard_state=HardState(1)), b""),
        (prefix_of(RecordKind.REMOVED, (1, 1, 1), 1), b""),
    ],
)
def test_body_that_is_not_what_the_prefix_says_is_refused(
    prefix: RecordPrefix, body: bytes
) -> None:
    with pytest.raises(DecodeError):
        decode_body(prefix, body)
