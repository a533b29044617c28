"""What the operations on keys have in common: numbers and expiry options, parsed as Redis does.

The operations are in ``operations_strings``, ``operations_counters``, ``operations_keys`` and
``operations_expiry``. Each is a function (keyspace, arguments, now_ms) -> result, with the
canonical name at arguments[0] and an arity that was checked. A user's mistake is a result, never
an exception; an exception out of an operation is a bug and stops the shard.
"""

import re
from collections.abc import Iterator

from rafter_kv.results import NOT_AN_INTEGER, Arguments, invalid_expire

INTEGER_MAX = (1 << 63) - 1
INTEGER_MIN = -(1 << 63)

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")

_UNIT_MILLISECONDS = {b"EX": 1000, b"EXAT": 1000, b"PX": 1, b"PXAT": 1}


def parse_integer(text: bytes) -> int | None:
    """Return a signed 64-bit integer in its only spelling, None for anything else.

    No sign "+", no leading zeros, no spaces, no "-0" (Redis's string2ll).
    """
    if not _INTEGER.fullmatch(text):
        return None
    value = int(text)
    return value if INTEGER_MIN <= value <= INTEGER_MAX else None


class SetOptions:
    """The options of SET and GETEX, parsed and found free of conflicts."""

    __slots__ = ("condition", "expiry", "expiry_value", "returns_old", "ttl")

    def __init__(self) -> None:
        self.condition = b""
        """NX, XX, or empty."""
        self.expiry = b""
        """EX, PX, EXAT, PXAT, or empty."""
        self.expiry_value = b""
        self.ttl = b""
        """KEEPTTL, PERSIST, or empty."""
        self.returns_old = False


def parse_set_options(arguments: Arguments, first: int) -> SetOptions | None:
    """Parse what follows the key of GETEX or the value of SET; None is a syntax error.

    An option may be repeated, the last one counts; two of a kind that differ exclude each other
    (Redis's parseExtendedStringArgumentsOrReply).
    """
    is_set = arguments[0] == b"SET"
    options = SetOptions()
    remaining = iter(arguments[first:])
    for argument in remaining:
        option = argument.upper()
        if is_set and option in (b"NX", b"XX"):
            if options.condition not in (b"", option):
                return None
            options.condition = option
        elif is_set and option == b"GET":
            options.returns_old = True
        elif option == (b"KEEPTTL" if is_set else b"PERSIST"):
            if options.expiry:
                return None
            options.ttl = option
        elif not _parse_expiry(option, remaining, options):
            return None
    return options


def _parse_expiry(option: bytes, remaining: Iterator[bytes], options: SetOptions) -> bool:
    value = next(remaining, None)
    if option not in _UNIT_MILLISECONDS or value is None:
        return False
    if options.ttl or options.expiry not in (b"", option):
        return False
    options.expiry, options.expiry_value = option, value
    return True


def expiry_deadline(name: bytes, option: bytes, value: bytes, now_ms: int) -> int | str:
    """Return the absolute deadline that EX, PX, EXAT or PXAT asks for, or the error line."""
    amount = parse_integer(value)
    if amount is None:
        return NOT_AN_INTEGER
    deadline_ms = amount * _UNIT_MILLISECONDS[option]
    if option in (b"EX", b"PX"):
        deadline_ms += now_ms
    if amount <= 0 or deadline_ms > INTEGER_MAX:
        return invalid_expire(name)
    return deadline_ms
