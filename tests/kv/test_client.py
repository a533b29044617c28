"""The client's promises about failures, against real sockets that misbehave."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rafter_kv.client import (
    Client,
    Endpoint,
    EndpointError,
    ReplyTooLarge,
    ServerError,
    TimedOut,
    Unavailable,
    UnknownOutcome,
)
from tests.kv.resp_server import (
    Fault,
    RespServer,
    array,
    bulk,
    closed_endpoint,
    hanging_endpoint,
)
from tests.kv.tls_kit import client_tls, server_tls
from tests.transport.tls_support import Authority

BINARY = bytes(range(256)) * 3
LARGER_THAN_SOCKET_BUFFERS = bytes(64 << 20)


@pytest.fixture(params=[3, 2], ids=["resp3", "resp2"])
def server(request: pytest.FixtureRequest) -> Iterator[RespServer]:
    with RespServer(speaks_resp3=request.param == 3) as running:
        yield running


@pytest.fixture
def other() -> Iterator[RespServer]:
    with RespServer() as running:
        yield running


def misbehave(server: RespServer, name: bytes, way: str, sent: bytes = b"") -> None:
    """Let `server` end the connection whenever the command `name` arrives."""

    def handler(_: list[bytes]) -> bytes:
        raise Fault(way, sent)

    server.handlers[name] = handler


def answer(server: RespServer, name: bytes, reply: bytes) -> None:
    server.handlers[name] = lambda _: reply


# ---- replies ---------------------------------------------------------------------------------


def test_values_come_back_byte_for_byte(server: RespServer) -> None:
    with Client([server.endpoint]) as client:
        assert client.put(BINARY, BINARY[::-1])
        assert client.get(BINARY) == BINARY[::-1]


def test_an_absent_key_is_none_in_both_protocols(server: RespServer) -> None:
    with Client([server.endpoint]) as client:
        assert client.get("nothing") is None


def test_one_connection_serves_all_commands(server: RespServer) -> None:
    with Client([server.endpoint]) as client:
        for number in range(1, 4):
            assert client.increment("n") == number
        assert client.increment("n", -5) == -2
        assert client.delete("n", "absent") == 1
    assert server.connections == 1


def test_put_sends_its_conditions_and_tells_whether_they_held(server: RespServer) -> None:
    with Client([server.endpoint]) as client:
        assert not client.put("k", "v", only_if_present=True)
        assert client.put("k", "v", only_if_absent=True, ttl_milliseconds=1500)
        assert not client.put("k", "w", only_if_absent=True)
    assert server.values[b"k"] == b"v"
    assert server.commands[-2] == [b"SET", b"k", b"v", b"PX", b"1500", b"NX"]


def test_scan_yields_every_page_and_passes_its_options_on(server: RespServer) -> None:
    server.values = {b"a%d" % number: b"" for number in range(5)} | {b"b": b""}
    with Client([server.endpoint]) as client:
        pages = list(client.scan(b"a*", 3))
    assert pages == [[b"a0", b"a1", b"a2"], [b"a3", b"a4"]]
    assert server.commands[-1] == [b"SCAN", b"3", b"MATCH", b"a*", b"COUNT", b"3"]


def test_get_many_keeps_order_and_gaps(server: RespServer) -> None:
    server.values = {b"a": b"1", b"c": b"3"}
    with Client([server.endpoint]) as client:
        assert client.get_many([b"c", b"b", b"a"]) == [b"3", None, b"1"]


def test_get_many_raises_the_error_of_a_single_key(other: RespServer) -> None:
    answer(other, b"MGET", array([bulk(b"1"), b"-ERR that one failed\r\n"]))
    with Client([other.endpoint]) as client, pytest.raises(ServerError, match="that one failed"):
        client.get_many([b"a", b"b"])


def test_push_messages_are_not_taken_for_replies(other: RespServer) -> None:
    answer(other, b"GET", b">2\r\n$7\r\nmessage\r\n$1\r\nx\r\n" + bulk(b"value"))
    with Client([other.endpoint]) as client:
        assert client.get("k") == b"value"


def test_a_reply_of_the_wrong_type_is_an_error_that_names_the_command(other: RespServer) -> None:
    for name in (b"GET", b"SET", b"DEL", b"MGET", b"SCAN"):
        answer(other, name, b"#t\r\n")
    with Client([other.endpoint]) as client:
        for call in (
            lambda: client.get("k"),
            lambda: client.put("k", "v"),
            lambda: client.delete("k"),
            lambda: client.get_many([b"k"]),
            lambda: list(client.scan()),
        ):
            with pytest.raises(ServerError, match="unexpected reply to"):
                call()


# ---- errors of the server --------------------------------------------------------------------


def test_a_server_error_carries_its_code_and_keeps_the_connection(server: RespServer) -> None:
    server.values[b"k"] = b"text"
    with Client([server.endpoint]) as client:
        with pytest.raises(ServerError) as caught:
            client.increment("k")
        assert caught.value.code == "ERR"
        assert caught.value.message == "ERR value is not an integer or out of range"
        assert client.get("k") == b"text"
    assert server.connections == 1


@pytest.mark.parametrize("code", [b"CLUSTERDOWN", b"LOADING", b"MASTERDOWN", b"TRYAGAIN"])
def test_codes_for_commands_not_begun_are_unavailable(other: RespServer, code: bytes) -> None:
    answer(other, b"SET", b"-%b no leader\r\n" % code)
    with Client([other.endpoint]) as client, pytest.raises(Unavailable, match="no leader"):
        client.put("k", "v")


def test_the_servers_own_timeout_is_unknown_for_writes_and_harmless_for_reads(
    other: RespServer,
) -> None:
    answer(other, b"SET", b"-TIMEOUT the outcome is unknown\r\n")
    answer(other, b"GET", b"-TIMEOUT no quorum\r\n")
    with Client([other.endpoint]) as client:
        with pytest.raises(UnknownOutcome):
            client.put("k", "v")
        with pytest.raises(TimedOut):
            client.get("k")


@pytest.mark.parametrize("text", [b"NOAUTH HELLO must be called with AUTH", b"NOPERM no"])
def test_a_refused_greeting_is_reported_and_not_tried_elsewhere(
    server: RespServer, other: RespServer, text: bytes
) -> None:
    answer(server, b"HELLO", b"-%b\r\n" % text)
    with (
        Client([server.endpoint, other.endpoint]) as client,
        pytest.raises(ServerError, match=text.decode()),
    ):
        client.get("k")
    assert other.connections == 0


# ---- endpoints -------------------------------------------------------------------------------


def test_the_next_endpoint_is_tried_when_one_refuses_connections(other: RespServer) -> None:
    other.values[b"k"] = b"v"
    with Client([closed_endpoint(), other.endpoint]) as client:
        assert client.get("k") == b"v"
        assert client.endpoint == other.endpoint


def test_an_endpoint_that_hangs_leaves_time_for_the_next(other: RespServer) -> None:
    with (
        hanging_endpoint() as hanging,
        Client([hanging, other.endpoint], timeout_seconds=1) as client,
    ):
        started = time.monotonic()
        assert client.put("k", "v")
        assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "greeting",
    [b"-LOADING dataset\r\n", b"-ERR max number of clients reached\r\n", b"HTTP/1.1 400"],
)
def test_an_endpoint_that_cannot_serve_now_is_skipped(
    server: RespServer, other: RespServer, greeting: bytes
) -> None:
    answer(server, b"HELLO", greeting)
    with Client([server.endpoint, other.endpoint]) as client:
        assert client.put("k", "v")
    assert server.names() == []


def test_unavailable_names_every_endpoint_with_its_reason() -> None:
    first, second = closed_endpoint(), closed_endpoint()
    with Client([first, second]) as client, pytest.raises(Unavailable) as caught:
        client.put("k", "v")
    assert f"{first}: connection refused" in str(caught.value)
    assert f"{second}: connection refused" in str(caught.value)


def test_a_host_that_no_resolver_takes_is_a_reason_like_any_other(other: RespServer) -> None:
    """It came out as a traceback: only hosts that a resolver could not find had been tried."""
    with Client([Endpoint("a..b", 1), other.endpoint]) as client:
        assert client.get("k") is None
    with (
        Client([Endpoint("a..b", 1)]) as client,
        pytest.raises(Unavailable, match=r"a\.\.b:1: 'a\.\.b' cannot be a host name"),
    ):
        client.get("k")


def test_an_endpoint_whose_certificate_does_not_do_is_sent_nothing_and_the_next_is_tried(
    tmp_path: Path,
) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    with (
        RespServer(tls=server_tls(stranger)) as wrong,
        RespServer(tls=server_tls(authority)) as right,
        Client([wrong.endpoint, right.endpoint], tls=client_tls(authority)) as client,
    ):
        assert client.put("k", BINARY)
        assert client.get("k") == BINARY
        assert client.endpoint == right.endpoint
        assert wrong.commands == []
        assert right.connections == 1


@pytest.mark.parametrize("way", ["reset", "close"])
def test_a_write_that_was_sent_over_tls_is_never_repeated(tmp_path: Path, way: str) -> None:
    authority = Authority(tmp_path)
    tls = server_tls(authority)
    with (
        RespServer(tls=tls) as server,
        RespServer(tls=tls) as second,
        Client([server.endpoint, second.endpoint], tls=client_tls(authority)) as client,
    ):
        misbehave(server, b"INCRBY", way)
        with pytest.raises(UnknownOutcome):
            client.increment("n")
        assert server.names() == [b"INCRBY"]
        assert second.connections == 0


def test_the_endpoint_that_worked_last_is_asked_first(other: RespServer) -> None:
    with RespServer() as first:
        with Client([closed_endpoint(), first.endpoint, other.endpoint]) as client:
            client.get("k")
            client.close()
            client.get("k")
            assert first.connections == 2
        assert other.connections == 0


# ---- connections that break ------------------------------------------------------------------


@pytest.mark.parametrize("way", ["close", "reset"])
@pytest.mark.parametrize("sent", [b"", b"$10\r\nhalf"], ids=["silent", "mid-reply"])
def test_a_read_is_repeated_at_the_next_endpoint(
    server: RespServer, other: RespServer, way: str, sent: bytes
) -> None:
    misbehave(server, b"GET", way, sent)
    other.values[b"k"] = b"v"
    with Client([server.endpoint, other.endpoint]) as client:
        assert client.get("k") == b"v"


@pytest.mark.parametrize("way", ["close", "reset"])
@pytest.mark.parametrize("sent", [b"", b":1"], ids=["silent", "mid-reply"])
def test_a_write_that_was_sent_is_never_repeated(
    server: RespServer, other: RespServer, way: str, sent: bytes
) -> None:
    misbehave(server, b"INCRBY", way, sent)
    with (
        Client([server.endpoint, other.endpoint]) as client,
        pytest.raises(UnknownOutcome, match="may have been executed"),
    ):
        client.increment("k")
    assert server.names() == [b"INCRBY"]
    assert other.names() == []


def test_a_command_the_client_does_not_know_counts_as_a_write(
    server: RespServer, other: RespServer
) -> None:
    misbehave(server, b"FROBNICATE", "close")
    with Client([server.endpoint, other.endpoint]) as client, pytest.raises(UnknownOutcome):
        client.call("FROBNICATE")
    assert other.names() == []


def test_the_caller_may_declare_a_command_read_only(server: RespServer, other: RespServer) -> None:
    misbehave(server, b"FROBNICATE", "close")
    answer(other, b"FROBNICATE", b"+yes\r\n")
    with Client([server.endpoint, other.endpoint]) as client:
        assert client.call("FROBNICATE", read_only=True) == b"yes"


def test_a_read_that_breaks_everywhere_is_unavailable(server: RespServer) -> None:
    misbehave(server, b"GET", "close")
    with Client([server.endpoint]) as client, pytest.raises(Unavailable, match="closed"):
        client.get("k")
    assert server.names() == [b"GET"]


def test_a_connection_closed_while_idle_leaves_no_write_in_doubt(server: RespServer) -> None:
    with Client([server.endpoint]) as client:
        client.increment("k")
        server.drop_connection()
        _wait_until_stale(client)
        assert client.increment("k") == 2
    assert server.connections == 2


def _wait_until_stale(client: Client) -> None:
    connection = client._connection
    assert connection is not None
    deadline = time.monotonic() + 10
    while not connection.is_stale():
        assert time.monotonic() < deadline


def test_garbage_is_not_a_reply(server: RespServer) -> None:
    answer(server, b"GET", b"HTTP/1.1 400 Bad Request\r\n")
    answer(server, b"SET", b"HTTP/1.1 400 Bad Request\r\n")
    with Client([server.endpoint]) as client:
        with pytest.raises(Unavailable, match="not RESP"):
            client.get("k")
        with pytest.raises(UnknownOutcome, match="not RESP"):
            client.put("k", "v")


def test_an_error_sent_in_the_middle_of_a_command_reaches_the_caller(other: RespServer) -> None:
    misbehave(other, b"HELLO", "refuse", b"%0\r\n")
    with (
        Client([other.endpoint]) as client,
        pytest.raises(ServerError, match="invalid bulk length"),
    ):
        client.put("k", LARGER_THAN_SOCKET_BUFFERS)


# ---- time and size ---------------------------------------------------------------------------


def test_no_answer_in_time_is_unknown_for_a_write(server: RespServer) -> None:
    misbehave(server, b"SET", "hang")
    with (
        Client([server.endpoint], timeout_seconds=0.3) as client,
        pytest.raises(UnknownOutcome, match=r"no answer within 0\.3 s"),
    ):
        client.put("k", "v")


def test_no_answer_in_time_is_a_timeout_for_a_read(server: RespServer) -> None:
    misbehave(server, b"GET", "hang", b"$3\r\nab")
    with (
        Client([server.endpoint], timeout_seconds=0.3) as client,
        pytest.raises(TimedOut, match=r"no answer within 0\.3 s"),
    ):
        client.get("k")


def test_a_late_reply_is_never_taken_for_the_next_one(server: RespServer) -> None:
    misbehave(server, b"GET", "hang", b"$5\r\nstale")
    with Client([server.endpoint], timeout_seconds=0.3) as client:
        with pytest.raises(TimedOut):
            client.get("a")
        del server.handlers[b"GET"]
        server.values[b"b"] = b"fresh"
        assert client.get("b") == b"fresh"


def test_a_server_that_never_greets_is_unavailable_in_time() -> None:
    with (
        hanging_endpoint() as hanging,
        Client([hanging], timeout_seconds=0.3) as client,
        pytest.raises(Unavailable, match="no answer in time"),
    ):
        client.put("k", "v")


def test_a_command_that_never_leaves_whole_was_not_executed(other: RespServer) -> None:
    misbehave(other, b"HELLO", "stall", b"%0\r\n")
    with (
        Client([other.endpoint], timeout_seconds=1) as client,
        pytest.raises(Unavailable, match="did not take the command in time"),
    ):
        client.put("k", LARGER_THAN_SOCKET_BUFFERS)


def test_the_longest_reply_is_bounded(server: RespServer) -> None:
    server.values[b"k"] = b"v" * 100_000
    with Client([server.endpoint], reply_bytes_max=50_000) as client:
        with pytest.raises(ReplyTooLarge, match="longer than 50000 bytes"):
            client.get("k")
        assert client.get("absent") is None


# ---- wrong use -------------------------------------------------------------------------------


def test_a_client_without_endpoints_or_time_is_refused() -> None:
    with pytest.raises(EndpointError):
        Client([])
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="timeout_seconds"):
            Client([closed_endpoint()], timeout_seconds=seconds)


def test_a_command_needs_a_name() -> None:
    with pytest.raises(ValueError, match="name"):
        Client([closed_endpoint()]).call()
