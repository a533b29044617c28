"""The registry: which nodes there are, where they listen, and what they said about themselves.

Static configuration seeds it with the addresses of the initial nodes. The cluster's map, which the
nodes replicate among themselves, overrides that (`update`), and what a node says in its hello is
taken at once (`learn`): the latest news of a node holds. The older addresses are kept, for when
nobody answers at the newest one. All look-ups are in memory; names are resolved by whoever
connects, anew each time.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from rafter_transport.handshake import NODE_ID_MAX, PORT_MAX, SHARDS_MAX, Hello, Refusal


class UnknownNodeError(LookupError):
    """No node of this id is in the registry."""


class NodeInfo(NamedTuple):
    """What is known of one node. None: not known yet."""

    node: int
    host: str
    base_port: int
    shards: int | None = None
    incarnation: int | None = None
    client_host: str | None = None
    client_port: int | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where its shard 0 is dialled."""
        return self.host, self.base_port


class _Known:
    """One node: the latest news, and what each source said last."""

    __slots__ = ("heard", "info", "mapped", "static")

    def __init__(self, info: NodeInfo, static: tuple[str, int] | None) -> None:
        self.info = info
        self.static = static
        self.mapped: NodeInfo | None = None
        self.heard: Hello | None = None

    @property
    def incarnation(self) -> int | None:
        """The one incarnation that is talked to, None if any is."""
        if self.mapped is not None and self.mapped.incarnation is not None:
            return self.mapped.incarnation
        return None if self.heard is None else self.heard.incarnation

    def addresses(self) -> list[tuple[str, int]]:
        """Return where it may be, likeliest first."""
        found = [self.info.address]
        if self.heard is not None and self.heard.peer_port:
            found.append((self.heard.peer_host, self.heard.peer_port))
        if self.mapped is not None:
            found.append(self.mapped.address)
        if self.static is not None:
            found.append(self.static)
        return list(dict.fromkeys(found))


class Registry:
    """The nodes of the cluster as one shard knows them. Used on that shard's loop only."""

    __slots__ = ("_nodes", "local_node")

    def __init__(self, local_node: int, static: Mapping[int, tuple[str, int]]) -> None:
        """Take the address of shard 0 of each initial node, this one included.

        Raises ValueError if `local_node` is missing or an address is impossible.
        """
        if local_node not in static:
            raise ValueError(f"node {local_node} is not among the nodes {sorted(static)}")
        for node, (host, base_port) in static.items():
            if not 1 <= node <= NODE_ID_MAX:
                raise ValueError(f"node id {node}: must be from 1 to {NODE_ID_MAX}")
            if not host:
                raise ValueError(f"node {node} has no host")
            if not 1 <= base_port <= PORT_MAX:
                raise ValueError(f"node {node}: peer port {base_port} must be from 1 to {PORT_MAX}")
        self.local_node = local_node
        self._nodes = {
            node: _Known(NodeInfo(node, host, base_port), (host, base_port))
            for node, (host, base_port) in sorted(static.items())
        }

    def nodes(self) -> tuple[int, ...]:
        """Return the ids of all nodes, this one included, in ascending order."""
        return tuple(self._nodes)

    def node_info(self, node: int) -> NodeInfo:
        """Return what is known of a node. Raises UnknownNodeError."""
        return self._known(node).info

    def shard_count(self, node: int) -> int | None:
        """Return how many shards a node has, or None until that is known (or if the node is not).

        What the node itself said in a hello counts for more than the map: it is what links go by.
        """
        known = self._nodes.get(node)
        return None if known is None else known.info.shards

    def version_of(self, node: int) -> int:
        """Return the highest version of the protocol that a node speaks, 0 if it was not heard."""
        known = self._nodes.get(node)
        return 0 if known is None or known.heard is None else known.heard.version_max

    def peer_address(self, node: int, shard: int) -> tuple[str, int]:
        """Return where a node's shard most likely listens for peers: the base port plus the shard.

        Raises UnknownNodeError, and ValueError for a shard that can have no port.
        """
        return self.peer_addresses(node, shard)[0]

    def peer_addresses(self, node: int, shard: int) -> list[tuple[str, int]]:
        """Return all places where a node's shard may listen for peers, likeliest first.

        Never empty. Raises as `peer_address` does.
        """
        known = self._known(node)
        found = [(host, base_port + shard) for host, base_port in known.addresses()]
        found = [(host, port) for host, port in found if port <= PORT_MAX]
        if not 0 <= shard < SHARDS_MAX or not found:
            raise ValueError(
                f"node {node} shard {shard} has no port: base is {known.info.base_port}"
            )
        return found

    def check(self, hello: Hello) -> Refusal | None:
        """Return why this node must not be talked to, or None.

        An incarnation is drawn when a data directory is made. Another one under the same id means
        that the node lost what it had acknowledged: it must not vote again as if nothing happened.
        """
        known = self._nodes.get(hello.node_id)
        if known is None:
            return Refusal("unknown-node", f"node {hello.node_id} is not in this node's registry")
        incarnation = known.incarnation
        if incarnation is not None and incarnation != hello.incarnation:
            return Refusal(
                "incarnation",
                f"node {hello.node_id} had incarnation {incarnation:016x} and now has "
                f"{hello.incarnation:016x}: its data directory was replaced; an emptied node "
                f"is let in once it was given up: rafter-cli node replace {hello.node_id}",
            )
        return None

    def learn(self, hello: Hello) -> bool:
        """Keep what a node's hello says; return whether the node is dialled elsewhere now.

        The caller has found nothing against it in `check`.
        """
        if self.check(hello) is not None:
            raise ValueError(f"hello of node {hello.node_id} was not checked before it was learned")
        known = self._nodes[hello.node_id]
        before = known.info
        known.heard = hello
        known.info = before._replace(
            shards=hello.shards,
            incarnation=hello.incarnation,
            client_host=hello.client_host,
            client_port=hello.client_port,
        )
        if hello.peer_port:
            known.info = known.info._replace(host=hello.peer_host, base_port=hello.peer_port)
        return known.info.address != before.address

    def update(self, nodes: Iterable[NodeInfo]) -> set[int]:
        """Take over what the cluster's map says now of nodes, of which some may be new.

        A node without an incarnation has not been entered yet, but for its id. What the map says of
        this node itself is old news. Returns the nodes whose links must not be used any longer:
        what was heard there came from another incarnation than the map allows.
        """
        disowned = set()
        for info in nodes:
            if info.node == self.local_node:
                continue
            known = self._nodes.get(info.node)
            if known is None:
                known = self._nodes[info.node] = _Known(info, None)
                self._nodes = dict(sorted(self._nodes.items()))
            if info != known.mapped and self._map(known, info):
                disowned.add(info.node)
        return disowned

    def _map(self, known: _Known, info: NodeInfo) -> bool:
        """Take in news of the map; return whether what was heard of the node is void by it."""
        mapped, heard = known.mapped, known.heard
        known.mapped = info
        was_replaced = mapped is not None and mapped.incarnation not in (None, info.incarnation)
        is_disowned = heard is not None and (
            was_replaced or info.incarnation not in (None, heard.incarnation)
        )
        if is_disowned:
            heard = known.heard = None
            known.info = known.info._replace(shards=None, incarnation=None)
        if info.incarnation is not None:
            known.info = info if heard is None else info._replace(shards=heard.shards)
        return is_disowned

    def _known(self, node: int) -> _Known:
        try:
            return self._nodes[node]
        except KeyError:
            raise UnknownNodeError(f"node {node} is not in the registry") from None
