"""Tests of rafter_storage.group_log, and the model test of the whole log store."""

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rafter_core.entries import Entry, HardState, limit_bytes
from rafter_core.errors import Compacted, SnapshotUnavailable, Unavailable
from rafter_core.membership import Membership
from rafter_core.serializer import pack_entries
from rafter_core.snapshot import Snapshot
from rafter_core.storage import LogStorage
from rafter_storage.errors import CorruptionError
from rafter_storage.group_log import GroupLog
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.record import RecordKind, encode_prefix
from rafter_storage.segment import SegmentHeader, encode_header, segment_path
from rafter_storage.segment_manager import GroupChange, GroupWrite, SegmentManager, WriteJob
from tests.storage.fake_file_system import FakeFileSystem
from tests.storage.support import (
    MEMBERSHIP,
    UNLIMITED,
    FaultyFiles,
    abandon,
    all_entries,
    append,
    change,
    do_chores,
    entries,
    entry,
    log_of,
    open_manager,
    segment_files,
    write,
)

OTHER = Membership((1, 2, 3, 4))
THIRD = Membership((2, 3, 4))


def test_group_log_is_a_log_storage(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    log: LogStorage = log_of(manager, 1)
    assert log.initial_state() == (HardState(), MEMBERSHIP)
    manager.close()


def test_empty_log_answers_as_raft_expects(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    log = log_of(manager, 3)
    assert log.group == 3
    assert (log.first_index(), log.last_index(), log.term(0)) == (1, 0, 0)
    with pytest.raises(Unavailable, match="index 1 is beyond the last index 0"):
        log.term(1)
    with pytest.raises(Unavailable):
        log.entries(1, 2, 100)
    manager.close()


def test_indexes_outside_the_log_are_compacted_or_unavailable(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    append(manager, 1, entries(1, 5))
    log = log_of(manager, 1)
    with pytest.raises(Compacted, match="index 0 is before the first index 1"):
        log.entries(0, 3, 100)
    with pytest.raises(Compacted):
        log.term(-1)
    with pytest.raises(Unavailable, match="index 6 is beyond the last index 5"):
        log.entries(3, 7, 100)
    with pytest.raises(Unavailable):
        log.term(6)
    assert log.entries(3, 3, 100) == []
    manager.close()


@pytest.mark.parametrize("tail_bytes_max", [0, 700, 1 << 20])
def test_byte_limit_cuts_alike_in_memory_and_on_disk(tmp_path: Path, tail_bytes_max: int) -> None:
    manager = open_manager(tmp_path, tail_bytes_max=tail_bytes_max)
    stored = [entry(index, payload=b"x" * (index * 7 % 23)) for index in range(1, 13)]
    for first in (1, 4, 5, 9):
        append(manager, 1, stored[first - 1 : {1: 3, 4: 4, 5: 8, 9: 12}[first]])
    log = log_of(manager, 1)
    for low in range(1, 13):
        for high in range(low + 1, 14):
            for bytes_max in range(0, 200, 11):
                expected = limit_bytes(stored[low - 1 : high - 1], bytes_max)
                assert log.entries(low, high, bytes_max) == expected
    manager.close()


def test_recent_entries_are_read_without_the_disk(tmp_path: Path) -> None:
    files = FaultyFiles()
    manager = open_manager(tmp_path, files)
    append(manager, 1, entries(1, 50))
    append(manager, 1, entries(51, 100))
    files.reset()
    log = log_of(manager, 1)
    assert log.entries(1, 101, UNLIMITED) == entries(1, 100)
    assert [log.term(index) for index in (1, 50, 100)] == [1, 1, 1]
    assert files.calls == []
    manager.close()


def test_old_entries_come_from_disk_and_go_on_in_memory(tmp_path: Path) -> None:
    files = FaultyFiles()
    manager = open_manager(tmp_path, files, tail_bytes_max=3000)
    for index in range(1, 101):
        append(manager, 1, [entry(index)])
    files.reset()
    assert log_of(manager, 1).entries(1, 101, UNLIMITED) == entries(1, 100)
    assert 50 < files.calls.count("pread") < 100
    manager.close()


def test_two_logs_of_one_group_show_the_same(tmp_path: Path) -> None:
    manager = open_manager(tmp_path)
    before = log_of(manager, 1)
    append(manager, 1, entries(1, 2))
    assert all_entries(before) == all_entries(log_of(manager, 1)) == entries(1, 2)
    manager.close()


def test_large_record_is_read_from_disk_in_portions(tmp_path: Path) -> None:
    files = FaultyFiles()
    manager = open_manager(tmp_path, files, tail_bytes_max=0)
    append(manager, 1, entries(1, 100))
    append(manager, 1, entries(101, 101))
    files.reset()
    log = log_of(manager, 1)
    found = [one for low in range(1, 100, 10) for one in log.entries(low, low + 10, UNLIMITED)]
    assert found == entries(1, 100)
    assert files.calls.count("pread") == 1
    manager.close()


def test_record_that_is_not_what_the_index_expects_is_corruption(tmp_path: Path) -> None:
    # Valid records whose bodies hold other entries than their prefixes say: no checksum sees it.
    (tmp_path / "wal").mkdir()
    header = SegmentHeader(1, 12345, 0, 0, 1 << 16, 1)
    image, chain = encode_header(header), header.seed
    for group, held in ((1, entries(1, 2)), (2, entries(2, 3))):
        body = pack_entries(held)
        prefix, chain = encode_prefix(
            header.seed,
            len(image),
            0,
            chain,
            RecordKind.ENTRIES,
            group,
            HardState(1, 1, 0),
            (1, 3, 1),
            body,
        )
        image += prefix + body + bytes(-len(body) & 7)
    segment_path(tmp_path / "wal", 1).write_bytes(image.ljust(1 << 16, b"\0"))
    manager = open_manager(tmp_path)
    for group, held_range in ((1, "1 to 2"), (2, "2 to 3")):
        message = f"holds the entries {held_range}, the index expects 1 to 3"
        with pytest.raises(CorruptionError, match=message):
            all_entries(log_of(manager, group))
    manager.close()


# Metadata.


def with_changes(manager: SegmentManager) -> None:
    """A log from 6 to 12 with the configurations of 4 and 8, and a snapshot at 7."""
    added = [*entries(1, 4, 1), *entries(5, 9, 2), *entries(10, 12, 3)]
    append(manager, 1, added, HardState(3, 0, 0))
    append(manager, 1, [], HardState(3, 0, 11))
    change(manager, GroupChange(1, membership=(0, MEMBERSHIP)))
    change(manager, GroupChange(1, membership=(4, OTHER)), GroupChange(1, snapshot=(7, 2)))
    change(manager, GroupChange(1, membership=(8, THIRD), compact_to=5))


def leave(manager: SegmentManager, *, is_clean: bool) -> None:
    if is_clean:
        manager.close()
    else:
        abandon(manager)


@pytest.mark.parametrize("is_clean", [False, True])
@pytest.mark.parametrize("is_sealed", [False, True])
@pytest.mark.parametrize("has_dump", [False, True])
def test_metadata_is_that_of_the_index_asked_for_over_any_restart(
    is_clean: bool,
    is_sealed: bool,
    has_dump: bool,
) -> None:
    files = FakeFileSystem()
    manager = open_manager(files.base, files)
    with_changes(manager)
    if is_sealed:
        for index in (1, 2, 3):
            append(manager, 2, [entry(index, payload=b"x" * 30_000)])
    for _ in range(3):
        log = log_of(manager, 1)
        assert (log.first_index(), log.last_index()) == (6, 12)
        # The base keeps its term, and what is before it is gone.
        assert [log.term(index) for index in range(5, 13)] == [2, 2, 2, 2, 2, 3, 3, 3]
        with pytest.raises(Compacted):
            log.term(4)
        with pytest.raises(Compacted, match="index 5 is before the first index 6"):
            log.entries(5, 7, 1000)
        assert log.snapshot() == Snapshot(7, 2, OTHER)
        for applied, membership in ((5, OTHER), (7, OTHER), (8, THIRD), (12, THIRD)):
            restarted = manager.group_log(1, MEMBERSHIP, applied)
            assert restarted.initial_state() == (HardState(3, 0, 11), membership)
        if has_dump:
            do_chores(manager)
        leave(manager, is_clean=is_clean)
        manager = open_manager(files.base, files, 0)
    manager.close()


def test_founding_members_hold_until_a_configuration_is_recorded() -> None:
    files = FakeFileSystem()
    manager = open_manager(files.base, files)
    append(manager, 1, entries(1, 5), HardState(1, 1, 5))
    assert log_of(manager, 1).initial_state()[1] == MEMBERSHIP
    with pytest.raises(SnapshotUnavailable, match="group 1 has no snapshot yet"):
        log_of(manager, 1).snapshot()
    change(manager, GroupChange(1, snapshot=(2, 1)))
    assert log_of(manager, 1).snapshot() == Snapshot(2, 1, MEMBERSHIP)
    change(manager, GroupChange(1, membership=(3, OTHER)))
    assert manager.group_log(1, MEMBERSHIP, 2).initial_state()[1] == MEMBERSHIP
    assert manager.group_log(1, MEMBERSHIP, 3).initial_state()[1] == OTHER
    assert log_of(manager, 1).snapshot() == Snapshot(2, 1, MEMBERSHIP)
    manager.close()


def test_who_knows_the_configuration_better_than_the_log_says_so() -> None:
    """A snapshot does, that is durable while its record is not."""
    files = FakeFileSystem()
    manager = open_manager(files.base, files)
    append(manager, 1, entries(1, 5), HardState(1, 1, 5))
    assert manager.group_log(1, MEMBERSHIP, 4, THIRD).initial_state()[1] == THIRD
    change(manager, GroupChange(1, membership=(3, OTHER)))
    assert manager.group_log(1, MEMBERSHIP, 4, THIRD).initial_state()[1] == THIRD
    assert manager.group_log(1, MEMBERSHIP, 4, None).initial_state()[1] == OTHER
    manager.close()


@pytest.mark.parametrize("has_dump", [False, True])
def test_installed_snapshot_voids_the_log_for_good(has_dump: bool) -> None:
    files = FakeFileSystem()
    manager = open_manager(files.base, files)
    append(manager, 1, entries(1, 8), HardState(1, 1, 3))
    kept = log_of(manager, 1)
    for index in (1, 2):
        append(manager, 2, [entry(index, payload=b"x" * 30_000)])
    write(manager, GroupWrite(1, HardState(4, 0, 3), entries(21, 22, 4), Snapshot(20, 3, OTHER)))
    for index in (3, 4):
        append(manager, 2, [entry(index, payload=b"x" * 30_000)])
    # A log that was handed out before shows it too.
    assert (kept.first_index(), all_entries(kept)) == (21, entries(21, 22, 4))
    for _ in range(3):
        log = log_of(manager, 1)
        assert (log.first_index(), log.last_index(), log.term(20)) == (21, 22, 3)
        assert all_entries(log) == entries(21, 22, 4)
        assert log.snapshot() == Snapshot(20, 3, OTHER)
        assert manager.group_log(1, MEMBERSHIP, 20).initial_state() == (HardState(4, 0, 20), OTHER)
        with pytest.raises(Compacted):
            log.entries(8, 9, 100)
        if has_dump:
            do_chores(manager)
        abandon(manager)
        manager = open_manager(files.base, files, 0)
    manager.close()


GROUPS = (1, 2, 5)


class Model:
    """What a group's log must say. ``log`` begins behind the metadata's base."""

    def __init__(self) -> None:
        self.state = HardState()
        self.metadata = GroupMetadata()
        self.log: list[Entry] = []

    def copy(self) -> "Model":
        other = Model()
        other.state, other.metadata, other.log = self.state, self.metadata, list(self.log)
        return other

    @property
    def base(self) -> int:
        return self.metadata.base_index

    @property
    def last_index(self) -> int:
        return self.base + len(self.log)

    def term(self, index: int) -> int:
        return self.log[index - self.base - 1].term


class LogStore(RuleBasedStateMachine):
    """Any sequence of jobs, overlaps, changes, restarts and kills equals plain lists.

    ``begun`` is the model with every begun write, ``complete`` with every complete one. Also
    reliability, item 22 (cockroach#63473): whatever is done to the log, the entries kept in memory
    are the log's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.files = FakeFileSystem(is_journaled=False)
        self.jobs: list[tuple[WriteJob, dict[int, Model]]] = []
        self.begun = {group: Model() for group in GROUPS}
        self.complete = {group: Model() for group in GROUPS}

    @initialize(tail_bytes_max=st.sampled_from([0, 2000, 1 << 20]), is_direct=st.booleans())
    def start(self, tail_bytes_max: int, is_direct: bool) -> None:
        self.tail_bytes_max = tail_bytes_max
        self.is_direct = is_direct
        self._open()

    def _open(self) -> None:
        self.manager: SegmentManager = open_manager(
            self.files.base, self.files, self.tail_bytes_max, is_direct=self.is_direct
        )
        self.logs: dict[int, GroupLog] = {g: log_of(self.manager, g) for g in GROUPS}

    def _begin(self, writes: list[GroupWrite], changes: list[GroupChange]) -> None:
        copies = {group: model.copy() for group, model in self.begun.items()}
        self.jobs.append((self.manager.begin(writes, changes), copies))

    @rule(
        writes=st.lists(
            st.tuples(
                st.sampled_from(GROUPS),
                st.integers(0, 12),  # how far back the entries begin
                st.lists(st.sampled_from([0, 1, 50, 9000]), max_size=4),  # payload sizes
                st.integers(0, 2),  # by how much the term grows
                st.integers(0, 3),  # by how much the commit index grows
                st.booleans(),  # whether the vote is cast
                st.integers(0, 3),  # how many entries are still of the term before
            ),
            max_size=4,
        )
    )
    def begin(self, writes: list[tuple[int, int, list[int], int, int, bool, int]]) -> None:
        job = []
        for group, back, sizes, term_step, commit_step, has_vote, older in writes:
            model = self.begun[group]
            term = max(1, model.state.term + term_step)
            vote = model.state.vote if term == model.state.term else 0
            first = max(model.state.commit + 1, model.last_index + 1 - back)
            older_term = max(1, model.state.term)
            added = [
                entry(
                    first + position,
                    older_term if position < older else term,
                    b"%d." % term * size,
                )
                for position, size in enumerate(sizes)
            ]
            if added:
                model.log[first - model.base - 1 :] = added
            commit = min(model.last_index, model.state.commit + commit_step)
            state = HardState(term, vote or (1 if has_vote else 0), commit)
            job.append(GroupWrite(group, None if state == model.state else state, added))
            model.state = state
        self._begin(job, [])

    @rule(group=st.sampled_from(GROUPS), step=st.integers(1, 9), count=st.integers(0, 2))
    def install(self, group: int, step: int, count: int) -> None:
        model = self.begun[group]
        index, term = model.state.commit + step, max(1, model.state.term)
        state = model.state._replace(term=term, commit=index + count)
        model.state = state
        model.metadata = GroupMetadata(index, term, ((index, OTHER),), index, term)
        model.log = entries(index + 1, index + count, term)
        snapshot = Snapshot(index, term, OTHER)
        self._begin([GroupWrite(group, state, list(model.log), snapshot)], [])

    @precondition(lambda self: not self.jobs)
    @rule(group=st.sampled_from(GROUPS), kept=st.integers(0, 3), change_at=st.integers(0, 2))
    def compact(self, group: int, kept: int, change_at: int) -> None:
        model = self.begun[group]
        commit = model.state.commit
        base = max(model.base, commit - kept)
        changes = []
        if commit > model.base:
            if base > model.base:
                base_term = model.term(base)
            else:
                base_term = model.metadata.base_term
            snapshot_index = max(commit, model.metadata.snapshot_index)
            membership = (max(base, commit - change_at), THIRD)
            snapshot = (snapshot_index, model.term(snapshot_index))
            changes.append(GroupChange(group, membership, snapshot, base))
            del model.log[: base - model.base]
            model.metadata = (
                model.metadata.with_membership(*membership)
                .with_base(base, base_term)
                ._replace(snapshot_index=snapshot[0], snapshot_term=snapshot[1])
            )
        self._begin([], changes)

    @precondition(lambda self: not self.jobs)
    @rule(group=st.sampled_from(GROUPS))
    def remove(self, group: int) -> None:
        self.begun[group] = Model()
        self._begin([], [GroupChange(group, is_removed=True)])
        self.run_and_complete()
        self.logs[group] = log_of(self.manager, group)

    @precondition(lambda self: self.jobs)
    @rule()
    def run_and_complete(self) -> None:
        job, self.complete = self.jobs.pop(0)
        job.run()
        self.manager.complete(job)

    @rule()
    def housekeep(self) -> None:
        do_chores(self.manager)

    @rule(is_clean=st.booleans(), is_direct=st.booleans(), has_dumps=st.booleans())
    def restart(self, is_clean: bool, is_direct: bool, has_dumps: bool) -> None:
        # Jobs that never ran are lost, as in a crash.
        self.jobs.clear()
        self.begun = {group: model.copy() for group, model in self.complete.items()}
        leave(self.manager, is_clean=is_clean)
        wal = self.files.base / "wal"
        for name in self.files.names(wal):
            if name.endswith(".index") and not has_dumps:
                self.files.unlink(wal / name)
        self.is_direct = is_direct
        self._open()

    @rule(group=st.sampled_from(GROUPS), data=st.data())
    def read(self, group: int, data: st.DataObject) -> None:
        model = self.complete[group]
        if model.log:
            low = data.draw(st.integers(model.base + 1, model.last_index))
            high = data.draw(st.integers(low + 1, model.last_index + 1))
            bytes_max = data.draw(st.integers(0, 30_000))
            stored = model.log[low - model.base - 1 : high - model.base - 1]
            assert self.logs[group].entries(low, high, bytes_max) == limit_bytes(stored, bytes_max)

    @invariant()
    def logs_equal_the_model(self) -> None:
        for group, log in getattr(self, "logs", {}).items():
            model = self.complete[group]
            assert log.initial_state()[0] == model.state
            assert (log.first_index(), log.last_index()) == (model.base + 1, model.last_index)
            assert all_entries(log) == model.log
            terms = [log.term(index) for index in range(model.base, model.last_index + 1)]
            assert terms == [model.metadata.base_term, *(one.term for one in model.log)]
            assert self.manager.metadata(group) == model.metadata

    @invariant()
    def memory_equals_the_log(self) -> None:
        for group, log in getattr(self, "logs", {}).items():
            model, recent = self.complete[group], log._recent
            first = max(recent.first_index, model.base + 1)
            held = recent.slice(first, model.last_index + 1)
            assert held == model.log[first - model.base - 1 :]
            assert recent.first_index + len(recent) == model.last_index + 1 or not len(recent)

    def teardown(self) -> None:
        if hasattr(self, "manager"):
            self.manager.close()


TestLogStore = LogStore.TestCase
TestLogStore.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


def test_log_spreads_over_files_without_a_trace_in_what_is_read(tmp_path: Path) -> None:
    manager = open_manager(tmp_path, tail_bytes_max=0)
    stored = [entry(index, payload=b"%04d" % index * 2000) for index in range(1, 41)]
    for one in stored:
        append(manager, 1, [one])
    assert len(segment_files(tmp_path)) > 4
    assert all_entries(log_of(manager, 1)) == stored
    manager.close()
