"""How long an event loop is kept from going round, by itself, by other threads, by the machine.

A timer asks for a turn of the loop every millisecond. A *pause* is how much later than that it is
called. Some of it is the machine's, whose processors are busy with other processes. So two more
figures stand beside the longest pause:

- *Held* is the longest one after what is known not to be the process's own: the time in which no
  thread of it was on a processor; that in which the loop's thread could have run, had it got one;
  and that in which another thread could have, which may have kept the interpreter meanwhile. What
  the loop's thread has spent on a processor counts in any case.
- *Control* is the longest pause of an idle process at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import uvloop

from bench.children import Child, Stream
from bench.figures import Figure

PERIOD_SECONDS = 0.001
PAUSE_TARGET_MS = 5.0


class Pauses(NamedTuple):
    """What a probe has seen, in milliseconds."""

    p99_ms: float
    max_ms: float
    held_max_ms: float

    def figures(self, name: str) -> list[Figure]:
        """Return them as lines of the table."""
        return [
            Figure(f"{name}_p99_ms", self.p99_ms, "ms", "for comparison"),
            Figure(f"{name}_max_ms", self.max_ms, "ms", "for comparison"),
            Figure(f"{name}_held_ms", self.held_max_ms, "ms", f"<= {PAUSE_TARGET_MS:.0f}"),
        ]


class _Times(NamedTuple):
    """The clocks at one moment, in seconds."""

    wall: float
    process_cpu: float
    loop_cpu: float
    delay: float


class Probe:
    """Looks at the running loop, from `start` to `stop`. On the loop's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._delays = _Delays()
        self._pauses: list[float] = []
        self._held: list[float] = []
        self._times = self._now()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look."""
        self._times = self._now()
        self._timer = self._loop.call_later(PERIOD_SECONDS, self._tick)

    def stop(self) -> Pauses:
        """Return what was seen. It must have been a tenth of a second, at least."""
        assert self._timer is not None
        self._timer.cancel()
        self._delays.close()
        p99 = statistics.quantiles(self._pauses, n=100, method="inclusive")[-1]
        return Pauses(p99 * 1e3, max(self._pauses) * 1e3, max(self._held) * 1e3)

    def _tick(self) -> None:
        times = self._now()
        wall, process_cpu, loop_cpu, delay = (
            now - before for now, before in zip(times, self._times, strict=True)
        )
        pause = max(0.0, wall - PERIOD_SECONDS)
        self._pauses.append(pause)
        self._held.append(min(pause, process_cpu, max(loop_cpu, pause - delay)))
        self._times = times
        self._timer = self._loop.call_later(PERIOD_SECONDS, self._tick)

    def _now(self) -> _Times:
        return _Times(
            time.perf_counter(), time.process_time(), time.thread_time(), self._delays.seconds()
        )


class _Delays:
    """How long the threads have waited for a processor in all, as Linux counts it.

    It is read without letting another thread have the interpreter, as `os.pread` would: to get it
    back could take longer than what is to be measured. Zero where the system counts nothing.
    """

    def __init__(self) -> None:
        self._pread = ctypes.PyDLL(None).pread
        self._buffer = ctypes.create_string_buffer(128)
        self._descriptors: dict[int, int] = {}
        self._nanoseconds: dict[int, int] = {}

    def seconds(self) -> float:
        own = threading.current_thread()
        for thread in threading.enumerate():
            # That of the main thread is its parent's after a fork.
            number = threading.get_native_id() if thread is own else thread.native_id
            if number is not None:
                self._nanoseconds[number] = self._of_thread(number)
        return sum(self._nanoseconds.values()) / 1e9

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def _of_thread(self, number: int) -> int:
        descriptor = self._descriptors.get(number)
        if descriptor is None:
            try:
                descriptor = os.open(f"/proc/self/task/{number}/schedstat", os.O_RDONLY)
            except FileNotFoundError:
                return 0
            self._descriptors[number] = descriptor
        length = self._pread(descriptor, self._buffer, len(self._buffer), 0)
        if length <= 0:
            # The thread has ended.
            return self._nanoseconds.get(number, 0)
        return int(self._buffer.raw[:length].split()[1])


@contextlib.contextmanager
def control() -> Iterator[dict[str, Pauses]]:
    """Watch an idle process meanwhile; what it has seen stands under `control` at the end."""
    found: dict[str, Pauses] = {}
    with Child(_watch) as child:
        child.stream.receive()
        yield found
        child.stream.send("stop")
        found["control"] = Pauses(*child.stream.receive())


def joined(seen: Sequence[Pauses]) -> Pauses:
    """Return the figures of several turns: medians, and the least of the longest held.

    What a process does itself it does in each turn; a machine that stands still, as virtual ones
    do, cannot be told from that in a single one.
    """
    p99, longest, held = zip(*seen, strict=True)
    return Pauses(statistics.median(p99), statistics.median(longest), min(held))


def _watch(stream: Stream) -> None:
    async def main() -> None:
        probe = Probe()
        probe.start()
        stream.send("ready")
        await asyncio.to_thread(stream.receive)
        stream.send(probe.stop())

    uvloop.run(main())
