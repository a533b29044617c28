"""What arguments and results of operations may be: predicates on one value each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.linear.history import Operation, Outcome

Check = Callable[[object], bool]
Shapes = Mapping[str, tuple[tuple[Check, ...], Check]]
"""By kind: a check for each argument, and one for the result of a known operation."""


def fits(operation: Operation, shapes: Shapes) -> bool:
    """Tell whether the operation is one of these."""
    if operation.kind not in shapes:
        return False
    checks, result = shapes[operation.kind]
    if len(checks) != len(operation.arguments):
        return False
    for check, argument in zip(checks, operation.arguments, strict=True):
        if not check(argument):
            return False
    return operation.outcome is not Outcome.OK or result(operation.result)


def nothing(value: object) -> bool:
    return value is None


def text(value: object) -> bool:
    """Tell whether this is bytes, as values are."""
    return isinstance(value, bytes)


def token(value: object) -> bool:
    """Tell whether this is bytes that make a list longer."""
    return isinstance(value, bytes) and value != b""


def number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def truth(value: object) -> bool:
    return isinstance(value, bool)


def name(value: object) -> bool:
    """Tell whether this may be a sub-key."""
    return isinstance(value, bytes | str)


def maybe(check: Check) -> Check:
    """Return a check that lets None pass as well."""
    return lambda value: value is None or check(value)


def many(check: Check) -> Check:
    """Return a check of tuples."""
    return lambda value: isinstance(value, tuple) and all(map(check, value))


def pair(first: Check, second: Check) -> Check:
    """Return a check of tuples of two."""
    return lambda value: (
        isinstance(value, tuple) and len(value) == 2 and first(value[0]) and second(value[1])
    )
