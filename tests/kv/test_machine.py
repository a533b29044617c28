"""The state machine as a replica runs it: the same log, the same state, however it came by it."""

import threading
from collections.abc import Sequence
from typing import cast

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rafter_core.state_machine import StateMachine, Update
from rafter_kv import sessions as sessions_module
from rafter_kv.batch import Batch, PayloadError, pack_payload
from rafter_kv.data_commands import DATA_COMMANDS
from rafter_kv.keyspace import KeySpace
from rafter_kv.machine import DUE_KEYS_PER_UPDATE_MAX, BatchOutcome, KeyValueMachine
from rafter_kv.results import Result
from rafter_kv.sessions import IDLE_MILLISECONDS_MAX, Status
from rafter_kv.snapshots import SnapshotError


class Log:
    """Makes entries as a leader does, and numbers the batches of one session."""

    def __init__(self) -> None:
        self.index = 0
        self.sequence = 0

    def batch(self, *lines: bytes, session: int = 1) -> Batch:
        self.sequence += 1
        commands = [line.split(b" ") for line in lines]
        positions = [
            at for at, command in enumerate(commands) if DATA_COMMANDS[command[0]].is_write
        ]
        all_writes = len(positions) == len(commands)
        return Batch(1, session, self.sequence, 1, commands, None if all_writes else positions)

    def entry(self, stamp_ms: int, *batches: Batch, is_leader: bool = True) -> Update:
        self.index += 1
        context = list(batches) if is_leader else None
        return Update(self.index, pack_payload(stamp_ms, batches), context)


def apply(machine: KeyValueMachine, update: Update) -> list[BatchOutcome]:
    (outcomes,) = machine.update([update])
    return cast("list[BatchOutcome]", outcomes)


def write(machine: KeyValueMachine, log: Log, stamp_ms: int, *lines: bytes) -> list[Result]:
    (outcome,) = apply(machine, log.entry(stamp_ms, log.batch(*lines)))
    assert outcome.status is Status.RUN
    return outcome.results


def read(machine: KeyValueMachine, now_ms: int, *lines: bytes) -> list[Result]:
    return machine.lookup(([line.split(b" ") for line in lines], now_ms))


def image(machine: KeyValueMachine) -> bytes:
    return b"".join(machine.save_snapshot(machine.prepare_snapshot()))


def restored(machine: KeyValueMachine) -> KeyValueMachine:
    other = KeyValueMachine()
    other.recover_from_snapshot([image(machine)])
    return other


def test_it_is_a_state_machine_of_the_core() -> None:
    machine: StateMachine = KeyValueMachine()
    assert machine.open() == 0
    machine.close()


def test_an_empty_entry_changes_nothing() -> None:
    machine = KeyValueMachine()
    before = machine.hash()
    assert machine.update([Update(1, b"", None)]) == [[]]
    assert machine.hash() == before


def test_reads_of_a_batch_see_the_writes_before_them_and_none_after() -> None:
    machine, log = KeyValueMachine(), Log()
    assert write(machine, log, 1, b"GET k", b"SET k 1", b"GET k", b"INCR k", b"GET k") == [
        None,
        "+OK",
        b"1",
        2,
        b"2",
    ]


def test_a_repeated_batch_gets_its_first_results_and_fresh_reads() -> None:
    machine, log = KeyValueMachine(), Log()
    batch = log.batch(b"INCR k", b"GET k", b"INCR k")
    assert apply(machine, log.entry(1, batch)) == [BatchOutcome(Status.RUN, [1, b"1", 2])]
    write(machine, log, 1, b"SET k 50")
    assert apply(machine, log.entry(1, batch)) == [BatchOutcome(Status.DUPLICATE, [1, b"50", 2])]
    assert apply(machine, log.entry(1, batch, is_leader=False)) == [
        BatchOutcome(Status.DUPLICATE, [1, 2])
    ]
    assert read(machine, 1, b"GET k") == [b"50"]


@pytest.mark.parametrize(
    ("commands", "positions"),
    [([[b"INCR", b"k"], [b"INCR", b"k"]], None), ([[b"GET", b"k"]], [])],
)
def test_a_number_used_for_two_batches_gets_no_answer_of_the_other(
    commands: list[list[bytes]], positions: list[int] | None
) -> None:
    machine, log = KeyValueMachine(), Log()
    write(machine, log, 1, b"INCR k")
    other = Batch(1, 1, 1, 1, commands, positions)
    assert apply(machine, log.entry(1, other)) == [BatchOutcome(Status.EXPIRED, [])]
    assert read(machine, 1, b"GET k") == [b"1"]


def test_a_batch_that_may_not_run_changes_nothing() -> None:
    machine, log = KeyValueMachine(), Log()
    log.sequence = 5
    assert apply(machine, log.entry(1, log.batch(b"SET k v"))) == [BatchOutcome(Status.GAP, [])]
    expired = Batch(1, 1, 9, 9, [[b"SET", b"k", b"v"]])
    assert apply(machine, log.entry(1, expired)) == [BatchOutcome(Status.EXPIRED, [])]
    assert machine.key_count == 0


def test_time_never_goes_back() -> None:
    machine, log = KeyValueMachine(), Log()
    write(machine, log, 5000, b"SET k v")
    write(machine, log, 3000, b"PEXPIRE k 10")
    assert machine.stamp_ms == 5000
    assert read(machine, 5009, b"GET k", b"PTTL k") == [b"v", 1]
    assert read(machine, 5010, b"GET k") == [None]
    write(machine, log, 9000)
    assert read(machine, 0, b"GET k", b"EXISTS k") == [None, 0]


def test_a_key_read_past_its_deadline_is_hidden_before_it_is_removed() -> None:
    machine, log = KeyValueMachine(), Log()
    write(machine, log, 1, b"SET k v PX 10")
    assert read(machine, 10, b"GET k", b"MGET k", b"TYPE k") == [b"v", [b"v"], "+string"]
    assert read(machine, 11, b"GET k", b"MGET k", b"TYPE k") == [None, [None], "+none"]
    assert (machine.key_count, machine.expires_count, machine.next_deadline_ms) == (1, 1, 11)


def test_keys_are_counted_anew_after_each_change_and_not_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine, log = KeyValueMachine(), Log()
    counts = []

    def count() -> tuple[int, int]:
        return machine.key_count, machine.expires_count

    for line in (b"SET a 1 PX 10", b"SET b 2", b"DEL a"):
        write(machine, log, 1, line)
        counts.append(count())
    machine.recover_from_snapshot([image(restored(machine))])
    counts.append(count())
    with monkeypatch.context() as patch:
        patch.setattr(KeySpace, "key_count", None)
        assert count() == (1, 0)
    machine.close()
    counts.append(count())
    assert counts == [(1, 1), (2, 1), (1, 0), (1, 0), (0, 0)]


def test_each_entry_removes_a_bounded_number_of_due_keys() -> None:
    machine, log = KeyValueMachine(), Log()
    count = 2 * DUE_KEYS_PER_UPDATE_MAX + 5
    write(machine, log, 1, *(b"SET k%d v PX 10" % number for number in range(count)))
    for left in (count - DUE_KEYS_PER_UPDATE_MAX, 5, 0):
        assert apply(machine, log.entry(100)) == []
        assert machine.key_count == left
    assert machine.next_deadline_ms is None


def test_a_plain_set_takes_the_deadline_away() -> None:
    machine, log = KeyValueMachine(), Log()
    write(machine, log, 1, b"SET k v EX 10", b"SET k w")
    assert read(machine, 1, b"PTTL k") == [-1]
    assert machine.expires_count == 0


def test_idle_sessions_are_forgotten_by_the_time_of_the_log() -> None:
    machine, log = KeyValueMachine(), Log()
    write(machine, log, 1, b"SET k v")
    assert machine.session_count == 1
    apply(machine, log.entry(2 + IDLE_MILLISECONDS_MAX))
    assert machine.session_count == 0


def test_a_lookup_refuses_writes() -> None:
    with pytest.raises(ValueError, match="not a read"):
        read(KeyValueMachine(), 1, b"SET k v")


@pytest.mark.parametrize(
    "blob",
    [msgpack.packb([[b"NEWER", b"k"]]), msgpack.packb(5), b"\xc1", b""],
)
def test_an_entry_that_this_version_cannot_apply_stops_the_replica(blob: bytes) -> None:
    # Skipping it would let this replica diverge from those that could.
    batch = Batch(1, 1, 1, 1, [], None, blob)
    with pytest.raises(PayloadError):
        apply(KeyValueMachine(), Log().entry(1, batch, is_leader=False))


def test_an_image_is_of_the_moment_it_was_prepared() -> None:
    machine, log = KeyValueMachine(), Log()
    write(machine, log, 1, *(b"SET k%d 1" % number for number in range(300)), b"SET k1 1 EX 9")
    before = machine.hash()
    chunks = machine.save_snapshot(machine.prepare_snapshot())
    write(machine, log, 2, *(b"SET k%d 2" % number for number in range(400)), b"DEL k1 k2")
    other = KeyValueMachine()
    other.recover_from_snapshot(chunks)
    assert other.hash() == before
    assert read(other, 1, b"GET k1", b"GET k399", b"TTL k1") == [b"1", None, 9]
    assert read(machine, 1, b"GET k1", b"GET k399") == [None, b"2"]


def test_an_image_given_up_half_way_costs_no_more_copies() -> None:
    machine, log = KeyValueMachine(), Log()
    write(machine, log, 1, b"SET k v")
    prepared = machine.prepare_snapshot()
    chunks = machine.save_snapshot(prepared)
    next(chunks, None)
    chunks.close()
    with pytest.raises(RuntimeError, match="closed"):
        list(machine.save_snapshot(prepared))


def test_an_image_ends_in_an_error_when_the_state_is_replaced_meanwhile() -> None:
    """It went on with what was left of the old state, and was short of keys without a word.

    Images and recoveries were tested one after the other.
    """
    machine, log = KeyValueMachine(), Log()
    write(machine, log, 1, *[b"SET k%d v" % number for number in range(3000)])
    other = KeyValueMachine()
    write(other, Log(), 1, b"SET other v")
    for number in range(3):
        write(machine, log, 1, b"SET big%d " % number + b"v" * 300_000)
    chunks = machine.save_snapshot(machine.prepare_snapshot())
    next(chunks)
    machine.recover_from_snapshot([image(other)])
    with pytest.raises(RuntimeError, match="given up"):
        list(chunks)
    assert machine.hash() == other.hash()
    assert read(machine, 2, b"GET other") == [b"v"]


def test_a_state_may_be_replaced_on_another_thread_while_it_is_looked_at() -> None:
    machine, log = KeyValueMachine(), Log()
    write(machine, log, 1, *[b"SET k%d v PX 1000" % number for number in range(3000)])
    whole = image(machine)
    seen: set[tuple[int, int]] = set()

    def recover() -> None:
        for _ in range(10):
            machine.recover_from_snapshot([whole])

    thread = threading.Thread(target=recover)
    thread.start()
    while thread.is_alive():
        seen.add((machine.key_count, machine.expires_count))
        assert read(machine, 2, b"GET k7", b"EXISTS k8") == [b"v", 1]
    thread.join()
    assert seen == {(3000, 3000)}


def test_a_bad_image_leaves_the_state_as_it_was() -> None:
    machine, log = KeyValueMachine(), Log()
    write(machine, log, 1, b"SET k v")
    before = machine.hash()
    with pytest.raises(SnapshotError):
        machine.recover_from_snapshot([image(machine)[:-1]])
    assert machine.hash() == before


@pytest.mark.parametrize(
    "line", [b"SET k w", b"SET other v", b"SET k v EX 100", b"DEL k", b"EXPIRE k 10"]
)
def test_the_digest_tells_states_apart(line: bytes) -> None:
    def digest(last: bytes) -> int:
        machine, log = KeyValueMachine(), Log()
        write(machine, log, 1, b"SET k v")
        write(machine, log, 1, last)
        return machine.hash()

    assert digest(line) != digest(b"SET k v")


def test_the_digest_covers_cached_results() -> None:
    def digest(result: bytes) -> int:
        machine, log = KeyValueMachine(), Log()
        write(machine, log, 1, b"SET k " + result)
        write(machine, log, 1, b"GETDEL k")
        return machine.hash()

    assert digest(b"a") != digest(b"b")


KEYS = st.sampled_from([b"a", b"b", b"c"])
LINES = st.one_of(
    st.tuples(
        st.sampled_from(
            [
                b"SET %b 1",
                b"SET %b 2 PX 30",
                b"SET %b 3 KEEPTTL",
                b"INCR %b",
                b"APPEND %b 7",
                b"PEXPIRE %b 20",
                b"PERSIST %b",
                b"DEL %b",
                b"GETDEL %b",
                b"GET %b",
                b"PTTL %b",
                b"SETNX %b 5",
            ]
        ),
        KEYS,
    ).map(lambda parts: parts[0] % parts[1]),
    st.sampled_from([b"FLUSHALL", b"DBSIZE", b"KEYS *", b"MSET a 1 b 2", b"MSETNX a 1 c 2"]),
)
STEPS = st.lists(
    st.tuples(
        st.integers(-5, 40),  # by how much the clock of the leader moves
        st.lists(LINES, max_size=4),
        st.integers(1, 2),  # the session
        st.sampled_from(["send", "repeat", "skip", "acknowledge", "snapshot"]),
    ),
    max_size=15,
)


@settings(max_examples=100)
@given(STEPS)
def test_leader_follower_and_restored_replica_agree(
    steps: Sequence[tuple[int, list[bytes], int, str]],
) -> None:
    leader, follower, late = KeyValueMachine(), KeyValueMachine(), KeyValueMachine()
    logs = {1: Log(), 2: Log()}
    sent: dict[int, Batch] = {}
    now_ms = 1000
    for index, (advance_ms, lines, session, action) in enumerate(steps, 1):
        now_ms += advance_ms
        if action == "snapshot":
            late = restored(follower)
        log = logs[session]
        if action == "repeat" and session in sent:
            batch = sent[session]
        else:
            log.sequence += action == "skip"
            batch = log.batch(*lines, session=session)
            log.sequence -= 2 * (action == "skip")
            if action == "acknowledge":
                batch.acknowledged_below = batch.sequence
        sent[session] = batch
        payload = pack_payload(now_ms, [batch])
        (ours,) = apply(leader, Update(index, payload, [batch]))
        (theirs,) = apply(follower, Update(index, payload, None))
        assert apply(late, Update(index, payload, None)) == [theirs]
        assert ours.status == theirs.status
        if ours.results:
            positions = batch.write_positions
            written = ours.results if positions is None else [ours.results[p] for p in positions]
            assert written == theirs.results
        assert leader.hash() == follower.hash() == late.hash()
        assert leader.key_count == follower.key_count == late.key_count
        assert leader.next_deadline_ms == follower.next_deadline_ms == late.next_deadline_ms


def test_the_order_of_eviction_survives_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "EVICTIONS_PER_UPDATE_MAX", 1)
    machine, log = KeyValueMachine(), Log()
    for session in (3, 1, 2):
        log.sequence = 0
        apply(machine, log.entry(session, log.batch(b"SET k v", session=session)))
    other = restored(machine)
    for _ in range(3):
        entry = log.entry(10 + IDLE_MILLISECONDS_MAX)
        apply(machine, entry)
        apply(other, entry)
        assert machine.hash() == other.hash()
    assert other.session_count == 0
