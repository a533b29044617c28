"""A cluster in memory and in virtual ticks: seeded chaos, and the checks of raft's five properties.

Time is a counter of steps; every choice comes from one generator, so a seed replays a failure. Each
node has one of three drivers (drivers.py) with delays of its own: what it stores becomes durable
after a while, in order, a crash loses the rest, and applying lags behind. The network drops,
duplicates, delays and reorders messages and cuts links one way. Nodes crash, pause, compact their
logs, install snapshots, join and leave; clocks may drift (chaos_faults.py).

What is checked while it runs: one leader per term (election safety), equal entries at equal (term,
index) (log matching), committed entries are in every later leader's log (leader completeness),
replicas apply equal sequences and reach equal states and configurations, by snapshots too (state
machine safety; storage_model.py), a leader commits only what a quorum has stored, the commit index
of a node never goes back while it runs, terms survive a crash once any message spoke of them, and
reads see every write that was applied anywhere before they were asked for.

Once all faults stop, liveness: a leader that all members agree on within 10 election timeouts, a
committed write within 15, and every member caught up, and a read served, within 30. Without
pre-votes a candidate that cannot win disturbs the one that can: then three times as long.

`python -m tests.core.harness --seeds N --start S` runs many seeds and prints each that fails.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import traceback
from collections.abc import Iterator, Sequence

from rafter_core import (
    NO_NODE,
    Entry,
    Membership,
    Message,
    RequestRefused,
    Role,
    Snapshot,
    TraceEvent,
    messages_from_wire,
    messages_to_wire,
)
from tests.core.chaos_faults import (
    ELECTION_TIMEOUT_TICKS,
    NO_FAULTS,
    TICKS_NOMINAL,
    Faults,
    Options,
    draw_faults,
    draw_options,
    draw_traits,
    inject,
)
from tests.core.chaos_node import Node
from tests.core.storage_model import ChaosStorage, History, is_same

FOUNDING_INDEX = 5
TIMEOUT_STEPS = ELECTION_TIMEOUT_TICKS * TICKS_NOMINAL // 9 + 1
LEADER_STEPS_MAX = 10 * TIMEOUT_STEPS
COMMIT_STEPS_MAX = 15 * TIMEOUT_STEPS
EQUAL_STEPS_MAX = 30 * TIMEOUT_STEPS
_COUNTS = (1, 2, 3, 3, 3, 3, 4, 5, 5)


class Cluster:
    """Nodes, the network between them, and what has been seen so far."""

    def __init__(
        self, count: int, seed: int, options: Options | None = None, *, is_traced: bool = False
    ) -> None:
        self.generator = random.Random(seed)
        self.options = options = options or Options()
        self.faults: Faults = NO_FAULTS
        self.now = 0
        self.founders = tuple(range(1, count + 1))
        witness = count if options.has_witness else NO_NODE
        self.base: Snapshot | None = None
        if options.founding == "snapshot":
            membership = Membership(self.founders, witnesses=(witness,) if witness else ())
            self.base = Snapshot(FOUNDING_INDEX, 1, membership, b"founding")
        self.history = History(self.base, count if options.founding == "bootstrap" else 0)
        self.network: list[tuple[int, int, Message]] = []
        self.posted = 0
        self.cuts: set[tuple[int, int]] = set()
        self.proposed = 0
        self.reads_served = 0
        self.reads_asked = 0
        self.snapshots_installed = 0
        self.changes_applied = 0
        self._hash = hashlib.blake2b(digest_size=16) if is_traced else None
        self.trace = self._on_event if is_traced else None
        self.nodes: dict[int, Node] = {}
        for node in range(1, count + options.outsiders + 1):
            traits = draw_traits(self.generator, options, is_witness=node == witness)
            self.nodes[node] = Node(self, node, traits)

    def founding_membership(self, node: int) -> Membership:
        """Return the configuration that a node's storage begins with."""
        is_known = self.options.founding == "configuration" and node in self.founders
        return Membership(self.founders if is_known else ())

    @property
    def committed(self) -> list[Entry]:
        return self.history.committed

    @property
    def leaders(self) -> dict[int, int]:
        return self.history.leaders

    @property
    def digest(self) -> str:
        """Return a digest of every event and every message so far."""
        assert self._hash is not None
        return self._hash.hexdigest()

    def running(self) -> Iterator[Node]:
        """Yield the nodes that are up and not paused, in order of ids."""
        for node in self.nodes.values():
            if node.is_running():
                yield node

    # What nodes report.

    def post(self, message: Message) -> None:
        """Take a message into the network, with the chances of the current faults."""
        if self._hash is not None:
            self._hash.update(b"%d %r %r" % (self.now, message, message.entries))
        faults = self.faults
        if (message.sender, message.to) in self.cuts or self.generator.random() < faults.drop:
            return
        copies = 2 if self.generator.random() < faults.duplicate else 1
        for _ in range(copies):
            self.posted += 1
            due = self.now + 1 + self.generator.randrange(faults.delay_steps_max)
            self.network.append((due, self.posted, message))

    def on_leader(self, node: Node) -> None:
        """Check election safety, and leader completeness the first time a leader is seen."""
        term = node.raw.term
        known = self.leaders.get(term)
        if known is not None:
            assert known == node.node_id, f"nodes {known} and {node.node_id} lead term {term}"
            return
        assert not node.is_witness, "a witness leads"
        self.leaders[term] = node.node_id
        log = node.raw._raft.log
        for entry in self.committed:
            if entry.term < term and entry.index >= log.first_index:
                assert log.matches(entry.term, entry.index), (
                    f"node {node.node_id} leads term {term} without committed {entry.index}"
                )

    def check_quorum(self, node: Node, memberships: Sequence[Membership]) -> None:
        """Check that what a leader has just committed is stored by a quorum."""
        index = node.raw.commit
        term = node.raw._raft.log.term(index)
        holders = {item.node_id for item in self.nodes.values() if item.storage.holds(term, index)}
        assert any(
            all(2 * len(holders.intersection(half)) > len(half) for half in membership.halves)
            for membership in memberships
        ), f"node {node.node_id} committed {term}/{index}, stored by {sorted(holders)} alone"

    # Moving on.

    def step(self) -> None:
        """Let one step pass: faults, deliveries, time for each node that is up."""
        self.now += 1
        if self.faults is not NO_FAULTS:
            inject(self)
        due = [item for item in self.network if item[0] <= self.now]
        self.network = [item for item in self.network if item[0] > self.now]
        for when, number, message in sorted(due, key=lambda item: (item[0], item[1])):
            node = self.nodes[message.to]
            if node.is_running() and not node.ticks_owed:
                # Through the encoding, as in production.
                ((group, decoded),) = messages_from_wire(messages_to_wire([(1, message)]))
                assert group == 1
                assert decoded == message
                node.receive(decoded)
            elif node.is_up:
                self.network.append((when + 1, number, message))
        for node in self.nodes.values():
            if node.is_up:
                node.tick()

    def run(self, steps: int) -> None:
        """Let several steps pass."""
        for _ in range(steps):
            self.step()

    def propose(self, *, is_anywhere: bool = False) -> None:
        """Propose something unique at every believed leader, or at every node."""
        draw = self.generator
        for node in self.running():
            if not (is_anywhere or node.raw.is_leader):
                continue
            payloads = []
            for _ in range(draw.choice((1, 1, 3))):
                self.proposed += 1
                payloads.append(b"%d" % self.proposed * draw.randrange(1, 8))
            self._propose(node, payloads)

    def read(self, *, is_anywhere: bool = False) -> None:
        """Ask every believed leader, or every node, for a read, noting what it must see."""
        for node in self.running():
            if is_anywhere or node.raw.is_leader:
                self._read(node)

    def _propose(self, node: Node, payloads: list[bytes]) -> None:
        term = node.raw.term
        indexes: list[int] = []
        try:
            if len(payloads) == 1:
                node.call(lambda: indexes.append(node.raw.propose(payloads[0])))
            else:
                node.call(lambda: indexes.append(node.raw.propose_many(payloads)))
        except RequestRefused:
            return
        if indexes[0]:
            first = indexes[0] - len(payloads) + 1
            for index, payload in enumerate(payloads, first):
                self.history.proposed[term, index] = payload
        node.turn()

    def _read(self, node: Node) -> None:
        self.reads_asked += 1
        context = b"read %d" % self.reads_asked
        node.reads[context] = self.history.last_index
        try:
            node.call(lambda: node.raw.read_index(context))
        except RequestRefused:
            return
        node.turn()

    def _on_event(self, event: TraceEvent) -> None:
        assert self._hash is not None
        self._hash.update(repr(event).encode())

    # Ending.

    def heal(self) -> None:
        """Stop all faults and bring every node up."""
        self.faults = NO_FAULTS
        self.cuts.clear()
        for node in self.nodes.values():
            node.paused_until = 0
            if not node.is_up:
                node.start()

    def members(self) -> tuple[int, ...]:
        """Return who belongs to the group as of the newest entry that was applied anywhere."""
        memberships = self.history.memberships
        return memberships[max(memberships)].nodes if memberships else self.founders

    def leader(self) -> Node | None:
        """Return the one leader that all members agree on, if so."""
        members = [self.nodes[node] for node in self.members()]
        leads = {node.raw.leader for node in members if node.is_up}
        if len(leads) != 1 or NO_NODE in leads:
            return None
        node = self.nodes[leads.pop()]
        return node if node.raw.role is Role.LEADER else None

    def elect(self, steps_max: int = LEADER_STEPS_MAX) -> Node:
        """Let time pass until all agree on a leader; fail if that takes too long."""
        for _ in range(steps_max):
            node = self.leader()
            if node is not None:
                return node
            self._keep_in_use()
            self.step()
        raise AssertionError(f"no leader after {steps_max} steps")

    def check_logs(self) -> None:
        """Check log matching between every two nodes, and each log against what was applied."""
        history = self.history
        for node in self.nodes.values():
            first = node.storage.first_index()
            if first - 1 > history.base:
                term = history.entry(first - 1).term
                assert node.storage.term(first - 1) == term, "a log begins after another entry"
        logs = [node.storage for node in self.nodes.values()]
        for left in logs:
            for right in logs:
                _check_matching(left, right)

    def converge(self) -> None:
        """Check liveness, within the bounds that stand at the top."""
        self.heal()
        # Where limits let one entry through in a round trip, a backlog takes its time.
        options = self.options
        is_slow = options.message_bytes_max < 1000 or options.committed_bytes_per_ready_max < 1000
        ends = [node.raw.last_index for node in self.nodes.values()]
        began = self.now
        factor = 1 if all(node.traits.pre_vote for node in self.nodes.values()) else 3
        if is_slow or options.inflight_messages_max < 10:
            began += 5 * (max(ends) - min([*ends, self.history.last_index]))
        self.elect(factor * LEADER_STEPS_MAX)
        target = self.history.last_index
        while self.history.last_index == target:
            assert self.now - began < factor * COMMIT_STEPS_MAX, (
                "no write is committed after healing"
            )
            self._work()
        target = self.history.last_index
        reads = self.reads_served
        while not self._is_equal(target) or self.reads_served == reads:
            assert self.now - began < factor * EQUAL_STEPS_MAX, "members do not catch up"
            self._work()
        self.check_logs()

    def _work(self) -> None:
        if self.now % ELECTION_TIMEOUT_TICKS == 0:
            self.propose()
            self.read()
        self._keep_in_use()
        self.step()

    def _is_equal(self, target: int) -> bool:
        members = [self.nodes[node] for node in self.members()]
        applied = {node.machine.applied for node in members}
        is_leaving = any(node.raw.membership.auto_leave for node in members)
        return len(applied) == 1 and min(applied) >= target and not is_leaving

    def _keep_in_use(self) -> None:
        """Wake who sleeps, and stop who was removed if nothing restrains its campaigns."""
        if self.now % ELECTION_TIMEOUT_TICKS == 0:
            self.read(is_anywhere=True)
        traits = [node.traits for node in self.nodes.values()]
        if all(item.pre_vote and item.check_quorum for item in traits):
            return
        members = self.members()
        # Those who lag behind may still need the vote of somebody who left.
        needed = set(members)
        for member in members:
            needed.update(self.nodes[member].raw.membership.nodes)
        for node in self.nodes.values():
            if node.is_up and node.node_id not in needed:
                node.crash()
            elif not node.is_up and node.node_id in needed:
                node.start()


def _check_matching(left: ChaosStorage, right: ChaosStorage) -> None:
    first = max(left.first_index(), right.first_index())
    last = min(left.last_index(), right.last_index())
    ours = left.all_entries()[first - left.first_index() : last + 1 - left.first_index()]
    theirs = right.all_entries()[first - right.first_index() : last + 1 - right.first_index()]
    shared = max(0, last + 1 - first)
    while shared and ours[shared - 1].term != theirs[shared - 1].term:
        shared -= 1
    assert all(map(is_same, ours[:shared], theirs[:shared])), "logs agree at an index, not before"


def chaos(
    seed: int,
    options: Options | None = None,
    faults: Faults | None = None,
    *,
    count: int = 0,
    steps: int = 300,
    is_traced: bool = False,
) -> Cluster:
    """Run a cluster under faults drawn from the seed, then heal it and check that it converges.

    What is not given is drawn too.
    """
    draw = random.Random(seed)
    count = count or draw.choice(_COUNTS)
    cluster = Cluster(
        count, draw.getrandbits(32), options or draw_options(draw, count), is_traced=is_traced
    )
    faults = faults or draw_faults(draw)
    if cluster.options.founding == "configuration":
        # Who is not in the storage's configuration from the start could never learn it.
        assert not cluster.options.outsiders
    draw = cluster.generator
    cluster.faults = faults
    for _ in range(steps):
        cluster.step()
        if draw.random() < faults.write:
            cluster.propose(is_anywhere=draw.random() < 0.1)
        if draw.random() < 0.2:
            cluster.read(is_anywhere=draw.random() < 0.3)
    cluster.check_logs()
    cluster.converge()
    return cluster


def main() -> None:
    """Run seeds; print those that fail, with what they stand for."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--digests", action="store_true", help="print a digest of each run")
    arguments = parser.parse_args()
    failed = 0
    for seed in range(arguments.start, arguments.start + arguments.seeds):
        try:
            cluster = chaos(seed, steps=arguments.steps, is_traced=arguments.digests)
        except Exception:  # noqa: BLE001  # whatever it is, the seed is what matters
            failed += 1
            draw = random.Random(seed)
            count = draw.choice(_COUNTS)
            draw.getrandbits(32)
            options, faults = draw_options(draw, count), draw_faults(draw)
            sys.stdout.write(f"seed {seed}: {count} founders, {options}, {faults}\n")
            sys.stdout.write(f"{traceback.format_exc()}\n")
            sys.stdout.flush()
        else:
            if arguments.digests:
                sys.stdout.write(f"{seed} {cluster.digest}\n")
    sys.stdout.write(f"{arguments.seeds} seeds, {failed} failed\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
