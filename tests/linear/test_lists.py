"""Tests of append lists in histories."""

from __future__ import annotations

from random import Random

from tests.linear.history import History, Operation, Outcome
from tests.linear.lists import AppendedList, appended_lists


def append(token: bytes) -> Operation:
    return Operation(1, "k", "append", (token,), None, 1, 2, Outcome.OK)


def test_values_are_split_into_the_tokens_that_make_them() -> None:
    tokens = [b"a", b"bb", b"cab", b"d"]
    (appended,) = appended_lists(History(map(append, tokens)))
    assert appended.split(b"") == []
    assert appended.split(b"abbcab") == [b"a", b"bb", b"cab"]
    assert appended.split(b"abb") == [b"a", b"bb"]
    assert appended.split(b"ab") is None
    assert appended.split(b"abbcabd") == [b"a", b"bb", b"cab", b"d"]
    assert appended.split(b"bba") == [b"bb", b"a"]
    assert appended.split(b"aax") is None


def test_what_was_split_before_changes_nothing() -> None:
    random = Random(1)
    tokens = [b"a", b"bb", b"bcc", b"ca"]
    appends = {token: append(token) for token in tokens}
    for _ in range(200):
        appended = AppendedList("k", None, appends)
        for _ in range(8):
            value = b"".join(random.choices([*tokens, b"c"], weights=(4, 4, 4, 4, 1), k=4))
            value = value[: random.randrange(len(value) + 1)]
            assert appended.split(value) == AppendedList("k", None, appends).split(value)


def test_lists_are_those_that_nothing_else_writes() -> None:
    def operation(kind: str, *arguments: object, result: object = None) -> Operation:
        return Operation(1, "p", kind, arguments, result, 1, 2, Outcome.OK)

    operations = [operation("append", name, b"1") for name in (b"a", b"b", b"c", b"d")]
    operations += [
        operation("write_many", ((b"a", b"2"),)),
        operation("delete", b"b"),
        operation("write", b"c", b"3"),
        operation("read_many", (b"a", b"d"), result=(b"2", b"1")),
        operation("read", b"d"),
    ]
    (appended,) = appended_lists(History(operations))
    assert appended.sub_key == b"d"
    assert appended.name == "'p', b'd'"
    assert [value for _, value in appended.reads] == [b"1", b""]
