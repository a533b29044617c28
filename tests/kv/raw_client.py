"""A client that sends bytes as given and returns replies as bytes, exactly as they came."""

from __future__ import annotations

import socket
import ssl
from types import TracebackType
from typing import Self


class RawClient:
    """A blocking socket, secured if `tls` is given; every wait is bounded."""

    def __init__(self, port: int, seconds: float = 10.0, tls: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes | memoryview) -> None:
        self.socket.sendall(data)

    def command(self, *arguments: bytes) -> bytes:
        self.send(request(*arguments))
        return self.reply()

    def line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._fill()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line + b"\r\n"

    def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def reply(self) -> bytes:
        line = self.line()
        sign, rest = line[:1], line[1:-2]
        if sign in (b"$", b"=") and rest != b"-1":
            return line + self.exactly(int(rest) + 2)
        if sign in (b"*", b"~", b">", b"%") and rest != b"-1":
            count = int(rest) * (2 if sign == b"%" else 1)
            return line + b"".join(self.reply() for _ in range(count))
        return line

    def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        data, self._buffer = self._buffer, b""
        while chunk := self.socket.recv(65536):
            data += chunk
        return data

    def _fill(self) -> None:
        chunk = self.socket.recv(65536)
        if not chunk:
            raise EOFError(f"connection closed after {self._buffer!r}")
        self._buffer += chunk


def request(*arguments: bytes) -> bytes:
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"".join(parts)
