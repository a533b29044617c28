"""A picture of one replica for people and metrics. Taking it changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rafter_core.entries import payloads_bytes
from rafter_core.membership import Membership
from rafter_core.progress import ProgressMode
from rafter_core.roles import LEADER, Role

if TYPE_CHECKING:
    from rafter_core.raft import Raft


class ProgressStatus(NamedTuple):
    """What the leader knows about one node."""

    match: int
    next: int
    mode: ProgressMode
    recent_active: bool
    flow_paused: bool
    inflight_messages: int
    pending_snapshot: int


class Status(NamedTuple):
    """The state of a replica. `progress` is empty on every replica but the leader.

    For back-pressure: `uncommitted_bytes` are payloads that this leader appended and has not seen
    applied, `unstable_bytes` payloads in memory that are not known to be durable.
    """

    node_id: int
    role: Role
    term: int
    vote: int
    leader: int
    commit: int
    applied: int
    first_index: int
    last_index: int
    stable_index: int
    transferee: int
    uncommitted_bytes: int
    unstable_bytes: int
    pending_reads: int
    pending_change_index: int
    is_quiesced: bool
    membership: Membership
    progress: dict[int, ProgressStatus]


def status_of(raft: Raft) -> Status:
    """Take the picture."""
    progress: dict[int, ProgressStatus] = {}
    if raft.role is LEADER:
        for node, item in raft.tracker.progress.items():
            progress[node] = ProgressStatus(
                item.match,
                item.next,
                item.mode,
                item.recent_active,
                item.flow_paused,
                len(item.inflights),
                item.pending_snapshot,
            )
    log = raft.log
    return Status(
        node_id=raft.node_id,
        role=raft.role,
        term=raft.term,
        vote=raft.vote,
        leader=raft.leader,
        commit=log.committed,
        applied=log.applied,
        first_index=log.first_index,
        last_index=log.last_index,
        stable_index=log.stable_index,
        transferee=raft.transferee,
        uncommitted_bytes=raft.uncommitted_bytes,
        unstable_bytes=payloads_bytes(log.unstable.entries),
        pending_reads=len(raft.reads.held) + len(raft.reads.pending),
        pending_change_index=raft.pending_change_index,
        is_quiesced=raft.is_quiesced,
        membership=raft.tracker.membership,
        progress=progress,
    )
