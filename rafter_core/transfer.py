"""Orderly hand-over of leadership (thesis 3.10).

While it is under way proposals are dropped. It ends with the term, or after one election timeout
(`election.end_leader_period`): a transfer that does not succeed must never wedge the leader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafter_core.entries import NO_NODE
from rafter_core.errors import NotLeader, TransferRefused
from rafter_core.progress import Progress
from rafter_core.roles import LEADER
from rafter_core.sending import send_append, send_timeout_now

if TYPE_CHECKING:
    from rafter_core.raft import Raft


def start(raft: Raft, to: int) -> None:
    """Start handing over to `to`. Asking again for the same node changes nothing, nor its deadline.

    Raises NotLeader, or TransferRefused for a node that cannot lead. To this node itself: ends a
    transfer that is under way.
    """
    if raft.role is not LEADER:
        raise NotLeader(f"node {raft.node_id} is not the leader of term {raft.term}")
    if not raft.tracker.is_voter(to):
        raise TransferRefused(f"node {to} is not a voter")
    if raft.transferee == to:
        return
    if raft.transferee != NO_NODE:
        raft.report("transfer_aborted", f"to node {raft.transferee}, for another one")
        raft.transferee = NO_NODE
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


def continue_with(raft: Raft, progress: Progress) -> None:
    """Hand over once the transferee holds the whole log."""
    if progress.match == raft.log.last_index:
        send_timeout_now(raft, progress.node)
