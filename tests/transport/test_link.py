"""The link over a stream socket: deliveries, ends, and what a closing link does not do."""

import asyncio
import socket
from collections import Counter

import pytest

from rafter_transport import FrameError, SocketLink
from rafter_transport import link as link_module
from rafter_transport.framing import frame_header
from tests.transport.support import HOST, RawPeer, every_loop, run


class Pair:
    """A SocketLink and the raw other end of its socketpair."""

    def __init__(self, link: SocketLink, peer: RawPeer, log: list[bytes | str]) -> None:
        self.link = link
        self.peer = peer
        self.log = log

    @classmethod
    async def make(cls, frame_bytes_max: int = 1000) -> "Pair":
        log: list[bytes | str] = []
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        link = SocketLink(
            frame_bytes_max,
            on_made=lambda _: log.append("made"),
            on_frame=log.append,
            on_lost=lambda _: log.append("lost"),
            loop=loop,
        )
        await loop.connect_accepted_socket(lambda: link, ours)
        return cls(link, RawPeer(*await asyncio.open_connection(sock=theirs)), log)


@every_loop
def test_frames_go_both_ways_and_the_end_is_told_once(loop_kind: str) -> None:
    async def main() -> None:
        pair = await Pair.make()
        pair.link.send(b"")
        pair.link.send(b"hello")
        assert await pair.peer.read() == b""
        assert await pair.peer.read() == b"hello"
        pair.peer.write(b"one")
        pair.peer.write(b"two")
        await pair.peer.close()
        await pair.link.lost
        assert pair.log == ["made", b"one", b"two", "lost"]
        assert pair.link.error is None
        assert pair.link.is_closing
        pair.link.send(b"into the void")
        pair.link.close()
        pair.link.abort()
        assert pair.log[-1] == "lost"

    run(loop_kind, main())


@every_loop
def test_close_lets_everything_leave(loop_kind: str) -> None:
    async def main() -> None:
        pair = await Pair.make()
        payload = bytes(4 << 20)
        pair.link.send(payload)
        assert pair.link.pending_bytes > 0
        pair.link.close()
        pair.link.send(b"too late")
        pair.peer.write(b"not received")
        assert await pair.peer.read() == payload
        await pair.peer.until_closed()
        await pair.link.lost
        assert pair.log == ["made", "lost"]
        await pair.peer.close()

    run(loop_kind, main())


@every_loop
def test_a_frame_above_the_limit_ends_the_link(loop_kind: str) -> None:
    async def main() -> None:
        pair = await Pair.make(frame_bytes_max=5)
        pair.link.set_frame_bytes_max(6)
        pair.peer.write(b"123456")
        pair.peer.write(b"1234567")
        pair.peer.write(b"never")
        await pair.link.lost
        assert isinstance(pair.link.error, FrameError)
        assert b"never" not in pair.log
        assert pair.log[-1] == "lost"
        await pair.peer.until_closed()
        await pair.peer.close()

    run(loop_kind, main())


@every_loop
def test_no_frame_is_delivered_after_one_of_them_closed_the_link(loop_kind: str) -> None:
    async def main() -> None:
        pair = await Pair.make()
        taken: list[bytes] = []

        def take(payload: bytes) -> None:
            taken.append(payload)
            pair.link.abort(ValueError("enough"))

        pair.link.on_frame = take
        pair.peer.write(b"one")
        pair.peer.write(b"two")
        await pair.link.lost
        assert taken == [b"one"]
        assert str(pair.link.error) == "enough"
        await pair.peer.close()

    run(loop_kind, main())


@every_loop
def test_a_link_closed_before_its_socket_is_made_shuts_it(loop_kind: str) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        log: list[str] = []
        loop = asyncio.get_running_loop()
        link = SocketLink(
            1000,
            on_made=lambda _: log.append("made"),
            on_frame=lambda _: log.append("frame"),
            on_lost=lambda _: log.append("lost"),
            loop=loop,
        )
        assert link.pending_bytes == 0
        assert link.peer_host == "unknown"
        link.send(b"not connected")
        link.close()
        await loop.connect_accepted_socket(lambda: link, ours)
        await link.lost
        assert log == ["lost"]
        peer = RawPeer(*await asyncio.open_connection(sock=theirs))
        assert await peer.reader.read() == b""
        await peer.close()

    run(loop_kind, main())


@every_loop
def test_other_callbacks_have_their_turn_while_a_link_reads(
    loop_kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it uvloop reads on for as long as there is something, up to 32 times."""
    monkeypatch.setattr(link_module, "TURN_SECONDS", 0.0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        turns: list[int] = []
        turn = 0

        def next_turn() -> None:
            nonlocal turn
            turn += 1
            loop.call_soon(next_turn)

        with socket.create_server((HOST, 0)) as server:
            theirs = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
        # More waits than what one read brings.
        frame = frame_header(1000) + bytes(1000)
        theirs.setblocking(False)
        sent = bytearray(frame * 4000)
        del sent[: theirs.send(sent)]
        link = SocketLink(
            1000, on_frame=lambda _: turns.append(turn), on_lost=lambda _: None, loop=loop
        )
        ours.setblocking(False)
        next_turn()
        await loop.connect_accepted_socket(lambda: link, ours)
        await loop.sock_sendall(theirs, sent)
        theirs.close()
        await link.lost
        assert len(turns) == 4000
        # One read of uvloop brings 256,000 bytes, one of asyncio 256 KiB.
        assert max(Counter(turns).values()) <= 262

    run(loop_kind, main())
