"""One shard process in the simulation: the real services of a shard, on a simulated loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from rafter_core import Message, StateMachine
from rafter_core.state_machine import Update
from rafter_kv.machine import KeyValueMachine
from rafterd.boot import ShardBoot
from rafterd.engine import Engine
from rafterd.environment import Environment
from rafterd.replica import Replica
from rafterd.replica_making import Made
from rafterd.shard_services import ShardServices
from rafterd.shared import Counter, ShardState
from tests.sim.checks import Checks
from tests.sim.disks import ProcessFiles
from tests.sim.loops import SimLoop
from tests.sim.message_faults import MessageFaults
from tests.sim.world import World

Machine = TypeVar("Machine", bound=StateMachine)

HEARTBEAT_TICKS = 3
SLOW_TICKS = 10


class SimEngine(Engine):
    """The real engine; messages of raft pass the faults and the checks on their way in."""

    faults: MessageFaults
    checks: Checks
    node: int

    def step(self, replica: Replica, message: Message, shard: int) -> None:
        self.checks.saw_message(replica.group, message)
        for delay_seconds in self.faults.fates(replica.group, message):
            if delay_seconds:
                # Copied: what is stepped belongs to the core.
                self._loop.call_later(delay_seconds, self._step_late, replica, message, shard)
            else:
                self._step_now(replica, message, shard)

    def _step_late(self, replica: Replica, message: Message, shard: int) -> None:
        if self.replicas.get(replica.group) is replica and not self._is_stopped:
            self._step_now(replica, message, shard)

    def _step_now(self, replica: Replica, message: Message, shard: int) -> None:
        super().step(replica, message, shard)
        self.checks.saw_replica(self.node, replica)


class WatchedMachine(KeyValueMachine):
    """The real state machine; what is applied is compared with what others have applied."""

    def __init__(self, checks: Checks, node: int, group: int) -> None:
        super().__init__()
        self._checks = checks
        self._node = node
        self._group = group

    def update(self, updates: list[Update]) -> list[object]:
        results = super().update(updates)
        self._checks.applied(self._node, self._group, updates, self)
        return results


class SimServices(ShardServices):
    """The real services, with the engine and the machines above."""

    def __init__(
        self,
        boot: ShardBoot,
        loop: SimLoop,
        on_fatal: Callable[[BaseException], None],
        environment: Environment,
        checks: Checks,
        faults: MessageFaults,
    ) -> None:
        self._checks = checks
        self._faults = faults
        super().__init__(boot, loop, on_fatal, environment)

    def _make_engine(self, engine_type: type[Engine] = SimEngine) -> Engine:
        engine = super()._make_engine(engine_type)
        assert isinstance(engine, SimEngine)
        engine.checks = self._checks
        engine.faults = self._faults
        engine.node = self._config.node.id
        return engine

    def _make_replica(self, group: int, make_machine: Callable[[], Machine]) -> Made[Machine]:
        make: Any = make_machine
        if make_machine is KeyValueMachine:
            make = functools.partial(WatchedMachine, self._checks, self._config.node.id, group)
        made = super()._make_replica(group, make)
        self._checks.restarted(self._config.node.id, made.replica)
        return made


class SimShard:
    """The life of one shard process, as `rafterd.shard.ShardMain` leads it."""

    def __init__(
        self,
        world: World,
        boot: ShardBoot,
        loop: SimLoop,
        environment: Environment,
        checks: Checks,
        faults: MessageFaults,
        on_fatal: Callable[[SimShard, BaseException], None],
    ) -> None:
        self.boot = boot
        self.loop = loop
        self._world = world
        self._environment = environment
        self._checks = checks
        self._faults = faults
        self._on_fatal = on_fatal
        self._tick_seconds = boot.config.raft.tick_milliseconds / 1000
        self._ticks = 0
        self._next_tick_seconds = 0.0
        self._is_started = False
        self.is_serving = False
        self.services: SimServices
        self.files: ProcessFiles

    @property
    def name(self) -> str:
        return f"{self.boot.config.node.id}.{self.boot.shard}"

    def start(self) -> None:
        """Begin; raises StorageError and OSError, as the real one does."""
        self.services = SimServices(
            self.boot, self.loop, self._fatal, self._environment, self._checks, self._faults
        )
        starting = self.loop.create_task(self.services.start())
        starting.add_done_callback(self._started)
        self._next_tick_seconds = self.loop.time()
        self._on_tick()

    def _fatal(self, error: BaseException) -> None:
        if not self.loop.is_dead:
            self._on_fatal(self, error)

    def _started(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            self._fatal(error)
            return
        self._is_started = True

    def _on_tick(self) -> None:
        if self.loop.is_dead:
            return
        try:
            self._tick()
        except Exception as error:  # noqa: BLE001 - as in the real one
            self._fatal(error)
            return
        now_seconds = self.loop.time()
        self._next_tick_seconds += self._tick_seconds
        if now_seconds - self._next_tick_seconds > 2 * self._tick_seconds:
            self._next_tick_seconds = now_seconds
        self.loop.call_at(self._next_tick_seconds, self._on_tick)

    def _tick(self) -> None:
        services = self.services
        self._ticks += 1
        if self._is_started:
            services.tick()
        if self._ticks % HEARTBEAT_TICKS == 0:
            services.expire_due_keys()
            services.advance_replacements()
            services.publish()
        if self._ticks % SLOW_TICKS == 0:
            services.housekeep()
        if self._is_started and not self.is_serving and services.is_replayed():
            self.is_serving = True
            services.publish()
            opening = self.loop.create_task(services.open_client_listeners())
            opening.add_done_callback(self._listeners_opened)

    def _listeners_opened(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            self._fatal(error)
            return
        self.boot.shared.set_counter(self.boot.shard, Counter.STATE, ShardState.SERVING)
        self._world.note(f"shard {self.name} serves")
