"""The faults of a run, and the fault model: what a correct cluster survives without a wrong answer.

- Messages of raft are lost, doubled, late and overtaken; streams break, stall, arrive in pieces.
- A host cannot reach another, or several cannot reach each other, one way or both, for any time.
- Processes end at any instant, shards alone or all of a node; they stand still for any time.
- A host loses power: bytes that no sync has covered are lost, wholly or partly, in any order, in
  pieces of 512 bytes; names are, until their directory is synced. What was synced stays.
- The monotonic clocks of two hosts differ by a fifth at most; wall clocks jump, by less in all than
  the ten minutes after which sessions are forgotten.
- Disks are slow, or full, or fail to sync; after that nobody knows what they hold of it.
- On one node at most, bits rot and reads go astray, anywhere but in the newest segment of a log:
  damage of its very last record cannot be told from a write that was torn (docs/storage.md).
- Leaders hand over, snapshots are taken, nodes start with other limits and numbers of shards.

Faults begin one after the other and overlap. `calm` ends them all: what then does not come back is
a bug as well.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from pathlib import Path

from rafter_core import Message, MessageKind
from tests.sim.network import Network
from tests.sim.nodes import SimNode
from tests.sim.plans import Plan
from tests.sim.shards import SimShard
from tests.sim.world import World
from tests.storage.fake_file_system import FakeFileSystem

End = Callable[[], None]
_PROMISES = (
    MessageKind.VOTE,
    MessageKind.VOTE_RESPONSE,
    MessageKind.APPEND,
    MessageKind.APPEND_RESPONSE,
    MessageKind.HEARTBEAT_RESPONSE,
)
"""What others count on once they have heard it."""
WALL_SECONDS_MAX = 250.0


class Faults:
    """Begins and ends the faults of one run."""

    def __init__(
        self, world: World, network: Network, nodes: dict[int, SimNode], plan: Plan
    ) -> None:
        self._world = world
        self._network = network
        self._nodes = nodes
        self._plan = plan
        self._is_over = False
        self._number = itertools.count()
        self._active: dict[int, tuple[str, End]] = {}
        self._damaged = world.draw.randint(1, plan.nodes)
        self._walls: dict[int, float] = {}

    def start(self) -> None:
        """Begin; the first one comes soon."""
        if self._plan.fault_kinds:
            self._world.after(self._next_seconds(), self._begin)

    def calm(self) -> None:
        """End all faults, and begin no more."""
        self._is_over = True
        for _, end in list(self._active.values()):
            end()
        self._active.clear()
        for node in self._nodes.values():
            node.message_faults.calm()
            node.disk.files.clear_failures()

    def _next_seconds(self) -> float:
        return self._world.between(0.2, 3.0) * self._plan.fault_interval_seconds

    def _begin(self) -> None:
        if self._is_over:
            return
        world = self._world
        world.after(self._next_seconds(), self._begin)
        kind = world.draw.choice(self._plan.fault_kinds)
        end = KINDS[kind](self)
        if end is None:
            return
        world.note(f"fault {kind}")
        world.tally[kind] += 1
        for other in sorted({name for name, _ in self._active.values()} | {kind}):
            if other != kind:
                world.tally[" + ".join(sorted((kind, other)))] += 1
        number = next(self._number)
        self._active[number] = (kind, end)
        world.after(world.between(0.2, 6.0), self._end, number)

    def _end(self, number: int) -> None:
        kind, end = self._active.pop(number, ("", _nothing))
        if kind:
            self._world.note(f"fault {kind} ends")
            end()

    # ---- drawing ------------------------------------------------------------------------------

    def _node(self) -> SimNode:
        return self._nodes[self._world.draw.choice(sorted(self._nodes))]

    def _up_node(self) -> SimNode | None:
        up = [node for number, node in sorted(self._nodes.items()) if node.is_up]
        return self._world.draw.choice(up) if up else None

    def _shard(self) -> SimShard | None:
        node = self._up_node()
        if node is None or not node.shards:
            return None
        return node.shards[self._world.draw.choice(sorted(node.shards))]

    # ---- messages and links -------------------------------------------------------------------

    def drop(self) -> End | None:
        faults, chance = self._node().message_faults, self._world.between(0.02, 0.8)
        faults.drop_chance += chance
        return lambda: _lower(faults, "drop_chance", chance)

    def duplicate(self) -> End | None:
        faults, chance = self._node().message_faults, self._world.between(0.05, 0.5)
        faults.double_chance += chance
        return lambda: _lower(faults, "double_chance", chance)

    def reorder(self) -> End | None:
        faults, chance = self._node().message_faults, self._world.between(0.05, 0.8)
        faults.delay_chance += chance
        return lambda: _lower(faults, "delay_chance", chance)

    def delay(self) -> End | None:
        factor = self._world.between(2.0, 30.0)
        self._network.slowness.append(factor)
        return lambda: self._network.slowness.remove(factor)

    def split_reads(self) -> End | None:
        self._network.split_chance = 0.3
        return lambda: setattr(self._network, "split_chance", 0.0)

    def reset(self) -> End | None:
        self._network.break_some(self._node().host, self._world.draw.random())
        return _nothing

    def one_way_cut(self) -> End | None:
        if len(self._nodes) < 2:
            return None
        source, target = self._world.draw.sample(sorted(self._nodes), 2)
        return self._cut([(self._nodes[source].host, self._nodes[target].host)])

    def partition(self) -> End | None:
        hosts = [node.host for _, node in sorted(self._nodes.items())]
        if len(hosts) < 2:
            return None
        self._world.draw.shuffle(hosts)
        middle = self._world.draw.randint(1, len(hosts) - 1)
        return self._cut(
            [
                way
                for one, other in itertools.product(hosts[:middle], hosts[middle:])
                for way in ((one, other), (other, one))
            ]
        )

    def _cut(self, ways: list[tuple[str, str]]) -> End:
        for way in ways:
            self._network.cut(*way)

        def heal() -> None:
            for way in ways:
                self._network.heal(*way)

        return heal

    # ---- processes and hosts ------------------------------------------------------------------

    def node_crash(self) -> End | None:
        node = self._up_node()
        if node is None:
            return None
        node.is_kept_down = True
        node.kill()
        return lambda: _start(node)

    def crash_of_a_sender(self) -> End | None:
        """End a node right after something it said is heard: whatever that rests on is durable."""
        draw = self._world.draw
        kind = draw.choice(_PROMISES)
        action = draw.choice((SimNode.kill, SimNode.lose_power))
        victims: list[SimNode] = []

        def hear(message: Message) -> None:
            sender = self._nodes[message.sender]
            if message.kind is kind and not victims and sender.is_up:
                victims.append(sender)
                sender.is_kept_down = True
                # Not within the receiver's turn.
                self._world.after(0.0, action, sender)

        for node in self._nodes.values():
            node.message_faults.on_arrival = hear

        def end() -> None:
            for node in self._nodes.values():
                if node.message_faults.on_arrival is hear:
                    node.message_faults.on_arrival = None
            for node in victims:
                _start(node)

        return end

    def power_loss(self) -> End | None:
        """Hit one node, or several in one moment: what only they held is gone then."""
        up = [node for _, node in sorted(self._nodes.items()) if node.is_up]
        if not up:
            return None
        draw = self._world.draw
        victims = draw.sample(up, draw.choice((1, len(up), draw.randint(1, len(up)))))
        for node in victims:
            node.is_kept_down = True
            node.lose_power()

        def end() -> None:
            for node in victims:
                _start(node)

        return end

    def shard_crash(self) -> End | None:
        shard = self._shard()
        if shard is None:
            return None
        self._nodes[shard.boot.config.node.id].kill_shard(shard.boot.shard)
        return _nothing

    def pause(self) -> End | None:
        shard = self._shard()
        if shard is None:
            return None
        shard.loop.pause(1e6)
        return shard.loop.resume

    def restart_with_other_limits(self) -> End | None:
        node = self._up_node()
        if node is None:
            return None
        draw = self._world.draw
        node.settings |= {
            "snapshot.log_entries": draw.choice((10, 50, 100_000)),
            "snapshot.retained": draw.choice((1, 2, 3)),
            "snapshot.chunk_bytes": draw.choice((4 << 10, 64 << 10)),
            "storage.segment_bytes": draw.choice((64 << 10, 128 << 10, 1 << 20)),
            "raft.heartbeat_ticks": draw.choice((1, 2)),
        }
        node.is_kept_down = True
        node.kill()
        return lambda: _start(node)

    def restart_with_other_shards(self) -> End | None:
        node = self._up_node()
        if node is None:
            return None
        node.shard_count = self._world.draw.randint(1, 4)
        node.is_kept_down = True
        node.kill()
        return lambda: _start(node)

    # ---- clocks -------------------------------------------------------------------------------

    def clock_drift(self) -> End | None:
        node = self._node()
        node.clock.drift(self._world.draw.uniform(0.9, 1.1))
        _replan(node)

        def end() -> None:
            node.clock.drift(1.0)
            _replan(node)

        return end

    def clock_jump(self) -> End | None:
        node = self._node()
        ahead = self._world.draw.uniform(-WALL_SECONDS_MAX, WALL_SECONDS_MAX)
        node.clock.jump(ahead - self._walls.get(node.node, 0.0))
        self._walls[node.node] = ahead
        return _nothing

    # ---- disks --------------------------------------------------------------------------------

    def slow_disk(self) -> End | None:
        disk, before = self._node().disk, self._plan.sync_seconds
        disk.sync_seconds = (5e-3, 0.5)
        return lambda: setattr(disk, "sync_seconds", before)

    def sync_failure(self) -> End | None:
        node = self._up_node()
        if node is None:
            return None
        node.disk.is_faulty = True
        method = self._world.draw.choice(("sync_data", "write_synced", "pwritev", "sync_directory"))
        node.disk.files.fail(method, self._world.draw.randint(1, 4), errno.EIO)
        return lambda: node.disk.files.clear_failures()

    def disk_full(self) -> End | None:
        node = self._up_node()
        if node is None:
            return None
        disk = node.disk
        disk.is_faulty = True
        # Nothing beyond what is used already, or a little.
        room = self._world.draw.choice((0, 4096, 64 << 10))
        used = sum(
            len(disk.files.contents(path))
            for path in disk.files.paths()
            if _is_file(disk.files, path)
        )
        disk.files.capacity_bytes = used + room
        return lambda: setattr(disk.files, "capacity_bytes", None)

    def bit_flip(self) -> End | None:
        place = self._place_at_rest()
        if place is None:
            return None
        node, path, size = place
        try:
            node.disk.files.flip_bit(
                path, self._world.draw.randrange(size), self._world.draw.randrange(8)
            )
        except ValueError:
            return None
        return _nothing

    def misdirected_read(self) -> End | None:
        place = self._place_at_rest()
        if place is None:
            return None
        node, path, size = place
        draw = self._world.draw
        offset = draw.randrange(size) & ~511
        node.disk.files.misdirect_read(path, offset, 512, draw.randrange(size) & ~511)
        return _nothing

    def _place_at_rest(self) -> tuple[SimNode, Path, int] | None:
        """Draw a file of the one node that may be damaged, whose bytes nobody writes any more."""
        node = self._nodes[self._damaged]
        if self._plan.replication < 3:
            return None
        files = node.disk.files
        segments: dict[Path, list[Path]] = {}
        others = []
        for path in files.paths():
            if not _is_file(files, path):
                continue
            if path.suffix == ".log":
                segments.setdefault(path.parent, []).append(path)
            elif "snapshots" in path.parts or "wal" in path.parts:
                others.append(path)
        sealed = [path for paths in segments.values() for path in sorted(paths)[:-1]]
        candidates = [path for path in sealed + others if len(files.contents(path))]
        if not candidates:
            return None
        node.disk.is_faulty = True
        node.is_damaged = True
        path = self._world.draw.choice(candidates)
        return node, path, len(files.contents(path))

    # ---- what operators and the cluster itself do ---------------------------------------------

    def leader_transfer(self) -> End | None:
        shard = self._shard()
        if shard is None or not shard.is_serving:
            return None
        shard.loop.enter(shard.services.hand_over_leadership)
        return _nothing

    def snapshot_storm(self) -> End | None:
        shard = self._shard()
        if shard is None or not shard.is_serving:
            return None
        snapshots = shard.services._snapshots
        for group in sorted(shard.services.engine.replicas):
            shard.loop.enter(lambda group=group: snapshots.ask(group))  # type: ignore[misc]
        return _nothing


KINDS: dict[str, Callable[[Faults], End | None]] = {
    "drop": Faults.drop,
    "duplicate": Faults.duplicate,
    "reorder": Faults.reorder,
    "delay": Faults.delay,
    "split reads": Faults.split_reads,
    "reset": Faults.reset,
    "one-way cut": Faults.one_way_cut,
    "partition": Faults.partition,
    "node crash": Faults.node_crash,
    "power loss": Faults.power_loss,
    "sender crash": Faults.crash_of_a_sender,
    "shard crash": Faults.shard_crash,
    "pause": Faults.pause,
    "clock drift": Faults.clock_drift,
    "clock jump": Faults.clock_jump,
    "slow disk": Faults.slow_disk,
    "sync failure": Faults.sync_failure,
    "disk full": Faults.disk_full,
    "bit flip": Faults.bit_flip,
    "misdirected read": Faults.misdirected_read,
    "leader transfer": Faults.leader_transfer,
    "snapshot storm": Faults.snapshot_storm,
    "other limits": Faults.restart_with_other_limits,
    "other shards": Faults.restart_with_other_shards,
}


def _nothing() -> None:
    return


def _lower(target: object, name: str, amount: float) -> None:
    setattr(target, name, max(0.0, getattr(target, name) - amount))


def _start(node: SimNode) -> None:
    node.is_kept_down = False
    node.power_up()


def _is_file(files: FakeFileSystem, path: Path) -> bool:
    status = files.status(path)
    return status is not None and status.is_file


def _replan(node: SimNode) -> None:
    for loop in node.loops:
        loop.replan()
