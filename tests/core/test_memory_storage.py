from __future__ import annotations

import pytest

from rafter_core import Compacted, HardState, InvariantError, MemoryStorage, Ready, Unavailable
from tests.core.support import THREE, entry, log_of


def storage(*terms: int) -> MemoryStorage:
    item = MemoryStorage(THREE)
    item.append(log_of(*terms))
    return item


def test_appending_replaces_from_the_first_entry_on() -> None:
    item = storage(1, 1, 1)
    item.append([entry(2, 2)])
    assert item.entries(1, 3, 1000) == [entry(1, 1), entry(2, 2)]
    item.append([])
    assert item.last_index() == 2


def test_appending_beyond_the_end_is_refused() -> None:
    with pytest.raises(InvariantError, match="missing log entry: last is 1, append at 3"):
        storage(1).append([entry(1, 3)])


def test_compaction_keeps_the_term_of_the_last_dropped_entry() -> None:
    item = storage(1, 2, 3)
    item.compact(2)
    assert (item.first_index(), item.last_index(), item.term(2)) == (3, 3, 2)
    with pytest.raises(Compacted):
        item.compact(2)
    with pytest.raises(Unavailable):
        item.compact(9)
    with pytest.raises(InvariantError, match="compacted"):
        item.append([entry(3, 2)])


def test_store_takes_what_a_ready_asks_for() -> None:
    item = storage()
    item.store(Ready(1, HardState(3, 2, 0), log_of(3), True, [], [], [], [], 3, 3, 1, []))
    assert item.initial_state() == (HardState(3, 2, 0), THREE)
    assert item.last_index() == 1
