"""Orderly hand-over of leadership (thesis 3.10).

While it is under way proposals are dropped. It ends with the term, or after one election timeout
(`election.end_leader_period`): a transfer that does not succeed must never wedge the leader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafter_core.entries import NO_NODE
from rafter_core.errors import NotLeader, TransferRefused
from rafter_core.messages import TRANSFER_LEADER, Message
from rafter_core.progress import Progress
from rafter_core.roles import FOLLOWER, LEADER
from rafter_core.sending import send_append, send_timeout_now

if TYPE_CHECKING:
    from rafter_core.raft import Raft


def request(raft: Raft, to: int) -> None:
    """Ask that `to` lead: done here by the leader, passed on by a follower.

    Raises NotLeader if none is known; on the leader TransferRefused for a node that cannot lead.
    """
    if raft.role is LEADER:
        if not _can_lead(raft, to):
            raise TransferRefused(f"node {to} is not a voter that can lead")
        _start(raft, to)
    elif raft.role is FOLLOWER and raft.leader != NO_NODE:
        forward(raft, Message(kind=TRANSFER_LEADER, sender=to))
    else:
        raise NotLeader(f"node {raft.node_id} knows no leader of term {raft.term}")


def forward(raft: Raft, message: Message) -> None:
    """As a follower: pass the wish on to the leader; the sender is who shall lead."""
    if raft.leader == NO_NODE:
        raft.report("transfer_dropped", "no leader is known")
        return
    raft.messages.append(
        Message(kind=TRANSFER_LEADER, to=raft.leader, sender=message.sender, term=raft.term)
    )


def handle(raft: Raft, message: Message) -> None:
    """As the leader: take a forwarded wish; one that cannot be fulfilled is ignored."""
    if _can_lead(raft, message.sender):
        _start(raft, message.sender)


def continue_with(raft: Raft, progress: Progress) -> None:
    """Hand over once the transferee holds the whole log."""
    if progress.match == raft.log.last_index:
        send_timeout_now(raft, progress.node)


def abort(raft: Raft, why: str) -> None:
    """End the transfer under way: proposals are taken again."""
    raft.report("transfer_aborted", f"to node {raft.transferee}: {why}")
    raft.transferee = NO_NODE


def _can_lead(raft: Raft, node: int) -> bool:
    membership = raft.tracker.membership
    return membership.is_voter(node) and node not in membership.witnesses


def _start(raft: Raft, to: int) -> None:
    """Start handing over. Asking again for the same node changes nothing, nor its deadline.

    To this node itself: ends a transfer that is under way.
    """
    if raft.transferee == to:
        return
    if raft.transferee != NO_NODE:
        abort(raft, "another one is asked for")
    if to == raft.node_id:
        return
    # One election timeout from now on.
    raft.election_elapsed = 0
    raft.transferee = to
    raft.report("transfer_started", f"to node {to}")
    progress = raft.tracker.progress[to]
    if progress.match == raft.log.last_index:
        send_timeout_now(raft, to)
    else:
        send_append(raft, progress, is_empty_allowed=True)
