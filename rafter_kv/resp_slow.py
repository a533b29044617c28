"""Parse Redis requests one byte run at a time, in pure Python, with Redis's own error texts.

This parser defines what a request is; `rafter_kv.resp` puts hiredis in front of it for speed and
hands it everything that is not plainly well formed, and the one request that a read cut in two.
It is incremental and linear: each byte is looked at once however the stream is cut. It follows
processInlineBuffer and processMultibulkBuffer of Redis 7.2.4 (src/networking.c).
"""

from typing import Final, NamedTuple

INLINE_BYTES_MAX: Final = 64 * 1024
"""Longest inline request, and longest header line (PROTO_INLINE_MAX_SIZE of Redis)."""
ARGUMENTS_MAX: Final = 1024 * 1024
"""Most arguments in one request."""
ARGUMENT_OVERHEAD_BYTES: Final = 56
"""What one retained argument costs besides its bytes: object header and list slot."""

_DIGITS_MAX: Final = 19
_HEX: Final = b"0123456789abcdefABCDEF"
_SPACE: Final = b" \t\n\r\v\f"
_ESCAPES: Final = {110: 10, 114: 13, 116: 9, 98: 8, 97: 7}  # \n \r \t \b \a
_QUOTE: Final = 34
_APOSTROPHE: Final = 39
_BACKSLASH: Final = 92


class ParserLimits(NamedTuple):
    """Bounds of one connection's requests, in bytes.

    A bulk longer than `bulk_bytes_max` is a protocol error. One longer than `argument_bytes_max`
    is read and thrown away, and its request refused. `query_buffer_bytes_max` bounds what is
    retained of a request that has not arrived completely.
    """

    bulk_bytes_max: int = 512 * 1024 * 1024
    argument_bytes_max: int = 8 * 1024 * 1024
    query_buffer_bytes_max: int = 64 * 1024 * 1024


class ProtocolError(Exception):
    """The peer's bytes are no request. `commands` are those that were complete before the error.

    The text is what Redis answers after "-ERR "; the connection has to be closed then, since
    nothing tells where the next request would begin.
    """

    def __init__(self, text: str, commands: list[list[bytes]]) -> None:
        super().__init__(text)
        self.text = text
        self.commands = commands


class RefusedCommand(list[bytes]):
    """A well-formed request that is not to be executed; its one element matches no command."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        super().__init__((b"",))
        self.reason = reason


def refuse_long_argument(limits: ParserLimits) -> RefusedCommand:
    """Return what stands in for a request with an argument over `argument_bytes_max`."""
    return RefusedCommand(f"-ERR value exceeds the limit of {limits.argument_bytes_max} bytes")


class _WireError(Exception):
    """An error found in the middle of `feed`, before the complete commands are attached."""


class SlowParser:
    """An incremental request parser; one per connection."""

    __slots__ = (
        "_arguments",
        "_buffer",
        "_bulk_bytes",
        "_is_refused",
        "_limits",
        "_offset",
        "_remaining",
        "_retained_bytes",
        "_skip_bytes",
    )

    def __init__(self, limits: ParserLimits) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._offset = 0
        self._arguments: list[bytes] = []
        self._remaining = 0  # arguments still missing of the request that has begun
        self._bulk_bytes = -1  # length of the argument being read; -1: its header comes next
        self._skip_bytes = 0  # of an argument that is thrown away
        self._retained_bytes = 0
        self._is_refused = False

    @property
    def is_idle(self) -> bool:
        """Whether the stream stands at the boundary of two requests, with nothing retained."""
        return not self._buffer and not self._remaining

    @property
    def retained_bytes(self) -> int:
        """Bytes held for the request that has not arrived completely."""
        return self._retained_bytes + len(self._buffer)

    def feed(self, data: bytes, commands: list[list[bytes]], *, only_first: bool) -> bytes:
        """Append the requests that `data` completes to `commands`; return what was not looked at.

        With `only_first` it stops at the first boundary of requests, and returns the rest of
        `data`; otherwise all of `data` is taken in and nothing is returned. Raises ProtocolError,
        with `commands`, after which the parser must not be used again.
        """
        self._buffer += data
        try:
            self._run(commands, only_first=only_first)
            rest = b""
            if only_first and not self._remaining:
                rest = bytes(self._buffer[self._offset :])
                self._buffer.clear()
            else:
                del self._buffer[: self._offset]
            self._offset = 0
            if self.retained_bytes > self._limits.query_buffer_bytes_max:
                limit = self._limits.query_buffer_bytes_max
                raise _WireError(f"request exceeds the query buffer limit of {limit} bytes")
        except _WireError as error:
            raise ProtocolError(f"Protocol error: {error}", commands) from None
        return rest

    def _run(self, commands: list[list[bytes]], *, only_first: bool) -> None:
        while True:
            if self._remaining:
                if not (self._read_data() if self._bulk_bytes >= 0 else self._read_bulk_header()):
                    return
                if self._remaining:
                    continue
                commands.append(self._finish())
            elif self._offset >= len(self._buffer):
                return
            elif self._buffer[self._offset] == 42:  # "*"
                if not self._read_count():
                    return
                if self._remaining:
                    continue
            else:
                line = self._read_inline()
                if line is None:
                    return
                if line:
                    commands.append(self._within_limits(line))
            if only_first:
                return

    def _read_line(self, too_big: str) -> bytes | None:
        """Take one header line, without its sign and line end; None if it is incomplete."""
        buffer, offset = self._buffer, self._offset
        end = buffer.find(b"\r", offset, offset + INLINE_BYTES_MAX + 1)
        if end < 0:
            if len(buffer) - offset > INLINE_BYTES_MAX:
                raise _WireError(too_big)
            return None
        if end + 2 > len(buffer):
            return None
        self._offset = end + 2
        return bytes(buffer[offset + 1 : end])

    def _read_count(self) -> bool:
        line = self._read_line("too big mbulk count string")
        if line is None:
            return False
        count = _integer(line)
        if count is None or count > ARGUMENTS_MAX:
            raise _WireError("invalid multibulk length")
        self._remaining = max(count, 0)  # as in Redis, "*0" and "*-1" ask for nothing
        return True

    def _read_bulk_header(self) -> bool:
        # Redis looks at the line before the sign, so an unfinished header is never an error.
        start = self._offset
        line = self._read_line("too big bulk count string")
        if line is None:
            return False
        if self._buffer[start] != 36:  # "$"
            sign = self._buffer[start : start + 1].decode("utf-8", "surrogateescape")
            raise _WireError(f"expected '$', got '{sign}'")
        length = _integer(line)
        if length is None or not 0 <= length <= self._limits.bulk_bytes_max:
            raise _WireError("invalid bulk length")
        self._bulk_bytes = length
        if length > self._limits.argument_bytes_max:
            self._skip_bytes = length + 2
            self._is_refused = True
        else:
            self._retained_bytes += ARGUMENT_OVERHEAD_BYTES
        return True

    def _read_data(self) -> bool:
        buffer, offset, length = self._buffer, self._offset, self._bulk_bytes
        if self._skip_bytes:
            taken = min(self._skip_bytes, len(buffer) - offset)
            self._offset += taken
            self._skip_bytes -= taken
            if self._skip_bytes:
                return False
        else:
            end = offset + length
            if end + 2 > len(buffer):
                return False
            if not self._is_refused:
                self._arguments.append(bytes(memoryview(buffer)[offset:end]))
                self._retained_bytes += length
            # Redis does not look at the two bytes behind a bulk either.
            self._offset = end + 2
        self._remaining -= 1
        self._bulk_bytes = -1
        if self._retained_bytes > self._limits.query_buffer_bytes_max and self._remaining:
            limit = self._limits.query_buffer_bytes_max
            raise _WireError(f"request exceeds the query buffer limit of {limit} bytes")
        return True

    def _read_inline(self) -> list[bytes] | None:
        buffer, offset = self._buffer, self._offset
        end = buffer.find(b"\n", offset, offset + INLINE_BYTES_MAX + 1)
        if end < 0:
            if len(buffer) - offset > INLINE_BYTES_MAX:
                raise _WireError("too big inline request")
            return None
        self._offset = end + 1
        if end > offset and buffer[end - 1] == 13:
            end -= 1
        arguments = split_inline(bytes(buffer[offset:end]))
        if arguments is None:
            raise _WireError("unbalanced quotes in request")
        return arguments

    def _finish(self) -> list[bytes]:
        command: list[bytes] = self._arguments
        if self._is_refused:
            command = refuse_long_argument(self._limits)
        self._arguments = []
        self._retained_bytes = 0
        self._is_refused = False
        return command

    def _within_limits(self, line: list[bytes]) -> list[bytes]:
        if max(map(len, line)) > self._limits.argument_bytes_max:
            return refuse_long_argument(self._limits)
        return line


def _integer(text: bytes) -> int | None:
    """Read a decimal integer as Redis's string2ll does: no spaces, plus signs or leading zeros."""
    digits = text[1:] if text[:1] == b"-" else text
    if not digits.isdigit() or len(digits) > _DIGITS_MAX:
        return None
    if digits[0] == 48 and text != b"0":
        return None
    return int(text)


def split_inline(line: bytes) -> list[bytes] | None:
    """Split an inline request as Redis's sdssplitargs does; None if its quotes do not match up."""
    arguments: list[bytes] = []
    position, end = 0, len(line)
    while True:
        while position < end and line[position] in _SPACE:
            position += 1
        if position == end:
            return arguments
        argument = bytearray()
        while position < end and line[position] not in _SPACE:
            byte = line[position]
            position += 1
            if byte in (_QUOTE, _APOSTROPHE):
                closed = _quoted(line, position, byte, argument)
                if closed is None:
                    return None
                position = closed
                break
            argument.append(byte)
        arguments.append(bytes(argument))


def _quoted(line: bytes, position: int, quote: int, argument: bytearray) -> int | None:
    """Unquote into `argument`; return the position behind the quote, None if it is not closed.

    A closing quote must be followed by space or the end of the line.
    """
    end = len(line)
    while position < end:
        byte = line[position]
        if byte == quote:
            position += 1
            return position if position == end or line[position] in _SPACE else None
        position += 1
        if byte == _BACKSLASH and position < end:
            following = line[position]
            if quote == _APOSTROPHE:
                if following == _APOSTROPHE:
                    byte = following
                    position += 1
            elif following == 120 and _is_hex_pair(line, position + 1):
                byte = int(line[position + 1 : position + 3], 16)
                position += 3
            else:
                byte = _ESCAPES.get(following, following)
                position += 1
        argument.append(byte)
    return None


def _is_hex_pair(line: bytes, position: int) -> bool:
    pair = line[position : position + 2]
    return len(pair) == 2 and pair[0] in _HEX and pair[1] in _HEX
