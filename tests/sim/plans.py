"""What a seed decides before the start: the shape of the cluster, its configuration, the faults.

Most limits are tiny most of the time, so that what is rare in production happens in every run.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from dataclasses import dataclass

import msgspec

from rafterd.config import Config, load_config

CLIENT_PORT = 7379
PEER_PORT = 17379
LEAD_SECONDS = 2.0
"""The faults begin no later than this after the start."""


@dataclass(frozen=True)
class Plan:
    """The cluster of one run."""

    nodes: int
    shards: int
    groups: int
    replication: int
    tick_milliseconds: int
    election_timeout_ticks: int
    clients: int
    depth: int
    operations: int
    fault_seconds: float
    fault_kinds: tuple[str, ...]
    fault_interval_seconds: float
    delay_seconds: tuple[float, float]
    sync_seconds: tuple[float, float]
    settings: dict[str, int | float | str]
    """Further settings by section and key, `raft.heartbeat_ticks`."""
    buggify_chance: float

    @property
    def election_timeout_seconds(self) -> float:
        return self.election_timeout_ticks * self.tick_milliseconds / 1000

    @property
    def work_seconds(self) -> float:
        """How long the operations are to last: until the last fault."""
        return LEAD_SECONDS + self.fault_seconds

    def __str__(self) -> str:
        return (
            f"{self.nodes} nodes, {self.shards} shards, {self.groups} groups of "
            f"{self.replication}; faults: {', '.join(self.fault_kinds) or 'none'}"
        )


def quick(plan: Plan) -> Plan:
    """Return a plan with fewer operations, less at once, and the faults in a third of the time."""
    return dataclasses.replace(
        plan,
        depth=plan.depth // 4,
        operations=plan.operations // 27,
        fault_seconds=plan.fault_seconds / 3,
        fault_interval_seconds=plan.fault_interval_seconds / 3,
    )


def host_of(node: int) -> str:
    """Return the address of a node's host."""
    return f"127.0.1.{node}"


def make_plan(draw: random.Random, kinds: tuple[str, ...]) -> Plan:
    """Draw a plan; `kinds` are the faults there are."""
    nodes = draw.choice((1, 2, 3, 3, 3, 3, 4, 5, 5, 7))
    replication = min(nodes, draw.choice((1, 3, 3, 3, 5)))
    count = draw.randint(0, 1) * draw.randint(0, 3) + draw.randint(0, 5)
    return Plan(
        nodes=nodes,
        shards=draw.choice((1, 1, 2, 2, 3)),
        groups=draw.choice((1, 1, 2, 3, 4, 8, 16)) if nodes < 5 else draw.choice((1, 2, 4)),
        replication=replication,
        tick_milliseconds=draw.choice((50, 100)),
        election_timeout_ticks=draw.choice((6, 10, 12)),
        clients=draw.randint(3, 10),
        # What costs is that a message comes, not what it carries: the more at once, the better.
        depth=draw.choice((16, 128, 256)),
        # In steps, so that there are as many to choose from as before, and a seed's cluster and
        # faults stay what they were.
        operations=draw.randrange(6000, 36_001, 3),
        fault_seconds=draw.uniform(4.0, 8.0),
        fault_kinds=tuple(sorted(draw.sample(kinds, min(len(kinds), count)))),
        fault_interval_seconds=draw.choice((0.2, 0.5, 1.0)),
        delay_seconds=draw.choice(((50e-6, 500e-6), (1e-3, 10e-3), (100e-6, 30e-3))),
        sync_seconds=draw.choice(((100e-6, 3e-3), (1e-3, 30e-3), (10e-3, 100e-3))),
        settings=_draw_settings(draw),
        buggify_chance=draw.choice((0.0, 0.02, 0.1)),
    )


def _draw_settings(draw: random.Random) -> dict[str, int | float | str]:
    settings: dict[str, int | float | str] = {
        "raft.heartbeat_ticks": draw.choice((1, 2)),
        "raft.first_leader": draw.choice(("spread", "none")),
        "raft.batches_in_flight_max": draw.choice((1, 1, 2, 4)),
        "storage.segment_bytes": draw.choice((64 << 10, 128 << 10, 1 << 20)),
        "storage.tail_bytes_max": draw.choice((0, 1 << 12, 64 << 10, 1 << 20)),
        "snapshot.log_entries": draw.choice((10, 50, 200, 100_000)),
        "snapshot.log_bytes": draw.choice((4 << 10, 32 << 10, 1 << 30)),
        "snapshot.retained": draw.choice((1, 2, 2, 3)),
        "snapshot.chunk_bytes": draw.choice((4 << 10, 256 << 10)),
        "snapshot.transfers_max": draw.choice((1, 4)),
        "client.request_timeout_seconds": draw.choice((0.5, 2.0, 5.0)),
        "peer.idle_seconds": draw.choice((3.0, 10.0)),
    }
    if draw.random() < 0.5:
        settings |= {
            "raft.message_bytes_max": draw.choice((1 << 10, 4 << 10)),
            "raft.inflight_messages_max": draw.choice((1, 2, 8)),
            "raft.committed_bytes_per_ready_max": 1 << 10,
            "raft.uncommitted_bytes_max": draw.choice((4 << 10, 64 << 10)),
        }
    return settings


def make_config(
    plan: Plan, node: int, shards: int, settings: dict[str, int | float | str]
) -> Config:
    """Return the configuration of a node; its limits may be tinier than users' may."""
    config = _load(
        plan.nodes, node, shards, plan.groups, plan.replication,
        plan.tick_milliseconds, plan.election_timeout_ticks,
    )  # fmt: skip
    for name, value in settings.items():
        section, key = name.split(".")
        changed = msgspec.structs.replace(getattr(config, section), **{key: value})
        config = msgspec.structs.replace(config, **{section: changed})
    return config


@functools.cache
def _load(
    nodes: int, node: int, shards: int, groups: int, replication: int, tick: int, timeout: int
) -> Config:
    """Load a configuration once; thousands of starts need the same few."""
    initial = ",".join(f"{other}@{host_of(other)}:{PEER_PORT}" for other in range(1, nodes + 1))
    settings = {
        "node.id": node,
        "node.shards": shards,
        "node.data_dir": "/disk/data",
        "client.listen": f"{host_of(node)}:{CLIENT_PORT}",
        "peer.listen": f"{host_of(node)}:{PEER_PORT}",
        "cluster.initial": initial,
        "cluster.groups": groups,
        "cluster.replication": replication,
        "raft.tick_milliseconds": tick,
        "raft.election_timeout_ticks": timeout,
    }
    return load_config(overrides={key: str(value) for key, value in settings.items()}).config
