"""Tests of what is told about unknown operations: each rule holds only under its conditions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.linear.history import Operation, Outcome
from tests.linear.models import Batch, Model, Register
from tests.linear.search import Verdict, search
from tests.linear.unknown import HIDDEN, narrow


def known(
    invoked: int, completed: int, kind: str, *arguments: Any, result: Any = None
) -> Operation:
    return Operation(invoked, "k", kind, arguments, result, invoked, completed, Outcome.OK)


def unknown(invoked: int, kind: str, *arguments: Any) -> Operation:
    return Operation(invoked, "k", kind, arguments, None, invoked, None, Outcome.UNKNOWN)


def deadlines(*operations: Operation) -> list[int | None]:
    return [one.deadline for one in narrow(operations, ())]


def test_a_write_that_was_seen_happened_before_the_first_that_saw_it_ended() -> None:
    reads = known(5, 9, "read", result=b"a"), known(6, 8, "read", result=b"a")
    assert deadlines(unknown(1, "write", b"a"), *reads) == [8, 9, 8]
    assert deadlines(unknown(20, "write", b"a"), *reads) == [20, 9, 8]


def test_a_write_whose_value_nobody_saw_is_left_out() -> None:
    assert narrow([unknown(1, "write", b"a")], ()) == []
    assert narrow([unknown(1, "write_many", ((b"x", b"1"), (b"y", b"2")))], ()) == []
    half_seen = known(2, 3, "read", b"x", result=b"1")
    assert len(narrow([unknown(1, "write_many", ((b"x", b"1"), (b"y", b"2"))), half_seen], ())) == 2


def test_what_failed_and_unknown_reads_are_left_out() -> None:
    failed = Operation(1, "k", "write", (b"a",), None, 1, 2, Outcome.FAILED)
    assert narrow([failed, unknown(1, "read"), unknown(1, "read_many", (b"x",))], ()) == []


def test_values_that_nobody_saw_or_expects_are_one_value() -> None:
    operations = [
        known(1, 2, "write", b"a"),
        known(1, 2, "write", b"b"),
        known(1, 2, "get_and_set", b"c", result=b"b"),
        unknown(3, "cas", b"d", b"e"),
        known(1, 2, "write", b"d"),
        known(1, 2, "cas", b"x", None, result=False),
    ]
    assert [one.arguments for one in narrow(operations, ())] == [
        (HIDDEN,), (b"b",), (HIDDEN,), (b"d", HIDDEN), (b"d",), (b"x", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "operations"),
    [
        pytest.param(
            Register(),
            [
                unknown(1, "write", b"a"),
                unknown(1, "write", b"a"),
                known(5, 6, "read", result=b"a"),
                known(7, 8, "write", b"b"),
                known(9, 10, "read", result=b"b"),
                known(11, 12, "read", result=b"a"),
            ],
            id="two unknown writes of one value: one may be seen, and the other come later",
        ),
        pytest.param(
            Register(b"a"),
            [
                known(1, 2, "read", result=b"a"),
                unknown(3, "write", b"a"),
                known(4, 5, "write", b"b"),
                known(6, 7, "read", result=b"b"),
                known(8, 9, "read", result=b"a"),
            ],
            id="a value that is there at first: that it was seen tells nothing of its write",
        ),
        pytest.param(
            Register(),
            [
                known(1, 2, "write", b"a"),
                unknown(3, "cas", b"a", None),
                known(4, 5, "read"),
            ],
            id="a cas to nothing is seen by what finds nothing",
        ),
        pytest.param(
            Register(),
            [known(1, 2, "write", b"a"), unknown(3, "delete"), known(4, 5, "read")],
            id="a delete is seen by what finds nothing",
        ),
        pytest.param(
            Register(),
            [known(1, 9, "delete"), known(2, 3, "write", b"a"), known(10, 11, "read")],
            id="a delete that did not say what it found may find nothing now, and something later",
        ),
        pytest.param(
            Register(),
            [
                unknown(1, "write", b"a"),
                known(2, 3, "set_if_absent", b"b", result=False),
            ],
            id="a value nobody saw may be why a set_if_absent said no",
        ),
        pytest.param(
            Register(),
            [unknown(1, "write", b"a"), known(2, 3, "delete", result=True)],
            id="a value nobody saw may be what a delete found",
        ),
        pytest.param(
            Register(),
            [
                unknown(1, "write", b"a"),
                unknown(1, "cas", b"a", b"b"),
                known(2, 3, "read", result=b"b"),
            ],
            id="a value nobody saw may be what an unknown cas expected",
        ),
        pytest.param(
            Batch(),
            [
                known(1, 2, "write", b"x", b"1"),
                unknown(3, "delete", b"x"),
                known(4, 5, "read_many", (b"x",), result=(None,)),
            ],
            id="a delete of a sub-key is seen as well",
        ),
    ],
)
def test_no_rule_refuses_what_may_have_happened(model: Model, operations: list[Operation]) -> None:
    assert search(operations, model, 1000).verdict is Verdict.OK
