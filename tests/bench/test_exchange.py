"""Tests of bench.exchange: that it measures what it says, on a small scale."""

from __future__ import annotations

import pytest

from bench import exchange
from bench.exchange import measure_groups


def test_many_groups_are_compared_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "ROUNDS_PER_TURN", 2)
    found = {figure.name: figure.value for figure in measure_groups(turns=1)}
    assert found.keys() == {"groups_ratio", "groups_many_us", "groups_one_us"}
    assert all(value > 0 for value in found.values())
