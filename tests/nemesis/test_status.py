"""Leaders as they are seen: only newer terms are news."""

import random

from tests.nemesis.status import GroupStatus, LeaderWatch, Led


def status(group: int, term: int, leader: int) -> GroupStatus:
    return GroupStatus(group, leader, term, (1, 2, 3), {})


def watch(*seen: GroupStatus) -> list[Led]:
    """Take in what nodes say, one thing a nanosecond."""
    times = iter(range(1, 100))
    watching = LeaderWatch([], random.Random(1), lambda: next(times))
    for each in seen:
        watching.take(each)
    return watching.seen


def test_a_leader_is_remembered_once() -> None:
    assert watch(status(1, 1, 2), status(1, 1, 2)) == [Led(1, 1, 2, 1)]


def test_a_node_that_was_left_behind_brings_no_news() -> None:
    seen = watch(status(1, 1, 2), status(1, 2, 3), status(1, 1, 2), status(1, 2, 3))
    assert [led.node for led in seen] == [2, 3]


def test_a_term_without_a_leader_is_news_and_a_node_that_knows_none_in_the_same_is_not() -> None:
    seen = watch(status(1, 1, 2), status(1, 1, 0), status(1, 2, 0), status(1, 2, 1))
    assert [(led.term, led.node) for led in seen] == [(1, 2), (2, 0), (2, 1)]


def test_groups_are_told_apart() -> None:
    assert len(watch(status(1, 1, 2), status(2, 1, 2))) == 2
