"""The negative controls: every planted anomaly is found, and no sound history is refused."""

from __future__ import annotations

from random import Random

import pytest

from tests.linear.checker import check
from tests.linear.history import Outcome
from tests.linear.planting import MODELS, PLANTERS, plant, sound_history

ANOMALIES_OF_A_KIND = 50
SOUND_HISTORIES_OF_A_SORT = 120


def test_there_are_enough_controls() -> None:
    assert ANOMALIES_OF_A_KIND * len(PLANTERS) >= 500
    assert SOUND_HISTORIES_OF_A_SORT * len(MODELS) >= 500


@pytest.mark.parametrize("name", PLANTERS)
def test_every_planted_anomaly_is_a_violation(name: str) -> None:
    random = Random(name)
    for _ in range(ANOMALIES_OF_A_KIND):
        report = check(plant(name, random), MODELS.__getitem__)
        assert [violation.key for violation in report.violations] == [PLANTERS[name][0]]


@pytest.mark.parametrize("sort", MODELS)
def test_no_sound_history_is_refused(sort: str) -> None:
    random = Random(sort)
    outcomes = set()
    for _ in range(SOUND_HISTORIES_OF_A_SORT):
        history = sound_history(
            sort,
            random,
            operations=random.randrange(120),
            clients=random.randrange(1, 9),
            unknown_share=random.choice((0, 0.05, 0.2)),
        )
        outcomes |= {operation.outcome for operation in history.operations}
        report = check(history, MODELS.__getitem__)
        assert report.is_linearizable, str(report)
    assert outcomes == {Outcome.OK, Outcome.UNKNOWN}


@pytest.mark.parametrize("sort", MODELS)
def test_the_largest_histories_recommended_are_decided(sort: str) -> None:
    for seed in range(5):
        history = sound_history(sort, Random(seed), operations=500, clients=8, unknown_share=0.1)
        report = check(history, MODELS.__getitem__, steps_per_key=50_000)
        assert report.is_linearizable, str(report)


def test_a_seed_gives_one_history() -> None:
    for sort in MODELS:
        first, second = (sound_history(sort, Random(7)) for _ in range(2))
        assert first.operations == second.operations
