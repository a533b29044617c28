"""Every byte of a small log, flipped one at a time: never a wrong answer.

Either all that was written is shown exactly, or damage is reported: of the record's group, or of
the shard. Only what nothing proves to have been synced may be missing.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from rafter_core.entries import Entry, HardState
from rafter_storage.errors import CorruptionError
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.record import RecordKind, align
from rafter_storage.segment import HEADER_BYTES, decode_header, segment_path
from rafter_storage.segment_manager import SegmentManager
from tests.storage.histories import (
    History,
    Record,
    bare_record,
    dump_all,
    recovered,
    write_segment,
)
from tests.storage.support import UnsyncedFiles, all_entries, entry, log_of

HEADER_USED_BYTES = 72
NO_SYNC = UnsyncedFiles()


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="rafter_storage")


def full_log(directory: Path, *, is_proved: bool) -> History:
    """Five groups that everything happened to, over two segments and the first one's dump.

    ``is_proved``: a MARK behind the last record proves it. Otherwise the last three records, which
    are one job, are proved by nothing.
    """
    history = History()
    history.append(1, back=0, count=3)
    history.append(2, back=0, count=4)
    history.append(3, back=0, count=2)
    history.append(4, back=0, count=2)
    history.commit(2, 3)
    history.compact(2, 1, has_new_membership=True)
    history.append(1, back=1, count=2, is_new_term=True)
    history.remove(3)
    history.roll()
    history.clean(1)
    history.reset(3, 4)
    history.append(3, back=0, count=2)
    history.remove(4)
    history.reset(5, 2)
    history.append(2, back=0, count=2)
    history.append(1, back=2, count=3, is_new_term=True)
    history.append(6, back=0, count=1)
    history.vote(3, 2)
    headers = history.write_to(directory)
    tail = history.segments[2]
    if is_proved:
        mark = bare_record(RecordKind.MARK, first_index=1)
        write_segment(directory, headers[2], [*tail, mark._replace(offset=history.end)])
    else:
        start = tail[-3].offset
        synced_offsets = [record.offset for record in tail[:-3]] + [start] * 3
        write_segment(directory, headers[2], tail, synced_offsets=synced_offsets)
    return history


Shown = tuple[HardState, GroupMetadata, int, int, list[Entry]]


def shown(directory: Path) -> dict[int, Shown | None] | None:
    """What each group shows; None for a group, or for the whole shard, if damage is reported."""
    manager = SegmentManager(directory, segment_bytes=1 << 16, spares_max=0, files=NO_SYNC)
    manager.open()
    found: dict[int, Shown | None] = dict.fromkeys(manager.damaged)
    try:
        if manager.shard_damage is not None:
            return None
        for group in manager.groups():
            if group in manager.damaged:
                continue
            log = log_of(manager, group)
            try:
                stored = all_entries(log)
            except CorruptionError:
                found[group] = None
                continue
            base_term = log.term(log.first_index() - 1)
            found[group] = (
                log.initial_state()[0],
                manager.metadata(group),
                log.first_index(),
                base_term,
                stored,
            )
        return found
    finally:
        manager.close()


def written(history: History) -> dict[int, Shown]:
    """What each group must show, from the history alone."""
    return {
        number: (
            group.hard_state,
            group.metadata,
            group.metadata.base_index + 1,
            group.metadata.base_term,
            [entry(index, place.term) for index, place in sorted(group.places.items())],
        )
        for number, group in history.groups.items()
    }


class FlippedLog:
    """A log in ``directory`` of which one byte after the other is another one."""

    def __init__(self, directory: Path, *, is_proved: bool, has_dump: bool) -> None:
        wal = directory / "wal"
        wal.mkdir()
        self.directory = directory
        self.history = full_log(wal, is_proved=is_proved)
        self.truth = written(self.history)
        if has_dump:
            dump_all(wal, recovered(wal))
        self.images = {path: path.read_bytes() for path in sorted(wal.iterdir())}
        self.tail = segment_path(wal, 2)
        assert shown(directory) == self.truth

    def flipped(self, path: Path, position: int) -> dict[int, Shown | None] | None:
        for name, image in self.images.items():
            changed = bytearray(image)
            if name == path:
                changed[position] ^= 1 << position % 8
            # In place: to make a file anew, or empty, takes a journal's time at every byte.
            with name.open("r+b") as file:
                file.write(changed)
                file.truncate()
        return shown(self.directory)

    def positions(self, path: Path) -> Iterator[int]:
        """Every byte of a file but those that fill the header block: see the test of them."""
        for position in range(len(self.images[path])):
            is_filler = HEADER_USED_BYTES <= position < HEADER_BYTES and path.suffix == ".log"
            if not is_filler:
                yield position

    def is_exact_or_reported(self, found: dict[int, Shown | None] | None) -> bool:
        """Every group shows what was written, or its damage; and there is no other group."""
        if found is None:
            return True
        truth: dict[int, Shown | None] = dict(self.truth)
        return set(found) == set(truth) and all(
            said is None or said == truth[group] for group, said in found.items()
        )


@pytest.mark.parametrize("has_dump", [True, False])
def test_every_flipped_byte_of_a_proved_log_is_harmless_or_reported(
    tmp_path: Path, has_dump: bool
) -> None:
    log = FlippedLog(tmp_path, is_proved=True, has_dump=has_dump)
    assert len(log.images) == 2 + has_dump
    reported = 0
    for path in log.images:
        if not has_dump and path == log.tail:
            continue
        for position in log.positions(path):
            found = log.flipped(path, position)
            assert log.is_exact_or_reported(found), (path.name, position)
            reported += found is None or None in found.values()
            if path.suffix == ".index":
                assert found == log.truth, position
    assert reported > (1500 if has_dump else 800)


def test_bytes_that_fill_the_header_block_are_read_by_nobody(tmp_path: Path) -> None:
    # Each alone leaves the header as it is, which is all that is read of the block; and all of
    # them at once leave the log as it is.
    log = FlippedLog(tmp_path, is_proved=True, has_dump=True)
    for path in (segment_path(tmp_path / "wal", 1), log.tail):
        block = bytearray(log.images[path][:HEADER_BYTES])
        header = decode_header(path, block)
        assert header is not None
        for position in range(HEADER_USED_BYTES, HEADER_BYTES):
            block[position] ^= 0xFF
            assert decode_header(path, block) == header
        log.images[path] = bytes(block) + log.images[path][HEADER_BYTES:]
    assert log.flipped(log.tail, HEADER_USED_BYTES) == log.truth


def test_every_flipped_byte_of_a_killed_log_is_harmless_reported_or_cuts_the_last_job(
    tmp_path: Path,
) -> None:
    # What is allowed for the last job, which nothing proves: that it is shown up to the record
    # with the flipped byte, that one and all behind it gone.
    log = FlippedLog(tmp_path, is_proved=False, has_dump=True)
    records = log.history.segments[2]
    start = records[-3].offset
    before: list[dict[int, Shown]] = []
    for count in range(3):
        shorter = write_segment_without(log, records[: len(records) - 3 + count])
        assert shorter is not None
        before.append(shorter)
    for position in log.positions(log.tail):
        found = log.flipped(log.tail, position)
        if position < start:
            assert log.is_exact_or_reported(found), position
            continue
        number = max(i for i, record in enumerate(records) if record.offset <= position)
        record = records[number]
        if position < record.offset + record.length:
            assert found == before[number - len(records) + 3], position
        else:
            assert found == log.truth, position


def write_segment_without(log: FlippedLog, records: list[Record]) -> dict[int, Shown]:
    """What the log shows when its last segment has these records alone."""
    end = records[-1].offset + align(records[-1].length)
    for name, image in log.images.items():
        name.write_bytes(image[:end] if name == log.tail else image)
    found = shown(log.directory)
    assert found is not None
    sound = {group: said for group, said in found.items() if said is not None}
    assert len(sound) == len(found)
    return sound
