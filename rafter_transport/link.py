"""Links: what carries frames to one other process, and the one over a stream socket."""

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol, cast

from rafter_transport.framing import FrameDecoder, FrameError, frame_header


class Link(Protocol):
    """An ordered, bounded way to one other shard. A shared-memory queue can stand behind it."""

    def send(self, payload: bytes) -> None:
        """Send one frame. Never blocks; on a link that is closing the frame is lost."""

    @property
    def pending_bytes(self) -> int:
        """Bytes sent here that the operating system has not taken yet."""

    def close(self) -> None:
        """Close once everything sent has left. Nothing is received from here on."""

    def abort(self) -> None:
        """Close at once; what has not left is lost."""


class SocketLink(asyncio.Protocol):
    """A Link over a stream socket: TCP between nodes, a Unix socketpair between shards.

    The protocol object of its transport. `on_made(link)` is called when the socket is ready,
    `on_frame(payload)` for each frame in order, and `on_lost(link)` exactly once when the socket is
    gone, then with the reason in `error` (None: closed in order). No frame is delivered after
    `close` or `abort`. What `on_frame` raises goes to the loop's exception handler, as
    an error of our own, and the connection is lost.
    """

    __slots__ = ("_decoder", "_is_closing", "_on_lost", "_on_made", "_transport", "error", "lost",
                 "on_frame")  # fmt: skip

    def __init__(
        self,
        frame_bytes_max: int,
        *,
        on_frame: Callable[[bytes], None],
        on_lost: Callable[["SocketLink"], None],
        on_made: Callable[["SocketLink"], None] | None = None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.on_frame = on_frame
        self.error: Exception | None = None
        self.lost: asyncio.Future[None] = loop.create_future()
        self._on_made = on_made
        self._on_lost = on_lost
        self._decoder = FrameDecoder(frame_bytes_max)
        self._transport: asyncio.Transport | None = None
        self._is_closing = False

    @property
    def is_closing(self) -> bool:
        """Whether no frame goes out or comes in any more."""
        return self._is_closing or self._transport is None or self._transport.is_closing()

    @property
    def pending_bytes(self) -> int:
        """Bytes sent here that the operating system has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def peer_host(self) -> str:
        """The other end's address, for logs."""
        name = None if self._transport is None else self._transport.get_extra_info("peername")
        return str(name[0]) if isinstance(name, tuple) and name else "unknown"

    def set_frame_bytes_max(self, frame_bytes_max: int) -> None:
        """Change the limit from the next chunk on: a finished handshake earns larger frames."""
        self._decoder.frame_bytes_max = frame_bytes_max

    def tune(self, unacknowledged_seconds: float) -> None:
        """Set what a TCP connection between nodes needs.

        Without TCP_NODELAY two small frames and an answer take 44 ms. The keepalive finds the host
        that vanished while nothing was sent, the user timeout the one that vanished with
        bytes in flight, whose retransmissions would else go on for a quarter of an hour.
        """
        assert self._transport is not None
        stream = cast("socket.socket", self._transport.get_extra_info("socket"))
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", 5),
            ("TCP_KEEPINTVL", 2),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", int(unacknowledged_seconds * 1000)),
        ):
            option = getattr(socket, name, None)
            if option is not None:
                stream.setsockopt(socket.IPPROTO_TCP, option, value)

    def is_connected_to_itself(self) -> bool:
        """Whether TCP has connected this socket to its own port.

        A dial of a closed port on the same host can draw that very port as its source
        (simultaneous open); it would then keep the peer from binding it.
        """
        assert self._transport is not None
        sockname = self._transport.get_extra_info("sockname")
        return bool(sockname == self._transport.get_extra_info("peername"))

    def send(self, payload: bytes) -> None:
        """Send one frame. Never blocks; on a link that is closing the frame is lost."""
        if self._is_closing or self._transport is None:
            return
        # uvloop writes both parts without joining them.
        self._transport.writelines((frame_header(len(payload)), payload))

    def close(self) -> None:
        """Close once everything sent has left. Nothing is received from here on."""
        self._is_closing = True
        if self._transport is not None:
            self._transport.close()

    def abort(self, error: Exception | None = None) -> None:
        """Close at once; what has not left is lost. `error` is kept as the reason."""
        if self.error is None:
            self.error = error
        self._is_closing = True
        if self._transport is not None:
            self._transport.abort()

    # What follows is called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport; one that comes after `close` is shut at once."""
        self._transport = cast("asyncio.Transport", transport)
        if self._is_closing:
            self._transport.abort()
        elif self._on_made is not None:
            self._on_made(self)

    def data_received(self, data: bytes) -> None:
        """Cut the chunk into frames and deliver them, until one of them closes the link."""
        if self._is_closing:
            return
        try:
            frames = self._decoder.feed(data)
        except FrameError as error:
            self.abort(error)
            return
        for frame in frames:
            self.on_frame(frame)
            if self._is_closing:
                return

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, once."""
        self._is_closing = True
        if self.error is None:
            self.error = exc
        self._on_lost(self)
        if not self.lost.done():
            self.lost.set_result(None)
