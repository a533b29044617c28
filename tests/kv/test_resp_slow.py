import pytest

from rafter_kv.resp_slow import (
    INLINE_BYTES_MAX,
    ParserLimits,
    ProtocolError,
    RefusedCommand,
    SlowParser,
    split_inline,
)


def parse(data: bytes, limits: ParserLimits | None = None, step: int = 0) -> list[list[bytes]]:
    parser = SlowParser(limits or ParserLimits())
    commands: list[list[bytes]] = []
    step = step or max(len(data), 1)
    for start in range(0, len(data), step):
        parser.feed(data[start : start + step], commands, only_first=False)
    assert parser.is_idle
    return commands


def error(data: bytes, limits: ParserLimits | None = None, step: int = 0) -> str:
    with pytest.raises(ProtocolError) as caught:
        parse(data, limits, step)
    return caught.value.text


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_requests_are_found_however_the_stream_is_cut(step: int) -> None:
    data = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING\r\n*1\r\n$0\r\n\r\n\r\n*0\r\n*-1\r\nset a 'b c'\n"
    assert parse(data, step=step) == [[b"GET", b"a"], [b"PING"], [b""], [b"set", b"a", b"b c"]]


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*20000001\r\n", "invalid multibulk length"),
        (b"*99999999999999999999999\r\n", "invalid multibulk length"),
        (b"*abc\r\n", "invalid multibulk length"),
        (b"*+1\r\n", "invalid multibulk length"),
        (b"*01\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*1\r\n$9999999999\r\n", "invalid bulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$x\r\n", "invalid bulk length"),
        (b"*1\r\n:5\r\n", "expected '$', got ':'"),
        (b"*1\r\n*1\r\n", "expected '$', got '*'"),
        (b"*1\r\n%1\r\n", "expected '$', got '%'"),
        (b"*1\r\n\r\n", "expected '$', got '\r'"),
        (b'set "a\r\n', "unbalanced quotes in request"),
        (b'set "a"b\r\n', "unbalanced quotes in request"),
        (b"a" * (INLINE_BYTES_MAX + 1), "too big inline request"),
        (b"*" + b"1" * (INLINE_BYTES_MAX + 1), "too big mbulk count string"),
        (b"*1\r\n$" + b"1" * (INLINE_BYTES_MAX + 1), "too big bulk count string"),
    ],
)
def test_errors_have_redis_texts_however_the_stream_is_cut(
    data: bytes, text: str, step: int
) -> None:
    if step and len(data) > 1000:
        step = 4096
    assert error(data, step=step) == f"Protocol error: {text}"


def test_commands_before_an_error_are_handed_over() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(b"PING\r\n*1\r\n:1\r\n")
    assert caught.value.commands == [[b"PING"]]


def test_a_long_argument_is_thrown_away_as_it_arrives_and_its_request_refused() -> None:
    limits = ParserLimits(argument_bytes_max=100)
    parser = SlowParser(limits)
    commands: list[list[bytes]] = []
    parser.feed(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1000000\r\n", commands, only_first=False)
    for _ in range(1000):
        parser.feed(b"x" * 1000, commands, only_first=False)
        assert parser.retained_bytes < 500
    parser.feed(b"\r\n*1\r\n$4\r\nPING\r\n", commands, only_first=False)
    refused, ping = commands
    assert type(refused) is RefusedCommand
    assert refused.reason == "-ERR value exceeds the limit of 100 bytes"
    assert ping == [b"PING"]


def test_a_long_inline_argument_is_refused() -> None:
    (refused,) = parse(b"ECHO " + b"x" * 101 + b"\r\n", ParserLimits(argument_bytes_max=100))
    assert type(refused) is RefusedCommand


@pytest.mark.parametrize("argument", [b"$0\r\n\r\n", b"$1\r\na\r\n", b"$50\r\n" + b"b" * 52])
def test_what_is_retained_of_an_unfinished_request_is_bounded(argument: bytes) -> None:
    limits = ParserLimits(query_buffer_bytes_max=10_000)
    parser = SlowParser(limits)
    commands: list[list[bytes]] = []
    parser.feed(b"*1000000\r\n", commands, only_first=False)

    def flood() -> None:
        for _ in range(1000):
            parser.feed(argument, commands, only_first=False)
            assert parser.retained_bytes <= 10_000

    with pytest.raises(ProtocolError, match="query buffer limit of 10000 bytes"):
        flood()


def test_a_bulk_longer_than_the_query_buffer_is_refused_before_it_is_held() -> None:
    limits = ParserLimits(query_buffer_bytes_max=1000, argument_bytes_max=5000)
    text = error(b"*1\r\n$4000\r\n" + b"x" * 1500, limits)
    assert text == "Protocol error: request exceeds the query buffer limit of 1000 bytes"


def test_it_stops_behind_the_first_request_when_asked_to() -> None:
    parser = SlowParser(ParserLimits())
    commands: list[list[bytes]] = []
    assert parser.feed(b"*1\r\n$4\r\nPI", commands, only_first=True) == b""
    assert parser.feed(b"NG\r\n*1\r\nrest", commands, only_first=True) == b"*1\r\nrest"
    assert commands == [[b"PING"]]
    assert parser.is_idle


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        (b"", []),
        (b"  a  b\t", [b"a", b"b"]),
        (b"'it\\'s' \"\\x41\\n\\\"\"", [b"it's", b'A\n"']),
        (b'"\\xzz\\q"', [b"xzzq"]),
        (b"'a\\b'", [b"a\\b"]),
        (b'a"b c"', [b"ab c"]),
        (b"\"\" ''", [b"", b""]),
        (b"'a", None),
        (b"'a'b", None),
        (b'"a\\', None),
    ],
)
def test_inline_requests_are_split_like_a_shell_line(
    line: bytes, arguments: list[bytes] | None
) -> None:
    assert split_inline(line) == arguments
