"""The exchanger behind faulty networks: two real ones, with a proxy before each."""

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from rafter_transport import Channel, Limits
from rafter_transport.handshake import PULSE_VERSION
from tests.cluster.kit import wait_for
from tests.faults.proxy import CUT, NO_FAULTS, STALLED, Faults, Proxy
from tests.ports import free_ports
from tests.transport.support import HOST, QUICK, Peer, every_loop, make_hello, run

FAULTY = QUICK._replace(pending_bytes_max=1 << 20, frame_bytes_max=1 << 18, handshake_seconds=0.2)
ONCE_SECONDS = 0.1
CHANNELS = (Channel.RAFT, Channel.REQUEST, Channel.REPLY)

NUISANCES = {
    "delayed": Faults(delay_seconds=0.05),
    "byte by byte": Faults(piece_bytes=1),
    "in odd pieces": Faults(piece_bytes=777),
}
"""What no link is lost by."""

WRECKERS: dict[str, Callable[[Proxy], object]] = {
    "reset": Proxy.reset,
    "hung up": Proxy.hang_up,
    "truncated": lambda proxy: proxy.set(there=Faults(bytes_left=1000)),
}
"""What ends a link."""

WALLS: dict[str, Callable[[Proxy], object]] = {
    "dials refused": Proxy.refuse,
    "hellos stalled": lambda proxy: proxy.set(there=STALLED),
    "hellos cut": lambda proxy: proxy.set(there=CUT),
    "answers cut": lambda proxy: proxy.set(back=CUT),
    "answers truncated": lambda proxy: proxy.set(back=Faults(bytes_left=10)),
}
"""What keeps a lost link from coming back."""


class Pair:
    """Two shards; node 1 reaches node 2 through `proxy`, which reaches it through `back`."""

    def __init__(self, first: Peer, second: Peer, proxy: Proxy, back: Proxy) -> None:
        self.first = first
        self.second = second
        self.proxy = proxy
        self.back = back
        self.tried = 0
        self.posted: dict[Channel, list[int]] = {channel: [] for channel in CHANNELS}
        self.connection_of: dict[int, int] = {}

    def post(self, count: int, filler: bytes = b"") -> int:
        """Post numbered items from node 1, on the channels in turn; return how many were taken."""
        taken = 0
        for _ in range(count):
            self.tried += 1
            channel = CHANNELS[self.tried % len(CHANNELS)]
            if self.first.exchanger.post(2, 0, channel, [self.tried, filler]):
                self.posted[channel].append(self.tried)
                self.connection_of[self.tried] = self.downs
                taken += 1
        self.first.exchanger.flush()
        return taken

    def arrived(self, channel: Channel) -> list[int]:
        return [item[0] for item in self.second.recorder.of(channel)]

    async def until_arrived(self) -> None:
        """Wait until the last item that was taken for each channel is there."""
        lasts = {channel: posted[-1] for channel, posted in self.posted.items() if posted}
        await self.second.recorder.until(
            lambda: all(self.arrived(channel)[-1:] == [last] for channel, last in lasts.items())
        )

    async def until_through(self) -> None:
        """Wait until the link carries items to the end: some are tried until they arrive."""
        while True:
            await self.first.until_up(2)
            if self.post(len(CHANNELS)) == len(CHANNELS):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ONCE_SECONDS):
                        await self.until_arrived()
                        return

    async def until_downs(self, count: int) -> None:
        await self.first.recorder.until(lambda: self.downs >= count)

    async def until_tried(self, count: int) -> None:
        """Wait until node 1 has failed to connect so often."""
        counters = self.first.exchanger.counters
        await asyncio.to_thread(
            wait_for, lambda: counters.connect_failures_total >= count, f"{count} failures"
        )

    @property
    def downs(self) -> int:
        """How often node 1 was told that the link is down."""
        return sum(not is_up for _, _, is_up in self.first.recorder.states)

    def check(self) -> None:
        """Of what was posted on a connection its beginning came, once, in order, before the next's.

        On the last connection all of it; and the states and counts add up.
        """
        for channel, posted in self.posted.items():
            arrived = self.arrived(channel)
            found = set(arrived)
            expected: list[int] = []
            for connection, numbers in itertools.groupby(posted, self.connection_of.__getitem__):
                ours = list(numbers)
                count = len(found.intersection(ours))
                assert count == len(ours) or connection < self.downs
                expected += ours[:count]
            assert arrived == expected
        states = [is_up for _, _, is_up in self.first.recorder.states]
        assert states == [place % 2 == 0 for place in range(len(states))]
        counters = self.first.exchanger.counters
        assert counters.links_up_total == states.count(True)
        assert counters.links_down_total == states.count(False)
        refused = counters.raft_dropped_total + counters.posts_refused_total
        assert refused + sum(map(len, self.posted.values())) == self.tried
        received = self.second.exchanger.counters
        assert received.frames_received_total <= counters.frames_sent_total
        assert received.bad_frames_total == 0


@contextlib.asynccontextmanager
async def pair(
    limits: Limits = FAULTY, *, is_framed: bool = False, version: int = 1
) -> AsyncIterator[Pair]:
    """Start two shards with a proxy before each, and wait until both links are up."""
    port = free_ports(2)
    with (
        Proxy((HOST, port + 1), is_framed=is_framed) as proxy,
        Proxy((HOST, port), is_framed=is_framed) as back,
    ):
        hellos = [make_hello(node, version_max=version) for node in (1, 2)]
        first = Peer(hellos[0], {1: (HOST, port), 2: proxy.address}, limits=limits)
        second = Peer(hellos[1], {1: back.address, 2: (HOST, port + 1)}, limits=limits)
        async with first, second:
            await first.until_up(2)
            await second.until_up(1)
            yield Pair(first, second, proxy, back)


@every_loop
@pytest.mark.parametrize("nuisance", NUISANCES)
def test_a_slow_network_loses_no_link_and_no_item(loop_kind: str, nuisance: str) -> None:
    async def main() -> None:
        async with pair() as two:
            two.proxy.set(there=NUISANCES[nuisance])
            for _ in range(10):
                assert two.post(10, b"x" * 50) == 10
                await asyncio.sleep(0)
            await two.until_arrived()
            assert two.downs == 0
            two.check()

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("wrecker", WRECKERS)
def test_a_link_that_is_lost_is_told_comes_back_and_doubles_nothing(
    loop_kind: str, wrecker: str
) -> None:
    async def main() -> None:
        async with pair() as two:
            for times in range(1, 6):
                assert two.post(30, b"x" * 100) == 30
                WRECKERS[wrecker](two.proxy)
                two.post(30, b"x" * 100)
                await two.until_downs(times)
                assert two.post(1) == 0
                two.proxy.heal()
                await two.until_through()
            two.check()

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("wall", WALLS)
def test_a_link_comes_back_once_the_network_lets_it(loop_kind: str, wall: str) -> None:
    async def main() -> None:
        async with pair() as two:
            WALLS[wall](two.proxy)
            two.proxy.reset()
            await two.until_downs(1)
            await two.until_tried(3)
            assert not two.first.exchanger.is_up(2, 0)
            assert two.post(9) == 0
            two.proxy.heal()
            await two.until_through()
            two.check()

    run(loop_kind, main())


@every_loop
def test_a_stalled_receiver_makes_post_refuse_at_its_bound_and_loses_nothing(
    loop_kind: str,
) -> None:
    async def main() -> None:
        async with pair() as two:
            two.proxy.set(there=STALLED)
            while two.post(1, b"x" * 65536):
                assert two.first.exchanger.pending_bytes(2, 0) <= FAULTY.pending_bytes_max
                await asyncio.sleep(0)
            assert two.first.exchanger.pending_bytes(2, 0) > FAULTY.pending_bytes_max - 66000
            two.proxy.heal()
            await two.until_arrived()
            assert two.post(3) == 3
            await two.until_arrived()
            assert two.downs == 0
            two.check()

    run(loop_kind, main())


def test_a_receiver_that_stalls_for_too_long_loses_its_link() -> None:
    async def main() -> None:
        async with pair(FAULTY._replace(unacknowledged_seconds=0.5)) as two:
            two.proxy.set(there=STALLED)
            while two.downs == 0:
                two.post(1, b"x" * 65536)
                await asyncio.sleep(0)
            two.proxy.heal()
            await two.until_through()
            two.check()

    run("uvloop", main())


@every_loop
@pytest.mark.parametrize(
    ("there", "back"),
    [(CUT, NO_FAULTS), (NO_FAULTS, CUT), (CUT, CUT), (STALLED, NO_FAULTS), (NO_FAULTS, STALLED)],
)
def test_a_link_on_which_nothing_comes_is_given_up_and_comes_back(
    loop_kind: str, there: Faults, back: Faults
) -> None:
    async def main() -> None:
        # The kernels at both ends find nothing wrong: the proxy acknowledges every byte.
        async with pair(FAULTY._replace(idle_seconds=1.0), version=PULSE_VERSION) as two:
            assert two.post(30) == 30
            await two.until_arrived()
            two.proxy.set(there=there, back=back)
            two.post(30)
            await two.until_downs(1)
            assert two.post(1) == 0
            two.proxy.heal()
            await two.until_through()
            two.check()
            counters = [peer.exchanger.counters for peer in (two.first, two.second)]
            assert sum(each.connections_idle_total for each in counters) >= 1

    run(loop_kind, main())


def test_a_broken_link_does_not_touch_the_other_direction() -> None:
    async def main() -> None:
        async with pair() as two:
            two.proxy.refuse()
            two.proxy.reset()
            await two.until_downs(1)
            for number in range(100):
                two.second.send(1, 0, Channel.REPLY, number)
            await two.first.recorder.until(
                lambda: two.first.recorder.of(Channel.REPLY) == [*range(100)]
            )
            assert [is_up for _, _, is_up in two.second.recorder.states] == [True]

    run("uvloop", main())


@every_loop
def test_under_heavy_load_with_resets_the_counts_add_up(loop_kind: str) -> None:
    async def main() -> None:
        generator = random.Random(5)
        async with pair() as two:
            resets = 0
            while resets < 40:
                two.post(generator.randrange(1, 200), generator.randbytes(generator.randrange(300)))
                await asyncio.sleep(0)
                if two.first.exchanger.is_up(2, 0) and generator.random() < 0.05:
                    resets += 1
                    assert two.proxy.reset() == 1
                    await two.until_downs(resets)
            await two.until_through()
            two.check()
            assert two.downs == resets
            counters, received = two.first.exchanger.counters, two.second.exchanger.counters
            assert received.bytes_received_total <= counters.bytes_sent_total
            # A try that came too late for the handshake's deadline was accepted, too.
            spare = counters.connect_failures_total
            assert resets + 1 <= received.connections_accepted_total <= resets + 1 + spare

    run(loop_kind, main())


@pytest.mark.parametrize("loop_kind", ["uvloop"])
def test_doubled_and_swapped_frames_are_taken_as_they_come_and_break_no_link(
    loop_kind: str,
) -> None:
    async def main() -> None:
        async with pair(is_framed=True) as two:
            two.proxy.set(there=Faults(doubled=0.2, swapped=0.2))
            for _ in range(500):
                two.post(3)
            await two.second.recorder.until(
                lambda: all(set(two.arrived(kind)) == set(two.posted[kind]) for kind in CHANNELS)
            )
            two.proxy.set(there=NO_FAULTS)
            await two.until_through()
            doubled = two.proxy.counts["frames_doubled"]
            assert doubled > 20
            assert two.proxy.counts["frames_swapped"] > 20
            for channel in CHANNELS:
                counted = Counter(two.arrived(channel))
                assert set(counted) == set(two.posted[channel])
                assert sum(counted.values()) == len(two.posted[channel]) + doubled
            assert two.downs == 0
            assert two.second.exchanger.counters.bad_frames_total == 0

    run(loop_kind, main())
