"""One node in the simulation: its host, disk and shards, and the supervisor that starts them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from rafter_core.errors import InvariantError
from rafter_storage.data_directory import DataDirectory
from rafter_storage.errors import StorageError
from rafter_storage.identity import Identity
from rafter_storage.resharding import settle_layout
from rafterd.boot import ShardBoot
from rafterd.config import Config
from rafterd.environment import Environment
from rafterd.flusher import Flusher, OnDone
from rafterd.node_tls import NodeTls
from rafterd.placement import shard_of_group
from rafterd.shared import SharedState
from tests.sim.checks import Checks
from tests.sim.clocks import Clock
from tests.sim.disks import Disk, ProcessFiles, SimFlusher
from tests.sim.loops import SimLoop
from tests.sim.message_faults import MessageFaults
from tests.sim.network import Network, PairEnd
from tests.sim.plans import Plan, host_of, make_config
from tests.sim.shards import SimShard
from tests.sim.world import World

RESTART_SECONDS = (0.05, 1.0)
START_RETRY_SECONDS = 1.0


class SimNode:
    """One node. Starts with `start`; what then ends it is a fault or the end of the run."""

    def __init__(
        self, world: World, network: Network, checks: Checks, plan: Plan, node: int
    ) -> None:
        self.node = node
        self.host = host_of(node)
        self.world = world
        self.network = network
        self.checks = checks
        self.plan = plan
        self.disk = Disk(world, plan.sync_seconds)
        self.clock = Clock(world)
        self.message_faults = MessageFaults(world)
        self.shard_count = plan.shards
        self.settings = dict(plan.settings)
        self.shards: dict[int, SimShard] = {}
        self.is_up = False
        self.is_kept_down = False
        """Whether nobody starts it again for now."""
        self.is_damaged = False
        """Whether bits have rotted here: some of its groups may be out of service."""
        self._files: ProcessFiles | None = None
        self._shared: SharedState
        self._identity: Identity
        self._config: Config
        self._starts = 0

    @property
    def loops(self) -> list[SimLoop]:
        return [shard.loop for shard in self.shards.values()]

    # ---- start --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the node, or try again later if its disk does not let it."""
        if self.is_up or self.is_kept_down:
            return
        self.world.note(f"node {self.node} starts")
        self._config = make_config(self.plan, self.node, self.shard_count, self.settings)
        self._files = ProcessFiles(self.disk.files)
        self.is_up = True
        self._starts += 1
        try:
            self._take_directory(self._config, self._files)
        except (StorageError, OSError) as error:
            if not self.disk.is_faulty:
                self.world.violated(f"node {self.node} does not start: {error!r}")
            self.world.note(f"node {self.node} does not start: {error!r}")
            self.kill()
            self.world.after(START_RETRY_SECONDS, self.start)
            return
        self._shared = SharedState(self.shard_count, self.plan.groups, self._config.nodes)
        for shard in range(self.shard_count):
            self._start_shard(shard)

    def _take_directory(self, config: Config, files: Any) -> None:
        directory = DataDirectory.acquire(Path(config.node.data_dir), files=files)
        identity = Identity.load_or_create(
            directory,
            cluster_name=config.cluster.name,
            cluster_id=config.cluster_id,
            node_id=config.node.id,
            groups=config.cluster.groups,
            replication=config.cluster.replication,
            draw=lambda: self.world.random_bits(63) + 1,
        )
        self._identity = settle_layout(
            directory,
            identity,
            config.node.shards,
            place=shard_of_group,
            segment_bytes=config.storage.segment_bytes,
            draw=lambda: self.world.random_bits(62) + 1,
        )

    def _start_shard(self, number: int) -> None:
        loop = SimLoop(  # type: ignore[abstract]  # the rest is not used
            self.world, self.network, self.host, self.clock,
            functools.partial(self._loop_error, number),
        )  # fmt: skip
        links = self._make_links(number)
        boot = ShardBoot(
            self._config, self._identity, number, self._shared,
            None, links, NodeTls(self._config),  # type: ignore[arg-type]  # no supervisor to tell
        )  # fmt: skip
        files: Any = ProcessFiles(self.disk.files)
        disk = self.disk

        def make_flusher(_mode: str, _loop: object, on_done: OnDone) -> Flusher:
            return SimFlusher(self.world, disk, loop, on_done)

        environment = Environment(
            files=files,
            wall_seconds=self.clock.wall_seconds,
            random_bits=self.world.random_bits,
            make_flusher=make_flusher,
            buggify=self._buggify,
        )
        shard = SimShard(
            self.world, boot, loop, environment, self.checks, self.message_faults, self._fatal
        )
        shard.files = files
        self.shards[number] = shard
        try:
            loop.enter(shard.start)
        except (StorageError, OSError) as error:
            self._fatal(shard, error)

    def _make_links(self, number: int) -> dict[int, PairEnd]:
        links = {}
        for other, shard in self.shards.items():
            near, far = self.network.pair_ends(self.host)
            links[other] = near
            shard.loop.call_soon(shard.services.exchanger.attach_shard, number, far)
        return links

    def _buggify(self, point: str) -> bool:
        if self.world.chance(self.plan.buggify_chance):
            self.world.tally[f"buggify {point}"] += 1
            return True
        return False

    # ---- what shards report -------------------------------------------------------------------

    def _loop_error(self, number: int, context: dict[str, Any]) -> None:
        """Handle what reached a loop's exception handler, as `ShardMain` does."""
        error = context.get("exception")
        shard = self.shards.get(number)
        if (
            shard is not None
            and isinstance(error, BaseException)
            and not isinstance(error, OSError)
        ):
            self._fatal(shard, error)

    def _fatal(self, shard: SimShard, error: BaseException) -> None:
        if self.shards.get(shard.boot.shard) is not shard:
            return
        is_of_disk = isinstance(error, OSError | StorageError)
        self.world.note(f"shard {shard.name} stops: {error!r}")
        if not (is_of_disk and self.disk.is_faulty) or isinstance(error, InvariantError):
            self.world.violated_by(f"shard {shard.name} stops: {error!r}", error)
        self.world.tally["shard stopped by its disk"] += 1
        self.kill_shard(shard.boot.shard)

    # ---- ends ---------------------------------------------------------------------------------

    def kill_shard(self, number: int) -> None:
        """Kill one process; the supervisor starts it again."""
        shard = self.shards.pop(number, None)
        if shard is None:
            return
        self.world.note(f"shard {shard.name} is killed")
        self.disk.end_jobs([shard.loop])
        self._end(shard)
        self._shared.clear_shard(number)
        delay = self.world.between(*RESTART_SECONDS)
        self.world.after(delay, self._restart_shard, number, self._starts)

    def _restart_shard(self, number: int, starts: int) -> None:
        if self.is_up and self._starts == starts and number not in self.shards:
            self.world.note(f"shard {self.node}.{number} starts again")
            self._start_shard(number)

    def _end(self, shard: SimShard) -> None:
        self.network.process_ended(shard.loop)
        shard.loop.kill()
        shard.files.end()

    def kill(self) -> None:
        """End all processes at once; what they wrote stays with the kernel."""
        self.world.note(f"node {self.node} is killed")
        self.disk.end_jobs(self.loops)
        for shard in self.shards.values():
            self._end(shard)
        self.shards.clear()
        if self._files is not None:
            self._files.end()
        self.is_up = False

    def lose_power(self) -> None:
        """End the host: its peers hear nothing, and what was not synced may be gone."""
        self.network.host_down(self.host)
        self.kill()
        self.disk.lose_power()

    def power_up(self) -> None:
        """Let the host boot, and the node start."""
        self.network.host_up(self.host)
        self.start()
