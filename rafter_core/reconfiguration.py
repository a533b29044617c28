"""Changes of the membership: admitted by the leader, in force once applied (thesis 4; etcd).

A change takes effect when its entry is applied, not when it is appended. So that there are never
two in flight, the leader admits one only if everything up to the last one is applied; one that is
refused becomes an empty entry, which keeps the indexes of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rafter_core import changer, reads, replication, transfer
from rafter_core.conf_change import ConfChange, decode
from rafter_core.entries import NO_NODE, EntryKind
from rafter_core.errors import ConfChangeError, DecodeError, InvariantError
from rafter_core.membership import Membership
from rafter_core.roles import LEADER
from rafter_core.sending import broadcast_append, send_append

if TYPE_CHECKING:
    from rafter_core.raft import Raft

_NO_OP = (EntryKind.NORMAL, b"")


def admit(
    raft: Raft, items: Sequence[tuple[EntryKind, bytes]]
) -> tuple[list[tuple[EntryKind, bytes]], int]:
    """Return the proposals with every inadmissible change replaced by an empty entry.

    The number is the index that the last admitted change will have, `pending_change_index` if there
    is none.
    """
    admitted: list[tuple[EntryKind, bytes]] = []
    pending = raft.pending_change_index
    for index, (kind, payload) in enumerate(items, raft.log.last_index + 1):
        if kind is EntryKind.NORMAL:
            admitted.append((kind, payload))
            continue
        refusal = _refusal(raft, kind, payload, pending)
        if refusal is None:
            pending = index
            admitted.append((kind, payload))
        else:
            raft.report("conf_change_refused", refusal)
            admitted.append(_NO_OP)
    return admitted, pending


def apply(raft: Raft, change: ConfChange) -> Membership:
    """Put a committed change in force; return the configuration that it leads to.

    While a snapshot waits to be stored, what is still being applied is older than it: then only the
    result is computed, and the configuration of the snapshot stays in force (etcd#11510).

    Raises InvariantError for a change that the configuration does not allow: the leader should not
    have admitted it, and the replicas must not disagree about it.
    """
    is_overtaken = raft.log.unstable.snapshot is not None
    membership = raft.overtaken_membership if is_overtaken else raft.tracker.membership
    try:
        result = changer.change(membership, change)
    except ConfChangeError as error:
        raise InvariantError(f"{change} cannot be applied to {membership}: {error}") from error
    if is_overtaken:
        raft.overtaken_membership = result.membership
        return result.membership
    raft.tracker.switch(result, raft.log.last_index)
    _after_switch(raft)
    return raft.tracker.membership


def _refusal(raft: Raft, kind: EntryKind, payload: bytes, pending: int) -> str | None:
    """Return why a change must not be proposed now, None if it may."""
    try:
        change = decode(kind, payload)
    except DecodeError as error:
        # Nobody could apply it.
        return str(error)
    if not raft.config.validate_conf_changes:
        return None
    if pending > raft.log.applied:
        return f"one may be unapplied at {pending}, applied is {raft.log.applied}"
    membership = raft.tracker.membership
    if membership.is_joint and change.changes:
        return "the configuration is joint and must be left first"
    if not membership.is_joint and not change.changes:
        return "the configuration is not joint, there is nothing to leave"
    try:
        voters = changer.change(membership, change).membership.voters
    except ConfChangeError as error:
        return str(error)
    if membership.witnesses and raft.node_id not in voters:
        # It may be the only one with the payloads of what witnesses helped to commit.
        return "with witnesses a leader is not removed, leadership has to be handed over first"
    return None


def _after_switch(raft: Raft) -> None:
    """Let a leader draw the consequences of a configuration that has just come into force."""
    if raft.role is not LEADER:
        return
    membership = raft.tracker.membership
    if raft.node_id not in raft.tracker.progress or raft.node_id in membership.learners:
        # It leads on without counting itself, unless it is to step down.
        if raft.config.step_down_on_removal:
            raft.report("stepped_down", "this node was removed or demoted")
            if not raft.config.eager_commit:
                # Or nobody would hear from it that the change is committed.
                broadcast_append(raft)
            raft.become_follower(raft.term, NO_NODE)
        return
    if replication.maybe_commit(raft):
        # The quorum became smaller.
        reads.release_held(raft)
        broadcast_append(raft)
    else:
        # New nodes need not wait for a heartbeat or the next proposal.
        for progress in raft.tracker.peers:
            send_append(raft, progress, is_empty_allowed=False)
    if raft.transferee != NO_NODE and not membership.is_voter(raft.transferee):
        transfer.abort(raft, "it is no voter any more")
