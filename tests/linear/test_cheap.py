"""Tests of the cheap checks: each finds what it is for, and lets pass what may have happened."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tests.linear import cheap
from tests.linear.atomic_object import MODELS, sound_history
from tests.linear.history import History, HistoryError, Operation, Outcome
from tests.linear.planting import PLANTERS, plant


def known(
    invoked: int, completed: int, kind: str, *arguments: Any, result: Any = None, client: int = 1
) -> Operation:
    return Operation(client, "k", kind, arguments, result, invoked, completed, Outcome.OK)


def unknown(invoked: int, kind: str, *arguments: Any) -> Operation:
    return Operation(1, "k", kind, arguments, None, invoked, None, Outcome.UNKNOWN)


def failed(invoked: int, completed: int, kind: str, *arguments: Any) -> Operation:
    return Operation(1, "k", kind, arguments, None, invoked, completed, Outcome.FAILED)


def texts(violations: list[cheap.Violation]) -> list[str]:
    return [str(violation) for violation in violations]


# ---- lost writes -------------------------------------------------------------------------------

WRITES = [known(1, 2, "write", b"a"), known(3, 6, "write", b"b"), known(5, 8, "write", b"c")]


@pytest.mark.parametrize("final", [b"b", b"c"])
def test_the_last_writes_may_end_in_either_order(final: bytes) -> None:
    assert cheap.lost_writes(History(WRITES), {"k": final}) == []


def test_an_acknowledged_write_is_not_undone_by_one_before_it() -> None:
    assert texts(cheap.lost_writes(History(WRITES), {"k": b"a"})) == [
        "lost write: key 'k' ends as b'a', which nothing wrote after"
        f" [{one.invoked}..{one.completed}] client 1: write({one.arguments[0]!r}) -> None"
        for one in WRITES[1:]
    ]


def test_an_acknowledged_write_does_not_vanish() -> None:
    assert len(cheap.lost_writes(History(WRITES), {"k": None})) == 3


def test_a_final_value_was_written() -> None:
    assert texts(cheap.lost_writes(History(WRITES), {"k": b"x"})) == [
        "lost write: key 'k': nobody wrote the final value b'x'"
    ]


def test_a_key_without_a_final_value_is_not_checked() -> None:
    assert cheap.lost_writes(History(WRITES), {}) == []
    assert cheap.lost_writes(History([failed(1, 2, "write", b"a")]), {"k": None}) == []


@pytest.mark.parametrize(
    "last",
    [
        unknown(1, "write", b"x"),
        unknown(1, "cas", b"a", b"x"),
        known(7, 8, "cas", b"c", b"x", result=True),
        known(7, 8, "get_and_set", b"x", result=b"c"),
        known(7, 8, "set_if_absent", b"x", result=True),
    ],
)
def test_any_later_or_unknown_write_may_overwrite(last: Operation) -> None:
    assert cheap.lost_writes(History([*WRITES[:2], last]), {"k": b"x"}) == []


@pytest.mark.parametrize(
    "last",
    [
        failed(7, 8, "write", b"x"),
        known(7, 8, "cas", b"c", b"x", result=False),
        known(7, 8, "set_if_absent", b"x", result=False),
    ],
)
def test_what_did_not_happen_overwrites_nothing(last: Operation) -> None:
    assert len(cheap.lost_writes(History([*WRITES, last]), {"k": b"x"})) == 1


def test_a_delete_explains_an_absent_key_and_is_not_undone() -> None:
    deletion = known(9, 10, "delete", result=True)
    assert cheap.lost_writes(History([*WRITES, deletion]), {"k": None}) == []
    assert cheap.lost_writes(History([*WRITES, unknown(1, "delete")]), {"k": None}) == []
    (violation,) = cheap.lost_writes(History([*WRITES, deletion]), {"k": b"c"})
    assert "delete" in violation.text
    nothing_there = known(9, 10, "delete", result=False)
    assert cheap.lost_writes(History([*WRITES, nothing_there]), {"k": b"c"}) == []


def test_sub_keys_are_checked_one_by_one() -> None:
    history = History(
        [
            known(1, 2, "write_many", ((b"x", b"1"), (b"y", b"2"))),
            known(3, 4, "write", b"x", b"3"),
        ]
    )
    assert cheap.lost_writes(history, {"k": {b"x": b"3", b"y": b"2"}}) == []
    (violation,) = cheap.lost_writes(history, {"k": {b"x": b"1", b"y": b"2"}})
    assert "key 'k', b'x'" in violation.text
    (violation,) = cheap.lost_writes(history, {"k": {b"x": b"3"}})
    assert "key 'k', b'y'" in violation.text


# ---- phantom reads -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write",
    [
        known(1, 2, "write", b"a"),
        known(5, 9, "write", b"a"),
        unknown(1, "write", b"a"),
        unknown(5, "cas", b"x", b"a"),
        known(1, 2, "set_if_absent", b"a", result=True),
    ],
)
def test_a_value_may_be_read_once_its_write_was_invoked(write: Operation) -> None:
    assert cheap.phantom_reads(History([write, known(3, 5, "read", result=b"a")])) == []


@pytest.mark.parametrize(
    "write",
    [
        known(6, 7, "write", b"a"),
        unknown(6, "write", b"a"),
        failed(1, 2, "write", b"a"),
        known(1, 2, "cas", b"x", b"a", result=False),
        known(1, 2, "write", b"b"),
    ],
)
def test_a_value_is_not_read_before_its_write_was_invoked(write: Operation) -> None:
    for seen in (
        known(3, 5, "read", result=b"a"),
        known(3, 5, "get_and_set", b"c", result=b"a"),
        known(3, 5, "cas", b"a", b"c", result=True),
    ):
        (violation,) = cheap.phantom_reads(History([write, seen]))
        assert violation.text == f"key 'k': nobody had written b'a': {seen}"


def test_a_value_is_read_under_its_own_sub_key() -> None:
    write = known(1, 2, "write_many", ((b"x", b"1"), (b"y", b"2")))
    right = known(3, 4, "read_many", (b"y", b"x", b"z"), result=(b"2", b"1", None))
    wrong = known(3, 4, "read_many", (b"y",), result=(b"1",))
    assert cheap.phantom_reads(History([write, right])) == []
    assert len(cheap.phantom_reads(History([write, wrong]))) == 1


def test_a_list_has_only_tokens_whose_append_was_invoked() -> None:
    appends = [known(1, 2, "append", b"a;"), unknown(3, "append", b"b;")]
    late, gone = known(6, 7, "append", b"c;"), failed(1, 2, "append", b"d;")
    for value, text in {
        b"b;a;": None,
        b"a;c;": "nobody had appended b'c;'",
        b"a;d;": "nobody had appended b'd;'",
        b"a;b": "nobody appended such bytes",
    }.items():
        read = known(4, 5, "read", result=value)
        found = cheap.phantom_reads(History([*appends, late, gone, read]))
        assert [one.text for one in found] == ([f"list 'k': {text}: {read}"] if text else [])


@pytest.mark.parametrize(
    ("tokens", "complaint"),
    [
        ((b"a", b"a"), "appended by two operations"),
        ((b"ab", b"a"), "b'ab' begins with b'a'"),
        ((b"",), "an append of nothing"),
    ],
)
def test_tokens_that_cannot_be_told_apart_are_refused(
    tokens: tuple[bytes, ...], complaint: str
) -> None:
    with pytest.raises(HistoryError, match=complaint):
        cheap.phantom_reads(History([known(1, 2, "append", token) for token in tokens]))


# ---- backward reads ----------------------------------------------------------------------------


def test_a_client_does_not_see_a_counter_go_back() -> None:
    operations = [known(1, 2, "add", 2, result=2), known(3, 4, "read", result=5)]
    assert cheap.backward_reads(History([*operations, known(5, 6, "read", result=5)])) == []
    for backward in (known(5, 6, "read", result=4), known(5, 6, "add", 1, result=5)):
        (violation,) = cheap.backward_reads(History([*operations, backward]))
        assert violation.text == f"key 'k': this client had been told 5: {backward}"


def test_another_client_or_a_concurrent_operation_may_see_less() -> None:
    operations = [known(1, 2, "add", 2, result=2), known(3, 6, "read", result=5)]
    for less in (known(7, 8, "read", result=2, client=2), known(6, 8, "read", result=2)):
        assert cheap.backward_reads(History([*operations, less])) == []


def test_a_counter_that_is_made_less_may_go_back() -> None:
    operations = [known(1, 2, "add", 2, result=2), known(3, 4, "read", result=1)]
    assert len(cheap.backward_reads(History(operations))) == 1
    assert cheap.backward_reads(History([*operations, unknown(1, "add", -1)])) == []


def test_a_client_sees_a_list_only_grow() -> None:
    appends = [unknown(1, "append", token) for token in (b"a", b"b", b"c")]
    first = known(1, 2, "read", result=b"ab")
    assert (
        cheap.backward_reads(History([*appends, first, known(3, 4, "read", result=b"abc")])) == []
    )
    for value in (b"a", None, b"bac"):
        later = known(3, 4, "read", result=value)
        (violation,) = cheap.backward_reads(History([*appends, first, later]))
        assert violation.text == f"list 'k': this client had read b'ab': {later}"


# ---- miscounts ---------------------------------------------------------------------------------


def test_a_sum_is_of_the_known_and_of_any_of_the_unknown_additions() -> None:
    history = History(
        [
            known(1, 2, "add", 5, result=5),
            unknown(3, "add", 2),
            unknown(3, "add", -1),
            failed(4, 5, "add", 100),
        ]
    )
    assert [len(cheap.miscounts(history, {"k": final})) for final in (3, 4, 7, 8)] == [1, 0, 0, 1]
    assert len(cheap.miscounts(history, {"k": None})) == 1
    assert cheap.miscounts(history) == []


def test_an_acknowledged_token_is_in_a_list_exactly_once() -> None:
    append, maybe = known(1, 2, "append", b"a"), unknown(3, "append", b"b")
    history = History([append, maybe])
    for final, text in {
        b"a": None,
        b"ab": None,
        b"": "b'a' is missing",
        b"ba": None,
        b"aa": "b'a' is there 2 times",
        b"abb": "b'b' is there 2 times",
    }.items():
        found = cheap.miscounts(history, {"k": final})
        expected = [f"list 'k': {text}: at the end {final!r}"] if text else []
        assert [one.text for one in found] == expected


def test_a_read_has_each_token_acknowledged_before_it() -> None:
    append = known(1, 5, "append", b"a")
    late, early = known(6, 7, "read"), known(5, 7, "read")
    assert [one.text for one in cheap.miscounts(History([append, late]))] == [
        f"list 'k': b'a' is missing: {late}"
    ]
    assert cheap.miscounts(History([append, early])) == []
    assert len(cheap.miscounts(History([append, known(1, 2, "read", result=b"aa")]))) == 1


def test_lists_of_a_partition_are_counted_one_by_one() -> None:
    history = History([known(1, 2, "append", b"x", b"a"), known(3, 4, "append", b"y", b"b")])
    assert cheap.miscounts(history, {"k": {b"x": b"a", b"y": b"b"}}) == []
    (violation,) = cheap.miscounts(history, {"k": {b"x": b"a"}})
    assert violation.text == "list 'k', b'y': b'b' is missing: at the end None"


# ---- replicas ----------------------------------------------------------------------------------


def test_replicas_are_equal_wherever_they_have_applied_the_same() -> None:
    assert cheap.diverged_replicas({1: {5: "a", 6: "b"}, 2: {6: "b", 7: "c"}, 3: {}}) == []
    found = cheap.diverged_replicas({1: {5: "a", 6: "b"}, 2: {5: "a", 6: "x"}, 3: {6: "b"}})
    assert texts(found) == ["diverged replicas: at index 6: 1, 3 ('b') against 2 ('x')"]


# ---- all of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("sort", MODELS)
def test_no_check_refuses_a_sound_history(sort: str) -> None:
    random = Random(sort)
    for _ in range(50):
        history = sound_history(sort, random, unknown_share=0.1)
        last = sound_history(sort, random, clients=1, unknown_share=0)
        assert cheap.check_all(history) == []
        assert cheap.check_all(last, {sort: _final(last)}) == []


def _final(history: History) -> Any:
    """Return the state that a history of one client, without unknown operations, ends with."""
    model = MODELS[history.operations[0].key]
    state = model.initial
    for operation in history.operations:
        applied = model.apply(state, operation.kind, operation.arguments)
        assert applied is not None
        state = applied[0]
    return dict(state) if isinstance(state, frozenset) else state


@pytest.mark.parametrize(
    "name", ["phantom_value", "value_from_the_future", "failed_write_seen", "lost_append",
             "duplicate_append", "reordered_appends", "torn_lists", "stale_list"],
)  # fmt: skip
def test_anomalies_that_need_no_search_are_found_without_one(name: str) -> None:
    assert name in PLANTERS
    random = Random(name)
    for _ in range(50):
        assert cheap.check_all(plant(name, random)), name
