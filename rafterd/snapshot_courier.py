"""Snapshots between this shard and others: sent to followers that lag, received and installed.

The raft message that announces a snapshot travels with it, over express, and is given to the core
only once the snapshot is verified and durable here. If the core takes it, the state machine
recovers from it on another thread, while the engine holds back what must not be said before.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Protocol

from rafter_core import (
    NO_NODE,
    DecodeError,
    Message,
    MessageKind,
    Snapshot,
    messages_from_wire,
    messages_to_wire,
)
from rafter_storage.errors import CorruptionError, Damage, SnapshotCorrupted, StorageError
from rafter_storage.segment_manager import GroupChange
from rafter_storage.snapshot_reader import SnapshotInfo, SnapshotReader
from rafter_storage.snapshot_store import SnapshotStore
from rafter_transport.express import Transfer
from rafter_transport.express_ends import Run, Sink, SinkError, Source
from rafter_transport.express_sender import Ending, Outcome
from rafter_transport.payload import PayloadError, pack_item, unpack
from rafterd.engine import Engine
from rafterd.environment import Buggify, never
from rafterd.express_files import ExpressFiles
from rafterd.placement import shard_of_group
from rafterd.raft_post import ShardCounts
from rafterd.replica import Place, Replica
from rafterd.shared import Counter
from rafterd.snapshot_taker import IMAGE_NAME, GivenUp, paced, record

__all__ = ["SnapshotCourier", "place_of", "set_aside"]

logger = logging.getLogger(__name__)

RETRY_SECONDS = 3.0
"""How long a node is sent nothing of a group that has not taken its snapshot. Raft asks again with
every heartbeat, and what has failed may fail again after many bytes: a full disk above all."""

CLOSE_SECONDS = 1.0


def place_of(info: SnapshotInfo) -> Place:
    """Return where a state machine is that has recovered from this snapshot."""
    return Place(info.index, info.term, info.membership_index)


class Sender(Protocol):
    """The part of express that the courier uses."""

    def send(self, node: int, shard: int, group: int, message: bytes, source: Source) -> bool:
        """Send a snapshot; False if it is refused, and then the source stays the caller's."""

    def cancel(self, group: int, node: int) -> bool:
        """End a transfer to a node; False if there is none."""

    def cancel_receive(self, group: int) -> bool:
        """End a transfer to here; False if there is none."""

    def transfers(self) -> list[Transfer]:
        """Return what is under way or waiting."""


class SnapshotCourier:
    """The engine's `SnapshotHandler`, and what express asks and tells. On the shard's loop."""

    def __init__(
        self,
        *,
        engine: Engine,
        store: SnapshotStore,
        files: ExpressFiles,
        shard_counts: ShardCounts,
        run: Run,
        now_seconds: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
        counters: memoryview,
        on_fatal: Callable[[BaseException], None],
        buggify: Buggify = never,
    ) -> None:
        """Begin with nothing to do. `express` must be set before the first call."""
        self.express: Sender
        self._engine = engine
        self._store = store
        self._files = files
        self._shard_counts = shard_counts
        self._run = run
        self._now_seconds = now_seconds
        self._loop = loop
        self._counters = counters
        self._on_fatal = on_fatal
        self._buggify = buggify
        # By group and node: the term in which a transfer was begun, when the next one may be.
        self._terms: dict[tuple[int, int], int] = {}
        self._retry_at_seconds: dict[tuple[int, int], float] = {}
        self._installs: dict[int, asyncio.Task[None]] = {}
        self._is_closed = False

    # Out --------------------------------------------------------------------------------------

    def send(self, group: int, message: Message) -> None:
        """Send the snapshot that the core asks for, or report soon that it cannot be."""
        if not self._send(group, message):
            self._loop.call_soon(self._report, group, message.to, False)

    def _send(self, group: int, message: Message) -> bool:
        assert message.snapshot is not None, "the core sends none without"
        node = message.to
        if self._now_seconds() < self._retry_at_seconds.get((group, node), 0.0):
            return False
        shards = self._shard_counts.shard_count(node)
        info = self._to_send(group, message.snapshot.index)
        if shards is None or info is None or self._buggify("courier.refusal"):
            return False
        message.snapshot = info.snapshot
        packed = pack_item(messages_to_wire([(group, message)]))
        source = self._files.source(info)
        if self.express.send(node, shard_of_group(group, shards), group, packed, source):
            self._terms[group, node] = message.term
            logger.info(
                "group %d: a snapshot of index %d, %d bytes, goes to node %d",
                group, info.index, info.manifest.size_bytes, node,
            )  # fmt: skip
            return True
        source.close()
        return False

    def _to_send(self, group: int, index: int) -> SnapshotInfo | None:
        """Return the snapshot of `index`, or, if that has proved damaged, the newest before it."""
        found = [info for info in self._store.snapshots(group) if info.index <= index]
        return found[-1] if found else None

    def sent(self, group: int, node: int, outcome: Outcome) -> None:
        """Take note of how a transfer has ended; express calls it once for each."""
        key = group, node
        is_ok = outcome.ending is Ending.FINISHED
        self._terms.pop(key, None)
        self._retry_at_seconds.pop(key, None)
        if is_ok:
            self._counters[Counter.SNAPSHOTS_SENT_TOTAL] += 1
            logger.info("group %d: node %d has the snapshot", group, node)
        else:
            if outcome.ending is not Ending.PEER_GONE:
                # One that has gone is not asked for before it is heard again.
                self._retry_at_seconds[key] = self._now_seconds() + RETRY_SECONDS
            self._counters[Counter.SNAPSHOTS_UNSENT_TOTAL] += 1
            logger.warning(
                "group %d: node %d has not got the snapshot: %s", group, node, outcome.reason
            )
        self._report(group, node, is_ok)

    def _report(self, group: int, node: int, is_ok: bool) -> None:
        self._engine.report_snapshot(group, node, is_ok=is_ok)

    def look(self) -> None:
        """End transfers whose leader leads no more: its message would be ignored in the end.

        Called some times a second. What comes from a deposed leader also stands in the way of what
        its successor sends.
        """
        for transfer in self.express.transfers():
            group, node = transfer.group, transfer.node
            replica = self._engine.replicas.get(group)
            if transfer.is_sent:
                term = self._terms.get((group, node))
                if replica is None or not replica.is_leader or replica.node.term != term:
                    self.express.cancel(group, node)
            elif replica is None or replica.node.leader not in (NO_NODE, node):
                self.express.cancel_receive(group)

    # In ---------------------------------------------------------------------------------------

    def open_sink(self, group: int, manifest: bytes) -> Sink:
        """Take an offer, or raise SinkError: for groups that have no replica in this shard."""
        replica = self._engine.replicas.get(group)
        if replica is None:
            raise SinkError("refused", f"group {group} has no replica that is served here")
        if replica.is_installing:
            raise SinkError("busy", f"group {group} is installing an earlier snapshot")
        return self._files.sink(group, manifest)

    def received(self, group: int, node: int, packed: bytes) -> None:
        """Give the core the message of a snapshot that is durable here."""
        replica = self._engine.replicas.get(group)
        if replica is None:
            return
        try:
            message = self._checked(group, node, packed)
        except (PayloadError, DecodeError) as error:
            logger.error("group %d: the message of a snapshot of node %d: %s", group, node, error)
            return
        self._counters[Counter.SNAPSHOTS_RECEIVED_TOTAL] += 1
        try:
            shards = self._shard_counts.shard_count(node) or 1
            self._engine.step(replica, message, shard_of_group(group, shards))
        except Exception as error:  # noqa: BLE001 - a broken invariant stops the shard
            self._on_fatal(error)
            return
        assert message.snapshot is not None, "that has been checked"
        if replica.node.commit < message.snapshot.index:
            # The term is over, and with it the leader. Its successor may have an older snapshot,
            # which the store would refuse for this one, though nothing leads to this one any more.
            self._set_aside(group, message.snapshot)

    def _checked(self, group: int, node: int, packed: bytes) -> Message:
        """Decode a message, and hold it against who sent it and what came with it."""
        (named, message), *others = messages_from_wire(unpack(packed))
        if others:
            raise DecodeError("is more than one")
        if message.kind is not MessageKind.SNAPSHOT or message.snapshot is None:
            raise DecodeError(f"is a {message.kind.name}")
        if named != group or message.sender != node:
            raise DecodeError(f"speaks of group {named} in the name of node {message.sender}")
        if not any(info.snapshot == message.snapshot for info in self._store.snapshots(group)):
            raise DecodeError(f"speaks of {message.snapshot}, which has not come with it")
        return message

    def _set_aside(self, group: int, snapshot: Snapshot) -> None:
        for info in self._store.snapshots(group):
            if info.snapshot == snapshot:
                set_aside(self._store, info)

    def install(self, replica: Replica, snapshot: Snapshot) -> None:
        """Let the state machine recover from a snapshot that `received` has announced."""
        group = replica.group
        (info,) = [info for info in self._store.snapshots(group) if info.snapshot == snapshot]
        # Read from now on, so that it stays whatever comes.
        reader = self._store.read(info)
        task = self._loop.create_task(self._install(replica, reader, self._installs.get(group)))
        self._installs[group] = task
        task.add_done_callback(functools.partial(self._installed, group))

    async def _install(
        self, replica: Replica, reader: SnapshotReader, earlier: "asyncio.Task[None] | None"
    ) -> None:
        info = reader.info
        try:
            if earlier is not None:
                await asyncio.wait((earlier,))
            if replica.is_condemned or replica.installing_index != info.index:
                return
            is_there = await self._recover(replica, reader)
        finally:
            reader.close()
        if is_there:
            self._engine.snapshot_installed(replica, place_of(info))
            change = GroupChange(
                info.group,
                membership=(info.membership_index, info.membership),
                snapshot=(info.index, info.term),
            )
            await record(change, engine=self._engine, store=self._store, run=self._run)

    async def _recover(self, replica: Replica, reader: SnapshotReader) -> bool:
        """Let a state machine recover; False if it has not, and the reason is dealt with."""
        info, machine = reader.info, replica.machine
        chunks = self._checking(paced(reader.chunks(IMAGE_NAME)))
        started_seconds = self._now_seconds()
        try:
            await self._run(lambda: machine.recover_from_snapshot(chunks))
        except GivenUp:
            return False
        except SnapshotCorrupted as error:
            self._store.mark_damaged(info, error.damage)
            # The log does not reach back behind it any more.
            self._engine.condemn(replica, CorruptionError(error.damage, replica.group))
            return False
        except StorageError:
            raise
        except Exception as error:
            # Of a later version, perhaps. It concerns this group alone.
            logger.exception("group %d: cannot recover from %s", info.group, info.path)
            damage = Damage(info.path, 0, f"the state machine does not take it: {error}")
            self._engine.condemn(replica, CorruptionError(damage, replica.group))
            return False
        self._counters[Counter.SNAPSHOTS_INSTALLED_TOTAL] += 1
        logger.info(
            "group %d: installed the snapshot of index %d, %d bytes, in %.1f s",
            info.group, info.index, info.manifest.size_bytes, self._now_seconds() - started_seconds,
        )  # fmt: skip
        return True

    def _installed(self, group: int, task: "asyncio.Task[None]") -> None:
        if self._installs.get(group) is task:
            del self._installs[group]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_fatal(error)

    def _checking(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self._is_closed:
                raise GivenUp
            yield chunk

    async def close(self) -> None:
        """Give up the installations under way: the next start recovers from their snapshots."""
        self._is_closed = True
        tasks = [*self._installs.values()]
        if tasks:
            # They may wait for a log that is not written any more.
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            for task in tasks:
                task.cancel()


def set_aside(store: SnapshotStore, info: SnapshotInfo) -> None:
    """Take a snapshot out of use that was received and never installed.

    It stays on disk until the log has passed it.
    """
    store.mark_damaged(info, Damage(info.path, 0, "it was received and did not become the log"))
