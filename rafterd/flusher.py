"""The flusher: makes write jobs durable, one at a time, without stopping the event loop.

A sync takes from 0.1 ms to tens of milliseconds. On a thread of its own it leaves the loop free for
reads, heartbeats and elections; inline it saves the hand-over and blocks the loop meanwhile
(`storage.sync`). Both keep the rule that makes a group commit large: while one job runs, whatever
else must be written gathers and becomes the next job.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Protocol


class Job(Protocol):
    """What a flusher runs; `rafter_storage.WriteJob` is one."""

    def run(self) -> None:
        """Write and sync; raises when anything fails."""


class Flusher(Protocol):
    """Runs one job at a time. `on_done(job, error)` is called on the loop when it has ended."""

    @property
    def is_busy(self) -> bool:
        """Whether a job was submitted whose end has not been announced."""

    def submit(self, job: Job) -> None:
        """Run `job`; the flusher must not be busy."""

    def close(self) -> None:
        """Wait for the running job and end the thread. Nothing is announced any more."""


OnDone = Callable[[Job, Exception | None], None]


class InlineFlusher:
    """Runs each job on the loop, in the turn after `submit`, and announces it there.

    Not inside `submit`: what the same turn sends, a leader's appends above all, would leave only
    after the sync. The loop hands buffered writes to the sockets between two turns.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_done: OnDone) -> None:
        self._loop = loop
        self._on_done = on_done
        self._busy = False
        self._job: Job | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a job's end has not been announced."""
        return self._busy

    def submit(self, job: Job) -> None:
        """Run `job` in the next turn of the loop."""
        if self._busy:
            raise RuntimeError("the flusher runs one job at a time")
        self._busy = True
        self._job = job
        self._loop.call_soon(self._work)

    def _work(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            error = _run(job)
            self._busy = False
            self._on_done(job, error)

    def close(self) -> None:
        """Run the job that was submitted last, if it did not run yet."""
        job, self._job = self._job, None
        if job is not None:
            _run(job)


class ThreadFlusher:
    """Runs jobs on one thread of its own.

    An own thread and a queue cost half the CPU of `run_in_executor` (docs/architecture.md).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_done: OnDone) -> None:
        self._loop = loop
        self._on_done = on_done
        self._busy = False
        self._closed = False
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="flusher", daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether a job's end has not been announced."""
        return self._busy

    def submit(self, job: Job) -> None:
        """Hand `job` to the thread and return."""
        if self._busy:
            raise RuntimeError("the flusher runs one job at a time")
        self._busy = True
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            error = _run(job)
            if self._closed:
                return
            self._loop.call_soon_threadsafe(self._announce, job, error)

    def _announce(self, job: Job, error: Exception | None) -> None:
        if self._closed:
            return
        self._busy = False
        self._on_done(job, error)

    def close(self) -> None:
        """Wait for a job that is running, and end the thread."""
        self._closed = True
        self._jobs.put(None)
        self._thread.join()


def _run(job: Job) -> Exception | None:
    try:
        job.run()
    except Exception as error:  # noqa: BLE001 - handed to the loop, which stops the shard
        return error
    return None


def make_flusher(mode: str, loop: asyncio.AbstractEventLoop, on_done: OnDone) -> Flusher:
    """Return the flusher for `storage.sync` = "thread" or "inline"."""
    if mode == "inline":
        return InlineFlusher(loop, on_done)
    return ThreadFlusher(loop, on_done)
