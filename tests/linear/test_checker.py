"""Tests of the checker: its corner cases, its budget and what it says."""

from __future__ import annotations

from typing import Any

import pytest

from tests.linear.checker import check
from tests.linear.history import History, HistoryError, Operation, Outcome
from tests.linear.models import AppendList, Counter, Model, Register
from tests.linear.search import Verdict


def known(
    invoked: int, completed: int, kind: str, *arguments: Any, result: Any = None, key: str = "k"
) -> Operation:
    return Operation(invoked, key, kind, arguments, result, invoked, completed, Outcome.OK)


def unknown(invoked: int, kind: str, *arguments: Any) -> Operation:
    return Operation(invoked, "k", kind, arguments, None, invoked, None, Outcome.UNKNOWN)


def failed(invoked: int, completed: int, kind: str, *arguments: Any) -> Operation:
    return Operation(invoked, "k", kind, arguments, None, invoked, completed, Outcome.FAILED)


def verdict(*operations: Operation, model: Model | None = None, steps: int = 1000) -> Verdict:
    report = check(History(operations), lambda _: model or Register(), steps_per_key=steps)
    return report.keys[0].verdict


def test_an_empty_history_is_linearizable() -> None:
    report = check(History(), lambda _: Register())
    assert report.is_linearizable
    assert str(report) == (
        "0 operations (0 unknown, 0 failed) on 0 keys in 0 steps: 0 violations, 0 undecided"
    )


def test_one_operation_is_linearizable_if_it_fits_the_state_at_first() -> None:
    assert verdict(known(1, 2, "read")) is Verdict.OK
    assert verdict(known(1, 2, "read", result=b"a")) is Verdict.VIOLATION
    assert verdict(known(1, 2, "read", result=b"a"), model=Register(b"a")) is Verdict.OK


def test_concurrent_operations_may_happen_in_any_order() -> None:
    operations = [known(1, 9, "add", 1, result=result) for result in (5, 3, 1, 2, 4)]
    assert verdict(*operations, model=Counter()) is Verdict.OK
    assert verdict(*operations[:-1], model=Counter()) is Verdict.VIOLATION


def test_intervals_that_touch_are_concurrent() -> None:
    write, read = known(1, 5, "write", b"a"), known(5, 6, "read")
    assert verdict(write, read) is Verdict.OK
    assert verdict(write, known(6, 7, "read")) is Verdict.VIOLATION


def on_one_connection(*operations: Operation) -> tuple[Operation, ...]:
    for operation in operations:
        operation.connection = 7
    return operations


def test_what_one_connection_asked_and_was_told_happened_in_its_order() -> None:
    first, second, read = (
        known(1, 8, "add", 1, result=2),
        known(2, 9, "add", 1, result=1),
        known(3, 9, "read", result=2),
    )
    assert verdict(first, second, read, model=Counter()) is Verdict.OK
    assert verdict(*on_one_connection(first, second), model=Counter()) is Verdict.VIOLATION
    first.result, second.result = 1, 2
    assert verdict(*on_one_connection(first, second, read), model=Counter()) is Verdict.OK


def test_what_was_asked_at_one_moment_has_no_order() -> None:
    operations = [known(1, 9, "add", 1, result=result) for result in (2, 1)]
    assert verdict(*on_one_connection(*operations), model=Counter()) is Verdict.OK
    third = known(2, 9, "add", 1, result=1)
    operations[0].result, operations[1].result = 2, 3
    assert verdict(*on_one_connection(*operations, third), model=Counter()) is Verdict.VIOLATION


def test_what_a_connection_does_not_know_may_happen_after_what_it_asked_next() -> None:
    late, read = unknown(1, "write", b"a"), known(2, 3, "read")
    seen = known(5, 6, "read", result=b"a")
    assert verdict(*on_one_connection(late, read), seen) is Verdict.OK


def test_the_order_of_the_list_means_nothing() -> None:
    operations = [known(3, 4, "read", result=b"a"), known(1, 2, "write", b"a")]
    assert verdict(*operations) is Verdict.OK


def test_an_operation_of_unknown_outcome_may_happen_at_any_later_time() -> None:
    never = [known(9, 10, "read", result=b"a")]
    late = [known(5, 6, "read", result=b"a"), known(9, 10, "read", result=b"b")]
    operations = [known(1, 2, "write", b"a"), unknown(3, "write", b"b")]
    assert verdict(*operations, *never) is Verdict.OK
    assert verdict(*operations, *late) is Verdict.OK
    assert verdict(*operations, *late, known(11, 12, "read", result=b"a")) is Verdict.VIOLATION


def test_an_operation_of_unknown_outcome_does_not_happen_before_it_began() -> None:
    assert verdict(known(1, 2, "read", result=b"b"), unknown(3, "write", b"b")) is Verdict.VIOLATION


def test_an_unknown_operation_at_the_end_may_have_happened_or_not() -> None:
    assert verdict(known(1, 2, "write", b"a"), unknown(3, "write", b"b")) is Verdict.OK
    assert verdict(unknown(3, "add", 1), model=Counter()) is Verdict.OK
    assert verdict(unknown(3, "read")) is Verdict.OK


def test_an_unknown_value_that_nobody_saw_may_explain_a_refusal() -> None:
    # Only the unknown write can be why the cas said no: it must not be left out.
    refused = known(5, 6, "cas", b"a", b"c", result=False)
    assert verdict(known(1, 2, "write", b"a"), unknown(3, "write", b"b"), refused) is Verdict.OK
    assert verdict(known(1, 2, "write", b"a"), refused) is Verdict.VIOLATION


def test_a_failed_operation_did_not_happen() -> None:
    operations = [known(1, 2, "write", b"a"), failed(3, 4, "write", b"b")]
    assert verdict(*operations, known(5, 6, "read", result=b"a")) is Verdict.OK
    assert verdict(*operations, known(5, 6, "read", result=b"b")) is Verdict.VIOLATION


def test_unknown_additions_that_are_equal_are_no_burden() -> None:
    # There are 2 ** 60 choices of them; all that matters is how many.
    operations = [unknown(index, "add", 1) for index in range(1, 61)]
    operations += [known(70, 71, "read", result=30), known(72, 73, "read", result=60)]
    assert verdict(*operations, model=Counter(), steps=200) is Verdict.OK
    assert verdict(*operations, known(74, 75, "read", result=61), model=Counter(), steps=2000) is (
        Verdict.VIOLATION
    )


def test_unknown_operations_that_undo_each_other_are_no_burden() -> None:
    # There are thousands of ways to write and delete that leave the same state.
    operations: list[Operation] = []
    for number in range(8):
        operations += [
            unknown(3 * number + 1, "delete"),
            unknown(3 * number + 2, "write", b"w%d" % number),
            unknown(3 * number + 3, "set_if_absent", b"s%d" % number),
        ]
    operations += [known(30 + at, 30 + at, "delete", result=at % 2 == 1) for at in range(6)]
    assert verdict(*operations, steps=200) is Verdict.OK
    never = known(40, 41, "read", result=b"never")
    assert verdict(*operations, never, steps=200) is Verdict.VIOLATION


def test_appends_are_placed_in_the_order_a_later_read_shows() -> None:
    # There are 12! orders, of which the read leaves one.
    tokens = [b"%x" % index for index in range(12)]
    operations = [known(1, 9, "append", token) for token in tokens]
    operations.append(known(10, 11, "read", result=b"".join(reversed(tokens))))
    assert verdict(*operations, model=AppendList(), steps=100) is Verdict.OK


def test_a_search_beyond_its_budget_is_undecided_and_no_pass() -> None:
    operations = [known(index, index, "write", b"%d" % index) for index in range(10)]
    assert verdict(*operations, steps=10) is Verdict.OK
    report = check(History(operations), lambda _: Register(), steps_per_key=9)
    assert report.keys[0].verdict is Verdict.UNDECIDED
    assert not report.is_linearizable
    assert report.undecided == list(report.keys)
    assert report.violations == []
    assert "key 'k': UNDECIDED after 9 steps" in str(report)
    assert str(report).endswith("0 violations, 1 undecided")


def test_each_key_is_an_object_of_its_own() -> None:
    operations = [
        known(1, 2, "write", b"a", key="good"),
        known(3, 4, "read", result=b"a", key="good"),
        known(3, 4, "read", result=b"a", key="bad"),
        known(5, 6, "add", 1, result=1, key="counter"),
    ]
    models: dict[str, Model] = {"good": Register(), "bad": Register(), "counter": Counter()}
    report = check(History(operations), models.__getitem__)
    assert [(one.key, one.verdict) for one in report.keys] == [
        ("good", Verdict.OK),
        ("bad", Verdict.VIOLATION),
        ("counter", Verdict.OK),
    ]
    assert [one.operation_count for one in report.keys] == [2, 1, 1]


def test_a_violation_is_explained_by_the_longest_order_and_what_does_not_fit() -> None:
    write = known(1, 2, "write", b"a")
    overwrite = known(3, 4, "write", b"b")
    stale = known(5, 8, "read", result=b"a")
    concurrent = known(6, 9, "read", result=b"c")
    later = known(10, 11, "read", result=b"d")
    operations = [write, overwrite, stale, concurrent, later]
    report = check(History(operations), lambda _: Register())
    (violation,) = report.violations
    assert violation.result.prefix == (write,)
    # The overwriting does not fit, for a read still to come saw what it would replace.
    assert violation.result.stuck == (overwrite, stale)
    seen = known(5, 8, "read", result=b"b")
    report = check(History([write, overwrite, seen, concurrent, later]), lambda _: Register())
    (violation,) = report.violations
    assert violation.result.prefix == (write, overwrite, seen)
    assert violation.result.state == b"b"
    assert violation.result.stuck == (concurrent,)
    assert str(violation).splitlines() == [
        "key 'k': VIOLATION after 4 steps",
        "  the longest order found has 3 operations, at its end:",
        "    [1..2] client 1: write(b'a') -> None",
        "    [3..4] client 3: write(b'b') -> None",
        "    [5..8] client 5: read() -> b'b'",
        "  after which the state is b'b', and there is no place for:",
        "    [6..9] client 6: read() -> b'c'",
    ]


def test_operations_are_counted_by_outcome() -> None:
    operations = [known(1, 2, "read"), unknown(3, "write", b"a"), failed(4, 5, "write", b"b")]
    report = check(History(operations), lambda _: Register())
    assert (report.operation_count, report.unknown_count, report.failed_count) == (3, 1, 1)


def test_an_operation_the_model_does_not_have_is_an_error_and_no_verdict() -> None:
    with pytest.raises(HistoryError, match="has no such"):
        check(History([known(1, 2, "add", 1, result=1)]), lambda _: Register())
