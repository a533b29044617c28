"""Tests of rafter_storage.resharding: nothing is lost when the number of shards changes."""

import errno
import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from rafter_core.entries import Entry, HardState
from rafter_core.membership import Membership
from rafter_core.snapshot import Snapshot
from rafter_storage.data_directory import DataDirectory
from rafter_storage.errors import DataDirectoryError
from rafter_storage.file_system import REAL_FILE_SYSTEM, FileSystem
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.identity import Identity
from rafter_storage.resharding import Progress, settle_layout
from rafter_storage.segment import segment_path
from rafter_storage.segment_manager import GroupChange, GroupWrite, SegmentManager
from tests.storage.fake_file_system import Crashed, CrashMode, FakeFileSystem
from tests.storage.fake_support import once_per_disk
from tests.storage.support import SEGMENT_BYTES, all_entries, entries, entry

Contents = dict[int, tuple[HardState, GroupMetadata, list[Entry]]]

MEMBERS = Membership((1, 2, 3))
GROWN = Membership((1, 2, 3, 4))
SPACE = {errno.ENOSPC, errno.EDQUOT}


def place(group: int, shards: int) -> int:
    return group % shards


def start(
    path: Path,
    shards: int,
    files: FileSystem = REAL_FILE_SYSTEM,
    report: Callable[[Progress], None] = lambda _: None,
) -> Identity:
    """What a node does before it forks its shards."""
    directory = DataDirectory.acquire(path, files=files)
    try:
        identity = Identity.load_or_create(
            directory, cluster_name="demo", node_id=1, groups=9, replication=1
        )
        return settle_layout(
            directory, identity, shards, place=place, segment_bytes=SEGMENT_BYTES, report=report,
            draw=itertools.count(1).__next__,
        )  # fmt: skip
    finally:
        directory.release()


def open_shard(path: Path, identity: Identity, shard: int, files: FileSystem) -> SegmentManager:
    manager = SegmentManager(
        path / f"shards-{identity.layout:05d}" / f"{shard:05d}",
        segment_bytes=SEGMENT_BYTES,
        spares_max=0,
        files=files,
    )
    manager.open()
    return manager


def write(
    manager: SegmentManager, *writes: GroupWrite, changes: tuple[GroupChange, ...] = ()
) -> None:
    job = manager.begin(writes, changes)
    job.run()
    manager.complete(job)


def contents(path: Path, identity: Identity, files: FileSystem = REAL_FILE_SYSTEM) -> Contents:
    """Read everything that a node has, shard by shard, each group in its place."""
    found: Contents = {}
    for shard in range(identity.shards):
        manager = open_shard(path, identity, shard, files)
        assert not manager.damaged
        for group in manager.groups():
            assert place(group, identity.shards) == shard
            log = manager.group_log(group, MEMBERS)
            state = log.initial_state()[0]
            found[group] = (state, manager.metadata(group), all_entries(log))
        manager.close()
    return found


def present(path: Path, files: FileSystem) -> tuple[Identity, Contents]:
    """Read whichever layout is valid, as it is found."""
    directory = DataDirectory.acquire(path, files=files)
    identity = Identity.load_or_create(
        directory, cluster_name="demo", node_id=1, groups=9, replication=1
    )
    directory.release()
    return identity, contents(path, identity, files)


BIG = [entry(index, 5, bytes(20_000)) for index in range(1, 9)]

MODEL: Contents = {
    # several terms, committed in part
    0: (HardState(4, 2, 3), GroupMetadata(), [*entries(1, 2), *entries(3, 5, term=4)]),
    # nothing but a vote
    1: (HardState(7, 3, 0), GroupMetadata(), []),
    # nothing but a membership
    2: (HardState(), GroupMetadata(memberships=((0, GROWN),)), []),
    # a log that was compacted
    3: (
        HardState(2, 0, 8),
        GroupMetadata(6, 2, ((3, GROWN),), 7, 2),
        entries(7, 9, term=2),
    ),
    # a snapshot was installed and nothing came after it
    4: (HardState(9, 1, 50), GroupMetadata(50, 8, ((50, GROWN),), 50, 8), []),
    # a suffix was replaced
    5: (HardState(3, 0, 1), GroupMetadata(), [*entries(1, 2), *entries(3, 3, term=3)]),
    # larger than one job
    6: (HardState(5, 1, 8), GroupMetadata(), BIG),
    # installed, and went on
    7: (HardState(3, 0, 22), GroupMetadata(20, 2, ((20, MEMBERS),), 20, 2), entries(21, 24, 3)),
}


def fill(path: Path, files: FileSystem) -> Identity:
    """Make a node of two shards with the contents of MODEL, which grew as a node's do."""
    identity = start(path, 2, files)
    even, odd = (open_shard(path, identity, shard, files) for shard in range(2))
    state = HardState
    write(even, GroupWrite(0, state(1, 1, 0), entries(1, 4)), GroupWrite(6, state(5, 1, 0), BIG))
    write(even, GroupWrite(0, state(4, 2, 3), entries(3, 5, term=4)), GroupWrite(6, state(5, 1, 8)))
    write(even, GroupWrite(8, state(1, 1, 0), entries(1, 3)))
    installed = Snapshot(50, 8, GROWN)
    write(
        even,
        GroupWrite(4, state(9, 1, 50), snapshot=installed),
        changes=(GroupChange(2, membership=(0, GROWN)), GroupChange(8, is_removed=True)),
    )
    write(odd, GroupWrite(1, state(7, 3, 0)), GroupWrite(3, state(2, 0, 8), entries(1, 9, term=2)))
    write(odd, GroupWrite(5, state(1, 0, 1), entries(1, 4)))
    write(odd, GroupWrite(5, state(3, 0, 1), entries(3, 3, term=3)))
    write(
        odd,
        GroupWrite(7, state(2, 0, 20), snapshot=Snapshot(20, 2, MEMBERS)),
        changes=(
            GroupChange(3, membership=(3, GROWN)),
            GroupChange(3, snapshot=(7, 2), compact_to=6),
        ),
    )
    write(odd, GroupWrite(7, state(3, 0, 22), entries(21, 24, term=3)))
    odd.group_log(9, MEMBERS)
    even.close()
    odd.close()
    assert contents(path, identity, files) == MODEL
    return identity


@pytest.fixture
def filled() -> FakeFileSystem:
    files = FakeFileSystem(is_journaled=False)
    fill(files.base / "n1", files)
    files.settle()
    return files


def clone(files: FakeFileSystem) -> FakeFileSystem:
    return files.crash(CrashMode.KEPT)


def test_logs_follow_the_number_of_shards_up_and_down(tmp_path: Path) -> None:
    path = tmp_path / "n1"
    first = fill(path, REAL_FILE_SYSTEM)
    for layout, shards in enumerate((3, 1, 64, 2), 2):
        identity = start(path, shards)
        assert identity == first._replace(layout=layout, shards=shards)
        assert [below.name for below in path.glob("shards-*")] == [f"shards-{layout:05d}"]
        assert contents(path, identity) == MODEL
        assert start(path, shards) == identity


def test_logs_go_on_where_they_were(filled: FakeFileSystem) -> None:
    path = filled.base / "n1"
    identity = start(path, 3, filled)
    manager = open_shard(path, identity, 0, filled)
    write(
        manager,
        GroupWrite(3, HardState(3, 1, 9), entries(10, 11, term=3)),
        GroupWrite(6, HardState(6, 2, 8)),
    )
    manager.close()
    found = contents(path, start(path, 1, filled), filled)
    before = MODEL[3]
    assert found[3] == (HardState(3, 1, 9), before[1], [*before[2], *entries(10, 11, term=3)])
    assert found[6] == (HardState(6, 2, 8), MODEL[6][1], BIG)
    assert {group: found[group] for group in found if group not in (3, 6)} == {
        group: MODEL[group] for group in MODEL if group not in (3, 6)
    }


def test_shards_without_groups_have_a_segment_too(filled: FakeFileSystem) -> None:
    identity = start(filled.base / "n1", 64, filled)
    for shard in range(64):
        wal = filled.base / f"n1/shards-00002/{shard:05d}/wal"
        assert filled.names(wal)[0] == segment_path(wal, 1).name
    assert contents(filled.base / "n1", identity, filled) == MODEL


def test_many_small_groups_share_the_jobs(tmp_path: Path) -> None:
    identity = start(tmp_path / "n1", 1)
    manager = open_shard(tmp_path / "n1", identity, 0, REAL_FILE_SYSTEM)
    write(manager, *(GroupWrite(group, HardState(1, 2, 0)) for group in range(100)))
    manager.close()
    reports: list[Progress] = []
    identity = start(tmp_path / "n1", 2, report=reports.append)
    assert contents(tmp_path / "n1", identity) == dict.fromkeys(
        range(100), (HardState(1, 2, 0), GroupMetadata(), [])
    )
    assert 4 <= len(reports) < 10


def test_node_that_never_ran_changes_its_number_too(tmp_path: Path) -> None:
    start(tmp_path / "n1", 2)
    identity = start(tmp_path / "n1", 3)
    assert (identity.shards, identity.layout) == (3, 2)
    assert contents(tmp_path / "n1", identity) == {}


def test_progress_is_reported_and_jobs_are_bounded(filled: FakeFileSystem) -> None:
    reports: list[Progress] = []
    start(filled.base / "n1", 3, filled, reports.append)
    assert reports[-1].groups_done == reports[-1].groups_total == len(MODEL)
    assert reports == sorted(reports)
    assert len(reports) > 8
    assert all(report.bytes_total > 8 * 20_000 for report in reports)
    steps = [after.bytes_done - before.bytes_done for before, after in itertools.pairwise(reports)]
    assert max(steps) < 2 * 20_000


def test_what_is_left_of_other_layouts_goes_at_any_start(filled: FakeFileSystem) -> None:
    path = filled.base / "n1"
    for layout in (2, 7):
        filled.make_directory(path / f"shards-{layout:05d}")
        filled.make_directory(path / f"shards-{layout:05d}/00000")
    filled.make_directory(path / "shards-of-mine")
    filled.fail("remove_directory", 1, errno.EIO)
    identity = start(path, 2, filled)
    assert "shards-00007" in filled.names(path)
    assert start(path, 2, filled) == identity
    assert filled.names(path) == ["identity", "lock", "shards-00001", "shards-of-mine", "snapshots"]
    assert contents(path, identity, filled) == MODEL


def test_tree_in_the_way_that_cannot_be_removed_is_named(filled: FakeFileSystem) -> None:
    filled.make_directory(filled.base / "n1/shards-00002")
    filled.fail("remove_directory", 1, errno.EIO, times=2)
    with pytest.raises(DataDirectoryError, match="shards-00002 is in the way: remove it"):
        start(filled.base / "n1", 3, filled)
    assert start(filled.base / "n1", 3, filled).shards == 3


# ---- crashes and failures ------------------------------------------------------------------------


def operations_of_change(filled: FakeFileSystem, shards: int) -> int:
    files = clone(filled)
    start(files.base / "n1", shards, files)
    return files.operations


@pytest.mark.parametrize("shards", [3, 1])
def test_crash_at_any_operation_loses_nothing_and_the_next_start_succeeds(
    filled: FakeFileSystem, shards: int
) -> None:
    path = filled.base / "n1"
    modes = itertools.cycle(CrashMode)
    # Crashes leave few different disks: the same until the next sync, and the same in many modes.
    read = once_per_disk(lambda left: present(path, left))
    go_on = once_per_disk(lambda left: next_start(path, shards, left))
    switched = []
    for stop_at in range(1, operations_of_change(filled, shards) + 1):
        files = clone(filled)
        files.stop_at = stop_at
        with pytest.raises((Crashed, DataDirectoryError)):
            start(path, shards, files)
        assert files.has_stopped
        layouts = set()
        for mode in CrashMode:
            left = files.crash(mode, random.Random(stop_at))
            identity, found = read(left)
            assert found == MODEL, f"{mode} before operation {stop_at}"
            layouts.add(identity.layout)
        left = files.crash(next(modes), random.Random(stop_at))
        identity = go_on(left)
        assert (identity.shards, identity.layout) == (shards, 2)
        switched.append(layouts)
    # First the old layout alone, then either while the name is not synced, then the new one alone.
    steps = [key for key, _ in itertools.groupby(switched)]
    assert steps == [{1}, {1, 2}, {2}]


def next_start(path: Path, shards: int, left: FakeFileSystem) -> Identity:
    """Start after a crash. Also the work of this start is durable, and the rubbish is gone."""
    identity = start(path, shards, left)
    left = left.crash(CrashMode.LOST)
    assert [name for name in left.names(path) if name.startswith("shards-")] == [
        f"shards-{identity.layout:05d}"
    ]
    assert present(path, left) == (identity, MODEL)
    return identity


def test_process_killed_at_any_operation_and_then_a_power_cut_lose_nothing(
    filled: FakeFileSystem,
) -> None:
    path = filled.base / "n1"
    read = once_per_disk(lambda left: present(path, left))
    for stop_at in range(1, operations_of_change(filled, 3) + 1):
        files = clone(filled)
        files.stop_at = stop_at
        with pytest.raises((Crashed, DataDirectoryError)):
            start(path, 3, files)
        # The process is gone, the machine is not: what was not synced still is not.
        files.stop_at = None
        identity = start(path, 3, files)
        assert read(files.crash(CrashMode.LOST)) == (identity, MODEL)


def test_crash_of_the_second_attempt_loses_nothing_either(filled: FakeFileSystem) -> None:
    path = filled.base / "n1"
    count = operations_of_change(filled, 3)
    draw = random.Random(1)
    read = once_per_disk(lambda files: present(path, clone(files)))
    for _ in range(60):
        files = clone(filled)
        while True:
            files.stop_at = draw.randrange(1, count + 20)
            try:
                identity = start(path, draw.choice([2, 3, 4]), files)
            except (Crashed, DataDirectoryError):
                assert files.has_stopped
            if not files.has_stopped:
                break
            files = files.crash(draw.choice(list(CrashMode)), draw)
        assert read(files) == (identity, MODEL)


@pytest.mark.parametrize(
    "method",
    ["open", "pwritev", "pread", "allocate", "sync_data", "sync_directory", "make_directory",
     "rename", "size", "names", "status", "free_bytes"],
)  # fmt: skip
def test_any_failing_call_leaves_the_old_or_the_new_logs_valid(
    filled: FakeFileSystem, method: str
) -> None:
    path = filled.base / "n1"
    whole = clone(filled)
    whole.is_journaled = True
    start(path, 3, whole)
    # Most failures leave the same disk behind them: nothing of the new logs. And no lock is held.
    try_again = once_per_disk(lambda files: starts_after_failure(path, files))
    read = once_per_disk(lambda files: present(path, clone(files)))
    failures = 0
    for nth in range(1, len(whole.calls(method)) + 1):
        files = clone(filled)
        files.fail(method, nth, errno.EIO)
        try:
            identity = start(path, 3, files)
        except DataDirectoryError:
            failures += 1
            files.clear_failures()
            assert not files._opened
            try_again(files)
            continue
        files.clear_failures()
        assert not files._opened
        assert read(files) == (identity, MODEL)
    assert failures


def starts_after_failure(path: Path, files: FakeFileSystem) -> None:
    """Hold what is valid after a failed start against the model, and start again."""
    found, held = present(path, clone(files))
    assert held == MODEL
    # A start with the old number goes on as before, one with the new one tries again.
    assert contents(path, start(path, found.shards, clone(files)), clone(files)) == MODEL
    identity = start(path, 3, files)
    assert contents(path, identity, files) == MODEL


def test_failed_change_takes_its_half_made_logs_away(filled: FakeFileSystem) -> None:
    filled.fail("sync_data", 5, errno.EIO)
    with pytest.raises(DataDirectoryError) as caught:
        start(filled.base / "n1", 3, filled)
    assert "node.shards cannot change from 2 to 3: " in str(caught.value)
    assert "nothing was changed; node.shards = 2 starts the node as before" in str(caught.value)
    assert filled.status(filled.base / "n1/shards-00002") is None


def test_disk_without_room_for_a_copy_is_refused_before_anything_is_made(
    filled: FakeFileSystem,
) -> None:
    path = filled.base / "n1"
    filled.capacity_bytes = filled._used_bytes + 4 * SEGMENT_BYTES
    with pytest.raises(
        DataDirectoryError, match=r"takes about (\d+) bytes below .*n1, and \d+ are"
    ):
        start(path, 3, filled)
    assert filled.status(path / "shards-00002") is None
    assert present(path, filled)[1] == MODEL
    filled.capacity_bytes = None
    assert contents(path, start(path, 3, filled), filled) == MODEL


@pytest.mark.parametrize("number", sorted(SPACE))
@pytest.mark.parametrize("nth", range(1, 6))
def test_disk_that_fills_up_meanwhile_is_told_how_much_it_takes(
    filled: FakeFileSystem, number: int, nth: int
) -> None:
    path = filled.base / "n1"
    filled.fail("allocate", nth, number)
    with pytest.raises(DataDirectoryError, match=r"; the copy of the logs takes about [1-9]"):
        start(path, 3, filled)
    assert filled.status(path / "shards-00002") is None
    assert present(path, clone(filled))[1] == MODEL
    identity = start(path, 3, filled)
    assert contents(path, identity, filled) == MODEL


# ---- damage --------------------------------------------------------------------------------------


def segment_with(files: FakeFileSystem, shard: int, needle: bytes) -> Path:
    wal = files.base / f"n1/shards-00001/{shard:05d}/wal"
    return next(
        path for path in files.paths() if wal in path.parents and needle in files.contents(path)
    )


def flip(files: FakeFileSystem, shard: int, needle: bytes) -> Path:
    path = segment_with(files, shard, needle)
    files.flip_bit(path, files.contents(path).index(needle), 0)
    return path


@pytest.mark.parametrize(("shard", "group"), [(0, 0), (1, 5)])
def test_damaged_group_is_named_and_nothing_is_changed(
    filled: FakeFileSystem, shard: int, group: int
) -> None:
    path = flip(filled, shard, b"1/1")
    with pytest.raises(DataDirectoryError, match=f"group {group} is affected") as caught:
        start(filled.base / "n1", 3, filled)
    assert str(path) in str(caught.value)
    assert "node.shards = 2 starts the node as before" in str(caught.value)
    assert start(filled.base / "n1", 2, filled).layout == 1
    assert filled.status(filled.base / "n1/shards-00002") is None


def test_damaged_shard_is_named_and_nothing_is_changed(filled: FakeFileSystem) -> None:
    flip(filled, 1, b"RAFTRWAL")
    with pytest.raises(DataDirectoryError, match="every group of this shard is affected"):
        start(filled.base / "n1", 3, filled)
    assert start(filled.base / "n1", 2, filled).layout == 1


def test_damage_that_appears_only_when_entries_are_read_is_found(filled: FakeFileSystem) -> None:
    def rot(path: Path, _offset: int, data: bytes) -> bytes:
        is_one_record = path == segment and len(data) < 1000
        return data.replace(b"1/1", b"1/7") if is_one_record else data

    segment = segment_with(filled, 0, b"1/1")
    filled.read_hook = rot
    with pytest.raises(DataDirectoryError, match="group 0 is affected"):
        start(filled.base / "n1", 3, filled)
    filled.read_hook = None
    assert contents(filled.base / "n1", start(filled.base / "n1", 3, filled), filled) == MODEL


def test_new_logs_that_do_not_read_as_they_were_written_are_never_switched_to(
    filled: FakeFileSystem,
) -> None:
    def rot(path: Path, _offset: int, data: bytes) -> bytes:
        return data.replace(b"1/1", b"1/7") if "shards-00002" in path.parts else data

    filled.read_hook = rot
    with pytest.raises(DataDirectoryError, match=r"shards cannot change from 2 to 3: the copy"):
        start(filled.base / "n1", 3, filled)
    filled.read_hook = None
    assert present(filled.base / "n1", filled)[1] == MODEL


def test_new_logs_that_have_lost_something_are_never_switched_to(filled: FakeFileSystem) -> None:
    def lose(path: Path, offset: int, data: bytes) -> bytes:
        if "shards-00002" not in path.parts:
            return data
        kept = max(4096 - offset, 0)
        return data[:kept] + bytes(len(data[kept:]))

    filled.read_hook = lose
    with pytest.raises(DataDirectoryError, match=r"copy of group 0 has the hard state .* expec"):
        start(filled.base / "n1", 9, filled)
    filled.read_hook = None
    assert present(filled.base / "n1", filled)[1] == MODEL


def test_group_in_the_wrong_shard_is_refused(filled: FakeFileSystem) -> None:
    path = filled.base / "n1"
    identity, _ = present(path, filled)
    manager = open_shard(path, identity, 1, filled)
    write(manager, GroupWrite(2, HardState(1, 1, 0), entries(1, 1)))
    manager.close()
    with pytest.raises(DataDirectoryError, match="00001/wal has the group 2, whose place is in sh"):
        start(path, 3, filled)


def test_change_leaves_snapshots_and_other_files_alone(tmp_path: Path) -> None:
    path = tmp_path / "n1"
    fill(path, REAL_FILE_SYSTEM)
    (path / "snapshots/00000000000000000003").mkdir(mode=0o700)
    descriptor = os.open(path / "snapshots/00000000000000000003/x", os.O_CREAT, 0o600)
    os.close(descriptor)
    (path / "notes").touch()
    start(path, 5)
    assert (path / "snapshots/00000000000000000003/x").exists()
    assert (path / "notes").exists()
