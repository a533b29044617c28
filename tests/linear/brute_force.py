"""The definition of what is checked, word for word: all orders are tried. For a few operations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations

from tests.linear.history import Operation, Outcome
from tests.linear.models import UNTOLD, Model


def is_linearizable(operations: Sequence[Operation], model: Model) -> bool:
    """Tell whether some order of the known and of some unknown operations explains the answers."""
    known = [one for one in operations if one.outcome is Outcome.OK]
    unknown = [one for one in operations if one.outcome is Outcome.UNKNOWN]
    return any(
        _agrees_with_time(order) and _agrees_with_connections(order) and _is_explained(order, model)
        for count in range(len(unknown) + 1)
        for chosen in combinations(unknown, count)
        for order in permutations([*known, *chosen])
    )


def _agrees_with_time(order: Sequence[Operation]) -> bool:
    return not any(
        later.completed is not None and later.completed < earlier.invoked
        for earlier, later in combinations(order, 2)
    )


def _agrees_with_connections(order: Sequence[Operation]) -> bool:
    known = [one for one in order if one.outcome is Outcome.OK]
    return not any(
        later.connection == earlier.connection and later.invoked < earlier.invoked
        for earlier, later in combinations(known, 2)
    )


def _is_explained(order: Sequence[Operation], model: Model) -> bool:
    state = model.initial
    for operation in order:
        applied = model.apply(state, operation.kind, operation.arguments)
        assert applied is not None
        state, answer = applied
        observed = model.observed(operation)
        if observed is not UNTOLD and observed != answer:
            return False
    return True
