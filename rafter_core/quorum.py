"""Quorum arithmetic: pure functions over majorities, and over joint configurations of several.

A configuration is a sequence of halves (sets of voters), and a decision needs a majority in each.
There is one half outside of a membership change. (Thesis 4.3.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

from rafter_core.entries import NUMBER_MAX


class VoteResult(IntEnum):
    """How an election stands. The numbers are etcd's."""

    PENDING = 1
    LOST = 2
    WON = 3


def majority_index(acknowledged: Sequence[int]) -> int:
    """Return the highest index that a majority has acknowledged, given one index for each voter.

    An empty half restrains nothing: it returns NUMBER_MAX, so that the minimum over halves
    ignores it.
    """
    count = len(acknowledged)
    if count == 3:
        # The usual case and the hottest line of a leader: the median of three without sorting.
        first, second, third = acknowledged
        if first > second:
            first, second = second, first
        if third >= second:
            return second
        return max(first, third)
    if count == 1:
        return acknowledged[0]
    if count == 0:
        return NUMBER_MAX
    return sorted(acknowledged)[count - (count // 2 + 1)]


def quorum_index(halves: Sequence[Sequence[int]]) -> int:
    """Return the highest index that a majority of every half has acknowledged."""
    if len(halves) == 1:
        return majority_index(halves[0])
    return min(map(majority_index, halves), default=NUMBER_MAX)


def majority_vote(voters: Sequence[int], votes: Mapping[int, bool]) -> VoteResult:
    """Return how an election stands in one half. An empty half is won."""
    if not voters:
        return VoteResult.WON
    granted = missing = 0
    for voter in voters:
        answer = votes.get(voter)
        if answer is None:
            missing += 1
        elif answer:
            granted += 1
    needed = len(voters) // 2 + 1
    if granted >= needed:
        return VoteResult.WON
    if granted + missing >= needed:
        return VoteResult.PENDING
    return VoteResult.LOST


def quorum_vote(halves: Sequence[Sequence[int]], votes: Mapping[int, bool]) -> VoteResult:
    """Return how an election stands: won if won in every half, lost if lost in any."""
    results = [majority_vote(half, votes) for half in halves]
    if VoteResult.LOST in results:
        return VoteResult.LOST
    if VoteResult.PENDING in results:
        return VoteResult.PENDING
    return VoteResult.WON
