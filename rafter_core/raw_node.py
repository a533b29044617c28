"""The one object a driver uses: inputs, the Ready that comes of them, and its acknowledgements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rafter_core import (
    election,
    proposals,
    quiesce,
    reads,
    reconfiguration,
    replication,
    snapshots,
    transfer,
)
from rafter_core.conf_change import Change, ChangeKind, ConfChange, encode
from rafter_core.entries import NO_NODE, Entry, EntryKind, HardState, payloads_bytes
from rafter_core.errors import InvariantError
from rafter_core.invariants import Guard
from rafter_core.membership import Membership
from rafter_core.raft import Raft
from rafter_core.ready import Ready, SoftState
from rafter_core.roles import FOLLOWER, LEADER, Role
from rafter_core.status import Status, status_of

if TYPE_CHECKING:
    import random

    from rafter_core.config import Config
    from rafter_core.messages import Message
    from rafter_core.storage import LogStorage
    from rafter_core.trace import TraceSink

_NORMAL = EntryKind.NORMAL


class RawNode:
    """One replica of one group, without threads, clocks or I/O. One task owns it.

    Inputs change state in memory only; what must happen outside comes out of `ready`. See the
    package docstring for the loop and the order of its duties. Any input wakes a quiesced node.

    An InvariantError from any call means that the state cannot be trusted: do not use the node
    again.
    """

    __slots__ = (
        "_commit_handed",
        "_guard",
        "_is_async",
        "_leader_handed",
        "_raft",
        "_ready_number",
        "_role_handed",
        "_stored_number",
        "_term_handed",
        "_term_ready_number",
        "_unacknowledged",
        "_vote_handed",
        "_waits_for_term",
    )

    def __init__(
        self,
        config: Config,
        storage: LogStorage,
        generator: random.Random,
        trace: TraceSink | None = None,
    ) -> None:
        """Start from what `storage` holds, as a follower. Raises ConfigError or InvariantError."""
        self._raft = Raft(config, storage, generator, trace)
        self._guard = Guard(self._raft)
        self._is_async = config.async_storage_writes
        self._waits_for_term = config.async_storage_writes and config.messages_wait_for_term
        self._ready_number = 0
        self._stored_number = 0
        # The synchronous mode's last Ready, until `advance`.
        self._unacknowledged: Ready | None = None
        # What the last Ready told the driver, and the Ready that last did so for term or vote:
        # until that one is durable nothing that speaks of the term may leave.
        self._leader_handed = NO_NODE
        self._role_handed: Role = FOLLOWER
        self._term_handed = self._raft.term
        self._vote_handed = self._raft.vote
        self._commit_handed = self._raft.log.committed
        self._term_ready_number = 0

    def bootstrap(self, nodes: Sequence[int]) -> None:
        """Found a group: the log of an empty storage begins with the members, already committed.

        Every founding node is given the same nodes. Raises InvariantError unless storage is empty.
        """
        raft = self._raft
        if raft.log.last_index or raft.term:
            raise InvariantError("only an empty storage can be bootstrapped")
        raft.become_follower(1, NO_NODE)
        changes = [ConfChange((Change(ChangeKind.ADD_VOTER, node),), is_v1=True) for node in nodes]
        raft.log.append(
            [
                Entry(1, index, change.entry_kind, encode(change))
                for index, change in enumerate(changes, 1)
            ]
        )
        raft.log.commit_to(len(changes))
        # In force at once, so that the node can campaign; applied again with their entries.
        for change in changes:
            reconfiguration.apply(raft, change)
        self._guard.check(raft)

    # -- inputs

    def tick(self) -> None:
        """Let one tick of time pass. Costs next to nothing while the node is quiesced."""
        raft = self._raft
        if not raft.is_quiesced:
            raft.tick()
            self._guard.check(raft)

    def step(self, message: Message) -> None:
        """Take a message from a peer, or one of this node's own that became due with storage.

        Raises StepError, with nothing changed, for what no correct peer sends, and RequestRefused
        for a forwarded request that cannot be taken.
        """
        raft = self._raft
        raft.check_step(message)
        if raft.is_quiesced and not quiesce.sleeps_through(raft, message):
            quiesce.wake(raft, message.sender)
        raft.step(message)
        self._guard.check(raft)

    def propose(self, payload: bytes) -> int:
        """Append a payload to the log and return its index (its term is `term`).

        A follower forwards it and returns 0. Raises ProposalDropped. What was appended commits only
        if that entry, at that index *and term*, is handed out as committed.
        """
        return self._propose([(_NORMAL, payload)])

    def propose_many(self, payloads: Sequence[bytes]) -> int:
        """Append payloads as consecutive entries, all or none; return the index of the last one.

        As `propose` otherwise. One message for each follower carries them all.
        """
        return self._propose([(_NORMAL, payload) for payload in payloads])

    def propose_conf_change(self, change: ConfChange) -> int:
        """Propose a change of the membership; as `propose` otherwise. Raises ConfChangeError too.

        A change that is not admissible now is replaced by an empty entry. Once the entry is handed
        out as committed, the driver calls `apply_conf_change`.
        """
        return self._propose([(change.entry_kind, encode(change))])

    def apply_conf_change(self, change: ConfChange) -> Membership:
        """Put a committed change in force, on every node, when its entry is applied.

        Called before `apply_done` or `advance`. Returns the configuration at that entry. Entries
        that an installed snapshot has overtaken are not applied any more, nor are their changes.
        """
        membership = reconfiguration.apply(self._raft, change)
        self._guard.check(self._raft)
        return membership

    def campaign(self) -> None:
        """Start an election now. Does nothing on a leader or on a node that cannot lead.

        Nor with leases, within an election timeout after the leader was heard.
        """
        raft = self._awake()
        election.campaign(raft)
        self._guard.check(raft)

    def read_index(self, context: bytes) -> None:
        """Ask for a linearizable read: ReadState(index, context) in a later Ready.

        A follower asks the leader. Dropped without an answer when leadership is lost or a message
        is. Raises ReadDropped.
        """
        raft = self._awake()
        reads.request(raft, context)
        self._guard.check(raft)

    def transfer_leadership(self, to: int) -> None:
        """Hand leadership over to a voter; a follower asks the leader to.

        Raises NotLeader if none is known, TransferRefused for a node that cannot lead.
        """
        raft = self._awake()
        transfer.request(raft, to)
        self._guard.check(raft)

    def forget_leader(self) -> None:
        """As a follower, take the leader for lost: vote freely from now on, in the same term.

        Does nothing on others, and nothing with leases, which rest on the followers' patience.
        """
        raft = self._awake()
        election.forget_leader(raft)
        self._guard.check(raft)

    def report_unreachable(self, node: int) -> None:
        """Say that messages to a node were lost, so that the leader probes before it sends more."""
        raft = self._awake()
        replication.report_unreachable(raft, node)
        self._guard.check(raft)

    def report_snapshot(self, node: int, is_ok: bool) -> None:
        """Say how sending a snapshot to a node ended. Every snapshot's end must be reported."""
        raft = self._awake()
        snapshots.report(raft, node, is_ok=is_ok)
        self._guard.check(raft)

    def set_priority(self, priority: int) -> None:
        """Change `Config.priority`, from the next vote on."""
        self._raft.priority = priority

    def _propose(self, items: Sequence[tuple[EntryKind, bytes]]) -> int:
        raft = self._awake()
        index = proposals.propose(raft, items)
        self._guard.check(raft)
        return index

    def _awake(self) -> Raft:
        raft = self._raft
        if raft.is_quiesced:
            quiesce.wake(raft)
        return raft

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
            or raft.leader != self._leader_handed
            or raft.role is not self._role_handed
            or log.has_committed()
            or raft.read_states
            or (unstable.snapshot is not None and not unstable.is_snapshot_in_progress)
        )

    def ready(self) -> Ready:
        """Take all work there is; it is never handed out again. May be called with none.

        In the synchronous mode `advance` must have acknowledged the one before.
        """
        if self._unacknowledged is not None:
            raise InvariantError("two Readys without a call of advance between them")
        raft = self._raft
        log = raft.log
        number = self._ready_number = self._ready_number + 1
        soft_state = None
        if raft.leader != self._leader_handed or raft.role is not self._role_handed:
            self._leader_handed = raft.leader
            self._role_handed = raft.role
            soft_state = SoftState(raft.leader, raft.role)
        unstable = log.unstable
        snapshot = unstable.take_snapshot() if unstable.snapshot is not None else None
        entries = unstable.take()
        must_sync = bool(entries)
        hard_state = None
        if raft.term != self._term_handed or raft.vote != self._vote_handed:
            must_sync = True
            self._term_ready_number = number
            self._term_handed = raft.term
            self._vote_handed = raft.vote
            hard_state = HardState(raft.term, raft.vote, log.committed)
        elif log.committed != self._commit_handed:
            hard_state = HardState(raft.term, raft.vote, log.committed)
        self._commit_handed = log.committed
        messages, raft.messages = raft.messages, []
        responses, raft.messages_after_sync = raft.messages_after_sync, []
        if messages and self._waits_for_term and self._term_ready_number > self._stored_number:
            # The term is not durable yet: nobody may hear of it (architecture 8.1).
            responses = messages + responses
            messages = []
        node_id = raft.node_id
        messages_after_sync = [message for message in responses if message.to != node_id]
        if not self._is_async:
            messages += messages_after_sync
            messages_after_sync = []
        read_states, raft.read_states = raft.read_states, []
        last_index = last_term = 0
        if unstable.entries:
            # Storage works in order, so this Ready also vouches for entries of earlier ones whose
            # own completion will be ignored because the term changed meanwhile.
            last_index = log.last_index
            last_term = log.last_term
        ready = Ready(
            node_id,
            number,
            soft_state,
            hard_state,
            snapshot,
            entries,
            must_sync,
            messages,
            messages_after_sync,
            log.take_committed(),
            read_states,
            raft.term,
            last_term,
            last_index,
            responses,
        )
        if not self._is_async and _changes_on_advance(ready):
            self._unacknowledged = ready
        return ready

    def advance(self) -> None:
        """Say that the last Ready is durable, sent and applied. Synchronous mode only."""
        if self._is_async:
            raise InvariantError("advance belongs to the synchronous mode")
        ready = self._unacknowledged
        if ready is None:
            return
        self._unacknowledged = None
        self._stored(ready)
        if ready.committed:
            self._raft.applied_to(ready.committed[-1].index)
        self._guard.check(self._raft)

    def storage_done(self, ready: Ready) -> None:
        """Say that a Ready is durable. Called for each Ready, in order of number.

        Asynchronous mode only. A snapshot must have been installed in the state machine as well.
        """
        if not self._is_async:
            raise InvariantError("storage_done belongs to the asynchronous mode")
        if ready.number != self._stored_number + 1 or ready.number > self._ready_number:
            raise InvariantError(
                f"storage_done for Ready {ready.number}, expected {self._stored_number + 1}"
            )
        self._stored_number = ready.number
        self._stored(ready)
        self._guard.check(self._raft)

    def apply_done(self, index: int) -> None:
        """Say that every committed entry up to `index` is applied. Asynchronous mode only."""
        if not self._is_async:
            raise InvariantError("apply_done belongs to the asynchronous mode")
        raft = self._raft
        raft.applied_to(index)
        self._guard.check(raft)

    def _stored(self, ready: Ready) -> None:
        """Release this node's votes and acknowledgements for itself; let go of what is durable.

        A completion counts only in the term it was asked in. Otherwise the log may have been
        rewritten twice since, back to the same (term, index), while the entry in between is what
        storage holds at this moment (A-B-A). A newer Ready then vouches for the entries. A snapshot
        counts in any term.
        """
        raft = self._raft
        for message in ready._responses:
            if message.to == ready._node_id:
                raft.step(message)
        is_current = ready._term == raft.term
        raft.storage_done(ready._last_term, ready._last_index if is_current else 0, ready.snapshot)

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

    @property
    def membership(self) -> Membership:
        """Return the configuration in force."""
        return self._raft.tracker.membership

    @property
    def is_quiesced(self) -> bool:
        """Return whether the node sleeps: ticking it does nothing, any other input wakes it."""
        return self._raft.is_quiesced

    @property
    def uncommitted_bytes(self) -> int:
        """Return the payload bytes that this leader appended and has not seen applied."""
        return self._raft.uncommitted_bytes

    @property
    def unstable_bytes(self) -> int:
        """Return the payload bytes in memory that are not known to be durable."""
        return payloads_bytes(self._raft.log.unstable.entries)

    def status(self) -> Status:
        """Return a picture of the state, with the progress of every node on the leader."""
        return status_of(self._raft)


def _changes_on_advance(ready: Ready) -> bool:
    """Return whether `advance` has anything to do for a Ready."""
    return bool(
        ready._last_index
        or ready.snapshot is not None
        or ready.committed
        or any(message.to == ready._node_id for message in ready._responses)
    )
