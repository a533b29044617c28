"""What one copy of a store would do, one operation at a time: the models that explain histories.

A model is immutable, and so are its states, which are hashable: a search keeps thousands of them.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from tests.linear.history import History, HistoryError, Operation, Outcome
from tests.linear.marks import marks_seen
from tests.linear.shapes import (
    Shapes,
    fits,
    many,
    maybe,
    name,
    nothing,
    number,
    pair,
    text,
    token,
    truth,
)

UNTOLD: Any = object()
"""Stands for what a client was not told: any answer explains it."""


class Model(abc.ABC):
    """One object: its state at first, and what each operation does to it and answers."""

    shapes: ClassVar[Shapes]
    """The operations it knows."""

    def __init__(self, initial: Hashable) -> None:
        self.initial: Any = initial

    @abc.abstractmethod
    def apply(self, state: Any, kind: str, arguments: tuple[Any, ...]) -> tuple[Any, Any] | None:
        """Return the state after an operation, and its answer.

        None if the operation cannot happen in this state, whatever the answer: only a model made
        by `for_history` may know that.
        """

    def observed(self, operation: Operation) -> Any:
        """Return what the answer must be for the client to see what it saw, or UNTOLD."""
        is_optional = operation.kind in {"append", "delete"}
        if operation.outcome is not Outcome.OK or (is_optional and operation.result is None):
            return UNTOLD
        return operation.result

    def marks(self, state: Any) -> Iterable[tuple[Any, bytes]]:
        """Yield the (sub-key, value) pairs of a state, if operations replace whole values."""
        return ()

    def is_past(self, state: Any, operation: Operation) -> bool:
        """Tell whether an operation cannot see what it saw in this state or any that follows."""
        return False

    def for_history(self, operations: Sequence[Operation]) -> Model:
        """Return a model that explains the same orders of these operations, of one key, faster.

        Raises HistoryError if an operation is not one of this model's.
        """
        for operation in operations:
            if not fits(operation, self.shapes):
                sort = type(self).__name__
                raise HistoryError(f"{sort} of key {operation.key!r} has no such: {operation}")
        return self


class Register(Model):
    """One value of bytes, or None while it is absent."""

    shapes: ClassVar[Shapes] = {
        "read": ((), maybe(text)),
        "write": ((text,), nothing),
        "cas": ((maybe(text), maybe(text)), truth),
        "delete": ((), maybe(truth)),
        "get_and_set": ((text,), maybe(text)),
        "set_if_absent": ((text,), truth),
    }

    def __init__(self, initial: bytes | None = None) -> None:
        super().__init__(initial)

    def apply(
        self, state: bytes | None, kind: str, arguments: tuple[Any, ...]
    ) -> tuple[bytes | None, Any]:
        if kind == "read":
            return state, state
        if kind == "write":
            return arguments[0], None
        if kind == "cas":
            expected, value = arguments
            return (value, True) if state == expected else (state, False)
        if kind == "get_and_set":
            return arguments[0], state
        if kind == "set_if_absent":
            return (arguments[0], True) if state is None else (state, False)
        return None, state is not None

    def marks(self, state: bytes | None) -> Iterable[tuple[None, bytes]]:
        return () if state is None else ((None, state),)


class Counter(Model):
    """An integer. One that is absent counts as 0, and a read may say None for 0."""

    shapes: ClassVar[Shapes] = {"read": ((), maybe(number)), "add": ((number,), number)}

    def __init__(self, initial: int = 0, *, only_grows: bool = False) -> None:
        super().__init__(initial)
        self.only_grows = only_grows

    def apply(self, state: int, kind: str, arguments: tuple[Any, ...]) -> tuple[int, int]:
        if kind == "add":
            state += arguments[0]
        return state, state

    def observed(self, operation: Operation) -> Any:
        result = super().observed(operation)
        return 0 if result is None and operation.kind == "read" else result

    def is_past(self, state: int, operation: Operation) -> bool:
        if not self.only_grows or operation.outcome is not Outcome.OK:
            return False
        before: int = self.observed(operation) - sum(operation.arguments)
        return state > before

    def for_history(self, operations: Sequence[Operation]) -> Model:
        super().for_history(operations)
        only_grows = all(one.arguments[0] >= 0 for one in operations if one.kind == "add")
        return Counter(self.initial, only_grows=only_grows)


class AppendList(Model):
    """Bytes that only ever grow at their end. While they are empty, a read may say None."""

    shapes: ClassVar[Shapes] = {"read": ((), maybe(text)), "append": ((token,), maybe(number))}

    def __init__(self, initial: bytes = b"", longest_read: bytes = b"") -> None:
        super().__init__(initial)
        self.longest_read = longest_read

    def apply(
        self, state: bytes, kind: str, arguments: tuple[Any, ...]
    ) -> tuple[bytes, int | bytes] | None:
        if kind == "read":
            return state, state
        state += arguments[0]
        return (state, len(state)) if _agree(state, self.longest_read) else None

    def observed(self, operation: Operation) -> Any:
        result = super().observed(operation)
        return b"" if result is None and operation.kind == "read" else result

    def is_past(self, state: bytes, operation: Operation) -> bool:
        observed = self.observed(operation)
        if observed is UNTOLD:
            return False
        size: int = len(observed) if operation.kind == "read" else observed
        return len(state) + sum(map(len, operation.arguments)) > size

    def for_history(self, operations: Sequence[Operation]) -> AppendList:
        super().for_history(operations)
        reads = [one.result for one in operations if one.kind == "read" and one.result is not None]
        longest: bytes = max(reads, key=len, default=b"")
        return AppendList(self.initial, longest)


def _agree(value: bytes, longest_read: bytes) -> bool:
    """Tell whether a list can have this value.

    While its longest read is to come, the value must be a beginning of it; once that has happened,
    it is a beginning of the value. Without this, wrong orders of appends would be found out only at
    the next read, and there are factorially many.
    """
    if len(value) < len(longest_read):
        return longest_read.startswith(value)
    return value.startswith(longest_read)


class Batch(Model):
    """The keys of one partition, written and read together as often as alone.

    A state is the frozen set of (sub-key, value) pairs that are present. `append` (sub_key, token)
    makes a value longer; it is there to find cycles by (`cheap.cycles`).
    """

    shapes: ClassVar[Shapes] = {
        "read": ((name,), maybe(text)),
        "write": ((name, text), nothing),
        "delete": ((name,), maybe(truth)),
        "append": ((name, token), maybe(number)),
        "write_many": ((many(pair(name, text)),), nothing),
        "read_many": ((many(name),), many(maybe(text))),
    }

    def __init__(
        self,
        initial: Iterable[tuple[bytes | str, bytes]] = (),
        longest_reads: Mapping[bytes | str, bytes] | None = None,
    ) -> None:
        super().__init__(frozenset(initial))
        self.longest_reads = longest_reads or {}
        """The longest value read of each sub-key that is only ever appended to."""

    def apply(
        self,
        state: frozenset[tuple[bytes | str, bytes]],
        kind: str,
        arguments: tuple[Any, ...],
    ) -> tuple[frozenset[tuple[bytes | str, bytes]], Any] | None:
        values = dict(state)
        if kind == "read":
            return state, values.get(arguments[0])
        if kind == "read_many":
            return state, tuple(values.get(sub_key) for sub_key in arguments[0])
        answer: Any = None
        if kind == "write":
            values[arguments[0]] = arguments[1]
        elif kind == "write_many":
            values.update(arguments[0])
        elif kind == "append":
            sub_key, token = arguments
            values[sub_key] = values.get(sub_key, b"") + token
            answer = len(values[sub_key])
            if not _agree(values[sub_key], self.longest_reads.get(sub_key, b"")):
                return None
        else:
            answer = values.pop(arguments[0], None) is not None
        return frozenset(values.items()), answer

    def marks(
        self, state: frozenset[tuple[bytes | str, bytes]]
    ) -> Iterable[tuple[bytes | str, bytes]]:
        return state

    def for_history(self, operations: Sequence[Operation]) -> Model:
        super().for_history(operations)
        for operation in operations:
            if operation.kind == "read_many" and operation.outcome is Outcome.OK:
                asked, answered = len(operation.arguments[0]), len(operation.result)
                if asked != answered:
                    raise HistoryError(f"{asked} sub-keys read, {answered} values: {operation}")
        return Batch(self.initial, _longest_reads(operations))

    def is_past(self, state: frozenset[tuple[bytes | str, bytes]], operation: Operation) -> bool:
        observed = self.observed(operation)
        if not self.longest_reads or observed is UNTOLD:
            return False
        sizes: Iterable[tuple[bytes | str, int]] = ()
        if operation.kind == "read":
            sizes = ((operation.arguments[0], len(observed or b"")),)
        elif operation.kind == "read_many":
            pairs = zip(operation.arguments[0], observed, strict=True)
            sizes = ((sub_key, len(value or b"")) for sub_key, value in pairs)
        elif operation.kind == "append":
            sizes = ((operation.arguments[0], observed - len(operation.arguments[1])),)
        values = dict(state)
        return any(
            sub_key in self.longest_reads and len(values.get(sub_key, b"")) > size
            for sub_key, size in sizes
        )


def _longest_reads(operations: Sequence[Operation]) -> dict[bytes | str, bytes]:
    """Return the longest value read of each sub-key that is appended to, and nothing else."""
    replaced = {one.arguments[0] for one in operations if one.kind in {"write", "delete"}}
    replaced |= {
        sub_key for one in operations if one.kind == "write_many" for sub_key, _ in one.arguments[0]
    }
    appended = {one.arguments[0] for one in operations if one.kind == "append"}
    longest: dict[bytes | str, bytes] = dict.fromkeys(appended - replaced, b"")
    for one in operations:
        if one.outcome is Outcome.OK:
            for sub_key, value in marks_seen(one):
                if sub_key in longest:
                    longest[sub_key] = max(longest[sub_key], value, key=len)
    return longest


def models_by_kind(history: History) -> Callable[[str], Model]:
    """Return the model of each key, as the kinds of its operations tell.

    Raises HistoryError for a key whose operations belong to no one model.
    """
    models = {key: _model_of(key, operations) for key, operations in history.by_key().items()}
    return models.__getitem__


def _model_of(key: str, operations: list[Operation]) -> Model:
    kinds = {operation.kind for operation in operations}
    reads = [operation for operation in operations if operation.kind == "read"]
    if kinds & {"write_many", "read_many"} or any(
        len(one.arguments) == 2 for one in operations if one.kind in {"write", "append"}
    ):
        model: Model = Batch()
    elif "add" in kinds or any(type(one.result) is int for one in reads):
        model = Counter()
    elif "append" in kinds:
        model = AppendList()
    elif any(one.arguments for one in reads):
        model = Batch()
    else:
        model = Register()
    if not kinds <= model.shapes.keys():
        raise HistoryError(f"key {key!r} has {', '.join(sorted(kinds))}: no model has all of them")
    return model
