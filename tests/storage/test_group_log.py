"""Tests of rafter_storage.group_log, and the model test of the whole log store."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rafter_core.entries import Entry, HardState, limit_bytes
from rafter_core.errors import Compacted, Unavailable
from rafter_core.serializer import pack_entries
from rafter_core.storage import LogStorage
from rafter_storage.errors import CorruptionError
from rafter_storage.group_log import GroupLog
from rafter_storage.record import encode_prefix
from rafter_storage.segment import SegmentHeader, encode_header, segment_path
from rafter_storage.segment_manager import GroupWrite, SegmentManager, WriteJob
from tests.storage.support import (
    MEMBERSHIP,
    UNLIMITED,
    FaultyFiles,
    UnsyncedFiles,
    abandon,
    all_entries,
    append,
    entries,
    entry,
    log_of,
    open_manager,
    segment_files,
)


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


def test_record_that_is_not_what_the_index_expects_is_corruption(tmp_path: Path) -> None:
    # A valid record whose body holds other entries than its prefix says: no checksum sees it.
    (tmp_path / "wal").mkdir()
    header = SegmentHeader(1, 12345, 0, 0, 1 << 16)
    body = pack_entries(entries(1, 2))
    prefix = encode_prefix(12345, 4096, 0, 1, HardState(1, 1, 0), entries(1, 3), body)
    image = encode_header(header) + prefix + body
    segment_path(tmp_path / "wal", 1).write_bytes(image.ljust(1 << 16, b"\0"))
    manager = open_manager(tmp_path)
    with pytest.raises(CorruptionError, match="holds the entries 1 to 2, the index expects 1 to 3"):
        all_entries(log_of(manager, 1))
    manager.close()


GROUPS = (1, 2, 5)


class Model:
    """What a group's log must say."""

    def __init__(self) -> None:
        self.state = HardState()
        self.log: list[Entry] = []

    def copy(self) -> "Model":
        other = Model()
        other.state, other.log = self.state, list(self.log)
        return other


class LogStore(RuleBasedStateMachine):
    """Any sequence of jobs, overlaps, restarts and kills equals plain lists.

    ``begun`` is the model with every begun write, ``complete`` with every complete one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="rafter-test-"))
        self.jobs: list[tuple[WriteJob, dict[int, Model]]] = []
        self.begun = {group: Model() for group in GROUPS}
        self.complete = {group: Model() for group in GROUPS}

    @initialize(tail_bytes_max=st.sampled_from([0, 2000, 1 << 20]))
    def start(self, tail_bytes_max: int) -> None:
        self.tail_bytes_max = tail_bytes_max
        self._open()

    def _open(self) -> None:
        self.manager: SegmentManager = open_manager(
            self.directory, UnsyncedFiles(), self.tail_bytes_max
        )
        self.logs: dict[int, GroupLog] = {g: log_of(self.manager, g) for g in GROUPS}

    @rule(
        writes=st.lists(
            st.tuples(
                st.sampled_from(GROUPS),
                st.integers(0, 12),  # how far back the entries begin
                st.lists(st.sampled_from([0, 1, 50, 9000]), max_size=4),  # payload sizes
                st.integers(0, 2),  # by how much the term grows
                st.integers(0, 3),  # by how much the commit index grows
                st.booleans(),  # whether the vote is cast
            ),
            max_size=4,
        )
    )
    def begin(self, writes: list[tuple[int, int, list[int], int, int, bool]]) -> None:
        job = []
        for group, back, sizes, term_step, commit_step, has_vote in writes:
            model = self.begun[group]
            term = max(1, model.state.term + term_step)
            vote = model.state.vote if term == model.state.term else 0
            first = max(model.state.commit + 1, len(model.log) + 1 - back)
            added = [
                entry(first + position, term, b"%d." % term * size)
                for position, size in enumerate(sizes)
            ]
            if added:
                model.log[first - 1 :] = added
            commit = min(len(model.log), model.state.commit + commit_step)
            state = HardState(term, vote or (1 if has_vote else 0), commit)
            job.append(GroupWrite(group, None if state == model.state else state, added))
            model.state = state
        copies = {group: model.copy() for group, model in self.begun.items()}
        self.jobs.append((self.manager.begin(job), copies))

    @precondition(lambda self: self.jobs)
    @rule()
    def run_and_complete(self) -> None:
        job, self.complete = self.jobs.pop(0)
        job.run()
        self.manager.complete(job)

    @rule(is_clean=st.booleans())
    def restart(self, is_clean: bool) -> None:
        # Jobs that never ran are lost, as in a crash.
        self.jobs.clear()
        self.begun = {group: model.copy() for group, model in self.complete.items()}
        self.manager.close() if is_clean else abandon(self.manager)
        self._open()

    @rule(group=st.sampled_from(GROUPS), data=st.data())
    def read(self, group: int, data: st.DataObject) -> None:
        stored = self.complete[group].log
        if stored:
            low = data.draw(st.integers(1, len(stored)))
            high = data.draw(st.integers(low + 1, len(stored) + 1))
            bytes_max = data.draw(st.integers(0, 30_000))
            expected = limit_bytes(stored[low - 1 : high - 1], bytes_max)
            assert self.logs[group].entries(low, high, bytes_max) == expected

    @invariant()
    def logs_equal_the_model(self) -> None:
        for group, log in getattr(self, "logs", {}).items():
            model = self.complete[group]
            assert log.initial_state()[0] == model.state
            assert log.last_index() == len(model.log)
            assert all_entries(log) == model.log
            assert [log.term(i + 1) for i in range(len(model.log))] == [e.term for e in model.log]

    def teardown(self) -> None:
        if hasattr(self, "manager"):
            self.manager.close()
        shutil.rmtree(self.directory)


TestLogStore = LogStore.TestCase
TestLogStore.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def test_log_spreads_over_files_without_a_trace_in_what_is_read(tmp_path: Path) -> None:
    manager = open_manager(tmp_path, tail_bytes_max=0)
    stored = [entry(index, payload=b"%04d" % index * 2000) for index in range(1, 41)]
    for one in stored:
        append(manager, 1, [one])
    assert len(segment_files(tmp_path)) > 4
    assert all_entries(log_of(manager, 1)) == stored
    manager.close()
