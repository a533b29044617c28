"""Faults of single raft messages: lost, doubled, late, and so overtaken by others.

Streams lose nothing and keep the order, but raft may not count on it: the exchanger drops messages
when its queues are full, and links break with messages on their way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rafter_core import Message, MessageKind
from tests.sim.world import World

ONCE: Sequence[float] = (0.0,)


class MessageFaults:
    """Decides what becomes of each message. The chances may be changed at any time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.drop_chance = 0.0
        self.double_chance = 0.0
        self.delay_chance = 0.0
        # Up to some election timeouts: what comes late may be of another term.
        self.delay_seconds = (1e-3, 5.0)
        self.on_arrival: Callable[[Message], None] | None = None
        """Told of every message, before its fate is decided."""

    def calm(self) -> None:
        """Let all messages through from now on."""
        self.drop_chance = self.double_chance = self.delay_chance = 0.0

    def fates(self, _group: int, message: Message) -> Sequence[float]:
        """Return after how many seconds each copy of a message arrives; none if it is lost."""
        if self.on_arrival is not None:
            self.on_arrival(message)
        total = self.drop_chance + self.double_chance + self.delay_chance
        if not total:
            return ONCE
        if message.kind is MessageKind.SNAPSHOT:
            # Its data is there and it comes with them, once.
            return ONCE
        world = self._world
        luck = world.draw.random()
        if luck >= total:
            return ONCE
        if luck < self.drop_chance:
            world.tally["messages dropped"] += 1
            return ()
        if luck < self.drop_chance + self.double_chance:
            world.tally["messages doubled"] += 1
            return (0.0, world.between(*self.delay_seconds))
        world.tally["messages delayed"] += 1
        return (world.between(*self.delay_seconds),)
