"""Commands through real routers and group services while nodes and links fail, by seed.

A few seeds with thousands of faults each; whole clusters are simulated by `tests/sim`, and by the
thousand.
"""

from __future__ import annotations

from collections import Counter

import pytest

from rafterd import group_service, requests
from rafterd.requests import Status
from tests.daemon.routing_simulation import (
    KEYS,
    REQUEST_TIMEOUT_STEPS,
    Cluster,
    check_history,
)

FAULT_STEPS = 250
SEEDS = 8
FAILED_ONCE = {
    120: "an answer to the process before a restart was taken for one to a new request",
    2073: "a read was answered by a repetition after a later one had been answered",
}
SHARDS = {1: 2, 2: 1, 3: 2, 4: 1}
MEMBERS: dict[int, tuple[int, ...]] = {1: (1, 2, 3), 2: (2, 3, 4), 3: (1, 3, 4)}


def run(seed: int) -> Cluster:
    """Run one seed: a quiet start, trouble, and an end in peace."""
    cluster = Cluster(seed, SHARDS, MEMBERS)
    generator = cluster.generator
    for _ in range(40):
        cluster.step()
    load = generator.choice((0.2, 0.5, 0.9))
    trouble = generator.choice((0.02, 0.05, 0.1))
    for _ in range(FAULT_STEPS):
        cluster.restart_due()
        if generator.random() < trouble:
            cluster.trouble()
        while cluster.clients and generator.random() < load:
            cluster.submit_something()
        cluster.step()
        if generator.random() < 0.02:
            cluster.check_replicas()
    cluster.heal()
    for _ in range(2 * REQUEST_TIMEOUT_STEPS):
        cluster.step()
    return cluster


def check_end(cluster: Cluster) -> None:
    """Check that all is well again, and that the past was in order."""
    last = len(cluster.operations)
    for client in cluster.clients:
        for group in cluster.members:
            client.submit(group, [True, False])
    for _ in range(REQUEST_TIMEOUT_STEPS):
        cluster.step()
    for operation in cluster.operations[last:]:
        assert operation.point is not None, f"not served although all is well: {operation}"
    for _ in range(REQUEST_TIMEOUT_STEPS):
        cluster.step()  # repetitions of what has been answered meanwhile
    cluster.check_idle()
    cluster.check_replicas()
    for group in cluster.members:
        values = cluster.values(group)
        for key in KEYS:
            history = [o for o in cluster.operations if (o.group, o.key) == (group, key)]
            check_history(history, values[key])


def run_seeds(first: int) -> None:
    statuses: Counter[Status] = Counter()
    for seed in range(first, first + SEEDS):
        try:
            cluster = run(seed)
            check_end(cluster)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        statuses += cluster.statuses
    common = {Status.DONE, Status.DUPLICATE, Status.NOT_LEADER, Status.LOST}
    assert common <= set(statuses), "nothing went wrong: the test is worth nothing"


def test_commands_are_executed_once_in_order_and_linearizably() -> None:
    run_seeds(0)


@pytest.mark.parametrize("seed", FAILED_ONCE)
def test_what_failed_once_does_not_fail_again(seed: int) -> None:
    check_end(run(seed))


def test_nothing_changes_with_small_entries_and_replies_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requests, "RESULTS_BYTES_PER_ITEM", 100)
    monkeypatch.setattr(group_service, "ENTRY_BYTES_MAX", 100)
    run_seeds(10_000)
