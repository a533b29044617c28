"""Feeds one decoder inputs by the hundred thousand, and finds what none of them may do.

No input may raise anything but the decoder's own errors (its target catches those), take more than
`CPU_SECONDS_MAX` of this process's time, or hold more memory than `PEAK_BYTES_MAX` and
`PEAK_BYTES_PER_BYTE` for each byte; and all of them together may not leave more behind than
`GROWTH_BYTES_MAX`. The first failing input is reduced and printed with the seed, which repeats
the run.
"""

import contextlib
import ctypes
import gc
import random
import resource
import signal
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from tests.fuzz.mutation import maker

CPU_SECONDS_MAX = 2.0
PEAK_BYTES_MAX = 32 << 20
PEAK_BYTES_PER_BYTE = 64
GROWTH_BYTES_MAX = 8 << 20
PEAK_EVERY = 64
"""Every so many inputs one is traced: that takes ten times as long."""
GROWTH_EVERY = 2_000
WARM_UP_SHARE = 0.5
REDUCTIONS_MAX = 2_000


class Target(NamedTuple):
    """One decoder.

    `seeds(generator)` returns valid inputs. `check(data)` decodes one and returns whether it was
    accepted; it asserts what is promised of what was. `wrap` puts what was changed where a checksum
    would hide it from the decoder. `hostile` inputs are fed once, as they are.
    """

    name: str
    seeds: Callable[[random.Random], list[bytes]]
    check: Callable[[bytes], bool]
    is_msgpack: bool = True
    wrap: Callable[[bytes], bytes] | None = None
    hostile: tuple[bytes, ...] = ()


class HangError(BaseException):
    """An input took too long. No decoder catches this by accident."""


class FuzzError(AssertionError):
    """An input used more than it may, or a seed was refused."""


def run(target: Target, inputs: int, seed: int, write: Callable[[str], object]) -> bool:
    """Feed so many inputs to a target and write one line on it; return whether none failed."""
    began_seconds = time.perf_counter()
    fed = accepted = peak_bytes = 0
    growth = Growth(inputs)
    data = b""
    try:
        with cpu_limit() as limit:
            for data, is_seed in _inputs(target, inputs, random.Random(f"{seed} {target.name}")):
                limit()
                if is_seed or data in target.hostile or not fed % PEAK_EVERY:
                    is_accepted, input_peak_bytes = traced(target.check, data)
                    peak_bytes = max(peak_bytes, input_peak_bytes)
                    if is_seed and not is_accepted:
                        raise FuzzError("a seed was refused")
                else:
                    is_accepted = target.check(data)
                accepted += is_accepted
                fed += 1
                if not fed % GROWTH_EVERY:
                    growth.look(fed)
    except (Exception, HangError) as error:  # noqa: BLE001 - whatever gets out is what is looked for
        write(f"{target.name}: FAILED at input {fed + 1} of seed {seed}\n")
        write("".join(traceback.format_exception(error)))
        write(f"bytes.fromhex({reduced(target.check, data, error).hex()!r})\n")
        return False
    seconds = time.perf_counter() - began_seconds
    write(
        f"{target.name}: {fed:,} inputs, {accepted:,} accepted, none failed; {seconds:.1f} s, "
        f"peak {peak_bytes >> 10} KiB, growth {growth.bytes >> 10} KiB\n"
    )
    return True


def _inputs(target: Target, inputs: int, generator: random.Random) -> Iterator[tuple[bytes, bool]]:
    """Yield seeds, hostile inputs, and changed seeds and noise; with each whether it is a seed."""
    seeds = target.seeds(generator)
    wrap = target.wrap or bytes
    wrapped = [wrap(seed) for seed in seeds]
    for data in wrapped:
        yield data, True
    for data in target.hostile:
        yield data, False
    make = maker(seeds, generator, is_msgpack=target.is_msgpack)
    make_wrapped = maker(wrapped, generator, is_msgpack=False)
    for number in range(inputs - len(seeds) - len(target.hostile)):
        is_plain = target.wrap is None or number % 3
        yield wrap(make()) if is_plain else make_wrapped(), False


@contextlib.contextmanager
def cpu_limit(seconds: float = CPU_SECONDS_MAX) -> Iterator[Callable[[], None]]:
    """Let what runs between two calls of the yielded function take so much time and no more.

    It is the time of this process alone, so a busy machine fails nothing. Raises HangError where
    the time ends, or at the return from whatever is not Python. Main thread only.
    """

    def ended(_signal: int, _frame: FrameType | None) -> None:
        raise HangError(f"took more than {seconds} s of CPU time")

    def begin() -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)

    previous = signal.signal(signal.SIGVTALRM, ended)
    try:
        yield begin
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def traced(check: Callable[[bytes], bool], data: bytes) -> tuple[bool, int]:
    """Check one input and return what it held at most. Raises FuzzError if that is too much."""
    tracemalloc.start(1)
    try:
        is_accepted = check(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak_bytes > PEAK_BYTES_MAX + PEAK_BYTES_PER_BYTE * len(data):
        raise FuzzError(f"{len(data)} bytes of input held {peak_bytes} bytes of memory")
    return is_accepted, peak_bytes


class Growth:
    """What a run leaves behind: resident memory after its first inputs, and since."""

    def __init__(self, inputs: int) -> None:
        self.bytes = 0
        self._begin = inputs * WARM_UP_SHARE
        self._before_bytes = 0

    def look(self, fed: int) -> None:
        """Measure. Raises FuzzError above the limit."""
        if fed < self._begin:
            return
        now_bytes = resident_bytes()
        if not self._before_bytes:
            self._before_bytes = now_bytes
        self.bytes = max(self.bytes, now_bytes - self._before_bytes)
        if self.bytes > GROWTH_BYTES_MAX:
            raise FuzzError(f"the process has grown by {self.bytes} bytes")


def resident_bytes() -> int:
    """Return how much memory this process has in use, without what is free in its allocator."""
    gc.collect()
    # Else one input that holds much for a moment can leave the heap large for good.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize()


def reduced(check: Callable[[bytes], bool], data: bytes, error: BaseException) -> bytes:
    """Return a shorter input that fails in the same way, as far as cutting leads to one."""

    def fails(candidate: bytes) -> bool:
        try:
            with cpu_limit() as limit:
                limit()
                traced(check, candidate)
        except (Exception, HangError) as other:  # noqa: BLE001 - compared with the first
            return type(other) is type(error)
        return False

    tries = 0
    size = 0 if isinstance(error, HangError) else len(data) // 2
    while size and tries < REDUCTIONS_MAX:
        at = 0
        while at < len(data) and tries < REDUCTIONS_MAX:
            tries += 1
            candidate = data[:at] + data[at + size :]
            if fails(candidate):
                data = candidate
            else:
                at += size
        size //= 2
    return data
