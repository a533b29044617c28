"""A hundred simulated clusters, the other half of them."""

import pytest

from tests.sim.campaign import run_seed


@pytest.mark.parametrize("seed", range(2, 101, 2))
def test_no_simulated_cluster_breaks_a_promise(seed: int) -> None:
    run = run_seed(seed)
    assert not run.violation, f"{run.plan}\n{run.violation}\npython -m tests.sim --seed {seed}"
