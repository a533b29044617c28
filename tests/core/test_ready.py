from __future__ import annotations

from rafter_core import HardState, Ready
from tests.core.support import log_of


def ready(hard_state: HardState | None, count: int) -> Ready:
    return Ready(7, hard_state, log_of(*[1] * count), False, [], [], [], [], 1, 0, 0, [])


def test_storage_is_needed_for_hard_state_or_entries() -> None:
    assert not ready(None, 0).needs_storage
    assert ready(HardState(1, 0, 0), 0).needs_storage
    assert ready(None, 1).needs_storage


def test_repr_counts_the_work() -> None:
    assert repr(ready(None, 2)) == (
        "<Ready 7 hard_state=None entries=2 must_sync=False messages=0 messages_after_sync=0 "
        "committed=0 read_states=0>"
    )
