"""What the transport's tests share: loops, exchangers on loopback, and recorders to wait on."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest
import uvloop

from rafter_transport import Channel, Exchanger, Hello, Limits, Registry
from rafter_transport.framing import HEADER_BYTES, frame_header
from rafter_transport.ring_pair import ShardEnd, is_supported
from rafter_transport.tls import PeerTls
from tests.garbage import collected
from tests.ports import free_ports

DEADLINE_SECONDS = 20.0
HOST = "127.0.0.1"
CLUSTER_ID = 0xC1
Result = TypeVar("Result")

# The loop of asyncio in its debug mode goes the same ways, and checks more.
LOOPS = ("asyncio-debug", "uvloop")
every_loop = pytest.mark.parametrize("loop_kind", LOOPS)

KINDS_OF_LINK = (
    "socket",
    pytest.param(
        "ring", marks=pytest.mark.skipif(not is_supported(), reason="no rings on this machine")
    ),
)
every_kind_of_link = pytest.mark.parametrize("kind", KINDS_OF_LINK)

QUICK = Limits(
    reconnect_base_seconds=0.001,
    reconnect_cap_seconds=0.02,
    handshake_seconds=DEADLINE_SECONDS,
    connect_seconds=DEADLINE_SECONDS,
    # Beyond the deadline, so that the kernel never ends what a test expects us to end.
    unacknowledged_seconds=10 * DEADLINE_SECONDS,
)


def run(loop_kind: str, main: Coroutine[Any, Any, Result]) -> Result:
    """Run a test on one kind of loop, with a deadline; fail if it leaves a task behind."""

    async def bounded() -> Result:
        loop = asyncio.get_running_loop()
        errors: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: errors.append(context))
        async with asyncio.timeout(DEADLINE_SECONDS):
            result = await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"
        assert not errors, f"errors left to the loop: {errors}"
        return result

    factory = uvloop.new_event_loop if loop_kind == "uvloop" else asyncio.new_event_loop
    debug = loop_kind == "asyncio-debug"
    with collected(), asyncio.Runner(loop_factory=factory, debug=debug) as runner:
        return runner.run(bounded())


async def eventually(predicate: Callable[[], bool]) -> None:
    """Wait for what nobody tells of: looked at in each turn of the loop."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            if predicate():
                return
            await asyncio.sleep(0)


class Recorder:
    """Records what an exchanger delivers, and lets a test wait until it has seen enough."""

    def __init__(self) -> None:
        self.items: list[tuple[Channel, int, int, list[Any]]] = []
        self.states: list[tuple[int, int, bool]] = []
        self._changed = asyncio.Event()

    def handlers(self) -> dict[Channel, Callable[[int, int, list[Any]], None]]:
        def handler_of(channel: Channel) -> Callable[[int, int, list[Any]], None]:
            return lambda node, shard, items: self._take(channel, node, shard, items)

        return {channel: handler_of(channel) for channel in Channel}

    def _take(self, channel: Channel, node: int, shard: int, items: list[Any]) -> None:
        self.items.append((channel, node, shard, items))
        self._changed.set()

    def link_state(self, node: int, shard: int, is_up: bool) -> None:
        self.states.append((node, shard, is_up))
        self._changed.set()

    def of(self, channel: Channel) -> list[Any]:
        """All items of a channel, in order."""
        return [item for kind, _, _, items in self.items if kind == channel for item in items]

    async def until(self, predicate: Callable[[], bool]) -> None:
        while not predicate():
            self._changed.clear()
            await self._changed.wait()


class LogRecorder(logging.Handler):
    """Collects what the transport logs, and lets a test wait for a line."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._changed = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._changed.set()

    async def until(self, text: str) -> str:
        while True:
            for line in self.lines:
                if text in line:
                    return line
            self._changed.clear()
            await self._changed.wait()

    def __enter__(self) -> Self:
        logging.getLogger("rafter_transport").addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        logging.getLogger("rafter_transport").removeHandler(self)


def make_hello(node: int = 1, shard: int = 0, shards: int = 1, **changes: Any) -> Hello:
    hello = Hello(
        version_min=1,
        version_max=1,
        cluster_id=CLUSTER_ID,
        node_id=node,
        incarnation=100 + node,
        shard=shard,
        shards=shards,
        client_host=HOST,
        client_port=7379,
    )
    return hello._replace(**changes)


class Peer:
    """One shard: an exchanger with its registry and recorder."""

    def __init__(
        self,
        hello: Hello,
        nodes: dict[int, tuple[str, int]],
        *,
        limits: Limits = QUICK,
        shard_ends: Mapping[int, ShardEnd] | None = None,
        recorder: Recorder | None = None,
        tls: PeerTls | None = None,
    ) -> None:
        self.hello = hello
        self.recorder = recorder or Recorder()
        self.registry = Registry(hello.node_id, nodes)
        self.exchanger = Exchanger(
            hello=hello,
            registry=self.registry,
            limits=limits,
            handlers=self.recorder.handlers(),
            on_link_state=self.recorder.link_state,
            loop=asyncio.get_running_loop(),
            shard_ends=shard_ends,
            generator=random.Random(1),
            tls=tls,
        )

    @property
    def port(self) -> int:
        return self.exchanger.port

    async def start(self, port: int | None = None) -> None:
        if port is None:
            port = self.registry.node_info(self.hello.node_id).base_port + self.hello.shard
        await self.exchanger.start(HOST, port)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.exchanger.close()

    async def until_up(self, node: int, shard: int = 0) -> None:
        await self.recorder.until(lambda: self.exchanger.is_up(node, shard))

    async def until_down(self, node: int, shard: int = 0) -> None:
        await self.recorder.until(lambda: not self.exchanger.is_up(node, shard))

    def send(self, node: int, shard: int, channel: Channel, *items: object) -> None:
        for item in items:
            assert self.exchanger.post(node, shard, channel, item)
        self.exchanger.flush()


def addresses(*nodes: int, shards: int = 1) -> dict[int, tuple[str, int]]:
    """Give each node a base port with room for its shards."""
    first = free_ports(len(nodes) * shards)
    return {node: (HOST, first + place * shards) for place, node in enumerate(nodes)}


class RawPeer:
    """The other end of a connection, written by hand: sends and reads single frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def dial(cls, port: int) -> "RawPeer":
        return cls(*await asyncio.open_connection(HOST, port))

    def write(self, payload: bytes) -> None:
        self.writer.write(frame_header(len(payload)) + payload)

    async def read(self) -> bytes:
        header = await self.reader.readexactly(HEADER_BYTES)
        return await self.reader.readexactly(int.from_bytes(header, "little"))

    async def until_closed(self) -> None:
        """Wait until the other end closes; a reset is as good as an end."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class RawServer:
    """A listener written by hand: hands out each accepted connection as a RawPeer."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[RawPeer] = asyncio.Queue()
        self._peers: list[RawPeer] = []
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> None:
        self._server = await asyncio.start_server(self._take, HOST, port)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer)
        self._peers.append(peer)
        self.accepted.put_nowait(peer)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for peer in self._peers:
            await peer.close()
        await self._server.wait_closed()
