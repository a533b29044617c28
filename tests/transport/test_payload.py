"""The payload of frames: round trips, kinds that are refused, and any bytes at all."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_transport import Channel, PayloadError
from rafter_transport.payload import (
    CHANNEL_OVERHEAD_BYTES,
    PAYLOAD_OVERHEAD_BYTES,
    array_header,
    join_payload,
    pack_item,
    unpack,
    unpack_payload,
)

items = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=20)
    | st.text(max_size=20),
    lambda children: st.lists(children, max_size=5),
    max_leaves=8,
)


# Many items or deep ones, not both: to draw them costs a hundred times what is tested.
@given(
    st.dictionaries(
        st.sampled_from(list(Channel)),
        st.lists(items, min_size=1, max_size=4) | st.lists(st.none(), min_size=1, max_size=20),
    )
)
def test_what_is_joined_is_unpacked_again(channels: dict[Channel, list[Any]]) -> None:
    packed = {
        int(channel): [pack_item(item) for item in values] for channel, values in channels.items()
    }
    payload = join_payload(packed)
    assert list(map(tuple, unpack_payload(payload))) == list(channels.items())
    size = sum(len(item) for values in packed.values() for item in values)
    assert len(payload) <= PAYLOAD_OVERHEAD_BYTES + len(packed) * CHANNEL_OVERHEAD_BYTES + size


@pytest.mark.parametrize("count", [0, 15, 16, 65535, 65536])
def test_array_headers_are_msgpacks(count: int) -> None:
    assert array_header(count) == msgpack.Packer().pack_array_header(count)


@given(st.binary(max_size=200))
def test_any_bytes_give_parts_or_a_payload_error(data: bytes) -> None:
    try:
        parts = unpack_payload(data)
    except PayloadError:
        return
    assert all(type(channel) is int and type(values) is list for channel, values in parts)


@given(st.binary(max_size=60))
def test_any_item_bytes_give_allowed_kinds_or_a_payload_error(data: bytes) -> None:
    def check(value: object) -> None:
        assert type(value) in {bytes, int, str, list, type(None), bool, float}
        if isinstance(value, list):
            for element in value:
                check(element)

    try:
        value = unpack(data)
    except PayloadError:
        return
    check(value)


@pytest.mark.parametrize("seconds", [0, 1 << 33, -(1 << 62)])
def test_a_timestamp_is_no_more_than_a_float(seconds: int) -> None:
    assert type(unpack(msgpack.packb(msgpack.Timestamp(seconds)))) is float


@pytest.mark.parametrize("value", [{}, {"a": 1}, [[{1: 2}]], msgpack.ExtType(5, b"x")])
def test_maps_and_extensions_are_refused(value: object) -> None:
    with pytest.raises(PayloadError, match="not allowed"):
        unpack(msgpack.packb(value))


@pytest.mark.parametrize(
    "data",
    [
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
        b"\x91" * 1_000_000,
    ],
    ids=["bytes", "text", "array", "map", "extension", "depth"],
)
def test_announced_sizes_and_depths_are_refused(data: bytes) -> None:
    with pytest.raises(PayloadError):
        unpack(data)


def test_items_that_have_no_form_are_the_callers_error() -> None:
    for item in (object(), 1 << 64, "\ud800"):
        with pytest.raises((TypeError, OverflowError, ValueError)):
            pack_item(item)
