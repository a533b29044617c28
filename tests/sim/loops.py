"""An event loop of one process in virtual time.

It is asyncio's loop for the code that runs on it: callbacks, timers, futures, tasks, executors,
connections. A turn takes no time by itself, and the next one comes a little later, as if it had. A
process can be paused, and killed between two turns; its clock may run fast or slow.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from tests.sim.clocks import Clock
from tests.sim.world import World

if TYPE_CHECKING:
    from tests.sim.network import Network, PairEnd
    from tests.sim.transports import SimTransport

Result = TypeVar("Result")
TURN_SECONDS = (5e-6, 200e-6)
EXECUTOR_SECONDS = (20e-6, 20e-3)


class SimLoop(asyncio.AbstractEventLoop):
    """The event loop of one process on one host."""

    def __init__(
        self,
        world: World,
        network: Network,
        host: str,
        clock: Clock,
        on_error: Callable[[dict[str, Any]], None],
    ) -> None:
        self.world = world
        self.network = network
        self.host = host
        self.clock = clock
        self.is_dead = False
        self.unsent: list[SimTransport] = []
        """Connections that were written to in this turn."""
        self.transports: dict[int, SimTransport] = {}
        self.jobs: dict[int, Callable[[], object]] = {}
        """What its other threads have begun and not ended."""
        self._on_error = on_error
        # Kept to the end of the run: a coroutine that is thrown away runs its `finally` blocks,
        # which a process that is killed does not.
        self._tasks: list[asyncio.Task[Any]] = []
        world.loops.append(self)
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._number = 0
        self._next_turn = float("inf")
        self._generation = 0
        self._free_at = 0.0
        self._paused_until = 0.0
        self._is_in_turn = False

    # ---- what a process can suffer ------------------------------------------------------------

    def kill(self) -> None:
        """Run nothing any more."""
        self.is_dead = True
        self._ready.clear()
        self._timers.clear()
        self.jobs.clear()

    def pause(self, seconds: float) -> None:
        """Stand still for some time, as after SIGSTOP."""
        self._paused_until = self.world.now + seconds
        self._plan()

    def resume(self) -> None:
        """Go on at once."""
        self._paused_until = 0.0
        self._plan()

    def enter(self, action: Callable[[], Result]) -> Result:
        """Run something as the code of this process, outside of a turn."""
        before = events._get_running_loop()
        events._set_running_loop(self)
        self._is_in_turn = True
        try:
            return action()
        finally:
            self._is_in_turn = False
            events._set_running_loop(before)
            self._end_turn()

    # ---- turns --------------------------------------------------------------------------------

    def _plan(self) -> None:
        """See that the next turn is planned, no later than it is due."""
        if self.is_dead or self._is_in_turn:
            return
        if self._ready:
            due = self.world.now
        elif self._timers:
            due = self.clock.world_seconds(self._timers[0][0])
        else:
            return
        due = max(due, self._free_at, self._paused_until, self.world.now)
        if due != self._next_turn:
            self._generation += 1
            self._next_turn = due
            self.world.at(due, self._turn, self._generation)

    def replan(self) -> None:
        """Plan anew: the clock has changed."""
        self._plan()

    def _turn(self, generation: int) -> None:
        if self.is_dead or generation != self._generation:
            return
        self._next_turn = float("inf")
        if self.world.now < self._paused_until:
            self._plan()
            return
        ready, timers = self._ready, self._timers
        now = self.time() + 1e-9
        while timers and timers[0][0] <= now:
            _, _, timer = heapq.heappop(timers)
            ready.append(timer)
        events._set_running_loop(self)
        self._is_in_turn = True
        try:
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()
                if self.is_dead:
                    return
        finally:
            self._is_in_turn = False
            events._set_running_loop(None)
        self._end_turn()

    def _end_turn(self) -> None:
        if self.unsent:
            unsent, self.unsent = self.unsent, []
            for transport in unsent:
                transport.flush()
        self._free_at = self.world.now + self.world.draw.uniform(*TURN_SECONDS)
        self._plan()

    # ---- callbacks and timers -----------------------------------------------------------------

    def time(self) -> float:
        return self.clock.seconds()

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self.is_dead:
            self._ready.append(handle)
            if len(self._ready) == 1:
                self._plan()
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if not self.is_dead:
            self._number += 1
            heapq.heappush(self._timers, (when, self._number, timer))
            self._plan()
        return timer

    def _timer_handle_cancelled(self, _timer: asyncio.TimerHandle) -> None:
        """Nothing to do: a cancelled timer is skipped when it is due."""

    # ---- futures and tasks --------------------------------------------------------------------

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Result],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Result]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.is_dead

    def is_closed(self) -> bool:
        return self.is_dead

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._on_error(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self._on_error(context)

    # ---- other threads ------------------------------------------------------------------------

    def run_in_executor(  # type: ignore[override]
        self, _executor: object, func: Callable[..., Result], *args: Any
    ) -> asyncio.Future[Result]:
        """Run a function all at once, some time later; its end is heard of on the loop."""
        future: asyncio.Future[Result] = self.create_future()

        def run() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - the caller's to judge
                self.call_soon(_fail, future, error)
            else:
                self.call_soon(_finish, future, result)

        self.begin_job(run, self.world.between(*EXECUTOR_SECONDS))
        return future

    def begin_job(self, job: Callable[[], object], seconds: float) -> None:
        """Let another thread of this process do something that takes some time."""
        self._number += 1
        self.jobs[self._number] = job
        self.world.after(seconds, self._run_job, self._number)

    def _run_job(self, number: int) -> None:
        job = self.jobs.pop(number, None)
        if job is not None:
            job()

    # ---- connections --------------------------------------------------------------------------

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        reuse_port: bool = False,
        **_options: object,
    ) -> Any:
        return self.network.listen(self, protocol_factory, (host, port), reuse_port=reuse_port)

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        made: asyncio.Future[tuple[asyncio.Transport, asyncio.Protocol]] = self.create_future()
        self.network.connect(self, protocol_factory, (host, port), made)
        return await made

    async def connect_accepted_socket(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], sock: PairEnd
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        protocol = protocol_factory()
        sock.transport.begin(self, protocol)
        return sock.transport, protocol


def _finish(future: asyncio.Future[Result], result: Result) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
