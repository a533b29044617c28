"""One connection of the client: endpoints, sockets, replies, and the errors they end in.

A `Connection` carries one command at a time. Which of its three private failures it ends in
decides whether `rafter_kv.client` may send the command again elsewhere: `NotSentError` (nobody
executed it), `BrokenError` and `DeadlineError` (somebody may have).
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import hiredis

if TYPE_CHECKING:
    import ssl

PORT_DEFAULT: Final = 7379

_RECEIVE_BYTES: Final = 1 << 18
_PARTING_SECONDS: Final = 0.05
"""How long to look for the reason of a closed connection; it came before the closing did."""

_LIBRARY_POSITION: Final = re.compile(r"^\[[A-Z0-9]+\] | \(_ssl\.c:\d+\)$")
"""What `ssl` puts around some of OpenSSL's texts."""

_REFUSAL_CODES: Final = frozenset({"NOAUTH", "NOPERM", "WRONGPASS"})
"""Answers to HELLO that every endpoint would give: trying the next one would hide the cause."""


class RafterError(Exception):
    """Any failure of a command; the subclass says what is known about its effect."""


class ServerError(RafterError):
    """The server refused the command: `code` is the first word of `message`, as in Redis."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.code = message.partition(" ")[0]


class Unavailable(RafterError):
    """The command was not executed: no endpoint answered, or there is no leader for its key."""


class TimedOut(RafterError):
    """A read got no answer in time; it changed nothing."""


class UnknownOutcome(RafterError):
    """A write was sent and its answer is not known: it may or may not have been executed."""


class ReplyTooLarge(RafterError):
    """The reply to a read is over `reply_bytes_max`; the connection was closed."""


class EndpointError(ValueError):
    """An endpoint is not of the form `host:port`, `[address]:port` or `host`."""


class Endpoint(NamedTuple):
    """Where a server listens for clients."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return the form that `parse_endpoints` reads."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoints(text: str) -> list[Endpoint]:
    """Read a comma-separated list of endpoints; raise EndpointError, naming the faulty one."""
    endpoints = [_parse_endpoint(item.strip()) for item in text.split(",") if item.strip()]
    if not endpoints:
        raise EndpointError("no endpoint given: expected host:port[,host:port…]")
    return endpoints


def _parse_endpoint(item: str) -> Endpoint:
    if item.startswith("["):  # [IPv6]:port
        host, bracket, rest = item[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise EndpointError(f"endpoint {item!r}: expected [address]:port")
        port_text = rest[1:] if rest else str(PORT_DEFAULT)
    elif item.count(":") > 1:
        raise EndpointError(f"endpoint {item!r}: an IPv6 address goes in brackets, [address]:port")
    else:
        host, colon, port_text = item.partition(":")
        port_text = port_text if colon else str(PORT_DEFAULT)
    if not host:
        raise EndpointError(f"endpoint {item!r}: the host is missing")
    # isdecimal alone would let other scripts' digits through.
    if not (port_text.isascii() and port_text.isdecimal() and 0 < int(port_text) < 65536):
        raise EndpointError(f"endpoint {item!r}: the port must be a number from 1 to 65535")
    return Endpoint(host, int(port_text))


class NotSentError(Exception):
    """The command did not leave this host whole, so nobody can have executed it."""


class BrokenError(Exception):
    """The command left, and no whole reply came back: closed, reset, or not RESP."""


class DeadlineError(Exception):
    """The time of the call ran out while its reply was awaited."""


class Connection:
    """One socket and the parser of its replies; after an error it can only be closed."""

    __slots__ = ("_reader", "_reply_bytes_max", "_socket", "endpoint", "protocol")

    def __init__(
        self,
        endpoint: Endpoint,
        deadline: float,
        reply_bytes_max: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.protocol = 2
        self._reply_bytes_max = reply_bytes_max
        self._reader = hiredis.Reader(replyError=ServerError, notEnoughData=Ellipsis)
        self._socket = _open_socket(endpoint, deadline)
        if tls is not None:
            self._socket = _secured(self._socket, endpoint, deadline, tls)

    def close(self) -> None:
        """Close the socket; closing twice is allowed."""
        self._socket.close()

    def is_stale(self) -> bool:
        """Tell whether the peer closed it, or sent something nobody asked for, while idle."""
        poll = select.poll()  # not select(): a program may have more than 1024 descriptors
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def greet(self, deadline: float) -> None:
        """Switch to RESP3, or stay with RESP2 if the server knows nothing newer.

        Raises BrokenError for an endpoint that cannot serve now, ServerError if it refuses us.
        """
        reply = self.exchange(pack_command((b"HELLO", 3)), deadline)
        if not isinstance(reply, ServerError):
            self.protocol = 3
        elif reply.code in _REFUSAL_CODES:
            raise reply
        elif reply.code != "NOPROTO" and "unknown command" not in reply.message.lower():
            # Such as LOADING, or the error for one connection too many: try another endpoint.
            raise BrokenError(reply.message)

    def exchange(self, request: bytes, deadline: float) -> object:
        """Send one command and return its reply; a ServerError is returned, not raised."""
        try:
            self._send(request, deadline)
        except NotSentError:
            refusal = self._parting_error()
            if refusal is None:
                raise
            return refusal
        return self._receive(deadline)

    def _parting_error(self) -> ServerError | None:
        """Return the error with which the server closed the connection while we were sending.

        It explains more than 'broken pipe' does: a value over the limit is refused like this.
        """
        try:
            reply = self._receive(time.monotonic() + _PARTING_SECONDS)
        except (BrokenError, DeadlineError, ReplyTooLarge):
            return None
        return reply if isinstance(reply, ServerError) else None

    def _send(self, request: bytes, deadline: float) -> None:
        unsent = memoryview(request)
        try:
            while unsent:
                self._socket.settimeout(_seconds_until(deadline))
                unsent = unsent[self._socket.send(unsent) :]
        # A server cannot execute a command whose end the kernel never took from us.
        except (TimeoutError, DeadlineError) as error:
            raise NotSentError("it did not take the command in time") from error
        except OSError as error:
            raise NotSentError(reason_of(error)) from error

    def _receive(self, deadline: float) -> object:
        reader = self._reader
        received_bytes = 0
        while True:
            try:
                reply = reader.gets()
            except (hiredis.HiredisError, TypeError) as error:
                # TypeError: a map whose key is an array.
                raise BrokenError(f"the answer is not RESP: {error}") from error
            if isinstance(reply, hiredis.PushNotification):
                continue  # Out of band, and we subscribe to nothing.
            if reply is not Ellipsis:
                return reply
            try:
                self._socket.settimeout(_seconds_until(deadline))
                data = self._socket.recv(_RECEIVE_BYTES)
            except TimeoutError as error:
                raise DeadlineError from error
            except OSError as error:
                raise BrokenError(reason_of(error)) from error
            if not data:
                raise BrokenError("the server closed the connection")
            received_bytes += len(data)
            if received_bytes > self._reply_bytes_max:
                raise ReplyTooLarge(
                    f"{self.endpoint}: the reply is longer than {self._reply_bytes_max} bytes"
                )
            reader.feed(data)


def pack_command(arguments: Sequence[bytes | str | int]) -> bytes:
    """Return one request: text goes as UTF-8, numbers in decimal."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def _open_socket(endpoint: Endpoint, deadline: float) -> socket.socket:
    """Connect to the first address of `endpoint` that accepts, all within `deadline`."""
    try:
        addresses = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # the resolver cannot even encode it
        raise OSError(f"{endpoint.host!r} cannot be a host name") from error
    failure: OSError | None = None
    for family, kind, protocol, _, address in addresses:
        try:
            candidate = socket.socket(family, kind, protocol)
        except OSError as error:  # such as an address family this host does not have
            failure = error
            continue
        try:
            candidate.settimeout(_seconds_until(deadline))
            candidate.connect(address)
            candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            candidate.close()
            failure = error
        except BaseException:
            candidate.close()
            raise
        else:
            return candidate
    raise failure or OSError(f"{endpoint.host} has no address")


def _secured(
    plain: socket.socket, endpoint: Endpoint, deadline: float, tls: ssl.SSLContext
) -> socket.socket:
    """Shake hands over a connected socket, which belongs to the result, or is closed on errors."""
    try:
        plain.settimeout(_seconds_until(deadline))
        return tls.wrap_socket(plain, server_hostname=endpoint.host)
    except BaseException:
        plain.close()
        raise


def _seconds_until(deadline: float) -> float:
    """Return what is left, raising DeadlineError rather than 0: 0 means 'do not block'."""
    remaining_seconds = deadline - time.monotonic()
    if remaining_seconds <= 0:
        raise DeadlineError
    return remaining_seconds


def reason_of(error: BaseException) -> str:
    """Say in a few words why an endpoint failed."""
    if isinstance(error, DeadlineError | TimeoutError):
        return "no answer in time"
    if type(error).__module__ == "ssl":  # which is slow to import, and mostly not needed
        return f"TLS: {_tls_reason(error)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def _tls_reason(error: BaseException) -> str:
    """Say what OpenSSL found, without where in the library it did."""
    text = getattr(error, "verify_message", None) or getattr(error, "reason", None) or str(error)
    return _LIBRARY_POSITION.sub("", str(text)).replace("_", " ").lower()
