"""Replacing a node: what the leaders of its groups do while the map says that it is replaced.

A node that was emptied has forgotten for whom it voted and what it acknowledged. It may come back
only once it counts nowhere any more: so each leader first takes it out of its group. When all have,
the map lets the next incarnation in, and each leader makes it a learner, brings it up to date, and
makes it the voter that it was. What leaders have seen applied they report to the leader of the
system group, again and again until the map shows it.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol

from rafter_core import Membership, ProposalDropped
from rafter_core.conf_change import Change, ChangeKind, ConfChange
from rafter_core.progress import ProgressMode
from rafterd.cluster_map import Phase, Progress, Replacement
from rafterd.map_messages import Publication
from rafterd.replica import Replica

__all__ = ["Replacing", "Replicas", "SnapshotAsker"]

logger = logging.getLogger(__name__)

LAG_ENTRIES_MAX = 64
"""A learner that has all but so many entries is made a voter: the rest is on its way."""


class Replicas(Protocol):
    """The part of the engine that is used here."""

    def for_each(self, action: Callable[[Replica], None]) -> None:
        """Do something with every replica, and look at what comes of it."""


class SnapshotAsker(Protocol):
    """The part of a shard's snapshots that is used here."""

    def newest_membership(self, group: int) -> Membership | None:
        """Return the configuration in the newest snapshot of a group, None without any."""

    def ask(self, group: int) -> Any:  # noqa: ANN401
        """Take a snapshot of a group soon."""


class Replacing:
    """One shard's part in replacements. On its loop; call `look` some times a second.

    `founding(group)` is the configuration that a group was founded with, and `report` brings a
    message to the leader of the system group, or loses it.
    """

    def __init__(
        self,
        *,
        replicas: Replicas,
        snapshots: SnapshotAsker,
        founding: Callable[[int], Membership],
        report: Callable[[Progress], None],
    ) -> None:
        self._replicas = replicas
        self._snapshots = snapshots
        self._founding = founding
        self._report = report
        # (term, index) of the last change of each group that was proposed here.
        self._changes: dict[int, tuple[int, int]] = {}

    def look(self, publication: Publication) -> None:
        """Take the next step in each group that is led here and has one to take."""
        present = {record.node for record in publication.nodes if record.incarnation}
        for item in publication.replacements:
            self._look_at(item, is_present=item.node in present)

    def _look_at(self, item: Replacement, *, is_present: bool) -> None:
        pending = set(item.pending)
        done: list[int] = []

        def step(replica: Replica) -> None:
            is_due = replica.group in pending and replica.is_leader
            if is_due and not self._is_changing(replica) and self._step(replica, item, is_present):
                done.append(replica.group)

        self._replicas.for_each(step)
        if done:
            self._report(Progress(item.node, item.incarnation, item.phase, sorted(done)))

    def _is_changing(self, replica: Replica) -> bool:
        """Whether a change of the group is not applied yet."""
        node = replica.node
        term, index = self._changes.get(replica.group, (0, 0))
        return node.membership.is_joint or (term == node.term and node.applied < index)

    def _step(self, replica: Replica, item: Replacement, is_present: bool) -> bool:
        """Take the next step in a group; return whether there is none left in this phase.

        A leader that has been deposed and does not know it may still be in a configuration of
        before. So what counts are changes of this very replacement, applied here: where it has seen
        none, maybe because a snapshot covers it, it makes another one, which only a leader can.
        """
        node = item.node
        is_member = node in replica.members
        if item.phase is Phase.LEAVING:
            if not is_member and self._has_applied(replica, item, ChangeKind.REMOVE_NODE):
                return True
            self._change(replica, item, ChangeKind.REMOVE_NODE)
        elif not self._has_applied(replica, item, ChangeKind.ADD_LEARNER):
            if is_member:
                # What is known of its log may be that of the one before.
                self._change(replica, item, ChangeKind.REMOVE_NODE)
            elif is_present:
                self._change(replica, item, ChangeKind.ADD_LEARNER)
        elif is_member:
            was_voter = self._founding(replica.group).is_voter(node)
            if node in replica.voters or not was_voter:
                return True
            if self._is_caught_up(replica, node):
                self._change(replica, item, ChangeKind.ADD_VOTER)
        # Else the map has gone on, and is on its way here.
        return False

    def _has_applied(self, replica: Replica, item: Replacement, kind: ChangeKind) -> bool:
        return _context(item, kind) in replica.changes

    def _change(self, replica: Replica, item: Replacement, kind: ChangeKind) -> None:
        group, node = replica.group, item.node
        change = ConfChange((Change(kind, node),), context=_context(item, kind))
        try:
            index = replica.node.propose_conf_change(change)
        except ProposalDropped as error:
            logger.debug("group %d: %s %d is put off: %s", group, kind.name, node, error)
            return
        logger.info("group %d: %s %d at index %d", group, kind.name, node, index)
        self._changes[group] = (replica.node.term, index)

    def _is_caught_up(self, replica: Replica, node: int) -> bool:
        """Whether a learner is up to date; if it cannot become so, see to a snapshot that it takes.

        A snapshot from before it was a member is none of its.
        """
        progress = replica.node.status().progress[node]
        if progress.mode is ProgressMode.REPLICATE:
            missing = replica.node.last_index - progress.match
            return progress.recent_active and missing <= LAG_ENTRIES_MAX
        newest = self._snapshots.newest_membership(replica.group)
        if newest is not None and node not in newest.nodes:
            self._snapshots.ask(replica.group)
        return False


def _context(item: Replacement, kind: ChangeKind) -> bytes:
    """Return what marks a change as one of this replacement."""
    return bytes((kind, *item.node.to_bytes(2, "big"), *item.incarnation.to_bytes(8, "big")))
