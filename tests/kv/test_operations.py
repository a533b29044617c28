"""The operations against a real redis-server: the same commands, the same results and errors."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rafter_kv.data_commands import OPERATIONS
from rafter_kv.keyspace import KeySpace
from rafter_kv.operations import (
    INTEGER_MAX,
    INTEGER_MIN,
    expiry_deadline,
    parse_integer,
    parse_set_options,
)
from rafter_kv.results import NOT_AN_INTEGER, Result
from tests.kv.redis_comparison import MISSING, MISSING_REASON, RealRedis, running_redis

# Relative expiries are multiples of 1000 s, absolute ones lie 500 s off them, so the moments at
# which the two sides run a command decide no comparison of deadlines.
START_SECONDS = int(time.time()) // 1000 * 1000 + 1500
TOLERANCE_MILLISECONDS = 20_000


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRedis]:
    directory: Path = tmp_path_factory.mktemp("redis")
    with running_redis(directory) as oracle:
        yield oracle


def any_case(word: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from([word, word.lower(), word.capitalize()])


def command(name: bytes, *arguments: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    return st.tuples(*arguments).map(lambda rest: [name, *rest])


def joined(
    head: st.SearchStrategy[list[bytes]], tail: st.SearchStrategy[list[bytes]]
) -> st.SearchStrategy[list[bytes]]:
    return st.tuples(head, tail).map(lambda parts: parts[0] + parts[1])


ALL_KEYS = [b"a", b"b", b"{a}c", b""]
# Mostly one key, so that commands meet what others left.
KEYS = st.sampled_from([b"a", b"a", b"a", *ALL_KEYS])
NUMBERS = st.one_of(
    st.integers(-14, 14),
    st.sampled_from([INTEGER_MAX, INTEGER_MIN, INTEGER_MAX + 1, INTEGER_MAX - 1, INTEGER_MIN + 2]),
).map(lambda number: b"%d" % number)
FLOATS = st.one_of(
    st.floats(allow_nan=True).map(lambda number: repr(number).encode()),
    st.decimals(-1000, 1000, places=4).map(lambda number: str(number).encode()),
    st.sampled_from(
        [b"3.0e3", b"5.", b".5", b"0x1.8p1", b"inf", b"-Infinity", b"1e400", b"1e5000"]
    ),
    st.sampled_from(
        [b"1e-4960", b"+1", b" 1", b"1 ", b"0x", b"1e", b".", b"-0", b"1_0", b"1e4932"]
    ),
)
ODD_TEXTS = st.sampled_from(
    [b"", b"01", b"+1", b"-0", b" 1", b"1 ", b"1.0", b"x", b"\xff\x00", b"-"]
)
VALUES = st.one_of(NUMBERS, ODD_TEXTS, FLOATS, st.binary(max_size=12))
AMOUNTS = st.one_of(NUMBERS, ODD_TEXTS)

POSITIVE_RELATIVE = st.integers(1, 900).map(lambda number: b"%d" % (1000 * number))
POSITIVE_RELATIVE_MS = st.integers(1, 900).map(lambda number: b"%d" % (1_000_000 * number))
ABSOLUTE = st.integers(1, 900).map(lambda number: b"%d" % (START_SECONDS + 1000 * number))
ABSOLUTE_MS = st.integers(1, 900).map(lambda n: b"%d000" % (START_SECONDS + 1000 * n))
PAST = st.sampled_from([b"1", b"1000", b"1500000000"])
ODD_TIMES = st.sampled_from(
    [b"0", b"-1", b"x", b"", b"9223372036854775807", b"9223372036854775", b"-9223372036854775808"]
)


def expiry_option(name: bytes, *values: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    return st.tuples(any_case(name), st.one_of(*values)).map(list)


EXPIRIES = st.one_of(
    expiry_option(b"EX", POSITIVE_RELATIVE, ODD_TIMES),
    expiry_option(b"PX", POSITIVE_RELATIVE_MS, ODD_TIMES),
    expiry_option(b"EXAT", ABSOLUTE, PAST, ODD_TIMES),
    expiry_option(b"PXAT", ABSOLUTE_MS, PAST, ODD_TIMES),
)
WORDS = st.sampled_from(
    [b"NX", b"XX", b"GET", b"KEEPTTL", b"PERSIST", b"EX", b"bogus", b"\xe9\r\n"]
)
SET_OPTIONS = st.lists(
    st.one_of(EXPIRIES, WORDS.flatmap(any_case).map(lambda word: [word])), max_size=3
).map(lambda options: [word for option in options for word in option])
CONDITIONS = st.lists(st.sampled_from([b"NX", b"xx", b"GT", b"lt", b"bogus"]), max_size=2)
NX_XX = st.lists(st.sampled_from([b"nx", b"XX"]), max_size=1)

FITTING_SET_OPTIONS = st.tuples(
    st.sampled_from([[], [b"NX"], [b"XX"]]),
    st.sampled_from([[], [b"GET"]]),
    st.one_of(st.just([]), EXPIRIES, st.just([b"KEEPTTL"])),
).map(lambda options: [word for option in options for word in option])

SETS = st.one_of(
    command(b"SET", KEYS, VALUES),
    joined(command(b"SET", KEYS, VALUES), FITTING_SET_OPTIONS),
    joined(command(b"SET", KEYS, VALUES), SET_OPTIONS),
    command(b"SETNX", KEYS, VALUES),
    command(b"SETEX", KEYS, st.one_of(POSITIVE_RELATIVE, ODD_TIMES), VALUES),
    command(b"PSETEX", KEYS, st.one_of(POSITIVE_RELATIVE_MS, ODD_TIMES), VALUES),
    command(b"GETSET", KEYS, VALUES),
    command(b"GETDEL", KEYS),
    joined(command(b"GETEX", KEYS), st.one_of(EXPIRIES, SET_OPTIONS)),
    joined(command(b"MSET", KEYS, VALUES), st.lists(VALUES, max_size=4)),
    joined(command(b"MSETNX", KEYS, VALUES), st.lists(VALUES, max_size=4)),
)
RANGES = st.one_of(
    command(b"APPEND", KEYS, VALUES),
    command(b"STRLEN", KEYS),
    command(b"GETRANGE", KEYS, AMOUNTS, AMOUNTS),
    command(b"SUBSTR", KEYS, NUMBERS, NUMBERS),
    command(b"SETRANGE", KEYS, AMOUNTS, VALUES),
)
COUNTERS = st.one_of(
    *(command(name, KEYS) for name in (b"INCR", b"DECR")),
    *(command(name, KEYS, AMOUNTS) for name in (b"INCRBY", b"DECRBY")),
    command(b"INCRBYFLOAT", KEYS, st.one_of(FLOATS, AMOUNTS)),
)
WHOLE_KEYS = st.one_of(
    joined(command(b"MGET", KEYS), st.lists(KEYS, max_size=3)),
    *(
        joined(command(name, KEYS), st.lists(KEYS, max_size=3))
        for name in (b"DEL", b"UNLINK", b"EXISTS", b"TOUCH")
    ),
    command(b"TYPE", KEYS),
    command(b"KEYS", st.sampled_from([b"*", b"?", b"[ab]", b"*c", b"", b"**"])),
    command(b"DBSIZE"),
    joined(
        command(b"FLUSHALL"), st.lists(st.sampled_from([b"ASYNC", b"sync", b"now"]), max_size=2)
    ),
    command(b"FLUSHDB"),
)
DEADLINES = st.one_of(
    joined(command(b"EXPIRE", KEYS, st.one_of(POSITIVE_RELATIVE, ODD_TIMES)), NX_XX),
    joined(command(b"PEXPIRE", KEYS, st.one_of(POSITIVE_RELATIVE_MS, ODD_TIMES)), NX_XX),
    joined(command(b"EXPIREAT", KEYS, st.one_of(ABSOLUTE, PAST, ODD_TIMES)), CONDITIONS),
    joined(command(b"PEXPIREAT", KEYS, st.one_of(ABSOLUTE_MS, PAST, ODD_TIMES)), CONDITIONS),
    *(command(name, KEYS) for name in (b"TTL", b"PTTL", b"EXPIRETIME", b"PEXPIRETIME")),
    command(b"PERSIST", KEYS),
)
FAMILIES = {
    "sets": SETS,
    "ranges": RANGES,
    "counters": COUNTERS,
    "keys": WHOLE_KEYS,
    "deadlines": DEADLINES,
}
ANYTHING = st.one_of(*FAMILIES.values())


def with_looks(commands: list[list[bytes]]) -> list[list[bytes]]:
    """Look after each command what became of its key, deadline included."""
    return [
        each
        for arguments in commands
        for each in (
            arguments,
            *([word, *arguments[1:2]] for word in (b"PEXPIRETIME", b"GET") if len(arguments) > 1),
        )
    ]


def agree(name: bytes, ours: Result, theirs: Result) -> bool:
    if name == b"KEYS":
        assert isinstance(ours, list)
        assert isinstance(theirs, list)
        return sorted(map(repr, ours)) == sorted(map(repr, theirs))
    if name.endswith((b"TTL", b"TIME")) and isinstance(ours, int) and isinstance(theirs, int):
        tolerance = TOLERANCE_MILLISECONDS if name.startswith(b"P") else 20
        if ours >= 0 and theirs >= 0:
            return abs(ours - theirs) <= tolerance
    return type(ours) is type(theirs) and ours == theirs


@pytest.mark.skipif(MISSING, reason=MISSING_REASON)
@settings(
    max_examples=120,
    deadline=None,
    # The server is emptied at the start of each example.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
@pytest.mark.parametrize("family", FAMILIES)
def test_any_commands_answer_as_redis_does(
    redis: RealRedis, family: str, data: st.DataObject
) -> None:
    # Mostly of one family: a command is tested best by others of its kind.
    chosen = st.one_of(FAMILIES[family], FAMILIES[family], FAMILIES[family], ANYTHING)
    drawn = data.draw(st.lists(chosen, min_size=5, max_size=15))
    commands = with_looks([[b"SET", b"a", b"1234567890", b"EX", b"5000"], *drawn])
    keyspace = KeySpace()
    _, *expected = redis.run([[b"FLUSHALL"], *commands])
    now_ms = time.time_ns() // 1_000_000
    for at, arguments in enumerate(commands):
        # Redis counts keys that are due and not yet removed; which, depends on its timers.
        keyspace.remove_due(now_ms, 1000)
        result = OPERATIONS[arguments[0]](keyspace, arguments, now_ms)
        assert agree(arguments[0], result, expected[at]), (
            f"{arguments}: {result!r}, Redis says {expected[at]!r}, after {commands[:at]}"
        )


@pytest.mark.skipif(MISSING, reason=MISSING_REASON)
@pytest.mark.parametrize(
    "arguments",
    [
        [b"SCAN", b"0", b"COUNT", b"0"],
        [b"SCAN", b"0", b"COUNT", b"-1"],
        [b"SCAN", b"0", b"COUNT", b"x"],
        [b"SCAN", b"0", b"MATCH"],
        [b"SCAN", b"0", b"BOGUS", b"1"],
        [b"SCAN", b"x"],
        [b"SCAN", b"0", b"TYPE", b"string"],
        [b"SCAN", b"0", b"type", b"STRING"],
        [b"SCAN", b"0", b"TYPE", b"hash"],
        [b"SCAN", b"0", b"TYPE", b"bogus"],
        [b"SCAN", b"0", b"MATCH", b"k*", b"MATCH", b"a"],
        [b"SETRANGE", b"a", b"536870912", b"x"],
        [b"SETRANGE", b"a", b"9223372036854775807", b"x"],
        [b"SETRANGE", b"none", b"9223372036854775807", b""],
    ],
)
def test_corner_cases_answer_as_redis_does(redis: RealRedis, arguments: list[bytes]) -> None:
    keyspace = KeySpace()
    set_up = [b"SET", b"a", b"value"]
    *_, expected = redis.run([[b"FLUSHALL"], set_up, arguments])
    OPERATIONS[b"SET"](keyspace, set_up, 1)
    assert OPERATIONS[arguments[0]](keyspace, arguments, 1) == expected


@pytest.mark.skipif(MISSING, reason=MISSING_REASON)
def test_every_range_of_a_short_value_is_what_redis_cuts(redis: RealRedis) -> None:
    keyspace = KeySpace()
    keyspace.put(b"k", b"abc")
    commands = [
        [b"GETRANGE", key, b"%d" % start, b"%d" % end]
        for key in (b"k", b"none")
        for start in range(-6, 7)
        for end in range(-6, 7)
    ]
    _, _, *expected = redis.run([[b"FLUSHALL"], [b"SET", b"k", b"abc"], *commands])
    assert [OPERATIONS[each[0]](keyspace, each, 1) for each in commands] == expected


@given(st.integers(INTEGER_MIN, INTEGER_MAX))
def test_every_64_bit_integer_parses(value: int) -> None:
    assert parse_integer(b"%d" % value) == value


@pytest.mark.parametrize(
    "text", [b"", b"-", b"+1", b"01", b"-0", b"1 ", b" 1", b"1_0", b"\xd9\xa1", b"1\n", b"9" * 40]
)
def test_any_other_spelling_of_an_integer_is_refused(text: bytes) -> None:
    assert parse_integer(text) is None


def test_options_of_set_and_getex_do_not_mix() -> None:
    assert parse_set_options([b"SET", b"k", b"v", b"PERSIST"], 3) is None
    assert parse_set_options([b"GETEX", b"k", b"KEEPTTL"], 2) is None
    assert parse_set_options([b"SET", b"k", b"v", b"EX"], 3) is None
    options = parse_set_options([b"SET", b"k", b"v", b"ex", b"5", b"EX", b"7", b"get"], 3)
    assert options is not None
    assert (options.expiry, options.expiry_value, options.returns_old) == (b"EX", b"7", True)


def test_deadlines_are_relative_to_the_time_given() -> None:
    assert expiry_deadline(b"SET", b"EX", b"2", 500) == 2500
    assert expiry_deadline(b"SET", b"PXAT", b"2", 500) == 2
    assert expiry_deadline(b"SET", b"PX", b"two", 500) == NOT_AN_INTEGER
    assert (
        expiry_deadline(b"GETEX", b"EX", b"0", 500) == "-ERR invalid expire time in 'getex' command"
    )
