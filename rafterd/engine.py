"""The engine: runs all groups of one shard, their log and their messages, in one loop.

Everything that happens in one turn of the event loop (commands from clients, messages from peers,
the end of a sync, a tick) only marks groups as dirty. One `call_soon` later a *round* runs:

1. routers form their batches and leaders propose them: one entry per dirty group;
2. each dirty group hands out its Ready: messages for peers, records for the log, entries to apply;
3. if the flusher is idle, all records that wait become one write and one sync, for all groups;
4. one frame leaves for each destination shard, then the replies, one write per connection.

There are no timers for batching: under load rounds grow by themselves, idle they are immediate.
A leader's appends leave in step 4, while its own sync runs; its own vote for them counts when that
sync returns (`RawNode.storage_done`). Messages that promise something to others (votes, append
responses) leave only then (architecture.md §5, §8.1; thesis 10.2.1).

A snapshot of the leader is durable before the engine hears of it. Its Ready goes to the log as any
other, while the state machine takes the snapshot in on another thread; what that Ready and those
behind it promise is held until both are done.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from rafter_core import (
    HardState,
    Message,
    MessageKind,
    Ready,
    RequestRefused,
    Snapshot,
    StepError,
)
from rafter_storage.errors import CorruptionError, DiskFull
from rafter_storage.segment_manager import GroupChange, GroupWrite, SegmentManager, WriteJob
from rafterd.environment import Buggify, MakeFlusher, never
from rafterd.flusher import Flusher, Job, make_flusher
from rafterd.placement import shard_of_group
from rafterd.raft_post import RaftCarrier, RaftPost, ShardCounts, received
from rafterd.replica import Place, Replica
from rafterd.shared import Counter

logger = logging.getLogger(__name__)

JOBS_PER_CHORE = 16
"""How many writes go first, under load, before housekeeping may have the disk for a step."""


class _Stored(NamedTuple):
    """A Ready on its way to the log, with the hard state as it was when the Ready was taken."""

    replica: Replica
    ready: Ready
    hard_state: HardState


class _Change(NamedTuple):
    """A change of a group's log, and who is to hear what came of it."""

    change: GroupChange
    on_end: Callable[[bool], None]


class SnapshotHandler(Protocol):
    """Who moves snapshots for the engine. Called on the loop, within a round."""

    def send(self, group: int, message: Message) -> None:
        """Bring the snapshot that `message` speaks of to its receiver, and the message with it.

        `Engine.report_snapshot` is called when that has ended, and never from within this call.
        """

    def install(self, replica: Replica, snapshot: Snapshot) -> None:
        """Let the state machine recover from a snapshot, on another thread.

        `Engine.snapshot_installed` is called when it has, and never from within this call.
        """


class Engine:
    """Schedules the replicas of one shard. All methods run on the shard's loop."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        store: SegmentManager,
        post: RaftCarrier,
        shard_counts: ShardCounts,
        counters: memoryview,
        sync_mode: str,
        on_fatal: Callable[[BaseException], None],
        make_flusher: MakeFlusher = make_flusher,
        buggify: Buggify = never,
    ) -> None:
        """Begin without groups. `snapshots` must be set before the first round."""
        self.snapshots: SnapshotHandler
        self.replicas: dict[int, Replica] = {}
        self.before_round: Callable[[], None] = _nothing
        self.after_round: Callable[[], None] = _nothing
        self.on_condemned: Callable[[int], None] = _ignore
        self._loop = loop
        self._store = store
        self._post = RaftPost(post, shard_counts, self._send_snapshot)
        self._shard_counts = shard_counts
        self._counters = counters
        self._on_fatal = on_fatal
        self._buggify = buggify
        self._flusher: Flusher = make_flusher(sync_mode, loop, self._write_ended)
        self._is_scheduled = False
        self._is_stopped = False
        self._dirty: list[Replica] = []
        # What the next write job takes along, in the order of the Readys.
        self._waiting: list[_Stored] = []
        self._must_sync = False
        self._changes: list[_Change] = []
        self._in_job: list[_Stored] = []
        self._changes_in_job: list[_Change] = []
        # What is durable and waits for a snapshot to be in the state machine, by group.
        self._held: dict[int, list[_Stored]] = {}
        self._jobs_since_chore = 0
        # A write that found no room on the disk: it stays the next one until there is.
        self._stalled: WriteJob | None = None

    # Input ------------------------------------------------------------------------------------

    def add(self, replica: Replica) -> None:
        """Take a replica in; it runs from the next round on."""
        self.replicas[replica.group] = replica
        self.mark(replica)

    def mark(self, replica: Replica) -> None:
        """Look at `replica` in the coming round."""
        if not replica.is_dirty and not replica.is_condemned:
            replica.is_dirty = True
            self._dirty.append(replica)
            if not self._is_scheduled:
                self.schedule()

    def schedule(self) -> None:
        """Run a round soon; calling it again before then changes nothing."""
        if not self._is_scheduled and not self._is_stopped:
            self._is_scheduled = True
            self._loop.call_soon(self._round)

    def receive(self, node: int, shard: int, items: Iterable[Any]) -> None:
        """Step raft messages from the shard (node, shard). Malformed ones raise DecodeError."""
        for group, message in received(node, items):
            replica = self.replicas.get(group)
            if replica is None:
                continue
            if message.kind is MessageKind.SNAPSHOT:
                # Without its data, which comes another way, and the message with it.
                logger.warning(
                    "group %d ignored a bare snapshot of node %d, shard %d", group, node, shard
                )
                continue
            self.step(replica, message, shard)

    def step(self, replica: Replica, message: Message, shard: int) -> None:
        """Give a replica one message of a node's shard. A snapshot must be durable here already."""
        try:
            replica.node.step(message)
        except (StepError, RequestRefused) as error:
            logger.warning(
                "group %d refused a message of node %d, shard %d: %s",
                replica.group, message.sender, shard, error,
            )  # fmt: skip
            return
        except CorruptionError as error:
            self._condemn(replica, error)
            return
        if replica.node.has_ready():
            self.mark(replica)

    def tick(self) -> None:
        """Advance the time of every group by one tick."""
        self.for_each(_tick)

    def for_each(self, action: Callable[[Replica], None]) -> None:
        """Do something with every replica, and look at what comes of it in the coming round.

        Whatever a node is asked to do may make it read its log: a replica whose log proves damaged
        goes out of service, and the others go on.
        """
        condemned: list[tuple[Replica, CorruptionError]] = []
        for replica in self.replicas.values():
            try:
                action(replica)
            except CorruptionError as error:
                condemned.append((replica, error))
                continue
            if replica.node.has_ready():
                self.mark(replica)
        for replica, damage in condemned:
            self._condemn(replica, damage)

    def report_unreachable(self, node: int, shard: int) -> None:
        """Tell the groups that lie on the shard (node, shard) that messages to it were lost."""
        shards = self._shard_counts.shard_count(node)
        for replica in self.replicas.values():
            if node in replica.members and (
                shards is None or shard_of_group(replica.group, shards) == shard
            ):
                replica.node.report_unreachable(node)
                self.mark(replica)

    # Snapshots --------------------------------------------------------------------------------

    def _send_snapshot(self, group: int, message: Message) -> None:
        self.snapshots.send(group, message)

    def report_snapshot(self, group: int, node: int, *, is_ok: bool) -> None:
        """Tell a group how sending its snapshot to a node has ended."""
        replica = self.replicas.get(group)
        if replica is not None:
            replica.node.report_snapshot(node, is_ok)
            self.mark(replica)

    def snapshot_installed(self, replica: Replica, place: Place) -> None:
        """Go on with a replica whose state machine has recovered from the snapshot at `place`."""
        if self._is_stopped or replica.is_condemned or place.index != replica.installing_index:
            # Or a newer snapshot has come meanwhile, and is being installed next.
            return
        replica.snapshot_installed(place)
        self._release(self._held.pop(replica.group, []))
        self.mark(replica)

    def change(self, change: GroupChange, on_end: Callable[[bool], None]) -> None:
        """Change what a group's log knows beside its entries.

        `on_end(True)` is called once that is durable, `on_end(False)` if before that the group goes
        out of service or its log is replaced by a snapshot, and neither if the engine stops.
        """
        if change.group not in self.replicas:
            on_end(False)
            return
        self._changes.append(_Change(change, on_end))
        self.schedule()

    def _give_up_changes(self, group: int) -> None:
        """Drop what no job has begun: it was asked for a log that counts no more."""
        given_up = [each for each in self._changes if each.change.group == group]
        if given_up:
            self._changes = [each for each in self._changes if each.change.group != group]
            for _, on_end in given_up:
                on_end(False)

    def condemn(self, replica: Replica, error: CorruptionError) -> None:
        """Give up a group whose snapshot or log proved damaged outside of the engine."""
        if not replica.is_condemned:
            self._condemn(replica, error)

    # The round --------------------------------------------------------------------------------

    def _round(self) -> None:
        self._is_scheduled = False
        if self._is_stopped:
            return
        try:
            self.before_round()
            dirty = self._dirty
            self._dirty = []
            for replica in dirty:
                replica.is_dirty = False
                if replica.is_condemned:
                    continue
                try:
                    self._advance(replica)
                except CorruptionError as error:
                    self._condemn(replica, error)
            self._begin_write()
            self._post.flush()
            self.after_round()
        except Exception as error:  # noqa: BLE001 - a broken invariant stops the shard
            self._stop_for(error)

    def _condemn(self, replica: Replica, error: CorruptionError) -> None:
        """Give up one group whose log proved damaged; the others go on.

        Raises the error if it is not about that group alone.
        """
        group = replica.group
        if error.group != group or self.replicas.get(group) is not replica:
            raise error
        logger.error("group %d is not served any more, its log is damaged: %s", group, error)
        del self.replicas[group]
        self._waiting = [stored for stored in self._waiting if stored.replica is not replica]
        self._held.pop(group, None)
        self._store.condemn(group, error.damage)
        replica.condemn()
        self.on_condemned(group)
        self._give_up_changes(group)

    def _advance(self, replica: Replica) -> None:
        replica.advance()
        node = replica.node
        if not node.has_ready():
            return
        ready = replica.take_ready()
        if ready.messages:
            self._post.send(replica.group, ready.messages)
        if ready.snapshot is not None:
            # They would take effect behind it, and say of the new log what was true of the old.
            self._give_up_changes(replica.group)
            self.snapshots.install(replica, ready.snapshot)
        if _must_be_written(ready) or replica.readies_in_storage:
            # Without entries of its own a Ready may still speak of entries that are being synced.
            self._must_sync = self._must_sync or _must_be_written(ready)
            self._waiting.append(_Stored(replica, ready, replica.hard_state))
            replica.readies_in_storage += 1
        else:
            self._stored(replica, ready)
        if ready.committed:
            self._counters[Counter.ENTRIES_APPLIED_TOTAL] += len(ready.committed)
        replica.publish_route()
        if node.has_ready():
            self.mark(replica)

    def _stored(self, replica: Replica, ready: Ready) -> None:
        """Release what had to wait until `ready` was durable."""
        if ready.messages_after_sync:
            self._post.send(replica.group, ready.messages_after_sync)
        replica.node.storage_done(ready)

    # The log ----------------------------------------------------------------------------------

    def _begin_write(self) -> None:
        """Start one write for everything that waits, unless one is running."""
        if self._flusher.is_busy:
            return
        if self._stalled is not None or not (self._waiting or self._changes):
            self._begin_housekeeping()
            return
        if self._jobs_since_chore >= JOBS_PER_CHORE and self._begin_chore():
            return
        if self._buggify("engine.late_write"):
            self.schedule()
            return
        waiting = self._waiting
        self._waiting = []
        if not (self._must_sync or self._changes):
            self._release(waiting)
            return
        self._must_sync = False
        self._in_job = waiting
        self._changes_in_job, self._changes = self._changes, []
        # A commit index alone is not worth a sync; it rides along with the next record.
        writes = [
            GroupWrite(
                stored.replica.group, stored.hard_state, stored.ready.entries, stored.ready.snapshot
            )
            for stored in waiting
            if _must_be_written(stored.ready)
        ]
        job = self._store.begin(writes, [each.change for each in self._changes_in_job])
        # Changes alone would only be written; they are rare, and what follows them must wait.
        job.must_sync = job.must_sync or bool(self._changes_in_job)
        self._flusher.submit(job)
        self._counters[Counter.ROUNDS_TOTAL] += 1
        self._jobs_since_chore += 1

    def _begin_housekeeping(self) -> None:
        """Let the log put itself in order while nothing else is to be written."""
        if not self._begin_chore() and self._stalled is None and self._store.needs_cleaning:
            self._flusher.submit(self._store.begin([]))

    def _begin_chore(self) -> bool:
        self._jobs_since_chore = 0
        chore = self._store.chore()
        if chore is not None:
            self._flusher.submit(chore)
        return chore is not None

    def housekeep(self) -> None:
        """Try again what found the disk full, or failed. Called about once a second."""
        self._store.resume()
        if not self._flusher.is_busy and self._stalled is not None:
            job, self._stalled = self._stalled, None
            self._flusher.submit(job)
        else:
            self.schedule()

    @property
    def is_disk_full(self) -> bool:
        """Whether the log may soon have no room for another write: refuse what can be refused."""
        return self._store.is_disk_full

    def _write_ended(self, job: Job, error: Exception | None) -> None:
        if self._is_stopped:
            return
        try:
            if isinstance(job, WriteJob):
                self._job_ended(job, error)
            else:
                self._store.complete_chore(job, error)
        except Exception as failure:  # noqa: BLE001 - no ack may follow a failed write
            self._stop_for(failure)
            return
        # In this very callback: what the sync released should not wait for another turn.
        self._round()

    def _job_ended(self, job: WriteJob, error: Exception | None) -> None:
        if isinstance(error, DiskFull):
            logger.error("%s: writes wait until there is", error)
            self._store.disk_is_full(job)
            self._stalled = job
            return
        if error is not None:
            raise error
        self._store.complete(job)
        released = self._in_job
        changed = self._changes_in_job
        self._in_job = []
        self._changes_in_job = []
        self._release(released)
        for _, on_end in changed:
            on_end(True)

    def _release(self, released: list[_Stored]) -> None:
        for stored in released:
            replica = stored.replica
            if replica.is_condemned:
                continue
            if replica.is_installing:
                self._held.setdefault(replica.group, []).append(stored)
                continue
            replica.readies_in_storage -= 1
            self._stored(replica, stored.ready)
            self.mark(replica)

    def publish_storage(self) -> None:
        """Store the counters of the log. Called about once a second."""
        statistics = self._store.statistics()
        counters = self._counters
        counters[Counter.WAL_BYTES_TOTAL] = statistics.appended_bytes
        counters[Counter.WAL_SYNCS_TOTAL] = statistics.syncs
        counters[Counter.WAL_SYNC_MICROSECONDS_TOTAL] = int(statistics.sync_seconds * 1_000_000)
        counters[Counter.WAL_SEGMENTS] = statistics.segments
        counters[Counter.WAL_DISK_BYTES] = statistics.disk_bytes
        counters[Counter.WAL_LIVE_BYTES] = statistics.live_bytes
        counters[Counter.WAL_COPIED_BYTES_TOTAL] = statistics.copied_bytes
        counters[Counter.WAL_OLDEST_GROUP] = statistics.oldest_group or 0
        counters[Counter.WAL_IS_DISK_FULL] = statistics.is_disk_full

    # The end ----------------------------------------------------------------------------------

    def _stop_for(self, error: BaseException) -> None:
        if not self._is_stopped:
            self._is_stopped = True
            self._on_fatal(error)

    def close(self) -> None:
        """Stop scheduling and wait for a write that is running."""
        self._is_stopped = True
        self._flusher.close()


def _must_be_written(ready: Ready) -> bool:
    return ready.must_sync or ready.snapshot is not None


def _tick(replica: Replica) -> None:
    replica.node.tick()


def _nothing() -> None:
    return


def _ignore(_group: int) -> None:
    return
