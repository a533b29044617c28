from __future__ import annotations

from collections import deque

import pytest

from rafter_kv.batch import Batch
from rafter_kv.reply_slot import Gather, ReplySlot, combine_sum
from rafterd.outbound import Outbound, Route, poison_overtaken, poison_reads
from tests.daemon.fakes import FakeConnection

ME, YOU = FakeConnection(), FakeConnection()


def route_of(*commands: bytes) -> Route:
    """Return a route in which these commands wait."""
    route = Route(1, (1, 2, 3), 1, 77)
    for position, command in enumerate(commands):
        route.commands.append([command])
        route.slots.append(ME.slot())
        route.positions.append(position)
        route.writes.append(False)
    return route


def outbound(*commands: tuple[FakeConnection, str], unresolved: int = 1) -> Outbound:
    """Return a batch of commands such as (ME, "GET k"), sent once unless said otherwise."""
    words = [text.encode().split() for _, text in commands]
    positions: list[int] | None = [at for at, word in enumerate(words) if word[0] != b"GET"]
    if positions is not None and len(positions) == len(words):
        positions = None
    sequence = 0 if positions == [] else 1
    batch = Batch(1, 77, sequence, 1, words, positions)
    slots: list[ReplySlot | Gather] = [connection.slot() for connection, _ in commands]
    made = Outbound(route_of(), 1, batch, slots, [0] * len(slots), 9.0)
    made.unresolved = unresolved
    return made


def test_the_oldest_commands_are_taken_with_their_places() -> None:
    route = route_of(b"a", b"b", b"c")
    slots = list(route.slots)
    assert route.take(2) == ([[b"a"], [b"b"]], slots[:2], [0, 1], [False, False])
    assert route.take(5) == ([[b"c"]], slots[2:], [2], [False])
    assert not any((route.commands, route.slots, route.positions, route.writes))


def test_what_arrives_after_taking_all_does_not_join_what_was_taken() -> None:
    route = route_of(b"a")
    taken, *_ = route.take(1)
    route.commands.append([b"b"])
    assert taken == [[b"a"]]


def test_the_first_outstanding_write_is_not_acknowledged() -> None:
    route = route_of()
    route.sequence = 9
    assert route.acknowledged_below() == 10
    route.outstanding.append(outbound((ME, "GET k")))
    assert route.acknowledged_below() == 10
    route.outstanding.append(outbound((ME, "SET k 1")))
    assert route.acknowledged_below() == 1


def test_news_of_an_older_term_changes_nothing() -> None:
    route = route_of()
    route.learn(2, 5)
    route.learn(3, 4)
    route.learn(0, 9)
    assert (route.leader_or_zero(), route.term) == (2, 5)


def test_news_of_a_leader_ends_the_wait() -> None:
    route = route_of()
    route.learn(2, 5)
    route.is_held = True
    route.learn(2, 5)
    assert route.is_held
    route.learn(2, 6)
    assert not route.is_held


def test_a_denied_leader_counts_again_in_a_later_term_only() -> None:
    route = route_of()
    route.learn(2, 5)
    route.deny(2, 5)
    route.learn(2, 5)
    assert not route.leader_or_zero()
    route.learn(2, 6)
    assert route.leader_or_zero() == 2


@pytest.mark.parametrize(("node", "term"), [(3, 5), (2, 4)])
def test_a_denial_by_another_node_or_of_an_older_term_leaves_the_leader(
    node: int, term: int
) -> None:
    route = route_of()
    route.learn(2, 5)
    route.deny(node, term)
    assert route.leader_or_zero() == 2


def test_a_forgotten_leader_can_be_learnt_again() -> None:
    route = route_of()
    route.learn(2, 5)
    route.forget_leader()
    assert not route.leader_or_zero()
    route.learn(2, 5)
    assert route.leader_or_zero() == 2


def test_reads_before_a_later_write_of_their_connection_are_poisoned() -> None:
    first = outbound((ME, "GET a"), (YOU, "GET a"), (ME, "SET a 1"), (ME, "GET a"))
    second = outbound((YOU, "SET a 2"), (YOU, "GET a"))
    poison_reads(deque([first, second]))
    assert first.poisoned == {0, 1}
    assert second.poisoned == set()


def test_writes_that_cannot_have_been_executed_poison_nothing() -> None:
    read, write = outbound((ME, "GET a")), outbound((ME, "SET a 1"), unresolved=0)
    poison_reads(deque([read, write]))
    assert read.poisoned == set()


def test_reads_that_were_turned_away_are_poisoned_by_writes_that_may_have_passed() -> None:
    read, write = outbound((ME, "GET a"), (YOU, "GET a"), unresolved=0), outbound((ME, "SET a 1"))
    poison_reads(deque([read, write]))
    assert read.poisoned == {0}


def test_the_parts_of_a_scattered_command_count_for_their_connection() -> None:
    read, write = outbound((ME, "GET a")), outbound((ME, "SET a 1"))
    slot = write.slots[0]
    assert isinstance(slot, ReplySlot)
    write.slots[0] = Gather(slot, 0, 2, combine_sum)
    poison_reads(deque([read, write]))
    assert read.poisoned == {0}


def test_an_answer_that_overtakes_poisons_earlier_reads_of_its_connections() -> None:
    first = outbound((ME, "GET a"), (YOU, "GET a"), (ME, "SET a 1"))
    second, third = outbound((ME, "GET a")), outbound((ME, "GET a"))
    poison_overtaken(deque([first, second, third]), second)
    assert first.poisoned == {0}
    assert second.poisoned == third.poisoned == set()
