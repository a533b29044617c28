"""The disk of a node: what the end of a process and a power cut leave of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.sim.disks import Disk, ProcessFiles, SimFlusher
from tests.sim.kit import Bench
from tests.storage.fake_file_system import Crashed

SYNC_SECONDS = (1e-3, 2e-3)
FLAGS = os.O_RDWR | os.O_CREAT


class Write:
    """A job that writes and syncs a byte."""

    def __init__(self, files: ProcessFiles, path: Path, error: Exception | None = None) -> None:
        self.files = files
        self.descriptor = files.open(path, FLAGS)
        self.error = error

    def run(self) -> None:
        if self.error is not None:
            raise self.error
        self.files.pwritev(self.descriptor, [b"x"], 0)
        self.files.sync_data(self.descriptor)


def test_the_end_of_a_process_closes_what_it_had_open() -> None:
    disk = Disk(Bench().world, SYNC_SECONDS)
    files = ProcessFiles(disk.files)
    descriptor = files.open(disk.files.base / "lock", FLAGS)
    assert files.lock(descriptor)
    files.end()
    with pytest.raises(Crashed):
        files.open(disk.files.base / "more", FLAGS)
    other = ProcessFiles(disk.files)
    assert other.lock(other.open(disk.files.base / "lock", FLAGS))


def test_a_flushers_job_takes_time_and_its_end_is_heard_on_the_loop() -> None:
    bench = Bench()
    disk = Disk(bench.world, SYNC_SECONDS)
    heard: list[object] = []
    flusher = SimFlusher(bench.world, disk, bench.near, lambda job, error: heard.append(error))
    files = ProcessFiles(disk.files)
    flusher.submit(Write(files, disk.files.base / "a"))
    assert flusher.is_busy
    bench.run(5e-4)
    assert not heard
    bench.run()
    assert heard == [None]
    assert not flusher.is_busy
    failure = OSError("no")
    flusher.submit(Write(files, disk.files.base / "b", failure))
    bench.run()
    assert heard == [None, failure]


def test_what_other_threads_had_begun_gets_some_way_or_all_of_it_or_none() -> None:
    ends = set()
    for seed in range(60):
        bench = Bench(seed)
        disk = Disk(bench.world, SYNC_SECONDS)
        path = disk.files.base / "a"
        job = Write(ProcessFiles(disk.files), path)
        disk.files.sync_directory(disk.files.base)
        bench.near.begin_job(job.run, 1.0)
        disk.end_jobs([bench.near])
        written = disk.files.contents(path)
        disk.lose_power()
        ends.add((written, disk.files.contents(path)))
    assert (b"", b"") in ends, "the job may not have begun"
    assert (b"x", b"x") in ends, "or have ended"
    assert (b"x", b"") in ends, "or have written what no sync has covered"
