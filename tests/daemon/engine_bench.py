"""An engine over a real log on a disk that can be held or broken, with peers played by the test."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgpack
import uvloop

from rafter_core import (
    Config,
    Entry,
    EntryKind,
    HardState,
    Membership,
    Message,
    MessageKind,
    RawNode,
    Update,
)
from rafter_core.message_wire import messages_to_wire
from rafter_storage.file_system import Buffer, RealFileSystem
from rafter_storage.group_log import GroupLog
from rafter_storage.segment_manager import (
    FoundedGroup,
    GroupChange,
    GroupWrite,
    SegmentManager,
    WriteJob,
)
from rafter_transport.exchanger import Channel
from rafter_transport.payload import pack_item, unpack
from rafterd.engine import Engine
from rafterd.raft_post import Join, Pair, received
from rafterd.replica import NOWHERE, Replica
from rafterd.shared import SharedState
from rafterd.snapshots import Recovered
from tests.daemon.waiting import DEADLINE_SECONDS
from tests.garbage import collected
from tests.storage.support import has_log

Value = TypeVar("Value")
MEMBERS = (1, 2, 3)
ELECTION_TIMEOUT_TICKS = 10
SEGMENT_BYTES = 1 << 20


def run(main: Coroutine[Any, Any, Value]) -> Value:
    """Run a test on the loop that shards run on, with a deadline; no error may reach the loop."""

    async def bounded() -> Value:
        errors: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, error: errors.append(error))
        async with asyncio.timeout(DEADLINE_SECONDS):
            result = await main
        assert not errors, f"errors left to the loop: {errors}"
        return result

    with collected(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(bounded())


async def until(condition: Callable[[], Value]) -> Value:
    """Turn the loop until a condition holds; `run` has the deadline."""
    while True:
        if value := condition():
            return value
        await asyncio.sleep(0.001)


class Disk(RealFileSystem):
    """The real file system; each sync is an event, can be held back, and can fail."""

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.gate = threading.Event()
        self.gate.set()
        self.error: OSError | None = None
        self.is_full = False

    def allocate(self, descriptor: int, length: int) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().allocate(descriptor, length)

    def sync_data(self, descriptor: int) -> None:
        with self._syncing():
            super().sync_data(descriptor)

    def write_synced(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        with self._syncing():
            return super().write_synced(descriptor, buffers, offset)

    @contextmanager
    def _syncing(self) -> Iterator[None]:
        self.events.append("sync")
        assert self.gate.wait(DEADLINE_SECONDS)
        if self.error is not None:
            raise self.error
        yield
        self.events.append("synced")


class WatchedStore(SegmentManager):
    """The real log, which remembers what it was asked to write."""

    written: list[GroupWrite]

    def begin(
        self,
        writes: Sequence[GroupWrite],
        changes: Sequence[GroupChange] = (),
        founded: Sequence[FoundedGroup] = (),
    ) -> WriteJob:
        self.written += writes
        return super().begin(writes, changes, founded)


class Sent(NamedTuple):
    """One message as its receiver sees it."""

    node: int
    shard: int
    group: int
    message: Message


class RecordingPost:
    """The engine's `RaftCarrier`: items go through their encoding; once flushed they are sent."""

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.queued: list[Sent] = []
        self.sent: list[Sent] = []

    def post_joined(
        self, node: int, shard: int, channel: Channel, parts: Sequence[Pair], join: Join
    ) -> bool:
        for group, message in received(1, [unpack(pack_item(join(parts)))]):
            self.queued.append(Sent(node, shard, group, message))
        return True

    def flush(self) -> None:
        if self.queued:
            self.events.append("flush")
            self.sent += self.queued
            self.queued = []

    def kinds(self, group: int = 1) -> list[MessageKind]:
        return [sent.message.kind for sent in self.sent if sent.group == group]


class ShardsOfNodes:
    """The engine's `ShardCounts`: every node is known unless the test says otherwise."""

    def __init__(self) -> None:
        self.counts: dict[int, int | None] = dict.fromkeys(range(1, 10), 1)

    def shard_count(self, node: int) -> int | None:
        return self.counts.get(node)


class Journal:
    """A state machine that keeps what it was given, and counts as its result.

    The test may hold what other threads do: each chunk that is saved, and the end of a recovery.
    """

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.calls = 0
        self.save_gate = threading.Event()
        self.save_gate.set()
        self.recover_gate = threading.Event()
        self.recover_gate.set()
        self.saving = 0
        """How many images are being made, or wait to be closed."""
        self.saved_chunks = 0
        self.error: Exception | None = None

    def open(self) -> int:
        return 0

    def update(self, updates: list[Update]) -> list[object]:
        self.calls += 1
        self.updates += updates
        return [update.index for update in updates]

    def lookup(self, query: object) -> object:
        return len(self.updates)

    @property
    def payloads(self) -> list[bytes]:
        return [update.payload for update in self.updates]

    def prepare_snapshot(self) -> object:
        return tuple(self.updates)

    def save_snapshot(self, prepared: object) -> Generator[bytes, None, None]:
        """Yield a chunk for each update."""
        assert isinstance(prepared, tuple)
        self.saving += 1
        try:
            for index, payload, _ in prepared:
                assert self.save_gate.wait(DEADLINE_SECONDS)
                if self.error is not None:
                    raise self.error
                self.saved_chunks += 1
                yield pack_item([index, payload])
        finally:
            self.saving -= 1

    def recover_from_snapshot(self, chunks: Iterable[bytes]) -> None:
        unpacker = msgpack.Unpacker()
        for chunk in chunks:
            unpacker.feed(chunk)
        updates = [Update(index, payload, None) for index, payload in unpacker]
        assert self.recover_gate.wait(DEADLINE_SECONDS)
        if self.error is not None:
            raise self.error
        self.updates = updates

    def close(self) -> None:
        self.updates = []

    def hash(self) -> int:
        return hash(tuple(self.updates))


class Waiter:
    """A proposal, or everything that waits at a replica: writes down what it hears."""

    def __init__(self, heard: list[str], name: str) -> None:
        self.heard, self.name = heard, name

    @property
    def context(self) -> object:
        return self.name

    def before_apply(self) -> None:
        self.heard.append(f"{self.name} before")

    def applied(self, result: object) -> None:
        self.heard.append(f"{self.name} applied {result}")

    def lost(self) -> None:
        self.heard.append(f"{self.name} lost")


class Listener:
    """A service that writes down what its replica tells it."""

    def __init__(self, heard: list[str]) -> None:
        self.heard = heard
        self.on_advance: Callable[[], None] | None = None

    def advance(self) -> None:
        if self.on_advance is not None:
            action, self.on_advance = self.on_advance, None
            action()

    def read_confirmed(self, context: bytes) -> None:
        self.heard.append(f"read {context.decode()}")

    def leadership_lost(self) -> None:
        self.heard.append("leadership lost")


class EngineBench:
    """One engine of node 1. Its loop is the running one; the test plays all other nodes."""

    def __init__(
        self,
        directory: Path,
        groups: Iterable[int] = (1,),
        members: tuple[int, ...] = MEMBERS,
        sync_mode: str = "thread",
        spares_max: int = 0,
    ) -> None:
        self.events: list[str] = []
        self.disk = Disk(self.events)
        # Without spares, unless a test is about them: prewriting would add its own syncs.
        self.store = WatchedStore(
            directory, segment_bytes=SEGMENT_BYTES, spares_max=spares_max, files=self.disk
        )
        self.store.written = []
        if not has_log(self.disk, directory):
            self.store.create()
            self.events.clear()
        self.store.open()
        self.post = RecordingPost(self.events)
        self.shards = ShardsOfNodes()
        self.fatal: list[BaseException] = []
        self.heard: list[str] = []
        self.routes: list[tuple[int, int, int]] = []
        self.shared = SharedState(1, max(groups))
        self.engine = Engine(
            loop=asyncio.get_running_loop(),
            store=self.store,
            post=self.post,
            shard_counts=self.shards,
            counters=self.shared.counter_words(0),
            sync_mode=sync_mode,
            on_fatal=self.fatal.append,
        )
        self.machines: dict[int, Journal] = {}
        self.listeners: dict[int, Listener] = {}
        for group in groups:
            self._add(group, members)
        self.events.clear()

    def _add(self, group: int, members: tuple[int, ...]) -> None:
        founding = Membership(members)
        machine, place, membership = self.start_machine(self.store.group_log(group, founding))
        log = self.store.group_log(group, founding, place.index, membership)
        config = Config(
            node_id=1,
            election_timeout_ticks=ELECTION_TIMEOUT_TICKS,
            pre_vote=False,
            eager_commit=False,
            applied=place.index,
        )
        self.machines[group] = machine
        replica = Replica(
            group,
            RawNode(config, log, random.Random(1)),
            machine,
            log.initial_state()[0],
            self.shared.group_words(group),
            lambda *route: self.routes.append(route),
            place,
        )
        replica.listener = self.listeners[group] = Listener(self.heard)
        self.engine.add(replica)

    def start_machine(self, log: GroupLog) -> Recovered[Journal]:
        """Return what a start finds of a group; here it knows of no snapshots."""
        return Recovered(Journal(), NOWHERE, None)

    def replica(self, group: int = 1) -> Replica:
        return self.engine.replicas[group]

    def propose(self, name: str, group: int = 1) -> None:
        replica = self.replica(group)
        assert replica.propose(name.encode(), Waiter(self.heard, name))
        self.engine.mark(replica)

    def hear(self, sender: int, kind: MessageKind, group: int = 1, **fields: Any) -> None:
        """Let a message of a peer arrive, of the present term unless given."""
        fields.setdefault("term", self.replica(group).node.term)
        message = Message(kind=kind, to=1, sender=sender, **fields)
        self.engine.receive(sender, 0, [to_item(group, message)])

    def acknowledge(self, sender: int = 2, group: int = 1, index: int | None = None) -> None:
        last_index = self.replica(group).node.last_index
        kind = MessageKind.APPEND_RESPONSE
        self.hear(sender, kind, group, index=last_index if index is None else index)

    async def settle(self) -> None:
        """Turn the loop until every write that could start has ended."""
        await turns()
        await until(lambda: self.fatal or not self.engine._flusher.is_busy)
        await turns()
        await until(lambda: self.fatal or not self.engine._flusher.is_busy)

    async def lead(self, *groups: int) -> None:
        """Win the elections of these groups and commit their no-ops."""
        for group in groups or (1,):
            self.replica(group).node.campaign()
            self.engine.mark(self.replica(group))
        await self.settle()
        for group in groups or (1,):
            if not self.replica(group).is_leader:
                self.hear(2, MessageKind.VOTE_RESPONSE, group)
        await self.settle()
        for group in groups or (1,):
            for peer in self.replica(group).members[1:]:
                self.acknowledge(peer, group)
        await self.settle()
        assert all(self.replica(group).node.applied for group in groups or (1,))
        self.forget()

    def forget(self) -> None:
        """Forget what happened up to here."""
        self.events.clear()
        self.post.sent.clear()
        self.heard.clear()
        self.routes.clear()

    def close(self) -> None:
        self.disk.gate.set()
        self.disk.error = None
        self.engine.close()
        self.store.close()


def to_item(group: int, message: Message) -> Any:
    return unpack(pack_item(messages_to_wire([(group, message)])))


async def turns(count: int = 10) -> None:
    """Let everything that is ready run, and what that makes ready."""
    for _ in range(count):
        await asyncio.sleep(0)


def entry(term: int, index: int, payload: bytes = b"") -> Entry:
    return Entry(term, index, EntryKind.NORMAL, payload)


def read_back(directory: Path, group: int = 1) -> tuple[HardState, list[Entry]]:
    """Read back, as a restart would, what the disk holds of a group: hard state and entries."""
    store = SegmentManager(directory, segment_bytes=SEGMENT_BYTES)
    store.open()
    log = store.group_log(group, Membership(MEMBERS))
    hard_state = log.initial_state()[0]
    last = log.last_index()
    entries = log.entries(1, last + 1, 1 << 30) if last else []
    store.close()
    return hard_state, entries
