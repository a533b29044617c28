"""How inputs are made: valid ones changed in their bytes or their structure, and noise."""

import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

EDITS_MAX = 3
RANDOM_BYTES_MAX = 100
NESTING_MAX = 1100
"""Deeper than Python's recursion and msgpack's stack."""

# The ends of msgpack's ranges, and bytes behind which it expects a length.
_BYTES = bytes.fromhex(
    "00017f8081908f91929fa0a1bfc0c1c2c3c4c5c6c7c9cacbcccdcecfd0d3d4d8d9dbdcdddeffe0"
)
_NUMBERS = (0, 1, 2, 127, 128, 255, 256, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1,
            1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -1, -32, -33, -(1 << 63))  # fmt: skip
_WORDS = tuple(
    struct.pack(order + size, number)
    for order in "<>"
    for size, end in (("H", 1 << 16), ("I", 1 << 32), ("Q", 1 << 64))
    for number in _NUMBERS
    if 0 <= number < end
)
_NESTS = (b"\x91", b"\xdc\x00\x01", b"\x92\x01", b"\x81\x01")
_TAILS = (b"", b"\xc0", b"\xc0\xc0", b"\x90\x90", b"\xc1", b"\xc4")


def changed_bytes(generator: random.Random, data: bytes, other: bytes) -> bytes:
    """Flip, overwrite, cut, double or insert, a few times; `other` is where parts come from."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, EDITS_MAX)):
        begin = generator.randint(0, len(changed))
        end = min(len(changed), begin + generator.randint(1, 24))
        way = generator.randrange(9)
        if way == 0 and begin < end:
            changed[begin] ^= 1 << generator.randrange(8)
        elif way == 1 and begin < end:
            changed[begin] = generator.randrange(256)
        elif way == 2 and begin < end:
            changed[begin] = generator.choice(_BYTES)
        elif way == 3:
            del changed[begin:end]
        elif way == 4:
            del changed[begin:]
        elif way == 5:
            changed[begin:begin] = changed[begin:end]
        elif way == 6:
            word = generator.choice(_WORDS)
            changed[begin : begin + len(word)] = word
        elif way == 7:
            changed[begin:begin] = generator.randbytes(generator.randint(1, 8))
        else:
            cut = generator.randint(0, len(other))
            changed[begin:end] = other[cut : cut + generator.randint(0, 24)]
    return bytes(changed)


def changed_item(generator: random.Random, data: bytes) -> bytes:
    """Replace, drop or add values at any depth of a valid msgpack array."""
    item = msgpack.unpackb(data, strict_map_key=False)
    for _ in range(generator.randint(1, EDITS_MAX)):
        place = item
        while generator.random() < 0.5:
            deeper = [inner for inner in place if type(inner) is list]
            if not deeper:
                break
            place = generator.choice(deeper)
        position = generator.randint(0, len(place))
        length = generator.randrange(2)
        place[position : position + length] = (
            [random_item(generator)] if generator.random() < 0.7 else []
        )
    return pack(item)


def random_item(generator: random.Random, depth: int = 3) -> Any:
    """Return whatever msgpack can hold, not too large."""
    way = generator.randrange(10 if depth else 8)
    if way < 3:
        return generator.choice(_NUMBERS)
    if way == 3:
        return generator.randint(-2, 30)
    if way == 4:
        return generator.randbytes(generator.randrange(20))
    if way == 5:
        return generator.choice(("", "a", "é" * 40, "\x00", "rafter", "x" * 600))
    if way == 6:
        return generator.choice((None, False, True, 0.0, -1.5, float("nan"), float("inf")))
    if way == 7:
        code = generator.randrange(128)
        return msgpack.ExtType(code, generator.randbytes(generator.choice((0, 1, 4, 8, 12))))
    inner = [random_item(generator, depth - 1) for _ in range(generator.randrange(8))]
    return inner if way == 8 else {repr(value): value for value in inner}


def random_nesting(generator: random.Random) -> bytes:
    """Return arrays or maps in each other, with and without something behind them.

    Some announce as many items as the input has bytes, each of them.
    """
    depth = generator.randrange(NESTING_MAX)
    wide = b"\xdc" + struct.pack(">H", 3 * depth)
    return generator.choice((*_NESTS, wide)) * depth + generator.choice(_TAILS)


def random_bytes(generator: random.Random) -> bytes:
    """Return a few bytes of noise."""
    return generator.randbytes(generator.randrange(RANDOM_BYTES_MAX))


def pack(item: object) -> bytes:
    """Return the msgpack of anything."""
    packed: bytes = msgpack.packb(item)
    return packed


def maker(
    seeds: Sequence[bytes], generator: random.Random, *, is_msgpack: bool
) -> Callable[[], bytes]:
    """Return what makes one input after the other out of valid ones, and out of nothing."""

    def make() -> bytes:
        way = generator.random()
        if is_msgpack and way < 0.3:
            return changed_item(generator, generator.choice(seeds))
        if is_msgpack and way < 0.4:
            return pack(random_item(generator))
        if is_msgpack and way < 0.42:
            return random_nesting(generator)
        if way < 0.5:
            return random_bytes(generator)
        return changed_bytes(generator, generator.choice(seeds), generator.choice(seeds))

    return make
