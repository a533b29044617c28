"""One shard: the process that owns a set of groups, from its fork to its exit.

The supervisor forks and calls `run_shard`. The process runs one event loop once: uvloop loses a
signal that arrives between two runs.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
import time
import traceback

import uvloop

from rafter_storage.errors import StorageError
from rafterd.boot import EXIT_FAILURE, EXIT_OK, ShardBoot
from rafterd.control import ControlError, receive_control, send_control, send_fatal
from rafterd.logs import set_level
from rafterd.shard_links import received_end
from rafterd.shard_services import ShardServices
from rafterd.shared import Counter, ShardState

logger = logging.getLogger(__name__)

GC_THRESHOLDS = (50_000, 20, 100)
"""The state is bytes in dicts, which the collector need not look at often (performance.md §6)."""

SWITCH_SECONDS = 0.0005
"""How long a thread that packs or unpacks a snapshot may keep the event loop waiting; Python's own
setting is ten times as much."""

HEARTBEAT_SECONDS = 0.1
SLOW_PUBLISH_SECONDS = 1.0
TICKS_BEHIND_MAX = 2
"""After a pause longer than this many ticks, time goes on from now instead of catching up."""

DRAIN_SHARE = 0.7
"""The part of `node.drain_seconds` that a shard takes before it closes its connections."""

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def run_shard(boot: ShardBoot) -> int:
    """Run one shard until it is told to stop; return its exit code. Called once, in the child."""
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(ShardMain(boot).run())
    except (OSError, StorageError) as error:
        logger.error("shard %d cannot start: %s", boot.shard, error)
        send_fatal(boot.control, str(error))
        return EXIT_FAILURE


class ShardMain:
    """The life of one shard: start, serve, drain, end."""

    def __init__(self, boot: ShardBoot) -> None:
        self._boot = boot
        self._config = boot.config
        self._counters = boot.shared.counter_words(boot.shard)
        self._loop: asyncio.AbstractEventLoop
        self._services: ShardServices
        self._ended: asyncio.Future[int]
        self._starting: asyncio.Task[None]
        self._is_started = False
        self._is_serving = False
        self._opening: asyncio.Task[None] | None = None
        self._is_draining = False
        self._drain_deadline_seconds = 0.0
        self._next_tick_seconds = 0.0
        self._tick_seconds = boot.config.raft.tick_milliseconds / 1000
        self._next_heartbeat_seconds = 0.0
        self._next_slow_publish_seconds = 0.0
        self._lag_max_seconds = 0.0
        # Opened once: a process that has run out of descriptors must still report.
        self._memory = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    async def run(self) -> int:
        """Start, serve until the end, and close; return the exit code."""
        boot = self._boot
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._loop.set_exception_handler(self._on_exception)
        self._counters[Counter.PID] = os.getpid()
        self._counters[Counter.STATE] = ShardState.STARTING
        self._counters[Counter.HEARTBEAT] += 1
        self._loop.add_signal_handler(signal.SIGTERM, self._drain)
        self._loop.add_reader(boot.control, self._on_control)
        self._services = ShardServices(boot, self._loop, self._on_fatal)
        self._starting = self._loop.create_task(self._services.start())
        self._starting.add_done_callback(self._started)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self._next_tick_seconds = self._loop.time()
        self._on_tick()
        code = await self._ended
        self._loop.remove_reader(boot.control)
        for task in (self._starting, self._opening):
            if task is not None and not task.done():
                # It would leave a listener behind that nobody closes.
                task.cancel()
                await asyncio.wait((task,))
        await self._services.close()
        return code

    def _started(self, task: "asyncio.Task[None]") -> None:
        """Go on to serve, or end with the error of a start that failed."""
        error = None if task.cancelled() else task.exception()
        self._is_started = error is None and not task.cancelled()
        if error is not None and not self._ended.done():
            self._ended.set_exception(error)

    # Time -------------------------------------------------------------------------------------

    def _on_tick(self) -> None:
        """Run one tick. Whatever it raises ends the process: no tick would follow otherwise."""
        try:
            self._tick()
        except Exception as error:  # noqa: BLE001 - also an OSError, which others survive
            self._on_fatal(error)

    def _tick(self) -> None:
        """Advance raft, retries and counters by one tick, and plan the next."""
        now_seconds = self._loop.time()
        lag_seconds = now_seconds - self._next_tick_seconds
        self._lag_max_seconds = max(self._lag_max_seconds, lag_seconds)
        if self._is_started:
            # Before, no peer could be reached, and elections would be in vain.
            self._services.tick()
        if now_seconds >= self._next_heartbeat_seconds:
            self._next_heartbeat_seconds = now_seconds + HEARTBEAT_SECONDS * 0.9
            self._counters[Counter.HEARTBEAT] += 1
            self._services.expire_due_keys()
            self._services.advance_replacements()
            self._services.publish()
        if now_seconds >= self._next_slow_publish_seconds:
            self._next_slow_publish_seconds = now_seconds + SLOW_PUBLISH_SECONDS
            self._publish_process()
            self._services.housekeep()
        if not self._is_serving:
            self._serve_when_replayed()
        if self._is_draining:
            self._continue_drain(now_seconds)
        if lag_seconds > TICKS_BEHIND_MAX * self._tick_seconds:
            self._next_tick_seconds = now_seconds
        self._next_tick_seconds += self._tick_seconds
        self._loop.call_at(self._next_tick_seconds, self._on_tick)

    def _publish_process(self) -> None:
        counters = self._counters
        counters[Counter.CPU_MICROSECONDS_TOTAL] = int(time.process_time() * 1_000_000)
        pages = int(os.pread(self._memory, 256, 0).split()[1])
        counters[Counter.MEMORY_BYTES] = pages * PAGE_BYTES
        counters[Counter.LOOP_LAG_MICROSECONDS_MAX] = int(self._lag_max_seconds * 1_000_000)
        self._lag_max_seconds = 0.0

    # Serving ----------------------------------------------------------------------------------

    def _serve_when_replayed(self) -> None:
        """Open the client listeners once the groups hold what their logs say is committed."""
        if self._is_draining or not self._is_started or not self._services.is_replayed():
            return
        self._is_serving = True
        self._services.publish()
        self._opening = self._loop.create_task(self._open_listeners())
        self._opening.add_done_callback(self._listeners_opened)

    async def _open_listeners(self) -> None:
        await self._services.open_client_listeners()
        if self._is_draining:
            self._services.begin_drain()
            return
        self._counters[Counter.STATE] = ShardState.SERVING
        send_control(self._boot.control, "serving")
        logger.info("serving %d groups", len(self._services.engine.replicas))

    def _listeners_opened(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("cannot listen for clients: %s", error)
            send_fatal(self._boot.control, str(error))
            self._end(EXIT_FAILURE)

    # The supervisor ---------------------------------------------------------------------------

    def _on_control(self) -> None:
        """Handle messages of the supervisor; its end is this shard's end."""
        while True:
            try:
                message = receive_control(self._boot.control)
            except BlockingIOError:
                return
            except ControlError as error:
                logger.error("control socket: %s", error)
                continue
            if message is None:
                logger.error("the supervisor is gone")
                os._exit(EXIT_FAILURE)
            if message.name in ("link", "rings"):
                try:
                    shard, end = received_end(message)
                except ControlError as error:
                    logger.error("control socket: %s", error)
                else:
                    self._services.exchanger.attach_shard(shard, end)
            elif message.name == "log":
                set_level(str(message.arguments[0]))
            elif message.name == "tls":
                self._services.reload_tls()

    # The end ----------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Take no further work, hand leadership over, answer what was taken, then end."""
        if self._is_draining:
            return
        self._is_draining = True
        self._counters[Counter.STATE] = ShardState.DRAINING
        drain_seconds = self._config.node.drain_seconds * DRAIN_SHARE
        self._drain_deadline_seconds = self._loop.time() + drain_seconds
        self._services.begin_drain()

    def _continue_drain(self, now_seconds: float) -> None:
        if self._services.is_drained() or now_seconds >= self._drain_deadline_seconds:
            self._end(EXIT_OK)
        else:
            self._services.hand_over_leadership()

    def _end(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)

    def _on_fatal(self, error: BaseException) -> None:
        """Stop at once: the state of this process can no longer be trusted to answer anything."""
        text = "".join(traceback.format_exception(error))
        logger.critical("shard %d stops: %s", self._boot.shard, text)
        send_fatal(self._boot.control, f"{type(error).__name__}: {error}")
        os._exit(EXIT_FAILURE)

    def _on_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """Stop for an exception in a callback: nobody knows what was left half done."""
        error = context.get("exception")
        if isinstance(error, OSError):
            # A socket's trouble is its own: the transport closes it.
            logger.warning("%s: %s", context.get("message"), error)
            return
        if isinstance(error, BaseException):
            self._on_fatal(error)
        logger.error("event loop: %s", context.get("message"))
