"""The worker, with a `process` that records its batches and goes on when the test says so."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_transport import Worker, WorkerClosedError
from tests.transport.support import every_loop, run


class Gate:
    """A `process` that records what it gets, and returns or raises once for each `open`."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.processed: list[int] = []
        self._begun = asyncio.Semaphore(0)
        self._opened: asyncio.Queue[Exception | None] = asyncio.Queue()

    async def __call__(self, batch: list[int]) -> None:
        self.batches.append(list(batch))
        self._begun.release()
        error = await self._opened.get()
        if error is not None:
            raise error
        self.processed += batch

    def open(self, error: Exception | None = None) -> None:
        self._opened.put_nowait(error)

    async def until_begun(self) -> None:
        """Wait for the next batch to begin."""
        await self._begun.acquire()


async def turns(count: int = 3) -> None:
    """Let everything that is ready run; nothing here waits for anything but the loop."""
    for _ in range(count):
        await asyncio.sleep(0)


def filled(capacity: int = 2) -> tuple[Worker[int], Gate]:
    """Return a worker that has not begun, with a full buffer: 0, 1, …"""
    gate = Gate()
    worker = Worker(gate, capacity=capacity)
    assert all(worker.push(item) for item in range(capacity))
    return worker, gate


def spawn(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(coroutine)


async def finish(worker: Worker[int], running: asyncio.Task[None]) -> None:
    worker.close()
    await running


@every_loop
def test_what_was_pushed_while_a_batch_is_processed_makes_the_next_batch(loop_kind: str) -> None:
    async def main() -> None:
        gate = Gate()
        worker = Worker(gate, capacity=10)
        running = spawn(worker.run())
        worker.push(1)
        await gate.until_begun()
        for item in (2, 3, 4):
            worker.push(item)
        gate.open()
        await gate.until_begun()
        gate.open()
        await finish(worker, running)
        assert gate.batches == [[1], [2, 3, 4]]
        assert (worker.items_total, worker.batches_total) == (4, 2)
        assert (worker.batch_items_average, worker.batch_items_max) == (2.0, 3)

    run(loop_kind, main())


def test_an_idle_worker_takes_all_that_is_pushed_in_one_turn_of_the_loop_as_one_batch() -> None:
    async def main() -> None:
        gate = Gate()
        worker = Worker(gate, capacity=10)
        running = spawn(worker.run())
        await turns()
        assert worker.batch_items_average == 0.0
        for item in range(10):
            assert worker.push(item)
        gate.open()
        await gate.until_begun()
        await finish(worker, running)
        assert gate.batches == [list(range(10))]

    run("asyncio", main())


def test_each_of_the_two_buffers_holds_the_capacity_and_one_more_is_refused() -> None:
    async def main() -> None:
        worker, gate = filled(capacity=2)
        assert not worker.push(2)
        running = spawn(worker.run())
        await gate.until_begun()
        assert [worker.push(item) for item in (2, 3, 4)] == [True, True, False]
        gate.open()
        gate.open()
        await finish(worker, running)
        assert gate.batches == [[0, 1], [2, 3]]

    run("asyncio", main())


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_worker_without_room_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        Worker(Gate(), capacity=capacity)


@every_loop
def test_who_waits_is_let_in_first_come_first_served_and_before_later_pushes(
    loop_kind: str,
) -> None:
    async def main() -> None:
        pushed_at_the_swap: list[bool] = []

        async def process(batch: list[int]) -> None:
            # The buffers have just been swapped, and nobody else has run since.
            if len(pushed_at_the_swap) < 2:
                pushed_at_the_swap.append(worker.push(99))
            await gate(batch)

        gate = Gate()
        worker = Worker(process, capacity=2)
        worker.push(0)
        worker.push(1)
        waiting = [spawn(worker.push_eventually(item)) for item in (2, 3, 4)]
        await turns()
        running = spawn(worker.run())
        for _ in range(3):
            gate.open()
        await asyncio.gather(*waiting)
        await finish(worker, running)
        assert gate.batches == [[0, 1], [2, 3], [4, 99]]
        assert pushed_at_the_swap == [False, True]

    run(loop_kind, main())


def test_push_eventually_does_not_wait_where_there_is_room() -> None:
    async def main() -> None:
        worker = Worker(Gate(), capacity=1)
        # Driven by hand: a wait would hand out what it waits for.
        with pytest.raises(StopIteration):
            worker.push_eventually(1).send(None)
        assert not worker.push(2)

    run("asyncio", main())


@every_loop
def test_a_cancelled_wait_withdraws_its_item_and_holds_up_no_other(loop_kind: str) -> None:
    async def main() -> None:
        worker, gate = filled(capacity=1)
        first, second, third = (spawn(worker.push_eventually(item)) for item in (1, 2, 3))
        await turns()
        second.cancel()
        await turns()
        # Not run yet when the buffers are swapped.
        first.cancel()
        running = spawn(worker.run())
        gate.open()
        gate.open()
        await third
        await finish(worker, running)
        assert gate.batches == [[0], [3]]
        assert first.cancelled()
        assert second.cancelled()

    run(loop_kind, main())


def test_a_wait_that_is_cancelled_as_its_turn_comes_is_processed_once() -> None:
    async def main() -> None:
        async def process(batch: list[int]) -> None:
            if batch == [0]:
                waiting.cancel()
            processed.extend(batch)

        processed: list[int] = []
        worker = Worker(process, capacity=1)
        worker.push(0)
        waiting = spawn(worker.push_eventually(1))
        await turns()
        running = spawn(worker.run())
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await finish(worker, running)
        assert processed == [0, 1]

    run("asyncio", main())


@every_loop
def test_close_processes_what_was_taken_and_fails_those_who_wait_and_later_pushes(
    loop_kind: str,
) -> None:
    async def main() -> None:
        worker, gate = filled(capacity=2)
        running = spawn(worker.run())
        await gate.until_begun()
        assert worker.push(2)
        assert worker.push(3)
        waiting = [spawn(worker.push_eventually(item)) for item in (4, 5)]
        await turns()
        worker.close()
        worker.close()
        for task in waiting:
            with pytest.raises(WorkerClosedError, match="is closed"):
                await task
        with pytest.raises(WorkerClosedError, match="is closed"):
            worker.push(6)
        with pytest.raises(WorkerClosedError, match="is closed"):
            await worker.push_eventually(7)
        gate.open()
        gate.open()
        await running
        assert gate.processed == [0, 1, 2, 3]

    run(loop_kind, main())


def test_close_ends_an_idle_worker_and_one_that_never_began() -> None:
    async def main() -> None:
        idle = Worker(Gate(), capacity=1)
        running = spawn(idle.run())
        await turns()
        await finish(idle, running)

        worker, gate = filled(capacity=1)
        worker.close()
        gate.open()
        await worker.run()
        assert gate.processed == [0]

    run("asyncio", main())


@every_loop
def test_an_error_of_process_ends_the_worker_and_reaches_all_who_push(loop_kind: str) -> None:
    async def main() -> None:
        worker, gate = filled(capacity=2)
        running = spawn(worker.run())
        await gate.until_begun()
        worker.push(2)
        worker.push(3)
        waiting = spawn(worker.push_eventually(4))
        await turns()
        error = OSError("the disk is gone")
        gate.open(error)
        with pytest.raises(OSError, match="the disk is gone"):
            await running
        with pytest.raises(WorkerClosedError, match="the disk is gone") as from_wait:
            await waiting
        with pytest.raises(WorkerClosedError, match="the disk is gone") as from_push:
            worker.push(5)
        assert from_wait.value.__cause__ is error
        assert from_push.value.__cause__ is error
        assert gate.batches == [[0, 1]]

    run(loop_kind, main())


@every_loop
def test_a_cancelled_run_cancels_its_batch_and_fails_those_who_wait(loop_kind: str) -> None:
    async def main() -> None:
        worker, gate = filled(capacity=1)
        running = spawn(worker.run())
        await gate.until_begun()
        worker.push(1)
        waiting = spawn(worker.push_eventually(2))
        await turns()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        with pytest.raises(WorkerClosedError):
            await waiting
        with pytest.raises(WorkerClosedError):
            worker.push(3)
        assert gate.processed == []

    run(loop_kind, main())


def test_a_worker_runs_once() -> None:
    async def main() -> None:
        worker = Worker(Gate(), capacity=1)
        worker.close()
        await worker.run()
        with pytest.raises(RuntimeError, match="has run"):
            await worker.run()

    run("asyncio", main())


@every_loop
def test_a_process_that_never_waits_leaves_the_loop_its_turns(loop_kind: str) -> None:
    async def main() -> None:
        async def process(batch: list[int]) -> None:
            batches.append(list(batch))

        batches: list[list[int]] = []
        seen: list[int] = []
        worker = Worker(process, capacity=1)
        worker.push(0)
        waiting = [spawn(worker.push_eventually(item)) for item in range(1, 100)]
        await turns()
        running = spawn(worker.run())
        while len(batches) < 100:
            seen.append(len(batches))
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)
        await finish(worker, running)
        assert batches == [[item] for item in range(100)]
        assert len(seen) >= 100

    run(loop_kind, main())


class History:
    """Runs a list of steps against a worker, beside a plain model of what it has taken."""

    def __init__(self, capacity: int) -> None:
        self.gate = Gate()
        self.worker = Worker(self.gate, capacity=capacity)
        self.running = spawn(self.worker.run())
        self.refused: set[int] = set()
        self.waiting: dict[int, asyncio.Task[None]] = {}
        self.item = 0
        self.steps: dict[str, Callable[[], None]] = {
            "push": self.push,
            "push_eventually": self.push_eventually,
            "cancel": self.cancel,
            "process": self.gate.open,
        }

    def push(self) -> None:
        if not self.worker.push(self.item):
            self.refused.add(self.item)
        self.item += 1

    def push_eventually(self) -> None:
        self.waiting[self.item] = spawn(self.worker.push_eventually(self.item))
        self.item += 1

    def cancel(self) -> None:
        for task in self.waiting.values():
            if not task.done():
                task.cancel()
                return

    async def finish(self) -> None:
        """Let all that was taken be processed."""
        for _ in range(2 * self.item + 2):
            self.gate.open()
        await asyncio.wait([spawn(asyncio.sleep(0)), *self.waiting.values()])
        self.worker.close()
        await self.running


STEPS = st.lists(st.sampled_from(["push", "push_eventually", "cancel", "process", "turn"]))


@given(st.integers(1, 4), STEPS)
def test_whatever_is_done_nothing_is_lost_doubled_reordered_or_above_the_capacity(
    capacity: int, steps: list[str]
) -> None:
    async def main() -> None:
        history = History(capacity)
        for step in steps:
            if step == "turn":
                await turns(1)
            else:
                history.steps[step]()
        await history.finish()
        gate = history.gate
        assert [item for batch in gate.batches for item in batch] == gate.processed
        assert max(map(len, gate.batches), default=0) <= capacity
        assert len(set(gate.processed)) == len(gate.processed)
        assert not history.refused & set(gate.processed)
        withdrawn = {item for item, task in history.waiting.items() if task.cancelled()}
        expected = set(range(history.item)) - history.refused
        # What was cancelled as its turn came may be there or not; nothing else.
        assert expected - withdrawn <= set(gate.processed) <= expected
        for kind in (set(history.waiting), expected - set(history.waiting)):
            of_kind = [item for item in gate.processed if item in kind]
            assert of_kind == sorted(of_kind)
        assert history.worker.items_total == len(gate.processed)
        assert history.worker.batches_total == len(gate.batches)

    run("asyncio", main())
