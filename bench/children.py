"""Processes of a measurement: forked, each with a stream to the one that forked it."""

from __future__ import annotations

import json
import os
import socket
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

DEADLINE_SECONDS = 600.0


class Stream:
    """One end of a pair: values as lines of JSON, waited for."""

    def __init__(self, stream: socket.socket) -> None:
        stream.settimeout(DEADLINE_SECONDS)
        self.socket = stream
        self._file = stream.makefile("rb")

    def send(self, value: object) -> None:
        """Send what JSON can hold."""
        self.socket.sendall(json.dumps(value).encode() + b"\n")

    def receive(self) -> Any:  # noqa: ANN401 - whatever the other end has sent
        """Return the next value; raise EOFError at the end."""
        line = self._file.readline()
        if not line:
            raise EOFError("the other process has ended")
        return json.loads(line)

    def close(self) -> None:
        """Close this end."""
        self._file.close()
        self.socket.close()


class Child:
    """A process that runs `main(stream)` and ends. Forked by one without threads and loops."""

    def __init__(self, main: Callable[[Stream], None]) -> None:
        here, there = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                here.close()
                main(Stream(there))
                status = 0
            except BaseException:  # noqa: BLE001 - whatever it is, the parent must not go on twice
                traceback.print_exc()
            finally:
                os._exit(status)
        there.close()
        self.stream = Stream(here)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the stream, which ends a child that waits for it, and wait for the process."""
        self.stream.close()
        _, wait_status = os.waitpid(self._pid, 0)
        if wait_status and error is None:
            raise RuntimeError(f"a process of the measurement failed: {wait_status}")
