from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rafter_core import serializer
from rafter_core.entries import NUMBER_MAX, Entry, EntryKind
from rafter_core.errors import DecodeError, InvariantError
from rafter_core.membership import MEMBERS_MAX, Membership
from rafter_core.messages import APPEND_THREAD, ENTRIES_MAX, REMOTE_KINDS, Message, MessageKind
from rafter_core.serializer import (
    entries_from_wire,
    entries_to_wire,
    membership_from_wire,
    membership_to_wire,
    message_from_wire,
    message_to_wire,
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

LOCAL_KINDS = sorted(set(MessageKind) - REMOTE_KINDS)
PLAIN_KINDS = sorted(REMOTE_KINDS - {MessageKind.VOTE, MessageKind.PRE_VOTE, MessageKind.SNAPSHOT})

# Round trips --------------------------------------------------------------------------------------


@given(fuzz.entries())
def test_entries_survive_the_round_trip(entries: list[Entry]) -> None:
    fuzz.check_entries_survive(entries)


@given(st.tuples(fuzz.numbers, fuzz.messages()))
def test_messages_survive_the_round_trip(value: tuple[int, Message]) -> None:
    fuzz.check_message_survives(value)


@given(fuzz.memberships())
def test_memberships_survive_the_round_trip(membership: Membership) -> None:
    fuzz.check_membership_survives(membership)


@given(fuzz.snapshots)
def test_snapshots_survive_the_round_trip(snapshot: Snapshot) -> None:
    fuzz.check_snapshot_survives(snapshot)


@settings(max_examples=300)
@given(st.builds(message_to_wire, fuzz.numbers, fuzz.messages()), st.integers(0, 12), fuzz.junk)
def test_one_foreign_field_is_a_message_or_is_refused(
    wire: list[object], position: int, value: object
) -> None:
    wire[position : position + 1] = [value]
    fuzz.check_message_item(wire)


@pytest.mark.parametrize("kind", PLAIN_KINDS)
def test_a_decoded_message_has_every_field(kind: MessageKind) -> None:
    wire: list[object] = [1, +kind, 1, 2, 1, 0, 0, 0, False, 0, b"", []]
    _, message = message_from_wire(wire)
    assert message == Message(kind=kind, to=1, sender=2, term=1)
    assert message.kind is kind
    assert all(hasattr(message, name) for name in Message.__slots__)


# Messages -----------------------------------------------------------------------------------------

VALID: list[object] = [1, 3, 1, 2, 1, 0, 0, 0, False, 0, b"", []]
SNAPSHOT_ITEM: list[object] = [7, 2, [[1, 2, 3], [], [], [], False, []], b"image"]


def message_of(kind: int, *last: object, entries: object = None) -> list[object]:
    return [1, kind, *VALID[2:11], [] if entries is None else entries, *last]


@pytest.mark.parametrize("position", [0, 2, 3, 4, 5, 6, 7, 9])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-1, "out of range"),
        (NUMBER_MAX + 1, "out of range"),
        (APPEND_THREAD, "out of range"),
        (True, "wrong type"),
        (1.0, "wrong type"),
        (None, "wrong type"),
        (b"1", "wrong type"),
        ("1", "wrong type"),
    ],
)
def test_every_number_is_checked_for_type_and_range(position: int, value: Any, text: str) -> None:
    wire = VALID.copy()
    message_from_wire(wire)
    wire[position] = value
    with pytest.raises(DecodeError, match=text):
        message_from_wire(wire)


@pytest.mark.parametrize("position", [0, 2, 3, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("value", [0, 1, NUMBER_MAX])
def test_the_ends_of_the_range_are_within(position: int, value: int) -> None:
    wire = VALID.copy()
    wire[position] = value
    group, message = message_from_wire(wire)
    assert message_to_wire(group, message) == wire


def test_a_message_of_nothing_but_zeros_is_in_range() -> None:
    _, message = message_from_wire([0, 3, 0, 0, 0, 0, 0, 0, False, 0, b"", []])
    assert message == Message(kind=MessageKind.APPEND)


@pytest.mark.parametrize(
    ("position", "value", "text"),
    [
        (1, len(MessageKind), f"kind {len(MessageKind)} is unknown"),
        (1, -1, "kind -1 is unknown"),
        (1, NUMBER_MAX + 1, "is unknown"),
        (1, True, "wrong type"),
        (8, 0, "wrong type"),
        (8, None, "wrong type"),
        (10, "x", "wrong type"),
        (10, None, "wrong type"),
        (11, None, "entries are NoneType, not an array"),
        (11, b"", "entries are bytes, not an array"),
        (11, (1, 1, 0, b""), "entries are tuple, not an array"),
    ],
)
def test_kind_flag_context_and_entries_are_checked(position: int, value: Any, text: str) -> None:
    wire = VALID.copy()
    wire[position] = value
    with pytest.raises(DecodeError, match=text):
        message_from_wire(wire)


@pytest.mark.parametrize("wire", [None, (), [], VALID[:-1], [*VALID, 0, 0], {"kind": 3}])
def test_a_message_is_an_array_of_its_fields(wire: object) -> None:
    with pytest.raises(DecodeError, match="array of 12"):
        message_from_wire(wire)


@pytest.mark.parametrize("kind", PLAIN_KINDS)
def test_most_kinds_have_no_thirteenth_item(kind: MessageKind) -> None:
    with pytest.raises(DecodeError, match=f"kind {kind.name} does not have 13 items"):
        message_from_wire(message_of(+kind, 0))


@pytest.mark.parametrize("kind", [MessageKind.VOTE, MessageKind.PRE_VOTE, MessageKind.SNAPSHOT])
def test_requests_for_votes_and_snapshots_have_a_thirteenth_item(kind: MessageKind) -> None:
    with pytest.raises(DecodeError, match=f"kind {kind.name} does not have 12 items"):
        message_from_wire(message_of(+kind))


@pytest.mark.parametrize("kind", LOCAL_KINDS)
@pytest.mark.parametrize("last", [(), (0,), (SNAPSHOT_ITEM,)])
def test_local_kinds_are_refused_on_arrival(kind: MessageKind, last: tuple[object, ...]) -> None:
    with pytest.raises(DecodeError, match=f"kind {kind.name} do not travel"):
        message_from_wire(message_of(+kind, *last))


@pytest.mark.parametrize("kind", LOCAL_KINDS)
def test_local_kinds_cannot_leave(kind: MessageKind) -> None:
    with pytest.raises(InvariantError, match=f"kind {kind.name} was to leave"):
        message_to_wire(1, Message(kind=kind))


def test_a_snapshot_message_cannot_leave_without_its_snapshot() -> None:
    with pytest.raises(InvariantError, match="without its snapshot"):
        message_to_wire(1, Message(kind=MessageKind.SNAPSHOT))


def test_local_fields_stay_behind() -> None:
    message = Message(
        kind=MessageKind.APPEND_RESPONSE,
        vote=3,
        priority=4,
        snapshot=Snapshot(1, 1, Membership((1,))),
        responses=[Message(kind=MessageKind.VOTE)],
    )
    wire = message_to_wire(1, message)
    assert message_from_wire(wire) == (1, Message(kind=MessageKind.APPEND_RESPONSE))


@pytest.mark.parametrize("kind", [MessageKind.VOTE, MessageKind.PRE_VOTE])
@pytest.mark.parametrize("value", [-1, NUMBER_MAX + 1, True, None, 1.0, b"", []])
def test_a_priority_is_checked(kind: MessageKind, value: object) -> None:
    with pytest.raises(DecodeError, match="priority"):
        message_from_wire(message_of(+kind, value))


@pytest.mark.parametrize("kind", [MessageKind.VOTE, MessageKind.PRE_VOTE])
@pytest.mark.parametrize("priority", [0, 1, NUMBER_MAX])
def test_a_priority_travels(kind: MessageKind, priority: int) -> None:
    _, message = message_from_wire(message_of(+kind, priority))
    assert message == Message(kind=kind, to=1, sender=2, term=1, priority=priority)


def test_a_snapshot_travels() -> None:
    _, message = message_from_wire(message_of(+MessageKind.SNAPSHOT, SNAPSHOT_ITEM))
    assert message.snapshot == Snapshot(7, 2, Membership((1, 2, 3)), b"image")


@pytest.mark.parametrize("value", [None, [], 1, b""])
def test_a_snapshot_message_needs_a_valid_snapshot(value: object) -> None:
    with pytest.raises(DecodeError, match="a snapshot is not an array of 4"):
        message_from_wire(message_of(+MessageKind.SNAPSHOT, value))


@pytest.mark.parametrize("kind", sorted(REMOTE_KINDS - {MessageKind.APPEND, MessageKind.PROPOSE}))
def test_only_appends_and_proposals_carry_entries(kind: MessageKind) -> None:
    last: dict[MessageKind, list[object]] = {
        MessageKind.VOTE: [0],
        MessageKind.PRE_VOTE: [0],
        MessageKind.SNAPSHOT: [SNAPSHOT_ITEM],
    }
    wire = message_of(+kind, *last.get(kind, []), entries=[1, 1, 0, b""])
    with pytest.raises(DecodeError, match=f"kind {kind.name} has no entries"):
        message_from_wire(wire)


@pytest.mark.parametrize(
    ("kind", "item"), [(MessageKind.APPEND, [1, 0, b""]), (MessageKind.PROPOSE, [0, 0, b""])]
)
def test_the_entries_of_one_message_are_bounded(
    kind: MessageKind, item: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ENTRIES_MAX == 1 << 20
    monkeypatch.setattr(serializer, "ENTRIES_MAX", 100)
    items = [item[0]] + item * 100
    _, message = message_from_wire(message_of(+kind, entries=items))
    assert len(message.entries) == 100
    with pytest.raises(DecodeError, match="has 101 entries, more than 100"):
        message_from_wire(message_of(+kind, entries=items + item))


def test_the_entries_of_a_log_record_are_not_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serializer, "ENTRIES_MAX", 100)
    entries = log_of(*[1] * 101)
    assert unpack_entries(pack_entries(entries)) == entries


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
    assert entries_to_wire([]) == []
    assert entries_from_wire([]) == []


def test_the_last_possible_places_in_a_log_are_decoded() -> None:
    items: list[object] = [NUMBER_MAX - 4, NUMBER_MAX, 0, b""]
    assert entries_from_wire(items) == [entry(NUMBER_MAX, NUMBER_MAX - 4)]


@pytest.mark.parametrize("kind", EntryKind)
def test_every_kind_of_entry_has_its_number_on_disk(kind: EntryKind) -> None:
    numbers = {"NORMAL": 0, "CONFIG_CHANGE": 1, "CONFIG_CHANGE_V2": 2, "STRIPPED": 3}
    (decoded,) = entries_from_wire([5, 2, numbers[kind.name], b""])
    assert decoded == Entry(2, 5, kind, b"")
    assert decoded.kind is kind


def test_proposals_have_neither_term_nor_index() -> None:
    entries = [
        Entry(0, 0, EntryKind.NORMAL, b"x"),
        Entry(0, 0, EntryKind.CONFIG_CHANGE, b"y"),
        Entry(0, 0, EntryKind.CONFIG_CHANGE_V2, b""),
    ]
    message = Message(kind=MessageKind.PROPOSE, to=1, sender=2, entries=entries)
    wire = message_to_wire(1, message)
    assert wire[-1] == [0, 0, 0, b"x", 0, 1, b"y", 0, 2, b""]
    assert message_from_wire(wire) == (1, message)


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ({}, "entries are dict"),
        ([0], "1 items"),
        ([0, 0, 0], "3 items"),
        ([1, 0, 0, b""], "first index of proposals"),
        ([False, 0, 0, b""], "first index of proposals"),
        ([0, 1, 0, b""], "term of a proposal"),
        ([0, False, 0, b""], "term of a proposal"),
        ([0, 0.0, 0, b""], "term of a proposal"),
        ([0, 0, 0, b"", 1, 0, b""], "term of a proposal"),
        ([0, 0, 0, "text"], "payload of a proposal is str"),
        ([0, 0, 3, b""], "kind of a proposal"),
        ([0, 0, -1, b""], "kind of a proposal"),
        ([0, 0, 4, b""], "kind of a proposal"),
        ([0, 0, True, b""], "kind of a proposal"),
        ([0, 0, None, b""], "kind of a proposal"),
    ],
)
def test_bad_proposals_are_refused_by_name(items: object, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        message_from_wire(message_of(+MessageKind.PROPOSE, entries=items))


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
    data = bytes.fromhex("9a07" + "0200c4026162" + "0302c400" + "0303c400")
    assert pack_entries(entries) == data
    assert unpack_entries(memoryview(data)) == entries


def test_the_encoding_of_a_membership_does_not_change() -> None:
    membership = Membership((1, 2, 300), (2, 4), (6,), (4,), True, (2,))
    data = bytes.fromhex("97" + "01" + "930102cd012c" + "920204" + "9106" + "9104" + "c3" + "9102")
    assert pack_membership(membership) == data
    assert unpack_membership(memoryview(data)) == membership


def test_the_encoding_on_the_wire_does_not_change() -> None:
    fields: dict[str, Any] = {
        "to": 2, "sender": 1, "term": 3, "log_term": 2, "index": 6, "commit": 5,
        "reject": True, "reject_hint": 4, "context": b"c",
    }  # fmt: skip
    common = [2, 1, 3, 2, 6, 5, True, 4, b"c"]
    kinds = MessageKind
    append = Message(kind=kinds.APPEND, entries=[entry(3, 7, b"x")], **fields)
    assert message_to_wire(9, append) == [9, 3, *common, [7, 3, 0, b"x"]]
    vote = Message(kind=kinds.VOTE, priority=8, **fields)
    assert message_to_wire(9, vote) == [9, 5, *common, [], 8]
    pre_vote = Message(kind=kinds.PRE_VOTE, priority=0, **fields)
    assert message_to_wire(9, pre_vote) == [9, 17, *common, [], 0]
    snapshot = Snapshot(7, 2, Membership((1, 2, 3)), b"image")
    message = Message(kind=kinds.SNAPSHOT, snapshot=snapshot, **fields)
    assert message_to_wire(9, message) == [9, 7, *common, [], SNAPSHOT_ITEM]
    for one in (append, vote, pre_vote, message):
        wire = message_to_wire(9, one)
        assert all(type(item) is not kinds for item in wire)
        assert message_from_wire(wire) == (9, one)
