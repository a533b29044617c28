"""Stand-ins for the world around routers and group services, in virtual time.

`FakeConnection` takes replies. `Fabric` connects shards by links as the exchanger does: for each
link and direction items arrive in order, after a delay. When a link breaks, what has not arrived is
lost, its sender hears of it some time later, and what is posted until then is lost too.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from rafter_kv.connection import RespConnection
from rafter_kv.reply_slot import ReplySlot
from rafter_transport.exchanger import Channel
from rafter_transport.payload import pack_item, unpack

Place = tuple[int, int]
"""(node, shard)."""


class FakeConnection:
    """A client as the router sees it: it makes slots and gets them back complete."""

    protocol = 2

    def __init__(self, on_completed: Callable[[ReplySlot], None] | None = None) -> None:
        self.completed: list[ReplySlot] = []
        self._on_completed = on_completed

    def slot(self, count: int = 1) -> ReplySlot:
        """Make the slot for a chunk of commands."""
        return ReplySlot(cast("RespConnection", self), count, 0)

    def slot_completed(self, slot: ReplySlot) -> None:
        """Take a slot whose replies are all there."""
        assert not slot.waiting
        assert slot not in self.completed, "a slot was completed twice"
        self.completed.append(slot)
        if self._on_completed is not None:
            self._on_completed(slot)


class _InTransit(NamedTuple):
    due: int
    channel: Channel
    data: bytes


class Endpoint:
    """One shard's exchanger: what its parts post, and what the fabric calls back."""

    def __init__(self, fabric: Fabric, place: Place) -> None:
        self.fabric = fabric
        self.place = place
        self.handlers: dict[Channel, Callable[[int, int, list[Any]], None]] = {}
        self.on_link_state: Callable[[int, int, bool], None] = _no_link_state

    def post(self, node: int, shard: int, channel: Channel, item: object) -> bool:
        """Put an item on its way; False if the link is known to be down."""
        return self.fabric.post(self.place, (node, shard), channel, item)

    def flush(self) -> None:
        """Do nothing: posted items are on their way already."""

    def is_up(self, node: int, shard: int) -> bool:
        """Whether items can be posted."""
        return (self.place, (node, shard)) in self.fabric.up

    def shard_count(self, node: int) -> int | None:
        """Return how many shards a node has."""
        return self.fabric.shards[node]


class Fabric:
    """All links. Time is a count of steps."""

    def __init__(self, shards: dict[int, int], generator: random.Random) -> None:
        self.shards = shards
        self.now = 0
        self.delay_steps_max = 1
        self.detection_steps_max = 5
        self.endpoints: dict[Place, Endpoint] = {}
        self.up: set[tuple[Place, Place]] = set()
        self.blocked: set[tuple[int, int]] = set()
        """Pairs of nodes (from, to) that cannot reach each other for now."""
        self._generator = generator
        self._broken: dict[tuple[Place, Place], int] = {}
        self._queues: dict[tuple[Place, Place], deque[_InTransit]] = {}
        self.posted: list[tuple[Place, Place, Channel, object]] | None = None

    def attach(self, place: Place) -> Endpoint:
        """Start a process at this place; links come up with the next steps."""
        endpoint = self.endpoints[place] = Endpoint(self, place)
        return endpoint

    def detach(self, place: Place) -> None:
        """End the process at this place: the others hear of it like of a broken link."""
        del self.endpoints[place]
        for link in [link for link in self.up if place in link]:
            if link[0] == place:
                self.up.discard(link)
                self._broken.pop(link, None)
                self._queues.pop(link, None)
            else:
                self.break_link(link)

    def break_link(self, link: tuple[Place, Place]) -> None:
        """Lose what is under way; the sender hears of it later."""
        self._queues.pop(link, None)
        if link in self.up and link not in self._broken:
            delay = self._generator.randint(0, self.detection_steps_max)
            self._broken[link] = self.now + delay

    def block(self, node: int, other: int) -> None:
        """Cut everything from one node to the other until `blocked` is emptied."""
        self.blocked.add((node, other))
        for link in list(self.up):
            if (link[0][0], link[1][0]) == (node, other):
                self.break_link(link)

    def post(self, sender: Place, to: Place, channel: Channel, item: object) -> bool:
        """Take an item; see `Endpoint.post`."""
        link = (sender, to)
        if link not in self.up:
            return False
        if link not in self._broken:
            queue = self._queues.setdefault(link, deque())
            due = self.now + self._generator.randint(1, self.delay_steps_max)
            if queue:
                due = max(due, queue[-1].due)
            queue.append(_InTransit(due, channel, pack_item(item)))
        return True

    def step(self) -> None:
        """Let one step pass: broken links are noticed, others come up, items arrive."""
        self.now += 1
        for link, due in list(self._broken.items()):
            if due <= self.now:
                del self._broken[link]
                self.up.discard(link)
                self._queues.pop(link, None)
                endpoint = self.endpoints.get(link[0])
                if endpoint is not None:
                    endpoint.on_link_state(*link[1], False)
        self._raise_links()
        for link, queue in list(self._queues.items()):
            while queue and queue[0].due <= self.now and self._queues.get(link) is queue:
                _, channel, data = queue.popleft()
                receiver = self.endpoints[link[1]]
                receiver.handlers[channel](*link[0], [unpack(data)])

    def _raise_links(self) -> None:
        for sender in sorted(self.endpoints):
            for to in sorted(self.endpoints):
                link = (sender, to)
                if sender == to or link in self.up or (sender[0], to[0]) in self.blocked:
                    continue
                if self._generator.random() < 0.5:
                    self.up.add(link)
                    self.endpoints[sender].on_link_state(*to, True)


def _no_link_state(_node: int, _shard: int, _is_up: bool) -> None:
    return
