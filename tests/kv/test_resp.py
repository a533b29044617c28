import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rafter_kv.resp import ParserLimits, ProtocolError, RefusedCommand, RequestParser
from rafter_kv.resp_slow import SlowParser


def request(*arguments: bytes) -> bytes:
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"".join(parts)


Outcome = tuple[list[list[bytes]], str | None]


def by_guarded_parser(chunks: list[bytes]) -> Outcome:
    parser = RequestParser()
    commands: list[list[bytes]] = []
    for chunk in chunks:
        try:
            commands += parser.feed(chunk)
        except ProtocolError as error:
            return commands + error.commands, error.text
    return commands, None


def by_slow_parser(data: bytes) -> Outcome:
    commands: list[list[bytes]] = []
    try:
        SlowParser(ParserLimits()).feed(data, commands, only_first=False)
    except ProtocolError as error:
        return commands, error.text
    return commands, None


def cut(data: bytes, places: list[int]) -> list[bytes]:
    borders = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(borders)]


# Bytes that mean something to one of the parsers are frequent in the values.
_argument = st.one_of(
    st.binary(max_size=20),
    st.lists(st.sampled_from([b"\r\n", b"*", b"$", b"1", b"+", b"=", b"~", b">", b"(", b"x"])).map(
        b"".join
    ),
)
_good = st.lists(_argument, min_size=1, max_size=5).map(lambda a: request(*a))
_odd = st.sampled_from(
    [
        b"PING\r\n",
        b"\r\n",
        b"\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*-7\r\n",
        b"set a 'b c'\r\n",
        b"get '\r\n",
        b"*1\r\n:5\r\n",
        b"*1\r\n+PING\r\n",
        b"*1\r\n=8\r\ntxt:PING\r\n",
        b"*1\r\n(12345\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n*1\r\n$4\r\nPING\r\n",
        b"*2\r\n$1\r\na\r\n~1\r\n$1\r\na\r\n",
        b"*2\r\n$1\r\na\r\n%1\r\n$1\r\na\r\n$1\r\na\r\n",
        b"*1\r\n_\r\n",
        b"*1\r\n#t\r\n",
        b"*1\r\n,1.5\r\n",
        b"*1\r\n-ERR\r\n",
        b"~1\r\n$4\r\nPING\r\n",
        b">1\r\n$4\r\nPING\r\n",
        b"$4\r\nPING\r\n",
        b"+PING\r\n",
        b"*20000001\r\n",
        b"*1\r\n$9999999999\r\n",
        b"*01\r\n$4\r\nPING\r\n",
        b"*1\r\n$04\r\nPING\r\n",
        b"*2\r\n$1\r\naXX*1\r\n$1\r\na\r\n",
        b"*1\r\n$1\r\naXX",
        b"*1\rX$1\r\na\r\n",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(_good, _good, _good, _odd), max_size=12).map(b"".join),
    st.lists(st.integers(0, 10_000), max_size=8),
)
def test_both_parsers_agree_on_any_stream_however_it_is_cut(data: bytes, places: list[int]) -> None:
    assert by_guarded_parser(cut(data, places)) == by_slow_parser(data)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(_good, min_size=1, max_size=6).map(b"".join),
    st.integers(0, 10_000),
    st.sampled_from(b"*$\r\n0123456789-a"),
)
def test_both_parsers_agree_on_a_damaged_stream(data: bytes, place: int, byte: int) -> None:
    place %= len(data)
    damaged = data[:place] + bytes((byte,)) + data[place + 1 :]
    assert by_guarded_parser([damaged]) == by_slow_parser(damaged)


def test_one_byte_at_a_time_gives_the_same_requests() -> None:
    data = request(b"SET", b"key", b"\r\n*1\r\n" * 10) + b"PING\r\n" + request(b"GET", b"")
    assert by_guarded_parser([data[i : i + 1] for i in range(len(data))]) == by_slow_parser(data)


@pytest.mark.parametrize("sign", [b"*", b"~", b">", b"|", b"%"])
@pytest.mark.parametrize(
    "lead",
    [
        b"",
        request(b"PING"),
        b"*2\r\n$1\r\na\r\n",
        b"*2\r\n$1\r\naXX",  # hiredis does not look at the two bytes behind a bulk
        request(b"PING")[:-2] + b"XX",
    ],
)
@pytest.mark.parametrize("count", [b"999999", b"20000001", b"2000000000"])
@pytest.mark.parametrize("pieces", [1, 2, 99])
def test_a_hostile_header_allocates_nothing(
    sign: bytes, lead: bytes, count: bytes, pieces: int
) -> None:
    data = (lead + sign + count + b"\r\n") * 20
    size = max(1, len(data) // pieces)
    parser = RequestParser()
    tracemalloc.start()
    try:
        for start in range(0, len(data), size):
            try:
                parser.feed(data[start : start + size])
            except ProtocolError:
                break
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_promised_bulk_is_held_only_as_far_as_it_has_arrived() -> None:
    parser = RequestParser()
    tracemalloc.start()
    try:
        assert parser.feed(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$8000000\r\nxyz") == []
        assert parser.retained_bytes < 1000
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_value_over_the_limit_is_refused_and_the_stream_goes_on(pieces: int) -> None:
    parser = RequestParser(ParserLimits(argument_bytes_max=50))
    data = request(b"SET", b"a", b"x" * 51) + request(b"SET", b"a", b"x" * 50)
    size = -(-len(data) // pieces)
    commands = [c for i in range(0, len(data), size) for c in parser.feed(data[i : i + size])]
    refused, accepted = commands
    assert type(refused) is RefusedCommand
    assert refused.reason == "-ERR value exceeds the limit of 50 bytes"
    assert accepted == [b"SET", b"a", b"x" * 50]


def test_a_long_request_in_many_chunks_takes_linear_time() -> None:
    arguments = [b"MSET", *(b"%d" % number for number in range(40_000))]
    data = request(*arguments)
    chunks = [data[i : i + 100] for i in range(0, len(data), 100)]
    parser = RequestParser()
    commands = [command for chunk in chunks for command in parser.feed(chunk)]
    assert commands == [arguments]


def test_it_is_mid_request_between_the_parts_of_one() -> None:
    parser = RequestParser()
    assert not parser.is_mid_request
    parser.feed(request(b"PING") + b"*1\r\n$4\r\nPI")
    assert parser.is_mid_request
    assert parser.feed(b"NG\r\n") == [[b"PING"]]
    assert not parser.is_mid_request
