"""Tests of rafter_storage.log_loss, and of who asks: a lost log is never taken for a new one."""

import contextlib
import errno
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rafter_core.entries import HardState
from rafter_storage.data_directory import DataDirectory
from rafter_storage.errors import CorruptionError, DataDirectoryError, StorageError
from rafter_storage.file_system import REAL_FILE_SYSTEM, FileSystem
from rafter_storage.identity import Identity
from rafter_storage.index_dump import dump_path
from rafter_storage.log_loss import find_loss
from rafter_storage.resharding import settle_layout
from rafter_storage.segment import segment_path
from rafter_storage.segment_manager import GroupChange, GroupWrite, SegmentManager
from tests.storage.fake_file_system import Crashed, CrashMode, FakeFileSystem
from tests.storage.fake_support import once_per_disk
from tests.storage.log_on_fake_disk import large
from tests.storage.support import (
    SEGMENT_BYTES,
    append,
    do_chores,
    entries,
    open_manager,
    segment_files,
    write,
)
from tests.storage.verification_support import group_place, make_node, tree_of

WALS = [Path(f"shards-00001/{shard:05d}/wal") for shard in range(2)]


def start(path: Path, shards: int = 2, files: FileSystem = REAL_FILE_SYSTEM) -> Identity:
    """What a node does before it forks its shards."""
    directory = DataDirectory.acquire(path, files=files)
    try:
        identity = Identity.load_or_create(
            directory, cluster_name="demo", node_id=1, groups=4, replication=1
        )
        return settle_layout(
            directory, identity, shards, place=group_place, segment_bytes=SEGMENT_BYTES
        )
    finally:
        directory.release()


def raw_manager(directory: Path, files: FileSystem = REAL_FILE_SYSTEM) -> SegmentManager:
    return SegmentManager(directory, segment_bytes=SEGMENT_BYTES, spares_max=0, files=files)


@pytest.fixture
def node(tmp_path: Path) -> Path:
    path = tmp_path / "node"
    make_node(path)
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of four segments; those before the last have their indexes beside them."""
    manager = open_manager(tmp_path, spares_max=0)
    for index in range(1, 8):
        append(manager, 1, [large(index)], HardState(index, 1, index - 1))
    do_chores(manager)
    manager.close()
    assert [dump_path(tmp_path / "wal", number).exists() for number in range(1, 5)] == [
        True, True, True, False,
    ]  # fmt: skip
    return tmp_path


# ---- logs that were lost as a whole --------------------------------------------------------------


def empty(wal: Path) -> None:
    for below in wal.iterdir():
        below.unlink()


def lose_segments(wal: Path) -> None:
    for below in wal.glob("*.log"):
        below.rename(below.with_suffix(".lost"))


def lose_shard(wal: Path) -> None:
    shutil.rmtree(wal.parent)


def lose_layout(wal: Path) -> None:
    shutil.rmtree(wal.parents[1])


LOSSES = [empty, lose_segments, shutil.rmtree, lose_shard, lose_layout]


@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("shards", [2, 3])
def test_node_that_lost_a_log_is_refused_and_told_what_to_do(
    node: Path, lose: Callable[[Path], object], shards: int
) -> None:
    lose(node / WALS[0])
    left = tree_of(node / "snapshots")
    with pytest.raises(DataDirectoryError) as refused:
        start(node, shards)
    assert str(refused.value).startswith(f"{node / WALS[0]}: ")
    assert "Votes and entries of this node were there: restore them, or move" in str(refused.value)
    assert tree_of(node / "snapshots") == left
    assert not segment_files(node / WALS[0].parent)
    assert not (node / "shards-00002").exists()


@pytest.mark.parametrize("wal", WALS)
def test_log_that_is_restored_is_served_again(node: Path, tmp_path: Path, wal: Path) -> None:
    shutil.copytree(node / wal, tmp_path / "backup")
    empty(node / wal)
    with pytest.raises(DataDirectoryError, match="has no segment left"):
        start(node)
    shutil.copytree(tmp_path / "backup", node / wal, dirs_exist_ok=True)
    assert start(node).shards == 2


def test_node_that_never_wrote_anything_loses_its_log_all_the_same(tmp_path: Path) -> None:
    start(tmp_path / "n1")
    start(tmp_path / "n1")
    empty(tmp_path / "n1" / WALS[1])
    with pytest.raises(DataDirectoryError, match=f"{WALS[1]}: the log has no segment left"):
        start(tmp_path / "n1")


@pytest.mark.parametrize("lose", [empty, shutil.rmtree])
def test_lost_log_is_damage_to_the_shard_and_nothing_is_made_in_its_place(
    log: Path, lose: Callable[[Path], object]
) -> None:
    """A shard that starts again while its node runs: nobody else looks."""
    lose(log / "wal")
    before = tree_of(log)
    manager = raw_manager(log)
    manager.open()
    assert manager.shard_damage is not None
    assert manager.shard_damage.path == log / "wal"
    with pytest.raises(CorruptionError):
        manager.begin([GroupWrite(1, HardState(1, 2, 0))])
    manager.close()
    assert [*tree_of(log)] == [*before]


# ---- the newest segments alone -------------------------------------------------------------------


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_lost_newest_segment_is_known_by_the_index_of_the_one_before(log: Path, kept: int) -> None:
    for path in segment_files(log)[kept:]:
        path.unlink()
    loss = find_loss(REAL_FILE_SYSTEM, log / "wal")
    assert loss is not None
    assert loss.path == segment_path(log / "wal", 4)
    assert loss.reason.startswith("the segment is missing, though segment 3 has an index")
    manager = raw_manager(log)
    manager.open()
    assert manager.shard_damage == loss
    manager.close()


def test_node_that_lost_the_newest_segment_of_a_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "n1"
    identity = start(path, 1)
    manager = open_manager(path / WALS[0].parent, spares_max=0)
    for index in range(1, 5):
        append(manager, 1, [large(index)], HardState(index, 1, index - 1))
    do_chores(manager)
    manager.close()
    *_, newest = segment_files(path / WALS[0].parent)
    newest.rename(tmp_path / "lost")
    with pytest.raises(DataDirectoryError, match=f"{newest}: the segment is missing, though seg"):
        start(path, 1)
    (tmp_path / "lost").rename(newest)
    assert start(path, 1) == identity


def test_segments_that_are_not_needed_any_more_are_not_missed(tmp_path: Path) -> None:
    manager = open_manager(tmp_path, spares_max=0)
    for index in range(1, 8):
        append(manager, 1, [large(index)], HardState(1, 1, index - 1))
    do_chores(manager)
    write(manager, changes=[GroupChange(1, None, (6, 1), 6)])
    append(manager, 1, [large(8)], HardState(1, 1, 7))
    for _ in range(3):
        write(manager)
        do_chores(manager)
    manager.close()
    assert segment_files(tmp_path)[0] != segment_path(tmp_path / "wal", 1)
    assert find_loss(REAL_FILE_SYSTEM, tmp_path / "wal") is None


def test_index_that_outlived_its_old_segment_proves_nothing(log: Path) -> None:
    dump_path(log / "wal", 1).rename(dump_path(log / "wal", 0))
    assert find_loss(REAL_FILE_SYSTEM, log / "wal") is None


def test_no_crash_leaves_what_looks_like_a_loss() -> None:
    """A roll, the index of the sealed segment, and segments on their way out: in that order."""

    def live(files: FakeFileSystem) -> None:
        manager = raw_manager(files.base, files)
        manager.open()
        for index in range(1, 6):
            append(manager, 1, [large(index)], HardState(1, 1, index - 1))
            do_chores(manager)
        write(manager, changes=[GroupChange(1, None, (4, 1), 4)])
        for index in range(6, 9):
            append(manager, 1, [large(index)], HardState(1, 1, index - 1))
            do_chores(manager)
        manager.close()

    made = FakeFileSystem(is_journaled=False)
    raw_manager(made.base, made).create()
    whole = made.crash(CrashMode.LOST)
    live(whole)
    for stop_at in range(1, whole.operations + 1):
        files = made.crash(CrashMode.LOST)
        files.stop_at = stop_at
        with pytest.raises((Crashed, StorageError)):
            live(files)
        for mode in CrashMode:
            left = files.crash(mode, random.Random(stop_at))
            assert find_loss(left, left.base / "wal") is None, (stop_at, mode)


# ---- making logs ---------------------------------------------------------------------------------


def operations_of_first_start() -> int:
    files = FakeFileSystem(is_journaled=False)
    start(files.base / "n1", files=files)
    return files.operations


@pytest.mark.parametrize("mode", CrashMode)
def test_first_start_that_crashed_anywhere_succeeds_the_next_time(mode: CrashMode) -> None:
    go_on = once_per_disk(second_start)
    for stop_at in range(1, operations_of_first_start() + 1):
        files = FakeFileSystem(is_journaled=False)
        files.stop_at = stop_at
        with pytest.raises((Crashed, DataDirectoryError)):
            start(files.base / "n1", files=files)
        for seed in range(5):
            identity = go_on(files.crash(mode, random.Random(f"{stop_at} {seed}")))
            assert (identity.shards, identity.layout) == (2, 1)


def second_start(left: FakeFileSystem) -> Identity:
    """Start after a crash. It is durable then: another crash does not bring the first one back."""
    path = left.base / "n1"
    identity = start(path, files=left)
    left = left.crash(CrashMode.LOST)
    assert start(path, files=left) == identity
    for wal in WALS:
        manager = raw_manager(path / wal.parent, left)
        manager.open()
        assert (manager.shard_damage, manager.groups()) == (None, [])
        manager.close()
    return identity


def test_first_start_that_was_killed_anywhere_is_durable_after_the_next() -> None:
    for stop_at in range(1, operations_of_first_start() + 1):
        files = FakeFileSystem(is_journaled=False)
        path = files.base / "n1"
        files.stop_at = stop_at
        with pytest.raises((Crashed, DataDirectoryError)):
            start(path, files=files)
        # The process is gone, the machine is not: what was not synced still is not.
        files.stop_at = None
        identity = start(path, files=files)
        assert start(path, files=files.crash(CrashMode.LOST)) == identity


@pytest.mark.parametrize(
    "method",
    ["open", "pwritev", "allocate", "sync_data", "sync_directory", "make_directory", "rename",
     "names", "status", "free_bytes"],
)  # fmt: skip
def test_first_start_that_failed_at_any_call_succeeds_the_next_time(method: str) -> None:
    whole = FakeFileSystem()
    start(whole.base / "n1", files=whole)
    for nth in range(1, len(whole.calls(method)) + 1):
        files = FakeFileSystem(is_journaled=False)
        path = files.base / "n1"
        files.fail(method, nth, errno.EIO)
        # Listing what other layouts have left may fail, and the start goes on.
        with contextlib.suppress(DataDirectoryError):
            start(path, files=files)
        files.clear_failures()
        identity = start(path, files=files)
        assert start(path, files=files.crash(CrashMode.LOST)) == identity


def test_first_start_without_room_for_its_logs_is_refused_with_their_size() -> None:
    files = FakeFileSystem(is_journaled=False)
    path = files.base / "n1"
    files.capacity_bytes = SEGMENT_BYTES + SEGMENT_BYTES // 2
    with pytest.raises(DataDirectoryError) as refused:
        start(path, files=files)
    text = str(refused.value)
    assert text.startswith("the logs of this node cannot be made: this takes about ")
    assert str(2 * SEGMENT_BYTES) in text
    assert text.endswith("there is nothing to lose yet: the next start tries again")
    files.capacity_bytes = None
    assert start(path, files=files).shards == 2


def test_disk_that_fills_up_at_the_first_start_is_told_how_much_it_takes() -> None:
    files = FakeFileSystem(is_journaled=False)
    files.fail("allocate", 2, errno.ENOSPC)
    with pytest.raises(DataDirectoryError, match=f"; they take {2 * SEGMENT_BYTES} bytes"):
        start(files.base / "n1", files=files)
    assert start(files.base / "n1", files=files).shards == 2


def test_log_is_made_once(tmp_path: Path) -> None:
    manager = raw_manager(tmp_path)
    manager.create()
    before = tree_of(tmp_path / "wal")
    with pytest.raises(StorageError, match=r"there is a log in .*wal already"):
        manager.create()
    assert tree_of(tmp_path / "wal") == before
    manager.open()
    append(manager, 1, entries(1, 3))
    manager.close()


def test_log_that_cannot_be_made_says_so() -> None:
    files = FakeFileSystem()
    files.fail("allocate", 1, errno.EIO)
    manager = raw_manager(files.base, files)
    with pytest.raises(StorageError, match=r"cannot make the log in .*wal: .*Input/output"):
        manager.create()
    manager.create()
    manager.open()
    assert manager.groups() == []
    manager.close()
