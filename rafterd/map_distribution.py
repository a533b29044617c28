"""The way of the cluster's map from shard 0, which has the system group, to all shards of a node.

Shard 0 sends the whole map on each change, and to each shard whose link comes up. Every shard gives
it to its registry. A shard talks to no other node before it has the map: it would not know whom
not to let in.
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


class MapUser(Protocol):
    """The part of the exchanger that is used here."""

    def post(self, node: int, shard: int, channel: Channel, item: Any) -> bool:  # noqa: ANN401
        """Queue one item for the next flush; False when it was refused."""

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
        # Shards that have not been sent what was published last.
        self._unsent: set[int] = set()
        self._linked: set[int] = set()
        self._is_known = asyncio.Event()

    async def until_known(self) -> None:
        """Wait until this shard has a map, be it an empty one."""
        await self._is_known.wait()

    def publish(self, state: MapState) -> None:
        """Let all shards of this node know the map. In shard 0 only."""
        self._take(publication_of(state))
        self._unsent = set(self._linked)
        self._send()

    def receive(self, node: int, shard: int, publication: Publication) -> None:
        """Take a map that shard 0 has sent. Raises PayloadError for any other sender."""
        if (node, shard) != (self._node, 0):
            raise PayloadError("only shard 0 of the same node sends maps")
        self._take(publication)

    def link_changed(self, node: int, shard: int, is_up: bool) -> None:
        """Send the map to a shard that has come up."""
        if node != self._node or self._shard:
            return
        if is_up:
            self._linked.add(shard)
            self._unsent.add(shard)
            self._send()
        else:
            self._linked.discard(shard)
            self._unsent.discard(shard)

    def tick(self) -> None:
        """Send again what a full link has refused."""
        if self._unsent:
            self._send()

    def _take(self, publication: Publication) -> None:
        self.publication = publication
        self._exchanger.take_map([record.info() for record in publication.nodes])
        self._is_known.set()

    def _send(self) -> None:
        if not self._is_known.is_set():
            return
        for shard in sorted(self._unsent):
            if self._exchanger.post(self._node, shard, Channel.CLUSTER_MAP, self.publication):
                self._unsent.discard(shard)
        self._schedule()
