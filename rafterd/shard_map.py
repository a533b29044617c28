"""One shard's part in the cluster's map, put together.

What shards tell each other of it, what is asked of it, who is replaced, and in shard 0 the system
group itself.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

from rafter_transport.exchanger import Exchanger
from rafter_transport.registry import Registry
from rafterd.boot import ShardBoot
from rafterd.cluster_map import MapState, Replacement
from rafterd.cluster_map_machine import ClusterMapMachine
from rafterd.engine import Engine
from rafterd.map_distribution import MapDistribution
from rafterd.map_messages import Publication, message_from_wire
from rafterd.map_requests import MapRequests
from rafterd.replacing import Replacing, SnapshotAsker
from rafterd.replica_making import Made, founding_membership
from rafterd.system_group import SystemGroup

__all__ = ["ShardMap"]

logger = logging.getLogger(__name__)


class ShardMap:
    """All methods run on the shard's loop.

    `is_shut_out`: nodes know another incarnation of this one, and the map does not have this one.
    Then it keeps out of everything that groups do. Nodes that were emptied together would otherwise
    make a majority among themselves, of a cluster without data.
    """

    def __init__(
        self,
        *,
        boot: ShardBoot,
        registry: Registry,
        exchanger: Exchanger,
        engine: Engine,
        snapshots: SnapshotAsker,
        call_later: Callable[..., Any],
        random_bits: Callable[[int], int],
    ) -> None:
        config = boot.config
        self.is_shut_out = False
        self._own = config.node.id, boot.identity.incarnation
        self._boot = boot
        self._registry = registry
        self._exchanger = exchanger
        self._engine = engine
        self._system: SystemGroup | None = None
        self._distribution = MapDistribution(config.node.id, boot.shard, exchanger, engine.schedule)
        self.requests = MapRequests(
            node=config.node.id,
            shard=boot.shard,
            shared=boot.shared,
            sender=exchanger,
            call_later=call_later,
            schedule=engine.schedule,
            publication=lambda: self._distribution.publication,
            random_bits=random_bits,
        )
        self._replacing = Replacing(
            replicas=engine,
            snapshots=snapshots,
            founding=functools.partial(founding_membership, config),
            report=self.requests.to_leader,
        )

    # The system group -------------------------------------------------------------------------

    def serve(self, made: Made[ClusterMapMachine]) -> SystemGroup:
        """Stand on the system group's replica, in shard 0; this shard has a map from now on."""
        self._system = self.requests.system = SystemGroup(
            config=self._boot.config,
            replica=made.replica,
            machine=made.machine,
            log=made.log,
            present=self._exchanger,
            distribution=self._distribution,
            mark=self._engine.mark,
            is_disk_full=lambda: self._engine.is_disk_full,
        )
        return self._system

    def serve_without(self) -> None:
        """Go on without the system group, in shard 0: its log is damaged.

        What the map said last stays in the registries; without any the configuration must do.
        """
        if self._system is None:
            self._distribution.publish(MapState(), is_settled=False)
        self._system = self.requests.system = None

    # Time and messages ------------------------------------------------------------------------

    async def until_known(self) -> None:
        """Wait until this shard has a map, so that it knows whom to let in."""
        await self._distribution.until_known()

    def tick(self) -> None:
        """Publish and propose what is due; look who knows another incarnation of this node."""
        self._distribution.tick()
        if self._system is not None:
            self._system.tick()
        disowning = self._exchanger.disowning()
        is_shut_out = bool(disowning) and not self._is_entered()
        if is_shut_out and not self.is_shut_out:
            logger.error(
                "nodes %s know another incarnation of this node, which takes no part until that "
                "one was given up: rafter-cli node replace %d", sorted(disowning), self._own[0],
            )  # fmt: skip
        self.is_shut_out = is_shut_out

    def advance_replacements(self) -> None:
        """Let the leaders of this shard take the next step where nodes are being replaced."""
        self._replacing.look(self._distribution.publication)

    def receive(self, node: int, shard: int, items: list[Any]) -> None:
        """Take items of the channel CLUSTER_MAP. Raises DecodeError or PayloadError."""
        for item in items:
            message = message_from_wire(item)
            if isinstance(message, Publication):
                self._distribution.receive(node, shard, message)
            else:
                self.requests.receive(node, shard, message)

    def link_changed(self, node: int, shard: int, is_up: bool) -> None:
        """Take note of a link that has come up or gone down."""
        self._distribution.link_changed(node, shard, is_up)

    # Questions --------------------------------------------------------------------------------

    def replacements(self) -> list[Replacement]:
        """Return which nodes are being replaced, as far as this shard knows."""
        return self._distribution.publication.replacements

    def is_welcome(self) -> bool:
        """Whether all others had the time to say that they know another incarnation."""
        others = [node for node in self._registry.nodes() if node != self._own[0]]
        return self._is_entered() or all(map(self._exchanger.has_tried, others))

    def _is_entered(self) -> bool:
        """Whether the map has this incarnation of this node."""
        nodes = self._distribution.publication.nodes
        return any((record.node, record.incarnation) == self._own for record in nodes)
