"""Tests of rafter_storage.recovery: every tear of small logs, and every damage.

reliability.md 48 (torn page at the tail, zero runs, valid-looking length) and its fault model 1, 4
and 5. A crash state is an image of the files; what must come back is the log as it was after some
number of records, and never anything else.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core.entries import Entry, HardState
from rafter_core.membership import Membership
from rafter_core.snapshot import Snapshot
from rafter_storage.errors import CorruptionError, StorageError
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.index_dump import dump_path
from rafter_storage.record import PREFIX_BYTES, RecordKind, align, decode_prefix
from rafter_storage.recovery import Recovery
from rafter_storage.segment import (
    HEADER_BYTES,
    SegmentHeader,
    decode_header,
    encode_header,
    segment_path,
    spare_path,
)
from rafter_storage.segment_manager import (
    FoundedGroup,
    GroupChange,
    GroupWrite,
    SegmentManager,
)
from tests.storage.histories import (
    STEPS,
    History,
    Record,
    Step,
    bare_record,
    contents_found,
    dump_all,
    entries_record,
    metadata_record,
    placed,
    recovered,
    write_segment,
)
from tests.storage.support import (
    EIO,
    FaultyFiles,
    UnsyncedFiles,
    abandon,
    all_entries,
    append,
    change,
    do_chores,
    entries,
    entry,
    flip,
    log_of,
    open_manager,
    segment_files,
    write,
)

NO_SYNC = UnsyncedFiles()
MEMBERSHIP = Membership((1, 2, 4))

Said = dict[int, tuple[HardState, list[Entry]]]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="rafter_storage")


def contents(manager: SegmentManager) -> Said:
    """All that a log says, read through the index and the checksums."""
    found: Said = {}
    for group in manager.groups():
        if manager.damage_of(group) is None:
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
    chain = header.seed
    while prefix := decode_prefix(header.seed, data, offset, offset, len(data)):
        if prefix.chain != chain:
            break
        found.append((offset, offset + align(prefix.length)))
        offset += align(prefix.length)
        chain = prefix.checksum
    return found


class SmallLog:
    """A log of a few jobs, and what it said after each record."""

    def __init__(self, directory: Path, last_payload_bytes: int = 20) -> None:
        directory.mkdir()
        self.directory = directory
        self.manager = open_manager(directory, NO_SYNC)
        self.states: list[Said] = [{}]
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


# Whole logs.


@given(STEPS, st.integers(0, 7))
def test_any_history_comes_back_scanned_dumped_or_both(steps: list[Step], dropped: int) -> None:
    history = History(steps)
    expected = history.contents()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        headers = history.write_to(directory)
        recovery = recovered(directory)
        assert contents_found(recovery) == expected
        needed = range(history.first_sequence, history.sequence + 1)
        assert recovery.headers == {sequence: headers[sequence] for sequence in needed}
        assert recovery.retired == []
        assert [sealed.header.sequence for sealed in recovery.undumped] == list(needed)[:-1]
        assert recovery.tail is not None
        assert recovery.tail.head.end == history.end
        dump_all(directory, recovery)
        dumped = recovered(directory)
        assert contents_found(dumped) == expected
        assert dumped.undumped == []
        # Some dumps are gone, some are bad: they are made anew, and say the same.
        for sequence in list(needed)[:-1]:
            path = dump_path(directory, sequence)
            if sequence & dropped & 1:
                path.unlink()
            elif sequence & dropped & 2:
                flip(path, path.stat().st_size // 2)
        mixed = recovered(directory)
        assert contents_found(mixed) == expected
        dump_all(directory, mixed)
        assert contents_found(recovered(directory)) == expected


def test_group_that_was_created_anew_has_nothing_of_the_one_before(tmp_path: Path) -> None:
    history = History()
    history.reset(1, 4)
    history.roll()
    history.remove(1)
    history.append(1, back=0, count=2)
    history.write_to(tmp_path)
    found = contents_found(recovered(tmp_path))
    assert found == history.contents()
    assert found[1].metadata == GroupMetadata()


def test_segments_before_the_log_are_told_and_not_read(tmp_path: Path) -> None:
    history = History()
    history.append(1, back=0, count=3)
    history.roll()
    history.append(2, back=0, count=3)
    history.roll()
    history.clean(100)
    history.drop()
    history.write_to(tmp_path)
    assert history.first_sequence == 2
    expected = contents_found(recovered(tmp_path))
    for left in (b"", b"garbage" * 1000):
        segment_path(tmp_path, 1).write_bytes(left)
        recovery = recovered(tmp_path)
        assert recovery.retired == [1]
        assert contents_found(recovery) == expected == history.contents()


def test_mark_of_the_last_segment_says_where_the_log_begins(tmp_path: Path) -> None:
    for sequence in (1, 2, 3):
        header = SegmentHeader(
            sequence, sequence * 99, sequence * 99 - 99 if sequence > 1 else 0,
            HEADER_BYTES if sequence > 1 else 0, 1 << 16, 1,
        )  # fmt: skip
        write_segment(tmp_path, header, [])
    assert sorted(recovered(tmp_path).headers) == [1, 2, 3]
    for first_sequence in (1, 2, 3):
        mark = bare_record(RecordKind.MARK, first_index=first_sequence)
        write_segment(tmp_path, header, placed(mark))
        recovery = recovered(tmp_path)
        assert sorted(recovery.headers) == list(range(first_sequence, 4))
        assert recovery.retired == list(range(1, first_sequence))


def test_empty_directory_becomes_an_empty_log(tmp_path: Path) -> None:
    recovery = recovered(tmp_path)
    assert (recovery.tail, recovery.groups, recovery.headers) == (None, {}, {})
    manager = open_manager(tmp_path)
    assert manager.groups() == []
    assert log_of(manager, 1).last_index() == 0
    manager.close()


def test_recovery_changes_no_file(small: SmallLog) -> None:
    directory = small.path.parent
    small.path.write_bytes(small.image[: small.end - 30].ljust(len(small.image), b"\0"))
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    recovered(directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


# Torn tails.


def test_tail_lost_from_any_byte_is_cut_at_its_record(small: SmallLog) -> None:
    start = small.bounds[small.whole][0]
    for cut in range(start, small.end + 1, 3):
        image = small.image[:cut].ljust(len(small.image), b"\0")
        small.check_torn(image, small.whole_records(image))


def test_any_512_byte_pieces_of_the_last_job_may_be_missing(tmp_path: Path) -> None:
    small = SmallLog(tmp_path / "log", last_payload_bytes=300)
    start = small.bounds[small.whole][0]
    pieces = range(start // 512, -(-small.end // 512))
    assert 4 <= len(pieces) <= 8
    for lost in range(1 << len(pieces)):
        image = bytearray(small.image)
        for number, piece in enumerate(pieces):
            if lost >> number & 1:
                low, high = max(piece * 512, start), piece * 512 + 512
                image[low:high] = bytes(high - low)
        small.check_torn(image, small.whole_records(image))
    abandon(small.manager)


def test_what_was_cut_does_not_come_back_when_the_same_is_written_again(tmp_path: Path) -> None:
    open_manager(tmp_path, NO_SYNC).close()
    open_manager(tmp_path, NO_SYNC).close()
    manager = open_manager(tmp_path, NO_SYNC)
    write(manager, GroupWrite(1, HardState(1, 1, 0), entries(1, 2)))
    manager.close()
    manager = open_manager(tmp_path, NO_SYNC)
    write(
        manager,
        GroupWrite(1, None, entries(3, 3)),
        GroupWrite(2, HardState(5, 1, 0), entries(1, 2)),
    )
    abandon(manager)
    path = segment_files(tmp_path)[0]
    torn, _ = records(path)[-2]
    flip(path, torn + PREFIX_BYTES + 1)
    manager = open_manager(tmp_path, NO_SYNC)
    assert manager.groups() == [1]
    append(manager, 1, entries(3, 3))
    abandon(manager)
    manager = open_manager(tmp_path, NO_SYNC)
    assert contents(manager) == {1: (HardState(1, 1, 0), entries(1, 3))}
    manager.close()


def test_torn_tail_is_cut_with_a_warning_that_says_where(
    small: SmallLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="rafter_storage")
    start, end = small.bounds[-1]
    abandon(small.crashed(small.image[: end - 20].ljust(len(small.image), b"\0")))
    assert f"torn record at offset {start}: cutting {end - start} bytes" in caplog.text


# Corruption.


def test_flipped_body_damages_its_group_alone_and_the_others_go_on(small: SmallLog) -> None:
    image = bytearray(small.image)
    start = small.bounds[0][0]
    image[start + PREFIX_BYTES + 2] ^= 1
    manager = small.crashed(image)
    assert list(manager.damaged) == [1]
    assert manager.damaged[1].offset == start
    assert manager.damage_of(1) == manager.damaged[1]
    assert manager.damage_of(2) is None
    assert "damaged record body" in manager.damaged[1].reason
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


def fill(manager: SegmentManager, group: int, first: int, last: int) -> None:
    """Write a fifth of a segment for each index, and commit it."""
    for index in range(first, last + 1):
        added = [entry(index, payload=b"x" * 13_000)]
        append(manager, group, added, HardState(1, 1, index))


def test_first_of_several_damages_of_a_group_is_the_one_that_is_told(small: SmallLog) -> None:
    image = bytearray(small.image)
    for number in (0, 2):
        image[small.bounds[number][0] + PREFIX_BYTES + 2] ^= 1
    manager = small.crashed(image)
    assert [(g, d.offset) for g, d in manager.damaged.items()] == [(1, small.bounds[0][0])]
    abandon(manager)


def test_damage_is_not_forgotten_once_the_segment_is_sealed_and_dumped(tmp_path: Path) -> None:
    manager = open_manager(tmp_path, NO_SYNC)
    append(manager, 1, entries(1, 3), HardState(1, 1, 0))
    append(manager, 1, entries(4, 5))
    append(manager, 2, entries(1, 1))
    abandon(manager)
    path = segment_files(tmp_path)[0]
    flip(path, records(path)[1][0] + PREFIX_BYTES + 4)
    for _ in range(3):
        manager = open_manager(tmp_path, NO_SYNC)
        assert list(manager.damaged) == [1]
        last_index = log_of(manager, 2).last_index()
        fill(manager, 2, last_index + 1, last_index + 6)
        do_chores(manager)
        manager.close()
    assert dump_path(tmp_path / "wal", 1).exists()


def test_segment_with_the_only_record_of_a_damaged_group_is_kept(tmp_path: Path) -> None:
    manager = open_manager(tmp_path, NO_SYNC)
    append(manager, 1, entries(1, 3), HardState(1, 1, 0))
    append(manager, 2, entries(1, 1), HardState(1, 1, 0))
    abandon(manager)
    path = segment_files(tmp_path)[0]
    flip(path, records(path)[0][0] + PREFIX_BYTES + 4)
    for _ in range(3):
        manager = open_manager(tmp_path, NO_SYNC)
        assert list(manager.damaged) == [1]
        last_index = log_of(manager, 2).last_index()
        fill(manager, 2, last_index + 1, last_index + 6)
        snapshot = (last_index + 6, 1)
        change(manager, GroupChange(2, snapshot=snapshot, compact_to=snapshot[0]))
        fill(manager, 2, last_index + 7, last_index + 7)
        do_chores(manager)
        manager.close()
        assert path.exists()


@pytest.mark.parametrize("is_sealed", [False, True])
@pytest.mark.parametrize("is_founded", [False, True])
def test_damage_to_what_follows_a_removal_is_reported(
    tmp_path: Path, is_sealed: bool, is_founded: bool
) -> None:
    manager = open_manager(tmp_path, NO_SYNC)
    append(manager, 1, entries(1, 3), HardState(1, 1, 0))
    change(manager, GroupChange(1, is_removed=True))
    if is_founded:
        metadata = GroupMetadata(5, 1, ((3, MEMBERSHIP),), 5, 1)
        job = manager.begin([], [], [FoundedGroup(1, metadata, HardState(1, 0, 5))])
        job.run()
        manager.complete(job)
    else:
        append(manager, 1, entries(1, 2), HardState(3, 1, 1))
    fill(manager, 2, 1, 6 if is_sealed else 1)
    abandon(manager)
    path = segment_files(tmp_path)[0]
    flip(path, records(path)[2][0] + PREFIX_BYTES + 4)
    manager = open_manager(tmp_path, NO_SYNC)
    if is_sealed and not is_founded:
        # Bodies of entries are verified when they are read.
        with pytest.raises(CorruptionError, match="body is damaged"):
            all_entries(log_of(manager, 1))
    else:
        assert list(manager.damaged) == [1]
    manager.close()


def test_damage_before_a_removal_is_forgotten_with_the_group(tmp_path: Path) -> None:
    manager = open_manager(tmp_path, NO_SYNC)
    append(manager, 1, entries(1, 3), HardState(1, 1, 0))
    change(manager, GroupChange(1, is_removed=True))
    append(manager, 2, entries(1, 1))
    abandon(manager)
    path = segment_files(tmp_path)[0]
    flip(path, records(path)[0][0] + PREFIX_BYTES + 4)
    manager = open_manager(tmp_path, NO_SYNC)
    assert (manager.damaged, manager.groups()) == ({}, [2])
    manager.close()


def test_flipped_prefix_damages_every_group_and_changes_nothing(small: SmallLog) -> None:
    image = bytearray(small.image)
    start = small.bounds[1][0]
    image[start + 9] ^= 1
    image[small.end :] = b"\xee" * 100 + bytes(len(image) - small.end - 100)
    manager = small.crashed(image)
    assert manager.shard_damage is not None
    assert manager.shard_damage.offset == start
    for group in (1, 77):
        assert manager.damage_of(group) == manager.shard_damage
        with pytest.raises(CorruptionError, match="every group of this shard is affected"):
            log_of(manager, group)
    with pytest.raises(CorruptionError, match="every group of this shard is affected"):
        manager.begin([])
    manager.close()
    assert segment_files(small.directory.parent / "crashed")[-1].read_bytes() == bytes(image)


def three_segments(directory: Path) -> list[Path]:
    """Two groups over three segments, closed, without dumps."""
    manager = open_manager(directory, NO_SYNC)
    for index in range(1, 10):
        append(manager, 1, [entry(index, payload=b"x" * 15_000)])
        append(manager, 2, [entry(index)])
    manager.close()
    paths = segment_files(directory)
    assert len(paths) == 3
    return paths


def reason_of(directory: Path) -> str:
    """Why no group of the shard is served."""
    manager = open_manager(directory, NO_SYNC)
    assert manager.shard_damage is not None
    assert contents(manager) == {}
    manager.close()
    return str(manager.shard_damage)


def test_several_segments_come_back_in_order(tmp_path: Path) -> None:
    three_segments(tmp_path)
    manager = open_manager(tmp_path, NO_SYNC)
    assert contents(manager)[1][1] == [entry(i, payload=b"x" * 15_000) for i in range(1, 10)]
    assert contents(manager)[2][1] == entries(1, 9)
    manager.close()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("has_dump", [False, True])
def test_damaged_body_in_a_sealed_segment_is_met_when_it_is_read(
    tmp_path: Path, which: int, has_dump: bool
) -> None:
    paths = three_segments(tmp_path)
    if has_dump:
        dump_all(tmp_path / "wal", recovered(tmp_path / "wal"))
    start, end = records(paths[which])[-2]
    flip(paths[which], (start + PREFIX_BYTES + end) // 2)
    manager = open_manager(tmp_path, NO_SYNC)
    group = 1 if end - start > 10_000 else 2
    with pytest.raises(CorruptionError, match=f"offset {start}: the record's body is damaged"):
        all_entries(log_of(manager, group))
    assert log_of(manager, 3 - group).last_index() == 9
    manager.close()


@pytest.mark.parametrize("which", [0, 1])
def test_damaged_prefix_in_a_sealed_segment_is_met_at_the_start_or_when_it_is_read(
    tmp_path: Path, which: int
) -> None:
    paths = three_segments(tmp_path)
    dump_all(tmp_path / "wal", recovered(tmp_path / "wal"))
    start, end = records(paths[which])[-2]
    flip(paths[which], start + 50)
    manager = open_manager(tmp_path, NO_SYNC)
    with pytest.raises(CorruptionError, match=f"offset {start}: the record's prefix is damaged"):
        all_entries(log_of(manager, 1 if end - start > 10_000 else 2))
    manager.close()
    dump_path(tmp_path / "wal", which + 1).unlink()
    assert f"{paths[which]}, offset {start}: no valid record prefix" in reason_of(tmp_path)


def test_sealed_segment_that_lost_its_tail_is_damage(tmp_path: Path) -> None:
    paths = three_segments(tmp_path)
    data = paths[0].read_bytes()
    start, _ = records(paths[0])[-1]
    for image in (data[:start].ljust(len(data), b"\0"), data[:start], b""):
        paths[0].write_bytes(image)
        assert reason_of(tmp_path).startswith(str(paths[0]))


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("kind", ["zero", "short", "empty"])
def test_segment_with_a_bad_header_damages_the_shard(tmp_path: Path, which: int, kind: str) -> None:
    paths = three_segments(tmp_path)
    data = paths[which].read_bytes()
    paths[which].write_bytes(
        {
            "zero": bytes(HEADER_BYTES) + data[HEADER_BYTES:],
            "short": data[:100],
            "empty": b"",
        }[kind]
    )
    assert reason_of(tmp_path) == f"{paths[which]}, offset 0: the segment's header is damaged"


@pytest.mark.parametrize("which", [0, 1, 2])
def test_header_flipped_at_any_byte_that_counts_damages_the_shard(
    tmp_path: Path, which: int
) -> None:
    path = three_segments(tmp_path)[which]
    for position in range(72):
        flip(path, position)
        assert "the segment's header is damaged" in reason_of(tmp_path)
        flip(path, position)


@pytest.mark.parametrize("which", [0, 1])
def test_missing_segment_damages_the_shard_and_is_named(tmp_path: Path, which: int) -> None:
    paths = three_segments(tmp_path)
    paths[which].unlink()
    reason = f"{paths[which]}, offset 0: the segment is missing, though segment 3 needs it"
    assert reason_of(tmp_path) == reason


def test_first_of_several_damages_of_a_shard_is_the_one_that_is_told(tmp_path: Path) -> None:
    paths = three_segments(tmp_path)
    paths[0].unlink()
    flip(paths[2], records(paths[2])[0][0] + 50)
    assert "the segment is missing" in reason_of(tmp_path)


def test_log_without_its_newest_segment_shows_what_was_before_it(tmp_path: Path) -> None:
    # Without the index of the one before, nothing proves that it existed. The fault model has no
    # such loss: a segment's name is durable before a byte is written to it.
    paths = three_segments(tmp_path)
    paths[2].unlink()
    manager = open_manager(tmp_path, NO_SYNC)
    found = contents(manager)
    assert found[2][1] == entries(1, len(found[2][1]))
    assert 1 <= len(found[2][1]) < 9
    manager.close()


def test_segment_of_another_log_is_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ours, others = three_segments(tmp_path / "a"), three_segments(tmp_path / "b")
    for which, reason in ((0, "does not continue segment 1"), (1, "does not continue segment 1")):
        kept = ours[which].read_bytes()
        shutil.copy(others[which], ours[which])
        assert reason in reason_of(tmp_path / "a")
        ours[which].write_bytes(kept)


def test_segment_under_another_name_is_not_taken_for_it(tmp_path: Path) -> None:
    paths = three_segments(tmp_path)
    kept = paths[1].read_bytes()
    shutil.copy(paths[0], paths[1])
    assert "the file holds segment 1 of a log" in reason_of(tmp_path)
    paths[1].write_bytes(kept)
    renamed = segment_path(tmp_path / "wal", 4)
    paths[2].rename(renamed)
    assert f"{renamed}, offset 0: the file holds segment 3 of a log" in reason_of(tmp_path)


def test_dump_under_another_name_is_not_taken_for_it(tmp_path: Path) -> None:
    three_segments(tmp_path)
    wal = tmp_path / "wal"
    expected = contents_found(recovered(wal))
    dump_all(wal, recovered(wal))
    shutil.copy(dump_path(wal, 1), dump_path(wal, 2))
    recovery = recovered(wal)
    assert contents_found(recovery) == expected
    assert [sealed.header.sequence for sealed in recovery.undumped] == [2]


def test_recycled_segment_shows_nothing_of_what_it_was(tmp_path: Path) -> None:
    paths = three_segments(tmp_path)
    spare_path(tmp_path / "wal", 1).write_bytes(paths[0].read_bytes())
    manager = open_manager(tmp_path, NO_SYNC)
    append(manager, 2, [entry(10, payload=b"x" * 60_000)])
    append(manager, 2, [entry(11)])
    abandon(manager)
    last = segment_files(tmp_path)[-1]
    assert last.name == segment_path(tmp_path, 4).name
    assert any(last.read_bytes()[records(last)[-1][1] :]), "it was not made of the spare"
    manager = open_manager(tmp_path, NO_SYNC)
    assert log_of(manager, 1).last_index() == 9
    assert all_entries(log_of(manager, 2))[-1] == entry(11)
    manager.close()


def test_mark_of_a_job_under_way_is_in_the_header_of_the_segment_behind_it(tmp_path: Path) -> None:
    manager = open_manager(tmp_path, NO_SYNC)
    fill(manager, 2, 1, 6)
    change(manager, GroupChange(2, snapshot=(5, 1), compact_to=5))
    first = manager.begin([GroupWrite(3, None, entries(1, 1))])
    second = manager.begin([GroupWrite(2, None, [entry(7, payload=b"x" * 60_000)])])
    assert first.first_sequence == 2
    assert second.roll is not None
    for job in (first, second):
        job.run()
        manager.complete(job)
    do_chores(manager)
    abandon(manager)
    assert not segment_path(tmp_path / "wal", 1).exists()
    manager = open_manager(tmp_path, NO_SYNC)
    assert (manager.shard_damage, manager.damaged) == (None, {})
    assert log_of(manager, 2).last_index() == 7
    manager.close()


def test_leftovers_of_an_unfinished_roll_are_removed(tmp_path: Path) -> None:
    paths = three_segments(tmp_path)
    leftover = segment_path(tmp_path / "wal", 4).with_suffix(".tmp")
    leftover.write_bytes(b"half a header")
    open_manager(tmp_path, NO_SYNC).close()
    assert not leftover.exists()
    assert segment_files(tmp_path) == paths


def test_segment_without_records_behind_a_roll_is_the_tail(tmp_path: Path) -> None:
    paths = three_segments(tmp_path)
    header = decode_header(paths[2], paths[2].read_bytes()[:HEADER_BYTES])
    assert header is not None
    following = SegmentHeader(4, 99, header.seed, records(paths[2])[-1][1], 1 << 16, 1)
    path = segment_path(tmp_path / "wal", 4)
    path.write_bytes(encode_header(following).ljust(1 << 16, b"\0"))
    manager = open_manager(tmp_path, NO_SYNC)
    assert len(contents(manager)[1][1]) == 9
    append(manager, 2, entries(10, 10))
    abandon(manager)
    manager = open_manager(tmp_path, NO_SYNC)
    assert contents(manager)[2][1] == entries(1, 10)
    manager.close()


# Logs that no manager would write.


def forged(directory: Path, *made: Record) -> Path:
    """A log of one segment with these records."""
    (directory / "wal").mkdir()
    header = SegmentHeader(1, 12345, 0, 0, 1 << 16, 1)
    return write_segment(directory / "wal", header, placed(*made), size=1 << 16)


def damage_of(directory: Path) -> str:
    manager = open_manager(directory, NO_SYNC)
    assert list(manager.damaged) == [7]
    manager.close()
    return manager.damaged[7].reason


def test_record_that_leaves_a_gap_damages_its_group(tmp_path: Path) -> None:
    forged(tmp_path, entries_record(7, 1, 2), entries_record(7, 4, 4))
    assert "entries from 4 do not follow the log's 2" in damage_of(tmp_path)


def test_commit_index_beyond_the_log_damages_its_group(tmp_path: Path) -> None:
    forged(tmp_path, entries_record(7, 1, 2, hard_state=HardState(1, 1, 5)))
    assert "has the commit index 5" in damage_of(tmp_path)


def test_commit_index_before_the_log_damages_its_group(tmp_path: Path) -> None:
    metadata = GroupMetadata(10, 2, ((10, MEMBERSHIP),), 10, 2)
    reset = metadata_record(RecordKind.RESET, 7, metadata)
    forged(tmp_path, reset._replace(hard_state=HardState(5, 1, 9)))
    assert "its log begins behind 10 and ends at 10" in damage_of(tmp_path)


def test_segment_that_replaces_committed_entries_damages_its_group(tmp_path: Path) -> None:
    state = HardState(1, 1, 2)
    (tmp_path / "wal").mkdir()
    first = placed(entries_record(7, 1, 2, hard_state=state), entries_record(8, 1, 1))
    end = first[-1].offset + align(first[-1].length)
    write_segment(tmp_path / "wal", SegmentHeader(1, 11, 0, 0, 1 << 16, 1), first)
    second = placed(entries_record(7, 2, 2), entries_record(8, 2, 2))
    write_segment(tmp_path / "wal", SegmentHeader(2, 22, 11, end, 1 << 16, 1), second)
    third = placed(entries_record(7, 3, 3), bare_record(RecordKind.REMOVED, 8))
    header = SegmentHeader(3, 33, 22, second[-1].offset + align(second[-1].length), 1 << 16, 1)
    write_segment(tmp_path / "wal", header, third)
    assert "entries from 2 replace the committed 2" in damage_of(tmp_path)


def test_record_of_an_unknown_kind_stops_the_start_and_is_not_cut(tmp_path: Path) -> None:
    path = forged(tmp_path, bare_record(9, 7))
    before = path.read_bytes()
    with pytest.raises(StorageError, match="a record of kind 9, which this program does not know"):
        open_manager(tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("call", range(1, 12))
def test_disk_that_cannot_be_read_stops_the_start_or_is_done_without(
    tmp_path: Path, call: int
) -> None:
    three_segments(tmp_path)
    wal = tmp_path / "wal"
    dump_all(wal, recovered(wal))
    expected = contents_found(recovered(wal))
    before = len(os.listdir("/proc/self/fd"))
    files = FaultyFiles()
    files.fail_at["pread", call] = EIO
    recovery = Recovery(files, wal, 0)
    try:
        recovery.run()
    except OSError as error:
        if error.errno != EIO:
            raise
    else:
        assert contents_found(recovery) == expected
    assert len(os.listdir("/proc/self/fd")) == before


def test_installed_snapshot_voids_what_older_segments_say(tmp_path: Path) -> None:
    manager = open_manager(tmp_path, NO_SYNC)
    fill(manager, 1, 1, 6)
    snapshot = Snapshot(20, 3, MEMBERSHIP, b"")
    write(manager, GroupWrite(1, HardState(3, 2, 20), entries(21, 22, 3), snapshot))
    abandon(manager)
    manager = open_manager(tmp_path, NO_SYNC)
    log = log_of(manager, 1)
    assert (log.first_index(), log.last_index(), log.term(20)) == (21, 22, 3)
    assert all_entries(log) == entries(21, 22, 3)
    assert log.initial_state()[0] == HardState(3, 2, 20)
    manager.close()
