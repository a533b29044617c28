"""The fault model of the fake file system in plain words; and files, as far as they follow it.

Bytes
- A write changes what is read at once, and the disk only with the next successful sync of the
  file, through whichever descriptor. Until then it is pending.
- The disk writes whole pieces of 512 bytes, aligned in the file. A piece on the disk is never a
  mix: it is as it was at the last sync or as one of the later writes left it. Pieces are
  independent of each other, of the order of the writes, and of the file's size.
- A write that is synced in the same call makes durable the pieces that it touches, as they are read
  then, and the file's size; other pieces stay pending. If it fails, its own pieces are doubtful, as
  after a failed sync, and other pieces pending as before.
- A size is a value of its own: after a crash it is one of the sizes the file had since the last
  sync. What a file grew by without its bytes having arrived reads as zeros.
- A shrinking truncation (also that of O_TRUNC) is a barrier: if it was lost, so was all that came
  after it, and if it survived, what it cut off does not come back.
- A failed sync leaves its writes readable, and doubtful for ever: the system has marked them clean
  (Linux, found by PostgreSQL in 2018), so that a later sync succeeds without writing them. It does
  make the size durable, so that zeros stand there after a crash. Only a piece that is written
  again and then synced is safe: a piece is written as a whole, doubtful neighbours included.

Names
- Creations, renames, links and removals are pending until the directory is synced. Syncing a
  file does nothing for its name, and syncing a directory nothing for its own name: a file whose
  bytes are durable may be gone.
- Any subset of them may survive, with three restrictions that every file system keeps. One name's
  operations survive in order. A rename is atomic: the old name or the new one, never both, never
  neither. And nothing survives that rests on what was lost: a link or a rename needs the
  directories above its target, the removal of a directory needs what had emptied it, the removal
  of a name needs the link that was made from it.
- A rename from one directory to another belongs to the target's: syncing the source's is not
  enough. What a synced operation rests on becomes durable with it.
- A failed sync of a directory leaves its operations pending.
- A file removed but still open is gone after a crash, as far as its removal survived.

Not modelled: links that are symbolic, times, owners, rights, space for directories. The names
are kept by fake_names.py.
"""

import random
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

__all__ = [
    "BLOCK_BYTES",
    "PIECE_BYTES",
    "CrashMode",
    "File",
    "Node",
    "drawing",
    "round_to_block",
]

PIECE_BYTES = 512
BLOCK_BYTES = 4096


class CrashMode(Enum):
    """What a crash does to all that was not synced."""

    LOST = "all of it is lost"
    KEPT = "all of it survived, as when only the process was killed"
    REORDERED = "a drawn subset survived: of pieces, sizes and names, each for itself"
    TORN = "all survived, but each file's last pending write lacks its end, at least one piece"
    SIZE_ONLY = "names and sizes survived; what a file grew by, or was cut and grown by, is zeros"


def round_to_block(length: int) -> int:
    """Return how much space ``length`` bytes take."""
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES


class _Change(NamedTuple):
    """A pending write at ``offset``; without data, the file's size is set to ``offset``."""

    offset: int
    data: bytes | None

    def pieces(self) -> range:
        """Return the numbers of the pieces a write touches."""
        assert self.data is not None
        return range(self.offset // PIECE_BYTES, -(-(self.offset + len(self.data)) // PIECE_BYTES))

    def part(self, piece: int) -> "_Change":
        """Return what a write does to one piece."""
        assert self.data is not None
        first = max(piece * PIECE_BYTES - self.offset, 0)
        return _Change(
            self.offset + first, self.data[first : (piece + 1) * PIECE_BYTES - self.offset]
        )

    def without_data(self, size: int) -> "_Change":
        """Return what this does to the size of a file of ``size`` bytes."""
        if self.data is None:
            return self
        return _Change(max(size, self.offset + len(self.data)), None)

    def apply(self, image: bytearray) -> None:
        missing = self.offset - len(image)
        if missing > 0:
            image.extend(bytes(missing))
        if self.data is None:
            del image[self.offset :]
        else:
            image[self.offset : self.offset + len(self.data)] = self.data


class Node:
    """What a name stands for. Descriptors hold it as well as names do."""

    __slots__ = ("lock_holder", "names_count", "open_count")

    def __init__(self) -> None:
        self.names_count = 0
        self.open_count = 0
        self.lock_holder: int | None = None


class File(Node):
    """A file: its bytes as they are read, as they are durable, and the changes between.

    ``reserved_bytes`` is how far from its start the file has space on the disk. Images are shared
    with crash states as ``bytes`` and become a ``bytearray`` with their first change.
    """

    __slots__ = (
        "_doubtful", "_durable", "_durable_reserved_bytes", "_pending", "content", "reserved_bytes"
    )  # fmt: skip

    def __init__(self, image: bytes = b"", reserved_bytes: int = 0) -> None:
        super().__init__()
        self.content: bytes | bytearray = image
        self.reserved_bytes = reserved_bytes
        self._durable: bytes | bytearray = image
        self._durable_reserved_bytes = reserved_bytes
        self._pending: list[_Change] = []
        # Of each piece that a failed sync left in doubt, the versions that may be on the disk.
        self._doubtful: dict[int, list[bytes]] = {}

    def read(self, length: int, offset: int) -> bytes:
        return bytes(memoryview(self.content)[offset : offset + length])

    def write(self, data: bytes, offset: int) -> None:
        self._change(_Change(offset, data))

    def resize(self, length: int) -> None:
        self._change(_Change(length, None))

    def _change(self, change: _Change) -> None:
        if isinstance(self.content, bytes):
            self.content = bytearray(self.content)
        change.apply(self.content)
        self._pending.append(change)

    def sync(self) -> None:
        """Make the pending changes durable."""
        self._durable_reserved_bytes = self.reserved_bytes
        if not self._pending:
            return
        if isinstance(self._durable, bytes):
            self._durable = bytearray(self._durable)
        for change in self._pending:
            change.apply(self._durable)
        if self._doubtful:
            self._settle_doubtful(self._durable)
        self._pending = []

    def sync_write(self, offset: int, length: int) -> None:
        """Make the pieces of a write, and the size, durable; with a pending cut, the whole file."""
        size = len(self.content)
        others = self._set_others_aside(offset, length)
        self.sync()
        if others:
            assert isinstance(self._durable, bytearray)
            _Change(size, None).apply(self._durable)
        self._pending = others

    def fail_sync_write(self, offset: int, length: int) -> None:
        """Leave the pieces of a write in doubt; with a pending cut, all that is pending."""
        others = self._set_others_aside(offset, length)
        self.fail_sync()
        self._pending += others

    def _set_others_aside(self, offset: int, length: int) -> list[_Change]:
        """Take from what is pending, and return, what does not concern the pieces of a write."""
        if any(change.data is None for change in self._pending):
            return []
        pieces = _Change(offset, bytes(length)).pieces()
        parts = [
            (piece in pieces, change.part(piece))
            for change in self._pending
            for piece in change.pieces()
        ]
        self._pending = [part for is_covered, part in parts if is_covered]
        return [part for is_covered, part in parts if not is_covered]

    def _settle_doubtful(self, durable: bytearray) -> None:
        for change in self._pending:
            if change.data is None:
                cut = [
                    piece for piece in self._doubtful if (piece + 1) * PIECE_BYTES > change.offset
                ]
                for piece in cut:
                    del self._doubtful[piece]
                continue
            for piece in change.pieces():
                if self._doubtful.pop(piece, None):
                    start = piece * PIECE_BYTES
                    durable[start : start + PIECE_BYTES] = self.read(PIECE_BYTES, start)

    def fail_sync(self) -> None:
        """Leave the pending writes in doubt; their sizes stay pending."""
        image = self._image(lambda versions: versions[-1])
        sizes = []
        for change in self._pending:
            sizes.append(change.without_data(len(image)))
            change.apply(image)
            if change.data is not None:
                for piece in change.pieces():
                    start = piece * PIECE_BYTES
                    version = bytes(image[start : start + PIECE_BYTES])
                    self._doubtful.setdefault(piece, []).append(version)
        self._pending = sizes

    def flip(self, offset: int, bit: int) -> None:
        """Flip a bit that is at rest: read and durable."""
        is_pending = any(
            change.data is not None and change.offset <= offset < change.offset + len(change.data)
            for change in self._pending
        )
        if is_pending or not offset < min(len(self.content), len(self._durable)):
            raise ValueError(f"the byte at {offset} is not on the disk: only synced bytes can rot")
        self.content = bytearray(self.content)
        self.content[offset] ^= 1 << bit
        self._durable = bytearray(self._durable)
        self._durable[offset] ^= 1 << bit

    def survivor(self, mode: CrashMode, draw: random.Random | None) -> "File":
        """Return the file that a crash leaves."""
        is_settled = not self._pending and not self._doubtful
        if is_settled or mode is CrashMode.LOST:
            image = self._frozen()
        elif mode is CrashMode.KEPT:
            image = bytes(self.content)
        elif mode is CrashMode.SIZE_ONLY:
            image = self._only_sized()
        elif mode is CrashMode.TORN:
            image = self._torn(drawing(draw))
        else:
            image = self._reordered(drawing(draw))
        reserved = max(self.reserved_bytes, self._durable_reserved_bytes)
        return File(image, min(reserved, round_to_block(len(image))))

    def _frozen(self) -> bytes:
        if not isinstance(self._durable, bytes):
            self._durable = bytes(self._durable)
        return self._durable

    def _image(self, pick: Callable[[list[bytes]], bytes | None]) -> bytearray:
        """Return the durable bytes with a version of each doubtful piece; None is the durable."""
        image = bytearray(self._durable)
        for piece, versions in self._doubtful.items():
            version = pick(versions)
            if version is not None:
                _Change(piece * PIECE_BYTES, version).apply(image)
        return image

    def _only_sized(self) -> bytes:
        image = bytearray(self._durable)
        for change in self._pending:
            change.without_data(len(image)).apply(image)
        return bytes(image)

    def _torn(self, draw: random.Random) -> bytes:
        changes = list(self._pending)
        writes = [number for number, change in enumerate(changes) if change.data is not None]
        if writes:
            last = changes[writes[-1]]
            assert last.data is not None
            end = draw.choice(last.pieces()) * PIECE_BYTES
            changes[writes[-1]] = _Change(last.offset, last.data[: max(end - last.offset, 0)])
            if end <= last.offset:
                del changes[writes[-1]]
        size = len(self._durable)
        for change in changes:
            size = change.without_data(size).offset
        image = self._image(lambda versions: versions[-1])
        for change in changes:
            change.apply(image)
        _Change(size, None).apply(image)
        return bytes(image)

    def _reordered(self, draw: random.Random) -> bytes:
        changes, size = self._drawn_size(draw)
        # Drawn per file: with one half for all, nearly everything would hardly ever survive.
        chance = draw.random()
        touches: dict[int, list[int]] = {}
        for number, change in enumerate(changes):
            if change.data is not None:
                for piece in change.pieces():
                    touches.setdefault(piece, []).append(number)
        last_survivor = {}
        for piece, numbers in touches.items():
            is_newest = draw.random() < chance
            last_survivor[piece] = numbers[-1] if is_newest else draw.choice([-1, *numbers[:-1]])
        image = self._image(lambda versions: draw.choice([None, *versions]))
        for number, change in enumerate(changes):
            if change.data is None:
                change.apply(image)
                continue
            for piece in change.pieces():
                if number <= last_survivor[piece]:
                    change.part(piece).apply(image)
        _Change(size, None).apply(image)
        return bytes(image)

    def _drawn_size(self, draw: random.Random) -> tuple[list[_Change], int]:
        """Return the changes that may survive, up to a drawn cut, and a size drawn from them."""
        size = len(self._durable)
        cuts = []
        sizes = [[size]]
        for number, change in enumerate(self._pending):
            after = change.without_data(size).offset
            if after < size:
                cuts.append(number)
                sizes.append([after])
            elif after > size:
                sizes[-1].append(after)
            size = after
        survived_cuts = draw.randrange(len(sizes))
        end = cuts[survived_cuts] if survived_cuts < len(cuts) else len(self._pending)
        return self._pending[:end], draw.choice(sizes[survived_cuts])


def drawing(draw: random.Random | None) -> random.Random:
    """Return the generator, which only some crash modes can do without."""
    if draw is None:
        raise ValueError("this crash mode draws what survives: it needs a generator")
    return draw
