"""When a group's snapshot is taken, in which order it takes effect, and what a failure costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rafter_core import Change, ChangeKind, ConfChange, EntryKind, Membership, MessageKind
from rafter_core.conf_change import encode
from rafter_storage.errors import CorruptionError, Damage
from rafter_storage.snapshot_reader import SnapshotInfo
from rafter_storage.snapshot_writer import SnapshotDraft
from rafterd import snapshot_taker
from rafterd.config_schema import SnapshotSection
from rafterd.shared import Counter, GroupState, GroupWord
from rafterd.snapshot_taker import PAUSE_SECONDS_MAX, RETRY_SECONDS
from tests.daemon.engine_bench import SEGMENT_BYTES, Journal, entry, run, turns, until
from tests.daemon.snapshot_bench import LIMITS, SnapshotBench

APPEND = MessageKind.APPEND


def leftovers(directory: Path) -> list[str]:
    """Snapshots on disk that are not published."""
    return [path.name for path in directory.glob("snapshots/*/*") if "." in path.name]


async def looked(bench: SnapshotBench) -> None:
    """Let the taker look, and wait until it has taken what was due."""
    bench.taker.look()
    await until(lambda: bench.fatal or not bench.taker._asked)
    await bench.settle()


# ---- when ------------------------------------------------------------------------------------


def test_a_snapshot_is_due_when_the_log_since_the_last_one_weighs_enough(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await bench.lead()
        await bench.commit("a" * 1023)
        await looked(bench)
        assert bench.indexes() == []
        await bench.commit("b")
        await looked(bench)
        assert bench.indexes() == [3]
        assert bench.count(Counter.SNAPSHOTS_TAKEN_TOTAL) == 1
        # It begins anew; and now as much is needed as that snapshot has, which is more.
        await bench.commit("c" * 1026)
        await looked(bench)
        assert bench.indexes() == [3]
        await bench.commit("d" * 10)
        await looked(bench)
        assert bench.indexes() == [3, 5]
        await bench.stop()

    run(main())


def test_a_snapshot_is_due_after_so_many_entries_however_small(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path, limits=SnapshotSection(log_bytes=1024, log_entries=3))
        await bench.lead()
        await bench.commit("a")
        await looked(bench)
        assert bench.indexes() == []
        await bench.commit("b")
        await looked(bench)
        assert bench.indexes() == [3]
        await looked(bench)
        assert bench.count(Counter.SNAPSHOTS_TAKEN_TOTAL) == 1
        await bench.stop()

    run(main())


def test_a_follower_takes_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        entries = [entry(1, 1, b"a" * 600), entry(1, 2, b"b" * 600)]
        bench.hear(2, APPEND, term=1, entries=entries)
        await bench.settle()
        bench.hear(2, APPEND, term=1, log_term=1, index=2, commit=2)
        await bench.settle()
        await looked(bench)
        assert bench.indexes() == [2]
        await bench.stop()

    run(main())


def test_a_group_is_asked_for_once_at_a_time_and_not_after_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await bench.lead()
        await bench.commit("a")
        assert bench.taker.ask(1)
        assert not bench.taker.ask(1)
        await until(lambda: bench.indexes() == [2])
        await until(lambda: not bench.taker._asked)
        # Nothing was applied since: there is nothing to take.
        await bench.take()
        assert bench.count(Counter.SNAPSHOTS_TAKEN_TOTAL) == 1
        bench.taker.close()
        assert not bench.taker.ask(1)
        await bench.stop()

    run(main())


# ---- what is in it ---------------------------------------------------------------------------


def test_an_image_is_of_one_moment_and_updates_go_on_meanwhile(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await bench.lead()
        await bench.commit("a", "b")
        machine = bench.machines[1]
        machine.save_gate.clear()
        assert bench.taker.ask(1)
        await until(lambda: machine.saving)
        await bench.commit("c")
        assert machine.payloads == [b"a", b"b", b"c"]
        machine.save_gate.set()
        await until(lambda: bench.indexes() == [3])
        await until(lambda: not bench.taker._asked)
        # What was applied meanwhile still counts for the next one.
        assert bench.replica().logged_bytes == 1
        await bench.stop()
        again = SnapshotBench(tmp_path)
        assert again.machines[1].payloads == [b"a", b"b"]
        await again.stop()

    run(main())


def test_a_snapshot_carries_the_configuration_in_force_there(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path, limits=LIMITS)
        change = encode(ConfChange((Change(ChangeKind.ADD_VOTER, 4),)))
        entries = [entry(1, 1, b"a")]
        entries.append(entry(1, 2)._replace(kind=EntryKind.CONFIG_CHANGE_V2, payload=change))
        entries.append(entry(1, 3, b"b"))
        bench.hear(2, APPEND, term=1, entries=entries, commit=3)
        await bench.settle()
        await bench.take()
        newest = bench.snapshots.newest(1)
        assert newest is not None
        assert (newest.membership, newest.membership_index) == (Membership((1, 2, 3, 4)), 2)
        assert bench.store.metadata(1).memberships == ((2, Membership((1, 2, 3, 4))),)
        await bench.stop()
        again = SnapshotBench(tmp_path)
        assert again.replica().members == (1, 2, 3, 4)
        assert again.replica().applied == (3, 1, 2)
        await again.stop()

    run(main())


def test_an_empty_state_has_a_snapshot_too(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await bench.lead()
        await bench.take()
        await bench.stop()
        again = SnapshotBench(tmp_path)
        assert again.replica().applied == (1, 1, 0)
        assert again.machines[1].updates == []
        await again.stop()

    run(main())


# ---- the order of durability -----------------------------------------------------------------


def test_it_is_durable_then_named_and_the_log_cut_then_older_ones_go(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await bench.lead()
        for name in "abc":
            await bench.commit(name)
            if name != "c":
                await bench.take()
        assert bench.indexes() == [2, 3]
        assert bench.first_index() == 3
        bench.disk.gate.clear()
        bench.forget()
        assert bench.taker.ask(1)
        await until(lambda: "sync" in bench.events)
        # It is published, and all that the log says is still true.
        assert (tmp_path / "snapshots" / f"{1:020d}" / f"{4:016x}").is_dir()
        assert bench.indexes() == [2, 3, 4]
        assert (bench.store.metadata(1).snapshot_index, bench.first_index()) == (3, 3)
        bench.disk.gate.set()
        await until(lambda: not bench.taker._asked)
        assert bench.indexes() == [3, 4]
        assert (bench.store.metadata(1).snapshot_index, bench.first_index()) == (4, 4)
        assert leftovers(tmp_path) == []
        await bench.stop()
        again = SnapshotBench(tmp_path)
        assert again.machines[1].payloads == [b"a", b"b", b"c"]
        await again.stop()

    run(main())


def test_the_log_reaches_back_to_the_snapshot_before_should_the_newest_prove_damaged(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await bench.lead()
        for name in "abc":
            await bench.commit(name)
            await bench.take()
        await bench.commit("d")
        spoil(bench.snapshots.snapshots(1)[-1])
        await bench.stop()
        again = SnapshotBench(tmp_path)
        assert again.machines[1].payloads == [b"a", b"b"]
        again.hear(2, APPEND, term=2, log_term=1, index=5, commit=5)
        await again.settle()
        assert again.machines[1].payloads == [b"a", b"b", b"c", b"d"]
        assert [damaged.index for damaged in again.snapshots.damaged] == [4]
        await again.take()
        assert again.indexes() == [3, 5]
        assert again.snapshots.damaged == []
        await again.stop()

    run(main())


def spoil(info: SnapshotInfo) -> None:
    """Change a byte of an image."""
    path = info.path / "image"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def test_a_damaged_snapshot_is_replaced_though_nothing_was_written_since(tmp_path: Path) -> None:
    """Else a follower that lags behind an idle group's cut log would wait for ever.

    Earlier tests damaged snapshots of groups that were written to afterwards.
    """

    async def main() -> None:
        bench = SnapshotBench(tmp_path, retained=1)
        await bench.lead()
        await bench.commit("a")
        await bench.take()
        newest = bench.snapshots.snapshots(1)[0]
        spoil(newest)
        bench.snapshots.mark_damaged(newest, Damage(newest.path, 0, "a byte is wrong"))
        await looked(bench)
        assert bench.indexes() == [2]
        assert bench.snapshots.verify(bench.snapshots.snapshots(1)[0]) == []
        assert bench.snapshots.damaged == []
        assert leftovers(tmp_path) == []
        assert not bench.fatal
        await bench.stop()

    run(main())


def test_a_crash_between_snapshot_and_record_costs_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await bench.lead()
        for name in "ab":
            await bench.commit(name)
            await bench.take()
        await bench.commit("c")
        bench.engine.change = lambda change, on_end: None  # type: ignore[method-assign]  # no job
        assert bench.taker.ask(1)
        await until(lambda: bench.indexes() == [2, 3, 4])
        bench.working.cancel()
        await turns()
        bench.close()
        again = SnapshotBench(tmp_path)
        assert again.store.metadata(1).snapshot_index == 3
        assert again.machines[1].payloads == [b"a", b"b", b"c"]
        await again.lead()
        await again.commit("d")
        await again.take()
        assert again.indexes() == [4, 6]
        assert again.first_index() == 5
        await again.stop()

    run(main())


def test_a_crash_that_forgets_how_much_was_committed_does_not_hinder_a_snapshot_of_it(
    tmp_path: Path,
) -> None:
    """The log was cut where its writes said that less was committed: the next one was refused.

    After a restart the tests before took snapshots of later entries only.
    """

    async def main() -> None:
        bench = SnapshotBench(tmp_path, retained=1)
        bench.hear(2, APPEND, term=1, entries=[entry(1, 1, b"a")])
        await bench.settle()
        # The commit index alone is not written down.
        bench.hear(2, APPEND, term=1, log_term=1, index=1, commit=1)
        await bench.settle()
        bench.engine.change = lambda change, on_end: None  # type: ignore[method-assign]  # no job
        assert bench.taker.ask(1)
        await until(lambda: bench.indexes() == [1])
        bench.working.cancel()
        await turns()
        bench.close()
        again = SnapshotBench(tmp_path, retained=1)
        (info,) = again.snapshots.snapshots(1)
        again.snapshots.mark_damaged(info, Damage(info.path, 0, "a byte is wrong"))
        await looked(again)
        assert again.first_index() == 2
        again.hear(2, APPEND, term=1, log_term=1, index=1, entries=[entry(1, 2, b"b")], commit=1)
        await again.settle()
        assert again.replica().node.last_index == 2
        assert not again.fatal
        await again.stop()

    run(main())


def test_the_log_is_not_cut_behind_a_snapshot_that_is_being_sent(tmp_path: Path) -> None:
    """Its receiver has to go on from there, or it gets one snapshot after the other for ever.

    Earlier tests sent snapshots while nothing was written.
    """

    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await bench.lead()
        await bench.commit("a")
        await bench.take()
        reader = bench.snapshots.read(bench.snapshots.snapshots(1)[0])
        for name in "bcd":
            await bench.commit(name)
            await bench.take()
        assert bench.indexes() == [2, 4, 5]
        assert bench.first_index() == 3
        reader.close()
        await bench.commit("e")
        await bench.take()
        assert bench.indexes() == [5, 6]
        assert bench.first_index() == 6
        await bench.stop()

    run(main())


def test_a_full_disk_comes_before_those_who_are_sent_a_snapshot(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await bench.lead()
        await bench.commit("a")
        await bench.take()
        reader = bench.snapshots.read(bench.snapshots.snapshots(1)[0])
        await bench.commit("b")
        await bench.take()
        bench.store._keeper.is_disk_full = True
        await bench.commit("c")
        await bench.take()
        assert bench.first_index() == 4
        reader.close()
        await bench.stop()

    run(main())


def test_the_record_of_a_snapshot_waits_for_room_in_the_log(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path, members=(1,))
        await bench.lead()
        bench.disk.is_full = True
        large = "x" * (SEGMENT_BYTES // 3)
        for number in range(4):
            bench.propose(f"{number}{large}")
            await bench.settle()
        assert bench.taker.ask(1)
        await until(lambda: len(bench.indexes()) == 1)
        await bench.settle()
        assert bench.taker._asked == {1}
        assert bench.store.metadata(1).snapshot_index == 0
        bench.disk.is_full = False
        bench.engine.housekeep()
        await until(lambda: not bench.taker._asked)
        assert bench.store.metadata(1).snapshot_index == bench.indexes()[0]
        assert not bench.fatal
        await bench.stop()

    run(main())


# ---- what fails, and what is given up ----------------------------------------------------------


def fill_disk(bench: SnapshotBench, is_on: bool) -> None:
    bench.snapshot_disk.is_full = is_on


def fail_syncs(bench: SnapshotBench, is_on: bool) -> None:
    bench.snapshot_disk.has_bad_syncs = is_on


def break_machine(bench: SnapshotBench, is_on: bool) -> None:
    bench.machines[1].error = ValueError("a bug") if is_on else None


@pytest.mark.parametrize("fail", [fill_disk, fail_syncs, break_machine])
def test_a_failure_costs_this_snapshot_and_another_try_follows_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fail: Callable[[SnapshotBench, bool], None]
) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await bench.lead()
        await bench.commit("a" * 2000)
        fail(bench, True)
        await looked(bench)
        assert bench.count(Counter.SNAPSHOTS_FAILED_TOTAL) == 1
        (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert record.getMessage().startswith("group 1: no snapshot of index 2: ")
        assert leftovers(tmp_path) == []
        assert bench.machines[1].saving == 0
        fail(bench, False)
        bench.now_seconds += RETRY_SECONDS - 1
        await looked(bench)
        assert bench.indexes() == []
        bench.now_seconds += 1
        await looked(bench)
        assert bench.indexes() == [2]
        assert not bench.fatal
        await bench.stop()

    run(main())


async def taking(bench: SnapshotBench) -> Journal:
    """Lead, commit, and hold the snapshot before its second chunk."""
    await bench.lead()
    await bench.commit("a", "b")
    machine = bench.machines[1]
    machine.save_gate.clear()
    assert bench.taker.ask(1)
    await until(lambda: machine.saving)
    return machine


def test_a_snapshot_under_way_is_given_up_at_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        machine = await taking(bench)
        bench.taker.close()
        machine.save_gate.set()
        await bench.working
        assert (bench.indexes(), machine.saving, leftovers(tmp_path)) == ([], 0, [])
        assert bench.count(Counter.SNAPSHOTS_FAILED_TOTAL) == 0
        await bench.stop()

    run(main())


def test_the_snapshot_of_a_group_that_goes_out_of_service_stops_nothing_else(
    tmp_path: Path,
) -> None:
    """Its record was asked for all the same, and the log refused the whole write: a dead shard.

    The tests before condemned groups of which no snapshot was being taken.
    """

    async def main() -> None:
        bench = SnapshotBench(tmp_path, (1, 2))
        await bench.lead(2)
        machine = await taking(bench)
        # The last chunk has been written when the log proves damaged.
        admit = bench.snapshots.admit

        def admit_condemned(draft: SnapshotDraft) -> SnapshotInfo:
            damage = Damage(tmp_path, 0, "a byte is wrong")
            bench.engine.condemn(bench.replica(), CorruptionError(damage, 1))
            return admit(draft)

        bench.snapshots.admit = admit_condemned  # type: ignore[method-assign]  # at the worst moment
        machine.save_gate.set()
        await until(lambda: not bench.taker._asked)
        assert machine.saved_chunks == 2
        await bench.commit("c", group=2)
        assert bench.heard[-1] == "c applied 2"
        assert bench.shared.group_words(1)[GroupWord.STATE] == GroupState.DAMAGED
        assert not bench.fatal
        await bench.stop()

    run(main())


def test_a_snapshot_is_given_up_when_the_state_is_replaced_meanwhile(tmp_path: Path) -> None:
    """Also if that began and ended between two chunks: part of the image may be of no state.

    Nothing tested an installation while a snapshot was being taken.
    """

    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        machine = await taking(bench)
        info = bench.leader_has(9, [b"x", b"y"], term=2)
        await bench.install(info, term=2)
        assert machine.payloads == [b"x", b"y"]
        machine.save_gate.set()
        await until(lambda: not bench.taker._asked)
        assert bench.indexes() == [9]
        assert (machine.saving, leftovers(tmp_path)) == (0, [])
        assert bench.count(Counter.SNAPSHOTS_FAILED_TOTAL) == 0
        assert bench.replica().applied == (9, 2, 0)
        await bench.stop()

    run(main())


def test_nothing_is_taken_while_a_snapshot_is_being_installed(tmp_path: Path) -> None:
    async def main() -> None:
        bench = SnapshotBench(tmp_path)
        await bench.lead()
        await bench.commit("a" * 2000)
        machine = bench.machines[1]
        machine.recover_gate.clear()
        await bench.deliver(bench.leader_has(9, [b"x"], term=2), term=2)
        await until(lambda: bench.replica().is_installing)
        await bench.take()
        bench.taker.look()
        assert not bench.taker._asked
        machine.recover_gate.set()
        await until(lambda: not bench.replica().is_installing)
        await bench.settle()
        assert bench.indexes() == [9]
        assert bench.replica().logged_bytes == 0
        await bench.stop()

    run(main())


@pytest.mark.parametrize("retained", [1, 2])
def test_a_snapshot_that_came_meanwhile_is_no_reason_to_cut_or_to_let_go(
    tmp_path: Path, retained: int
) -> None:
    """With one retained, the log was to be cut beyond the snapshot that it names: a dead shard.

    The tests before knew received snapshots only together with their installation.
    """

    async def main() -> None:
        bench = SnapshotBench(tmp_path, retained=retained)
        machine = await taking(bench)
        info = bench.leader_has(9, [b"x"])

        admit = bench.snapshots.admit

        def admit_both(draft: SnapshotDraft) -> SnapshotInfo:
            admitted = admit(draft)
            receiver = bench.snapshots.receive(info.manifest)
            assert not isinstance(receiver, SnapshotInfo)
            receiver.write_chunk("image", 0, (info.path / "image").read_bytes())
            receiver.finish()
            admit(receiver)
            return admitted

        bench.snapshots.admit = admit_both  # type: ignore[method-assign]  # at the worst moment
        machine.save_gate.set()
        await until(lambda: not bench.taker._asked)
        await bench.settle()
        assert not bench.fatal
        assert bench.indexes() == [3, 9]
        assert bench.first_index() <= 4
        await bench.stop()
        # It did not become the log: the start does without it.
        again = SnapshotBench(tmp_path, retained=retained)
        assert again.machines[1].payloads == [b"a", b"b"]
        await again.stop()

    run(main())


# ---- beside the event loop -------------------------------------------------------------------


class Clock:
    """The time that a thread uses, and its rests."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rests: list[float] = []

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.now += seconds


def test_a_thread_rests_as_long_as_a_chunk_took_within_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(snapshot_taker, "time", clock)

    def made() -> Iterator[bytes]:
        for chunk in (b"a", b"b", b"c"):
            clock.now += 0.001
            yield chunk

    used = []
    for chunk in snapshot_taker.paced(made()):
        clock.now += 0.002 if chunk == b"a" else 1.0
        used.append(chunk)
    assert used == [b"a", b"b", b"c"]
    assert clock.rests == pytest.approx([0.003, PAUSE_SECONDS_MAX, PAUSE_SECONDS_MAX])
