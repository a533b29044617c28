"""Tests of rafter_storage.segment."""

import os
import struct
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from rafter_storage.errors import StorageError
from rafter_storage.file_system import RealFileSystem
from rafter_storage.segment import (
    HEADER_BYTES,
    SegmentHeader,
    create_segment,
    decode_header,
    draw_seed,
    encode_header,
    load_segment,
    segment_path,
    sequence_of,
    used_bytes,
    zero_from,
)
from tests.storage.support import EIO, FaultyFiles

HEADER = SegmentHeader(3, 0xABCDEF, 0x123456, 8192, 1 << 16)


def test_header_round_trips() -> None:
    block = encode_header(HEADER)
    assert len(block) == HEADER_BYTES
    assert decode_header(Path("x"), block) == HEADER


def test_every_flipped_byte_of_the_header_is_detected_or_harmless() -> None:
    block = encode_header(HEADER)
    for position in range(HEADER_BYTES):
        flipped = bytearray(block)
        flipped[position] ^= 0x01
        found = decode_header(Path("x"), flipped)
        assert found is None if position < 64 else found == HEADER


def test_header_cut_short_is_damaged() -> None:
    assert decode_header(Path("x"), encode_header(HEADER)[:-1]) is None


def test_header_of_a_newer_format_is_refused_by_name() -> None:
    fields = bytearray(encode_header(HEADER)[:56])
    struct.pack_into("<I", fields, 8, 2)
    block = bytes(fields) + struct.pack("<Q", xxh3_64_intdigest(bytes(fields)))
    with pytest.raises(StorageError, match=r"some\.log has log format 2"):
        decode_header(Path("some.log"), block.ljust(HEADER_BYTES, b"\0"))


def test_header_of_another_kind_of_file_is_damage() -> None:
    fields = b"SOMETHING"[:8] + encode_header(HEADER)[8:56]
    block = fields + struct.pack("<Q", xxh3_64_intdigest(fields))
    assert decode_header(Path("x"), block.ljust(HEADER_BYTES, b"\0")) is None


def test_names_and_sequences_agree() -> None:
    assert sequence_of(segment_path(Path("d"), 17).name) == 17
    for name in ("17.log", "00000000000000000017.tmp", "x00000000000000000017.log", "identity"):
        assert sequence_of(name) is None


def test_seeds_leave_room_for_an_offset() -> None:
    for _ in range(100):
        assert 0 < draw_seed() < 1 << 63


def test_created_segment_is_allocated_and_headed_before_it_gets_its_name(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.close(create_segment(files, tmp_path, HEADER))
    assert files.calls == ["open", "allocate", "pwritev", "sync_data", "rename", "sync_directory"]
    path = segment_path(tmp_path, 3)
    assert path.stat().st_size == 1 << 16
    assert path.stat().st_mode & 0o777 == 0o600
    assert decode_header(path, path.read_bytes()) == HEADER
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("method", ["allocate", "pwritev", "sync_data", "rename"])
def test_segment_whose_creation_failed_has_no_name(tmp_path: Path, method: str) -> None:
    files = FaultyFiles()
    files.fail_at[method, 1] = EIO
    with pytest.raises(OSError, match="Input/output"):
        create_segment(files, tmp_path, HEADER)
    assert not segment_path(tmp_path, 3).exists()


def test_loaded_segment_equals_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = b"a" * 10 + bytes(3 << 20) + b"b" * 10 + bytes(2 << 20)
    path.write_bytes(content)
    loaded = load_segment(RealFileSystem(), path)
    assert loaded.data[:] == content
    assert loaded.used == 10 + (3 << 20) + 10


def test_empty_file_is_loaded_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert load_segment(RealFileSystem(), tmp_path / "file") == (b"", 0)


def test_file_too_large_for_a_segment_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(StorageError, match="at most 4 GiB"):
        load_segment(RealFileSystem(), tmp_path / "file")


def test_used_bytes_ends_behind_the_last_that_is_not_zero() -> None:
    assert used_bytes(b"") == 0
    assert used_bytes(bytes(1 << 20)) == 0
    assert used_bytes(b"\0\1\0\0") == 2


def test_zero_from_clears_to_the_end_and_syncs(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (3 << 20))
    files = FaultyFiles()
    descriptor = files.open(path, os.O_RDWR)
    zero_from(files, descriptor, 1000)
    files.close(descriptor)
    assert path.read_bytes() == b"x" * 1000 + bytes((3 << 20) - 1000)
    assert files.calls[-1] == "sync_data"
