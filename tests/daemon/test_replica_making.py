"""Replicas at the start of a shard: from nothing, from a log, and where there is not enough."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rafter_core import Entry, EntryKind, HardState, Membership
from rafter_storage.segment_manager import GroupChange, GroupWrite, SegmentManager
from rafter_storage.snapshot_store import SnapshotStore
from rafter_transport.payload import pack_item
from rafterd.replica_making import Made, Unservable, founding_membership, make_replica
from rafterd.shared import SharedState
from rafterd.snapshot_taker import IMAGE_NAME
from tests.daemon.engine_bench import Journal
from tests.daemon.test_system_group import make_config

FOUNDING = Membership((1, 2))
CONFIG = make_config(2)


class Disk:
    """A log and the snapshots of group 1."""

    def __init__(self, directory: Path) -> None:
        self.log = SegmentManager(directory, segment_bytes=1 << 20)
        self.log.create()
        self.log.open()
        self.log.group_log(1, FOUNDING)
        (directory / "snapshots").mkdir(mode=0o700)
        self.snapshots = SnapshotStore(directory / "snapshots")
        self.snapshots.open([1])
        self.progress = 0

    def write(self, *changes: GroupChange, entries: int = 0) -> None:
        written = [Entry(1, index, EntryKind.NORMAL, b"x") for index in range(1, entries + 1)]
        writes = [GroupWrite(1, HardState(1, 1, entries), written)] if entries else []
        job = self.log.begin(writes, changes)
        job.run()
        self.log.complete(job)

    def take_snapshot(self, index: int) -> None:
        writer = self.snapshots.begin(1, index, 1, Membership((1, 2, 3)), 2)
        writer.write(IMAGE_NAME, pack_item([index, b"x"]))
        writer.finish()
        self.snapshots.admit(writer)

    def make(self) -> Made[Journal]:
        def progress() -> None:
            self.progress += 1

        return make_replica(
            CONFIG, 1, store=self.log, snapshot_store=self.snapshots,
            make_machine=Journal, words=SharedState(1, 1).group_words(1), on_route=lambda *_: None,
            progress=progress, generator=random.Random(1),
        )  # fmt: skip

    def close(self) -> None:
        self.log.close()


def test_a_group_begins_with_its_founding_members_and_with_what_was_logged(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    new = disk.make()
    assert new.replica.node.membership == FOUNDING
    assert (new.replica.node.term, new.replica.node.applied) == (0, 0)
    disk.write(entries=3)
    again = disk.make()
    assert again.replica.machine is again.machine
    assert again.log.last_index() == 3
    assert again.replica.hard_state == HardState(1, 1, 3)
    assert again.replica.node.applied == 0
    disk.close()


def test_a_snapshot_brings_state_members_and_place(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.write(entries=3)
    disk.take_snapshot(2)
    made = disk.make()
    assert made.replica.node.membership == Membership((1, 2, 3))
    assert made.replica.applied == (2, 1, 2)
    assert made.machine.updates == [(2, b"x", None)]
    assert disk.progress == 1
    disk.close()


def test_a_log_that_was_cut_is_not_enough_without_its_snapshot(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.write(entries=3)
    disk.write(GroupChange(1, (1, FOUNDING), (2, 1), 2))
    with pytest.raises(Unservable, match="its log begins at index 3, and there is no sound"):
        disk.make()
    disk.close()


def test_a_damaged_log_is_not_served(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.write(entries=3)
    disk.close()
    (segment,) = (tmp_path / "wal").glob("*1.log")
    content = bytearray(segment.read_bytes())
    content[content.index(b"\xc4\x01x")] ^= 1
    segment.write_bytes(content)
    disk.log = SegmentManager(tmp_path, segment_bytes=1 << 20)
    disk.log.open()
    with pytest.raises(Unservable, match="its log is damaged: "):
        disk.make()
    disk.close()


def test_a_data_group_is_founded_by_its_members_and_the_system_group_by_all() -> None:
    config = make_config(9)
    assert founding_membership(config, 1) == Membership((2, 3, 4))
    system = founding_membership(config, 0)
    assert system == Membership((1, 2, 3, 4, 5, 6, 7), learners=(8, 9)), "seven of them vote"
    assert system.fault() is None
