"""What a leader sends to its followers: appends as far as flow control allows, and heartbeats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafter_core.entries import ENTRY_OVERHEAD_BYTES, Entry
from rafter_core.errors import Compacted
from rafter_core.messages import APPEND, HEARTBEAT, TIMEOUT_NOW, Message
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
    the way answer at all. Entries that are compacted cannot be sent: the progress is marked and
    kept as it is.
    """
    if progress.flow_paused:
        return False
    log = raft.log
    next_index = progress.next
    entries = NO_ENTRIES
    try:
        previous_term = log.term(next_index - 1)
        last_index = log.last_index
        if next_index <= last_index and not (
            progress.mode is REPLICATE and progress.inflights.is_full
        ):
            entries = log.slice(next_index, last_index + 1, raft.config.message_bytes_max)
    except Compacted:
        _mark_compacted(raft, progress)
        return False
    if not entries and not is_empty_allowed:
        return False
    progress.needs_snapshot = False
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
    size_bytes = 0
    for entry in entries:
        size_bytes += len(entry.payload) + ENTRY_OVERHEAD_BYTES
    progress.sent(len(entries), size_bytes, log.committed)
    return True


def broadcast_heartbeat(raft: Raft, read_counter: int) -> None:
    """Send a heartbeat to every follower, carrying the newest unconfirmed read (0: none).

    Its commit index is capped by what the follower is known to hold: a heartbeat has no previous
    entry to verify, so it must not commit what may still differ there.
    """
    context = read_counter.to_bytes(READ_CONTEXT_BYTES, "little") if read_counter else b""
    committed = raft.log.committed
    for progress in raft.tracker.peers:
        raft.messages.append(
            Message(
                kind=HEARTBEAT,
                to=progress.node,
                sender=raft.node_id,
                term=raft.term,
                commit=min(progress.match, committed),
                context=context,
            )
        )


def send_timeout_now(raft: Raft, to: int) -> None:
    """Tell a follower that holds the whole log to take over."""
    raft.report("timeout_now_sent", f"to node {to}")
    raft.messages.append(Message(kind=TIMEOUT_NOW, to=to, sender=raft.node_id, term=raft.term))


def _mark_compacted(raft: Raft, progress: Progress) -> None:
    if not progress.needs_snapshot:
        progress.needs_snapshot = True
        raft.report(
            "snapshot_needed",
            f"node {progress.node} needs index {progress.next}, the log starts at "
            f"{raft.log.first_index}",
        )
