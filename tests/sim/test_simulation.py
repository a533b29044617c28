"""A whole run reports what its checks find, those at its end too."""

from __future__ import annotations

import dataclasses

import pytest

from tests.linear.history import History, Operation, Outcome
from tests.sim import clients, workload
from tests.sim.plans import Plan
from tests.sim.simulation import Cluster, Simulation

FAILED_ONCE = {
    2239: "the search had no verdict on a key with forty operations of unknown outcome",
}
FAILED_WITH_LESS_AT_ONCE = {
    77: "a shard that had just failed again, and rested before its next start, was taken for lost",
    1803: "a host that was back was not reached by who had begun to dial it before",
}


def as_then(plan: Plan) -> Plan:
    """Return the plan that a seed had when clients asked for less at once."""
    depths = {16: 8, 128: 32, 256: 64}
    return dataclasses.replace(plan, depth=depths[plan.depth], operations=plan.operations // 3)


def small(plan: Plan) -> Plan:
    return dataclasses.replace(plan, nodes=1, replication=1, operations=50, fault_kinds=())


def stale(cluster: Cluster) -> History:
    """Return a history in which a write is not seen after it was acknowledged."""
    key = "registert0.0.0"
    return History(
        [
            Operation(1, key, "write", (b"a",), None, 1, 2, Outcome.OK),
            Operation(1, key, "write", (b"b",), None, 3, 4, Outcome.OK),
            Operation(2, key, "read", (), b"a", 5, 6, Outcome.OK),
        ]
    )


def test_a_run_without_faults_violates_nothing() -> None:
    assert not Simulation(1, change=small).run().violation


def test_a_history_that_no_order_explains_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was found and not told: nothing happens behind the last check of a run."""
    monkeypatch.setattr(Cluster, "_history", stale)
    assert "not linearizable" in Simulation(1, change=small).run().violation


@pytest.mark.parametrize("seed", FAILED_ONCE)
def test_what_failed_once_does_not_fail_again(seed: int) -> None:
    assert Simulation(seed).run().violation == ""


@pytest.mark.parametrize("seed", FAILED_WITH_LESS_AT_ONCE)
def test_what_failed_with_less_at_once_does_not_fail_again(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workload, "KEY_CONCURRENCY", 2)
    monkeypatch.setattr(clients, "READER_DEPTH", 64)
    assert Simulation(seed, change=as_then).run().violation == ""
