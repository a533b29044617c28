"""Rings: queues of frames in memory that two processes share, one producer and one consumer each.

A frame that the producer pushed is taken by the consumer without a system call; only a side
that sleeps is woken, through an eventfd. x86-64 Linux only (`is_supported`): the order of
stores below is what that processor promises. Elsewhere callers use a socketpair.

**Memory.** `make_ring_pair` makes one memfd of fixed size with two rings, one each way, for
one pair of processes and one life of both. A ring is a header of words, each word that changes on
a cache line of its own, and `capacity` bytes of data, a power of two:

    word       written by              holds
    TAIL       producer                bytes ever pushed
    HEAD       consumer                bytes ever taken
    SLEEPS     both                    the consumer sleeps, or is about to
    WAITS      both                    the producer waits for room, or is about to
    FORMAT, GENERATION, CAPACITY       set before anybody else can look

In the data a piece is a u32 (length and two bits) and the bytes, padded to 8. A piece never wraps:
the word SKIP says that the rest up to the end is unused. One bit says that more of the same frame
follows: a frame above `piece_bytes_max` travels in several pieces, so it may be larger than the
ring. The other says that the piece is a *bundle*, of small frames that were sent together: a u32
with their number, a u32 for the length of each, and then their bytes without gaps. So the cost of a
piece, most of what a small frame costs, is shared by all of them. Words are stored as aligned
8-byte units, which no reader sees half.

**Publishing.** The producer writes the piece, then TAIL; the consumer copies the frames, then
writes HEAD. x86-64 keeps stores in order and loads in order, so nothing else is needed. A producer
that dies in the middle of a push has not moved TAIL: what it wrote does not exist.

**Sleeping.** The consumer sets SLEEPS, then looks at TAIL once more; the producer moves TAIL, then
looks at SLEEPS. Without a fence between its own store and its load each can miss the other (in 1 of
50 to 1 of 7,500 races, by machine), and the consumer sleeps beside a full ring. So each side has a
full fence there.
Whoever finds the flag set clears it and then writes the eventfd, in this order: a flag cleared late
then costs a needless wake-up and never a lost one. WAITS is the same with the roles exchanged.

**Deaths and generations.** A ring is never used twice. When a process is restarted the supervisor
makes fresh pairs for it and for each of its sisters, under the next generation number, and
hands the ends over as it would hand over sockets; each side maps the new memory and lets go of the
old. So no index has to be repaired and no frame can cross lives: what a dead producer
published is in the old memory, which only its old sister still maps; what the sister pushes to a
dead consumer stays there and is freed with it. The header repeats the generation, and `RingEnd.map`
refuses memory of another one: descriptors that were mixed up are an error, not a delivery.
That the other side is gone is seen at once at the lifeline, a socketpair on which nothing is
ever sent and whose end closes with its process. All that was published before is then still
taken, and an unfinished frame is dropped, as with a socket.
"""

from __future__ import annotations

import mmap
import os
import threading
from array import array
from bisect import bisect_right
from collections.abc import Collection
from itertools import accumulate, islice

from rafter_transport.framing import FrameError

RING_BYTES_MIN = 64
HEADER_BYTES = 640
FRAMES_PER_BUNDLE = 64
"""How many frames travel in one piece at most."""

_FORMAT_NUMBER = 0x32_676E_6972_7266
_WORD_BYTES = 8
# Numbers of 8-byte words. Two lines apart, as processors fetch lines in pairs.
_FORMAT, _GENERATION, _CAPACITY = 0, 1, 2
_TAIL, _HEAD, _SLEEPS, _WAITS = 16, 32, 48, 64

_PIECES_PER_RING = 4
_MORE = 1 << 31
_BUNDLE = 1 << 30
_SKIP = (1 << 32) - 1
_LENGTH_MASK = _BUNDLE - 1

_fence_lock = threading.Lock()


class RingError(FrameError):
    """The memory is not the ring that was meant, or what it holds makes no sense."""


def fence() -> None:
    """Let no load after this overtake a store before it.

    An uncontended lock is taken with a locked instruction, which is a full fence on x86-64 and
    the cheapest one that Python offers (0.16 us). Each process has its own copy of the lock. If
    another thread should hold it, the failed attempt is no less a fence.
    """
    if _fence_lock.acquire(False):
        _fence_lock.release()


def format_ring(memory: mmap.mmap, offset: int, generation: int, capacity: int) -> None:
    """Make zeroed memory at `offset` an empty ring. Nobody else may look at it yet."""
    with _words(memory, offset) as words:
        words[_GENERATION] = generation
        words[_CAPACITY] = capacity
        words[_FORMAT] = _FORMAT_NUMBER


def check_ring(memory: mmap.mmap, offset: int, generation: int, capacity: int) -> None:
    """Raise RingError unless there is a ring of this generation and capacity at `offset`."""
    with _words(memory, offset) as words:
        found = (words[_FORMAT], words[_GENERATION], words[_CAPACITY])
    if found != (_FORMAT_NUMBER, generation, capacity):
        raise RingError(
            f"expected a ring of generation {generation} with {capacity} bytes, "
            f"found format, generation, capacity {found}"
        )


class RingProducer:
    """The pushing side of one ring. One process, one thread.

    `memory` holds a ring at `offset`; `wake_descriptor` is the eventfd of the consumer. Both
    stay the caller's, and must outlive this.
    """

    __slots__ = ("_base", "_bundle_bytes_max", "_capacity", "_head", "_mask", "_memory",
                 "_numbers", "_rest", "_tail", "_wake_descriptor", "_words",
                 "piece_bytes_max")  # fmt: skip

    def __init__(self, memory: mmap.mmap, offset: int, wake_descriptor: int) -> None:
        self._memory = memory
        self._wake_descriptor = wake_descriptor
        self._words = _words(memory, offset)
        self._numbers = memoryview(memory).cast("I")
        self._base = offset + HEADER_BYTES
        self._capacity = self._words[_CAPACITY]
        self._mask = self._capacity - 1
        self._tail = self._words[_TAIL]
        self._head = self._words[_HEAD]
        self._rest: memoryview | None = None
        self.piece_bytes_max = _piece_bytes_max(self._capacity)
        # Large frames gain nothing: they would be copied twice on each side.
        self._bundle_bytes_max = self.piece_bytes_max // 2

    @property
    def unsent_bytes(self) -> int:
        """How much of the frame pushed last still waits here for room in the ring."""
        return 0 if self._rest is None else len(self._rest)

    def push(self, frame: bytes) -> bool:
        """Take one frame. False if the ring is full: nothing has changed then.

        A frame above `piece_bytes_max` is taken when its first piece fits. The rest is
        `unsent_bytes`, leaves with `advance`, and no other frame is taken before it has.
        Raises RingError when the consumer's index is impossible.
        """
        if self._rest is not None:
            return False
        size = len(frame)
        if size <= self.piece_bytes_max:
            return self._put(frame, size, size)
        rest = memoryview(frame)
        size = self.piece_bytes_max
        if not self._put(rest[:size], size, size | _MORE):
            return False
        self._rest = rest[size:]
        self.advance()
        return True

    def push_some(self, frames: Collection[bytes]) -> int:
        """Take the first frame, or the first few as a bundle; return how many, 0 without room.

        There must be a frame. Otherwise as `push`.
        """
        bundle = list(islice(frames, FRAMES_PER_BUNDLE))
        sizes = list(map(len, bundle))
        count = len(bundle)
        if 4 * (count + 1) + sum(sizes) > self._bundle_bytes_max:
            ends = list(accumulate((4 + size for size in sizes), initial=4))
            count = max(1, bisect_right(ends, self._bundle_bytes_max) - 1)
        if count < 2 or self._rest is not None:
            return int(self.push(bundle[0]))
        piece = b"".join((array("I", (count, *sizes[:count])), *bundle[:count]))
        size = len(piece)
        return count if self._put(piece, size, size | _BUNDLE) else 0

    def advance(self) -> bool:
        """Put more of an unfinished frame into the ring; whether none of it is left.

        Puts what there is room for, and at most one ring full, as the consumer may be
        taking it as fast.
        """
        rest = self._rest
        for _ in range(_PIECES_PER_RING):
            if rest is None:
                break
            size = min(len(rest), self.piece_bytes_max)
            is_last = size == len(rest)
            if not self._put(rest[:size], size, size if is_last else size | _MORE):
                self._rest = rest
                return False
            rest = None if is_last else rest[size:]
        self._rest = rest
        return rest is None

    def drop_rest(self) -> None:
        """Forget the rest of an unfinished frame: nobody takes from this ring any more."""
        self._rest = None

    def _put(self, piece: bytes | memoryview, size: int, header: int) -> bool:
        need = (size + 11) & ~7
        tail = self._tail
        position = tail & self._mask
        room = self._capacity - position
        total = need if need <= room else need + room
        if tail + total - self._head > self._capacity:
            self._head = self._words[_HEAD]
            if not 0 <= tail - self._head <= self._capacity:
                raise RingError(f"ring: head {self._head} with tail {tail}")
            if tail + total - self._head > self._capacity:
                return False
        if need > room:
            self._numbers[(self._base + position) >> 2] = _SKIP
            tail += room
            position = 0
        at = self._base + position
        self._numbers[at >> 2] = header
        self._memory[at + 4 : at + 4 + size] = piece
        self._tail = self._words[_TAIL] = tail + need
        return True

    def kick(self) -> bool:
        """Wake the consumer if it sleeps; call once after the pushes of one loop iteration.

        Returns whether it slept.
        """
        fence()
        return _wake(self._words, _SLEEPS, self._wake_descriptor)

    def prepare_wait(self) -> bool:
        """Ask to be woken when there is room, after a push or `advance` that found none.

        False: some was made since, so try again and do not wait. A wish that is no longer meant
        costs one needless wake-up.
        """
        self._words[_WAITS] = 1
        fence()
        if self._words[_HEAD] != self._head:
            self._words[_WAITS] = 0
            return False
        return True

    def release(self) -> None:
        """Let go of the memory; nothing may be called afterwards."""
        self._rest = None
        self._words.release()
        self._numbers.release()


class RingConsumer:
    """The taking side of one ring. One process, one thread.

    `memory` holds a ring at `offset`; `wake_descriptor` is the eventfd of the producer. Both
    stay the caller's, and must outlive this. At most one unfinished frame of `frame_bytes_max`
    is kept beside the ring.
    """

    __slots__ = ("_base", "_capacity", "_frame_bytes_max", "_head", "_mask", "_memory", "_numbers",
                 "_partial", "_piece_bytes_max", "_plain_bytes_max", "_wake_descriptor",
                 "_words")  # fmt: skip

    def __init__(
        self, memory: mmap.mmap, offset: int, wake_descriptor: int, frame_bytes_max: int
    ) -> None:
        self._memory = memory
        self._wake_descriptor = wake_descriptor
        self._words = _words(memory, offset)
        self._numbers = memoryview(memory).cast("I")
        self._base = offset + HEADER_BYTES
        self._capacity = self._words[_CAPACITY]
        self._mask = self._capacity - 1
        self._head = self._words[_HEAD]
        self._piece_bytes_max = _piece_bytes_max(self._capacity)
        # Pieces up to this size are whole frames within the limit, if no frame is unfinished.
        self._plain_bytes_max = min(self._piece_bytes_max, frame_bytes_max)
        self._frame_bytes_max = frame_bytes_max
        self._partial = bytearray()

    @property
    def taken_bytes(self) -> int:
        """How much was ever taken, pieces of unfinished frames included: tells whether any was."""
        return self._head

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there to take right now."""
        return self._words[_TAIL] == self._head

    def pop_all(self, frames_max: int) -> list[bytes]:
        """Take what is there, in order, up to `frames_max` frames; a bundle is taken whole.

        Raises FrameError for a frame above `frame_bytes_max`, and RingError for content that no
        producer writes; frames before it in the same call are given up, and so must be the ring.
        """
        tail = self._words[_TAIL]
        head = self._head
        if tail == head:
            return []
        if not 0 < tail - head <= self._capacity:
            raise RingError(f"ring: tail {tail} with head {head}")
        frames: list[bytes] = []
        memory, numbers, base, mask = self._memory, self._numbers, self._base, self._mask
        plain_bytes_max = self._plain_bytes_max
        while head < tail and frames_max > 0:
            position = head & mask
            at = base + position
            size = numbers[at >> 2]
            if size > plain_bytes_max or self._partial:
                if size == _SKIP:
                    head += self._capacity - position
                    continue
                taken = len(frames)
                if size & _BUNDLE:
                    self._take_bundle(at + 4, size, frames)
                else:
                    self._take_piece(at + 4, size, frames)
                head += ((size & _LENGTH_MASK) + 11) & ~7
                frames_max -= len(frames) - taken
                continue
            frames.append(memory[at + 4 : at + 4 + size])
            head += (size + 11) & ~7
            frames_max -= 1
        if head > tail:
            raise RingError(f"ring: a piece ends at {head}, behind tail {tail}")
        self._head = self._words[_HEAD] = head
        # Not fenced: a producer that is missed here is seen in `prepare_sleep` at the latest.
        _wake(self._words, _WAITS, self._wake_descriptor)
        return frames

    def _take_piece(self, at: int, header: int, frames: list[bytes]) -> None:
        """Add a piece to the unfinished frame; the last one completes it."""
        size = header & _LENGTH_MASK
        if size > self._piece_bytes_max:
            raise RingError(f"ring: piece of {size} bytes in a ring of {self._capacity}")
        if len(self._partial) + size > self._frame_bytes_max:
            raise self._too_long()
        self._partial += self._memory[at : at + size]
        if not header & _MORE:
            frames.append(bytes(self._partial))
            # A new buffer, so that one large frame does not pin its memory for good.
            self._partial = bytearray()

    def _take_bundle(self, at: int, header: int, frames: list[bytes]) -> None:
        """Add the frames of a bundle."""
        size = header & _LENGTH_MASK
        room = self._base + self._capacity - at
        if header & _MORE or self._partial or not 4 <= size <= min(self._piece_bytes_max, room):
            raise RingError(f"ring: piece of {size} bytes that can be no bundle")
        count = self._numbers[at >> 2]
        begin = 4 + 4 * count
        if not 0 < count <= FRAMES_PER_BUNDLE or begin > size:
            raise RingError(f"ring: piece of {size} bytes that is no bundle of {count} frames")
        number = (at >> 2) + 1
        sizes = self._numbers[number : number + count].tolist()
        data = self._memory[at + begin : at + size]
        start = end = 0
        for frame_bytes in sizes:
            end += frame_bytes
            frames.append(data[start:end])
            start = end
        if end != len(data):
            raise RingError(f"ring: piece of {size} bytes with frames of {end} bytes")
        if end > self._frame_bytes_max and max(sizes) > self._frame_bytes_max:
            raise self._too_long()

    def prepare_sleep(self) -> bool:
        """Ask to be woken at the next push. False: something is there; take it, do not sleep.

        Also wakes a producer that waits for room which was made meanwhile. Call `awake` after the
        sleep, whatever ended it.
        """
        words = self._words
        words[_SLEEPS] = 1
        fence()
        _wake(words, _WAITS, self._wake_descriptor)
        if words[_TAIL] != self._head:
            words[_SLEEPS] = 0
            return False
        return True

    def awake(self) -> None:
        """Take back the wish to be woken, which spares the producer a system call."""
        self._words[_SLEEPS] = 0

    def release(self) -> None:
        """Let go of the memory; nothing may be called afterwards."""
        self._partial = bytearray()
        self._words.release()
        self._numbers.release()

    def _too_long(self) -> FrameError:
        return FrameError(f"frame above the limit of {self._frame_bytes_max} bytes")


def _words(memory: mmap.mmap, offset: int) -> memoryview:
    """Return the header's words: items of eight bytes, each loaded and stored at once."""
    return memoryview(memory)[offset : offset + HEADER_BYTES].cast("Q")


def _wake(words: memoryview, flag: int, descriptor: int) -> bool:
    """Clear a flag that is set and wake its owner, in this order."""
    if not words[flag]:
        return False
    words[flag] = 0
    os.eventfd_write(descriptor, 1)
    return True


def _piece_bytes_max(capacity: int) -> int:
    """Return what one piece may carry: it always fits an empty ring, wherever that begins."""
    return capacity // _PIECES_PER_RING
