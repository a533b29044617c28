import selectors
import socket
from collections.abc import Iterator
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafterd.http_server import (
    HttpError,
    HttpLimits,
    HttpServer,
    Request,
    Response,
    parse_request,
)
from rafterd.select_loop import run_turn
from tests.daemon.waiting import wait_readable

BIG = b"x" * 5_000_000


class Server:
    """An HttpServer on its own loop and clock; the test turns the loop."""

    def __init__(self, connections_max: int = 4) -> None:
        self.now = 0.0
        self.selector = selectors.DefaultSelector()
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self.http = HttpServer(
            self.selector, listener, self.handle, HttpLimits(connections_max, 1024, 5.0),
            clock=lambda: self.now,
        )  # fmt: skip
        self.clients: list[socket.socket] = []

    def handle(self, request: Request) -> Response:
        if request.path == "/big":
            return Response(HTTPStatus.OK, BIG)
        if request.path == "/bug":
            raise RuntimeError("a bug in the handler")
        if request.path == "/none":
            raise HttpError(HTTPStatus.NOT_FOUND, "nothing here")
        return Response(HTTPStatus.OK, f"{request.path} {request.query}\n".encode())

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.address)
        self.clients.append(client)
        return client

    def turn(self, count: int = 1) -> None:
        for _ in range(count):
            run_turn(self.selector, 0.05)

    def exchange(self, data: bytes) -> bytes:
        """Send bytes and return the whole answer, up to the end of the stream."""
        client = self.connect()
        client.sendall(data)
        client.setblocking(False)
        answer = b""
        for _ in range(10_000):
            self.turn()
            try:
                while chunk := client.recv(1 << 20):
                    answer += chunk
            except BlockingIOError:
                continue
            return answer
        raise AssertionError(f"no end of {answer[:100]!r}")

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.http.close()
        self.selector.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def test_a_request_is_answered_and_the_connection_closed(server: Server) -> None:
    answer = server.exchange(b"GET /a%20b?x=1&x=2&verbose HTTP/1.1\r\nHost: here\r\n\r\n")
    head, body = answer.split(b"\r\n\r\n")
    assert body == b"/a b {'x': ['1', '2'], 'verbose': ['']}\n"
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Length: %d" % len(body),
        b"Cache-Control: no-store",
        b"Connection: close",
    ]


def test_a_request_may_come_a_byte_at_a_time(server: Server) -> None:
    client = server.connect()
    for byte in b"GET / HTTP/1.1\r\n\r\n":
        client.send(bytes([byte]))
        server.turn()
    server.turn()
    assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_large_answer_is_sent_as_the_client_takes_it(server: Server) -> None:
    answer = server.exchange(b"GET /big HTTP/1.1\r\n\r\n")
    assert answer.partition(b"\r\n\r\n")[2] == BIG


def test_head_is_answered_without_the_body(server: Server) -> None:
    answer = server.exchange(b"HEAD /big HTTP/1.1\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: 5000000\r\n" in answer


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /none HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"GET /bug HTTP/1.1\r\n\r\n", b"500 Internal Server Error"),
        (b"POST / HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"GET / HTTP/2.0\r\n\r\n", b"505 HTTP Version Not Supported"),
        (b"GET / HTTP/1.1 \r\n\r\n", b"400 Bad Request"),
        (b"GET http://x/ HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\x02\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", b"400 Bad Request"),
        (b"GET /?" + b"&a=1" * 200 + b" HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 2000 + b"\r\n\r\n", b"431 Request Header"),
        (b"G" * 5000, b"431 Request Header"),
        (b"G" * 200_000, b"431 Request Header"),
    ],
)
def test_a_bad_request_gets_its_status(server: Server, request_bytes: bytes, status: bytes) -> None:
    assert server.exchange(request_bytes).startswith(b"HTTP/1.1 " + status)


def test_a_slow_request_is_closed_at_its_deadline(server: Server) -> None:
    client = server.connect()
    client.send(b"GET / HTTP")
    server.turn(2)
    assert server.http.next_deadline() == 5.0
    server.now = 4.9
    server.http.expire()
    assert server.http.connections == 1
    server.now = 5.0
    server.http.expire()
    assert server.http.connections == 0
    wait_readable(client)
    assert client.recv(1) == b""
    assert server.http.next_deadline() is None


def test_connections_over_the_limit_wait_until_another_ends(server: Server) -> None:
    clients = [server.connect() for _ in range(5)]
    server.turn(2)
    assert server.http.connections == 4
    clients[4].sendall(b"GET / HTTP/1.1\r\n\r\n")
    clients[0].close()
    server.turn(4)
    wait_readable(clients[4])
    assert clients[4].recv(100).startswith(b"HTTP/1.1 200 OK")


def test_a_client_that_resets_is_forgotten(server: Server) -> None:
    client = server.connect()
    client.send(b"GET /big HTTP/1.1\r\n\r\n")
    server.turn(2)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    server.turn(3)
    assert server.http.connections == 0


def parse_or_status(head: bytes) -> tuple[Request | None, HTTPStatus | None]:
    try:
        return parse_request(head), None
    except HttpError as error:
        return None, error.status


@given(head=st.binary(max_size=200))
def test_any_bytes_are_a_request_or_an_http_error(head: bytes) -> None:
    request, status = parse_or_status(head)
    if request is None:
        assert status is not None
        assert status >= 400
    else:
        assert request.method in {"GET", "HEAD"}


@given(target=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60))
def test_any_target_is_a_request_or_an_http_error(target: str) -> None:
    request, status = parse_or_status(f"GET /{target} HTTP/1.1".encode())
    assert status == HTTPStatus.BAD_REQUEST if request is None else request.method == "GET"
