from __future__ import annotations

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

indexes = st.lists(st.integers(0, 20), max_size=7)


def naive(acknowledged: list[int]) -> int:
    """Return the highest index that more than half have reached, found by trying all of them."""
    needed = len(acknowledged) // 2 + 1
    return max(i for i in range(21) if sum(a >= i for a in acknowledged) >= needed)


@given(indexes.filter(bool))
def test_majority_index_is_the_highest_index_that_a_majority_reached(
    acknowledged: list[int],
) -> None:
    assert majority_index(acknowledged) == naive(acknowledged)


def test_majority_index_of_three_is_the_median_in_any_order() -> None:
    for a in range(4):
        for b in range(4):
            for c in range(4):
                assert majority_index([a, b, c]) == sorted([a, b, c])[1]


def test_an_empty_half_restrains_nothing() -> None:
    assert majority_index([]) == NUMBER_MAX
    assert quorum_index([[3, 4, 5], []]) == 4
    assert majority_vote((), {}) is VoteResult.WON


@given(indexes, indexes)
def test_joint_index_is_the_minimum_of_the_halves(left: list[int], right: list[int]) -> None:
    joint = quorum_index([left, right])
    assert joint == min(majority_index(left), majority_index(right))
    assert joint == quorum_index([right, left])
    assert quorum_index([left, left]) == majority_index(left)


votes = st.dictionaries(st.integers(1, 6), st.booleans())
halves = st.sets(st.integers(1, 6)).map(tuple)


@given(halves, votes)
def test_majority_vote_agrees_with_counting(
    voters: tuple[int, ...], given_votes: dict[int, bool]
) -> None:
    needed = len(voters) // 2 + 1 if voters else 0
    granted = sum(given_votes.get(voter) is True for voter in voters)
    refused = sum(given_votes.get(voter) is False for voter in voters)
    if granted >= needed:
        expected = VoteResult.WON
    elif len(voters) - refused < needed:
        expected = VoteResult.LOST
    else:
        expected = VoteResult.PENDING
    assert majority_vote(voters, given_votes) is expected


@given(halves, halves, votes)
def test_joint_vote_is_won_in_both_and_lost_in_either(
    left: tuple[int, ...], right: tuple[int, ...], given_votes: dict[int, bool]
) -> None:
    results = {majority_vote(left, given_votes), majority_vote(right, given_votes)}
    joint = quorum_vote([left, right], given_votes)
    if VoteResult.LOST in results:
        assert joint is VoteResult.LOST
    elif results == {VoteResult.WON}:
        assert joint is VoteResult.WON
    else:
        assert joint is VoteResult.PENDING
