"""What a leader sends to its followers: appends as far as flow control allows, and heartbeats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafter_core.entries import Entry, EntryKind, payloads_bytes
from rafter_core.errors import Compacted, SnapshotUnavailable
from rafter_core.messages import APPEND, ENTRIES_MAX, HEARTBEAT, SNAPSHOT, TIMEOUT_NOW, Message
from rafter_core.progress import REPLICATE, Progress

if TYPE_CHECKING:
    from rafter_core.raft import Raft

READ_CONTEXT_BYTES = 8
NO_ENTRIES: list[Entry] = []


def broadcast_append(raft: Raft) -> None:
    """Send an append, empty if there is nothing new, to every follower that is not paused."""
    for progress in raft.tracker.peers:
        send_append(raft, progress, is_empty_allowed=True)


def send_append(raft: Raft, progress: Progress, *, is_empty_allowed: bool) -> bool:
    """Send the next entries to one follower, within the limits. Return whether anything was sent.

    In a full window only an empty append goes out: it lets a follower whose window was lost on
    the way answer at all. If the log does not reach back far enough, a snapshot is sent instead.
    """
    if progress.is_paused:
        return False
    log = raft.log
    next_index = progress.next
    last_index = log.last_index
    is_witness = progress.node in raft.tracker.membership.witnesses
    if is_witness and last_index >= next_index > log.stable_index:
        # A witness that held more than the disk of any node with payloads could block the group.
        return False
    entries = NO_ENTRIES
    try:
        previous_term = log.term(next_index - 1)
        if is_witness:
            last_index = min(last_index, log.stable_index)
        if next_index <= last_index and not (
            progress.mode is REPLICATE and progress.inflights.is_full
        ):
            end = min(last_index + 1, next_index + ENTRIES_MAX)
            entries = log.slice(next_index, end, raft.config.message_bytes_max)
    except Compacted:
        return _send_snapshot(raft, progress)
    if not entries and not is_empty_allowed:
        return False
    if is_witness:
        entries = [_strip(entry) for entry in entries]
    raft.messages.append(
        Message(
            kind=APPEND,
            to=progress.node,
            sender=raft.node_id,
            term=raft.term,
            index=next_index - 1,
            log_term=previous_term,
            entries=entries,
            commit=log.committed,
        )
    )
    progress.sent(len(entries), payloads_bytes(entries), log.committed)
    return True


def broadcast_heartbeat(raft: Raft, read_counter: int) -> None:
    """Send a heartbeat to every follower, carrying the newest unconfirmed read (0: none).

    Its commit index is capped by what the follower is known to hold: a heartbeat has no previous
    entry to verify, so it must not commit what may still differ there.
    """
    context = read_counter.to_bytes(READ_CONTEXT_BYTES, "little") if read_counter else b""
    committed = raft.log.committed
    for progress in raft.tracker.peers:
        commit = min(progress.match, committed)
        raft.messages.append(
            Message(
                kind=HEARTBEAT,
                to=progress.node,
                sender=raft.node_id,
                term=raft.term,
                commit=commit,
                context=context,
            )
        )
        progress.sent_commit = commit


def send_timeout_now(raft: Raft, to: int) -> None:
    """Tell a follower that holds the whole log to take over.

    The order may arrive late, and it breaks what other nodes promised about this leader's lease.
    """
    raft.report("timeout_now_sent", f"to node {to}")
    raft.reads.void_lease_for_term()
    raft.messages.append(Message(kind=TIMEOUT_NOW, to=to, sender=raft.node_id, term=raft.term))


def _send_snapshot(raft: Raft, progress: Progress) -> bool:
    """Send the newest snapshot to a follower that was heard from recently; then wait for it."""
    if not progress.recent_active:
        raft.report("snapshot_not_sent", f"node {progress.node} is not active: {progress!r}")
        return False
    try:
        snapshot = raft.log.snapshot()
    except SnapshotUnavailable as error:
        raft.report("snapshot_not_sent", f"to node {progress.node}: {error}")
        return False
    if progress.node in raft.tracker.membership.witnesses:
        snapshot = snapshot._replace(data=b"")
    progress.become_snapshot(snapshot.index)
    raft.report("snapshot_sent", f"{snapshot!r} to node {progress.node}: {progress!r}")
    raft.messages.append(
        Message(
            kind=SNAPSHOT,
            to=progress.node,
            sender=raft.node_id,
            term=raft.term,
            snapshot=snapshot,
        )
    )
    return True


def _strip(entry: Entry) -> Entry:
    """Return what a witness may see: all but changes of the membership without payload."""
    if entry.kind is not EntryKind.NORMAL or not entry.payload:
        return entry
    return Entry(entry.term, entry.index, EntryKind.STRIPPED, b"")
