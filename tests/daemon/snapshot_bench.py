"""An engine with snapshots: a real store, taker and courier, with express played by the test."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from rafter_core import Membership, Message, MessageKind, messages_to_wire
from rafter_storage.file_system import Buffer, RealFileSystem
from rafter_storage.group_log import GroupLog
from rafter_storage.snapshot_manifest import encode_manifest
from rafter_storage.snapshot_reader import SnapshotInfo
from rafter_storage.snapshot_store import SnapshotStore
from rafter_transport.express import Transfer
from rafter_transport.express_ends import Source
from rafter_transport.express_sender import Ending, Outcome
from rafter_transport.payload import pack_item
from rafterd.config_schema import SnapshotSection
from rafterd.express_files import ExpressFiles
from rafterd.shared import Counter
from rafterd.snapshot_courier import SnapshotCourier
from rafterd.snapshot_taker import IMAGE_NAME, SnapshotTaker
from rafterd.snapshots import Recovered, recover
from tests.daemon.engine_bench import MEMBERS, EngineBench, Journal, turns, until

Result = TypeVar("Result")
CHUNK_BYTES = 64
FINISHED = Outcome(Ending.FINISHED, "")
LIMITS = SnapshotSection(log_bytes=1024, log_entries=1_000_000)


class SnapshotDisk(RealFileSystem):
    """The disk of the snapshots, which may be full, or fail its syncs."""

    def __init__(self) -> None:
        self.is_full = False
        self.has_bad_syncs = False
        self.read_error: OSError | None = None

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        if self.read_error is not None:
            raise self.read_error
        return super().pread(descriptor, length, offset)

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().pwritev(descriptor, buffers, offset)

    def sync_data(self, descriptor: int) -> None:
        if self.has_bad_syncs:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync_data(descriptor)


class FakeExpress:
    """The courier's `Sender`: transfers go on until the test ends them."""

    def __init__(self, on_sent: Callable[[int, int, Outcome], None]) -> None:
        self.on_sent = on_sent
        self.is_refusing = False
        self.sources: dict[tuple[int, int], Source] = {}
        self.messages: list[bytes] = []
        self.receiving: dict[int, int] = {}
        """The node that sends a snapshot of a group to here."""

    def send(self, node: int, shard: int, group: int, message: bytes, source: Source) -> bool:
        if self.is_refusing or (group, node) in self.sources:
            return False
        self.sources[group, node] = source
        self.messages.append(message)
        return True

    def cancel(self, group: int, node: int) -> bool:
        if (group, node) not in self.sources:
            return False
        self.end(group, node, Outcome(Ending.CANCELLED, "by the sender"))
        return True

    def cancel_receive(self, group: int) -> bool:
        return self.receiving.pop(group, None) is not None

    def transfers(self) -> list[Transfer]:
        sent = [Transfer(group, node, True, 0, 1) for group, node in self.sources]
        return sent + [Transfer(*pair, False, 0, 1) for pair in self.receiving.items()]

    def end(self, group: int = 1, node: int = 2, outcome: Outcome = FINISHED) -> None:
        """End a transfer."""
        self.sources.pop((group, node)).close()
        self.on_sent(group, node, outcome)


class SnapshotBench(EngineBench):
    """A bench of node 1 with all that it does with snapshots."""

    def __init__(
        self,
        directory: Path,
        groups: Iterable[int] = (1,),
        members: tuple[int, ...] = MEMBERS,
        *,
        retained: int = 2,
        limits: SnapshotSection = LIMITS,
    ) -> None:
        self.snapshot_disk = SnapshotDisk()
        self.snapshots = SnapshotStore(
            directory / "snapshots",
            files=self.snapshot_disk,
            retained=retained,
            chunk_bytes=CHUNK_BYTES,
        )
        groups = list(groups)
        self.snapshots.open(groups)
        # What other nodes have taken.
        self.others: dict[int, SnapshotStore] = {}
        self.directory = directory
        super().__init__(directory, groups, members)
        self.now_seconds = 1000.0
        self.loop = asyncio.get_running_loop()
        counters = self.shared.counter_words(0)
        self.files = ExpressFiles(self.snapshots)
        self.courier = SnapshotCourier(
            engine=self.engine,
            store=self.snapshots,
            files=self.files,
            shard_counts=self.shards,
            run=self.run_in_thread,
            now_seconds=lambda: self.now_seconds,
            loop=self.loop,
            counters=counters,
            on_fatal=self.fatal.append,
        )
        self.express = self.courier.express = FakeExpress(self.courier.sent)
        self.engine.snapshots = self.courier
        self.taker = SnapshotTaker(
            engine=self.engine,
            store=self.snapshots,
            limits=limits,
            groups_max=len(groups),
            run=self.run_in_thread,
            now_seconds=lambda: self.now_seconds,
            counters=counters,
        )
        self.working = self.loop.create_task(self.taker.work())

    def run_in_thread(self, function: Callable[[], Result], /) -> asyncio.Future[Result]:
        return self.loop.run_in_executor(None, function)

    def start_machine(self, log: GroupLog) -> Recovered[Journal]:
        recovered = recover(self.snapshots, log, Journal, lambda: None)
        assert recovered is not None, "the group cannot be served"
        return recovered

    def count(self, counter: Counter) -> int:
        return self.shared.get(0, counter)

    def indexes(self, group: int = 1) -> list[int]:
        """Where the snapshots are that are in use."""
        return [info.index for info in self.snapshots.snapshots(group)]

    def first_index(self, group: int = 1) -> int:
        """Where the log begins."""
        return self.store.group_log(group, Membership(MEMBERS)).first_index()

    async def commit(self, *names: str, group: int = 1) -> None:
        """As the leader: let entries be committed and applied, each in a round of its own."""
        for name in names:
            self.propose(name, group)
            await self.settle()
            self.acknowledge(2, group)
            await self.settle()

    async def take(self, group: int = 1) -> None:
        """Let a snapshot be taken, whether it is due or not, and wait for all that follows."""
        assert self.taker.ask(group)
        await until(lambda: self.fatal or group not in self.taker._asked)
        await self.settle()

    # What comes from another node.

    def leader_has(
        self, index: int, payloads: list[bytes], *, node: int = 2, term: int = 1, group: int = 1,
        members: tuple[int, ...] = MEMBERS, membership_index: int = 0,
    ) -> SnapshotInfo:  # fmt: skip
        """Take the snapshot that another node's machine would have taken."""
        store = self.others.get(node)
        if store is None:
            root = self.directory / f"snapshots-of-{node}-{len(list(self.directory.iterdir()))}"
            store = self.others[node] = SnapshotStore(root, chunk_bytes=CHUNK_BYTES)
            store.open()
        writer = store.begin(group, index, term, Membership(members), membership_index)
        first = index - len(payloads) + 1
        for at, payload in enumerate(payloads, first):
            writer.write(IMAGE_NAME, pack_item([at, payload]))
        writer.write(IMAGE_NAME, b"")
        writer.finish()
        return store.admit(writer)

    async def deliver(self, info: SnapshotInfo, *, sender: int = 2, term: int = 1) -> None:
        """Let a snapshot arrive, as express does it."""
        sink = self.courier.open_sink(info.group, encode_manifest(info.manifest))
        opened = await sink.begin(self.run_in_thread)
        source = ExpressFiles(self.others[sender]).source(info)
        for number in range(opened.next_chunk, opened.chunk_count):
            sink.write_chunk(number, source.read_chunk(number))
        source.close()
        await sink.finish(self.run_in_thread)
        self.courier.received(info.group, sender, message_of(info, sender, term, info.group))

    async def install(self, info: SnapshotInfo, **fields: int) -> None:
        """Let a snapshot arrive, and wait until it is installed."""
        await self.deliver(info, **fields)
        await turns()
        await until(lambda: self.fatal or not self.courier._installs)
        await self.settle()

    async def stop(self) -> None:
        """Stop as a shard does; the machines' gates must be open."""
        self.taker.close()
        await self.courier.close()
        await self.working
        self.close()


def message_of(info: SnapshotInfo, sender: int, term: int, group: int = 1) -> bytes:
    """The message that travels with a snapshot to node 1."""
    message = Message(
        kind=MessageKind.SNAPSHOT, to=1, sender=sender, term=term, snapshot=info.snapshot
    )
    return pack_item(messages_to_wire([(group, message)]))
