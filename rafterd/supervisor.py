"""The supervisor: forks the shards of a node, keeps them running, speaks for them to the outside.

One process, one thread, one selectors loop over signals, control sockets and HTTP. It runs no raft
and imports no event loop, so what the shards inherit by the fork is small and at rest. A shard
that dies is started again with backoff, and the others are handed fresh links to it; a shard
that stops moving is killed first. When the supervisor dies, its control sockets close and every
shard exits.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import selectors
import signal
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rafter_transport.ring_pair import ShardEnd
from rafterd.boot import EXIT_CONFIG, EXIT_FAILURE, EXIT_OK, ShardBoot
from rafterd.config import Config
from rafterd.control import ControlError
from rafterd.health import ShardFact
from rafterd.http_server import Handler, HttpLimits, HttpServer
from rafterd.node_tls import NodeTls
from rafterd.notify import Notifier
from rafterd.select_loop import run_turn
from rafterd.shard_links import ShardLinks
from rafterd.shard_process import RunShard, ShardProcess, fork_shard
from rafterd.shared import SharedState
from rafterd.signals import SignalPipe
from rafterd.status import status_line

if TYPE_CHECKING:
    from rafter_storage.identity import Identity

logger = logging.getLogger(__name__)

CHECK_SECONDS = 0.25
"""How often pulses are taken."""
PAUSED_SECONDS = 2.0
"""A supervisor that itself stood still this long cannot blame the shards for their silence."""
TERM_REPEAT_SECONDS = 1.0
"""An event loop can lose a signal between two of its runs, so SIGTERM is repeated."""
NOTIFY_SECONDS = 1.0
START_EXTENSION_SECONDS = 30
HANDLED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Supervisor:
    """Runs the shards of one node until told to stop.

    `run` installs signal handlers and must be called in the main thread, once. `on_serving` is
    called when all shards serve for the first time; `reload_log_level` on SIGHUP, it returns the
    new level or raises ConfigError.
    """

    def __init__(
        self,
        config: Config,
        identity: Identity,
        *,
        run_shard: RunShard,
        shared: SharedState,
        notifier: Notifier,
        tls: NodeTls,
        watchdog_seconds: float | None = None,
        on_serving: Callable[[], None] = lambda: None,
        reload_log_level: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._config = config
        self._identity = identity
        self._run_shard = run_shard
        self._local_groups = config.local_groups()
        self._shared = shared
        self._notifier = notifier
        self._tls = tls
        self._watchdog_seconds = watchdog_seconds
        self._on_serving = on_serving
        self._reload_log_level = reload_log_level
        generator = random.Random()
        self._shards = [ShardProcess(shard, generator) for shard in range(config.node.shards)]
        self._links = ShardLinks(config.node.shard_links)
        self._selector = selectors.DefaultSelector()
        self._signals: SignalPipe | None = None
        self._http: HttpServer | None = None
        self._was_ready = False
        self._exit_status = EXIT_OK
        self._stop_at: float | None = None
        """When the patience with draining shards ends; None until the stop."""
        self._term_at = 0.0
        self._checked_at = 0.0
        self._notified_at = 0.0
        self._pinged_at = 0.0
        self._status_sent = ""

    @property
    def is_stopping(self) -> bool:
        """Whether the node drains or is about to."""
        return self._stop_at is not None

    def facts(self) -> list[ShardFact]:
        """Return what is known of each shard."""
        now = time.monotonic()
        return [
            ShardFact(
                each.shard, each.pid, self._is_alive(each, now), each.is_serving, each.restarts
            )
            for each in self._shards
        ]

    def serve_http(self, listener: socket.socket, handler: Handler) -> None:
        """Answer HTTP on a listening socket, which the supervisor then owns. Call before `run`."""
        limits = self._config.http
        self._http = HttpServer(
            self._selector,
            listener,
            handler,
            HttpLimits(limits.connections_max, limits.request_bytes_max, limits.request_seconds),
        )

    def run(self) -> int:
        """Start the shards and watch over them; return the exit code of the node.

        0 after an orderly stop in which every shard exited with 0, else 1. No shard is left
        running.
        """
        self._signals = SignalPipe(HANDLED_SIGNALS)
        self._selector.register(self._signals.descriptor, selectors.EVENT_READ, self._on_signals)
        self._checked_at = time.monotonic()
        try:
            self._start_all()
            while not self._is_finished():
                run_turn(self._selector, self._timeout())
                self._on_time(time.monotonic())
        finally:
            self._close()
        return self._exit_status

    # Starting.

    def _start_all(self) -> None:
        count = len(self._shards)
        links: list[dict[int, ShardEnd]] = [{} for _ in range(count)]
        for one in range(count):
            for other in range(one):
                links[one][other], links[other][one] = self._links.make()
        for each in self._shards:
            later = [link for rest in links[each.shard + 1 :] for link in rest.values()]
            self._start(each, links[each.shard], later)

    def _restart(self, dead: ShardProcess) -> None:
        dead.restarts += 1
        links: dict[int, ShardEnd] = {}
        for other in self._shards:
            if other is not dead and other.is_running:
                links[other.shard], theirs = self._links.make()
                other.queue_link(dead.shard, theirs)
        self._start(dead, links, [])
        for other in self._shards:
            self._flush(other)

    def _start(
        self,
        each: ShardProcess,
        links: dict[int, ShardEnd],
        foreign: list[ShardEnd],
    ) -> None:
        """Fork one shard. `foreign` are ends in this process that are not for the child."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        theirs.setblocking(False)
        boot = ShardBoot(
            self._config, self._identity, each.shard, self._shared, theirs, links, self._tls
        )

        def abandon() -> None:
            ours.close()
            for link in foreign:
                link.close()
            self._abandon()

        pid = fork_shard(boot, self._run_shard, abandon)
        theirs.close()
        for link in links.values():
            link.close()
        each.started(pid, ours, time.monotonic())
        self._selector.register(
            ours, selectors.EVENT_READ, lambda mask: self._on_control(each, mask)
        )
        logger.info("shard started", extra={"shard": each.shard, "pid": pid})

    def _abandon(self) -> None:
        """In a child: close every descriptor that belongs to the supervisor alone."""
        if self._http is not None:
            self._http.abandon()
        for each in self._shards:
            each.abandon()
        if self._signals is not None:
            self._signals.abandon()
        self._selector.close()

    # Events.

    def _on_signals(self, _mask: int) -> None:
        assert self._signals is not None
        for number in self._signals.read():
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGHUP:
                self._reload()
            elif number == signal.SIGINT and self.is_stopping:
                logger.warning("told to stop at once")
                self._stop_at = time.monotonic()
            elif not self.is_stopping:
                logger.info("stopping", extra={"signal": signal.Signals(number).name})
                self._stop(self._config.node.drain_seconds)

    def _on_control(self, each: ShardProcess, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._flush(each)
        try:
            while (message := each.receive()) is not None:
                self._on_message(each, message.name, message.arguments)
        except BlockingIOError:
            return
        except (ControlError, OSError) as error:
            logger.error("bad control message", extra={"shard": each.shard, "error": error})
        # End of file or nonsense: it is exiting, or must; the close tells it so.
        self._drop_control(each)
        each.is_serving = False

    def _drop_control(self, each: ShardProcess) -> None:
        if each.control is not None:
            self._selector.unregister(each.control)
            each.control.close()
            each.control = None

    def _on_message(self, each: ShardProcess, name: str, arguments: list[object]) -> None:
        if name == "serving":
            each.serving(time.monotonic())
            logger.info("shard serves", extra={"shard": each.shard})
            is_news = not self._was_ready and not self.is_stopping
            if is_news and all(shard.is_serving for shard in self._shards):
                self._was_ready = True
                self._notify_ready()
                self._on_serving()
        elif name == "fatal":
            text = arguments[0] if arguments else "no reason given"
            logger.error("shard gives up", extra={"shard": each.shard, "reason": text})
            if each.fatal(time.monotonic()) and not self.is_stopping:
                logger.error("a shard keeps giving up, stopping", extra={"shard": each.shard})
                self._fail()

    def _reap(self) -> None:
        for each in self._shards:
            if each.is_running:
                with contextlib.suppress(ChildProcessError):
                    pid, wait_status = os.waitpid(each.pid, os.WNOHANG)
                    if pid:
                        self._on_death(each, os.waitstatus_to_exitcode(wait_status))

    def _on_death(self, each: ShardProcess, status: int) -> None:
        if each.control is not None:
            self._on_control(each, selectors.EVENT_READ)  # its last words
            self._drop_control(each)
        had_served = each.has_served
        now = time.monotonic()
        delay_seconds = each.died(status, now)
        self._shared.clear_shard(each.shard)
        facts: dict[str, object] = {"shard": each.shard, "status": status}
        if self.is_stopping:
            # Before it served, nothing had been set up for SIGTERM: its default action is no fault.
            is_clean = status == 0 or (status == -signal.SIGTERM and not had_served)
            logger.log(logging.INFO if is_clean else logging.ERROR, "shard stopped", extra=facts)
            if not is_clean:
                self._exit_status = EXIT_FAILURE
        elif status == EXIT_CONFIG:
            logger.error("a shard cannot run with this configuration, stopping", extra=facts)
            self._fail()
        else:
            each.start_at = now + delay_seconds
            facts["restart_seconds"] = round(delay_seconds, 3)
            logger.error("shard died", extra=facts)

    def _reload(self) -> None:
        self._notifier.reloading()
        try:
            # First, as nothing changes yet: with an error everything stays as it was.
            update = self._tls.read()
            level = self._reload_log_level()
        except Exception as error:  # noqa: BLE001 - a bad file must not end a running node
            logger.error("not reloaded", extra={"reason": error})
        else:
            self._tls.use(update)
            for each in self._shards:
                if level is not None:
                    each.queue_log_level(level)
                if self._tls.is_used:
                    each.queue_tls()
                self._flush(each)
            logger.info("reloaded", extra={"log_level": level})
        if self._was_ready:
            self._notify_ready()

    # Stopping.

    def _stop(self, patience_seconds: float) -> None:
        now = time.monotonic()
        self._stop_at = now + patience_seconds
        self._term_at = now
        self._notifier.send("STOPPING=1", "STATUS=draining")

    def _fail(self) -> None:
        self._exit_status = EXIT_FAILURE
        if not self.is_stopping:
            self._stop(self._config.node.drain_seconds)

    def _is_finished(self) -> bool:
        return self.is_stopping and not any(each.is_running for each in self._shards)

    def _close(self) -> None:
        """Leave nothing behind, on errors too."""
        for each in self._shards:
            if each.is_running:
                each.kill(signal.SIGKILL)
                os.waitpid(each.pid, 0)
            each.abandon()
        if self._http is not None:
            self._http.close()
        if self._signals is not None:
            self._signals.close()
        self._selector.close()

    # Time.

    def _timeout(self) -> float:
        deadlines = [self._checked_at + CHECK_SECONDS]
        deadlines += [each.start_at for each in self._shards if each.start_at is not None]
        if self._http is not None and (deadline := self._http.next_deadline()) is not None:
            deadlines.append(deadline)
        if self._stop_at is not None:
            deadlines += [self._stop_at, self._term_at]
        return max(0.0, min(deadlines) - time.monotonic())

    def _on_time(self, now: float) -> None:
        if self._http is not None:
            self._http.expire()
        if self.is_stopping:
            self._drain(now)
        else:
            for each in self._shards:
                if each.start_at is not None and each.start_at <= now:
                    self._restart(each)
        if now - self._checked_at >= CHECK_SECONDS:
            self._reap()  # a signal can be lost when its socket is full
            self._check_pulses(now)
            self._checked_at = now
            self._notify(now)

    def _drain(self, now: float) -> None:
        assert self._stop_at is not None
        if now >= self._stop_at:
            for each in self._shards:
                if each.is_running:
                    logger.error("shard did not drain in time, killed", extra={"shard": each.shard})
                    each.kill(signal.SIGKILL)
            self._stop_at = now + TERM_REPEAT_SECONDS
        elif now >= self._term_at:
            for each in self._shards:
                each.kill(signal.SIGTERM)
            self._term_at = now + TERM_REPEAT_SECONDS

    def _check_pulses(self, now: float) -> None:
        stood_still = now - self._checked_at >= PAUSED_SECONDS
        for each in self._shards:
            if not each.is_running:
                continue
            if stood_still:
                each.pulse_at = now
            each.watch(self._shared, now)
            is_hung = not self.is_stopping and not self._is_alive(each, now)
            if is_hung and not each.is_condemned:
                each.is_condemned = True
                logger.error(
                    "shard does not answer, killed",
                    extra={"shard": each.shard, "seconds": round(each.silent_seconds(now), 1)},
                )
                each.kill(signal.SIGKILL)

    def _is_alive(self, each: ShardProcess, now: float) -> bool:
        node = self._config.node
        limit = node.watchdog_seconds if each.has_served else node.start_seconds_max
        return each.is_running and each.silent_seconds(now) <= limit

    def _flush(self, each: ShardProcess) -> None:
        each.flush()
        if each.control is not None:
            events = selectors.EVENT_READ
            if each.has_unsent:
                events |= selectors.EVENT_WRITE
            key = self._selector.get_key(each.control)
            if key.events != events:
                self._selector.modify(each.control, events, key.data)

    # The service manager.

    def _notify_ready(self) -> None:
        self._notifier.send("READY=1", f"STATUS={self._status()}")

    def _notify(self, now: float) -> None:
        if not self._notifier.is_active:
            return
        if self._watchdog_seconds is not None and now - self._pinged_at >= min(
            NOTIFY_SECONDS, self._watchdog_seconds / 4
        ):
            self._pinged_at = now
            if self.is_stopping or all(self._is_alive(each, now) for each in self._shards):
                self._notifier.send("WATCHDOG=1")
        if now - self._notified_at < NOTIFY_SECONDS:
            return
        self._notified_at = now
        if not self._was_ready:
            self._notifier.send(f"EXTEND_TIMEOUT_USEC={START_EXTENSION_SECONDS * 1_000_000}")
        status = self._status()
        if status != self._status_sent and not self.is_stopping:
            self._status_sent = status
            self._notifier.send(f"STATUS={status}")

    def _status(self) -> str:
        serving = sum(each.is_serving for each in self._shards)
        return status_line(self._config, self._shared, self._local_groups, serving)
