"""The buffer in which one write job of the log is built: many small pieces, few large ones.

A job holds the records of many groups, and a record is a prefix of 96 bytes, a body and some
zeros. Each piece as a buffer of its own makes ``pwritev`` dear, joining everything copies bodies
of megabytes for nothing. So neighbours that are small are joined into one fragment, and a large
piece is written from where it lies.

Pieces are only collected at first, and fragments are made of them when the bytes are asked for:
one ``join`` of a thousand pieces costs a tenth of a thousand copies into memory that is there
already, which was measured as dearer than no copy at all. Microseconds to collect and ``pwritev``
a job into a warm page cache (ext4, CPython 3.11, the least of 15 runs); small pieces come in one
``extend`` of a list, for a call of ``append`` each costs more than it saves::

    records    body      each piece a buffer    this buffer    each piece copied in turn
          1    25.6 KB                     4              6                            6
        256    121 bytes                  76             33                          124
        256    4 KB                       97            114                          214
          8    1 MiB                    2100           2050                         3130

With an alignment the bytes end up in fragments of whole pages, as files opened with ``O_DIRECT``
demand. Those fragments are reused, because fresh memory costs a page fault for every 4 KiB: a
direct write of 8 MiB took 6.5 ms from reused fragments, 15 ms from fresh ones.
"""

import mmap
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from xxhash import xxh3_64

from rafter_storage.errors import StorageError
from rafter_storage.file_system import Buffer, FileSystem, write_exactly

__all__ = ["FRAGMENT_BYTES", "JOINED_BYTES_MAX", "BufferReader", "FragmentPool", "FragmentedBuffer"]

FRAGMENT_BYTES = 128 << 10

JOINED_BYTES_MAX = 8 << 10
"""Up to this size it costs less to join a piece with its neighbours than to set it apart."""


class FragmentPool:
    """Memory of whole pages, used again and again.

    At most ``fragments_max`` fragments of ``fragment_bytes`` are kept while nobody uses them. How
    many are in use is not bounded here: when none is idle, fresh memory is handed out. Fragments
    may be acquired on one thread and released on another.
    """

    def __init__(self, fragment_bytes: int = FRAGMENT_BYTES, fragments_max: int = 32) -> None:
        if fragment_bytes <= 0 or fragment_bytes % mmap.PAGESIZE:
            raise ValueError(f"fragments of {fragment_bytes} bytes: not pages of {mmap.PAGESIZE}")
        self.fragment_bytes = fragment_bytes
        # Every operation on a deque is one step to other threads, keeping to its bound included.
        self._idle: deque[mmap.mmap] = deque(maxlen=fragments_max)

    @property
    def idle_count(self) -> int:
        """How many fragments wait to be used."""
        return len(self._idle)

    def acquire(self) -> mmap.mmap:
        """Return a fragment, which may hold old bytes, at an address that begins a page."""
        try:
            return self._idle.pop()
        except IndexError:
            return mmap.mmap(-1, self.fragment_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def release(self, fragment: mmap.mmap) -> None:
        """Take a fragment back.

        One that is still looked at through a memoryview, or being written by a system call, is
        left to its users and never handed out again. Raises ``StorageError`` for one that is idle.
        """
        if fragment in self._idle:
            raise StorageError("a fragment was released twice")
        try:
            # To its present size: changes nothing, but is refused while there are views.
            fragment.resize(self.fragment_bytes)
        except BufferError:
            return
        self._idle.append(fragment)


class FragmentedBuffer:
    """Bytes that are appended in pieces and written with few buffers.

    With ``alignment`` 1 large pieces are kept by reference, and there is no use for a ``pool``.
    With a larger one, a power of two up to the size of a page, all bytes are copied into fragments
    of the pool, so that address and length of every buffer are multiples of the alignment.

    No piece may change between its append and the release, for it is not said when it is copied.
    Used by one thread at a time. After ``release`` every use raises ``StorageError``; views that
    were given out before keep their bytes, and keep their fragments from being used again.
    """

    def __init__(self, alignment: int = 1, pool: FragmentPool | None = None) -> None:
        if alignment < 1 or mmap.PAGESIZE % alignment:
            raise ValueError(f"alignment {alignment} does not divide a page of {mmap.PAGESIZE}")
        self.alignment = alignment
        self._pool = None
        if alignment > 1:
            self._pool = FragmentPool(fragments_max=0) if pool is None else pool
        self._fragments: list[mmap.mmap] = []
        # The bytes in order; where each part of them ends is computed when it is asked for.
        self._parts: list[Buffer] = []
        self._ends: list[int] = []
        self._parts_bytes = 0
        # What has been appended since, which pieces of it to keep by reference, and how many
        # pieces are counted already.
        self._pending: list[Buffer] = []
        self._large: list[int] = []
        self._counted = 0
        self._counted_bytes = 0
        self._is_released = False

    def __len__(self) -> int:
        self._check()
        # Not counted at each append, which has to be cheap; nor twice.
        self._counted_bytes += sum(map(len, self._pending[self._counted :]))
        self._counted = len(self._pending)
        return self._parts_bytes + self._counted_bytes

    def append(self, data: Buffer) -> None:
        """Add bytes at the end: large ones by reference, if no alignment forbids it."""
        self._check()
        if len(data) > JOINED_BYTES_MAX:
            self._large.append(len(self._pending))
        self._pending.append(data)

    def extend(self, pieces: Iterable[Buffer]) -> None:
        """Add many pieces in order, all of which will be joined: the fast way for small ones."""
        self._check()
        self._pending += pieces

    def pad_to(self, multiple: int) -> int:
        """Add zeros until the length is a multiple of ``multiple``; return how many."""
        missing = -len(self) % multiple
        self.append(bytes(missing))
        return missing

    def buffers(self) -> list[Buffer]:
        """Return the bytes as buffers for ``pwritev``, none of them empty.

        With an alignment, the length must have been padded to it. Whoever keeps the list keeps
        the fragments from being used again.
        """
        self._settle_whole()
        return self._parts.copy()

    def write(
        self, files: FileSystem, descriptor: int, offset: int, *, is_synced: bool = False
    ) -> None:
        """Write everything at ``offset``, durable on return if ``is_synced``, else after a sync.

        Errors are ``OSError``.
        """
        self._settle_whole()
        write_exactly(files, descriptor, self._parts, offset, is_synced=is_synced)

    def release(self) -> None:
        """Give the memory back, once the write is over. May be called again."""
        self._is_released = True
        self._pending.clear()
        self._parts.clear()
        while self._fragments and self._pool is not None:
            self._pool.release(self._fragments.pop())

    def view(self, offset: int, length: int) -> memoryview | None:
        """Return a range as one view, or None if it straddles fragments: then ask ``views``."""
        found = self.views(offset, length)
        if len(found) > 1:
            return None
        return found[0] if found else memoryview(b"")

    def views(self, offset: int, length: int) -> list[memoryview]:
        """Return a range without copying it, as the views, none of them empty, that make it up.

        Raises ``StorageError`` if the buffer does not have that range.
        """
        self.settle()
        end = offset + length
        if offset < 0 or length < 0 or end > self._parts_bytes:
            raise StorageError(f"no {length} bytes at {offset} in a buffer of {self._parts_bytes}")
        if self._ends[-1:] != [self._parts_bytes]:
            self._ends = list(accumulate(map(len, self._parts)))
        found = []
        number = bisect_right(self._ends, offset)
        while offset < end:
            part = memoryview(self._parts[number])
            start = self._ends[number] - len(part)
            found.append(part[offset - start : end - start])
            offset = self._ends[number]
            number += 1
        return found

    def read(self, offset: int, length: int) -> bytes:
        """Return a copy of a range. Raises as ``views`` does."""
        return b"".join(self.views(offset, length))

    def checksum(self, offset: int, length: int, seed: int) -> int:
        """Return xxh3_64 of a range, which is not joined for it. Raises as ``views`` does."""
        state = xxh3_64(seed=seed)
        for piece in self.views(offset, length):
            state.update(piece)
        digest: int = state.intdigest()
        return digest

    def _check(self) -> None:
        if self._is_released:
            raise StorageError("a buffer was used after it had been released")

    def settle(self) -> None:
        """Join or copy what was appended, before it is asked for. Can be tried again."""
        self._check()
        if not self._pending:
            return
        joined = _joined(self._pending, self._large)
        if self._pool is None:
            self._parts += joined
        else:
            self._copy(joined, self._pool)
        self._parts_bytes += sum(map(len, joined))
        self._pending = []
        self._large = []
        self._counted = self._counted_bytes = 0

    def _settle_whole(self) -> None:
        self.settle()
        if self._parts_bytes % self.alignment:
            raise StorageError(
                f"{self._parts_bytes} bytes are no multiple of the alignment {self.alignment}"
            )

    def _copy(self, pieces: list[Buffer], pool: FragmentPool) -> None:
        """Copy pieces behind what the fragments hold already."""
        position = self._parts_bytes
        for piece in pieces:
            source = memoryview(piece)
            while source:
                number, start = divmod(position, pool.fragment_bytes)
                if number == len(self._fragments):
                    self._fragments.append(pool.acquire())
                copied = min(len(source), pool.fragment_bytes - start)
                self._fragments[number][start : start + copied] = source[:copied]
                position += copied
                source = source[copied:]
        starts = range(0, position, pool.fragment_bytes)
        self._parts = [
            memoryview(fragment)[: position - start]
            for fragment, start in zip(self._fragments, starts, strict=True)
        ]


def _joined(pieces: list[Buffer], large: list[int]) -> list[Buffer]:
    """Join all pieces but those at the positions ``large``; leave out what is empty."""
    found: list[Buffer] = []
    first_small = 0
    for position in large:
        found += (b"".join(pieces[first_small:position]), pieces[position])
        first_small = position + 1
    found.append(b"".join(pieces[first_small:]))
    return [piece for piece in found if piece]


class BufferReader:
    """A cursor over bytes that lie in several pieces.

    ``pieces`` are views of a ``FragmentedBuffer``, or blocks that were read from a file. They are
    looked at, not copied, and must not change.
    """

    def __init__(self, pieces: Sequence[Buffer]) -> None:
        self._pieces: Iterator[Buffer] = iter(pieces)
        self._current = memoryview(b"")
        self.remaining = sum(map(len, pieces))
        """How many bytes are ahead of the cursor."""

    def read_exactly(self, length: int) -> memoryview | bytes:
        """Return the next bytes as one: a view, or a copy if they straddle pieces.

        Raises ``StorageError``, and does not move, if there are fewer.
        """
        if 0 <= length <= len(self._current):
            found = self._current[:length]
            self._current = self._current[length:]
            self.remaining -= length
            return found
        taken = self._take(length)
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def skip(self, length: int) -> None:
        """Move on without looking at the bytes. Raises as ``read_exactly`` does."""
        self._take(length)

    def _take(self, length: int) -> list[memoryview]:
        if not 0 <= length <= self.remaining:
            raise StorageError(f"{length} bytes were asked for where {self.remaining} are left")
        self.remaining -= length
        taken = []
        while length:
            if not self._current:
                self._current = memoryview(next(self._pieces))
                continue
            piece = self._current[:length]
            self._current = self._current[length:]
            length -= len(piece)
            taken.append(piece)
        return taken
