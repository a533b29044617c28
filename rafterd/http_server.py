"""A small HTTP/1.1 server for GET and HEAD, on a selectors loop that somebody else runs.

It serves the supervisor's health and metrics and nothing more: one request for each connection, no
bodies, no names resolved. Bounded in connections, bytes of a request and seconds of a connection,
so that no client, however slow or wrong, holds more than its share.
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

logger = logging.getLogger(__name__)

RECEIVE_BYTES = 16384


class Request(NamedTuple):
    """A request line and headers, decoded; header names in lower case, the last of a name wins."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]


class Response(NamedTuple):
    """What a handler answers."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


class HttpLimits(NamedTuple):
    """Bounds of the server."""

    connections_max: int
    request_bytes_max: int
    request_seconds: float


Handler = Callable[[Request], Response]
Clock = Callable[[], float]


class HttpError(Exception):
    """The client's fault: answered with a status and a sentence."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class HttpServer:
    """Accepts on a listening socket and answers with `handler`.

    The selector's data are callables that take the event mask; the owner of the loop calls them,
    and calls `expire` at least by `next_deadline`. The server owns the listener. Nothing here
    blocks.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        listener: socket.socket,
        handler: Handler,
        limits: HttpLimits,
        clock: Clock = time.monotonic,
    ) -> None:
        self._selector = selector
        self._listener = listener
        self._handler = handler
        self._limits = limits
        self._clock = clock
        self._is_accepting = False
        self._connections: set[_Connection] = set()
        listener.setblocking(False)
        self._accept_again()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def next_deadline(self) -> float | None:
        """When `expire` has something to do, in the clock's seconds."""
        return min((connection.deadline for connection in self._connections), default=None)

    def expire(self) -> None:
        """Close the connections whose time is over, and take up accepting again."""
        now = self._clock()
        for connection in [each for each in self._connections if each.deadline <= now]:
            connection.close()
        self._accept_again()

    def close(self) -> None:
        """Close everything, the listener too; for the end and for the child after a fork."""
        for connection in list(self._connections):
            connection.close()
        if self._is_accepting:
            self._selector.unregister(self._listener)
            self._is_accepting = False
        self._listener.close()

    def abandon(self) -> None:
        """Close the descriptors, leaving the selector to the parent: for a child after a fork."""
        for connection in self._connections:
            connection.socket.close()
        self._listener.close()

    def _accept_again(self) -> None:
        has_room = len(self._connections) < self._limits.connections_max
        if has_room and not self._is_accepting and self._listener.fileno() >= 0:
            self._selector.register(self._listener, selectors.EVENT_READ, self._on_listener)
            self._is_accepting = True

    def _on_listener(self, _mask: int) -> None:
        while len(self._connections) < self._limits.connections_max:
            try:
                accepted, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # out of descriptors, or gone before we looked
                logger.warning("cannot accept an HTTP connection", extra={"error": error})
                self._pause()
                return
            accepted.setblocking(False)
            deadline = self._clock() + self._limits.request_seconds
            connection = _Connection(self, accepted, deadline)
            self._connections.add(connection)
        self._pause()  # full: the others wait in the backlog

    def _pause(self) -> None:
        self._selector.unregister(self._listener)
        self._is_accepting = False

    def forget(self, connection: _Connection) -> None:
        """Drop a connection that closed, and perhaps accept again."""
        self._connections.discard(connection)
        self._accept_again()

    def respond(self, head: bytes) -> bytes:
        """Return the bytes of the whole answer to the bytes of a request."""
        is_head = head.startswith(b"HEAD ")
        try:
            response = self._handler(parse_request(head))
        except HttpError as error:
            response = Response(error.status, f"{error}\n".encode())
        except Exception:
            logger.exception("an HTTP request failed")
            response = Response(HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error\n")
        return _encode(response, is_head=is_head)

    @property
    def request_bytes_max(self) -> int:
        """Bound on the request line and headers together."""
        return self._limits.request_bytes_max

    @property
    def selector(self) -> selectors.BaseSelector:
        """The loop's selector."""
        return self._selector


class _Connection:
    """One connection: read a request, write the answer, wait for the client to close."""

    __slots__ = ("_is_answered", "_server", "_unread", "_unsent", "deadline", "socket")

    def __init__(self, server: HttpServer, accepted: socket.socket, deadline: float) -> None:
        self._server = server
        self.socket = accepted
        self.deadline = deadline
        self._unread = bytearray()
        self._unsent = memoryview(b"")
        self._is_answered = False
        server.selector.register(accepted, selectors.EVENT_READ, self._on_event)

    def close(self) -> None:
        """Close at once, whatever was unsent."""
        self._server.selector.unregister(self.socket)
        self.socket.close()
        self._server.forget(self)

    def _on_event(self, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                self._send()
            else:
                self._receive()
        except BlockingIOError:
            return
        except OSError:  # the client is gone: nobody to tell
            self.close()

    def _receive(self) -> None:
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            self.close()
            return
        if self._is_answered:
            # Discarded until the client closes or the deadline: closing with unread bytes would
            # reset the connection and could take the answer with it.
            return
        self._unread += data
        end = self._unread.find(b"\r\n\r\n")
        limit = self._server.request_bytes_max
        if end > limit or (end < 0 and len(self._unread) > limit):
            text = f"the request is longer than {limit} bytes\n".encode()
            error = Response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text)
            self._answer(_encode(error, is_head=False))
        elif end >= 0:
            self._answer(self._server.respond(bytes(self._unread[:end])))

    def _answer(self, data: bytes) -> None:
        self._is_answered = True
        self._unread.clear()
        self._unsent = memoryview(data)
        self._server.selector.modify(self.socket, selectors.EVENT_WRITE, self._on_event)
        self._send()

    def _send(self) -> None:
        sent = self.socket.send(self._unsent)
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            self.socket.shutdown(socket.SHUT_WR)
            self._server.selector.modify(self.socket, selectors.EVENT_READ, self._on_event)


def parse_request(head: bytes) -> Request:
    """Parse a request line and headers, without the final blank line. Raises HttpError."""
    request_line, *header_lines = head.decode("latin-1").split("\r\n")
    parts = request_line.split(" ")
    if len(parts) != 3 or not parts[1].startswith("/"):
        raise HttpError(HTTPStatus.BAD_REQUEST, "malformed request line")
    method, target, version = parts
    if version not in {"HTTP/1.0", "HTTP/1.1"}:
        raise HttpError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 is spoken here")
    if method not in {"GET", "HEAD"}:
        raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are allowed")
    headers: dict[str, str] = {}
    for line in header_lines:
        name, separator, value = line.partition(":")
        if not separator or not name or name != name.strip():
            raise HttpError(HTTPStatus.BAD_REQUEST, "malformed header")
        headers[name.lower()] = value.strip()
    try:
        split = urlsplit(target)
        query = parse_qs(split.query, keep_blank_values=True, max_num_fields=100)
    except ValueError as error:
        raise HttpError(HTTPStatus.BAD_REQUEST, "malformed target") from error
    return Request(method, unquote(split.path), query, headers)


def _encode(response: Response, *, is_head: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {response.status.value} {response.status.phrase}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if response.status == HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return head if is_head else head + response.body
