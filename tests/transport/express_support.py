"""What the tests of express share: stores in memory, and services on loopback."""

import asyncio
import random
import threading
from collections.abc import Callable
from typing import Any, Self

from rafter_transport import Limits, Registry
from rafter_transport.counters import Counters
from rafter_transport.express import Express
from rafter_transport.express_ends import Opened, Run, SinkError, SourceError
from rafter_transport.express_limits import ExpressLimits
from rafter_transport.express_sender import Ending, Outcome
from rafter_transport.handshake import Hello, Lane
from rafter_transport.listener import Listener
from rafter_transport.tls import PeerTls
from tests.transport.support import HOST, QUICK, addresses, make_hello

QUICK_EXPRESS = ExpressLimits(
    chunk_bytes_max=64,
    window_bytes=40,
    retry_base_seconds=0.001,
    retry_cap_seconds=0.02,
    tries_max=50,
)
CHUNK_BYTES = 10


def chunks_of(count: int, last_bytes: int = CHUNK_BYTES, seed: int = 0) -> list[bytes]:
    """Different chunks, all of them full but the last."""
    generator = random.Random(seed)
    lengths = [CHUNK_BYTES] * (count - 1) + [last_bytes] if count else []
    return [generator.randbytes(length) for length in lengths]


def manifest_for(chunks: list[bytes]) -> bytes:
    """A manifest for the sinks below: they read the count, the rest tells snapshots apart."""
    return len(chunks).to_bytes(4, "little") + b"".join(chunks)[:16]


class MemorySource:
    """A Source over chunks in memory. `gate` lets a test hold its reads."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks
        self.reads: list[int] = []
        self.closed = 0
        self.fails_at: int | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception = SourceError("a bad sector")

    @property
    def chunk_count(self) -> int:
        return len(self.chunks)

    @property
    def chunk_bytes(self) -> int:
        return max(map(len, self.chunks), default=0)

    def read_manifest(self) -> bytes:
        return manifest_for(self.chunks)

    def read_chunk(self, number: int) -> bytes:
        assert threading.current_thread() is not threading.main_thread()
        assert not self.closed
        assert self.gate.wait(20)
        self.reads.append(number)
        if number == self.fails_at:
            raise self.error
        return self.chunks[number]

    def close(self) -> None:
        self.closed += 1


class MemoryStore:
    """What survives a service: parts and whole snapshots, by manifest."""

    def __init__(self) -> None:
        self.parts: dict[bytes, list[bytes]] = {}
        self.whole: dict[bytes, list[bytes]] = {}
        self.aborted = 0
        self.in_use = 0
        self.gate = threading.Event()
        self.gate.set()
        self.finish_gate = threading.Event()
        self.finish_gate.set()
        self.on_write: Callable[[int], None] = lambda number: None
        self.refusal: SinkError | None = None

    def sink(self, group: int, manifest: bytes) -> "MemorySink":
        return MemorySink(self, manifest)


class MemorySink:
    def __init__(self, store: MemoryStore, manifest: bytes) -> None:
        self.store = store
        self.manifest = manifest
        self.count = int.from_bytes(manifest[:4], "little")
        self.part: list[bytes] = []

    async def begin(self, run: Run) -> Opened:
        if self.store.refusal is not None:
            raise self.store.refusal
        self.store.in_use += 1
        if self.manifest in self.store.whole:
            return Opened(self.count, self.count, CHUNK_BYTES)
        self.part = self.store.parts.setdefault(self.manifest, [])
        return Opened(len(self.part), self.count, CHUNK_BYTES)

    def write_chunk(self, number: int, data: bytes) -> None:
        assert threading.current_thread() is not threading.main_thread()
        assert self.store.gate.wait(20)
        assert number == len(self.part)
        self.store.on_write(number)
        self.part.append(data)

    async def finish(self, run: Run) -> None:
        await run(lambda: self.store.finish_gate.wait(20))
        if self.manifest not in self.store.whole:
            self.store.whole[self.manifest] = self.store.parts.pop(self.manifest)
        self.store.in_use -= 1

    def suspend(self) -> None:
        self.store.in_use -= 1

    async def abort(self, run: Run) -> None:
        self.store.aborted += 1
        if self.store.refusal is None:
            self.store.in_use -= 1
        await run(lambda: self.store.parts.pop(self.manifest, None))


class Station:
    """One shard: its express, and the listener that would be its exchanger's."""

    def __init__(
        self,
        node: int,
        nodes: dict[int, tuple[str, int]],
        store: Any = None,
        *,
        limits: ExpressLimits = QUICK_EXPRESS,
        link_limits: Limits = QUICK,
        open_sink: Callable[[int, bytes], Any] | None = None,
        tls: PeerTls | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.hello: Hello = make_hello(node, version_max=2)
        self.store = MemoryStore() if store is None else store
        self.sent: list[tuple[int, int, bool, str]] = []
        self.received: list[tuple[int, int, bytes]] = []
        self._changed = asyncio.Event()
        self.registry = Registry(node, nodes)
        self.express = Express(
            hello=self.hello,
            registry=self.registry,
            limits=limits,
            link_limits=link_limits,
            open_sink=open_sink or self.store.sink,
            on_sent=self._on_sent,
            on_received=self._on_received,
            loop=loop,
            generator=random.Random(node),
            tls=tls,
        )
        self.listener = Listener(
            hello=self.hello,
            registry=self.registry,
            limits=link_limits,
            counters=Counters(),
            receive=lambda *_: None,
            on_hello=lambda _: None,
            loop=loop,
            tls=tls,
        )
        self.listener.lanes[Lane.EXPRESS] = self.express.open_lane
        self.port = nodes[node][1]

    @property
    def counters(self) -> Any:
        return self.express.counters

    def _on_sent(self, group: int, node: int, outcome: Outcome) -> None:
        self.sent.append((group, node, outcome.ending is Ending.FINISHED, outcome.reason))
        self._changed.set()

    def _on_received(self, group: int, node: int, message: bytes) -> None:
        self.received.append((group, node, message))
        self._changed.set()

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait for what this station is told; looked at anew with each event and now and then."""
        while not predicate():
            self._changed.clear()
            try:
                async with asyncio.timeout(0.005):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def __aenter__(self) -> Self:
        await self.listener.start(HOST, self.port)
        return self

    async def stop(self) -> None:
        await self.listener.close()
        await self.express.close()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def two_nodes() -> dict[int, tuple[str, int]]:
    return addresses(1, 2)
