from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rafter_core import (
    NUMBER_MAX,
    DecodeError,
    Entry,
    EntryKind,
    Message,
    MessageKind,
    message_from_wire,
    message_to_wire,
    pack_entries,
    unpack_entries,
)
from rafter_core.serializer import entries_from_wire
from tests.core.support import entry, log_of

numbers = st.integers(0, NUMBER_MAX)


@st.composite
def contiguous_entries(draw: st.DrawFn) -> list[Entry]:
    terms = sorted(draw(st.lists(st.integers(1, NUMBER_MAX), max_size=6)))
    first = draw(st.integers(1, NUMBER_MAX - 100))
    return [
        Entry(term, first + position, draw(st.sampled_from(EntryKind)), draw(st.binary()))
        for position, term in enumerate(terms)
    ]


messages = st.builds(
    Message,
    kind=st.sampled_from(MessageKind),
    to=numbers,
    sender=numbers,
    term=numbers,
    log_term=numbers,
    index=numbers,
    entries=contiguous_entries(),
    commit=numbers,
    reject=st.booleans(),
    reject_hint=numbers,
    context=st.binary(),
)
junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.binary()
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary(), inner),
    max_leaves=20,
)


@given(contiguous_entries())
def test_entries_survive_the_round_trip(entries: list[Entry]) -> None:
    decoded = unpack_entries(pack_entries(entries))
    assert decoded == entries
    assert all(type(e) is Entry and type(e.kind) is EntryKind for e in decoded)


@given(numbers, messages)
def test_messages_survive_the_round_trip(group: int, message: Message) -> None:
    wire = msgpack.unpackb(msgpack.packb(message_to_wire(group, message)))
    assert message_from_wire(wire) == (group, message)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        entries = unpack_entries(data)
    except DecodeError:
        return
    assert unpack_entries(pack_entries(entries)) == entries


@given(junk)
def test_any_value_is_a_message_or_is_refused(value: object) -> None:
    with pytest.raises(DecodeError):
        message_from_wire(value)
    with pytest.raises(DecodeError):
        message_from_wire([1, 3, 1, 2, 1, 0, 0, 0, False, 0, b"", [value]])


@settings(max_examples=300)
@given(messages.map(lambda m: message_to_wire(1, m)), st.integers(0, 11), junk)
def test_one_foreign_field_is_a_message_or_is_refused(
    wire: list[object], position: int, value: object
) -> None:
    wire[position] = value
    try:
        group, message = message_from_wire(wire)
    except DecodeError:
        return
    assert message_to_wire(group, message) == wire


@given(st.binary(min_size=1, max_size=60), st.integers(0, 59), st.integers(0, 255))
def test_a_changed_byte_never_raises_anything_else(
    payload: bytes, position: int, value: int
) -> None:
    data = bytearray(pack_entries([entry(1, 1, payload), entry(2, 2, payload)]))
    data[position % len(data)] = value
    try:
        unpack_entries(bytes(data))
    except DecodeError:
        return


VALID: list[object] = [1, 3, 1, 2, 1, 0, 0, 0, False, 0, b"", []]


@pytest.mark.parametrize("position", [0, 2, 3, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("value", [-1, NUMBER_MAX + 1, True, 1.0, None, b"1", "1"])
def test_every_number_is_checked_for_type_and_range(position: int, value: Any) -> None:
    wire = VALID.copy()
    message_from_wire(wire)
    wire[position] = value
    with pytest.raises(DecodeError):
        message_from_wire(wire)


@pytest.mark.parametrize(
    ("position", "value"),
    [(1, 24), (1, -1), (1, True), (8, 0), (8, None), (10, "x"), (10, None), (11, None), (11, b"")],
)
def test_kind_flag_context_and_entries_are_checked(position: int, value: Any) -> None:
    wire = VALID.copy()
    wire[position] = value
    with pytest.raises(DecodeError):
        message_from_wire(wire)


@pytest.mark.parametrize("wire", [None, (), [], VALID[:-1], [*VALID, 0], {"kind": 3}])
def test_a_message_has_exactly_its_fields(wire: object) -> None:
    with pytest.raises(DecodeError, match="array of 12"):
        message_from_wire(wire)


@pytest.mark.parametrize(
    ("items", "text"),
    [
        (None, "not an array"),
        ([1], "1 items"),
        ([1, 1, 0], "3 items"),
        ([0, 1, 0, b""], "first index"),
        ([NUMBER_MAX, 1, 0, b""], "first index"),
        ([True, 1, 0, b""], "first index"),
        ([1, 0, 0, b""], "term of entry 1"),
        ([1, NUMBER_MAX + 1, 0, b""], "term of entry 1"),
        ([1, True, 0, b""], "term of entry 1"),
        ([1, 2, 0, b"", 1, 0, b""], "term of entry 2 is out of range or falls"),
        ([1, 1, 3, b""], "kind of entry 1"),
        ([1, 1, -1, b""], "kind of entry 1"),
        ([1, 1, False, b""], "kind of entry 1"),
        ([1, 1, 0, "text"], "payload of entry 1 is str"),
        ([1, 1, 0, None], "payload of entry 1 is NoneType"),
    ],
)
def test_bad_entries_are_refused_by_name(items: object, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        entries_from_wire(items)


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(DecodeError):
        unpack_entries(pack_entries(log_of(1)) + b"\xc0")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xdd\xff\xff\xff\xff",
        b"\x94\x01\x01\x00\xc6\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"\x81\x01\x01",
        b"\xd6\xff\x00\x00\x00\x00",
    ],
)
def test_hostile_lengths_nesting_and_types_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        unpack_entries(data)


def test_the_encoding_on_disk_does_not_change() -> None:
    entries = [entry(2, 7, b"ab"), Entry(3, 8, EntryKind.CONFIG_CHANGE_V2, b"")]
    data = bytes.fromhex("97070200c4026162" + "0302c400")
    assert pack_entries(entries) == data
    assert unpack_entries(memoryview(data)) == entries


def test_the_encoding_on_the_wire_does_not_change() -> None:
    message = Message(
        kind=MessageKind.APPEND,
        to=2,
        sender=1,
        term=3,
        index=6,
        log_term=2,
        commit=5,
        entries=[entry(3, 7, b"x")],
    )
    assert message_to_wire(9, message) == [
        9, 3, 2, 1, 3, 2, 6, 5, False, 0, b"", [7, 3, 0, b"x"],
    ]  # fmt: skip
