"""The algebra of memberships: what a change makes of a configuration (thesis 4; etcd confchange).

Pure functions: a configuration and changes in, the next configuration out, or ConfChangeError with
nothing changed. Changes that mean nothing (an absent node, node 0, a witness to be made a full
voter) are skipped, so that an entry that was accepted can always be applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rafter_core.conf_change import Change, ChangeKind, ConfChange
from rafter_core.errors import ConfChangeError, InvariantError
from rafter_core.membership import MEMBERS_MAX, Membership


class ChangeResult(NamedTuple):
    """The next configuration, and the nodes whose progress starts anew in it."""

    membership: Membership
    fresh: frozenset[int]


def change(membership: Membership, proposal: ConfChange) -> ChangeResult:
    """Take the way that the proposal asks for."""
    if proposal.leaves_joint:
        return leave_joint(membership)
    if proposal.enters_joint:
        return enter_joint(membership, proposal.auto_leave, proposal.changes)
    return simple(membership, proposal.changes)


def simple(membership: Membership, changes: Sequence[Change]) -> ChangeResult:
    """Change at most one voter in one step: majorities before and after it overlap."""
    if membership.is_joint:
        raise ConfChangeError("can't apply simple config change in joint config")
    draft = _Draft(membership)
    draft.apply(changes)
    if len(draft.incoming ^ set(membership.voters)) > 1:
        raise ConfChangeError("more than one voter changed without entering joint config")
    return draft.result(auto_leave=False)


def enter_joint(
    membership: Membership, auto_leave: bool, changes: Sequence[Change]
) -> ChangeResult:
    """Make the voters the outgoing half, and apply the changes to the incoming one."""
    if membership.is_joint:
        raise ConfChangeError("config is already joint")
    if not membership.voters:
        raise ConfChangeError("can't make a zero-voter config joint")
    draft = _Draft(membership)
    draft.outgoing = set(draft.incoming)
    draft.apply(changes)
    return draft.result(auto_leave=auto_leave)


def leave_joint(membership: Membership) -> ChangeResult:
    """Drop the outgoing half; voters that were demoted become learners now."""
    if not membership.is_joint:
        raise ConfChangeError("can't leave a non-joint config")
    draft = _Draft(membership)
    draft.learners |= draft.learners_next
    draft.learners_next = set()
    draft.outgoing = set()
    draft.witnesses &= draft.incoming
    return draft.result(auto_leave=False)


class _Draft:
    """A configuration under change."""

    def __init__(self, membership: Membership) -> None:
        self.incoming = set(membership.voters)
        self.outgoing = set(membership.voters_outgoing)
        self.learners = set(membership.learners)
        self.learners_next = set(membership.learners_next)
        self.witnesses = set(membership.witnesses)
        self.fresh: set[int] = set()

    def apply(self, changes: Sequence[Change]) -> None:
        for kind, node in changes:
            if not node or kind is ChangeKind.UPDATE_NODE:
                continue
            if kind is ChangeKind.REMOVE_NODE:
                self._remove(node)
            elif kind is ChangeKind.ADD_VOTER:
                self._make_voter(node)
            elif kind is ChangeKind.ADD_LEARNER:
                self._make_learner(node)
            else:
                self._add_witness(node)
        if not self.incoming:
            raise ConfChangeError("removed all voters")
        if self.incoming <= self.witnesses:
            raise ConfChangeError("no voter is left that stores payloads")
        if len(self.incoming | self.outgoing | self.learners) > MEMBERS_MAX:
            raise ConfChangeError(f"more than {MEMBERS_MAX} nodes")

    def result(self, *, auto_leave: bool) -> ChangeResult:
        membership = Membership(
            voters=tuple(sorted(self.incoming)),
            voters_outgoing=tuple(sorted(self.outgoing)),
            learners=tuple(sorted(self.learners)),
            learners_next=tuple(sorted(self.learners_next)),
            auto_leave=auto_leave,
            witnesses=tuple(sorted(self.witnesses)),
        )
        fault = membership.fault()
        if fault is not None:
            raise InvariantError(fault)
        return ChangeResult(membership, frozenset(self.fresh))

    def _is_tracked(self, node: int) -> bool:
        return node in self.incoming or node in self.outgoing or node in self.learners

    def _make_voter(self, node: int) -> None:
        if node in self.witnesses:
            # Its log has holes. It must be removed, emptied, and added again.
            return
        if not self._is_tracked(node):
            self.fresh.add(node)
        self.learners.discard(node)
        self.learners_next.discard(node)
        self.incoming.add(node)

    def _make_learner(self, node: int) -> None:
        if node in self.witnesses or node in self.learners:
            return
        if not self._is_tracked(node):
            self.fresh.add(node)
        self.incoming.discard(node)
        if node in self.outgoing:
            # Still a voter there: a learner only once the joint configuration is left.
            self.learners_next.add(node)
        else:
            self.learners.add(node)

    def _add_witness(self, node: int) -> None:
        if self._is_tracked(node):
            return
        self.fresh.add(node)
        self.incoming.add(node)
        self.witnesses.add(node)

    def _remove(self, node: int) -> None:
        self.incoming.discard(node)
        self.learners.discard(node)
        self.learners_next.discard(node)
        if node not in self.outgoing:
            self.witnesses.discard(node)
            self.fresh.discard(node)
