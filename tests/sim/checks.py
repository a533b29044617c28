"""The properties of raft, watched on every message, every applied entry and every start.

Sources: figure 3 of the raft paper (election safety, leader append-only, log matching, leader
completeness, state machine safety), and what a store promises beside it: terms, votes and commit
indexes that are never forgotten or taken back.
"""

from __future__ import annotations

from typing import NamedTuple

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


class _Commit(NamedTuple):
    """What was seen committed at an index: an entry's term, and the term in which it was seen."""

    entry_term: int
    seen_term: int


class Checks:
    """What was seen so far, and whether it goes together."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._leaders: dict[tuple[int, int], int] = {}
        self._elected: set[tuple[int, int, int]] = set()
        self._votes: dict[tuple[int, int, int], int] = {}
        self._terms: dict[tuple[int, int], int] = {}
        self._looks: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._committed: dict[int, dict[int, _Commit]] = {}
        self._sent: dict[tuple[int, int, int], tuple[int, int]] = {}
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
            if message.entries:
                self._matching_entries(group, message)
        elif kind is MessageKind.VOTE:
            self._one_vote(group, term, sender, sender)
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

    def _matching_entries(self, group: int, message: Message) -> None:
        """See that an index and a term name one entry, behind one other (log matching)."""
        before = message.log_term
        for entry in message.entries:
            seen = before, hash(entry.payload)
            earlier = self._sent.setdefault((group, entry.index, entry.term), seen)
            if earlier != seen:
                self._world.violated(
                    f"group {group}: node {message.sender} has another entry, or another one "
                    f"before it, at index {entry.index} of term {entry.term}"
                )
            before = entry.term

    # ---- replicas -----------------------------------------------------------------------------

    def saw_replica(self, node: int, replica: Replica) -> None:
        """Look at a replica that has taken a message."""
        core, group = replica.node, replica.group
        key = (node, group, id(replica))
        commit = core.commit
        before, led_term = self._looks.get(key, (0, 0))
        leads_term = core.term if core.is_leader else 0
        if (before, led_term) != (commit, leads_term):
            self._looks[key] = commit, leads_term
        if before != commit:
            self._commit_moved(node, replica, before)
            if leads_term and leads_term == led_term:
                self._own_term_commits(node, replica)
        if leads_term and (group, leads_term, node) not in self._elected:
            self._elected.add((group, leads_term, node))
            self._one_leader(group, leads_term, node)
            self._has_majority(node, replica)
            self._is_complete(node, replica)

    def _commit_moved(self, node: int, replica: Replica, before: int) -> None:
        """Compare what is committed here with what was committed elsewhere."""
        core, group = replica.node, replica.group
        if core.commit < before:
            self._world.violated(
                f"group {group}: the commit index of node {node} went back "
                f"from {before} to {core.commit}"
            )
        log = core._raft.log
        committed = self._committed.setdefault(group, {})
        for index in range(max(before + 1, log.first_index), core.commit + 1):
            term = log.term(index)
            if committed.setdefault(index, _Commit(term, core.term)).entry_term != term:
                self._world.violated(
                    f"group {group}: node {node} committed another entry at index {index}"
                )

    def _own_term_commits(self, node: int, replica: Replica) -> None:
        """See that a leader counts copies of its own entries alone (paper, 5.4.2)."""
        core = replica.node
        term = core._raft.log.term(core.commit)
        if term != core.term:
            self._world.violated(
                f"group {replica.group}: node {node} leads term {core.term}, and has committed "
                f"up to {core.commit} of term {term}"
            )

    def _has_majority(self, node: int, replica: Replica) -> None:
        """See that a new leader has the votes of a majority."""
        group, term, voters = replica.group, replica.node.term, replica.voters
        votes = [self._votes.get((group, term, voter)) == node for voter in voters if voter != node]
        if 2 * (1 + sum(votes)) <= len(voters):
            self._world.violated(
                f"group {group}: node {node} leads term {term}, and {1 + sum(votes)} of "
                f"{len(voters)} have voted for it"
            )

    def _is_complete(self, node: int, replica: Replica) -> None:
        """See that a new leader has all that was committed in earlier terms (completeness)."""
        core = replica.node
        log = core._raft.log
        for index, (term, seen_term) in self._committed.get(replica.group, {}).items():
            if seen_term >= core.term or index < log.first_index:
                continue
            if index > log.last_index or log.term(index) != term:
                self._world.violated(
                    f"group {replica.group}: node {node} leads term {core.term}, and has not got "
                    f"the entry {index} of term {term}, which was committed in term {seen_term}"
                )

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
