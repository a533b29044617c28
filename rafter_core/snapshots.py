"""Snapshots on the wire: how a follower takes one, and what the leader hears of its outcome.

Making snapshots and moving their data is the driver's business. The core decides who needs one,
replaces a follower's log by it, and goes on from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafter_core.messages import APPEND_RESPONSE, Message
from rafter_core.progress import SNAPSHOT
from rafter_core.roles import LEADER

if TYPE_CHECKING:
    from rafter_core.raft import Raft
    from rafter_core.snapshot import Snapshot


def follow_snapshot(raft: Raft, message: Message) -> None:
    """As a follower: take the leader's snapshot."""
    raft.election_elapsed = 0
    raft.leader = message.sender
    _handle_snapshot(raft, message)


def concede_snapshot(raft: Raft, message: Message) -> None:
    """As a candidate: somebody else leads this term; follow, then take the snapshot."""
    raft.become_follower(message.term, message.sender)
    _handle_snapshot(raft, message)


def report(raft: Raft, node: int, *, is_ok: bool) -> None:
    """As the leader: take a driver's word on how sending a snapshot to a node ended.

    On success wait for the node's own acknowledgement, on failure for a heartbeat response, before
    anything else is sent.
    """
    progress = raft.tracker.progress.get(node)
    if raft.role is not LEADER or progress is None or progress.mode is not SNAPSHOT:
        return
    if not is_ok:
        # Probe from where the log agrees, not from a snapshot that never arrived.
        progress.pending_snapshot = 0
    progress.become_probe()
    raft.report("snapshot_reported", f"node {node}, ok {is_ok}: {progress!r}")
    progress.flow_paused = True


def _handle_snapshot(raft: Raft, message: Message) -> None:
    snapshot = message.snapshot
    assert snapshot is not None, "check_step lets none pass without"
    is_restored = _restore(raft, snapshot)
    index = raft.log.last_index if is_restored else raft.log.committed
    raft.send_after_sync(APPEND_RESPONSE, message.sender, index=index)


def _restore(raft: Raft, snapshot: Snapshot) -> bool:
    """Replace log and configuration by a snapshot. Return False if it is not wanted.

    It is not if everything it covers is committed here already, or stands in the log and can be
    committed by that: nothing that agrees is ever thrown away.
    """
    log = raft.log
    if snapshot.index <= log.committed:
        raft.report("snapshot_ignored", f"{snapshot!r}, committed {log.committed}")
        return False
    if raft.node_id not in snapshot.membership.nodes:
        raft.report("snapshot_ignored", f"{snapshot!r} is for a group without this node")
        return False
    if log.matches(snapshot.term, snapshot.index):
        log.commit_to(snapshot.index)
        raft.report("snapshot_ignored", f"{snapshot!r} is in the log, and committed by it")
        return False
    if log.unstable.snapshot is None:
        raft.overtaken_membership = raft.tracker.membership
    log.restore(snapshot)
    raft.tracker.restore(snapshot.membership, log.last_index)
    raft.report("snapshot_restored", f"{snapshot!r}")
    return True
