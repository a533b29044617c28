"""The engine with snapshots: what is held until one is installed, and changes of a log."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rafter_core import (
    Membership,
    Message,
    MessageKind,
    Snapshot,
)
from rafter_storage.errors import CorruptionError, Damage
from rafter_storage.group_log import GroupLog
from rafter_storage.segment_manager import GroupChange, SegmentManager
from rafterd.replica import Place, Replica
from tests.daemon.engine_bench import (
    SEGMENT_BYTES,
    EngineBench,
    entry,
    run,
    turns,
    until,
)

APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
HEARTBEAT = MessageKind.HEARTBEAT
SNAPSHOT = MessageKind.SNAPSHOT


class Handler:
    """Writes down what the engine asks for."""

    def __init__(self) -> None:
        self.asked: list[Snapshot] = []

    def send(self, group: int, message: Message) -> None:
        raise AssertionError("this node leads nobody")

    def install(self, replica: Replica, snapshot: Snapshot) -> None:
        self.asked.append(snapshot)


def snapshot_bench(directory: Path) -> EngineBench:
    bench = EngineBench(directory)
    bench.engine.snapshots = Handler()
    return bench


def take_in(bench: EngineBench, index: int) -> None:
    """Let a leader's snapshot be stepped, as it is once it is durable here."""
    snapshot = Snapshot(index, 1, Membership((1, 2, 3)))
    message = Message(kind=SNAPSHOT, to=1, sender=2, term=1, snapshot=snapshot)
    bench.engine.step(bench.replica(), message, 0)


@pytest.mark.parametrize("is_log_first", [True, False])
def test_what_rests_on_a_snapshot_is_held_until_log_and_machine_have_it(
    tmp_path: Path, is_log_first: bool
) -> None:
    async def main() -> None:
        bench = snapshot_bench(tmp_path)
        bench.hear(2, HEARTBEAT, term=1)
        await bench.settle()
        bench.forget()
        bench.disk.gate.clear()
        take_in(bench, 9)
        await until(lambda: bench.events == ["sync"])
        assert isinstance(bench.engine.snapshots, Handler)
        assert [snapshot.index for snapshot in bench.engine.snapshots.asked] == [9]
        # What comes behind it is written, and held as well: answers keep their order.
        bench.hear(2, APPEND, log_term=1, index=9, entries=[entry(1, 10)])
        await turns()
        replica, place = bench.replica(), Place(9, 1, 4)
        if is_log_first:
            bench.disk.gate.set()
            await bench.settle()
            assert bench.store.written[-1].entries
            assert bench.post.sent == []
            bench.engine.snapshot_installed(replica, place)
        else:
            bench.engine.snapshot_installed(replica, place)
            await turns()
            assert bench.post.sent == []
            bench.disk.gate.set()
        await bench.settle()
        assert [sent.message.index for sent in bench.post.sent] == [9, 10]
        assert replica.applied == place
        assert replica.readies_in_storage == 0
        bench.close()

    run(main())


def test_a_snapshot_that_a_newer_one_has_overtaken_releases_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        bench = snapshot_bench(tmp_path)
        for index in (9, 12):
            take_in(bench, index)
            await bench.settle()
        bench.engine.snapshot_installed(bench.replica(), Place(9, 1))
        await bench.settle()
        assert bench.replica().is_installing
        assert APPEND_RESPONSE not in bench.post.kinds()
        bench.engine.snapshot_installed(bench.replica(), Place(12, 1))
        await bench.settle()
        answers = [s.message for s in bench.post.sent if s.message.kind is APPEND_RESPONSE]
        assert [message.index for message in answers] == [9, 12]
        bench.close()
        assert read_log(tmp_path).first_index() == 13

    run(main())


def read_log(directory: Path) -> GroupLog:
    store = SegmentManager(directory, segment_bytes=SEGMENT_BYTES)
    store.open()
    store.close()
    return store.group_log(1, Membership((1, 2, 3)))


def test_a_stopped_engine_does_not_go_on_with_an_installed_snapshot(tmp_path: Path) -> None:
    async def main() -> None:
        bench = snapshot_bench(tmp_path)
        take_in(bench, 9)
        await bench.settle()
        bench.disk.error = OSError(errno.EIO, os.strerror(errno.EIO))
        bench.hear(3, HEARTBEAT, term=7)
        await until(lambda: bench.fatal)
        bench.engine.snapshot_installed(bench.replica(), Place(9, 1))
        assert bench.post.queued == []
        bench.close()

    run(main())


def test_a_snapshot_without_its_data_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        bench = snapshot_bench(tmp_path)
        bench.hear(2, SNAPSHOT, term=1, snapshot=Snapshot(9, 1, Membership((1, 2, 3))))
        await bench.settle()
        assert bench.replica().node.commit == 0
        assert "group 1 ignored a bare snapshot of node 2, shard 0" in caplog.text
        bench.close()

    run(main())


# ---- changes of a log ------------------------------------------------------------------------


def test_who_asked_for_a_change_hears_of_it_once_it_is_durable(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path, members=(1,))
        await bench.lead()
        bench.propose("a")
        await bench.settle()
        bench.disk.gate.clear()
        ends: list[bool] = []
        bench.engine.change(GroupChange(1, snapshot=(2, 1), compact_to=2), ends.append)
        await until(lambda: bench.events[-1] == "sync")
        assert ends == []
        bench.disk.gate.set()
        await bench.settle()
        assert ends == [True]
        # So it is if there is nothing to change: everything before is durable then.
        bench.engine.change(GroupChange(1, snapshot=(2, 1)), ends.append)
        await bench.settle()
        assert ends == [True, True]
        bench.close()
        assert read_log(tmp_path).first_index() == 3

    run(main())


def test_a_change_of_a_group_out_of_service_ends_and_harms_nobody(tmp_path: Path) -> None:
    """One that was asked for after the damage was known stopped the shard.

    The only test of changes and damage had the damage come second.
    """

    async def main() -> None:
        bench = EngineBench(tmp_path, (1, 2), members=(1,))
        await bench.lead(1, 2)
        ends: list[bool] = []
        bench.engine.change(GroupChange(1, snapshot=(1, 1)), ends.append)
        damage = CorruptionError(Damage(tmp_path, 0, "a byte is wrong"), 1)
        bench.engine.condemn(bench.replica(), damage)
        assert ends == [False]
        bench.engine.change(GroupChange(1, snapshot=(1, 1)), ends.append)
        assert ends == [False, False]
        other = bench.replica(2)
        for _ in range(2):
            bench.engine.condemn(other, CorruptionError(damage.damage, 2))
        await bench.settle()
        assert not bench.fatal
        bench.close()

    run(main())


def test_a_change_that_a_snapshot_overtakes_is_given_up(tmp_path: Path) -> None:
    async def main() -> None:
        bench = snapshot_bench(tmp_path)
        ends: list[bool] = []
        take_in(bench, 9)
        bench.engine.change(GroupChange(1, membership=(0, Membership((1, 2)))), ends.append)
        await bench.settle()
        assert ends == [False]
        assert bench.store.metadata(1).memberships == ((9, Membership((1, 2, 3))),)
        bench.close()

    run(main())
