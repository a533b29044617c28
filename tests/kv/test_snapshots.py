"""Images: whole or refused, whatever happens to their bytes, and readable for good."""

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from rafter_kv.keyspace import KeySpace
from rafter_kv.sessions import Sessions
from rafter_kv.snapshots import (
    CHUNK_BYTES,
    FORMAT_VERSION,
    FrameKind,
    ImageReader,
    PreparedSnapshot,
    SnapshotError,
    write_image,
)

# Written by format version 1; it must stay readable for good.
FIXTURE_VERSION_1 = (
    "0e000000000000002f23c370790ff0f29400a97261667465722d6b76016313000000000000002c06351c086e"
    "f8d196010401014d9194a32b4f4bc005c4036f6c6408000000000000003cffbb53b20977b796010902024e91"
    "901200000000000000faecd75908949ac0920293c4056b65793a32c40576616c7565c0120000000000000095"
    "e2673a52e8d799920293c4056b65793a30c40576616c7565c0140000000000000002d9ce3d95dcdd68920293"
    "c4056b65793a31c40576616c7565cd1388050000000000000012ca1e861a44b8d89403020301"
)

HEADER = [FrameKind.HEADER, "rafter-kv", FORMAT_VERSION, 99]
END = [FrameKind.END, 0, 0, 0]


def state() -> tuple[KeySpace, Sessions]:
    keyspace, sessions = KeySpace(), Sessions()
    for number in range(3):
        keyspace.put(b"key:%d" % number, b"value")
    keyspace.set_deadline(b"key:1", 5000)
    for identity in (9, 4):
        _, session = sessions.admit(identity, 1, 1, 77)
        assert session is not None
        session.record(1, ["+OK", None, 5, b"old"])
    _, session = sessions.admit(9, 2, 2, 78)
    assert session is not None
    session.record(2, [])
    return keyspace, sessions


def image(keyspace: KeySpace, sessions: Sessions) -> bytes:
    prepared = PreparedSnapshot(keyspace.freeze(), sessions, 99)
    try:
        return b"".join(write_image(prepared))
    finally:
        prepared.close()


def frames(*bodies: object) -> bytes:
    packed = [msgpack.packb(body) for body in bodies]
    return b"".join(
        len(body).to_bytes(8, "little")
        + xxh3_64_intdigest(body, seed=number).to_bytes(8, "little")
        + body
        for number, body in enumerate(packed)
    )


def assert_is_the_state(reader: ImageReader) -> None:
    assert reader.stamp_ms == 99
    assert sorted(reader.keyspace.keys(0)) == [b"key:0", b"key:1", b"key:2"]
    assert reader.keyspace.get(b"key:0", 0) == b"value"
    assert reader.keyspace.deadline_ms(b"key:1") == 5000
    assert reader.keyspace.expires_count == 1
    four, nine = (session for _, session in reader.sessions.items())
    assert [identity for identity, _ in reader.sessions.items()] == [4, 9]
    assert four.results == {1: ["+OK", None, 5, b"old"]}
    assert four.result_bytes == 3
    assert (nine.last_sequence, nine.acknowledged_below, nine.last_stamp_ms) == (2, 2, 78)


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_an_image_can_be_read_in_pieces_of_any_size(size: int) -> None:
    whole = image(*state())
    reader = ImageReader()
    reader.read(whole[start : start + size] for start in range(0, len(whole), size))
    assert_is_the_state(reader)


def test_an_image_of_format_1_is_still_readable() -> None:
    reader = ImageReader()
    reader.read([bytes.fromhex(FIXTURE_VERSION_1)])
    assert_is_the_state(reader)


def test_chunks_are_bounded_even_for_large_values() -> None:
    keyspace = KeySpace()
    keyspace.put(b"large", b"x" * (3 * CHUNK_BYTES))
    for number in range(50):
        keyspace.put(b"%d" % number, b"y" * 20_000)
    prepared = PreparedSnapshot(keyspace.freeze(), Sessions(), 0)
    chunks = list(write_image(prepared))
    assert max(map(len, chunks)) <= CHUNK_BYTES
    reader = ImageReader()
    reader.read(chunks)
    assert reader.keyspace.key_count == 51


@pytest.mark.parametrize("deadline_ms", [None, 5000])
@pytest.mark.parametrize("size", [CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 7])
def test_a_large_value_has_a_frame_like_any_other(size: int, deadline_ms: int | None) -> None:
    value = bytes(range(251)) * (size // 251) + bytes(size % 251)
    keyspace = KeySpace()
    keyspace.put(b"large", value)
    if deadline_ms is not None:
        keyspace.set_deadline(b"large", deadline_ms)
    expected = frames(
        HEADER,
        [FrameKind.KEYS, [b"large", value, deadline_ms]],
        [FrameKind.END, 0, 1, 0 if deadline_ms is None else 1],
    )
    assert image(keyspace, Sessions()) == expected


@pytest.mark.parametrize("piece_bytes", [1000, CHUNK_BYTES - 1, CHUNK_BYTES, 1 << 30])
@pytest.mark.parametrize(
    "items",
    [
        [b"k", b"v" * (2 * CHUNK_BYTES), None],
        [b"k", b"v" * (2 * CHUNK_BYTES), 5000],
        [b"a", b"b", None, b"k", b"v" * (2 * CHUNK_BYTES), 5000],
        [b"k" * (2 * CHUNK_BYTES), b"v" * (2 * CHUNK_BYTES), None],
        [b"k" * (2 * CHUNK_BYTES), b"v", None],
        [b"k", b"v" * (2 * CHUNK_BYTES), None, b"c", b"d", None],
    ],
)
def test_a_large_frame_is_read_whatever_is_in_it(items: list[Any], piece_bytes: int) -> None:
    keys = items[::3]
    expires = sum(deadline is not None for deadline in items[2::3])
    whole = frames(HEADER, [FrameKind.KEYS, items], [FrameKind.END, 0, len(keys), expires])
    reader = ImageReader()
    reader.read(whole[start : start + piece_bytes] for start in range(0, len(whole), piece_bytes))
    for key, value, deadline_ms in zip(keys, items[1::3], items[2::3], strict=True):
        assert reader.keyspace.get(key, 0) == value
        assert reader.keyspace.deadline_ms(key) == deadline_ms


LARGE = b"\x92\x02\x93" + msgpack.packb(b"k") + b"\xc6"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (LARGE + b"\xff" * 4 + bytes(2 * CHUNK_BYTES), "malformed"),
        (LARGE + (2 * CHUNK_BYTES).to_bytes(4) + bytes(2 * CHUNK_BYTES), "malformed"),
        (LARGE + (2 * CHUNK_BYTES).to_bytes(4) + bytes(2 * CHUNK_BYTES) + b"\xc0\xc0", "malformed"),
        (b"\x92\x02\x93\x01\xc6" + (1 << 19).to_bytes(4) + bytes(1 << 19) + b"\xc0", "are bytes"),
        (b"\x92\x02\x93" + b"\xc5\xff\xff" + b"k" * (2 * CHUNK_BYTES), "malformed"),
        (b"\x05" * (2 * CHUNK_BYTES + 1), "malformed"),
    ],
)
def test_a_large_frame_that_makes_no_sense_is_refused(body: bytes, message: str) -> None:
    first = frames(HEADER)
    checksum = xxh3_64_intdigest(body, seed=1).to_bytes(8, "little")
    frame = len(body).to_bytes(8, "little") + checksum + body
    with pytest.raises(SnapshotError, match=message):
        ImageReader().read([first, frame])


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_image_is_refused(data: st.DataObject) -> None:
    whole = image(*state())
    at = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.sampled_from(["flip", "cut", "drop", "repeat"]))
    if damage == "flip":
        damaged = (
            whole[:at] + bytes([whole[at] ^ 1 << data.draw(st.integers(0, 7))]) + whole[at + 1 :]
        )
    elif damage == "cut":
        damaged = whole[:at]
    elif damage == "drop":
        damaged = whole[:at] + whole[at + 1 :]
    else:
        damaged = whole[: at + 1] + whole[at:]
    with pytest.raises(SnapshotError):
        ImageReader().read([damaged])


@pytest.mark.parametrize(
    ("bodies", "message"),
    [
        ([], "ends after 0 frames"),
        ([HEADER], "ends after 1 frames"),
        ([END], "begins with its one header"),
        ([HEADER, HEADER, END], "begins with its one header"),
        ([HEADER, END, END], "follows the end"),
        ([[FrameKind.HEADER, "other", 1, 99], END], "no image of a key-value group"),
        ([[FrameKind.HEADER, "rafter-kv", 2, 99], END], "format 2, this build reads up to 1"),
        ([[FrameKind.HEADER, "rafter-kv", 1], END], "malformed"),
        ([HEADER, [9], END], "unknown kind 9"),
        ([HEADER, 5, END], "malformed"),
        ([HEADER, [FrameKind.KEYS, [b"k", b"v"]], END], "malformed"),
        ([HEADER, [FrameKind.KEYS, [b"k", 5, None]], END], "keys and values are bytes"),
        ([HEADER, [FrameKind.KEYS, [b"k", b"v", None]], END], "announced"),
        ([HEADER, [FrameKind.SESSION, 1, 5, 2, 0, []], END], "lacks results"),
    ],
)
def test_frames_that_make_no_image_are_refused(bodies: list[object], message: str) -> None:
    with pytest.raises(SnapshotError, match=message):
        ImageReader().read([frames(*bodies)])
    reader = ImageReader()
    reader.read([frames(HEADER, END)])
    assert reader.keyspace.key_count == 0
