"""Append lists in a history: who appended which token, and who read what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.linear.history import History, HistoryError, Operation, Outcome

_OVERWRITES = {"write", "delete", "write_many"}


@dataclass(slots=True)
class AppendedList:
    """One list: that of a key, or of a sub-key of a partition."""

    key: str
    sub_key: Any
    appends: dict[bytes, Operation] = field(default_factory=dict)
    """The append of each token, whatever its outcome."""
    reads: list[tuple[Operation, bytes]] = field(default_factory=list)
    """The known reads, by invocation, with the bytes they saw."""
    _longest: bytes = b""
    """The longest value split so far; most values are beginnings of each other."""
    _tokens: list[bytes] = field(default_factory=list)
    _count_at: dict[int, int] = field(default_factory=lambda: {0: 0})
    """How many of the tokens make so many bytes."""

    @property
    def name(self) -> str:
        return repr(self.key) if self.sub_key is None else f"{self.key!r}, {self.sub_key!r}"

    def split(self, value: bytes) -> list[bytes] | None:
        """Return the tokens that make these bytes, or None if none do."""
        if self._longest.startswith(value):
            count = self._count_at.get(len(value))
            return None if count is None else self._tokens[:count]
        is_longer = value.startswith(self._longest)
        count_at: dict[int, int] = {}
        tokens = list(self._tokens) if is_longer else []
        start = len(self._longest) if is_longer else 0
        sizes = {len(token) for token in self.appends}
        while start < len(value):
            parts = (value[start : start + size] for size in sizes)
            token = next((part for part in parts if part in self.appends), None)
            if token is None:
                return None
            tokens.append(token)
            start += len(token)
            count_at[start] = len(tokens)
        if is_longer:
            self._longest, self._tokens = value, tokens
            self._count_at.update(count_at)
        return list(tokens)


def appended_lists(history: History) -> list[AppendedList]:
    """Return the lists of a history, in the order of their keys' first operations.

    A sub-key that is written as a whole, too, is none. Raises HistoryError where two appends have
    the same token, or one token begins with another: then nobody could say what a read saw.
    """
    return [
        appended
        for key, operations in history.by_key().items()
        for appended in _lists_of_key(key, operations)
    ]


def _lists_of_key(key: str, operations: list[Operation]) -> Iterator[AppendedList]:
    lists: dict[Any, AppendedList] = {}
    for operation in operations:
        if operation.kind == "append":
            sub_key, token = _sub_key(operation), operation.arguments[-1]
            appended = lists.setdefault(sub_key, AppendedList(key, sub_key))
            if not token:
                raise HistoryError(f"list {appended.name}: an append of nothing")
            if token in appended.appends:
                raise HistoryError(f"list {appended.name}: {token!r} is appended by two operations")
            appended.appends[token] = operation
    if not lists:
        return
    for operation in sorted(operations, key=lambda one: one.invoked):
        for sub_key, value in _reads(operation):
            if sub_key in lists:
                lists[sub_key].reads.append((operation, value))
        for sub_key in _overwritten(operation):
            lists.pop(sub_key, None)
    for appended in lists.values():
        for first, second in pairwise(sorted(appended.appends)):
            if second.startswith(first):
                raise HistoryError(f"list {appended.name}: {second!r} begins with {first!r}")
        yield appended


def _sub_key(operation: Operation) -> Any:
    needed = 1 if operation.kind in {"read", "delete"} else 2
    return operation.arguments[0] if len(operation.arguments) == needed else None


def _reads(operation: Operation) -> Iterator[tuple[Any, bytes]]:
    if operation.outcome is not Outcome.OK:
        return
    if operation.kind == "read":
        yield _sub_key(operation), operation.result or b""
    elif operation.kind == "read_many":
        for sub_key, value in zip(operation.arguments[0], operation.result, strict=True):
            yield sub_key, value or b""


def _overwritten(operation: Operation) -> Iterable[Any]:
    if operation.kind == "write_many":
        return [sub_key for sub_key, _ in operation.arguments[0]]
    return [_sub_key(operation)] if operation.kind in _OVERWRITES else []
