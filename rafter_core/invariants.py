"""The promises that hold between any two inputs, checked after each of them, in production too.

Progress checks its own (0 <= match < next), the log its marks. Here is what needs a memory of the
past: the term never falls, a vote is cast once in a term, the commit index never goes back
(paper, figure 3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafter_core.entries import NO_NODE
from rafter_core.errors import InvariantError

if TYPE_CHECKING:
    from rafter_core.raft import Raft


class Guard:
    """Remembers what one replica promised and compares."""

    __slots__ = ("_commit", "_term", "_vote")

    def __init__(self, raft: Raft) -> None:
        self._term = raft.term
        self._vote = raft.vote
        self._commit = raft.log.committed

    def check(self, raft: Raft) -> None:
        """Raise InvariantError if the replica broke a promise since the last call."""
        log = raft.log
        if raft.term != self._term or raft.vote != self._vote:
            self._check_vote(raft)
        commit = log.committed
        if commit < self._commit:
            raise InvariantError(f"commit index went back from {self._commit} to {commit}")
        self._commit = commit
        if not log.applied <= log.applying <= commit <= log.last_index:
            raise InvariantError(
                f"log marks out of order: applied {log.applied}, applying {log.applying}, "
                f"committed {commit}, last {log.last_index}"
            )

    def _check_vote(self, raft: Raft) -> None:
        if raft.term < self._term:
            raise InvariantError(f"term fell from {self._term} to {raft.term}")
        if raft.term == self._term and self._vote != NO_NODE:
            raise InvariantError(
                f"vote of term {raft.term} changed from {self._vote} to {raft.vote}"
            )
        self._term = raft.term
        self._vote = raft.vote
