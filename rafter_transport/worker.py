"""A worker: many producers push items, one consumer takes them in batches.

Two buffers: producers fill one while the consumer processes the other, then they are swapped. So
the batches grow with the load, without a timer, and what waits is bounded.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class WorkerClosedError(Exception):
    """The item was not taken: the worker was closed, or has failed (then `__cause__` says why)."""


class Worker(Generic[Item]):
    """Hands what is pushed to `process(batch)`, in the order in which it was taken.

    At most `capacity` items wait while at most as many are processed. A batch holds all that
    waited when it began; `process` is awaited, one batch at a time, and must not keep the list.
    All calls come from one event loop; there is no task for an item.

    `run` is its one task, which the owner makes. `close` is graceful: what was taken is still
    processed, then `run` returns. To give that up too, `close` and cancel `run`.

    `items_total` and `batches_total` count what was handed to `process`, `batch_items_max` is the
    size of the largest batch.
    """

    __slots__ = ("_capacity", "_error", "_filling", "_is_closed", "_is_started", "_process",
                 "_spare", "_waiting", "_wakeup", "batch_items_max", "batches_total",
                 "items_total")  # fmt: skip

    def __init__(self, process: Callable[[list[Item]], Awaitable[None]], *, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity = {capacity}: must be at least 1")
        self.items_total = 0
        self.batches_total = 0
        self.batch_items_max = 0
        self._process = process
        self._capacity = capacity
        self._filling: list[Item] = []
        self._spare: list[Item] = []
        # Only while the buffer is full: who waits comes before every later push.
        self._waiting: OrderedDict[asyncio.Future[bool], Item] = OrderedDict()
        self._wakeup: asyncio.Future[None] | None = None
        self._is_started = False
        self._is_closed = False
        self._error: Exception | None = None

    @property
    def batch_items_average(self) -> float:
        """How many items a batch had on average; 0 before the first."""
        return self.items_total / self.batches_total if self.batches_total else 0.0

    def push(self, item: Item) -> bool:
        """Take the item, or return False: the buffer is full. Raises WorkerClosedError."""
        if self._is_closed:
            raise self._closed_error()
        if len(self._filling) >= self._capacity:
            return False
        self._filling.append(item)
        self._wake()
        return True

    async def push_eventually(self, item: Item) -> None:
        """Return once the item is taken: first come, first served, and before any later `push`.

        Raises WorkerClosedError if the worker ends before that. Cancelled, the item is withdrawn,
        unless its turn has come in the same moment: then it is processed. The number of those who
        wait is bounded by the callers alone, each of which waits for one item.
        """
        if self.push(item):
            return
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = item
        try:
            is_taken = await waiter
        finally:
            self._waiting.pop(waiter, None)
        if not is_taken:
            raise self._closed_error()

    def close(self) -> None:
        """Take nothing from now on and fail those who wait. What was taken is still processed."""
        self._is_closed = True
        while self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            if not waiter.done():
                waiter.set_result(False)
        self._wake()

    async def run(self) -> None:
        """Process batches until `close`, and then what is left. Called once.

        What `process` raises ends the worker: it is raised here, and is the cause of the error of
        all who push. What was taken by then, and is not processed, is lost; so it is if
        this call is cancelled, which cancels the batch under way.
        """
        if self._is_started:
            raise RuntimeError("the worker runs already, or has run")
        self._is_started = True
        try:
            while await self._until_filled():
                batch = self._swap()
                await self._process(batch)
                batch.clear()
                if self._filling:
                    # A `process` that never waits does not keep the loop to itself; and whom the
                    # swap has let in may push again, into the same batch.
                    await asyncio.sleep(0)
        except BaseException as error:
            if isinstance(error, Exception):
                self._error = error
            self._filling.clear()
            self._spare.clear()
            self.close()
            raise

    async def _until_filled(self) -> bool:
        """Wait until there is an item; return False once there will be none."""
        while not self._filling:
            if self._is_closed:
                return False
            self._wakeup = asyncio.get_running_loop().create_future()
            try:
                await self._wakeup
            finally:
                self._wakeup = None
        return True

    def _swap(self) -> list[Item]:
        """Return what waits, and let those in who wait for room."""
        batch, self._filling = self._filling, self._spare
        self._spare = batch
        self.items_total += len(batch)
        self.batches_total += 1
        self.batch_items_max = max(self.batch_items_max, len(batch))
        while self._waiting and len(self._filling) < self._capacity:
            waiter, item = self._waiting.popitem(last=False)
            # A cancelled one may not have run yet.
            if not waiter.done():
                self._filling.append(item)
                waiter.set_result(True)
        return batch

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def _closed_error(self) -> WorkerClosedError:
        if self._error is None:
            return WorkerClosedError("the worker is closed")
        error = WorkerClosedError(f"the worker has failed: {self._error}")
        error.__cause__ = self._error
        return error
