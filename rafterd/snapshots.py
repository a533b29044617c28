"""All that one shard does with snapshots, put together: keep, take, send, receive, install."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from rafter_core import Membership, StateMachine
from rafter_storage.data_directory import snapshots_directory
from rafter_storage.errors import Damage, SnapshotCorrupted, StorageError
from rafter_storage.file_system import FileSystem
from rafter_storage.group_log import GroupLog
from rafter_storage.snapshot_reader import SnapshotInfo
from rafter_storage.snapshot_store import SnapshotStore
from rafter_transport.exchanger import Exchanger
from rafter_transport.express import Express
from rafter_transport.handshake import Hello, Lane
from rafter_transport.limits import Limits
from rafter_transport.registry import Registry
from rafter_transport.tls import PeerTls
from rafterd.config_schema import Config
from rafterd.engine import Engine
from rafterd.environment import Buggify, never
from rafterd.express_files import ExpressFiles
from rafterd.replica import NOWHERE, Place
from rafterd.shared import Counter
from rafterd.snapshot_courier import SnapshotCourier, place_of, set_aside
from rafterd.snapshot_taker import IMAGE_NAME, SnapshotTaker

__all__ = ["Recovered", "Snapshots", "open_snapshots", "recover"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Machine = TypeVar("Machine", bound=StateMachine)

CLOSE_SECONDS = 1.0

THREADS = 2
"""One for the snapshot that is being taken, one for those that are being installed."""


class Recovered(NamedTuple, Generic[Machine]):
    """A state machine at the start, where it is in the log, and the configuration there.

    Without a snapshot the configuration is what the log knows.
    """

    machine: Machine
    place: Place
    membership: Membership | None


def open_snapshots(config: Config, groups: list[int], files: FileSystem) -> SnapshotStore:
    """Open the snapshots of a shard's groups. Raises DataDirectoryError and StorageError."""
    section = config.snapshot
    store = SnapshotStore(
        snapshots_directory(Path(config.node.data_dir)),
        files=files,
        retained=section.retained,
        chunk_bytes=section.chunk_bytes,
    )
    store.open(groups)
    for damaged in store.damaged:
        logger.error("group %d: a snapshot is damaged: %s", damaged.group, damaged.damage)
    return store


def recover(
    store: SnapshotStore,
    log: GroupLog,
    make_machine: Callable[[], Machine],
    progress: Callable[[], None],
) -> Recovered[Machine] | None:
    """Return a machine with the state of the newest snapshot that is sound and belongs to the log.

    One that was received and not installed belongs to a log that this node has not got: it is set
    aside, and the leader of now sends what it has. Without any, the machine is new, if the whole
    log is there to be applied. Otherwise None: the group cannot be served. `progress` is called for
    each chunk. Raises StorageError if the disk cannot be read.
    """
    group = log.group
    for info in reversed(store.snapshots(group)):
        if not _belongs(info, log):
            if info.index >= log.first_index():
                logger.warning("group %d: %s is not of the log, and set aside", group, info.path)
                set_aside(store, info)
            continue
        machine = make_machine()
        try:
            with store.read(info) as reader:
                machine.recover_from_snapshot(_showing(reader.chunks(IMAGE_NAME), progress))
        except SnapshotCorrupted as error:
            logger.error("group %d: a snapshot is damaged: %s", group, error)
            store.mark_damaged(info, error.damage)
            continue
        except StorageError:
            raise
        except Exception as error:
            # Of a later version, perhaps. It concerns this group alone.
            logger.exception("group %d: cannot recover from %s", group, info.path)
            refused = Damage(info.path, 0, f"the state machine does not take it: {error}")
            store.mark_damaged(info, refused)
            continue
        logger.info("group %d: recovered from the snapshot of index %d", group, info.index)
        return Recovered(machine, place_of(info), info.membership)
    return Recovered(make_machine(), NOWHERE, None) if log.first_index() == 1 else None


def _belongs(info: SnapshotInfo, log: GroupLog) -> bool:
    index = info.index
    return log.first_index() - 1 <= index <= log.last_index() and log.term(index) == info.term


def _showing(chunks: Iterator[bytes], progress: Callable[[], None]) -> Iterator[bytes]:
    for chunk in chunks:
        progress()
        yield chunk


class Snapshots:
    """The snapshots of one shard. On its loop; `close` it before the engine and the exchanger."""

    def __init__(
        self,
        *,
        config: Config,
        hello: Hello,
        link_limits: Limits,
        tls: PeerTls | None,
        registry: Registry,
        exchanger: Exchanger,
        engine: Engine,
        store: SnapshotStore,
        groups_max: int,
        loop: asyncio.AbstractEventLoop,
        counters: memoryview,
        generator: random.Random,
        on_fatal: Callable[[BaseException], None],
        buggify: Buggify = never,
    ) -> None:
        """Become the engine's handler of snapshots, and open a lane for those of other nodes."""
        self._loop = loop
        self._store = store
        self._counters = counters
        self._on_fatal = on_fatal
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="snapshot")
        self._files = ExpressFiles(store, loop.time)
        self._courier = courier = SnapshotCourier(
            engine=engine,
            store=store,
            files=self._files,
            shard_counts=registry,
            run=self._run,
            now_seconds=loop.time,
            loop=loop,
            counters=counters,
            on_fatal=on_fatal,
            buggify=buggify,
        )
        self._express = courier.express = Express(
            hello=hello,
            registry=registry,
            limits=config.express_limits,
            link_limits=link_limits,
            open_sink=courier.open_sink,
            on_sent=courier.sent,
            on_received=courier.received,
            loop=loop,
            generator=generator,
            tls=tls,
        )
        engine.snapshots = courier
        exchanger.serve_lane(Lane.EXPRESS, self._express.open_lane)
        self._taker = SnapshotTaker(
            engine=engine,
            store=store,
            limits=config.snapshot,
            groups_max=groups_max,
            run=self._run,
            now_seconds=loop.time,
            counters=counters,
            buggify=buggify,
        )
        self._working: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take snapshots."""
        self._working = self._loop.create_task(self._taker.work())
        self._working.add_done_callback(self._work_ended)

    def look(self) -> None:
        """See which snapshots are due, and which transfers serve nobody. Some times a second."""
        self._taker.look()
        self._courier.look()
        for remove in self._files.outdated():
            self._run(remove).add_done_callback(_log_failure)

    def ask(self, group: int) -> None:
        """Take a snapshot of a group soon."""
        self._taker.ask(group)

    def newest_membership(self, group: int) -> Membership | None:
        """Return the configuration in the newest snapshot of a group, None without any."""
        newest = self._store.newest(group)
        return None if newest is None else newest.membership

    def publish(self) -> None:
        """Store the counters of transfers."""
        express, counters = self._express.counters, self._counters
        counters[Counter.SNAPSHOT_BYTES_SENT_TOTAL] = express.bytes_sent_total
        counters[Counter.SNAPSHOT_BYTES_RECEIVED_TOTAL] = express.bytes_received_total
        counters[Counter.SNAPSHOT_TRANSFERS] = len(self._express.transfers())

    async def close(self) -> None:
        """End all transfers, and give up what is being taken or installed."""
        self._taker.close()
        await self._express.close()
        await self._courier.close()
        if self._working is not None:
            # It may wait for a log that is not written any more.
            await asyncio.wait((self._working,), timeout=CLOSE_SECONDS)
            self._working.cancel()
        await self._files.leave(self._run)
        await self._loop.run_in_executor(None, self._executor.shutdown)

    def _run(self, function: Callable[[], Result], /) -> "asyncio.Future[Result]":
        return self._loop.run_in_executor(self._executor, function)

    def _work_ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_fatal(error)


def _log_failure(removing: "asyncio.Future[None]") -> None:
    """Tell of what could not be removed; the next start may go on with it, or remove it."""
    error = None if removing.cancelled() else removing.exception()
    if error is not None:
        logger.warning("a snapshot that has come in part stays on disk: %s", error)
