from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from rafter_kv.keyspace import BUCKET_COUNT, BUCKET_MASK, KeySpace
from rafter_kv.slots import POSITION_BITS


def filled(count: int) -> KeySpace:
    keyspace = KeySpace()
    for number in range(count):
        keyspace.put(b"key:%d" % number, b"%d" % number)
    return keyspace


def contents(keyspace: KeySpace) -> dict[bytes, tuple[bytes, int | None]]:
    return {
        key: (value, deadlines.get(key))
        for bucket, deadlines in zip(keyspace.buckets, keyspace.deadlines.by_bucket, strict=True)
        for key, value in bucket.items()
    }


def test_a_key_lives_until_its_deadline_and_not_at_it() -> None:
    keyspace = KeySpace()
    keyspace.put(b"k", b"v")
    keyspace.set_deadline(b"k", 100)
    assert keyspace.get(b"k", 99) == b"v"
    assert keyspace.get(b"k", 100) is None
    assert list(keyspace.keys(99)) == [b"k"]
    assert list(keyspace.keys(100)) == []


def test_looking_at_a_due_key_changes_nothing() -> None:
    keyspace = KeySpace()
    keyspace.put(b"k", b"v")
    keyspace.set_deadline(b"k", 100)
    before = contents(keyspace)
    keyspace.get(b"k", 200)
    keyspace.scan(0, 10, 200)
    assert contents(keyspace) == before


def test_a_write_to_a_due_key_does_not_inherit_its_deadline() -> None:
    keyspace = KeySpace()
    keyspace.put(b"k", b"v")
    keyspace.set_deadline(b"k", 100)
    assert keyspace.take(b"k", 150) is None
    keyspace.replace(b"k", b"new")
    assert keyspace.deadline_ms(b"k") is None


def test_put_clears_the_deadline_and_replace_keeps_it() -> None:
    keyspace = KeySpace()
    keyspace.put(b"k", b"v")
    keyspace.set_deadline(b"k", 100)
    keyspace.replace(b"k", b"w")
    assert keyspace.deadline_ms(b"k") == 100
    keyspace.put(b"k", b"x")
    assert keyspace.deadline_ms(b"k") is None


def test_due_keys_are_removed_earliest_first_and_no_more_than_asked() -> None:
    keyspace = filled(10)
    for number in range(10):
        keyspace.set_deadline(b"key:%d" % number, 100 - number)
    assert keyspace.remove_due(97, 2) == 2
    assert keyspace.key_count == keyspace.expires_count == 8
    assert not {b"key:9", b"key:8"} & set(keyspace.keys(0))
    assert keyspace.remove_due(97, 100) == 5
    assert keyspace.remove_due(97, 100) == 0


def test_a_scan_returns_each_key_exactly_once() -> None:
    keyspace = filled(3000)
    found, position = [], 0
    for _ in range(3000):
        page = keyspace.scan(position, 7, 0)
        found += page.keys
        position = page.position
        if not position:
            break
    assert sorted(found) == sorted(keyspace.keys(0))


@settings(max_examples=50)
@given(st.data())
def test_a_scan_misses_no_key_that_stays_while_others_come_and_go(data: st.DataObject) -> None:
    keyspace = filled(60)
    stay = {b"key:%d" % number for number in range(0, 60, 2)}
    found: list[bytes] = []
    position, steps = 0, 0
    while True:
        page = keyspace.scan(position, data.draw(st.integers(1, 9)), 0)
        found += page.keys
        position, steps = page.position, steps + 1
        if not position:
            break
        for number in data.draw(st.lists(st.integers(0, 30), max_size=4)):
            keyspace.remove(b"key:%d" % (2 * number + 1))
            keyspace.put(b"other:%d" % (steps * 100 + number), b"")
    assert stay <= set(found)
    assert len(set(found)) == len(found)


def test_keys_that_share_a_place_are_returned_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rafter_kv.keyspace.xxh3_64_intdigest", lambda _: 5 << 10 | 3)
    keyspace = filled(20)
    page = keyspace.scan(0, 1, 0)
    assert (len(page.keys), page.position) == (20, 0)


def test_the_bucket_of_a_key_is_the_same_at_every_replica() -> None:
    # Positions of a scan outlive a change of leader: this may not change between versions.
    keyspace = filled(1)
    assert xxh3_64_intdigest(b"key:0") & BUCKET_MASK == 640
    assert keyspace.buckets[640] == {b"key:0": b"0"}
    assert BUCKET_COUNT == 1024


@pytest.mark.parametrize("position", [-1, 1 << POSITION_BITS])
def test_a_position_out_of_range_is_refused(position: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        KeySpace().scan(position, 1, 0)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["put", "replace", "remove", "deadline", "persist", "due", "clear"]),
        st.integers(0, 40),
    ),
    max_size=20,
)


@settings(max_examples=100)
@given(CHANGES, st.integers(0, BUCKET_COUNT))
def test_frozen_keys_stay_as_they_were(changes: list[tuple[str, int]], read_before: int) -> None:
    keyspace = filled(30)
    for number in range(10):
        keyspace.set_deadline(b"key:%d" % number, number)
    before = contents(keyspace)
    frozen = keyspace.freeze()
    seen: dict[bytes, tuple[bytes, int | None]] = {}

    def read(numbers: range) -> None:
        for bucket_number in numbers:
            values, deadlines = frozen.bucket(bucket_number)
            seen.update({key: (value, deadlines.get(key)) for key, value in values.items()})

    read(range(read_before))
    for change, number in changes:
        key = b"key:%d" % number
        if change in ("put", "replace"):
            getattr(keyspace, change)(key, b"changed")
        elif change == "remove":
            keyspace.remove(key)
        elif change == "deadline" and keyspace.get(key, 0) is not None:
            keyspace.set_deadline(key, 1000)
        elif change == "persist":
            keyspace.clear_deadline(key)
        elif change == "due":
            keyspace.remove_due(number, 3)
        elif change == "clear":
            keyspace.clear()
    read(range(read_before, BUCKET_COUNT))
    assert seen == before
    assert (frozen.key_count, frozen.expires_count) == (30, 10)


class ChangedMeanwhile(dict[bytes, Any]):
    """A bucket that another thread changes right after a copy of it was made."""

    change: Callable[[], object]

    def copy(self) -> dict[bytes, Any]:
        copied = dict(self)
        self.change()
        return copied


@pytest.mark.parametrize("of_deadlines", [False, True], ids=["values", "deadlines"])
@pytest.mark.parametrize("change", ["put", "add", "remove", "persist", "clear", "twice"])
def test_a_change_while_a_bucket_is_read_makes_no_difference(
    change: str, of_deadlines: bool
) -> None:
    keyspace = filled(3000)
    keyspace.set_deadline(b"key:0", 50)
    before = contents(keyspace)
    number = xxh3_64_intdigest(b"key:0") & BUCKET_MASK
    added = b"added:321"
    assert xxh3_64_intdigest(added) & BUCKET_MASK == number

    def act() -> None:
        if change == "put":
            keyspace.put(b"key:0", b"changed")
        elif change == "add":
            keyspace.put(added, b"added")
        elif change == "remove":
            keyspace.remove(b"key:0")
        elif change == "persist":
            keyspace.clear_deadline(b"key:0")
        else:
            keyspace.clear()
            keyspace.put(b"key:0", b"after that")
            if change == "twice":
                keyspace.clear()

    frozen = keyspace.freeze()
    where: list[Any] = keyspace.deadlines.by_bucket if of_deadlines else keyspace.buckets
    where[number] = bucket = ChangedMeanwhile(where[number])
    bucket.change = act
    values, deadlines = frozen.bucket(number)
    read = {key: (value, deadlines.get(key)) for key, value in values.items()}
    of_bucket = [key for key in before if xxh3_64_intdigest(key) & BUCKET_MASK == number]
    assert read == {key: before[key] for key in of_bucket}


def test_each_bucket_of_frozen_keys_is_read_once() -> None:
    frozen = filled(3).freeze()
    frozen.bucket(7)
    with pytest.raises(RuntimeError, match="were read"):
        frozen.bucket(7)
    frozen.bucket(8)


def test_frozen_keys_hold_on_to_nothing_that_was_read_or_given_up() -> None:
    keyspace = filled(3000)
    frozen = keyspace.freeze()
    frozen.bucket(640)
    keyspace.put(b"key:0", b"of bucket 640")
    assert not any(frozen._originals)
    keyspace.put(b"key:1", b"of another")
    assert sum(map(len, filter(None, frozen._originals))) == 1
    keyspace.clear()
    keyspace.put(b"key:2", b"behind the removal of all")
    assert sum(map(len, filter(None, frozen._originals))) == 1
    frozen.close()
    assert not any(frozen._originals)
    assert frozen._cleared is None


def test_frozen_keys_given_up_for_later_ones_refuse_to_be_read() -> None:
    keyspace = filled(3)
    first = keyspace.freeze()
    second = keyspace.freeze()
    first.close()
    assert keyspace.frozen is second
    with pytest.raises(RuntimeError, match="given up"):
        first.bucket(0)
    second.close()
    assert keyspace.frozen is None


def test_a_key_space_that_is_let_go_of_gives_up_what_is_frozen_and_stays_readable() -> None:
    keyspace = filled(3000)
    keyspace.set_deadline(b"key:0", 50)
    frozen = keyspace.freeze()
    expected = contents(keyspace)
    parts = keyspace.release()
    with pytest.raises(RuntimeError, match="given up"):
        frozen.bucket(0)
    while parts:
        parts.pop()
    assert contents(keyspace) == expected
