"""Majorities and joint majorities, compared with naive rules over all small cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_core.entries import NUMBER_MAX
from rafter_core.quorum import (
    VoteResult,
    majority_index,
    majority_vote,
    quorum_index,
    quorum_vote,
)

WON, LOST, PENDING = VoteResult.WON, VoteResult.LOST, VoteResult.PENDING

indexes = st.lists(st.integers(0, NUMBER_MAX), max_size=9)


def naive_index(acknowledged: Sequence[int]) -> int:
    """Return the highest acknowledged index that more than half have reached."""
    reached = [
        index
        for index in acknowledged
        if 2 * sum(other >= index for other in acknowledged) > len(acknowledged)
    ]
    return max(reached, default=NUMBER_MAX)


def naive_vote(halves: Sequence[Sequence[int]], votes: Mapping[int, bool]) -> VoteResult:
    """Try every way in which the missing votes may come in."""
    missing = sorted({voter for half in halves for voter in half} - set(votes))
    outcomes = set()
    for answers in product((False, True), repeat=len(missing)):
        final = {**votes, **dict(zip(missing, answers, strict=True))}
        outcomes.add(all(2 * sum(final[v] for v in half) > len(half) for half in halves if half))
    if len(outcomes) == 2:
        return PENDING
    return WON if outcomes == {True} else LOST


def all_votes(voters: Sequence[int]) -> Iterator[dict[int, bool]]:
    """Yield every combination of answers and silence."""
    for answers in product((None, False, True), repeat=len(voters)):
        yield {
            voter: answer
            for voter, answer in zip(voters, answers, strict=True)
            if answer is not None
        }


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_majority_index_is_the_highest_index_that_a_majority_reached(count: int) -> None:
    for acknowledged in product(range(count + 1), repeat=count):
        assert majority_index(acknowledged) == naive_index(acknowledged), acknowledged


@given(indexes)
def test_majority_index_of_any_group_is_that_of_the_naive_rule(acknowledged: list[int]) -> None:
    assert majority_index(acknowledged) == naive_index(acknowledged)


@pytest.mark.parametrize(
    ("acknowledged", "expected"),
    [
        ([7], 7),
        ([7, 9], 7),
        ([9, 7], 7),
        ([9, 7, 8], 8),
        ([7, 7, 9], 7),
        ([9, 9, 7], 9),
        ([1, 2, 3, 4], 2),
        ([4, 3, 2, 1], 2),
        ([5, 1, 4, 2, 3], 3),
        ([6, 5, 4, 3, 2, 1], 3),
        ([7, 6, 5, 4, 3, 2, 1], 4),
        ([0, 0, NUMBER_MAX], 0),
    ],
)
def test_majority_index_by_example(acknowledged: list[int], expected: int) -> None:
    assert majority_index(acknowledged) == expected


def test_majority_index_leaves_its_argument_alone() -> None:
    acknowledged = [5, 1, 4, 2]
    majority_index(acknowledged)
    majority_index(acknowledged[:3])
    assert acknowledged == [5, 1, 4, 2]


def test_an_empty_half_restrains_nothing() -> None:
    assert majority_index([]) == NUMBER_MAX
    assert quorum_index([]) == NUMBER_MAX
    assert quorum_index([[]]) == NUMBER_MAX
    assert quorum_index([[3, 4, 5], []]) == 4
    assert quorum_index([[], [3, 4, 5]]) == 4
    assert majority_vote((), {}) is WON
    assert quorum_vote((), {}) is WON
    assert quorum_vote([(), (1,)], {1: False}) is LOST
    assert quorum_vote([(1,), ()], {}) is PENDING


@given(indexes, indexes)
def test_joint_index_is_the_minimum_of_the_halves(left: list[int], right: list[int]) -> None:
    joint = quorum_index([left, right])
    assert joint == min(naive_index(left), naive_index(right))
    assert joint == quorum_index([right, left])
    assert quorum_index([left, left]) == quorum_index([left]) == majority_index(left)


@given(indexes.filter(bool))
def test_what_lies_below_the_index_may_as_well_be_missing(acknowledged: list[int]) -> None:
    """Only whether a node reached the index counts, not by how much it missed it."""
    index = majority_index(acknowledged)
    assert majority_index([seen if seen >= index else 0 for seen in acknowledged]) == index
    assert majority_index(
        [max(0, seen - 1) if seen < index else seen for seen in acknowledged]
    ) == (index)


@pytest.mark.parametrize(
    ("voters", "votes", "expected"),
    [
        ((1,), {}, PENDING),
        ((1,), {1: True}, WON),
        ((1,), {1: False}, LOST),
        ((1, 2), {1: True}, PENDING),
        ((1, 2), {1: True, 2: True}, WON),
        ((1, 2), {1: False}, LOST),
        ((1, 2, 3), {1: True}, PENDING),
        ((1, 2, 3), {1: True, 3: True}, WON),
        ((1, 2, 3), {1: False, 2: True}, PENDING),
        ((1, 2, 3), {2: False, 3: False}, LOST),
        ((1, 2, 3, 4), {1: True, 2: True}, PENDING),
        ((1, 2, 3, 4), {1: False, 2: False}, LOST),
        ((1, 2, 3, 4), {1: True, 2: True, 3: True}, WON),
        ((1, 2, 3), {1: True, 4: True, 5: True}, PENDING),
        ((1, 2, 3), {1: True, 4: False, 5: False}, PENDING),
    ],
)
def test_majority_vote_by_example(
    voters: tuple[int, ...], votes: dict[int, bool], expected: VoteResult
) -> None:
    assert majority_vote(voters, votes) is expected


@pytest.mark.parametrize("count", range(7))
def test_majority_vote_is_decided_once_the_missing_votes_cannot_change_it(count: int) -> None:
    voters = range(1, count + 1)
    for votes in all_votes(voters):
        assert majority_vote(voters, votes) is naive_vote([voters], votes), votes


def test_joint_vote_is_won_in_both_and_lost_in_either() -> None:
    subsets = [
        tuple(voter for voter in range(1, 5) if mask >> voter & 1) for mask in range(0, 32, 2)
    ]
    every = list(all_votes(range(1, 5)))
    for left, right in product(subsets, repeat=2):
        for votes in every:
            results = {majority_vote(left, votes), majority_vote(right, votes)}
            if LOST in results:
                expected = LOST
            elif results == {WON}:
                expected = WON
            else:
                expected = PENDING
            assert quorum_vote([left, right], votes) is expected, (left, right, votes)


def test_joint_vote_is_never_more_certain_than_the_naive_rule() -> None:
    for votes in all_votes(range(1, 6)):
        halves = [(1, 2, 3), (3, 4, 5)]
        result = quorum_vote(halves, votes)
        assert result is naive_vote(halves, votes) or result is PENDING


def test_results_have_the_numbers_of_etcd() -> None:
    assert [(result.name, result.value) for result in VoteResult] == [
        ("PENDING", 1),
        ("LOST", 2),
        ("WON", 3),
    ]
