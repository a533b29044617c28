"""The checks: each says what is wrong when something is, and nothing when all is well."""

import asyncio
from pathlib import Path

from rafter_kv.slots import slot_of, slot_ranges
from tests.linear.cheap import Violation
from tests.linear.history import History, Operation, Outcome
from tests.nemesis.clients import LostError
from tests.nemesis.judge import (
    check_history,
    check_logs,
    final_value,
    is_loss,
    is_settled,
    key_of_group,
    within,
)
from tests.nemesis.status import GroupStatus, ReplicaStatus
from tests.nemesis.workload import Object


def operation(kind: str, arguments: tuple[object, ...], result: object, at: int) -> Operation:
    return Operation(1, "k", kind, arguments, result, at, at + 1, Outcome.OK)


def group(*replicas: ReplicaStatus, leader: int = 1) -> GroupStatus:
    return GroupStatus(1, leader, 5, (1, 2), dict(enumerate(replicas, 1)))


def test_each_group_has_a_key_of_its_own() -> None:
    for groups in (1, 2, 6):
        for number, first, last in slot_ranges(groups):
            assert first <= slot_of(key_of_group(number, groups)) <= last


def test_a_group_is_settled_when_all_replicas_have_applied_everything() -> None:
    good = ReplicaStatus(9, 9, 4, "serving")
    assert is_settled(group(good, good))
    assert not is_settled(group(good, good, leader=0))
    assert not is_settled(group(good))
    assert not is_settled(group(good, good._replace(applied=8)))
    assert not is_settled(group(good, good._replace(applied=8, commit=8)))
    assert not is_settled(group(good, good._replace(keys=3)))


def test_waiting_ends_with_an_answer_or_with_a_reason() -> None:
    answers = iter([None, "well"])

    async def ask() -> str | None:
        return next(answers)

    async def fail() -> str | None:
        raise LostError("nobody there")

    assert asyncio.run(within(10.0, "an answer", ask)) == "well"
    reason = asyncio.run(within(0.0, "an answer", fail))
    assert reason == "not within 0 s: an answer (nobody there)"


def test_a_sound_history_passes_and_the_figures_are_told() -> None:
    history = History([operation("write", (b"1",), None, 1), operation("read", (), b"1", 5)])
    cheaply, linear = check_history(history, {"k": b"1"})
    assert cheaply.is_passed
    assert linear.is_passed
    assert "2 operations" in linear.examined


def test_a_lost_write_is_found_and_counted_as_one() -> None:
    history = History([operation("write", (b"1",), None, 1), operation("read", (), None, 5)])
    cheaply, linear = check_history(history, {"k": None})
    assert cheaply.lost == len(cheaply.problems) == 1
    assert not linear.is_passed
    assert linear.keys == ["k"]


def test_what_is_there_twice_is_no_loss_and_what_is_missing_is() -> None:
    assert is_loss(Violation("lost write", "key 'k' ends as None"))
    assert is_loss(Violation("miscount", "list 'k': b'1;' is missing: at the end None"))
    assert not is_loss(Violation("miscount", "list 'k': b'1;' is there 2 times: at the end None"))
    assert not is_loss(Violation("phantom read", "key 'k': nobody had written b'1'"))


def test_a_history_that_cannot_be_checked_is_a_problem() -> None:
    history = History([operation("add", (1,), 1, 1), operation("append", (b"1;",), 2, 3)])
    (check,) = check_history(history, {})
    assert "cannot be checked" in check.problems[0]


def test_final_values_are_what_the_cheap_checks_take() -> None:
    assert final_value(Object("register", "r"), b"1") == b"1"
    assert final_value(Object("batch", "b"), (b"1", None, b"1")) == {
        "a": b"1",
        "b": None,
        "c": b"1",
    }


def test_errors_in_the_log_of_a_node_are_problems_unless_they_are_expected(tmp_path: Path) -> None:
    path = tmp_path / "n1.log"
    trace = 'event="shard 0 stops: Traceback (most recent call last): ... Poisoned: cannot write"'
    path.write_text(f"level=info event=well\n{trace}\n")
    assert check_logs([path]).problems == [f"n1.log, line 2: {trace}"]
    assert check_logs([path], ["Poisoned"]).is_passed
    assert check_logs([tmp_path / "n2.log"]).is_passed
