"""Processes and connections for the tests of the simulator's own parts."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.sim.clocks import Clock
from tests.sim.loops import SimLoop
from tests.sim.network import Network
from tests.sim.world import World

DELAY_SECONDS = (1e-3, 2e-3)
ADDRESS = ("127.0.1.2", 99)


class Recorder(asyncio.Protocol):
    """Writes down what happens to a connection."""

    def __init__(self) -> None:
        self.data = b""
        self.parts = 0
        self.transport: Any = None
        self.events: list[str] = []
        self.error: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.parts += 1

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, error: Exception | None) -> None:
        self.error = error
        self.events.append("lost")


class Bench:
    """A world with two processes on two hosts."""

    def __init__(self, seed: int = 1) -> None:
        self.world = World(seed)
        self.network = Network(self.world, DELAY_SECONDS)
        self.errors: list[dict[str, Any]] = []
        self.near = self.process("127.0.1.1")
        self.far = self.process(ADDRESS[0])

    def process(self, host: str) -> SimLoop:
        return SimLoop(  # type: ignore[abstract]  # the rest is not used
            self.world, self.network, host, Clock(self.world), self.errors.append
        )

    def run(self, seconds: float = 0.1) -> None:
        self.world.run_until(self.world.now + seconds)

    def connected(self) -> tuple[Recorder, Recorder]:
        """Return both ends of a connection from near to far."""
        accepted: list[Recorder] = []

        def accept() -> Recorder:
            accepted.append(Recorder())
            return accepted[-1]

        dialled = Recorder()
        self.far.create_task(self.far.create_server(accept, *ADDRESS))
        self.run()
        dialling = self.near.create_task(self.near.create_connection(lambda: dialled, *ADDRESS))
        self.run()
        assert dialling.done()
        return dialled, accepted[0]

    def write(self, end: Recorder, data: bytes) -> None:
        """Write in a turn of the end's process."""
        loop: SimLoop = end.transport.loop
        loop.call_soon(end.transport.write, data)
