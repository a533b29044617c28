"""The view of the whole configuration: a progress for each node, the votes of an election."""

from __future__ import annotations

from rafter_core.changer import ChangeResult
from rafter_core.errors import InvariantError
from rafter_core.inflights import Inflights
from rafter_core.membership import Membership
from rafter_core.progress import Progress
from rafter_core.quorum import VoteResult, quorum_index, quorum_vote


class ProgressTracker:
    """Progress by node id, ascending, and the quorum questions asked about it.

    `progress` and `peers` (all but this node) iterate in ascending order of ids: the order of
    messages is part of the behaviour that a seed must replay.
    """

    __slots__ = (
        "_bytes_max",
        "_halves",
        "_messages_max",
        "_node_id",
        "_single_half",
        "membership",
        "own",
        "peers",
        "progress",
        "votes",
    )

    def __init__(
        self,
        node_id: int,
        membership: Membership,
        messages_max: int,
        bytes_max: int,
        last_index: int = 0,
    ) -> None:
        """Track every node of `membership` anew. Raises InvariantError if that is impossible."""
        self._node_id = node_id
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self.progress: dict[int, Progress] = {}
        # A node outside of the configuration knows its own progress too; nobody counts it.
        self.own = self._new_progress(node_id, last_index)
        self.votes: dict[int, bool] = {}
        self.restore(membership, last_index)

    def restore(self, membership: Membership, last_index: int) -> None:
        """Take over a whole configuration, from storage or a snapshot: every progress is new."""
        fault = membership.fault()
        if fault is not None:
            raise InvariantError(fault)
        self.switch(ChangeResult(membership, frozenset(membership.nodes)), last_index)

    def switch(self, result: ChangeResult, last_index: int) -> None:
        """Take over the next configuration; nodes that stay keep their progress.

        A new node is probed with the last index, and counts as active, so that a check of the
        quorum does not fail before it had a chance to speak.
        """
        membership = result.membership
        progress: dict[int, Progress] = {}
        for node in membership.nodes:
            known = self.progress.get(node)
            if known is None or node in result.fresh:
                known = self._new_progress(node, last_index)
            progress[node] = known
        self.membership = membership
        self.progress = progress
        self.own = progress.get(self._node_id, self.own)
        self.peers = tuple(item for item in progress.values() if item.node != self._node_id)
        self._halves = tuple(tuple(progress[voter] for voter in half) for half in membership.halves)
        self._single_half = self._halves[0] if len(self._halves) == 1 else None

    def reset(self, last_index: int) -> None:
        """Start a term: nobody's log is known except our own."""
        for item in self.progress.values():
            item.reset(0, last_index + 1)
        self.own.reset(last_index, last_index + 1)

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
        for item in self.peers:
            item.recent_active = False

    def record_vote(self, node: int, granted: bool) -> None:
        """Record an answer. The first one of a node counts: repeated messages change nothing."""
        self.votes.setdefault(node, granted)

    def election_result(self) -> VoteResult:
        """Return how the election stands with the answers recorded so far."""
        return quorum_vote(self.membership.halves, self.votes)

    def _new_progress(self, node: int, last_index: int) -> Progress:
        progress = Progress(
            node, max(last_index, 1), Inflights(self._messages_max, self._bytes_max)
        )
        progress.recent_active = True
        return progress
