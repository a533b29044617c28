"""Makes the operations of one key easier to search, by what their answers tell.

What makes a search long is operations of unknown outcome, each of which may be at any time, and
states that differ without a difference. What `narrow` returns is linearizable if and only if the
operations it was given are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.linear.history import Operation, Outcome
from tests.linear.marks import (
    READS,
    Mark,
    are_overwrites,
    marks_seen,
    marks_written,
    marks_written_once,
    with_values,
)

HIDDEN = "(a value nobody saw)"
"""Stands for any value that no answer can depend on. It is text, and so equals no value."""


@dataclass(frozen=True, slots=True)
class Narrowed:
    """An operation as the search sees it."""

    operation: Operation
    arguments: tuple[Any, ...]
    deadline: int | None
    """When it must have happened by; None if at any later time, or never."""


def narrow(operations: Sequence[Operation], initial_marks: Iterable[Mark]) -> list[Narrowed]:
    """Return the operations of one key that matter; `initial_marks` are those it has at first."""
    # What failed did not happen. An unknown read changes nothing, and fits anywhere.
    mattering = [
        one
        for one in operations
        if one.outcome is Outcome.OK or (one.outcome is Outcome.UNKNOWN and one.kind not in READS)
    ]
    if not are_overwrites(mattering):
        return [Narrowed(one, one.arguments, one.completed) for one in mattering]
    values = _Values(mattering, initial_marks)
    return [
        Narrowed(one, values.arguments(one), values.deadline(one))
        for one in mattering
        if not values.is_needless(one)
    ]


class _Values:
    """What is known of the values that the operations of one key write."""

    def __init__(self, operations: Sequence[Operation], initial_marks: Iterable[Mark]) -> None:
        known = [one for one in operations if one.outcome is Outcome.OK]
        self._can_leave_out = not any(map(_answers_without_a_value, known))
        self._written_once = marks_written_once(operations, initial_marks)
        self._expected = {one.arguments[0] for one in operations if one.kind == "cas"}
        self._first_seen: dict[Mark, int] = {}
        """When the first operation that saw a mark ended."""
        for one in known:
            assert one.completed is not None
            for mark in marks_seen(one):
                end = self._first_seen.get(mark, one.completed)
                self._first_seen[mark] = min(end, one.completed)

    def _is_hidden(self, mark: Mark) -> bool:
        """Tell whether no operation saw the value or expects it."""
        is_named = mark in self._first_seen or mark[1] in self._expected
        return mark[1] is not None and not is_named

    def arguments(self, operation: Operation) -> tuple[Any, ...]:
        """Return the arguments, with one value for all that are hidden.

        No answer can tell them apart, so two states that differ in them alone explain the same.
        """
        hidden = {mark for mark in marks_written(operation) if self._is_hidden(mark)}
        return (
            with_values(operation, dict.fromkeys(hidden, HIDDEN)) if hidden else operation.arguments
        )

    def deadline(self, operation: Operation) -> int | None:
        """Return when the operation must have happened by.

        If an unknown one wrote what nobody else can have written, and it was seen, it happened
        before the first operation that saw it ended.
        """
        if operation.completed is not None:
            return operation.completed
        ends = [
            self._first_seen[mark]
            for mark in marks_written(operation)
            if mark in self._first_seen and mark in self._written_once
        ]
        return max(min(ends), operation.invoked) if ends else None

    def is_needless(self, operation: Operation) -> bool:
        """Tell whether the operation is unknown, and no answer can depend on it.

        An order without it explains all: it never happened. Take an order with it, where it sets
        some sub-keys to hidden values, and take it out. What differs is these sub-keys, each until
        it is next written. Until then

        - no known operation reads them, for it would see the mark;
        - no known `cas` or `set_if_absent` said yes: the value is not None, and nobody expects it;
        - no known one said no, and no `delete` said whether there was something: where one did, at
          any time, nothing is left out;
        - what is unknown and had no effect there is taken out as well; what had one (`write`,
          `delete`, `get_and_set`) has the same without the value before.
        """
        if operation.outcome is not Outcome.UNKNOWN or not self._can_leave_out:
            return False
        marks = list(marks_written(operation))
        return bool(marks) and all(map(self._is_hidden, marks))


def _answers_without_a_value(operation: Operation) -> bool:
    """Tell whether the answer depends on a value without naming it."""
    if operation.kind in {"cas", "set_if_absent"}:
        return not operation.result
    return operation.kind == "delete" and operation.result is not None
