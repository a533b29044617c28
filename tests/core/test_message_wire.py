"""Tests of rafter_core.message_wire."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core import message_wire
from rafter_core.entries import NUMBER_MAX, Entry, EntryKind
from rafter_core.errors import DecodeError, InvariantError
from rafter_core.membership import Membership
from rafter_core.message_wire import messages_from_wire, messages_to_wire
from rafter_core.messages import (
    APPEND_THREAD,
    ENTRIES_MAX,
    MESSAGES_MAX,
    REMOTE_KINDS,
    Message,
    MessageKind,
)
from rafter_core.snapshot import Snapshot
from tests.core import fuzz_serializer as fuzz
from tests.core.support import entry

LOCAL_KINDS = sorted(set(MessageKind) - REMOTE_KINDS)
PLAIN_KINDS = sorted(REMOTE_KINDS - {MessageKind.VOTE, MessageKind.PRE_VOTE, MessageKind.SNAPSHOT})
KINDS_WITH_ENTRIES = {MessageKind.APPEND, MessageKind.PROPOSE}
VOTE_KINDS = [MessageKind.VOTE, MessageKind.PRE_VOTE]
SNAPSHOT_ITEM: list[object] = [7, 2, [[1, 2, 3], [], [], [], False, []], b"image"]

# What the format says, and not how the module comes to it.
HEAD = struct.Struct("<BBqqqqqqq")
FIELDS = ("kind", "flags", "group", "term", "log_term", "index", "commit", "reject_hint", "body")
REJECT, CONTEXT = 1, 2


def head(**fields: int) -> bytes:
    """One head: of an APPEND of term 1 unless the test says otherwise."""
    values = dict.fromkeys(FIELDS, 0) | {"kind": 3, "group": 1, "term": 1} | fields
    return HEAD.pack(*(values[name] for name in FIELDS))


def item_of(
    heads: object, extras: object = (), entries: object = (), to: object = 1, sender: object = 2
) -> list[object]:
    """An item, its arrays as lists."""
    arrays = [list(each) if isinstance(each, tuple) else each for each in (extras, entries)]
    return [to, sender, heads, *arrays]


def refused(item: object, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        messages_from_wire(item)


def only(item: object) -> Message:
    ((_, message),) = messages_from_wire(item)
    return message


# Round trips --------------------------------------------------------------------------------------


@given(fuzz.batches())
def test_messages_survive_the_round_trip(batch: list[tuple[int, Message]]) -> None:
    fuzz.check_messages_survive(batch)


# To draw messages takes far longer than to decode them: what is drawn is tried in every place.


@given(fuzz.batches(), fuzz.junk)
def test_one_foreign_part_makes_messages_or_is_refused(
    batch: list[tuple[int, Message]], value: object
) -> None:
    item = messages_to_wire(batch)
    for position in range(len(item)):
        fuzz.check_messages_item([*item[:position], value, *item[position + 1 :]])


@given(fuzz.batches(), st.binary(min_size=1, max_size=1))
def test_one_foreign_byte_of_a_head_makes_messages_or_is_refused(
    batch: list[tuple[int, Message]], byte: bytes
) -> None:
    item = messages_to_wire(batch)
    heads = item[2]
    assert isinstance(heads, bytes)
    for position in range(len(heads)):
        item[2] = heads[:position] + byte + heads[position + 1 :]
        fuzz.check_messages_item(item)


def test_messages_of_many_groups_keep_their_order_and_what_is_theirs() -> None:
    common: dict[str, Any] = {"to": 2, "sender": 1, "term": 5}
    kinds = MessageKind
    snapshot = Snapshot(7, 2, Membership((1, 2, 3)), b"image")
    batch = [
        (
            4,
            Message(
                kind=kinds.APPEND, index=9, entries=[entry(5, 10, b"a"), entry(5, 11)], **common
            ),
        ),
        (1, Message(kind=kinds.APPEND_RESPONSE, index=3, **common)),
        (9, Message(kind=kinds.READ_INDEX, context=b"ask", **common)),
        (4, Message(kind=kinds.APPEND, index=11, entries=[entry(6, 12)], **common)),
        (7, Message(kind=kinds.SNAPSHOT, snapshot=snapshot, context=b"c", **common)),
        (4, Message(kind=kinds.APPEND, index=12, **common)),
        (2, Message(kind=kinds.PROPOSE, entries=[Entry(0, 0, EntryKind.NORMAL, b"x")], **common)),
        (3, Message(kind=kinds.VOTE, priority=6, context=b"CampaignTransfer", **common)),
        (3, Message(kind=kinds.APPEND_RESPONSE, reject=True, reject_hint=8, **common)),
    ]
    assert messages_from_wire(msgpack.unpackb(msgpack.packb(messages_to_wire(batch)))) == batch


@pytest.mark.parametrize("kind", PLAIN_KINDS)
def test_a_decoded_message_has_every_field(kind: MessageKind) -> None:
    message = only(item_of(head(kind=+kind)))
    assert message == Message(kind=kind, to=1, sender=2, term=1)
    assert message.kind is kind
    assert all(hasattr(message, name) for name in Message.__slots__)


def test_the_encoding_on_the_wire_does_not_change() -> None:
    fields: dict[str, Any] = {
        "to": 2, "sender": 1, "term": 3, "log_term": 2, "index": 6, "commit": 5,
        "reject": True, "reject_hint": 4, "context": b"c",
    }  # fmt: skip
    kinds = MessageKind
    snapshot = Snapshot(7, 2, Membership((1, 2, 3)), b"image")
    batch = [
        (9, Message(kind=kinds.APPEND, entries=[entry(3, 7, b"x")], **fields)),
        (9, Message(kind=kinds.VOTE, priority=8, **fields)),
        (8, Message(kind=kinds.SNAPSHOT, snapshot=snapshot, **fields)),
        (7, Message(kind=kinds.QUIESCE, to=2, sender=1, term=3)),
    ]
    common = {"term": 3, "log_term": 2, "index": 6, "commit": 5, "reject_hint": 4}
    flags = REJECT | CONTEXT
    heads = (
        head(kind=3, flags=flags, group=9, body=1, **common)
        + head(kind=5, flags=flags, group=9, body=8, **common)
        + head(kind=7, flags=flags, group=8, **common)
        + head(kind=24, group=7, term=3)
    )
    item = [2, 1, heads, [b"c", b"c", b"c", SNAPSHOT_ITEM], [3, 0, b"x"]]
    assert messages_to_wire(batch) == item
    assert messages_from_wire(item) == batch


# Nodes, heads and fields --------------------------------------------------------------------------


@pytest.mark.parametrize("wire", [None, (), [], [1, 2, head(), []], {"kind": 3}])
def test_messages_are_an_array_of_five_parts(wire: object) -> None:
    refused(wire, "array of 5")
    refused([*item_of(head()), 0], "array of 5")


@pytest.mark.parametrize("value", [-1, NUMBER_MAX + 1, APPEND_THREAD, True, 1.0, None, b"1", "1"])
def test_both_nodes_are_checked(value: object) -> None:
    refused(item_of(head(), to=value), "from no node")
    refused(item_of(head(), sender=value), "from no node")


@pytest.mark.parametrize(
    "heads", [None, [], b"", "x" * HEAD.size, bytearray(head()), head()[:-1], head() + b"\x00"]
)
def test_heads_are_bytes_of_a_whole_number_of_messages(heads: object) -> None:
    refused(item_of(heads), f"{HEAD.size} bytes for each")


@pytest.mark.parametrize("name", FIELDS[2:])
def test_every_number_is_checked_for_its_range(name: str) -> None:
    kind = +MessageKind.VOTE  # the kind whose body is any number
    only(item_of(head(kind=kind, **{name: NUMBER_MAX})))
    refused(item_of(head(kind=kind, **{name: -1})), "out of range")
    refused(item_of(head() + head(kind=kind, **{name: -NUMBER_MAX - 1})), "out of range")


def test_a_message_of_nothing_but_zeros_is_in_range() -> None:
    message = only(item_of(head(group=0, term=0), to=0, sender=0))
    assert message == Message(kind=MessageKind.APPEND)


@pytest.mark.parametrize("number", [len(MessageKind), 255])
def test_unknown_kinds_are_refused(number: int) -> None:
    refused(item_of(head(kind=number)), f"kind {number} is unknown")


@pytest.mark.parametrize("kind", LOCAL_KINDS)
def test_local_kinds_are_refused_on_arrival(kind: MessageKind) -> None:
    refused(item_of(head(kind=+kind)), f"kind {kind.name} do not travel")


@pytest.mark.parametrize("flags", [4, 7, 255])
def test_unknown_flags_are_refused(flags: int) -> None:
    refused(item_of(head(flags=flags), [b"context"]), f"flags of a message are {flags}")


@pytest.mark.parametrize("context", [b"", "x", None, 1, [b"x"]])
def test_a_context_is_bytes_and_not_empty(context: object) -> None:
    assert only(item_of(head(flags=CONTEXT), [b"x"])).context == b"x"
    refused(item_of(head(flags=CONTEXT), [context]), "context")
    refused(item_of(head(flags=CONTEXT)), "context")


def test_no_more_messages_are_taken_than_may_be_sent() -> None:
    assert len(messages_from_wire(item_of(head() * MESSAGES_MAX))) == MESSAGES_MAX
    refused(item_of(head() * (MESSAGES_MAX + 1)), f"more than {MESSAGES_MAX} messages")


@pytest.mark.parametrize("value", [None, b"", {}, 1, "x"])
def test_extras_and_entries_are_arrays(value: object) -> None:
    refused(item_of(head(), extras=value), "extras of messages are .*, not an array")
    refused(item_of(head(), entries=value), "entries of messages are .*, not an array")


@pytest.mark.parametrize(
    "item",
    [
        item_of(head(), [b"context"]),
        item_of(head(), [None]),
        item_of(head(flags=CONTEXT), [b"context", b"context"]),
        item_of(head(), (), [1, 0, b""]),
        item_of(head(body=1), (), [1, 0, b"", 1]),
        item_of(head(body=1), (), [1, 0, b"", 1, 0, b""]),
    ],
)
def test_nothing_may_be_left_over(item: object) -> None:
    refused(item, "more in an item than its messages have")


# Bodies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", VOTE_KINDS)
@pytest.mark.parametrize("priority", [0, 1, NUMBER_MAX])
def test_a_priority_travels(kind: MessageKind, priority: int) -> None:
    message = only(item_of(head(kind=+kind, body=priority)))
    assert message == Message(kind=kind, to=1, sender=2, term=1, priority=priority)


def test_a_snapshot_travels() -> None:
    message = only(item_of(head(kind=7), [SNAPSHOT_ITEM]))
    assert message.snapshot == Snapshot(7, 2, Membership((1, 2, 3)), b"image")


@pytest.mark.parametrize("extras", [[], [None], [[]], [1], [b""]])
def test_a_snapshot_message_needs_a_valid_snapshot(extras: list[object]) -> None:
    refused(item_of(head(kind=7), extras), "a snapshot is not an array of 4")


@pytest.mark.parametrize("kind", sorted(REMOTE_KINDS - KINDS_WITH_ENTRIES - set(VOTE_KINDS)))
def test_only_appends_and_proposals_carry_entries(kind: MessageKind) -> None:
    refused(item_of(head(kind=+kind, body=1), [], [1, 0, b""]), f"kind {kind.name} has no entries")


@pytest.mark.parametrize("kind", VOTE_KINDS)
def test_a_priority_is_no_number_of_entries(kind: MessageKind) -> None:
    refused(item_of(head(kind=+kind, body=1), [], [1, 0, b""]), "more in an item")


@pytest.mark.parametrize(("kind", "term"), [(3, 1), (2, 0)])
def test_the_entries_of_one_message_are_bounded(
    kind: int, term: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ENTRIES_MAX == 1 << 20
    monkeypatch.setattr(message_wire, "ENTRIES_MAX", 100)
    entries = [term, 0, b""] * 101
    assert len(only(item_of(head(kind=kind, body=100), [], entries[3:])).entries) == 100
    refused(item_of(head(kind=kind, body=101), [], entries), "has 101 entries, more than 100")


@pytest.mark.parametrize("kind", [2, 3])
@pytest.mark.parametrize("entries", [[], [1, 0, b""], [1, 0, b"", 1], [1, 0, b"", 1, 0]])
def test_a_message_has_no_more_entries_than_there_are(kind: int, entries: list[object]) -> None:
    refused(item_of(head(kind=kind, body=2), [], entries), "2 entries, more than are left")


@pytest.mark.parametrize("index", [NUMBER_MAX, NUMBER_MAX - 1])
def test_entries_end_before_the_last_possible_index(index: int) -> None:
    refused(item_of(head(index=index, body=1), [], [1, 0, b""]), "first index")


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([0, 0, b""], "term of entry 6"),
        ([2, 0, b"", 1, 0, b""], "term of entry 7 is out of range or falls"),
        ([1, 4, b""], "kind of entry 6 is unknown"),
        ([1, 3, b"x"], "entry 6 is stripped and has a payload"),
        ([1, 0, "text"], "payload of entry 6 is str"),
    ],
)
def test_the_entries_of_an_append_are_checked_like_those_of_the_log(
    entries: list[object], text: str
) -> None:
    refused(item_of(head(index=5, body=len(entries) // 3), [], entries), text)


def test_the_terms_of_one_message_say_nothing_of_those_of_the_next() -> None:
    heads = head(index=5, body=1) + head(group=2, index=7, body=1)
    (_, one), (_, other) = messages_from_wire(item_of(heads, [], [9, 0, b"x", 4, 0, b"y"]))
    assert list(one.entries) == [entry(9, 6, b"x")]
    assert list(other.entries) == [entry(4, 8, b"y")]


def test_proposals_have_neither_term_nor_index() -> None:
    entries = [
        Entry(0, 0, EntryKind.NORMAL, b"x"),
        Entry(0, 0, EntryKind.CONFIG_CHANGE, b"y"),
        Entry(0, 0, EntryKind.CONFIG_CHANGE_V2, b""),
    ]
    message = Message(kind=MessageKind.PROPOSE, to=1, sender=2, entries=entries)
    item = messages_to_wire([(1, message)])
    assert item[-1] == [0, 0, b"x", 0, 1, b"y", 0, 2, b""]
    assert messages_from_wire(item) == [(1, message)]


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([1, 0, b""], "term of a proposal"),
        ([False, 0, b""], "term of a proposal"),
        ([0.0, 0, b""], "term of a proposal"),
        ([0, 0, b"", 1, 0, b""], "term of a proposal"),
        ([0, 0, "text"], "payload of a proposal is str"),
        ([0, 3, b""], "kind of a proposal"),
        ([0, -1, b""], "kind of a proposal"),
        ([0, 4, b""], "kind of a proposal"),
        ([0, True, b""], "kind of a proposal"),
        ([0, None, b""], "kind of a proposal"),
    ],
)
def test_bad_proposals_are_refused_by_name(entries: list[object], text: str) -> None:
    refused(item_of(head(kind=2, body=len(entries) // 3), [], entries), text)


# What cannot leave --------------------------------------------------------------------------------


def message(kind: MessageKind = MessageKind.APPEND, **fields: Any) -> Message:
    return Message(**{"kind": kind, "to": 2, "sender": 1, "term": 3} | fields)


@pytest.mark.parametrize("kind", LOCAL_KINDS)
def test_local_kinds_cannot_leave(kind: MessageKind) -> None:
    with pytest.raises(InvariantError, match=f"kind {kind.name} was to leave"):
        messages_to_wire([(1, message()), (1, message(kind))])


def test_a_snapshot_message_cannot_leave_without_its_snapshot() -> None:
    with pytest.raises(InvariantError, match="without its snapshot"):
        messages_to_wire([(1, message(MessageKind.SNAPSHOT))])


@pytest.mark.parametrize("fields", [{"to": 3}, {"sender": 3}])
def test_messages_between_other_nodes_cannot_go_along(fields: dict[str, Any]) -> None:
    with pytest.raises(InvariantError, match="group 7 cannot go from 1 to 2"):
        messages_to_wire([(1, message()), (7, message(**fields))])


@pytest.mark.parametrize("name", ["term", "log_term", "index", "commit", "reject_hint"])
@pytest.mark.parametrize("value", [NUMBER_MAX + 1, -NUMBER_MAX - 2])
def test_a_number_beyond_its_field_cannot_leave(name: str, value: Any) -> None:
    with pytest.raises(InvariantError, match="group 7"):
        messages_to_wire([(7, message(**{name: value}))])


def test_entries_leave_only_where_they_follow_the_index_of_an_append() -> None:
    messages_to_wire([(1, message(index=4, entries=[entry(3, 5)]))])
    for wrong in (
        message(index=4, entries=[entry(3, 6)]),
        message(index=4, entries=[entry(3, 4)]),
        message(MessageKind.APPEND_RESPONSE, index=4, entries=[entry(3, 5)]),
        message(MessageKind.VOTE, index=4, entries=[entry(3, 5)]),
    ):
        with pytest.raises(InvariantError, match="cannot have these entries"):
            messages_to_wire([(1, wrong)])


def test_local_fields_stay_behind() -> None:
    sent = message(
        MessageKind.APPEND_RESPONSE,
        vote=3,
        priority=4,
        snapshot=Snapshot(1, 1, Membership((1,))),
        responses=[Message(kind=MessageKind.VOTE)],
    )
    item = messages_to_wire([(1, sent)])
    assert messages_from_wire(item) == [(1, message(MessageKind.APPEND_RESPONSE))]
