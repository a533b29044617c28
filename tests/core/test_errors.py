from __future__ import annotations

import inspect

from rafter_core import errors


def test_every_error_of_the_core_has_one_base() -> None:
    classes = [item for _, item in inspect.getmembers(errors, inspect.isclass)]
    assert len(classes) > 8
    assert all(issubclass(item, errors.RaftError) for item in classes)


def test_bad_values_are_value_errors_too() -> None:
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.DecodeError, ValueError)
