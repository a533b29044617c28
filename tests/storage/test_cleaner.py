"""Tests of rafter_storage.cleaner: what is rewritten, what leaves the disk, and how much stays."""

import random
from pathlib import Path

import pytest

from rafter_core.entries import Entry, HardState
from rafter_core.membership import Membership
from rafter_core.snapshot import Snapshot
from rafter_storage.cleaner import COPY_BYTES_MAX, Cleaner
from rafter_storage.errors import CorruptionError
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.group_state import GroupState
from rafter_storage.reader import RecordReader
from rafter_storage.record import PREFIX_BYTES, RecordKind
from rafter_storage.recovery import Recovery
from rafter_storage.segment import HEADER_BYTES, segment_path, sequence_of
from rafter_storage.segment_manager import GroupChange, GroupWrite, SegmentManager
from tests.storage.fake_file_system import CrashMode, FakeFileSystem
from tests.storage.support import (
    EIO,
    MEMBERSHIP,
    SEGMENT_BYTES,
    abandon,
    all_entries,
    append,
    change,
    do_chores,
    entries,
    entry,
    log_of,
    open_manager,
    write,
)

IDLE, BUSY = 2, 1
OTHER = Membership((1, 2, 3, 4))


def on_fake_disk(
    files: FakeFileSystem | None = None, **options: object
) -> tuple[FakeFileSystem, SegmentManager]:
    files = files or FakeFileSystem(is_journaled=False)
    return files, open_manager(files.base, files, **options)  # type: ignore[arg-type]


def reopened(files: FakeFileSystem, manager: SegmentManager) -> SegmentManager:
    """As after a kill, with nothing in memory: all is read from the disk."""
    abandon(manager)
    return open_manager(files.base, files, 0)


def tidy(manager: SegmentManager, jobs_max: int = 200) -> int:
    """Let an idle log put itself in order; return how many jobs it took."""
    do_chores(manager)
    for count in range(jobs_max):
        if not manager.needs_cleaning:
            return count
        write(manager)
        do_chores(manager)
    raise AssertionError(f"an idle log goes on rewriting itself after {jobs_max} jobs")


class Busy:
    """A group that appends, takes snapshots and compacts its log."""

    def __init__(self, manager: SegmentManager, payload_bytes: int = 900) -> None:
        self.manager = manager
        self.payload = b"b" * payload_bytes
        self.last_index = 0

    def append(self, count: int = 1) -> None:
        for _ in range(count):
            self.last_index += 1
            one = entry(self.last_index, payload=self.payload)
            append(self.manager, BUSY, [one], HardState(1, 1, self.last_index))

    def compact(self, kept: int = 5) -> None:
        snapshot = (self.last_index, 1)
        compact_to = max(0, self.last_index - kept)
        change(self.manager, GroupChange(BUSY, snapshot=snapshot, compact_to=compact_to))

    def churn(self, rounds: int, count: int = 20) -> None:
        for _ in range(rounds):
            self.append(count)
            self.compact()
            do_chores(self.manager)


# What leaves the disk, and when.


def sequences(files: FakeFileSystem) -> list[int]:
    found = (sequence_of(name) for name in files.names(files.base / "wal"))
    return [sequence for sequence in found if sequence is not None]


class GuardedFiles(FakeFileSystem):
    """Checks, whenever a segment is about to leave, that a crash now would not miss it."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[int] = []

    def unlink(self, path: Path) -> None:
        self._check(path)
        super().unlink(path)

    def rename(self, source: Path, target: Path) -> None:
        self._check(source)
        super().rename(source, target)

    def _check(self, path: Path) -> None:
        sequence = sequence_of(path.name)
        if sequence is None:
            return
        survivor = self.crash(CrashMode.LOST)
        recovery = Recovery(survivor, path.parent, 0)
        recovery.run()
        assert recovery.shard_damage is None
        assert not recovery.damaged
        assert min(recovery.headers) > sequence
        assert sequence == min(sequences(self))
        self.left.append(sequence)


def test_segments_leave_oldest_first_and_only_when_a_durable_mark_has_excluded_them() -> None:
    files = GuardedFiles()
    _, manager = on_fake_disk(files)
    append(manager, IDLE, entries(1, 3))
    Busy(manager).churn(60)
    assert len(files.left) > 10
    assert files.left == sorted(files.left)
    manager = reopened(files, manager)
    assert all_entries(log_of(manager, IDLE)) == entries(1, 3)
    manager.close()


def test_compaction_frees_segments_only_after_it_is_durable_itself() -> None:
    files, manager = on_fake_disk(spares_max=0)
    busy = Busy(manager)
    busy.append(150)
    before = sequences(files)
    busy.compact()
    do_chores(manager)
    assert sequences(files) == before
    # The next job carries the mark, and its sync makes both durable.
    append(manager, IDLE, entries(1, 1))
    do_chores(manager)
    assert sequences(files) == before[-1:]
    manager.close()


def test_idle_log_asks_for_the_job_that_carries_the_mark() -> None:
    files, manager = on_fake_disk(spares_max=0)
    busy = Busy(manager)
    busy.append(150)
    assert not manager.needs_cleaning
    busy.compact()
    assert manager.needs_cleaning
    job = manager.begin([])
    # Not while that job is on its way.
    assert not manager.needs_cleaning
    assert (job.must_sync, len(job.drafts)) == (True, 0)
    job.run()
    manager.complete(job)
    assert not manager.needs_cleaning
    do_chores(manager)
    assert len(sequences(files)) == 1
    manager.close()


def test_segment_that_left_the_log_and_not_the_disk_is_taken_away_at_the_next_start() -> None:
    files, manager = on_fake_disk(spares_max=0)
    busy = Busy(manager)
    busy.append(150)
    busy.compact()
    write(manager)
    assert len(sequences(files)) > 2
    manager = reopened(files, manager)
    do_chores(manager)
    assert sequences(files) == [manager.statistics().oldest_sequence]
    assert log_of(manager, BUSY).last_index() == busy.last_index
    manager.close()


# What is rewritten.


def test_idle_groups_are_rewritten_with_all_that_is_known_of_them() -> None:
    files, manager = on_fake_disk()
    append(manager, 3, entries(1, 2, 4), HardState(9, 3, 2))
    append(manager, 4, [], HardState(6, 2, 0))
    write(manager, GroupWrite(5, HardState(7, 0, 0), (), Snapshot(10, 6, OTHER)))
    append(manager, 6, [*entries(1, 3, 1), *entries(4, 6, 2)], HardState(2, 0, 0))
    append(manager, 6, [], HardState(2, 0, 6))
    append(manager, 6, entries(7, 8, 2))
    change(manager, GroupChange(6, (2, OTHER), (5, 2), 2), GroupChange(3, is_removed=True))
    Busy(manager).churn(30)
    assert tidy(manager) < 20
    assert manager.statistics().oldest_sequence > 1
    assert manager.statistics().copied_bytes > 0
    for round_number in range(3):
        assert (manager.damaged, manager.shard_damage) == ({}, None)
        assert manager.groups() == [BUSY, 4, 5, 6]
        assert log_of(manager, 4).initial_state()[0] == HardState(6, 2, 0)
        assert manager.metadata(5) == GroupMetadata(10, 6, ((10, OTHER),), 10, 6)
        assert (log_of(manager, 5).first_index(), log_of(manager, 5).term(10)) == (11, 6)
        assert log_of(manager, 5).initial_state()[0] == HardState(7, 0, 10)
        assert manager.metadata(6) == GroupMetadata(2, 1, ((2, OTHER),), 5, 2)
        expected = [entry(3, 1), *entries(4, 8, 2)]
        assert all_entries(log_of(manager, 6)) == expected
        assert [log_of(manager, 6).term(index) for index in range(2, 9)] == [1, 1, 2, 2, 2, 2, 2]
        if round_number == 1:
            for name in files.names(files.base / "wal"):
                if name.endswith(".index"):
                    files.unlink(files.base / "wal" / name)
        manager = reopened(files, manager)
    manager.close()


def test_only_what_is_needed_of_a_record_is_copied() -> None:
    files, manager = on_fake_disk()
    append(manager, IDLE, entries(1, 100), HardState(1, 0, 40))
    append(manager, IDLE, entries(81, 81, 2), HardState(2, 0, 40))
    change(manager, GroupChange(IDLE, snapshot=(40, 1), compact_to=30))
    Busy(manager).churn(20)
    tidy(manager)
    live_bytes = log_of(manager, IDLE)._index.live_bytes
    assert live_bytes < 50 * 15 + 4 * PREFIX_BYTES
    manager = reopened(files, manager)
    assert all_entries(log_of(manager, IDLE)) == [*entries(31, 80), entry(81, 2)]
    assert log_of(manager, IDLE)._index.live_bytes == live_bytes
    manager.close()


def test_write_that_replaces_what_is_copied_in_the_same_job_wins() -> None:
    files, manager = on_fake_disk()
    append(manager, IDLE, entries(1, 10), HardState(1, 0, 3))
    busy = Busy(manager)
    busy.append(200)
    busy.compact()
    assert manager.needs_cleaning
    job = manager.begin(
        [GroupWrite(IDLE, HardState(2, 0, 3), entries(5, 6, 2))],
        [GroupChange(IDLE, (1, OTHER), (3, 1), 2)],
    )
    assert RecordKind.COPY in [draft.kind for draft, _, _ in job.drafts]
    job.run()
    manager.complete(job)
    for _ in range(2):
        assert all_entries(log_of(manager, IDLE)) == [*entries(3, 4), *entries(5, 6, 2)]
        assert manager.metadata(IDLE) == GroupMetadata(2, 1, ((1, OTHER),), 3, 1)
        tidy(manager)
        manager = reopened(files, manager)
    manager.close()


def test_one_job_rewrites_a_bounded_part() -> None:
    segment_bytes = 1 << 20
    files, manager = on_fake_disk(segment_bytes=segment_bytes)
    for index in range(1, 40):
        append(manager, IDLE, [entry(index, payload=b"c" * 20_000)])
    busy = Busy(manager, 20_000)
    busy.append(300)
    busy.compact()
    copied = []
    while manager.needs_cleaning:
        before = manager.statistics().copied_bytes
        write(manager)
        copied.append(manager.statistics().copied_bytes - before)
    assert len(copied) > 2
    assert max(copied) <= COPY_BYTES_MAX + 21_000
    do_chores(manager)
    manager = reopened(files, manager)
    assert len(all_entries(log_of(manager, IDLE))) == 39
    manager.close()


def test_nothing_is_rewritten_while_a_job_is_under_way() -> None:
    _, manager = on_fake_disk()
    append(manager, IDLE, entries(1, 3))
    busy = Busy(manager)
    busy.append(200)
    running = manager.begin([GroupWrite(BUSY, None, [entry(busy.last_index + 1)])])
    busy.last_index += 1
    job = manager.begin([])
    assert job.drafts == []
    for one in (running, job):
        one.run()
        manager.complete(one)
    manager.close()


def test_cleaner_hands_out_nothing_of_a_segment_that_nobody_needs() -> None:
    cleaner = Cleaner(RecordReader(FakeFileSystem()))
    assert cleaner.is_cleanable(1)
    assert cleaner.drafts(1, [GroupState(1, 0), GroupState(2, 0)]) == []


def test_one_job_describes_a_bounded_number_of_groups() -> None:
    _, manager = on_fake_disk(segment_bytes=4 << 20)
    manager.begin([])
    states = [GroupState(group, 0) for group in range(10_000)]
    for state in states:
        state.record_sequence = 1
    drafts = Cleaner(RecordReader(FakeFileSystem())).drafts(1, states)
    assert 0 < sum(PREFIX_BYTES + len(draft.body) for draft in drafts) <= COPY_BYTES_MAX + 500
    manager.close()


# How much stays.


@pytest.mark.parametrize(
    ("segment_bytes", "idle_entries", "idle_bytes", "busy_bytes"),
    [
        (SEGMENT_BYTES, 1, 100, 500),
        (SEGMENT_BYTES, 50, 1000, 500),
        (SEGMENT_BYTES, 400, 1000, 500),
        (1 << 20, 50, 1000, 5000),
        (1 << 20, 2000, 2000, 5000),
    ],
)
def test_one_idle_group_never_pins_the_log(
    segment_bytes: int, idle_entries: int, idle_bytes: int, busy_bytes: int
) -> None:
    """One idle and one busy group, 2000 small jobs: disk <= 2 x live + 3 segments all the time."""
    files, manager = on_fake_disk(segment_bytes=segment_bytes, tail_bytes_max=0)
    idle = [entry(index, payload=b"i" * idle_bytes) for index in range(1, idle_entries + 1)]
    for one in idle:
        append(manager, IDLE, [one], HardState(1, 1, one.index))
        do_chores(manager)
    busy = Busy(manager, busy_bytes)
    worst, worst_at = 0.0, ""
    for number in range(2000):
        busy.append()
        if number % 50 == 49:
            busy.compact(20)
        do_chores(manager)
        now = manager.statistics()
        exceeding = (now.disk_bytes - 2 * now.live_bytes) / segment_bytes
        if exceeding > worst:
            worst, worst_at = exceeding, f"job {number}: {now}"
    assert manager.statistics().oldest_sequence > 2
    assert tidy(manager) < 50
    manager = reopened(files, manager)
    assert all_entries(log_of(manager, IDLE)) == idle
    assert log_of(manager, BUSY).last_index() == busy.last_index
    manager.close()
    assert worst <= 3, f"twice the live bytes and {worst:.2f} segments, {worst_at}"


@pytest.mark.parametrize(("count", "entries_each"), [(700, 0), (300, 1), (1000, 3)])
def test_rewriting_an_idle_log_comes_to_an_end(count: int, entries_each: int) -> None:
    _, manager = on_fake_disk()
    for group in range(10, 10 + count):
        append(manager, group, entries(1, entries_each), HardState(1, 1, entries_each))
    Busy(manager, 3000).append(300)
    change(manager, GroupChange(BUSY, is_removed=True))
    assert tidy(manager) < 100
    # And it stays in order.
    manager.close()


@pytest.mark.parametrize("payload_bytes", [30_000, 30_800, 31_500, 40_000, 130_000])
def test_rewriting_records_of_any_size_comes_to_an_end(payload_bytes: int) -> None:
    files, manager = on_fake_disk()
    for index in range(1, 41):
        append(manager, IDLE, [entry(index, payload=b"i" * payload_bytes)])
    busy = Busy(manager, 3000)
    busy.append(60 + payload_bytes // 25)
    change(manager, GroupChange(BUSY, is_removed=True))
    assert tidy(manager) < 100
    manager = reopened(files, manager)
    assert len(all_entries(log_of(manager, IDLE))) == 40
    manager.close()


def test_removed_group_pins_nothing() -> None:
    files, manager = on_fake_disk()
    append(manager, IDLE, entries(1, 100))
    Busy(manager).append(100)
    assert manager.statistics().oldest_group in (BUSY, IDLE)
    change(manager, GroupChange(IDLE, is_removed=True), GroupChange(BUSY, is_removed=True))
    tidy(manager)
    now = manager.statistics()
    assert (now.live_bytes, now.oldest_group, now.segments) == (0, None, 1)
    assert len(sequences(files)) == 1
    manager.close()


def test_statistics_name_who_pins_the_log() -> None:
    _, manager = on_fake_disk()
    append(manager, 7, entries(1, 1))
    append(manager, 8, entries(1, 1))
    Busy(manager).append(80)
    assert manager.statistics().oldest_group in (BUSY, 7, 8)
    # A newer record of 7 does not help it: its entry is in the oldest segment still.
    append(manager, 7, [], HardState(0, 0, 1))
    change(manager, GroupChange(BUSY, is_removed=True))
    assert manager.statistics().oldest_group in (7, 8)
    tidy(manager)
    now = manager.statistics()
    assert now.oldest_sequence > 1
    assert now.oldest_group in (7, 8)
    manager.close()


# Damage.


def damaged_cold_record() -> tuple[FakeFileSystem, SegmentManager, Busy]:
    """Two idle groups in the first segment, the first record of the one with a flipped bit."""
    files, manager = on_fake_disk(tail_bytes_max=0)
    append(manager, IDLE, entries(1, 3))
    # The newest batch stays in memory: what is to be read from disk must have one behind it.
    append(manager, IDLE, entries(4, 4))
    append(manager, 3, entries(1, 3))
    busy = Busy(manager)
    busy.append(70)
    files.flip_bit(segment_path(files.base / "wal", 1), HEADER_BYTES + PREFIX_BYTES + 3, 2)
    return files, manager, busy


def test_damaged_record_is_not_rewritten_keeps_its_segment_and_harms_nobody() -> None:
    files, manager, busy = damaged_cold_record()
    busy.churn(20)
    tidy(manager)
    for _ in range(2):
        now = manager.statistics()
        assert (now.oldest_sequence, now.copied_bytes) == (1, 0)
        assert now.oldest_group in (IDLE, 3)
        assert sequences(files)[0] == 1
        with pytest.raises(CorruptionError, match="body is damaged"):
            all_entries(log_of(manager, IDLE))
        assert log_of(manager, IDLE).entries(4, 5, 1000) == entries(4, 4)
        assert all_entries(log_of(manager, 3)) == entries(1, 3)
        append(manager, 3, [], HardState(1, 1, 1))
        assert len(all_entries(log_of(manager, BUSY))) == 5
        manager = reopened(files, manager)
        tidy(manager)
    manager.close()


def test_log_is_cleaned_again_when_the_damaged_record_is_not_needed_any_more() -> None:
    files, manager, busy = damaged_cold_record()
    busy.churn(20)
    tidy(manager)
    assert manager.statistics().oldest_sequence == 1
    change(manager, GroupChange(IDLE, is_removed=True), GroupChange(3, is_removed=True))
    busy.churn(20)
    tidy(manager)
    assert manager.statistics().oldest_sequence > 1
    assert len(sequences(files)) < 6
    manager.close()


def test_cold_record_that_cannot_be_read_does_not_end_the_manager() -> None:
    files, manager = on_fake_disk(tail_bytes_max=0)
    append(manager, IDLE, entries(1, 3))
    busy = Busy(manager)
    busy.append(200)
    busy.compact()
    files.fail("pread", 1, EIO, times=1000)
    busy.append(3)
    append(manager, 3, entries(1, 9))
    files.clear_failures()
    assert all_entries(log_of(manager, IDLE)) == entries(1, 3)
    manager.close()


# Any history.


class Model:
    """What a group must show."""

    def __init__(self) -> None:
        self.base = 0
        self.entries: dict[int, Entry] = {}
        self.state = HardState()

    @property
    def last_index(self) -> int:
        return max(self.entries, default=self.base)


def check(manager: SegmentManager, models: dict[int, Model]) -> None:
    assert (manager.damaged, manager.shard_damage) == ({}, None)
    for group, model in models.items():
        log = log_of(manager, group)
        assert (log.first_index(), log.last_index()) == (model.base + 1, model.last_index)
        assert all_entries(log) == [model.entries[index] for index in sorted(model.entries)]
        assert log.initial_state()[0] == model.state


def step(draw: random.Random, manager: SegmentManager, models: dict[int, Model]) -> None:
    """One random job of one group; small numbers are busy, great ones idle."""
    group = min(draw.randint(1, 12), draw.randint(1, 12))
    model = models.setdefault(group, Model())
    term = max(1, model.state.term + (draw.random() < 0.1))
    kind = draw.random()
    if kind < 0.7:
        first = max(model.state.commit + 1, model.last_index + 1 - draw.choice([0, 0, 0, 2]))
        size = draw.choice([0, 10, 300, 300, 3000])
        added = [
            entry(index, term, b"%d." % index + b"p" * size)
            for index in range(first, first + draw.randint(1, 4))
        ]
        model.entries = {i: e for i, e in model.entries.items() if i < first}
        model.entries |= {one.index: one for one in added}
        commit = draw.randint(model.state.commit, model.last_index)
        model.state = HardState(term, 0, commit)
        append(manager, group, added, model.state)
    elif kind < 0.93:
        commit = model.state.commit
        if commit <= model.base:
            return
        base = draw.randint(model.base, commit)
        snapshot = (commit, model.entries[commit].term)
        change(manager, GroupChange(group, (commit, MEMBERSHIP), snapshot, base))
        model.entries = {i: e for i, e in model.entries.items() if i > base}
        model.base = base
    elif kind < 0.97:
        snapshot_ = Snapshot(model.state.commit + draw.randint(1, 9), term, MEMBERSHIP)
        model.state = HardState(term, 0, snapshot_.index)
        write(manager, GroupWrite(group, HardState(term, 0, 0), (), snapshot_))
        model.base, model.entries = snapshot_.index, {}
    else:
        change(manager, GroupChange(group, is_removed=True))
        del models[group]


@pytest.mark.parametrize("seed", range(6))
def test_contents_are_those_of_a_model_over_any_churn_and_any_restart(seed: int) -> None:
    draw = random.Random(seed)
    files, manager = on_fake_disk(tail_bytes_max=draw.choice([0, 2000]))
    models: dict[int, Model] = {}
    for number in range(1200):
        step(draw, manager, models)
        if draw.random() < 0.7:
            do_chores(manager)
        if draw.random() < 0.01:
            check(manager, models)
            manager = reopened(files, manager)
            check(manager, models)
        if number % 300 == 299:
            tidy(manager)
            now = manager.statistics()
            assert now.disk_bytes <= 2 * now.live_bytes + 3 * SEGMENT_BYTES
            check(manager, models)
            if draw.random() < 0.5:
                for name in files.names(files.base / "wal"):
                    if name.endswith(".index"):
                        files.unlink(files.base / "wal" / name)
    now = manager.statistics()
    assert now.oldest_sequence > 3
    manager = reopened(files, manager)
    assert manager.statistics().live_bytes == now.live_bytes
    assert [group for group in manager.groups() if group in models] == sorted(models)
    manager.close()
