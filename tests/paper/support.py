"""What these tests share: settings of the plain algorithm, and a network of nodes that crash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rafter_core import (
    Change,
    ChangeKind,
    ConfChange,
    Entry,
    EntryKind,
    Membership,
    Message,
    MessageKind,
    RawNode,
)
from tests.core.network import Host, Network
from tests.core.support import Driven

TIMEOUT_TICKS = 10
"""The election timeout that nodes have unless a test sets another."""

PLAIN: dict[str, Any] = {"pre_vote": False, "check_quorum": False}
"""The algorithm of the paper's figure 2, without what the thesis adds in 4.2.3 and 9.6."""


def group(size: int) -> Membership:
    """Return the configuration of the voters 1 to `size`."""
    return Membership(tuple(range(1, size + 1)))


def stored(driven: Driven) -> list[tuple[int, int, bytes]]:
    """Return (term, index, payload) of every entry that is durable on a node."""
    storage = driven.storage
    entries = storage.entries(storage.first_index(), storage.last_index() + 1, 1 << 60)
    return [(entry.term, entry.index, entry.payload) for entry in entries]


def terms_of(host: Host) -> list[int]:
    """Return the terms of every stored entry, from the first index on."""
    return [term for term, _, _ in host.log]


def identities(entries: list[Entry]) -> list[tuple[int, int]]:
    """Return (term, index) of entries."""
    return [(entry.term, entry.index) for entry in entries]


def add(node: int) -> ConfChange:
    """Return the change that adds a voter."""
    return ConfChange((Change(ChangeKind.ADD_VOTER, node),))


def add_learner(node: int) -> ConfChange:
    """Return the change that adds a learner, or demotes a voter."""
    return ConfChange((Change(ChangeKind.ADD_LEARNER, node),))


def remove(node: int) -> ConfChange:
    """Return the change that removes a node."""
    return ConfChange((Change(ChangeKind.REMOVE_NODE, node),))


def last_kinds(node: RawNode, count: int) -> list[EntryKind]:
    """Return the kinds of a node's last entries."""
    log = node._raft.log
    last = log.last_index
    return [entry.kind for entry in log.slice(last - count + 1, last + 1, 1 << 60)]


def led_cluster(count: int = 3, **config: Any) -> Cluster:
    """Return a group that node 1 leads and that has committed its no-op, with nothing recorded."""
    cluster = Cluster(count=count, **config)
    cluster.campaign(1)
    assert cluster.leaders() == [1]
    cluster.forget()
    return cluster


def memberships(cluster: Cluster) -> list[Membership]:
    """Return the configuration in force on each node."""
    return [host.node.membership for host in cluster.hosts.values()]


def _keep_all(message: Message) -> bool:
    return False


class Cluster(Network):
    """A network whose nodes crash and restart, and that loses what `is_lost` says."""

    def __init__(self, *hosts: Host, count: int = 0, **config: Any) -> None:
        super().__init__(*hosts, count=count, **config)
        self.down: set[int] = set()
        self.is_lost: Callable[[Message], bool] = _keep_all

    def crash(self, *nodes: int) -> None:
        """Stop nodes; what they stored stays."""
        self.down.update(nodes)

    def restart(self, *nodes: int) -> None:
        """Start stopped nodes from what they stored; a durable machine knows its configuration."""
        for node in nodes:
            self.down.discard(node)
            host = self[node]
            membership = host.node.membership
            if membership != host.storage.initial_state()[1]:
                host.storage.create_snapshot(host.node.applied, membership)
            host.restart()

    def partition(self, *sides: tuple[int, ...]) -> None:
        """Cut every link between nodes of different sides."""
        for side in sides:
            for node in side:
                for other in self.hosts:
                    if other not in side:
                        self.cut(node, other)

    def heal(self) -> None:
        """Lose nothing any more; what is down stays down."""
        super().heal()
        self.is_lost = _keep_all

    def tick(self, node: int, count: int = 1) -> None:
        """Let time pass for one node, unless it is down."""
        if node not in self.down:
            super().tick(node, count)

    def leaders(self) -> list[int]:
        """Return the running nodes that believe to lead."""
        return [node for node in super().leaders() if node not in self.down]

    def sent(self, kind: MessageKind) -> list[Message]:
        """Return the messages of a kind that were delivered since `forget`."""
        return [message for message in self.delivered if message.kind is kind]

    def forget(self) -> None:
        """Begin a new record of what is delivered."""
        self.delivered.clear()

    def _deliver(self, message: Message) -> None:
        if message.sender in self.down or message.to in self.down or self.is_lost(message):
            return
        super()._deliver(message)
