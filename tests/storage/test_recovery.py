"""Tests of rafter_storage.recovery: every tear and every flipped byte of small logs.

reliability.md 48 (torn page at the tail, zero runs, valid-looking length) and its fault model 1, 4
and 5. A crash state is an image of the files; what must come back is the log as it was after some
number of records, and never anything else.
"""

import itertools
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rafter_core.entries import Entry, HardState
from rafter_storage.errors import CorruptionError, StorageError
from rafter_storage.record import PREFIX_BYTES, RecordKind, align, decode_prefix, encode_prefix
from rafter_storage.segment import (
    HEADER_BYTES,
    SegmentHeader,
    decode_header,
    encode_header,
    segment_path,
)
from rafter_storage.segment_manager import GroupWrite, SegmentManager
from tests.storage.support import (
    UnsyncedFiles,
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

GROUPS = (1, 2, 3)
NO_SYNC = UnsyncedFiles()

Contents = dict[int, tuple[HardState, list[Entry]]]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="rafter_storage")


def contents(manager: SegmentManager) -> Contents:
    """All that a log says, read through the index and the checksums."""
    found: Contents = {}
    for group in manager.groups():
        if group not in manager.damaged:
            log = log_of(manager, group)
            stored = all_entries(log)
            assert [log.term(e.index) for e in stored] == [e.term for e in stored]
            found[group] = (log.initial_state()[0], stored)
    return found


def records(path: Path) -> list[tuple[int, int]]:
    """Where each record of a segment begins and ends."""
    data = path.read_bytes()
    header = decode_header(path, data[:HEADER_BYTES])
    assert header is not None
    found = []
    offset = HEADER_BYTES
    while prefix := decode_prefix(header.seed, data, offset, offset, len(data)):
        found.append((offset, offset + align(prefix.length)))
        offset += align(prefix.length)
    return found


class SmallLog:
    """A log of a few jobs, and what it said after each record."""

    def __init__(self, directory: Path, last_payload_bytes: int = 20) -> None:
        directory.mkdir()
        self.directory = directory
        self.manager = open_manager(directory, NO_SYNC)
        self.states: list[Contents] = [{}]
        self._write(1, 1, 3, 1, HardState(1, 1, 0))
        self._write(2, 1, 2, 1, HardState(1, 2, 0))
        self._write(1, 3, 5, 2, HardState(2, 3, 2))
        self._write(3, 1, 1, 4, HardState(4, 0, 0))
        # The last job: several records, written at once and never acknowledged.
        self.whole = len(self.states) - 1
        payload = b"\xaa" * last_payload_bytes
        job = []
        for group, first, term, commit in ((2, 3, 2, 1), (1, 5, 5, 2), (3, 2, 5, 1), (2, 4, 6, 1)):
            added = [entry(first, term, payload), entry(first + 1, term)]
            state = HardState(term, 1, commit)
            job.append(GroupWrite(group, state, added))
            self._note(group, state, added)
        write(self.manager, *job)
        self.path = segment_files(directory)[-1]
        self.image = self.path.read_bytes()
        self.bounds = records(self.path)
        assert len(self.bounds) == len(self.states) - 1
        self.end = self.bounds[-1][1]

    def _write(self, group: int, first: int, last: int, term: int, state: HardState) -> None:
        append(self.manager, group, entries(first, last, term), state)
        self._note(group, state, entries(first, last, term))

    def _note(self, group: int, state: HardState, added: list[Entry]) -> None:
        before = self.states[-1].get(group, (HardState(), []))[1]
        log = before[: added[0].index - 1] + added
        self.states.append({**self.states[-1], group: (state, log)})

    def crashed(self, image: bytes | bytearray) -> SegmentManager:
        """Open a copy of the log whose one segment has other bytes."""
        directory = self.directory.parent / "crashed"
        (directory / "wal").mkdir(parents=True, exist_ok=True)
        (directory / "wal" / self.path.name).write_bytes(image)
        return open_manager(directory, NO_SYNC)

    def whole_records(self, image: bytes | bytearray) -> int:
        """How many records stand before the first byte that was changed."""
        padded = bytes(image).ljust(len(self.image), b"\0")
        changes = (i for i in range(self.end) if padded[i] != self.image[i])
        first = next(changes, self.end)
        return sum(1 for _, end in self.bounds if end <= first)

    def check_torn(self, image: bytes | bytearray, kept: int) -> None:
        """The first ``kept`` records come back, and the log goes on from there."""
        manager = self.crashed(image)
        assert manager.damaged == {}
        assert manager.shard_damage is None
        assert contents(manager) == self.states[kept]
        # What was cut is gone for good: it does not come back behind shorter records.
        expected = dict(self.states[kept])
        state, log = expected.get(2, (HardState(), []))
        for _ in range(2):
            added = [entry(len(log) + 1, 9)]
            append(manager, 2, added, HardState(9, 1, state.commit))
            log = log + added
            expected[2] = (HardState(9, 1, state.commit), log)
            abandon(manager)
            manager = open_manager(self.directory.parent / "crashed", NO_SYNC)
            assert contents(manager) == expected
        abandon(manager)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallLog]:
    log = SmallLog(tmp_path / "log")
    yield log
    abandon(log.manager)


def test_empty_directory_becomes_an_empty_log(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    assert manager.groups() == []
    assert log_of(manager, 1).last_index() == 0
    manager.close()


def test_killed_log_comes_back_whole(small: SmallLog) -> None:
    small.check_torn(small.image, len(small.bounds))


def test_tail_lost_from_any_byte_is_cut_at_its_record(small: SmallLog) -> None:
    start = small.bounds[small.whole][0]
    for cut in range(start, small.end + 1):
        image = small.image[:cut].ljust(len(small.image), b"\0")
        small.check_torn(image, small.whole_records(image))


def test_file_cut_short_at_any_byte_of_the_last_job_is_cut_at_its_record(small: SmallLog) -> None:
    start = small.bounds[small.whole][0]
    for cut in range(start, small.end, 7):
        small.check_torn(small.image[:cut], small.whole_records(small.image[:cut]))


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_any_512_byte_pieces_of_the_last_job_may_be_missing(tmp_path: Path, fill: bytes) -> None:
    small = SmallLog(tmp_path / "log", last_payload_bytes=300)
    start = small.bounds[small.whole][0]
    pieces = range(start // 512, -(-small.end // 512))
    assert 4 <= len(pieces) <= 8
    for count in range(1, len(pieces) + 1):
        for lost in itertools.combinations(pieces, count):
            image = bytearray(small.image)
            for piece in lost:
                low, high = max(piece * 512, start), piece * 512 + 512
                image[low:high] = fill * (high - low)
            small.check_torn(image, small.whole_records(image))
    abandon(small.manager)


def test_record_torn_inside_a_job_takes_the_whole_records_behind_it_along(
    small: SmallLog,
) -> None:
    for torn in range(small.whole, len(small.bounds) - 1):
        image = bytearray(small.image)
        image[small.bounds[torn][0] + PREFIX_BYTES + 3] ^= 0xFF
        small.check_torn(image, torn)


def test_garbage_with_a_valid_looking_length_is_cut(small: SmallLog) -> None:
    # reliability.md 48: a length that fits, a right magic, and no matching checksum.
    start = small.bounds[small.whole][0]
    image = bytearray(small.image)
    image[small.end : small.end + 200] = small.image[start : start + 200]
    small.check_torn(image, len(small.bounds))


def test_every_flipped_byte_of_a_closed_log_is_named_or_harmless(tmp_path: Path) -> None:
    small = SmallLog(tmp_path / "log")
    truth = small.states[-1]
    small.manager.close()
    image = small.path.read_bytes()
    mark = records(small.path)[-1][0]
    assert mark == small.end
    harmless = 0
    for position in [*range(80), *range(HEADER_BYTES, mark + PREFIX_BYTES)]:
        flipped = bytearray(image)
        flipped[position] ^= 0x10
        manager = small.crashed(flipped)
        served = contents(manager)
        sound = set() if manager.shard_damage else set(truth) - set(manager.damaged)
        assert served == {group: truth[group] for group in sound}
        for group, damage in manager.damaged.items():
            assert damage.path.name == small.path.name
            with pytest.raises(CorruptionError, match=rf"offset {damage.offset}: "):
                log_of(manager, group)
            assert manager.shard_damage in {None, damage}
            if position >= HEADER_BYTES:
                start = max(start for start, _ in small.bounds if start <= position)
                assert damage.offset == start
                is_prefix = position < start + PREFIX_BYTES
                assert (manager.shard_damage is not None) == is_prefix
                if not is_prefix:
                    assert list(manager.damaged) == [group]
        if not manager.damaged and manager.shard_damage is None:
            harmless += 1
        manager.close()
    # Harmless are: padding, the rest of the header block, and the mark itself.
    assert harmless < 16 + PREFIX_BYTES + 8 * len(small.bounds)


def test_every_flipped_byte_of_a_killed_log_never_gives_a_wrong_entry(small: SmallLog) -> None:
    proved = small.bounds[small.whole - 1][0]
    for position in range(HEADER_BYTES, small.end):
        flipped = bytearray(small.image)
        flipped[position] ^= 0x10
        manager = small.crashed(flipped)
        served = contents(manager)
        if manager.damaged:
            assert position < small.bounds[small.whole][0]
            for group, found in served.items():
                assert found == small.states[-1][group]
        else:
            assert served in small.states
            if position < proved:
                padding = served == small.states[-1]
                assert padding, f"the flip at {position} was cut silently"
        abandon(manager)


def test_flipped_body_damages_its_group_alone_and_the_others_go_on(small: SmallLog) -> None:
    image = bytearray(small.image)
    start = small.bounds[0][0]
    image[start + PREFIX_BYTES + 2] ^= 1
    manager = small.crashed(image)
    assert list(manager.damaged) == [1]
    assert manager.damaged[1].offset == start
    assert manager.damage_of(1) == manager.damaged[1]
    assert manager.damage_of(2) is None
    assert "body of a record of group 1 is damaged" in manager.damaged[1].reason
    served = contents(manager)
    assert served == {group: small.states[-1][group] for group in (2, 3)}
    with pytest.raises(CorruptionError, match="group 1 is affected"):
        log_of(manager, 1)
    with pytest.raises(CorruptionError, match="group 1 is affected"):
        append(manager, 1, [entry(7, 9)])
    append(manager, 2, [entry(6, 9)], HardState(9, 1, 1))
    abandon(manager)
    # The damage is not forgotten, nor what was written after it.
    manager = open_manager(small.directory.parent / "crashed", NO_SYNC)
    assert list(manager.damaged) == [1]
    assert all_entries(log_of(manager, 2))[-1] == entry(6, 9)
    manager.close()


def test_flipped_prefix_damages_every_group_and_changes_nothing(small: SmallLog) -> None:
    image = bytearray(small.image)
    start = small.bounds[1][0]
    image[start + 9] ^= 1
    image[small.end :] = b"\xee" * 100 + bytes(len(image) - small.end - 100)
    manager = small.crashed(image)
    assert manager.shard_damage is not None
    assert manager.shard_damage.offset == start
    assert set(manager.damaged) == set(GROUPS)
    for group in (1, 77):
        assert manager.damage_of(group) == manager.shard_damage
        with pytest.raises(CorruptionError, match="every group of this shard is affected"):
            log_of(manager, group)
    with pytest.raises(CorruptionError, match="every group of this shard is affected"):
        manager.begin([])
    manager.close()
    assert segment_files(small.directory.parent / "crashed")[-1].read_bytes() == bytes(image)


def test_zeroed_record_that_had_been_synced_is_damage_and_not_the_end(small: SmallLog) -> None:
    image = bytearray(small.image)
    start, end = small.bounds[0]
    image[start:end] = bytes(end - start)
    manager = small.crashed(image)
    assert manager.shard_damage is not None
    assert manager.shard_damage.offset == start
    manager.close()


def three_segments(directory: Path) -> list[Path]:
    """Two groups over three segments, closed."""
    manager = open_manager(directory, NO_SYNC)
    for index in range(1, 10):
        append(manager, 1, [entry(index, payload=b"x" * 15_000)])
        append(manager, 2, [entry(index)])
    manager.close()
    paths = segment_files(directory)
    assert len(paths) == 3
    return paths


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_several_segments_come_back_in_order(tmp_path: Path) -> None:
    three_segments(tmp_path)
    manager = open_manager(tmp_path)
    assert contents(manager)[1][1] == [entry(i, payload=b"x" * 15_000) for i in range(1, 10)]
    assert contents(manager)[2][1] == entries(1, 9)
    manager.close()


@pytest.mark.parametrize("which", [0, 1])
def test_last_record_of_a_sealed_segment_is_proved_by_the_next_one(
    tmp_path: Path, which: int
) -> None:
    paths = three_segments(tmp_path)
    start, _ = records(paths[which])[-1]
    flip(paths[which], start + PREFIX_BYTES)
    manager = open_manager(tmp_path)
    assert [(d.path, d.offset) for d in manager.damaged.values()] == [(paths[which], start)]
    manager.close()


def test_sealed_segment_that_lost_its_tail_is_damage(tmp_path: Path) -> None:
    paths = three_segments(tmp_path)
    data = paths[0].read_bytes()
    start, _ = records(paths[0])[-1]
    for image in (data[:start].ljust(len(data), b"\0"), data[:start], b""):
        paths[0].write_bytes(image)
        manager = open_manager(tmp_path)
        assert manager.shard_damage is not None
        assert manager.shard_damage.path == paths[0]
        manager.close()


def test_bytes_behind_the_end_of_a_sealed_segment_do_not_matter(tmp_path: Path) -> None:
    paths = three_segments(tmp_path)
    with paths[0].open("r+b") as file:
        file.seek(-100, 2)
        file.write(b"\xff" * 100)
    manager = open_manager(tmp_path)
    assert manager.damaged == {}
    assert len(contents(manager)[1][1]) == 9
    manager.close()


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("kind", ["flipped", "zero", "short", "empty"])
def test_segment_with_a_bad_header_damages_the_shard(tmp_path: Path, which: int, kind: str) -> None:
    paths = three_segments(tmp_path)
    data = paths[which].read_bytes()
    paths[which].write_bytes(
        {
            "flipped": data[:20] + b"\xff" + data[21:],
            "zero": bytes(HEADER_BYTES) + data[HEADER_BYTES:],
            "short": data[:100],
            "empty": b"",
        }[kind]
    )
    manager = open_manager(tmp_path)
    assert manager.shard_damage is not None
    assert manager.shard_damage.path == paths[which]
    assert "header is damaged" in manager.shard_damage.reason
    manager.close()


@pytest.mark.parametrize("which", [0, 1])
def test_missing_segment_damages_the_shard_and_is_named(tmp_path: Path, which: int) -> None:
    paths = three_segments(tmp_path)
    paths[which].unlink()
    manager = open_manager(tmp_path)
    assert manager.shard_damage is not None
    assert manager.shard_damage.path == paths[which]
    assert "segment is missing" in manager.shard_damage.reason
    assert contents(manager) == {}
    manager.close()


def test_segment_of_another_log_is_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ours, others = three_segments(tmp_path / "a"), three_segments(tmp_path / "b")
    shutil.copy(others[1], ours[1])
    manager = open_manager(tmp_path / "a")
    assert manager.shard_damage is not None
    assert "does not continue segment 1" in manager.shard_damage.reason
    manager.close()


def test_segment_under_another_name_is_not_taken_for_it(tmp_path: Path) -> None:
    paths = three_segments(tmp_path)
    shutil.copy(paths[0], paths[1])
    manager = open_manager(tmp_path)
    assert manager.shard_damage is not None
    assert "the file holds segment 1 of a log" in manager.shard_damage.reason
    manager.close()


def test_stale_records_of_another_segment_never_pass(tmp_path: Path) -> None:
    # What a recycled file would hold: whole, valid records, under another seed.
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        manager = open_manager(tmp_path / name, NO_SYNC)
        append(manager, 1, entries(1, 2))
        if name == "old":
            append(manager, 1, entries(3, 9))
        abandon(manager)
    old, new = (segment_files(tmp_path / name)[0] for name in ("old", "new"))
    end = records(new)[-1][1]
    new.write_bytes(new.read_bytes()[:end] + old.read_bytes()[end:])
    manager = open_manager(tmp_path / "new", NO_SYNC)
    assert manager.damaged == {}
    assert contents(manager)[1][1] == entries(1, 2)
    manager.close()


def test_leftovers_of_an_unfinished_roll_are_removed(tmp_path: Path) -> None:
    paths = three_segments(tmp_path)
    leftover = segment_path(tmp_path / "wal", 4).with_suffix(".tmp")
    leftover.write_bytes(b"half a header")
    open_manager(tmp_path).close()
    assert not leftover.exists()
    assert segment_files(tmp_path) == paths


def test_segment_without_records_behind_a_roll_is_the_tail(tmp_path: Path) -> None:
    paths = three_segments(tmp_path)
    header = decode_header(paths[2], paths[2].read_bytes()[:HEADER_BYTES])
    assert header is not None
    following = SegmentHeader(4, 99, header.seed, records(paths[2])[-1][1], 1 << 16)
    path = segment_path(tmp_path / "wal", 4)
    path.write_bytes(encode_header(following).ljust(1 << 16, b"\0"))
    manager = open_manager(tmp_path)
    assert len(contents(manager)[1][1]) == 9
    append(manager, 2, entries(10, 10))
    abandon(manager)
    assert len(records(path)) == 1
    manager = open_manager(tmp_path)
    assert contents(manager)[2][1] == entries(1, 10)
    manager.close()


def forged(directory: Path, *parts: tuple[int, HardState, list[Entry], bytes, int]) -> Path:
    """A log of one segment with records that no manager would write."""
    header = SegmentHeader(1, 12345, 0, 0, 1 << 16)
    data = bytearray(encode_header(header))
    for group, state, added, body, kind in parts:
        offset = len(data)
        data += encode_prefix(header.seed, offset, 0, group, state, added, body, kind) + body
        data += bytes(align(len(data)) - len(data))
    (directory / "wal").mkdir()
    path = segment_path(directory / "wal", 1)
    path.write_bytes(data.ljust(1 << 16, b"\0"))
    return path


def test_sealed_record_that_reaches_beyond_the_end_damages_the_shard(tmp_path: Path) -> None:
    paths = three_segments(tmp_path)
    data = paths[1].read_bytes()
    header = decode_header(paths[1], data[:HEADER_BYTES])
    assert header is not None
    changed = encode_header(header._replace(previous_end=header.previous_end - 8))
    paths[1].write_bytes(changed + data[HEADER_BYTES:])
    manager = open_manager(tmp_path)
    assert manager.shard_damage is not None
    assert "reaches beyond the end" in manager.shard_damage.reason
    manager.close()


def test_record_that_leaves_a_gap_damages_its_group(tmp_path: Path) -> None:
    forged(tmp_path, (7, HardState(), entries(2, 2), b"x", RecordKind.ENTRIES))
    manager = open_manager(tmp_path)
    assert "entries from 2 do not follow the log's 0" in manager.damaged[7].reason
    manager.close()


def test_commit_index_beyond_the_log_damages_its_group(tmp_path: Path) -> None:
    forged(tmp_path, (7, HardState(1, 1, 5), [], b"", RecordKind.ENTRIES))
    manager = open_manager(tmp_path)
    assert "commit index 5, but its log ends at 0" in manager.damaged[7].reason
    manager.close()


def test_record_that_replaces_committed_entries_damages_its_group(tmp_path: Path) -> None:
    forged(
        tmp_path,
        (7, HardState(1, 1, 2), entries(1, 2), b"x", RecordKind.ENTRIES),
        (7, HardState(1, 1, 2), entries(2, 2), b"x", RecordKind.ENTRIES),
    )
    manager = open_manager(tmp_path)
    assert "entries from 2 replace the committed 2" in manager.damaged[7].reason
    manager.close()


def test_entries_of_several_terms_that_do_not_decode_damage_their_group(tmp_path: Path) -> None:
    added = entries(1, 1) + entries(2, 2, term=2)
    forged(tmp_path, (7, HardState(2, 1, 0), added, b"\xc1", RecordKind.ENTRIES))
    manager = open_manager(tmp_path)
    assert "cannot be decoded" in manager.damaged[7].reason
    manager.close()


def test_record_of_an_unknown_kind_stops_the_start_and_is_not_cut(tmp_path: Path) -> None:
    path = forged(tmp_path, (7, HardState(), [], b"", 9))
    before = path.read_bytes()
    with pytest.raises(StorageError, match="a record of kind 9, which this program does not know"):
        open_manager(tmp_path)
    assert path.read_bytes() == before


def test_torn_tail_is_cut_with_a_warning_that_says_where(
    small: SmallLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="rafter_storage")
    start, end = small.bounds[-1]
    abandon(small.crashed(small.image[: end - 20].ljust(len(small.image), b"\0")))
    assert f"torn record at offset {start}" in caplog.text
