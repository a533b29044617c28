from __future__ import annotations

import random
from typing import Any

import pytest

from rafter_core import Config, Membership, MemoryStorage, Message, MessageKind, RawNode
from rafter_kv.batch import Batch, unpack_payload
from rafter_kv.machine import KeyValueMachine
from rafterd.clock import Clock
from rafterd.group_service import ENTRIES_IN_FLIGHT_MAX, ENTRY_BYTES_MAX, GroupService
from rafterd.replica import Replica
from rafterd.requests import Reply, Request, Status
from rafterd.shared import Counter, SharedState

A, B = (2, 0), (3, 0)
"""The places of two routers."""


class Bench:
    """The service of node 1 in a group of three; nodes 2 and 3 answer when they are told to."""

    def __init__(self, **config: Any) -> None:
        self.storage = MemoryStorage(Membership((1, 2, 3)))
        self.node = RawNode(
            Config(node_id=1, pre_vote=False, eager_commit=False, **config),
            self.storage,
            random.Random(1),
        )
        self.machine = KeyValueMachine()
        self.shared = SharedState(1, 1)
        self.now_seconds = 1000.0
        self.marked = False
        self.is_disk_full = False
        self.replica = Replica(
            1,
            self.node,
            self.machine,
            self.storage.initial_state()[0],
            self.shared.group_words(1),
            self.shared.set_route,
        )
        self.service = GroupService(
            self.replica,
            self.machine,
            Clock(lambda: self.now_seconds),
            self.shared.counter_words(0),
            self._mark,
            self._answer,
            lambda: self.is_disk_full,
        )
        self.replica.listener = self.service
        self.messages: list[Message] = []
        self.answers: list[tuple[str, Reply]] = []
        self._names: dict[int, str] = {}
        self._sequences: dict[tuple[int, int] | None, int] = {}

    def _mark(self, _replica: Replica) -> None:
        self.marked = True

    def _answer(self, request: Request, reply: Reply) -> None:
        self.answers.append((self._names[request.ticket], reply))

    def lead(self) -> Bench:
        """Win an election, and commit the first entry of the term."""
        self.node.campaign()
        self.turn()
        self._step(MessageKind.VOTE_RESPONSE)
        self.turn()
        self.acknowledge()
        return self

    def depose(self) -> None:
        """Let node 2 win the next term."""
        term = self.node.term + 1
        self.node.step(Message(kind=MessageKind.HEARTBEAT, to=1, sender=2, term=term))
        self.turn()

    def _step(self, kind: MessageKind, **fields: Any) -> None:
        self.node.step(Message(kind=kind, to=1, sender=2, term=self.node.term, **fields))

    def turn(self) -> None:
        """Do the engine's duties until there are none; storage is immediate."""
        while True:
            self.marked = False
            self.replica.advance()
            if self.node.has_ready():
                ready = self.replica.take_ready()
                self.messages += [m for m in ready.messages if m.to == 2]
                self.storage.store(ready)
                self.node.storage_done(ready)
            elif not self.marked:
                return

    def acknowledge(self) -> None:
        """Let node 2 store all entries it was sent."""
        for message in self._taken(MessageKind.APPEND):
            self._step(MessageKind.APPEND_RESPONSE, index=message.index + len(message.entries))
        self.turn()

    def echo(self) -> None:
        """Let node 2 answer all heartbeats."""
        for message in self._taken(MessageKind.HEARTBEAT):
            self._step(MessageKind.HEARTBEAT_RESPONSE, context=message.context)
        self.turn()

    def _taken(self, kind: MessageKind) -> list[Message]:
        taken = [message for message in self.messages if message.kind is kind]
        self.messages = [message for message in self.messages if message.kind is not kind]
        return taken

    def submit(self, name: str, *commands: str, origin: tuple[int, int] | None = A) -> None:
        """Hand in a request such as "SET k v", without a turn; its answer goes by `name`."""
        words = [text.encode().split() for text in commands]
        positions = [at for at, word in enumerate(words) if word[0] != b"GET"]
        sequence = 0
        if positions:
            sequence = self._sequences[origin] = self._sequences.get(origin, 0) + 1
        self.put(name, words, positions, origin, sequence)

    def put(
        self,
        name: str,
        words: list[list[bytes]],
        positions: list[int],
        origin: tuple[int, int] | None = A,
        sequence: int = 1,
    ) -> None:
        session = 1000 if origin is None else origin[0]
        all_writes = len(positions) == len(words)
        batch = Batch(1, session, sequence, 1, words, None if all_writes else positions)
        ticket = len(self._names) + 1
        self._names[ticket] = name
        self.service.submit(Request(batch, ticket, 1, origin))

    def taken(self) -> list[tuple[str, Status, list[Any]]]:
        """Return the answers since the last look."""
        answers, self.answers = self.answers, []
        return [(name, reply.status, reply.results) for name, reply in answers]

    def entry_sizes(self) -> list[int]:
        """Return how many batches each entry behind the first holds."""
        entries = self.storage.entries(2, self.storage.last_index() + 1, 1 << 40)
        return [len(unpack_payload(entry.payload).items) // 4 for entry in entries]

    @property
    def read_rounds(self) -> int:
        return self.shared.get(0, Counter.READ_INDEX_ROUNDS_TOTAL)


DONE = Status.DONE


# ---- entries -----------------------------------------------------------------------------------


def test_all_batches_of_a_turn_become_one_entry_and_are_answered_when_it_is_applied() -> None:
    bench = Bench().lead()
    bench.submit("a", "SET k 1", "GET k")
    bench.submit("b", "INCR k", origin=B)
    bench.turn()
    assert bench.entry_sizes() == [2]
    assert bench.taken() == []
    bench.acknowledge()
    assert bench.taken() == [("a", DONE, ["+OK", b"1"]), ("b", DONE, [2])]


def test_answers_name_the_leader_and_its_term() -> None:
    bench = Bench().lead()
    bench.submit("a", "SET k 1")
    bench.turn()
    bench.acknowledge()
    reply = bench.answers[0][1]
    assert (reply.leader, reply.term, reply.attempt) == (1, bench.node.term, 1)


def test_no_more_than_two_entries_are_in_flight_and_what_waits_becomes_one() -> None:
    bench = Bench().lead()
    for number in range(5):
        bench.submit(str(number), f"SET k {number}")
        bench.turn()
    assert bench.entry_sizes() == [1] * ENTRIES_IN_FLIGHT_MAX
    bench.acknowledge()
    assert bench.entry_sizes() == [1, 1, 3]


def test_an_entry_is_cut_at_its_bytes_and_the_rest_goes_into_the_next() -> None:
    bench = Bench().lead()
    half = [[b"SET", b"k", b"v" * (ENTRY_BYTES_MAX // 2)]]
    for number in range(3):
        bench.put(str(number), half, [0], sequence=number + 1)
    bench.turn()
    assert bench.entry_sizes() == [1, 1]
    bench.acknowledge()
    bench.acknowledge()
    assert bench.entry_sizes() == [1, 1, 1]
    assert [status for _, status, _ in bench.taken()] == [DONE] * 3


def test_a_batch_above_the_bytes_of_an_entry_is_proposed_alone() -> None:
    bench = Bench().lead()
    bench.put("large", [[b"SET", b"k", b"v" * (ENTRY_BYTES_MAX + 1)]], [0])
    bench.submit("small", "SET l 1", origin=B)
    bench.turn()
    assert bench.entry_sizes() == [1, 1]


@pytest.mark.parametrize(
    ("sequence", "expected"), [(1, Status.DUPLICATE), (2, DONE), (3, Status.GAP)]
)
def test_the_state_machine_decides_about_repeated_and_missing_batches(
    sequence: int, expected: Status
) -> None:
    bench = Bench().lead()
    bench.submit("first", "INCR n")
    bench.turn()
    bench.acknowledge()
    bench.taken()
    bench.put("again", [[b"INCR", b"n"]], [0], sequence=sequence)
    bench.turn()
    bench.acknowledge()
    [(_, status, results)] = bench.taken()
    assert status is expected
    assert results == {Status.DUPLICATE: [1], DONE: [2], Status.GAP: []}[expected]


def test_stamps_do_not_go_back_behind_what_an_earlier_leader_applied() -> None:
    bench = Bench().lead()
    bench.submit("a", "SET k 1 PX 500")
    bench.turn()
    bench.acknowledge()
    bench.now_seconds -= 100
    bench.submit("b", "PEXPIRE k 400")
    bench.turn()
    stamps = [
        unpack_payload(e.payload).stamp_ms
        for e in bench.storage.entries(2, bench.storage.last_index() + 1, 1 << 30)
    ]
    assert stamps[0] <= stamps[1]


def test_a_repetition_joins_an_attempt_that_still_waits() -> None:
    # Under load answers take longer than routers wait before they repeat: nothing may pile up.
    bench = Bench().lead()
    for number in range(3):
        bench.submit(str(number), f"SET k {number}")
        bench.turn()
    bench.submit("read", "GET k")
    for ticket in (3, 4):
        waiting = next(r for r in bench.service._queue if r.ticket == ticket)
        bench.service.submit(Request(waiting.batch, ticket, 2, A))
        bench.service.submit(Request(waiting.batch, ticket, 3, A))
    bench.turn()
    bench.acknowledge()
    bench.acknowledge()
    assert [(name, reply.attempt) for name, reply in bench.answers] == [
        ("0", 1),
        ("1", 1),
        ("2", 3),
        ("read", 3),
    ]
    assert [status for _, status, _ in bench.taken()] == [DONE] * 4
    assert bench.entry_sizes() == [1, 1, 1]


# ---- turned away -------------------------------------------------------------------------------


def test_a_replica_that_follows_turns_requests_away_at_once() -> None:
    bench = Bench()
    bench.submit("a", "SET k 1")
    assert bench.taken() == [("a", Status.NOT_LEADER, [])]


def test_a_full_disk_refuses_writes_and_lets_reads_through() -> None:
    bench = Bench().lead()
    bench.is_disk_full = True
    bench.submit("write", "SET k 1")
    bench.submit("read", "GET k")
    bench.turn()
    bench.echo()
    assert bench.taken() == [("write", Status.DISK_FULL, []), ("read", DONE, [None])]
    bench.is_disk_full = False
    bench.submit("later", "SET k 1", origin=B)
    bench.turn()
    bench.acknowledge()
    assert bench.taken() == [("later", DONE, ["+OK"])]


def test_a_write_in_flight_is_lost_and_the_rest_not_executed_when_leadership_ends() -> None:
    bench = Bench().lead()
    bench.submit("read before", "GET k", origin=B)
    bench.submit("write", "SET k 1")
    bench.submit("read after", "GET k")
    bench.turn()
    bench.submit("second", "SET k 2")
    bench.turn()
    bench.submit("queued", "SET k 3")
    bench.submit("queued read", "GET k", origin=B)
    bench.turn()
    bench.depose()
    assert {name: status for name, status, _ in bench.taken()} == {
        "read before": Status.NOT_LEADER,
        "write": Status.LOST,
        "read after": Status.NOT_LEADER,
        "second": Status.LOST,
        "queued": Status.NOT_LEADER,
        "queued read": Status.NOT_LEADER,
    }
    assert not bench.service.in_flight


def test_a_read_round_ends_with_leadership() -> None:
    bench = Bench().lead()
    bench.submit("a", "GET k")
    bench.turn()
    bench.depose()
    assert bench.taken() == [("a", Status.NOT_LEADER, [])]


def test_a_leader_that_hands_over_turns_writes_away_and_names_itself() -> None:
    bench = Bench().lead()
    bench.node.transfer_leadership(2)
    bench.submit("a", "SET k 1")
    bench.turn()
    [(_, reply)] = bench.answers
    assert (reply.status, reply.leader) == (Status.NOT_LEADER, 1)
    assert bench.entry_sizes() == []


def test_what_was_turned_away_by_the_core_is_not_counted_as_in_flight() -> None:
    bench = Bench(uncommitted_bytes_max=8).lead()
    bench.submit("a", "SET k 1")
    bench.turn()
    bench.submit("b", "SET k 2", origin=B)
    bench.turn()
    assert bench.taken() == [("b", Status.NOT_LEADER, [])]
    bench.acknowledge()
    assert bench.taken() == [("a", DONE, ["+OK"])]
    assert not bench.service.in_flight
    assert bench.shared.get(0, Counter.PROPOSALS_TOTAL) == 1
    assert bench.shared.get(0, Counter.PROPOSALS_DROPPED_TOTAL) == 1


def test_reads_beyond_what_the_core_holds_are_turned_away() -> None:
    bench = Bench(pending_reads_max=1).lead()
    for name in ("a", "b"):
        bench.submit(name, "GET k")
        bench.turn()
    assert bench.taken() == [("b", Status.NOT_LEADER, [])]
    bench.echo()
    assert bench.taken() == [("a", DONE, [None])]


# ---- reads -------------------------------------------------------------------------------------


def test_reads_without_writes_share_one_round() -> None:
    bench = Bench().lead()
    bench.submit("a", "GET k")
    bench.submit("b", "GET k", "GET l", origin=B)
    bench.turn()
    assert bench.taken() == []
    bench.echo()
    assert bench.taken() == [("a", DONE, [None]), ("b", DONE, [None, None])]
    assert bench.read_rounds == 1
    assert bench.entry_sizes() == []


def test_reads_ride_on_an_entry_that_is_forming() -> None:
    bench = Bench().lead()
    bench.submit("foreign", "GET k", origin=B)
    bench.submit("write", "SET k 1")
    bench.submit("own", "GET k")
    bench.submit("late foreign", "GET k", origin=B)
    bench.turn()
    bench.acknowledge()
    assert bench.taken() == [
        ("foreign", DONE, [None]),
        ("late foreign", DONE, [None]),
        ("write", DONE, ["+OK"]),
        ("own", DONE, [b"1"]),
    ]
    assert bench.read_rounds == 0


def test_a_read_that_meets_an_entry_in_flight_starts_a_round_of_its_own() -> None:
    # The acknowledgements of that entry may be older than a newer leader.
    bench = Bench().lead()
    bench.submit("write", "SET k 1")
    bench.turn()
    bench.submit("read", "GET k", origin=B)
    bench.turn()
    assert bench.read_rounds == 1
    bench.acknowledge()
    assert [name for name, *_ in bench.taken()] == ["write"]
    bench.echo()
    assert bench.taken() == [("read", DONE, [b"1"])]


def test_a_read_waits_for_a_write_of_its_own_router_that_is_in_flight() -> None:
    # The round is faster than the write: it needs no sync.
    bench = Bench().lead()
    bench.submit("write", "SET k 1")
    bench.turn()
    bench.submit("own", "GET k")
    bench.submit("foreign", "GET k", origin=B)
    bench.turn()
    bench.echo()
    assert bench.taken() == [("foreign", DONE, [None])]
    bench.acknowledge()
    assert bench.taken() == [("write", DONE, ["+OK"]), ("own", DONE, [b"1"])]


def test_a_read_that_waits_for_a_write_does_not_see_the_next_one() -> None:
    bench = Bench().lead()
    bench.submit("first", "SET k 1")
    bench.turn()
    bench.submit("read", "GET k")
    bench.turn()
    bench.submit("second", "SET k 2")
    bench.turn()
    bench.echo()
    bench.acknowledge()
    assert bench.taken() == [
        ("first", DONE, ["+OK"]),
        ("read", DONE, [b"1"]),
        ("second", DONE, ["+OK"]),
    ]


def test_a_read_that_waits_for_a_write_is_turned_away_when_that_is_lost() -> None:
    bench = Bench().lead()
    bench.submit("write", "SET k 1")
    bench.turn()
    bench.submit("read", "GET k")
    bench.turn()
    bench.echo()
    bench.depose()
    assert {name: status for name, status, _ in bench.taken()} == {
        "write": Status.LOST,
        "read": Status.NOT_LEADER,
    }


def test_the_commit_of_a_later_entry_answers_a_round_that_is_still_open() -> None:
    bench = Bench().lead()
    bench.submit("read", "GET k")
    bench.turn()
    bench.submit("write", "SET k 1")
    bench.turn()
    bench.acknowledge()
    assert bench.taken() == [("read", DONE, [None]), ("write", DONE, ["+OK"])]
    bench.echo()
    assert bench.taken() == []


def test_a_read_between_two_writes_of_its_router_sees_only_the_first() -> None:
    bench = Bench().lead()
    bench.submit("first", "SET k 1")
    bench.submit("read", "GET k")
    bench.submit("second", "SET k 2")
    bench.turn()
    assert bench.entry_sizes() == [1, 1]
    bench.acknowledge()
    assert bench.taken()[1] == ("read", DONE, [b"1"])


def test_rounds_are_bounded_and_what_waits_shares_the_next() -> None:
    bench = Bench().lead()
    for number in range(5):
        bench.submit(str(number), "GET k")
        bench.turn()
    assert bench.read_rounds == 2
    bench.echo()
    assert bench.read_rounds == 3
    bench.echo()
    assert [name for name, *_ in bench.taken()] == ["0", "1", "2", "3", "4"]


def test_reads_of_a_new_leader_wait_for_its_first_commit() -> None:
    bench = Bench()
    bench.node.campaign()
    bench.turn()
    bench._step(MessageKind.VOTE_RESPONSE)
    bench.turn()
    bench.submit("read", "GET k")
    bench.turn()
    bench.echo()
    assert bench.taken() == []
    bench.acknowledge()
    bench.echo()
    assert bench.taken() == [("read", DONE, [None])]


def test_reads_hide_what_is_past_its_deadline_on_the_clock() -> None:
    bench = Bench().lead()
    bench.submit("write", "SET k 1 PX 500")
    bench.turn()
    bench.acknowledge()
    bench.taken()
    bench.now_seconds += 0.6
    bench.submit("read", "GET k")
    bench.turn()
    bench.echo()
    assert bench.taken() == [("read", DONE, [None])]


# ---- expiry ------------------------------------------------------------------------------------


def test_due_keys_are_removed_by_an_entry_without_batches_and_only_then() -> None:
    bench = Bench().lead()
    bench.submit("write", "SET k 1 PX 500")
    bench.turn()
    bench.acknowledge()
    bench.service.expire_due_keys()
    bench.turn()
    assert bench.entry_sizes() == [1]
    bench.now_seconds += 0.6
    for _ in range(3):
        bench.service.expire_due_keys()
        bench.turn()
    assert bench.entry_sizes() == [1, 0]
    assert bench.machine.key_count == 1
    bench.acknowledge()
    assert bench.machine.key_count == 0
    bench.service.expire_due_keys()
    bench.turn()
    assert bench.entry_sizes() == [1, 0]


def test_nothing_is_proposed_for_due_keys_while_writes_carry_the_time_or_on_a_follower() -> None:
    bench = Bench().lead()
    bench.submit("write", "SET k 1 PX 500")
    bench.turn()
    bench.acknowledge()
    bench.now_seconds += 0.6
    bench.submit("next", "SET l 1")
    bench.service.expire_due_keys()
    bench.turn()
    bench.service.expire_due_keys()
    assert bench.entry_sizes() == [1, 1]
    bench.acknowledge()
    assert bench.machine.key_count == 1
    bench.depose()
    bench.service.expire_due_keys()
    assert bench.node.last_index == bench.storage.last_index()
