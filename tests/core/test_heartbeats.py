"""Tests of rafter_core.heartbeats."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core.entries import NUMBER_MAX, Entry, EntryKind
from rafter_core.errors import DecodeError, InvariantError
from rafter_core.heartbeats import (
    HEARTBEATS_MAX,
    heartbeats_from_wire,
    heartbeats_to_wire,
    is_heartbeat,
)
from rafter_core.messages import APPEND, HEARTBEAT, HEARTBEAT_RESPONSE, KINDS, VOTE, Message

numbers = st.integers(0, NUMBER_MAX)
pairs = st.lists(
    st.tuples(
        numbers, st.sampled_from([HEARTBEAT, HEARTBEAT_RESPONSE]), numbers, numbers, st.binary()
    ),
    min_size=1,
)


def heartbeat(group: int = 1, **fields: Any) -> tuple[int, Message]:
    return group, Message(**{"kind": HEARTBEAT, "to": 2, "sender": 1, "term": 3} | fields)


@given(pairs, numbers, numbers)
def test_what_is_encoded_is_decoded(
    made: list[tuple[int, Any, int, int, bytes]], to: int, sender: int
) -> None:
    heartbeats = [
        (group, Message(kind=kind, to=to, sender=sender, term=term, commit=commit, context=context))
        for group, kind, term, commit, context in made
    ]
    data = msgpack.packb(heartbeats_to_wire(heartbeats))
    assert heartbeats_from_wire(msgpack.unpackb(data)) == heartbeats


def test_only_heartbeats_and_their_responses_are_heartbeats() -> None:
    assert {kind for kind in KINDS if is_heartbeat(Message(kind=kind))} == {
        HEARTBEAT,
        HEARTBEAT_RESPONSE,
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": APPEND},
        {"kind": VOTE},
        {"to": 3},
        {"sender": 3},
        {"index": 1},
        {"log_term": 1},
        {"reject": True},
        {"reject_hint": 1},
        {"entries": [Entry(1, 1, EntryKind.NORMAL, b"")]},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_the_form_has_no_place_for_is_refused(fields: dict[str, Any]) -> None:
    heartbeats_to_wire([heartbeat(), heartbeat()])
    with pytest.raises(InvariantError):
        heartbeats_to_wire([heartbeat(), heartbeat(**fields)])


@pytest.mark.parametrize("position", range(7))
@pytest.mark.parametrize("value", [-1, NUMBER_MAX + 1, True, 1.0, None, "1", [1]])
def test_items_of_wrong_type_or_range_are_refused(position: int, value: object) -> None:
    item = heartbeats_to_wire([heartbeat(context=b"c", commit=4)])
    assert heartbeats_from_wire(list(item))
    item[position] = value
    with pytest.raises(DecodeError):
        heartbeats_from_wire(item)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not is_heartbeat(Message(kind=kind))])
def test_no_other_kind_can_be_smuggled_in(kind: int) -> None:
    item = heartbeats_to_wire([heartbeat()])
    item[3] = +kind
    with pytest.raises(DecodeError, match="among heartbeats"):
        heartbeats_from_wire(item)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 6, 8, 11, 13])
def test_arrays_of_a_wrong_length_are_refused(size: int) -> None:
    item = heartbeats_to_wire([heartbeat(), heartbeat(), heartbeat()])[:size]
    with pytest.raises(DecodeError, match=f"{size} items"):
        heartbeats_from_wire(item)


def test_no_more_heartbeats_are_taken_than_may_be_sent() -> None:
    one = heartbeats_to_wire([heartbeat()])
    allowed = one[:2] + one[2:] * HEARTBEATS_MAX
    assert len(heartbeats_from_wire(allowed)) == HEARTBEATS_MAX
    with pytest.raises(DecodeError, match="items"):
        heartbeats_from_wire(allowed + one[2:])


@pytest.mark.parametrize("item", [None, b"", {}, (1, 2), "heartbeats"])
def test_what_is_no_array_is_refused(item: object) -> None:
    with pytest.raises(DecodeError, match="not an array"):
        heartbeats_from_wire(item)
