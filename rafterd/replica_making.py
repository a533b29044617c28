"""Making a replica at the start of a shard: state machine from a snapshot, core over the log."""

import random
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from rafter_core import Membership, RawNode, StateMachine
from rafter_storage.group_log import GroupLog
from rafter_storage.segment_manager import SegmentManager
from rafter_storage.snapshot_store import SnapshotStore
from rafterd.config_schema import Config
from rafterd.placement import SYSTEM_GROUP
from rafterd.replica import OnRoute, Replica
from rafterd.shard_parts import core_config
from rafterd.snapshots import recover

__all__ = ["Made", "Unservable", "founding_membership", "make_replica"]

Machine = TypeVar("Machine", bound=StateMachine)


SYSTEM_VOTERS_MAX = 7
"""More voters would make the system group slower and hardly safer; further nodes are learners."""


def founding_membership(config: Config, group: int) -> Membership:
    """Return the configuration that a group begins with: it holds until the log knows another."""
    if group != SYSTEM_GROUP:
        return Membership(tuple(sorted(config.members(group))))
    nodes = tuple(config.nodes)
    return Membership(nodes[:SYSTEM_VOTERS_MAX], learners=nodes[SYSTEM_VOTERS_MAX:])


class Unservable(Exception):
    """A group cannot be served here; the text says why."""


class Made(NamedTuple, Generic[Machine]):
    """A replica that is ready for the engine, and what it stands on."""

    replica: Replica
    machine: Machine
    log: GroupLog


def make_replica(
    config: Config,
    group: int,
    *,
    store: SegmentManager,
    snapshot_store: SnapshotStore,
    make_machine: Callable[[], Machine],
    words: memoryview,
    on_route: OnRoute,
    progress: Callable[[], None],
    generator: random.Random,
) -> Made[Machine]:
    """Recover a group's state machine and put a replica on it.

    `progress` is called while a snapshot is read; `generator` draws the election timeouts. Raises
    Unservable, and StorageError as `recover` does.
    """
    founding = founding_membership(config, group)
    damage = store.damage_of(group)
    if damage is not None:
        raise Unservable(f"its log is damaged: {damage}")
    log = store.group_log(group, founding)
    recovered = recover(snapshot_store, log, make_machine, progress)
    if recovered is None:
        raise Unservable(
            f"its log begins at index {log.first_index()}, and there is no sound snapshot of what "
            "is before"
        )
    machine, place, membership = recovered
    log = store.group_log(group, founding, place.index, membership)
    hard_state, _ = log.initial_state()
    node = RawNode(core_config(config, place.index), log, generator)
    replica = Replica(group, node, machine, hard_state, words, on_route, place)
    return Made(replica, machine, log)
