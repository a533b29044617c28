"""Snapshots out to followers that lag and in from leaders: what is said, held back, given up."""

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
    messages_from_wire,
    messages_to_wire,
)
from rafter_storage.errors import CorruptionError, Damage
from rafter_storage.snapshot_manifest import encode_manifest
from rafter_storage.snapshot_reader import SnapshotInfo
from rafter_transport.express_ends import SinkError
from rafter_transport.express_sender import Ending, Outcome
from rafter_transport.payload import pack_item, unpack
from rafterd.shared import Counter, GroupState, GroupWord
from rafterd.snapshot_courier import RETRY_SECONDS
from tests.daemon.engine_bench import entry, run, turns, until
from tests.daemon.snapshot_bench import SnapshotBench, message_of

APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
HEARTBEAT = MessageKind.HEARTBEAT
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE
SNAPSHOT = MessageKind.SNAPSHOT
VOTE = MessageKind.VOTE


# ---- out -------------------------------------------------------------------------------------


async def lead_with_cut_log(bench: SnapshotBench) -> None:
    """Lead a group whose log begins at 3, with snapshots of 2 and 3."""
    await bench.lead()
    for name in "ab":
        await bench.commit(name)
        await bench.take()
    assert (bench.indexes(), bench.first_index()) == ([2, 3], 3)
    bench.forget()


async def lag(bench: SnapshotBench, node: int = 3) -> None:
    """Let a node answer that has not got the entries which are cut."""
    bench.engine.report_unreachable(node, 0)
    bench.hear(node, HEARTBEAT_RESPONSE)
    await bench.settle()


def mode(bench: SnapshotBench, node: int = 3) -> str:
    return bench.replica().node.status().progress[node].mode.name


def sent_message(bench: SnapshotBench) -> tuple[int, Message]:
    (packed,) = bench.express.messages
    (pair,) = messages_from_wire(unpack(packed))
    return pair


def test_a_follower_behind_the_log_is_sent_the_newest_snapshot(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await lead_with_cut_log(bench)
        await lag(bench)
        assert list(bench.express.sources) == [(1, 3)]
        group, message = sent_message(bench)
        assert (group, message.kind, message.to, message.sender) == (1, SNAPSHOT, 3, 1)
        assert message.snapshot == Snapshot(3, 1, Membership((1, 2, 3)))
        # It is nowhere else, and it stays until the transfer has ended.
        assert SNAPSHOT not in bench.post.kinds()
        assert bench.snapshots.oldest_read_index(1) == 3
        assert mode(bench) == "SNAPSHOT"
        bench.express.end(node=3)
        assert bench.snapshots.oldest_read_index(1) is None
        assert mode(bench) == "PROBE"
        assert bench.count(Counter.SNAPSHOTS_SENT_TOTAL) == 1
        await bench.stop()

    run(main())


def test_a_snapshot_that_cannot_be_sent_is_reported_so_that_raft_asks_again(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await lead_with_cut_log(bench)
        bench.express.is_refusing = True
        await lag(bench)
        assert mode(bench) == "PROBE"
        assert bench.snapshots.oldest_read_index(1) is None
        bench.express.is_refusing = False
        bench.shards.counts[3] = None
        await lag(bench)
        assert (mode(bench), bench.express.messages) == ("PROBE", [])
        bench.shards.counts[3] = 1
        await lag(bench)
        assert len(bench.express.messages) == 1
        await bench.stop()

    run(main())


def test_a_damaged_snapshot_is_not_sent_but_the_one_before(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await lead_with_cut_log(bench)
        older, newest = bench.snapshots.snapshots(1)
        bench.snapshots.mark_damaged(newest, Damage(newest.path, 0, "a byte is wrong"))
        await lag(bench)
        assert sent_message(bench)[1].snapshot == older.snapshot
        bench.express.end(node=3)
        # It goes on from there.
        bench.hear(3, APPEND_RESPONSE, index=older.index)
        await bench.settle()
        assert mode(bench) == "REPLICATE"
        await bench.stop()

    run(main())


def test_without_any_sound_snapshot_nothing_is_sent_until_there_is_one(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await lead_with_cut_log(bench)
        for info in bench.snapshots.snapshots(1):
            bench.snapshots.mark_damaged(info, Damage(info.path, 0, "a byte is wrong"))
        await lag(bench)
        assert (mode(bench), bench.express.messages) == ("PROBE", [])
        bench.taker.look()
        await until(lambda: not bench.taker._asked)
        await lag(bench)
        assert sent_message(bench)[1].snapshot is not None
        await bench.stop()

    run(main())


@pytest.mark.parametrize(
    ("ending", "is_paused"),
    [
        (Ending.FAILED, True),
        (Ending.REFUSED, True),
        (Ending.TIMED_OUT, True),
        (Ending.PEER_GONE, False),
    ],
)
def test_a_transfer_that_failed_is_tried_again_after_a_pause(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ending: Ending, is_paused: bool
) -> None:
    """Raft asks with every heartbeat: a receiver's full disk was filled again without an end.

    Nothing tested what follows a failed transfer.
    """

    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await lead_with_cut_log(bench)
        await lag(bench)
        bench.express.end(node=3, outcome=Outcome(ending, "the reason"))
        assert f"node 3 has not got the snapshot: {ending.value}: the reason" in caplog.text
        assert bench.count(Counter.SNAPSHOTS_UNSENT_TOTAL) == 1
        bench.now_seconds += RETRY_SECONDS - 0.1
        await lag(bench)
        assert len(bench.express.messages) == 2 - is_paused
        assert mode(bench) == ("PROBE" if is_paused else "SNAPSHOT")
        if is_paused:
            bench.now_seconds += 0.1
            await lag(bench)
            assert len(bench.express.messages) == 2
        bench.express.end(node=3)
        await bench.stop()

    run(main())


def test_a_transfer_ends_with_the_leadership_in_which_it_was_begun(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await lead_with_cut_log(bench)
        await lag(bench)
        bench.courier.look()
        assert bench.express.sources
        bench.hear(2, HEARTBEAT, term=5)
        bench.courier.look()
        assert not bench.express.sources
        await bench.stop()

    run(main())


def test_a_transfer_ends_too_if_its_leader_leads_again_in_a_later_term(tmp_path: Path) -> None:
    """What it says would be ignored at the other end, after the whole transfer."""

    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await lead_with_cut_log(bench)
        await lag(bench)
        bench.hear(2, HEARTBEAT, term=5)
        await bench.settle()
        await bench.lead()
        assert bench.express.sources
        bench.courier.look()
        assert not bench.express.sources
        await bench.stop()

    run(main())


# ---- in: what may come -------------------------------------------------------------------------


def test_a_snapshot_of_a_group_that_is_not_here_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        with pytest.raises(SinkError, match="no replica") as caught:
            bench.courier.open_sink(7, b"")
        assert caught.value.code == "refused"
        bench.courier.received(7, 2, b"")
        assert not bench.fatal
        await bench.stop()

    run(main())


def test_a_message_that_does_not_fit_its_snapshot_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        info = bench.leader_has(9, [b"x"])
        other = bench.leader_has(10, [b"x"])
        await turns()
        await deliver_only(bench, info)

        def packed(**fields: object) -> bytes:
            given = {"kind": SNAPSHOT, "to": 1, "sender": 2, "term": 1, "snapshot": info.snapshot}
            message = Message(**(given | fields))  # type: ignore[arg-type]  # as given
            return pack_item(messages_to_wire([(1, message)]))

        for data in (
            b"\xc1",
            pack_item(["nonsense"]),
            packed(sender=3),
            packed(kind=HEARTBEAT, snapshot=None),
            packed(snapshot=other.snapshot),
            packed(snapshot=info.snapshot._replace(membership=Membership((1, 2)))),
            message_of(info, 2, 1, group=2),
        ):
            caplog.clear()
            bench.courier.received(1, 2, data)
            assert [record.levelname for record in caplog.records] == ["ERROR"]
        await bench.settle()
        assert bench.count(Counter.SNAPSHOTS_RECEIVED_TOTAL) == 0
        assert bench.replica().node.term == 0
        assert not bench.fatal
        await bench.stop()

    run(main())


def on_disk(directory: Path) -> list[str]:
    return [path.name for path in directory.glob("snapshots/*/*")]


async def deliver_only(bench: SnapshotBench, info: SnapshotInfo) -> None:
    """Let a snapshot arrive without its message, as before a crash."""
    bench.courier.received = lambda *_: None  # type: ignore[method-assign]
    await bench.deliver(info)
    del bench.courier.received


def test_a_snapshot_of_a_deposed_leader_is_set_aside_for_its_successors(tmp_path: Path) -> None:
    """The successor's may be older: it was refused, again and again, while the group was idle.

    In the tests before no leader was deposed in the middle of a transfer.
    """

    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        info = bench.leader_has(9, [b"x", b"y"])
        bench.hear(3, HEARTBEAT, term=4)
        await bench.settle()
        await bench.deliver(info, term=3)
        await bench.settle()
        assert bench.indexes() == []
        assert not bench.replica().is_installing
        assert info.path.exists()
        await bench.install(bench.leader_has(7, [b"x"], node=3), sender=3, term=4)
        assert bench.indexes() == [7]
        assert bench.machines[1].payloads == [b"x"]
        assert not bench.fatal
        await bench.stop()

    run(main())


def test_what_a_deposed_leader_sends_makes_room_for_its_successor(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        bench.hear(2, HEARTBEAT, term=3)
        bench.express.receiving[1] = 2
        bench.courier.look()
        assert bench.express.receiving
        bench.hear(2, VOTE, term=4)
        bench.courier.look()
        assert bench.express.receiving, "nobody is known to lead instead"
        bench.hear(3, HEARTBEAT, term=4)
        bench.courier.look()
        assert not bench.express.receiving
        await bench.stop()

    run(main())


def test_a_snapshot_of_what_the_log_has_is_not_installed(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        bench.hear(2, APPEND, term=1, entries=[entry(1, 1, b"a"), entry(1, 2, b"b")])
        await bench.settle()
        await bench.install(bench.leader_has(2, [b"a", b"b"]))
        assert bench.replica().node.commit == 2
        assert bench.machines[1].calls == 1
        assert bench.count(Counter.SNAPSHOTS_INSTALLED_TOTAL) == 0
        # It is as good as one of this node's own.
        assert bench.indexes() == [2]
        await bench.stop()
        again = SnapshotBench(tmp_path)
        assert again.replica().applied == (2, 1, 0)
        await again.stop()

    run(main())


# ---- in: installing ------------------------------------------------------------------------------


def test_an_installed_snapshot_takes_the_place_of_log_state_and_configuration(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path, retained=1)
        bench.hear(2, APPEND, term=1, entries=[entry(1, 1, b"old")], commit=1)
        await bench.settle()
        await bench.take()
        assert bench.indexes() == [1]
        bench.forget()
        members = (1, 2, 3, 4)
        info = bench.leader_has(9, [b"x", b"y"], members=members, membership_index=6)
        await bench.install(info)
        replica = bench.replica()
        assert replica.applied == (9, 1, 6)
        assert replica.members == members
        assert bench.machines[1].payloads == [b"x", b"y"]
        assert bench.first_index() == 10
        assert bench.store.metadata(1).memberships == ((6, Membership(members)),)
        assert bench.count(Counter.SNAPSHOTS_INSTALLED_TOTAL) == 1
        (sent,) = bench.post.sent
        assert (sent.node, sent.message.kind, sent.message.index) == (2, APPEND_RESPONSE, 9)
        # What was before has gone, once the log named the new one.
        assert bench.indexes() == [9]
        assert on_disk(tmp_path) == [f"{9:016x}"]
        # And the log goes on from there.
        bench.hear(2, APPEND, log_term=1, index=9, entries=[entry(1, 10, b"z")], commit=10)
        await bench.settle()
        assert bench.machines[1].payloads == [b"x", b"y", b"z"]
        await bench.stop()
        again = SnapshotBench(tmp_path)
        assert again.machines[1].payloads == [b"x", b"y"]
        assert again.replica().members == members
        await again.stop()

    run(main())


@pytest.mark.parametrize("last", ["log", "machine"])
def test_nothing_is_acknowledged_before_log_and_machine_have_the_snapshot(
    tmp_path: Path, last: str
) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await bench.settle()
        bench.forget()
        gates = {"log": bench.disk.gate, "machine": bench.machines[1].recover_gate}
        for gate in gates.values():
            gate.clear()
        await bench.deliver(bench.leader_has(9, [b"x"]))
        await until(lambda: "sync" in bench.events)
        gates.pop(last, None)
        (first,) = gates.values()
        first.set()
        await until(lambda: "synced" in bench.events or bench.machines[1].payloads)
        await turns()
        # Another leader's question waits as well: the answer would tell of its term.
        bench.hear(3, VOTE, term=4, log_term=4, index=20)
        await turns()
        assert bench.post.sent == []
        bench.disk.gate.set()
        bench.machines[1].recover_gate.set()
        await until(lambda: not bench.courier._installs)
        await bench.settle()
        kinds = [kind.name for kind in bench.post.kinds()]
        assert kinds == ["APPEND_RESPONSE", "VOTE_RESPONSE"] or kinds == ["APPEND_RESPONSE"]
        assert bench.replica().applied == (9, 1, 0)
        await bench.stop()

    run(main())


def test_heartbeats_are_answered_while_a_snapshot_is_being_installed(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        bench.hear(2, HEARTBEAT, term=1)
        await bench.settle()
        bench.machines[1].recover_gate.clear()
        await bench.deliver(bench.leader_has(9, [b"x"]))
        await until(lambda: bench.replica().is_installing)
        await bench.settle()
        bench.forget()
        bench.hear(2, HEARTBEAT, term=1)
        await bench.settle()
        assert bench.post.kinds() == [HEARTBEAT_RESPONSE]
        bench.machines[1].recover_gate.set()
        await until(lambda: not bench.courier._installs)
        await bench.stop()

    run(main())


def test_two_snapshots_in_quick_succession_end_in_the_second(tmp_path: Path) -> None:
    """Bug 33, etcd#18055: the second came while the first was being installed."""

    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        machine = bench.machines[1]
        machine.recover_gate.clear()
        first = bench.leader_has(9, [b"x"])
        second = bench.leader_has(12, [b"x", b"y"])
        # Both are on their way when the first is done: no sink is opened while one is installed.
        sink = bench.courier.open_sink(1, encode_manifest(second.manifest))
        opened = await sink.begin(bench.run_in_thread)
        await bench.deliver(first)
        await until(lambda: bench.replica().is_installing)
        with pytest.raises(SinkError) as caught:
            bench.courier.open_sink(1, encode_manifest(second.manifest))
        assert caught.value.code == "busy"
        await bench.settle()
        data = (second.path / "image").read_bytes()
        assert opened.chunk_count == 1
        sink.write_chunk(0, data)
        await sink.finish(bench.run_in_thread)
        bench.courier.received(1, 2, message_of(second, 2, 1))
        await bench.settle()
        assert bench.replica().installing_index == 12
        assert bench.post.kinds() == []
        machine.recover_gate.set()
        await until(lambda: not bench.courier._installs)
        await bench.settle()
        assert machine.payloads == [b"x", b"y"]
        assert bench.replica().applied == (12, 1, 0)
        assert [sent.message.index for sent in bench.post.sent] == [9, 12]
        assert bench.first_index() == 13
        assert not bench.fatal
        bench.hear(2, APPEND, log_term=1, index=12, entries=[entry(1, 13, b"z")], commit=13)
        await bench.settle()
        assert machine.payloads == [b"x", b"y", b"z"]
        await bench.stop()

    run(main())


def test_a_change_of_the_log_that_a_snapshot_overtakes_is_given_up(tmp_path: Path) -> None:
    """It took effect behind the snapshot, and told its log of an older configuration.

    Nothing was asked of a log whose group was given a snapshot in the same round.
    """

    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        bench.hear(2, APPEND, term=1, entries=[entry(1, 1, b"a")], commit=1)
        await bench.settle()
        members = (1, 2, 3, 4)
        info = bench.leader_has(9, [b"x"], members=members, membership_index=6)
        # While a write runs everything else gathers for the next.
        bench.disk.gate.clear()
        bench.hear(2, APPEND, log_term=1, index=1, entries=[entry(1, 2, b"b")], commit=1)
        await until(lambda: bench.events[-1:] == ["sync"])
        assert bench.taker.ask(1)
        await until(lambda: bench.indexes() == [1])
        await turns()
        await bench.deliver(info)
        await turns()
        bench.disk.gate.set()
        await until(lambda: not bench.courier._installs and not bench.taker._asked)
        await bench.settle()
        assert bench.store.metadata(1).memberships == ((6, Membership(members)),)
        assert not bench.fatal
        await bench.stop()

    run(main())


# ---- in: what goes wrong -------------------------------------------------------------------------


def spoil(info: SnapshotInfo) -> None:
    (info.path / "image").write_bytes(b"?" * info.manifest.size_bytes)


async def other_group_goes_on(bench: SnapshotBench) -> None:
    """Group 1 is out of service, and group 2 is not."""
    assert bench.shared.group_words(1)[GroupWord.STATE] == GroupState.DAMAGED
    assert list(bench.engine.replicas) == [2]
    await bench.commit("on", group=2)
    assert bench.heard[-1] == "on applied 2"
    assert not bench.fatal


def test_a_snapshot_that_proves_damaged_when_it_is_installed_costs_its_group_alone(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path, (1, 2))
        await bench.lead(2)
        await bench.deliver(bench.leader_has(9, [b"x"]))
        spoil(bench.snapshots.snapshots(1)[0])
        await until(lambda: bench.fatal or 1 not in bench.engine.replicas)
        await other_group_goes_on(bench)
        assert bench.indexes() == []
        assert APPEND_RESPONSE not in bench.post.kinds(1)
        await bench.stop()

    run(main())


def test_a_snapshot_that_the_state_machine_refuses_costs_its_group_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It stopped the shard, at once and at each start, and with it all groups of the shard.

    Only damage by the disk had been thought of, not an image of a later version.
    """

    async def main() -> None:
        bench = SnapshotBench(tmp_path, (1, 2))
        await bench.lead(2)
        bench.machines[1].error = ValueError("of a later version")
        await bench.deliver(bench.leader_has(9, [b"x"]))
        await until(lambda: bench.fatal or 1 not in bench.engine.replicas)
        await other_group_goes_on(bench)
        assert "of a later version" in caplog.text
        await bench.stop()
        # A start with a program that takes it serves the group again.
        again = SnapshotBench(tmp_path, (1, 2))
        assert again.machines[1].payloads == [b"x"]
        await again.stop()

    run(main())


def test_a_disk_that_cannot_be_read_stops_the_shard(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        bench.snapshot_disk.read_error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        await bench.deliver(bench.leader_has(9, [b"x"]))
        await until(lambda: bench.fatal)
        assert "cannot read" in str(bench.fatal[0])
        await bench.stop()

    run(main())


def test_a_group_that_goes_out_of_service_meanwhile_is_not_installed(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        bench.machines[1].recover_gate.clear()
        await bench.deliver(bench.leader_has(9, [b"x"]))
        await until(lambda: bench.replica().is_installing)
        await bench.settle()
        damage = Damage(tmp_path, 0, "a byte is wrong")
        bench.engine.condemn(bench.replica(), CorruptionError(damage, 1))
        bench.machines[1].recover_gate.set()
        await until(lambda: not bench.courier._installs)
        await bench.settle()
        assert bench.post.kinds() == []
        assert not bench.fatal
        await bench.stop()

    run(main())


def test_an_installation_is_given_up_at_the_end_and_made_good_at_the_start(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        bench.hear(2, APPEND, term=1, entries=[entry(1, 1, b"old")], commit=1)
        await bench.settle()
        chunks = [b"%d" % number for number in range(50)]
        gate = bench.machines[1].recover_gate
        gate.clear()
        await bench.deliver(bench.leader_has(60, chunks))
        await until(lambda: bench.replica().is_installing)
        await bench.settle()
        assert bench.first_index() == 61
        closing = bench.loop.create_task(bench.courier.close())
        await turns()
        gate.set()
        await closing
        assert not bench.fatal
        await bench.stop()
        again = SnapshotBench(tmp_path)
        assert again.machines[1].payloads == chunks
        assert again.replica().applied == (60, 1, 0)
        await again.stop()

    run(main())


def test_a_snapshot_that_came_before_a_crash_and_was_not_installed_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As one of a deposed leader: the next leader's may be older, and must be taken."""

    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        bench.hear(2, APPEND, term=1, entries=[entry(1, 1, b"old")], commit=1)
        await bench.settle()
        await deliver_only(bench, bench.leader_has(9, [b"x"]))
        await bench.stop()
        again = SnapshotBench(tmp_path)
        assert "is not of the log, and set aside" in caplog.text
        assert again.machines[1].updates == []
        assert again.indexes() == []
        await again.install(again.leader_has(7, [b"y"], node=3), sender=3, term=2)
        assert again.machines[1].payloads == [b"y"]
        await again.stop()

    run(main())
