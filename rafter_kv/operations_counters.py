"""Operations on values as numbers: the INCR family. A key's deadline stays as it is."""

from rafter_kv import long_double
from rafter_kv.keyspace import KeySpace
from rafter_kv.operations import INTEGER_MAX, INTEGER_MIN, parse_integer
from rafter_kv.results import (
    DECREMENT_OVERFLOW,
    INCREMENT_NOT_FINITE,
    INCREMENT_OVERFLOW,
    NOT_A_FLOAT,
    NOT_AN_INTEGER,
    Arguments,
    Result,
)


def incr(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """INCR key."""
    return _increment(keyspace, arguments[1], 1, now_ms)


def decr(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """DECR key."""
    return _increment(keyspace, arguments[1], -1, now_ms)


def incrby(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """INCRBY key increment."""
    amount = parse_integer(arguments[2])
    if amount is None:
        return NOT_AN_INTEGER
    return _increment(keyspace, arguments[1], amount, now_ms)


def decrby(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """DECRBY key decrement."""
    amount = parse_integer(arguments[2])
    if amount is None:
        return NOT_AN_INTEGER
    if amount == INTEGER_MIN:
        return DECREMENT_OVERFLOW
    return _increment(keyspace, arguments[1], -amount, now_ms)


def incrbyfloat(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """INCRBYFLOAT key increment. The sum has 80-bit extended precision (see ``long_double``)."""
    value = keyspace.take(arguments[1], now_ms)
    total = _float_sum(value if value is not None else b"0", arguments[2])
    if isinstance(total, bytes):
        keyspace.replace(arguments[1], total)
    return total


def _increment(keyspace: KeySpace, key: bytes, amount: int, now_ms: int) -> Result:
    text = keyspace.take(key, now_ms)
    value = 0 if text is None else parse_integer(text)
    if value is None:
        return NOT_AN_INTEGER
    value += amount
    if not INTEGER_MIN <= value <= INTEGER_MAX:
        return INCREMENT_OVERFLOW
    keyspace.replace(key, b"%d" % value)
    return value


def _float_sum(augend: bytes, addend: bytes) -> bytes | str:
    infinite = False
    parsed = []
    for text in (augend, addend):
        try:
            number = long_double.parse(text)
        except long_double.NotFiniteError:
            infinite = True
            continue
        if number is None:
            return NOT_A_FLOAT
        parsed.append(number)
    if infinite:
        return INCREMENT_NOT_FINITE
    try:
        return long_double.render(long_double.add(*parsed))
    except long_double.NotFiniteError:
        return INCREMENT_NOT_FINITE
