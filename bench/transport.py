"""`python -m bench.transport`: what carries frames between the shards of a node, in ratios.

- *Links*: a ring in shared memory against a Unix socketpair, both as a `Link` on uvloop, from one
  process to another. The two take turns, so that both meet the same neighbours on the processor. A
  turn ends when the receiver has said that all has come. *single* are frames of 100 bytes, sent as
  fast as the loop goes round, FRAMES_PER_ITERATION in each iteration; *lone* the same with one
  frame in each iteration, so that sending costs more than carrying; *batch* are frames as a flush
  makes them, with 32 SET commands each. The goals are 1.5 times the messages per second of
  the socketpair for single frames, and no fewer for batches.
- *Round trip*: one frame there and back, both sides asleep in between: the time of two wake-ups.
- *Groups*: what many groups cost the exchanger (`bench.exchange`).
- *Express*: snapshots on their way, and the pauses that they make (`bench.express`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import uvloop

from bench.exchange import measure_groups
from bench.express import measure_express, measure_pauses
from bench.figures import Figure, show
from rafter_transport.link import SocketLink
from rafter_transport.ring_link import RingLink
from rafter_transport.ring_pair import RingEnd, is_supported, make_ring_pair

FRAME_BYTES_MAX = 16 << 20
PENDING_BYTES_MAX = 1 << 20
FRAMES_PER_ITERATION = 16
TURNS = 15
EXPRESS_MIB = 256
PAUSE_MIB = 1024
ROUND_TRIPS_PER_TURN = 500
BATCH_COMMANDS = 32
SINGLE_RATIO_TARGET = 1.5
BATCH_RATIO_TARGET = 1.0
DEADLINE_SECONDS = 120.0

SINGLE = b"x" * 100
BATCH = msgpack.packb(
    [[b"SET", b"key:%012d" % number, b"v" * 64] for number in range(BATCH_COMMANDS)]
)
END = b"end of a turn"
ECHO = b"echo"
_CPU_SECONDS = struct.Struct("<d")


class TurnResult(NamedTuple):
    """What one turn took: wall time, and CPU time of both processes."""

    seconds: float
    cpu_seconds: float


class Load(NamedTuple):
    """What a turn sends: `frames` frames of `commands` messages, and how many per iteration."""

    name: str
    payload: bytes
    commands: int
    frames: int
    per_iteration: int
    target: str

    async def run(self, sender: Sender) -> TurnResult:
        """Send one turn of it."""
        return await sender.stream(self.payload, self.frames, self.per_iteration)


LOADS = (
    Load("single", SINGLE, 1, 60_000, FRAMES_PER_ITERATION, f">= {SINGLE_RATIO_TARGET}"),
    Load("lone", SINGLE, 1, 15_000, 1, "for comparison"),
    Load("batch", BATCH, BATCH_COMMANDS, 20_000, 1, f">= {BATCH_RATIO_TARGET}"),
)

Endpoint = RingEnd | socket.socket
AnyLink = RingLink | SocketLink


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.transport", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--turns", type=int, default=TURNS, help=f"default {TURNS}")
    parser.add_argument("--directory", type=Path, help="where to write (default: a temporary one)")
    parser.add_argument("--express-mib", type=int, default=EXPRESS_MIB, help="for the rate")
    parser.add_argument("--pause-mib", type=int, default=PAUSE_MIB, help="for the pauses")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not is_supported():
        sys.exit("rings do not work on this machine: there is nothing to compare")
    figures = [
        *measure_links(arguments.turns),
        *measure_round_trips(arguments.turns),
        *measure_groups(arguments.turns),
    ]
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        figures += measure_express(Path(directory), arguments.express_mib, arguments.turns)
        figures += measure_pauses(Path(directory), arguments.pause_mib)
    show(figures, as_json=arguments.json)


def measure_links(turns: int) -> list[Figure]:
    figures = []
    for load in LOADS:
        ring, pair = compare(turns, load.run)
        messages = load.frames * load.commands
        ratio = statistics.median(
            theirs.seconds / ours.seconds for ours, theirs in zip(ring, pair, strict=True)
        )
        name = load.name
        figures.append(Figure(f"{name}_ratio", ratio, "of socketpair rate", load.target))
        for kind, results in (("ring", ring), ("socketpair", pair)):
            seconds = statistics.median(result.seconds for result in results)
            cpu_seconds = statistics.median(result.cpu_seconds for result in results)
            figures += [
                Figure(f"{name}_{kind}_rate", messages / seconds, "messages/s", "for comparison"),
                Figure(
                    f"{name}_{kind}_us", cpu_seconds * 1e6 / messages, "CPU us/message",
                    "for comparison",
                ),
            ]  # fmt: skip
    return figures


def measure_round_trips(turns: int) -> list[Figure]:
    ring, pair = compare(turns, lambda sender: sender.echo(ROUND_TRIPS_PER_TURN))
    return [
        Figure(
            f"round_trip_{kind}_us",
            statistics.median(result.seconds for result in results) * 1e6 / ROUND_TRIPS_PER_TURN,
            "us",
            "for comparison",
        )
        for kind, results in (("ring", ring), ("socketpair", pair))
    ]


def compare(
    turns: int, measure: Callable[[Sender], Coroutine[Any, Any, TurnResult]]
) -> tuple[list[TurnResult], list[TurnResult]]:
    """Run `measure` on a ring and on a socketpair in turns; return the results of each."""

    async def run(ends: tuple[Endpoint, ...]) -> list[list[TurnResult]]:
        senders = [Sender() for _ in ends]
        for sender, end in zip(senders, ends, strict=True):
            await sender.connect(end)
        results: list[list[TurnResult]] = [[] for _ in ends]
        for _ in range(turns + 1):
            for sender, found in zip(senders, results, strict=True):
                found.append(await measure(sender))
        for sender in senders:
            await sender.close()
        # The first turns met cold caches and unmapped pages.
        return [found[1:] for found in results]

    ring_here, ring_there = make_ring_pair()
    socket_here, socket_there = socket.socketpair()
    with receiving((ring_there, socket_there), (ring_here, socket_here)):
        ring_results, socket_results = run_on_uvloop(run((ring_here, socket_here)))
    return ring_results, socket_results


def run_on_uvloop(main_coroutine: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401
    async def bounded() -> Any:  # noqa: ANN401
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await main_coroutine

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(bounded())


@contextlib.contextmanager
def receiving(theirs: tuple[Endpoint, ...], ours: tuple[Endpoint, ...]) -> Iterator[None]:
    """Run a receiver for `theirs` in a process of its own, until its links are closed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for end in ours:
                end.close()
            run_on_uvloop(receive(theirs))
            status = 0
        finally:
            os._exit(status)
    for end in theirs:
        end.close()
    try:
        yield
    finally:
        _, wait_status = os.waitpid(pid, 0)
    if wait_status:
        raise RuntimeError(f"the receiving process failed: {wait_status}")


async def open_link(
    end: Endpoint, on_frame: Callable[[bytes], None], on_link: Callable[[AnyLink], None]
) -> None:
    """Open a link; `on_link` is called with it before the first frame can come."""
    loop = asyncio.get_running_loop()
    if isinstance(end, RingEnd):
        ring_link = RingLink(
            end, FRAME_BYTES_MAX, on_frame=on_frame, on_lost=lambda _: None, loop=loop
        )
        on_link(ring_link)
        ring_link.start()
        return
    link = SocketLink(FRAME_BYTES_MAX, on_frame=on_frame, on_lost=lambda _: None, loop=loop)
    on_link(link)
    end.setblocking(False)
    await loop.connect_accepted_socket(lambda: link, end)


async def receive(ends: tuple[Endpoint, ...]) -> None:
    """Take frames on each end; answer the last of a turn with the CPU time used so far."""

    def receiver(place: int) -> Callable[[bytes], None]:
        def on_frame(payload: bytes) -> None:
            if payload == END:
                links[place].send(_CPU_SECONDS.pack(time.process_time()))
            elif payload == ECHO:
                links[place].send(payload)

        return on_frame

    links: list[AnyLink] = []
    for place, end in enumerate(ends):
        await open_link(end, receiver(place), links.append)
    await asyncio.wait([link.lost for link in links])


class Sender:
    """The sending end of one link, and what its turns do."""

    def __init__(self) -> None:
        self._link: AnyLink
        self._answer: asyncio.Future[bytes]
        self._on_answer: Callable[[bytes], None] = self._answered

    async def connect(self, end: Endpoint) -> None:
        """Open the link."""
        await open_link(end, self._take, self._opened)

    async def close(self) -> None:
        """Close the link."""
        self._link.close()
        await self._link.lost

    def _opened(self, link: AnyLink) -> None:
        self._link = link

    def _take(self, payload: bytes) -> None:
        self._on_answer(payload)

    def _answered(self, payload: bytes) -> None:
        self._answer.set_result(payload)

    async def stream(self, payload: bytes, frames: int, per_iteration: int) -> TurnResult:
        """Send `frames` frames, `per_iteration` in each loop iteration, and the end of the turn."""
        loop = asyncio.get_running_loop()
        link = self._link
        left = frames

        def step() -> None:
            nonlocal left
            if link.pending_bytes < PENDING_BYTES_MAX:
                for _ in range(min(per_iteration, left)):
                    link.send(payload)
                left -= per_iteration
            if left > 0:
                loop.call_soon(step)
            else:
                link.send(END)

        return await self._measure(lambda: loop.call_soon(step))

    async def echo(self, count: int) -> TurnResult:
        """Send a frame and wait for its return, `count` times."""
        left = count

        def on_answer(_payload: bytes) -> None:
            nonlocal left
            left -= 1
            if left > 0:
                self._link.send(ECHO)
            else:
                self._on_answer = self._answered
                self._link.send(END)

        def begin() -> None:
            self._on_answer = on_answer
            self._link.send(ECHO)

        return await self._measure(begin)

    async def _measure(self, begin: Callable[[], object]) -> TurnResult:
        # The other process works for several senders: what it used before is none of this turn's.
        there_before = await self._ask(lambda: self._link.send(END))
        started, cpu_started = time.perf_counter(), time.process_time()
        there = await self._ask(begin)
        seconds = time.perf_counter() - started
        cpu_seconds = time.process_time() - cpu_started + there - there_before
        return TurnResult(seconds, cpu_seconds)

    async def _ask(self, begin: Callable[[], object]) -> float:
        """Call `begin`, which leads to an END; return the CPU time of the other process then."""
        self._answer = asyncio.get_running_loop().create_future()
        begin()
        (cpu_seconds,) = _CPU_SECONDS.unpack(await self._answer)
        return float(cpu_seconds)


if __name__ == "__main__":
    main()
