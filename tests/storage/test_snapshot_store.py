"""Tests of rafter_storage.snapshot_store."""

import errno
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rafter_core.membership import Membership
from rafter_storage.errors import (
    DataDirectoryError,
    SnapshotCorrupted,
    SnapshotFailed,
    SnapshotRefused,
    StorageError,
)
from rafter_storage.file_system import REAL_FILE_SYSTEM
from rafter_storage.snapshot_directory import group_directory, published_name, temporary_name
from rafter_storage.snapshot_reader import SnapshotInfo
from rafter_storage.snapshot_store import SnapshotKind, SnapshotStore
from tests.storage.fake_file_system import Crashed, CrashMode, FakeFileSystem
from tests.storage.fake_support import once_per_disk
from tests.storage.snapshot_support import (
    GROUP,
    MEMBERSHIP,
    contents,
    manifest_of,
    open_store,
    read_all,
    receive,
    take,
)


def indexes(store: SnapshotStore, group: int = GROUP) -> list[int]:
    return [info.index for info in store.snapshots(group)]


def store_with(*taken: int) -> tuple[FakeFileSystem, SnapshotStore]:
    files = FakeFileSystem()
    store = open_store(files, files.base)
    for index in taken:
        take(store, index)
    files.settle()
    return files, store


def damage_newest(files: FakeFileSystem, store: SnapshotStore) -> SnapshotStore:
    """Break the newest manifest, and start again."""
    newest = store.newest(GROUP)
    assert newest is not None
    files.flip_bit(newest.path / "manifest", 0, 0)
    return open_store(files, files.base)


# ---- taking, listing, retaining ------------------------------------------------------------------


def test_store_without_snapshots_is_empty() -> None:
    files, store = store_with()
    assert (store.groups(), store.snapshots(GROUP), store.newest(GROUP)) == ([], [], None)
    assert (store.oldest_retained_index(GROUP), store.compactable_index(GROUP)) == (0, 0)
    store.retire(GROUP).run()
    store.remove_group(GROUP).run()
    assert open_store(files, files.base).groups() == []


def test_snapshots_are_found_again() -> None:
    files, store = store_with(10, 20)
    take(store, 5, {}, group=1 << 60)
    again = open_store(files, files.base)
    assert again.groups() == [GROUP, 1 << 60]
    assert again.snapshots(GROUP) == store.snapshots(GROUP)
    assert again.open([GROUP]) == {GROUP: store.snapshots(GROUP)}
    for info in again.snapshots(GROUP):
        with again.read(info) as reader:
            assert b"".join(reader.chunks("state")) == contents(info.index)["state"]
        assert again.verify(info) == []


def test_shard_opens_its_own_groups_alone() -> None:
    files, store = store_with(10)
    take(store, 5, group=8)
    other = store.begin(GROUP, 20, 3, MEMBERSHIP, 4)
    other.write("state", b"half")
    second = SnapshotStore(store.root, files=files)
    second.open([8, 9])
    assert second.groups() == [8]
    other.write("state", b"whole")
    other.finish()
    assert indexes(store) == [10]
    store.admit(other)
    assert indexes(store) == [10, 20]


def test_retention_keeps_two_and_the_log_back_to_the_older_one() -> None:
    """The log is needed from the oldest retained snapshot on (item 28)."""
    files, store = store_with()
    for index, oldest, compactable in [(10, 10, 0), (20, 10, 10), (30, 20, 20), (40, 30, 30)]:
        take(store, index)
        assert store.oldest_retained_index(GROUP) == oldest
        assert store.compactable_index(GROUP) == compactable
        store.retire(GROUP).run()
        assert indexes(store)[0] == oldest
    assert indexes(store) == [30, 40]
    assert indexes(open_store(files, files.base)) == [30, 40]
    assert files.names(group_directory(store.root, GROUP)) == [
        published_name(30),
        published_name(40),
    ]


def test_the_oldest_snapshot_that_is_read_is_known() -> None:
    _, store = store_with()
    first, second = take(store, 10), take(store, 20)
    assert store.oldest_read_index(GROUP) is None
    readers = [store.read(info) for info in (second, first, first)]
    assert store.oldest_read_index(GROUP) == 10
    assert store.oldest_read_index(GROUP + 1) is None
    readers[1].close()
    assert store.oldest_read_index(GROUP) == 10
    readers[2].close()
    assert store.oldest_read_index(GROUP) == 20
    readers[0].close()
    assert store.oldest_read_index(GROUP) is None


@pytest.mark.parametrize("retained", [1, 2, 3])
def test_newest_is_always_kept(retained: int) -> None:
    files = FakeFileSystem()
    store = open_store(files, files.base, retained)
    for index in (10, 20, 30, 40):
        take(store, index)
    removal = store.retire(GROUP)
    assert indexes(store) == [10, 20, 30, 40][-retained:]
    assert len(removal.paths) == 4 - retained
    assert store.retire(GROUP).paths == []


def test_finishing_retires_nothing_by_itself() -> None:
    files, store = store_with(10, 20, 30)
    assert indexes(open_store(files, files.base)) == [10, 20, 30]
    assert indexes(store) == [10, 20, 30]


def test_retired_snapshots_whose_removal_never_ran_go_at_the_next_start() -> None:
    files, store = store_with(10, 20, 30)
    store.retire(GROUP)
    assert indexes(open_store(files, files.base)) == [20, 30]
    assert len(files.names(group_directory(store.root, GROUP))) == 2


def test_snapshot_that_is_being_read_is_retired_later() -> None:
    _, store = store_with(10, 20)
    reader = store.read(store.snapshots(GROUP)[0])
    reader.chunk("state", 0)
    take(store, 30)
    assert store.retire(GROUP).paths == []
    assert reader.chunk("extra.1", 0) == contents(10)["extra.1"]
    assert indexes(store) == [10, 20, 30]
    reader.close()
    store.retire(GROUP).run()
    assert indexes(store) == [20, 30]


def test_retiring_that_fails_leaves_the_listing_as_the_disk_is() -> None:
    files, store = store_with(10, 20, 30, 40)
    files.fail("rename", 2, errno.EIO)
    with pytest.raises(StorageError, match="cannot rename"):
        store.retire(GROUP)
    assert indexes(store) == [20, 30, 40]
    assert indexes(open_store(files, files.base)) == [20, 30, 40]


def test_group_is_removed_as_a_whole_and_may_come_again() -> None:
    files, store = store_with(10, 20)
    removal = store.remove_group(GROUP)
    assert store.groups() == []
    take(store, 5)
    removal.run()
    assert indexes(store) == indexes(open_store(files, files.base)) == [5]


def test_group_is_not_removed_under_a_writer() -> None:
    files, store = store_with(10)
    writer = store.begin(GROUP, 20, 3, MEMBERSHIP, 4)
    with pytest.raises(SnapshotRefused, match="abort it first"):
        store.remove_group(GROUP)
    with pytest.raises(SnapshotRefused, match="group 7 is being written"):
        store.open()
    store.open([8])
    writer.abort()
    files.fail("rename", 1, errno.EIO)
    with pytest.raises(StorageError, match="cannot remove"):
        store.remove_group(GROUP)
    assert indexes(store) == [10]
    store.remove_group(GROUP).run()
    assert files.names(store.root) == []


# ---- what is refused -----------------------------------------------------------------------------


def test_older_or_equal_snapshot_is_not_taken() -> None:
    _, store = store_with(10)
    for index in (9, 10):
        with pytest.raises(SnapshotRefused, match=f"one of index {index} is of no use"):
            store.begin(GROUP, index, 3, MEMBERSHIP, 4)


def test_one_place_has_one_writer() -> None:
    _, store = store_with()
    writer = store.begin(GROUP, 10, 3, MEMBERSHIP, 4)
    for again in (
        lambda: store.begin(GROUP, 10, 3, MEMBERSHIP, 4, kind=SnapshotKind.IMPORTING),
        lambda: store.receive(manifest_of(10)),
    ):
        with pytest.raises(SnapshotRefused, match="index 10 is being written"):
            again()
    writer.abort()
    writer = store.begin(GROUP, 10, 3, MEMBERSHIP, 4)
    writer.finish()
    with pytest.raises(SnapshotRefused, match="index 10 is being written"):
        store.receive(manifest_of(10))
    store.admit(writer)


def test_impossible_snapshots_are_refused() -> None:
    _, store = store_with()
    for arguments in [
        (-1, 10, 3, MEMBERSHIP, 4),
        (GROUP, 0, 3, MEMBERSHIP, 0),
        (GROUP, 10, 0, MEMBERSHIP, 4),
        (GROUP, 10, 3, Membership(()), 4),
        (GROUP, 10, 3, MEMBERSHIP, 11),
    ]:
        with pytest.raises(SnapshotRefused, match="cannot be a snapshot"):
            store.begin(*arguments)


def test_drafts_may_be_finished_in_any_order() -> None:
    """Two snapshots in quick succession (item 33)."""
    _, store = store_with()
    first, second = (store.begin(GROUP, index, 3, MEMBERSHIP, 4) for index in (10, 20))
    second.finish()
    store.admit(second)
    first.finish()
    store.admit(first)
    assert indexes(store) == [10, 20]


def test_names_of_both_directories_above_are_made_durable() -> None:
    _, store = store_with()
    writer = store.begin(GROUP, 10, 3, MEMBERSHIP, 4)
    assert writer.paths.parents == (group_directory(store.root, GROUP), store.root)


def test_temporary_names_are_none_that_exist() -> None:
    files, store = store_with(10)
    files.make_directory(group_directory(store.root, GROUP) / temporary_name(30, 9, "damaged"))
    store = open_store(files, files.base)
    writer = store.begin(GROUP, 30, 3, MEMBERSHIP, 4)
    assert writer.paths.temporary.name == temporary_name(30, 10, "taking")
    assert writer.paths.displaced is not None
    assert writer.paths.displaced.name == temporary_name(30, 11, "damaged")


def test_draft_is_admitted_once_it_is_finished_and_no_more() -> None:
    _, store = store_with()
    writer = store.begin(GROUP, 10, 3, MEMBERSHIP, 4)
    with pytest.raises(SnapshotRefused, match="not one to admit"):
        store.admit(writer)
    writer.finish()
    store.admit(writer)
    with pytest.raises(SnapshotRefused, match="not one to admit"):
        store.admit(writer)


@pytest.mark.parametrize(("retained", "chunk_bytes"), [(0, 16), (2, 0), (2, (16 << 20) + 1)])
def test_senseless_settings_are_refused(retained: int, chunk_bytes: int) -> None:
    with pytest.raises(ValueError, match="not"):
        SnapshotStore(Path("/x"), retained=retained, chunk_bytes=chunk_bytes)


def test_unusable_root_is_refused(tmp_path: Path) -> None:
    files = FakeFileSystem()
    files.fail("sync_directory", 1, errno.EIO)
    with pytest.raises(StorageError, match="cannot use the snapshots in"):
        open_store(files, files.base)
    (tmp_path / "snapshots").mkdir(mode=0o755)
    with pytest.raises(DataDirectoryError, match="has mode 0755, expected 0700"):
        open_store(REAL_FILE_SYSTEM, tmp_path)


# ---- receiving -----------------------------------------------------------------------------------


def test_received_snapshot_is_the_sender_s() -> None:
    files, store = store_with(10)
    info = receive(store, 20)
    assert (info.manifest, read_all(files, info)) == (manifest_of(20), contents(20))
    assert indexes(open_store(files, files.base)) == [10, 20]


def test_receiving_what_is_there_returns_it() -> None:
    """Two snapshots in quick succession, and one sent twice (item 33)."""
    _, store = store_with(10)
    receive(store, 20)
    assert store.receive(manifest_of(20)) == store.newest(GROUP)
    with pytest.raises(SnapshotRefused, match="one of index 10 and term 3 is of no use"):
        store.receive(manifest_of(10))
    assert indexes(store) == [10, 20]


# ---- damage --------------------------------------------------------------------------------------


def test_older_snapshot_is_used_when_the_newest_is_damaged() -> None:
    """Found at the start, or only when it is read (items 28, 34)."""
    files, store = store_with(10, 20)
    newest = store.newest(GROUP)
    assert newest is not None
    files.flip_bit(newest.path / "state", 20, 0)
    store = open_store(files, files.base)
    assert store.newest(GROUP) == newest
    with pytest.raises(SnapshotCorrupted) as caught:
        read_all(files, newest)
    assert store.verify(newest) == [caught.value.damage]
    store.mark_damaged(newest, caught.value.damage)
    store.mark_damaged(newest, caught.value.damage)
    older = store.newest(GROUP)
    assert older is not None
    assert (older.index, read_all(files, older)) == (10, contents(10))
    assert [damaged.index for damaged in store.damaged] == [20]
    assert (store.oldest_retained_index(GROUP), store.compactable_index(GROUP)) == (10, 0)


def test_damaged_newest_is_never_removed_and_goes_with_a_sound_one_above() -> None:
    files, store = store_with(10, 20)
    store = damage_newest(files, store)
    store.retire(GROUP).run()
    assert (indexes(store), [damaged.index for damaged in store.damaged]) == ([10], [20])
    take(store, 30)
    store.retire(GROUP).run()
    assert (indexes(store), store.damaged) == ([10, 30], [])
    assert indexes(open_store(files, files.base)) == [10, 30]


def test_damaged_snapshot_is_replaced_by_the_one_that_a_peer_sends() -> None:
    files, store = store_with(10, 20)
    other = take(store, 20, group=6)
    files.unlink(other.path / "state")
    store = damage_newest(files, store)
    info = receive(store, 20)
    assert read_all(files, info) == contents(20)
    elsewhere, damaged = store.damaged
    assert elsewhere.path == other.path
    assert damaged.path.name.endswith(".damaged")
    assert files.status(damaged.path) is not None
    store.retire(GROUP).run()
    assert (indexes(store), store.damaged) == ([10, 20], [elsewhere])
    assert files.names(info.path.parent) == [published_name(10), published_name(20)]


def test_what_is_in_the_place_and_not_listed_is_moved_aside() -> None:
    """As after a directory's sync that failed: renamed, and not known to be durable."""
    files, store = store_with(10)
    files.fail("sync_directory", 2, errno.EIO)
    with pytest.raises(SnapshotFailed):
        take(store, 20)
    assert indexes(store) == [10]
    take(store, 20)
    assert [damaged.damage.reason for damaged in store.damaged] == ["a sound one came in its place"]
    store.retire(GROUP).run()
    assert store.damaged == []


def test_full_disk_leaves_the_older_ones_alone() -> None:
    """ENOSPC while taking: the temporary directory goes, and it works once there is room."""
    files, store = store_with(10, 20)
    for nth in range(1, 4):
        files.fail("pwritev", nth, errno.ENOSPC)
        with pytest.raises(SnapshotFailed) as caught:
            take(store, 30)
        assert caught.value.is_disk_full
        assert files.names(group_directory(store.root, GROUP)) == [
            published_name(10),
            published_name(20),
        ]
        assert [read_all(files, info) for info in store.snapshots(GROUP)] == [
            contents(10),
            contents(20),
        ]
    take(store, 30)
    assert indexes(store) == [10, 20, 30]


def test_writer_works_on_another_thread_while_the_owner_lists() -> None:
    _, store = store_with(10)
    writer = store.begin(GROUP, 20, 3, MEMBERSHIP, 4)

    def save() -> None:
        for name, data in contents(20).items():
            writer.write(name, data)
        writer.finish()

    thread = threading.Thread(target=save)
    thread.start()
    assert indexes(store) == [10]
    thread.join()
    store.admit(writer)
    assert indexes(store) == [10, 20]


# ---- crashes -------------------------------------------------------------------------------------


class Workload:
    """Runs steps on a store and keeps what was acknowledged: the snapshots that must be there."""

    def __init__(self, files: FakeFileSystem) -> None:
        self.files = files
        self.must_be: set[int] = set()
        self.may_be: set[int] = set()
        self.store = SnapshotStore(files.base / "snapshots", files=files, chunk_bytes=16)

    def add(self, index: int, come: Callable[[SnapshotStore, int], SnapshotInfo] = take) -> None:
        self.may_be.add(index)
        come(self.store, index)
        self.must_be.add(index)

    def retire(self) -> None:
        self.must_be = set(sorted(self.must_be)[-2:])
        self.store.retire(GROUP).run()

    def remove(self) -> None:
        self.must_be = set()
        self.store.remove_group(GROUP).run()


def first_snapshots(work: Workload) -> None:
    work.store.open()
    work.add(10)
    work.add(20)


def later_snapshots(work: Workload) -> None:
    first_snapshots(work)
    work.add(30)
    work.retire()
    work.add(40, receive)
    work.retire()


def removed_group(work: Workload) -> None:
    first_snapshots(work)
    work.remove()
    work.may_be = {10, 20, 5}
    work.add(5)


def aborted(work: Workload) -> None:
    first_snapshots(work)
    writer = work.store.begin(GROUP, 30, 3, MEMBERSHIP, 4)
    writer.write("state", b"half")
    writer.abort()
    work.add(40)


def reopened(work: Workload) -> None:
    first_snapshots(work)
    work.store.begin(GROUP, 30, 3, MEMBERSHIP, 4).write("state", b"half")
    work.store = SnapshotStore(work.store.root, files=work.files, chunk_bytes=16)
    work.store.open()
    work.add(30)
    work.retire()


WORKLOADS = [first_snapshots, later_snapshots, removed_group, aborted, reopened]
STATES = [(CrashMode.LOST, 1), (CrashMode.KEPT, 1), (CrashMode.SIZE_ONLY, 1),
          (CrashMode.TORN, 2), (CrashMode.REORDERED, 12)]  # fmt: skip


def crashed_at(run: Callable[[Workload], None], step: int) -> Workload | None:
    """Run until operation ``step`` fails for good; None if the work was done before."""
    files = FakeFileSystem(is_journaled=False)
    work = Workload(files)
    files.stop_at = step
    try:
        run(work)
    except Crashed:
        return work
    return None


def recovered(files: FakeFileSystem) -> set[int]:
    """Check that all that a crash left is whole; return the snapshots."""
    store = open_store(files, files.base)
    found = indexes(store)
    assert store.damaged == []
    for info in store.snapshots(GROUP):
        assert info.manifest == manifest_of(info.index)
        assert read_all(files, info) == contents(info.index)
        assert store.verify(info) == []
    published = [published_name(index) for index in found]
    if GROUP in store.groups():
        names = files.names(group_directory(store.root, GROUP))
        assert [name for name in names if not name.endswith(".receiving")] == published
        assert len(names) <= len(published) + 1
    assert indexes(open_store(files, files.base)) == found
    return set(found)


@pytest.mark.parametrize("run", WORKLOADS)
def test_crash_at_every_operation_loses_no_acknowledged_snapshot(
    run: Callable[[Workload], None],
) -> None:
    """What is there is whole, what was acknowledged is there, the rest is gone (items 26, 34)."""
    step = 1
    recovered_once = once_per_disk(recovered)
    while (work := crashed_at(run, step)) is not None:
        for mode, count in STATES:
            for seed in range(count):
                survivor = work.files.crash(mode, random.Random(seed * 1000 + step))
                assert work.must_be <= recovered_once(survivor) <= work.may_be
        step += 1
    assert step > 25


def damaged_and_replaced(files: FakeFileSystem) -> set[int]:
    """Check what a crash left; return which are damaged, after the damage was repaired again."""
    store = open_store(files, files.base)
    damaged = {found.index for found in store.damaged}
    assert (indexes(store), damaged) in [([10, 20], set()), ([10], {20})]
    for info in store.snapshots(GROUP):
        assert read_all(files, info) == contents(info.index)
    assert receive_or_found(store, 20).index == 20
    return damaged


def test_crash_while_a_damaged_one_is_replaced_never_hides_the_damage() -> None:
    """Either the replacement is whole in its place, or the damage is still reported."""
    step = 1
    damaged_once = once_per_disk(damaged_and_replaced)
    while True:
        files, store = store_with(10, 20)
        store = damage_newest(files, store)
        files.settle()
        files.operations = 0
        files.stop_at = step
        try:
            receive(store, 20)
            is_acknowledged = True
            store.retire(GROUP).run()
            break
        except Crashed:
            is_acknowledged = 20 in indexes(store)
        for mode, count in STATES:
            for seed in range(count):
                survivor = files.crash(mode, random.Random(seed * 1000 + step))
                damaged = damaged_once(survivor)
                assert not is_acknowledged or damaged == set()
        step += 1
    assert step > 15


def receive_or_found(store: SnapshotStore, index: int) -> SnapshotInfo:
    newest = store.newest(GROUP)
    return newest if newest is not None and newest.index == index else receive(store, index)


def test_snapshots_on_the_real_file_system(tmp_path: Path) -> None:
    store = open_store(REAL_FILE_SYSTEM, tmp_path)
    for index in (10, 20, 30):
        take(store, index)
        store.retire(GROUP).run()
    receive(store, 40)
    store.retire(GROUP).run()
    again = open_store(REAL_FILE_SYSTEM, tmp_path)
    assert indexes(again) == [30, 40]
    assert [read_all(REAL_FILE_SYSTEM, info) for info in again.snapshots(GROUP)] == [
        contents(30),
        contents(40),
    ]
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "snapshots").rglob("*")}
    assert modes == {0o600, 0o700}
    again.remove_group(GROUP).run()
    assert list((tmp_path / "snapshots").iterdir()) == []
