from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given

from rafter_core.entries import NUMBER_MAX, Entry, EntryKind
from rafter_core.errors import DecodeError, InvariantError
from rafter_core.membership import MEMBERS_MAX, Membership
from rafter_core.serializer import (
    entries_from_wire,
    membership_from_wire,
    membership_to_wire,
    pack_entries,
    pack_membership,
    snapshot_from_wire,
    snapshot_to_wire,
    unpack_entries,
    unpack_membership,
)
from rafter_core.snapshot import Snapshot
from tests.core import fuzz_serializer as fuzz
from tests.core.support import entry, log_of

# Round trips --------------------------------------------------------------------------------------


@given(fuzz.entries())
def test_entries_survive_the_round_trip(entries: list[Entry]) -> None:
    fuzz.check_entries_survive(entries)


@given(fuzz.memberships())
def test_memberships_survive_the_round_trip(membership: Membership) -> None:
    fuzz.check_membership_survives(membership)


@given(fuzz.snapshots)
def test_snapshots_survive_the_round_trip(snapshot: Snapshot) -> None:
    fuzz.check_snapshot_survives(snapshot)


SNAPSHOT_ITEM: list[object] = [7, 2, [[1, 2, 3], [], [], [], False, []], b"image"]

# Entries ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "text"),
    [
        (None, "entries are NoneType, not an array"),
        ((), "entries are tuple, not an array"),
        ([1], "1 items"),
        ([1, 1], "2 items"),
        ([1, 1, 0], "3 items"),
        ([1, 1, 0, b"", 1], "5 items"),
        ([0, 1, 0, b""], "first index"),
        ([-1, 1, 0, b""], "first index"),
        ([NUMBER_MAX, 1, 0, b""], "first index"),
        ([True, 1, 0, b""], "first index"),
        ([1.0, 1, 0, b""], "first index"),
        ([1, 0, 0, b""], "term of entry 1"),
        ([1, NUMBER_MAX + 1, 0, b""], "term of entry 1"),
        ([1, True, 0, b""], "term of entry 1"),
        ([1, 1.0, 0, b""], "term of entry 1"),
        ([1, 2, 0, b"", 1, 0, b""], "term of entry 2 is out of range or falls"),
        ([[]], "a row of entries is not an array of 4 items"),
        ([[1, 1, 0]], "a row of entries is not an array of 4 items"),
        ([[1, 1, 0, b"", 0]], "a row of entries is not an array of 4 items"),
        ([[1, 1, 0, b""], 1], "a row of entries is not an array of 4 items"),
        ([[1, 1, 0, b""], [1, 2, 0]], "a row of entries is not an array of 4 items"),
        ([[1, 0, 0, b""]], "first index"),
        ([[1, -1, 0, b""]], "first index"),
        ([[1, NUMBER_MAX, 0, b""]], "first index"),
        ([[1, True, 0, b""]], "first index"),
        ([[1, 1.0, 0, b""]], "first index"),
        ([[1, 1, 0, b""], [1, 3, 0, b""]], "another entry stands where entry 2 should be"),
        ([[1, 1, 0, b""], [1, 1, 0, b""]], "another entry stands where entry 2 should be"),
        ([[1, 1, 0, b""], [1, 2.0, 0, b""]], "another entry stands where entry 2 should be"),
        ([[0, 1, 0, b""]], "term of entry 1"),
        ([[NUMBER_MAX + 1, 1, 0, b""]], "term of entry 1"),
        ([[True, 1, 0, b""]], "term of entry 1"),
        ([[2, 1, 0, b""], [1, 2, 0, b""]], "term of entry 2 is out of range or falls"),
        ([[1, 1, 4, b""]], "kind of entry 1 is unknown"),
        ([[1, 1, False, b""]], "kind of entry 1 is unknown"),
        ([[1, 1, 3, b"x"]], "entry 1 is stripped and has a payload"),
        ([[1, 1, 0, "text"]], "payload of entry 1 is str"),
        ([1, 1, 4, b""], "kind of entry 1 is unknown"),
        ([1, 1, -1, b""], "kind of entry 1 is unknown"),
        ([1, 1, False, b""], "kind of entry 1 is unknown"),
        ([1, 1, True, b""], "kind of entry 1 is unknown"),
        ([1, 1, None, b""], "kind of entry 1 is unknown"),
        ([1, 1, 1.0, b""], "kind of entry 1 is unknown"),
        ([1, 1, [], b""], "kind of entry 1 is unknown"),
        ([1, 1, 0, b"", 1, 4, b""], "kind of entry 2 is unknown"),
        ([1, 1, 3, b"x"], "entry 1 is stripped and has a payload"),
        ([1, 1, 0, "text"], "payload of entry 1 is str"),
        ([1, 1, 0, None], "payload of entry 1 is NoneType"),
        ([1, 1, 3, None], "payload of entry 1 is NoneType"),
    ],
)
def test_bad_entries_are_refused_by_name(items: object, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        entries_from_wire(items)


def test_no_entries_are_an_empty_array() -> None:
    assert pack_entries([]) == b"\x90"
    assert entries_from_wire([]) == []


def test_the_last_possible_places_in_a_log_are_decoded() -> None:
    items: list[object] = [NUMBER_MAX - 4, NUMBER_MAX, 0, b""]
    assert entries_from_wire(items) == [entry(NUMBER_MAX, NUMBER_MAX - 4)]
    rows: list[object] = [[NUMBER_MAX, NUMBER_MAX - 2, 0, b""]]
    assert entries_from_wire(rows) == [entry(NUMBER_MAX, NUMBER_MAX - 2)]


@pytest.mark.parametrize("kind", EntryKind)
def test_every_kind_of_entry_has_its_number_on_disk(kind: EntryKind) -> None:
    numbers = {"NORMAL": 0, "CONFIG_CHANGE": 1, "CONFIG_CHANGE_V2": 2, "STRIPPED": 3}
    for items in ([5, 2, numbers[kind.name], b""], [[2, 5, numbers[kind.name], b""]]):
        (decoded,) = entries_from_wire(items)
        assert decoded == Entry(2, 5, kind, b"")
        assert decoded.kind is kind


# Memberships and snapshots ------------------------------------------------------------------------

JOINT: list[object] = [[1, 2, 3], [3, 4, 5], [6], [5], True, [2, 4]]


def test_a_joint_membership_with_everything_is_decoded() -> None:
    membership = Membership((1, 2, 3), (3, 4, 5), (6,), (5,), True, (2, 4))
    assert membership_from_wire(JOINT) == membership
    assert membership_to_wire(membership) == JOINT


@pytest.mark.parametrize("position", [0, 1, 2, 3, 5])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not an array of at most 256"),
        ((1,), "not an array of at most 256"),
        (b"\x01", "not an array of at most 256"),
        ([0], "out of range"),
        ([-1], "out of range"),
        ([NUMBER_MAX + 1], "out of range"),
        ([True], "out of range"),
        ([1.0], "out of range"),
        ([[1]], "out of range"),
        ([3, 2], "do not ascend"),
        ([3, 3], "do not ascend"),
        (list(range(1, MEMBERS_MAX + 2)), "not an array of at most 256"),
    ],
)
def test_the_nodes_of_a_membership_are_checked(position: int, value: object, text: str) -> None:
    item = JOINT.copy()
    item[position] = value
    with pytest.raises(DecodeError, match=text):
        membership_from_wire(item)


@pytest.mark.parametrize(
    "item",
    [
        [[1, 2], [], [2], [], False, []],
        [[1], [2], [2], [], False, []],
        [[1, 2], [], [], [2], False, []],
        [[1], [2], [], [3], False, []],
        [[1, 2], [2], [], [2], False, []],
        [[1, 2], [], [3], [], False, [3]],
        [[1, 2], [], [], [], False, [4]],
        [[1, 2], [], [], [], True, []],
    ],
)
def test_a_membership_that_cannot_be_is_refused(item: list[Any]) -> None:
    with pytest.raises(DecodeError, match="a membership is none"):
        membership_from_wire(item)
    voters, outgoing, learners, learners_next = map(tuple, item[:4])
    membership = Membership(voters, outgoing, learners, learners_next, item[4], tuple(item[5]))
    with pytest.raises(InvariantError, match="a membership was to be encoded that is none"):
        membership_to_wire(membership)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (None, "array of 6"),
        (tuple(JOINT), "array of 6"),
        (JOINT[:-1], "array of 6"),
        ([*JOINT, 0], "array of 6"),
        ([*JOINT[:4], 1, JOINT[5]], "auto_leave is int"),
        ([*JOINT[:4], None, JOINT[5]], "auto_leave is NoneType"),
    ],
)
def test_a_membership_has_exactly_its_fields(item: object, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        membership_from_wire(item)


def test_the_nodes_of_a_membership_are_bounded_in_sum() -> None:
    assert MEMBERS_MAX == 256
    half = list(range(1, 129))
    rest = list(range(129, 257))
    membership = membership_from_wire([half, [], rest, [], False, []])
    assert unpack_membership(pack_membership(membership)) == membership
    with pytest.raises(DecodeError, match="257 nodes are more than 256"):
        membership_from_wire([half, [300], rest, [], False, []])
    with pytest.raises(InvariantError, match="257 nodes are more than 256"):
        membership_to_wire(Membership(tuple(range(1, 258))))


def test_the_largest_membership_survives_on_its_own() -> None:
    nodes = tuple(range(NUMBER_MAX - MEMBERS_MAX + 1, NUMBER_MAX + 1))
    membership = Membership(nodes, nodes, auto_leave=True, witnesses=nodes)
    assert unpack_membership(pack_membership(membership)) == membership


@pytest.mark.parametrize("nodes", [(0,), (-1, 2), (NUMBER_MAX + 1,)])
def test_a_membership_of_impossible_nodes_is_not_encoded(nodes: tuple[int, ...]) -> None:
    with pytest.raises(InvariantError, match="id of a node is out of range"):
        membership_to_wire(Membership(nodes))


def test_an_endless_complaint_is_cut() -> None:
    nodes = list(range(1 << 60, (1 << 60) + MEMBERS_MAX))
    with pytest.raises(DecodeError) as caught:
        membership_from_wire([nodes, [], nodes, [], False, []])
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (None, "array of 4"),
        (tuple(SNAPSHOT_ITEM), "array of 4"),
        (SNAPSHOT_ITEM[:-1], "array of 4"),
        ([*SNAPSHOT_ITEM, b""], "array of 4"),
        *(
            ([*SNAPSHOT_ITEM[:position], value, *SNAPSHOT_ITEM[position + 1 :]], text)
            for position, text in [(0, "index of a snapshot"), (1, "term of a snapshot")]
            for value in (0, -1, NUMBER_MAX + 1, True, None, 1.0)
        ),
        ([1, 1, None, b""], "membership is not an array of 6"),
        ([1, 1, [[], [], [1], [], False, []], b""], "no voters"),
        ([1, 1, SNAPSHOT_ITEM[2], "text"], "data of a snapshot is str"),
        ([1, 1, SNAPSHOT_ITEM[2], None], "data of a snapshot is NoneType"),
    ],
)
def test_bad_snapshots_are_refused_by_name(item: object, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        snapshot_from_wire(item)


@pytest.mark.parametrize("number", [1, NUMBER_MAX])
def test_the_ends_of_a_snapshots_range_are_within(number: int) -> None:
    snapshot = Snapshot(number, number, Membership((1,)))
    assert snapshot_from_wire(snapshot_to_wire(snapshot)) == snapshot


@pytest.mark.parametrize(
    "snapshot",
    [
        Snapshot(0, 1, Membership((1,))),
        Snapshot(1, 0, Membership((1,))),
        Snapshot(NUMBER_MAX + 1, 1, Membership((1,))),
        Snapshot(1, NUMBER_MAX + 1, Membership((1,))),
        Snapshot(1, 1, Membership((), learners=(1,))),
    ],
)
def test_a_snapshot_of_nothing_or_for_nobody_is_not_encoded(snapshot: Snapshot) -> None:
    with pytest.raises(InvariantError, match="snapshot of nothing, or for nobody"):
        snapshot_to_wire(snapshot)


@pytest.mark.parametrize(
    ("items", "text"),
    [
        (1, "begin with the number of its format"),
        ([], "begin with the number of its format"),
        ([[]], "begin with the number of its format"),
        ([True, *JOINT], "begin with the number of its format"),
        (JOINT, "begin with the number of its format"),
        ([0, *JOINT], "format 0; this version reads 1"),
        ([2, *JOINT], "format 2; this version reads 1"),
        ([2], "format 2; this version reads 1"),
        ([1], "array of 6"),
        ([1, *JOINT, 0], "array of 6"),
        ([1, JOINT], "array of 6"),
    ],
)
def test_a_membership_on_its_own_begins_with_its_format(items: object, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        unpack_membership(msgpack.packb(items))


# Bytes --------------------------------------------------------------------------------------------


def test_a_membership_too_long_is_not_even_read() -> None:
    data = pack_membership(Membership((1,)))
    with pytest.raises(DecodeError, match="cannot have 16385 bytes"):
        unpack_membership(data.ljust((1 << 14) + 1, b"\x00"))
    with pytest.raises(DecodeError, match="ExtraData"):
        unpack_membership(data.ljust(1 << 14, b"\x00"))


@pytest.mark.parametrize(
    "data",
    [pack_entries(log_of(1)) + b"\xc0", pack_membership(Membership((1,))) + b"\xc0"],
)
def test_trailing_bytes_are_refused(data: bytes) -> None:
    for unpack in (unpack_entries, unpack_membership):
        with pytest.raises(DecodeError, match="extra data"):
            unpack(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\x94\x01\x01\x00\xc6\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"\x81\x01\x01",
        b"\x81\x91\x01\x01",
        b"\x80",
        b"\xa0",
        b"\xa1x",
        b"\xd9\x01\xff",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xc7\x00\xff",
        b"\xc7\x00\x05",
        b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
    ],
)
def test_hostile_lengths_nesting_and_types_are_refused(data: bytes) -> None:
    for unpack in (unpack_entries, unpack_membership):
        with pytest.raises(DecodeError):
            unpack(data)


@pytest.mark.parametrize("depth", [500, 1000, 1023, 1024, 1025])
def test_deep_nesting_before_trailing_bytes_is_refused(depth: int) -> None:
    # The text of the error once held the repr of what was decoded, which Python gives up on with a
    # RecursionError. Short random inputs never nest that deeply.
    for unpack in (unpack_entries, unpack_membership):
        with pytest.raises(DecodeError) as caught:
            unpack(b"\x91" * depth + b"\xc0\xc0")
        assert len(str(caught.value)) < 200


# The encoding is part of what is on disks and between versions ------------------------------------


def test_the_encoding_on_disk_does_not_change() -> None:
    entries = [
        entry(2, 7, b"ab"),
        Entry(3, 8, EntryKind.CONFIG_CHANGE_V2, b""),
        Entry(3, 9, EntryKind.STRIPPED, b""),
    ]
    rows = bytes.fromhex("93" + "940207" + "00c4026162" + "940308" + "02c400" + "940309" + "03c400")
    assert pack_entries(entries) == rows
    assert unpack_entries(memoryview(rows)) == entries
    # As they were written before.
    flat = bytes.fromhex("9a07" + "0200c4026162" + "0302c400" + "0303c400")
    assert unpack_entries(memoryview(flat)) == entries


def test_the_encoding_of_a_membership_does_not_change() -> None:
    membership = Membership((1, 2, 300), (2, 4), (6,), (4,), True, (2,))
    data = bytes.fromhex("97" + "01" + "930102cd012c" + "920204" + "9106" + "9104" + "c3" + "9102")
    assert pack_membership(membership) == data
    assert unpack_membership(memoryview(data)) == membership
