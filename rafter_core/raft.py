"""The state of one replica, the gate that every message passes, and the changes of role.

The algorithm itself is in modules of one verb family each, as functions over this state:
`election`, `proposals`, `sending`, `replication`, `following`, `snapshots`, `reconfiguration`,
`reads`, `transfer`, `quiesce`. `dispatch` says which role handles which message. State changes only
inside one of RawNode's inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafter_core import dispatch, election, proposals, quiesce, replication
from rafter_core.entries import NO_NODE, EntryKind
from rafter_core.errors import InvariantError, LocalMessage, PeerNotFound, StepError
from rafter_core.log import RaftLog
from rafter_core.messages import (
    APPEND,
    APPEND_RESPONSE,
    APPEND_THREAD,
    APPLY_THREAD,
    CAMPAIGN_TRANSFER,
    HEARTBEAT,
    PRE_VOTE,
    PRE_VOTE_RESPONSE,
    PROPOSE,
    QUIESCE,
    REMOTE_KINDS,
    RESPONSE_KINDS,
    SNAPSHOT,
    STORAGE_APPEND_RESPONSE,
    STORAGE_APPLY_RESPONSE,
    TERMLESS_KINDS,
    TRANSFER_LEADER,
    VOTE,
    Message,
    MessageKind,
)
from rafter_core.progress import REPLICATE
from rafter_core.reads import ReadQueue
from rafter_core.roles import CANDIDATE, FOLLOWER, LEADER, PRE_CANDIDATE, Role
from rafter_core.trace import TraceEvent, TraceSink
from rafter_core.tracker import ProgressTracker

if TYPE_CHECKING:
    import random

    from rafter_core.config import Config
    from rafter_core.ready import ReadState
    from rafter_core.snapshot import Snapshot
    from rafter_core.storage import LogStorage

_FROM_LEADER = frozenset((APPEND, HEARTBEAT, SNAPSHOT, QUIESCE))
_FORWARDED = TERMLESS_KINDS | {TRANSFER_LEADER}


class Raft:
    """One replica.

    `messages` leave at once; `messages_after_sync` rest on what must be durable first, and those of
    them that are addressed to this node itself are its own votes and acknowledgements.

    The lists grow only by inputs and are emptied by each Ready, so the driver bounds them.
    """

    __slots__ = (
        "config",
        "election_elapsed",
        "election_timeout",
        "generator",
        "heartbeat_elapsed",
        "idle_ticks",
        "is_quiesced",
        "leader",
        "log",
        "messages",
        "messages_after_sync",
        "node_id",
        "overtaken_membership",
        "patience_end_ticks",
        "pending_change_index",
        "priority",
        "read_states",
        "reads",
        "role",
        "term",
        "term_start_index",
        "ticks",
        "trace",
        "tracker",
        "transferee",
        "uncommitted_bytes",
        "vote",
    )

    def __init__(
        self,
        config: Config,
        storage: LogStorage,
        generator: random.Random,
        trace: TraceSink | None,
    ) -> None:
        config.validate()
        hard_state, membership = storage.initial_state()
        self.config = config
        self.node_id = config.node_id
        self.priority = config.priority
        self.generator = generator
        self.trace = trace
        self.log = RaftLog(
            storage,
            hard_state.commit,
            config.applied,
            config.committed_bytes_per_ready_max,
            is_unstable_applied=not config.async_storage_writes,
        )
        self.tracker = ProgressTracker(
            config.node_id,
            membership,
            config.inflight_messages_max,
            config.inflight_bytes_max,
            self.log.last_index,
        )
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.leader = NO_NODE
        self.role: Role = FOLLOWER
        self.ticks = 0
        self.election_elapsed = 0
        self.election_timeout = 0
        self.heartbeat_elapsed = 0
        self.idle_ticks = 0
        self.is_quiesced = False
        # Until this tick it votes for nobody, for the sake of a lease.
        self.patience_end_ticks = election.restart_patience_ticks(config, hard_state)
        self.transferee = NO_NODE
        self.uncommitted_bytes = 0
        # Index of this leader's no-op. A leader only appends, so everything from there on has its
        # term.
        self.term_start_index = 0
        # No change of the membership is proposed before this index is applied: there may be one.
        self.pending_change_index = 0
        # The configuration of what is applied, while a snapshot waits whose own is in force.
        self.overtaken_membership = membership
        self.reads = ReadQueue(config.pending_reads_max)
        self.messages: list[Message] = []
        self.messages_after_sync: list[Message] = []
        self.read_states: list[ReadState] = []
        self.become_follower(self.term, NO_NODE)

    # -- time

    def tick(self) -> None:
        """Let one tick pass. Not called on a quiesced replica, which knows no time."""
        self.ticks += 1
        self.election_elapsed += 1
        if self.role is LEADER:
            self.heartbeat_elapsed += 1
            if self.election_elapsed >= self.config.election_timeout_ticks:
                self.election_elapsed = 0
                election.end_leader_period(self)
            if self.role is LEADER and self.heartbeat_elapsed >= self.config.heartbeat_ticks:
                self.heartbeat_elapsed = 0
                replication.beat(self)
            if self.config.quiesce_after_ticks and self.role is LEADER:
                quiesce.count_idle_tick(self)
        elif self.election_elapsed >= self.election_timeout and self.is_promotable():
            self.election_elapsed = 0
            election.start(self)

    def is_promotable(self) -> bool:
        """Return whether this replica may become leader: a voter with a log of its own."""
        membership = self.tracker.membership
        return (
            membership.is_voter(self.node_id)
            and self.node_id not in membership.witnesses
            and self.log.unstable.snapshot is None
        )

    # -- messages in

    def check_step(self, message: Message) -> None:
        """Raise StepError for a message that this node must not take from outside.

        Besides those of peers these are its own messages to itself, once they are durable, and the
        responses of its storage threads.
        """
        kind = message.kind
        sender = message.sender
        if kind not in REMOTE_KINDS:
            is_stored = kind is STORAGE_APPEND_RESPONSE and sender == APPEND_THREAD
            is_applied = kind is STORAGE_APPLY_RESPONSE and sender == APPLY_THREAD
            if not (is_stored or is_applied):
                raise LocalMessage(f"this kind of message never leaves its node: {message!r}")
            return
        if kind in RESPONSE_KINDS and sender not in self.tracker.progress:
            raise PeerNotFound(f"response from {sender}, which is no member: {message!r}")
        if (
            message.to != self.node_id
            or sender < 1
            or (message.term < 1) is not (kind in TERMLESS_KINDS)
            or (sender == self.node_id and kind not in RESPONSE_KINDS and kind not in _FORWARDED)
        ):
            raise StepError(f"message is not from a peer to node {self.node_id}: {message!r}")
        if kind is PROPOSE and not message.entries:
            raise StepError(f"proposes nothing: {message!r}")
        if kind is SNAPSHOT:
            snapshot = message.snapshot
            fault = "there is none" if snapshot is None else snapshot.membership.fault()
            if fault is not None:
                raise StepError(f"not a snapshot to restore: {fault}: {message!r}")
        entries = message.entries
        if entries and kind is APPEND:
            # The ends are enough here: the decoder has checked that indexes are contiguous and
            # terms never fall in between.
            first, last = entries[0], entries[-1]
            if (
                first.index != message.index + 1
                or last.index != message.index + len(entries)
                or not message.log_term <= first.term <= last.term <= message.term
            ):
                raise StepError(
                    f"entries do not continue {message.log_term}/{message.index}: {message!r}"
                )

    def step(self, message: Message) -> None:
        """Take a message that `check_step` let pass: compare terms, then hand it to its handler."""
        if message.term != self.term and message.term and not self._admit(message):
            return
        handler = dispatch.HANDLERS[self.role][message.kind]
        if handler is not None:
            handler(self, message)

    def _admit(self, message: Message) -> bool:
        """Compare terms; adopt a higher one. Return whether the message is to be handled."""
        kind = message.kind
        if message.term < self.term:
            self._answer_lower_term(message)
            return False
        is_request = kind is VOTE or kind is PRE_VOTE
        if is_request and message.context != CAMPAIGN_TRANSFER and self.guards_leader():
            self.report("vote_ignored", f"{kind.name} of {message.sender}: leader is alive")
            return False
        if kind is PRE_VOTE or (kind is PRE_VOTE_RESPONSE and not message.reject):
            # A pre-vote asks about a future term and changes nobody's.
            return True
        self.report("higher_term", f"{message!r}")
        self.become_follower(message.term, message.sender if kind in _FROM_LEADER else NO_NODE)
        return True

    def guards_leader(self) -> bool:
        """Return whether a leader was heard from within one election timeout (thesis 4.2.3)."""
        if self.ticks < self.patience_end_ticks:
            return True
        return (
            self.config.check_quorum
            and self.leader != NO_NODE
            and self.election_elapsed < self.config.election_timeout_ticks
        )

    def _answer_lower_term(self, message: Message) -> None:
        kind = message.kind
        if kind is APPEND or kind is HEARTBEAT or kind is QUIESCE:
            if self.config.check_quorum or self.config.pre_vote:
                # A deposed leader, or we raised our term in isolation and our vote requests are
                # ignored or no longer sent: our term in the answer makes the sender step down and
                # lets this replica rejoin (etcd's "free stuck candidate").
                self.send_after_sync(APPEND_RESPONSE, message.sender)
        elif kind is PRE_VOTE:
            # Without an answer, mixed clusters of lagging terms can block each other (etcd#8501).
            self.send_after_sync(PRE_VOTE_RESPONSE, message.sender, reject=True)
        elif kind is STORAGE_APPEND_RESPONSE:
            # Its entries may have been replaced meanwhile, twice even, back to the same term and
            # index (A-B-A): a newer response vouches for them. A snapshot is never replaced by
            # anything older.
            self._snapshot_stored(message.snapshot)

    # -- storage

    def storage_done(self, term: int, index: int, snapshot: Snapshot | None) -> None:
        """Take note that entries up to (term, index) are durable (index 0: none), or a snapshot.

        Called in the term in which that was handed out, so nothing was rewritten since.
        """
        if index and self.log.unstable.stable_to(term, index) and self.role is LEADER:
            replication.send_to_witnesses(self)
        self._snapshot_stored(snapshot)

    def applied_to(self, index: int) -> None:
        """Take note that entries up to `index` are applied."""
        freed = self.log.applied_to(index)
        proposals.leave_joint_automatically(self)
        if self.uncommitted_bytes:
            # Entries of earlier terms were never counted, so this may reach zero early.
            self.uncommitted_bytes = max(0, self.uncommitted_bytes - freed)

    def _snapshot_stored(self, snapshot: Snapshot | None) -> None:
        if snapshot is not None:
            self.log.snapshot_stored(snapshot.index)
            proposals.leave_joint_automatically(self)

    # -- messages out

    def send_after_sync(
        self,
        kind: MessageKind,
        to: int,
        *,
        index: int = 0,
        log_term: int = 0,
        reject: bool = False,
        reject_hint: int = 0,
    ) -> None:
        """Queue an answer of this term that rests on the durable state."""
        self.messages_after_sync.append(
            Message(
                kind=kind,
                to=to,
                sender=self.node_id,
                term=self.term,
                index=index,
                log_term=log_term,
                reject=reject,
                reject_hint=reject_hint,
            )
        )

    def report(self, name: str, detail: str) -> None:
        """Tell the trace sink. Callers on hot paths look whether there is one before formatting."""
        if self.trace is not None:
            self.trace(TraceEvent(self.node_id, self.term, name, detail))

    # -- roles

    def become_follower(self, term: int, leader: int) -> None:
        """Follow `leader` (NO_NODE: not known yet) in `term`. A vote cast in it is kept."""
        self._reset(term)
        self.role = FOLLOWER
        self.leader = leader
        self.report("became_follower", f"leader {leader}")

    def become_candidate(self) -> None:
        """Enter the next term with the own vote."""
        self._forbid(LEADER, CANDIDATE)
        self._reset(self.term + 1)
        self.role = CANDIDATE
        self.vote = self.node_id
        self.report("became_candidate", "")

    def become_pre_candidate(self) -> None:
        """Ask for support without touching the term, the vote or the timer (thesis 9.6)."""
        self._forbid(LEADER, PRE_CANDIDATE)
        self.tracker.votes.clear()
        self.leader = NO_NODE
        self.role = PRE_CANDIDATE
        self.report("became_pre_candidate", "")

    def become_leader(self) -> None:
        """Lead: append the no-op that will commit everything before it (paper 5.4.2, 8)."""
        self._forbid(FOLLOWER, LEADER)
        self._reset(self.term)
        self.role = LEADER
        self.leader = self.node_id
        own = self.tracker.own
        own.recent_active = True
        own.mode = REPLICATE
        # Whatever stands in the log and is not applied yet may hold a change of the membership.
        self.pending_change_index = self.log.last_index
        self.term_start_index = self.log.last_index + 1
        replication.append_entries(self, [(EntryKind.NORMAL, b"")])
        self.report("became_leader", f"no-op at {self.term_start_index}")

    def _forbid(self, role: Role, target: Role) -> None:
        if self.role is role:
            raise InvariantError(f"a {role.name} cannot become a {target.name}")

    def _reset(self, term: int) -> None:
        if term != self.term:
            self.term = term
            self.vote = NO_NODE
        timeout = self.config.election_timeout_ticks
        self.leader = NO_NODE
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        self.idle_ticks = 0
        self.election_timeout = timeout + self.generator.randrange(timeout)
        self.transferee = NO_NODE
        self.uncommitted_bytes = 0
        self.pending_change_index = 0
        self.reads.clear()
        self.tracker.votes.clear()
        self.tracker.reset(self.log.last_index)
