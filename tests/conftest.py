"""Settings of all tests, in one process and in several (`pytest -n`, by pytest-xdist)."""

import gc
from asyncio import constants as asyncio_constants
from typing import Any

import pytest
from hypothesis import settings

from tests.cluster import kit

# No example has a time limit: on a busy machine it would fail for being slow. A test that hangs is
# ended by pytest's own timeout.
# Each run draws others; `--hypothesis-profile=thorough` has many more.
settings.register_profile("rafter", deadline=None, max_examples=60)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile("rafter")

# Fresh nodes with large logs are for benchmarks and for make nemesis.
kit.IS_WARM = True
kit.SEGMENT_BYTES = 8 << 20

# Loops in debug mode are used for their checks. That each callback also writes down where it was
# scheduled costs several times what the callback does; to read such a place, leave the ten here.
asyncio_constants.DEBUG_STACK_DEPTH = 0  # type: ignore[misc]  # final to all but tests

WITH_REAL_NODES = (
    "tests/cluster/",
    "tests/crash/test_real.py",
    "tests/nemesis/test_round.py",
    "tests/nemesis/test_references.py",
)
"""Their nodes and clients take several processors as it is: never two of these at a time."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out whole files, in order, so that what a file sets up once is set up once."""
    from xdist.scheduler import LoadScopeScheduling

    class FileScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(WITH_REAL_NODES):
                return "real nodes"
            return nodeid.partition("::")[0]

    config.option.loadscopereorder = False
    return FileScheduling(config, log)


def pytest_collection_finish() -> None:
    """Spare the garbage collector ten thousand tests, which stay to the end.

    Once a test has set aside what was there before it (tests/garbage.py), they are among the rest,
    and too many to be looked through every few tests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5000, 20, 20)
