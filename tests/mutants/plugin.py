"""A plugin of pytest, `-p tests.mutants.plugin`: tests run with one mutant's bug in the product.

The environment variable RAFTER_MUTANT has its name; empty, nothing is changed.
"""

from __future__ import annotations

import contextlib
import os

from tests.mutants.judging import VARIABLE
from tests.mutants.patching import changed
from tests.mutants.registry import MUTANTS

_stack = contextlib.ExitStack()


def pytest_configure() -> None:
    """Put the bug in."""
    name = os.environ.get(VARIABLE)
    if name:
        _stack.enter_context(changed(MUTANTS[name].changes))


def pytest_unconfigure() -> None:
    """Take it out again."""
    _stack.close()
