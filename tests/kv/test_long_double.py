"""80-bit arithmetic, against known answers and against a real redis-server's."""

from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rafter_kv import long_double
from rafter_kv.keyspace import KeySpace
from rafter_kv.operations_counters import incrbyfloat
from tests.kv.redis_comparison import MISSING, MISSING_REASON, RealRedis, running_redis


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRedis]:
    with running_redis(tmp_path_factory.mktemp("redis")) as oracle:
        yield oracle


def add(left: bytes, right: bytes) -> bytes:
    augend, addend = long_double.parse(left), long_double.parse(right)
    assert augend is not None
    assert addend is not None
    return long_double.render(long_double.add(augend, addend))


@pytest.mark.parametrize(
    ("left", "right", "total"),
    [
        (b"10.50", b"0.1", b"10.6"),
        (b"5.0e3", b"2.0e2", b"5200"),
        (b"1", b"-1", b"0"),
        (b"-0.5", b"0", b"-0.5"),
        (b"3", b"1.1000000000000001", b"4.1000000000000001"),
        (b"17179869184", b"1.5", b"17179869185.5"),
        (b"1e-18", b"0", b"0"),
        (b"-1e-18", b"0", b"0"),
        (b"0x10", b".5", b"16.5"),
        (b"18446744073709551616", b"1", b"18446744073709551616"),
    ],
)
def test_sums_print_as_redis_prints_them(left: bytes, right: bytes, total: bytes) -> None:
    assert add(left, right) == total


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b".", b" 1", b"1 ", b"1e", b"e5", b"0x", b"nan", b"1_0", b"--1"),
        *(b"1e5000", b"1e-5000", b"1e999999999999", b"1" * 6000, b"0x1p99999"),
    ],
)
def test_what_is_no_number_is_refused(text: bytes) -> None:
    assert long_double.parse(text) is None


@pytest.mark.parametrize("text", [b"inf", b"-INF", b"+Infinity"])
def test_infinities_are_told_apart_from_nonsense(text: bytes) -> None:
    with pytest.raises(long_double.NotFiniteError):
        long_double.parse(text)


def test_a_sum_beyond_the_largest_number_is_not_finite() -> None:
    largest = Fraction((1 << 64) - 1) * Fraction(2) ** (16384 - 64)
    with pytest.raises(long_double.NotFiniteError):
        long_double.add(largest, largest)
    assert len(long_double.render(largest)) == 4933


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(lambda number: repr(number).encode()),
    st.decimals(-(10**6), 10**6, places=17).map(lambda number: str(number).encode()),
    st.integers(-(2**70), 2**70).map(lambda number: b"%d" % number),
    st.tuples(st.integers(-(10**30), 10**30), st.integers(-40, 40)).map(lambda x: b"%de%d" % x),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number.hex().encode()),
    st.tuples(st.integers(1, 10**9), st.integers(4900, 4935)).map(lambda x: b"%de%d" % x),
    st.tuples(st.integers(1, 10**9), st.integers(-4960, -4930)).map(lambda x: b"%de%d" % x),
)


@pytest.mark.skipif(MISSING, reason=MISSING_REASON)
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(NUMBERS, min_size=2, max_size=12))
def test_any_sums_agree_with_redis(redis: RealRedis, numbers: list[bytes]) -> None:
    commands = [[b"INCRBYFLOAT", b"sum", number] for number in numbers]
    keyspace = KeySpace()
    ours = [incrbyfloat(keyspace, arguments, 1) for arguments in commands]
    assert ours == redis.run([[b"FLUSHALL"], *commands])[1:]
