"""One group's copy on this node: raft node, state machine, and who waits for its entries."""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from rafter_core import (
    Entry,
    EntryKind,
    HardState,
    InvariantError,
    ProposalDropped,
    RawNode,
    ReadState,
    Ready,
    StateMachine,
)
from rafter_core.conf_change import decode
from rafter_core.entries import payloads_bytes
from rafter_core.state_machine import Update
from rafterd.shared import GroupState, GroupWord

OnRoute = Callable[[int, int, int], None]
"""Told (group, leader, term) when the leader or the term has changed."""


class Proposal(Protocol):
    """What a proposer attaches to an entry: it hears of the entry's end on this node."""

    def before_apply(self) -> None:
        """Run right before the entry is applied here."""

    @property
    def context(self) -> object:
        """Handed to the state machine with the entry (`Update.context`)."""

    def applied(self, result: object) -> None:
        """Run right after; `result` is the state machine's."""

    def lost(self) -> None:
        """Leadership was lost, or another entry took the index: the outcome is unknown here."""


class ReplicaListener(Protocol):
    """The service that stands on a replica, called on the loop."""

    def advance(self) -> None:
        """Propose what waits; called once per turn of the loop in which the replica was touched."""

    def read_confirmed(self, context: bytes) -> None:
        """Answer the reads that `read_index(context)` was asked for; the state is new enough."""

    def leadership_lost(self) -> None:
        """Forget reads and proposals that wait: they will not be confirmed here."""


class Place(NamedTuple):
    """A place in a group's log, and the entry that brought the configuration in force there."""

    index: int = 0  # type: ignore[assignment]  # shadows tuple.index on purpose
    term: int = 0
    membership_index: int = 0


NOWHERE = Place()
CHANGES_REMEMBERED = 64


class Replica:
    """Drives one RawNode and one state machine; owned by the shard's engine and its thread.

    Nothing here blocks: the engine writes what `take_ready` returned and comes back with
    `storage_done`. While `is_installing`, another thread puts a leader's snapshot in the place of
    the machine's state: nothing is applied, and what Readys promise is held until it is there.
    """

    __slots__ = (
        "_applied_term",
        "_leader_term",
        "_membership_index",
        "_proposals",
        "_reads",
        "_route",
        "_words",
        "changes",
        "group",
        "hard_state",
        "installing_index",
        "is_condemned",
        "is_dirty",
        "listener",
        "logged_bytes",
        "machine",
        "node",
        "on_route",
        "readies_in_storage",
        "snapshot_index",
    )

    def __init__(
        self,
        group: int,
        node: RawNode,
        machine: StateMachine,
        hard_state: HardState,
        words: memoryview,
        on_route: OnRoute,
        start: Place = NOWHERE,
    ) -> None:
        """Begin with what the log has recorded, and a machine that has recovered at `start`."""
        self.group = group
        self.node = node
        self.machine = machine
        # What is in a snapshot was committed, though a crash came before a record that said so.
        self.hard_state = hard_state._replace(commit=max(hard_state.commit, start.index))
        self.listener: ReplicaListener | None = None
        self.on_route = on_route
        self.is_dirty = False
        self.is_condemned = False
        self.installing_index = 0
        self.readies_in_storage = 0
        # The contexts of the last changes of the configuration that were applied here.
        self.changes: deque[bytes] = deque(maxlen=CHANGES_REMEMBERED)
        self.snapshot_index = start.index
        self.logged_bytes = 0
        self._applied_term = start.term
        self._membership_index = start.membership_index
        self._proposals: deque[tuple[int, int, Proposal]] = deque()
        self._reads: deque[ReadState] = deque()
        self._leader_term = 0
        self._route = (0, 0)
        self._words = words

    @property
    def is_leader(self) -> bool:
        """Whether this replica leads its group, as far as it knows."""
        return self.node.is_leader

    @property
    def members(self) -> tuple[int, ...]:
        """All nodes that have a replica of the group, by the configuration in force here."""
        return self.node.membership.nodes

    @property
    def voters(self) -> tuple[int, ...]:
        """Those of them that vote."""
        return self.node.membership.all_voters

    @property
    def is_installing(self) -> bool:
        """Whether the state machine is not yet where the log begins: at `installing_index`."""
        return self.installing_index != 0

    @property
    def applied(self) -> Place:
        """Where the state machine is in the log."""
        return Place(self.node.applied, self._applied_term, self._membership_index)

    def snapshot_taken(self, index: int, bytes_covered: int) -> None:
        """Count the log from a durable snapshot of this state machine on.

        `bytes_covered` is what `logged_bytes` was at its index.
        """
        self.snapshot_index = index
        self.logged_bytes -= bytes_covered

    def snapshot_installed(self, place: Place) -> None:
        """Go on from a snapshot that has replaced the state machine's state."""
        self.installing_index = 0
        self._applied_term = place.term
        self._membership_index = place.membership_index
        self.snapshot_taken(place.index, self.logged_bytes)

    @property
    def proposals_count(self) -> int:
        """Entries proposed here and not applied yet."""
        return len(self._proposals)

    def propose(self, payload: bytes, proposal: Proposal) -> bool:
        """Append one entry as the leader; False if the core dropped it (nothing was appended).

        On True exactly one of `proposal.applied` and `proposal.lost` is called later.
        """
        node = self.node
        try:
            index = node.propose(payload)
        except ProposalDropped:
            return False
        self._leader_term = node.term
        self._proposals.append((index, node.term, proposal))
        return True

    def advance(self) -> None:
        """Notice a change of leadership, then let the service propose."""
        node = self.node
        if self._leader_term and not (node.is_leader and node.term == self._leader_term):
            self._lose_leadership()
        if node.is_leader:
            self._leader_term = node.term
        if self.listener is not None:
            self.listener.advance()

    def _lose_leadership(self) -> None:
        self._leader_term = 0
        self._reads.clear()
        lost = self._proposals
        self._proposals = deque()
        for _, _, proposal in lost:
            proposal.lost()
        if self.listener is not None:
            self.listener.leadership_lost()

    def condemn(self) -> None:
        """Go out of service for good: the log is damaged, and the node's state not to be trusted.

        It answers nobody any more, so it promises nothing that the log has forgotten.
        """
        self.is_condemned = True
        self._words[GroupWord.STATE] = GroupState.DAMAGED
        self._lose_leadership()

    def take_ready(self) -> Ready:
        """Take the node's next Ready, apply what it commits and answer the reads it confirms."""
        ready = self.node.ready()
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state
        if ready.snapshot is not None:
            self.installing_index = ready.snapshot.index
        if ready.committed:
            self._apply(ready.committed)
            last = ready.committed[-1]
            self._applied_term = last.term
            self.logged_bytes += payloads_bytes(ready.committed)
            self.node.apply_done(last.index)
        if ready.read_states:
            self._reads.extend(ready.read_states)
        if self._reads:
            self._confirm_reads()
        return ready

    def _apply(self, committed: list[Entry]) -> None:
        """Apply in log order; entries proposed here one by one: reads stand between them."""
        updates: list[Update] = []
        proposals = self._proposals
        machine = self.machine
        for entry in committed:
            proposal = None
            if proposals and proposals[0][0] <= entry.index:
                index, term, proposal = proposals.popleft()
                if index != entry.index or term != entry.term:
                    proposal.lost()
                    proposal = None
            if proposal is None:
                if entry.kind is not EntryKind.NORMAL:
                    self._change_membership(entry)
                elif entry.payload:
                    updates.append(Update(entry.index, entry.payload, None))
                continue
            if updates:
                machine.update(updates)
                updates = []
            proposal.before_apply()
            update = Update(entry.index, entry.payload, proposal.context)
            proposal.applied(machine.update([update])[0])
        if updates:
            machine.update(updates)

    def _change_membership(self, entry: Entry) -> None:
        """Put a change in force. It is no business of the machine's."""
        if entry.kind is EntryKind.STRIPPED:
            raise InvariantError(
                f"group {self.group}: the payload of entry {entry.index} was withheld from a "
                "witness, and this node is to apply it"
            )
        change = decode(entry.kind, entry.payload)
        self.node.apply_conf_change(change)
        self._membership_index = entry.index
        if change.context:
            self.changes.append(change.context)

    def _confirm_reads(self) -> None:
        """Answer confirmed reads whose index has been applied.

        A read never waits for entries behind its index, so what is left is ordered by index.
        """
        applied = self.node.applied
        reads = self._reads
        while reads and reads[0].index <= applied:
            context = reads.popleft().context
            if self.listener is not None:
                self.listener.read_confirmed(context)

    def publish(self) -> None:
        """Store the group's words, ten times a second; `publish_route` does not wait for it."""
        node = self.node
        words = self._words
        words[GroupWord.TERM] = node.term
        words[GroupWord.COMMIT] = node.commit
        words[GroupWord.APPLIED] = node.applied
        words[GroupWord.LAST_INDEX] = node.last_index
        words[GroupWord.STATE] = GroupState.SERVING
        self.publish_route()

    def publish_route(self) -> None:
        """Tell `on_route` if the leader or the term changed: also without a Ready."""
        route = (self.node.leader, self.node.term)
        if route != self._route:
            self._route = route
            self.on_route(self.group, *route)
