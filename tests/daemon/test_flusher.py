"""Both flushers keep the same rules; the thread only adds that the loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from rafterd.flusher import Flusher, InlineFlusher, Job, ThreadFlusher, make_flusher
from tests.daemon.engine_bench import run, turns, until
from tests.daemon.waiting import DEADLINE_SECONDS

every_mode = pytest.mark.parametrize("mode", ["thread", "inline"])


class Task:
    """A job that says when it runs, on which thread, and may wait or fail."""

    def __init__(self, events: list[str], name: str, error: Exception | None = None) -> None:
        self.events, self.name, self.error = events, name, error
        self.gate = threading.Event()
        self.gate.set()
        self.thread: threading.Thread | None = None

    def run(self) -> None:
        self.thread = threading.current_thread()
        assert self.gate.wait(DEADLINE_SECONDS)
        self.events.append(f"{self.name} ran")
        if self.error is not None:
            raise self.error


class Announced:
    """Collects the ends that a flusher announces."""

    def __init__(self) -> None:
        self.ends: list[tuple[Job, Exception | None]] = []
        self.threads: set[threading.Thread] = set()
        self.then: Callable[[], None] | None = None

    def __call__(self, job: Job, error: Exception | None) -> None:
        self.ends.append((job, error))
        self.threads.add(threading.current_thread())
        if self.then is not None:
            action, self.then = self.then, None
            action()


def start(mode: str) -> tuple[Flusher, Announced]:
    announced = Announced()
    return make_flusher(mode, asyncio.get_running_loop(), announced), announced


@every_mode
def test_a_job_runs_once_and_its_end_is_announced_on_the_loop(mode: str) -> None:
    async def main() -> None:
        flusher, announced = start(mode)
        events: list[str] = []
        task = Task(events, "a")
        assert not flusher.is_busy
        flusher.submit(task)
        assert flusher.is_busy
        assert announced.ends == []
        await until(lambda: announced.ends)
        await turns()
        assert announced.ends == [(task, None)]
        assert announced.threads == {threading.main_thread()}
        assert events == ["a ran"]
        assert not flusher.is_busy
        flusher.close()

    run(main())


@every_mode
def test_what_is_sent_in_the_same_turn_is_ahead_of_the_job(mode: str) -> None:
    """Inline ran the job inside `submit`, so appends left after the leader's own sync."""

    async def main() -> None:
        flusher, announced = start(mode)
        events: list[str] = []
        task = Task(events, "job")
        task.gate.clear()
        flusher.submit(task)
        events.append("sent")
        task.gate.set()
        await until(lambda: announced.ends)
        assert events == ["sent", "job ran"]
        flusher.close()

    run(main())


@every_mode
def test_an_error_is_announced_with_its_job(mode: str) -> None:
    async def main() -> None:
        flusher, announced = start(mode)
        failure = OSError("the disk is gone")
        task = Task([], "a", failure)
        flusher.submit(task)
        await until(lambda: announced.ends)
        assert announced.ends == [(task, failure)]
        flusher.close()

    run(main())


@every_mode
def test_a_second_job_before_the_first_was_announced_is_an_error(mode: str) -> None:
    async def main() -> None:
        flusher, announced = start(mode)
        flusher.submit(Task([], "a"))
        with pytest.raises(RuntimeError, match="one job at a time"):
            flusher.submit(Task([], "b"))
        await until(lambda: announced.ends)
        flusher.close()

    run(main())


@every_mode
def test_the_next_job_can_be_submitted_from_the_announcement(mode: str) -> None:
    async def main() -> None:
        flusher, announced = start(mode)
        events: list[str] = []
        announced.then = lambda: flusher.submit(Task(events, "b"))
        flusher.submit(Task(events, "a"))
        await until(lambda: len(announced.ends) == 2)
        assert events == ["a ran", "b ran"]
        flusher.close()

    run(main())


@every_mode
def test_close_runs_what_was_submitted_and_announces_nothing_more(mode: str) -> None:
    async def main() -> None:
        flusher, announced = start(mode)
        events: list[str] = []
        flusher.submit(Task(events, "a"))
        flusher.close()
        assert events == ["a ran"]
        await turns()
        assert announced.ends == []

    run(main())


def test_the_loop_goes_on_while_the_thread_works() -> None:
    async def main() -> None:
        flusher, announced = start("thread")
        task = Task([], "a")
        task.gate.clear()
        flusher.submit(task)
        await turns(100)
        assert flusher.is_busy
        task.gate.set()
        await until(lambda: announced.ends)
        assert task.thread is not threading.main_thread()
        flusher.close()

    run(main())


def test_close_ends_the_thread() -> None:
    async def main() -> None:
        before = set(threading.enumerate())
        flusher, _ = start("thread")
        assert set(threading.enumerate()) - before
        flusher.close()
        flusher.close()
        assert set(threading.enumerate()) == before

    run(main())


def test_the_mode_is_chosen_by_its_name() -> None:
    async def main() -> None:
        thread, _ = start("thread")
        inline, _ = start("inline")
        assert isinstance(thread, ThreadFlusher)
        assert isinstance(inline, InlineFlusher)
        thread.close()
        inline.close()

    run(main())
