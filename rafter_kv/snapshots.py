"""The image of a key-value group: a stream of checksummed frames, readable in any pieces.

Every frame is ``length u64 · checksum u64 · body``, little endian; the checksum is xxh3_64 of the
body, seeded with the frame's number, so that frames cannot be lost, repeated or swapped. A body
is msgpack ``[kind, …]``:

- HEADER ``[0, "rafter-kv", format version, stamp_ms]``, first;
- SESSION ``[1, identity, last_sequence, acknowledged_below, last_stamp_ms, [results, …]]``, in
  the order of eviction, with the results of one batch after the other;
- KEYS ``[2, [key, value, deadline_ms or nil, key, value, …]]``;
- END ``[3, sessions, keys, deadlines]``, the counts, last.

Format versions: 1 (the first). A build reads every older version and refuses newer ones.

An image is made and read beside an event loop, which waits whenever a single step of the
interpreter takes long. So nothing here handles more than some CHUNK_BYTES at once: a value that is
larger has a frame of its own, which is put together and taken apart piece by piece.
"""

import io
import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any

import msgpack
from xxhash import xxh3_64

from rafter_kv.keyspace import BUCKET_COUNT, FrozenKeys, KeySpace
from rafter_kv.sessions import Session, Sessions

FORMAT_NAME = "rafter-kv"
FORMAT_VERSION = 1
CHUNK_BYTES = 256 << 10
"""Bytes in one chunk of the stream, at most."""

_PREFIX = struct.Struct("<QQ")
_LARGE_FRAME_BYTES = 2 * CHUNK_BYTES
"""Longer frames may be of one large value."""
_MAPPED_BYTES = 33 << 20
"""So much is always mapped by glibc and not cut out of its heap: then nobody has to write zeros."""
_BIN_32 = struct.Struct(">BI")
_BIN_32_MARK = 0xC6
_ARRAY_OF_2, _ARRAY_OF_3 = b"\x92", b"\x93"
_FIELDS = 3
"""Of a key in a frame: key, value and deadline."""

Body = Sequence[bytes | memoryview]
"""The body of a frame in pieces, none of them much longer than a chunk."""


class FrameKind(IntEnum):
    """The first element of a frame's body."""

    HEADER = 0
    SESSION = 1
    KEYS = 2
    END = 3


class SnapshotError(Exception):
    """An image is corrupt, cut short, or in a format that this build cannot read."""


class PreparedSnapshot:
    """A group's state, held still for one image. Close it when the image is made or given up."""

    __slots__ = ("_sessions", "keys", "stamp_ms")

    def __init__(self, keys: FrozenKeys, sessions: Sessions, stamp_ms: int) -> None:
        self.keys = keys
        self.stamp_ms = stamp_ms
        # Packed at once: few and small, one for each router that is about.
        self._sessions = [session_body(identity, session) for identity, session in sessions.items()]

    def bodies(self) -> Iterator[Body]:
        """Yield the bodies of all frames."""
        yield [msgpack.packb([FrameKind.HEADER, FORMAT_NAME, FORMAT_VERSION, self.stamp_ms])]
        for session in self._sessions:
            yield [session]
        for number in range(BUCKET_COUNT):
            yield from _keys_bodies(*self.keys.bucket(number))
        counts = len(self._sessions), self.keys.key_count, self.keys.expires_count
        yield [msgpack.packb([FrameKind.END, *counts])]

    def close(self) -> None:
        """Let go of the state. Closing twice is harmless."""
        self.keys.close()


def session_body(identity: int, session: Session) -> bytes:
    """Return a session in the form in which images hold it and digests are made of it."""
    words = identity, session.last_sequence, session.acknowledged_below, session.last_stamp_ms
    results = [session.results[sequence] for sequence in sorted(session.results)]
    body: bytes = msgpack.packb([FrameKind.SESSION, *words, results])
    return body


def write_image(prepared: PreparedSnapshot) -> Iterator[bytes]:
    """Yield the image in chunks of up to CHUNK_BYTES."""
    buffered = bytearray()
    for number, body in enumerate(prepared.bodies()):
        buffered += _PREFIX.pack(sum(map(len, body)), _checksum(body, number))
        for piece in body:
            buffered += piece
            while len(buffered) >= CHUNK_BYTES:
                yield bytes(buffered[:CHUNK_BYTES])
                del buffered[:CHUNK_BYTES]
    yield bytes(buffered)


class ImageReader:
    """Builds a group's state out of an image. The state is good only once ``finish`` returned."""

    def __init__(self) -> None:
        self.keyspace = KeySpace()
        self.sessions = Sessions()
        self.stamp_ms = 0
        self._frames = 0
        self._is_complete = False

    def read(self, chunks: Iterable[bytes]) -> None:
        """Read a whole image. Raises SnapshotError if it is not whole and sound."""
        for body in _bodies(chunks):
            if self._is_complete:
                raise SnapshotError("something follows the end of the image")
            try:
                kind, *fields = _unpacked(body)
                self._take(kind, fields)
            except (ValueError, TypeError, msgpack.UnpackException) as error:
                raise SnapshotError(f"frame {self._frames} is malformed: {error}") from error
            self._frames += 1
        if not self._is_complete:
            raise SnapshotError(f"the image ends after {self._frames} frames, before its end")

    def _take(self, kind: int, fields: list[Any]) -> None:
        if (self._frames == 0) != (kind == FrameKind.HEADER):
            raise SnapshotError("an image begins with its one header")
        if kind == FrameKind.HEADER:
            self._take_header(*fields)
        elif kind == FrameKind.SESSION:
            self._take_session(*fields)
        elif kind == FrameKind.KEYS:
            self._take_keys(*fields)
        elif kind == FrameKind.END:
            self._take_end(*fields)
        else:
            raise SnapshotError(f"frame {self._frames} is of an unknown kind {kind!r}")

    def _take_header(self, name: str, version: int, *fields: int) -> None:
        if name != FORMAT_NAME:
            raise SnapshotError(f"this is no image of a key-value group: {name!r}")
        if version > FORMAT_VERSION:
            raise SnapshotError(
                f"the image has format {version}, this build reads up to {FORMAT_VERSION}"
            )
        (self.stamp_ms,) = fields

    def _take_session(
        self,
        identity: int,
        last_sequence: int,
        acknowledged_below: int,
        last_stamp_ms: int,
        results: list[Any],
    ) -> None:
        if acknowledged_below + len(results) != last_sequence + 1:
            raise SnapshotError(f"session {identity} lacks results")
        session = Session(acknowledged_below - 1, acknowledged_below, last_stamp_ms)
        for sequence, result in enumerate(results, acknowledged_below):
            session.record(sequence, result)
        self.sessions.restore(identity, session)

    def _take_keys(self, items: list[Any]) -> None:
        for key, value, deadline_ms in zip(
            items[::_FIELDS], items[1::_FIELDS], items[2::_FIELDS], strict=True
        ):
            if type(key) is not bytes or type(value) is not bytes:
                raise SnapshotError("keys and values are bytes")
            self.keyspace.put(key, value)
            if deadline_ms is not None:
                self.keyspace.set_deadline(key, deadline_ms)

    def _take_end(self, *expected: int) -> None:
        keyspace = self.keyspace
        found = len(self.sessions), keyspace.key_count, keyspace.expires_count
        if found != expected:
            raise SnapshotError(f"sessions, keys, deadlines: {expected} announced, {found} found")
        self._is_complete = True


def _keys_bodies(values: dict[bytes, bytes], deadlines: dict[bytes, int]) -> Iterator[Body]:
    """Pack one bucket, split where it is large: a packed frame exceeds a chunk by one value."""
    items: list[bytes | int | None] = []
    size = 0
    for key, value in values.items():
        if len(value) > CHUNK_BYTES:
            yield _large_body(key, value, deadlines.get(key))
            continue
        items += (key, value, deadlines.get(key))
        size += len(key) + len(value)
        if size >= CHUNK_BYTES:
            yield [msgpack.packb([FrameKind.KEYS, items])]
            items, size = [], 0
    if items:
        yield [msgpack.packb([FrameKind.KEYS, items])]


def _large_body(key: bytes, value: bytes, deadline_ms: int | None) -> Body:
    """Pack ``[KEYS, [key, value, deadline]]`` without a copy of the value."""
    view = memoryview(value)
    return [
        _ARRAY_OF_2 + msgpack.packb(FrameKind.KEYS) + _ARRAY_OF_3 + msgpack.packb(key),
        _BIN_32.pack(_BIN_32_MARK, len(value)),
        *(view[start : start + CHUNK_BYTES] for start in range(0, len(value), CHUNK_BYTES)),
        msgpack.packb(deadline_ms),
    ]


def _checksum(body: Body, number: int) -> int:
    checksum = xxh3_64(seed=number)
    for piece in body:
        checksum.update(piece)
    return checksum.intdigest()


def _bodies(chunks: Iterable[bytes]) -> Iterator[Body]:
    """Cut a stream into the bodies of its frames, each checked against its checksum."""
    stream = _Stream(chunks)
    number = 0
    while prefix := b"".join(stream.take(_PREFIX.size)):
        if len(prefix) < _PREFIX.size:
            raise SnapshotError(f"frame {number} is cut short")
        length, checksum = _PREFIX.unpack(prefix)
        body = stream.take(length)
        if sum(map(len, body)) < length:
            raise SnapshotError(f"frame {number} is cut short")
        if _checksum(body, number) != checksum:
            raise SnapshotError(f"frame {number} does not match its checksum")
        yield body
        number += 1


class _Stream:
    """Bytes that come in chunks."""

    __slots__ = ("_chunks", "_rest")

    def __init__(self, chunks: Iterable[bytes | memoryview]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def take(self, length: int) -> list[memoryview]:
        """Return the next bytes as pieces of the chunks; fewer than that at the end."""
        pieces = []
        while length:
            if not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._rest = memoryview(chunk)
            piece, self._rest = self._rest[:length], self._rest[length:]
            length -= len(piece)
            pieces.append(piece)
        return pieces


def _unpacked(body: Body) -> Any:  # noqa: ANN401 - judged by who asked for it
    """Decode a body. Raises what msgpack raises, and TypeError and ValueError."""
    if sum(map(len, body)) > _LARGE_FRAME_BYTES:
        items = _unpacked_large(body)
        if items is not None:
            return [FrameKind.KEYS, items]
    return msgpack.unpackb(body[0] if len(body) == 1 else b"".join(body))


def _unpacked_large(body: Body) -> list[Any] | None:
    """Decode the items that ``_large_body`` has packed; None for anything else."""
    head = msgpack.Unpacker()
    head.feed(b"".join(_Stream(body).take(CHUNK_BYTES)))
    try:
        if (head.read_array_header(), head.unpack()) != (2, FrameKind.KEYS):
            return None
        if head.read_array_header() != _FIELDS:
            return None
        key = head.unpack()
    except (ValueError, msgpack.UnpackException):
        return None
    rest = _Stream(body)
    rest.take(head.tell())
    mark, length = _BIN_32.unpack(b"".join(rest.take(_BIN_32.size)))
    if mark != _BIN_32_MARK or length > sum(map(len, body)):
        return None
    # Large enough from the beginning: to grow it would copy all of it again and again. It hands out
    # what it holds as it is.
    value = io.BytesIO(bytes(max(length, _MAPPED_BYTES)))
    for piece in rest.take(length):
        value.write(piece)
    value.truncate()
    return [key, value.getvalue(), msgpack.unpackb(b"".join(rest.take(CHUNK_BYTES)))]
