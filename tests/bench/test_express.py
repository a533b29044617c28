"""Tests of bench.express: that it measures what it says, on a small scale."""

from __future__ import annotations

from pathlib import Path

from bench.express import measure_express, measure_pauses


def test_a_transfer_is_compared_with_a_bare_copy(tmp_path: Path) -> None:
    found = {figure.name: figure.value for figure in measure_express(tmp_path, mib=4, turns=1)}
    assert found.keys() == {"express_ratio", "express_rate", "express_bare_rate"}
    assert all(value > 0 for value in found.values())
    assert not [*tmp_path.iterdir()]


def test_the_pauses_of_both_ends_are_seen(tmp_path: Path) -> None:
    found = {figure.name: figure.value for figure in measure_pauses(tmp_path, mib=64)}
    assert found.keys() == {
        *(f"express_{end}_{figure}_ms" for end in ("sender", "receiver")
          for figure in ("p99", "max", "held")),
        "express_control_ms",
    }  # fmt: skip
    assert not [*tmp_path.iterdir()]
