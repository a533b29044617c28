"""The Ready as a value; what stands in it is tested with the node that makes it."""

from __future__ import annotations

import pytest

from rafter_core import HardState, Ready, Role, Snapshot, SoftState
from tests.core.support import THREE, log_of


def ready(hard_state: HardState | None, count: int, snapshot: Snapshot | None = None) -> Ready:
    return Ready(
        node_id=1,
        number=7,
        soft_state=None,
        hard_state=hard_state,
        snapshot=snapshot,
        entries=log_of(*[1] * count),
        must_sync=False,
        messages=[],
        messages_after_sync=[],
        committed=[],
        read_states=[],
        term=1,
        last_term=0,
        last_index=0,
        responses=[],
    )


def test_storage_is_needed_for_hard_state_or_entries_or_a_snapshot() -> None:
    assert not ready(None, 0).needs_storage
    assert ready(HardState(1, 0, 0), 0).needs_storage
    assert ready(None, 1).needs_storage
    assert ready(None, 0, Snapshot(5, 2, THREE)).needs_storage


def test_repr_counts_the_work() -> None:
    assert repr(ready(None, 2)) == (
        "<Ready 7 hard_state=None snapshot=None entries=2 must_sync=False messages=0 "
        "messages_after_sync=0 committed=0 read_states=0>"
    )


@pytest.mark.parametrize(
    ("other", "is_equal"),
    [
        (SoftState(1, Role.LEADER), True),
        (SoftState(2, Role.LEADER), False),
        (SoftState(1, Role.FOLLOWER), False),
    ],
)
def test_soft_states_compare_by_value(other: SoftState, is_equal: bool) -> None:
    assert (SoftState(1, Role.LEADER) == other) is is_equal


@pytest.mark.parametrize(
    ("other", "is_equal"),
    [
        (HardState(3, 2, 1), True),
        (HardState(4, 2, 1), False),
        (HardState(3, 1, 1), False),
        (HardState(3, 2, 0), False),
    ],
)
def test_hard_states_compare_by_value(other: HardState, is_equal: bool) -> None:
    assert (HardState(3, 2, 1) == other) is is_equal


def test_the_zero_hard_state_is_that_of_a_new_node() -> None:
    assert HardState() == HardState(term=0, vote=0, commit=0)
