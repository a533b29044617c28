"""A proxy for TCP on loopback that does to connections what bad networks do, when it is told to.

It stands between whoever dials it and its target. It runs in a thread of its own and its methods
may be called from any other: by a test that blocks, or by one on an event loop, since none of
them waits for anything but that thread.

TCP neither doubles nor reorders within a connection. A framed proxy does so with whole frames (a
little-endian u32 and as many bytes), behind the first of each direction, which is the handshake.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from enum import Enum
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from rafter_transport.handshake import HandshakeError, decode_hello

Result = TypeVar("Result")

CALL_SECONDS = 20.0
_READ_BYTES = 1 << 16
_HELD_BYTES_MAX = 1 << 22
_HEADER_BYTES = 4


class Way(Enum):
    """A direction: of what the dialling side sends, or of what the target sends."""

    THERE = "there"
    BACK = "back"


class Faults(NamedTuple):
    """What is done to one direction of each connection; as it is, nothing.

    `delay_seconds` passes between a byte's arrival and its leaving, whatever the throughput.
    `is_stalled`: nothing more is read, so the sender's window fills up. `is_cut`: bytes and
    ends are swallowed in silence; a connection that has lost a byte gets no later one through.
    `piece_bytes`: so many bytes at a time. `bytes_left`: the connection is reset behind so many
    further bytes, counted for each connection from here on. `doubled` and `swapped` are how
    probable it is that a frame comes twice, or behind the next one if that is there already.
    """

    delay_seconds: float = 0.0
    is_stalled: bool = False
    is_cut: bool = False
    piece_bytes: int | None = None
    bytes_left: int | None = None
    doubled: float = 0.0
    swapped: float = 0.0


NO_FAULTS = Faults()
CUT = Faults(is_cut=True)
STALLED = Faults(is_stalled=True)


class Proxy:
    """One listener and its connections. Without `port` it takes one that is free.

    Faults are set for all connections, those to come included, or for those of one node: a framed
    proxy reads the node from the hello, unless TLS hides it. `counts` has what was done so
    far: connections, bytes_there, bytes_back, bytes_swallowed, frames_doubled, frames_swapped.
    """

    def __init__(
        self,
        target: tuple[str, int],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        is_framed: bool = False,
        seed: int = 1,
    ) -> None:
        self.target = target
        self.is_framed = is_framed
        self.counts: Counter[str] = Counter()
        self.seed = seed
        self._faults: dict[tuple[Way, int | None], Faults] = {}
        self._connections: set[_Connection] = set()
        self._listener: socket.socket | None = None
        self._errors: list[BaseException] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._host = host
        self.port = port

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(CALL_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_SECONDS)
        self._loop.close()
        if self._errors:
            raise BaseExceptionGroup("errors of the proxy itself", self._errors)

    @property
    def address(self) -> tuple[str, int]:
        """Where to dial it."""
        return self._host, self.port

    @property
    def connection_count(self) -> int:
        """How many connections are open."""
        return self._call(lambda: len(self._connections))

    def set(
        self,
        there: Faults = NO_FAULTS,
        back: Faults = NO_FAULTS,
        *,
        node: int | None = None,
    ) -> None:
        """Set the faults of both directions, for all, or for one node instead of those of all."""

        def change() -> None:
            self._faults[Way.THERE, node] = there
            self._faults[Way.BACK, node] = back
            for connection in self._connections:
                connection.count_anew()
            self._wake()

        self._call(change)

    def heal(self) -> None:
        """Take all faults back, and accept connections. A cut connection stays one."""

        def change() -> None:
            self._faults.clear()
            self._wake()
            self._listen()

        self._call(change)

    def refuse(self) -> None:
        """Refuse new connections until `heal`."""
        self._call(self._stop_listening)

    def reset(self, node: int | None = None) -> int:
        """Reset all open connections, or those of one node; return how many those were."""
        return self._call(lambda: self._end(node, is_in_order=False))

    def hang_up(self, node: int | None = None) -> int:
        """Close them in order, at any byte; return how many those were."""
        return self._call(lambda: self._end(node, is_in_order=True))

    # What follows runs in the proxy's thread.

    def faults(self, way: Way, node: int | None) -> Faults:
        """Return what is done to a direction of a connection of this node."""
        default = self._faults.get((way, None), NO_FAULTS)
        return self._faults.get((way, node), default)

    def _call(self, function: Callable[[], Result]) -> Result:
        async def call() -> Result:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(CALL_SECONDS)

    def _wake(self) -> None:
        for connection in self._connections:
            connection.wake()

    def _end(self, node: int | None, *, is_in_order: bool) -> int:
        chosen = [one for one in self._connections if node is None or one.node == node]
        for connection in chosen:
            connection.is_in_order = is_in_order
            connection.task.cancel()
        return len(chosen)

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server((self._host, self.port), backlog=128)
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        try:
            dialler, _ = listener.accept()
        except OSError:
            # The dialler has thought better of it.
            return
        self.counts["connections"] += 1
        connection = _Connection(self, dialler, self._loop)
        self._connections.add(connection)
        connection.task.add_done_callback(lambda _: self._ended(connection))

    def _ended(self, connection: "_Connection") -> None:
        self._connections.discard(connection)
        connection.close()
        error = None if connection.task.cancelled() else connection.task.exception()
        if isinstance(error, BaseExceptionGroup):
            error = error.split(OSError)[1]
        if error is not None and not isinstance(error, OSError):
            self._errors.append(error)

    async def _close(self) -> None:
        self._stop_listening()
        tasks = [connection.task for connection in self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Connection:
    """A connection of a dialler, and the one to the target that belongs to it."""

    def __init__(
        self, proxy: Proxy, dialler: socket.socket, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.node: int | None = None
        self._target_address = proxy.target
        self._dialler = dialler
        self._target = socket.socket()
        self.is_in_order = False
        there = _Direction(proxy, self, Way.THERE, dialler, self._target)
        back = _Direction(proxy, self, Way.BACK, self._target, dialler)
        there.other, back.other = back, there
        self._directions = (there, back)
        self.task = loop.create_task(self._run())

    def wake(self) -> None:
        """Look at the faults again."""
        for direction in self._directions:
            direction.wake()

    def count_anew(self) -> None:
        """Begin to count the bytes that are left."""
        for direction in self._directions:
            direction.written_bytes = 0

    def close(self) -> None:
        """Close both sides. Unless both directions have ended in order, they are reset."""
        for stream in (self._dialler, self._target):
            if not self.is_in_order:
                with contextlib.suppress(OSError):
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.close()

    async def _run(self) -> None:
        """Carry bytes until both directions have ended, or one of them with an error."""
        for stream in (self._dialler, self._target):
            stream.setblocking(False)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(self._target, self._target_address)
        async with asyncio.TaskGroup() as group:
            for direction in self._directions:
                group.create_task(direction.read())
                group.create_task(direction.write())
        self.is_in_order = True


class _Direction:
    """One direction of a connection: units are read, wait until they are due, and are written.

    A unit is a frame, in a framed proxy, or else whatever one read brought. b"" is the end.
    """

    other: "_Direction"

    def __init__(
        self,
        proxy: Proxy,
        connection: _Connection,
        way: Way,
        source: socket.socket,
        sink: socket.socket,
    ) -> None:
        self.written_bytes = 0
        self.is_ended = False
        self._proxy = proxy
        self._connection = connection
        self._way = way
        self._source = source
        self._sink = sink
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._woken = asyncio.Event()
        self._partial = bytearray()
        self._is_lost = False
        self._frames = 0
        # Of its own, so that what is drawn does not depend on what other directions do.
        number = proxy.counts["connections"]
        self._generator = random.Random(f"{proxy.seed} {number} {way}")

    @property
    def faults(self) -> Faults:
        return self._proxy.faults(self._way, self._connection.node)

    @property
    def is_cut(self) -> bool:
        """Whether what comes now does not get through."""
        return self._is_lost or self.faults.is_cut

    async def read(self) -> None:
        """Read until the end, no more than may be held."""
        loop = asyncio.get_running_loop()
        while not self.is_ended:
            await self._until(lambda: not self.faults.is_stalled)
            try:
                data = await loop.sock_recv(self._source, _READ_BYTES)
            except OSError:
                if not self.is_cut:
                    raise
                # A cut lets nobody know how the other side has ended.
                data = b""
            if not data:
                self.is_ended = True
                self.other.wake()
            for unit in self._units(data):
                await self._until(lambda: self._held_bytes < _HELD_BYTES_MAX)
                self._held.append((loop.time() + self.faults.delay_seconds, unit))
                self._held_bytes += len(unit)
                self.wake()

    async def write(self) -> None:
        """Write what is due, with all that is done to it; return at the end of the stream."""
        loop = asyncio.get_running_loop()
        while True:
            await self._until(lambda: bool(self._held))
            due_seconds, unit = self._held[0]
            if due_seconds > loop.time():
                await asyncio.sleep(due_seconds - loop.time())
            await self._until(lambda: not self.faults.is_stalled)
            if not self.is_cut:
                if not unit:
                    with contextlib.suppress(OSError):
                        self._sink.shutdown(socket.SHUT_WR)
                    return
                try:
                    for chosen in self._choose():
                        await self._write_pieces(chosen)
                except OSError:
                    # That the sink is gone is not told to the source if nothing gets there.
                    if not self.other.is_cut:
                        raise
                    self._is_lost = True
            elif unit:
                # Behind a lost byte nothing makes sense any more, not even the end.
                self._is_lost = True
                self._proxy.counts["bytes_swallowed"] += len(self._take())
            else:
                await self._until(lambda: self.other.is_ended)
                return

    def _choose(self) -> Iterator[bytes]:
        """Take the next unit, or more than that; yield what is to be written."""
        taken = [self._take()]
        if self._proxy.is_framed:
            self._frames += 1
            if self._frames > 1:
                counts, draw, faults = self._proxy.counts, self._generator.random, self.faults
                if self._held and self._held[0][1] and draw() < faults.swapped:
                    self._frames += 1
                    counts["frames_swapped"] += 1
                    taken.insert(0, self._take())
                elif draw() < faults.doubled:
                    counts["frames_doubled"] += 1
                    taken *= 2
        yield from taken

    def _take(self) -> bytes:
        _, unit = self._held.popleft()
        self._held_bytes -= len(unit)
        self.wake()
        return unit

    async def _write_pieces(self, unit: bytes) -> None:
        loop = asyncio.get_running_loop()
        position = 0
        while position < len(unit):
            faults = self.faults
            size = len(unit) - position
            if faults.piece_bytes is not None:
                size = min(size, faults.piece_bytes)
            if faults.bytes_left is not None:
                size = min(size, faults.bytes_left - self.written_bytes)
                if size <= 0:
                    raise ConnectionResetError("no bytes are left")
            await loop.sock_sendall(self._sink, unit[position : position + size])
            position += size
            self.written_bytes += size
            self._proxy.counts[f"bytes_{self._way.value}"] += size
            # Else a piece would be joined by the next before anybody has read it.
            await asyncio.sleep(0)

    def _units(self, data: bytes) -> Iterator[bytes]:
        if not self._proxy.is_framed:
            yield data
            return
        partial = self._partial
        partial += data
        while len(partial) >= _HEADER_BYTES:
            end = _HEADER_BYTES + int.from_bytes(partial[:_HEADER_BYTES], "little")
            if len(partial) < end:
                break
            unit = bytes(partial[:end])
            del partial[:end]
            self._read_node(unit)
            yield unit
        if not data:
            if partial:
                yield bytes(partial)
            yield b""

    def _read_node(self, unit: bytes) -> None:
        """Learn from the first frame of a dialler who it is."""
        if self._way is Way.THERE and self._connection.node is None:
            try:
                self._connection.node = decode_hello(unit[_HEADER_BYTES:]).node_id
            except HandshakeError:
                self._connection.node = 0

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._woken.wait()

    def wake(self) -> None:
        """Look again at what is waited for: the faults or what is held have changed."""
        self._woken.set()
        self._woken = asyncio.Event()
