"""What may go wrong in a chaotic cluster, how replicas may be configured, and how both are drawn.

Everything is drawn from one generator, so that a seed stands for a whole run.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, NamedTuple

from rafter_core import (
    Change,
    ChangeKind,
    ConfChange,
    ConfChangeError,
    Config,
    Membership,
    NotLeader,
    ProposalDropped,
    ReadMode,
    TransferRefused,
    Transition,
    changer,
)

if TYPE_CHECKING:
    from tests.core.chaos_node import Node
    from tests.core.harness import Cluster

ELECTION_TIMEOUT_TICKS = 10
QUIESCE_AFTER_TICKS = 12
TICKS_NOMINAL = 10
"""A node's clock runs at 9 to 11 ticks in so many steps if there is drift."""


class Faults(NamedTuple):
    """Chances in one step (or for one message) of each kind of trouble."""

    drop: float = 0.0
    duplicate: float = 0.0
    delay_steps_max: int = 1
    storage_delay_steps_max: int = 1
    apply_delay_steps_max: int = 1
    response_delay_steps_max: int = 1
    crash: float = 0.0
    pause: float = 0.0
    cut: float = 0.0
    transfer: float = 0.0
    unreachable: float = 0.0
    change: float = 0.0
    compact: float = 0.0
    no_snapshot: float = 0.0
    few_entries: float = 0.0
    forget: float = 0.0
    campaign: float = 0.0
    write: float = 0.5  # the load; no trouble in itself


NO_FAULTS = Faults()


class Options(NamedTuple):
    """How a cluster is made up. A number from 0 to 1 is the share of nodes with that setting."""

    founding: str = "configuration"  # or "snapshot" or "bootstrap", which newcomers can learn
    outsiders: int = 0
    has_witness: bool = False
    modes: tuple[str, ...] = ("callbacks",)
    pre_vote: float = 1.0
    check_quorum: float = 1.0
    eager_commit: float = 1.0
    quiesce: float = 0.0
    durable_machine: float = 0.0
    has_priorities: bool = False
    has_drift: bool = False
    has_leases: bool = False
    message_bytes_max: int = 1 << 20
    inflight_messages_max: int = 256
    committed_bytes_per_ready_max: int = 4 << 20


class Traits(NamedTuple):
    """How one node is configured for the whole of a run."""

    mode: str
    pre_vote: bool
    check_quorum: bool
    eager_commit: bool
    quiesce_after_ticks: int
    has_durable_machine: bool
    priority: int
    tick_rate: int
    is_witness: bool

    def config(self, node_id: int, applied: int, options: Options) -> Config:
        """Return the configuration of a node that starts with a machine at `applied`."""
        return Config(
            node_id=node_id,
            applied=applied,
            election_timeout_ticks=ELECTION_TIMEOUT_TICKS,
            pre_vote=self.pre_vote,
            check_quorum=self.check_quorum,
            eager_commit=self.eager_commit,
            quiesce_after_ticks=self.quiesce_after_ticks,
            priority=self.priority,
            async_storage_writes=self.mode != "synchronous",
            read_mode=ReadMode.LEASE if options.has_leases else ReadMode.SAFE,
            message_bytes_max=options.message_bytes_max,
            inflight_messages_max=options.inflight_messages_max,
            committed_bytes_per_ready_max=options.committed_bytes_per_ready_max,
        )


def draw_traits(draw: random.Random, options: Options, *, is_witness: bool) -> Traits:
    """Draw one node's configuration."""
    # Leases rest on the patience of every node; a group without this check must not sleep.
    check_quorum = options.has_leases or draw.random() < options.check_quorum
    sleeps = check_quorum and draw.random() < options.quiesce
    return Traits(
        mode=draw.choice(options.modes),
        pre_vote=draw.random() < options.pre_vote,
        check_quorum=check_quorum,
        eager_commit=draw.random() < options.eager_commit,
        quiesce_after_ticks=QUIESCE_AFTER_TICKS if sleeps else 0,
        has_durable_machine=draw.random() < options.durable_machine,
        priority=draw.randrange(3) if options.has_priorities else 0,
        tick_rate=draw.randrange(9, 12) if options.has_drift else TICKS_NOMINAL,
        is_witness=is_witness,
    )


def draw_options(draw: random.Random, count: int) -> Options:
    """Draw a cluster of everything there is."""
    founding = draw.choice(("snapshot", "snapshot", "bootstrap"))
    return Options(
        founding=founding,
        outsiders=draw.choice((0, 1, 2)),
        has_witness=founding == "snapshot" and count > 2 and draw.random() < 0.25,
        modes=draw.choice(
            (
                ("callbacks",),
                ("messages",),
                ("synchronous",),
                ("callbacks", "messages", "synchronous"),
            )
        ),
        pre_vote=draw.choice((1.0, 1.0, 0.0, 0.5)),
        # Not mixed: a node without either net never hears that its term is ahead.
        check_quorum=draw.choice((1.0, 1.0, 0.0)),
        eager_commit=draw.choice((1.0, 0.0, 0.5)),
        quiesce=draw.choice((0.0, 0.0, 1.0, 0.5)),
        durable_machine=draw.choice((0.0, 0.5, 1.0)),
        has_priorities=draw.random() < 0.25,
        has_drift=draw.random() < 0.25,
        has_leases=draw.random() < 0.3,
        message_bytes_max=draw.choice((1, 64, 1 << 20)),
        inflight_messages_max=draw.choice((1, 2, 256)),
        committed_bytes_per_ready_max=draw.choice((1, 128, 4 << 20)),
    )


def draw_faults(draw: random.Random) -> Faults:
    """Draw how bad it gets."""
    return Faults(
        drop=draw.choice((0.0, 0.02, 0.15)),
        duplicate=draw.choice((0.0, 0.1)),
        delay_steps_max=draw.choice((1, 3, 12)),
        storage_delay_steps_max=draw.choice((1, 4, 15)),
        apply_delay_steps_max=draw.choice((1, 4, 25)),
        response_delay_steps_max=draw.choice((1, 3)),
        crash=draw.choice((0.0, 0.01, 0.03)),
        pause=draw.choice((0.0, 0.01)),
        cut=draw.choice((0.0, 0.02, 0.05)),
        transfer=draw.choice((0.0, 0.02)),
        unreachable=draw.choice((0.0, 0.05)),
        change=draw.choice((0.0, 0.05, 0.2)),
        compact=draw.choice((0.0, 0.1, 0.3)),
        no_snapshot=draw.choice((0.0, 0.3)),
        few_entries=draw.choice((0.0, 0.3)),
        forget=draw.choice((0.0, 0.005)),
        campaign=draw.choice((0.0, 0.005)),
        write=draw.choice((0.5, 0.5, 0.1)),
    )


def inject(cluster: Cluster) -> None:
    """Let happen to the cluster what the faults of this step want."""
    draw, faults = cluster.generator, cluster.faults
    if draw.random() < faults.crash:
        _crash_or_start(cluster)
    if draw.random() < faults.cut:
        _cut_or_mend(cluster)
    if draw.random() < faults.pause:
        # Up to three election timeouts: longer than any lease.
        node = draw.choice(list(cluster.nodes.values()))
        node.paused_until = cluster.now + draw.randrange(3 * ELECTION_TIMEOUT_TICKS)
    for node in cluster.running():
        if draw.random() < faults.compact:
            node.compact()
        if draw.random() < faults.unreachable:
            node.raw.report_unreachable(draw.choice(list(cluster.nodes)))
        if not cluster.options.has_leases:
            # Both break the promise that leases rest on.
            if draw.random() < faults.forget:
                node.raw.forget_leader()
            if draw.random() < faults.campaign:
                node.raw.campaign()
        if node.raw.is_leader:
            _trouble_leader(cluster, node)
    if draw.random() < faults.change / 4:
        # Anywhere: a follower passes it on, somebody outside is refused.
        _change(cluster, draw.choice(list(cluster.nodes.values())))


def _trouble_leader(cluster: Cluster, node: Node) -> None:
    draw, faults = cluster.generator, cluster.faults
    if draw.random() < faults.transfer:
        with contextlib.suppress(TransferRefused, NotLeader):
            node.raw.transfer_leadership(draw.choice(list(cluster.nodes)))
    if node.raw.is_leader and draw.random() < faults.change:
        _change(cluster, node)


def _change(cluster: Cluster, node: Node) -> None:
    if not node.is_running():
        return
    membership = node.raw.membership
    change = draw_change(cluster, membership)
    is_growing = all(item.kind in _GROWING for item in change.changes)
    if not is_growing and not (node.raw.is_leader and keeps_majority(membership, change)):
        return
    with contextlib.suppress(ProposalDropped):
        node.call(lambda: node.raw.propose_conf_change(change))


def keeps_majority(membership: Membership, change: ConfChange) -> bool:
    """Return whether a majority of the voters goes on voting, as an operator has to see to.

    Otherwise those who do not know yet that a change is committed may need the vote of somebody
    who left with a longer log, and who can neither lead nor give it: the group is dead.
    """
    try:
        after = changer.change(membership, change).membership
    except ConfChangeError:
        # It will be refused.
        return True
    voters = set(membership.voters)
    return 2 * len(voters.intersection(after.voters)) > len(voters)


def draw_change(cluster: Cluster, membership: Membership) -> ConfChange:
    """Draw a change of the membership, admissible or not."""
    draw = cluster.generator
    if membership.is_joint and draw.random() < 0.7:
        return ConfChange()
    changes = []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        node = draw.choice(list(cluster.nodes))
        kind = draw.choice(_DRAWN)
        if cluster.nodes[node].traits.is_witness:
            # Its log has holes: it is a witness or nothing.
            kind = kind if kind is ChangeKind.REMOVE_NODE else ChangeKind.ADD_WITNESS
        elif cluster.options.has_witness:
            # A full voter that leaves might have been the only one to hold what is committed.
            kind = ChangeKind.ADD_VOTER
        changes.append(Change(kind, node))
    transition = draw.choice(tuple(Transition))
    is_v1 = len(changes) == 1 and transition is Transition.AUTO and draw.random() < 0.3
    return ConfChange(tuple(changes), transition, b"", is_v1)


_GROWING = (ChangeKind.ADD_VOTER, ChangeKind.UPDATE_NODE, ChangeKind.ADD_WITNESS)
_DRAWN = (
    ChangeKind.ADD_VOTER,
    ChangeKind.ADD_VOTER,
    ChangeKind.REMOVE_NODE,
    ChangeKind.ADD_LEARNER,
    ChangeKind.UPDATE_NODE,
)


def _crash_or_start(cluster: Cluster) -> None:
    draw = cluster.generator
    if draw.random() < 0.3:
        # Power loss: only what is durable on each node is left of everything.
        for node in cluster.nodes.values():
            node.crash()
        ids = list(cluster.nodes)
        for node_id in draw.sample(ids, len(ids) // 2 + 1):
            cluster.nodes[node_id].start()
        return
    node = draw.choice(list(cluster.nodes.values()))
    if node.is_up:
        node.crash()
    else:
        node.start()


def _cut_or_mend(cluster: Cluster) -> None:
    draw = cluster.generator
    ids = list(cluster.nodes)
    leaders = [node for node in cluster.running() if node.raw.is_leader]
    choice = draw.random()
    if cluster.cuts and choice < 0.4:
        cluster.cuts.clear()
    elif choice < 0.85:
        # Most often a leader, which does not know yet that it is one no more.
        chosen = draw.choice(leaders).node_id if leaders and choice < 0.65 else draw.choice(ids)
        cluster.cuts.update((chosen, other) for other in ids)
        cluster.cuts.update((other, chosen) for other in ids)
    else:
        cluster.cuts.add((draw.choice(ids), draw.choice(ids)))
