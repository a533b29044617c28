"""The faults: each of them begins and ends, and leaves a cluster that comes back."""

from __future__ import annotations

import dataclasses

import pytest

from tests.sim.faults import KINDS
from tests.sim.plans import Plan
from tests.sim.simulation import Simulation


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_cluster_survives_a_fault_of_one_kind_alone(kind: str) -> None:
    def small(plan: Plan) -> Plan:
        return dataclasses.replace(
            plan,
            nodes=3, replication=3, groups=2, shards=2, operations=200,
            fault_kinds=(kind,), fault_seconds=2.0, fault_interval_seconds=0.2,
            settings=plan.settings | {"snapshot.log_entries": 10, "storage.segment_bytes": 1 << 16},
        )  # fmt: skip

    result = Simulation(900, change=small).run()
    assert not result.violation, result.violation
    assert result.tally[kind]
