"""Operations on values as strings of bytes: SET with all its options, GET and its kin, ranges."""

from rafter_kv.keyspace import VALUE_BYTES_MAX, KeySpace
from rafter_kv.operations import expiry_deadline, parse_integer, parse_set_options
from rafter_kv.results import (
    NOT_AN_INTEGER,
    OFFSET_OUT_OF_RANGE,
    OK,
    STRING_TOO_LONG,
    SYNTAX_ERROR,
    Arguments,
    Result,
    wrong_arity,
)


def get(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """GET key."""
    return keyspace.get(arguments[1], now_ms)


def set_(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """SET key value [NX | XX] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]."""
    key, value = arguments[1], arguments[2]
    if len(arguments) == 3:
        keyspace.put(key, value)
        return OK
    options = parse_set_options(arguments, 3)
    if options is None:
        return SYNTAX_ERROR
    deadline_ms: int | None = None
    if options.expiry:
        computed = expiry_deadline(b"SET", options.expiry, options.expiry_value, now_ms)
        if isinstance(computed, str):
            return computed
        deadline_ms = computed
    if not (options.condition or options.ttl or options.returns_old):
        _put_until(keyspace, key, value, deadline_ms, now_ms)
        return OK
    old = keyspace.take(key, now_ms)
    is_set = not options.condition or (old is None) == (options.condition == b"NX")
    if is_set and options.ttl:
        keyspace.replace(key, value)
    elif is_set:
        _put_until(keyspace, key, value, deadline_ms, now_ms)
    if options.returns_old:
        return old
    return OK if is_set else None


def setnx(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """SETNX key value."""
    if keyspace.take(arguments[1], now_ms) is not None:
        return 0
    keyspace.put(arguments[1], arguments[2])
    return 1


def setex(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """SETEX key seconds value, and PSETEX key milliseconds value."""
    name, key, amount, value = arguments
    deadline_ms = expiry_deadline(name, b"PX" if name == b"PSETEX" else b"EX", amount, now_ms)
    if isinstance(deadline_ms, str):
        return deadline_ms
    _put_until(keyspace, key, value, deadline_ms, now_ms)
    return OK


def getset(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """GETSET key value."""
    old = keyspace.get(arguments[1], now_ms)
    keyspace.put(arguments[1], arguments[2])
    return old


def getdel(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """GETDEL key."""
    old = keyspace.get(arguments[1], now_ms)
    keyspace.remove(arguments[1])
    return old


def getex(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """GETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST]."""
    options = parse_set_options(arguments, 2)
    if options is None:
        return SYNTAX_ERROR
    key = arguments[1]
    value = keyspace.take(key, now_ms)
    if value is None:
        return None
    if options.expiry:
        deadline_ms = expiry_deadline(b"GETEX", options.expiry, options.expiry_value, now_ms)
        if isinstance(deadline_ms, str):
            return deadline_ms
        if deadline_ms <= now_ms:
            keyspace.remove(key)
        else:
            keyspace.set_deadline(key, deadline_ms)
    elif options.ttl:
        keyspace.clear_deadline(key)
    return value


def mget(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """MGET key [key ...]."""
    return [keyspace.get(key, now_ms) for key in arguments[1:]]


def mset(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """MSET key value [key value ...], and MSETNX, which sets all or, if one is there, none."""
    if len(arguments) % 2 == 0:
        return wrong_arity(arguments[0])
    only_new = arguments[0] == b"MSETNX"
    keys = arguments[1::2]
    if only_new and any(keyspace.take(key, now_ms) is not None for key in keys):
        return 0
    for key, value in zip(keys, arguments[2::2], strict=True):
        keyspace.put(key, value)
    return 1 if only_new else OK


def append(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """APPEND key value."""
    key, tail = arguments[1], arguments[2]
    value = keyspace.take(key, now_ms) or b""
    if value and len(value) + len(tail) > VALUE_BYTES_MAX:
        return STRING_TOO_LONG
    keyspace.replace(key, value + tail)
    return len(value) + len(tail)


def strlen(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """STRLEN key."""
    return len(keyspace.get(arguments[1], now_ms) or b"")


def getrange(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """GETRANGE key start end, and its old name SUBSTR. Both borders are included."""
    start, end = parse_integer(arguments[2]), parse_integer(arguments[3])
    if start is None or end is None:
        return NOT_AN_INTEGER
    value = keyspace.get(arguments[1], now_ms) or b""
    if start < 0 and end < 0 and start > end:
        return b""
    start = max(start + len(value), 0) if start < 0 else start
    end = max(end + len(value), 0) if end < 0 else end
    return value[start : end + 1]


def setrange(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """SETRANGE key offset value. A gap is filled with zero bytes."""
    key, patch = arguments[1], arguments[3]
    offset = parse_integer(arguments[2])
    if offset is None:
        return NOT_AN_INTEGER
    if offset < 0:
        return OFFSET_OUT_OF_RANGE
    value = keyspace.take(key, now_ms) or b""
    if not patch:
        return len(value)
    if offset + len(patch) > VALUE_BYTES_MAX:
        return STRING_TOO_LONG
    head = value[:offset].ljust(offset, b"\0")
    value = head + patch + value[offset + len(patch) :]
    keyspace.replace(key, value)
    return len(value)


def _put_until(
    keyspace: KeySpace, key: bytes, value: bytes, deadline_ms: int | None, now_ms: int
) -> None:
    """Set a value that goes at ``deadline_ms``; if that has passed, the key is gone at once."""
    if deadline_ms is None:
        keyspace.put(key, value)
    elif deadline_ms <= now_ms:
        keyspace.remove(key)
    else:
        keyspace.replace(key, value)
        keyspace.set_deadline(key, deadline_ms)
