"""The leader's side of replication: appending, counting acknowledgements, committing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rafter_core import reads, transfer
from rafter_core.entries import Entry, EntryKind
from rafter_core.errors import StepError
from rafter_core.messages import APPEND_RESPONSE, Message
from rafter_core.progress import PROBE, REPLICATE, Progress
from rafter_core.roles import LEADER
from rafter_core.sending import broadcast_append, broadcast_heartbeat, send_append

if TYPE_CHECKING:
    from rafter_core.raft import Raft


def append_entries(raft: Raft, items: Sequence[tuple[EntryKind, bytes]]) -> int:
    """Append entries in the own term; return the last index.

    They count for this node once they are durable: the acknowledgement to itself says so.
    """
    term = raft.term
    first_index = raft.log.last_index + 1
    # Entry(...) would go through a Python-level constructor, three times as slow.
    new = tuple.__new__
    raft.log.append(
        [
            new(Entry, (term, index, kind, payload))
            for index, (kind, payload) in enumerate(items, first_index)
        ]
    )
    last_index = first_index + len(items) - 1
    raft.send_after_sync(APPEND_RESPONSE, raft.node_id, index=last_index)
    return last_index


def beat(raft: Raft) -> None:
    """Send the periodic heartbeat, repeating the newest unconfirmed read in case of a loss."""
    broadcast_heartbeat(raft, reads.beat_counter(raft))


def handle_append_response(raft: Raft, message: Message) -> None:
    """Move the follower's progress; commit, and send what the answer makes room for.

    This node's acknowledgement to itself comes this way too, and is answered by nothing.
    """
    sender = message.sender
    progress = raft.tracker.progress.get(sender)
    if progress is None:
        # This leader itself, removed from the group.
        return
    if message.index > raft.log.last_index:
        raise StepError(f"answers for entries that were never sent: {message!r}")
    progress.recent_active = True
    if message.reject:
        _handle_rejection(raft, progress, message)
        return
    index = message.index
    # In PROBE an answer that teaches nothing still ends the search.
    if not progress.acknowledge(index) and not (progress.match == index and progress.mode is PROBE):
        return
    if progress.mode is REPLICATE:
        progress.inflights.free_to(index)
    else:
        _resume(raft, progress)
    is_peer = sender != raft.node_id
    if maybe_commit(raft):
        reads.release_held(raft)
        if raft.config.eager_commit:
            broadcast_append(raft)
    elif is_peer and raft.config.eager_commit and progress.lacks_commit(raft.log.committed):
        send_append(raft, progress, is_empty_allowed=True)
    if not is_peer:
        return
    # The window moved: send all it has room for, in several messages if need be.
    while progress.next <= raft.log.last_index and send_append(
        raft, progress, is_empty_allowed=False
    ):
        pass
    if raft.transferee == sender:
        transfer.continue_with(raft, progress)


def send_to_witnesses(raft: Raft) -> None:
    """Send the witnesses what has just become durable here: they never get ahead of that."""
    witnesses = raft.tracker.membership.witnesses
    if witnesses:
        for progress in raft.tracker.peers:
            if progress.node in witnesses:
                send_append(raft, progress, is_empty_allowed=False)


def handle_heartbeat_response(raft: Raft, message: Message) -> None:
    """Unpause the follower, resend what it may have lost, and count its confirmation of reads."""
    progress = raft.tracker.progress[message.sender]
    counter = reads.confirmed_counter(raft, message)
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


def _resume(raft: Raft, progress: Progress) -> None:
    """Send optimistically from now on, if the log reaches back to what the follower holds."""
    if progress.mode is PROBE:
        progress.become_replicate()
    elif progress.match + 1 >= raft.log.first_index:
        # Whichever snapshot it took, and wherever from.
        raft.report("snapshot_acknowledged", f"by node {progress.node}: {progress!r}")
        progress.become_probe()
        progress.become_replicate()


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
