"""The system group, on shard 0 of each node: it replicates the cluster's map.

Its leader enters into the map what the nodes say of themselves when they connect: every shard of
every node dials shard 0 of every other one, so the leader hears them all, and no proposal has to be
forwarded. Every node publishes the map to its own shards as it applies it.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Protocol

from rafter_core import Entry, EntryKind
from rafter_core.state_machine import Update
from rafter_storage.errors import CorruptionError
from rafter_storage.group_log import GroupLog
from rafter_transport.handshake import Hello
from rafterd.cluster_map import (
    Announce,
    Command,
    MapState,
    NodeRecord,
    Progress,
    Replace,
    foundation,
    pack_command,
    record_of,
)
from rafterd.cluster_map_machine import ClusterMapMachine, changed
from rafterd.config_schema import Config
from rafterd.map_distribution import MapDistribution
from rafterd.placement import SYSTEM_GROUP
from rafterd.replica import Replica

__all__ = ["SystemGroup", "everything_logged"]

logger = logging.getLogger(__name__)

OnApplied = Callable[[str | None], None]
"""Told None, or why the map has refused a command."""

PAGE_BYTES = 1
"""Record by record: so damage costs no more than there is."""


class Present(Protocol):
    """The part of the exchanger that is used here."""

    def present_hellos(self) -> dict[int, Hello]:
        """Return what the nodes say of themselves that are connected now, this one included."""


def everything_logged(state: MapState, log: GroupLog, applied: int, commit: int) -> MapState:
    """Return the map after all entries of a log behind `applied`, committed or not.

    A node that starts does not know yet which of its last entries are committed: only those up to
    `commit` certainly are. It must not let in whom one of them shuts out. So it takes them all to
    be, but for what they open: of each node the first incarnation holds that is found there.
    """
    machine = ClusterMapMachine(state)
    first: dict[int, NodeRecord] = {}
    _keep_first(first, state)
    for entry in _entries(log, applied + 1):
        machine.update([Update(entry.index, entry.payload, None)])
        if entry.index <= commit:
            first.clear()
        _keep_first(first, machine.state)
    nodes = dict(machine.state.nodes)
    nodes |= {
        node: record for node, record in first.items()
        if record.incarnation != nodes[node].incarnation
    }  # fmt: skip
    return machine.state._replace(nodes=nodes)


def _keep_first(first: dict[int, NodeRecord], state: MapState) -> None:
    for node, record in state.nodes.items():
        if record.incarnation:
            first.setdefault(node, record)


def _entries(log: GroupLog, index: int) -> Iterator[Entry]:
    """Yield what can be read of the state machine's entries, from `index` on."""
    try:
        while index <= log.last_index():
            for entry in log.entries(index, log.last_index() + 1, PAGE_BYTES):
                if entry.kind is EntryKind.NORMAL:
                    yield entry
                index = entry.index + 1
    except CorruptionError as error:
        # The group goes out of service when the engine comes there.
        logger.error("group %d: the log is damaged: %s", SYSTEM_GROUP, error)


class _Proposal:
    """One command under way (the engine's `Proposal`)."""

    context = None

    def __init__(self, command: Command, on_applied: OnApplied) -> None:
        self._command = command
        self._on_applied = on_applied

    def before_apply(self) -> None:
        """Do nothing: no reads ride on it."""

    def applied(self, result: object) -> None:
        """Say so if the map refused it."""
        assert result is None or isinstance(result, str), "the machine's results are such"
        if result is not None:
            logger.warning("the cluster's map refused %s: %s", self._command, result)
        self._on_applied(result)

    def lost(self) -> None:
        """Do nothing: whoever wanted it sees that the map still lacks it."""


class SystemGroup:
    """The service on the system group's replica. On the loop of shard 0."""

    def __init__(
        self,
        *,
        config: Config,
        replica: Replica,
        machine: ClusterMapMachine,
        log: GroupLog,
        present: Present,
        distribution: MapDistribution,
        mark: Callable[[Replica], None],
        is_disk_full: Callable[[], bool],
    ) -> None:
        """Publish what the log says, whether it is committed or not."""
        self._config = config
        self._replica = replica
        self._machine = machine
        self._present = present
        self._distribution = distribution
        self._mark = mark
        self._is_disk_full = is_disk_full
        self._seen = MapState()
        assumed = everything_logged(
            machine.state, log, replica.node.applied, replica.hard_state.commit
        )
        distribution.publish(assumed, is_settled=False)

    def tick(self) -> None:
        """Publish what has changed; as the leader, propose what the map lacks."""
        state = self._machine.state
        # Older ones are on the way to what is published: this node is replaying its log.
        is_news = state.version and state is not self._seen
        if is_news and state.version >= self._distribution.publication.version:
            logger.info("the cluster's map has version %d", state.version)
            self._distribution.publish(state, is_settled=True)
            self._seen = state
        command = self._lacking(state) if self._is_ready else None
        if command is not None:
            self._propose(command)

    def report(self, progress: Progress) -> None:
        """Enter, as the leader, that a phase of a replacement is over in some groups.

        Who reports repeats it until the map has it.
        """
        state = self._machine.state
        if self._is_ready and changed(state, progress) != state:
            self._propose(progress)

    def replace(self, node: int, incarnation: int, on_applied: OnApplied) -> str | None:
        """Begin, as the leader, to replace an incarnation of a node.

        Returns why that is not done; None if it is proposed, or has to wait: who asks repeats it.
        `on_applied` is called with the map's answer, or never.
        """
        hello = self._present.present_hellos().get(node)
        if hello is not None and hello.incarnation == incarnation:
            return f"node {node} is up: stop it for good before it is replaced"
        if self._is_ready:
            self._propose(Replace(node, incarnation), on_applied)
        return None

    @property
    def _is_ready(self) -> bool:
        """Whether this replica leads and has applied all there is, so that it knows the map."""
        node = self._replica.node
        return (
            node.is_leader
            and node.applied == node.last_index
            and not self._replica.is_installing
            and not self._is_disk_full()
        )

    def _propose(self, command: Command, on_applied: OnApplied = lambda _: None) -> None:
        self._replica.propose(pack_command(command), _Proposal(command, on_applied))
        self._mark(self._replica)

    def _lacking(self, state: MapState) -> Command | None:
        if not state.groups:
            return foundation(self._config)
        for node, hello in sorted(self._present.present_hellos().items()):
            known = state.nodes.get(node)
            if known is not None and known.incarnation in (0, hello.incarnation):
                record = record_of(hello, known)
                if record != known:
                    return Announce(record)
        return None

    # The replica's listener: nobody reads, and proposals are made by the ticks.

    def advance(self) -> None:
        """Do nothing."""

    def read_confirmed(self, context: bytes) -> None:
        """Do nothing: there are no reads."""

    def leadership_lost(self) -> None:
        """Do nothing: proposals hear of it themselves."""
