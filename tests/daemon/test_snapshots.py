"""What a start makes of snapshots, and whole shards that bring one another back by them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest

from rafter_core import Membership
from rafter_kv.batch import Batch
from rafter_storage.file_system import REAL_FILE_SYSTEM
from rafter_storage.group_log import GroupLog
from rafter_storage.segment_manager import GroupChange, GroupWrite, SegmentManager
from rafter_storage.snapshot_reader import SnapshotInfo
from rafter_storage.snapshot_receiver import SnapshotReceiver
from rafter_storage.snapshot_store import SnapshotStore
from rafter_transport.payload import pack_item
from rafterd import express_files, snapshot_courier
from rafterd.replica import NOWHERE
from rafterd.requests import Request
from rafterd.shared import Counter
from rafterd.snapshot_taker import IMAGE_NAME
from rafterd.snapshots import Recovered, open_snapshots, recover
from tests.daemon.engine_bench import Journal, entry, run, until
from tests.daemon.shard_kit import RunningServices, make_config, make_configs
from tests.daemon.snapshot_bench import SnapshotDisk
from tests.storage.snapshot_support import manifest_of

MEMBERSHIP = Membership((1, 2, 3))


# ---- a start -----------------------------------------------------------------------------------


class Shelf:
    """The log of one group with 10 entries of term 1, and a store of snapshots."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.manager = SegmentManager(directory, segment_bytes=1 << 20)
        self.manager.create()
        self.manager.open()
        entries = [entry(1, index, b"%d" % index) for index in range(1, 11)]
        self._do([GroupWrite(1, None, entries)])
        self.store = SnapshotStore(directory / "snapshots", chunk_bytes=64)
        self.store.open()
        self.chunks = 0

    def _do(self, writes: list[GroupWrite], changes: tuple[GroupChange, ...] = ()) -> None:
        job = self.manager.begin(writes, changes)
        job.run()
        self.manager.complete(job)

    @property
    def log(self) -> GroupLog:
        return self.manager.group_log(1, MEMBERSHIP)

    def take(self, index: int, term: int = 1) -> SnapshotInfo:
        writer = self.store.begin(1, index, term, MEMBERSHIP, 0)
        for at in range(1, index + 1):
            writer.write(IMAGE_NAME, pack_item([at, b"%d" % at]))
        writer.finish()
        return self.store.admit(writer)

    def cut(self, index: int) -> None:
        self._do([], (GroupChange(1, snapshot=(index, 1), compact_to=index),))

    def start(self, make_machine: Callable[[], Journal] = Journal) -> Recovered[Journal] | None:
        """Start anew: what is in memory is forgotten."""
        self.store = SnapshotStore(self.directory / "snapshots", chunk_bytes=64)
        self.store.open()

        def count() -> None:
            self.chunks += 1

        return recover(self.store, self.log, make_machine, count)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def spoil(info: SnapshotInfo) -> None:
    (info.path / IMAGE_NAME).write_bytes(b"?" * info.manifest.size_bytes)


def payloads(count: int) -> list[bytes]:
    return [b"%d" % index for index in range(1, count + 1)]


def test_a_start_without_snapshots_begins_with_nothing(shelf: Shelf) -> None:
    recovered = shelf.start()
    assert recovered is not None
    assert recovered.machine.updates == []
    assert recovered[1:] == (NOWHERE, None)


def test_a_start_goes_on_from_the_newest_snapshot_and_shows_that_it_lives(shelf: Shelf) -> None:
    shelf.take(4)
    newest = shelf.take(8)
    recovered = shelf.start()
    assert recovered is not None
    assert recovered.machine.payloads == payloads(8)
    assert recovered[1:] == ((8, 1, 0), MEMBERSHIP)
    assert shelf.chunks == -(-newest.manifest.size_bytes // 64)


def test_a_damaged_snapshot_is_passed_over_for_the_one_before(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.take(4)
    spoil(shelf.take(8))
    recovered = shelf.start()
    assert recovered is not None
    assert recovered.place == (4, 1, 0)
    assert [damaged.index for damaged in shelf.store.damaged] == [8]
    assert "group 1: a snapshot is damaged" in caplog.text


def test_with_no_sound_snapshot_the_whole_log_will_do(shelf: Shelf) -> None:
    spoil(shelf.take(8))
    recovered = shelf.start()
    assert recovered is not None
    assert recovered.place == NOWHERE


def test_with_no_sound_snapshot_a_group_whose_log_is_cut_cannot_be_served(shelf: Shelf) -> None:
    info = shelf.take(8)
    shelf.cut(8)
    spoil(info)
    assert shelf.start() is None


def test_an_image_that_the_state_machine_refuses_is_passed_over(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    """One group's image of a later version kept the whole shard from starting.

    Images were damaged in the tests, never sound and refused.
    """
    shelf.take(4)
    shelf.take(8)
    made: list[Journal] = []

    def make() -> Journal:
        made.append(Journal())
        if len(made) == 1:
            made[0].error = ValueError("of a later version")
        return made[-1]

    recovered = shelf.start(make)
    assert recovered is not None
    assert recovered.place == (4, 1, 0)
    assert recovered.machine is made[1]
    assert "of a later version" in caplog.text


def test_a_snapshot_ahead_of_the_log_is_set_aside_and_stays_on_disk(shelf: Shelf) -> None:
    shelf.take(4)
    ahead = shelf.take(30)
    recovered = shelf.start()
    assert recovered is not None
    assert recovered.place == (4, 1, 0)
    assert [info.index for info in shelf.store.snapshots(1)] == [4]
    assert ahead.path.is_dir()


def test_a_snapshot_of_another_history_is_set_aside(shelf: Shelf) -> None:
    """It was received, and the log has entries of another leader in its place."""
    shelf.take(8, term=2)
    recovered = shelf.start()
    assert recovered is not None
    assert recovered.place == NOWHERE
    assert shelf.store.newest(1) is None


def test_a_snapshot_of_before_the_log_is_not_used(shelf: Shelf) -> None:
    shelf.take(4)
    shelf.cut(6)
    assert shelf.start() is None


def test_what_is_damaged_at_the_start_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(tmp_path, groups=1, snapshot__retained=3, snapshot__chunk_bytes=4096)
    Path(config.node.data_dir).mkdir()
    store = open_snapshots(config, [1], REAL_FILE_SYSTEM)
    assert (store._retained, store._chunk_bytes) == (3, 4096)
    writer = store.begin(1, 4, 1, MEMBERSHIP, 0)
    writer.write(IMAGE_NAME, b"x")
    (writer.finish().path / "manifest").write_bytes(b"?")
    assert open_snapshots(config, [1], REAL_FILE_SYSTEM).newest(1) is None
    assert "group 1: a snapshot is damaged" in caplog.text


# ---- whole shards ------------------------------------------------------------------------------


class Nodes:
    """Three nodes of one shard and one group each, on one loop; time is the test's."""

    def __init__(self, directory: Path, **overrides: object) -> None:
        overrides = {"snapshot__log_bytes": 4096, "storage__sync": "inline"} | overrides
        self.configs = make_configs(directory, nodes=3, shards=1, groups=1, **overrides)
        self.running: dict[int, RunningServices] = {}
        self.sequence = 0
        self.ticks = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(*self.running)

    async def start(self, *nodes: int) -> None:
        for node in nodes:
            running = RunningServices(self.configs[node])
            self.running[node] = await running.__aenter__()

    async def stop(self, *nodes: int) -> None:
        for node in nodes:
            running = self.running.pop(node)
            await running.__aexit__()
            assert not running.fatal

    async def until(self, condition: Callable[[], object]) -> None:
        """Let ticks pass, and every fifth time what a shard does some times a second."""

        def tick() -> object:
            self.ticks += 1
            for running in self.running.values():
                assert not running.fatal
                running.services.tick()
                if self.ticks % 5 == 0:
                    running.services.publish()
                    running.services.housekeep()
            return condition()

        await until(tick)

    def leader(self) -> RunningServices | None:
        for running in self.running.values():
            if running.services.engine.replicas[1].is_leader:
                return running
        return None

    async def write(self, count: int, value_bytes: int = 1000) -> None:
        """Write so many keys, each applied on all nodes that run before the next."""
        for _ in range(count):
            await self.until(self.leader)
            leader = self.leader()
            assert leader is not None
            self.sequence += 1
            command = [b"SET", b"k%d" % self.sequence, b"v" * value_bytes]
            batch = Batch(1, 5, self.sequence, self.sequence, [command])
            leader.services._services[1].submit(Request(batch, self.sequence, 1, None))
            await self.until(lambda: self.keys() == {self.sequence})

    def keys(self) -> set[int]:
        return {each.services._machines[1].key_count for each in self.running.values()}

    def hashes(self) -> set[int]:
        return {each.services._machines[1].hash() for each in self.running.values()}

    def first_index(self, node: int) -> int:
        store = self.running[node].services._store
        return store.group_log(1, MEMBERSHIP).first_index()

    def count(self, node: int, counter: Counter) -> int:
        self.running[node].services.publish()
        return self.running[node].shared.get(0, counter)

    def on_disk(self, node: int) -> list[str]:
        """The names of all snapshots of a node, whole or not."""
        root = Path(self.configs[node].node.data_dir, "snapshots")
        return [path.name for path in root.glob("*/*")]

    async def cut_logs(self) -> None:
        """Write with nodes 1 and 2 until neither has the beginning of its log."""
        while self.first_index(1) == 1 or self.first_index(2) == 1:
            await self.write(3)


def test_a_node_that_comes_late_is_brought_up_by_a_snapshot_and_can_lead(tmp_path: Path) -> None:
    async def main() -> None:
        async with Nodes(tmp_path) as nodes:
            await nodes.start(1, 2)
            await nodes.cut_logs()
            await nodes.start(3)
            await nodes.until(lambda: nodes.keys() == {nodes.sequence})
            assert nodes.count(3, Counter.SNAPSHOTS_RECEIVED_TOTAL) == 1
            assert nodes.count(3, Counter.SNAPSHOTS_INSTALLED_TOTAL) == 1
            assert nodes.count(3, Counter.SNAPSHOT_BYTES_RECEIVED_TOTAL) > 4096
            sent = sum(nodes.count(node, Counter.SNAPSHOTS_SENT_TOTAL) for node in (1, 2))
            assert sent == 1
            assert nodes.first_index(3) > 1
            await nodes.write(1)
            assert len(nodes.hashes()) == 1
            # Its data count: one of the others goes, and writes go on.
            await nodes.stop(1)
            await nodes.write(2)
            # It starts again from the snapshot that it received.
            await nodes.stop(3)
            await nodes.start(3)
            await nodes.write(1)
            assert len(nodes.hashes()) == 1
            assert nodes.count(3, Counter.SNAPSHOTS_RECEIVED_TOTAL) == 0

    run(main())


def test_a_shard_that_stops_in_the_middle_of_a_transfer_goes_on_there_when_it_starts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with Nodes(
            tmp_path,
            snapshot__transfers_max=1,
            snapshot__bytes_per_second=80_000,
            snapshot__chunk_bytes=4096,
        ) as nodes:
            await nodes.start(1, 2)
            await nodes.write(60)
            await nodes.cut_logs()
            await nodes.start(3)
            received = Counter.SNAPSHOT_BYTES_RECEIVED_TOTAL
            await nodes.until(lambda: nodes.count(3, received) > 10_000)
            assert nodes.count(3, Counter.SNAPSHOT_TRANSFERS) == 1
            (name,) = nodes.on_disk(3)
            assert name.endswith(".receiving")
            await nodes.stop(3)
            assert nodes.on_disk(3) == [name]
            await nodes.start(3)
            await nodes.until(lambda: nodes.count(3, received) > 10_000)
            assert nodes.on_disk(3) == [name]
            assert "have come before a restart" in caplog.text
            # Nor does a sender that stops do any harm.
            leader = nodes.leader()
            assert leader is not None
            await nodes.stop(leader.config.node.id)
            assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    run(main())


def move(source: Path, target: Path) -> None:
    source.rename(target)


def test_a_part_that_nobody_sends_the_rest_of_is_removed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with Nodes(tmp_path) as nodes:
            await nodes.start(1)
            await nodes.stop(1)
            store = open_snapshots(nodes.configs[1], [1], REAL_FILE_SYSTEM)
            receiver = store.receive(manifest_of(40, {IMAGE_NAME: bytes(32)}, group=1))
            assert isinstance(receiver, SnapshotReceiver)
            receiver.write_chunk(IMAGE_NAME, 0, bytes(16))
            receiver.leave()
            (name,) = nodes.on_disk(1)
            await nodes.start(1)
            nodes.running[1].services.publish()
            assert nodes.on_disk(1) == [name]
            draft = Path(nodes.configs[1].node.data_dir, "snapshots", f"{1:020d}", name)
            move(draft, tmp_path / name)
            monkeypatch.setattr(express_files, "PARKED_SECONDS", 0.0)
            await nodes.until(lambda: "stays on disk" in caplog.text)
            # What could not be removed does no harm, and is found by the next start.
            move(tmp_path / name, draft)
            await nodes.stop(1)
            await nodes.start(1)
            await nodes.until(lambda: nodes.on_disk(1) == [])

    run(main())


def test_a_receiver_whose_disk_is_full_is_reported_and_gets_it_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(snapshot_courier, "RETRY_SECONDS", 0.05)

    async def main() -> None:
        async with Nodes(tmp_path) as nodes:
            await nodes.start(1, 2)
            await nodes.cut_logs()
            await nodes.start(3)
            disk = SnapshotDisk()
            disk.is_full = True
            nodes.running[3].services._snapshot_store._files = disk
            unsent = Counter.SNAPSHOTS_UNSENT_TOTAL
            await nodes.until(lambda: sum(nodes.count(n, unsent) for n in (1, 2)) >= 2)
            assert "node 3 has not got the snapshot: failed" in caplog.text
            assert "No space left on device" in caplog.text
            # Nothing is left of it, and the group is where it was.
            assert nodes.on_disk(3) == []
            assert nodes.running[3].services.engine.replicas[1].node.commit == 0
            disk.is_full = False
            await nodes.until(lambda: nodes.keys() == {nodes.sequence})
            assert len(nodes.hashes()) == 1

    run(main())
