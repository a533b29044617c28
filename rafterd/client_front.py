"""What a shard's connections see of the node around them: the `FrontEnd` of rafter_kv."""

from collections.abc import Mapping, Sequence

from rafter_kv.connection import RespConnection
from rafter_kv.front_end import ClientLimits, ClientRegistry, ClusterView, GroupView, NodeView
from rafter_kv.slots import group_by_slot, slot_ranges
from rafter_transport.registry import Registry
from rafterd.config_schema import Config
from rafterd.map_requests import MapRequests
from rafterd.node_status import StatusGatherer
from rafterd.router import Router
from rafterd.shared import Counter, GroupState, GroupWord, SharedState

_NODE_COUNTERS = (
    (Counter.CONNECTIONS_TOTAL, "total_connections_received"),
    (Counter.COMMANDS_TOTAL, "total_commands_processed"),
    (Counter.REJECTED_TOTAL, "rejected_connections"),
)


def client_limits(config: Config) -> ClientLimits:
    """Return the bounds of one shard's client side, from the configuration."""
    client = config.client
    return ClientLimits(
        connections_max=client.connections_max,
        query_buffer_bytes_max=client.query_buffer_bytes_max,
        value_bytes_max=client.value_bytes_max,
        key_bytes_max=client.key_bytes_max,
        unanswered_commands_max=client.pipeline_commands_max,
        unanswered_bytes_max=client.query_buffer_bytes_max,
        write_buffer_bytes_max=client.output_buffer_bytes_max,
    )


class ClientFront:
    """Implements `rafter_kv.front_end.FrontEnd` for one shard."""

    def __init__(
        self,
        *,
        config: Config,
        shard: int,
        shared: SharedState,
        registry: Registry,
        router: Router,
        status: StatusGatherer,
        map_requests: MapRequests,
    ) -> None:
        self.group_by_slot: Sequence[int] = group_by_slot(config.cluster.groups)
        self.groups: Sequence[int] = list(range(1, config.cluster.groups + 1))
        self.limits = client_limits(config)
        self.clients = ClientRegistry(self.limits.connections_max)
        self.submit = router.submit
        self.request_status = status.request
        self.request_replacement = map_requests.replace
        self._config = config
        self._shard = shard
        self._shared = shared
        self._registry = registry
        self._touched: list[RespConnection] = []
        self._schedule = router.schedule
        self._client_number = 0
        self._baseline: dict[Counter, int] = dict.fromkeys((c for c, _ in _NODE_COUNTERS), 0)

    def touch(self, connection: RespConnection) -> None:
        """Send this connection's replies at the end of the round."""
        self._touched.append(connection)
        self._schedule()

    def flush_replies(self) -> None:
        """Write the replies of every connection that was touched; ends the engine's round."""
        while self._touched:
            touched = self._touched
            self._touched = []
            for connection in touched:
                connection.flush_replies()

    def next_client_id(self) -> int:
        """Return an id that no other connection of this node has had: shards interleave theirs."""
        self._client_number += 1
        return self._client_number * self._shared.shards + self._shard

    def cluster_view(self) -> ClusterView:
        """Return nodes and groups as this shard knows them now."""
        config, registry = self._config, self._registry
        nodes = []
        for node in registry.nodes():
            info = registry.node_info(node)
            if not info.client_port or not info.shards:
                continue  # never heard: nobody knows where it serves clients
            ports = tuple(info.client_port + 1 + shard for shard in range(info.shards))
            host = info.client_host or info.host
            nodes.append(NodeView(node, host, info.client_port, info.base_port, ports))
        groups = []
        for group, first, last in slot_ranges(config.cluster.groups):
            leader, term = self._shared.route(group)
            members = tuple(sorted(config.members(group)))
            groups.append(GroupView(group, first, last, leader, term, members))
        return ClusterView(
            config.cluster_id, config.node.id, self._shard, tuple(nodes), tuple(groups)
        )

    def server_info(self) -> Mapping[str, Mapping[str, object]]:
        """Return the node's figures for INFO; counters are sums over its shards."""
        config, shared = self._config, self._shared
        local_groups = config.local_groups()
        keys = sum(shared.get_group(group, GroupWord.KEYS) for group in local_groups)
        expires = sum(shared.get_group(group, GroupWord.EXPIRES) for group in local_groups)
        leading = [g for g in local_groups if shared.route(g)[0] == config.node.id]
        serving = sum(
            shared.get_group(g, GroupWord.STATE) == GroupState.SERVING for g in local_groups
        )
        memory_bytes = shared.total(Counter.MEMORY_BYTES)
        return {
            "Server": {"tcp_port": config.client.port},
            "Clients": {"connected_clients": shared.total(Counter.CLIENTS)},
            "Memory": {"used_memory": memory_bytes, "used_memory_rss": memory_bytes},
            "Stats": {
                # A shard that was restarted counts from zero again: never show less than that.
                name: max(0, shared.total(counter) - self._baseline[counter])
                for counter, name in _NODE_COUNTERS
            },
            "Raft": {
                "node_id": config.node.id,
                "cluster_name": config.cluster.name,
                "cluster_id": f"{config.cluster_id:016x}",
                "shard": self._shard,
                "shards": shared.shards,
                "nodes": len(config.nodes),
                "groups": config.cluster.groups,
                "groups_local": len(local_groups),
                "groups_serving": serving,
                "groups_led": len(leading),
                "entries_applied": shared.total(Counter.ENTRIES_APPLIED_TOTAL),
                "wal_syncs": shared.total(Counter.WAL_SYNCS_TOTAL),
                "wal_bytes": shared.total(Counter.WAL_BYTES_TOTAL),
            },
            "Keyspace": {"db0": f"keys={keys},expires={expires},avg_ttl=0"} if keys else {},
        }

    def configuration(self) -> Mapping[str, str]:
        """Return what CONFIG GET shows of the node's configuration."""
        config = self._config
        return {
            "port": str(config.client.port),
            "bind": config.client.host,
            "dir": config.node.data_dir,
            "cluster-enabled": "yes",
            "rafter-groups": str(config.cluster.groups),
            "rafter-replication": str(config.cluster.replication),
            "rafter-shards": str(config.node.shards),
        }

    def reset_statistics(self) -> None:
        """Let the node's counters in INFO begin at zero for this shard's clients."""
        for counter in self._baseline:
            self._baseline[counter] = self._shared.total(counter)
