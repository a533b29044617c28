"""The sleep protocol of the rings between two processes, a million times over: `make litmus`.

    python -m tests.transport.litmus [--rounds 1000000] [--seed N] [--looking-early]

Half of the rounds are *wakes*: the two meet in shared memory; then the producer pushes a frame and
wakes the consumer if that sleeps, while the consumer goes to sleep, each after a random moment, so
that they race at every step. The other half are *waits*: frames, most of them in two pieces, go
through a ring that holds hardly two, so that each side sleeps until the other wakes it. Every sleep
has a time limit. One that ends by it while there is something to take, or room, and no wake-up on
its way, is a lost wake-up: no timer makes up for it here. Each frame carries its number and a
checksum: one that is missing or damaged is torn.

The last line is `N rounds, 0 lost, 0 torn`, or other numbers and exit code 1. `--looking-early`
must fail. The consumer then looks at the ring a moment before it says that it sleeps: what a
processor without the fence may make of it, for longer, as the real moment is hard to hit.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import random
import select
import struct
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import xxhash

from rafter_transport import ring
from rafter_transport.ring import RingConsumer
from rafter_transport.ring_pair import MappedRings, RingEnd, is_supported, make_ring_pair

SLEEP_SECONDS = 1.0
"""How long a sleep without a wake-up is in order, if there is nothing to wake up for."""
GRACE_SECONDS = 0.3
"""How long a wake-up may be on its way: the waker may have lost its processor."""
LOST_MAX = 5
SPINS_MAX = 120
BATCH_ROUNDS = 10_000
WAKE_RING_BYTES = 4096
WAIT_RING_BYTES = 64
PRODUCER_WORD, CONSUMER_WORD = 0, 16
"""Where each side says at which meeting it is: words on cache lines of their own."""
ROUNDS_MAX = 1 << 62

_HEAD = struct.Struct("<QQ")


class Tally(NamedTuple):
    """What one process saw."""

    lost: int = 0
    torn: int = 0

    def __add__(self, other: object) -> Tally:
        assert isinstance(other, Tally)
        return Tally(self.lost + other.lost, self.torn + other.torn)


class TooSlowError(Exception):
    """The run did not end within its time."""


class Player:
    """One process and its end of the rings."""

    def __init__(
        self, end: RingEnd, meeting: memoryview, seed: int, deadline_seconds: float
    ) -> None:
        self._meeting = meeting
        self.rings: MappedRings = end.map(1 << 16)
        self.lost = 0
        self.torn = 0
        self.next_number = 0
        self._event = end.event_descriptor
        self._random = random.Random(seed).random
        self._deadline_seconds = deadline_seconds
        self._poll = select.poll()
        self._poll.register(self._event, select.POLLIN)

    @property
    def tally(self) -> Tally:
        return Tally(self.lost, self.torn)

    def frame(self, number: int) -> bytes:
        """Return a frame of 16 to 23 bytes."""
        tail = bytes(number % 8)
        return _HEAD.pack(number, xxhash.xxh3_64_intdigest(tail, number)) + tail

    def check(self, frames: list[bytes]) -> None:
        """Compare frames with those that are due."""
        for frame in frames:
            self.torn += frame != self.frame(self.next_number)
            self.next_number += 1

    def spin(self, spins_max: int) -> None:
        """Let a random moment pass, so that the two meet at every step of the protocol."""
        for _ in range(int(self._random() * spins_max)):
            pass

    def meet(self, mine: int, number: int) -> None:
        """Return when the other side is at this number, too; `mine` is the word of this side."""
        words = self._meeting
        words[mine] = number
        theirs = PRODUCER_WORD + CONSUMER_WORD - mine
        spins = 0
        while words[theirs] < number:
            spins += 1
            if spins % 100_000 == 0:
                self.check_time()

    def leave(self, mine: int) -> None:
        """Let the other side wait at no meeting any more."""
        self._meeting[mine] = ROUNDS_MAX

    def check_time(self) -> None:
        if time.monotonic() > self._deadline_seconds:
            raise TooSlowError

    def sleep_for_frames(self) -> None:
        """Sleep as a link does, if there is nothing to take."""
        consumer = self.rings.consumer
        if consumer.prepare_sleep():
            while not self._is_woken(SLEEP_SECONDS):
                if not consumer.is_empty and not self._is_woken(GRACE_SECONDS):
                    self.lost += 1
                    break
                self.check_time()
        consumer.awake()

    def push_or_sleep(self, frame: bytes) -> None:
        """Push a frame, and sleep as often as there is no room for it or for the rest of it."""
        producer = self.rings.producer
        is_taken = producer.push(frame)
        while not is_taken or producer.unsent_bytes:
            # A consumer that sleeps beside the first piece would never make room.
            producer.kick()
            self._sleep_for_room()
            if is_taken:
                producer.advance()
            else:
                is_taken = producer.push(frame)
        producer.kick()

    def _sleep_for_room(self) -> None:
        producer = self.rings.producer
        if producer.prepare_wait() and not self._is_woken(SLEEP_SECONDS):
            self.check_time()
            # Room that nobody told of, and no wake-up on its way?
            if not producer.prepare_wait() and not self._is_woken(GRACE_SECONDS):
                self.lost += 1

    def _is_woken(self, seconds: float) -> bool:
        if not self._poll.poll(seconds * 1000):
            return False
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        return True


def produce_wakes(player: Player, rounds: int) -> None:
    """Push a frame a round, just when the consumer is about to sleep."""
    producer = player.rings.producer
    for number in range(rounds):
        frame = player.frame(number)
        player.meet(PRODUCER_WORD, number + 1)
        player.spin(SPINS_MAX // 2)
        producer.push(frame)
        producer.kick()


def consume_wakes(player: Player, rounds: int) -> None:
    """Go to sleep once a round, and then take the frame."""
    consumer = player.rings.consumer
    while player.next_number < rounds and player.lost < LOST_MAX:
        player.meet(CONSUMER_WORD, player.next_number + 1)
        player.spin(SPINS_MAX)
        player.sleep_for_frames()
        player.check(consumer.pop_all(8))
    player.leave(CONSUMER_WORD)


def produce_waits(player: Player, rounds: int) -> None:
    """Push frames into a ring that is nearly always full."""
    for number in range(rounds):
        player.push_or_sleep(player.frame(number))
        if number % 16 == 0:
            player.spin(SPINS_MAX)
        if player.lost >= LOST_MAX:
            break


def consume_waits(player: Player, rounds: int) -> None:
    """Take frames one by one, and sleep when there is none."""
    consumer = player.rings.consumer
    while player.next_number < rounds and player.lost < LOST_MAX:
        player.spin(SPINS_MAX)
        frames = consumer.pop_all(1)
        player.check(frames)
        if not frames:
            player.sleep_for_frames()


PHASES = (
    (produce_wakes, consume_wakes, WAKE_RING_BYTES),
    (produce_waits, consume_waits, WAIT_RING_BYTES),
)


def run(rounds: int, seed: int, deadline_seconds: float) -> Tally:
    """Play `rounds` rounds in two processes; raises TooSlowError at the deadline."""
    total = Tally()
    done = 0
    batch = 0
    while done < rounds and total.lost < LOST_MAX:
        if time.monotonic() > deadline_seconds:
            raise TooSlowError
        count = min(BATCH_ROUNDS, rounds - done)
        produce, consume, ring_bytes = PHASES[batch % len(PHASES)]
        ours, theirs = make_ring_pair(batch, ring_bytes)
        meeting = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                ours.close()
                with pinned(1):
                    player = Player(theirs, meeting, seed + batch, deadline_seconds)
                    consume(player, count)
                os.write(writer, struct.pack("<II", *player.tally))
                status = 0
            finally:
                os._exit(status)
        theirs.close()
        os.close(writer)
        try:
            with pinned(0):
                player = Player(ours, meeting, seed - batch, deadline_seconds)
                produce(player, count)
        finally:
            ours.close()
            result = _result_of(child, reader, deadline_seconds)
        if result is None:
            raise TooSlowError
        total += player.tally + result
        done += count
        batch += 1
    return total


def _result_of(child: int, reader: int, deadline_seconds: float) -> Tally | None:
    """Wait for the end of the consumer, and return what it saw."""
    with open(reader, "rb") as file:
        while not select.select([file], [], [], 1.0)[0]:
            if time.monotonic() > deadline_seconds + 2 * SLEEP_SECONDS:
                os.kill(child, 9)
        data = file.read()
    os.waitpid(child, 0)
    return Tally(*struct.unpack("<II", data)) if len(data) == 8 else None


@contextlib.contextmanager
def pinned(number: int) -> Iterator[None]:
    """Keep this process on one processor: two of them race, one takes turns."""
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[number % len(processors)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)


def main(arguments: list[str] | None = None) -> int:
    """Run as a program; return the exit code."""
    parser = argparse.ArgumentParser(description="the sleep protocol of the rings")
    parser.add_argument("--rounds", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--seconds-max", type=float, default=1200.0)
    parser.add_argument("--looking-early", action="store_true")
    options = parser.parse_args(arguments)
    if not is_supported():
        say("no rings on this machine: nothing to check")
        return 0
    prepare_sleep = RingConsumer.prepare_sleep
    if options.looking_early:
        RingConsumer.prepare_sleep = _prepare_sleep_looking_early  # type: ignore[method-assign]
    say(f"seed {options.seed}")
    try:
        total = run(options.rounds, options.seed, time.monotonic() + options.seconds_max)
    except TooSlowError:
        say(f"not over within {options.seconds_max:.0f} seconds")
        return 2
    finally:
        RingConsumer.prepare_sleep = prepare_sleep  # type: ignore[method-assign]
    say(f"{options.rounds} rounds, {total.lost} lost, {total.torn} torn")
    return int(total != Tally())


def say(line: str) -> None:
    """Write a line of the report."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _prepare_sleep_looking_early(self: RingConsumer) -> bool:
    if not self.is_empty:
        return False
    for _ in range(SPINS_MAX):
        pass
    self._words[ring._SLEEPS] = 1
    return True


if __name__ == "__main__":
    sys.exit(main())
