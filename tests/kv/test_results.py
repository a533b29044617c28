import msgpack
import pytest

from rafter_kv.results import OK, Result, invalid_expire, is_error, printable, wrong_arity


@pytest.mark.parametrize("result", [OK, b"-ERR in a value", None, 1, 1.5, [], {}, True])
def test_only_an_error_line_is_an_error(result: Result) -> None:
    assert not is_error(result)
    assert is_error("-ERR syntax error")


def test_error_lines_name_the_command_as_redis_does() -> None:
    assert wrong_arity(b"MSET") == "-ERR wrong number of arguments for 'mset' command"
    assert invalid_expire(b"SET") == "-ERR invalid expire time in 'set' command"


def test_client_bytes_in_an_error_line_stay_one_line_that_can_be_packed() -> None:
    text = printable(b"a\r\n+OK\xff\xed\xa0\x80")
    assert "\r" not in text
    assert "\n" not in text
    assert msgpack.unpackb(msgpack.packb(text)) == text
