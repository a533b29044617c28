"""Operations on keys whatever their values are: DEL, EXISTS, KEYS, SCAN, FLUSHALL."""

from rafter_kv.keyspace import KeySpace
from rafter_kv.operations import parse_integer
from rafter_kv.patterns import compile_pattern
from rafter_kv.results import (
    INVALID_CURSOR,
    NOT_AN_INTEGER,
    OK,
    SYNTAX_ERROR,
    TYPE_NONE,
    TYPE_STRING,
    Arguments,
    Result,
)
from rafter_kv.slots import POSITION_BITS

SCAN_COUNT_DEFAULT = 10
SCAN_COUNT_MAX = 10_000
"""Keys one SCAN looks at in a group, whatever its COUNT says: it may not hold the shard up."""


def delete(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """DEL key [key ...], and UNLINK."""
    removed = 0
    for key in arguments[1:]:
        removed += keyspace.take(key, now_ms) is not None and keyspace.remove(key)
    return removed


def exists(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """EXISTS key [key ...], and TOUCH. A key named twice counts twice."""
    return sum(keyspace.get(key, now_ms) is not None for key in arguments[1:])


def type_(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """TYPE key."""
    return TYPE_NONE if keyspace.get(arguments[1], now_ms) is None else TYPE_STRING


def keys(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """KEYS pattern: all matching keys of the group, at once."""
    matches = compile_pattern(arguments[1])
    return [key for key in keyspace.keys(now_ms) if matches(key)]


def scan(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """SCAN position [MATCH pattern] [COUNT count] [TYPE type], within this group.

    The result is [next position as text, keys]; position 0 is the start, and as next position
    the end of the group. The connection makes one cursor of group and position.
    """
    position = parse_integer(arguments[1])
    if position is None or not 0 <= position < 1 << POSITION_BITS:
        return INVALID_CURSOR
    if len(arguments) % 2:
        return SYNTAX_ERROR
    count, pattern, is_string = SCAN_COUNT_DEFAULT, b"*", True
    for option, value in zip(arguments[2::2], arguments[3::2], strict=True):
        match option.upper():
            case b"COUNT":
                number = parse_integer(value)
                if number is None:
                    return NOT_AN_INTEGER
                if number < 1:
                    return SYNTAX_ERROR
                count = min(number, SCAN_COUNT_MAX)
            case b"MATCH":
                pattern = value
            case b"TYPE":
                is_string = value.lower() == b"string"
            case _:
                return SYNTAX_ERROR
    page = keyspace.scan(position, count, now_ms)
    matches = compile_pattern(pattern)
    found: list[Result] = [key for key in page.keys if is_string and matches(key)]
    return [b"%d" % page.position, found]


def dbsize(keyspace: KeySpace, _arguments: Arguments, _now_ms: int) -> Result:
    """DBSIZE. Keys past their deadline count until they are removed, as in Redis."""
    return keyspace.key_count


def flush(keyspace: KeySpace, arguments: Arguments, _now_ms: int) -> Result:
    """FLUSHALL [ASYNC | SYNC], and FLUSHDB: there is one database."""
    if len(arguments) > 2 or (
        len(arguments) == 2 and arguments[1].upper() not in (b"ASYNC", b"SYNC")
    ):
        return SYNTAX_ERROR
    keyspace.clear()
    return OK
