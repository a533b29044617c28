"""Tests of rafter_storage.log_verification: it agrees with recovery, and finds every bad byte."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from rafter_core.entries import HardState
from rafter_storage.errors import StorageError
from rafter_storage.file_system import REAL_FILE_SYSTEM, RealFileSystem
from rafter_storage.index_dump import dump_path, encode_dump, load_dump
from rafter_storage.log_verification import LogReport, verify_log
from rafter_storage.record import PREFIX_BYTES, RecordKind, RecordPrefix, align
from rafter_storage.segment import HEADER_BYTES, encode_header
from rafter_storage.segment_manager import GroupChange, GroupWrite
from tests.storage.histories import STEPS, History, Step
from tests.storage.support import (
    abandon,
    append,
    change,
    do_chores,
    entries,
    entry,
    open_manager,
    segment_files,
    write,
)
from tests.storage.verification_support import (
    LARGE,
    View,
    Workload,
    add_record,
    flipped,
    header_of,
    make_small_log,
    patched,
    records_of,
    views_of,
    with_full_size,
)

HEADER_FIELDS_BYTES = 72


def verify(directory: Path) -> LogReport:
    return verify_log(REAL_FILE_SYSTEM, directory / "wal")


def seen(report: LogReport) -> dict[int, View]:
    """What the verifier says of each group."""
    return {
        group: (
            history.first_index,
            history.last_index,
            history.hard_state,
            history.metadata,
            [history.term(i) for i in range(history.first_index, history.last_index + 1)],
        )
        for group, history in report.groups.items()
    }


def reasons(report: LogReport) -> list[str]:
    return [damage.reason for damage in report.damages]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    make_small_log(tmp_path)
    return tmp_path


# ---- sound logs ------------------------------------------------------------------------------


@given(STEPS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_valid_history_is_sound_and_means_what_recovery_makes_of_it(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as base:
        directory = Path(base)
        (directory / "wal").mkdir()
        history = History(steps)
        history.write_to(directory / "wal")
        with_full_size(directory)
        report = verify(directory)
        assert report.damages == []
        assert report.first_sequence == history.first_sequence
        manager = open_manager(directory)
        assert views_of(manager) == seen(report)
        manager.close()


@pytest.mark.parametrize("is_direct", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_what_a_manager_writes_is_sound_whenever_it_is_looked_at(
    tmp_path: Path, seed: int, *, is_direct: bool
) -> None:
    workload = Workload(tmp_path, seed, is_direct=is_direct)
    for _ in range(12):
        workload.run(10)
        report = verify(tmp_path)
        assert report.damages == []
        assert report.notes == [note for note in report.notes if "is not needed" in note]
        expected = views_of(workload.manager)
        # A group that nothing was written of is not on disk.
        empty = {group for group, view in expected.items() if view[2] == HardState()}
        assert seen(report) == {g: view for g, view in expected.items() if g not in empty}
    workload.manager.close()
    assert verify(tmp_path).damages == []


def test_those_lives_hold_records_of_every_kind(tmp_path: Path) -> None:
    kinds = set()
    for seed in range(3):
        (tmp_path / str(seed)).mkdir()
        workload = Workload(tmp_path / str(seed), seed, is_direct=seed == 0)
        for _ in range(12):
            workload.run(10)
            for path in segment_files(workload.directory):
                kinds |= {prefix.kind for _, prefix in records_of(path)}
        workload.manager.close()
    assert kinds == set(RecordKind)


def test_log_of_a_node_that_was_never_written_to_is_sound_and_empty(tmp_path: Path) -> None:
    open_manager(tmp_path).close()
    report = verify(tmp_path)
    assert (report.damages, report.groups, report.segments) == ([], {}, 1)


def test_directory_without_segments_is_a_lost_log(tmp_path: Path) -> None:
    (tmp_path / "wal").mkdir()
    report = verify(tmp_path)
    assert [damage.path for damage in report.damages] == [tmp_path / "wal"]
    assert (report.groups, report.segments) == ({}, 0)


# ---- bad bytes -------------------------------------------------------------------------------


def expected_offset(path: Path, records: list[tuple[int, int]], offset: int) -> int | None:
    """Where damage must be reported if this byte is bad, None if the byte means nothing."""
    if path.suffix == ".index":
        return 0
    if offset < HEADER_BYTES:
        return 0 if offset < HEADER_FIELDS_BYTES else None
    for start, length in records:
        if start <= offset < start + length:
            return start
    return None


def test_every_flipped_byte_is_found_at_its_record_or_means_nothing(small: Path) -> None:
    sound = seen(verify(small))
    tail = segment_files(small)[-1]
    # Nothing proves that the mark of the close had been synced.
    last_mark = records_of(tail)[-1]
    assert last_mark[1].kind == RecordKind.MARK
    kinds = set()
    flips = harmless = 0
    # Of the long bodies, whose bytes are all alike, and of what nothing is written to, one in 997.
    for path in sorted((small / "wal").iterdir()):
        records = []
        offsets = set(range(0, path.stat().st_size, 997))
        if path.suffix == ".log":
            found = records_of(path)
            kinds |= {prefix.kind for _, prefix in found}
            records = [(start, prefix.length) for start, prefix in found]
            offsets |= set(range(HEADER_FIELDS_BYTES + 1))
            for start, length in records:
                is_long = length > len(LARGE)
                offsets |= set(range(start, start + (PREFIX_BYTES if is_long else length)))
                offsets.add(start + length - 1)
                offsets |= set(range(start + length, start + align(length)))
        else:
            offsets |= set(range(path.stat().st_size))
        for offset in sorted(offsets):
            expected = expected_offset(path, records, offset)
            flips += 1
            with flipped(path, offset):
                report = verify(small)
            if expected is None or (path == tail and expected == last_mark[0]):
                harmless += 1
                assert report.damages == [], (path, offset)
                assert seen(report) == sound
            else:
                assert report.damages, (path, offset)
                assert report.damages[0][:2] == (path, expected), (path, offset)
    assert kinds == {
        RecordKind.ENTRIES, RecordKind.GROUP, RecordKind.RESET, RecordKind.REMOVED, RecordKind.MARK
    }  # fmt: skip
    assert flips > 2000
    assert 0 < harmless < flips // 4
    assert verify(small).damages == []


def test_damage_does_not_hide_what_is_bad_behind_it(small: Path) -> None:
    first, second, third = segment_files(small)
    at_first, at_third = records_of(first)[1][0], records_of(third)[0][0]
    with flipped(first, at_first + 20), flipped(second, 17), flipped(third, at_third + 100):
        report = verify(small)
    places = [damage[:2] for damage in report.damages]
    assert places[0] == (first, at_first)
    assert (second, 0) in places
    assert (third, at_third) in places


def test_torn_tail_is_a_note_and_the_log_ends_before_it(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    append(manager, 1, entries(1, 3), HardState(1, 1, 0))
    append(manager, 1, entries(4, 5), HardState(1, 1, 3))
    abandon(manager)
    path = segment_files(tmp_path)[0]
    offset = records_of(path)[-1][0]
    with flipped(path, offset + PREFIX_BYTES + 1):
        report = verify(tmp_path)
        assert report.damages == []
        assert [note for note in report.notes if f"offset {offset}: " in note] == report.notes != []
        assert seen(report)[1][:3] == (1, 3, HardState(1, 1, 0))


def test_same_tear_is_damage_once_a_later_record_proves_that_it_was_synced(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    append(manager, 1, entries(1, 3), HardState(1, 1, 0))
    append(manager, 1, entries(4, 5), HardState(1, 1, 3))
    manager.close()
    path = segment_files(tmp_path)[0]
    offset = records_of(path)[-2][0]
    with flipped(path, offset + PREFIX_BYTES + 1):
        assert [damage[:2] for damage in verify(tmp_path).damages] == [(path, offset)]


def test_unreadable_sector_is_damage_at_its_place(small: Path) -> None:
    path = segment_files(small)[1]

    class BadSector(RealFileSystem):
        """The disk gives up one place of one file."""

        def __init__(self) -> None:
            self.bad: set[int] = set()

        def open(self, path_opened: Path, flags: int) -> int:
            descriptor = super().open(path_opened, flags)
            if path_opened == path:
                self.bad.add(descriptor)
            return descriptor

        def close(self, descriptor: int) -> None:
            self.bad.discard(descriptor)
            super().close(descriptor)

        def pread(self, descriptor: int, length: int, offset: int) -> bytes:
            if descriptor in self.bad and offset:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().pread(descriptor, length, offset)

    report = verify_log(BadSector(), small / "wal")
    assert report.damages[0][:2] == (path, HEADER_BYTES)
    assert "cannot be read" in report.damages[0].reason


def test_directory_that_cannot_be_read_is_an_error_and_no_damage(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        verify_log(REAL_FILE_SYSTEM, tmp_path / "nowhere")


# ---- whole files -----------------------------------------------------------------------------


def test_missing_segment_is_damage_and_a_retired_one_that_is_left_is_a_note(small: Path) -> None:
    first, second, _ = segment_files(small)
    second.unlink()
    report = verify(small)
    assert report.damages[0][:2] == (second, 0)
    assert "missing" in report.damages[0].reason
    assert first.exists()


def test_segment_that_is_not_needed_any_more_may_be_bad(tmp_path: Path) -> None:
    manager = open_manager(tmp_path, spares_max=0)
    for index in range(1, 8):
        append(manager, 1, [entry(index, 1, LARGE)], HardState(1, 1, index))
    change(manager, GroupChange(1, None, (7, 1), 6))
    append(manager, 1, entries(8, 8))
    append(manager, 1, entries(9, 9))
    old = segment_files(tmp_path)[0]
    manager.close()
    with flipped(old, HEADER_BYTES + 3):
        report = verify(tmp_path)
    assert report.damages == []
    assert report.first_sequence > 1
    old.unlink()
    with flipped(max(segment_files(tmp_path)), 20):
        # What has gone is not held against a log whose tail cannot say that it may.
        assert verify(tmp_path).damages[0][:2] == (max(segment_files(tmp_path)), 0)
    assert any(str(old) in note for note in report.notes)


def test_segments_of_two_logs_do_not_pass_for_one(tmp_path: Path) -> None:
    for name in ("one", "other"):
        make_small_log(tmp_path / name)
    path = segment_files(tmp_path / "one")[1]
    shutil.copy(segment_files(tmp_path / "other")[1], path)
    report = verify(tmp_path / "one")
    assert report.damages[0].path == path
    assert "does not continue" in report.damages[0].reason


def test_segment_under_another_name_is_damage(small: Path) -> None:
    _, second, third = segment_files(small)
    shutil.copy(second, third)
    report = verify(small)
    assert report.damages[0] == (third, 0, "the file holds segment 2 of a log")


def test_file_that_was_cut_short_is_damage(small: Path) -> None:
    path = segment_files(small)[-1]
    os.truncate(path, 60_000)
    report = verify(small)
    assert report.damages[0][:2] == (path, 60_000)


def test_lost_last_segment_is_known_by_the_index_of_the_one_before(small: Path) -> None:
    lost = segment_files(small)[-1]
    lost.unlink()
    assert [damage.path for damage in verify(small).damages] == [lost]


def test_lost_last_segments_are_known_by_the_index_of_any_of_them(small: Path) -> None:
    lost = segment_files(small)[1:]
    for path in lost:
        path.unlink()
    assert [damage.path for damage in verify(small).damages] == [lost[-1]]


def test_leftovers_are_notes(small: Path) -> None:
    names = ["00000000000000000009.tmp", "notes.txt", "00000000000000000000.index"]
    for name in names:
        (small / "wal" / name).write_bytes(b"?")
    (small / "wal" / "spare-00000000000000000001.free").write_bytes(b"?")
    report = verify(small)
    assert report.damages == []
    assert len(report.notes) == 3
    assert all(any(name in note for note in report.notes) for name in names)


def test_index_that_is_whole_and_says_other_things_is_damage(small: Path) -> None:
    wal = small / "wal"
    header = header_of(segment_files(small)[0])
    end = header_of(segment_files(small)[1]).previous_end
    index = load_dump(REAL_FILE_SYSTEM, wal, header, end)
    assert index is not None
    index.sections[2].hard_state = HardState(1, 1, 0)
    dump_path(wal, 1).write_bytes(encode_dump(index, header, end))
    report = verify(small)
    assert [damage.path for damage in report.damages] == [dump_path(wal, 1)]
    assert report.damages[0].reason.startswith("group 2: ")
    del index.sections[2]
    dump_path(wal, 1).write_bytes(encode_dump(index, header, end))
    assert reasons(verify(small)) == reasons(report)


def test_missing_index_is_nothing(small: Path) -> None:
    dump_path(small / "wal", 1).unlink()
    assert verify(small).damages == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"previous_seed": 7}, "the segment does not continue segment 2 beside it"),
        ({"previous_end": 1 << 40}, "the segment before it cannot end at"),
        ({"previous_end": 4097}, "the segment before it cannot end at"),
        ({"first_sequence": 9}, "the log is said to begin at segment 9"),
        ({"first_sequence": 0}, "the log is said to begin at segment 0"),
    ],
)
def test_header_that_is_whole_and_impossible_is_damage(
    small: Path, fields: dict[str, int], reason: str
) -> None:
    path = segment_files(small)[-1]
    marks = [prefix for _, prefix in records_of(path) if prefix.kind == RecordKind.MARK]
    if "first_sequence" in fields:
        # The tail's own mark would overrule it.
        assert len(marks) == 1
        _rewrite(path, [(o, p) for o, p in records_of(path) if p.kind != RecordKind.MARK])
    header = header_of(path)._replace(**fields)
    with patched(path, 0, encode_header(header)):
        report = verify(small)
    assert report.damages[0].path == path
    assert report.damages[0].reason.startswith(reason)


@pytest.mark.parametrize(
    ("number", "fields", "bad", "reason"),
    [
        (0, {"previous_end": 4096}, 0, "the first segment of a log says that it continues another"),
        (1, {"first_sequence": 2}, 2, "the log begins at segment 1, and began at 2 before"),
        (2, {"first_sequence": 2}, 2, "the log begins at segment 1 after 2"),
    ],
)
def test_log_has_one_beginning_which_only_moves_on(
    small: Path, number: int, fields: dict[str, int], bad: int, reason: str
) -> None:
    paths = segment_files(small)
    with patched(paths[number], 0, encode_header(header_of(paths[number])._replace(**fields))):
        damages = verify(small).damages
    assert [(damage.path, damage.reason) for damage in damages] == [(paths[bad], reason)]


def _rewrite(path: Path, kept: list[tuple[int, RecordPrefix]]) -> None:
    """Cut a segment behind the last of the records ``kept``."""
    end = max(offset + align(prefix.length) for offset, prefix in kept)
    size = path.stat().st_size
    os.truncate(path, end)
    os.truncate(path, size)


# ---- records that are whole and wrong --------------------------------------------------------


def test_mark_that_takes_back_where_the_log_begins_is_damage(small: Path) -> None:
    path = segment_files(small)[-1]
    add_record(path, RecordKind.MARK, 0, HardState(), (0, 0, 0))
    assert "the log is said to begin at segment 0" in verify(small).damages[0].reason


@pytest.mark.parametrize(
    ("kind", "group", "hard_state", "entries_range", "body", "reason"),
    [
        (9, 1, HardState(2, 3, 6), (0, 0, 0), b"", "a record of kind 9, which this program does"),
        (1, 1, HardState(2, 3, 6), (8, 9, 2), b"\x93", "this is not msgpack"),
        (1, 1, HardState(1, 3, 6), (0, 0, 0), b"", "term 1 after term 2"),
        (1, 1, HardState(2, 1, 6), (0, 0, 0), b"", "a vote for 1 in term 2 after one for 3"),
        (1, 1, HardState(2, 3, 5), (0, 0, 0), b"", "commit index 5 after 6"),
        (1, 1, HardState(2, 3, 8), (0, 0, 0), b"", "the commit index is 8, the log begins behind"),
        (4, 1, HardState(2, 3, 6), (0, 0, 0), b"?", "a group's metadata"),
    ],
)
def test_record_that_is_whole_and_breaks_a_rule_is_damage(
    small: Path,
    kind: int,
    group: int,
    hard_state: HardState,
    entries_range: tuple[int, int, int],
    body: bytes,
    reason: str,
) -> None:
    path = segment_files(small)[-1]
    offset = add_record(path, kind, group, hard_state, entries_range, body=body)
    report = verify(small)
    assert report.damages[0][:2] == (path, offset)
    assert reason in report.damages[0].reason


def test_padding_with_a_bad_body_at_the_unsynced_end_hides_nothing(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    write(manager, GroupWrite(1, HardState(1, 1, 0), entries(1, 2)))
    abandon(manager)
    path = segment_files(tmp_path)[0]
    offset = add_record(path, RecordKind.PADDING, 0, HardState(), (0, 0, 0), body=bytes(64))
    with flipped(path, offset + PREFIX_BYTES):
        report = verify(tmp_path)
    assert (report.damages, report.notes) == ([], [])
    assert report.records == 2


def test_bad_metadata_is_one_damage_and_not_a_row_of_consequences(small: Path) -> None:
    path, offset = next(
        (path, offset)
        for path in segment_files(small)
        for offset, prefix in records_of(path)
        if prefix.kind == RecordKind.GROUP
    )
    with flipped(path, offset + PREFIX_BYTES):
        assert [damage[:2] for damage in verify(small).damages] == [(path, offset)]


def test_verifying_a_log_leaves_no_file_open(small: Path) -> None:
    do_chores(open_manager(small))
    before = len(os.listdir("/proc/self/fd"))
    verify(small)
    assert len(os.listdir("/proc/self/fd")) == before
