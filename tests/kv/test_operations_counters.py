from rafter_kv.data_commands import OPERATIONS
from rafter_kv.keyspace import KeySpace
from rafter_kv.operations import INTEGER_MAX, INTEGER_MIN
from rafter_kv.results import (
    DECREMENT_OVERFLOW,
    INCREMENT_NOT_FINITE,
    INCREMENT_OVERFLOW,
    NOT_A_FLOAT,
    Result,
)


def run(keyspace: KeySpace, line: bytes, now_ms: int = 0) -> Result:
    arguments = line.split(b" ")
    return OPERATIONS[arguments[0]](keyspace, arguments, now_ms)


def test_a_counter_that_would_overflow_stays_as_it_is() -> None:
    keyspace = KeySpace()
    run(keyspace, b"SET k %d" % INTEGER_MAX)
    assert run(keyspace, b"INCR k") == INCREMENT_OVERFLOW
    assert run(keyspace, b"GET k") == b"%d" % INTEGER_MAX
    assert run(keyspace, b"DECRBY k %d" % INTEGER_MIN) == DECREMENT_OVERFLOW


def test_counting_keeps_the_deadline() -> None:
    keyspace = KeySpace()
    run(keyspace, b"SET k 1 PX 500")
    run(keyspace, b"INCRBY k 2")
    run(keyspace, b"INCRBYFLOAT k 0.5")
    assert run(keyspace, b"GET k") == b"3.5"
    assert run(keyspace, b"PTTL k") == 500


def test_an_infinite_sum_is_refused_and_nonsense_before_it() -> None:
    keyspace = KeySpace()
    assert run(keyspace, b"INCRBYFLOAT k inf") == INCREMENT_NOT_FINITE
    run(keyspace, b"SET k text")
    assert run(keyspace, b"INCRBYFLOAT k inf") == NOT_A_FLOAT
    run(keyspace, b"SET k 1e4932")
    assert run(keyspace, b"INCRBYFLOAT k 1e4932") == INCREMENT_NOT_FINITE
    assert run(keyspace, b"GET k") == b"1e4932"
