"""Liveness on a clock of its own, and between real ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import cast

import pytest

from rafter_transport.handshake import decode_answer, encode_accepted, encode_hello
from rafter_transport.liveness import PULSE, IdleError, Liveness
from tests.transport.support import (
    QUICK,
    LogRecorder,
    Peer,
    RawPeer,
    RawServer,
    addresses,
    every_loop,
    make_hello,
    run,
)

IDLE_SECONDS = 12.0


class Clock:
    """A loop of which only the time goes on: its calls are made when they are due, or later."""

    def __init__(self) -> None:
        self.now_seconds = 1000.0
        self._calls: list[tuple[float, asyncio.TimerHandle]] = []

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return cast("asyncio.AbstractEventLoop", self)

    def time(self) -> float:
        return self.now_seconds

    def call_at(self, when: float, callback: object) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, (), self.loop)  # type: ignore[arg-type]
        self._calls.append((when, handle))
        return handle

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, _handle: asyncio.TimerHandle) -> None:
        return

    def go_to(self, seconds: float, *, is_asleep: bool = False) -> None:
        """Let the time come; with `is_asleep`, what was due meanwhile comes only then."""
        while due := [call for call in self._calls if call[0] <= seconds]:
            when, handle = call = min(due, key=lambda call: call[0])
            self._calls.remove(call)
            self.now_seconds = seconds if is_asleep else max(self.now_seconds, when)
            if not handle.cancelled():
                handle._run()
        self.now_seconds = seconds


class FakeLink:
    """What is watched; it says what was done to it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.heard_seconds = clock.time()
        self.pending_bytes = 0
        self.pulses: list[float] = []
        self.error: Exception | None = None

    def send(self, payload: bytes) -> None:
        assert payload == PULSE
        self.pulses.append(self.clock.time())

    def abort(self, error: Exception | None = None) -> None:
        assert self.error is None
        self.error = error


def watched(idle_seconds: float = IDLE_SECONDS) -> tuple[Clock, FakeLink, Liveness]:
    clock = Clock()
    link = FakeLink(clock)
    return clock, link, Liveness(link, idle_seconds, clock.loop)


@pytest.mark.parametrize("heard_seconds", [0.0, 0.5, 3.999, 4.0, 7.0, 25.0])
def test_a_link_ends_when_nothing_came_for_the_idle_time_and_not_before(
    heard_seconds: float,
) -> None:
    clock, link, _ = watched()
    begin_seconds = clock.time()
    for second in range(int(heard_seconds) + 1):
        clock.go_to(begin_seconds + min(second, heard_seconds))
        link.heard_seconds = clock.time()
    clock.go_to(begin_seconds + heard_seconds)
    link.heard_seconds = clock.time()
    clock.go_to(link.heard_seconds + IDLE_SECONDS - 0.001)
    assert link.error is None
    clock.go_to(link.heard_seconds + IDLE_SECONDS)
    assert isinstance(link.error, IdleError)
    assert str(link.error) == "nothing came for 12 s"
    pulses = len(link.pulses)
    clock.go_to(clock.time() + 1000)
    assert len(link.pulses) == pulses


def test_a_link_that_is_heard_in_the_last_moment_stays() -> None:
    clock, link, _ = watched()
    for _ in range(100):
        clock.go_to(link.heard_seconds + IDLE_SECONDS - 0.001)
        link.heard_seconds = clock.time()
    assert link.error is None


@pytest.mark.parametrize(("idle_seconds", "interval_seconds"), [(12, 1), (3, 1), (1.5, 0.5)])
def test_pulses_leave_every_second_or_thrice_in_the_idle_time(
    idle_seconds: float, interval_seconds: float
) -> None:
    clock, link, _ = watched(idle_seconds)
    begin_seconds = clock.time()
    for half in range(1, 41):
        clock.go_to(begin_seconds + half / 2)
        link.heard_seconds = clock.time()
    count = int(20 / interval_seconds)
    assert link.pulses == [begin_seconds + interval_seconds * n for n in range(1, count + 1)]


def test_no_pulse_is_added_to_what_waits_to_leave() -> None:
    clock, link, _ = watched()
    link.pending_bytes = 1
    clock.go_to(clock.time() + IDLE_SECONDS - 0.001)
    assert link.pulses == []


def test_a_stopped_watch_does_nothing() -> None:
    clock, link, liveness = watched()
    liveness.stop()
    clock.go_to(clock.time() + 10 * IDLE_SECONDS)
    assert (link.pulses, link.error) == ([], None)


def test_a_process_that_stood_still_itself_does_not_take_its_peers_for_gone() -> None:
    clock, link, _ = watched()
    clock.go_to(clock.time() + 100 * IDLE_SECONDS, is_asleep=True)
    assert link.error is None
    woken_seconds = clock.time()
    clock.go_to(woken_seconds + IDLE_SECONDS - 0.001)
    assert link.error is None
    clock.go_to(woken_seconds + IDLE_SECONDS)
    assert isinstance(link.error, IdleError)


SHORT = QUICK._replace(idle_seconds=0.15)


@contextlib.asynccontextmanager
async def raw_server(port: int) -> AsyncIterator[RawServer]:
    server = RawServer()
    await server.start(port)
    try:
        yield server
    finally:
        await server.close()


async def accept(server: RawServer) -> RawPeer:
    """Accept node 1's dial of node 2."""
    accepted = await server.accepted.get()
    await accepted.read()
    accepted.write(encode_accepted(make_hello(2, version_max=3)))
    return accepted


@every_loop
def test_a_peer_that_says_nothing_is_given_up_where_it_accepts_and_where_it_dials(
    loop_kind: str,
) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        with LogRecorder() as log:
            async with (
                raw_server(nodes[2][1]) as server,
                Peer(make_hello(1, version_max=3), nodes, limits=SHORT) as peer,
            ):
                counters = peer.exchanger.counters
                accepting = await accept(server)
                await peer.until_up(2)
                assert await accepting.read() == PULSE
                await peer.until_down(2)
                assert counters.connections_idle_total == 1
                dialling = await RawPeer.dial(peer.port)
                dialling.write(encode_hello(make_hello(2, version_max=3)))
                decode_answer(await dialling.read())
                assert await dialling.read() == PULSE
                await dialling.until_closed()
                await log.until("node 2 shard 0 at 127.0.0.1: connection closed: nothing came for")
                assert counters.connections_idle_total == 2
                await dialling.close()

    run(loop_kind, main())


@every_loop
def test_pulses_alone_keep_a_link_at_both_its_ends(loop_kind: str) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        async with (
            raw_server(nodes[2][1]) as server,
            # So long that no busy machine ends it; what is shown is that both ends say something.
            Peer(
                make_hello(1, version_max=3), nodes, limits=QUICK._replace(idle_seconds=1.5)
            ) as peer,
        ):
            accepting = await accept(server)
            dialling = await RawPeer.dial(peer.port)
            dialling.write(encode_hello(make_hello(2, version_max=3)))
            decode_answer(await dialling.read())
            for _ in range(4):
                for other in (accepting, dialling):
                    assert await other.read() == PULSE
                    other.write(PULSE)
            assert peer.exchanger.is_up(2, 0)
            assert peer.exchanger.counters.frames_received_total == 0
            await dialling.close()

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("version", [1, 2])
def test_an_older_version_that_sends_no_pulses_is_not_given_up(
    loop_kind: str, version: int
) -> None:
    async def main() -> None:
        nodes = addresses(1, 2, 3)
        async with (
            Peer(make_hello(1, version_max=3), nodes, limits=SHORT) as newer,
            Peer(make_hello(2, version_max=version), nodes, limits=SHORT) as older,
        ):
            await newer.until_up(2)
            await older.until_up(1)
            # By the time that a younger mute one is given up, they would have been, too.
            mute = await RawPeer.dial(newer.port)
            mute.write(encode_hello(make_hello(3, version_max=3)))
            await mute.until_closed()
            await mute.close()
            assert newer.exchanger.counters.connections_idle_total == 1
            assert newer.exchanger.counters.links_down_total == 0
            assert older.exchanger.counters.links_down_total == 0

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("payload", [b"\x91\x92\x01\x90", b"", b"\x90\x90"])
def test_whatever_else_comes_on_a_dialled_link_closes_it(loop_kind: str, payload: bytes) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        async with (
            raw_server(nodes[2][1]) as server,
            Peer(make_hello(1, version_max=3), nodes) as peer,
        ):
            accepted = await accept(server)
            await peer.until_up(2)
            accepted.write(PULSE)
            accepted.write(payload)
            await peer.until_down(2)

    run(loop_kind, main())
