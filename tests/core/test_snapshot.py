"""A snapshot is a value that shows where it stands and how large it is."""

from __future__ import annotations

from rafter_core import Membership, Snapshot
from tests.core.support import THREE


def test_a_snapshot_is_a_value() -> None:
    assert Snapshot(7, 2, THREE) == Snapshot(index=7, term=2, membership=THREE, data=b"")
    assert Snapshot(7, 2, THREE) != Snapshot(7, 2, THREE, b"x")
    assert Snapshot(7, 2, THREE) != Snapshot(7, 2, Membership((1, 2)))


def test_repr_shows_the_place_and_the_size_but_no_data() -> None:
    text = repr(Snapshot(7, 2, Membership((1,)), b"secret"))
    assert text == (
        "<Snapshot 2/7 Membership(voters=(1,), voters_outgoing=(), learners=(), "
        "learners_next=(), auto_leave=False, witnesses=()) data of 6 bytes>"
    )
