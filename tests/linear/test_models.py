"""Tests of the sequential models."""

from __future__ import annotations

from typing import Any

import pytest

from tests.linear.history import History, HistoryError, Operation, Outcome
from tests.linear.models import (
    UNTOLD,
    AppendList,
    Batch,
    Counter,
    Model,
    Register,
    models_by_kind,
)


def known(kind: str, *arguments: Any, result: Any = None, key: str = "k") -> Operation:
    return Operation(1, key, kind, arguments, result, 1, 2, Outcome.OK)


def unknown(kind: str, *arguments: Any) -> Operation:
    return Operation(1, "k", kind, arguments, None, 1, None, Outcome.UNKNOWN)


def answers(model: Model, *steps: tuple[Any, ...]) -> list[Any]:
    """Return what the model answers to operations, one after another."""
    state, given = model.initial, []
    for kind, *arguments in steps:
        applied = model.apply(state, kind, tuple(arguments))
        assert applied is not None
        state, answer = applied
        hash(state)
        given.append(answer)
    return given


def test_a_register_answers_as_one_copy_would() -> None:
    assert answers(
        Register(),
        ("read",),
        ("set_if_absent", b"a"),
        ("set_if_absent", b"b"),
        ("cas", b"b", b"c"),
        ("read",),
        ("cas", b"a", b"c"),
        ("get_and_set", b"d"),
        ("write", b"e"),
        ("read",),
        ("delete",),
        ("delete",),
        ("cas", None, b"f"),
        ("cas", b"f", None),
        ("read",),
    ) == [None, True, False, False, b"a", True, b"c", None, b"e", True, False, True, True, None]
    assert answers(Register(b"a"), ("read",)) == [b"a"]


def test_a_counter_answers_as_one_copy_would() -> None:
    assert answers(Counter(), ("read",), ("add", 2), ("add", -3), ("read",)) == [0, 2, -1, -1]
    assert answers(Counter(7), ("add", 1)) == [8]


def test_an_append_list_answers_as_one_copy_would() -> None:
    steps = ("read",), ("append", b"ab"), ("append", b"c"), ("read",)
    assert answers(AppendList(), *steps) == [b"", 2, 3, b"abc"]
    assert answers(AppendList(b"x"), *steps) == [b"x", 3, 4, b"xabc"]


def test_a_batch_answers_as_one_copy_would() -> None:
    assert answers(
        Batch(),
        ("read_many", (b"x", b"y")),
        ("write_many", ((b"x", b"1"), (b"y", b"2"))),
        ("write", b"x", b"3"),
        ("read_many", (b"y", b"x", b"z")),
        ("append", b"y", b"4"),
        ("read", b"y"),
        ("delete", b"x"),
        ("delete", b"x"),
        ("read", b"x"),
    ) == [(None, None), None, None, (b"2", b"3", None), 2, b"24", True, False, None]
    assert answers(Batch([(b"x", b"0")]), ("read", b"x")) == [b"0"]


def test_an_answer_that_was_not_told_need_not_fit() -> None:
    assert Register().observed(unknown("write", b"a")) is UNTOLD
    assert Register().observed(known("delete")) is UNTOLD
    assert Register().observed(known("delete", result=True)) is True
    assert AppendList().observed(known("append", b"a")) is UNTOLD
    assert AppendList().observed(known("append", b"a", result=1)) == 1
    assert Register().observed(known("read")) is None


def test_an_absent_counter_or_list_reads_as_none_or_as_empty() -> None:
    assert Counter().observed(known("read")) == 0
    assert AppendList().observed(known("read")) == b""


def test_a_list_does_not_become_what_its_longest_read_contradicts() -> None:
    reads = [known("read", result=b"a"), known("read", result=b"abc"), known("read")]
    model = AppendList().for_history(reads)
    assert model.apply(b"", "append", (b"b",)) is None
    assert model.apply(b"ab", "append", (b"d",)) is None
    assert model.apply(b"ab", "append", (b"c",)) == (b"abc", 3)
    assert model.apply(b"abc", "append", (b"d",)) == (b"abcd", 4)


def test_an_answer_below_a_counter_that_only_grows_is_past() -> None:
    add, read = known("add", 2, result=5), known("read", result=4)
    growing = Counter().for_history([add, read])
    assert [growing.is_past(state, add) for state in (3, 4)] == [False, True]
    assert [growing.is_past(state, read) for state in (4, 5)] == [False, True]
    assert not growing.is_past(9, unknown("add", 1))
    assert not Counter().for_history([add, unknown("add", -1)]).is_past(9, add)


def test_an_answer_shorter_than_a_list_is_past() -> None:
    append, read = known("append", b"ab", result=5), known("read", result=b"1234")
    assert [AppendList().is_past(b"x" * size, append) for size in (3, 4)] == [False, True]
    assert [AppendList().is_past(b"x" * size, read) for size in (4, 5)] == [False, True]
    assert not AppendList().is_past(b"x" * 9, known("append", b"ab"))


def test_lists_of_a_partition_only_grow() -> None:
    append = known("append", b"x", b"b", result=2)
    reads = known("read", b"x", result=b"ab"), known("read_many", (b"x", b"y"), result=(b"a", None))
    model = Batch().for_history([append, *reads])
    shorter, longer = frozenset({(b"x", b"a")}), frozenset({(b"x", b"abb")})
    assert model.apply(frozenset({(b"x", b"b")}), "append", (b"x", b"b")) is None
    for operation in (append, *reads):
        assert not model.is_past(shorter, operation)
        assert model.is_past(longer, operation)
    written = Batch().for_history([append, *reads, unknown("write", b"x", b"")])
    assert not any(written.is_past(longer, operation) for operation in (append, *reads))


@pytest.mark.parametrize(
    ("model", "operation"),
    [
        (Register(), known("add", 1, result=1)),
        (Counter(), known("write", b"a")),
        (AppendList(), known("delete")),
        (Batch(), known("cas", b"a", b"b", result=True)),
        (Register(), known("read", b"x")),
        (Register(), known("write", b"x", b"a")),
        (AppendList(), known("append", b"x", b"a")),
        (Batch(), known("read")),
        (Batch(), known("write", b"a")),
        (Batch(), known("read_many", b"x", result=(b"a",))),
        (Batch(), known("write_many", (b"x", b"a"))),
        (Register(), known("cas", b"a", b"b", result=None)),
        (Register(), known("write", 1)),
        (Register(), known("read", result=1)),
        (Counter(), known("add", b"1", result=1)),
        (Counter(), known("add", 1, result=None)),
        (AppendList(), known("append", b"")),
    ],
)
def test_a_model_refuses_operations_it_does_not_have(model: Model, operation: Operation) -> None:
    with pytest.raises(HistoryError, match="of key 'k' has no such"):
        model.for_history([operation])


def test_a_batch_read_must_answer_for_each_sub_key() -> None:
    with pytest.raises(HistoryError, match="2 sub-keys read, 1 values"):
        Batch().for_history([known("read_many", (b"x", b"y"), result=(b"a",))])


def test_an_operation_without_an_answer_is_only_asked_for_its_arguments() -> None:
    operations = [unknown("cas", None, b"a"), unknown("read"), unknown("set_if_absent", b"b")]
    assert isinstance(Register().for_history(operations), Register)


def test_the_model_of_a_key_follows_from_its_operations() -> None:
    history = History(
        [
            known("write", b"a", key="register"),
            known("read", key="read only"),
            known("add", 1, result=1, key="counter"),
            known("read", result=0, key="counter only read"),
            known("append", b"a", key="list"),
            known("read_many", (b"x",), result=(None,), key="batch"),
            known("append", b"x", b"a", key="lists"),
            known("read", b"x", key="sub-key"),
        ]
    )
    model_of_key = models_by_kind(history)
    assert {key: type(model_of_key(key)) for key in history.by_key()} == {
        "register": Register,
        "read only": Register,
        "counter": Counter,
        "counter only read": Counter,
        "list": AppendList,
        "batch": Batch,
        "lists": Batch,
        "sub-key": Batch,
    }


def test_a_key_of_no_one_model_is_refused() -> None:
    with pytest.raises(HistoryError, match="key 'k' has add, write"):
        models_by_kind(History([known("add", 1, result=1), known("write", b"a")]))
