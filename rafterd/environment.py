"""What a shard takes from the machine, its event loop and sockets apart.

In one place, so that another world can be put under a shard that is otherwise the same: the
simulation of whole clusters does.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rafter_storage.file_system import REAL_FILE_SYSTEM, FileSystem
from rafterd.flusher import Flusher, OnDone, make_flusher

__all__ = ["Buggify", "Environment", "MakeFlusher", "never"]


class MakeFlusher(Protocol):
    """Makes a flusher for `storage.sync`, as `rafterd.flusher.make_flusher` does."""

    def __call__(self, mode: str, loop: asyncio.AbstractEventLoop, on_done: OnDone, /) -> Flusher:
        """Return a flusher that announces what it has done on `loop`."""


Buggify = Callable[[str], bool]
"""Tells at a named place in the code whether to do what is correct and rare there: a small batch, a
late write, a refusal. A simulation draws it (after FoundationDB's macro of that name)."""


def never(_point: str) -> bool:
    """Take the usual way everywhere, as production does."""
    return False


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine of one shard; by default the real one.

    `random_bits(n)` returns n random bits.
    """

    files: FileSystem = REAL_FILE_SYSTEM
    wall_seconds: Callable[[], float] = time.time
    random_bits: Callable[[int], int] = secrets.randbits
    make_flusher: MakeFlusher = make_flusher
    buggify: Buggify = never
