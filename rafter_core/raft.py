"""The state of one replica, the gate that every message passes, and the changes of role.

The algorithm itself is in modules of one verb family each, as functions over this state:
`election`, `sending`, `replication`, `following`, `reads`, `transfer`. `dispatch` says which role
handles which message. State changes only inside one of RawNode's inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafter_core import dispatch, election, replication
from rafter_core.entries import NO_NODE
from rafter_core.errors import StepError
from rafter_core.log import RaftLog
from rafter_core.messages import (
    APPEND,
    APPEND_RESPONSE,
    CAMPAIGN_TRANSFER,
    HEARTBEAT,
    PRE_VOTE,
    PRE_VOTE_RESPONSE,
    REMOTE_KINDS,
    RESPONSE_KINDS,
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
    from rafter_core.storage import LogStorage


class Raft:
    """One replica.

    `messages` leave at once; `messages_after_sync` rest on what must be durable first;
    `acknowledgements` are this node's votes for itself, which count once they are durable.

    The three lists grow only by inputs and are emptied by each Ready, so the driver bounds them.
    """

    __slots__ = (
        "acknowledgements",
        "config",
        "election_elapsed",
        "election_timeout",
        "generator",
        "heartbeat_elapsed",
        "leader",
        "log",
        "messages",
        "messages_after_sync",
        "node_id",
        "read_states",
        "reads",
        "role",
        "term",
        "term_start_index",
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
        self.generator = generator
        self.trace = trace
        self.log = RaftLog(
            storage, hard_state.commit, config.applied, config.committed_bytes_per_ready_max
        )
        self.tracker = ProgressTracker(
            config.node_id, membership, config.inflight_messages_max, config.inflight_bytes_max
        )
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.leader = NO_NODE
        self.role: Role = FOLLOWER
        self.election_elapsed = 0
        self.election_timeout = 0
        self.heartbeat_elapsed = 0
        self.transferee = NO_NODE
        self.uncommitted_bytes = 0
        # Index of this leader's no-op. A leader only appends, so everything from there on has its
        # term.
        self.term_start_index = 0
        self.reads = ReadQueue(config.pending_reads_max)
        self.messages: list[Message] = []
        self.messages_after_sync: list[Message] = []
        self.acknowledgements: list[Message] = []
        self.read_states: list[ReadState] = []
        self.become_follower(self.term, NO_NODE)

    # -- time

    def tick(self) -> None:
        """Let one tick pass."""
        self.election_elapsed += 1
        if self.role is LEADER:
            self.heartbeat_elapsed += 1
            if self.election_elapsed >= self.config.election_timeout_ticks:
                self.election_elapsed = 0
                election.end_leader_period(self)
            if self.role is LEADER and self.heartbeat_elapsed >= self.config.heartbeat_ticks:
                self.heartbeat_elapsed = 0
                replication.beat(self)
        elif self.election_elapsed >= self.election_timeout and self.is_promotable():
            self.election_elapsed = 0
            election.start(self)

    def is_promotable(self) -> bool:
        """Return whether this replica may become leader: only voters may."""
        return self.tracker.is_voter(self.node_id)

    # -- messages in

    def step(self, message: Message) -> None:
        """Take a message that `check_remote` let pass. Raises StepError, with nothing changed."""
        if message.term == self.term:
            if message.kind in RESPONSE_KINDS and message.sender not in self.tracker.progress:
                raise StepError(f"response from {message.sender}, which is no member: {message!r}")
        elif not self._admit(message):
            return
        self.deliver(message)

    def check_remote(self, message: Message) -> None:
        """Raise StepError for a message that is not from a peer or not for this node."""
        sender = message.sender
        if message.kind not in REMOTE_KINDS:
            raise StepError(f"a peer cannot send this kind of message: {message!r}")
        if message.to != self.node_id or sender == self.node_id or sender < 1 or message.term < 1:
            raise StepError(f"message is not from a peer to node {self.node_id}: {message!r}")
        entries = message.entries
        if entries:
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

    def deliver(self, message: Message) -> None:
        """Hand a message of this term (or a pre-vote) to the handler of its kind and our role."""
        handler = dispatch.HANDLERS[self.role][message.kind]
        if handler is not None:
            handler(self, message)

    def _admit(self, message: Message) -> bool:
        """Compare terms; adopt a higher one. Return whether the message is to be handled."""
        kind = message.kind
        if message.kind in RESPONSE_KINDS and message.sender not in self.tracker.progress:
            raise StepError(f"response from {message.sender}, which is no member: {message!r}")
        if message.term < self.term:
            self._answer_lower_term(message)
            return False
        is_request = kind is VOTE or kind is PRE_VOTE
        if is_request and message.context != CAMPAIGN_TRANSFER and self._guards_leader():
            self.report("vote_ignored", f"{kind.name} of {message.sender}: leader is alive")
            return False
        if kind is PRE_VOTE or (kind is PRE_VOTE_RESPONSE and not message.reject):
            # A pre-vote asks about a future term and changes nobody's.
            return True
        leader = message.sender if kind is APPEND or kind is HEARTBEAT else NO_NODE
        self.report("higher_term", f"{message!r}")
        self.become_follower(message.term, leader)
        return True

    def _guards_leader(self) -> bool:
        """Return whether a leader was heard from within one election timeout (thesis 4.2.3)."""
        return (
            self.config.check_quorum
            and self.leader != NO_NODE
            and self.election_elapsed < self.config.election_timeout_ticks
        )

    def _answer_lower_term(self, message: Message) -> None:
        kind = message.kind
        if kind is APPEND or kind is HEARTBEAT:
            if self.config.check_quorum or self.config.pre_vote:
                # A deposed leader, or we raised our term in isolation and our vote requests are
                # ignored or no longer sent: our term in the answer makes the sender step down and
                # lets this replica rejoin (etcd's "free stuck candidate").
                self.send_after_sync(APPEND_RESPONSE, message.sender)
        elif kind is PRE_VOTE:
            # Without an answer, mixed clusters of lagging terms can block each other (etcd#8501).
            self.send_after_sync(PRE_VOTE_RESPONSE, message.sender, reject=True)

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
        self._reset(self.term + 1)
        self.role = CANDIDATE
        self.vote = self.node_id
        self.report("became_candidate", "")

    def become_pre_candidate(self) -> None:
        """Ask for support without touching the term, the vote or the timer (thesis 9.6)."""
        self.tracker.votes.clear()
        self.leader = NO_NODE
        self.role = PRE_CANDIDATE
        self.report("became_pre_candidate", "")

    def become_leader(self) -> None:
        """Lead: append the no-op that will commit everything before it (paper 5.4.2, 8)."""
        self._reset(self.term)
        self.role = LEADER
        self.leader = self.node_id
        own = self.tracker.own
        own.recent_active = True
        own.mode = REPLICATE
        self.term_start_index = self.log.last_index + 1
        replication.append_entry(self, b"")
        self.report("became_leader", f"no-op at {self.term_start_index}")

    def _reset(self, term: int) -> None:
        if term != self.term:
            self.term = term
            self.vote = NO_NODE
        timeout = self.config.election_timeout_ticks
        self.leader = NO_NODE
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        self.election_timeout = timeout + self.generator.randrange(timeout)
        self.transferee = NO_NODE
        self.uncommitted_bytes = 0
        self.reads.clear()
        self.tracker.votes.clear()
        self.tracker.reset(self.log.last_index, self.log.stable_index)
