import math

import hiredis
import pytest

from rafter_kv.reply_encoding import (
    RESULT_BYTES_LARGE,
    SetReply,
    Verbatim,
    encode,
    encode_into,
    error_text,
)


@pytest.mark.parametrize(
    ("value", "old", "new"),
    [
        (b"", b"$0\r\n\r\n", b"$0\r\n\r\n"),
        (b"a\r\nb", b"$4\r\na\r\nb\r\n", b"$4\r\na\r\nb\r\n"),
        (0, b":0\r\n", b":0\r\n"),
        (-(2**63), b":-9223372036854775808\r\n", b":-9223372036854775808\r\n"),
        (None, b"$-1\r\n", b"_\r\n"),
        ("+OK", b"+OK\r\n", b"+OK\r\n"),
        ("-ERR no", b"-ERR no\r\n", b"-ERR no\r\n"),
        ([], b"*0\r\n", b"*0\r\n"),
        (
            [b"a", None, [1]],
            b"*3\r\n$1\r\na\r\n$-1\r\n*1\r\n:1\r\n",
            b"*3\r\n$1\r\na\r\n_\r\n*1\r\n:1\r\n",
        ),
        ({b"a": 1}, b"*2\r\n$1\r\na\r\n:1\r\n", b"%1\r\n$1\r\na\r\n:1\r\n"),
        (1.5, b"$3\r\n1.5\r\n", b",1.5\r\n"),
        (math.inf, b"$3\r\ninf\r\n", b",inf\r\n"),
        (True, b":1\r\n", b"#t\r\n"),
        (False, b":0\r\n", b"#f\r\n"),
        (Verbatim(b"text"), b"$4\r\ntext\r\n", b"=8\r\ntxt:text\r\n"),
        (SetReply(["+a"]), b"*1\r\n+a\r\n", b"~1\r\n+a\r\n"),
    ],
)
def test_each_kind_of_result_has_its_form_in_both_versions(
    value: object, old: bytes, new: bytes
) -> None:
    assert encode(value, 2) == old
    assert encode(value, 3) == new
    assert encode([value], 3) == b"*1\r\n" + new


def test_a_line_end_in_an_error_cannot_start_another_reply() -> None:
    assert encode("-ERR a\r\n+OK\r\n", 2) == b"-ERR a  +OK  \r\n"
    assert encode(["-ERR a\r\n+OK"], 3) == b"*1\r\n-ERR a  +OK\r\n"


def test_any_bytes_quoted_in_an_error_come_back_as_they_were() -> None:
    raw = bytes(range(32, 256))
    assert encode("-ERR " + error_text(raw), 2) == b"-ERR " + raw + b"\r\n"


def test_large_results_stop_at_the_budget_and_go_on_from_there() -> None:
    large = b"x" * (RESULT_BYTES_LARGE + 1)
    results = [large, 1, [large], large, b"end"]
    parts: list[bytes] = []
    done, budget = encode_into(parts, results, 0, 2, len(large) + 10)
    assert done == 3
    assert budget <= 0
    done, budget = encode_into(parts, results, done, 2, 1)
    assert done == 4
    done, budget = encode_into(parts, results, done, 2, 1)
    assert (done, budget) == (5, 1)
    reader = hiredis.Reader()
    reader.feed(b"".join(parts))
    assert [reader.gets() for _ in results] == results


def test_a_value_that_is_no_result_is_an_error_and_not_a_guess() -> None:
    with pytest.raises(TypeError, match="object"):
        encode(object(), 2)
