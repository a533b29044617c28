"""Nothing but the seed decides: while a simulation runs, the machine's clocks and chance are its.

What the code takes from its environment or its loop is simulated anyway. This is for the rest: the
seeds of segments, the time that a thread rests between chunks, the measure of a long turn.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import secrets
import sys
import time
import warnings
from collections.abc import Iterator

from tests.sim.clocks import EPOCH_SECONDS
from tests.sim.world import World

COLLECTIONS_MAX = 5


@contextlib.contextmanager
def _no_last_words() -> Iterator[None]:
    """Let the tasks of processes that were killed go without a word."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _unraisable: None
    try:
        with warnings.catch_warnings():
            # Of coroutines that their process did not live to begin.
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        sys.unraisablehook = hook


@contextlib.contextmanager
def determined_by(world: World) -> Iterator[None]:
    """Put the world's time and chance in the place of the machine's; keep quiet meanwhile."""
    kept = (
        os.urandom, secrets.randbits, time.time, time.monotonic, time.perf_counter,
        time.time_ns, time.sleep,
    )  # fmt: skip

    def seconds() -> float:
        return world.now

    os.urandom = world.draw.randbytes
    secrets.randbits = lambda k: world.random_bits(k)
    time.time = lambda: EPOCH_SECONDS + world.now
    time.time_ns = lambda: int((EPOCH_SECONDS + world.now) * 1e9)
    time.monotonic = time.perf_counter = seconds
    time.sleep = lambda _seconds: None
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    # What one simulation leaves behind in cycles is collected at its end, not in the midst of it:
    # finalizers would otherwise run at times that depend on everything before.
    gc.disable()
    is_frozen = gc.get_freeze_count() > 0
    gc.freeze()
    try:
        yield
    finally:
        with _no_last_words():
            world.end()
            # The first collection only ends coroutines, whose last words keep all they know alive.
            for _ in range(COLLECTIONS_MAX):
                if not gc.collect():
                    break
        if not is_frozen:
            gc.unfreeze()
        gc.enable()
        logging.disable(disabled)
        (
            os.urandom, secrets.randbits, time.time, time.monotonic, time.perf_counter,
            time.time_ns, time.sleep,
        ) = kept  # fmt: skip
