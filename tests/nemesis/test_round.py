"""A short round on real nodes, from the first start to the last check."""

from pathlib import Path

import pytest

from tests.linear.history import History, Outcome
from tests.nemesis import replicas
from tests.nemesis.main import keep
from tests.nemesis.plan import Event, Plan, Shape
from tests.nemesis.round import Round, run_round

PLAN = Plan(
    seed=1,
    number=0,
    seconds=7.0,
    shape=Shape(3, 1, 2, 3),
    faults=("kill", "partition"),
    events=(Event(1.0, 0.8, "kill", (1,), 0), Event(3.5, 2.0, "partition", (2,), 0)),
    small_disk=0,
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Round, Path]:
    directory = tmp_path_factory.mktemp("round")
    return run_round(PLAN, directory), directory


@pytest.mark.long
def test_a_kill_and_a_partition_violate_nothing(done: tuple[Round, Path]) -> None:
    result, _ = done
    assert [str(check) for check in result.checks if not check.is_passed] == []
    names = {check.name for check in result.checks}
    assert names >= {"liveness", "read back", "replicas", "states", "linearizability"}
    assert (result.lost, result.violations, result.undecided) == (0, 0, 0)


@pytest.mark.long
def test_clients_worked_and_the_faults_were_done(done: tuple[Round, Path]) -> None:
    result, _ = done
    assert result.outcomes[Outcome.OK] > 100
    assert [record.fault for record in result.faults] == ["kill", "partition"]
    assert {led.group for led in result.leaders} == {1, 2}
    kinds = {operation.kind for operation in result.history.operations}
    assert kinds >= {"read", "write", "add", "append", "write_many", "get_and_set"}


@pytest.mark.long
def test_what_is_kept_can_be_checked_again(done: tuple[Round, Path], tmp_path: Path) -> None:
    result, _ = done
    keep(result, tmp_path)
    loaded = History.load(tmp_path / "history.jsonl")
    assert loaded.operations == result.history.operations
    assert "seed 1, round 0" in loaded.meta["plan"]


@pytest.mark.long
def test_the_states_that_are_compared_are_those_of_the_disks(done: tuple[Round, Path]) -> None:
    result, directory = done
    directories = {node: directory / f"n{node}" for node in (1, 2)}
    last = result.applied[1][1]
    hashes = set()
    for index in (last - 2, last - 1, last):
        copies, found = replicas.compare(directories, {1: {1: index, 2: index}})
        assert found == []
        assert len({copy.hash for copy in copies}) == 1
        hashes.add(copies[0].hash)
    assert len(hashes) == 3


@pytest.mark.long
def test_a_replica_that_lacks_entries_is_found(done: tuple[Round, Path]) -> None:
    _, directory = done
    _, found = replicas.compare({1: directory / "n1"}, {1: {1: 1_000_000}})
    assert [violation.check for violation in found] == ["missing replica"]
