"""What operations write and see, where each write replaces the whole value of a sub-key.

A *mark* is a pair (sub-key, value) that an operation writes; the sub-key of a register is None. An
operation *sees* a mark if its answer proves that the value was there just before it. The value
None, what is absent, counts as seen by nobody, since nobody needs to have written it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tests.linear.history import Operation, Outcome

Mark = tuple[Any, bytes | None]
READS = frozenset({"read", "read_many"})
_OVERWRITES = READS | {"write", "cas", "delete", "get_and_set", "set_if_absent", "write_many"}


def are_overwrites(operations: Sequence[Operation]) -> bool:
    """Tell whether marks say all there is to say about these operations."""
    return all(operation.kind in _OVERWRITES for operation in operations)


def marks_written(operation: Operation) -> Iterator[Mark]:
    """Yield what the operation writes if it happens and, if conditional, its condition holds."""
    arguments = operation.arguments
    match operation.kind:
        case "write":
            yield (arguments[0] if len(arguments) == 2 else None), arguments[-1]
        case "cas" | "get_and_set" | "set_if_absent":
            yield None, arguments[-1]
        case "write_many":
            yield from arguments[0]


def may_have_happened(operation: Operation) -> bool:
    """Tell whether an operation may have changed something: neither failed nor answered no."""
    return operation.outcome is not Outcome.FAILED and operation.result is not False


def with_values(operation: Operation, replacements: Mapping[Mark, Any]) -> tuple[Any, ...]:
    """Return the operation's arguments, with other values written in place of some marks."""
    arguments = operation.arguments
    if operation.kind == "write_many":
        pairs = ((mark[0], replacements.get(mark, mark[1])) for mark in arguments[0])
        return (tuple(pairs),)
    (mark,) = marks_written(operation)
    return (*arguments[:-1], replacements.get(mark, mark[1]))


def marks_seen(operation: Operation) -> Iterator[tuple[Any, bytes]]:
    """Yield what a known operation saw."""
    arguments, result = operation.arguments, operation.result
    seen: Iterable[Mark] = ()
    match operation.kind:
        case "read":
            seen = (((arguments[0] if arguments else None), result),)
        case "get_and_set":
            seen = ((None, result),)
        case "cas" if result:
            seen = ((None, arguments[0]),)
        case "read_many":
            seen = zip(arguments[0], result, strict=True)
    return ((sub_key, value) for sub_key, value in seen if value is not None)


def marks_written_once(operations: Iterable[Operation], initial: Iterable[Mark]) -> set[Mark]:
    """Return the marks that come up once at most: of one operation, or in the state at first."""
    writers = Counter(
        mark
        for operation in operations
        if may_have_happened(operation)
        for mark in marks_written(operation)
    )
    writers.update(initial)
    return {mark for mark, count in writers.items() if count == 1}
