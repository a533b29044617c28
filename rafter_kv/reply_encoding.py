"""Encode the results of commands as replies of the Redis protocol, version 2 or 3.

Results are plain values (see `Result` in `rafter_kv.results`): bytes are a bulk string, int an
integer, None the null, str a whole status or error line with its sign, list an array, dict a map
(a flat array in version 2), float a double (a bulk string in version 2), bool a boolean (an
integer in version 2). The two classes here are for replies of a connection's own commands.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from rafter_kv.results import OK, Result

RESULT_BYTES_LARGE: Final = 16 * 1024
"""Results from this size on count towards the budget of one `encode_into`."""


class Verbatim(bytes):
    """Text for people: a verbatim string in version 3, a bulk string in version 2."""

    __slots__ = ()


class SetReply(list[Result]):
    """A set in version 3, an array in version 2."""

    __slots__ = ()


_LINES: Final = {"+OK": b"+OK\r\n", "+PONG": b"+PONG\r\n", "+QUEUED": b"+QUEUED\r\n"}


def encode(value: object, protocol: int) -> bytes:
    """Return the reply for one result in protocol version 2 or 3."""
    parts: list[bytes] = []
    encode_into(parts, (value,), 0, protocol, 0)
    return b"".join(parts)


def encode_into(
    parts: list[bytes], results: Sequence[Any], first: int, protocol: int, budget_bytes: int
) -> tuple[int, int]:
    """Append the replies of `results[first:]`.

    Returns how many results are done by then, and the budget left. Stops early when the large
    results have used up `budget_bytes`, so that a pipeline of reads of large values is not copied
    into one buffer at once; at least one result is encoded.
    """
    if results and type(results[-1]) is str and results.count(OK) == len(results):
        # Nothing but writes: a common pipeline.
        parts.append(_LINES[OK] * (len(results) - first))
        return len(results), budget_bytes
    append = parts.append
    null = b"$-1\r\n" if protocol == 2 else b"_\r\n"
    if first:
        results = results[first:]
    done = first
    for value in results:
        kind = type(value)
        done += 1
        if kind is str:
            append(_LINES.get(value) or _line(value))
        elif kind is bytes:
            size = len(value)
            append(b"$%d\r\n%b\r\n" % (size, value))
            if size > RESULT_BYTES_LARGE:
                budget_bytes -= size
                if budget_bytes <= 0:
                    break
        elif kind is int:
            append(b":%d\r\n" % value)
        elif value is None:
            append(null)
        else:
            encoded = _encode_other(value, protocol)
            append(encoded)
            if len(encoded) > RESULT_BYTES_LARGE:
                budget_bytes -= len(encoded)
                if budget_bytes <= 0:
                    break
    return done, budget_bytes


def error_text(data: bytes) -> str:
    """Decode bytes of a request for quoting in an error; `encode` restores them exactly."""
    return data.decode("utf-8", "surrogateescape")


def _line(value: str) -> bytes:
    # A line end inside would let one reply pass for two; Redis puts spaces there as well.
    if "\r" in value or "\n" in value:
        value = value.replace("\r", " ").replace("\n", " ")
    return value.encode("utf-8", "surrogateescape") + b"\r\n"


def _encode_other(value: object, protocol: int) -> bytes:
    parts: list[bytes] = []
    _append(parts.append, value, protocol)
    return b"".join(parts)


def _append(append: Callable[[bytes], None], value: object, protocol: int) -> None:
    is_new = protocol > 2
    match value:
        case Verbatim():
            append(
                b"=%d\r\ntxt:%b\r\n" % (len(value) + 4, value)
                if is_new
                else b"$%d\r\n%b\r\n" % (len(value), value)
            )
        case bytes():
            append(b"$%d\r\n%b\r\n" % (len(value), value))
        case str():
            append(_line(value))
        case bool():
            append((b"#t\r\n" if value else b"#f\r\n") if is_new else b":%d\r\n" % value)
        case int():
            append(b":%d\r\n" % value)
        case None:
            append(b"_\r\n" if is_new else b"$-1\r\n")
        case float():
            text = b"%.17g" % value
            append(b",%b\r\n" % text if is_new else b"$%d\r\n%b\r\n" % (len(text), text))
        case list() | tuple():
            sign = b"~" if is_new and type(value) is SetReply else b"*"
            append(b"%b%d\r\n" % (sign, len(value)))
            for item in value:
                _append(append, item, protocol)
        case dict():
            append(b"%%%d\r\n" % len(value) if is_new else b"*%d\r\n" % (2 * len(value)))
            for key, item in value.items():
                _append(append, key, protocol)
                _append(append, item, protocol)
        case _:
            raise TypeError(f"{type(value).__name__} is no result of a command")
