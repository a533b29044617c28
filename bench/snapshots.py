"""`python -m bench.snapshots`: what snapshots of a large key-value group cost the loop.

One process holds a group of a million keys with values of a thousand bytes, and then another one
of some values of 16 MiB (*large*). Its loop goes on writing while a probe (`bench.pauses`) looks.

- *Take*: the image is made and written to the real disk by another thread, as rafterd does it.
- *Install*: the image is read back in by another thread, and replaces a state of the same size.

The goal is that neither holds the loop for more than 5 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import uvloop

from bench.children import Child, Stream
from bench.figures import Figure, show
from bench.pauses import Pauses, Probe, control
from rafter_core import Membership
from rafter_core.state_machine import Update
from rafter_kv.batch import Batch, pack_payload
from rafter_kv.machine import KeyValueMachine
from rafter_storage.snapshot_reader import SnapshotInfo
from rafter_storage.snapshot_store import SnapshotStore
from rafterd.shard import GC_THRESHOLDS, SWITCH_SECONDS
from rafterd.snapshot_taker import IMAGE_NAME, paced

Result = TypeVar("Result")

GROUP = 1
KEYS = 1_000_000
VALUE_BYTES = 1_000
LARGE_VALUES = 8
LARGE_VALUE_BYTES = 16 << 20
KEYS_PER_ENTRY = 1_000
WRITE_SECONDS = 0.005
"""How often the loop applies an entry meanwhile."""
KEYS_PER_WRITE = 16


def main() -> None:
    """Measure what the arguments ask for and print a table, or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.snapshots", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--directory", type=Path, help="where to write (default: a temporary one)")
    parser.add_argument("--keys", type=int, default=KEYS, help=f"default {KEYS:,}")
    parser.add_argument("--large", type=int, default=LARGE_VALUES, help="values of 16 MiB")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        figures = [
            *measure_snapshots(Path(directory), "", arguments.keys, 0),
            *measure_snapshots(Path(directory), "large_", 0, arguments.large),
        ]
    show(figures, as_json=arguments.json)


def measure_snapshots(directory: Path, name: str, keys: int, large: int) -> list[Figure]:
    """Return what a loop sees while a snapshot is taken, and while it is installed."""
    base = directory / f"{name}group"
    base.mkdir(mode=0o700)
    with control() as found, Child(lambda stream: _run(stream, base, keys, large)) as child:
        taken, installed, size_bytes = child.stream.receive()
    shutil.rmtree(base)
    return [
        Figure(f"{name}snapshot_mib", size_bytes / (1 << 20), "MiB", "for comparison"),
        *Pauses(*taken).figures(f"{name}take"),
        *Pauses(*installed).figures(f"{name}install"),
        Figure(f"{name}control_ms", found["control"].max_ms, "ms", "for comparison"),
    ]


def _run(stream: Stream, directory: Path, keys: int, large: int) -> None:
    """Hold a group as a shard does, and let its snapshot be taken and installed."""
    sys.setswitchinterval(SWITCH_SECONDS)
    group = _Group(directory)
    group.fill(keys, VALUE_BYTES, KEYS_PER_ENTRY, b"key:%012d")
    group.fill(large, LARGE_VALUE_BYTES, 1, b"large:%d")
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)

    async def main() -> None:
        taken, info = await group.take(max(1, keys))
        installed = await group.install(info)
        stream.send([taken, installed, info.manifest.size_bytes])

    uvloop.run(main())


class _Group:
    """One state machine, with a store for its snapshots."""

    def __init__(self, directory: Path) -> None:
        self._machine = KeyValueMachine()
        self._index = 0
        self._store = SnapshotStore(directory / "snapshots")
        self._store.open()

    def fill(self, keys: int, value_bytes: int, keys_per_entry: int, name: bytes) -> None:
        """Write so many keys, a different value to each."""
        for first in range(0, keys, keys_per_entry):
            numbers = range(first, min(first + keys_per_entry, keys))
            self.write([(name % number, os.urandom(value_bytes)) for number in numbers])

    def write(self, pairs: list[tuple[bytes, bytes]]) -> None:
        """Apply an entry that sets keys."""
        self._index += 1
        commands = [(b"SET", key, value) for key, value in pairs]
        batch = Batch(GROUP, 1, self._index, self._index, commands)
        self._machine.update([Update(self._index, pack_payload(self._index, [batch]))])

    async def take(self, keys: int) -> tuple[Pauses, SnapshotInfo]:
        """Take a snapshot while keys are written, as `SnapshotTaker` does."""
        image = self._machine.save_snapshot(self._machine.prepare_snapshot())
        writer = self._store.begin(GROUP, self._index, 1, Membership((1,)), 1)

        def write() -> SnapshotInfo:
            for chunk in paced(image):
                writer.write(IMAGE_NAME, chunk)
            return writer.finish()

        writes = asyncio.get_running_loop().create_task(self._write_on(keys))
        pauses, _ = await _watched(write)
        writes.cancel()
        return pauses, self._store.admit(writer)

    async def install(self, info: SnapshotInfo) -> Pauses:
        """Replace the state by that of a snapshot, as `SnapshotCourier` does."""
        with self._store.read(info) as reader:
            chunks = paced(reader.chunks(IMAGE_NAME))
            pauses, _ = await _watched(lambda: self._machine.recover_from_snapshot(chunks))
        return pauses

    async def _write_on(self, keys: int) -> None:
        turn = 0
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            numbers = [(turn + step) * 7919 % keys for step in range(KEYS_PER_WRITE)]
            self.write([(b"key:%012d" % number, bytes(VALUE_BYTES)) for number in numbers])
            turn += KEYS_PER_WRITE


async def _watched(work: Callable[[], Result]) -> tuple[Pauses, Result]:
    """Let another thread work, and return what the loop saw of it."""
    probe = Probe()
    probe.start()
    result = await asyncio.to_thread(work)
    return probe.stop(), result


if __name__ == "__main__":
    main()
