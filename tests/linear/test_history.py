"""Tests of histories and their files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.linear.history import History, HistoryError, Operation, Outcome

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary() | st.text(),
    lambda parts: st.lists(parts, max_size=3).map(tuple),
    max_leaves=6,
)


def read(**fields: Any) -> Operation:
    defaults: dict[str, Any] = {
        "client": 1,
        "key": "k",
        "kind": "read",
        "arguments": (),
        "result": b"v",
        "invoked": 1,
        "completed": 2,
        "outcome": Outcome.OK,
    }
    return Operation(**{**defaults, **fields})


def test_an_operation_is_on_its_clients_connection_unless_told_otherwise() -> None:
    assert read(client=7).connection == 7
    assert read(client=7, connection=9).connection == 9


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"kind": "frobnicate"}, "unknown kind"),
        ({"kind": "cas", "arguments": (b"a",)}, "does not take 1 arguments"),
        ({"completed": None}, "if and only if"),
        ({"outcome": Outcome.UNKNOWN, "result": None}, "if and only if"),
        ({"completed": 0}, "before it began"),
        ({"outcome": Outcome.FAILED}, "has no result"),
        ({"outcome": Outcome.UNKNOWN, "completed": None}, "has no result"),
    ],
)
def test_an_operation_that_contradicts_itself_is_refused(
    fields: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(HistoryError, match=complaint):
        read(**fields)


def test_an_operation_reads_as_one_line_of_text() -> None:
    assert str(read()) == "[1..2] client 1: read() -> b'v'"
    unknown = read(outcome=Outcome.UNKNOWN, completed=None, result=None)
    assert str(unknown) == "[1..] client 1: read() UNKNOWN"


def test_a_long_value_is_shown_by_both_its_ends() -> None:
    text = str(read(result=b"begin" + b"x" * 1000 + b"end"))
    assert len(text) < 200
    assert "begin" in text
    assert text.endswith("xend'")


def test_a_history_is_split_by_key() -> None:
    first, second, third = read(key="a"), read(key="b"), read(key="a", client=2)
    assert History([first, second, third]).by_key() == {"a": [first, third], "b": [second]}


@given(
    operations=st.lists(
        st.builds(
            read,
            client=st.integers(0, 9),
            key=st.text(),
            result=VALUES,
            arguments=st.tuples() | st.tuples(VALUES),
            connection=st.integers(0, 9),
        )
    ),
    meta=st.dictionaries(st.text(), st.text(), max_size=3),
)
def test_a_saved_history_loads_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, operations: list[Operation], meta: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("history") / "history.jsonl"
    History(operations, meta).save(path)
    loaded = History.load(path)
    # By representation: True equals 1, and must not become it.
    assert repr(loaded.operations) == repr(operations)
    assert loaded.meta == meta


def test_all_outcomes_and_all_bytes_survive_a_file(tmp_path: Path) -> None:
    operations = [
        read(result=bytes(range(256))),
        read(outcome=Outcome.UNKNOWN, completed=None, result=None),
        read(outcome=Outcome.FAILED, result=None),
    ]
    History(operations).save(tmp_path / "h")
    assert History.load(tmp_path / "h").operations == operations


def test_a_value_that_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="a float cannot be written"):
        History([read(result=1.5)]).save(tmp_path / "h")


HEADER = {"format": "rafter-history", "version": 1, "operations": 1, "meta": {}}
LINE = {
    "client": 1, "key": "k", "kind": "read", "arguments": [], "result": "v",
    "invoked": 1, "completed": 2, "outcome": "ok", "connection": 1,
}  # fmt: skip


def test_a_file_written_by_hand_is_read(tmp_path: Path) -> None:
    path = tmp_path / "h"
    path.write_text(f"{json.dumps(HEADER)}\n{json.dumps(LINE)}\n")
    assert History.load(path).operations == [read()]


def test_the_example_of_the_documentation_is_a_history(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
    (header,) = re.findall(r'`({"format": .*})`', text)
    (lines,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "h"
    path.write_text(f"{header}\n{lines}")
    assert [str(operation) for operation in History.load(path).operations] == [
        "[10..14] client 1: cas(b'1.1', b'1.2') -> True",
        "[12..] client 2: write(b'2.1') UNKNOWN",
    ]


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ({"format": "other"}, "line 1: not a header"),
        ({"version": 2}, "line 1: version 2"),
        ({"operations": None}, "line 1: the header does not say how many"),
        ({"meta": [1]}, "line 1: `meta`"),
        ({"meta": {"a": 1}}, "line 1: `meta`"),
        ({"operations": 2}, "line 2: the file ends after 1 operations"),
    ],
)
def test_a_bad_header_is_refused_with_its_line(
    tmp_path: Path, header: dict[str, Any], complaint: str
) -> None:
    path = tmp_path / "h"
    path.write_text(f"{json.dumps(HEADER | header)}\n{json.dumps(LINE)}\n")
    with pytest.raises(HistoryError, match=complaint):
        History.load(path)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({"extra": 1}, "field 'extra' is unknown"),
        ({"client": True}, "field 'client' cannot be True"),
        ({"invoked": "1"}, "field 'invoked' cannot be '1'"),
        ({"outcome": "maybe"}, "unknown outcome 'maybe'"),
        ({"result": "\u0100"}, "a character that is not a byte"),
        ({"result": 1.5}, "field 'result' cannot be 1.5"),
        ({"result": {"text": 1}}, "is not a value"),
        ({"result": {"text": "a", "more": 1}}, "is not a value"),
        ({"completed": None}, "if and only if"),
    ],
)
def test_a_bad_operation_is_refused_with_its_line(
    tmp_path: Path, line: dict[str, Any], complaint: str
) -> None:
    path = tmp_path / "h"
    path.write_text(f"{json.dumps(HEADER)}\n{json.dumps(LINE | line)}\n")
    with pytest.raises(HistoryError, match=f"line 2: .*{complaint}"):
        History.load(path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "line 1: the file is empty"),
        (b"[1]\n", "line 1: not a JSON object"),
        (b"{\n", "line 1: not a JSON object in ASCII"),
        (b"\xff\n", "line 1: not a JSON object in ASCII"),
        (b"[" * 100_000 + b"\n", "line 1: not a JSON object in ASCII"),
        (json.dumps(HEADER).encode() + b"\n\n", "line 2: not a JSON object in ASCII"),
        (json.dumps(HEADER).encode() + b"\n{}\n", "line 2: field .* is missing"),
        (json.dumps(HEADER).encode(), "line 1: the line is cut short"),
    ],
)
def test_a_file_that_is_no_history_is_refused_with_its_line(
    tmp_path: Path, text: bytes, complaint: str
) -> None:
    path = tmp_path / "h"
    path.write_bytes(text)
    with pytest.raises(HistoryError, match=complaint):
        History.load(path)
