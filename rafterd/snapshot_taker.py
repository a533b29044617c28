"""Snapshots of this shard's own groups: when one is due, how it is taken, what it lets go of.

Every replica takes its own, leader or not. One is due once the entries applied since the last one
weigh `snapshot.log_bytes`, or as much as that snapshot, if that is more: so snapshots never write
more than the log does. They are taken one after the other, by another thread that works half of the
time at most, since it shares the interpreter with the event loop.

The order is: the snapshot is durable -> the log's metadata names it and the log is cut, durably ->
older snapshots go. As many are kept as the store retains, and the log back to the oldest of them,
and to those that are being sent: their receivers have to go on from there.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from rafter_storage.errors import SnapshotRefused, StorageError
from rafter_storage.segment_manager import GroupChange
from rafter_storage.snapshot_reader import SnapshotInfo
from rafter_storage.snapshot_store import SnapshotStore
from rafter_storage.snapshot_writer import SnapshotWriter
from rafter_transport.express_ends import Run
from rafter_transport.worker import Worker
from rafterd.config_schema import SnapshotSection
from rafterd.engine import Engine
from rafterd.environment import Buggify, never
from rafterd.replica import Replica
from rafterd.shared import Counter

__all__ = ["IMAGE_NAME", "GivenUp", "SnapshotTaker", "paced", "record"]

logger = logging.getLogger(__name__)

IMAGE_NAME = "image"
"""The one file of a snapshot: what the state machine's `save_snapshot` yields."""

RETRY_SECONDS = 10.0
"""How long a group whose snapshot failed waits before the next try: a full disk stays full."""

PAUSE_SECONDS_MAX = 0.05


class GivenUp(Exception):
    """The shard ends, or the state is being replaced: nobody needs this snapshot any more."""


class SnapshotTaker:
    """Takes the snapshots of one shard's groups. On its loop, but for the writing itself."""

    def __init__(
        self,
        *,
        engine: Engine,
        store: SnapshotStore,
        limits: SnapshotSection,
        groups_max: int,
        run: Run,
        now_seconds: Callable[[], float],
        counters: memoryview,
        buggify: Buggify = never,
    ) -> None:
        """Begin with nothing to do, for up to `groups_max` groups."""
        self._engine = engine
        self._store = store
        self._limits = limits
        self._run = run
        self._now_seconds = now_seconds
        self._counters = counters
        self._buggify = buggify
        self._asked: set[int] = set()
        self._retry_at_seconds: dict[int, float] = {}
        self._is_closed = False
        self._worker: Worker[int] = Worker(self._take_each, capacity=max(1, groups_max))

    async def work(self) -> None:
        """Take what is asked for, until `close`; the owner's one task for it."""
        await self._worker.run()

    def look(self) -> None:
        """Ask for a snapshot of each group that needs one. Called some times a second."""
        now_seconds = self._now_seconds()
        for group, replica in self._engine.replicas.items():
            if now_seconds >= self._retry_at_seconds.get(group, 0.0) and self._is_due(replica):
                self.ask(group)

    def ask(self, group: int) -> bool:
        """Take a snapshot of a group as soon as it is its turn. False if one is coming already."""
        if self._is_closed or group in self._asked or not self._worker.push(group):
            return False
        self._asked.add(group)
        return True

    def close(self) -> None:
        """Take no further snapshot, and give up the one under way; `work` returns soon."""
        self._is_closed = True
        self._worker.close()

    def _is_due(self, replica: Replica) -> bool:
        if replica.is_installing:
            return False
        newest = self._store.newest(replica.group)
        newest_index = 0 if newest is None else newest.index
        if newest_index < replica.snapshot_index:
            # The one that was there has proved damaged. Without another one a follower that lags
            # might have to wait for ever, since an idle group's log does not grow.
            return True
        limits = self._limits
        log_bytes = limits.log_bytes
        if newest is not None:
            log_bytes = max(log_bytes, newest.manifest.size_bytes)
        entries = replica.node.applied - newest_index
        return entries > 0 and (
            entries >= limits.log_entries
            or replica.logged_bytes >= log_bytes
            or self._buggify("taker.early_snapshot")
        )

    async def _take_each(self, groups: list[int]) -> None:
        for group in groups:
            replica = self._engine.replicas.get(group)
            if replica is not None and not self._is_closed:
                await self._take(replica)
            self._asked.discard(group)

    async def _take(self, replica: Replica) -> None:
        """Take one snapshot, unless the state machine is not where the log is just now."""
        group, place = replica.group, replica.applied
        if replica.is_installing or place.index < replica.snapshot_index:
            return
        try:
            writer = self._store.begin(
                group, place.index, place.term, replica.node.membership, place.membership_index
            )
        except SnapshotRefused as error:
            self._retry_at_seconds[group] = self._now_seconds() + RETRY_SECONDS
            logger.info("group %d: no snapshot of index %d: %s", group, place.index, error)
            return
        # In one turn with the place, so that no update lies between.
        covered_bytes = replica.logged_bytes
        prepared = replica.machine.prepare_snapshot()
        image = replica.machine.save_snapshot(prepared)

        def is_given_up() -> bool:
            # An installed snapshot has replaced the state, perhaps in part of the image already.
            return (
                self._is_closed
                or replica.is_condemned
                or replica.is_installing
                or replica.snapshot_index > place.index
            )

        started_seconds = self._now_seconds()
        try:
            info = await self._run(lambda: _write(writer, image, is_given_up))
        except Exception as error:  # noqa: BLE001 - it costs a snapshot, and not the shard
            await self._run(writer.abort)
            self._failed(group, place.index, GivenUp() if is_given_up() else error)
            return
        self._store.admit(writer)
        self._counters[Counter.SNAPSHOTS_TAKEN_TOTAL] += 1
        logger.info(
            "group %d: a snapshot of index %d, %d bytes, in %.1f s",
            group, place.index, info.manifest.size_bytes, self._now_seconds() - started_seconds,
        )  # fmt: skip
        if not is_given_up():
            replica.snapshot_taken(place.index, covered_bytes)
            await record(self._cut(info), engine=self._engine, store=self._store, run=self._run)

    def _failed(self, group: int, index: int, error: Exception) -> None:
        if isinstance(error, GivenUp):
            logger.info("group %d: the snapshot of index %d is given up", group, index)
            return
        self._retry_at_seconds[group] = self._now_seconds() + RETRY_SECONDS
        self._counters[Counter.SNAPSHOTS_FAILED_TOTAL] += 1
        # A state machine's own error is a fault of the program, which is to be found.
        trace = None if isinstance(error, StorageError) else error
        logger.error("group %d: no snapshot of index %d: %s", group, index, error, exc_info=trace)

    def _cut(self, info: SnapshotInfo) -> GroupChange:
        """Return what the log is to know of a new snapshot, and how far it may be cut for it."""
        store, group = self._store, info.group
        compact_to = store.compactable_index(group)
        read_index = store.oldest_read_index(group)
        if read_index is not None and not self._engine.is_disk_full:
            compact_to = min(compact_to, read_index)
        return GroupChange(
            group,
            membership=(info.membership_index, info.membership),
            snapshot=(info.index, info.term),
            compact_to=min(compact_to, info.index),
        )


async def record(change: GroupChange, *, engine: Engine, store: SnapshotStore, run: Run) -> None:
    """Let the log name a snapshot, durably, and then let go of what that makes needless.

    Does not return if the engine stops. Raises nothing.
    """
    assert change.snapshot is not None
    group = change.group
    recorded: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    engine.change(change, recorded.set_result)
    if not await recorded:
        return
    newest = store.newest(group)
    if newest is None or newest.index != change.snapshot[0]:
        # One that came meanwhile is no reason to let go of any before the log names it.
        return
    try:
        removal = store.retire(group)
        if removal.paths:
            await run(removal.run)
    except StorageError as error:
        # They are no harm, and the next start removes them.
        logger.error("group %d: old snapshots stay: %s", group, error)


def _write(
    writer: SnapshotWriter, image: Generator[bytes, None, None], is_given_up: Callable[[], bool]
) -> SnapshotInfo:
    """Write an image and publish it. On another thread than the loop's."""
    # Closed at once also when it is given up: until then the state machine holds its state still.
    with closing(image):
        for chunk in paced(image):
            # After the chunk was made: only now is it known to be of the state that was prepared.
            if is_given_up():
                raise GivenUp
            writer.write(IMAGE_NAME, chunk)
    # Also an empty image has its file.
    writer.write(IMAGE_NAME, b"")
    return writer.finish()


def paced(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield chunks, and after each one rest as long as it took, to be made and to be used.

    For the threads beside the event loop: while one of them is busy, each turn of the loop may wait
    for the interpreter as long as its switch interval.
    """
    busy_since = time.perf_counter()
    for chunk in chunks:
        yield chunk
        time.sleep(min(time.perf_counter() - busy_since, PAUSE_SECONDS_MAX))
        busy_since = time.perf_counter()
