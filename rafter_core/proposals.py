"""Proposals: taken by the leader, passed on by a follower, refused by whoever knows no leader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from rafter_core import reconfiguration, replication
from rafter_core.entries import NO_NODE, Entry, EntryKind
from rafter_core.errors import ProposalDropped
from rafter_core.messages import PROPOSE, Message
from rafter_core.roles import FOLLOWER, LEADER
from rafter_core.sending import broadcast_append

if TYPE_CHECKING:
    from rafter_core.raft import Raft


def propose(raft: Raft, items: Sequence[tuple[EntryKind, bytes]]) -> int:
    """Append and send proposals, all or none; return the index of the last one.

    On a follower they are forwarded, and 0 is returned: what becomes of them is seen when they are
    applied. Raises ProposalDropped, nothing changed.
    """
    if not items:
        raise ProposalDropped("nothing was proposed")
    if raft.role is LEADER:
        return _propose_as_leader(raft, items)
    message = Message(
        kind=PROPOSE,
        to=raft.node_id,
        sender=raft.node_id,
        entries=[Entry(0, 0, kind, payload) for kind, payload in items],
    )
    if raft.role is FOLLOWER:
        forward(raft, message)
    else:
        refuse(raft, message)
    return 0


def leave_joint_automatically(raft: Raft) -> None:
    """As the leader: propose to leave a joint configuration that was entered to be left so.

    Called whenever something was applied, so that a refusal (a transfer is under way) is made good
    with the next entry, or by the next leader.
    """
    if (
        raft.role is not LEADER
        or not raft.tracker.membership.auto_leave
        or raft.log.applied < raft.pending_change_index
    ):
        return
    try:
        propose(raft, [(EntryKind.CONFIG_CHANGE_V2, b"")])
    except ProposalDropped as error:
        raft.report("auto_leave_postponed", str(error))


def handle(raft: Raft, message: Message) -> None:
    """As the leader: take what a follower forwarded."""
    _propose_as_leader(raft, [(entry.kind, entry.payload) for entry in message.entries])


def forward(raft: Raft, message: Message) -> None:
    """As a follower: pass proposals on to the leader, keeping who proposed them."""
    if raft.leader == NO_NODE:
        refuse(raft, message)
    if not raft.config.forward_proposals:
        raise ProposalDropped(
            f"node {raft.leader} leads term {raft.term}, and nothing is forwarded"
        )
    raft.messages.append(
        Message(
            kind=PROPOSE,
            to=raft.leader,
            sender=message.sender,
            entries=message.entries,
        )
    )


def refuse(raft: Raft, message: Message) -> NoReturn:
    """Refuse proposals for want of a leader."""
    raise ProposalDropped(
        f"node {raft.node_id} knows no leader of term {raft.term}: {len(message.entries)} dropped"
    )


def _propose_as_leader(raft: Raft, items: Sequence[tuple[EntryKind, bytes]]) -> int:
    if raft.node_id not in raft.tracker.progress:
        raise ProposalDropped(f"node {raft.node_id} was removed from the group")
    if raft.transferee:
        raise ProposalDropped(f"leadership is being transferred to node {raft.transferee}")
    pending_change_index = raft.pending_change_index
    if any(kind for kind, _ in items):
        items, pending_change_index = reconfiguration.admit(raft, items)
    size_bytes = 0
    for _, payload in items:
        size_bytes += len(payload)
    uncommitted = raft.uncommitted_bytes
    limit = raft.config.uncommitted_bytes_max
    # The first one always passes, however large, or it could never be proposed at all; and so does
    # an empty payload, or a joint configuration could not be left.
    if size_bytes and uncommitted and uncommitted + size_bytes > limit:
        raise ProposalDropped(f"{uncommitted} bytes are uncommitted, the limit is {limit}")
    raft.pending_change_index = pending_change_index
    raft.uncommitted_bytes = uncommitted + size_bytes
    raft.idle_ticks = 0
    index = replication.append_entries(raft, items)
    broadcast_append(raft)
    return index
