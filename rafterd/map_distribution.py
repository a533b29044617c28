"""The way of the cluster's map from shard 0, which has the system group, to all shards of a node.

Shard 0 sends the whole map on each change, and to each shard whose link comes up. Every shard gives
it to its registry. A shard talks to no other node before it has the map: it would not know whom
not to let in.

When a link to shard 0 of another node comes up that one is told the map, too. Who was away while a
node was replaced would shut out its successor, and maybe could not make a majority without it to
hear of that from the system group.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from rafter_transport.exchanger import Channel
from rafter_transport.payload import PayloadError
from rafter_transport.registry import NodeInfo
from rafterd.cluster_map import MapState
from rafterd.map_messages import Publication, publication_of

__all__ = ["MapDistribution", "MapUser"]

MAP_VERSION = 3
"""The first version of the peer protocol with the channel CLUSTER_MAP."""


class MapUser(Protocol):
    """The part of the exchanger that is used here."""

    def post(self, node: int, shard: int, channel: Channel, item: Any) -> bool:  # noqa: ANN401
        """Queue one item for the next flush; False when it was refused."""

    def version_of(self, node: int) -> int:
        """Return the highest version of the protocol that a node speaks, 0 if it was not heard."""

    def take_map(self, nodes: list[NodeInfo]) -> None:
        """Let the registry know, and close the links that the map forbids."""


class MapDistribution:
    """One shard's end. On its loop; `schedule` lets the engine flush what was posted.

    `publication` is the newest map, an empty one before there is any.
    """

    def __init__(
        self, node: int, shard: int, exchanger: MapUser, schedule: Callable[[], None]
    ) -> None:
        self._node = node
        self._shard = shard
        self._exchanger = exchanger
        self._schedule = schedule
        self.publication = Publication(0, [])
        self._is_settled = False
        # The shards whose links are up, and those that have not been sent what they should.
        self._linked: set[tuple[int, int]] = set()
        self._unsent: set[tuple[int, int]] = set()
        self._is_known = asyncio.Event()

    async def until_known(self) -> None:
        """Wait until this shard has a map, be it an empty one."""
        await self._is_known.wait()

    def publish(self, state: MapState, *, is_settled: bool) -> None:
        """Let all shards of this node know the map. In shard 0 only.

        `is_settled`: all of it is committed, so that other nodes may be told.
        """
        self._is_settled = self._is_settled or is_settled
        publication = publication_of(state)
        if publication != self.publication or not self._is_known.is_set():
            self._take(publication)
            self._to_sisters()
        self._send()

    def receive(self, node: int, shard: int, publication: Publication) -> None:
        """Take a map that shard 0 has sent, of this node or, in shard 0, of another one.

        Raises PayloadError for any other sender.
        """
        if shard or (node == self._node) is (self._shard == 0):
            raise PayloadError("only shard 0 sends maps, to its sisters and to shard 0 of others")
        if node == self._node:
            self._take(publication)
        elif publication.version > self.publication.version:
            self._take(publication)
            self._to_sisters()
            self._send()

    def link_changed(self, node: int, shard: int, is_up: bool) -> None:
        """Send the map to a shard that has come up."""
        is_sister = node == self._node
        if self._shard or (shard and not is_sister):
            return
        peer = node, shard
        if not is_up:
            self._linked.discard(peer)
            self._unsent.discard(peer)
        elif is_sister or self._exchanger.version_of(node) >= MAP_VERSION:
            self._linked.add(peer)
            self._unsent.add(peer)
            self._send()

    def tick(self) -> None:
        """Send again what a full link has refused."""
        if self._unsent:
            self._send()

    def _take(self, publication: Publication) -> None:
        self.publication = publication
        self._exchanger.take_map([record.info() for record in publication.nodes])
        self._is_known.set()

    def _to_sisters(self) -> None:
        self._unsent |= {peer for peer in self._linked if peer[0] == self._node}

    def _send(self) -> None:
        if not self._is_known.is_set():
            return
        for node, shard in sorted(self._unsent):
            if node != self._node and not self._is_settled:
                continue
            if self._exchanger.post(node, shard, Channel.CLUSTER_MAP, self.publication):
                self._unsent.discard((node, shard))
                self._schedule()
