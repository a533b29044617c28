"""One end of a simulated stream connection, as asyncio's transports are."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.loops import SimLoop
    from tests.sim.network import Network

WINDOW_BYTES = 256 << 10
HIGH_BYTES = 64 << 10
Address = tuple[str, int]


class FakeSocket:
    """What code asks of the socket under a transport."""

    def __init__(self, transport: SimTransport) -> None:
        self._transport = transport

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if (level, option) == (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT):
            self._transport.user_timeout_seconds = value / 1000

    def getsockopt(self, _level: int, _option: int, _length: int = 0) -> bytes:
        raise OSError("there is no kernel to be asked")

    def fileno(self) -> int:
        return self._transport.number


class SimTransport(asyncio.Transport):
    """One end. What is written in a turn leaves at its end; what arrives is given to the protocol.

    `other` is the other end. Bytes on the way are the network's. No more than WINDOW_BYTES are on
    their way or wait for a reader at once.
    """

    def __init__(self, network: Network, number: int, local: Address, remote: Address) -> None:
        super().__init__()
        self.network = network
        self.number = number
        self.local = local
        self.remote = remote
        self.other: SimTransport
        self.loop: SimLoop | None = None
        self.protocol: asyncio.Protocol | None = None
        self.user_timeout_seconds: float | None = None
        self.is_broken = False
        """Nothing arrives here any more."""
        self.arrives_at = 0.0
        """When the newest thing that was sent to here arrives: nothing overtakes it."""
        self.held: deque[bytes | None] = deque()
        """What would have arrived here and is held up by a cut; None is the end of the stream."""
        self.held_since = 0.0
        self._out = bytearray()
        self._on_the_way = 0
        self._arrived: deque[bytes | None] = deque()
        self._is_reading = True
        self._is_closing = False
        self._is_end_written = False
        self._is_lost = False
        self._error: Exception | None = None
        self._high = HIGH_BYTES
        self._is_writing_paused = False

    # ---- for the code above -------------------------------------------------------------------

    def begin(self, loop: SimLoop, protocol: asyncio.Protocol) -> None:
        """Belong to a process from now on."""
        self.loop = loop
        self.protocol = protocol
        loop.transports[self.number] = self
        protocol.connection_made(self)
        if self._is_lost:
            # Broken before anybody had it.
            self._lose(self._error)
        elif self._arrived:
            loop.call_soon(self._read)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        found = {
            "socket": FakeSocket(self), "peername": self.remote, "sockname": self.local
        }  # fmt: skip
        return found.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_lost or self._is_closing or self._is_end_written or not data:
            return
        assert self.loop is not None
        if not self._out:
            self.loop.unsent.append(self)
        self._out += data
        self._mind_the_mark()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._is_end_written:
            self._is_end_written = True
            self._end_when_sent()

    def get_write_buffer_size(self) -> int:
        return len(self._out)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        del low
        self._high = HIGH_BYTES if high is None else high

    def is_closing(self) -> bool:
        return self._is_closing or self._is_lost

    def is_reading(self) -> bool:
        return self._is_reading

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        if self._arrived and self.loop is not None:
            self.loop.call_soon(self._read)

    def close(self) -> None:
        if self._is_closing or self._is_lost:
            return
        self._is_closing = True
        self._is_reading = False
        self._end_when_sent()

    def abort(self) -> None:
        if self._is_lost:
            return
        self._is_closing = True
        self._out.clear()
        self.network.reset(self.other)
        self._lose(None)

    # ---- sending ------------------------------------------------------------------------------

    def flush(self) -> None:
        """Hand to the network what may be on its way."""
        if self._is_lost or not self._out:
            return
        room = WINDOW_BYTES - self._on_the_way
        if room > 0:
            data = bytes(self._out[:room])
            del self._out[: len(data)]
            self._on_the_way += len(data)
            self.network.send(self, data)
        self._mind_the_mark()
        self._end_when_sent()

    def _end_when_sent(self) -> None:
        """Say the end of the stream once all is sent; a close is over then."""
        if self._out or not (self._is_closing or self._is_end_written) or self._is_lost:
            return
        self.network.send(self, None)
        if self._is_closing:
            self._lose(None)

    def _taken(self, count: int) -> None:
        """The other end has read that much."""
        self._on_the_way -= count
        if self._out:
            self.flush()

    def _mind_the_mark(self) -> None:
        if self._is_closing or self.protocol is None:
            return
        if not self._is_writing_paused and len(self._out) > self._high:
            self._is_writing_paused = True
            self.protocol.pause_writing()
        elif self._is_writing_paused and len(self._out) <= self._high // 4:
            self._is_writing_paused = False
            self.protocol.resume_writing()

    # ---- receiving ----------------------------------------------------------------------------

    def arrive(self, data: bytes | None) -> None:
        """Take what the network brings; None is the end of the stream."""
        if self._is_lost or self.is_broken:
            return
        self._arrived.append(data)
        if self.loop is not None and len(self._arrived) == 1:
            self.loop.call_soon(self._read)

    def _read(self) -> None:
        while self._arrived and self._is_reading and not self._is_lost:
            assert self.protocol is not None
            data = self._arrived.popleft()
            if data is None:
                if not self.protocol.eof_received():
                    self.close()
                return
            while self._arrived and self._arrived[0] is not None:
                data += self._arrived.popleft()  # type: ignore[operator]
            self.other._taken(len(data))
            for part in self.network.parts(data):
                if self._is_lost or self._is_closing:
                    return
                self.protocol.data_received(part)

    def broken(self, error: Exception) -> None:
        """Hear from the network that the connection is no more."""
        self.is_broken = True
        if not self._is_lost:
            self._is_closing = True
            self._out.clear()
            self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        self._is_lost = True
        self._error = error
        loop = self.loop
        if loop is None:
            return
        loop.transports.pop(self.number, None)
        assert self.protocol is not None
        loop.call_soon(self.protocol.connection_lost, error)
