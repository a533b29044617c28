"""A hundred simulated clusters, the other half of them."""

import pytest

from tests.sim.campaign import run_seed
from tests.sim.plans import quick


@pytest.mark.parametrize("seed", range(2, 101, 2))
def test_no_simulated_cluster_breaks_a_promise(seed: int) -> None:
    run = run_seed(seed, quick)
    assert not run.violation, (
        f"{run.plan}\n{run.violation}\npython -m tests.sim --quick --seed {seed}"
    )
