"""The leader's side of replication: appending, counting acknowledgements, committing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafter_core import reads, transfer
from rafter_core.entries import Entry, EntryKind
from rafter_core.errors import ProposalDropped, StepError
from rafter_core.messages import Message
from rafter_core.progress import PROBE, REPLICATE, Progress
from rafter_core.roles import LEADER
from rafter_core.sending import broadcast_append, broadcast_heartbeat, send_append

if TYPE_CHECKING:
    from rafter_core.raft import Raft

NORMAL = EntryKind.NORMAL


def propose(raft: Raft, payload: bytes) -> int:
    """Append and send a proposal; return its index. Raises ProposalDropped, nothing changed."""
    if raft.role is not LEADER:
        raise ProposalDropped(f"node {raft.node_id} is not the leader of term {raft.term}")
    if raft.transferee:
        raise ProposalDropped(f"leadership is being transferred to node {raft.transferee}")
    uncommitted = raft.uncommitted_bytes
    limit = raft.config.uncommitted_bytes_max
    # The first one always passes, however large, or it could never be proposed at all.
    if payload and uncommitted and uncommitted + len(payload) > limit:
        raise ProposalDropped(f"{uncommitted} bytes are uncommitted, the limit is {limit}")
    raft.uncommitted_bytes = uncommitted + len(payload)
    index = append_entry(raft, payload)
    broadcast_append(raft)
    return index


def append_entry(raft: Raft, payload: bytes) -> int:
    """Append one entry in the own term. It counts for this node once `storage_done` says so."""
    index = raft.log.last_index + 1
    raft.log.append(Entry(raft.term, index, NORMAL, payload))
    raft.tracker.own.next = index + 1
    return index


def acknowledge_own(raft: Raft) -> None:
    """Count the own log up to what is durable now: one vote among the voters."""
    if raft.tracker.own.acknowledge(raft.log.stable_index) and maybe_commit(raft):
        _announce_commit(raft)


def beat(raft: Raft) -> None:
    """Send the periodic heartbeat, repeating the newest unconfirmed read in case of a loss."""
    broadcast_heartbeat(raft, raft.reads.newest_pending)


def handle_append_response(raft: Raft, message: Message) -> None:
    """Move the follower's progress; commit, and send what the answer makes room for."""
    if message.index > raft.log.last_index:
        raise StepError(f"answers for entries that were never sent: {message!r}")
    progress = raft.tracker.progress[message.sender]
    progress.recent_active = True
    if message.reject:
        _handle_rejection(raft, progress, message)
        return
    index = message.index
    if not progress.acknowledge(index) and not (progress.match == index and progress.mode is PROBE):
        return
    if progress.mode is REPLICATE:
        progress.inflights.free_to(index)
    else:
        progress.become_replicate()
    if maybe_commit(raft):
        _announce_commit(raft)
    elif raft.config.eager_commit and progress.lacks_commit(raft.log.committed):
        send_append(raft, progress, is_empty_allowed=True)
    # The window moved: send all it has room for, in several messages if need be.
    while progress.next <= raft.log.last_index and send_append(
        raft, progress, is_empty_allowed=False
    ):
        pass
    if raft.transferee == message.sender:
        transfer.continue_with(raft, progress)


def handle_heartbeat_response(raft: Raft, message: Message) -> None:
    """Unpause the follower, resend what it may have lost, and count its confirmation of reads."""
    counter = reads.confirmed_counter(raft, message)
    progress = raft.tracker.progress[message.sender]
    progress.recent_active = True
    progress.flow_paused = False
    # A follower in PROBE that has everything gets an empty append, so that its answer brings it
    # back.
    if progress.match < raft.log.last_index or progress.mode is PROBE:
        send_append(raft, progress, is_empty_allowed=True)
    if counter:
        reads.confirm(raft, progress, counter)


def report_unreachable(raft: Raft, node: int) -> None:
    """Take a driver's word that messages to a node were lost: stop sending optimistically."""
    progress = raft.tracker.progress.get(node)
    if raft.role is not LEADER or progress is None or progress is raft.tracker.own:
        return
    if progress.mode is REPLICATE:
        progress.become_probe()
        raft.report("unreachable", f"node {node}: {progress!r}")


def maybe_commit(raft: Raft) -> bool:
    """Advance the commit index to what a quorum holds, within the own term (paper 5.4.2)."""
    index = raft.tracker.committed_index()
    if index <= raft.log.committed or index < raft.term_start_index:
        return False
    raft.log.commit_to(index)
    return True


def _announce_commit(raft: Raft) -> None:
    if raft.reads.held:
        reads.release_held(raft)
    if raft.config.eager_commit:
        broadcast_append(raft)


def _handle_rejection(raft: Raft, progress: Progress, message: Message) -> None:
    hint = message.reject_hint
    if message.log_term > 0:
        # The follower skipped its own term; skip ours as well: one round for each term at most.
        hint, _ = raft.log.find_conflict_by_term(min(hint, message.index), message.log_term)
    if progress.reject(message.index, hint):
        if progress.mode is REPLICATE:
            progress.become_probe()
        if raft.trace is not None:
            raft.report("append_rejected", f"{message!r}: {progress!r}")
        send_append(raft, progress, is_empty_allowed=True)
