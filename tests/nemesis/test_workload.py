"""The operations: what replies mean, values that are unique, objects that are let go in time."""

import random

import pytest

from tests.linear.checker import check
from tests.linear.history import History, Operation, Outcome
from tests.linear.models import models_by_kind
from tests.nemesis.workload import (
    OBJECTS_AT_A_TIME,
    OPERATIONS_MAX,
    SORTS,
    UNKNOWN_WRITES_MAX,
    Step,
    StrangeReplyError,
    Team,
    judge_reply,
    keys_of,
    reading,
)


def step(sort: str, kind: str) -> Step:
    """Draw operations until one is of this kind."""
    generator = random.Random(1)
    while True:
        drawn = SORTS[sort](generator, b"k", b"v")
        if drawn.kind == kind:
            return drawn


def test_an_error_that_says_that_nothing_was_executed_is_a_failure_and_any_other_is_unknown() -> (
    None
):
    write = step("register", "write")
    refused = Exception("CLUSTERDOWN No Raft leader for this key's group; nothing was executed")
    assert judge_reply(write, refused) == (Outcome.FAILED, None)
    for text in ("TIMEOUT The outcome is unknown", "ERR no such thing", "closed by the server"):
        assert judge_reply(write, Exception(text)) == (Outcome.UNKNOWN, None)


@pytest.mark.parametrize(
    ("sort", "kind", "reply", "result"),
    [
        ("register", "read", None, None),
        ("register", "read", b"v", b"v"),
        ("register", "write", b"OK", None),
        ("register", "delete", 1, True),
        ("register", "delete", 0, False),
        ("exchange", "set_if_absent", b"OK", True),
        ("exchange", "set_if_absent", None, False),
        ("exchange", "get_and_set", b"old", b"old"),
        ("exchange", "get_and_set", None, None),
        ("counter", "add", 7, 7),
        ("counter", "read", b"7", 7),
        ("counter", "read", None, None),
        ("append", "append", 12, 12),
        ("append", "read", b"1;", b"1;"),
        ("batch", "write_many", b"OK", None),
        ("batch", "read_many", [b"v", None, b"v"], (b"v", None, b"v")),
    ],
)
def test_replies_become_results(sort: str, kind: str, reply: object, result: object) -> None:
    assert judge_reply(step(sort, kind), reply) == (Outcome.OK, result)


@pytest.mark.parametrize(
    ("sort", "kind", "reply"),
    [
        ("register", "read", 7),
        ("register", "write", None),
        ("register", "delete", 2),
        ("exchange", "set_if_absent", b"v"),
        ("counter", "add", b"7"),
        ("counter", "read", b"seven"),
        ("batch", "read_many", [b"v"]),
        ("batch", "read_many", b"v"),
    ],
)
def test_a_reply_of_the_wrong_form_is_strange(sort: str, kind: str, reply: object) -> None:
    with pytest.raises(StrangeReplyError):
        judge_reply(step(sort, kind), reply)


def test_every_operation_is_one_that_the_models_know() -> None:
    """Failed operations fit any history, if they are of a kind that the model has."""
    history = History()
    generator = random.Random(2)
    for sort, draw in SORTS.items():
        for _ in range(200):
            drawn = draw(generator, sort.encode(), b"v")
            history.append(
                Operation(1, sort, drawn.kind, drawn.arguments, None, 1, 2, Outcome.FAILED)
            )
        read = reading(sort, sort)
        history.append(Operation(1, sort, read.kind, read.arguments, None, 1, 2, Outcome.FAILED))
    assert check(history, models_by_kind(history)).is_linearizable


def test_no_value_is_written_twice() -> None:
    teams = [Team(number, random.Random(number)) for number in range(2)]
    written = []
    for team in teams:
        for _ in range(2000):
            _, drawn = team.next_step()
            if drawn.is_write and drawn.kind not in {"add", "delete"}:
                written.append(str(drawn.arguments))
    assert len(written) == len(set(written)) > 1000


def test_the_keys_of_a_batch_share_a_hash_tag() -> None:
    assert keys_of("batch", "t") == [b"{t}a", b"{t}b", b"{t}c"]
    assert keys_of("register", "t") == [b"t"]


def test_objects_are_let_go_before_a_checker_has_too_much_of_them() -> None:
    team = Team(0, random.Random(3))
    for _ in range(OBJECTS_AT_A_TIME * OPERATIONS_MAX * 4):
        team.next_step()
    assert max(each.operations for each in team.objects) == OPERATIONS_MAX
    assert {each.sort for each in team.objects} == set(SORTS)
    assert len({each.name for each in team.objects}) == len(team.objects)


def test_an_object_with_many_unknown_writes_is_left_alone() -> None:
    team = Team(0, random.Random(4))
    target, _ = team.next_step()
    target.unknown_writes = UNKNOWN_WRITES_MAX
    assert all(team.next_step()[0] is not target for _ in range(100))
