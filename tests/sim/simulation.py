"""One run: a cluster, its clients and its faults, from a seed to a result."""

from __future__ import annotations

import functools
import traceback
from collections import Counter as Tally
from collections.abc import Callable
from typing import Any, NamedTuple

from rafterd.placement import group_members
from rafterd.replica import Replica
from tests.linear.cheap import check_all
from tests.linear.checker import check
from tests.linear.history import History
from tests.linear.models import AppendList, Batch, Counter, Model, Register
from tests.sim.checks import Checks
from tests.sim.clients import SimClient
from tests.sim.clocks import Clock
from tests.sim.determinism import determined_by
from tests.sim.faults import KINDS, Faults
from tests.sim.loops import SimLoop
from tests.sim.network import Network
from tests.sim.nodes import SimNode
from tests.sim.plans import LEAD_SECONDS, Plan, make_plan
from tests.sim.workload import Workload
from tests.sim.world import Violation, World

CLIENT_HOST = "127.0.2.1"
LEADER_TIMEOUTS = 10
COMMIT_TIMEOUTS = 15
SETTLE_SECONDS = 3.0
"""How long processes and links may take to be up again: each may just have failed to, and rests for
a second before its next attempt."""
DRAIN_SECONDS = 30.0
READ_BACK_DEPTH = 16
MODELS: dict[str, Model] = {
    "register": Register(),
    "counter": Counter(),
    "list": AppendList(),
    "batch": Batch(),
    "probe": Register(),
}


class Result(NamedTuple):
    """What came of one run."""

    seed: int
    plan: Plan
    violation: str
    digest: str
    operations: int
    tally: Tally[str]
    history: History
    seconds: float


class Simulation:
    """One run of a seed; `show` is called with each line of the trace.

    `kinds` are the faults that may be drawn, and `change` gets the plan that was drawn and returns
    the one to be used.
    """

    def __init__(
        self,
        seed: int,
        show: Callable[[str], None] | None = None,
        kinds: tuple[str, ...] = tuple(KINDS),
        change: Callable[[Plan], Plan] = lambda plan: plan,
    ) -> None:
        self.world = World(seed, show)
        self._kinds = kinds
        self._change = change

    def run(self) -> Result:
        """Run to the end or to the first violation. Called once."""
        with determined_by(self.world):
            # All of it is gone when the world's reign ends, tasks of processes that live included.
            plan = self._change(make_plan(self.world.draw, self._kinds))
            return Cluster(self.world, plan).run()


class Cluster:
    """The cluster of one run, with its clients and its faults. `run` does all of it."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.world.note(str(self.plan))
        self.network = Network(self.world, self.plan.delay_seconds)
        self.checks = Checks(self.world)
        self.nodes = {
            node: SimNode(self.world, self.network, self.checks, self.plan, node)
            for node in range(1, self.plan.nodes + 1)
        }
        self.faults = Faults(self.world, self.network, self.nodes, self.plan)
        self.workload = Workload(
            self.world.draw, self.plan.groups, self.plan.clients * self.plan.depth
        )
        self.clients: list[SimClient] = []
        self._members = {
            group: group_members(group, self.nodes, self.plan.replication)
            for group in range(1, self.plan.groups + 1)
        }

    def run(self) -> Result:
        """Run to the end or to the first violation."""
        violation = ""
        try:
            self._run()
            # The last checks have no event behind them that would raise it.
            self.world.raise_violation()
        except Violation as error:
            violation = str(error)
        except Exception:  # noqa: BLE001 - of the code under test, in one of its callbacks
            violation = traceback.format_exc()
        history = self._history()
        return Result(
            self.world.seed, self.plan, violation, self.world.trace.digest,
            len(history.operations), self.world.tally, history, self.world.now,
        )  # fmt: skip

    def _run(self) -> None:
        world, plan = self.world, self.plan
        for node in self.nodes.values():
            world.after(world.draw.uniform(0.0, 0.5), node.start)
        self.clients = [self._make_client(number) for number in range(plan.clients)]
        world.run_until(LEAD_SECONDS * world.draw.random())
        self.faults.start()
        world.run_until(world.now + plan.fault_seconds)
        world.note("calm")
        self.faults.calm()
        self._come_back()
        self._finish_clients()
        self._read_back()
        self._compare_replicas()
        self._check_history()

    def _make_client(self, number: int) -> SimClient:
        loop = SimLoop(  # type: ignore[abstract]  # the rest is not used
            self.world, self.network, CLIENT_HOST, Clock(self.world),
            functools.partial(self._client_failed, number),
        )  # fmt: skip
        return SimClient(self.world, loop, self.plan, number, self.workload)

    def _client_failed(self, number: int, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException):
            self.world.violated_by(f"client {number} failed", error)

    def _history(self) -> History:
        meta = {"seed": str(self.world.seed), "plan": str(self.plan)}
        operations = [
            operation for client in self.clients for operation in client.history.operations
        ]
        operations.sort(key=lambda operation: operation.invoked)
        return History(operations, meta)

    # ---- after the faults ---------------------------------------------------------------------

    def _come_back(self) -> None:
        """See that each group with a live quorum has a leader, and commits, in time."""
        world = self.world
        timeout = self.plan.election_timeout_seconds
        world.wait(
            SETTLE_SECONDS + LEADER_TIMEOUTS * timeout, lambda: not self._groups_without_leader()
        )
        for group in self._groups_without_leader():
            world.violated(f"group {group} has no leader, long after the last fault")
        prober = self._make_client(len(self.clients))
        prober.left = 0
        world.wait(
            SETTLE_SECONDS + (COMMIT_TIMEOUTS - LEADER_TIMEOUTS) * timeout,
            lambda: self._has_committed(prober),
        )
        if not self._has_committed(prober):
            world.violated("a group has a leader and commits nothing, long after the last fault")

    def live_replicas(self, group: int) -> dict[int, Replica]:
        """Return the replicas of a group that are there, by their nodes."""
        found = {}
        for number, node in self.nodes.items():
            for shard in node.shards.values():
                replica = shard.services.engine.replicas.get(group)
                if replica is not None and shard.is_serving:
                    found[number] = replica
        return found

    def _live_groups(self) -> list[int]:
        """Return the groups of which a majority of replicas is sound."""
        majority = self.plan.replication // 2 + 1
        # Only where bits have rotted may a replica be missing.
        rotten = {number for number, node in self.nodes.items() if node.is_damaged}
        return [
            group
            for group, members in self._members.items()
            if len(set(members) - rotten) >= majority
        ]

    def _groups_without_leader(self) -> list[int]:
        """Return the live groups whose members do not follow one leader."""
        return [group for group in self._live_groups() if not self._has_leader(group)]

    def _has_leader(self, group: int) -> bool:
        return any(replica.is_leader for replica in self.live_replicas(group).values())

    def _has_committed(self, prober: SimClient) -> bool:
        """Whether every live group has answered a probe."""
        if not prober.is_idle:
            return False
        done = prober.succeeded
        live = {self.workload.probe_key(group) for group in self._live_groups()}
        left = live - done
        if left:
            prober.ask([probe for probe in self.workload.probes() if probe.key in left])
        return not left

    # ---- the end ------------------------------------------------------------------------------

    def _finish_clients(self) -> None:
        """Let the clients have their last answers."""
        for client in self.clients:
            client.is_over = True
        self.world.wait(DRAIN_SECONDS, lambda: all(client.is_idle for client in self.clients))
        for client in self.clients:
            if not client.is_idle:
                self.world.violated("a command was never answered, and its connection never closed")

    def _read_back(self) -> None:
        """Read every key again: what was acknowledged must be there."""
        live = set(self._live_groups())
        intents = [
            intent for intent in self.workload.readback() if self.workload.group_of(intent) in live
        ]
        reader = self._make_client(len(self.clients))
        reader.left = 0
        self.clients.append(reader)

        def is_done() -> bool:
            if not reader.is_idle:
                return False
            left = [intent for intent in intents if intent.key not in reader.succeeded]
            reader.ask(left[:READ_BACK_DEPTH])
            return not left

        self.world.wait(DRAIN_SECONDS, is_done)
        for intent in intents:
            if intent.key not in reader.succeeded:
                self.world.violated(f"{intent} was never answered")

    def _compare_replicas(self) -> None:
        """Wait until all replicas of a group have applied the same, and compare their states."""
        self.world.wait(DRAIN_SECONDS, self._are_level)
        for group in self._live_groups():
            replicas = self.live_replicas(group)
            for node in self._missing(group, replicas):
                self.world.violated(f"group {group}: node {node} does not serve its replica")
            for node, replica in replicas.items():
                machine: Any = replica.machine
                self.checks.same_state(node, group, replica.node.applied, machine.hash())
            if len({replica.node.applied for replica in replicas.values()}) > 1:
                self.world.violated(f"group {group}: a replica does not catch up")
            self._compare_logs(group, replicas)

    def _missing(self, group: int, replicas: dict[int, Replica]) -> list[int]:
        """Return the nodes that ought to be among those with live replicas of a group."""
        return [
            node
            for node in self._members[group]
            if node not in replicas and not self.nodes[node].is_damaged
        ]

    def _are_level(self) -> bool:
        for group in self._live_groups():
            replicas = self.live_replicas(group)
            if self._missing(group, replicas):
                return False
            if len({replica.node.applied for replica in replicas.values()}) > 1:
                return False
            if any(
                replica.node.applied != replica.node.last_index for replica in replicas.values()
            ):
                return False
        return True

    def _compare_logs(self, group: int, replicas: dict[int, Replica]) -> None:
        """Compare the committed entries that several logs still hold."""
        terms: dict[int, int] = {}
        for node, replica in replicas.items():
            log = replica.node._raft.log
            for index in range(log.first_index, replica.node.applied + 1):
                term = log.term(index)
                if terms.setdefault(index, term) != term:
                    self.world.violated(
                        f"group {group}: the log of node {node} differs at index {index}"
                    )

    def _check_history(self) -> None:
        history = self._history()
        for found in check_all(history):
            self.world.violated(f"the history is impossible: {found}")
        report = check(history, _model_of)
        if not report.is_linearizable:
            self.world.violated(f"the history is not linearizable\n{report}")


def _model_of(key: str) -> Model:
    return next(model for kind, model in MODELS.items() if key.startswith(kind))
