"""Operations on deadlines: the EXPIRE family sets them, the TTL family tells them.

A deadline is absolute, in milliseconds of log time. A key is gone when the log's time reaches it.
"""

from rafter_kv.keyspace import KeySpace
from rafter_kv.operations import INTEGER_MAX, INTEGER_MIN, parse_integer
from rafter_kv.results import (
    EXPIRE_GT_LT_CONFLICT,
    EXPIRE_NX_CONFLICT,
    NOT_AN_INTEGER,
    Arguments,
    Result,
    invalid_expire,
    printable,
)

_OPTIONS = frozenset({b"NX", b"XX", b"GT", b"LT"})


def expire(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """EXPIRE, PEXPIRE, EXPIREAT, PEXPIREAT key time [NX | XX | GT | LT]."""
    name, key = arguments[0], arguments[1]
    options = set()
    for argument in arguments[3:]:
        options.add(argument.upper())
        if argument.upper() not in _OPTIONS:
            return f"-ERR Unsupported option {printable(argument)}"
    if b"NX" in options and len(options) > 1:
        return EXPIRE_NX_CONFLICT
    if b"GT" in options and b"LT" in options:
        return EXPIRE_GT_LT_CONFLICT
    amount = parse_integer(arguments[2])
    if amount is None:
        return NOT_AN_INTEGER
    deadline_ms = amount if name.startswith(b"P") else amount * 1000
    if not INTEGER_MIN <= deadline_ms <= INTEGER_MAX:
        return invalid_expire(name)
    if not name.endswith(b"AT"):
        deadline_ms += now_ms
    if deadline_ms > INTEGER_MAX:
        return invalid_expire(name)
    if keyspace.take(key, now_ms) is None:
        return 0
    if options and not _allows(options, keyspace.deadline_ms(key), deadline_ms):
        return 0
    if deadline_ms <= now_ms:
        keyspace.remove(key)
    else:
        keyspace.set_deadline(key, deadline_ms)
    return 1


def ttl(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """TTL, PTTL, EXPIRETIME, PEXPIRETIME key: -2 without the key, -1 without a deadline."""
    name, key = arguments[0], arguments[1]
    if keyspace.get(key, now_ms) is None:
        return -2
    time_ms = keyspace.deadline_ms(key)
    if time_ms is None:
        return -1
    if name.endswith(b"TTL"):
        time_ms -= now_ms
    return time_ms if name.startswith(b"P") else (time_ms + 500) // 1000


def persist(keyspace: KeySpace, arguments: Arguments, now_ms: int) -> Result:
    """PERSIST key: 1 if it had a deadline."""
    if keyspace.take(arguments[1], now_ms) is None:
        return 0
    return int(keyspace.clear_deadline(arguments[1]))


def _allows(options: set[bytes], current_ms: int | None, deadline_ms: int) -> bool:
    """Judge the options against the present deadline; none at all is later than any."""
    return not (
        (b"NX" in options and current_ms is not None)
        or (b"XX" in options and current_ms is None)
        or (b"GT" in options and (current_ms is None or deadline_ms <= current_ms))
        or (b"LT" in options and current_ms is not None and deadline_ms >= current_ms)
    )
