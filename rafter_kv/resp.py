"""Parse the requests of one connection, and encode replies: the Redis protocol, versions 2 and 3.

hiredis parses; a guard in front of it lets only such bytes through as it handles exactly as Redis
would. hiredis is a parser of *replies*: it takes nested arrays, status lines and sets as elements
of a request, and allocates an array for whatever count a header promises. So a read is handed to
it only when the stream stands at the boundary of two requests, each header that is in sight is
sane, and no element of another type is in sight. All else, and the request that the end of a
read cuts in two, goes to `rafter_kv.resp_slow.SlowParser`, which has Redis's limits and texts.
hiredis therefore never retains a byte from one read to the next.
"""

import re
from collections.abc import Callable
from itertools import chain
from typing import Final

import hiredis

from rafter_kv.reply_encoding import encode
from rafter_kv.resp_slow import (
    ParserLimits,
    ProtocolError,
    RefusedCommand,
    SlowParser,
    refuse_long_argument,
)

__all__ = ["ParserLimits", "ProtocolError", "RefusedCommand", "RequestParser", "encode"]

_NOT_ENOUGH: Final = object()
# Put behind each read. If it comes back as it is, the read ended with a request; hiredis cannot
# be asked, for between two elements of an array its buffer is empty as well.
_MARK: Final = b":0\r\n"
_FIRST_HEADER: Final = re.compile(rb"\*[1-9][0-9]{0,5}\r\n\$")
# A header that does not begin a request of at least one bulk, or one at a place where no header
# belongs: hiredis does not look at the two bytes behind a bulk, so it need not follow a line end.
_ODD_HEADER: Final = re.compile(rb"\*(?:(?<=\n\*)(?![1-9][0-9]{0,5}\r\n\$)|(?<!\n\*)[0-9]+\r)")
# Types that hiredis makes containers for, of any size a header says.
_ODD_CONTAINER: Final = re.compile(rb"[~>|%][0-9]+\r")
# Types that it returns as bytes; the remaining ones are told by the type of what it returns.
_ODD_LINE: Final = re.compile(rb"\n[+=(]")
_PLUS, _EQUALS, _PARENTHESIS, _TILDE, _GREATER, _BAR, _PERCENT = b"+=(~>|%"
_BYTES: Final = frozenset((bytes,))


class RequestParser:
    """Turns the reads of one connection into commands, each a list of its arguments, name first.

    Owned by one connection. Between calls it retains at most the bytes of one incomplete request,
    bounded by `limits.query_buffer_bytes_max`, whatever its headers promise. `is_mid_request`
    tells whether the next read continues a request that has begun.
    """

    __slots__ = ("_feed_reader", "_gets", "_has_data", "_limits", "_slow", "is_mid_request")

    _feed_reader: Callable[[bytes], None]
    _gets: Callable[[], object]
    _has_data: Callable[[], bool]

    def __init__(self, limits: ParserLimits | None = None) -> None:
        self._limits = limits or ParserLimits()
        self._slow = SlowParser(self._limits)
        self.is_mid_request = False
        self._renew_reader()

    @property
    def retained_bytes(self) -> int:
        """Bytes held for the request that has not arrived completely."""
        return self._slow.retained_bytes

    def feed(self, data: bytes) -> list[list[bytes]]:
        """Return the commands that `data` completes, in order.

        A RefusedCommand among them is to be answered with its reason. Raises ProtocolError, which
        holds the commands before the error; the connection must be closed then, and the parser
        not be used again.
        """
        if not self.is_mid_request:
            if _is_plain(data):
                commands, rest = self._feed_fast(data)
                if not rest:
                    return commands
                return self._feed_slow(rest, commands)
            return self._feed_slow(data, [])
        commands = []
        rest = self._slow.feed(data, commands, only_first=True)
        self.is_mid_request = not self._slow.is_idle
        if rest and _is_plain(rest):
            more, rest = self._feed_fast(rest)
            commands += more
        return self._feed_slow(rest, commands) if rest else commands

    def _feed_slow(self, data: bytes, commands: list[list[bytes]]) -> list[list[bytes]]:
        self._slow.feed(data, commands, only_first=False)
        self.is_mid_request = not self._slow.is_idle
        return commands

    def _feed_fast(self, data: bytes) -> tuple[list[list[bytes]], bytes]:
        """Return the commands that hiredis finds, and the bytes behind them.

        Those begin with what hiredis is not to decide about: a request that is incomplete, empty
        or malformed, or that has an element which is no bulk.
        """
        gets = self._gets
        commands: list[list[bytes]] = []
        append = commands.append
        try:
            feed = self._feed_reader
            feed(data)
            feed(_MARK)
            while type(command := gets()) is list:
                append(command)
        except (hiredis.HiredisError, MemoryError):
            command = None
        is_complete = type(command) is int and command == 0 and not self._has_data()
        if not is_complete:
            self._renew_reader()
        if not set(map(type, chain.from_iterable(commands))) <= _BYTES:
            odd = next(i for i, c in enumerate(commands) if not set(map(type, c)) <= _BYTES)
            del commands[odd:]
            is_complete = False
        rest = b""
        if not is_complete:
            # There is one way only to write what the guard lets through and hiredis accepts, but
            # for the two bytes behind each bulk. So writing it again tells where it ends.
            done = _encode_requests(commands)
            if data.startswith(done):
                rest = data[len(done) :]
            else:
                commands, rest = [], data
        if len(data) > self._limits.argument_bytes_max:
            self._refuse_long(commands)
        return commands, rest

    def _refuse_long(self, commands: list[list[bytes]]) -> None:
        limit = self._limits.argument_bytes_max
        for position, command in enumerate(commands):
            if max(map(len, command)) > limit:
                commands[position] = refuse_long_argument(self._limits)

    def _renew_reader(self) -> None:
        reader = hiredis.Reader(notEnoughData=_NOT_ENOUGH)
        self._feed_reader = reader.feed
        self._gets = reader.gets
        self._has_data = reader.has_data


def _is_plain(data: bytes) -> bool:
    """Tell whether hiredis may see these bytes, which begin at the boundary of two requests.

    It may if every array in sight is a request of up to 999999 arguments, the first of them a
    bulk string, and nothing looks like an element of the types that hiredis mishandles. Binary
    values may look like that too: then the request is parsed slowly, with the same result.
    """
    return (
        _FIRST_HEADER.match(data) is not None
        and _ODD_HEADER.search(data, 1) is None
        # An integer in bytes is a plain memchr, many times as fast as a search by pattern.
        and not (
            (_TILDE in data or _GREATER in data or _BAR in data or _PERCENT in data)
            and _ODD_CONTAINER.search(data)
        )
        and not (
            (_PLUS in data or _EQUALS in data or _PARENTHESIS in data) and _ODD_LINE.search(data)
        )
    )


def _encode_requests(commands: list[list[bytes]]) -> bytes:
    return b"".join(
        b"*%d\r\n" % len(command) + b"".join(b"$%d\r\n%b\r\n" % (len(a), a) for a in command)
        for command in commands
    )
