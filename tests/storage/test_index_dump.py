"""Tests of rafter_storage.index_dump."""

import os
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from xxhash import xxh3_64_intdigest

from rafter_storage.file_system import REAL_FILE_SYSTEM
from rafter_storage.index_dump import (
    DUMP_FORMAT_VERSION,
    decode_dump,
    dump_path,
    encode_dump,
    load_dump,
    write_dump,
)
from rafter_storage.segment import SegmentHeader, sequence_of
from rafter_storage.segment_index import SegmentIndex
from tests.storage.histories import STEPS, History, Step, said_by
from tests.storage.support import EIO, ENOSPC, FaultyFiles

HEADER = SegmentHeader(3, 0xABCDEF, 0x123456, 8192, 1 << 16, 2)
END = 40_000
HEADER_BYTES = 64


def sample() -> SegmentIndex:
    """The index of a segment in which everything happens that can."""
    history = History()
    history.append(1, back=0, count=3)
    history.append(2, back=0, count=4)
    history.append(3, back=0, count=2)
    for _ in range(2):
        history.roll()
    history.clean(100)
    history.append(1, back=1, count=4, is_new_term=True)
    history.commit(1, 2)
    history.compact(1, 1, has_new_membership=True)
    history.reset(2, 3)
    history.remove(3)
    index = history.indexes()[3]
    index.section(9).damage("a reason")
    return index


def body_of(data: bytes) -> list[Any]:
    unpacked: list[Any] = msgpack.unpackb(data[HEADER_BYTES:])
    return unpacked


def forged(body: bytes, version: int = DUMP_FORMAT_VERSION, zero: int = 0) -> bytes:
    """A dump with checksums that fit, whatever it holds."""
    checksum = xxh3_64_intdigest(body, HEADER.seed)
    numbers = (version, zero, HEADER.sequence, HEADER.seed, END, len(body), checksum)
    fields = struct.pack("<8sIIQQQQQ", b"RAFTRIDX", *numbers)
    return fields + struct.pack("<Q", xxh3_64_intdigest(fields, HEADER.seed)) + body


def test_dump_lies_beside_its_segment_and_is_not_taken_for_one() -> None:
    path = dump_path(Path("d"), 17)
    assert path == Path("d/00000000000000000017.index")
    assert sequence_of(path.name) is None


def test_loaded_dump_says_what_the_index_said_by() -> None:
    index = sample()
    found = decode_dump(encode_dump(index, HEADER, END), HEADER, END)
    assert found is not None
    assert found.sequence == HEADER.sequence
    assert said_by(found) == said_by(index)
    assert {group for group, section in index.sections.items() if section.copies} == {1}
    assert index.sections[3].is_removed
    assert index.sections[2].is_reset


def test_layout_is_the_documented_one() -> None:
    data = encode_dump(sample(), HEADER, END)
    assert data == forged(data[HEADER_BYTES:])
    assert [item[0] for item in body_of(data)] == [1, 2, 3, 9]


def test_dump_of_a_segment_without_records_is_a_dump() -> None:
    found = decode_dump(encode_dump(SegmentIndex(3), HEADER, 4096), HEADER, 4096)
    assert found is not None
    assert found.sections == {}


@given(STEPS)
def test_dumps_of_any_history_say_what_its_indexes_said_by(steps: list[Step]) -> None:
    for sequence, index in History(steps).indexes().items():
        header = HEADER._replace(sequence=sequence)
        found = decode_dump(encode_dump(index, header, END), header, END)
        assert found is not None
        assert said_by(found) == said_by(index)


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_is_detected(bit: int) -> None:
    data = encode_dump(sample(), HEADER, END)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << bit
        assert decode_dump(bytes(flipped), HEADER, END) is None, position


def test_every_cut_is_detected() -> None:
    data = encode_dump(sample(), HEADER, END)
    for length in range(len(data)):
        assert decode_dump(data[:length], HEADER, END) is None, length


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 4096, b"x" * 7])
def test_dump_with_something_behind_it_is_not_whole(tail: bytes) -> None:
    assert decode_dump(encode_dump(sample(), HEADER, END) + tail, HEADER, END) is None


def test_dump_of_another_segment_is_refused() -> None:
    data = encode_dump(sample(), HEADER, END)
    for header, end in (
        (HEADER._replace(sequence=4), END),
        (HEADER._replace(seed=HEADER.seed + 1), END),
        (HEADER, END - 8),
        (HEADER, END + 8),
    ):
        assert decode_dump(data, header, end) is None


def test_dump_of_another_version_is_not_believed() -> None:
    body = encode_dump(sample(), HEADER, END)[HEADER_BYTES:]
    assert decode_dump(forged(body), HEADER, END) is not None
    assert decode_dump(forged(body, version=DUMP_FORMAT_VERSION + 1), HEADER, END) is None
    assert decode_dump(forged(body, zero=1), HEADER, END) is None


def altered(**changes: Any) -> bytes:
    """A dump of one group, something in which is not as it should be."""
    names = [
        "group",
        "flags",
        "term",
        "vote",
        "commit",
        "metadata",
        "truncated",
        "fault",
        "appended",
        "copies",
    ]
    item = dict(zip(names, body_of(encode_dump(sample(), HEADER, END))[0], strict=True))
    return forged(msgpack.packb([list((item | changes).values())]))


def test_section_that_is_not_altered_is_taken() -> None:
    assert decode_dump(altered(), HEADER, END) is not None
    assert decode_dump(altered(fault="reason", metadata=None), HEADER, END) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": 1},
        {"group": "1"},
        {"flags": None},
        {"term": 1.5},
        {"vote": True},
        {"commit": b"1"},
        {"truncated": None},
        {"metadata": b"\x90"},
        {"metadata": 5},
        {"appended": None},
        {"appended": [b""] * 4},
        {"appended": [b""] * 6},
        {"appended": [b"\0" * 8, b"", b"", b"", b""]},
        {"appended": [b"\0" * 7] * 5},
        {"appended": ["text"] * 5},
        {"appended": [1] * 5},
        {"copies": None},
        {"copies": [b"\0" * 8] * 5},
    ],
)
def test_whole_dump_that_this_version_would_not_write_is_not_believed(
    changes: dict[str, Any],
) -> None:
    assert decode_dump(altered(**changes), HEADER, END) is None


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x05", b"\xc0", b"\x91\x05", b"\x91\x90", b"\x91" * 3000 + b"\x05"]
)
def test_whole_dump_of_something_else_is_not_believed(body: bytes) -> None:
    assert decode_dump(forged(body), HEADER, END) is None


def test_numbers_are_written_in_one_byte_order_on_every_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On a machine of the other order each column is swapped twice: once out, once in.
    index = sample()
    data = encode_dump(index, HEADER, END)
    monkeypatch.setattr(sys, "byteorder", "big")
    swapped = encode_dump(index, HEADER, END)
    assert swapped != data
    assert body_of(swapped)[0][8][0] == b"".join(
        number[::-1] for number in chunks(body_of(data)[0][8][0], 8)
    )
    found = decode_dump(swapped, HEADER, END)
    assert found is not None
    assert said_by(found) == said_by(index)


def chunks(data: bytes, length: int) -> list[bytes]:
    return [data[start : start + length] for start in range(0, len(data), length)]


def test_written_dump_is_synced_before_it_gets_its_name(tmp_path: Path) -> None:
    files = FaultyFiles()
    data = encode_dump(sample(), HEADER, END)
    write_dump(files, tmp_path, 3, data)
    assert files.calls == ["open", "pwritev", "sync_data", "rename"]
    assert [path.name for path in tmp_path.iterdir()] == [dump_path(tmp_path, 3).name]
    assert dump_path(tmp_path, 3).read_bytes() == data
    found = load_dump(files, tmp_path, HEADER, END)
    assert found is not None
    assert said_by(found) == said_by(sample())


@pytest.mark.parametrize("method", ["open", "pwritev", "sync_data", "rename"])
@pytest.mark.parametrize("has_old", [False, True])
def test_failed_write_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, method: str, has_old: bool
) -> None:
    files = FaultyFiles()
    if has_old:
        write_dump(files, tmp_path, 3, b"old")
    files.reset()
    files.fail_at[method, 1] = ENOSPC
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No space left"):
        write_dump(files, tmp_path, 3, encode_dump(sample(), HEADER, END))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"] * has_old
    assert len(os.listdir("/proc/self/fd")) == before


def test_missing_dump_is_no_error(tmp_path: Path) -> None:
    assert load_dump(REAL_FILE_SYSTEM, tmp_path, HEADER, END) is None


@pytest.mark.parametrize("method", ["open", "pread"])
def test_dump_that_cannot_be_read_is_as_good_as_none(tmp_path: Path, method: str) -> None:
    files = FaultyFiles()
    write_dump(files, tmp_path, 3, encode_dump(sample(), HEADER, END))
    files.reset()
    files.fail_at[method, 1] = EIO
    before = len(os.listdir("/proc/self/fd"))
    assert load_dump(files, tmp_path, HEADER, END) is None
    assert len(os.listdir("/proc/self/fd")) == before
    assert load_dump(files, tmp_path, HEADER, END) is not None


def test_every_flipped_byte_of_the_file_is_detected() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        data = encode_dump(sample(), HEADER, END)
        path = dump_path(directory, 3)
        for position in range(len(data)):
            path.write_bytes(
                data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]
            )
            assert load_dump(REAL_FILE_SYSTEM, directory, HEADER, END) is None, position
