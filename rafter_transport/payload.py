"""The payload of a frame: `[[channel, [item, …]], …]` in msgpack, one entry per channel.

An item is bytes, int, str, float, bool, None or a list of such. Maps, extension types and anything
nested deeper than msgpack's own stack (1024) are refused on arrival, without a walk over the items
in Python. A msgpack timestamp cannot be refused that way: it is read as the float it stands for,
which the schema of the item then has to judge like any other float.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NoReturn

import msgpack
import msgspec


class Channel(IntEnum):
    """To which part of the receiving shard an item is addressed. At most 15, below 128."""

    RAFT = 1
    REQUEST = 2
    REPLY = 3
    ADMIN = 4
    CLUSTER_MAP = 5


class PayloadError(Exception):
    """The peer's payload is not what the format allows; also raised by handlers for its items."""


PAYLOAD_OVERHEAD_BYTES = 1
CHANNEL_OVERHEAD_BYTES = 1 + 1 + 5
"""Array of two, channel number, and the longest header of an array of items."""

ITEM_OVERHEAD_BYTES = PAYLOAD_OVERHEAD_BYTES + CHANNEL_OVERHEAD_BYTES
"""What an item alone in its frame needs beside itself."""

_FIXED_ARRAY = 0x90
_ARRAY_16 = struct.Struct(">BH")
_ARRAY_32 = struct.Struct(">BI")
_encoder = msgspec.msgpack.Encoder()
_unpackb = msgpack.unpackb

pack_item = _encoder.encode
"""Encode one item. Raises TypeError, OverflowError or ValueError: the caller's fault."""


def array_header(count: int) -> bytes:
    """Return the msgpack header of an array of `count` items."""
    if count < 16:
        return bytes((_FIXED_ARRAY | count,))
    if count < 1 << 16:
        return _ARRAY_16.pack(0xDC, count)
    return _ARRAY_32.pack(0xDD, count)


def join_payload(channels: dict[int, list[bytes]]) -> bytes:
    """Join packed items into one payload; channels and items stay in their order."""
    parts = [array_header(len(channels))]
    for channel, items in channels.items():
        parts.append(bytes((_FIXED_ARRAY | 2, channel)))
        parts.append(array_header(len(items)))
        parts += items
    return b"".join(parts)


def unpack(data: bytes) -> Any:  # noqa: ANN401 - what arrives is unknown until it is checked
    """Decode msgpack from a stranger, within the kinds above. Raises PayloadError.

    The lengths that an array or a string announces are held to the length of `data` by msgpack.
    """
    try:
        return _unpackb(
            data, strict_map_key=True, object_pairs_hook=_refuse_map, ext_hook=_refuse_ext,
            timestamp=1,
        )  # fmt: skip
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise PayloadError(f"undecodable payload: {error or type(error).__name__}") from error


def unpack_payload(payload: bytes) -> list[tuple[int, list[Any]]]:
    """Decode a frame's payload into its (channel, items) parts. Raises PayloadError.

    Only the two outer levels are checked here: the items are their channel's to judge.
    """
    parts = unpack(payload)
    if type(parts) is not list:
        raise PayloadError("payload is not an array of channels")
    for part in parts:
        if (
            type(part) is not list
            or len(part) != 2
            or type(part[0]) is not int
            or type(part[1]) is not list
        ):
            raise PayloadError("payload holds something else than [channel, items]")
    return parts


def _refuse_map(_pairs: Sequence[object]) -> NoReturn:
    raise ValueError("maps are not allowed")


def _refuse_ext(code: int, _data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code} is not allowed")
