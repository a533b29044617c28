"""Faults of single messages."""

from __future__ import annotations

from rafter_core import Message, MessageKind
from tests.sim.message_faults import MessageFaults
from tests.sim.world import World

HEARTBEAT = Message(kind=MessageKind.HEARTBEAT, to=1, sender=2)


def test_without_faults_every_message_arrives_once_and_at_once() -> None:
    faults = MessageFaults(World(1))
    faults.drop_chance = 1.0
    faults.calm()
    assert faults.fates(1, HEARTBEAT) == (0.0,)


def test_messages_are_lost_doubled_and_late_as_often_as_is_said() -> None:
    world = World(1)
    faults = MessageFaults(world)
    faults.drop_chance, faults.double_chance, faults.delay_chance = 0.25, 0.25, 0.25
    fates = [faults.fates(1, HEARTBEAT) for _ in range(1000)]
    assert 200 < sum(len(each) == 0 for each in fates) < 300
    assert 200 < sum(len(each) == 2 for each in fates) < 300
    assert 200 < sum(len(each) == 1 and each[0] > 0 for each in fates) < 300
    assert world.tally["messages dropped"] == sum(len(each) == 0 for each in fates)


def test_a_snapshot_is_let_through() -> None:
    faults = MessageFaults(World(1))
    faults.drop_chance = 1.0
    assert faults.fates(1, Message(kind=MessageKind.SNAPSHOT, to=1, sender=2)) == (0.0,)
