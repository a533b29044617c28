"""Linearizable reads without a log entry (ReadIndex, thesis 6.4).

A read takes the commit index as it is when the leader receives it, and a number of its own.
Heartbeats carry the newest number; once a quorum has echoed a number, the leader was still the
leader after every read up to it arrived, and those reads may be served. Numbers are never used
twice by a node, so that a late echo confirms nothing newer than what it was sent for
(etcd#20418).

Until the leader has committed an entry of its own term it may not know the commit index, so reads
are held back. When leadership is lost they are dropped without an answer.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from rafter_core.errors import NotLeader, ReadDropped, StepError
from rafter_core.messages import Message
from rafter_core.progress import Progress
from rafter_core.ready import ReadState
from rafter_core.roles import LEADER
from rafter_core.sending import READ_CONTEXT_BYTES, broadcast_heartbeat

if TYPE_CHECKING:
    from rafter_core.raft import Raft


class ReadQueue:
    """Reads of one leadership: `held` until the own term commits, `pending` until confirmed."""

    __slots__ = ("_count_max", "counter", "held", "pending")

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self.counter = 0
        self.held: deque[bytes] = deque()
        self.pending: deque[tuple[int, ReadState]] = deque()

    @property
    def newest_pending(self) -> int:
        """Return the number of the newest read that waits for a quorum, 0 if none does."""
        return self.pending[-1][0] if self.pending else 0

    @property
    def is_full(self) -> bool:
        """Return whether another read would exceed the bound."""
        return len(self.held) + len(self.pending) >= self._count_max

    def clear(self) -> None:
        """Drop every read; the counter goes on."""
        self.held.clear()
        self.pending.clear()


def request(raft: Raft, context: bytes) -> None:
    """Start a read. Raises NotLeader or ReadDropped, with nothing changed."""
    if raft.role is not LEADER:
        raise NotLeader(f"node {raft.node_id} is not the leader of term {raft.term}")
    if raft.reads.is_full:
        raise ReadDropped(f"{raft.config.pending_reads_max} reads wait for confirmation already")
    if raft.log.committed < raft.term_start_index:
        raft.reads.held.append(context)
        return
    broadcast_heartbeat(raft, _enqueue(raft, context))
    _release_confirmed(raft)


def release_held(raft: Raft) -> None:
    """Start the reads that waited for the first commit of the term: one round for all of them."""
    queue = raft.reads
    while queue.held:
        _enqueue(raft, queue.held.popleft())
    broadcast_heartbeat(raft, queue.newest_pending)
    _release_confirmed(raft)


def confirmed_counter(raft: Raft, message: Message) -> int:
    """Return the read number a heartbeat response echoes, 0 if none. Raises StepError."""
    context = message.context
    if not context:
        return 0
    counter = int.from_bytes(context, "little")
    if len(context) != READ_CONTEXT_BYTES or counter > raft.reads.counter:
        raise StepError(f"confirms a read that was never asked for: {message!r}")
    return counter


def confirm(raft: Raft, progress: Progress, counter: int) -> None:
    """Count a node's confirmation of every read up to `counter`."""
    if counter > progress.read_acknowledged:
        progress.read_acknowledged = counter
        _release_confirmed(raft)


def _enqueue(raft: Raft, context: bytes) -> int:
    queue = raft.reads
    queue.counter += 1
    queue.pending.append((queue.counter, ReadState(raft.log.committed, context)))
    raft.tracker.own.read_acknowledged = queue.counter
    return queue.counter


def _release_confirmed(raft: Raft) -> None:
    pending = raft.reads.pending
    if not pending:
        return
    counter = raft.tracker.confirmed_read()
    while pending and pending[0][0] <= counter:
        raft.read_states.append(pending.popleft()[1])
