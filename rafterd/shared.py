"""Words of memory that the supervisor and its shards share: counters, heartbeats and routes.

One anonymous mapping is made before the fork, so every process of the node sees the same words. A
word is an aligned 64-bit unsigned integer with exactly one writer; on the 64-bit machines that
rafter runs on such a store is one instruction, so a reader sees the old value or the new one, never
a mixture. Nothing orders two words against each other: what must be read together is packed into
one word (ROUTE).

Writers:

- the words of shard *s*, and what it says of each node: shard *s*;
- the words of group *g*: the shard that owns *g* on this node. Those of groups without a replica
  here stay zero: each router keeps to itself what answers tell it of such a group's leader;
- the supervisor, only for a shard that is dead (`clear_shard`).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from enum import IntEnum

from rafterd.placement import shard_of_group

COUNTER_WORDS = 64
GROUP_WORDS = 16
PEER_WORDS = 8
WORD_BYTES = 8
TERM_BITS = 48
TERM_MASK = (1 << TERM_BITS) - 1
WORD_MASK = (1 << 64) - 1
NODE_ID_MAX = (1 << 16) - 1
"""A route packs the leader's node id into the sixteen bits above its term."""


class Counter(IntEnum):
    """Words of one shard. Names that end in _TOTAL only grow during the life of a shard process."""

    HEARTBEAT = 0
    PID = 1
    STATE = 2
    CLIENTS = 3
    CONNECTIONS_TOTAL = 4
    COMMANDS_TOTAL = 5
    READS_TOTAL = 6
    WRITES_TOTAL = 7
    REJECTED_TOTAL = 8
    PROTOCOL_ERRORS_TOTAL = 9
    ROUNDS_TOTAL = 10
    ENTRIES_APPLIED_TOTAL = 11
    WAL_BYTES_TOTAL = 12
    WAL_SYNCS_TOTAL = 13
    WAL_SYNC_MICROSECONDS_TOTAL = 14
    PEER_FRAMES_SENT_TOTAL = 15
    PEER_BYTES_SENT_TOTAL = 16
    PEER_FRAMES_RECEIVED_TOTAL = 17
    PEER_BYTES_RECEIVED_TOTAL = 18
    PEER_DROPPED_TOTAL = 19
    HANDSHAKES_REFUSED_TOTAL = 20
    LEADER_CHANGES_TOTAL = 21
    READ_INDEX_ROUNDS_TOTAL = 22
    FORWARDED_TOTAL = 23
    TIMEOUTS_TOTAL = 24
    CPU_MICROSECONDS_TOTAL = 25
    LOOP_LAG_MICROSECONDS_MAX = 26
    MEMORY_BYTES = 27
    PROPOSALS_TOTAL = 28
    PROPOSALS_DROPPED_TOTAL = 29
    PROPOSALS_PENDING = 30
    WAL_SEGMENTS = 31
    SESSIONS = 32
    PEER_LINKS_UP = 33
    WAL_DISK_BYTES = 34
    WAL_LIVE_BYTES = 35
    WAL_COPIED_BYTES_TOTAL = 36
    WAL_OLDEST_GROUP = 37
    WAL_IS_DISK_FULL = 38
    TLS_REFUSED_TOTAL = 39
    SNAPSHOTS_TAKEN_TOTAL = 40
    SNAPSHOTS_FAILED_TOTAL = 41
    SNAPSHOTS_SENT_TOTAL = 42
    SNAPSHOTS_UNSENT_TOTAL = 43
    SNAPSHOTS_RECEIVED_TOTAL = 44
    SNAPSHOTS_INSTALLED_TOTAL = 45
    SNAPSHOT_BYTES_SENT_TOTAL = 46
    SNAPSHOT_BYTES_RECEIVED_TOTAL = 47
    SNAPSHOT_TRANSFERS = 48
    CLIENT_TLS_REFUSED_TOTAL = 49
    PEER_IDLE_TOTAL = 50


class GroupWord(IntEnum):
    """Words of one group on this node."""

    ROUTE = 0
    TERM = 1
    COMMIT = 2
    APPLIED = 3
    LAST_INDEX = 4
    KEYS = 5
    EXPIRES = 6
    STATE = 7


class PeerWord(IntEnum):
    """Words of what one shard says of its links to one node, this one's other shards included."""

    FRAMES_SENT_TOTAL = 0
    BYTES_SENT_TOTAL = 1
    FRAMES_RECEIVED_TOTAL = 2
    BYTES_RECEIVED_TOTAL = 3
    REFUSED_TOTAL = 4
    LINKS_UP = 5
    PENDING_BYTES = 6
    ROUND_TRIP_MICROSECONDS = 7


class ShardState(IntEnum):
    """Values of Counter.STATE."""

    STARTING = 0
    SERVING = 1
    DRAINING = 2


class GroupState(IntEnum):
    """Values of GroupWord.STATE; ABSENT also covers a group without a replica on this node."""

    ABSENT = 0
    STARTING = 1
    SERVING = 2
    DAMAGED = 3


class SharedState:
    """The words of one node: of each shard, of each group, and of each node as each shard sees it.

    Make it before the fork. Groups are numbered 0 to `groups` inclusive (0 is the system group).
    All words start at zero. Not to be used after `close`.
    """

    __slots__ = ("_groups_base", "_map", "_peers_base", "_words", "groups", "nodes", "shards")

    def __init__(self, shards: int, groups: int, nodes: Iterable[int] = ()) -> None:
        if shards < 1 or groups < 1:
            raise ValueError(f"a node has at least one shard and one group, not {shards}, {groups}")
        self.shards = shards
        self.groups = groups
        self.nodes = {node: place for place, node in enumerate(nodes)}
        self._groups_base = shards * COUNTER_WORDS
        self._peers_base = self._groups_base + (groups + 1) * GROUP_WORDS
        words = self._peers_base + shards * len(self.nodes) * PEER_WORDS
        self._map = mmap.mmap(-1, words * WORD_BYTES)
        self._words = memoryview(self._map).cast("Q")

    def get(self, shard: int, counter: Counter) -> int:
        """Return one word of a shard."""
        return self._words[self._counter_at(shard, counter)]

    def set_counter(self, shard: int, counter: Counter, value: int) -> None:
        """Store one word of a shard. Only its owner calls this."""
        self._words[self._counter_at(shard, counter)] = value

    def add(self, shard: int, counter: Counter, amount: int = 1) -> None:
        """Add to one word of a shard. Only its owner calls this: it is a load and a store."""
        at = self._counter_at(shard, counter)
        self._words[at] = (self._words[at] + amount) & WORD_MASK

    def total(self, counter: Counter) -> int:
        """Return the sum of one word over all shards."""
        return sum(self._words[counter : self._groups_base : COUNTER_WORDS])

    def counter_words(self, shard: int) -> memoryview:
        """Return the words of one shard for hot paths: `words[Counter.COMMANDS_TOTAL] += n`."""
        at = self._counter_at(shard, Counter.HEARTBEAT)
        return self._words[at : at + COUNTER_WORDS]

    def get_group(self, group: int, word: GroupWord) -> int:
        """Return one word of a group."""
        return self._words[self._group_at(group, word)]

    def set_group(self, group: int, word: GroupWord, value: int) -> None:
        """Store one word of a group. Only the shard that owns the group calls this."""
        self._words[self._group_at(group, word)] = value

    def group_words(self, group: int) -> memoryview:
        """Return the words of one group for hot paths: `words[GroupWord.COMMIT] = index`."""
        at = self._group_at(group, GroupWord.ROUTE)
        return self._words[at : at + GROUP_WORDS]

    def peer_words(self, shard: int, node: int) -> memoryview | None:
        """Return the words of a node as a shard sees it; None for a node that was not foreseen."""
        place = self.nodes.get(node)
        if place is None:
            return None
        base = self._peers_at(shard) + place * PEER_WORDS
        return self._words[base : base + PEER_WORDS]

    def route(self, group: int) -> tuple[int, int]:
        """Return (leader node, term) as the group's owner last knew it; leader 0 when unknown."""
        word = self._words[self._group_at(group, GroupWord.ROUTE)]
        return word >> TERM_BITS, word & TERM_MASK

    def set_route(self, group: int, leader: int, term: int) -> None:
        """Publish a group's leader and the term it was elected in, in one store."""
        if not (0 <= leader <= NODE_ID_MAX and 0 <= term <= TERM_MASK):
            raise ValueError(f"route out of range: leader {leader}, term {term}")
        self._words[self._group_at(group, GroupWord.ROUTE)] = leader << TERM_BITS | term

    def clear_shard(self, shard: int) -> None:
        """Zero the words of a dead shard and of its groups, so that nobody trusts its last routes.

        Only the supervisor calls this, between the death of a shard process and its next start.
        """
        base = self._counter_at(shard, Counter.HEARTBEAT)
        for at in range(base, base + COUNTER_WORDS):
            self._words[at] = 0
        for group in range(self.groups + 1):
            if shard_of_group(group, self.shards) == shard:
                base = self._group_at(group, GroupWord.ROUTE)
                for at in range(base, base + GROUP_WORDS):
                    self._words[at] = 0
        base = self._peers_at(shard)
        for at in range(base, base + len(self.nodes) * PEER_WORDS):
            self._words[at] = 0

    def close(self) -> None:
        """Unmap. Views handed out by counter_words and group_words must be gone."""
        self._words.release()
        self._map.close()

    def _peers_at(self, shard: int) -> int:
        return self._peers_base + shard * len(self.nodes) * PEER_WORDS

    def _counter_at(self, shard: int, counter: Counter) -> int:
        if not 0 <= shard < self.shards:
            raise IndexError(f"shard {shard} of {self.shards}")
        return shard * COUNTER_WORDS + counter

    def _group_at(self, group: int, word: GroupWord) -> int:
        if not 0 <= group <= self.groups:
            raise IndexError(f"group {group} of {self.groups}")
        return self._groups_base + group * GROUP_WORDS + word
