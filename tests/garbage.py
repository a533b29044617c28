"""Collects what a test leaves behind while that test still runs."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collected() -> Iterator[None]:
    """Collect, at its end, the garbage that the block made.

    A socket or file that was not closed warns when it is collected: so in the test at fault. What
    was there before is set aside meanwhile; to look through it all, late in a run of all tests,
    would take longer than most tests do.
    """
    gc.freeze()
    try:
        yield
        gc.collect()
    finally:
        gc.unfreeze()
