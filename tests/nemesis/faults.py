"""The faults: each is a context manager that does its harm, and takes it back in the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

from tests.cluster.kit import Node
from tests.nemesis.cluster import Ground, failing_syncs, why_no_failing_syncs, why_no_small_disk
from tests.nemesis.plan import ALONE_SECONDS, NODE_FAULTS, Event, Plan

READY_SECONDS = 15.0
"""How long a rolling restart waits for a node before it goes on to the next one."""
END_SECONDS = 120.0
"""How long a fault may take to be over, restarts included."""


@dataclass
class FaultRecord:
    """A fault as it was: times are monotonic nanoseconds; `error` is not empty if it failed.

    `spans` has begin and end for each node, where they differ.
    """

    fault: str
    nodes: tuple[int, ...]
    begun: int
    ended: int = 0
    notes: list[str] = field(default_factory=list)
    error: str = ""
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)


Fault = Callable[[Ground, Event, FaultRecord], contextlib.AbstractContextManager[None]]


def why_impossible(fault: str) -> str:
    """Return why a fault cannot be done on this machine, or an empty string."""
    if fault == "sync":
        return why_no_failing_syncs()
    return why_no_small_disk() if fault == "disk" else ""


# ---- processes -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _killed(ground: Ground, event: Event, record: FaultRecord) -> Iterator[None]:
    nodes = _nodes(ground, event)
    for node in nodes:
        node.kill()
    try:
        yield
    finally:
        for node in nodes:
            node.start()


@contextlib.contextmanager
def _shard_killed(ground: Ground, event: Event, record: FaultRecord) -> Iterator[None]:
    nodes = _nodes(ground, event)
    for node in nodes:
        if pid := _chosen_shard(node, event):
            _signal(pid, signal.SIGKILL)
        else:
            record.notes.append(f"node {node.node} had no shard")
    yield  # the supervisor starts it again
    _restart_ended(nodes, record)


@contextlib.contextmanager
def _paused(ground: Ground, event: Event, record: FaultRecord) -> Iterator[None]:
    with _stopped([pid for node in _nodes(ground, event) for pid in _pids(node)]):
        yield


@contextlib.contextmanager
def _shard_paused(ground: Ground, event: Event, record: FaultRecord) -> Iterator[None]:
    nodes = _nodes(ground, event)
    chosen = [_chosen_shard(node, event) for node in nodes]
    with _stopped([pid for pid in chosen if pid]):
        yield
    _restart_ended(nodes, record)


@contextlib.contextmanager
def _waking_alone(ground: Ground, event: Event, record: FaultRecord) -> Iterator[None]:
    """Pause nodes, and cut them off before they go on: leaders that do not know they were replaced.

    This is where reads are stale if they are not confirmed.
    """
    with _partitioned(ground, event, record):
        with _paused(ground, event, record):
            yield
        time.sleep(ALONE_SECONDS)


@contextlib.contextmanager
def _syncs_fail(ground: Ground, event: Event, record: FaultRecord) -> Iterator[None]:
    nodes = _nodes(ground, event)
    with contextlib.ExitStack() as stack:
        for node in nodes:
            if pid := _chosen_shard(node, event):
                try:
                    stack.enter_context(failing_syncs(pid))
                except OSError as error:
                    record.notes.append(f"node {node.node}: {error}")  # it ended just now
        yield
    _restart_ended(nodes, record)


@contextlib.contextmanager
def _leader_moved(ground: Ground, event: Event, record: FaultRecord) -> Iterator[None]:
    """An operator moves leaders away from a node by stopping it in order."""
    groups = ground.cluster.groups
    leader = ground.cluster.leader_of(1 + event.choice % groups) or event.nodes[0]
    record.nodes = (leader,)
    node = ground.cluster[leader]
    _terminate(node, record)
    try:
        yield
    finally:
        node.start()


@contextlib.contextmanager
def _rolling(ground: Ground, event: Event, record: FaultRecord) -> Iterator[None]:
    """Restart one node after the other; each is away for the event's seconds."""
    nodes = _nodes(ground, event)
    for node in nodes:
        begun = time.monotonic_ns()
        _terminate(node, record)
        time.sleep(event.seconds)
        node.start()
        try:
            node.wait_ready(READY_SECONDS)
        except AssertionError as error:
            record.notes.append(str(error).splitlines()[0])
        record.spans[node.node] = begun, time.monotonic_ns()
    _restart_ended(nodes, record)
    yield


def _nodes(ground: Ground, event: Event) -> list[Node]:
    return [ground.cluster[node] for node in event.nodes]


def _pids(node: Node) -> list[int]:
    if not node.is_running:
        return []
    assert node.process is not None
    return [node.process.pid, *node.shard_pids()]


def _chosen_shard(node: Node, event: Event) -> int:
    shards = node.shard_pids() if node.is_running else []
    return shards[event.choice % len(shards)] if shards else 0


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@contextlib.contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    try:
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            _signal(pid, signal.SIGCONT)


def _terminate(node: Node, record: FaultRecord) -> None:
    if not node.is_running:
        return
    try:
        code = node.terminate()
    except subprocess.TimeoutExpired:
        record.notes.append(f"node {node.node} did not end when asked to")
        node.kill()
    else:
        if code:
            record.notes.append(f"node {node.node} ended with exit code {code}")


def _restart_ended(nodes: list[Node], record: FaultRecord) -> None:
    """Do what a service manager does with a node that has ended by itself."""
    for node in nodes:
        if not node.is_running:
            record.notes.append(f"node {node.node} had ended and is started again")
            node.kill()  # whatever is left of its shards
            node.start()


# ---- network and disk ----------------------------------------------------------------------------


@contextlib.contextmanager
def _partitioned(ground: Ground, event: Event, record: FaultRecord) -> Iterator[None]:
    others = set(ground.numbers) - set(event.nodes)
    pairs = [(one, other) for one in event.nodes for other in others]
    with _cut(ground, pairs + [(other, one) for one, other in pairs]):
        yield


@contextlib.contextmanager
def _one_way(ground: Ground, event: Event, record: FaultRecord) -> Iterator[None]:
    speaker, *listeners = event.nodes
    with _cut(ground, [(speaker, listener) for listener in listeners]):
        yield


@contextlib.contextmanager
def _cut(ground: Ground, pairs: list[tuple[int, int]]) -> Iterator[None]:
    ground.cuts.cut(pairs)
    try:
        yield
    finally:
        ground.cuts.join(pairs)


@contextlib.contextmanager
def _disk_full(ground: Ground, event: Event, record: FaultRecord) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for node in event.nodes:
            stack.enter_context(ground.disks[node].filled())
        yield
        for node in event.nodes:
            if ground.cluster[node].metric("rafter_wal_disk_full"):
                record.notes.append(f"node {node} has noticed")


FAULT_OF_NAME: dict[str, Fault] = {
    "kill": _killed,
    "kill-shard": _shard_killed,
    "pause": _paused,
    "pause-shard": _shard_paused,
    "wake-alone": _waking_alone,
    "sync": _syncs_fail,
    "move": _leader_moved,
    "roll": _rolling,
    "partition": _partitioned,
    "one-way": _one_way,
    "disk": _disk_full,
}


# ---- running a plan ------------------------------------------------------------------------------


class Nemesis:
    """Does the events of a plan, each in a thread, from `start` to `finish`.

    A context manager, since no fault may go on when the cluster has gone: what is left undone when
    the with statement ends stays undone.
    """

    def __init__(self, ground: Ground, plan: Plan) -> None:
        self.records: list[FaultRecord] = []
        self._ground = ground
        self._plan = plan
        self._begun = 0.0
        self._is_given_up = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(event,), name=str(event), daemon=True)
            for event in plan.events
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_given_up.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(END_SECONDS)

    def start(self) -> None:
        """Begin to count the time."""
        self._begun = time.monotonic()
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Wait until all faults are over, and see to it that every node runs."""
        deadline = time.monotonic() + self._plan.seconds + END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), f"this fault does not end: {thread.name}"
        with self._ground.holding(self._ground.numbers) as nodes:
            record = FaultRecord("end", (), time.monotonic_ns(), time.monotonic_ns())
            _restart_ended(nodes, record)
            if record.notes:
                self.records.append(record)

    def _run(self, event: Event) -> None:
        delay = self._begun + event.at_seconds - time.monotonic()
        if self._is_given_up.wait(max(0.0, delay)):
            return
        held = event.nodes if event.fault in NODE_FAULTS else ()
        with self._ground.holding(held):
            # It may have waited for another fault's end, and then there may be no time left.
            if time.monotonic() < self._begun + self._plan.seconds:
                self._do(event)

    def _do(self, event: Event) -> None:
        record = FaultRecord(event.fault, event.nodes, time.monotonic_ns())
        self.records.append(record)
        try:
            with FAULT_OF_NAME[event.fault](self._ground, event, record):
                self._is_given_up.wait(0.0 if event.fault == "roll" else event.seconds)
        except Exception as error:  # noqa: BLE001  # told in the verdict, whatever it is
            record.error = f"{type(error).__name__}: {error}"
        record.ended = time.monotonic_ns()
