"""What the leader knows about one follower, and the flow control that follows from it.

A follower is in one of three modes:

- PROBE: the leader does not know where the logs agree. One append with entries is sent, then
  nothing until it is answered or a heartbeat response arrives.
- REPLICATE: the logs agree up to `match`. Appends are sent optimistically ahead of the answers,
  as far as the window of inflight messages allows.
- SNAPSHOT: the entries it needs are compacted away and a snapshot is on its way. Nothing is sent
  until it acknowledges an index from which the log can go on, or the driver reports the outcome.

Invariant, always checked: 0 <= match < next.
"""

from __future__ import annotations

from enum import IntEnum

from rafter_core.errors import InvariantError
from rafter_core.inflights import Inflights


class ProgressMode(IntEnum):
    """How appends are sent to a follower. The numbers are etcd's."""

    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2


PROBE = ProgressMode.PROBE
REPLICATE = ProgressMode.REPLICATE
SNAPSHOT = ProgressMode.SNAPSHOT


class Progress:
    """The leader's view of one node, itself included.

    - `match`: highest index known to be durable there. Only grows within a term.
    - `next`: the next index to send. In PROBE a guess; in REPLICATE everything below it is on its
      way; in SNAPSHOT the index after the snapshot.
    - `pending_snapshot`: the index of the snapshot on its way, else 0.
    - `sent_commit`: the highest commit index sent, as far as no loss is known.
    - `recent_active`: heard from since the last check of the quorum.
    - `flow_paused`: sent what may be sent; wait for an answer or a heartbeat response.
    - `read_acknowledged`: newest read counter that the node confirmed.
    """

    __slots__ = (
        "flow_paused",
        "inflights",
        "match",
        "mode",
        "next",
        "node",
        "pending_snapshot",
        "read_acknowledged",
        "recent_active",
        "sent_commit",
    )

    def __init__(self, node: int, next_index: int, inflights: Inflights) -> None:
        self.node = node
        self.inflights = inflights
        self.reset(0, next_index)

    def reset(self, match: int, next_index: int) -> None:
        """Forget all that was learned in an earlier term."""
        self.match = match
        self.next = next_index
        self.mode = PROBE
        self.recent_active = False
        self.flow_paused = False
        self.pending_snapshot = 0
        self.sent_commit = 0
        self.read_acknowledged = 0
        self.inflights.reset()
        self._check()

    @property
    def is_paused(self) -> bool:
        """Return whether nothing may be sent at the moment, an empty append included."""
        return self.flow_paused or self.mode is SNAPSHOT

    def become_probe(self) -> None:
        """Search for the point of agreement again, from just behind `match`.

        After a snapshot, from just behind that: its outcome says whether it was applied.
        """
        self.next = max(self.match, self.pending_snapshot) + 1
        self._enter(PROBE)
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        """Send optimistically from `match` on: the logs are known to agree there."""
        self._enter(REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """Wait for a snapshot of this index to arrive."""
        self._enter(SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index
        self._check()

    def acknowledge(self, index: int) -> bool:
        """Take a positive answer. Return whether it taught anything; stale ones do not."""
        if index <= self.match:
            return False
        self.match = index
        if self.next <= index:
            self.next = index + 1
        self.flow_paused = False
        return True

    def reject(self, rejected: int, hint: int) -> bool:
        """Take a refusal of the append after `rejected`; `hint` is where the logs may agree.

        Return False for a stale or reordered refusal: `next` never falls to `match` or below, and
        in PROBE only the answer to the one outstanding append counts.
        """
        if self.mode is REPLICATE:
            if rejected <= self.match:
                return False
            self.next = self.match + 1
        else:
            if self.next - 1 != rejected:
                return False
            self.next = max(min(rejected, hint + 1), self.match + 1)
            self.flow_paused = False
        self.sent_commit = min(self.sent_commit, self.next - 1)
        self._check()
        return True

    def sent(self, count: int, size_bytes: int, commit: int) -> None:
        """Record that an append with `count` entries and the commit index was sent."""
        self.sent_commit = commit
        if self.mode is REPLICATE:
            inflights = self.inflights
            if count:
                self.next += count
                inflights.add(self.next - 1, size_bytes)
            # What overflows the window is a probe: no more until it is answered.
            self.flow_paused = inflights.is_full
        elif count:
            self.flow_paused = True

    def lacks_commit(self, commit: int) -> bool:
        """Return whether an empty append would move the follower's commit index."""
        sent = self.sent_commit
        return commit > sent and sent < self.next - 1

    def _enter(self, mode: ProgressMode) -> None:
        self.mode = mode
        self.flow_paused = False
        self.pending_snapshot = 0
        self.inflights.reset()

    def _check(self) -> None:
        if not 0 <= self.match < self.next:
            raise InvariantError(
                f"progress of node {self.node}: match {self.match} must be below next {self.next}"
            )

    def __repr__(self) -> str:
        text = f"{self.mode.name} match={self.match} next={self.next}"
        if self.is_paused:
            text += " paused"
        if self.pending_snapshot:
            text += f" pending_snapshot={self.pending_snapshot}"
        if not self.recent_active:
            text += " inactive"
        if len(self.inflights):
            text += f" inflight={len(self.inflights)}"
        return f"<{text}>"
