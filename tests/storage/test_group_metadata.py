"""Tests of rafter_storage.group_metadata."""

import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core.errors import DecodeError
from rafter_core.membership import Membership
from rafter_core.serializer import pack_membership
from rafter_storage.group_metadata import GroupMetadata, pack_metadata, unpack_metadata

FIRST, SECOND, THIRD = (Membership((1, 2, 3 + number)) for number in range(3))
LARGEST = (1 << 64) - 1
NUMBERS = st.one_of(st.integers(0, 20), st.integers(0, LARGEST))
METADATA = GroupMetadata(10, 2, ((7, FIRST), (12, SECOND)), 11, 3)


@given(NUMBERS, NUMBERS, st.sets(NUMBERS, max_size=5), NUMBERS, NUMBERS)
def test_metadata_round_trips(
    base_index: int, base_term: int, indexes: set[int], snapshot_index: int, snapshot_term: int
) -> None:
    memberships = tuple((index, Membership((1, 2 + index % 9))) for index in sorted(indexes))
    metadata = GroupMetadata(base_index, base_term, memberships, snapshot_index, snapshot_term)
    assert unpack_metadata(pack_metadata(metadata)) == metadata
    assert unpack_metadata(memoryview(pack_metadata(metadata))) == metadata


def test_metadata_of_a_new_group_says_nothing() -> None:
    assert unpack_metadata(pack_metadata(GroupMetadata())) == (0, 0, (), 0, 0)
    assert GroupMetadata().membership_at(99) is None


def test_membership_in_force_is_the_newest_at_or_before_the_index() -> None:
    found = [METADATA.membership_at(index) for index in (6, 7, 11, 12, 99)]
    assert found == [None, FIRST, FIRST, SECOND, SECOND]


def test_membership_recorded_anew_takes_the_place_of_those_at_and_above_it() -> None:
    assert METADATA.with_membership(15, THIRD).memberships == (
        (7, FIRST), (12, SECOND), (15, THIRD),
    )  # fmt: skip
    assert METADATA.with_membership(12, THIRD).memberships == ((7, FIRST), (12, THIRD))
    assert METADATA.with_membership(8, THIRD).memberships == ((7, FIRST), (8, THIRD))
    assert METADATA.with_membership(7, THIRD).memberships == ((7, THIRD),)


@pytest.mark.parametrize(
    ("index", "kept"), [(8, [7, 12]), (11, [7, 12]), (12, [12]), (13, [12]), (99, [12])]
)
def test_new_base_keeps_the_membership_in_force_there_and_those_behind(
    index: int, kept: list[int]
) -> None:
    metadata = METADATA.with_base(index, 4)
    assert (metadata.base_index, metadata.base_term) == (index, 4)
    assert [begin for begin, _ in metadata.memberships] == kept
    for later in range(index, 20):
        assert metadata.membership_at(later) == METADATA.membership_at(later)


def test_new_base_of_a_group_without_recorded_memberships_has_none() -> None:
    assert GroupMetadata().with_base(5, 1).memberships == ()


def wire(**changes: Any) -> bytes:
    """The body of a record in which something is not as it should be."""
    items = {
        "format": 1,
        "base_index": 1,
        "base_term": 1,
        "memberships": [[1, pack_membership(FIRST)]],
        "snapshot_index": 1,
        "snapshot_term": 1,
    }
    return bytes(msgpack.packb(list((items | changes).values())))


def test_wire_form_is_the_documented_one() -> None:
    expected = GroupMetadata(1, 1, ((1, FIRST),), 1, 1)
    assert unpack_metadata(wire()) == expected
    assert pack_metadata(expected) == wire()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot be unpacked"),
        (b"\xc1", "cannot be unpacked"),
        (wire()[:-1], "cannot be unpacked"),
        (wire() + b"\x00", "cannot be unpacked"),
        (b"\x91" * 5000 + b"\x00", "cannot be unpacked"),
        (b"\x80", "not of format 1"),
        (b"\x90", "not of format 1"),
        (wire(format=2), "not of format 1"),
        (wire(extra=1), "has not 6 items"),
        (wire(memberships=1), "has not 6 items"),
        (wire(memberships=[1]), "a membership without its index"),
        (wire(memberships=[[1]]), "a membership without its index"),
        (wire(memberships=[[1, "text"]]), "a membership without its index"),
        (wire(memberships=[["1", pack_membership(FIRST)]]), "'1' in the place of a number"),
        (wire(memberships=[[1, b"\x00"]]), "membership does not begin with"),
        (wire(memberships=[[1, pack_membership(FIRST)]] * 2), "do not ascend"),
        (wire(memberships=[[-1, pack_membership(FIRST)]]), "in the place of a number"),
        (wire(base_index=None), "None in the place of a number"),
        (wire(base_term=-1), "-1 in the place of a number"),
        (wire(base_term=True), "True in the place of a number"),
        (wire(snapshot_index=1.0), "1.0 in the place of a number"),
        (wire(snapshot_term=[1] * 100), "in the place of a number"),
    ],
)
def test_anything_else_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        unpack_metadata(data)


@given(st.binary(max_size=40))
def test_any_bytes_are_metadata_or_refused(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        unpack_metadata(data)


def test_every_cut_of_good_metadata_is_refused() -> None:
    data = pack_metadata(METADATA)
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            unpack_metadata(data[:length])
