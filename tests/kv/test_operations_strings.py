"""Strings: what a comparison with Redis cannot show, limits and deadlines to the millisecond."""

import pytest

from rafter_kv.data_commands import OPERATIONS
from rafter_kv.keyspace import VALUE_BYTES_MAX, KeySpace
from rafter_kv.results import STRING_TOO_LONG, Result


def run(keyspace: KeySpace, line: bytes, now_ms: int = 0) -> Result:
    arguments = line.split(b" ")
    return OPERATIONS[arguments[0]](keyspace, arguments, now_ms)


def test_an_expiry_counts_from_the_time_of_the_log() -> None:
    keyspace = KeySpace()
    run(keyspace, b"SET k v PX 500", 1000)
    assert run(keyspace, b"GET k", 1499) == b"v"
    assert run(keyspace, b"GET k", 1500) is None


@pytest.mark.parametrize("line", [b"SET k v PXAT 99", b"SET k v EXAT 1"])
def test_set_with_a_deadline_in_the_past_leaves_no_key(line: bytes) -> None:
    keyspace = KeySpace()
    run(keyspace, b"SET k old")
    assert run(keyspace, line, 5000) == "+OK"
    assert keyspace.key_count == 0


@pytest.mark.parametrize(
    ("line", "result"),
    [
        (b"SET k new NX", "+OK"),
        (b"SET k new XX", None),
        (b"SET k new GET", None),
        (b"SETNX k new", 1),
        (b"GETSET k new", None),
        (b"GETDEL k", None),
        (b"GETEX k PERSIST", None),
        (b"APPEND k new", 3),
        (b"SETRANGE k 1 new", 4),
        (b"STRLEN k", 0),
        (b"MSETNX k new", 1),
        (b"INCR k", 1),
        (b"DEL k", 0),
        (b"EXISTS k", 0),
        (b"TYPE k", "+none"),
        (b"PEXPIRE k 1000", 0),
        (b"PERSIST k", 0),
        (b"PTTL k", -2),
    ],
)
def test_a_key_past_its_deadline_counts_as_absent(line: bytes, result: Result) -> None:
    keyspace = KeySpace()
    run(keyspace, b"SET k 41 PX 10")
    assert run(keyspace, line, 10) == result
    assert run(keyspace, b"PTTL k", 10) in (-1, -2)


def test_grown_values_have_a_limit_that_is_the_same_everywhere() -> None:
    keyspace = KeySpace()
    assert VALUE_BYTES_MAX == 16 << 20
    keyspace.put(b"k", b"x" * VALUE_BYTES_MAX)
    assert run(keyspace, b"APPEND k y") == STRING_TOO_LONG
    assert run(keyspace, b"SETRANGE k %d y" % VALUE_BYTES_MAX) == STRING_TOO_LONG
    assert run(keyspace, b"SETRANGE k %d y" % (VALUE_BYTES_MAX - 1)) == VALUE_BYTES_MAX
    assert run(keyspace, b"STRLEN k") == VALUE_BYTES_MAX


def test_keepttl_keeps_the_deadline_and_a_plain_set_does_not() -> None:
    keyspace = KeySpace()
    run(keyspace, b"SET k v PX 500")
    run(keyspace, b"SET k w KEEPTTL", 100)
    assert run(keyspace, b"PTTL k", 100) == 400
    run(keyspace, b"SET k x", 100)
    assert run(keyspace, b"PTTL k", 100) == -1


def test_a_set_that_is_not_carried_out_changes_nothing() -> None:
    keyspace = KeySpace()
    run(keyspace, b"SET k v PX 500")
    assert run(keyspace, b"SET k w NX GET EX 9") == b"v"
    assert run(keyspace, b"SET none w XX EX 9") is None
    assert run(keyspace, b"GET k") == b"v"
    assert run(keyspace, b"PTTL k") == 500
    assert keyspace.key_count == 1


def test_msetnx_sets_all_or_none() -> None:
    keyspace = KeySpace()
    run(keyspace, b"SET b 1")
    assert run(keyspace, b"MSETNX a 1 b 2") == 0
    assert run(keyspace, b"MGET a b") == [None, b"1"]
