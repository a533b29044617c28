"""The properties of raft, watched on every message, every applied entry and every start.

Sources: figure 3 of the raft paper (election safety, leader append-only, log matching, leader
completeness, state machine safety), and what a store promises beside it: terms, votes and commit
indexes that are never forgotten or taken back.
"""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

from rafter_core import Message, MessageKind
from rafter_core.state_machine import Update
from rafter_kv.machine import KeyValueMachine
from rafterd.replica import Replica
from tests.sim.world import World

_OF_LEADERS = frozenset(
    (
        MessageKind.APPEND,
        MessageKind.HEARTBEAT,
        MessageKind.SNAPSHOT,
        MessageKind.TIMEOUT_NOW,
        MessageKind.QUIESCE,
    )
)
_OF_NO_TERM = frozenset(
    (MessageKind.PRE_VOTE, MessageKind.PRE_VOTE_RESPONSE, MessageKind.READ_INDEX)
)
HASH_CHANCE = 0.05


class Checks:
    """What was seen so far, and whether it goes together."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._leaders: dict[tuple[int, int], int] = {}
        self._votes: dict[tuple[int, int, int], int] = {}
        self._terms: dict[tuple[int, int], int] = {}
        self._commits: dict[tuple[int, int, int], int] = {}
        self._applied: dict[tuple[int, int], int] = {}
        self._digests: dict[tuple[int, int], tuple[int, int]] = {}
        self.applied_total = 0

    # ---- messages -----------------------------------------------------------------------------

    def saw_message(self, group: int, message: Message) -> None:
        """Look at a message that has arrived."""
        kind, term, sender = message.kind, message.term, message.sender
        self._world.trace.add(
            self._world.now,
            f"g{group} {sender}>{message.to} {kind.name} t{term} i{message.index} "
            f"c{message.commit} n{len(message.entries)} r{message.reject:d}",
        )
        if kind in _OF_LEADERS:
            self._one_leader(group, term, sender)
        elif kind is MessageKind.VOTE_RESPONSE and not message.reject:
            self._one_vote(group, term, sender, message.to)
        if kind not in _OF_NO_TERM and term > self._terms.get((sender, group), 0):
            self._terms[sender, group] = term

    def _one_leader(self, group: int, term: int, node: int) -> None:
        leader = self._leaders.setdefault((group, term), node)
        if leader != node:
            self._world.violated(f"group {group}: nodes {leader} and {node} lead in term {term}")

    def _one_vote(self, group: int, term: int, voter: int, candidate: int) -> None:
        earlier = self._votes.setdefault((group, term, voter), candidate)
        if earlier != candidate:
            self._world.violated(
                f"group {group}: node {voter} voted for {earlier} and {candidate} in term {term}"
            )

    # ---- replicas -----------------------------------------------------------------------------

    def saw_replica(self, node: int, replica: Replica) -> None:
        """Look at a replica that has taken a message."""
        key = (node, replica.group, id(replica))
        commit = replica.node.commit
        before = self._commits.get(key, 0)
        if commit < before:
            self._world.violated(
                f"group {replica.group}: the commit index of node {node} went back "
                f"from {before} to {commit}"
            )
        self._commits[key] = commit
        if replica.node.is_leader:
            self._one_leader(replica.group, replica.node.term, node)

    def restarted(self, node: int, replica: Replica) -> None:
        """Look at a replica that has just recovered its log."""
        term = self._terms.get((node, replica.group), 0)
        if replica.hard_state.term < term:
            self._world.violated(
                f"group {replica.group}: node {node} had sent messages of term {term}, and starts "
                f"in term {replica.hard_state.term}"
            )

    # ---- state machines -----------------------------------------------------------------------

    def applied(
        self, node: int, group: int, updates: list[Update], machine: KeyValueMachine
    ) -> None:
        """Look at entries that a state machine has just applied."""
        for update in updates:
            digest = xxh3_64_intdigest(update.payload)
            earlier = self._applied.setdefault((group, update.index), digest)
            if earlier != digest:
                self._world.violated(
                    f"group {group}: node {node} applied another entry at index {update.index}"
                )
        self.applied_total += len(updates)
        last = updates[-1].index
        # Drawn from the index: replicas look at the same places.
        if xxh3_64_intdigest(b"%d %d" % (group, last)) % 1000 < 1000 * HASH_CHANCE:
            self.same_state(node, group, last, machine.hash())

    def same_state(self, node: int, group: int, index: int, digest: int) -> None:
        """Compare the state of a machine at an index with that of others there."""
        other, earlier = self._digests.setdefault((group, index), (node, digest))
        if earlier != digest:
            self._world.violated(
                f"group {group}: the states of nodes {other} and {node} differ at index {index}"
            )

    @property
    def last_applied(self) -> dict[int, int]:
        """The highest index of each group that was applied anywhere."""
        found: dict[int, int] = {}
        for group, index in self._applied:
            found[group] = max(found.get(group, 0), index)
        return found
