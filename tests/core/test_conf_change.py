"""Changes of the membership as payloads: round trips, and what is not one."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core import (
    NUMBER_MAX,
    Change,
    ChangeKind,
    ConfChange,
    ConfChangeError,
    DecodeError,
    EntryKind,
    Transition,
)
from rafter_core.conf_change import CHANGES_MAX, FORMAT, decode, encode

V1 = EntryKind.CONFIG_CHANGE
V2 = EntryKind.CONFIG_CHANGE_V2
ADD_2 = Change(ChangeKind.ADD_VOTER, 2)
REMOVE_3 = Change(ChangeKind.REMOVE_NODE, 3)

changes = st.builds(Change, st.sampled_from(ChangeKind), st.integers(0, NUMBER_MAX))


def test_kinds_and_transitions_have_the_numbers_that_are_on_disks() -> None:
    assert [(kind.name, kind.value) for kind in ChangeKind] == [
        ("ADD_VOTER", 0),
        ("REMOVE_NODE", 1),
        ("UPDATE_NODE", 2),
        ("ADD_LEARNER", 3),
        ("ADD_WITNESS", 4),
    ]
    assert [(item.name, item.value) for item in Transition] == [
        ("AUTO", 0),
        ("JOINT_IMPLICIT", 1),
        ("JOINT_EXPLICIT", 2),
    ]


@pytest.mark.parametrize(
    ("change", "leaves", "enters", "auto_leave"),
    [
        (ConfChange(), True, False, True),
        (ConfChange(context=b"x"), True, False, True),
        (ConfChange((ADD_2,)), False, False, True),
        (ConfChange((ADD_2,), is_v1=True), False, False, True),
        (ConfChange((ADD_2, REMOVE_3)), False, True, True),
        (ConfChange((), Transition.JOINT_IMPLICIT), False, True, True),
        (ConfChange((), Transition.JOINT_EXPLICIT), False, True, False),
        (ConfChange((ADD_2,), Transition.JOINT_IMPLICIT), False, True, True),
        (ConfChange((ADD_2,), Transition.JOINT_EXPLICIT), False, True, False),
    ],
)
def test_the_way_a_change_takes(
    change: ConfChange, leaves: bool, enters: bool, auto_leave: bool
) -> None:
    assert change.leaves_joint is leaves
    assert change.enters_joint is enters
    assert change.auto_leave is auto_leave


def test_the_kind_of_the_entry_follows_the_version() -> None:
    assert ConfChange((ADD_2,)).entry_kind is V2
    assert ConfChange((ADD_2,), is_v1=True).entry_kind is V1


def test_only_the_empty_second_version_is_an_empty_payload() -> None:
    assert encode(ConfChange()) == b""
    assert decode(V2, b"") == ConfChange()
    assert encode(ConfChange(context=b"x")) != b""
    assert encode(ConfChange((), Transition.JOINT_EXPLICIT)) != b""


def test_the_payload_is_stable() -> None:
    """It stands in logs on disks: [format, transition, context, kind, node, ...]."""
    change = ConfChange((ADD_2, REMOVE_3), Transition.JOINT_EXPLICIT, b"ctx")
    assert encode(change).hex() == "970102c4036374780002" + "0103"
    assert FORMAT == 1


@given(
    st.builds(
        ConfChange,
        st.lists(changes, max_size=8).map(tuple),
        st.sampled_from(Transition),
        st.binary(max_size=20),
        st.just(False),
    )
)
def test_the_second_version_survives_the_round_trip(change: ConfChange) -> None:
    assert decode(change.entry_kind, encode(change)) == change


@given(changes, st.binary(max_size=20))
def test_the_first_version_survives_the_round_trip(item: Change, context: bytes) -> None:
    change = ConfChange((item,), context=context, is_v1=True)
    assert decode(V1, encode(change)) == change


def test_as_many_changes_as_allowed_fit_and_no_more() -> None:
    most = ConfChange(tuple(Change(ChangeKind.ADD_LEARNER, i) for i in range(CHANGES_MAX)))
    assert decode(V2, encode(most)) == most
    with pytest.raises(ConfChangeError, match="257 changes in one, 256 are allowed"):
        encode(most._replace(changes=(*most.changes, ADD_2)))
    too_many = [1, 0, b"", *[0, 2] * (CHANGES_MAX + 1)]
    with pytest.raises(DecodeError, match="array of three items and pairs"):
        decode(V2, msgpack.packb(too_many))


@pytest.mark.parametrize("node", [-1, NUMBER_MAX + 1])
def test_a_node_out_of_range_is_not_written(node: int) -> None:
    with pytest.raises(ConfChangeError, match=f"node {node} is out of range"):
        encode(ConfChange((Change(ChangeKind.ADD_VOTER, node),)))


@pytest.mark.parametrize("kind", [EntryKind.NORMAL, EntryKind.STRIPPED])
def test_other_entries_hold_no_change(kind: EntryKind) -> None:
    with pytest.raises(DecodeError, match="holds no configuration change"):
        decode(kind, encode(ConfChange((ADD_2,))))


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ({}, "array of three items"),
        (5, "array of three items"),
        ([], "array of three items"),
        ([1, 0], "array of three items"),
        ([1, 0, b"", 0], "array of three items"),
        ([1, 0, b"", 0, 1, 0], "array of three items"),
        ([2, 0, b""], "format 2 is unknown"),
        ([0, 0, b""], "format 0 is unknown"),
        ([True, 0, b""], "format True is unknown"),
        ([1, 3, b""], "transition of a configuration change is unknown"),
        ([1, -1, b""], "transition of a configuration change is unknown"),
        ([1, None, b""], "transition of a configuration change is unknown"),
        ([1, False, b""], "transition of a configuration change is unknown"),
        ([1, 0, ""], "context of a configuration change is not bytes"),
        ([1, 0, None], "context of a configuration change is not bytes"),
        ([1, 0, b"", 5, 1], "kind of a membership change is unknown"),
        ([1, 0, b"", -1, 1], "kind of a membership change is unknown"),
        ([1, 0, b"", None, 1], "kind of a membership change is unknown"),
        ([1, 0, b"", 0, -1], "node of a membership change is out of range"),
        ([1, 0, b"", 0, NUMBER_MAX + 1], "node of a membership change is out of range"),
        ([1, 0, b"", 0, 1.0], "node of a membership change is out of range"),
        ([1, 0, b"", 0, 1, 0, b""], "node of a membership change is out of range"),
    ],
)
def test_a_malformed_payload_says_what_is_wrong(items: object, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        decode(V2, msgpack.packb(items))


@pytest.mark.parametrize(
    "change",
    [
        ConfChange((), is_v1=True),
        ConfChange((ADD_2, REMOVE_3), is_v1=True),
        ConfChange((ADD_2,), Transition.JOINT_IMPLICIT, is_v1=True),
    ],
)
def test_the_first_version_holds_one_change_that_goes_the_simple_way(change: ConfChange) -> None:
    with pytest.raises(ConfChangeError, match="V1 change has one operation and no transition"):
        encode(change)
    items = [1, int(change.transition), b""]
    for kind, node in change.changes:
        items += (int(kind), node)
    with pytest.raises(DecodeError, match="of the first kind holds one change"):
        decode(V1, msgpack.packb(items))


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        b"\x93\x01",
        encode(ConfChange((ADD_2,))) + b"\x00",
        msgpack.packb([1, 0, "text"]),
        msgpack.packb([1, 0, {"a": 1}]),
        msgpack.packb(msgpack.Timestamp(1, 0)),
        b"\x91" * 5000 + b"\xc0",
    ],
)
def test_what_is_not_such_msgpack_is_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError, match="a configuration change is not msgpack"):
        decode(V2, payload)


def test_an_empty_payload_is_no_change_of_the_first_version() -> None:
    with pytest.raises(DecodeError, match="not msgpack"):
        decode(V1, b"")


@given(st.sampled_from((V1, V2)), st.binary(max_size=40))
def test_any_bytes_are_a_change_or_refused(kind: EntryKind, payload: bytes) -> None:
    try:
        change = decode(kind, payload)
    except DecodeError:
        return
    assert decode(kind, encode(change)) == change
