"""A RESP server for the tests of the client: a real socket, a thread, and faults on request."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Self

import hiredis

from rafter_kv.client import Endpoint
from tests.ports import free_ports


class Fault(Exception):
    """Raised by a handler: send `sent`, then end the connection in `way`.

    close and reset do so at once; hang waits for the client to give up; stall no longer even
    reads; refuse sends an error in the middle of the next command.
    """

    def __init__(self, way: str, sent: bytes = b"") -> None:
        super().__init__(way)
        self.way = way
        self.sent = sent


class RespServer:
    """A single-threaded Redis with a few commands; it serves one connection after another.

    `handlers` overrides a command: it takes the arguments and returns the encoded reply or raises
    Fault. Every command that arrived whole is in `commands`. With `tls` it speaks nothing else.
    """

    def __init__(self, *, speaks_resp3: bool = True, tls: ssl.SSLContext | None = None) -> None:
        self.values: dict[bytes, bytes] = {}
        self.commands: list[list[bytes]] = []
        self.connections = 0
        self.handlers: dict[bytes, Callable[[list[bytes]], bytes]] = {}
        self.speaks_resp3 = speaks_resp3
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint("127.0.0.1", self._listener.getsockname()[1])
        self._connection: socket.socket | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Refuse connections from now on, and end the one there is."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.drop_connection()
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()
        self._listener.close()

    def drop_connection(self) -> None:
        """End the present connection as a server does that stops."""
        if (connection := self._connection) is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def names(self) -> list[bytes]:
        """Return the names of the commands that arrived, greetings left out."""
        return [command[0] for command in self.commands if command[0] != b"HELLO"]

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self._tls is not None:
                connection = self._tls.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
            with connection:
                self._connection = connection
                with contextlib.suppress(OSError, hiredis.ProtocolError):
                    self._serve_connection(connection)
                self._connection = None

    def _serve_connection(self, connection: socket.socket) -> None:
        if isinstance(connection, ssl.SSLSocket):
            self._shake_hands(connection)
        reader = hiredis.Reader(notEnoughData=Ellipsis)
        while not self._closing.is_set() and (data := connection.recv(65536)):
            reader.feed(data)
            while (command := reader.gets()) is not Ellipsis:
                assert isinstance(command, list)
                self.commands.append(command)
                try:
                    connection.sendall(self._reply(command))
                except Fault as fault:
                    self._misbehave(connection, fault)
                    return

    def _shake_hands(self, connection: ssl.SSLSocket) -> None:
        try:
            connection.do_handshake()
        except ssl.SSLError:
            # A client that has sent its request already shall read the alert, and not find the
            # connection reset.
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
            raise

    def _misbehave(self, connection: socket.socket, fault: Fault) -> None:
        connection.sendall(fault.sent)
        if fault.way == "reset":
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif fault.way == "hang":
            while connection.recv(65536):  # until the client gives up
                pass
        elif fault.way == "stall":
            self._closing.wait(timeout=30)  # without reading
        elif fault.way == "refuse":
            connection.recv(1)
            connection.sendall(b"-ERR Protocol error: invalid bulk length\r\n")
        else:
            assert fault.way == "close"

    def _reply(self, command: list[bytes]) -> bytes:
        name, *arguments = command
        handler = self.handlers.get(name) or getattr(self, f"_do_{name.decode().lower()}", None)
        if handler is None:
            return b"-ERR unknown command '%b', with args beginning with: \r\n" % name
        reply = handler(arguments)
        assert isinstance(reply, bytes)
        return reply

    def _do_hello(self, _: list[bytes]) -> bytes:
        if not self.speaks_resp3:
            return b"-ERR unknown command 'HELLO', with args beginning with: '3' \r\n"
        return b"%2\r\n$6\r\nserver\r\n$7\r\nrafterd\r\n$5\r\nproto\r\n:3\r\n"

    def _do_get(self, arguments: list[bytes]) -> bytes:
        return self._bulk(self.values.get(arguments[0]))

    def _do_mget(self, arguments: list[bytes]) -> bytes:
        return array([self._bulk(self.values.get(key)) for key in arguments])

    def _do_set(self, arguments: list[bytes]) -> bytes:
        key, value, *options = arguments
        if (b"NX" in options and key in self.values) or (
            b"XX" in options and key not in self.values
        ):
            return self._bulk(None)
        self.values[key] = value
        return b"+OK\r\n"

    def _do_del(self, arguments: list[bytes]) -> bytes:
        return b":%d\r\n" % sum(self.values.pop(key, None) is not None for key in arguments)

    def _do_incrby(self, arguments: list[bytes]) -> bytes:
        key, by = arguments
        try:
            number = int(self.values.get(key, b"0")) + int(by)
        except ValueError:
            return b"-ERR value is not an integer or out of range\r\n"
        self.values[key] = b"%d" % number
        return b":%d\r\n" % number

    def _do_scan(self, arguments: list[bytes]) -> bytes:
        cursor = int(arguments[0])
        options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
        count = int(options.get(b"COUNT", b"2"))
        pattern = options.get(b"MATCH", b"*").decode()
        keys = sorted(self.values)
        page = [key for key in keys[cursor : cursor + count] if fnmatchcase(key.decode(), pattern)]
        following = cursor + count if cursor + count < len(keys) else 0
        return array([bulk(b"%d" % following), array([bulk(key) for key in page])])

    def _bulk(self, value: bytes | None) -> bytes:
        if value is None:
            return b"_\r\n" if self.speaks_resp3 else b"$-1\r\n"
        return bulk(value)


def bulk(value: bytes) -> bytes:
    """Encode a bulk string."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def array(items: list[bytes]) -> bytes:
    """Encode an array of replies that are encoded already."""
    return b"*%d\r\n" % len(items) + b"".join(items)


def encode(value: object, *, resp3: bool) -> bytes:
    """Encode strings, numbers, lists and maps; a map is a flat array in RESP2."""
    match value:
        case bytes():
            return bulk(value)
        case str():
            return bulk(value.encode())
        case int():
            return b":%d\r\n" % value
        case float():
            return b",%r\r\n" % value if resp3 else bulk(repr(value).encode())
        case list():
            return array([encode(item, resp3=resp3) for item in value])
        case dict():
            items = [encode(item, resp3=resp3) for pair in value.items() for item in pair]
            return (b"%%%d\r\n" % len(value) if resp3 else b"*%d\r\n" % len(items)) + b"".join(
                items
            )
    raise TypeError(type(value).__name__)


@contextlib.contextmanager
def hanging_endpoint() -> Iterator[Endpoint]:
    """Give an endpoint that accepts connections, in the kernel's queue, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Endpoint("127.0.0.1", listener.getsockname()[1])


def closed_endpoint() -> Endpoint:
    """Return an endpoint on which nobody listens."""
    return Endpoint("127.0.0.1", free_ports())
