"""What a router knows of one group: commands that gather, batches under way, and who leads."""

from collections import deque
from typing import Any

from rafter_kv.batch import Batch
from rafter_kv.reply_slot import Gather, ReplySlot


class Outbound:
    """One batch on its way: the commands, where their results go, and how far it got."""

    __slots__ = (
        "attempt",
        "batch",
        "deadline_seconds",
        "first_attempt",
        "is_read",
        "poisoned",
        "poisoned_after",
        "positions",
        "results",
        "route",
        "sent_seconds",
        "slots",
        "target",
        "term",
        "ticket",
        "unresolved",
    )

    def __init__(
        self,
        route: "Route",
        ticket: int,
        batch: Batch,
        slots: list[ReplySlot | Gather],
        positions: list[int],
        deadline_seconds: float,
    ) -> None:
        self.route = route
        self.ticket = ticket
        self.batch = batch
        self.slots = slots
        self.positions = positions
        self.deadline_seconds = deadline_seconds
        self.is_read = batch.write_positions == []
        self.attempt = 0
        self.first_attempt = 1
        """The oldest attempt whose answer counts: no batch before it was turned away since."""
        self.target: tuple[int, int] | None = None
        """The (node, shard) that the present attempt went to; None while it waits to be sent."""
        self.sent_seconds = 0.0
        """When the present attempt was sent."""
        self.term = 0
        """The term in which the node of the present attempt was thought to lead."""
        self.unresolved = 0
        """Attempts without a definite "not executed": while there is one, the batch may have been
        executed, or may be later."""
        self.results: list[Any] = []
        """Pieces of a large reply that have come so far."""
        self.poisoned: set[int] = set()
        """Reads that can no longer be evaluated at their place (see `poison_reads`)."""
        self.poisoned_after = 0
        """The last attempt from which they still may be answered."""

    def poison(self, index: int, after: int) -> None:
        """Mark a read: attempts later than `after` come too late for it."""
        if not self.poisoned or after < self.poisoned_after:
            self.poisoned_after = after
        self.poisoned.add(index)

    def is_too_late(self, attempt: int, *, is_duplicate: bool) -> bool:
        """Whether the poisoned reads cannot be taken from the answer of this attempt.

        Writes that are executed now prove that those behind them were not executed before.
        """
        return attempt > self.poisoned_after and (self.is_read or is_duplicate)


class Route:
    """One group as seen from one router."""

    __slots__ = (
        "avoid_node",
        "avoid_term",
        "commands",
        "group",
        "is_dirty",
        "is_held",
        "leader",
        "members",
        "next_member",
        "others",
        "outstanding",
        "positions",
        "sequence",
        "session",
        "slots",
        "term",
        "waiting_since_seconds",
        "writes",
    )

    def __init__(self, group: int, members: tuple[int, ...], own_node: int, session: int) -> None:
        self.group = group
        self.members = members
        self.others = tuple(node for node in members if node != own_node)
        self.commands: list[list[bytes]] = []
        self.slots: list[ReplySlot | Gather] = []
        self.positions: list[int] = []
        self.writes: list[bool] = []
        self.waiting_since_seconds = 0.0
        self.outstanding: deque[Outbound] = deque()
        self.session = session
        self.sequence = 0
        self.is_dirty = False
        self.is_held = False
        """Whether sending waits for the next tick, or for news of another leader."""
        self.leader = 0
        self.term = 0
        self.avoid_node = 0
        self.avoid_term = 0
        self.next_member = 0

    def learn(self, leader: int, term: int) -> None:
        """Take in who leads, unless something newer is known."""
        if leader and term >= self.term and (leader != self.leader or term != self.term):
            self.leader = leader
            self.term = term
            self.is_held = False

    def deny(self, node: int, term: int) -> None:
        """Remember that `node`, which was thought to lead in `term`, said that it does not.

        It may still win a later term: the one it named itself when it refused, for example.
        """
        if node == self.leader and self.term <= term:
            self.avoid_node = node
            self.avoid_term = self.term

    def forget_leader(self) -> None:
        """Let go of a leader that cannot be reached, where nobody here hears of the next one."""
        self.leader = 0

    def leader_or_zero(self) -> int:
        """Return the leader, or 0 while none is known that has not denied it."""
        if self.leader == self.avoid_node and self.term <= self.avoid_term:
            return 0
        return self.leader

    def acknowledged_below(self) -> int:
        """Return the sequence below which every result has come back to this router."""
        for outbound in self.outstanding:
            if not outbound.is_read:
                return outbound.batch.sequence
        return self.sequence + 1

    def take(
        self, count: int
    ) -> tuple[list[list[bytes]], list[ReplySlot | Gather], list[int], list[bool]]:
        """Remove and return the oldest `count` waiting commands with their places."""
        if count >= len(self.commands):
            taken = self.commands, self.slots, self.positions, self.writes
            self.commands, self.slots, self.positions, self.writes = [], [], [], []
            return taken
        taken = (
            self.commands[:count],
            self.slots[:count],
            self.positions[:count],
            self.writes[:count],
        )
        del self.commands[:count]
        del self.slots[:count]
        del self.positions[:count]
        del self.writes[:count]
        return taken


def poison_reads(outstanding: deque[Outbound]) -> None:
    """Mark the reads that a repetition could evaluate after a later write of their own connection.

    A batch that is sent again may turn out to be executed already, and so may the batches behind
    it: its reads would then see writes that the same connection sent after them. Such a read,
    pipelined before a write and caught by a change of leader, is answered with an error instead of
    a wrong value. Batches that were never sent, or turned away each time, cannot have been
    executed.
    """
    later_writers: set[int] = set()
    for outbound in reversed(outstanding):
        if not outbound.unresolved:
            _poison(outbound, later_writers, outbound.attempt)
            continue
        writes = outbound.batch.write_positions
        is_write = set(range(len(outbound.slots))) if writes is None else set(writes)
        for index in range(len(outbound.slots) - 1, -1, -1):
            connection = id(outbound.slots[index].connection)
            if index in is_write:
                later_writers.add(connection)
            elif connection in later_writers:
                outbound.poison(index, outbound.attempt)


def poison_overtaken(outstanding: deque[Outbound], finished: Outbound) -> None:
    """Mark the reads of batches before `finished` whose connections have got replies from it.

    Answers come in order unless one is lost. What is left behind has been sent again or will be,
    and its reads are then evaluated after commands that the same connection sent after them.
    """
    connections = {id(slot.connection) for slot in finished.slots}
    for outbound in outstanding:
        if outbound is finished:
            return
        _poison(outbound, connections, 0)


def _poison(outbound: Outbound, connections: set[int], after: int) -> None:
    """Mark the reads of these connections for attempts later than `after`."""
    if connections and outbound.batch.write_positions is not None:
        writes = set(outbound.batch.write_positions)
        for index, slot in enumerate(outbound.slots):
            if index not in writes and id(slot.connection) in connections:
                outbound.poison(index, after)
