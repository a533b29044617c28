"""The connection over real loopback sockets, with a front end whose results can be held back."""

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from rafter_kv.front_end import ClientLimits
from rafter_transport.tls_session import TlsSession
from tests.kv.fake_front_end import FakeFrontEnd, FakeServer, serving
from tests.kv.raw_client import RawClient, request
from tests.kv.tls_kit import client_tls, server_tls
from tests.transport.tls_support import Authority

NO_LONG_LINGER = ClientLimits(linger_seconds=0.1)
"""For clients that are done sending: the server cannot see them close, and lingers in vain."""


def debugging_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    return loop


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop, debugging_loop])
def server(request: pytest.FixtureRequest) -> Iterator[FakeServer]:
    with serving(loop=request.param()) as running:
        yield running


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread brings about; the limit is far beyond any slow machine."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.001)


def client_count(server: FakeServer) -> int:
    return len(server.front_end.clients.connections)


def test_pipelined_commands_are_answered_in_order_across_groups(server: FakeServer) -> None:
    with RawClient(server.port) as client:
        pipeline = [
            request(b"SET", b"k%d" % i, b"v%d" % i)
            + request(b"PING", b"%d" % i)
            + request(b"GET", b"k%d" % i)
            for i in range(100)
        ]
        client.send(b"".join(pipeline))
        for i in range(100):
            assert client.reply() == b"+OK\r\n"
            assert client.reply() == b"$%d\r\n%d\r\n" % (len(str(i)), i)
            assert client.reply() == b"$%d\r\nv%d\r\n" % (len(str(i)) + 1, i)
    assert {group for group, _, _ in server.front_end.submitted} == {1, 2, 3, 4}


def test_a_reply_never_overtakes_an_earlier_one(server: FakeServer) -> None:
    front_end = server.front_end
    server.call(front_end.hold)
    with RawClient(server.port) as client:
        client.send(request(b"GET", b"a"))
        until(lambda: front_end.pending_count == 1)
        client.send(request(b"PING"))
        until(lambda: front_end.clients.commands_total == 2)
        client.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.reply()
        client.socket.settimeout(10)
        server.call(front_end.release)
        assert client.reply() == b"$-1\r\n"
        assert client.reply() == b"+PONG\r\n"


def test_one_flush_answers_a_whole_pipeline(server: FakeServer) -> None:
    with RawClient(server.port) as client:
        client.send(request(b"INCR", b"n") * 50)
        for i in range(50):
            assert client.reply() == b":%d\r\n" % (i + 1)
    assert server.front_end.flushes <= 3


def test_names_are_found_in_any_case_and_submitted_in_canonical_form(server: FakeServer) -> None:
    with RawClient(server.port) as client:
        for name in (b"set", b"SET", b"Set", b"sEt"):
            assert client.command(name, b"a", b"1") == b"+OK\r\n"
    assert [command[0] for _, command, _ in server.front_end.submitted] == [b"SET"] * 4
    assert all(is_write for _, _, is_write in server.front_end.submitted)


def test_wrong_arity_and_unknown_commands_never_reach_a_group(server: FakeServer) -> None:
    with RawClient(server.port) as client:
        wrong = b"-ERR wrong number of arguments for '%b' command\r\n"
        assert client.command(b"GET") == wrong % b"get"
        assert client.command(b"get", b"a", b"b") == wrong % b"get"
        assert client.command(b"SET", b"a") == wrong % b"set"
        assert client.command(b"CLIENT", b"setname") == wrong % b"client|setname"
        assert client.command(b"FOO", b"a", b"b\r\nc").startswith(
            b"-ERR unknown command 'FOO', with args beginning with: 'a' 'b  c' \r\n"
        )
        assert client.command(b"PING") == b"+PONG\r\n"
    assert server.front_end.submitted == []


def test_hello_in_a_pipeline_changes_the_replies_behind_it_only(server: FakeServer) -> None:
    with RawClient(server.port) as client:
        get = request(b"GET", b"absent")
        client.send(
            get
            + request(b"HELLO", b"3")
            + get
            + request(b"HELLO", b"9")
            + get
            + request(b"RESET")
            + get
            + request(b"HELLO", b"3")
            + request(b"HELLO", b"2")
            + get
        )
        assert client.reply() == b"$-1\r\n"
        assert client.reply().startswith(b"%7\r\n")
        assert client.reply() == b"_\r\n"
        assert client.reply() == b"-NOPROTO unsupported protocol version\r\n"
        assert client.reply() == b"_\r\n"
        assert client.reply() == b"+RESET\r\n"
        assert client.reply() == b"$-1\r\n"
        assert client.reply().startswith(b"%7\r\n")
        assert client.reply().startswith(b"*14\r\n")
        assert client.reply() == b"$-1\r\n"


def test_quit_is_answered_behind_earlier_replies_and_ends_the_connection(
    server: FakeServer,
) -> None:
    with RawClient(server.port) as client:
        client.send(request(b"SET", b"a", b"1") + request(b"QUIT") + request(b"SET", b"a", b"2"))
        assert client.rest() == b"+OK\r\n+OK\r\n"
    assert [command for _, command, _ in server.front_end.submitted] == [[b"SET", b"a", b"1"]]
    until(lambda: client_count(server) == 0)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"*20000001\r\n", b"invalid multibulk length"),
        (b"*1\r\n$9999999999\r\n", b"invalid bulk length"),
        (b"*1\r\n*1\r\n$4\r\nPING\r\n", b"expected '$', got '*'"),
        (b"*1\r\n:5\r\n", b"expected '$', got ':'"),
        (b"get 'a\r\n", b"unbalanced quotes in request"),
        (b"x" * 70_000, b"too big inline request"),
    ],
)
def test_protocol_errors_are_answered_behind_earlier_replies_and_end_the_connection(
    server: FakeServer, data: bytes, text: bytes
) -> None:
    server.call(server.front_end.hold)
    with RawClient(server.port) as client:
        client.send(request(b"INCR", b"n") + request(b"PING") + data)
        until(lambda: server.front_end.clients.protocol_errors_total == 1)
        # Whatever else is sent cannot make the kernel throw the reply away.
        client.send(b"garbage\r\n" * 1000)
        server.call(server.front_end.release)
        assert client.rest() == b":1\r\n+PONG\r\n-ERR Protocol error: " + text + b"\r\n"
    until(lambda: client_count(server) == 0)


def test_a_closed_connection_ends_even_if_the_client_never_closes_it() -> None:
    front_end = FakeFrontEnd(limits=ClientLimits(linger_seconds=0.02))
    with serving(front_end) as server, RawClient(server.port) as client:
        client.send(b"*x\r\n")
        assert client.rest().startswith(b"-ERR Protocol error")
        until(lambda: client_count(server) == 0)


def test_a_half_closed_client_still_gets_its_replies(server: FakeServer) -> None:
    server.front_end.limits = NO_LONG_LINGER
    server.call(server.front_end.hold)
    with RawClient(server.port) as client:
        client.send(request(b"INCR", b"n") * 3 + b"*1\r\n$4\r\nPI")
        client.socket.shutdown(socket.SHUT_WR)
        until(lambda: server.front_end.pending_count == 3)
        server.call(server.front_end.release)
        assert client.rest() == b":1\r\n:2\r\n:3\r\n"
    until(lambda: client_count(server) == 0)


def test_results_for_a_client_that_went_away_are_dropped(server: FakeServer) -> None:
    server.call(server.front_end.hold)
    with RawClient(server.port) as client:
        client.send(request(b"MGET", *(b"k%d" % i for i in range(50))) + request(b"INCR", b"n"))
        until(lambda: server.front_end.pending_count == 5)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: client_count(server) == 0)
    server.call(server.front_end.release)
    with RawClient(server.port) as client:
        assert client.command(b"INCR", b"n") == b":2\r\n"


def test_a_client_over_the_limit_is_told_so_and_closed() -> None:
    front_end = FakeFrontEnd(limits=ClientLimits(connections_max=2))
    with serving(front_end) as server:
        with RawClient(server.port) as one, RawClient(server.port) as two:
            assert one.command(b"PING") == two.command(b"PING") == b"+PONG\r\n"
            with RawClient(server.port) as three:
                assert three.rest() == b"-ERR max number of clients reached\r\n"
            assert one.command(b"PING") == b"+PONG\r\n"
        until(lambda: client_count(server) == 0)
        assert front_end.clients.rejected_total == 1
        with RawClient(server.port) as four:
            assert four.command(b"PING") == b"+PONG\r\n"


def test_a_flood_of_commands_stops_being_read_until_half_is_answered() -> None:
    limits = ClientLimits(unanswered_commands_max=1000)
    front_end = FakeFrontEnd(limits=limits)
    count = 45_000  # twice what the kernels and two reads hold
    with serving(front_end) as server:
        server.call(front_end.hold)
        with RawClient(server.port) as client:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
            client.socket.setblocking(False)
            data = memoryview(request(b"INCR", b"n") * count)
            sent = 0
            stalls = 0
            while stalls < 100:  # until neither kernel takes any more
                try:
                    sent += client.socket.send(data[sent:])
                    stalls = 0
                except BlockingIOError:
                    stalls += 1
                    time.sleep(0.002)
            assert sent < len(data)
            # One read of 256 KiB may pass the limit, and one more be under way.
            assert front_end.pending_count < 1000 + 2 * 256 * 1024 // 20
            server.call(front_end.release)
            client.socket.settimeout(20)
            answered = b""
            while sent < len(data):
                sent += client.socket.send(data[sent : sent + 100_000])
                answered += client.socket.recv(1 << 20)
            client.socket.shutdown(socket.SHUT_WR)
            answered += client.rest()
        assert answered.count(b"\r\n") == count
        assert answered.endswith(b":%d\r\n" % count)


def test_a_client_that_does_not_read_stops_being_served() -> None:
    limits = ClientLimits(write_buffer_bytes_max=256 * 1024)
    front_end = FakeFrontEnd(limits=limits)
    with serving(front_end) as server, RawClient(server.port) as client:
        value = b"x" * 1_000_000
        assert client.command(b"SET", b"a", value) == b"+OK\r\n"
        count = 200
        client.send(request(b"GET", b"a") * count)
        (connection,) = front_end.clients.connections.values()
        until(lambda: server.call(lambda: connection.write_buffer_bytes) > 0)
        until(lambda: front_end.pending_count == 0)
        # 200 MB of replies are due; what is encoded stays near one write of 1 MB.
        assert server.call(lambda: connection.write_buffer_bytes) < 4_000_000
        for _ in range(count):
            assert len(client.reply()) == len(value) + 12


def test_large_replies_of_one_pipeline_all_arrive(server: FakeServer) -> None:
    with RawClient(server.port) as client:
        value = b"y" * 300_000
        assert client.command(b"SET", b"a", value) == b"+OK\r\n"
        client.send(request(b"GET", b"a") * 30 + request(b"PING"))
        for _ in range(30):
            assert client.reply() == b"$300000\r\n%b\r\n" % value
        assert client.reply() == b"+PONG\r\n"


def test_values_and_keys_over_the_limits_are_refused_and_the_connection_kept() -> None:
    front_end = FakeFrontEnd(limits=ClientLimits(value_bytes_max=100_000, key_bytes_max=100))
    with serving(front_end) as server, RawClient(server.port) as client:
        too_long = b"-ERR value exceeds the limit of 100000 bytes\r\n"
        assert client.command(b"SET", b"a", b"x" * 100_001) == too_long
        assert client.command(b"SET", b"a", b"x" * 100_000) == b"+OK\r\n"
        key_too_long = b"-ERR key exceeds the limit of 100 bytes\r\n"
        assert client.command(b"SET", b"k" * 101, b"1") == key_too_long
        assert client.command(b"SET", b"k" * 100, b"1" * 500) == b"+OK\r\n"
        assert client.command(b"DEL", b"a", b"k" * 101) == key_too_long
        assert client.command(b"MSET", b"a", b"v" * 1000, b"{a}", b"v" * 1000) == b"+OK\r\n"
        for byte in request(b"GET", b"k" * 101):
            client.send(bytes((byte,)))
        assert client.reply() == key_too_long


def test_inline_commands_and_bare_line_ends_work(server: FakeServer) -> None:
    with RawClient(server.port) as client:
        client.send(b'\r\nPING\r\n\n  set \'a b\' "\\x41\\n"\n*0\r\nget "a b"\r\n')
        assert client.reply() == b"+PONG\r\n"
        assert client.reply() == b"+OK\r\n"
        assert client.reply() == b"$2\r\nA\n\r\n"


def test_draining_answers_what_was_taken_and_closes(server: FakeServer) -> None:
    front_end = server.front_end
    server.call(front_end.hold)
    with RawClient(server.port) as busy, RawClient(server.port) as idle:
        assert idle.command(b"PING") == b"+PONG\r\n"
        busy.send(request(b"INCR", b"n"))
        until(lambda: front_end.pending_count == 1)
        for connection in list(front_end.clients.connections.values()):
            server.call(connection.close_after_replies)
        assert idle.rest() == b""
        server.call(front_end.release)
        assert busy.rest() == b":1\r\n"


def test_errors_of_groups_are_passed_on(server: FakeServer) -> None:
    server.front_end.failure = "-CLUSTERDOWN No Raft leader"
    with RawClient(server.port) as client:
        for command in (
            [b"GET", b"a"],
            [b"MGET", *(b"k%d" % i for i in range(9))],
            [b"DBSIZE"],
            [b"KEYS", b"*"],
            [b"FLUSHALL"],
            [b"SCAN", b"0"],
            [b"DEL", b"a", b"b", b"c"],
        ):
            assert client.command(*command) == b"-CLUSTERDOWN No Raft leader\r\n"


def test_a_reply_that_comes_later_keeps_its_place(server: FakeServer) -> None:
    with RawClient(server.port) as client:
        client.send(request(b"PING") + request(b"RAFTER.STATUS") + request(b"PING", b"x"))
        assert client.reply() == b"+PONG\r\n"
        assert client.reply().startswith(b"*6\r\n$5\r\nnodes\r\n*0\r\n")
        assert client.reply() == b"$1\r\nx\r\n"


def test_a_request_in_many_chunks_counts_with_its_whole_length() -> None:
    front_end = FakeFrontEnd(limits=ClientLimits(unanswered_bytes_max=3_000_000))
    with serving(front_end) as server:
        server.call(front_end.hold)
        with RawClient(server.port) as client:
            client.socket.setblocking(False)
            data = memoryview(request(b"SET", b"a", b"x" * 1_000_000) * 40)
            sent = stalls = 0
            while stalls < 100:
                try:
                    sent += client.socket.send(data[sent:])
                    stalls = 0
                except BlockingIOError:
                    stalls += 1
                    time.sleep(0.002)
            assert front_end.pending_count <= 4
            server.call(front_end.release)
            client.socket.settimeout(20)
            client.send(data[sent:])
            for _ in range(40):
                assert client.reply() == b"+OK\r\n"


# ---- TLS -------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop, debugging_loop])
def tls_server(request: pytest.FixtureRequest, authority: Authority) -> Iterator[FakeServer]:
    with serving(loop=request.param(), tls=server_tls(authority)) as running:
        yield running


def test_pipelines_and_large_values_pass_through_tls(
    tls_server: FakeServer, authority: Authority
) -> None:
    value = b"z" * 2_000_000
    with RawClient(tls_server.port, tls=client_tls(authority)) as client:
        assert client.command(b"SET", b"a", value) == b"+OK\r\n"
        client.send(request(b"INCR", b"n") * 100 + request(b"GET", b"a") * 5 + request(b"QUIT"))
        for i in range(100):
            assert client.reply() == b":%d\r\n" % (i + 1)
        for _ in range(5):
            assert client.reply() == b"$2000000\r\n%b\r\n" % value
        assert client.rest() == b"+OK\r\n"
    until(lambda: client_count(tls_server) == 0)


def test_clients_in_the_middle_of_their_tls_handshake_count_towards_the_limit(
    authority: Authority,
) -> None:
    """The event loop's TLS told of a connection when its handshake was over, so nobody counted it.

    Clients had been tried in the clear alone.
    """
    front_end = FakeFrontEnd(limits=ClientLimits(connections_max=2))
    with serving(front_end, tls=server_tls(authority)) as server:
        with RawClient(server.port), RawClient(server.port) as silent:
            until(lambda: client_count(server) == 2)
            with RawClient(server.port) as third:
                assert third.rest() == b""
            assert front_end.clients.rejected_total == 1
            silent.socket.close()
            until(lambda: client_count(server) == 1)
            with RawClient(server.port, tls=client_tls(authority)) as fourth:
                assert fourth.command(b"PING") == b"+PONG\r\n"
        until(lambda: client_count(server) == 0)


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_half_closed_tls_client_still_gets_its_replies(
    tls_server: FakeServer, authority: Authority, is_announced: bool
) -> None:
    tls_server.front_end.limits = NO_LONG_LINGER
    tls_server.call(tls_server.front_end.hold)
    with RawClient(tls_server.port) as client:
        session = TlsSession(client_tls(authority), is_server=False)
        session.begin()
        while not session.is_secure:
            client.send(session.outgoing())
            session.receive(client.socket.recv(65536))
        session.seal(request(b"INCR", b"n") * 3 + b"*1\r\n$4\r\nPI")
        if is_announced:
            session.end()
        client.send(session.outgoing())
        client.socket.shutdown(socket.SHUT_WR)
        until(lambda: tls_server.front_end.pending_count == 3)
        tls_server.call(tls_server.front_end.release)
        assert session.receive(client.rest()) == b":1\r\n:2\r\n:3\r\n"
        assert session.is_ended
    until(lambda: client_count(tls_server) == 0)
