"""Tests of rafter_storage.segment."""

import fcntl
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
    spare_number_of,
    spare_path,
)
from tests.storage.support import EIO, ENOSPC, FaultyFiles

HEADER = SegmentHeader(3, 0xABCDEF, 0x123456, 8192, 1 << 16, 2)
FIELDS_BYTES = 64


def sealed(fields: bytes) -> bytes:
    """A header block of these fields, with a checksum that fits."""
    checksum = struct.pack("<Q", xxh3_64_intdigest(fields))
    return (fields + checksum).ljust(HEADER_BYTES, b"\0")


def descriptors() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


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
        assert found is None if position < FIELDS_BYTES + 8 else found == HEADER


def test_header_cut_short_is_damaged() -> None:
    assert decode_header(Path("x"), encode_header(HEADER)[:-1]) is None


def test_layout_of_the_header_is_the_documented_one() -> None:
    block = encode_header(HEADER)
    assert block[:8] == b"RAFTRWAL"
    assert struct.unpack_from("<II6Q", block, 8) == (2, HEADER_BYTES, *HEADER)
    assert struct.unpack_from("<Q", block, 64) == (xxh3_64_intdigest(block[:64]),)
    assert block[72:] == bytes(HEADER_BYTES - 72)


@pytest.mark.parametrize("version", [1, 3, 1 << 31])
def test_header_of_another_format_is_refused_by_name(version: int) -> None:
    fields = bytearray(encode_header(HEADER)[:FIELDS_BYTES])
    struct.pack_into("<I", fields, 8, version)
    with pytest.raises(StorageError, match=rf"some\.log has log format {version}, .* format 2"):
        decode_header(Path("some.log"), sealed(bytes(fields)))


def test_header_of_another_kind_of_file_is_damage() -> None:
    fields = encode_header(HEADER)[:FIELDS_BYTES]
    assert decode_header(Path("x"), sealed(fields)) == HEADER
    assert decode_header(Path("x"), sealed(b"SOMETHIN" + fields[8:])) is None


def test_header_of_another_length_is_damage() -> None:
    fields = bytearray(encode_header(HEADER)[:FIELDS_BYTES])
    struct.pack_into("<I", fields, 12, 512)
    assert decode_header(Path("x"), sealed(bytes(fields))) is None


def test_names_and_sequences_agree() -> None:
    assert sequence_of(segment_path(Path("d"), 17).name) == 17
    for name in ("17.log", "00000000000000000017.tmp", "x00000000000000000017.log", "identity"):
        assert sequence_of(name) is None


def test_names_and_numbers_of_spares_agree() -> None:
    assert spare_number_of(spare_path(Path("d"), 17).name) == 17
    names = ("spare-17.free", "spare-00000000000000000017.tmp", segment_path(Path("d"), 17).name)
    for name in names:
        assert spare_number_of(name) is None
    assert sequence_of(spare_path(Path("d"), 17).name) is None


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


def test_spare_becomes_a_segment_without_being_allocated_anew(tmp_path: Path) -> None:
    files = FaultyFiles()
    spare = spare_path(tmp_path, 1)
    spare.write_bytes(b"\xee" * (1 << 16))
    files.close(create_segment(files, tmp_path, HEADER, spare))
    assert files.calls == ["open", "pwritev", "sync_data", "rename", "sync_directory"]
    path = segment_path(tmp_path, 3)
    assert path.read_bytes() == encode_header(HEADER) + b"\xee" * ((1 << 16) - HEADER_BYTES)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_segment_is_written_through_a_descriptor_with_the_flags_asked_for(tmp_path: Path) -> None:
    files = FaultyFiles()
    descriptor = create_segment(files, tmp_path, HEADER, flags=os.O_APPEND)
    assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
    files.close(descriptor)
    assert files.calls[-3:] == ["open", "rename", "sync_directory"]


@pytest.mark.parametrize("method", ["allocate", "pwritev", "sync_data", "rename"])
def test_segment_whose_creation_failed_has_no_name_and_takes_no_room(
    tmp_path: Path, method: str
) -> None:
    files = FaultyFiles()
    files.fail_at[method, 1] = ENOSPC
    before = descriptors()
    with pytest.raises(OSError, match="No space left"):
        create_segment(files, tmp_path, HEADER)
    assert list(tmp_path.iterdir()) == []
    assert descriptors() == before


@pytest.mark.parametrize("method", ["open", "pwritev", "sync_data", "rename"])
def test_spare_whose_creation_failed_is_a_spare_still_and_can_be_taken_again(
    tmp_path: Path, method: str
) -> None:
    files = FaultyFiles()
    spare = spare_path(tmp_path, 1)
    spare.write_bytes(bytes(1 << 16))
    files.fail_at[method, 1] = ENOSPC
    before = descriptors()
    with pytest.raises(OSError, match="No space left"):
        create_segment(files, tmp_path, HEADER, spare)
    assert list(tmp_path.iterdir()) == [spare]
    assert descriptors() == before
    files.close(create_segment(files, tmp_path, HEADER, spare))
    assert list(tmp_path.iterdir()) == [segment_path(tmp_path, 3)]


def test_error_of_the_directory_sync_is_told_and_leaves_nothing_open(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.fail_at["sync_directory", 1] = EIO
    before = descriptors()
    with pytest.raises(OSError, match="Input/output"):
        create_segment(files, tmp_path, HEADER)
    assert descriptors() == before


def test_failed_second_open_leaves_nothing_behind(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.fail_at["open", 2] = EIO
    before = descriptors()
    with pytest.raises(OSError, match="Input/output"):
        create_segment(files, tmp_path, HEADER, flags=os.O_APPEND)
    assert list(tmp_path.iterdir()) == []
    assert descriptors() == before


def test_loaded_segment_equals_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = b"a" * 10 + bytes(3 << 20) + b"b" * 10 + bytes(2 << 20) + b"c"
    path.write_bytes(content)
    loaded = load_segment(RealFileSystem(), path)
    assert loaded.data[:] == content
    assert loaded.used == len(content)


def test_zeros_behind_the_last_block_are_not_counted_as_used(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" + bytes((1 << 20) - 1) + b"b" + bytes((3 << 20) - 1))
    loaded = load_segment(RealFileSystem(), path)
    assert (1 << 20) < loaded.used <= 2 << 20
    assert not any(loaded.data[loaded.used :])


def test_read_error_of_a_segment_is_an_error_and_not_zeros(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * (3 << 20))
    files = FaultyFiles()
    files.fail_at["pread", 2] = EIO
    before = descriptors()
    with pytest.raises(OSError, match="Input/output"):
        load_segment(files, path)
    assert descriptors() == before


def test_empty_file_is_loaded_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert load_segment(RealFileSystem(), tmp_path / "file") == (b"", 0)


def test_file_too_large_for_a_segment_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(StorageError, match="at most 4 GiB"):
        load_segment(RealFileSystem(), tmp_path / "file")
