"""The disk of a node, as one process sees it, and the flusher that writes to it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from rafterd.flusher import Job, OnDone
from tests.sim.loops import SimLoop
from tests.sim.world import World
from tests.storage.fake_file_system import Crashed, CrashMode, FakeFileSystem

PIECES_MAX = 8


class ProcessFiles:
    """A `FileSystem` for one process: what it has opened is closed with it."""

    def __init__(self, disk: FakeFileSystem) -> None:
        self.disk = disk
        self.is_dead = False
        self._opened: set[int] = set()

    def open(self, path: Path, flags: int) -> int:
        if self.is_dead:
            raise Crashed("this process is no more")
        descriptor = self.disk.open(path, flags)
        self._opened.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        self.disk.close(descriptor)
        self._opened.discard(descriptor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.disk, name)

    def end(self) -> None:
        """Close everything, as the end of a process does."""
        self.is_dead = True
        for descriptor in sorted(self._opened):
            with contextlib.suppress(OSError):
                self.disk.close(descriptor)
        self._opened.clear()


class Disk:
    """One node's disk, through power cuts: `files` is what it is now."""

    def __init__(self, world: World, sync_seconds: tuple[float, float]) -> None:
        self._world = world
        self.files = FakeFileSystem(is_journaled=False)
        self.sync_seconds = sync_seconds
        self.is_faulty = False
        """Whether calls have been made to fail, or bits to rot, since the last start."""

    def end_jobs(self, loops: list[SimLoop]) -> None:
        """Let what other threads of dying processes had begun get some way, or all of it."""
        draw = self._world.draw
        jobs = [job for loop in loops for job in loop.jobs.values()]
        draw.shuffle(jobs)
        for job in jobs[: draw.randint(0, len(jobs))]:
            self.files.stop_at = self.files.operations + draw.randint(1, 6)
            self.files.stopped_write_pieces = draw.randint(0, PIECES_MAX)
            with contextlib.suppress(Crashed, Exception):
                job()
        self.files.stop_at = None
        self.files.has_stopped = False

    def lose_power(self) -> None:
        """Lose what was not synced, or some of it."""
        mode = self._world.draw.choice(list(CrashMode))
        self._world.note(f"disk {mode.name}")
        self._world.tally[f"power {mode.name.lower()}"] += 1
        self.files = self.files.crash(mode, self._world.draw)
        self.files.is_journaled = False


class SimFlusher:
    """A flusher whose jobs take virtual time."""

    def __init__(self, world: World, disk: Disk, loop: SimLoop, on_done: OnDone) -> None:
        self._world = world
        self._disk = disk
        self._loop = loop
        self._on_done = on_done
        self._is_busy = False
        self._is_closed = False

    @property
    def is_busy(self) -> bool:
        return self._is_busy

    def submit(self, job: Job) -> None:
        assert not self._is_busy, "the flusher runs one job at a time"
        self._is_busy = True

        def run() -> None:
            error = _run(job)
            if not self._is_closed:
                self._loop.call_soon(self._announce, job, error)

        self._loop.begin_job(run, self._world.between(*self._disk.sync_seconds))

    def _announce(self, job: Job, error: Exception | None) -> None:
        if not self._is_closed:
            self._is_busy = False
            self._on_done(job, error)

    def close(self) -> None:
        self._is_closed = True


def _run(job: Job) -> Exception | None:
    try:
        job.run()
    except Exception as error:  # noqa: BLE001 - handed to the loop, as the real flusher does
        return error
    return None
