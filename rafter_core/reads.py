"""Linearizable reads without a log entry (ReadIndex, thesis 6.4).

A read takes the commit index as it is when the leader receives it, and a number of its own.
Heartbeats carry the newest number; once a quorum has echoed a number, the leader was still the
leader after every read up to it arrived, and those reads may be served. Numbers are never used
twice by a node, so that a late echo confirms nothing newer than what it was sent for
(etcd#20418).

Until the leader has committed an entry of its own term it may not know the commit index, so reads
are held back. When leadership is lost they are dropped without an answer. A follower passes reads
on; the answer may get lost, so whoever asks must ask again after a while.

In the lease mode every heartbeat carries a number. Once a quorum has echoed it, each of them has
heard the leader after the heartbeat was *sent*, and votes for nobody for an election timeout after
that (`Raft.guards_leader`). For four fifths of that time reads are answered at once. This assumes
that the ticks of any two nodes differ by less than a tenth in speed, and that no time passes
unticked on the leader: a process that was stopped and goes on must tick for what it missed before
it reads. An order to take over voids the lease for the rest of the term, since the new leader needs
nobody's patience; so does sleep, until the next round.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from rafter_core.config import ReadMode
from rafter_core.entries import NO_NODE
from rafter_core.errors import ReadDropped, StepError
from rafter_core.messages import READ_INDEX, READ_INDEX_RESPONSE, Message
from rafter_core.progress import Progress
from rafter_core.ready import ReadState
from rafter_core.roles import FOLLOWER, LEADER
from rafter_core.sending import READ_CONTEXT_BYTES, broadcast_heartbeat

if TYPE_CHECKING:
    from rafter_core.raft import Raft

_NO_LEASE = -1


class _Pending(NamedTuple):
    """A read that waits for a quorum. `requester` is the node that asked."""

    counter: int
    read_index: int
    context: bytes
    requester: int


class ReadQueue:
    """Reads of one leadership: `held` until the own term commits, `pending` until confirmed."""

    __slots__ = (
        "_count_max",
        "_is_lease_void",
        "_lease_rounds",
        "_lease_start",
        "counter",
        "held",
        "pending",
    )

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self.counter = 0
        self.held: deque[tuple[bytes, int]] = deque()
        self.pending: deque[_Pending] = deque()
        # (number, tick at which it was sent) of heartbeats that may still start a lease.
        self._lease_rounds: deque[tuple[int, int]] = deque()
        self._lease_start = _NO_LEASE
        self._is_lease_void = False

    @property
    def newest_pending(self) -> int:
        """Return the number of the newest read that waits for a quorum, 0 if none does."""
        return self.pending[-1].counter if self.pending else 0

    @property
    def is_empty(self) -> bool:
        """Return whether no read waits for anything."""
        return not self.held and not self.pending

    @property
    def is_full(self) -> bool:
        """Return whether another read would exceed the bound."""
        return len(self.held) + len(self.pending) >= self._count_max

    def clear(self) -> None:
        """Drop every read, with a new term; the counter goes on."""
        self.held.clear()
        self.pending.clear()
        self.void_lease()
        self._is_lease_void = False

    def void_lease(self) -> None:
        """Forget the lease and every heartbeat under way that could renew it."""
        self._lease_rounds.clear()
        self._lease_start = _NO_LEASE

    def void_lease_for_term(self) -> None:
        """Let there be no lease any more until the term ends."""
        self._is_lease_void = True

    def open_lease_round(self, tick: int, rounds_max: int) -> None:
        """Note that the present counter is sent at this tick."""
        self._lease_rounds.append((self.counter, tick))
        if len(self._lease_rounds) > rounds_max:
            # Too old to be worth anything.
            self._lease_rounds.popleft()

    def confirm_lease_to(self, counter: int) -> None:
        """Start the lease at the newest heartbeat that a quorum has echoed."""
        rounds = self._lease_rounds
        while rounds and rounds[0][0] <= counter:
            self._lease_start = rounds.popleft()[1]

    def has_lease(self, tick: int, length_ticks: int) -> bool:
        """Return whether the lease holds at this tick."""
        return (
            self._lease_start != _NO_LEASE
            and not self._is_lease_void
            and tick - self._lease_start < length_ticks
        )


def request(raft: Raft, context: bytes) -> None:
    """Start a read of this node, or pass it on to the leader. Raises ReadDropped."""
    if raft.role is LEADER:
        if raft.reads.is_full:
            raise ReadDropped(f"{raft.config.pending_reads_max} reads wait for confirmation")
        _start(raft, context, raft.node_id)
    elif raft.role is FOLLOWER and raft.leader != NO_NODE:
        forward(raft, Message(kind=READ_INDEX, sender=raft.node_id, context=context))
    else:
        raise ReadDropped(f"node {raft.node_id} knows no leader of term {raft.term}")


def forward(raft: Raft, message: Message) -> None:
    """As a follower: pass a read on to the leader, keeping who asked."""
    if raft.leader == NO_NODE:
        raft.report("read_dropped", f"of node {message.sender}: no leader is known")
        return
    raft.messages.append(
        Message(kind=READ_INDEX, to=raft.leader, sender=message.sender, context=message.context)
    )


def handle_request(raft: Raft, message: Message) -> None:
    """As the leader: take a read that a follower passed on."""
    if raft.reads.is_full:
        raft.report("read_dropped", f"of node {message.sender}: too many wait")
        return
    _start(raft, message.context, message.sender)


def handle_response(raft: Raft, message: Message) -> None:
    """As a follower: the leader's answer to a read of this node."""
    raft.read_states.append(ReadState(message.index, message.context))


def beat_counter(raft: Raft) -> int:
    """Return the number that a periodic heartbeat is to carry, 0 for none."""
    queue = raft.reads
    if raft.config.read_mode is ReadMode.LEASE:
        _draw_counter(raft)
        queue.open_lease_round(raft.ticks, raft.config.election_timeout_ticks)
        _count_confirmations(raft)
        return queue.counter
    return queue.newest_pending


def release_held(raft: Raft) -> None:
    """Start the reads that waited for the first commit of the term: one round for all of them."""
    queue = raft.reads
    if not queue.held:
        return
    while queue.held:
        _enqueue(raft, *queue.held.popleft())
    _ask_quorum(raft)


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
        _count_confirmations(raft)


def _start(raft: Raft, context: bytes, requester: int) -> None:
    raft.idle_ticks = 0
    queue = raft.reads
    if raft.log.committed < raft.term_start_index:
        queue.held.append((context, requester))
        return
    if raft.config.read_mode is ReadMode.LEASE and raft.transferee == NO_NODE:
        # Four fifths: the slowest leader against the fastest follower, each off by a tenth.
        length_ticks = raft.config.election_timeout_ticks * 4 // 5
        if queue.has_lease(raft.ticks, length_ticks):
            _release(raft, raft.log.committed, context, requester)
            return
    _enqueue(raft, context, requester)
    _ask_quorum(raft)


def _enqueue(raft: Raft, context: bytes, requester: int) -> None:
    _draw_counter(raft)
    raft.reads.pending.append(_Pending(raft.reads.counter, raft.log.committed, context, requester))


def _draw_counter(raft: Raft) -> None:
    raft.reads.counter += 1
    raft.tracker.own.read_acknowledged = raft.reads.counter


def _ask_quorum(raft: Raft) -> None:
    """Send a round for the reads that wait; a single voter is its own quorum and sends nothing."""
    _count_confirmations(raft)
    if raft.reads.pending:
        broadcast_heartbeat(raft, raft.reads.newest_pending)


def _count_confirmations(raft: Raft) -> None:
    queue = raft.reads
    counter = raft.tracker.confirmed_read()
    queue.confirm_lease_to(counter)
    pending = queue.pending
    while pending and pending[0].counter <= counter:
        _, read_index, context, requester = pending.popleft()
        _release(raft, read_index, context, requester)


def _release(raft: Raft, read_index: int, context: bytes, requester: int) -> None:
    if requester == raft.node_id:
        raft.read_states.append(ReadState(read_index, context))
        return
    raft.messages.append(
        Message(
            kind=READ_INDEX_RESPONSE,
            to=requester,
            sender=raft.node_id,
            term=raft.term,
            index=read_index,
            context=context,
        )
    )
