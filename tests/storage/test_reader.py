"""Tests of rafter_storage.reader."""

from pathlib import Path

import pytest

from rafter_core.entries import HardState
from rafter_core.serializer import pack_entries
from rafter_storage.errors import CorruptionError, StorageError
from rafter_storage.reader import RecordReader
from rafter_storage.record import PREFIX_BYTES, RecordKind, encode_prefix
from tests.storage.support import EIO, FaultyFiles, entries, log_of, open_manager, segment_files
from tests.storage.support import append as append_entries

SEED = 77
OFFSET = 4096


def record(
    group: int = 1,
    body: bytes | None = None,
    offset: int = OFFSET,
    kind: RecordKind = RecordKind.ENTRIES,
    entries_range: tuple[int, int, int] = (1, 3, 1),
) -> bytes:
    packed = pack_entries(entries(1, 3)) if body is None else body
    prefix, _ = encode_prefix(
        SEED, offset, 0, SEED, kind, group, HardState(), entries_range, packed
    )
    return prefix + packed


def reader_of(path: Path, data: bytes) -> tuple[FaultyFiles, RecordReader]:
    path.write_bytes(bytes(OFFSET) + data)
    files = FaultyFiles()
    reader = RecordReader(files)
    reader.add_segment(1, path, SEED)
    return files, reader


@pytest.mark.parametrize("kind", [RecordKind.ENTRIES, RecordKind.COPY])
def test_record_is_read_back(tmp_path: Path, kind: RecordKind) -> None:
    data = record(kind=kind)
    _, reader = reader_of(tmp_path / "s", data)
    assert reader.read(1, 1, OFFSET, len(data)) == entries(1, 3)
    reader.close()


def test_every_flipped_byte_is_detected(tmp_path: Path) -> None:
    data = record()
    path = tmp_path / "s"
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0x20
        _, reader = reader_of(path, bytes(flipped))
        part = "prefix" if position < PREFIX_BYTES else "body"
        with pytest.raises(CorruptionError, match=f"s, offset 4096: the record's {part} is dam"):
            reader.read(1, 1, OFFSET, len(data))
        reader.close()


def test_file_that_ends_early_is_detected(tmp_path: Path) -> None:
    data = record()
    for length in (0, 50, PREFIX_BYTES, len(data) - 1):
        _, reader = reader_of(tmp_path / "s", data[:length])
        with pytest.raises(CorruptionError):
            reader.read(1, 1, OFFSET, len(data))
        reader.close()


def test_record_of_another_group_or_place_is_detected(tmp_path: Path) -> None:
    data = record(group=2)
    _, reader = reader_of(tmp_path / "s", data)
    with pytest.raises(CorruptionError, match="kind 1 and of group 2, the index expects"):
        reader.read(1, 1, OFFSET, len(data))
    reader.close()
    _, reader = reader_of(tmp_path / "s", record(offset=OFFSET + 8))
    with pytest.raises(CorruptionError, match="prefix"):
        reader.read(1, 1, OFFSET, len(data))
    reader.close()


@pytest.mark.parametrize(
    "data",
    [
        record(kind=RecordKind.GROUP),
        record(kind=RecordKind.REMOVED),
        record(entries_range=(0, 0, 0)),
    ],
)
def test_record_without_entries_is_detected(tmp_path: Path, data: bytes) -> None:
    _, reader = reader_of(tmp_path / "s", data)
    with pytest.raises(CorruptionError, match="the index expects entries of group 1"):
        reader.read(1, 1, OFFSET, len(data))
    reader.close()


def test_body_that_does_not_decode_is_corruption(tmp_path: Path) -> None:
    data = record(body=b"\xc1")
    _, reader = reader_of(tmp_path / "s", data)
    with pytest.raises(CorruptionError, match="cannot be decoded"):
        reader.read(1, 1, OFFSET, len(data))
    reader.close()


def test_record_read_again_costs_no_system_call(tmp_path: Path) -> None:
    data = record()
    files, reader = reader_of(tmp_path / "s", data)
    reader.read(1, 1, OFFSET, len(data))
    files.reset()
    assert reader.read(1, 1, OFFSET, len(data)) == entries(1, 3)
    assert files.calls == []
    reader.close()


def test_forgotten_segment_is_closed_and_its_number_can_be_another_files(tmp_path: Path) -> None:
    data = record()
    files, reader = reader_of(tmp_path / "s", data)
    other = tmp_path / "other"
    body = pack_entries(entries(4, 5))
    other_data = record(body=body)
    other.write_bytes(bytes(OFFSET) + other_data)
    reader.read(1, 1, OFFSET, len(data))
    assert (reader.segment_count, reader.path(1)) == (1, tmp_path / "s")
    reader.forget_segment(1)
    assert reader.segment_count == 0
    reader.add_segment(1, other, SEED)
    assert reader.read(1, 1, OFFSET, len(other_data)) == entries(4, 5)
    # One that was never read has nothing to close, and does not touch what was read last.
    reader.add_segment(2, other, SEED)
    reader.forget_segment(2)
    files.reset()
    assert reader.read(1, 1, OFFSET, len(other_data)) == entries(4, 5)
    assert files.calls == []
    reader.close()


def test_failing_disk_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    data = record()
    files, reader = reader_of(tmp_path / "s", data)
    files.fail_at["pread", 1] = EIO
    with pytest.raises(StorageError, match=r"s at offset 4096: .*Input/output error"):
        reader.read(1, 1, OFFSET, len(data))
    assert reader.read(1, 1, OFFSET, len(data)) == entries(1, 3)
    reader.close()


def test_open_files_are_bounded(tmp_path: Path) -> None:
    class Counting(FaultyFiles):
        open_count = 0
        open_count_max = 0

        def open(self, path: Path, flags: int) -> int:
            self.open_count += 1
            self.open_count_max = max(self.open_count, self.open_count_max)
            return super().open(path, flags)

        def close(self, descriptor: int) -> None:
            self.open_count -= 1
            super().close(descriptor)

    files = Counting()
    reader = RecordReader(files)
    data = record()
    for sequence in range(1, 41):
        (tmp_path / str(sequence)).write_bytes(bytes(OFFSET) + data)
        reader.add_segment(sequence, tmp_path / str(sequence), SEED)
    for sequence in [*range(1, 41), *range(1, 41)]:
        assert reader.read(1, sequence, OFFSET, len(data)) == entries(1, 3)
    assert files.open_count_max <= 16
    reader.close()
    assert files.open_count == 0


def test_byte_flipped_while_running_is_an_error_and_never_a_wrong_entry(tmp_path: Path) -> None:
    manager = open_manager(tmp_path, tail_bytes_max=0)
    append_entries(manager, 1, entries(1, 3))
    append_entries(manager, 1, entries(4, 4))
    path = segment_files(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[OFFSET + PREFIX_BYTES + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptionError, match="offset 4096"):
        log_of(manager, 1).entries(2, 4, 1000)
    manager.close()
