"""Tests of bench.snapshots: that it measures what it says, on a small scale."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import snapshots
from bench.snapshots import measure_snapshots


@pytest.mark.parametrize(("keys", "large"), [(20_000, 0), (0, 2)])
def test_taking_and_installing_are_watched(
    keys: int, large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "LARGE_VALUE_BYTES", 8 << 20)
    found = {figure.name: figure.value for figure in measure_snapshots(tmp_path, "a_", keys, large)}
    assert found.keys() == {
        "a_snapshot_mib", "a_control_ms",
        *(f"a_{step}_{figure}_ms" for step in ("take", "install")
          for figure in ("p99", "max", "held")),
    }  # fmt: skip
    assert found["a_snapshot_mib"] > (keys * snapshots.VALUE_BYTES + large * (8 << 20)) / (1 << 20)
    assert not [*tmp_path.iterdir()]
