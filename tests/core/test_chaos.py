"""Raft's properties under seeded chaos: see harness.py for what is checked.

CHAOS_SEEDS in the environment makes the wild part longer: so many seeds instead of a few.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.core.chaos_faults import Options
from tests.core.harness import Cluster, chaos

WILD_SEEDS = int(os.environ.get("CHAOS_SEEDS", "100"))
BATCH = 20
MODES = ("callbacks", "messages", "synchronous")
SMALL = Options(message_bytes_max=64, inflight_messages_max=2, committed_bytes_per_ready_max=128)
NEWCOMERS = Options(founding="snapshot", outsiders=2)
VARIANTS = {
    "default": Options(),
    "small limits": SMALL,
    "no pre-vote": Options(pre_vote=0),
    "no check-quorum": Options(check_quorum=0),
    "neither": Options(pre_vote=0, check_quorum=0),
    "mixed pre-vote": Options(pre_vote=0.5),
    "lazy commit": Options(eager_commit=0),
    "mixed modes": NEWCOMERS._replace(modes=MODES),
    "message form": NEWCOMERS._replace(modes=("messages",)),
    "synchronous": NEWCOMERS._replace(modes=("synchronous",)),
    "bootstrap": Options(founding="bootstrap", outsiders=1, durable_machine=0.5),
    "witness": Options(founding="snapshot", has_witness=True, outsiders=1),
    "quiesce": NEWCOMERS._replace(quiesce=1),
    "some quiesce": Options(quiesce=0.5),
    "priorities": Options(has_priorities=True),
    "leases": NEWCOMERS._replace(has_leases=True, durable_machine=0.5),
    "leases with drift": Options(has_leases=True, has_drift=True),
    "leases with sleep": Options(has_leases=True, quiesce=1),
}


@pytest.mark.parametrize("seed_base", range(0, WILD_SEEDS, BATCH))
def test_clusters_of_any_kind_stay_safe_and_recover(seed_base: int) -> None:
    for seed in range(seed_base, min(seed_base + BATCH, WILD_SEEDS)):
        chaos(seed)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_stays_safe_and_recovers(name: str) -> None:
    for seed in range(1000, 1004):
        chaos(seed, VARIANTS[name], count=3, steps=200)


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_every_size_stays_safe_and_recovers(count: int) -> None:
    for seed in range(2000, 2004):
        chaos(seed, Options(), count=count, steps=200)


# A seed does not shrink.
@settings(max_examples=20, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
@given(
    seed=st.integers(0, 1 << 32),
    options=st.builds(
        Options()._replace,
        pre_vote=st.sampled_from([0.0, 1.0]),
        check_quorum=st.sampled_from([0.0, 1.0]),
        eager_commit=st.sampled_from([0.0, 0.5, 1.0]),
        modes=st.sampled_from([(mode,) for mode in MODES]),
        message_bytes_max=st.sampled_from([1, 40, 1 << 20]),
        inflight_messages_max=st.sampled_from([1, 3, 256]),
        committed_bytes_per_ready_max=st.sampled_from([1, 100, 1 << 20]),
    ),
    count=st.sampled_from([3, 5]),
)
def test_any_seed_and_limits_stay_safe_and_recover(seed: int, options: Options, count: int) -> None:
    chaos(seed, options, count=count, steps=100)


def test_a_seed_replays_exactly() -> None:
    first, second = chaos(4711), chaos(4711)
    assert first.committed == second.committed
    assert first.leaders == second.leaders
    assert first.posted == second.posted


def test_chaos_is_not_idle() -> None:
    clusters = [chaos(seed, steps=200) for seed in range(5000, 5020)]

    def total(name: str) -> int:
        return sum(getattr(cluster, name) for cluster in clusters)

    assert sum(len(cluster.committed) for cluster in clusters) > 500
    assert sum(len(cluster.leaders) for cluster in clusters) > 40
    assert total("reads_served") > 400
    assert total("snapshots_installed") > 10
    assert total("changes_applied") > 50


def test_without_faults_a_cluster_elects_writes_and_reads_at_once() -> None:
    cluster = Cluster(3, 1)
    leader = cluster.elect()
    cluster.propose()
    cluster.read()
    cluster.run(4)
    assert [node.machine for node in cluster.nodes.values()] == [leader.machine] * 3
    assert leader.machine.applied >= 2
    assert cluster.reads_served == 1
