"""Several nodes with real routers, group services, replicas and raft, in virtual time.

What stands in for the engine does the same in the same order, with storage in memory: a write job
takes some steps, and what it has not confirmed is lost in a crash. What stands in for the
exchanger is `fakes.Fabric`.

Clients append unique tokens to shared strings and read them. The value of such a string is the
history of its writes, so every answer says at which point of the history it was given. `History`
checks these points against the order of submissions and replies.
"""

from __future__ import annotations

import random
from collections import Counter as Tally
from collections import deque
from itertools import accumulate
from typing import Any, NamedTuple

from rafter_core import Config, Membership, MemoryStorage, Message, RawNode, Ready
from rafter_core.message_wire import messages_from_wire, messages_to_wire
from rafter_kv.machine import KeyValueMachine
from rafter_kv.reply_slot import ReplySlot
from rafter_transport.exchanger import Channel
from rafterd.answers import Answers
from rafterd.clock import Clock
from rafterd.group_service import GroupService
from rafterd.placement import shard_of_group
from rafterd.replica import Replica
from rafterd.requests import (
    Reply,
    Request,
    Status,
    decode_reply,
    decode_request,
    not_executed,
)
from rafterd.router import Router
from rafterd.shared import SharedState
from tests.daemon.fakes import Fabric, FakeConnection, Place

STEP_SECONDS = 0.01
STEPS_PER_TICK = 2
ELECTION_TIMEOUT_TICKS = 6
REQUEST_TIMEOUT_STEPS = 60
ANSWER_STEPS_MAX = REQUEST_TIMEOUT_STEPS + 2 * STEPS_PER_TICK
ROUNDS_PER_STEP_MAX = 40
TOKEN_BYTES = 7
KEYS = (b"x", b"y")
EPOCH_SECONDS = 1_000_000.0


class Stored(NamedTuple):
    """A Ready on its way to storage."""

    replica: Replica
    ready: Ready


class Shard:
    """One shard process: what rafterd.engine and rafterd.shard_services do, without their loop."""

    def __init__(self, cluster: Cluster, place: Place, shared: SharedState) -> None:
        self.cluster = cluster
        self.node, self.shard = place
        self.endpoint = cluster.fabric.attach(place)
        self.endpoint.handlers = {
            Channel.RAFT: self._on_raft,
            Channel.REQUEST: self._on_requests,
            Channel.REPLY: self._on_replies,
        }
        self.endpoint.on_link_state = self._on_link_state
        self.shared = shared
        self.answers = Answers(self.endpoint)
        self.replicas: dict[int, Replica] = {}
        self.machines: dict[int, KeyValueMachine] = {}
        self.services: dict[int, GroupService] = {}
        self.is_scheduled = False
        self._dirty: list[Replica] = []
        self._waiting: list[Stored] = []
        self._must_sync = False
        self._job: list[Stored] = []
        self._job_due = 0
        self.router = Router(
            node=self.node,
            shard=self.shard,
            routes=cluster.members,
            services=self.services,
            post=self.endpoint,
            shard_counts=self.endpoint,
            shared=shared,
            request_timeout_seconds=REQUEST_TIMEOUT_STEPS * STEP_SECONDS,
            now_seconds=cluster.now_seconds,
            schedule=self._schedule,
        )
        shards = cluster.fabric.shards[self.node]
        for group, members in cluster.members.items():
            if self.node in members and shard_of_group(group, shards) == self.shard:
                self._add_group(group, members)

    def _add_group(self, group: int, members: tuple[int, ...]) -> None:
        cluster = self.cluster
        storage = cluster.storages[self.node, group]
        hard_state, _ = storage.initial_state()
        node = RawNode(
            Config(
                node_id=self.node,
                election_timeout_ticks=ELECTION_TIMEOUT_TICKS,
                eager_commit=False,
            ),
            storage,
            random.Random(cluster.generator.random()),
        )
        machine = KeyValueMachine()
        words = self.shared.group_words(group)
        replica = Replica(group, node, machine, hard_state, words, self.shared.set_route)
        service = GroupService(
            replica,
            machine,
            cluster.clocks[self.node],
            self.shared.counter_words(self.shard),
            self.mark,
            self._answer,
            lambda: False,
        )
        replica.listener = service
        self.replicas[group] = replica
        self.machines[group] = machine
        self.services[group] = service
        self.mark(replica)

    # The engine's part.

    def _schedule(self) -> None:
        self.is_scheduled = True

    def mark(self, replica: Replica) -> None:
        if not replica.is_dirty:
            replica.is_dirty = True
            self._dirty.append(replica)
        self.is_scheduled = True

    def tick(self) -> None:
        for replica in self.replicas.values():
            replica.node.tick()
            if replica.node.has_ready():
                self.mark(replica)
        self.router.tick()

    def run(self) -> None:
        """Finish a due write job, then run rounds until there is nothing to do."""
        if self._job and self._job_due <= self.cluster.fabric.now:
            job, self._job = self._job, []
            for replica, ready in job:
                replica.readies_in_storage -= 1
                self._stored(replica, ready)
                self.mark(replica)
        rounds = 0
        while self.is_scheduled:
            rounds += 1
            assert rounds < ROUNDS_PER_STEP_MAX, "rounds without end: something is busy with itself"
            self.is_scheduled = False
            self.router.form_batches()
            dirty, self._dirty = self._dirty, []
            for replica in dirty:
                replica.is_dirty = False
                self._advance(replica)
            self._begin_write()

    def _advance(self, replica: Replica) -> None:
        replica.advance()
        if not replica.node.has_ready():
            replica.publish_route()
            return
        ready = replica.take_ready()
        self._send(replica.group, ready.messages)
        if ready.must_sync or replica.readies_in_storage:
            self._must_sync = self._must_sync or ready.must_sync
            self._waiting.append(Stored(replica, ready))
            replica.readies_in_storage += 1
        else:
            self._stored(replica, ready)
        replica.publish()
        if replica.node.has_ready() or ready.committed:
            self.mark(replica)

    def _begin_write(self) -> None:
        if self._job or not self._waiting:
            return
        self._job, self._waiting = self._waiting, []
        steps = self.cluster.generator.randint(1, 3) if self._must_sync else 1
        self._job_due = self.cluster.fabric.now + steps
        self._must_sync = False

    def _stored(self, replica: Replica, ready: Ready) -> None:
        self.cluster.storages[self.node, replica.group].store(ready)
        self._send(replica.group, ready.messages_after_sync)
        replica.node.storage_done(ready)

    def _send(self, group: int, messages: list[Message]) -> None:
        for message in messages:
            shard = shard_of_group(group, self.cluster.fabric.shards[message.to])
            wire = messages_to_wire([(group, message)])
            self.endpoint.post(message.to, shard, Channel.RAFT, wire)

    # Between shards.

    def _on_raft(self, _node: int, _shard: int, items: list[Any]) -> None:
        for item in items:
            for group, message in messages_from_wire(item):
                self.replicas[group].node.step(message)
                self.mark(self.replicas[group])

    def _on_requests(self, node: int, shard: int, items: list[Any]) -> None:
        for item in items:
            request = decode_request(item, (node, shard))
            service = self.services.get(request.batch.group)
            if service is None:
                self._answer(request, not_executed(request, Status.NOT_LEADER, 0, 0))
            else:
                service.submit(request)

    def _on_replies(self, _node: int, _shard: int, items: list[Any]) -> None:
        for item in items:
            self.router.complete(decode_reply(item))

    def _answer(self, request: Request, reply: Reply) -> None:
        self.cluster.statuses[reply.status] += 1
        if request.origin is None:
            self.router.complete(reply)
        else:
            self.answers.send(*request.origin, reply)

    def _on_link_state(self, node: int, shard: int, is_up: bool) -> None:
        if not is_up and node != self.node:
            for replica in self.replicas.values():
                if node in replica.members:
                    replica.node.report_unreachable(node)
                    self.mark(replica)
        self.answers.link_changed(node, shard, is_up)
        self.router.link_changed(node, shard, is_up)


class Operation:
    """One submitted command and what became of it. Moments count submissions and replies."""

    __slots__ = (
        "connection",
        "deadline_step",
        "group",
        "key",
        "number",
        "replied",
        "result",
        "submitted",
        "token",
    )

    def __init__(
        self, connection: int, number: int, group: int, key: bytes, token: bytes, submitted: int
    ) -> None:
        self.connection = connection
        self.number = number
        self.group = group
        self.key = key
        self.token = token
        self.submitted = submitted
        self.replied = 0
        self.result: Any = None
        self.deadline_step = 0

    @property
    def point(self) -> int | None:
        """How many tokens the string held right after this operation, None if unknown."""
        if type(self.result) is int:
            return self.result // TOKEN_BYTES
        if self.token or type(self.result) is str or not self.replied:
            return None
        return len(self.result or b"") // TOKEN_BYTES

    def __repr__(self) -> str:
        what = f"APPEND {self.token!r}" if self.token else "GET"
        return (
            f"<connection {self.connection} #{self.number} {what} group {self.group} "
            f"{self.key!r} [{self.submitted}, {self.replied}] -> {self.result!r}>"
        )


class Client:
    """One connection at one shard. It pipelines: it does not wait for replies."""

    def __init__(self, cluster: Cluster, shard: Shard) -> None:
        self.cluster = cluster
        self.shard = shard
        self.identity = cluster.next_connection()
        self.connection = FakeConnection(self._completed)
        self.count = 0
        self._open: dict[int, tuple[ReplySlot, list[Operation]]] = {}

    def submit(self, group: int, writes: list[bool]) -> None:
        """Send one chunk of commands; False is a read."""
        cluster = self.cluster
        slot = self.connection.slot(len(writes))
        operations = []
        for is_write in writes:
            self.count += 1
            key = cluster.generator.choice(KEYS)
            cluster.moment += 1
            token = b"%06d," % cluster.moment if is_write else b""
            operation = Operation(self.identity, self.count, group, key, token, cluster.moment)
            operation.deadline_step = cluster.fabric.now + ANSWER_STEPS_MAX
            operations.append(operation)
        cluster.operations += operations
        self._open[id(slot)] = (slot, operations)
        for position, operation in enumerate(operations):
            command = [b"GET", operation.key]
            if operation.token:
                command = [b"APPEND", operation.key, operation.token]
            self.shard.router.submit(group, command, bool(operation.token), slot, position)

    def _completed(self, slot: ReplySlot) -> None:
        _, operations = self._open.pop(id(slot))
        self.cluster.moment += 1
        for operation, result in zip(operations, slot.replies, strict=True):
            operation.result = result
            operation.replied = self.cluster.moment

    def check_deadlines(self) -> None:
        """Fail if a command waits for longer than its timeout."""
        now = self.cluster.fabric.now
        for _, operations in self._open.values():
            assert now <= operations[0].deadline_step, f"no reply in time: {operations[0]}"


class Cluster:
    """The nodes, the faults, the clients and what they saw."""

    def __init__(self, seed: int, shards: dict[int, int], members: dict[int, tuple[int, ...]]):
        self.generator = random.Random(seed)
        self.members = members
        self.fabric = Fabric(shards, self.generator)
        self.fabric.delay_steps_max = self.generator.choice((1, 2, 4))
        self.storages = {
            (node, group): MemoryStorage(Membership(tuple(sorted(nodes))))
            for group, nodes in members.items()
            for node in nodes
        }
        self.clocks = {node: Clock(self._clock_of(node)) for node in shards}
        self.shards: dict[Place, Shard] = {}
        self.clients: list[Client] = []
        self.operations: list[Operation] = []
        self.statuses: Tally[Status] = Tally()
        self.moment = 0
        self._connections = 0
        self.restarts: deque[tuple[int, int]] = deque()
        for node in shards:
            self.start(node)

    def _clock_of(self, node: int) -> Any:
        return lambda: EPOCH_SECONDS + self.now_seconds() + 0.03 * node

    def now_seconds(self) -> float:
        return self.fabric.now * STEP_SECONDS

    def next_connection(self) -> int:
        self._connections += 1
        return self._connections

    def start(self, node: int) -> None:
        count = self.fabric.shards[node]
        shared = SharedState(count, len(self.members))
        for shard in range(count):
            process = self.shards[node, shard] = Shard(self, (node, shard), shared)
            self.clients += [Client(self, process) for _ in range(2)]

    def kill(self, node: int) -> None:
        """End all processes of a node; what its storage has not confirmed is gone."""
        for place in [place for place in self.shards if place[0] == node]:
            process = self.shards.pop(place)
            self.clients = [client for client in self.clients if client.shard is not process]
            self.fabric.detach(place)

    def step(self) -> None:
        self.fabric.step()
        is_tick = self.fabric.now % STEPS_PER_TICK == 0
        for process in list(self.shards.values()):
            if is_tick:
                process.tick()
            process.run()
        if is_tick:
            for client in self.clients:
                client.check_deadlines()

    def submit_something(self) -> None:
        """Let one client send a chunk of commands for one group."""
        generator = self.generator
        client = generator.choice(self.clients)
        writes = [generator.random() < 0.5 for _ in range(generator.randint(1, 3))]
        client.submit(generator.choice(list(self.members)), writes)

    def trouble(self) -> None:
        """Do one kind of damage, or repair some."""
        generator = self.generator
        nodes = list(self.fabric.shards)
        kind = generator.choice(("link", "link", "node", "kill", "transfer", "heal", "one way"))
        if kind == "link" and self.fabric.up:
            self.fabric.break_link(generator.choice(sorted(self.fabric.up)))
        elif kind == "one way":
            self.fabric.block(*generator.sample(nodes, 2))
        elif kind == "node":
            node = generator.choice(nodes)
            for other in nodes:
                if other != node:
                    self.fabric.block(node, other)
                    self.fabric.block(other, node)
        elif kind == "heal":
            self.fabric.blocked.clear()
        elif kind == "kill" and not self.restarts:
            node = generator.choice(nodes)
            self.kill(node)
            self.restarts.append((self.fabric.now + generator.randint(1, 40), node))
        elif kind == "transfer":
            for process in self.shards.values():
                for replica in process.replicas.values():
                    others = [node for node in replica.members if node != process.node]
                    if replica.is_leader:
                        replica.node.transfer_leadership(generator.choice(others))
                        process.mark(replica)

    def restart_due(self, *, at_once: bool = False) -> None:
        while self.restarts and (at_once or self.restarts[0][0] <= self.fabric.now):
            self.start(self.restarts.popleft()[1])

    def heal(self) -> None:
        """End all faults."""
        self.fabric.blocked.clear()
        self.restart_due(at_once=True)

    # What must hold at the end.

    def replicas_of(self, group: int) -> list[tuple[Replica, KeyValueMachine]]:
        return [
            (process.replicas[group], process.machines[group])
            for process in self.shards.values()
            if group in process.replicas
        ]

    def check_replicas(self) -> None:
        """Replicas that applied the same index hold the same."""
        for group in self.members:
            hashes: dict[int, int] = {}
            for replica, machine in self.replicas_of(group):
                applied = replica.node.applied
                digest = hashes.setdefault(applied, machine.hash())
                assert digest == machine.hash(), f"group {group} diverged at {applied}"

    def check_idle(self) -> None:
        """Nobody keeps anything of what was asked."""
        for process in self.shards.values():
            assert process.router.is_idle
            assert not process.router._tickets
            for route in process.router._routes.values():
                assert not route.outstanding
            for service in process.services.values():
                assert not service._queue
                assert not service._rounds
                assert not service.in_flight
                assert not service._queued_writes

    def values(self, group: int) -> dict[bytes, bytes]:
        """Return the final strings of a group, from the replica that has applied the most."""
        _, machine = max(self.replicas_of(group), key=lambda pair: pair[0].node.applied)
        results = machine.lookup(([[b"GET", key] for key in KEYS], 0))
        return {
            key: value if isinstance(value, bytes) else b""
            for key, value in zip(KEYS, results, strict=True)
        }


def check_history(operations: list[Operation], value: bytes) -> None:
    """Check all operations on one string against its final value."""
    tokens = [value[at : at + TOKEN_BYTES] for at in range(0, len(value), TOKEN_BYTES)]
    assert len(set(tokens)) == len(tokens), "a write was executed twice"
    by_token = {operation.token: operation for operation in operations if operation.token}
    position = {token: at for at, token in enumerate(tokens, 1)}
    writes = [by_token[token] for token in tokens]
    # For each point the write up to it that was submitted last: who may see that may see all.
    newest = [*accumulate(writes, _later)]
    by_connection: dict[int, list[tuple[int, Operation]]] = {}
    for at, write in enumerate(writes, 1):
        by_connection.setdefault(write.connection, []).append((at, write))
    for operation in operations:
        result, token = operation.result, operation.token
        if token and type(result) is int:
            assert position.get(token) == operation.point, f"acknowledged and lost: {operation}"
        elif token and type(result) is str and not result.startswith("-TIMEOUT"):
            assert result.startswith(("-CLUSTERDOWN", "-BUSY")), operation
            assert token not in position, f"executed in spite of its error: {operation}"
        elif not token and operation.point is not None:
            assert value.startswith(result or b""), f"read what never was: {operation}"
            if operation.point:
                write = newest[operation.point - 1]
                assert write.submitted < operation.replied, f"{operation} saw the future: {write}"
            for at, write in by_connection.get(operation.connection, ()):
                if at <= operation.point:
                    assert write.number < operation.number, f"{operation} saw its later {write}"
    _check_order_in_time(operations)
    _check_order_of_connections(operations)


def _later(one: Operation, other: Operation) -> Operation:
    return other if other.submitted > one.submitted else one


def _check_order_in_time(operations: list[Operation]) -> None:
    """What was submitted after a reply stands behind it in the history."""
    moments: list[tuple[int, Operation]] = []
    for operation in operations:
        if operation.point is not None:
            moments += [(operation.submitted, operation), (operation.replied, operation)]
    newest = 0
    floors: dict[int, int] = {}
    for moment, operation in sorted(moments, key=lambda item: item[0]):
        point = operation.point
        assert point is not None
        if moment == operation.submitted:
            floors[id(operation)] = newest + bool(operation.token)
        else:
            floor = floors[id(operation)]
            assert point >= floor, f"stale: {operation}, {floor} were acknowledged before"
            newest = max(newest, point)


def _check_order_of_connections(operations: list[Operation]) -> None:
    """The commands of one connection take effect in their order."""
    newest: dict[int, int] = {}
    for operation in sorted(operations, key=lambda one: (one.connection, one.number)):
        if operation.point is not None:
            floor = newest.get(operation.connection, 0) + bool(operation.token)
            assert operation.point >= floor, f"out of order: {operation}, expected {floor}"
            newest[operation.connection] = operation.point
