"""A store whose process restarts while it receives a snapshot: what is kept, and what goes."""

import random
from dataclasses import replace

import pytest

from rafter_storage.errors import SnapshotRefused
from rafter_storage.snapshot_directory import group_directory, published_name, temporary_name
from rafter_storage.snapshot_manifest import Manifest
from rafter_storage.snapshot_reader import SnapshotInfo
from rafter_storage.snapshot_store import SnapshotStore
from tests.storage.fake_file_system import Crashed, CrashMode, FakeFileSystem
from tests.storage.fake_support import once_per_disk
from tests.storage.snapshot_support import (
    GROUP,
    MEMBERSHIP,
    begin_to_receive,
    contents,
    manifest_of,
    open_store,
    read_all,
    receive,
    receive_chunks,
    take,
)

CHUNKS = 4
STATES = [(CrashMode.LOST, 1), (CrashMode.KEPT, 1), (CrashMode.SIZE_ONLY, 1),
          (CrashMode.TORN, 2), (CrashMode.REORDERED, 12)]  # fmt: skip


def restarted_after(chunks: int, index: int = 20) -> tuple[FakeFileSystem, SnapshotStore]:
    """Return a store with a snapshot of 10, killed behind so many chunks of another, and opened."""
    files = FakeFileSystem()
    store = open_store(files, files.base)
    take(store, 10)
    receive_chunks(begin_to_receive(store, index), contents(index), chunks)
    return files, open_store(files, files.base)


def names(files: FakeFileSystem, store: SnapshotStore) -> list[str]:
    return files.names(group_directory(store.root, GROUP))


@pytest.mark.parametrize("chunks", range(1, CHUNKS + 1))
def test_receiving_goes_on_after_a_restart(chunks: int) -> None:
    """The sender is told a chunk in mid-file, and that is on the disk (item 32)."""
    files, store = restarted_after(chunks)
    assert [info.index for info in store.snapshots(GROUP)] == [10]
    assert store.kept() == [manifest_of(20)]
    receiver = begin_to_receive(store, 20)
    assert store.kept() == []
    there = sum(receiver.received.values())
    assert chunks - 1 <= there <= chunks
    assert there + receive_chunks(receiver, contents(20)) == CHUNKS
    receiver.finish()
    info = store.admit(receiver)
    assert read_all(files, info) == contents(20)
    assert names(files, store) == [published_name(10), published_name(20)]


def test_it_goes_on_after_any_number_of_restarts() -> None:
    files, store = restarted_after(1)
    for there in (1, 2):
        receiver = begin_to_receive(store, 20)
        assert sum(receiver.received.values()) == there
        receive_chunks(receiver, contents(20), 1)
        store = open_store(files, files.base)
    assert read_all(files, receive(store, 20)) == contents(20)


def test_a_restart_before_the_first_chunk_keeps_nothing() -> None:
    files, store = restarted_after(0)
    assert store.kept() == []
    assert names(files, store) == [published_name(10)]


@pytest.mark.parametrize("other", [replace(manifest_of(20), term=9), manifest_of(15),
                                   manifest_of(20, {"state": b"another"})])  # fmt: skip
def test_another_offer_gets_a_draft_of_its_own_and_the_kept_one_goes(
    other: Manifest,
) -> None:
    files, store = restarted_after(2)
    receiver = store.receive(other)
    assert not isinstance(receiver, SnapshotInfo)
    assert receiver.recover(1) is False
    assert sum(receiver.received.values()) == 0
    store.drop_kept(GROUP).run()
    assert store.kept() == []
    assert names(files, store) == [published_name(10)]
    receiver.abort()
    assert open_store(files, files.base).kept() == []


def test_an_offer_that_is_refused_leaves_what_is_kept() -> None:
    _, store = restarted_after(2)
    with pytest.raises(SnapshotRefused, match="of no use"):
        store.receive(manifest_of(5))
    assert store.kept() == [manifest_of(20)]


def test_one_that_nobody_resumes_is_dropped() -> None:
    files, store = restarted_after(2)
    store.drop_kept(GROUP + 1).run()
    removal = store.drop_kept(GROUP)
    removal.run()
    assert len(removal.paths) == 1
    assert names(files, store) == [published_name(10)]
    assert store.drop_kept(GROUP).paths == []
    assert sum(begin_to_receive(store, 20).received.values()) == 0


@pytest.mark.parametrize(("index", "is_kept"), [(19, True), (20, False), (21, False)])
def test_one_that_a_snapshot_has_passed_goes_with_the_next_retirement(
    index: int, is_kept: bool
) -> None:
    files, store = restarted_after(2)
    take(store, index)
    store.retire(GROUP).run()
    assert store.kept() == ([manifest_of(20)] if is_kept else [])
    assert [name for name in names(files, store) if name.endswith(".receiving")] == (
        [temporary_name(20, 3, "receiving")] if is_kept else []
    )


def test_what_is_kept_stands_in_nobody_s_way() -> None:
    """Neither of a start, nor of a snapshot of its index, nor of the removal of its group."""
    files, store = restarted_after(2)
    store.open()
    assert store.kept() == [manifest_of(20)]
    store.begin(GROUP, 20, 3, MEMBERSHIP, 4).abort()
    store.remove_group(GROUP).run()
    assert store.kept() == []
    assert files.names(store.root) == []


def test_what_is_being_received_again_is_a_draft_like_any_other() -> None:
    _, store = restarted_after(2)
    receiver = begin_to_receive(store, 20)
    with pytest.raises(SnapshotRefused, match="index 20 is being written"):
        store.receive(manifest_of(20))
    with pytest.raises(SnapshotRefused, match="abort it first"):
        store.remove_group(GROUP)
    receiver.abort()
    store.remove_group(GROUP).run()


def test_a_damaged_snapshot_is_replaced_by_one_whose_receiving_was_broken_off() -> None:
    files = FakeFileSystem()
    store = open_store(files, files.base)
    take(store, 10)
    newest = take(store, 20)
    files.flip_bit(newest.path / "manifest", 0, 0)
    store = open_store(files, files.base)
    receive_chunks(begin_to_receive(store, 20), contents(20), 2)
    store = open_store(files, files.base)
    assert store.kept() == [manifest_of(20)]
    receiver = begin_to_receive(store, 20)
    assert receive_chunks(receiver, contents(20)) == CHUNKS - 2
    receiver.finish()
    assert read_all(files, store.admit(receiver)) == contents(20)
    store.retire(GROUP).run()
    assert names(files, store) == [published_name(10), published_name(20)]


def receive_in_lives(files: FakeFileSystem) -> None:
    """Receive 20 in three lives of the process."""
    store = open_store(files, files.base)
    receive_chunks(begin_to_receive(store, 20), contents(20), 2)
    store = open_store(files, files.base)
    receive_chunks(begin_to_receive(store, 20), contents(20), 1)
    receive(open_store(files, files.base), 20)


def test_a_power_cut_at_every_operation_of_three_lives_leaves_what_a_fourth_ends() -> None:
    """Before it 10 is there, and after it 20; what is between is of no account."""
    step = 1
    while True:
        files = FakeFileSystem(is_journaled=False)
        take(open_store(files, files.base), 10)
        files.operations, files.stop_at = 0, step
        try:
            receive_in_lives(files)
            break
        except Crashed:
            pass
        for mode, count in STATES:
            for seed in range(count):
                check_fourth_life(files.crash(mode, random.Random(seed * 1000 + step)))
        step += 1
    assert step > 30


@once_per_disk
def check_fourth_life(files: FakeFileSystem) -> None:
    store = open_store(files, files.base)
    assert store.damaged == []
    found = [info.index for info in store.snapshots(GROUP)]
    assert found in ([10], [10, 20])
    if found == [10]:
        receive(store, 20)
        files = files.crash(CrashMode.LOST)
        store = open_store(files, files.base)
    assert store.kept() == []
    assert names(files, store) == [published_name(10), published_name(20)]
    for info in store.snapshots(GROUP):
        assert store.verify(info) == []
        assert read_all(files, info) == contents(info.index)
