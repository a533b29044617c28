from hypothesis import given
from hypothesis import strategies as st

from rafter_kv.deadlines import HEAP_SLACK, Deadlines

BUCKETS = 4

# (bucket, key, deadline or None for discard)
CHANGES = st.lists(
    st.tuples(
        st.integers(0, BUCKETS - 1),
        st.sampled_from([b"a", b"b", b"c"]),
        st.none() | st.integers(1, 20),
    )
)


def take_all(deadlines: Deadlines, now_ms: int) -> list[tuple[int, bytes]]:
    taken = []
    while (number := deadlines.due_bucket(now_ms)) is not None:
        first_key = deadlines.first_key(number)
        assert deadlines.take_first(number) == first_key
        taken.append((number, first_key))
    return taken


@given(CHANGES, st.integers(0, 25))
def test_keys_come_due_in_an_order_that_past_changes_do_not_touch(
    changes: list[tuple[int, bytes, int | None]], now_ms: int
) -> None:
    lived = Deadlines(BUCKETS)
    truth: dict[tuple[int, bytes], int] = {}
    for number, key, deadline_ms in changes:
        if deadline_ms is None:
            assert lived.discard(number, key) == ((number, key) in truth)
            truth.pop((number, key), None)
        else:
            lived.set(number, key, deadline_ms)
            truth[number, key] = deadline_ms
    restored = Deadlines(BUCKETS)
    for (number, key), deadline_ms in truth.items():
        restored.set(number, key, deadline_ms)

    assert len(lived) == len(truth)
    assert lived.next_ms() == min(truth.values(), default=None)
    expected = sorted(
        (deadline_ms, number, key)
        for (number, key), deadline_ms in truth.items()
        if deadline_ms <= now_ms
    )
    assert take_all(lived, now_ms) == [(number, key) for _, number, key in expected]
    assert take_all(restored, now_ms) == [(number, key) for _, number, key in expected]
    assert len(lived) == len(truth) - len(expected)


def test_outdated_entries_do_not_pile_up() -> None:
    deadlines = Deadlines(BUCKETS)
    for deadline_ms in range(100_000, 0, -1):
        deadlines.set(deadline_ms % BUCKETS, b"key", deadline_ms)
    assert len(deadlines) == BUCKETS
    assert all(len(heap) <= 2 + HEAP_SLACK for heap in deadlines._heaps)
    assert len(deadlines._due_buckets) <= 4 * BUCKETS
    assert deadlines.next_ms() == 1


def test_discarding_frees_what_a_bucket_held() -> None:
    deadlines = Deadlines(1)
    for number in range(10_000):
        deadlines.set(0, b"%d" % number, 1)
    for number in range(10_000):
        deadlines.discard(0, b"%d" % number)
    assert len(deadlines._heaps[0]) <= HEAP_SLACK
    assert deadlines.next_ms() is None


def test_clear_leaves_nothing_due() -> None:
    deadlines = Deadlines(BUCKETS)
    deadlines.set(1, b"key", 5)
    deadlines.clear()
    assert deadlines.due_bucket(10) is None
    assert len(deadlines) == 0


def test_its_parts_are_all_that_grows_with_the_deadlines() -> None:
    deadlines = Deadlines(4)
    assert not any(deadlines.parts())
    for number in range(4):
        deadlines.set(number, b"k%d" % number, number)
    assert [len(part) for part in deadlines.parts()] == [1] * 8
