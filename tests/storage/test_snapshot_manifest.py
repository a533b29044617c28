"""Tests of rafter_storage.snapshot_manifest."""

from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from rafter_core.entries import NUMBER_MAX
from rafter_core.errors import InvariantError
from rafter_core.membership import Membership
from rafter_core.serializer import pack_membership
from rafter_core.snapshot import Snapshot
from rafter_storage import snapshot_manifest
from rafter_storage.snapshot_manifest import (
    CHUNK_BYTES_MAX,
    FILES_MAX,
    InvalidManifest,
    Manifest,
    SnapshotFile,
    decode_manifest,
    encode_manifest,
    manifest_fault,
    name_fault,
)
from tests.storage.snapshot_support import GROUP, MEMBERSHIP, manifest_of, snapshot_file

HEADER_BYTES = 40


def packed(body: bytes, header: bytes | None = None) -> bytes:
    """A manifest around any body, with the right lengths and checksum."""
    if header is None:
        header = encode_manifest(manifest_of())[:12] + len(body).to_bytes(4, "little")
        header += GROUP.to_bytes(8, "little") + (10).to_bytes(8, "little")
    checksum = xxh3_64_intdigest(body, seed=xxh3_64_intdigest(header))
    return header + checksum.to_bytes(8, "little") + body


FILE = [b"state", 20, 16, bytes(16), 5]
BODY = [3, pack_membership(MEMBERSHIP), 4, False, [FILE]]


@pytest.mark.parametrize(
    "manifest",
    [
        manifest_of(),
        manifest_of(1, {}),
        manifest_of(2, {"empty": b""}),
        manifest_of(3, {"state": bytes(32), "a.b-c+d_E": b"x"}),
        replace(manifest_of(), is_imported=True, membership_index=0),
        Manifest(NUMBER_MAX, NUMBER_MAX, NUMBER_MAX, Membership((1,), (2,)), NUMBER_MAX),
    ],
)
def test_manifest_comes_back_as_it_was(manifest: Manifest) -> None:
    data = encode_manifest(manifest)
    assert decode_manifest(data) == manifest
    assert decode_manifest(data, manifest.group, manifest.index) == manifest


def test_format_is_the_documented_one() -> None:
    assert packed(msgpack.packb(BODY))[:16] == b"RAFTRSNP\1\0\0\0" + len(
        msgpack.packb(BODY)
    ).to_bytes(4, "little")
    expected = Manifest(GROUP, 10, 3, MEMBERSHIP, 4, (SnapshotFile("state", 20, 16, bytes(16), 5),))
    assert decode_manifest(packed(msgpack.packb(BODY))) == expected


def test_every_flipped_bit_is_detected() -> None:
    data = encode_manifest(manifest_of())
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            with pytest.raises(InvalidManifest):
                decode_manifest(bytes(flipped))


def test_every_shortened_and_every_lengthened_manifest_is_detected() -> None:
    data = encode_manifest(manifest_of())
    for length in range(len(data)):
        for changed in (data[:length], data + bytes(length + 1), data[:length] + bytes(99)):
            if changed != data:
                with pytest.raises(InvalidManifest):
                    decode_manifest(changed)


def test_manifest_of_another_snapshot_never_passes() -> None:
    """Matching group and index by force does not help: the checksum is bound to both."""
    data = encode_manifest(manifest_of(10))
    with pytest.raises(InvalidManifest, match="manifest of index 10, expected 11"):
        decode_manifest(data, GROUP, 11)
    with pytest.raises(InvalidManifest, match="manifest of group 7, expected 8"):
        decode_manifest(data, 8, 10)
    forged = data[:24] + (11).to_bytes(8, "little") + data[32:]
    with pytest.raises(InvalidManifest, match="checksum does not match"):
        decode_manifest(forged, GROUP, 11)


def test_newer_format_is_named_before_anything_else_is_believed() -> None:
    data = encode_manifest(manifest_of())
    with pytest.raises(InvalidManifest, match="has format 2, this program reads 1") as caught:
        decode_manifest(data[:8] + b"\2" + data[9:])
    assert caught.value.offset == 8


def body(**changes: Any) -> bytes:
    items = [*BODY]
    for position, value in changes.items():
        items[int(position[1:])] = value
    found: bytes = msgpack.packb(items)
    return found


def file_body(position: int, value: object) -> bytes:
    file = [*FILE]
    file[position] = value
    return body(_4=[file])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (msgpack.packb(None), "is not an array of int, bytes, int, bool, list"),
        (msgpack.packb({}), "is not an array"),
        (msgpack.packb({1: 2}), "not msgpack"),
        (msgpack.packb("text"), "not msgpack"),
        (msgpack.packb([]), "is not an array"),
        (msgpack.packb([*BODY, 1]), "is not an array"),
        (msgpack.packb(BODY) + b"\0", "not msgpack"),
        (b"\x91" * 5000, "not msgpack"),
        (b"\xdd\xff\xff\xff\xff", "not msgpack"),
        (b"\xdd\0\0\x20\0" + bytes(8192), "not msgpack"),
        (body(_0=True), "is not an array"),
        (body(_0=0), "term 0 is out of range"),
        (body(_0=1 << 63), "term 9223372036854775808 is out of range"),
        (body(_0=-1), "term -1 is out of range"),
        (body(_1=b""), "not msgpack"),
        (body(_1=b"\xc0"), "number of its format"),
        (body(_1=pack_membership(Membership(()))), "no voters"),
        (body(_2=11), "the membership is of index 11, the snapshot of index 10"),
        (body(_2=-1), "the membership is of index -1"),
        (body(_3=1), "is not an array"),
        (body(_4=[1]), "a file is not an array"),
        (body(_4=[FILE[:4]]), "a file is not an array"),
        (body(_4=[FILE, FILE]), "the file state is there twice"),
        (file_body(0, b"../x"), "is no name"),
        (file_body(0, b"caf\xc3\xa9"), "is no name"),
        (file_body(0, b"manifest"), "is the manifest's"),
        (file_body(1, -1), "state has -1 bytes"),
        (file_body(1, 1 << 63), "state has 9223372036854775808 bytes"),
        (file_body(1, 33), "has 3 chunks and 16 bytes of checksums"),
        (file_body(1, 16), "has 1 chunks and 16 bytes of checksums"),
        (file_body(2, 0), "chunks of 0 bytes"),
        (file_body(2, CHUNK_BYTES_MAX + 1), "chunks of 16777217 bytes"),
        (file_body(3, bytes(15)), "2 chunks and 15 bytes"),
        (file_body(4, -1), "checksum of state is out of range"),
    ],
)
def test_hostile_body_with_the_right_checksum_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidManifest, match=message):
        decode_manifest(packed(data))


@pytest.mark.parametrize(("group", "index"), [(1 << 63, 10), (GROUP, 0), (GROUP, 1 << 63)])
def test_hostile_place_with_the_right_checksum_is_refused(group: int, index: int) -> None:
    data = msgpack.packb(BODY)
    header = b"RAFTRSNP\1\0\0\0" + len(data).to_bytes(4, "little")
    header += group.to_bytes(8, "little") + index.to_bytes(8, "little")
    with pytest.raises(InvalidManifest, match="out of range"):
        decode_manifest(packed(data, header))


@pytest.mark.parametrize("body_bytes", [0, len(msgpack.packb(BODY)) - 1, (1 << 32) - 1])
def test_hostile_length_with_the_right_checksum_is_refused(body_bytes: int) -> None:
    data = msgpack.packb(BODY)
    header = b"RAFTRSNP\1\0\0\0" + body_bytes.to_bytes(4, "little")
    header += GROUP.to_bytes(8, "little") + (10).to_bytes(8, "little")
    with pytest.raises(InvalidManifest, match=f"the header says {body_bytes}"):
        decode_manifest(packed(data, header))


def test_nothing_is_written_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvariantError, match="is of index 11"):
        encode_manifest(replace(manifest_of(), membership_index=11))
    with pytest.raises(InvariantError, match="is none: voters"):
        encode_manifest(replace(manifest_of(), membership=Membership((2, 1))))
    files = tuple(snapshot_file(f"f{number}", b"") for number in range(FILES_MAX + 1))
    assert manifest_fault(replace(manifest_of(), files=files[1:])) is None
    assert decode_manifest(encode_manifest(replace(manifest_of(), files=files[1:])))
    with pytest.raises(InvariantError, match="4097 files"):
        encode_manifest(replace(manifest_of(), files=files))
    data = encode_manifest(manifest_of())
    monkeypatch.setattr(snapshot_manifest, "MANIFEST_BYTES_MAX", len(data) - 1)
    with pytest.raises(InvariantError, match="use larger chunks than 16 bytes"):
        encode_manifest(manifest_of())
    with pytest.raises(InvalidManifest, match="cannot have"):
        decode_manifest(data)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a/b", "/", "a\0", "a\n", "a b", "-x", "manifest", "é", "x" * 256],
)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    assert name_fault(name) is not None


@pytest.mark.parametrize("name", ["state", "a..b", "000.sst", "x" * 255, "manifest.old", "_"])
def test_ordinary_names_are_allowed(name: str) -> None:
    assert name_fault(name) is None


def test_snapshot_of_the_core_has_no_data() -> None:
    assert manifest_of().snapshot == Snapshot(10, 3, MEMBERSHIP)
    assert manifest_of().size_bytes == 47
    assert manifest_of().file("gone") is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | VALUES.map(msgpack.packb))
def test_no_body_is_a_crash(data: bytes) -> None:
    try:
        manifest = decode_manifest(packed(data))
    except InvalidManifest:
        return
    assert manifest_fault(manifest) is None


WHOLE_BODY = encode_manifest(manifest_of())[HEADER_BYTES:]
CHANGES = st.tuples(st.integers(0, len(WHOLE_BODY) - 1), st.integers(0, 255))


@settings(max_examples=200, deadline=None)
@given(st.lists(CHANGES, min_size=1, max_size=3))
def test_no_changed_body_is_a_crash(changes: list[tuple[int, int]]) -> None:
    """Also with a checksum made to fit: what is accepted is sound, and comes back as it is."""
    changed = bytearray(WHOLE_BODY)
    for position, value in changes:
        changed[position] = value
    try:
        manifest = decode_manifest(packed(bytes(changed)))
    except InvalidManifest:
        return
    assert manifest_fault(manifest) is None
    assert decode_manifest(encode_manifest(manifest)) == manifest


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_are_a_crash(data: bytes) -> None:
    with pytest.raises(InvalidManifest):
        decode_manifest(data)
