"""The messages of the protocol: their kinds, in etcd's order, and the one class for all.

Which fields mean what, by kind (a field that is not named is left at its default):

- PROPOSE: `entries` with neither term nor index, forwarded to the leader. Carries no term.

- APPEND: `index`/`log_term` identify the entry before `entries`; `commit` is the leader's commit
  index.
- APPEND_RESPONSE: `index` is the last index now known to match; if `reject`, it is the refused
  previous index and `reject_hint`/`log_term` say where the follower's log may agree (fast
  backtracking). Index 0 without reject answers a deposed leader and carries nothing but the term.
- VOTE, PRE_VOTE: `index`/`log_term` identify the candidate's last entry. A PRE_VOTE carries the
  term the candidate would campaign at. `context` is CAMPAIGN_TRANSFER when the leader itself
  asked for the election. `priority` is the candidate's.
- VOTE_RESPONSE, PRE_VOTE_RESPONSE: `reject`.
- HEARTBEAT: `commit` is min(match, commit); `context` is the counter of the newest unconfirmed
  read.
- HEARTBEAT_RESPONSE: `context` is echoed. `reject` wakes a quiesced leader.
- SNAPSHOT: `snapshot`. It is answered by an APPEND_RESPONSE.
- TIMEOUT_NOW: the leader hands over; campaign at once.
- TRANSFER_LEADER: a follower passes on the wish that `sender` lead.
- READ_INDEX: a follower asks for a read; `context` is its own. Carries no term.
- READ_INDEX_RESPONSE: the read may be served at `index`; `context` as it was asked.
- QUIESCE: nothing goes on; `index`/`log_term` identify the last entry, `commit` is the same index.
- STORAGE_APPEND, STORAGE_APPLY and their responses never leave the node: see `storage_messages`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from rafter_core.entries import NO_NODE, Entry
from rafter_core.snapshot import Snapshot


class MessageKind(IntEnum):
    """etcd's message types and numbers, and ours after them; those that never travel are reserved.

    CAMPAIGN, BEAT, UNREACHABLE, SNAPSHOT_STATUS, CHECK_QUORUM and FORGET_LEADER are methods of
    RawNode here.
    """

    CAMPAIGN = 0
    BEAT = 1
    PROPOSE = 2
    APPEND = 3
    APPEND_RESPONSE = 4
    VOTE = 5
    VOTE_RESPONSE = 6
    SNAPSHOT = 7
    HEARTBEAT = 8
    HEARTBEAT_RESPONSE = 9
    UNREACHABLE = 10
    SNAPSHOT_STATUS = 11
    CHECK_QUORUM = 12
    TRANSFER_LEADER = 13
    TIMEOUT_NOW = 14
    READ_INDEX = 15
    READ_INDEX_RESPONSE = 16
    PRE_VOTE = 17
    PRE_VOTE_RESPONSE = 18
    STORAGE_APPEND = 19
    STORAGE_APPEND_RESPONSE = 20
    STORAGE_APPLY = 21
    STORAGE_APPLY_RESPONSE = 22
    FORGET_LEADER = 23
    QUIESCE = 24


KINDS: tuple[MessageKind, ...] = tuple(MessageKind)
"""Kinds by number: indexing it is several times faster than calling the enumeration."""

# Looking a member up on an enumeration is slow in CPython 3.11; the hot paths use these names.
PROPOSE = MessageKind.PROPOSE
APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
VOTE = MessageKind.VOTE
VOTE_RESPONSE = MessageKind.VOTE_RESPONSE
SNAPSHOT = MessageKind.SNAPSHOT
HEARTBEAT = MessageKind.HEARTBEAT
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE
TRANSFER_LEADER = MessageKind.TRANSFER_LEADER
TIMEOUT_NOW = MessageKind.TIMEOUT_NOW
READ_INDEX = MessageKind.READ_INDEX
READ_INDEX_RESPONSE = MessageKind.READ_INDEX_RESPONSE
PRE_VOTE = MessageKind.PRE_VOTE
PRE_VOTE_RESPONSE = MessageKind.PRE_VOTE_RESPONSE
STORAGE_APPEND = MessageKind.STORAGE_APPEND
STORAGE_APPEND_RESPONSE = MessageKind.STORAGE_APPEND_RESPONSE
STORAGE_APPLY = MessageKind.STORAGE_APPLY
STORAGE_APPLY_RESPONSE = MessageKind.STORAGE_APPLY_RESPONSE
QUIESCE = MessageKind.QUIESCE

REMOTE_KINDS: frozenset[MessageKind] = frozenset(
    (
        PROPOSE,
        APPEND,
        APPEND_RESPONSE,
        VOTE,
        VOTE_RESPONSE,
        SNAPSHOT,
        HEARTBEAT,
        HEARTBEAT_RESPONSE,
        TRANSFER_LEADER,
        TIMEOUT_NOW,
        READ_INDEX,
        READ_INDEX_RESPONSE,
        PRE_VOTE,
        PRE_VOTE_RESPONSE,
        QUIESCE,
    )
)
"""What a peer may send."""

RESPONSE_KINDS: frozenset[MessageKind] = frozenset(
    (
        APPEND_RESPONSE,
        VOTE_RESPONSE,
        HEARTBEAT_RESPONSE,
        READ_INDEX_RESPONSE,
        PRE_VOTE_RESPONSE,
    )
)
"""What only a member may send, since it answers something that members were asked."""

TERMLESS_KINDS: frozenset[MessageKind] = frozenset((PROPOSE, READ_INDEX))
"""Requests that a follower forwards: whoever leads by then may take them, in whatever term."""

APPEND_THREAD = (1 << 64) - 1
"""The node id of the driver's part that stores, in the message form of the asynchronous mode."""

APPLY_THREAD = (1 << 64) - 2
"""The node id of the driver's part that applies."""

ENTRIES_MAX = 1 << 20
"""Entries in one message. The smallest entry takes four bytes but some 180 in memory, so it is this
number that bounds what a frame full of empty ones can cost."""

MESSAGES_MAX = 1 << 16
"""Messages in one item, for the same reason."""

CAMPAIGN_TRANSFER = b"CampaignTransfer"
"""Context of a vote request that may break a live leader's lease, because that leader asked."""


class Message:
    """One message between two replicas of a group. Immutable by convention once it is in a Ready.

    `entries` may be shared with the sender's log: receivers never change the sequence.
    """

    __slots__ = (
        "commit",
        "context",
        "entries",
        "index",
        "kind",
        "log_term",
        "priority",
        "reject",
        "reject_hint",
        "responses",
        "sender",
        "snapshot",
        "term",
        "to",
        "vote",
    )

    def __init__(
        self,
        *,
        kind: MessageKind,
        to: int = 0,
        sender: int = 0,
        term: int = 0,
        log_term: int = 0,
        index: int = 0,
        entries: Sequence[Entry] = (),
        commit: int = 0,
        reject: bool = False,
        reject_hint: int = 0,
        context: bytes = b"",
        priority: int = 0,
        snapshot: Snapshot | None = None,
        vote: int = NO_NODE,
        responses: Sequence[Message] = (),
    ) -> None:
        self.kind = kind
        self.to = to
        self.sender = sender
        self.term = term
        self.log_term = log_term
        self.index = index
        self.entries = entries
        self.commit = commit
        self.reject = reject
        self.reject_hint = reject_hint
        self.context = context
        self.priority = priority
        self.snapshot = snapshot
        self.vote = vote
        self.responses = responses

    def _fields(self) -> tuple[object, ...]:
        return (
            self.kind,
            self.to,
            self.sender,
            self.term,
            self.log_term,
            self.index,
            tuple(self.entries),
            self.commit,
            self.reject,
            self.reject_hint,
            self.context,
            self.priority,
            self.snapshot,
            self.vote,
            tuple(self.responses),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return self._fields() == other._fields()

    __hash__ = None  # type: ignore[assignment]  # a value with mutable fields

    def __repr__(self) -> str:
        text = f"{self.sender}->{self.to} {self.kind.name} term={self.term}"
        text += f" log={self.log_term}/{self.index}"
        if self.reject:
            text += f" rejected(hint={self.reject_hint})"
        if self.commit:
            text += f" commit={self.commit}"
        if self.entries:
            text += f" entries={len(self.entries)}"
        if self.snapshot is not None:
            text += f" {self.snapshot!r}"
        if self.context:
            text += f" context={self.context!r}"
        return f"<{text}>"
