"""The one object a driver uses: inputs, the Ready that comes of them, and its acknowledgements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafter_core import election, reads, replication, transfer
from rafter_core.entries import HardState
from rafter_core.errors import InvariantError
from rafter_core.invariants import Guard
from rafter_core.raft import Raft
from rafter_core.ready import Ready
from rafter_core.roles import LEADER, Role
from rafter_core.status import Status, status_of

if TYPE_CHECKING:
    import random

    from rafter_core.config import Config
    from rafter_core.messages import Message
    from rafter_core.storage import LogStorage
    from rafter_core.trace import TraceSink


class RawNode:
    """One replica of one group, without threads, clocks or I/O. One task owns it.

    Inputs (`tick`, `step`, `propose`, `campaign`, `read_index`, `transfer_leadership`,
    `report_unreachable`) change state in memory only; what must happen outside comes out of
    `ready`. See the package docstring for the loop and the order of its duties.

    An InvariantError from any call means that the state cannot be trusted: do not use the node
    again.
    """

    __slots__ = (
        "_commit_handed",
        "_guard",
        "_raft",
        "_ready_number",
        "_stored_number",
        "_term_handed",
        "_term_ready_number",
        "_vote_handed",
    )

    def __init__(
        self,
        config: Config,
        storage: LogStorage,
        generator: random.Random,
        trace: TraceSink | None = None,
    ) -> None:
        """Start from what `storage` holds, as a follower. Raises ConfigError or InvariantError."""
        hard_state, _ = storage.initial_state()
        self._raft = Raft(config, storage, generator, trace)
        self._guard = Guard(self._raft)
        self._ready_number = 0
        self._stored_number = 0
        # What the last Ready told the driver to persist, and the Ready that last did so for term or
        # vote: until that one is durable nothing that speaks of the term may leave.
        self._term_handed = hard_state.term
        self._vote_handed = hard_state.vote
        self._commit_handed = hard_state.commit
        self._term_ready_number = 0

    # -- inputs

    def tick(self) -> None:
        """Let one tick of time pass."""
        self._raft.tick()
        self._guard.check(self._raft)

    def step(self, message: Message) -> None:
        """Take a message from a peer.

        Raises StepError, with nothing changed, for what no correct peer sends.
        """
        raft = self._raft
        raft.check_remote(message)
        raft.step(message)
        self._guard.check(raft)

    def propose(self, payload: bytes) -> int:
        """Append a payload to the log and return its index (its term is `term`). Leader only.

        Raises ProposalDropped. What was appended commits only if that entry, at that index *and
        term*, is handed out as committed.
        """
        raft = self._raft
        index = replication.propose(raft, payload)
        self._guard.check(raft)
        return index

    def campaign(self) -> None:
        """Start an election now. Does nothing on a leader or on a node that is not a voter."""
        election.start(self._raft)
        self._guard.check(self._raft)

    def read_index(self, context: bytes) -> None:
        """Ask for a linearizable read: ReadState(index, context) in a later Ready. Leader only.

        Dropped without an answer when leadership is lost. Raises NotLeader, ReadDropped.
        """
        reads.request(self._raft, context)
        self._guard.check(self._raft)

    def transfer_leadership(self, to: int) -> None:
        """Hand leadership over to a voter. Leader only. Raises NotLeader, TransferRefused."""
        transfer.start(self._raft, to)
        self._guard.check(self._raft)

    def report_unreachable(self, node: int) -> None:
        """Say that messages to a node were lost, so that the leader probes before it sends more."""
        replication.report_unreachable(self._raft, node)
        self._guard.check(self._raft)

    # -- the Ready loop

    def has_ready(self) -> bool:
        """Return whether `ready` has anything to hand out. Cheap."""
        raft = self._raft
        log = raft.log
        unstable = log.unstable
        return bool(
            raft.messages
            or raft.messages_after_sync
            or unstable.in_progress < unstable.offset + len(unstable.entries)
            or log.committed != self._commit_handed
            or raft.term != self._term_handed
            or raft.vote != self._vote_handed
            or log.has_committed()
            or raft.read_states
            or raft.acknowledgements
        )

    def ready(self) -> Ready:
        """Take all work there is; it is never handed out again. May be called with none."""
        raft = self._raft
        log = raft.log
        number = self._ready_number = self._ready_number + 1
        unstable = log.unstable
        entries = unstable.take()
        must_sync = bool(entries)
        hard_state = None
        if raft.term != self._term_handed or raft.vote != self._vote_handed:
            must_sync = True
            self._term_ready_number = number
            self._term_handed = raft.term
            self._vote_handed = raft.vote
            self._commit_handed = log.committed
            hard_state = HardState(raft.term, raft.vote, log.committed)
        elif log.committed != self._commit_handed:
            self._commit_handed = log.committed
            hard_state = HardState(raft.term, raft.vote, log.committed)
        messages, raft.messages = raft.messages, []
        messages_after_sync, raft.messages_after_sync = raft.messages_after_sync, []
        if messages and self._term_ready_number > self._stored_number:
            # The term is not durable yet: nobody may hear of it (architecture §8.1).
            messages_after_sync = messages + messages_after_sync
            messages = []
        read_states, raft.read_states = raft.read_states, []
        acknowledgements, raft.acknowledgements = raft.acknowledgements, []
        last_index = last_term = 0
        if unstable.entries:
            # Storage works in order, so this Ready also vouches for entries of earlier ones whose
            # own completion will be ignored because the term changed meanwhile.
            last_index = log.last_index
            last_term = log.last_term
        return Ready(
            number,
            hard_state,
            entries,
            must_sync,
            messages,
            messages_after_sync,
            log.take_committed(),
            read_states,
            raft.term,
            last_term,
            last_index,
            acknowledgements,
        )

    def storage_done(self, ready: Ready) -> None:
        """Say that a Ready is durable. Called for each Ready, in order of number.

        A completion counts only in the term it was asked in. Otherwise the log may have been
        rewritten twice since, back to the same (term, index), while the entry in between is what
        storage holds at this moment (A-B-A). A newer Ready then vouches for the entries.
        """
        raft = self._raft
        if ready.number != self._stored_number + 1 or ready.number > self._ready_number:
            raise InvariantError(
                f"storage_done for Ready {ready.number}, expected {self._stored_number + 1}"
            )
        self._stored_number = ready.number
        if ready._term == raft.term:
            last_index = ready._last_index
            if last_index:
                raft.log.unstable.stable_to(ready._last_term, last_index)
                if raft.role is LEADER:
                    replication.acknowledge_own(raft)
            for message in ready._acknowledgements:
                raft.deliver(message)
        self._guard.check(raft)

    def apply_done(self, index: int) -> None:
        """Say that every committed entry up to `index` is applied."""
        raft = self._raft
        freed = raft.log.applied_to(index)
        if raft.uncommitted_bytes:
            # Entries of earlier terms were never counted, so this may reach zero early.
            raft.uncommitted_bytes = max(0, raft.uncommitted_bytes - freed)
        self._guard.check(raft)

    # -- views

    @property
    def node_id(self) -> int:
        """Return the id of this node."""
        return self._raft.node_id

    @property
    def term(self) -> int:
        """Return the current term."""
        return self._raft.term

    @property
    def vote(self) -> int:
        """Return whom this node voted for in this term, NO_NODE if nobody."""
        return self._raft.vote

    @property
    def role(self) -> Role:
        """Return the role in this term."""
        return self._raft.role

    @property
    def leader(self) -> int:
        """Return the leader of this term as far as known, else NO_NODE."""
        return self._raft.leader

    @property
    def is_leader(self) -> bool:
        """Return whether this node leads."""
        return self._raft.role is LEADER

    @property
    def commit(self) -> int:
        """Return the commit index."""
        return self._raft.log.committed

    @property
    def applied(self) -> int:
        """Return the last index that `apply_done` reported."""
        return self._raft.log.applied

    @property
    def last_index(self) -> int:
        """Return the index of the last entry, durable or not."""
        return self._raft.log.last_index

    def status(self) -> Status:
        """Return a picture of the state, with the progress of every node on the leader."""
        return status_of(self._raft)
