"""The families of errors, by which a driver decides what to do."""

from __future__ import annotations

import inspect
from itertools import permutations

import pytest

from rafter_core import errors


def test_every_error_of_the_core_has_one_base() -> None:
    classes = [item for _, item in inspect.getmembers(errors, inspect.isclass)]
    assert len(classes) > 8
    assert all(issubclass(item, errors.RaftError) for item in classes)


def test_bad_values_are_value_errors_too() -> None:
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.DecodeError, ValueError)


@pytest.mark.parametrize(
    ("error", "family"),
    [
        (errors.NotLeader, errors.RequestRefused),
        (errors.ProposalDropped, errors.RequestRefused),
        (errors.ReadDropped, errors.RequestRefused),
        (errors.TransferRefused, errors.RequestRefused),
        (errors.PeerNotFound, errors.StepError),
        (errors.LocalMessage, errors.StepError),
        (errors.ConfChangeError, ValueError),
    ],
)
def test_each_error_is_in_the_family_that_says_whose_fault_it_is(
    error: type[Exception], family: type[Exception]
) -> None:
    assert issubclass(error, family)


def test_families_do_not_overlap() -> None:
    families = (errors.RequestRefused, errors.StepError, errors.InvariantError, errors.ConfigError)
    for left, right in permutations(families, 2):
        assert not issubclass(left, right)
