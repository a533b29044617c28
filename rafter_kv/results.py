"""What a command returns: plain values that know nothing of the protocol they are sent in.

=============  =======================================================
value          meaning
=============  =======================================================
``bytes``      bulk string
``int``        integer
``None``       nil
``str``        a whole status or error line with its sign: ``+OK``, ``-ERR syntax error``
``list``       array
``dict``       map (a flat array in RESP2)
``float``      double (a bulk string in RESP2)
``bool``       boolean (an integer in RESP2)
=============  =======================================================

The same values travel between shards and nodes by msgpack and lie in the sessions' cache, so a
``str`` never holds anything that UTF-8 cannot encode.
"""

from collections.abc import Sequence
from typing import TypeAlias

Result: TypeAlias = "bytes | int | float | bool | str | list[Result] | dict[Result, Result] | None"

#: A command with its canonical name at [0]. Owned by the caller; no operation changes it.
Arguments: TypeAlias = Sequence[bytes]

OK = "+OK"
TYPE_NONE = "+none"
TYPE_STRING = "+string"

SYNTAX_ERROR = "-ERR syntax error"
NOT_AN_INTEGER = "-ERR value is not an integer or out of range"
NOT_A_FLOAT = "-ERR value is not a valid float"
INVALID_CURSOR = "-ERR invalid cursor"
OFFSET_OUT_OF_RANGE = "-ERR offset is out of range"
INCREMENT_OVERFLOW = "-ERR increment or decrement would overflow"
DECREMENT_OVERFLOW = "-ERR decrement would overflow"
INCREMENT_NOT_FINITE = "-ERR increment would produce NaN or Infinity"
STRING_TOO_LONG = "-ERR string exceeds maximum allowed size (proto-max-bulk-len)"
EXPIRE_NX_CONFLICT = "-ERR NX and XX, GT or LT options at the same time are not compatible"
EXPIRE_GT_LT_CONFLICT = "-ERR GT and LT options at the same time are not compatible"


def is_error(result: Result) -> bool:
    """Tell whether a command failed. A bulk string that starts with "-" is no error."""
    return type(result) is str and result.startswith("-")


def printable(argument: bytes) -> str:
    """Make a client's bytes fit for an error line: one line, valid UTF-8, as Redis does it."""
    return argument.decode("utf-8", "replace").replace("\r", " ").replace("\n", " ")


def wrong_arity(name: bytes) -> str:
    """Redis's answer to a wrong number of arguments."""
    return f"-ERR wrong number of arguments for '{printable(name).lower()}' command"


def invalid_expire(name: bytes) -> str:
    """Redis's answer to an expiry that is not positive or does not fit in 64 bits."""
    return f"-ERR invalid expire time in '{printable(name).lower()}' command"
