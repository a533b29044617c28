"""The view of the whole configuration: a progress for each node, the votes of an election."""

from __future__ import annotations

from rafter_core.entries import Membership
from rafter_core.inflights import Inflights
from rafter_core.progress import Progress
from rafter_core.quorum import VoteResult, quorum_index, quorum_vote


class ProgressTracker:
    """Progress by node id, ascending, and the quorum questions asked about it.

    `progress` and `peers` (all but this node) iterate in ascending order of ids: the order of
    messages is part of the behaviour that a seed must replay.
    """

    __slots__ = ("_halves", "_single_half", "membership", "own", "peers", "progress", "votes")

    def __init__(
        self, node_id: int, membership: Membership, messages_max: int, bytes_max: int
    ) -> None:
        self.membership = membership
        self.progress: dict[int, Progress] = {
            node: Progress(node, 1, Inflights(messages_max, bytes_max)) for node in membership.nodes
        }
        own = self.progress.get(node_id)
        # A node outside of the configuration knows its own progress too; nobody counts it.
        self.own = own or Progress(node_id, 1, Inflights(messages_max, bytes_max))
        self.peers = tuple(item for item in self.progress.values() if item.node != node_id)
        self.votes: dict[int, bool] = {}
        self._halves = tuple(
            tuple(self.progress[voter] for voter in half) for half in membership.halves
        )
        self._single_half = self._halves[0] if len(self._halves) == 1 else None

    def is_voter(self, node: int) -> bool:
        """Return whether the node counts in any half of the configuration."""
        return any(node in half for half in self.membership.halves)

    def reset(self, last_index: int, stable_index: int) -> None:
        """Start a term: nobody's log is known except the durable part of our own."""
        for item in self.progress.values():
            item.reset(0, last_index + 1)
        self.own.reset(stable_index, last_index + 1)

    def committed_index(self) -> int:
        """Return the highest index that is durable on a quorum."""
        half = self._single_half
        if half is not None and len(half) == 3:
            # quorum_index without the lists: this runs for every acknowledgement of a leader.
            first, second, third = half[0].match, half[1].match, half[2].match
            if first > second:
                first, second = second, first
            if third >= second:
                return second
            return max(first, third)
        return quorum_index([[item.match for item in half] for half in self._halves])

    def confirmed_read(self) -> int:
        """Return the newest read counter that a quorum has confirmed."""
        return quorum_index([[item.read_acknowledged for item in half] for half in self._halves])

    def is_quorum_active(self) -> bool:
        """Return whether a quorum was heard from since the last call of `forget_activity`."""
        votes = {item.node: item.recent_active for item in self.progress.values()}
        return quorum_vote(self.membership.halves, votes) is VoteResult.WON

    def forget_activity(self) -> None:
        """Begin a new period of listening; this node always hears itself."""
        for item in self.progress.values():
            item.recent_active = item is self.own

    def record_vote(self, node: int, granted: bool) -> None:
        """Record an answer. The first one of a node counts: repeated messages change nothing."""
        self.votes.setdefault(node, granted)

    def election_result(self) -> VoteResult:
        """Return how the election stands with the answers recorded so far."""
        return quorum_vote(self.membership.halves, self.votes)
