"""A few thousand inputs for each target; `make fuzz` feeds 200,000."""

import pytest

from tests.fuzz.engine import Target, run
from tests.fuzz.targets import TARGETS

INPUTS = 2_000


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_few_thousand_inputs_break_nothing(target: Target) -> None:
    written: list[str] = []
    assert run(target, INPUTS, 1, written.append), "".join(written)


def test_each_target_has_a_name_of_its_own() -> None:
    assert len({target.name for target in TARGETS}) == len(TARGETS)
