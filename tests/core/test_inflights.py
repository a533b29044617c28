from __future__ import annotations

import pytest

from rafter_core import InvariantError
from rafter_core.inflights import Inflights


def test_window_is_full_by_count() -> None:
    inflights = Inflights(2, 1000)
    inflights.add(1, 1)
    assert not inflights.is_full
    inflights.add(2, 1)
    assert inflights.is_full
    assert len(inflights) == 2


def test_byte_limit_is_soft_for_the_last_message() -> None:
    inflights = Inflights(10, 100)
    inflights.add(1, 99)
    assert not inflights.is_full
    inflights.add(2, 500)
    assert inflights.is_full
    assert inflights.bytes_total == 599


def test_acknowledgement_frees_every_message_up_to_it() -> None:
    inflights = Inflights(3, 1000)
    for index in (2, 4, 6):
        inflights.add(index, 10)
    inflights.free_to(1)
    assert len(inflights) == 3
    inflights.free_to(5)
    assert len(inflights) == 1
    assert inflights.bytes_total == 10
    assert not inflights.is_full


def test_reset_forgets_bytes_too() -> None:
    inflights = Inflights(3, 10)
    inflights.add(1, 10)
    assert inflights.is_full
    inflights.reset()
    assert (len(inflights), inflights.bytes_total, inflights.is_full) == (0, 0, False)


def test_adding_to_a_full_window_is_refused() -> None:
    inflights = Inflights(1, 10)
    inflights.add(1, 1)
    with pytest.raises(InvariantError, match="full window"):
        inflights.add(2, 1)
