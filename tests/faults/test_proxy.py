"""The proxy itself: each fault does what it says, and nothing else."""

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from rafter_transport.framing import frame_header
from rafter_transport.handshake import encode_hello
from tests.cluster.kit import wait_for
from tests.faults.proxy import CUT, STALLED, Faults, Proxy
from tests.transport.support import make_hello

SECONDS = 20.0
HOST = "127.0.0.1"


class Ends:
    """A target behind a proxy, and who dials it: both block, with a deadline."""

    def __init__(self, proxy: Proxy, server: socket.socket) -> None:
        self.proxy = proxy
        self._server = server
        self._streams: list[socket.socket] = []

    def dial(self) -> tuple[socket.socket, socket.socket]:
        """Return the two ends of one connection through the proxy."""
        dialler = socket.create_connection(self.proxy.address, timeout=SECONDS)
        self._streams.append(dialler)
        target, _ = self._server.accept()
        target.settimeout(SECONDS)
        self._streams.append(target)
        return dialler, target

    def close(self) -> None:
        for stream in self._streams:
            stream.close()


@contextlib.contextmanager
def ends(*, is_framed: bool = False) -> Iterator[Ends]:
    with (
        socket.create_server((HOST, 0)) as server,
        Proxy(server.getsockname(), is_framed=is_framed) as proxy,
    ):
        server.settimeout(SECONDS)
        both = Ends(proxy, server)
        try:
            yield both
        finally:
            both.close()


def read(stream: socket.socket, count: int) -> bytes:
    """Read so many bytes; fewer if the stream ends before."""
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            break
        data += more
    return data


def is_silent(stream: socket.socket) -> bool:
    """Whether there is neither a byte nor an end to be read right now."""
    stream.setblocking(False)
    try:
        stream.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    finally:
        stream.settimeout(SECONDS)
    return False


def frame(payload: bytes) -> bytes:
    return frame_header(len(payload)) + payload


def read_frames(stream: socket.socket, count: int) -> list[bytes]:
    return [read(stream, int.from_bytes(read(stream, 4), "little")) for _ in range(count)]


@pytest.mark.parametrize("is_framed", [False, True])
def test_without_faults_everything_passes_both_ways_ends_included(is_framed: bool) -> None:
    with ends(is_framed=is_framed) as both:
        dialler, target = both.dial()
        text = frame(b"x" * 300_000) + b"\x09\x00\x00\x00 torn"
        dialler.sendall(text)
        dialler.shutdown(socket.SHUT_WR)
        assert read(target, len(text) + 1) == text
        target.sendall(frame(b"answer"))
        target.close()
        assert read(dialler, 100) == frame(b"answer")
        assert both.proxy.counts["bytes_there"] == len(text)
        assert both.proxy.counts["bytes_back"] == len(frame(b"answer"))
        wait_for(lambda: both.proxy.connection_count == 0, "the connection is forgotten")


@pytest.mark.parametrize(
    ("end", "error"), [(Proxy.reset, ConnectionResetError), (Proxy.hang_up, None)]
)
def test_connections_end_as_they_are_told_to(
    end: Callable[[Proxy], int], error: type[Exception] | None
) -> None:
    with ends() as both:
        streams = both.dial()
        assert end(both.proxy) == 1
        for stream in streams:
            with contextlib.nullcontext() if error is None else pytest.raises(error):
                assert read(stream, 1) == b""
        assert end(both.proxy) == 0


def test_a_reset_of_one_end_is_one_of_the_other() -> None:
    with ends() as both:
        dialler, target = both.dial()
        dialler.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        dialler.close()
        with pytest.raises(ConnectionResetError):
            read(target, 1)


def test_refused_dials_are_refused_and_open_connections_stay() -> None:
    with ends() as both:
        dialler, target = both.dial()
        both.proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(both.proxy.address, timeout=SECONDS)
        dialler.sendall(b"x")
        assert read(target, 1) == b"x"
        port = both.proxy.port
        both.proxy.heal()
        assert both.proxy.port == port
        both.dial()


def test_a_dial_whose_target_is_gone_is_reset() -> None:
    with socket.create_server((HOST, 0)) as server:
        address = server.getsockname()
    with (
        Proxy(address) as proxy,
        # The reset may come before the dialler has seen that it is connected.
        pytest.raises(ConnectionResetError),
        socket.create_connection(proxy.address, timeout=SECONDS) as dialler,
    ):
        read(dialler, 1)


def test_a_cut_swallows_one_direction_and_a_cut_connection_stays_cut() -> None:
    with ends() as both:
        dialler, target = both.dial()
        both.proxy.set(there=CUT)
        dialler.sendall(b"lost")
        wait_for(lambda: both.proxy.counts["bytes_swallowed"] == 4, "the bytes are swallowed")
        target.sendall(b"back")
        assert read(dialler, 4) == b"back"
        both.proxy.heal()
        dialler.sendall(b"lost too")
        wait_for(lambda: both.proxy.counts["bytes_swallowed"] == 12, "the bytes are swallowed")
        assert is_silent(target)
        newer, newer_target = both.dial()
        newer.sendall(b"x")
        assert read(newer_target, 1) == b"x"


def test_a_cut_lets_no_end_through_until_both_have_ended() -> None:
    with ends() as both:
        dialler, target = both.dial()
        both.proxy.set(there=CUT, back=CUT)
        dialler.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        dialler.close()
        target.sendall(b"x")
        wait_for(lambda: both.proxy.counts["bytes_swallowed"] == 1, "the byte is swallowed")
        assert is_silent(target)
        assert both.proxy.connection_count == 1
        target.close()
        wait_for(lambda: both.proxy.connection_count == 0, "both have ended")


def test_a_stall_fills_the_window_of_the_sender_and_loses_nothing() -> None:
    with ends() as both:
        dialler, target = both.dial()
        both.proxy.set(there=STALLED)
        dialler.setblocking(False)
        sent = 0
        # A stalled reader may have one read under way already.
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += dialler.send(b"x" * 65536)
        assert is_silent(target)
        both.proxy.heal()
        assert read(target, sent) == b"x" * sent


def test_a_delay_keeps_the_order_and_is_not_a_throttle() -> None:
    with ends() as both:
        dialler, target = both.dial()
        both.proxy.set(there=Faults(delay_seconds=0.2))
        text = bytes(range(256)) * 16384
        dialler.sendall(b"x")
        assert is_silent(target)
        dialler.sendall(text)
        # 4 MiB in reads of 64 KiB: one after the other they would take thirteen seconds.
        assert read(target, 1 + len(text)) == b"x" + text


def test_pieces_are_read_one_by_one() -> None:
    with ends() as both:
        dialler, target = both.dial()
        both.proxy.set(back=Faults(piece_bytes=1))
        text = b"0123456789" * 500
        target.sendall(text)
        pieces: list[bytes] = []
        while len(b"".join(pieces)) < len(text):
            pieces.append(dialler.recv(len(text)))
        assert b"".join(pieces) == text
        # Some may lie together before they are read, but never many.
        assert len(pieces) > 50


@pytest.mark.parametrize("is_framed", [False, True])
def test_behind_so_many_bytes_a_connection_is_reset(is_framed: bool) -> None:
    with ends(is_framed=is_framed) as both:
        dialler, target = both.dial()
        dialler.sendall(frame(b"before"))
        assert read_frames(target, 1) == [b"before"]
        both.proxy.set(there=Faults(bytes_left=7))
        dialler.sendall(frame(b"behind"))
        assert read(target, 7) == frame(b"behind")[:7]
        with pytest.raises(ConnectionResetError):
            read(target, 1)
        # Each connection has its own count.
        dialler, target = both.dial()
        dialler.sendall(frame(b"123"))
        assert read_frames(target, 1) == [b"123"]


def test_frames_are_doubled_behind_the_first() -> None:
    with ends(is_framed=True) as both:
        both.proxy.set(there=Faults(doubled=1.0))
        dialler, target = both.dial()
        for payload in (b"hello", b"a", b"", b"c"):
            dialler.sendall(frame(payload))
        assert read_frames(target, 7) == [b"hello", b"a", b"a", b"", b"", b"c", b"c"]
        assert both.proxy.counts["frames_doubled"] == 3


def test_frames_are_swapped_behind_the_first_where_there_are_two() -> None:
    with ends(is_framed=True) as both:
        both.proxy.set(there=Faults(swapped=1.0))
        dialler, target = both.dial()
        dialler.sendall(b"".join(map(frame, (b"hello", b"a", b"b", b"c", b"d", b"e"))))
        assert read_frames(target, 6) == [b"hello", b"b", b"a", b"d", b"c", b"e"]
        assert both.proxy.counts["frames_swapped"] == 2


def test_a_framed_proxy_knows_nodes_by_their_hello() -> None:
    with ends(is_framed=True) as both:
        streams = {}
        for node in (1, 2):
            dialler, target = streams[node] = both.dial()
            hello = frame(encode_hello(make_hello(node)))
            dialler.sendall(hello)
            assert read(target, len(hello)) == hello
        both.proxy.set(there=CUT, node=1)
        streams[1][0].sendall(frame(b"x"))
        streams[2][0].sendall(frame(b"y"))
        assert read_frames(streams[2][1], 1) == [b"y"]
        wait_for(lambda: both.proxy.counts["bytes_swallowed"] == 5, "node 1 is cut")
        assert both.proxy.reset(node=1) == 1
        streams[2][0].sendall(frame(b"z"))
        assert read_frames(streams[2][1], 1) == [b"z"]
