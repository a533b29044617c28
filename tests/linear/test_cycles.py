"""Tests of the search for cycles among operations on append lists."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

from tests.linear.cycles import cycles, shortest_cycle, strong_components
from tests.linear.history import History, Operation, Outcome


def known(
    invoked: int, completed: int, kind: str, *arguments: Any, result: Any = None
) -> Operation:
    return Operation(1, "p", kind, arguments, result, invoked, completed, Outcome.OK)


def read_both(invoked: int, completed: int, *values: bytes | None) -> Operation:
    return known(invoked, completed, "read_many", (b"x", b"y"), result=values)


APPENDS = [known(1, 99, "append", b"x", b"1"), known(1, 99, "append", b"y", b"2")]


def test_lists_read_in_one_order_make_no_cycle() -> None:
    reads = [
        read_both(1, 99, None, None),
        read_both(1, 99, b"1", None),
        read_both(1, 99, b"1", b"2"),
    ]
    assert cycles(History([*APPENDS, *reads])) == []


def test_two_reads_that_each_miss_what_the_other_saw_make_a_cycle() -> None:
    reads = [read_both(1, 99, b"1", None), read_both(1, 99, None, b"2")]
    (violation,) = cycles(History([*APPENDS, *reads]))
    lines = violation.text.splitlines()
    assert lines[0] == "partition 'p', round and round:"
    assert len(lines) == 5
    assert sum("which it did not see" in line for line in lines) == 2
    assert sum("which read its token" in line for line in lines) == 2


def test_a_read_that_misses_what_had_been_appended_makes_a_cycle_with_real_time() -> None:
    append = known(1, 2, "append", b"x", b"1")
    stale, fresh = read_both(3, 4, None, None), read_both(5, 6, b"1", None)
    (violation,) = cycles(History([append, stale, fresh]))
    assert "which began after its end" in violation.text
    # Without a read of the token: the append was acknowledged, so it is there from then on.
    assert len(cycles(History([append, stale]))) == 1
    assert cycles(History([append, read_both(2, 4, None, None), fresh])) == []


def test_real_time_reaches_over_operations_in_between() -> None:
    append = known(1, 2, "append", b"x", b"1")
    between = [
        known(2 * step + 3, 2 * step + 4, "append", b"y", b"%d;" % step) for step in range(10)
    ]
    stale = known(50, 51, "read", b"x")
    (violation,) = cycles(History([append, *between, stale]))
    assert "client 1: read(b'x')" in violation.text


def test_appends_of_unknown_outcome_count_only_if_they_were_seen() -> None:
    unseen = Operation(1, "p", "append", (b"x", b"3"), None, 1, None, Outcome.UNKNOWN)
    assert cycles(History([*APPENDS, unseen, read_both(5, 6, b"1", b"2")])) == []
    reads = [read_both(5, 6, b"13", b"2"), read_both(7, 8, b"1", b"2")]
    assert len(cycles(History([*APPENDS, unseen, *reads]))) == 1


def test_a_list_read_in_two_orders_is_reported_as_such() -> None:
    appends = [known(1, 99, "append", token) for token in (b"1", b"2")]
    reads = [known(1, 99, "read", result=value) for value in (b"12", b"21")]
    (violation,) = cycles(History([*appends, *reads]))
    assert violation.text.startswith("list 'p' was read in two orders: ")


def test_a_sub_key_that_is_also_written_as_a_whole_is_no_list() -> None:
    reads = [read_both(1, 99, b"1", None), read_both(1, 99, None, b"2")]
    write = known(1, 99, "write", b"x", b"1")
    assert cycles(History([*APPENDS, *reads, write])) == []


def test_long_histories_are_checked_without_recursion() -> None:
    operations = []
    value = b""
    for step in range(5000):
        token = b"%d;" % step
        operations.append(known(4 * step, 4 * step + 1, "append", token))
        value = value + token if step < 50 else value
    operations.append(known(1, 2, "read", result=value))
    assert cycles(History(operations))


def test_components_are_the_sets_of_nodes_that_reach_each_other() -> None:
    random = Random(1)
    for _ in range(200):
        size = random.randrange(1, 9)
        edges = {
            node: {random.randrange(size): "" for _ in range(random.randrange(3))}
            for node in range(size)
        }
        reach = {node: _reachable(edges, node) for node in edges}
        expected = {
            frozenset(other for other in edges if other in reach[node] and node in reach[other])
            for node in edges
        }
        components = strong_components(edges)
        assert sorted(map(sorted, components)) == sorted(map(sorted, expected))
        for component in components:
            if len(component) > 1:
                cycle = shortest_cycle(edges, component)
                assert all(second in edges[first] for first, second in cycle)
                assert all(one[1] == two[0] for one, two in pairwise([*cycle, cycle[0]]))


def _reachable(edges: dict[int, dict[int, str]], start: int) -> set[int]:
    reached, pending = {start}, [start]
    while pending:
        for other in edges[pending.pop()]:
            if other not in reached:
                reached.add(other)
                pending.append(other)
    return reached
