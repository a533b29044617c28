"""Hostile and malformed input to a running server: Redis's errors, a closed link, no growth."""

import contextlib
import socket
from pathlib import Path

import pytest
import redis

from tests.cluster.kit import HOST, Cluster, Node
from tests.cluster.workload import connect

REPLY_SECONDS = 10.0
GROWTH_BYTES_MAX = 48 << 20


def _talk(port: int, data: bytes) -> bytes:
    """Send `data`, then read until the server closes the connection."""
    with socket.create_connection((HOST, port), timeout=REPLY_SECONDS) as stream:
        with contextlib.suppress(ConnectionError):
            stream.sendall(data)
        reply = b""
        with contextlib.suppress(ConnectionError):
            while chunk := stream.recv(65536):
                reply += chunk
        return reply


def _memory_bytes(node: Node) -> int:
    total = 0
    for pid in node.shard_pids():
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        total += int(fields[1]) * 4096
    return total


@pytest.mark.parametrize(
    ("request_bytes", "error"),
    [
        (b"*20000001\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*2000000000\r\n$1\r\na\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*2\r\n$3\r\nGET\r\n$9999999999\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
        (b"*2\r\n$3\r\nGET\r\n:5\r\n", b"-ERR Protocol error: expected '$', got ':'\r\n"),
        (b"*1\r\n*1\r\n$4\r\nPING\r\n", b"-ERR Protocol error: expected '$', got '*'\r\n"),
        (b"*1\r\n" * 20_000, b"-ERR Protocol error: expected '$', got '*'\r\n"),
        (b"a" * 70_000, b"-ERR Protocol error: too big inline request\r\n"),
        (b'SET "a\r\n', b"-ERR Protocol error: unbalanced quotes in request\r\n"),
    ],
)
def test_malformed_requests_get_redis_errors_and_a_closed_connection(
    one_node: Cluster, request_bytes: bytes, error: bytes
) -> None:
    assert _talk(one_node[1].client_port, request_bytes) == error


def test_replies_before_a_malformed_request_still_arrive(one_node: Cluster) -> None:
    reply = _talk(one_node[1].client_port, b"*1\r\n$4\r\nPING\r\n*1\r\n:1\r\n")
    assert reply == b"+PONG\r\n-ERR Protocol error: expected '$', got ':'\r\n"


def test_memory_does_not_grow_under_malformed_requests(one_node: Cluster) -> None:
    node = one_node[1]
    attacks = (b"*1000000\r\n$5\r\nhello\r\n", b"*1\r\n$536870912\r\nabc", b"*1\r\n" * 5000)
    for attack in attacks:  # once before measuring, so that caches and arenas are there
        _send_and_leave(node.client_port, attack)
    before = _memory_bytes(node)
    for _ in range(150):
        for attack in attacks:
            _send_and_leave(node.client_port, attack)
    assert _memory_bytes(node) - before < GROWTH_BYTES_MAX
    assert connect(node.client_port).ping() is True


def _send_and_leave(port: int, data: bytes) -> None:
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection((HOST, port), timeout=REPLY_SECONDS) as stream,
    ):
        stream.sendall(data)


def test_a_value_over_the_limit_gets_an_error_and_the_server_lives(cluster: Cluster) -> None:
    first, *_ = cluster
    client = connect(first.client_port)
    limit = 8 << 20
    assert client.set("big", b"x" * limit) is True
    assert client.strlen("big") == limit
    with pytest.raises(redis.ResponseError, match=f"limit of {limit} bytes"):
        client.set("big", b"x" * (limit + 1))
    assert client.strlen("big") == limit
    assert client.delete("big") == 1
    client.close()


def test_a_value_grown_over_the_limit_of_the_state_machine_is_refused(one_node: Cluster) -> None:
    client = connect(one_node[1].client_port)
    client.set("grown", "x")
    with pytest.raises(redis.ResponseError, match="maximum allowed size"):
        client.setrange("grown", 600 << 20, "x")
    assert client.get("grown") == b"x"
    client.close()
