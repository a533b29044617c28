"""`python -m bench.storage`: the shard's log on a real disk, in ratios of one run and CPU time.

- *Group commit*: jobs of 256 entries of 100 bytes, against a bare loop that writes and syncs the
  same number of bytes to a prewritten file. The jobs run on a flusher thread, as in rafterd, and
  one is begun while another is synced. The bare loop runs on that thread too: a core that is nearer
  to the disk's interrupts syncs a third faster, and where a thread runs is up to the system. The
  two loops take turns, so that both meet the same neighbours on the disk. The goal is 0.8 of the
  bare rate.
- *Append*: CPU time of both threads for one entry of such a job (begin, run, complete); what the
  two system calls take of it is measured with the bare loop and not subtracted.
- *Start*: how long a log takes to open that a killed process left, with the dumps of its sealed
  segments and without. The goals are 10 s for 1 GiB, and five times faster with dumps.
- *Churn*: many groups, one of them cold, are written, snapshotted and compacted over many small
  segments; the highest disk usage seen is compared with twice the live bytes and three segments.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bench.figures import Figure, show
from rafter_core.entries import Entry, EntryKind, HardState
from rafter_core.membership import Membership
from rafter_storage.segment_manager import (
    GroupChange,
    GroupWrite,
    SegmentManager,
    WriteJob,
)

BATCH_ENTRIES = 256
PAYLOAD_BYTES = 100
COMMITS_PER_TURN = 100
TURNS = 30
JOBS_UNDER_WAY = 2
RATIO_TARGET = 0.8
APPEND_TARGET_US = 2.0
START_TARGET_SECONDS = 10.0
START_RATIO_TARGET = 5.0
SEGMENT_BYTES = 64 << 20
CHURN_SEGMENT_BYTES = 256 << 10
CHURN_GROUPS = 16
MEMBERSHIP = Membership((1, 2, 3))

Call = Callable[[], tuple[float, float]]


def main() -> None:
    """Measure what the arguments ask for and print a table, or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.storage", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--directory", type=Path, help="where to write (default: a temporary one)")
    parser.add_argument("--log-mib", type=int, default=1024, help="log of the start (default 1024)")
    parser.add_argument("--churn-jobs", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="rafter-bench-", dir=arguments.directory))
    try:
        figures = [
            *measure_commits(directory / "commits"),
            *measure_start(directory / "start", arguments.log_mib << 20),
            *measure_churn(directory / "churn", arguments.churn_jobs),
        ]
    finally:
        shutil.rmtree(directory)
    show(figures, as_json=arguments.json)


def entries_from(first_index: int, count: int, payload: bytes) -> list[Entry]:
    return [
        Entry(1, index, EntryKind.NORMAL, payload)
        for index in range(first_index, first_index + count)
    ]


def write(
    manager: SegmentManager, writes: list[GroupWrite], changes: list[GroupChange] | None = None
) -> None:
    job = manager.begin(writes, changes or ())
    job.run()
    manager.complete(job)


def do_chores(manager: SegmentManager) -> None:
    while (chore := manager.chore()) is not None:
        chore.run()
        manager.complete_chore(chore, None)


def measure_commits(directory: Path) -> list[Figure]:
    directory.mkdir(mode=0o700, parents=True)
    manager = SegmentManager(directory, segment_bytes=SEGMENT_BYTES, spares_max=2)
    manager.create()
    manager.open()
    payload = bytes(PAYLOAD_BYTES)
    # The first segment was allocated only; what follows is written to prewritten ones.
    last_index = 0
    do_chores(manager)
    while manager.statistics().segments < 2:
        write(manager, [GroupWrite(1, None, entries_from(last_index + 1, BATCH_ENTRIES, payload))])
        last_index += BATCH_ENTRIES
    do_chores(manager)
    before = manager.statistics()
    write(manager, [GroupWrite(1, None, entries_from(last_index + 1, BATCH_ENTRIES, payload))])
    last_index += BATCH_ENTRIES
    job_bytes = manager.statistics().appended_bytes - before.appended_bytes
    bare = BareLoop(directory / "bare", job_bytes)
    flusher = Flusher()
    ratios, append_us, bare_us = [], [], []
    for _ in range(TURNS):
        bare_seconds, bare_cpu_seconds = flusher.call(lambda: bare.run(COMMITS_PER_TURN))
        batches = []
        for _ in range(COMMITS_PER_TURN):
            batches.append(
                [GroupWrite(1, None, entries_from(last_index + 1, BATCH_ENTRIES, payload))]
            )
            last_index += BATCH_ENTRIES
        started, cpu_started = time.perf_counter(), time.process_time()
        flusher.write(manager, batches)
        seconds = time.perf_counter() - started
        cpu_seconds = time.process_time() - cpu_started
        ratios.append(bare_seconds / seconds)
        append_us.append(cpu_seconds * 1e6 / COMMITS_PER_TURN / BATCH_ENTRIES)
        bare_us.append(bare_cpu_seconds * 1e6 / COMMITS_PER_TURN / BATCH_ENTRIES)
        do_chores(manager)
    bare.close()
    flusher.close()
    manager.close()
    return [
        Figure("commit_ratio", statistics.median(ratios), "of bare rate", f">= {RATIO_TARGET}"),
        Figure("append_us", statistics.median(append_us), "CPU us/entry", f"<= {APPEND_TARGET_US}"),
        Figure("bare_us", statistics.median(bare_us), "CPU us/entry", "for comparison"),
    ]


class Flusher:
    """Runs jobs on a thread of its own, as rafterd does: the next is begun while one is synced."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[WriteJob | Call | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[WriteJob] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[float, float]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def write(self, manager: SegmentManager, batches: list[list[GroupWrite]]) -> None:
        """Write all batches, a job each, with up to JOBS_UNDER_WAY begun and not complete."""
        under_way = 0
        for writes in batches:
            if under_way == JOBS_UNDER_WAY:
                manager.complete(self._done.get())
                under_way -= 1
            self._jobs.put(manager.begin(writes))
            under_way += 1
        for _ in range(under_way):
            manager.complete(self._done.get())

    def call(self, function: Call) -> tuple[float, float]:
        """Return what a function returns on the thread."""
        self._jobs.put(function)
        return self._results.get()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, WriteJob):
                job.run()
                self._done.put(job)
            else:
                self._results.put(job())

    def close(self) -> None:
        """End the thread."""
        self._jobs.put(None)
        self._thread.join()


class BareLoop:
    """pwrite and fdatasync on a file of zeros, as fast as Python can."""

    def __init__(self, path: Path, job_bytes: int) -> None:
        self._data = os.urandom(job_bytes)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._file_bytes = SEGMENT_BYTES
        os.pwrite(self._descriptor, bytes(self._file_bytes), 0)
        os.fdatasync(self._descriptor)
        self._offset = 0

    def run(self, count: int) -> tuple[float, float]:
        """Return seconds of wall time and of CPU time."""
        data, descriptor = self._data, self._descriptor
        started, cpu_started = time.perf_counter(), time.process_time()
        for _ in range(count):
            if self._offset + len(data) > self._file_bytes:
                self._offset = 0
            os.pwrite(descriptor, data, self._offset)
            os.fdatasync(descriptor)
            self._offset += len(data)
        return time.perf_counter() - started, time.process_time() - cpu_started

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def measure_start(directory: Path, log_bytes: int) -> list[Figure]:
    directory.mkdir(mode=0o700, parents=True)
    manager = SegmentManager(directory)
    manager.create()
    manager.open()
    payload = bytes(PAYLOAD_BYTES)
    last_index = 0
    groups = range(1, 5)
    while manager.statistics().appended_bytes < log_bytes:
        batch = entries_from(last_index + 1, BATCH_ENTRIES, payload)
        write(manager, [GroupWrite(group, HardState(1, 1, last_index), batch) for group in groups])
        last_index += BATCH_ENTRIES
        if last_index % (64 * BATCH_ENTRIES) == 0:
            do_chores(manager)
    do_chores(manager)
    # Let go as a killed process does: with nothing marked at the end.
    manager.begin([])
    manager.close()
    with_dumps = [timed_open(directory, groups, last_index) for _ in range(3)]
    scans = []
    for _ in range(3):
        for path in (directory / "wal").glob("*.index"):
            path.unlink()
        scans.append(timed_open(directory, groups, last_index))
    dumped, scanned = min(with_dumps), min(scans)
    mib = log_bytes >> 20
    return [
        Figure("start_dumps_s", dumped, f"s for {mib} MiB", f"<= {START_TARGET_SECONDS}"),
        Figure("start_scan_s", scanned, f"s for {mib} MiB", f"<= {START_TARGET_SECONDS}"),
        Figure("start_ratio", scanned / dumped, "times faster", f">= {START_RATIO_TARGET}"),
    ]


def timed_open(directory: Path, groups: range, last_index: int) -> float:
    manager = SegmentManager(directory)
    started = time.perf_counter()
    manager.open()
    seconds = time.perf_counter() - started
    for group in groups:
        assert manager.group_log(group, MEMBERSHIP).last_index() == last_index
    manager.close()
    return seconds


def measure_churn(directory: Path, jobs: int) -> list[Figure]:
    directory.mkdir(mode=0o700, parents=True)
    manager = SegmentManager(directory, segment_bytes=CHURN_SEGMENT_BYTES)
    manager.create()
    manager.open()
    draw = random.Random(1)
    last_indexes = dict.fromkeys(range(1, CHURN_GROUPS + 1), 0)
    payload = bytes(PAYLOAD_BYTES)
    # Written once, and never again: nothing of it may pin what comes after.
    write(manager, [GroupWrite(1000, HardState(1, 1, 0), entries_from(1, 50, payload))])
    worst_segments, worst_bytes = 0.0, 0
    for number in range(jobs):
        group = draw.randint(1, CHURN_GROUPS)
        count = draw.randint(1, 8)
        last_index = last_indexes[group]
        batch = entries_from(last_index + 1, count, payload)
        last_indexes[group] = last_index + count
        changes = []
        if draw.random() < 0.01 and last_index > 200:
            snapshot_index = last_index - draw.randint(0, 50)
            compact_to = snapshot_index - draw.randint(0, 100)
            changes.append(GroupChange(group, None, (snapshot_index, 1), compact_to))
        write(manager, [GroupWrite(group, HardState(1, 1, last_index), batch)], changes)
        if number % 8 == 0:
            do_chores(manager)
            found = manager.statistics()
            excess_bytes = found.disk_bytes - 2 * found.live_bytes
            worst_segments = max(worst_segments, excess_bytes / CHURN_SEGMENT_BYTES)
            worst_bytes = max(worst_bytes, found.disk_bytes)
    found = manager.statistics()
    manager.close()
    return [
        Figure("churn_excess", worst_segments, "segments over 2 x live", "<= 3"),
        Figure("churn_peak_mib", worst_bytes / (1 << 20), "MiB", "for comparison"),
        Figure("churn_copied", found.copied_bytes / found.appended_bytes, "of bytes", "< 0.5"),
    ]


if __name__ == "__main__":
    main()
