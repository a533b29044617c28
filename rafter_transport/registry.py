"""The registry: which nodes there are, where they listen, and what they said about themselves.

Static configuration is its source: the addresses of all nodes. What a node adds in its hello (shard
count, incarnation, where it serves clients) is learned from it, and kept until restart. All
look-ups are in memory; names are resolved by whoever connects, anew each time.
"""

from collections.abc import Mapping
from typing import NamedTuple

from rafter_transport.handshake import NODE_ID_MAX, SHARDS_MAX, Hello, Refusal


class UnknownNodeError(LookupError):
    """No node of this id is in the registry."""


class NodeInfo(NamedTuple):
    """What is known of one node. None: not heard yet."""

    node: int
    host: str
    base_port: int
    shards: int | None = None
    incarnation: int | None = None
    client_host: str | None = None
    client_port: int | None = None


class Registry:
    """The nodes of the cluster as one shard knows them. Used on that shard's loop only."""

    __slots__ = ("_nodes", "local_node")

    def __init__(self, local_node: int, static: Mapping[int, tuple[str, int]]) -> None:
        """Take the address of shard 0 of each node, this one included.

        Raises ValueError if `local_node` is missing or an address is impossible.
        """
        if local_node not in static:
            raise ValueError(f"node {local_node} is not among the nodes {sorted(static)}")
        for node, (host, base_port) in static.items():
            if not 1 <= node <= NODE_ID_MAX:
                raise ValueError(f"node id {node}: must be from 1 to {NODE_ID_MAX}")
            if not host:
                raise ValueError(f"node {node} has no host")
            if not 1 <= base_port <= 65535:
                raise ValueError(f"node {node}: peer port {base_port} must be from 1 to 65535")
        self.local_node = local_node
        self._nodes = {
            node: NodeInfo(node, host, base_port)
            for node, (host, base_port) in sorted(static.items())
        }

    def nodes(self) -> tuple[int, ...]:
        """Return the ids of all nodes, this one included, in ascending order."""
        return tuple(self._nodes)

    def node_info(self, node: int) -> NodeInfo:
        """Return what is known of a node. Raises UnknownNodeError."""
        try:
            return self._nodes[node]
        except KeyError:
            raise UnknownNodeError(f"node {node} is not in the registry") from None

    def shard_count(self, node: int) -> int | None:
        """Return how many shards a node has, or None until it was heard (or if it is unknown)."""
        info = self._nodes.get(node)
        return None if info is None else info.shards

    def peer_address(self, node: int, shard: int) -> tuple[str, int]:
        """Return where a node's shard listens for peers: the base port plus the shard.

        Raises UnknownNodeError, and ValueError for a shard that can have no port.
        """
        info = self.node_info(node)
        port = info.base_port + shard
        if not 0 <= shard < SHARDS_MAX or port > 65535:
            raise ValueError(f"node {node} shard {shard} has no port: base is {info.base_port}")
        return info.host, port

    def check(self, hello: Hello) -> Refusal | None:
        """Return why this node must not be talked to, or None.

        An incarnation is drawn when a data directory is made. Another one under the same id means
        that the node lost what it had acknowledged: it must not vote again as if nothing happened.
        """
        info = self._nodes.get(hello.node_id)
        if info is None:
            return Refusal("unknown-node", f"node {hello.node_id} is not in this node's registry")
        if info.incarnation is not None and info.incarnation != hello.incarnation:
            return Refusal(
                "incarnation",
                f"node {hello.node_id} had incarnation {info.incarnation:016x} and now has "
                f"{hello.incarnation:016x}: its data directory was replaced; an emptied node "
                "cannot come back under its old id (restart this node to accept it)",
            )
        return None

    def learn(self, hello: Hello) -> None:
        """Keep what a node's hello says. The caller has found nothing against it in `check`."""
        if self.check(hello) is not None:
            raise ValueError(f"hello of node {hello.node_id} was not checked before it was learned")
        self._nodes[hello.node_id] = self._nodes[hello.node_id]._replace(
            shards=hello.shards,
            incarnation=hello.incarnation,
            client_host=hello.client_host,
            client_port=hello.client_port,
        )
