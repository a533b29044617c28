"""The messages of express: what is read as it was written, and what is refused."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_transport.express_messages import (
    Accept,
    Ack,
    Cancel,
    Chunk,
    Done,
    ExpressError,
    Message,
    Offer,
    Refuse,
    decode,
    encode,
    is_sound,
    make_chunk,
    readable,
)

u64 = st.integers(0, (1 << 64) - 1)
number = st.integers(0, (1 << 63) - 1)
node = st.integers(1, 65535)
code = st.text(max_size=32).map(readable)
text = st.text(max_size=600).map(readable)
blob = st.binary(max_size=50)
messages = st.one_of(
    st.builds(Offer, u64, number, node, node, number, blob, blob),
    st.builds(Accept, u64, number, number.filter(bool)),
    st.builds(Refuse, u64, code, text),
    st.builds(Chunk, u64, number, u64, blob),
    st.builds(Ack, u64, number),
    st.builds(Done, u64, code, text),
    st.builds(Cancel, u64, text),
)


@given(messages)
def test_a_message_is_read_as_it_was_written(message: Message) -> None:
    decoded = decode(encode(message))
    assert decoded == message
    assert type(decoded) is type(message)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error_of_the_peer(data: bytes) -> None:
    try:
        message = decode(data)
    except ExpressError:
        return
    assert decode(encode(message)) == message


@given(messages, st.data())
def test_a_damaged_message_is_a_message_or_an_error_of_the_peer(
    message: Message, data: st.DataObject
) -> None:
    damaged = bytearray(encode(message))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    for payload in (bytes(damaged), bytes(damaged[: data.draw(st.integers(0, len(damaged)))])):
        try:
            found = decode(payload)
        except ExpressError:
            continue
        assert decode(encode(found)) == found


values = st.none() | st.booleans() | st.integers(-5, 70000) | st.floats() | st.text() | st.binary()


@given(st.integers(0, 9), st.lists(values | st.lists(values), max_size=9))
def test_any_fields_are_a_message_or_an_error_of_the_peer(kind: int, fields: list[Any]) -> None:
    try:
        message = decode(msgpack.packb([kind, *fields]))
    except ExpressError:
        return
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "items",
    [
        [], [8, 1], [0], [True, 1], ["1"], [5, 1], [5, 1, 1, 1], [5, True, 1], [5, 1, -1],
        [5, 1, 1.0], [5, 1, 1 << 63], [5, 1 << 64, 1], [4, 1, 1, 1, "data"], [4, 1, 1, 1, [1]],
        [2, 1, 1, 0], [1, 1, 1, 0, 1, 1, b"", b""], [1, 1, 1, 1, 65536, 1, b"", b""],
        [1, 1, 1, 1, 1, 1, b"", ""], [6, 1, "x" * 33, ""], [6, 1, "ok", "x" * 513],
        [6, 1, "o\nk", ""], [7, 1, b"text"], [7, 1, None],
    ],
)  # fmt: skip
def test_a_field_of_a_wrong_type_or_out_of_range_is_refused(items: list[Any]) -> None:
    try:
        payload = msgpack.packb(items)
    except OverflowError:
        payload = b"\x93\x05\xc4"
    with pytest.raises(ExpressError):
        decode(payload)


def test_a_checksum_tells_a_changed_chunk() -> None:
    chunk = make_chunk(1, 2, b"some data")
    assert is_sound(chunk)
    assert not is_sound(chunk._replace(data=b"some dota"))


def test_a_text_is_cut_to_what_the_peer_accepts() -> None:
    cancel = Cancel(1, readable("a\nb\x00" + "x" * 5000))
    assert decode(encode(cancel)) == cancel
    assert cancel.text.startswith("a b x")
