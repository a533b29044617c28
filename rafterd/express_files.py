"""Snapshots of the store as express sends and receives them.

Express numbers the chunks through all files of a snapshot, in the order of the manifest; files
without bytes have none. Names of files come from the manifest alone, which is decoded by the
store's own strict decoder: nothing else of what a peer sends becomes a path.
"""

import logging
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from rafter_storage.errors import Damage, SnapshotCorrupted, SnapshotFailed, StorageError
from rafter_storage.snapshot_manifest import (
    MANIFEST_BYTES_MAX,
    InvalidManifest,
    Manifest,
    decode_manifest,
    encode_manifest,
)
from rafter_storage.snapshot_reader import SnapshotInfo
from rafter_storage.snapshot_receiver import SnapshotReceiver
from rafter_storage.snapshot_store import SnapshotStore
from rafter_transport.express_ends import Opened, Run, SinkError, SourceError

__all__ = ["ChunkMap", "ExpressFiles", "FileSink", "FileSource"]

logger = logging.getLogger(__name__)

PARKED_MAX = 8
"""How many half-received snapshots are kept at most for their senders to come back."""

PARKED_SECONDS = 600.0
"""How long: senders try again within seconds, and their raft as soon as it hears of this node."""

_RECOVER_BYTES = 1 << 20
"""How much of a kept part is verified before the loop has its turn."""


class ChunkMap:
    """Where each chunk of a snapshot lies, and how many there are."""

    __slots__ = ("_names", "_starts", "chunk_bytes", "chunk_count")

    def __init__(self, manifest: Manifest) -> None:
        files = [file for file in manifest.files if file.chunk_count]
        self._names = [file.name for file in files]
        self._starts: list[int] = []
        total = 0
        for file in files:
            self._starts.append(total)
            total += file.chunk_count
        self.chunk_count = total
        self.chunk_bytes = max((min(file.chunk_bytes, file.size) for file in files), default=0)

    def place(self, number: int) -> tuple[str, int]:
        """Return the file of a chunk and its number there. Raises IndexError if there is none."""
        if not 0 <= number < self.chunk_count:
            raise IndexError(f"chunk {number} of {self.chunk_count}")
        file = bisect_right(self._starts, number) - 1
        return self._names[file], number - self._starts[file]


class FileSource:
    """A Source over a snapshot of the store, which is pinned there until `close`.

    A snapshot that proves corrupt is taken out of use by `close`, so that the next send takes
    the one before it.
    """

    def __init__(self, store: SnapshotStore, info: SnapshotInfo) -> None:
        """Pin the snapshot. Owner thread of the store."""
        self._store = store
        self._info = info
        self._reader = store.read(info)
        self._map = ChunkMap(info.manifest)
        self._damage: Damage | None = None

    @property
    def chunk_count(self) -> int:
        """How many chunks all files have together."""
        return self._map.chunk_count

    @property
    def chunk_bytes(self) -> int:
        """The length of the longest chunk."""
        return self._map.chunk_bytes

    def read_manifest(self) -> bytes:
        """Return the manifest as it is on disk. Worker thread."""
        return encode_manifest(self._info.manifest)

    def read_chunk(self, number: int) -> bytes:
        """Return one chunk, verified. Worker thread. Raises SourceError."""
        try:
            return self._reader.chunk(*self._map.place(number))
        except SnapshotCorrupted as error:
            self._damage = error.damage
            raise SourceError(str(error)) from error
        except StorageError as error:
            raise SourceError(str(error)) from error

    def close(self) -> None:
        """Unpin the snapshot. Owner thread of the store; nobody reads any more."""
        self._reader.close()
        if self._damage is not None:
            self._store.mark_damaged(self._info, self._damage)


class _Parked(NamedTuple):
    manifest: bytes
    receiver: SnapshotReceiver
    since_seconds: float


class ExpressFiles:
    """Sources and sinks over one store. Owner thread of the store, which is the shard's loop.

    What was received in part is parked when its connection breaks, and the next offer with the same
    manifest goes on with it. What is parked at the end, or was being received at a crash, is kept
    by the store, and the same offer goes on with it after the restart.
    """

    def __init__(
        self, store: SnapshotStore, now_seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._now_seconds = now_seconds
        self._started_seconds = now_seconds()
        self._parked: OrderedDict[int, _Parked] = OrderedDict()

    @property
    def parked_groups(self) -> list[int]:
        """The groups of which a part is kept, the longest kept first."""
        return [*self._parked]

    def source(self, info: SnapshotInfo) -> FileSource:
        """Return a snapshot as express sends it; pinned until it is closed."""
        return FileSource(self._store, info)

    def sink(self, group: int, manifest: bytes) -> "FileSink":
        """Return where an offered snapshot goes; the `open_sink` of Express."""
        return FileSink(self, self._store, group, manifest)

    def outdated(self) -> list[Callable[[], None]]:
        """Take out what nobody has come back for in time; return what removes it.

        These calls belong on a worker thread, and may raise StorageError.
        """
        before_seconds = self._now_seconds() - PARKED_SECONDS
        groups = [
            group for group, each in self._parked.items() if each.since_seconds <= before_seconds
        ]
        removals = [self._parked.pop(group).receiver.abort for group in groups]
        if self._started_seconds <= before_seconds:
            kept = [manifest.group for manifest in self._store.kept()]
            groups += kept
            removals += [self._store.drop_kept(group).run for group in kept]
        for group in groups:
            logger.info("group %d: a snapshot has come in part, and nobody sends the rest", group)
        return removals

    async def leave(self, run: Run) -> None:
        """Close what is parked, and leave it on disk for the next start. At the end."""
        while self._parked:
            _, parked = self._parked.popitem()
            await run(parked.receiver.leave)

    # What follows is called by the sinks.

    def take(self, group: int) -> _Parked | None:
        """Take out what is parked of a group."""
        return self._parked.pop(group, None)

    def overflow(self) -> list[SnapshotReceiver]:
        """Take out what is parked beyond the limit, the longest kept first."""
        count = max(0, len(self._parked) - PARKED_MAX)
        return [self._parked.popitem(last=False)[1].receiver for _ in range(count)]

    def park(self, group: int, manifest: bytes, receiver: SnapshotReceiver) -> None:
        """Keep a part for the next offer. There is none of this group: its sink took it out."""
        assert group not in self._parked
        self._parked[group] = _Parked(manifest, receiver, self._now_seconds())


class FileSink:
    """A Sink that receives into the store."""

    def __init__(
        self, owner: ExpressFiles, store: SnapshotStore, group: int, manifest: bytes
    ) -> None:
        self._owner = owner
        self._store = store
        self._group = group
        self._manifest_bytes = manifest
        self._map: ChunkMap | None = None
        self._receiver: SnapshotReceiver | None = None

    async def begin(self, run: Run) -> Opened:
        """Decode the manifest, and find or make the draft. Raises SinkError.

        What a draft from before a restart has is verified first, chunk by chunk.
        """
        try:
            manifest = await run(self._decode)
        except InvalidManifest as error:
            raise SinkError("manifest", f"the manifest makes no sense: {error}") from error
        self._map = ChunkMap(manifest)
        for receiver in self._owner.overflow():
            await run(receiver.abort)
        parked = self._owner.take(self._group)
        if parked is not None:
            if parked.manifest == self._manifest_bytes and not parked.receiver.is_over:
                self._receiver = parked.receiver
                return self._opened(sum(self._receiver.received.values()))
            await run(parked.receiver.abort)
        try:
            found = self._store.receive(manifest)
        except StorageError as error:
            raise SinkError("refused", str(error)) from error
        if isinstance(found, SnapshotInfo):
            return self._opened(self._map.chunk_count)
        self._receiver = found
        return self._opened(await self._recover(found, run))

    async def _recover(self, receiver: SnapshotReceiver, run: Run) -> int:
        """Return how many chunks a draft has; what is kept for another one is removed."""
        try:
            await run(self._store.drop_kept(self._group).run)
            while await run(lambda: receiver.recover(_RECOVER_BYTES)):
                pass
        except (StorageError, OSError) as error:
            raise _sink_error(error) from error
        count = sum(receiver.received.values())
        if count:
            assert self._map is not None
            logger.info(
                "group %d: %d of %d chunks of the snapshot of index %d have come before a restart",
                self._group, count, self._map.chunk_count, receiver.manifest.index,
            )  # fmt: skip
        return count

    def write_chunk(self, number: int, data: bytes) -> None:
        """Write the chunk that is due. Worker thread. Raises SinkError."""
        assert self._receiver is not None
        assert self._map is not None
        try:
            self._receiver.write_chunk(*self._map.place(number), data)
        except (StorageError, OSError) as error:
            raise _sink_error(error) from error

    async def finish(self, run: Run) -> None:
        """Publish the snapshot, durable on return, and take it into use. Raises SinkError."""
        receiver = self._receiver
        if receiver is None:
            # It was there already.
            return
        try:
            await run(receiver.finish)
            self._store.admit(receiver)
        except (StorageError, OSError) as error:
            raise _sink_error(error) from error
        self._receiver = None

    def suspend(self) -> None:
        """Keep what came, for the next offer with this manifest."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None and not receiver.is_over:
            self._owner.park(self._group, self._manifest_bytes, receiver)

    async def abort(self, run: Run) -> None:
        """Remove what came."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            await run(receiver.abort)

    def _decode(self) -> Manifest:
        assert len(self._manifest_bytes) <= MANIFEST_BYTES_MAX
        return decode_manifest(self._manifest_bytes, self._group)

    def _opened(self, next_chunk: int) -> Opened:
        assert self._map is not None
        return Opened(next_chunk, self._map.chunk_count, self._map.chunk_bytes)


def _sink_error(error: Exception) -> SinkError:
    if isinstance(error, SnapshotFailed):
        return SinkError("disk-full" if error.is_disk_full else "disk", str(error))
    return SinkError("refused", str(error))
