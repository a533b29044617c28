"""Many runs and what they amount to."""

from __future__ import annotations

from collections import Counter as Tally

import pytest
from click.testing import CliRunner

from tests.sim import __main__ as program
from tests.sim.campaign import PAIRS, Run, Summary, run_seeds
from tests.sim.faults import KINDS


def fake_run(seed: int) -> Run:
    violation = "two leaders\nof a term" if seed == 3 else ""
    return Run(seed, "a plan", violation, "abc", 100, Tally({"drop": 2, "drop + pause": 1}), 0.5)


@pytest.mark.parametrize("processes", [1, 2])
def test_runs_come_in_the_order_of_their_seeds(processes: int) -> None:
    assert [run.seed for run in run_seeds(range(1, 9), processes, fake_run)] == [*range(1, 9)]


def test_a_summary_counts_and_names_what_never_happened() -> None:
    summary = Summary()
    for seed in range(1, 5):
        summary.add(fake_run(seed))
    assert (summary.runs, summary.operations, summary.faults) == (4, 400, 8)
    assert len(summary.missing_pairs) == len(PAIRS) - 1
    assert [*summary.lines()][-1] == "4 seeds, 1 violations"
    assert "400 operations in 2 s of CPU, 200 a second" in [*summary.lines()]


def test_there_are_fifteen_kinds_of_faults_at_least() -> None:
    assert len(KINDS) >= 15
    assert len(PAIRS) == len(KINDS) * (len(KINDS) - 1) // 2


def test_a_violation_is_printed_with_the_command_that_replays_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        program, "run_seeds", lambda seeds, processes, run: run_seeds(seeds, 1, fake_run)
    )
    result = CliRunner().invoke(program.main, ["--seeds", "4", "--processes", "1"])
    assert result.exit_code == 1
    assert "again: python -m tests.sim --seed 3 --trace" in result.output
    assert result.output.splitlines()[-1] == "4 seeds, 1 violations"
    result = CliRunner().invoke(program.main, ["--seeds", "2"])
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "2 seeds, 0 violations")


def test_one_seed_can_be_traced() -> None:
    result = CliRunner().invoke(program.main, ["--seed", "14", "--quick", "--trace"])
    lines = result.output.splitlines()
    assert result.exit_code == 0
    assert lines[-1] == "1 seeds, 0 violations"
    assert any("APPEND" in line for line in lines)
