"""A cluster in memory and in virtual ticks: seeded chaos, and the checks of raft's five properties.

Time is a counter of steps; every choice comes from one generator, so a seed replays a failure.
Each node stores asynchronously: a Ready becomes durable after a random delay, in order, and a
crash loses what was not durable. The network drops, duplicates, delays and reorders messages and
cuts links one way.

What is checked while it runs: one leader per term (election safety), equal entries at equal
(term, index) (log matching), committed entries are in every later leader's log (leader
completeness), replicas apply equal sequences (state machine safety), the commit index of a node
never goes back while it runs, terms survive a crash once any message spoke of them, and reads see
every write acknowledged before them.
"""

from __future__ import annotations

import random
from collections import deque
from typing import NamedTuple

from rafter_core import (
    NO_NODE,
    Config,
    Entry,
    Membership,
    MemoryStorage,
    Message,
    MessageKind,
    NotLeader,
    ProposalDropped,
    RawNode,
    ReadDropped,
    Ready,
    Role,
    TransferRefused,
    message_from_wire,
    message_to_wire,
)

ASKING_KINDS = (MessageKind.PRE_VOTE, MessageKind.PRE_VOTE_RESPONSE)


class Faults(NamedTuple):
    """Chances in one step (or for one message) of each kind of trouble."""

    drop: float = 0.0
    duplicate: float = 0.0
    delay_steps_max: int = 1
    storage_delay_steps_max: int = 1
    crash: float = 0.0
    cut: float = 0.0
    transfer: float = 0.0
    unreachable: float = 0.0


NO_FAULTS = Faults()


class Options(NamedTuple):
    """The configuration that all nodes of a cluster share."""

    pre_vote: bool = True
    check_quorum: bool = True
    eager_commit: bool = True
    message_bytes_max: int = 1 << 20
    inflight_messages_max: int = 256
    committed_bytes_per_ready_max: int = 4 << 20


class Node:
    """One replica with its driver: storage in flight, applied entries, and what a restart keeps."""

    def __init__(self, cluster: Cluster, node_id: int) -> None:
        self.cluster = cluster
        self.node_id = node_id
        self.storage = MemoryStorage(cluster.membership)
        self.applied: list[Entry] = []
        self.spoken_term = 0
        self.is_up = False
        self.start()

    def start(self) -> None:
        options = self.cluster.options
        self.storing: deque[tuple[int, Ready]] = deque()
        self.reads: dict[bytes, int] = {}
        self.waiting_reads: list[tuple[int, bytes]] = []
        # The machine is in memory: it applies from the start again, and must see the same entries.
        self.applied = []
        self.raw = RawNode(
            Config(
                node_id=self.node_id,
                pre_vote=options.pre_vote,
                check_quorum=options.check_quorum,
                eager_commit=options.eager_commit,
                message_bytes_max=options.message_bytes_max,
                inflight_messages_max=options.inflight_messages_max,
                committed_bytes_per_ready_max=options.committed_bytes_per_ready_max,
            ),
            self.storage,
            random.Random(self.cluster.generator.random()),
        )
        assert self.raw.term >= self.spoken_term, "a term was spoken of and then forgotten"
        self.commit = self.raw.commit
        self.is_up = True

    def crash(self) -> None:
        """Lose everything that is not durable."""
        self.is_up = False
        self.storing.clear()

    def turn(self) -> None:
        """Do the driver's duties once: finish due storage, then hand out and start new work."""
        now = self.cluster.now
        while self.storing and self.storing[0][0] <= now:
            _, ready = self.storing.popleft()
            self.storage.store(ready)
            self.raw.storage_done(ready)
            self._send(ready.messages_after_sync)
        while self.raw.has_ready():
            self._handle(self.raw.ready())
        self._serve_reads()
        self._observe()

    def _handle(self, ready: Ready) -> None:
        self._send(ready.messages)
        delay = self.cluster.generator.randrange(self.cluster.faults.storage_delay_steps_max)
        due = self.cluster.now + delay
        if self.storing:
            due = max(due, self.storing[-1][0])
        self.storing.append((due, ready))
        for state in ready.read_states:
            self.waiting_reads.append((state.index, state.context))
        for entry in ready.committed:
            assert entry.index == len(self.applied) + 1, "applied out of order"
            assert entry.index <= self.storage.last_index(), "applied before it was durable"
            self.applied.append(entry)
            self.cluster.on_applied(entry)
        if ready.committed:
            self.raw.apply_done(ready.committed[-1].index)
        if delay == 0 and len(self.storing) == 1:
            self.turn()

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            if message.kind not in ASKING_KINDS:
                self.spoken_term = max(self.spoken_term, message.term)
                stored = self.storage.initial_state()[0].term
                assert message.term <= stored, "spoke of a term that is not durable"
            self.cluster.post(message)

    def _serve_reads(self) -> None:
        for index, context in self.waiting_reads:
            if index <= len(self.applied):
                floor = self.reads.pop(context)
                assert index >= floor, f"stale read: index {index}, acknowledged before {floor}"
                self.cluster.reads_served += 1
        self.waiting_reads = [item for item in self.waiting_reads if item[0] > len(self.applied)]

    def _observe(self) -> None:
        assert self.raw.commit >= self.commit, "commit index went back"
        self.commit = self.raw.commit
        if self.raw.is_leader:
            self.cluster.on_leader(self)


class Cluster:
    """Nodes 1..count, the network between them, and what has been seen so far."""

    def __init__(self, count: int, seed: int, options: Options | None = None) -> None:
        self.generator = random.Random(seed)
        self.options = options or Options()
        self.faults = NO_FAULTS
        self.now = 0
        self.membership = Membership(tuple(range(1, count + 1)))
        self.network: list[tuple[int, int, Message]] = []
        self.posted = 0
        self.cuts: set[tuple[int, int]] = set()
        self.leaders: dict[int, int] = {}
        self.committed: list[Entry] = []
        self.acknowledged_index = 0
        self.proposed = 0
        self.reads_served = 0
        self.reads_asked = 0
        self.nodes = {node: Node(self, node) for node in self.membership.voters}

    # What nodes report.

    def post(self, message: Message) -> None:
        """Take a message into the network, with the chances of the current faults."""
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
        if known is None:
            self.leaders[term] = node.node_id
            for entry in self.committed:
                if entry.term < term:
                    assert node.raw._raft.log.matches(entry.term, entry.index), (
                        f"node {node.node_id} leads term {term} without committed {entry.index}"
                    )
        else:
            assert known == node.node_id, f"nodes {known} and {node.node_id} lead term {term}"

    def on_applied(self, entry: Entry) -> None:
        """Check that every replica applies the same sequence; the first to apply defines it."""
        if entry.index > len(self.committed):
            assert entry.index == len(self.committed) + 1
            self.committed.append(entry)
            self.acknowledged_index = entry.index
        assert self.committed[entry.index - 1] == entry, f"diverged at {entry.index}"

    # Moving on.

    def step(self, *, ticks: bool = True) -> None:
        """Let one step pass: faults, deliveries, one tick for each node that is up."""
        self.now += 1
        self._inject()
        due = [item for item in self.network if item[0] <= self.now]
        self.network = [item for item in self.network if item[0] > self.now]
        for _, _, message in sorted(due, key=lambda item: (item[0], item[1])):
            node = self.nodes[message.to]
            if node.is_up:
                # Through the encoding, as in production.
                group, decoded = message_from_wire(message_to_wire(1, message))
                assert group == 1
                assert decoded == message
                node.raw.step(decoded)
                node.turn()
        for node in self.nodes.values():
            if node.is_up:
                if ticks:
                    node.raw.tick()
                node.turn()

    def run(self, steps: int) -> None:
        """Let several steps pass."""
        for _ in range(steps):
            self.step()

    def propose(self) -> None:
        """Propose something unique wherever somebody believes to be the leader."""
        for node in self.nodes.values():
            if node.is_up and node.raw.is_leader:
                self.proposed += 1
                try:
                    node.raw.propose(b"%d" % self.proposed * self.generator.randrange(1, 8))
                except ProposalDropped:
                    continue
                node.turn()

    def read(self) -> None:
        """Ask every believed leader for a read, noting what it must at least see."""
        for node in self.nodes.values():
            if node.is_up and node.raw.is_leader:
                self.reads_asked += 1
                context = b"read %d" % self.reads_asked
                node.reads[context] = self.acknowledged_index
                try:
                    node.raw.read_index(context)
                except (NotLeader, ReadDropped):
                    continue
                node.turn()

    def _inject(self) -> None:
        generator, faults = self.generator, self.faults
        ids = list(self.nodes)
        if generator.random() < faults.crash:
            self._crash_or_start(ids)
        leaders = [node for node in self.nodes.values() if node.is_up and node.raw.is_leader]
        if generator.random() < faults.cut:
            self._cut_or_mend(ids, leaders)
        for node in leaders:
            if generator.random() < faults.transfer:
                try:
                    node.raw.transfer_leadership(generator.choice(ids))
                except TransferRefused:
                    raise AssertionError("every node is a voter here") from None
            if generator.random() < faults.unreachable:
                node.raw.report_unreachable(generator.choice(ids))

    def _crash_or_start(self, ids: list[int]) -> None:
        generator = self.generator
        if generator.random() < 0.3:
            # Power loss: only what is durable on each node is left of everything.
            for node in self.nodes.values():
                node.crash()
            for node_id in generator.sample(ids, len(ids) // 2 + 1):
                self.nodes[node_id].start()
            return
        node = self.nodes[generator.choice(ids)]
        if node.is_up:
            node.crash()
        else:
            node.start()

    def _cut_or_mend(self, ids: list[int], leaders: list[Node]) -> None:
        generator = self.generator
        choice = generator.random()
        if self.cuts and choice < 0.4:
            self.cuts.clear()
        elif leaders and choice < 0.8:
            # A leader that does not know yet that it is one no more.
            leader = generator.choice(leaders).node_id
            self.cuts.update((leader, other) for other in ids)
            self.cuts.update((other, leader) for other in ids)
        else:
            self.cuts.add((generator.choice(ids), generator.choice(ids)))

    # Ending.

    def heal(self) -> None:
        """Stop all faults and bring every node up."""
        self.faults = NO_FAULTS
        self.cuts.clear()
        for node in self.nodes.values():
            if not node.is_up:
                node.start()

    def leader(self) -> Node | None:
        """Return the one leader that all nodes agree on, if so."""
        leads = {node.raw.leader for node in self.nodes.values() if node.is_up}
        if len(leads) != 1 or NO_NODE in leads:
            return None
        node = self.nodes[leads.pop()]
        return node if node.raw.role is Role.LEADER else None

    def elect(self, steps_max: int = 200) -> Node:
        """Let time pass until all agree on a leader; fail if that takes too long."""
        for _ in range(steps_max):
            node = self.leader()
            if node is not None:
                return node
            self.step()
        raise AssertionError(f"no leader after {steps_max} steps")

    def check_logs(self) -> None:
        """Check log matching between every two nodes, and completeness of the leader's log."""
        logs = {node.node_id: _stored(node) for node in self.nodes.values()}
        for left in logs.values():
            for right in logs.values():
                shared = min(len(left), len(right))
                while shared and left[shared - 1].term != right[shared - 1].term:
                    shared -= 1
                assert left[:shared] == right[:shared], "logs agree at an index, not before it"
        for node in self.nodes.values():
            if node.is_up and node.raw.is_leader and node.raw.term == max(self.leaders):
                known = len(self.committed)
                stored = logs[node.node_id][:known]
                assert stored == self.committed[: len(stored)], "leader lacks committed entries"

    def converge(self) -> None:
        """Check liveness: once healed, a leader, a committed write and a read, in bounded time."""
        self.heal()
        self.elect(300)
        target = len(self.committed) + 1
        reads = self.reads_served
        for turn in range(150):
            if turn % 10 == 0:
                self.propose()
                self.read()
            self.step()
            applied = [len(node.applied) for node in self.nodes.values()]
            if min(applied) == max(applied) >= target and self.reads_served > reads:
                self.check_logs()
                return
        raise AssertionError("no progress after healing")


def _stored(node: Node) -> list[Entry]:
    last = node.storage.last_index()
    return node.storage.entries(1, last + 1, 1 << 40) if last else []


def chaos(
    seed: int, options: Options | None = None, *, count: int = 3, steps: int = 300
) -> Cluster:
    """Run a cluster under faults drawn from the seed, then heal it and check that it converges."""
    cluster = Cluster(count, seed, options)
    draw = cluster.generator
    cluster.faults = Faults(
        drop=draw.choice((0.0, 0.02, 0.15)),
        duplicate=draw.choice((0.0, 0.1)),
        delay_steps_max=draw.choice((1, 3, 12)),
        storage_delay_steps_max=draw.choice((1, 4, 15)),
        crash=draw.choice((0.0, 0.01, 0.03)),
        cut=draw.choice((0.0, 0.02, 0.05)),
        transfer=draw.choice((0.0, 0.02)),
        unreachable=draw.choice((0.0, 0.05)),
    )
    for _ in range(steps):
        cluster.step()
        if draw.random() < 0.5:
            cluster.propose()
        if draw.random() < 0.2:
            cluster.read()
    cluster.check_logs()
    cluster.converge()
    return cluster
