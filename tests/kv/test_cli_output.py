"""Text that is safe to print, and can be read back."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_kv.cli_output import cell_text, escaped, json_value


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain", "plain"),
        ("käse".encode(), "käse"),
        (b"tab\tline\nback\\", "tab\\tline\\nback\\\\"),
        (b"\xff\x00", "\\xff\\x00"),
        ("\u009b\u202e".encode(), "\\xc2\\x9b\\xe2\\x80\\xae"),
    ],
)
def test_text_is_escaped_where_a_terminal_would_act_on_it(data: bytes, text: str) -> None:
    assert escaped(data) == text


@given(st.binary())
def test_escaped_text_is_printable_and_tells_the_bytes(data: bytes) -> None:
    text = escaped(data)
    assert text.isprintable()
    # Python's own escapes are a superset of ours.
    assert text.encode().decode("unicode_escape").encode("latin-1") == data


@given(st.binary())
def test_json_tells_the_bytes(data: bytes) -> None:
    value = json_value(data)
    if isinstance(value, dict):
        assert base64.b64decode(value["base64"]) == data
        with pytest.raises(UnicodeDecodeError):
            data.decode()
    else:
        assert isinstance(value, str)
        assert value.encode() == data


def test_json_reaches_into_maps_and_lists() -> None:
    reply = {b"a": [b"x", None, 1, 1.5, True], "b": {b"\xff": b"\xff"}}
    assert json_value(reply) == {
        "a": ["x", None, 1, 1.5, True],
        "b": {"\\xff": {"base64": "/w=="}},
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (b"a\n", "a\\n"),
        ("a\x1b", "a\\x1b"),
        (7, "7"),
        (True, "yes"),
        (False, "no"),
        (1.256, "1.26"),
        ([1, b"2", None], "1,2,"),
    ],
)
def test_any_value_has_a_printable_cell(value: object, text: str) -> None:
    assert cell_text(value) == text
