r"""The file format of transcripts: directives, each with its input and its expected output.

    # A comment. A directive is one line; input may follow it; `----` ends both.
    command arg key=value key=(value, value)
    input
    ----
    expected output, up to the first blank line

A directive that ends in a backslash goes on in the next line. Output with blank lines in it stands
between doubled separators (`----` twice, before it and after it). `subtest NAME` and
`subtest end NAME` bracket directives, and have neither input nor output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SEPARATOR = "----"


class TranscriptError(Exception):
    """A file is not a transcript, or asks for what cannot be asked: it fails without a comparison.

    The text says what is wrong; whoever knows the line says where.
    """


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument: `key`, `key=value` or `key=(value, value)`. A bare key has no values."""

    key: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Directive:
    """One command of a transcript.

    `expected` ends each of its lines with a line break; it is None where the file ends before the
    separator.
    """

    line: int
    text: str
    command: str
    arguments: tuple[Argument, ...]
    input: str
    expected: str | None

    def word(self, position: int) -> str:
        """Return an argument that has no values. Raises TranscriptError if there is none."""
        if position >= len(self.arguments) or self.arguments[position].values:
            raise TranscriptError(f"argument {position + 1} must be a word")
        return self.arguments[position].key

    def number(self, position: int) -> int:
        """Return an argument that is a number. Raises TranscriptError."""
        return number(self.word(position))

    def numbers(self) -> list[int]:
        """Return all arguments that have no values, as numbers. Raises TranscriptError."""
        return [number(argument.key) for argument in self.arguments if not argument.values]

    def option(self, key: str) -> str:
        """Return the value of a key. Raises TranscriptError unless it is given once, with one."""
        found = [argument.values for argument in self.arguments if argument.key == key]
        if len(found) != 1 or len(found[0]) != 1:
            raise TranscriptError(f"{key}= must be given with one value")
        return found[0][0]

    def values(self) -> Iterator[tuple[str, str]]:
        """Yield every value of every argument, with its key."""
        for argument in self.arguments:
            for value in argument.values:
                yield argument.key, value


def number(text: str) -> int:
    """Return an unsigned decimal number. Raises TranscriptError."""
    if not (text.isascii() and text.isdigit()):
        raise TranscriptError(f"{text!r} is not a number")
    return int(text)


def parse(text: str) -> list[Directive]:
    """Return the directives of a transcript in order. Raises TranscriptError with the line."""
    return list(_Reader(text).directives())


def parse_directive(text: str) -> tuple[str, tuple[Argument, ...]]:
    """Split a directive into its command and arguments. Raises TranscriptError."""
    text = text.strip()
    command, _, rest = text.partition(" ")
    rest = rest.strip()
    arguments: list[Argument] = []
    while rest:
        length, argument = _parse_argument(rest)
        if argument is None:
            column = len(text) - len(rest) + length + 1
            raise TranscriptError(f"cannot parse directive at column {column}: {text}")
        arguments.append(argument)
        rest = rest[length:].strip()
    return command, tuple(arguments)


def _parse_argument(text: str) -> tuple[int, Argument | None]:
    """Return how much of the text the first argument takes, and the argument, None if malformed."""
    key_end = min(_find(text, " "), _find(text, "="))
    key = text[:key_end]
    if not key:
        return 0, None
    if not text.startswith("=", key_end):
        return key_end, Argument(key)
    start = key_end + 1
    if not text.startswith("(", start):
        end = _find(text, " ", start)
        return end, Argument(key, (text[start:end],))
    values, end = _parse_list(text, start + 1)
    if values is None:
        return start, None
    return end, Argument(key, values)


def _parse_list(text: str, start: int) -> tuple[tuple[str, ...] | None, int]:
    """Return the values up to the parenthesis that closes the one before `start`, and the end.

    Commas split outside of nested parentheses only. None stands for a missing parenthesis.
    """
    values: list[str] = []
    level = 1
    position = value_start = start
    while position < len(text):
        character = text[position]
        position += 1
        if character == "(":
            level += 1
        elif character == ")":
            level -= 1
            if level == 0:
                values.append(text[value_start : position - 1])
                return tuple(values), position
        elif character == "," and level == 1:
            values.append(text[value_start : position - 1])
            while text.startswith(" ", position):
                position += 1
            value_start = position
    return None, position


def _find(text: str, part: str, start: int = 0) -> int:
    """Return where a part is, the end of the text if nowhere."""
    found = text.find(part, start)
    return len(text) if found < 0 else found


class _Reader:
    """Goes through the lines of a transcript once."""

    def __init__(self, text: str) -> None:
        lines = text.split("\n")
        if not lines[-1]:
            lines.pop()
        self._lines = [line.removesuffix("\r") for line in lines]
        self._position = 0
        self._subtests: list[tuple[str, int]] = []

    def directives(self) -> Iterator[Directive]:
        while (line := self._next()) is not None:
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            text = self._continued(text)
            number = self._position
            try:
                command, arguments = parse_directive(text)
                if command == "subtest":
                    self._subtest(arguments, number)
                    continue
            except TranscriptError as error:
                raise TranscriptError(f"line {number}: {error}") from None
            body, has_separator = self._input()
            expected = self._expected() if has_separator else None
            yield Directive(number, text, command, arguments, body, expected)
        if self._subtests:
            name, number = self._subtests[-1]
            raise TranscriptError(f"line {number}: the subtest {name} has no end")

    def _next(self) -> str | None:
        if self._position == len(self._lines):
            return None
        self._position += 1
        return self._lines[self._position - 1]

    def _continued(self, text: str) -> str:
        while text.endswith("\\") and (line := self._next()) is not None:
            text = text.removesuffix("\\") + " " + line.strip()
        return text

    def _input(self) -> tuple[str, bool]:
        """Return the input, and whether it ended in a separator rather than with the file."""
        lines: list[str] = []
        while (line := self._next()) is not None:
            if line == SEPARATOR:
                return "\n".join(lines).strip(), True
            lines.append(line)
        return "\n".join(lines).strip(), False

    def _expected(self) -> str:
        line = self._next()
        if line == SEPARATOR:
            return self._expected_with_blank_lines()
        lines: list[str] = []
        while line is not None and line.strip():
            lines.append(line)
            line = self._next()
        return _joined(lines)

    def _expected_with_blank_lines(self) -> str:
        lines: list[str] = []
        while (line := self._next()) is not None:
            lines.append(line)
            if line != SEPARATOR or (second := self._next()) is None:
                continue
            if second != SEPARATOR:
                lines.append(second)
                continue
            if self._next():
                raise TranscriptError(
                    f"line {self._position}: a line that is not blank after a doubled separator"
                )
            lines.pop()
            break
        return _joined(lines)

    def _subtest(self, arguments: tuple[Argument, ...], number: int) -> None:
        """Check that subtests are nested, each named after the one it stands in."""
        names = [argument.key for argument in arguments]
        if names[:1] == ["end"]:
            if not self._subtests:
                raise TranscriptError("the end of a subtest that has no start")
            name, _ = self._subtests.pop()
            if names not in (["end"], ["end", name]):
                raise TranscriptError(f"the end of the subtest {name} names another one")
            return
        if len(names) != 1:
            raise TranscriptError("a subtest has one name")
        if self._subtests and not names[0].startswith(self._subtests[-1][0] + "/"):
            raise TranscriptError(f"a subtest within {self._subtests[-1][0]} starts with that name")
        self._subtests.append((names[0], number))


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
