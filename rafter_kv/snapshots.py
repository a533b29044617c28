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
"""

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any

import msgpack
from xxhash import xxh3_64_intdigest

from rafter_kv.keyspace import BUCKET_COUNT, FrozenKeys, KeySpace
from rafter_kv.sessions import Session, Sessions

FORMAT_NAME = "rafter-kv"
FORMAT_VERSION = 1
CHUNK_BYTES = 256 << 10
"""Bytes in one chunk of the stream, at most."""

_PREFIX = struct.Struct("<QQ")


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

    def bodies(self) -> Iterator[bytes]:
        """Yield the bodies of all frames."""
        yield msgpack.packb([FrameKind.HEADER, FORMAT_NAME, FORMAT_VERSION, self.stamp_ms])
        yield from self._sessions
        for number in range(BUCKET_COUNT):
            yield from _keys_bodies(*self.keys.bucket(number))
        counts = len(self._sessions), self.keys.key_count, self.keys.expires_count
        yield msgpack.packb([FrameKind.END, *counts])

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
        buffered += _PREFIX.pack(len(body), xxh3_64_intdigest(body, seed=number))
        buffered += body
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
                kind, *fields = msgpack.unpackb(body)
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
        for key, value, deadline_ms in zip(items[::3], items[1::3], items[2::3], strict=True):
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


def _keys_bodies(values: dict[bytes, bytes], deadlines: dict[bytes, int]) -> Iterator[bytes]:
    """Pack one bucket, split where it is large: a frame exceeds a chunk by one value at most."""
    items: list[bytes | int | None] = []
    size = 0
    for key, value in values.items():
        items += (key, value, deadlines.get(key))
        size += len(key) + len(value)
        if size >= CHUNK_BYTES:
            yield msgpack.packb([FrameKind.KEYS, items])
            items, size = [], 0
    if items:
        yield msgpack.packb([FrameKind.KEYS, items])


def _bodies(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Cut a stream into the bodies of its frames, each checked against its checksum."""
    buffered = bytearray()
    number = 0
    for chunk in chunks:
        buffered += chunk
        start = 0
        while len(buffered) - start >= _PREFIX.size:
            length, checksum = _PREFIX.unpack_from(buffered, start)
            end = start + _PREFIX.size + length
            if end > len(buffered):
                break
            body = bytes(buffered[start + _PREFIX.size : end])
            if xxh3_64_intdigest(body, seed=number) != checksum:
                raise SnapshotError(f"frame {number} does not match its checksum")
            yield body
            start, number = end, number + 1
        del buffered[:start]
    if buffered:
        raise SnapshotError(f"frame {number} is cut short")
