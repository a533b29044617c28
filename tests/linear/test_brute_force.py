"""The checker agrees with the definition on histories small enough for it."""

from __future__ import annotations

from collections import Counter as Tally
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.linear.brute_force import is_linearizable
from tests.linear.history import Operation, Outcome
from tests.linear.models import AppendList, Batch, Counter, Model, Register
from tests.linear.search import Verdict, search

# Few values, which are written more than once: more ways for an order to fit, or nearly.
VALUES = st.sampled_from([b"a", b"b"])
MAYBE = st.none() | VALUES
BYTES = st.sampled_from([None, b"", b"a", b"b", b"ab", b"ba", b"aab"])
NUMBERS = st.integers(-1, 3)
SUB_KEYS = st.sampled_from([b"x", b"y"])
NONE = st.none()
Shapes = list[tuple[str, st.SearchStrategy[tuple[Any, ...]], st.SearchStrategy[Any]]]

REGISTER: Shapes = [
    ("read", st.just(()), MAYBE),
    ("write", st.tuples(VALUES), NONE),
    ("cas", st.tuples(MAYBE, MAYBE), st.booleans()),
    ("delete", st.just(()), st.sampled_from([None, True, False])),
    ("get_and_set", st.tuples(VALUES), MAYBE),
    ("set_if_absent", st.tuples(VALUES), st.booleans()),
]
COUNTER: Shapes = [
    ("read", st.just(()), NONE | NUMBERS),
    ("add", st.tuples(st.integers(-1, 2)), NUMBERS),
]
GROWING_COUNTER: Shapes = [
    ("read", st.just(()), NUMBERS),
    ("add", st.tuples(st.integers(1, 2)), NUMBERS),
]
APPEND: Shapes = [
    ("read", st.just(()), BYTES),
    ("append", st.tuples(VALUES), st.sampled_from([None, 1, 2, 3])),
]
BATCH: Shapes = [
    ("read", st.tuples(SUB_KEYS), MAYBE),
    ("write", st.tuples(SUB_KEYS, VALUES), NONE),
    ("delete", st.tuples(SUB_KEYS), st.sampled_from([None, True, False])),
    ("read_many", st.just(((b"x", b"y"),)), st.tuples(MAYBE, MAYBE)),
    ("write_many", st.tuples(st.tuples(st.tuples(SUB_KEYS, VALUES))), NONE),
    (
        "write_many",
        st.tuples(st.tuples(st.tuples(st.just(b"x"), VALUES), st.tuples(st.just(b"y"), VALUES))),
        NONE,
    ),
]
BATCH_WITH_APPENDS: Shapes = [
    *BATCH,
    ("append", st.tuples(SUB_KEYS, VALUES), st.sampled_from([None, 1, 2])),
]
LISTS: Shapes = [
    ("read", st.tuples(SUB_KEYS), BYTES),
    ("append", st.tuples(SUB_KEYS, VALUES), st.sampled_from([None, 1, 2])),
    ("read_many", st.just(((b"x", b"y"),)), st.tuples(BYTES, BYTES)),
]


@st.composite
def operations_of(draw: st.DrawFn, shapes: Shapes) -> list[Operation]:
    """Draw a few operations, in a short time, whose answers are drawn as well."""
    operations = []
    for client in range(draw(st.integers(1, 5))):
        kind, arguments, result = draw(st.sampled_from(shapes))
        outcome = draw(
            st.sampled_from([Outcome.OK, Outcome.OK, Outcome.OK, Outcome.UNKNOWN, Outcome.FAILED])
        )
        invoked = draw(st.integers(0, 6))
        operations.append(
            Operation(
                client=client,
                key="k",
                kind=kind,
                arguments=draw(arguments),
                result=draw(result) if outcome is Outcome.OK else None,
                invoked=invoked,
                completed=None if outcome is Outcome.UNKNOWN else invoked + draw(st.integers(0, 4)),
                outcome=outcome,
                connection=draw(st.integers(1, 3)),
            )
        )
    return operations


@pytest.mark.parametrize(
    ("shapes", "model"),
    [
        (REGISTER, Register()),
        (REGISTER, Register(b"a")),
        (COUNTER, Counter()),
        (GROWING_COUNTER, Counter()),
        (APPEND, AppendList()),
        (APPEND, AppendList(b"a")),
        (BATCH, Batch()),
        (BATCH, Batch([(b"x", b"a")])),
        (BATCH_WITH_APPENDS, Batch()),
        (LISTS, Batch()),
        (LISTS, Batch([(b"x", b"a")])),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Model) else "",
)
def test_the_search_finds_an_order_if_and_only_if_there_is_one(
    shapes: Shapes, model: Model
) -> None:
    verdicts: Tally[bool] = Tally()

    @settings(max_examples=100, derandomize=True, database=None)
    @given(operations_of(shapes))
    def compare(operations: list[Operation]) -> None:
        expected = is_linearizable(operations, model)
        verdicts[expected] += 1
        result = search(operations, model, 10_000)
        assert result.verdict is (Verdict.OK if expected else Verdict.VIOLATION)

    compare()
    # The comparison is worth little where all histories are of one sort.
    assert min(verdicts[True], verdicts[False]) >= 5, verdicts
