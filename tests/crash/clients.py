"""Clients that SET and INCR in pipelines until told to stop, and write down every answer."""

from __future__ import annotations

import random
import socket
import threading
from typing import Self

import hiredis

from tests.cluster.kit import HOST
from tests.crash.history import CounterHistory, History, KeyHistory

CLIENTS = 5
PIPELINE = 8
SLOTS = 6
COUNTERS = 3
VALUE_BYTES_MAX = 6_000
SOCKET_SECONDS = 5.0
PAUSE_SECONDS = 0.02
RECEIVE_BYTES = 1 << 16


def command(*words: bytes) -> bytes:
    """Encode one command."""
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


class Client(threading.Thread):
    """One client. It owns its keys, so their writes have one order; counters are tallied apart.

    After an error or a lost connection the outcome of what was sent is not known, and it might yet
    happen: the next connection writes other keys.
    """

    def __init__(self, number: int, run: int, port: int, history: History) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.acknowledged = 0
        self.counters = {f"n{each}": CounterHistory() for each in range(COUNTERS)}
        self.stopped = threading.Event()
        self._number = number
        self._run = run
        self._port = port
        self._history = history
        self._generator = random.Random(f"{run}/{number}")
        self._connections = 0
        self._sequence = 0

    def run(self) -> None:
        """Connect and write, again and again."""
        while not self.stopped.is_set():
            try:
                with socket.create_connection((HOST, self._port), SOCKET_SECONDS) as connection:
                    self._connections += 1
                    while not self.stopped.is_set() and self._exchange(connection):
                        pass
            except OSError:
                pass
            self.stopped.wait(PAUSE_SECONDS)

    def _exchange(self, connection: socket.socket) -> bool:
        """Send one pipeline and take in its answers; False once one of them was an error."""
        sent: list[tuple[KeyHistory, bytes] | CounterHistory] = []
        request = []
        for _ in range(self._generator.randint(1, PIPELINE)):
            if self._generator.random() < 0.2:
                name = f"n{self._generator.randrange(COUNTERS)}"
                counter = self.counters[name]
                counter.sent += 1
                sent.append(counter)
                request.append(command(b"INCR", name.encode()))
                continue
            slot = self._generator.randrange(SLOTS)
            name = f"k{self._number}.{self._connections}:{slot}"
            value = self._value()
            history = self._history.key(name)
            history.send(value)
            sent.append((history, value))
            request.append(command(b"SET", name.encode(), value))
        connection.sendall(b"".join(request))
        reader = hiredis.Reader()
        is_well = True
        for what in sent:
            while (reply := reader.gets()) is False:
                data = connection.recv(RECEIVE_BYTES)
                if not data:
                    return False
                reader.feed(data)
            if isinstance(reply, Exception):
                is_well = False
                continue
            self.acknowledged += 1
            if isinstance(what, CounterHistory):
                what.acknowledge(reply)
            else:
                what[0].acknowledge(what[1])
        return is_well

    def _value(self) -> bytes:
        self._sequence += 1
        padding = self._generator.randrange(VALUE_BYTES_MAX)
        return b"%d-%d-%d:" % (self._run, self._number, self._sequence) + b"v" * padding


class Clients:
    """Some clients; a context manager that stops them and adds up their counters."""

    def __init__(self, run: int, port: int, history: History) -> None:
        self._history = history
        self._clients = [Client(number, run, port, history) for number in range(CLIENTS)]

    @property
    def acknowledged(self) -> int:
        """How many writes were acknowledged so far."""
        return sum(client.acknowledged for client in self._clients)

    def __enter__(self) -> Self:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.stopped.set()
        for client in self._clients:
            client.join(2 * SOCKET_SECONDS)
            assert not client.is_alive(), f"{client.name} hangs"
        for client in self._clients:
            for name, tally in client.counters.items():
                total = self._history.counter(name)
                total.sent += tally.sent
                total.acknowledged += tally.acknowledged
                total.highest_answer = max(total.highest_answer, tally.highest_answer)


def read_all(port: int, names: list[str]) -> dict[str, bytes | None]:
    """GET every key. Raises OSError if the node does not answer, or answers an error."""
    found: dict[str, bytes | None] = {}
    with socket.create_connection((HOST, port), SOCKET_SECONDS) as connection:
        for start in range(0, len(names), 100):
            chunk = names[start : start + 100]
            connection.sendall(b"".join(command(b"GET", name.encode()) for name in chunk))
            reader = hiredis.Reader()
            for name in chunk:
                while (reply := reader.gets()) is False:
                    data = connection.recv(RECEIVE_BYTES)
                    if not data:
                        raise OSError("the node closed the connection")
                    reader.feed(data)
                if isinstance(reply, Exception):
                    raise OSError(f"GET {name}: {reply}")
                found[name] = reply
    return found
