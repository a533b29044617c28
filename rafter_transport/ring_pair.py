"""Pairs of rings: two rings in one piece of memory, and the ends that two processes hold of them.

`rafter_transport/ring.py` says how a ring works, and what the generations are for.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import platform
import socket
import sys
from typing import NamedTuple

from rafter_transport.ring import (
    HEADER_BYTES,
    RING_BYTES_MIN,
    RingConsumer,
    RingError,
    RingProducer,
    check_ring,
    format_ring,
)

RING_BYTES = 1 << 18
"""Data of one ring by default: less than a core's own cache, more than a loop iteration sends."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def is_supported() -> bool:
    """Whether rings work here: x86-64 Linux that grants a memfd and an eventfd."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or sys.maxsize < 1 << 32:
        return False
    try:
        os.close(os.memfd_create("rafter-probe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        os.close(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    except OSError:  # forbidden, as some containers do
        return False
    return True


class MappedRings(NamedTuple):
    """Both rings of one end: what it pushes to, what it takes from, and their memory."""

    memory: mmap.mmap
    producer: RingProducer
    consumer: RingConsumer

    def release(self) -> None:
        """Unmap; nothing may be called afterwards."""
        self.producer.release()
        self.consumer.release()
        self.memory.close()


class RingEnd:
    """One side of a pair of rings, as descriptors that can be inherited or passed on.

    `side` is 0 or 1 and says which ring it pushes to. Owns its descriptors, all close-on-exec:
    the memory, its own eventfd, the other side's eventfd, its end of the lifeline. The lifeline
    tells of a death only while no third process holds a copy of an end, as with any socketpair.
    """

    __slots__ = ("event_descriptor", "generation", "lifeline", "memory_descriptor",
                 "other_event_descriptor", "side")  # fmt: skip

    def __init__(self, descriptors: tuple[int, int, int, int], side: int, generation: int) -> None:
        """Take ownership of four descriptors in the order of `descriptors`."""
        self.memory_descriptor, self.event_descriptor, self.other_event_descriptor = descriptors[:3]
        self.lifeline = socket.socket(fileno=descriptors[3])
        self.lifeline.setblocking(False)
        self.side = side
        self.generation = generation

    @property
    def descriptors(self) -> tuple[int, int, int, int]:
        """Its descriptors, to be passed to the process that makes the same RingEnd of them."""
        return (
            self.memory_descriptor,
            self.event_descriptor,
            self.other_event_descriptor,
            self.lifeline.fileno(),
        )

    def map(self, frame_bytes_max: int) -> MappedRings:
        """Map the memory. At most one side may map each end, and at most once.

        Raises RingError if it is no pair of rings of this generation, OSError if it cannot
        be mapped.
        """
        size = os.fstat(self.memory_descriptor).st_size
        half = size // 2
        capacity = half - HEADER_BYTES
        if not _is_capacity(capacity) or size % 2:
            raise RingError(f"memory of {size} bytes is no pair of rings")
        memory = mmap.mmap(self.memory_descriptor, size)
        try:
            for offset in (0, half):
                check_ring(memory, offset, self.generation, capacity)
        except RingError:
            memory.close()
            raise
        outgoing, incoming = (0, half) if self.side == 0 else (half, 0)
        wake = self.other_event_descriptor
        return MappedRings(
            memory,
            RingProducer(memory, outgoing, wake),
            RingConsumer(memory, incoming, wake, frame_bytes_max),
        )

    def close(self) -> None:
        """Close the descriptors. What is mapped stays until it is released."""
        for descriptor in self.descriptors[:3]:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.memory_descriptor = self.event_descriptor = self.other_event_descriptor = -1
        self.lifeline.close()


ShardEnd = RingEnd | socket.socket
"""One shard's side of what connects it to another of its node, as the supervisor hands it out."""


def make_ring_pair(generation: int = 0, ring_bytes: int = RING_BYTES) -> tuple[RingEnd, RingEnd]:
    """Make two connected ends with empty rings of `ring_bytes` of data each, a power of two.

    Memory is used as it is first written to, up to twice `ring_bytes`. Raises OSError when the
    system gives no descriptors.
    """
    if not _is_capacity(ring_bytes):
        raise ValueError(
            f"ring_bytes = {ring_bytes}: must be a power of two, at least {RING_BYTES_MIN}"
        )
    with contextlib.ExitStack() as undo:
        memory_descriptor = os.memfd_create("rafter-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        undo.callback(os.close, memory_descriptor)
        half = HEADER_BYTES + ring_bytes
        os.ftruncate(memory_descriptor, 2 * half)
        # Nobody can take mapped memory away from under the other side.
        fcntl.fcntl(memory_descriptor, fcntl.F_ADD_SEALS, _SEALS)
        with mmap.mmap(memory_descriptor, 2 * half) as memory:
            for offset in (0, half):
                format_ring(memory, offset, generation, ring_bytes)
        events = []
        for _ in range(2):
            events.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            undo.callback(os.close, events[-1])
        lifelines = socket.socketpair()
        for lifeline in lifelines:
            undo.callback(lifeline.close)
        ends: list[RingEnd] = []
        with contextlib.ExitStack() as undo_ends:
            for side in range(2):
                ends.append(_duplicate_end(memory_descriptor, events, lifelines, side, generation))
                undo_ends.callback(ends[-1].close)
            undo_ends.pop_all()
        return ends[0], ends[1]


def _duplicate_end(
    memory: int,
    events: list[int],
    lifelines: tuple[socket.socket, socket.socket],
    side: int,
    generation: int,
) -> RingEnd:
    """Give an end descriptors of its own, so that each end can be closed by itself."""
    with contextlib.ExitStack() as undo:
        copies = []
        for source in (memory, events[side], events[1 - side], lifelines[side].fileno()):
            copies.append(os.dup(source))
            undo.callback(os.close, copies[-1])
        end = RingEnd((copies[0], copies[1], copies[2], copies[3]), side, generation)
        undo.pop_all()
        return end


def _is_capacity(size: int) -> bool:
    return size >= RING_BYTES_MIN and size & (size - 1) == 0
