"""Clients of the simulated cluster: they speak RESP over the simulated network, and keep a history.

Each has one connection at a time, to any shard of any node, and several commands under way on it.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from typing import Any

import hiredis

from tests.linear.history import History, Operation, Outcome
from tests.sim.loops import SimLoop
from tests.sim.plans import CLIENT_PORT, Plan, host_of
from tests.sim.workload import Intent, Workload
from tests.sim.world import NANOSECONDS, World

NOT_EXECUTED = b"nothing was executed"
CONNECT_SECONDS = 1.0
PAUSE_SECONDS_MIN = 0.01
PATIENCE_SECONDS = 12.0
"""More than a request may take by the node's own measure; then the client gives up."""
READER_DEPTH = 16
"""Who only reads asks for little at once, and often: some read is always where it may do harm."""
READER_PATIENCE_SECONDS = 0.25
"""Who only reads asks elsewhere soon: who waits for one group asks nothing of the others."""


class Call:
    """One command that was sent and not answered."""

    __slots__ = ("intent", "invoked")

    def __init__(self, intent: Intent, invoked: int) -> None:
        self.intent = intent
        self.invoked = invoked


class SimClient(asyncio.Protocol):
    """One client. Sends what its workload wants in bursts, from the beginning to the last fault."""

    def __init__(
        self, world: World, loop: SimLoop, plan: Plan, number: int, workload: Workload
    ) -> None:
        self.history = History()
        self.is_over = False
        self.succeeded: set[str] = set()
        """The keys of commands that were answered."""
        is_reader = number < plan.clients and workload.is_reader(number)
        self._patience_seconds = READER_PATIENCE_SECONDS if is_reader else PATIENCE_SECONDS
        self._depth = min(plan.depth, READER_DEPTH) if is_reader else plan.depth
        self._world = world
        self._loop = loop
        self._plan = plan
        self._number = number
        self._connection = number
        self._workload = workload
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._calls: deque[Call] = deque()
        self.left = plan.operations // plan.clients
        loop.call_soon(self._connect)
        loop.call_soon(self._burst)

    # ---- the connection -----------------------------------------------------------------------

    def _connect(self) -> None:
        self._loop.create_task(self._dial())

    async def _dial(self) -> None:
        node = self._world.draw.randint(1, self._plan.nodes)
        shard = self._world.draw.randint(0, self._plan.shards)
        self._connection += 1000
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._loop.create_connection(lambda: self, host_of(node), CLIENT_PORT + shard)
        except (OSError, TimeoutError):
            self._loop.call_later(0.1, self._connect)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._reader = hiredis.Reader()

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        for call in self._calls:
            self._record(call, Outcome.UNKNOWN, None)
        self._calls.clear()
        self._loop.call_later(0.01, self._connect)

    # ---- commands -----------------------------------------------------------------------------

    def _pause(self) -> None:
        """Rest for as long as the time and the operations that are left demand."""
        plan = self._plan
        bursts = self.left / ((1 + self._depth) / 2)
        seconds = max(plan.work_seconds - self._world.now, 0.0) / bursts
        pause_seconds = self._world.draw.uniform(0.0, 2 * seconds) + PAUSE_SECONDS_MIN
        self._loop.call_later(pause_seconds, self._burst)

    def _burst(self) -> None:
        if self.is_over or self.left <= 0:
            return
        self._pause()
        if self._transport is None or self._transport.is_closing():
            return
        count = self._world.draw.randint(1, self._depth)
        count = min(count, self._depth - len(self._calls), self.left)
        self.left -= count
        self._send([self._workload.next(self._number) for _ in range(count)])

    @property
    def is_idle(self) -> bool:
        """Whether it waits for no answer."""
        return not self._calls

    def ask(self, intents: list[Intent]) -> None:
        """Send commands beside those of the workload, if there is a connection."""
        if self._transport is not None and not self._transport.is_closing():
            self._loop.enter(functools.partial(self._send, intents))

    def _send(self, intents: list[Intent]) -> None:
        """Send some commands at once; the outcome of each goes to the history."""
        if not intents:
            return
        assert self._transport is not None
        self._calls.extend(Call(intent, self._now()) for intent in intents)
        self._transport.write(b"".join(_packed(intent.command) for intent in intents))
        # Replies come in order: with the last one, all are there.
        self._loop.call_later(self._patience_seconds, self._lose_patience, self._calls[-1])

    def _lose_patience(self, call: Call) -> None:
        if call in self._calls and self._transport is not None:
            self._world.note(f"client {self._number} waits no longer")
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if not self._calls:
                self._world.violated(f"client {self._number} got a reply to nothing: {reply!r}")
                return
            self._replied(self._calls.popleft(), reply)

    def _replied(self, call: Call, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply).encode()
            is_failed = NOT_EXECUTED in text
            self._record(call, Outcome.FAILED if is_failed else Outcome.UNKNOWN, None)
            return
        problem = call.intent.problem(reply)
        if problem:
            self._world.violated(f"client {self._number}: {problem}")
        self._record(call, Outcome.OK, reply)

    def _record(self, call: Call, outcome: Outcome, reply: Any) -> None:
        intent = call.intent
        self._world.note(f"client {self._number} {intent} {outcome.name} {reply!r}")
        self._world.tally[f"operations {outcome.name.lower()}"] += 1
        if outcome is Outcome.OK:
            self.succeeded.add(intent.key)
        if intent.kind is None:
            return
        if outcome is Outcome.UNKNOWN and intent.is_read:
            return
        self.history.append(
            Operation(
                client=self._number,
                key=intent.key,
                kind=intent.kind,
                arguments=intent.arguments,
                result=intent.result(reply) if outcome is Outcome.OK else None,
                invoked=call.invoked,
                completed=None if outcome is Outcome.UNKNOWN else self._now(),
                outcome=outcome,
                connection=self._connection,
            )
        )

    def _now(self) -> int:
        """Return the time in nanoseconds, a later one each time: all that happens has an order."""
        moment = max(self._workload.moment + 1, int(self._world.now * NANOSECONDS))
        self._workload.moment = moment
        return moment


def _packed(command: tuple[bytes, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # of any length
    return packed
