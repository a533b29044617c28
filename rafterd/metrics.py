"""/metrics: one custom collector of prometheus-client over the shared words.

Nothing is counted here: a scrape reads what the shards wrote. Not the library's multiprocess mode,
which knows no custom collectors and no removal of labels. Names: prefix rafter_, base units,
etcd's words. The label `group` is kept for what has a meaning for one group only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from rafterd import __version__
from rafterd.config import Config
from rafterd.health import ShardFact
from rafterd.placement import SYSTEM_GROUP
from rafterd.shared import Counter, GroupState, GroupWord, PeerWord, SharedState

MICROSECONDS = 1e-6


class ShardMetric(NamedTuple):
    """One family with the label `shard`, from one word of each shard."""

    name: str
    counter: Counter
    documentation: str
    scale: float = 1


class PeerMetric(NamedTuple):
    """One family with the labels `shard` and `node`: what each shard says of each node."""

    name: str
    word: PeerWord
    documentation: str
    scale: float = 1


class GroupMetric(NamedTuple):
    """One gauge with the label `group`, from one word of each group."""

    name: str
    word: GroupWord
    documentation: str


COUNTERS = (
    ShardMetric("rafter_connections", Counter.CONNECTIONS_TOTAL, "Client connections accepted."),
    ShardMetric("rafter_commands", Counter.COMMANDS_TOTAL, "Commands received from clients."),
    ShardMetric("rafter_reads", Counter.READS_TOTAL, "Read commands executed for groups."),
    ShardMetric("rafter_writes", Counter.WRITES_TOTAL, "Write commands executed for groups."),
    ShardMetric("rafter_rejected", Counter.REJECTED_TOTAL, "Commands and connections refused."),
    ShardMetric(
        "rafter_protocol_errors",
        Counter.PROTOCOL_ERRORS_TOTAL,
        "Client connections closed for malformed requests.",
    ),
    ShardMetric(
        "rafter_forwarded", Counter.FORWARDED_TOTAL, "Commands sent to another shard or node."
    ),
    ShardMetric(
        "rafter_timeouts",
        Counter.TIMEOUTS_TOTAL,
        "Commands answered with -TIMEOUT: their outcome is unknown to the client.",
    ),
    ShardMetric("rafter_raft_rounds", Counter.ROUNDS_TOTAL, "Rounds of the engine with work."),
    ShardMetric(
        "rafter_raft_proposals", Counter.PROPOSALS_TOTAL, "Entries proposed on leaders here."
    ),
    ShardMetric(
        "rafter_raft_proposals_failed",
        Counter.PROPOSALS_DROPPED_TOTAL,
        "Proposals refused by the raft core.",
    ),
    ShardMetric("rafter_raft_proposals_applied", Counter.ENTRIES_APPLIED_TOTAL, "Entries applied."),
    ShardMetric(
        "rafter_raft_leader_changes", Counter.LEADER_CHANGES_TOTAL, "Changes of leader seen."
    ),
    ShardMetric(
        "rafter_raft_read_index_rounds",
        Counter.READ_INDEX_ROUNDS_TOTAL,
        "Quorum rounds made for reads alone.",
    ),
    ShardMetric("rafter_wal_bytes", Counter.WAL_BYTES_TOTAL, "Bytes appended to the WAL."),
    ShardMetric(
        "rafter_wal_copied_bytes",
        Counter.WAL_COPIED_BYTES_TOTAL,
        "Bytes of cold entries that were written again so that old segments could go.",
    ),
    ShardMetric(
        "rafter_peer_frames_sent", Counter.PEER_FRAMES_SENT_TOTAL, "Frames sent to other nodes."
    ),
    ShardMetric(
        "rafter_peer_sent_bytes", Counter.PEER_BYTES_SENT_TOTAL, "Bytes sent to other nodes."
    ),
    ShardMetric(
        "rafter_peer_frames_received",
        Counter.PEER_FRAMES_RECEIVED_TOTAL,
        "Frames received from other nodes.",
    ),
    ShardMetric(
        "rafter_peer_received_bytes",
        Counter.PEER_BYTES_RECEIVED_TOTAL,
        "Bytes received from other nodes.",
    ),
    ShardMetric(
        "rafter_peer_dropped",
        Counter.PEER_DROPPED_TOTAL,
        "Raft messages dropped because a link was down or full.",
    ),
    ShardMetric(
        "rafter_peer_handshakes_refused",
        Counter.HANDSHAKES_REFUSED_TOTAL,
        "Links refused: another cluster, an unknown node, another version.",
    ),
    ShardMetric(
        "rafter_peer_tls_refused",
        Counter.TLS_REFUSED_TOTAL,
        "Links, dialled or accepted, that ended in TLS: a certificate that does not fit, no TLS.",
    ),
    ShardMetric(
        "rafter_peer_idle",
        Counter.PEER_IDLE_TOTAL,
        "Links, dialled or accepted, that ended because nothing came on them for too long.",
    ),
    ShardMetric(
        "rafter_client_tls_refused",
        Counter.CLIENT_TLS_REFUSED_TOTAL,
        "Connections of clients that ended in TLS: a certificate that does not fit, no TLS.",
    ),
    ShardMetric(
        "rafter_snapshots_taken", Counter.SNAPSHOTS_TAKEN_TOTAL, "Snapshots taken of groups here."
    ),
    ShardMetric(
        "rafter_snapshots_failed",
        Counter.SNAPSHOTS_FAILED_TOTAL,
        "Snapshots that could not be taken; another try follows.",
    ),
    ShardMetric(
        "rafter_snapshots_sent", Counter.SNAPSHOTS_SENT_TOTAL, "Snapshots that a follower has got."
    ),
    ShardMetric(
        "rafter_snapshots_unsent",
        Counter.SNAPSHOTS_UNSENT_TOTAL,
        "Transfers of snapshots that ended without; raft begins another if one is needed.",
    ),
    ShardMetric(
        "rafter_snapshots_received",
        Counter.SNAPSHOTS_RECEIVED_TOTAL,
        "Snapshots received whole from leaders.",
    ),
    ShardMetric(
        "rafter_snapshots_installed",
        Counter.SNAPSHOTS_INSTALLED_TOTAL,
        "Snapshots that took the place of a replica's log and state.",
    ),
    ShardMetric(
        "rafter_snapshot_sent_bytes",
        Counter.SNAPSHOT_BYTES_SENT_TOTAL,
        "Bytes of snapshots sent to other nodes.",
    ),
    ShardMetric(
        "rafter_snapshot_received_bytes",
        Counter.SNAPSHOT_BYTES_RECEIVED_TOTAL,
        "Bytes of snapshots received from other nodes.",
    ),
    ShardMetric(
        "rafter_cpu_seconds",
        Counter.CPU_MICROSECONDS_TOTAL,
        "Processor time of the shard process.",
        MICROSECONDS,
    ),
)

GAUGES = (
    ShardMetric("rafter_clients", Counter.CLIENTS, "Client connections open."),
    ShardMetric(
        "rafter_raft_proposals_pending",
        Counter.PROPOSALS_PENDING,
        "Proposals neither applied nor failed yet.",
    ),
    ShardMetric("rafter_wal_segments", Counter.WAL_SEGMENTS, "Segment files of the WAL."),
    ShardMetric(
        "rafter_wal_disk_bytes", Counter.WAL_DISK_BYTES, "Bytes that the WAL takes on disk."
    ),
    ShardMetric(
        "rafter_wal_live_bytes", Counter.WAL_LIVE_BYTES, "Bytes of records that are needed."
    ),
    ShardMetric(
        "rafter_wal_oldest_group",
        Counter.WAL_OLDEST_GROUP,
        "A group that needs the oldest segment, 0 if none does.",
    ),
    ShardMetric(
        "rafter_wal_disk_full",
        Counter.WAL_IS_DISK_FULL,
        "1 while there is no room for another segment, and writes are refused.",
    ),
    ShardMetric(
        "rafter_snapshot_transfers",
        Counter.SNAPSHOT_TRANSFERS,
        "Snapshots on their way to other nodes or from them.",
    ),
    ShardMetric("rafter_sessions", Counter.SESSIONS, "Sessions remembered by state machines."),
    ShardMetric("rafter_peer_links_up", Counter.PEER_LINKS_UP, "Links to other nodes that are up."),
    ShardMetric("rafter_memory_bytes", Counter.MEMORY_BYTES, "Resident memory of the process."),
    ShardMetric(
        "rafter_event_loop_lag_seconds",
        Counter.LOOP_LAG_MICROSECONDS_MAX,
        "Longest delay of the event loop's tick of late.",
        MICROSECONDS,
    ),
)

GROUP_GAUGES = (
    GroupMetric("rafter_raft_term", GroupWord.TERM, "Term of the replica."),
    GroupMetric("rafter_raft_commit_index", GroupWord.COMMIT, "Commit index of the replica."),
    GroupMetric("rafter_raft_applied_index", GroupWord.APPLIED, "Applied index of the replica."),
    GroupMetric("rafter_keys", GroupWord.KEYS, "Keys in the replica."),
    GroupMetric(
        "rafter_raft_state",
        GroupWord.STATE,
        "State of the replica: "
        + ", ".join(f"{state} {state.name.lower()}" for state in GroupState),
    ),
)


PEER_COUNTERS = (
    PeerMetric("rafter_link_frames_sent", PeerWord.FRAMES_SENT_TOTAL, "Frames sent to a node."),
    PeerMetric("rafter_link_sent_bytes", PeerWord.BYTES_SENT_TOTAL, "Bytes sent to a node."),
    PeerMetric(
        "rafter_link_frames_received", PeerWord.FRAMES_RECEIVED_TOTAL, "Frames received from it."
    ),
    PeerMetric(
        "rafter_link_received_bytes", PeerWord.BYTES_RECEIVED_TOTAL, "Bytes received from it."
    ),
    PeerMetric(
        "rafter_link_refused",
        PeerWord.REFUSED_TOTAL,
        "Items for it that were not taken: no link, no room.",
    ),
)

PEER_GAUGES = (
    PeerMetric("rafter_links_up", PeerWord.LINKS_UP, "Links to its shards that are up."),
    PeerMetric("rafter_link_pending_bytes", PeerWord.PENDING_BYTES, "Bytes that wait for it."),
    PeerMetric(
        "rafter_link_round_trip_seconds",
        PeerWord.ROUND_TRIP_MICROSECONDS,
        "The longest round trip that the kernel measured on a link to it; 0 if none.",
        MICROSECONDS,
    ),
)


class NodeCollector(Collector):
    """Reads the words of a node at each scrape."""

    def __init__(
        self,
        config: Config,
        shared: SharedState,
        facts: Callable[[], Iterable[ShardFact]],
    ) -> None:
        self._config = config
        self._shared = shared
        self._facts = facts
        groups = [SYSTEM_GROUP, *config.local_groups()]
        self._groups = [(group, str(group)) for group in groups]

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        cluster, node = self._config.cluster, self._config.node
        build = InfoMetricFamily("rafter_build", "What runs here.")
        build.add_metric([], {"version": __version__})
        yield build
        identity = InfoMetricFamily("rafter_node", "Which node this is.")
        identity.add_metric([], {"cluster": cluster.name, "node": str(node.id)})
        yield identity
        yield from self._collect_facts()
        yield from self._collect_shards()
        yield from self._collect_groups()
        yield from self._collect_peers()

    def _collect_facts(self) -> Iterator[Metric]:
        serving = GaugeMetricFamily(
            "rafter_shard_serving", "1 if the shard serves.", labels=["shard"]
        )
        restarts = CounterMetricFamily(
            "rafter_shard_restarts", "Restarts of the shard by its supervisor.", labels=["shard"]
        )
        for fact in self._facts():
            serving.add_metric([str(fact.shard)], int(fact.is_serving))
            restarts.add_metric([str(fact.shard)], fact.restarts)
        yield serving
        yield restarts

    def _collect_shards(self) -> Iterator[Metric]:
        shards = [(shard, str(shard)) for shard in range(self._shared.shards)]
        family: CounterMetricFamily | GaugeMetricFamily
        for metric in COUNTERS:
            family = CounterMetricFamily(metric.name, metric.documentation, labels=["shard"])
            for shard, label in shards:
                family.add_metric([label], self._shared.get(shard, metric.counter) * metric.scale)
            yield family
        for metric in GAUGES:
            family = GaugeMetricFamily(metric.name, metric.documentation, labels=["shard"])
            for shard, label in shards:
                family.add_metric([label], self._shared.get(shard, metric.counter) * metric.scale)
            yield family
        syncs = SummaryMetricFamily(
            "rafter_wal_fsync_duration_seconds", "Syncs of the WAL.", labels=["shard"]
        )
        for shard, label in shards:
            microseconds = self._shared.get(shard, Counter.WAL_SYNC_MICROSECONDS_TOTAL)
            syncs.add_metric(
                [label],
                self._shared.get(shard, Counter.WAL_SYNCS_TOTAL),
                microseconds * MICROSECONDS,
            )
        yield syncs

    def _collect_groups(self) -> Iterator[Metric]:
        has_leader = GaugeMetricFamily(
            "rafter_raft_has_leader", "1 if the replica knows a leader.", labels=["group"]
        )
        is_leader = GaugeMetricFamily(
            "rafter_raft_is_leader", "1 if the replica is the leader.", labels=["group"]
        )
        for group, label in self._groups:
            leader, _term = self._shared.route(group)
            has_leader.add_metric([label], int(leader != 0))
            is_leader.add_metric([label], int(leader == self._config.node.id))
        yield has_leader
        yield is_leader
        for metric in GROUP_GAUGES:
            family = GaugeMetricFamily(metric.name, metric.documentation, labels=["group"])
            for group, label in self._groups:
                family.add_metric([label], self._shared.get_group(group, metric.word))
            yield family

    def _collect_peers(self) -> Iterator[Metric]:
        shared = self._shared
        rows = [
            (words, [str(shard), str(node)])
            for shard in range(shared.shards)
            for node in shared.nodes
            if (words := shared.peer_words(shard, node)) is not None
        ]
        family: CounterMetricFamily | GaugeMetricFamily
        for metric in (*PEER_COUNTERS, *PEER_GAUGES):
            kind = CounterMetricFamily if metric in PEER_COUNTERS else GaugeMetricFamily
            family = kind(metric.name, metric.documentation, labels=["shard", "node"])
            for words, labels in rows:
                family.add_metric(labels, words[metric.word] * metric.scale)
            yield family


class Exposition:
    """The registry of a node and its text."""

    def __init__(self, collector: Collector) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(collector)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return (body, content type) in the format that an Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
