r"""How rafter-cli prints: tables for people, JSON and plain lines for programs.

Colours and boxes are for a terminal alone, and NO_COLOR takes the colours away; what a program
reads through a pipe never holds an escape sequence. Text from the server is shown escaped (\n, \\,
\xNN …), so that a key cannot move the cursor or forge a row; only `Output.raw` writes bytes as
they are.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

_ESCAPES: Final = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escaped(data: bytes) -> str:
    """Return `data` as one line of printable text, from which the bytes can be told again."""
    # surrogateescape turns each byte that is not UTF-8 into one of U+DC80…U+DCFF.
    text = data.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(map(_escaped_character, text))


def _escaped_character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def json_value(value: object) -> object:
    """Return `value` with bytes as strings, or as {"base64": …} where they are not UTF-8."""
    match value:
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return {"base64": base64.b64encode(value).decode("ascii")}
        case dict():
            return {
                escaped(key) if isinstance(key, bytes) else str(key): json_value(item)
                for key, item in value.items()
            }
        case list():
            return [json_value(item) for item in value]
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def _json_text(value: object) -> str:
    text = json.dumps(json_value(value), ensure_ascii=False)
    # JSON escapes the old control characters alone; a terminal obeys some of the newer ones too.
    return text if text.isprintable() else json.dumps(json_value(value))


class Output:
    """Writes results to standard output in one `format`: table, json or plain."""

    __slots__ = ("_is_terminal", "_stream", "format")

    def __init__(self, format: str) -> None:  # noqa: A002 - the word the option uses
        self.format = format
        self._stream = sys.stdout.buffer
        self._is_terminal = sys.stdout.isatty()

    def raw(self, value: bytes) -> None:
        """Write a value byte for byte; a terminal gets a newline after it, a program does not."""
        self._stream.write(value + b"\n" if self._is_terminal else value)
        self._stream.flush()

    def line(self, text: str) -> None:
        """Write one line."""
        self._write(text)
        self._stream.flush()

    def _write(self, text: str) -> None:
        self._stream.write(text.encode("utf-8", "backslashreplace") + b"\n")

    def json(self, value: object) -> None:
        """Write one JSON document, with the rules of `json_value`."""
        self.line(_json_text(value))

    def fields(self, record: Mapping[str, object], plain: str | None) -> None:
        """Write the one result of a command; in plain form just `plain`, if anything."""
        if self.format == "json":
            self.json(dict(record))
        elif self.format == "table":
            self.table("", list(record), [[cell_text(value) for value in record.values()]])
        elif plain is not None:
            self.line(plain)

    def rows(self, columns: Sequence[str], rows: Iterable[Sequence[bytes]]) -> None:
        """Write rows as they come: a JSON array of objects, or lines with tabs between cells.

        If `rows` raises, what came before stays written, and a JSON array stays open.
        """
        if self.format != "json":
            for row in rows:
                self._write("\t".join(map(escaped, row)))
            self._stream.flush()
            return
        separator = "["
        for row in rows:
            self._write(separator + _json_text(dict(zip(columns, row, strict=True))))
            separator = ","
        self.line("]" if separator == "," else "[]")

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        styles: Mapping[str, str] | None = None,
    ) -> None:
        """Write a table; `styles` maps cell texts to rich's styles, where colours are wanted."""
        if self._is_terminal:
            self._rich_table(title, columns, rows, styles or {})
            return
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        if title:
            self._write(title)
        for row in [[column.upper() for column in columns], *rows]:
            padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self._write("  ".join(padded).rstrip())
        self._stream.flush()

    def _rich_table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        styles: Mapping[str, str],
    ) -> None:
        # Imported here: it takes longer than everything else rafter-cli does.
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        # Without a colour system rich writes no escape sequence at all, not even for bold.
        plain = bool(os.environ.get("NO_COLOR"))
        console = Console(color_system=None if plain else "auto", markup=False, highlight=False)
        table = Table(title=title or None, title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell, styles.get(cell, "")) for cell in row))
        console.print(table)


def cell_text(value: object) -> str:
    """Return any value of a reply as the text of one cell."""
    match value:
        case bytes():
            return escaped(value)
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case list():
            return ",".join(map(cell_text, value))
        case float():
            return f"{value:.2f}"
        case _:
            return escaped(str(value).encode("utf-8", "surrogateescape"))
