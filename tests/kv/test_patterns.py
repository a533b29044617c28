"""Glob patterns, against Redis's rules and against a real redis-server."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rafter_kv.patterns import compile_pattern
from tests.kv.redis_comparison import MISSING, MISSING_REASON, RealRedis, running_redis


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRedis]:
    with running_redis(tmp_path_factory.mktemp("redis")) as oracle:
        yield oracle


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        (b"*", [b"", b"a"], []),
        (b"h?llo", [b"hello", b"hxllo"], [b"hllo", b"heello"]),
        (b"h*llo", [b"hllo", b"heeello"], [b"hell"]),
        (b"h[ae]llo", [b"hello"], [b"hillo"]),
        (b"h[^e]llo", [b"hallo"], [b"hello"]),
        (b"h[b-a]llo", [b"hallo", b"hbllo"], [b"hcllo"]),
        (rb"h\*llo", [b"h*llo"], [b"hello"]),
        (b"user:*", [b"user:", b"user:1"], [b"user"]),
        (b"*:1", [b"a:1", b":1"], [b"a:12"]),
        (b"a*b*c", [b"abc", b"axbxbxc"], [b"ab", b"acb"]),
        (b"plain", [b"plain"], [b"plain1", b"", b"plai"]),
        (b"", [b""], [b"a"]),
        (b"[abc", [b"a", b"c"], [b"d", b"ab"]),
        (b"[^", [b"a"], [b"", b"ab"]),
        (b"[]a]", [], [b"a", b"]", b"]a]"]),
        (b"a\\", [b"a\\"], [b"a"]),
        (b"**", [b"a"], [b""]),
        (b"[\xf0-a]", [b"a", b"\x00", b"\xff"], [b"b", b"\xef"]),
    ],
)
def test_patterns_match_as_documented(
    pattern: bytes, matching: list[bytes], others: list[bytes]
) -> None:
    matches = compile_pattern(pattern)
    assert all(map(matches, matching))
    assert not any(map(matches, others))


def test_many_stars_cost_no_more_than_pattern_times_key() -> None:
    # Backtracking over every star would not end in anyone's lifetime.
    assert not compile_pattern(b"a*" * 60 + b"b")(b"a" * 2000)


PARTS = st.sampled_from(
    [b"*", b"?", b"[", b"]", b"^", b"-", b"\\", b"a", b"b", b"c", b"\xff", b"\x80", b"z", b"[a-c]"]
)
PATTERNS = st.lists(PARTS, max_size=8).map(b"".join)
TEXTS = st.lists(
    st.sampled_from([b"a", b"b", b"c", b"]", b"^", b"-", b"\\", b"\xff", b"["]), max_size=5
).map(b"".join)


@pytest.mark.skipif(MISSING, reason=MISSING_REASON)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(TEXTS, min_size=1, max_size=10, unique=True), st.lists(PATTERNS, max_size=10))
def test_any_pattern_matches_what_it_matches_in_redis(
    redis: RealRedis, texts: list[bytes], patterns: list[bytes]
) -> None:
    store = [b"MSET", *(word for text in texts for word in (text, b""))]
    _, _, *expected = redis.run([[b"FLUSHALL"], store, *([b"KEYS", each] for each in patterns)])
    for pattern, found in zip(patterns, expected, strict=True):
        assert isinstance(found, list)
        assert set(filter(compile_pattern(pattern), texts)) == set(found), pattern
