from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_kv.slots import (
    CURSOR_BITS,
    GROUPS_MAX,
    POSITION_BITS,
    SLOT_COUNT,
    CursorError,
    decode_cursor,
    encode_cursor,
    group_by_slot,
    slot_of,
    slot_ranges,
)


@pytest.mark.parametrize(
    ("key", "slot"),
    [(b"foo", 12182), (b"a", 15495), (b"123456789", 0x31C3), (b"", 0)],
)
def test_slots_are_those_of_redis_cluster(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"{user}.a", b"user"),
        (b"x{user}y{other}", b"user"),
        (b"x{{user}}", b"{user"),
    ],
)
def test_only_the_first_tag_is_hashed(key: bytes, hashed: bytes) -> None:
    assert slot_of(key) == slot_of(hashed)


def test_an_empty_or_open_tag_is_no_tag() -> None:
    assert slot_of(b"{}a") != slot_of(b"{}b")
    assert slot_of(b"{}{a}x") != slot_of(b"a")
    assert slot_of(b"{a") != slot_of(b"a")


@given(st.integers(1, SLOT_COUNT))
def test_ranges_cover_every_slot_once_and_evenly(groups: int) -> None:
    ranges = slot_ranges(groups)
    assert [each.group for each in ranges] == list(range(1, groups + 1))
    assert ranges[0].first == 0
    assert ranges[-1].last == SLOT_COUNT - 1
    assert all(left.last + 1 == right.first for left, right in pairwise(ranges))
    sizes = {each.last - each.first + 1 for each in ranges}
    assert max(sizes) - min(sizes) <= 1


def test_the_table_agrees_with_the_ranges() -> None:
    table = group_by_slot(7)
    assert len(table) == SLOT_COUNT
    assert all(table[each.first] == table[each.last] == each.group for each in slot_ranges(7))


@pytest.mark.parametrize("groups", [0, -1, SLOT_COUNT + 1])
def test_an_impossible_number_of_groups_is_refused(groups: int) -> None:
    with pytest.raises(ValueError, match="must be 1 to 16384"):
        slot_ranges(groups)


@given(st.integers(0, GROUPS_MAX - 1), st.integers(0, (1 << POSITION_BITS) - 1))
def test_cursors_round_trip_below_2_to_the_53(ordinal: int, position: int) -> None:
    cursor = encode_cursor(ordinal, position)
    assert cursor < 1 << CURSOR_BITS
    assert (cursor == 0) == (ordinal == position == 0)
    assert decode_cursor(b"%d" % cursor, GROUPS_MAX) == (ordinal, position)


@pytest.mark.parametrize(
    "text", [b"", b"-1", b"x", b"+1", b" 1", b"1" * 5000, b"99999999999999999"]
)
def test_what_is_no_cursor_is_refused(text: bytes) -> None:
    with pytest.raises(CursorError):
        decode_cursor(text, GROUPS_MAX)


def test_a_cursor_of_a_group_that_does_not_exist_is_refused() -> None:
    with pytest.raises(CursorError):
        decode_cursor(b"%d" % encode_cursor(3, 0), 3)


def test_parts_that_do_not_fit_in_a_cursor_are_refused() -> None:
    with pytest.raises(ValueError, match="room for"):
        encode_cursor(GROUPS_MAX, 0)
    with pytest.raises(ValueError, match="does not fit"):
        encode_cursor(0, 1 << POSITION_BITS)
