"""Clients: each has one connection at a time, to any node, and writes down what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import hiredis

from tests.linear.history import History, Operation, Outcome
from tests.nemesis.workload import Object, Step, StrangeReplyError, Team, Words, judge_reply

CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 3.0
"""Longer than the server itself waits before it says that it does not know."""
RETRY_SECONDS = 0.05
REFUSALS_MAX = 3
"""So many errors in a row, and a client tries another node."""
TURNS_OF_CONNECTION = (20, 200)
"""After so many a client goes on at another node: else all would end where no fault strikes."""
PIPELINE_PART = 0.2
PIPELINE_MAX = 3
_READ_BYTES = 1 << 16

Address = tuple[str, int]


class LostError(OSError):
    """The connection is no use any more: whatever has no answer yet never gets one."""


def encode(words: Words) -> bytes:
    """Encode one command."""
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


class Exchange(Protocol):
    """What a client needs of a connection: commands in, replies out, in their order."""

    def send(self, commands: Sequence[Words]) -> None:
        """Send commands."""

    async def receive(self) -> Any:
        """Return the next reply, errors included. Raises LostError."""

    def close(self) -> None:
        """Close it."""


Connect = Callable[[Address], Awaitable[Exchange]]


class Connection:
    """A connection of RESP commands. Replies that are errors are returned, not raised."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._replies = hiredis.Reader()

    @classmethod
    async def open(cls, address: Address) -> Connection:
        """Connect. Raises LostError if nobody is there."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return cls(*await asyncio.open_connection(*address))
        except OSError as error:  # TimeoutError is one
            raise LostError(str(error)) from None

    def send(self, commands: Sequence[Words]) -> None:
        """Send commands in one piece."""
        self._writer.write(b"".join(map(encode, commands)))

    async def receive(self, seconds: float = ANSWER_SECONDS) -> Any:
        """Return the next reply. Raises LostError if it does not come in time, or at all."""
        try:
            async with asyncio.timeout(seconds):
                while (reply := self._replies.gets()) is False:
                    data = await self._reader.read(_READ_BYTES)
                    if not data:
                        raise LostError("closed by the server")
                    self._replies.feed(data)
        except TimeoutError:
            raise LostError("no answer in time") from None
        except hiredis.HiredisError as error:
            raise LostError(f"not RESP: {error}") from None
        except OSError as error:
            raise LostError(str(error)) from None
        return reply

    def close(self) -> None:
        """Close it, without waiting."""
        self._writer.close()


class Recorder:
    """What all clients of a round have seen."""

    def __init__(self, now: Callable[[], int] = time.monotonic_ns) -> None:
        self.history = History()
        self.errors: Counter[str] = Counter()
        """How often each error was the answer, or the end of a connection."""
        self.strange: list[str] = []
        """Replies that no command of their kind can have: each is a violation."""
        self.connections = 0
        self.now = now

    def add(
        self, client: int, connection: int, target: Object, step: Step, invoked: int, reply: Any
    ) -> Outcome:
        """Write an operation down by its reply, which is a LostError if there is none."""
        completed: int | None = self.now()
        try:
            outcome, result = judge_reply(step, reply)
        except StrangeReplyError as error:
            self.strange.append(f"{target.name}: {step.words!r}: {error}")
            outcome, result = Outcome.UNKNOWN, None
        if isinstance(reply, Exception):
            self.errors[str(reply)] += 1
        if outcome is Outcome.UNKNOWN:
            completed = None
            target.unknown_writes += step.is_write
        self.history.append(
            Operation(
                client, target.name, step.kind, step.arguments, result,
                invoked, completed, outcome, connection,
            )
        )  # fmt: skip
        return outcome


class Client:
    """One client of a team: an operation, or a few of them, then a pause, and so on."""

    def __init__(
        self,
        number: int,
        team: Team,
        addresses: Sequence[Address],
        recorder: Recorder,
        generator: random.Random,
        think_seconds: float,
        connect: Connect = Connection.open,
    ) -> None:
        """`addresses` may change while it works; `connect` raises LostError if nobody is there."""
        self.number = number
        self._team = team
        self._addresses = addresses
        self._connect = connect
        self._at = number
        self._recorder = recorder
        self._generator = generator
        self._think_seconds = think_seconds

    async def run(self, is_over: asyncio.Event) -> None:
        """Work until it is over; connections that are lost are replaced by some to other nodes."""
        while not is_over.is_set():
            self._at += 1
            try:
                connection = await self._connect(self._addresses[self._at % len(self._addresses)])
            except LostError:
                await _pause(is_over, RETRY_SECONDS)
                continue
            self._recorder.connections += 1
            try:
                await self._work(connection, self._recorder.connections, is_over)
            finally:
                connection.close()

    async def _work(self, connection: Exchange, number: int, is_over: asyncio.Event) -> None:
        """Use a connection until it is lost, only refuses, or was used for long enough."""
        refusals = 0
        for _ in range(self._generator.randint(*TURNS_OF_CONNECTION)):
            if is_over.is_set() or refusals == REFUSALS_MAX:
                return
            count = 1
            if self._generator.random() < PIPELINE_PART:
                count = self._generator.randint(2, PIPELINE_MAX)
            outcomes = await self._exchange(connection, number, count)
            if None in outcomes:
                return
            refusals = 0 if Outcome.OK in outcomes else refusals + 1
            pause = RETRY_SECONDS if refusals else self._think_seconds
            await _pause(is_over, self._generator.uniform(0.5, 1.5) * pause * count)

    async def _exchange(
        self, connection: Exchange, number: int, count: int
    ) -> list[Outcome | None]:
        """Run operations in one pipeline; None stands for those without an answer."""
        steps = [self._team.next_step() for _ in range(count)]
        invoked = self._recorder.now()
        connection.send([step.words for _, step in steps])
        outcomes: list[Outcome | None] = []
        lost: LostError | None = None
        for place, (target, step) in enumerate(steps):
            if lost is None:
                try:
                    reply = await connection.receive()
                except LostError as error:
                    reply = lost = error
            # One after the other, by some nanoseconds: the order of a connection counts.
            outcome = self._recorder.add(
                self.number, number, target, step, invoked + place, lost or reply
            )
            outcomes.append(None if lost else outcome)
        return outcomes


async def _pause(is_over: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await is_over.wait()


class Ballast:
    """A client whose values are long and in no history: it fills logs, snapshots and disks."""

    KEYS = 40
    VALUE_BYTES = 8192

    def __init__(self, addresses: Sequence[Address], values_per_second: float) -> None:
        self.acknowledged = 0
        self._addresses = list(addresses)
        self._pause_seconds = 1.0 / values_per_second

    async def run(self, is_over: asyncio.Event) -> None:
        """Write until it is over."""
        number = 0
        while not is_over.is_set():
            number += 1
            try:
                connection = await Connection.open(self._addresses[number % len(self._addresses)])
            except LostError:
                await _pause(is_over, RETRY_SECONDS)
                continue
            with contextlib.closing(connection), contextlib.suppress(LostError):
                while not is_over.is_set():
                    number += 1
                    value = (b"%d " % number).ljust(self.VALUE_BYTES, b"=")
                    connection.send([(b"SET", b"ballast-%d" % (number % self.KEYS), value)])
                    reply = await connection.receive()
                    self.acknowledged += reply == b"OK"
                    await _pause(is_over, self._pause_seconds)
