"""Plans: the same from the same seed, with everything in them, and nothing twice at a time."""

import pytest

from tests.nemesis.plan import (
    CALM_SECONDS,
    FAULTS,
    NETWORK_FAULTS,
    NODE_FAULTS,
    SECONDS_OF_FAULT,
    plan_round,
)

PLANS = [plan_round(seed, number) for seed in range(8) for number in range(24)]


def test_the_same_seed_and_number_make_the_same_plan() -> None:
    assert plan_round(3, 5) == plan_round(3, 5)
    assert len({plan_round(3, number).events for number in range(20)}) == 20
    assert len({plan_round(seed, 2).events for seed in range(20)}) == 20


def test_every_fault_is_met_alone_and_in_a_mix_within_so_many_rounds() -> None:
    plans = [plan_round(1, number) for number in range(2 * len(FAULTS))]
    alone = [plan.faults for plan in plans if len(plan.faults) == 1]
    assert {name for (name,) in alone} == set(FAULTS)
    assert {name for plan in plans if len(plan.faults) > 1 for name in plan.faults} == set(FAULTS)


def test_all_shapes_are_drawn_and_can_be_asked_for() -> None:
    shapes = {plan.shape for plan in PLANS}
    assert {(3, 1, 3), (3, 2, 3), (5, 1, 3), (5, 1, 5)} == {
        (shape.nodes, shape.shards, shape.replication) for shape in shapes
    }
    assert min(shape.groups for shape in shapes) > 1
    assert {plan_round(1, number, nodes=5).shape.nodes for number in range(9)} == {5}


def test_events_lie_between_the_calm_times_and_have_nodes_that_exist() -> None:
    for plan in PLANS:
        assert plan.events, plan
        for event in plan.events:
            assert event.fault in plan.faults
            assert event.at_seconds >= CALM_SECONDS
            assert event.at_seconds + event.seconds <= plan.seconds - CALM_SECONDS + 0.1
            least, most = SECONDS_OF_FAULT[event.fault]
            assert least <= event.seconds <= most
            assert set(event.nodes) <= set(range(1, plan.shape.nodes + 1))
            assert len(event.nodes) == len(set(event.nodes)) > 0


def test_no_node_suffers_two_faults_of_its_processes_at_a_time() -> None:
    for sort in (NODE_FAULTS, NETWORK_FAULTS, ("disk",)):
        for plan in PLANS:
            free_at: dict[int, float] = {}
            for event in plan.events:
                if event.fault in sort:
                    for node in event.nodes:
                        assert free_at.get(node, 0.0) <= event.at_seconds, plan
                        free_at[node] = event.at_seconds + event.seconds


def test_a_mix_has_faults_that_overlap() -> None:
    overlapping = 0
    for plan in PLANS:
        ends = [event.at_seconds + event.seconds for event in plan.events]
        starts = [event.at_seconds for event in plan.events]
        overlapping += any(end > start for end, start in zip(ends, starts[1:], strict=False))
    assert overlapping > len(PLANS) // 4


def test_a_partition_leaves_somebody_on_the_other_side() -> None:
    for plan in PLANS:
        for event in plan.events:
            if event.fault == "partition":
                assert len(event.nodes) < plan.shape.nodes
            if event.fault == "one-way":
                assert len(event.nodes) > 1


def test_only_a_round_with_full_disks_has_a_small_one() -> None:
    for plan in PLANS:
        assert bool(plan.small_disk) is ("disk" in plan.faults)


def test_a_plan_is_printed_with_all_that_repeats_it() -> None:
    plan = plan_round(7, 3)
    text = str(plan)
    assert "seed 7, round 3" in text
    assert str(plan.shape) in text
    assert text.count("\n") == len(plan.events)


@pytest.mark.parametrize("faults", [(), ("flood",)])
def test_faults_that_do_not_exist_are_refused(faults: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="no such faults"):
        plan_round(1, 1, faults=faults)
