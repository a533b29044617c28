"""The manifest of a snapshot: what it is a snapshot of, and the checksum of every byte of it.

The manifest is written last, so a snapshot without a whole one has never existed. Header, little
endian: 0 magic (8 bytes), 8 u32 format, 12 u32 body bytes, 16 u64 group, 24 u64 index, 32 u64
checksum: xxh3 of the body, seeded by that of the bytes before, so that it is bound to group and
index. The body follows and is the rest of the file; in msgpack::

    [term, membership (bytes), membership index, is_imported, [file, ...]]
    file: [name (bytes), size, chunk bytes, checksums (bytes: u64 for each chunk), checksum]

The membership index is that of the entry which brought the configuration, and is never derived
from the snapshot's own: taking one for the other once made a stale membership look like the newest
(matrixone issue 24966).
"""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import msgpack
from xxhash import xxh3_64_intdigest

from rafter_core.entries import NUMBER_MAX
from rafter_core.errors import DecodeError, InvariantError
from rafter_core.membership import Membership
from rafter_core.serializer import pack_membership, unpack_membership
from rafter_core.snapshot import Snapshot

__all__ = [
    "CHUNK_BYTES_MAX",
    "FILES_MAX",
    "MANIFEST_BYTES_MAX",
    "MANIFEST_FORMAT",
    "MANIFEST_NAME",
    "InvalidManifest",
    "Manifest",
    "SnapshotFile",
    "decode_manifest",
    "encode_manifest",
    "manifest_fault",
    "name_fault",
]

MANIFEST_FORMAT = 1
MANIFEST_NAME = "manifest"
MANIFEST_BYTES_MAX = 64 << 20
"""Room for the checksums of eight million chunks: 2 TiB in chunks of 256 KiB."""
CHUNK_BYTES_MAX = 16 << 20
FILES_MAX = 4096

_MAGIC = b"RAFTRSNP"
_HEADER = struct.Struct("<8sIIQQ")
_WORD = struct.Struct("<Q")
_HEADER_BYTES = _HEADER.size + _WORD.size
_CHECKSUM_MAX = (1 << 64) - 1
# What file systems, terminals and shells all agree on; no separators, no hidden files.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}")


class InvalidManifest(ValueError):
    """Bytes that are no manifest; ``offset`` is where that shows."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset = offset
        self.reason = reason


class SnapshotFile(NamedTuple):
    """One file of a snapshot. Every chunk but the last has ``chunk_bytes``; an empty file has none.

    ``checksums`` holds the xxh3 of each chunk, eight bytes each, little endian; ``checksum`` is
    that of the whole file.
    """

    name: str
    size: int
    chunk_bytes: int
    checksums: bytes
    checksum: int

    @property
    def chunk_count(self) -> int:
        """Return how many chunks the file has."""
        return -(-self.size // self.chunk_bytes)

    def chunk_length(self, number: int) -> int:
        """Return the bytes of a chunk, which must exist."""
        return min(self.chunk_bytes, self.size - number * self.chunk_bytes)

    def chunk_checksum(self, number: int) -> int:
        """Return the checksum of a chunk, which must exist."""
        found: int = _WORD.unpack_from(self.checksums, number * _WORD.size)[0]
        return found


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot holds: the state of ``group`` after (index, term), and its configuration."""

    group: int
    index: int
    term: int
    membership: Membership
    membership_index: int
    files: tuple[SnapshotFile, ...] = ()
    is_imported: bool = False

    @property
    def snapshot(self) -> Snapshot:
        """Return the snapshot as the core sees it, without data."""
        return Snapshot(self.index, self.term, self.membership)

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all its files together."""
        return sum(file.size for file in self.files)

    def file(self, name: str) -> SnapshotFile | None:
        """Return the file of that name, None if there is none."""
        return next((file for file in self.files if file.name == name), None)


def name_fault(name: str) -> str | None:
    """Return why a snapshot cannot have a file of this name, None if it can."""
    if name == MANIFEST_NAME:
        return f"the name {name!r} is the manifest's"
    if _NAME.fullmatch(name) is None:
        return f"{name[:300]!r} is no name of a snapshot's file"
    return None


def manifest_fault(manifest: Manifest) -> str | None:
    """Return what is wrong with a manifest, None if nothing is.

    Asked before one is written and after one was read, so that nothing is written that cannot be
    read. Types are not looked at.
    """
    if not 0 <= manifest.group <= NUMBER_MAX:
        return f"group {manifest.group} is out of range"
    if not 1 <= manifest.index <= NUMBER_MAX:
        return f"index {manifest.index} is out of range"
    if not 1 <= manifest.term <= NUMBER_MAX:
        return f"term {manifest.term} is out of range"
    if not 0 <= manifest.membership_index <= manifest.index:
        return (
            f"the membership is of index {manifest.membership_index}, "
            f"the snapshot of index {manifest.index}"
        )
    if not manifest.membership.voters:
        return "the membership has no voters"
    fault = manifest.membership.fault()
    if fault is not None:
        return f"the membership is none: {fault:.200}"
    return _files_fault(manifest.files)


def _files_fault(files: tuple[SnapshotFile, ...]) -> str | None:
    if len(files) > FILES_MAX:
        return f"{len(files)} files are more than {FILES_MAX}"
    names = set()
    for file in files:
        fault = name_fault(file.name)
        if fault is not None:
            return fault
        if file.name in names:
            return f"the file {file.name} is there twice"
        names.add(file.name)
        if not 1 <= file.chunk_bytes <= CHUNK_BYTES_MAX:
            return f"{file.name} has chunks of {file.chunk_bytes} bytes"
        if not 0 <= file.size <= NUMBER_MAX:
            return f"{file.name} has {file.size} bytes"
        if len(file.checksums) != file.chunk_count * _WORD.size:
            return (
                f"{file.name} has {file.chunk_count} chunks "
                f"and {len(file.checksums)} bytes of checksums"
            )
        if not 0 <= file.checksum <= _CHECKSUM_MAX:
            return f"the checksum of {file.name} is out of range"
    return None


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of a manifest's file. Raises ``InvariantError`` for an unsound manifest."""
    fault = manifest_fault(manifest)
    if fault is not None:
        raise InvariantError(f"a manifest was to be written that is none: {fault}")
    files = [
        [file.name.encode(), file.size, file.chunk_bytes, file.checksums, file.checksum]
        for file in manifest.files
    ]
    body: bytes = msgpack.packb(
        [
            manifest.term,
            pack_membership(manifest.membership),
            manifest.membership_index,
            manifest.is_imported,
            files,
        ]
    )
    if _HEADER_BYTES + len(body) > MANIFEST_BYTES_MAX:
        raise InvariantError(
            f"a manifest of {len(body)} bytes was to be written: use larger chunks than "
            f"{max(file.chunk_bytes for file in manifest.files)} bytes"
        )
    header = _HEADER.pack(_MAGIC, MANIFEST_FORMAT, len(body), manifest.group, manifest.index)
    return header + _WORD.pack(_checksum(header, body)) + body


def decode_manifest(data: bytes, group: int | None = None, index: int | None = None) -> Manifest:
    """Return the manifest that ``data`` is, all of it: of this group and index, where given.

    Trusts nothing: what comes back satisfies ``manifest_fault``. Raises ``InvalidManifest`` and
    nothing else; memory is bounded by the length of ``data``.
    """
    if not _HEADER_BYTES <= len(data) <= MANIFEST_BYTES_MAX:
        raise InvalidManifest(0, f"a manifest cannot have {len(data)} bytes")
    magic, version, body_bytes, found_group, found_index = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise InvalidManifest(0, f"a manifest does not begin with {magic!r}")
    if version != MANIFEST_FORMAT:
        raise InvalidManifest(
            8, f"the manifest has format {version}, this program reads {MANIFEST_FORMAT}"
        )
    if body_bytes != len(data) - _HEADER_BYTES:
        raise InvalidManifest(
            12, f"the body has {len(data) - _HEADER_BYTES} bytes, the header says {body_bytes}"
        )
    for offset, what, found, expected in (
        (16, "group", found_group, group),
        (24, "index", found_index, index),
    ):
        if expected is not None and found != expected:
            raise InvalidManifest(
                offset, f"this is the manifest of {what} {found}, expected {expected}"
            )
    body = data[_HEADER_BYTES:]
    (checksum,) = _WORD.unpack_from(data, _HEADER.size)
    if checksum != _checksum(data[: _HEADER.size], body):
        raise InvalidManifest(_HEADER.size, "the manifest's checksum does not match")
    try:
        manifest = _decode_body(found_group, found_index, body)
    except DecodeError as error:
        raise InvalidManifest(_HEADER_BYTES, str(error)) from error
    fault = manifest_fault(manifest)
    if fault is not None:
        raise InvalidManifest(_HEADER_BYTES, fault)
    return manifest


def _checksum(header: bytes, body: bytes) -> int:
    checksum: int = xxh3_64_intdigest(body, seed=xxh3_64_intdigest(header))
    return checksum


def _decode_body(group: int, index: int, body: bytes) -> Manifest:
    """Return the manifest with the right types, its values unchecked. Raises DecodeError."""
    try:
        # An array's room is reserved before its items are read, at every depth: hence the bound.
        items = msgpack.unpackb(
            body, max_array_len=FILES_MAX, max_str_len=0, max_map_len=0, max_ext_len=0
        )
    except (
        ValueError, TypeError, OverflowError, RecursionError, MemoryError, msgpack.UnpackException,
    ) as error:  # fmt: skip
        raise DecodeError(f"this is not msgpack: {type(error).__name__}: {error}") from error
    term, membership, membership_index, is_imported, files = _typed(
        items, "a manifest", (int, bytes, int, bool, list)
    )
    return Manifest(
        group,
        index,
        term,
        unpack_membership(membership),
        membership_index,
        tuple(_file_from_wire(file) for file in files),
        is_imported,
    )


def _file_from_wire(item: object) -> SnapshotFile:
    name, size, chunk_bytes, checksums, checksum = _typed(
        item, "a file", (bytes, int, int, bytes, int)
    )
    try:
        return SnapshotFile(name.decode("ascii"), size, chunk_bytes, checksums, checksum)
    except UnicodeDecodeError:
        raise DecodeError(f"{name[:300]!r} is no name of a snapshot's file") from None


def _typed(item: object, what: str, types: Iterable[type]) -> list:  # type: ignore[type-arg]
    """Return a list of exactly these types; a bool is no number."""
    expected = list(types)
    if type(item) is not list or [type(value) for value in item] != expected:
        names = ", ".join(kind.__name__ for kind in expected)
        raise DecodeError(f"{what} is not an array of {names}")
    return item
