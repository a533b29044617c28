"""Links: what carries frames to one other process, and the one over a stream socket."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

from rafter_transport.framing import Budget, FrameDecoder, FrameError, frame_header
from rafter_transport.peer_counters import round_trip_seconds
from rafter_transport.tls import TlsRefusedError
from rafter_transport.tls_session import TlsSession, describe

TURN_SECONDS = 0.001
"""How long one turn delivers before other callbacks of the loop have theirs."""

_RECORD_BEGINNINGS = (b"\x15\x03", b"\x16\x03")
"""How TLS begins: an alert or a hello. As the length of a frame it would be above any limit."""


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

    `heard_seconds` is when the last byte came, in the time of the loop.

    uvloop reads up to 32 times in one iteration while there is something to read. So one turn
    delivers for TURN_SECONDS at most (and what one read has brought at least), and the others have
    theirs before the next.

    With `tls` the frames are sealed. `on_made` comes before its handshake and `on_secure(link)`
    behind it; what is sent earlier is lost. Frames of the peer can only come later.
    """

    __slots__ = ("_budget", "_decoder", "_held_bytes", "_is_closing", "_loop", "_on_lost",
                 "_on_made", "_on_secure", "_tls", "_transport", "_turn_seconds", "error",
                 "heard_seconds", "lost", "on_frame")  # fmt: skip

    def __init__(
        self,
        frame_bytes_max: int,
        *,
        on_frame: Callable[[bytes], None],
        on_lost: Callable[["SocketLink"], None],
        on_made: Callable[["SocketLink"], None] | None = None,
        on_secure: Callable[["SocketLink"], None] | None = None,
        tls: TlsSession | None = None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.on_frame = on_frame
        self.error: Exception | None = None
        self.lost: asyncio.Future[None] = loop.create_future()
        self._on_made = on_made
        self._on_secure = on_secure
        self._tls = tls
        self._on_lost = on_lost
        self._loop = loop
        self._turn_seconds = 0.0
        self._decoder = FrameDecoder(frame_bytes_max)
        self._budget: Budget | None = None
        self._held_bytes = 0
        self.heard_seconds = loop.time()
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

    def peer_certificate(self) -> dict[str, Any] | None:
        """Return the other end's verified certificate, as `ssl` decodes it; None without TLS."""
        return None if self._tls is None else self._tls.peer_certificate()

    def set_frame_bytes_max(self, frame_bytes_max: int) -> None:
        """Change the limit from the next chunk on: a finished handshake earns larger frames."""
        self._decoder.frame_bytes_max = frame_bytes_max

    def share(self, budget: Budget) -> None:
        """Count what is held of an unfinished frame against a budget from the next chunk on.

        If that brings it above what all who share it may hold, the connection is lost.
        """
        self._budget = budget

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

    def round_trip_seconds(self) -> float | None:
        """Return the round-trip time that the kernel has measured, None if there is none."""
        if self._transport is None:
            return None
        stream = self._transport.get_extra_info("socket")
        return None if stream is None else round_trip_seconds(stream)

    def send(self, payload: bytes) -> None:
        """Send one frame. Never blocks; on a link that is closing the frame is lost."""
        if self._is_closing or self._transport is None:
            return
        tls = self._tls
        if tls is None:
            # uvloop writes both parts without joining them.
            self._transport.writelines((frame_header(len(payload)), payload))
        elif tls.is_secure:
            tls.seal(frame_header(len(payload)) + payload)
            self._transport.write(tls.outgoing())

    def close(self) -> None:
        """Close once everything sent has left. Nothing is received from here on."""
        if self._tls is not None and not self.is_closing:
            self._tls.end()
            self._write_outgoing(self._tls)
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
            return
        if self._on_made is not None:
            self._on_made(self)
        if self._tls is not None and not self._is_closing:
            self._tls.begin()
            self._write_outgoing(self._tls)

    def data_received(self, data: bytes) -> None:
        """Take what one read has brought, and rest after a turn of them."""
        if self._is_closing:
            return
        self.heard_seconds = self._loop.time()
        began_seconds = time.perf_counter()
        self._deliver(data)
        self._turn_seconds += time.perf_counter() - began_seconds
        if self._turn_seconds >= TURN_SECONDS and not self.is_closing:
            assert self._transport is not None
            self._transport.pause_reading()
            self._loop.call_soon(self._read_on)

    def _deliver(self, data: bytes) -> None:
        """Cut bytes into frames and deliver them, until one of them closes the link."""
        if self._tls is not None:
            data = self._opened(self._tls, data)
        try:
            frames = self._decoder.feed(data)
            if self._budget is not None:
                self._charge(self._budget, self._decoder.partial_bytes)
        except FrameError as error:
            is_record = self._tls is None and data.startswith(_RECORD_BEGINNINGS)
            self.abort(
                TlsRefusedError("the peer speaks TLS, and this end does not")
                if is_record
                else error
            )
            return
        for frame in frames:
            # TLS may have ended on the way here.
            if self._is_closing:
                return
            self.on_frame(frame)
        if self._tls is not None and self._tls.is_ended:
            self.close()

    def _read_on(self) -> None:
        self._turn_seconds = 0.0
        if not self.is_closing:
            assert self._transport is not None
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, once."""
        self._is_closing = True
        if self.error is None:
            self.error = exc
        if self._budget is not None:
            self._charge(self._budget, 0)
        self._on_lost(self)
        if not self.lost.done():
            self.lost.set_result(None)

    def _charge(self, budget: Budget, held_bytes: int) -> None:
        more_bytes = held_bytes - self._held_bytes
        self._held_bytes = held_bytes
        budget.held_bytes += more_bytes
        if more_bytes > 0 and budget.held_bytes > budget.bytes_max:
            raise FrameError(
                f"unfinished frames of {budget.held_bytes} bytes in all are above the limit "
                f"of {budget.bytes_max}"
            )

    # TLS.

    def _opened(self, tls: TlsSession, data: bytes) -> bytes:
        """Return what is in the bytes of a session; answer those that are about itself."""
        was_secure = tls.is_secure
        try:
            opened = tls.receive(data)
        except ssl.SSLError as error:
            # Closed in order, so that the alert which tells the peer why still leaves.
            self.error = self.error or TlsRefusedError(describe(error))
            self._is_closing = True
            self._write_outgoing(tls)
            if self._transport is not None:
                self._transport.close()
            return b""
        self._write_outgoing(tls)
        if tls.is_secure and not was_secure and self._on_secure is not None:
            self._on_secure(self)
        return opened

    def _write_outgoing(self, tls: TlsSession) -> None:
        outgoing = tls.outgoing()
        if outgoing and self._transport is not None:
            self._transport.write(outgoing)
