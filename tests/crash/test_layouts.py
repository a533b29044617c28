"""Tests of tests.crash.layouts, which are those of the change itself, too."""

from __future__ import annotations

import pytest

from tests.crash.layouts import LayoutChanges, main


def test_no_crash_of_a_change_of_shards_loses_anything() -> None:
    changes = LayoutChanges(states_max=300)
    changes.run(100)
    assert changes.failures == []
    assert changes.states == 300


@pytest.mark.parametrize("method", ["sync_data", "sync_directory"])
def test_a_change_that_does_not_sync_is_caught(method: str) -> None:
    changes = LayoutChanges(states_max=2000, omitted=frozenset([method]), failures_max=1)
    changes.run(0)
    assert changes.failures


def test_a_failure_is_replayed_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    changes = LayoutChanges(states_max=2000, omitted=frozenset(["sync_data"]), failures_max=1)
    changes.run(0)
    failure = changes.failures[0]
    assert f"--seed {failure.seed} --operation {failure.operation} --mode" in str(failure)
    again = LayoutChanges(states_max=10, omitted=frozenset(["sync_data"]))
    again.run_change(failure.seed, (failure.operation, failure.mode))
    assert again.failures == [failure]
    arguments = ["--seed", str(failure.seed), "--operation", str(failure.operation)]
    assert main([*arguments, "--mode", failure.mode]) == 0
    assert capsys.readouterr().out == ""
