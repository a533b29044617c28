"""Snapshots by express, against a bare copy; and the pauses that they make in the loops.

- *Copy*: one snapshot from the store of one process to that of another, on loopback and the real
  disk, from the offer to the answer that it is durable there. The bare copy does what cannot be
  left out: reads chunks of a file, sends them over TCP, and the other process takes the checksum
  of each and of the whole, writes them, and syncs once at the end. The two take turns. The goal is
  half the bare rate.
- *Pauses*: what a probe (`bench.pauses`) sees in the loops of both processes during transfers. The
  goal is that neither is held for more than 5 ms.

Before either there is a small transfer, which meets what every first one in a process meets.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import statistics
import sys
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import uvloop
from xxhash import xxh3_64, xxh3_64_intdigest

from bench.children import Child, Stream
from bench.figures import Figure
from bench.pauses import Pauses, Probe, control, joined
from rafter_core import Membership
from rafter_storage.snapshot_store import SnapshotStore
from rafter_transport import Hello, Limits, Registry
from rafter_transport.counters import Counters
from rafter_transport.express import Express
from rafter_transport.express_limits import ExpressLimits
from rafter_transport.express_sender import Outcome
from rafter_transport.handshake import LANE_VERSION, Lane
from rafter_transport.listener import Listener
from rafterd.express_files import ExpressFiles
from rafterd.shard import SWITCH_SECONDS
from rafterd.snapshot_taker import IMAGE_NAME

HOST = "127.0.0.1"
FIRST_GROUP, GROUP = 1, 2
CHUNK_BYTES = 256 << 10
TURNS_MAX = 5
PAUSE_TURNS = 3
RATIO_TARGET = 0.5


def measure_express(directory: Path, mib: int, turns: int) -> list[Figure]:
    """Compare transfers of `mib` MiB with bare copies."""
    source = _make_source(directory / "source", mib)
    express: list[float] = []
    bare: list[float] = []
    for _ in range(min(turns, TURNS_MAX)):
        with _target(directory) as target:
            bare.append(_copy_bare(source, target / "copy"))
        with _target(directory) as target:
            express.append(_send(source, target)["seconds"])
    shutil.rmtree(source)
    ratio = statistics.median(theirs / ours for ours, theirs in zip(express, bare, strict=True))
    return [
        Figure("express_ratio", ratio, "of the bare rate", f">= {RATIO_TARGET}"),
        Figure("express_rate", mib / statistics.median(express), "MiB/s", "for comparison"),
        Figure("express_bare_rate", mib / statistics.median(bare), "MiB/s", "for comparison"),
    ]


def measure_pauses(directory: Path, mib: int) -> list[Figure]:
    """Return what the loops of sender and receiver see during transfers of `mib` MiB."""
    source = _make_source(directory / "source", mib)
    seen: dict[str, list[Pauses]] = {"sender": [], "receiver": [], "control": []}
    for _ in range(PAUSE_TURNS):
        with _target(directory) as target, control() as found:
            found.update(_send(source, target))
        for name, pauses in seen.items():
            pauses.append(Pauses(*found[name]))
    shutil.rmtree(source)
    return [
        *joined(seen["sender"]).figures("express_sender"),
        *joined(seen["receiver"]).figures("express_receiver"),
        Figure("express_control_ms", joined(seen["control"]).max_ms, "ms", "for comparison"),
    ]


# The two ends -------------------------------------------------------------------------------------


def _send(source: Path, target: Path) -> dict[str, Any]:
    """Let one process send its snapshot to another; return what both saw of it."""
    with Child(lambda stream: _run(_receiver(stream, target))) as receiver:
        port = receiver.stream.receive()
        with Child(lambda stream: _run(_sender(stream, source, port))) as sender:
            found: dict[str, Any] = sender.stream.receive()
        receiver.stream.send("stop")
        found["receiver"] = receiver.stream.receive()
        return found


def _run(main: Coroutine[Any, Any, None]) -> None:
    """Run one end as a shard runs."""
    sys.setswitchinterval(SWITCH_SECONDS)
    uvloop.run(main)


class _End:
    """One shard: a store, express, and what it reports."""

    def __init__(self, node: int, base: Path, port_of_receiver: int = 1) -> None:
        loop = asyncio.get_running_loop()
        self.store = _open_store(base)
        self.files = ExpressFiles(self.store)
        self.first_received: asyncio.Future[None] = loop.create_future()
        self._outcome: asyncio.Future[Outcome] = loop.create_future()
        self.registry = Registry(node, {1: (HOST, 1), 2: (HOST, port_of_receiver)})
        self.hello = Hello(
            version_min=1, version_max=LANE_VERSION, cluster_id=1, node_id=node, incarnation=node,
            shard=0, shards=1, client_host=HOST, client_port=1,
        )  # fmt: skip
        self.express = Express(
            hello=self.hello,
            registry=self.registry,
            limits=ExpressLimits(),
            link_limits=Limits(),
            open_sink=self.files.sink,
            on_sent=lambda _group, _node, outcome: self._outcome.set_result(outcome),
            on_received=self._received,
            loop=loop,
        )

    async def send(self, group: int) -> None:
        """Send a group's snapshot to node 2, and wait until it is durable there."""
        newest = self.store.newest(group)
        assert newest is not None
        self._outcome = asyncio.get_running_loop().create_future()
        assert self.express.send(2, 0, group, b"message", self.files.source(newest))
        outcome = await self._outcome
        if outcome.reason:
            raise RuntimeError(f"the transfer failed: {outcome.reason}")

    def _received(self, group: int, _node: int, _message: bytes) -> None:
        if group == FIRST_GROUP:
            self.first_received.set_result(None)


async def _receiver(stream: Stream, base: Path) -> None:
    loop = asyncio.get_running_loop()
    end = _End(2, base)
    listener = Listener(
        hello=end.hello,
        registry=end.registry,
        limits=Limits(),
        counters=Counters(),
        receive=lambda *_: None,
        on_hello=lambda _: None,
        loop=loop,
    )
    listener.lanes[Lane.EXPRESS] = end.express.open_lane
    await listener.start(HOST, 0)
    stream.send(listener.port)
    await end.first_received
    probe = Probe()
    probe.start()
    await loop.run_in_executor(None, stream.receive)
    stream.send(probe.stop())
    await listener.close()
    await end.express.close()


async def _sender(stream: Stream, base: Path, port: int) -> None:
    end = _End(1, base, port)
    await end.send(FIRST_GROUP)
    probe = Probe()
    probe.start()
    started = time.perf_counter()
    await end.send(GROUP)
    seconds = time.perf_counter() - started
    stream.send({"seconds": seconds, "sender": probe.stop()})
    await end.express.close()


def _make_source(base: Path, mib: int) -> Path:
    """Make a store with two snapshots of one file each: of 1 MiB, and of as many as given."""
    store = _open_store(base)
    block = os.urandom(1 << 20)
    for group, blocks in ((FIRST_GROUP, 1), (GROUP, mib)):
        writer = store.begin(group, 10, 3, Membership((1, 2)), 1)
        for number in range(blocks):
            writer.write(IMAGE_NAME, number.to_bytes(8) + block[8:])
        writer.finish()
        store.admit(writer)
    return base


def _open_store(base: Path) -> SnapshotStore:
    base.mkdir(mode=0o700, exist_ok=True)
    store = SnapshotStore(base / "snapshots")
    store.open()
    return store


@contextlib.contextmanager
def _target(directory: Path) -> Iterator[Path]:
    """Make room for a copy, with nothing left to be written of the one before."""
    target = directory / "target"
    target.mkdir(mode=0o700)
    os.sync()
    yield target
    shutil.rmtree(target)


# The bare copy ------------------------------------------------------------------------------------


def _copy_bare(source: Path, target: Path) -> float:
    """Copy the file of a snapshot from one process to another; return the seconds it took."""
    path = max(source.rglob(IMAGE_NAME), key=lambda each: each.stat().st_size)
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        with (
            Child(lambda _: _take_bare(server, target)),
            Child(lambda stream: _send_bare(stream, path, port)) as sender,
        ):
            return float(sender.stream.receive())


def _send_bare(report: Stream, path: Path, port: int) -> None:
    with socket.create_connection((HOST, port)) as stream, path.open("rb", 0) as file:
        started = time.perf_counter()
        while chunk := file.read(CHUNK_BYTES):
            stream.sendall(chunk)
        stream.shutdown(socket.SHUT_WR)
        stream.recv(1)
        report.send(time.perf_counter() - started)


def _take_bare(server: socket.socket, target: Path) -> None:
    stream, _ = server.accept()
    chunk = bytearray(CHUNK_BYTES)
    whole = xxh3_64()
    with stream, target.open("wb", 0) as file:
        while length := stream.recv_into(chunk, CHUNK_BYTES, socket.MSG_WAITALL):
            view = memoryview(chunk)[:length]
            xxh3_64_intdigest(view)
            whole.update(view)
            file.write(view)
        os.fdatasync(file.fileno())
        stream.sendall(b"1")
