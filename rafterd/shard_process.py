"""One shard as the supervisor sees it: a child process, its control socket, its pulse.

The supervisor decides; this module forks, sends, receives and remembers.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
from collections import deque
from collections.abc import Callable

from rafter_transport.ring_pair import ShardEnd
from rafterd import logs
from rafterd.boot import EXIT_FAILURE, ShardBoot
from rafterd.control import ControlMessage, receive_control, send_control
from rafterd.shard_links import send_end
from rafterd.shared import Counter, SharedState

logger = logging.getLogger(__name__)

RunShard = Callable[[ShardBoot], int]

RESTART_BASE_SECONDS = 0.1
RESTART_CAP_SECONDS = 5.0
STEADY_SECONDS = 60.0
"""A shard that served this long starts its next backoff from the base."""
FATAL_COUNT_MAX = 5
FATAL_WINDOW_SECONDS = 60.0

CHILD_SIGNALS_DEFAULT = (signal.SIGTERM, signal.SIGCHLD)
CHILD_SIGNALS_IGNORED = (signal.SIGINT, signal.SIGHUP)
"""They reach the whole process group of a terminal; the supervisor turns them into messages."""


class ShardProcess:
    """The state of one shard across its restarts. All times are of the monotonic clock."""

    def __init__(self, shard: int, generator: random.Random) -> None:
        self.shard = shard
        self.pid = 0
        self.control: socket.socket | None = None
        self.is_serving = False
        self.has_served = False
        """Whether it served in its present life: then SIGTERM means drain, not death."""
        self.is_condemned = False
        """Whether it was killed for its silence and has not been reaped yet."""
        self.restarts = 0
        self.last_status = 0
        """Exit code of its last life; minus the signal that ended it."""
        self.start_at: float | None = None
        """When to start it again, None while it runs."""
        self.pulse_at = 0.0
        """When it was last seen to move, or was started."""
        self.served_since = 0.0
        self._pulse = 0
        self._failures = 0
        self._fatal_at: deque[float] = deque(maxlen=FATAL_COUNT_MAX)
        self._links_unsent: dict[int, ShardEnd] = {}
        self._log_level_unsent: str | None = None
        self._is_tls_unsent = False
        self._generator = generator

    @property
    def is_running(self) -> bool:
        """Whether a process exists that was not reaped."""
        return self.pid != 0

    def started(self, pid: int, control: socket.socket, now: float) -> None:
        """Take note of a new process."""
        self.pid, self.control = pid, control
        self.start_at = None
        self.is_serving = self.has_served = self.is_condemned = False
        self._pulse = 0
        self.pulse_at = now

    def serving(self, now: float) -> None:
        """Take note of ["serving"]."""
        self.is_serving = self.has_served = True
        self.served_since = self.pulse_at = now

    def died(self, status: int, now: float) -> float:
        """Take note of its death; return how many seconds to wait before the next start.

        Its control socket must be closed already.
        """
        assert self.control is None, "a dead shard keeps no control socket"
        if self.is_serving and now - self.served_since >= STEADY_SECONDS:
            self._failures = 0
        self.pid = 0
        self.is_serving = False
        self.last_status = status
        self._drop_unsent()
        ceiling = min(RESTART_CAP_SECONDS, RESTART_BASE_SECONDS * 2 ** min(self._failures, 16))
        self._failures += 1
        return self._generator.uniform(0, ceiling)

    def fatal(self, now: float) -> bool:
        """Take note of ["fatal", …]; whether it was said so often that no restart will help."""
        self._fatal_at.append(now)
        is_full = len(self._fatal_at) == FATAL_COUNT_MAX
        return is_full and now - self._fatal_at[0] <= FATAL_WINDOW_SECONDS

    def watch(self, shared: SharedState, now: float) -> None:
        """Look at the heartbeat word."""
        pulse = shared.get(self.shard, Counter.HEARTBEAT)
        if pulse != self._pulse:
            self._pulse = pulse
            self.pulse_at = now

    def silent_seconds(self, now: float) -> float:
        """Return how long it has not moved."""
        return now - self.pulse_at

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to its process, if there is one. It was not reaped: the pid is its own."""
        if self.pid:
            os.kill(self.pid, number)

    def receive(self) -> ControlMessage | None:
        """Receive one control message, None at end of file. Raises as receive_control does."""
        if self.control is None:
            return None
        message = receive_control(self.control)
        if message is not None:
            for descriptor in message.descriptors:  # shards send none
                os.close(descriptor)
        return message

    def queue_link(self, other: int, link: ShardEnd) -> None:
        """Pass it the end to another shard; a newer one replaces one that is still unsent."""
        if old := self._links_unsent.pop(other, None):
            old.close()
        self._links_unsent[other] = link

    def queue_log_level(self, level: str) -> None:
        """Tell it a log level; a newer one replaces one that is still unsent."""
        self._log_level_unsent = level

    def queue_tls(self) -> None:
        """Tell it to read the TLS files again."""
        self._is_tls_unsent = True

    @property
    def has_unsent(self) -> bool:
        """Whether messages wait for room in the control socket."""
        is_reload = self._log_level_unsent is not None or self._is_tls_unsent
        return bool(self._links_unsent) or is_reload

    def flush(self) -> None:
        """Send the queued messages, as far as there is room. A dead shard's are dropped."""
        if self.control is None:
            self._drop_unsent()
            return
        try:
            while self._links_unsent:
                other = next(iter(self._links_unsent))
                send_end(self.control, other, self._links_unsent[other])
                self._links_unsent.pop(other).close()
            if self._log_level_unsent is not None:
                send_control(self.control, "log", self._log_level_unsent)
                self._log_level_unsent = None
            if self._is_tls_unsent:
                send_control(self.control, "tls")
                self._is_tls_unsent = False
        except BlockingIOError:
            return
        except OSError as error:  # it is dying; SIGCHLD follows
            logger.debug("cannot reach a shard", extra={"shard": self.shard, "error": error})
            self._drop_unsent()

    def abandon(self) -> None:
        """Close this process's copies of its descriptors: in the child of another shard."""
        if self.control is not None:
            self.control.close()
        self._drop_unsent()

    def _drop_unsent(self) -> None:
        for link in self._links_unsent.values():
            link.close()
        self._links_unsent.clear()
        self._log_level_unsent = None
        self._is_tls_unsent = False


def fork_shard(boot: ShardBoot, run_shard: RunShard, abandon: Callable[[], None]) -> int:
    """Fork one shard and return its pid. The caller closes its copies of the boot's sockets.

    In the child: signals are reset, `abandon` closes what belongs to the supervisor, logging speaks
    for the shard, then `run_shard(boot)` runs to its end and the process exits with its result.
    Signals are blocked over the fork: one that arrives between the fork and the reset would
    otherwise be written by the child to the supervisor's wake-up socket, and be taken for its own.
    """
    handled = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    try:
        pid = os.fork()
        if pid == 0:
            _run_child(boot, run_shard, abandon, old_mask)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
    return pid


def _run_child(
    boot: ShardBoot,
    run_shard: RunShard,
    abandon: Callable[[], None],
    mask: set[signal.Signals | int],
) -> None:
    """Become the shard; never returns, so that no frame of the supervisor runs in the child."""
    status = EXIT_FAILURE
    try:
        signal.set_wakeup_fd(-1)
        for number in CHILD_SIGNALS_DEFAULT:
            signal.signal(number, signal.SIG_DFL)
        for number in CHILD_SIGNALS_IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        abandon()
        _set_process_name(f"rafterd-shard{boot.shard}")
        log = boot.config.log
        logs.configure(log.level, log.format, {"node": boot.config.node.id, "shard": boot.shard})
        status = run_shard(boot)
    except BaseException:
        logger.exception("the shard failed")
    finally:
        os._exit(status)


def _set_process_name(name: str) -> None:
    """Name the process for ps and top; the kernel keeps fifteen characters."""
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as file:
            file.write(name)
    except OSError:
        return
