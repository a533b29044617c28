"""A hundred simulated clusters, one half of them; the other half is in test_seeds_even.py."""

import pytest

from tests.sim.campaign import run_seed
from tests.sim.plans import quick


@pytest.mark.parametrize("seed", range(1, 101, 2))
def test_no_simulated_cluster_breaks_a_promise(seed: int) -> None:
    run = run_seed(seed, quick)
    assert not run.violation, (
        f"{run.plan}\n{run.violation}\npython -m tests.sim --quick --seed {seed}"
    )
