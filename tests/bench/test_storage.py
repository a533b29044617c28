"""Tests of bench.storage: that it measures what it says, on a small scale."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import storage
from bench.figures import Figure
from bench.storage import measure_churn, measure_commits, measure_start


def by_name(figures: list[Figure]) -> dict[str, float]:
    return {figure.name: figure.value for figure in figures}


def test_commits_are_compared_with_a_bare_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "TURNS", 2)
    monkeypatch.setattr(storage, "COMMITS_PER_TURN", 5)
    monkeypatch.setattr(storage, "SEGMENT_BYTES", 4 << 20)
    found = by_name(measure_commits(tmp_path / "commits"))
    assert found["commit_ratio"] > 0
    assert found["append_us"] > 0
    assert found["bare_us"] > 0


def test_a_start_finds_everything_that_was_written(tmp_path: Path) -> None:
    found = by_name(measure_start(tmp_path / "start", 66 << 20))
    assert found["start_ratio"] == pytest.approx(found["start_scan_s"] / found["start_dumps_s"])


def test_churn_stays_within_the_bound_of_disk_usage(tmp_path: Path) -> None:
    found = by_name(measure_churn(tmp_path / "churn", 3000))
    assert found["churn_excess"] <= 3
    assert found["churn_copied"] > 0
