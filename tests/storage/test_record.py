"""Tests of rafter_storage.record."""

import struct

import pytest
from xxhash import xxh3_64_intdigest

from rafter_core.entries import HardState
from rafter_storage.record import (
    PREFIX_BYTES,
    RecordKind,
    align,
    decode_prefix,
    encode_prefix,
    is_body_valid,
    magic_bytes,
)

SEED = 0x1234567890ABCDEF
OFFSET = 4096
END = 1 << 20
BODY = b"some body"


CHAIN = 0xFEDCBA9876543210


def encoded(synced_offset: int = 0) -> tuple[bytes, int]:
    """A record, and the checksum of its prefix."""
    state = HardState(term=7, vote=2, commit=3)
    prefix, checksum = encode_prefix(
        SEED, OFFSET, synced_offset, CHAIN, RecordKind.ENTRIES, 9, state, (4, 6, 5), BODY
    )
    return prefix + BODY, checksum


def record(synced_offset: int = 0) -> bytes:
    return encoded(synced_offset)[0]


def test_prefix_round_trips_every_field() -> None:
    data, checksum = encoded(synced_offset=4096)
    prefix = decode_prefix(SEED, data, 0, OFFSET, END)
    assert prefix is not None
    assert prefix.kind == RecordKind.ENTRIES
    assert prefix.length == PREFIX_BYTES + len(BODY)
    assert prefix.synced_offset == 4096
    assert prefix.group == 9
    assert prefix.hard_state == HardState(7, 2, 3)
    assert (prefix.first_index, prefix.last_index, prefix.entries_term) == (4, 6, 5)
    assert (prefix.chain, prefix.checksum) == (CHAIN, checksum)
    assert is_body_valid(SEED, prefix, data, 0, OFFSET)


def test_prefix_is_found_at_any_position_of_a_buffer() -> None:
    data = b"\xff" * 24 + record() + b"\xff" * 8
    assert decode_prefix(SEED, data, 24, OFFSET, END) == decode_prefix(
        SEED, record(), 0, OFFSET, END
    )
    assert decode_prefix(SEED, data, 16, OFFSET, END) is None


def test_layout_on_disk_is_the_documented_one() -> None:
    data, checksum = encoded(synced_offset=4096)
    assert data[:4] == magic_bytes(SEED)

    def word(offset: int, size: int) -> int:
        return int.from_bytes(data[offset : offset + size], "little")

    assert word(0, 4) ^ int.from_bytes(b"RfLr", "little") == SEED & 0xFFFFFFFF
    assert [word(offset, 4) for offset in (4, 8, 12)] == [1, PREFIX_BYTES + len(BODY), 4096]
    assert [word(offset, 8) for offset in range(16, 80, 8)] == [9, 7, 2, 3, 4, 6, 5, CHAIN]
    assert word(80, 8) == xxh3_64_intdigest(BODY, SEED + OFFSET)
    assert word(88, 8) == xxh3_64_intdigest(data[:88], SEED + OFFSET) == checksum
    assert PREFIX_BYTES == 96


def test_numbers_of_the_kinds_are_the_documented_ones() -> None:
    assert [(kind.name, kind.value) for kind in RecordKind] == [
        ("ENTRIES", 1),
        ("MARK", 2),
        ("GROUP", 3),
        ("RESET", 4),
        ("COPY", 5),
        ("REMOVED", 6),
        ("PADDING", 7),
    ]


def test_chain_ties_a_record_to_the_bytes_of_the_one_before() -> None:
    state = HardState(1, 1, 0)
    checksums = set()
    for body in (b"one", b"two"):
        _, checksum = encode_prefix(
            SEED, OFFSET, 0, CHAIN, RecordKind.ENTRIES, 9, state, (1, 1, 1), body
        )
        checksums.add(checksum)
    for chain in (CHAIN, CHAIN + 1):
        _, checksum = encode_prefix(
            SEED, OFFSET, 0, chain, RecordKind.ENTRIES, 9, state, (1, 1, 1), b"one"
        )
        checksums.add(checksum)
    assert len(checksums) == 3


def test_largest_values_fit() -> None:
    largest = (1 << 64) - 1
    state = HardState(largest, largest, largest)
    data, _ = encode_prefix(
        SEED, OFFSET, 0, largest, RecordKind.COPY, largest, state, (largest,) * 3, b""
    )
    prefix = decode_prefix(SEED, data, 0, OFFSET, END)
    assert prefix is not None
    assert prefix.hard_state == state
    assert prefix.group == prefix.last_index == prefix.entries_term == prefix.chain == largest


def test_value_beyond_64_bits_is_an_error_and_not_cut() -> None:
    with pytest.raises(struct.error):
        encode_prefix(SEED, OFFSET, 0, 0, RecordKind.ENTRIES, 1 << 64, HardState(), (0, 0, 0), b"")


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


def resealed(position: int, size: int, value: int) -> bytes:
    """A record with another field, and a prefix checksum that fits it."""
    fields = bytearray(record()[: PREFIX_BYTES - 8])
    fields[position : position + size] = value.to_bytes(size, "little")
    checksum = xxh3_64_intdigest(bytes(fields), SEED + OFFSET)
    return bytes(fields) + checksum.to_bytes(8, "little") + BODY


def test_magic_of_another_segment_is_not_valid_whatever_the_checksum() -> None:
    magic = int.from_bytes(magic_bytes(SEED), "little")
    assert decode_prefix(SEED, resealed(0, 4, magic), 0, OFFSET, END) is not None
    assert decode_prefix(SEED, resealed(0, 4, magic ^ 1), 0, OFFSET, END) is None


def test_length_shorter_than_a_prefix_is_not_valid() -> None:
    assert decode_prefix(SEED, resealed(8, 4, PREFIX_BYTES), 0, OFFSET, END) is not None
    assert decode_prefix(SEED, resealed(8, 4, PREFIX_BYTES - 1), 0, OFFSET, END) is None


def test_unknown_kind_is_decoded_for_the_caller_to_name() -> None:
    prefix = decode_prefix(SEED, resealed(4, 4, 99), 0, OFFSET, END)
    assert prefix is not None
    assert prefix.kind == 99


def test_seeds_have_magics_of_their_own() -> None:
    assert len({magic_bytes(seed) for seed in range(1, 100)}) == 99


def test_zeros_are_not_a_record() -> None:
    assert decode_prefix(SEED, bytes(PREFIX_BYTES), 0, OFFSET, END) is None


def test_align_rounds_up_to_eight() -> None:
    assert [align(length) for length in (0, 1, 7, 8, 9, 96)] == [0, 8, 8, 8, 16, 96]
