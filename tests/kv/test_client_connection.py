"""Endpoints and requests as text and bytes, and the replies a connection understands."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_kv.client_connection import (
    BrokenError,
    Connection,
    DeadlineError,
    Endpoint,
    EndpointError,
    ServerError,
    pack_command,
    parse_endpoints,
    reason_of,
)
from tests.kv.resp_server import RespServer, hanging_endpoint
from tests.kv.tls_kit import client_tls, server_tls
from tests.transport.tls_support import Authority


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("db1:7000", [Endpoint("db1", 7000)]),
        ("db1", [Endpoint("db1", 7379)]),
        ("10.0.0.1:1, 10.0.0.2:65535,", [Endpoint("10.0.0.1", 1), Endpoint("10.0.0.2", 65535)]),
        ("[::1]:7000", [Endpoint("::1", 7000)]),
        ("[fe80::1]", [Endpoint("fe80::1", 7379)]),
    ],
)
def test_endpoints_are_read_from_a_list(text: str, expected: list[Endpoint]) -> None:
    assert parse_endpoints(text) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no endpoint given"),
        (" , ", "no endpoint given"),
        ("host:0", "'host:0'"),
        ("host:65536", "'host:65536'"),
        ("host:", "'host:'"),
        ("host:x", "'host:x'"),
        ("host:٣", "'host:٣'"),
        (":7379", "the host is missing"),
        ("[]:7379", "the host is missing"),
        ("::1", "goes in brackets"),
        ("[::1", "expected"),
        ("[::1]7379", "expected"),
        ("good:1,bad:y", "'bad:y'"),
    ],
)
def test_a_faulty_endpoint_is_named(text: str, named: str) -> None:
    with pytest.raises(EndpointError) as caught:
        parse_endpoints(text)
    assert named in str(caught.value)


@given(
    st.lists(
        st.builds(Endpoint, st.sampled_from(["db", "::1", "1.2.3.4"]), st.integers(1, 65535)),
        min_size=1,
    )
)
def test_endpoints_survive_being_printed(endpoints: list[Endpoint]) -> None:
    assert parse_endpoints(",".join(map(str, endpoints))) == endpoints


def test_requests_carry_bytes_text_and_numbers() -> None:
    expected = b"*3\r\n$3\r\nSET\r\n$2\r\n\xc3\xa9\r\n$2\r\n-1\r\n"
    assert pack_command((b"SET", "é", -1)) == expected


def exchange(answer: bytes) -> object:
    """Return what a connection makes of `answer` to a command."""
    with RespServer() as server:
        server.handlers[b"GET"] = lambda _: answer
        connection = Connection(server.endpoint, time.monotonic() + 10, 1 << 20)
        try:
            return connection.exchange(pack_command((b"GET", b"k")), time.monotonic() + 10)
        finally:
            connection.close()


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        (b"+OK\r\n", b"OK"),
        (b":-7\r\n", -7),
        (b"$0\r\n\r\n", b""),
        (b"$-1\r\n", None),
        (b"_\r\n", None),
        (b"#f\r\n", False),
        (b",1.5\r\n", 1.5),
        (b"%1\r\n+a\r\n*1\r\n:1\r\n", {b"a": [1]}),
        (b"=7\r\ntxt:abc\r\n", b"abc"),
    ],
)
def test_each_kind_of_reply_is_understood(reply: bytes, value: object) -> None:
    assert exchange(reply) == value


@pytest.mark.parametrize("reply", [b"?\r\n", b"%1\r\n*0\r\n:1\r\n", b":x\r\n"])
def test_what_is_not_resp_breaks_the_connection(reply: bytes) -> None:
    with pytest.raises(BrokenError, match="not RESP"):
        exchange(reply)


def test_an_error_is_returned_with_bytes_that_are_not_text() -> None:
    reply = exchange(b"-ERR bad \xff\r\n")
    assert isinstance(reply, ServerError)
    assert reply.code == "ERR"


def test_greeting_finds_the_newest_protocol_that_both_speak() -> None:
    for speaks_resp3, protocol in ((True, 3), (False, 2)):
        with RespServer(speaks_resp3=speaks_resp3) as server:
            connection = Connection(server.endpoint, time.monotonic() + 10, 1 << 20)
            connection.greet(time.monotonic() + 10)
            assert connection.protocol == protocol
            connection.close()


# ---- TLS -------------------------------------------------------------------------------------


def after(seconds: float) -> float:
    return time.monotonic() + seconds


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_requests_and_replies_of_many_records_pass_through_tls(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    authority = Authority(tmp_path)
    tls = server_tls(authority)
    tls.maximum_version = version
    value = bytes(range(256)) * 20_000
    with RespServer(tls=tls) as server:
        connection = Connection(server.endpoint, after(10), 1 << 30, client_tls(authority))
        connection.greet(after(10))
        assert connection.protocol == 3
        set_command = pack_command((b"SET", b"k", value))
        assert connection.exchange(set_command, after(10)) == b"OK"
        assert connection.exchange(pack_command((b"GET", b"k")), after(10)) == value
        # The tickets of the server are no reply, nor do they make the connection look closed.
        assert not connection.is_stale()
        server.drop_connection()
        deadline = after(10)
        while not connection.is_stale():
            assert time.monotonic() < deadline
        connection.close()


def test_a_handshake_has_no_more_time_than_the_call(tmp_path: Path) -> None:
    tls = client_tls(Authority(tmp_path))
    with hanging_endpoint() as endpoint:
        with pytest.raises((DeadlineError, TimeoutError)) as caught:
            Connection(endpoint, after(0.05), 1 << 20, tls)
        assert reason_of(caught.value) == "no answer in time"


def test_the_reason_of_an_error_is_said_without_the_library_that_found_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with (
        RespServer(tls=server_tls(authority, "db.example.org")) as server,
        pytest.raises(ssl.SSLCertVerificationError) as mismatch,
    ):
        Connection(server.endpoint, after(10), 1 << 20, client_tls(authority))
    with pytest.raises(ssl.SSLError) as unreadable:
        client_tls(authority).load_cert_chain(authority.ca, authority.ca)
    eof = ssl.SSLEOFError(8, "EOF occurred in violation of protocol (_ssl.c:2427)")
    assert "ip address mismatch, certificate is not valid for" in reason_of(mismatch.value)
    assert reason_of(unreadable.value) == "TLS: pem lib"
    assert reason_of(eof) == "TLS: eof occurred in violation of protocol"
    assert reason_of(ConnectionRefusedError(111, "Connection refused")) == "connection refused"
    # This one has a reason too, of another kind.
    assert not reason_of(UnicodeEncodeError("idna", "a..b", 0, 1, "label empty")).startswith("TLS")
