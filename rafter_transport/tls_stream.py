"""TLS under the protocol of an accepted connection: a session between it and the plain transport.

The event loops' own TLS calls a protocol only when the handshake is over. Strangers in the middle
of one would then be counted by nobody, and those that were refused would leave no trace.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

from rafter_transport.tls_session import TlsSession, describe

__all__ = ["TlsStream"]

_RECORD_BEGINNINGS: Final = (b"\x15", b"\x16")
"""The first byte of an alert and of a hello, one of which is what TLS begins with."""

_LINGER_SECONDS: Final = 1.0


class TlsStream(asyncio.Protocol, asyncio.Transport):
    """To the loop a protocol, to `protocol` a transport that works as the plain one does.

    `protocol.connection_made` is called at once, so that its limits count connections from the
    accept on; what it writes before the handshake is over is lost. The peer's end of TLS is an
    end of file, and so is a connection that ends without one. After `write_eof` nothing is
    received any more.

    A handshake that takes longer than `handshake_seconds`, or any error of TLS, ends the connection
    and is told to `on_refused(host, reason)`, once. Whoever does not speak TLS is sent
    `cleartext_answer` before.
    """

    __slots__ = ("_cleartext_answer", "_deadline", "_handshake_seconds", "_is_deaf", "_is_empty",
                 "_is_mute", "_loop", "_on_refused", "_protocol", "_session",
                 "_transport")  # fmt: skip

    def __init__(
        self,
        protocol: asyncio.Protocol,
        session: TlsSession,
        *,
        handshake_seconds: float,
        on_refused: Callable[[str, str], None],
        cleartext_answer: bytes,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__()
        self._protocol = protocol
        self._session = session
        self._handshake_seconds = handshake_seconds
        self._on_refused = on_refused
        self._cleartext_answer = cleartext_answer
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._is_empty = True  # nothing has arrived yet
        self._is_deaf = False  # what arrives is thrown away
        self._is_mute = False  # nothing more is sent

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the plain transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._deadline = self._loop.call_later(self._handshake_seconds, self._handshake_late)
        self._protocol.connection_made(self)

    def data_received(self, data: bytes) -> None:
        """Pass on what a chunk says, decrypted."""
        if self._is_deaf:
            return
        if self._is_empty:
            self._is_empty = False
            if not data.startswith(_RECORD_BEGINNINGS):
                self._refuse("the peer does not speak TLS here", self._cleartext_answer)
                return
        session = self._session
        try:
            opened = session.receive(data)
        except ssl.SSLError as error:
            self._refuse(describe(error), session.outgoing())
            return
        self._write_outgoing()
        if self._deadline is not None and session.is_secure:
            self._deadline.cancel()
            self._deadline = None
        if opened:
            self._protocol.data_received(opened)
        if session.is_ended:
            self._is_deaf = True
            if not self._protocol.eof_received():
                self.close()

    def eof_received(self) -> bool:
        """Pass an end without notice on; the loop closes the connection if nobody objects."""
        if self._session.is_ended:
            return not self._is_mute  # the protocol was told, and is answering still
        if self._is_deaf or not self._session.is_secure:
            return False
        self._is_deaf = True
        return bool(self._protocol.eof_received())

    def pause_writing(self) -> None:
        """Pass it on."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the protocol, once."""
        self._is_deaf = True
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._protocol.connection_lost(exc)

    # Called by the protocol.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, sealed. Never blocks."""
        if self._session.is_secure and not self._is_mute and not self._plain.is_closing():
            self._session.seal(bytes(data))
            self._write_outgoing()

    def can_write_eof(self) -> bool:
        """TLS has an end of one direction, as TCP has."""
        return True

    def write_eof(self) -> None:
        """Say that nothing follows, once everything sent has left; nothing is received either."""
        self._end()
        self._plain.write_eof()

    def close(self) -> None:
        """Close once everything sent has left."""
        self._end()
        self._plain.close()

    def abort(self) -> None:
        """Close at once; what has not left is lost."""
        self._is_deaf = self._is_mute = True
        self._plain.abort()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._plain.is_closing()

    def pause_reading(self) -> None:
        """Leave what arrives with the operating system."""
        self._plain.pause_reading()

    def resume_reading(self) -> None:
        """Take it from there again."""
        self._plain.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when the protocol is told to pause, in sealed bytes."""
        self._plain.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return how many sealed bytes the operating system has not taken yet."""
        return self._plain.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - as the base's
        """Return what is known of the socket."""
        return self._plain.get_extra_info(name, default)

    # Ends.

    @property
    def _plain(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    def _write_outgoing(self) -> None:
        outgoing = self._session.outgoing()
        if outgoing:
            self._plain.write(outgoing)

    def _end(self) -> None:
        """Say that nothing follows, unless everything was said."""
        if not self._is_mute and not self._plain.is_closing():
            self._session.end()
            self._write_outgoing()
        self._is_deaf = self._is_mute = True

    def _refuse(self, reason: str, parting: bytes) -> None:
        """End the connection so that the peer gets to read why.

        One that has sent its first request along with its handshake would find the connection
        reset, and the alert gone, if it were closed with that unread.
        """
        self._is_deaf = self._is_mute = True
        self._tell(reason)
        self._plain.write(parting)
        self._plain.write_eof()
        self._plain.resume_reading()
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(_LINGER_SECONDS, self._plain.abort)

    def _handshake_late(self) -> None:
        self._deadline = None
        if not self._is_deaf:
            self._tell("no TLS handshake in time")
        self.abort()

    def _tell(self, reason: str) -> None:
        peer = self._plain.get_extra_info("peername")
        self._on_refused(str(peer[0]) if isinstance(peer, tuple) and peer else "unknown", reason)
