"""Tells whether a history is linearizable, key by key: linearizability is local to each object.

Beside it the order of each connection is demanded, for each key alone as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.linear.history import History, Operation, Outcome, shown
from tests.linear.models import Model
from tests.linear.search import Result, Verdict, search

STEPS_PER_KEY_DEFAULT = 1_000_000
"""Easy histories take one step an operation; a million take seconds, and hundreds of megabytes."""

EXPLANATION_OPERATIONS_MAX = 12
"""How many operations of each sort an explanation shows."""


@dataclass(frozen=True, slots=True)
class KeyReport:
    """The verdict on one key."""

    key: str
    operation_count: int
    result: Result

    @property
    def verdict(self) -> Verdict:
        return self.result.verdict

    def __str__(self) -> str:
        result = self.result
        head = f"key {self.key!r}: {result.verdict.name} after {result.steps} steps"
        if result.verdict is Verdict.OK:
            return head
        if result.verdict is Verdict.UNDECIDED:
            head += ": the budget is used up, which proves nothing and counts as a failure"
        lines = [
            head,
            f"  the longest order found has {len(result.prefix)} operations, at its end:",
        ]
        lines += _lines(result.prefix[-EXPLANATION_OPERATIONS_MAX:])
        lines.append(
            f"  after which the state is {shown(result.state)}, and there is no place for:"
        )
        lines += _lines(result.stuck[:EXPLANATION_OPERATIONS_MAX])
        return "\n".join(lines)


def _lines(operations: tuple[Operation, ...]) -> list[str]:
    return [f"    {operation}" for operation in operations] or ["    (none)"]


@dataclass(frozen=True, slots=True)
class Report:
    """The verdicts on all keys of a history."""

    keys: tuple[KeyReport, ...]
    operation_count: int
    unknown_count: int
    failed_count: int

    @property
    def violations(self) -> list[KeyReport]:
        """The keys that no order explains."""
        return [report for report in self.keys if report.verdict is Verdict.VIOLATION]

    @property
    def undecided(self) -> list[KeyReport]:
        """The keys whose search was given up. Each is a failure of the run."""
        return [report for report in self.keys if report.verdict is Verdict.UNDECIDED]

    @property
    def is_linearizable(self) -> bool:
        """Whether it is proven, for every key."""
        return all(report.verdict is Verdict.OK for report in self.keys)

    @property
    def step_count(self) -> int:
        return sum(report.result.steps for report in self.keys)

    def __str__(self) -> str:
        lines = [str(report) for report in (*self.violations, *self.undecided)]
        lines.append(
            f"{self.operation_count} operations ({self.unknown_count} unknown,"
            f" {self.failed_count} failed) on {len(self.keys)} keys in {self.step_count} steps:"
            f" {len(self.violations)} violations, {len(self.undecided)} undecided"
        )
        return "\n".join(lines)


def check(
    history: History,
    model_of_key: Callable[[str], Model],
    *,
    steps_per_key: int = STEPS_PER_KEY_DEFAULT,
) -> Report:
    """Search, for each key, an order of its operations that explains all answers.

    The budget is counted in steps, each one call of the model, so that the report depends on the
    history alone. Raises HistoryError if an operation is not one of its model's.
    """
    reports = tuple(
        KeyReport(key, len(operations), search(operations, model_of_key(key), steps_per_key))
        for key, operations in history.by_key().items()
    )
    outcomes = [operation.outcome for operation in history.operations]
    return Report(
        keys=reports,
        operation_count=len(outcomes),
        unknown_count=outcomes.count(Outcome.UNKNOWN),
        failed_count=outcomes.count(Outcome.FAILED),
    )
