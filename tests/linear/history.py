"""Histories: what clients asked of a store, what they were told and when. In memory and in files.

A file has one JSON object a line, in ASCII. The first line is the header: the format's name and
version, the number of operations, and free text about the run. Every further line is an operation.
A JSON string among arguments and results stands for bytes, one character (U+0000 to U+00FF) a
byte; text is written `{"text": "..."}`; an array is a tuple.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

FORMAT = "rafter-history"
VERSION = 1
SAME_AS_CLIENT = -1
SHOWN_CHARACTERS_MAX = 120

ARGUMENT_COUNTS: dict[str, tuple[int, ...]] = {
    "read": (0, 1),
    "write": (1, 2),
    "cas": (2,),
    "add": (1,),
    "append": (1, 2),
    "write_many": (1,),
    "read_many": (1,),
    "delete": (0, 1),
    "get_and_set": (1,),
    "set_if_absent": (1,),
}
"""The kinds of operations, with the numbers of arguments each takes.

In histories of batches, `read`, `write`, `append` and `delete` take a sub-key before the others.
"""


class HistoryError(ValueError):
    """An operation, or a file of them, does not say what it should; the text says where."""


class Outcome(enum.Enum):
    """What a client knows about its operation."""

    OK = "ok"  # It happened, between its invocation and its completion.
    UNKNOWN = "unknown"  # It may have happened, may still happen at any later time, or never.
    FAILED = "failed"  # It surely did not happen and never will.


class Operation(msgspec.Struct):
    """One operation of one client.

    Arguments and results by kind, where a value is bytes, and None for what is absent:

    - `read` () -> value; a counter's value is an integer, an append list's all its bytes
    - `write` (value,) -> None
    - `delete` () -> None, or whether there was something
    - `cas` (expected, value) -> whether the value was as expected, and so was set
    - `get_and_set` (value,) -> the value before
    - `set_if_absent` (value,) -> whether it was absent, and so was set
    - `add` (delta,) -> the new value, an integer
    - `append` (token,) -> the new length in bytes, or None if the store does not tell
    - `write_many` (((sub_key, value), ...),) -> None
    - `read_many` ((sub_key, ...),) -> (value, ...)
    - `read` (sub_key,), `write` (sub_key, value), `append` (sub_key, token), `delete` (sub_key,):
      one key of a partition

    Raises HistoryError if the fields contradict each other.
    """

    client: int
    key: str
    """What the history is split by. For batches over several keys the name of their partition."""
    kind: str
    arguments: tuple[Any, ...]
    result: Any
    """None unless the outcome is OK."""
    invoked: int
    """When the client sent it, by any clock of integers that all clients share.

    Operations whose intervals touch count as concurrent: a clock that stands still between two
    operations of one client hides their order. Count events, or nanoseconds.
    """
    completed: int | None
    """When the client learnt the outcome. None if and only if the outcome is UNKNOWN."""
    outcome: Outcome
    connection: int = SAME_AS_CLIENT
    """The client's connection, where the client may reconnect; by default the client's number.

    What it was asked and has answered took effect in the order of `invoked`.
    """

    def __post_init__(self) -> None:
        if self.connection == SAME_AS_CLIENT:
            self.connection = self.client
        self.validate()

    def validate(self) -> None:
        """Raise HistoryError if the fields contradict each other."""
        counts = ARGUMENT_COUNTS.get(self.kind)
        if counts is None:
            raise HistoryError(f"unknown kind {self.kind!r}")
        if len(self.arguments) not in counts:
            raise HistoryError(f"{self.kind} does not take {len(self.arguments)} arguments")
        if (self.completed is None) is not (self.outcome is Outcome.UNKNOWN):
            raise HistoryError("`completed` must be None if and only if the outcome is UNKNOWN")
        if self.completed is not None and self.completed < self.invoked:
            raise HistoryError(f"completed at {self.completed}, before it began at {self.invoked}")
        if self.result is not None and self.outcome is not Outcome.OK:
            raise HistoryError(f"an operation that is {self.outcome.name} has no result")

    def __str__(self) -> str:
        arguments = ", ".join(map(shown, self.arguments))
        end = "" if self.completed is None else self.completed
        what = f"{self.kind}({arguments})"
        answer = f"-> {shown(self.result)}" if self.outcome is Outcome.OK else self.outcome.name
        return f"[{self.invoked}..{end}] client {self.client}: {what} {answer}"


def shown(value: object) -> str:
    """Return a value as text for people; of a long one only both ends."""
    text = repr(value)
    ends = SHOWN_CHARACTERS_MAX // 2
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:ends]} ... {text[-ends:]}"


class History:
    """A list of operations, in any order, and texts about the run they come from."""

    def __init__(
        self, operations: Iterable[Operation] = (), meta: dict[str, str] | None = None
    ) -> None:
        self.operations = list(operations)
        self.meta = dict(meta or {})

    def append(self, operation: Operation) -> None:
        """Add an operation; the order of the list means nothing."""
        self.operations.append(operation)

    def by_key(self) -> dict[str, list[Operation]]:
        """Return the operations of each key, keys and operations in the order of the list."""
        split: dict[str, list[Operation]] = {}
        for operation in self.operations:
            split.setdefault(operation.key, []).append(operation)
        return split

    def save(self, path: Path | str) -> None:
        """Write the history to a file, replacing what was there."""
        header = {
            "format": FORMAT,
            "version": VERSION,
            "operations": len(self.operations),
            "meta": self.meta,
        }
        with Path(path).open("w", encoding="ascii") as file:
            file.write(json.dumps(header) + "\n")
            file.writelines(
                json.dumps(_operation_to_json(operation)) + "\n" for operation in self.operations
            )

    @classmethod
    def load(cls, path: Path | str) -> History:
        """Read a file that `save` wrote. Raises HistoryError with the line that is wrong."""
        history = cls()
        expected_count = -1
        number = 0
        try:
            with Path(path).open("rb") as file:
                for number, line in enumerate(file, 1):
                    record = _parse_line(line)
                    if number == 1:
                        history.meta, expected_count = _header_from_json(record)
                    else:
                        history.append(_operation_from_json(record))
        except HistoryError as error:
            raise HistoryError(f"{path}, line {number}: {error}") from None
        if not number:
            raise HistoryError(f"{path}, line 1: the file is empty")
        if len(history.operations) != expected_count:
            raise HistoryError(
                f"{path}, line {number}: the file ends after {len(history.operations)} operations,"
                f" its header promises {expected_count}"
            )
        return history


# ---- lines of a file ---------------------------------------------------------------------------

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "client": int,
    "key": str,
    "kind": str,
    "arguments": list,
    "result": (type(None), bool, int, str, list, dict),
    "invoked": int,
    "completed": (int, type(None)),
    "outcome": str,
    "connection": int,
}


def _parse_line(line: bytes) -> dict[str, Any]:
    if not line.endswith(b"\n"):
        raise HistoryError("the line is cut short: it does not end")
    try:
        record = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise HistoryError(f"not a JSON object in ASCII: {error}") from None
    if not isinstance(record, dict):
        raise HistoryError("not a JSON object")
    return record


def _header_from_json(record: dict[str, Any]) -> tuple[dict[str, str], int]:
    if record.get("format") != FORMAT:
        raise HistoryError(f"not a header of {FORMAT}")
    if record.get("version") != VERSION:
        raise HistoryError(f"version {record.get('version')!r}; this program reads {VERSION}")
    count = record.get("operations")
    if type(count) is not int:
        raise HistoryError("the header does not say how many operations there are")
    meta = record.get("meta")
    if not isinstance(meta, dict) or not all(isinstance(text, str) for text in meta.values()):
        raise HistoryError("`meta` is not an object of texts")
    return meta, count


def _operation_to_json(operation: Operation) -> dict[str, Any]:
    return {
        "client": operation.client,
        "key": operation.key,
        "kind": operation.kind,
        "arguments": [_value_to_json(argument) for argument in operation.arguments],
        "result": _value_to_json(operation.result),
        "invoked": operation.invoked,
        "completed": operation.completed,
        "outcome": operation.outcome.value,
        "connection": operation.connection,
    }


def _operation_from_json(record: dict[str, Any]) -> Operation:
    for field in record.keys() ^ _FIELDS.keys():
        raise HistoryError(f"field {field!r} is {'unknown' if field in record else 'missing'}")
    for field, kind in _FIELDS.items():
        value = record[field]
        is_misplaced_bool = isinstance(value, bool) and field != "result"
        if is_misplaced_bool or not isinstance(value, kind):
            raise HistoryError(f"field {field!r} cannot be {value!r}")
    try:
        outcome = Outcome(record["outcome"])
    except ValueError:
        raise HistoryError(f"unknown outcome {record['outcome']!r}") from None
    arguments = tuple(_value_from_json(argument) for argument in record["arguments"])
    result = _value_from_json(record["result"])
    return Operation(**{**record, "arguments": arguments, "result": result, "outcome": outcome})


def _value_to_json(value: object) -> Any:
    match value:
        case bytes():
            return value.decode("latin-1")
        case str():
            return {"text": value}
        case tuple():
            return [_value_to_json(part) for part in value]
        case None | bool() | int():
            return value
    raise HistoryError(f"a {type(value).__name__} cannot be written to a history file")


def _value_from_json(value: Any) -> Any:
    match value:
        case str():
            try:
                return value.encode("latin-1")
            except UnicodeEncodeError:
                raise HistoryError(f"{value!r} has a character that is not a byte") from None
        case {"text": str(text), **others} if not others:
            return text
        case list():
            return tuple(_value_from_json(part) for part in value)
        case None | bool() | int():
            return value
    raise HistoryError(f"{value!r} is not a value")
