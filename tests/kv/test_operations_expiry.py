import pytest

from rafter_kv.data_commands import OPERATIONS
from rafter_kv.keyspace import KeySpace
from rafter_kv.results import Result


def run(keyspace: KeySpace, line: bytes, now_ms: int = 0) -> Result:
    arguments = line.split(b" ")
    return OPERATIONS[arguments[0]](keyspace, arguments, now_ms)


@pytest.fixture
def keyspace() -> KeySpace:
    keyspace = KeySpace()
    keyspace.put(b"k", b"v")
    return keyspace


@pytest.mark.parametrize(
    ("line", "deadline_ms"),
    [
        (b"EXPIRE k 5", 6000),
        (b"PEXPIRE k 5", 1005),
        (b"EXPIREAT k 5", 5000),
        (b"PEXPIREAT k 5000", 5000),
    ],
)
def test_each_form_sets_an_absolute_deadline(
    keyspace: KeySpace, line: bytes, deadline_ms: int
) -> None:
    assert run(keyspace, line, 1000) == 1
    assert keyspace.deadline_ms(b"k") == deadline_ms


def test_times_left_and_moments_are_told_in_both_units(keyspace: KeySpace) -> None:
    run(keyspace, b"PEXPIREAT k 10499")
    assert run(keyspace, b"PTTL k", 1000) == 9499
    assert run(keyspace, b"TTL k", 1000) == 9
    assert run(keyspace, b"PEXPIRETIME k", 1000) == 10499
    assert run(keyspace, b"EXPIRETIME k", 1000) == 10


@pytest.mark.parametrize(
    "line", [b"EXPIRE k 0", b"PEXPIRE k -1", b"EXPIREAT k 1", b"EXPIRE k -9 LT"]
)
def test_a_deadline_that_has_passed_deletes_the_key(keyspace: KeySpace, line: bytes) -> None:
    assert run(keyspace, line, 1000) == 1
    assert keyspace.key_count == 0


@pytest.mark.parametrize(
    ("options", "without", "shorter", "same", "longer"),
    [
        (b"NX", 1, 0, 0, 0),
        (b"XX", 0, 1, 1, 1),
        (b"GT", 0, 0, 0, 1),
        (b"LT", 1, 1, 0, 0),
        (b"XX GT", 0, 0, 0, 1),
        (b"XX LT", 0, 1, 0, 0),
    ],
)
def test_conditions_compare_with_the_deadline_there_is(
    options: bytes, without: int, shorter: int, same: int, longer: int
) -> None:
    for current, wanted in ((b"50", shorter), (b"100", same), (b"200", longer)):
        keyspace = KeySpace()
        keyspace.put(b"k", b"v")
        run(keyspace, b"PEXPIREAT k 100")
        assert run(keyspace, b"PEXPIREAT k " + current + b" " + options) == wanted
    keyspace = KeySpace()
    keyspace.put(b"k", b"v")
    assert run(keyspace, b"PEXPIREAT k 100 " + options) == without
