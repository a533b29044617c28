"""The engine over a real log: what leaves when, what is synced together, and what stops it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rafter_core import (
    DecodeError,
    HardState,
    InvariantError,
    Message,
    MessageKind,
)
from rafter_core.messages import CAMPAIGN_TRANSFER
from rafter_storage.errors import CorruptionError, Damage, Poisoned
from rafter_storage.segment_manager import GroupWrite
from rafterd.replica import Replica
from rafterd.shared import Counter, GroupState, GroupWord
from tests.daemon.engine_bench import (
    ELECTION_TIMEOUT_TICKS,
    SEGMENT_BYTES,
    EngineBench,
    entry,
    read_back,
    run,
    to_item,
    turns,
    until,
)

APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
HEARTBEAT = MessageKind.HEARTBEAT
SNAPSHOT = MessageKind.SNAPSHOT
VOTE = MessageKind.VOTE
VOTE_RESPONSE = MessageKind.VOTE_RESPONSE

every_sync_mode = pytest.mark.parametrize("sync_mode", ["thread", "inline"])


# ---- what is spoken of is durable ------------------------------------------------------------


def test_a_vote_leaves_only_after_its_sync_returned(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        await turns()
        bench.disk.gate.clear()
        bench.hear(2, VOTE, term=4)
        await until(lambda: bench.events == ["sync"])
        await turns()
        assert not bench.post.sent
        assert not bench.post.queued
        bench.disk.gate.set()
        await bench.settle()
        (sent,) = bench.post.sent
        assert (sent.node, sent.message.kind, sent.message.reject) == (2, VOTE_RESPONSE, False)
        assert bench.events == ["sync", "synced", "flush"]
        bench.close()
        assert read_back(tmp_path)[0] == HardState(4, 2, 0)

    run(main())


def test_the_request_for_votes_leaves_after_the_own_vote_is_durable(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        bench.disk.gate.clear()
        bench.replica().node.campaign()
        await until(lambda: bench.events == ["sync"])
        await turns()
        assert not bench.post.sent
        bench.disk.gate.set()
        await bench.settle()
        assert bench.post.kinds() == [VOTE, VOTE]
        bench.close()
        assert read_back(tmp_path)[0] == HardState(1, 1, 0)

    run(main())


@every_sync_mode
def test_an_append_is_acknowledged_after_its_sync(tmp_path: Path, sync_mode: str) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path, sync_mode=sync_mode)
        bench.hear(2, APPEND, term=1, entries=[entry(1, 1, b"a")])
        await bench.settle()
        assert bench.post.kinds() == [APPEND_RESPONSE]
        assert bench.events == ["sync", "synced", "flush"]
        bench.close()
        assert read_back(tmp_path)[1] == [entry(1, 1, b"a")]

    run(main())


def test_an_acknowledgement_without_entries_of_its_own_waits_for_earlier_syncs(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        bench.disk.gate.clear()
        bench.hear(2, APPEND, term=1, entries=[entry(1, 1, b"a")])
        await until(lambda: bench.events == ["sync"])
        # The same append once more: its answer speaks of an entry that is not durable yet.
        bench.hear(2, APPEND, term=1, entries=[entry(1, 1, b"a")])
        await turns()
        assert not bench.post.sent
        bench.disk.gate.set()
        await bench.settle()
        assert bench.post.kinds() == [APPEND_RESPONSE, APPEND_RESPONSE]
        assert bench.events.count("sync") == 1
        bench.close()

    run(main())


def test_an_answer_that_rests_on_nothing_new_needs_no_sync(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        bench.hear(2, APPEND, term=1, entries=[entry(1, 1)])
        await bench.settle()
        bench.forget()
        bench.hear(2, HEARTBEAT)
        bench.hear(2, APPEND, entries=[entry(1, 1)])
        await bench.settle()
        assert sorted(bench.post.kinds()) == [APPEND_RESPONSE, MessageKind.HEARTBEAT_RESPONSE]
        assert bench.events == ["flush"]
        bench.close()

    run(main())


# ---- the leader does not wait for its own disk -----------------------------------------------


def test_appends_leave_while_the_leaders_own_sync_runs(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        await bench.lead()
        bench.disk.gate.clear()
        bench.propose("a")
        await until(lambda: len(bench.post.sent) == 2)
        assert bench.post.kinds() == [APPEND, APPEND]
        assert "synced" not in bench.events
        bench.close()

    run(main())


def test_with_an_inline_flusher_too_appends_leave_before_the_leaders_own_sync(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path, sync_mode="inline")
        await bench.lead()
        bench.propose("a")
        await bench.settle()
        assert bench.events[:3] == ["flush", "sync", "synced"]
        bench.close()

    run(main())


def test_followers_alone_can_commit_but_the_leader_applies_after_its_own_sync(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        await bench.lead()
        bench.disk.gate.clear()
        bench.propose("a")
        await until(lambda: bench.post.sent)
        bench.acknowledge(2)
        bench.acknowledge(3)
        await turns()
        assert bench.replica().node.commit == 2
        assert bench.heard == []
        bench.disk.gate.set()
        await until(lambda: bench.heard)
        assert bench.heard == ["a before", "a applied 2"]
        bench.close()

    run(main())


def test_the_own_vote_for_an_entry_counts_only_once_its_sync_returned(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        await bench.lead()
        bench.disk.gate.clear()
        bench.propose("a")
        await until(lambda: bench.post.sent)
        bench.acknowledge(2)
        await turns()
        assert bench.replica().node.commit == 1
        bench.disk.gate.set()
        await until(lambda: bench.replica().node.commit == 2)
        bench.close()

    run(main())


# ---- one write for all -----------------------------------------------------------------------


@every_sync_mode
def test_all_groups_of_a_round_share_one_write_and_one_sync(tmp_path: Path, sync_mode: str) -> None:
    async def main() -> None:
        groups = (1, 2, 3, 4)
        bench = EngineBench(tmp_path, groups, members=(1,), sync_mode=sync_mode)
        await bench.lead(*groups)
        before = bench.store.statistics()
        for group in groups:
            bench.propose(f"g{group}", group)
        await until(lambda: len(bench.heard) == 8)
        after = bench.store.statistics()
        assert (after.jobs - before.jobs, after.syncs - before.syncs) == (1, 1)
        assert after.records - before.records == len(groups)
        bench.engine.publish_storage()
        counters = bench.shared.counter_words(0)
        assert counters[Counter.WAL_SYNCS_TOTAL] == after.syncs
        assert counters[Counter.WAL_BYTES_TOTAL] == after.appended_bytes
        bench.close()

    run(main())


def test_what_arrives_while_a_job_runs_becomes_the_next_job(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path, (1, 2), members=(1,))
        await bench.lead(1, 2)
        before = bench.store.statistics()
        bench.disk.gate.clear()
        bench.propose("first")
        await until(lambda: bench.events.count("sync") == 1)
        for number in range(5):
            bench.propose(f"next{number}", 1 + number % 2)
            await turns()
        assert bench.events.count("sync") == 1
        bench.disk.gate.set()
        await until(lambda: len(bench.heard) == 12)
        assert bench.store.statistics().jobs - before.jobs == 2
        bench.close()
        assert [e.payload for e in read_back(tmp_path)[1]] == [
            b"", b"first", b"next0", b"next2", b"next4",
        ]  # fmt: skip

    run(main())


def test_a_commit_index_alone_is_not_worth_a_sync(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        bench.hear(2, APPEND, term=1, entries=[entry(1, 1), entry(1, 2)])
        await bench.settle()
        before = bench.store.statistics()
        bench.forget()
        bench.hear(2, HEARTBEAT, commit=2)
        await bench.settle()
        assert bench.replica().node.applied == 2
        assert bench.store.statistics() == before
        assert bench.events == ["flush"]
        bench.close()

    run(main())


def test_a_commit_index_rides_along_with_the_next_record(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        bench.hear(2, APPEND, term=1, entries=[entry(1, 1), entry(1, 2)])
        await bench.settle()
        bench.hear(2, HEARTBEAT, commit=2)
        await bench.settle()
        bench.hear(2, APPEND, log_term=1, index=2, entries=[entry(1, 3)], commit=2)
        await bench.settle()
        bench.close()
        assert read_back(tmp_path)[0] == HardState(1, 0, 2)

    run(main())


def test_a_commit_index_has_no_record_of_its_own_in_the_next_write_either(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        bench.disk.gate.clear()
        bench.hear(2, APPEND, term=1, entries=[entry(1, 1)])
        await until(lambda: bench.events == ["sync"])
        bench.hear(2, HEARTBEAT, commit=1)
        await turns()
        bench.hear(2, APPEND, log_term=1, index=1, entries=[entry(1, 2)], commit=1)
        await turns()
        del bench.store.written[:]
        bench.disk.gate.set()
        await bench.settle()
        assert bench.store.written == [GroupWrite(1, HardState(1, 0, 1), [entry(1, 2)])]
        bench.close()

    run(main())


def test_a_record_never_carries_a_hard_state_newer_than_its_own_ready(tmp_path: Path) -> None:
    """Else it would speak of a vote whose Ready is not written, or commit what it does not hold."""

    async def main() -> None:
        bench = EngineBench(tmp_path, (1, 2), members=(1, 2, 3))
        bench.disk.gate.clear()
        bench.hear(2, VOTE, 2, term=1)
        await until(lambda: bench.events == ["sync"])
        bench.hear(2, APPEND, term=1, entries=[entry(1, 1)])
        await turns()
        bench.hear(2, APPEND, term=1, log_term=1, index=1, entries=[entry(1, 2)], commit=2)
        await turns()
        bench.hear(3, VOTE, term=5, log_term=1, index=2, context=CAMPAIGN_TRANSFER)
        await turns()
        del bench.store.written[:]
        bench.disk.gate.set()
        await bench.settle()
        assert [
            (write.hard_state, write.entries[-1].index if write.entries else 0)
            for write in bench.store.written
        ] == [
            (HardState(1, 0, 0), 1),
            (HardState(1, 0, 2), 2),
            (HardState(5, 3, 2), 0),
        ]
        bench.close()
        assert read_back(tmp_path)[0] == HardState(5, 3, 2)

    run(main())


# ---- what goes wrong -------------------------------------------------------------------------


@every_sync_mode
def test_a_failed_sync_stops_the_shard_and_nothing_is_acknowledged_after_it(
    tmp_path: Path, sync_mode: str
) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path, (1, 2), sync_mode=sync_mode)
        await bench.lead(2)
        bench.disk.error = OSError(errno.EIO, os.strerror(errno.EIO))
        bench.hear(2, APPEND, term=1, entries=[entry(1, 1)])
        await until(lambda: bench.fatal)
        assert [type(error) for error in bench.fatal] == [Poisoned]
        assert not bench.post.sent
        # Neither what waited nor what comes now is answered, though the disk works again.
        bench.disk.error = None
        bench.hear(2, APPEND, term=1, entries=[entry(1, 1)])
        bench.hear(3, VOTE, term=9)
        bench.propose("late", 2)
        bench.engine.tick()
        await turns()
        assert not bench.post.sent
        assert not bench.post.queued
        assert bench.heard == []
        assert len(bench.fatal) == 1
        bench.close()

    run(main())


def test_an_error_of_the_round_stops_the_shard_before_anything_is_sent(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        await bench.lead()
        failure = ValueError("a bug")

        def fail() -> None:
            raise failure

        bench.listeners[1].on_advance = fail
        bench.propose("a")
        await turns()
        assert bench.fatal == [failure]
        assert not bench.post.sent
        bench.close()

    run(main())


def test_a_message_in_another_nodes_name_is_a_decode_error(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        forged = Message(kind=VOTE, to=1, sender=3, term=7)
        with pytest.raises(DecodeError, match="node 2 sent a message in the name of 3"):
            bench.engine.receive(2, 0, [to_item(1, forged)])
        with pytest.raises(DecodeError):
            bench.engine.receive(2, 0, [["nonsense"]])
        await bench.settle()
        assert bench.replica().node.term == 0
        assert not bench.fatal
        bench.close()

    run(main())


def test_messages_before_a_malformed_one_have_their_effect(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        good = Message(kind=VOTE, to=1, sender=2, term=3)
        with pytest.raises(DecodeError):
            bench.engine.receive(2, 0, [to_item(1, good), None])
        await bench.settle()
        assert bench.post.kinds() == [VOTE_RESPONSE]
        bench.close()

    run(main())


def test_messages_for_groups_that_are_not_here_are_dropped(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        message = Message(kind=VOTE, to=1, sender=2, term=3)
        bench.engine.receive(2, 0, [to_item(77, message)])
        await bench.settle()
        assert not bench.post.sent
        assert not bench.fatal
        bench.close()

    run(main())


def test_a_message_that_no_correct_peer_sends_is_logged_and_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        await bench.lead()
        bench.hear(2, APPEND)  # a second leader of one term
        bench.hear(9, APPEND_RESPONSE, index=1)  # no member
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
        assert "group 1 refused a message of node 2, shard 0" in caplog.messages[0]
        bench.propose("a")
        bench.acknowledge(2)
        await until(lambda: bench.heard)
        assert not bench.fatal
        bench.close()

    run(main())


def test_a_broken_invariant_is_left_to_the_caller(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        with pytest.raises(InvariantError, match="commit index 9 is beyond"):
            bench.hear(2, HEARTBEAT, term=1, commit=9)
        bench.close()

    run(main())


# ---- leadership, time and links --------------------------------------------------------------


def test_a_leader_that_hears_no_quorum_tells_at_once_who_waits(tmp_path: Path) -> None:
    """It steps down without a Ready: waiters and route were stale until the next election."""

    async def main() -> None:
        bench = EngineBench(tmp_path)
        await bench.lead()
        bench.propose("a")
        await bench.settle()
        for _ in range(2 * ELECTION_TIMEOUT_TICKS):
            bench.engine.tick()
            await bench.settle()
            if not bench.replica().is_leader:
                break
        assert bench.heard == ["a lost", "leadership lost"]
        assert bench.routes == [(1, 0, 1)]
        bench.close()

    run(main())


def test_ticks_alone_elect_a_single_voter(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path, members=(1,))
        await bench.settle()
        for _ in range(2 * ELECTION_TIMEOUT_TICKS):
            bench.engine.tick()
            await bench.settle()
        assert bench.replica().is_leader
        assert bench.routes[-1] == (1, 1, 1)
        bench.replica().publish()
        words = bench.shared.group_words(1)
        assert (words[GroupWord.COMMIT], words[GroupWord.APPLIED]) == (1, 1)
        bench.close()

    run(main())


def test_messages_go_to_the_shard_that_owns_the_group_at_the_receiver(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path, (5,))
        bench.shards.counts |= {2: 3, 3: None}
        bench.replica(5).node.campaign()
        await bench.settle()
        assert [(sent.node, sent.shard) for sent in bench.post.sent] == [(2, 5 % 3)]
        bench.close()

    run(main())


def test_a_broken_link_makes_the_leader_probe_the_groups_behind_it_alone(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path, (1, 2))
        bench.shards.counts[2] = 2
        await bench.lead(1, 2)
        bench.engine.report_unreachable(2, 1)
        modes = [bench.replica(group).node.status().progress[2].mode for group in (1, 2)]
        assert [mode.name for mode in modes] == ["PROBE", "REPLICATE"]
        bench.close()

    run(main())


def test_a_closed_engine_sends_nothing_more(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        await bench.lead()
        bench.propose("a")
        bench.engine.before_round = lambda: bench.events.append("round")
        bench.close()
        bench.engine.schedule()
        await turns()
        assert not bench.post.sent
        assert "round" not in bench.events
        assert not bench.fatal

    run(main())


def test_the_round_runs_its_steps_in_order_and_once_for_many_marks(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path)
        await bench.lead()
        bench.engine.before_round = lambda: bench.events.append("before")
        bench.engine.after_round = lambda: bench.events.append("after")
        bench.disk.gate.clear()
        bench.propose("a")
        bench.engine.mark(bench.replica())
        bench.engine.schedule()
        bench.engine.schedule()
        await until(lambda: "sync" in bench.events)
        await turns()
        order = [event for event in bench.events if event != "sync"]
        assert order == ["before", "flush", "after"]
        bench.close()

    run(main())


# ---- the disk in order -----------------------------------------------------------------------


@every_sync_mode
def test_a_write_without_room_waits_and_is_acknowledged_once_there_is(
    tmp_path: Path, sync_mode: str
) -> None:
    """architecture.md, 8.6: a full disk stops no shard, loses nothing, and heals by itself."""

    async def main() -> None:
        bench = EngineBench(tmp_path, members=(1,), sync_mode=sync_mode)
        await bench.lead()
        bench.disk.is_full = True
        large = "x" * (SEGMENT_BYTES // 3)
        for number in range(4):
            bench.propose(f"{number}{large}")
            await bench.settle()
        assert bench.engine.is_disk_full
        assert len(bench.heard) == 2 * 2
        bench.engine.housekeep()
        await bench.settle()
        assert len(bench.heard) == 2 * 2
        bench.disk.is_full = False
        bench.engine.housekeep()
        await bench.settle()
        assert len(bench.heard) == 2 * 4
        assert not bench.engine.is_disk_full
        assert not bench.fatal
        bench.engine.publish_storage()
        assert bench.shared.counter_words(0)[Counter.WAL_IS_DISK_FULL] == 0
        bench.close()
        assert [e.payload[:1] for e in read_back(tmp_path)[1]] == [b"", b"0", b"1", b"2", b"3"]

    run(main())


@every_sync_mode
def test_an_idle_engine_makes_a_spare_and_then_rests(tmp_path: Path, sync_mode: str) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path, members=(1,), sync_mode=sync_mode, spares_max=1)
        bench.engine.housekeep()
        await until(lambda: list((tmp_path / "wal").glob("spare-*.free")))
        await bench.settle()
        bench.forget()
        bench.engine.housekeep()
        await bench.settle()
        assert "sync" not in bench.events
        bench.close()

    run(main())


def test_a_spare_that_cannot_be_made_tells_early_and_heals(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path, members=(1,), spares_max=1)
        bench.disk.is_full = True
        await bench.lead()
        assert bench.engine.is_disk_full
        bench.disk.is_full = False
        bench.engine.housekeep()
        await until(lambda: not bench.engine.is_disk_full)
        assert not bench.fatal
        bench.close()

    run(main())


def test_housekeeping_gets_its_turn_between_writes_that_never_cease(tmp_path: Path) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path, members=(1,))
        await bench.lead()
        # More than a segment, and in every round there is something to write.
        payload = "x" * (SEGMENT_BYTES // 64)
        dump = tmp_path / "wal" / f"{1:020d}.index"
        count = 0

        def propose() -> None:
            nonlocal count
            if bench.replica().proposals_count < 3 and count < 1000 and not dump.exists():
                count += 1
                bench.propose(f"{count}{payload}")

        bench.engine.after_round = propose
        bench.engine.schedule()
        await until(dump.exists)
        assert count < 1000
        bench.close()

    run(main())


def test_a_log_that_proves_damaged_when_it_is_read_takes_its_group_out_alone(
    tmp_path: Path,
) -> None:
    """Sealed segments are not verified at start: the damage shows when the entries are applied."""

    async def write() -> None:
        bench = EngineBench(tmp_path, (1, 2), members=(1,))
        await bench.lead(1, 2)
        bench.propose("early", 2)
        for number in range(3):
            bench.propose(f"{number}" + "x" * (SEGMENT_BYTES // 2))
            await bench.settle()
        bench.close()

    run(write())
    sealed = tmp_path / "wal" / f"{1:020d}.log"
    content = bytearray(sealed.read_bytes())
    content[content.index(b"0xxx") + 10] ^= 1
    sealed.write_bytes(content)

    async def read() -> None:
        bench = EngineBench(tmp_path, (1, 2), members=(1,))
        condemned: list[int] = []
        bench.engine.on_condemned = condemned.append
        damaged = bench.replica(1)
        for _ in range(3 * ELECTION_TIMEOUT_TICKS):
            bench.engine.tick()
            await bench.settle()
        assert condemned == [1]
        assert damaged.is_condemned
        assert 1 not in bench.engine.replicas
        assert bench.shared.group_words(1)[GroupWord.STATE] == GroupState.DAMAGED
        assert str(sealed) in str(bench.store.damage_of(1))
        assert [u.payload for u in bench.machines[2].updates] == [b"early"]
        bench.propose("later", 2)
        await bench.settle()
        assert bench.heard[-1] == "later applied 4"
        # Messages of peers find nobody.
        late = Message(kind=HEARTBEAT, to=1, sender=2, term=9)
        bench.engine.receive(2, 0, [to_item(1, late)])
        assert not bench.fatal
        bench.close()

    run(read())


def test_whatever_a_replica_is_asked_to_do_a_damaged_log_takes_it_out_alone(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        bench = EngineBench(tmp_path, (1, 2), members=(1,))
        await bench.lead(1, 2)
        asked: list[int] = []

        def ask(replica: Replica) -> None:
            asked.append(replica.group)
            if replica.group == 1:
                raise CorruptionError(Damage(tmp_path, 0, "a byte is wrong"), 1)

        bench.engine.for_each(ask)
        assert asked == [1, 2]
        assert list(bench.engine.replicas) == [2]
        bench.engine.for_each(ask)
        assert asked == [1, 2, 2]
        assert not bench.fatal

        def others(replica: Replica) -> None:
            raise CorruptionError(Damage(tmp_path, 0, "a byte is wrong"), None)

        with pytest.raises(CorruptionError, match="every group"):
            bench.engine.for_each(others)
        bench.close()

    run(main())
