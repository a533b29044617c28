"""A real redis-server to compare results with, on a free loopback port, stopped at the end."""

import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rafter_kv.results import Result
from tests.ports import free_ports

MISSING = shutil.which("redis-server") is None
MISSING_REASON = "redis-server is not installed: nothing to compare with"


class RealRedis:
    """A connection that reports replies as our results: statuses and errors are str."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._replies = self._socket.makefile("rb")

    def run(self, commands: Sequence[Sequence[bytes]]) -> list[Result]:
        """Send commands in one pipeline and return their results."""
        requests = bytearray()
        for command in commands:
            requests += b"*%d\r\n" % len(command)
            for argument in command:
                requests += b"$%d\r\n%b\r\n" % (len(argument), argument)
        self._socket.sendall(requests)
        return [self._read() for _ in commands]

    def close(self) -> None:
        self._replies.close()
        self._socket.close()

    def _read(self) -> Result:
        line = self._replies.readline()
        assert line.endswith(b"\r\n"), "redis-server closed the connection"
        kind, text = line[:1], line[1:-2]
        if kind in (b"+", b"-"):
            return (kind + text).decode("utf-8", "replace")
        size = int(text)
        if kind == b":":
            return size
        if size < 0:
            return None
        if kind == b"$":
            return self._replies.read(size + 2)[:-2]
        assert kind == b"*", f"unexpected reply {line!r}"
        return [self._read() for _ in range(size)]


@contextmanager
def running_redis(directory: Path) -> Iterator[RealRedis]:
    """Run a redis-server that keeps nothing on disk, for the length of the block."""
    program = shutil.which("redis-server")
    assert program is not None, MISSING_REASON
    port = free_ports()
    options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(directory)]
    process = subprocess.Popen([program, "--port", str(port), *options], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if b"Ready to accept connections" in line:
                break
        else:
            raise AssertionError(f"redis-server did not start on port {port}")
        connection = RealRedis(port)
        try:
            yield connection
        finally:
            connection.close()
    finally:
        process.terminate()
        process.communicate(timeout=30)
