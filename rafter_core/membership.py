"""The configuration of a group: who votes, who only listens, and who votes without storing."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from rafter_core.entries import NO_NODE, NUMBER_MAX

MEMBERS_MAX = 256
"""Nodes in one membership. Quorums of more than a few dozen serve nobody; this bounds the work."""


class Membership(NamedTuple):
    """Who takes part in a group (thesis 4; etcd's ConfState). All tuples ascend.

    - `voters`: the voters, or the incoming half of them while the configuration is joint.
    - `voters_outgoing`: the other half of a joint configuration, else empty.
    - `learners`: receive the log and never count.
    - `learners_next`: voters of the outgoing half that become learners when the joint
      configuration is left.
    - `auto_leave`: the leader proposes to leave the joint configuration by itself.
    - `witnesses`: those voters, of either half, that vote and acknowledge but store no payload.

    Every quorum is computed over `halves`, the sets that must all agree; nothing looks at `voters`
    to count.
    """

    voters: tuple[int, ...]
    voters_outgoing: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False
    witnesses: tuple[int, ...] = ()

    @property
    def is_joint(self) -> bool:
        """Return whether two halves must agree."""
        return bool(self.voters_outgoing)

    @property
    def halves(self) -> tuple[tuple[int, ...], ...]:
        """Return the sets of voters of which each must give a majority."""
        if self.voters_outgoing:
            return (self.voters, self.voters_outgoing)
        return (self.voters,)

    @property
    def all_voters(self) -> tuple[int, ...]:
        """Return the voters of both halves, ascending and without duplicates."""
        if not self.voters_outgoing:
            return self.voters
        return tuple(sorted({*self.voters, *self.voters_outgoing}))

    @property
    def nodes(self) -> tuple[int, ...]:
        """Return every node that the leader replicates to, ascending and without duplicates."""
        if not self.learners and not self.voters_outgoing:
            return self.voters
        return tuple(sorted({*self.voters, *self.voters_outgoing, *self.learners}))

    def is_voter(self, node: int) -> bool:
        """Return whether the node counts in any half."""
        return node in self.voters or node in self.voters_outgoing

    def fault(self) -> str | None:
        """Return what is wrong with this configuration, None if nothing is.

        Checked wherever one enters the core: from storage, from a snapshot, from an algebraic step.
        """
        for name in ("voters", "voters_outgoing", "learners", "learners_next", "witnesses"):
            ids = getattr(self, name)
            if len(ids) > 1 and any(low >= high for low, high in pairwise(ids)):
                return f"{name} {ids} do not ascend"
        nodes = self.nodes
        if len(nodes) > MEMBERS_MAX:
            return f"{len(nodes)} nodes are more than {MEMBERS_MAX}"
        if nodes and not NO_NODE < nodes[0] <= nodes[-1] <= NUMBER_MAX:
            return f"the id of a node is out of range: {nodes}"
        voters = set(self.all_voters)
        if not voters.isdisjoint(self.learners):
            return f"a node is both voter and learner: {self}"
        if not set(self.learners_next) <= set(self.voters_outgoing) - set(self.voters):
            return f"learners_next are not voters of the outgoing half alone: {self}"
        if not set(self.witnesses) <= voters:
            return f"a witness is not a voter: {self}"
        if not self.voters_outgoing and self.auto_leave:
            return f"auto_leave outside of a joint configuration: {self}"
        return None
