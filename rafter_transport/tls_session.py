"""A TLS session without a socket: bytes of the wire in, bytes of the wire out.

The transports of the event loops can do TLS as well, but they call a protocol only when
the handshake is over, so strangers in the middle of one could not be counted, and what they hold
back of the bytes to be sent could not be told.
"""

import ssl
from typing import Any, Final

_READ_BYTES: Final = 1 << 14
"""What one record can hold; no read returns more, and each allocates as much as it asks for."""


def describe(error: ssl.SSLError) -> str:
    """Return in words why a session ended, fit for a log line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not accepted: {error.verify_message}"
    reason = str(error.reason or error.strerror or error)
    _, is_alert, alert = reason.partition("_ALERT_")
    if is_alert:
        return f"refused by the peer: TLS alert {_words(alert)}"
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return f"the peer does not speak TLS here ({_words(reason)})"
    return f"TLS: {_words(reason)}"


def _words(reason: str) -> str:
    return reason.replace("_", " ").lower()


class TlsSession:
    """One end of one session. Never blocks; the owner moves the bytes.

    After each call that can have produced some, `outgoing` is to be sent, after an error too: it
    holds the alert that tells the peer.
    """

    __slots__ = ("_incoming", "_object", "_outgoing", "is_ended", "is_secure")

    def __init__(self, context: ssl.SSLContext, *, is_server: bool) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server)
        self.is_secure = False
        """Whether the handshake is over: now there is a peer's certificate."""
        self.is_ended = False
        """Whether the peer has said that nothing follows."""

    def begin(self) -> None:
        """Make the first message, if this is the dialling end."""
        self._shake_hands()

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the wire; return what they say, decrypted, often nothing.

        Raises ssl.SSLError when the session is over for an error; it is not to be used any more.
        """
        if self.is_ended:
            return b""
        incoming = self._incoming
        incoming.write(data)
        if not self.is_secure:
            self._shake_hands()
            if not self.is_secure:
                return b""
        parts: list[bytes] = []
        try:
            # What is left is the beginning of a record; to read on would cost an exception.
            while incoming.pending or not parts:
                part = self._object.read(_READ_BYTES)
                parts.append(part)
                if not part:
                    self.is_ended = True
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_ended = True
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def seal(self, data: bytes) -> None:
        """Encrypt bytes for the peer. Not before the session is secure."""
        if data:
            written = self._object.write(data)
            assert written == len(data), "a session in memory takes everything"

    def end(self) -> None:
        """Tell the peer that nothing follows, as far as it has come to that."""
        try:
            self._object.unwrap()
        except (ssl.SSLError, ValueError):
            # It waits for the peer's own end, which nobody needs.
            return

    def outgoing(self) -> bytes:
        """Return, once, what is to be sent."""
        return self._outgoing.read()

    def peer_certificate(self) -> dict[str, Any] | None:
        """Return the verified certificate of the peer as `ssl` decodes it, None without one."""
        return self._object.getpeercert() if self.is_secure else None

    def version(self) -> str | None:
        """Return the version of TLS that was agreed upon."""
        return self._object.version()

    def _shake_hands(self) -> None:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.is_secure = True
