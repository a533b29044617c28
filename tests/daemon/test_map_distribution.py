"""The map's way from shard 0 to its sisters: all of it, to each, and again after a loss."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rafter_transport import Channel, NodeInfo
from rafter_transport.payload import PayloadError, pack_item, unpack
from rafterd.cluster_map import MapState, NodeRecord
from rafterd.map_distribution import MapDistribution
from rafterd.map_messages import Publication, message_from_wire, publication_of

RECORD = NodeRecord(2, 7, "b", 17379, 1, "c", 7379)
STATE = MapState(3, {2: RECORD})
LATER = MapState(4, {2: NodeRecord(2, 7, "moved", 17379, 1, "c", 7379)})


class Exchanger:
    """Takes posts to sisters that have room, and maps."""

    def __init__(self) -> None:
        self.posted: list[tuple[int, int, Any]] = []
        self.full: set[int] = set()
        self.versions: dict[int, int] = {}
        self.taken: list[list[NodeInfo]] = []

    def post(self, node: int, shard: int, channel: Channel, item: object) -> bool:
        assert channel is Channel.CLUSTER_MAP
        if shard in self.full:
            return False
        self.posted.append((node, shard, unpack(pack_item(item))))
        return True

    def version_of(self, node: int) -> int:
        return self.versions.get(node, 3)

    def take_map(self, nodes: list[NodeInfo]) -> None:
        self.taken.append(nodes)


class Bench:
    """One shard of node 1."""

    def __init__(self, shard: int) -> None:
        self.exchanger = Exchanger()
        self.scheduled = 0
        self.distribution = MapDistribution(1, shard, self.exchanger, self.schedule)

    def schedule(self) -> None:
        self.scheduled += 1

    def sent_to(self) -> list[int]:
        """Return the sisters that were sent maps, and forget it."""
        assert {node for node, _, _ in self.exchanger.posted} <= {1}
        shards = [shard for _, shard, _ in self.exchanger.posted]
        self.exchanger.posted = []
        return shards


def test_each_sister_gets_each_map_and_the_newest_when_it_comes_up() -> None:
    bench = Bench(0)
    bench.distribution.link_changed(1, 1, True)
    assert bench.sent_to() == [], "there is none yet"
    bench.distribution.publish(STATE, is_settled=True)
    assert bench.sent_to() == [1]
    bench.distribution.link_changed(1, 2, True)
    assert bench.sent_to() == [2]
    bench.distribution.publish(LATER, is_settled=True)
    assert bench.sent_to() == [1, 2]
    bench.distribution.link_changed(1, 1, False)
    bench.distribution.publish(STATE, is_settled=True)
    assert bench.sent_to() == [2]
    bench.distribution.link_changed(1, 1, True)
    assert bench.exchanger.posted[0][2][:2] == ["map", STATE.version]
    assert bench.scheduled
    assert bench.exchanger.taken == [[RECORD.info()], [LATER.nodes[2].info()], [RECORD.info()]]


def test_what_is_published_already_is_not_sent_again() -> None:
    bench = Bench(0)
    bench.distribution.link_changed(1, 1, True)
    bench.distribution.publish(MapState(), is_settled=False)
    assert bench.sent_to() == [1], "an empty map is one, too"
    bench.distribution.publish(STATE, is_settled=False)
    bench.distribution.publish(STATE, is_settled=True)
    assert bench.sent_to() == [1]


def test_other_nodes_are_told_once_for_each_link_what_is_settled() -> None:
    bench = Bench(0)
    bench.exchanger.versions = {4: 2}
    bench.distribution.publish(STATE, is_settled=False)
    for node, shard in ((2, 0), (2, 1), (4, 0)):
        bench.distribution.link_changed(node, shard, True)
    assert bench.exchanger.posted == []
    bench.distribution.publish(STATE, is_settled=True)
    bench.distribution.publish(LATER, is_settled=True)
    assert [(node, shard) for node, shard, _ in bench.exchanger.posted] == [(2, 0)]
    bench.distribution.link_changed(2, 0, False)
    bench.distribution.link_changed(2, 0, True)
    bench.distribution.tick()
    sent = [(node, shard, item[1]) for node, shard, item in bench.exchanger.posted]
    assert sent == [(2, 0, STATE.version), (2, 0, LATER.version)]


def test_what_another_node_tells_is_taken_if_it_is_newer() -> None:
    bench = Bench(0)
    bench.distribution.link_changed(1, 1, True)
    bench.distribution.publish(STATE, is_settled=True)
    bench.exchanger.posted = []
    for state in (MapState(), STATE):
        bench.distribution.receive(2, 0, publication_of(state))
    assert bench.exchanger.posted == []
    bench.distribution.receive(2, 0, publication_of(LATER))
    assert bench.sent_to() == [1]
    assert bench.distribution.publication.version == LATER.version
    assert bench.exchanger.taken[-1] == [LATER.nodes[2].info()]


def test_what_a_full_link_refuses_is_sent_again_with_the_ticks() -> None:
    bench = Bench(0)
    for shard in (1, 2):
        bench.distribution.link_changed(1, shard, True)
    bench.exchanger.full = {1}
    bench.distribution.publish(STATE, is_settled=True)
    assert bench.sent_to() == [2]
    bench.distribution.tick()
    assert bench.sent_to() == []
    bench.exchanger.full = set()
    bench.distribution.tick()
    assert bench.sent_to() == [1]
    bench.distribution.tick()
    assert bench.sent_to() == []


def test_a_sister_waits_until_it_has_a_map_and_gives_it_to_its_registry() -> None:
    async def main() -> None:
        sender, receiver = Bench(0), Bench(1)
        waiting = asyncio.create_task(receiver.distribution.until_known())
        receiver.distribution.link_changed(1, 0, True)
        sender.distribution.link_changed(1, 1, True)
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done()
        sender.distribution.publish(STATE, is_settled=True)
        ((_, _, item),) = sender.exchanger.posted
        message = message_from_wire(item)
        assert isinstance(message, Publication)
        receiver.distribution.receive(1, 0, message)
        assert receiver.distribution.publication == message
        await waiting
        assert receiver.exchanger.taken == [[RECORD.info()]]
        assert receiver.exchanger.posted == []
        await sender.distribution.until_known()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("receiver", "node", "shard"), [(1, 2, 0), (1, 1, 2), (1, 2, 1), (0, 1, 1), (0, 2, 1)]
)
def test_nobody_else_sends_maps(receiver: int, node: int, shard: int) -> None:
    bench = Bench(receiver)
    with pytest.raises(PayloadError, match="only shard 0 sends maps"):
        bench.distribution.receive(node, shard, Publication(3, []))
    assert bench.exchanger.taken == []
