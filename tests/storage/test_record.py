"""Tests of rafter_storage.record."""

import pytest

from rafter_core.entries import HardState
from rafter_storage.record import (
    MAGIC_BYTES,
    PREFIX_BYTES,
    RecordKind,
    align,
    decode_prefix,
    encode_prefix,
    is_body_valid,
)
from tests.storage.support import entries, entry

SEED = 0x1234567890ABCDEF
OFFSET = 4096
END = 1 << 20
BODY = b"some body"


def record(synced_offset: int = 0) -> bytes:
    state = HardState(term=7, vote=2, commit=3)
    return encode_prefix(SEED, OFFSET, synced_offset, 9, state, entries(4, 6, 5), BODY) + BODY


def test_prefix_round_trips_every_field() -> None:
    prefix = decode_prefix(SEED, record(synced_offset=4096), 0, OFFSET, END)
    assert prefix is not None
    assert prefix.kind == RecordKind.ENTRIES
    assert prefix.length == PREFIX_BYTES + len(BODY)
    assert prefix.synced_offset == 4096
    assert prefix.group == 9
    assert prefix.hard_state == HardState(7, 2, 3)
    assert (prefix.first_index, prefix.last_index) == (4, 6)
    assert (prefix.first_term, prefix.last_term) == (5, 5)
    assert is_body_valid(SEED, prefix, record(4096), 0, OFFSET)


def test_layout_on_disk_is_the_documented_one() -> None:
    data = record(synced_offset=4096)
    assert data[:4] == MAGIC_BYTES == b"RfLr"

    def word(offset: int, size: int) -> int:
        return int.from_bytes(data[offset : offset + size], "little")

    assert [word(offset, 4) for offset in (4, 8, 12)] == [1, PREFIX_BYTES + len(BODY), 4096]
    assert [word(offset, 8) for offset in range(16, 80, 8)] == [9, 7, 2, 3, 4, 6, 5, 5]
    assert PREFIX_BYTES == 96


def test_largest_values_fit() -> None:
    largest = (1 << 64) - 1
    state = HardState(largest, largest, largest)
    data = encode_prefix(SEED, OFFSET, 0, largest, state, [entry(largest, largest)], b"")
    prefix = decode_prefix(SEED, data, 0, OFFSET, END)
    assert prefix is not None
    assert prefix.hard_state == state
    assert prefix.last_index == largest


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_of_the_prefix_is_detected(bit: int) -> None:
    data = record()
    for position in range(PREFIX_BYTES):
        flipped = bytearray(data)
        flipped[position] ^= 1 << bit
        assert decode_prefix(SEED, flipped, 0, OFFSET, END) is None, position


def test_every_flipped_byte_of_the_body_is_detected() -> None:
    data = record()
    for position in range(PREFIX_BYTES, len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0x40
        prefix = decode_prefix(SEED, flipped, 0, OFFSET, END)
        assert prefix is not None
        assert not is_body_valid(SEED, prefix, flipped, 0, OFFSET), position


def test_bytes_of_another_segment_never_pass() -> None:
    assert decode_prefix(SEED + 1, record(), 0, OFFSET, END) is None


def test_bytes_from_another_place_never_pass() -> None:
    assert decode_prefix(SEED, record(), 0, OFFSET + 8, END) is None


def test_body_of_another_place_never_passes() -> None:
    data = record()
    prefix = decode_prefix(SEED, data, 0, OFFSET, END)
    assert prefix is not None
    assert not is_body_valid(SEED, prefix, data, 0, OFFSET + 8)


def test_prefix_cut_short_is_not_valid() -> None:
    data = record()
    for length in range(PREFIX_BYTES):
        assert decode_prefix(SEED, data[:length], 0, OFFSET, END) is None


def test_body_cut_short_is_not_valid() -> None:
    data = record()
    prefix = decode_prefix(SEED, data, 0, OFFSET, END)
    assert prefix is not None
    assert not is_body_valid(SEED, prefix, data[:-1], 0, OFFSET)


def test_record_that_leaves_its_segment_is_not_valid() -> None:
    data = record()
    assert decode_prefix(SEED, data, 0, OFFSET, OFFSET + len(data)) is not None
    assert decode_prefix(SEED, data, 0, OFFSET, OFFSET + len(data) - 1) is None


def test_sync_mark_ahead_of_its_record_is_not_valid() -> None:
    assert decode_prefix(SEED, record(synced_offset=OFFSET), 0, OFFSET, END) is not None
    assert decode_prefix(SEED, record(synced_offset=OFFSET + 8), 0, OFFSET, END) is None


def test_zeros_are_not_a_record() -> None:
    assert decode_prefix(SEED, bytes(PREFIX_BYTES), 0, OFFSET, END) is None


def test_align_rounds_up_to_eight() -> None:
    assert [align(length) for length in (0, 1, 7, 8, 9, 96)] == [0, 8, 8, 8, 16, 96]
