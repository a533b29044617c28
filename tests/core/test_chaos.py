"""Raft's properties under seeded chaos: see harness.py for what is checked."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.harness import Options, chaos

SMALL = Options(message_bytes_max=64, inflight_messages_max=2, committed_bytes_per_ready_max=128)
VARIANTS = {
    "default": Options(),
    "small limits": SMALL,
    "no pre-vote": Options(pre_vote=False),
    "no check-quorum": Options(check_quorum=False),
    "neither": Options(pre_vote=False, check_quorum=False),
    "lazy commit": Options(eager_commit=False),
}


@pytest.mark.parametrize("seed_base", range(0, 200, 20))
def test_three_nodes_stay_safe_and_recover(seed_base: int) -> None:
    for seed in range(seed_base, seed_base + 20):
        chaos(seed)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_stays_safe_and_recovers(name: str) -> None:
    for seed in range(1000, 1012):
        chaos(seed, VARIANTS[name])


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_every_size_stays_safe_and_recovers(count: int) -> None:
    for seed in range(2000, 2006):
        chaos(seed, count=count, steps=200)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    options=st.builds(
        Options,
        pre_vote=st.booleans(),
        check_quorum=st.booleans(),
        eager_commit=st.booleans(),
        message_bytes_max=st.sampled_from([1, 40, 1 << 20]),
        inflight_messages_max=st.sampled_from([1, 3, 256]),
        committed_bytes_per_ready_max=st.sampled_from([1, 100, 1 << 20]),
    ),
    count=st.sampled_from([3, 5]),
)
def test_any_seed_and_limits_stay_safe_and_recover(seed: int, options: Options, count: int) -> None:
    chaos(seed, options, count=count, steps=120)


def test_a_seed_replays_exactly() -> None:
    first, second = chaos(4711), chaos(4711)
    assert first.committed == second.committed
    assert first.leaders == second.leaders
    assert first.posted == second.posted


def test_chaos_is_not_idle() -> None:
    clusters = [chaos(seed) for seed in range(30)]
    assert sum(len(cluster.committed) for cluster in clusters) > 1000
    assert sum(len(cluster.leaders) for cluster in clusters) > 45
    assert sum(cluster.reads_served for cluster in clusters) > 300
