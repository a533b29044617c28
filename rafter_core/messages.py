"""The messages of the protocol: their kinds, in etcd's order, and the one class for all.

Which fields mean what, by kind (a field that is not named is left at its default):

- APPEND: `index`/`log_term` identify the entry before `entries`; `commit` is the leader's commit
  index.
- APPEND_RESPONSE: `index` is the last index now known to match; if `reject`, it is the refused
  previous index and `reject_hint`/`log_term` say where the follower's log may agree (fast
  backtracking). Index 0 without reject answers a deposed leader and carries nothing but the term.
- VOTE, PRE_VOTE: `index`/`log_term` identify the candidate's last entry. A PRE_VOTE carries the
  term the candidate would campaign at. `context` is CAMPAIGN_TRANSFER when the leader itself
  asked for the election.
- VOTE_RESPONSE, PRE_VOTE_RESPONSE: `reject`.
- HEARTBEAT: `commit` is min(match, commit); `context` is the counter of the newest unconfirmed
  read.
- HEARTBEAT_RESPONSE: `context` is echoed.
- TIMEOUT_NOW: the leader hands over; campaign at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from rafter_core.entries import Entry


class MessageKind(IntEnum):
    """etcd's message types and numbers; those that never travel are reserved."""

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


KINDS: tuple[MessageKind, ...] = tuple(MessageKind)
"""Kinds by number: indexing it is several times faster than calling the enumeration."""

# Looking a member up on an enumeration is slow in CPython 3.11; the hot paths use these names.
APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
VOTE = MessageKind.VOTE
VOTE_RESPONSE = MessageKind.VOTE_RESPONSE
HEARTBEAT = MessageKind.HEARTBEAT
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE
TIMEOUT_NOW = MessageKind.TIMEOUT_NOW
PRE_VOTE = MessageKind.PRE_VOTE
PRE_VOTE_RESPONSE = MessageKind.PRE_VOTE_RESPONSE

REMOTE_KINDS: frozenset[MessageKind] = frozenset(
    (
        APPEND,
        APPEND_RESPONSE,
        VOTE,
        VOTE_RESPONSE,
        HEARTBEAT,
        HEARTBEAT_RESPONSE,
        TIMEOUT_NOW,
        PRE_VOTE,
        PRE_VOTE_RESPONSE,
    )
)
"""What a peer may send. Proposals, reads and transfers are routed to the leader above the core."""

RESPONSE_KINDS: frozenset[MessageKind] = frozenset(
    (APPEND_RESPONSE, VOTE_RESPONSE, HEARTBEAT_RESPONSE, PRE_VOTE_RESPONSE)
)

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
        "reject",
        "reject_hint",
        "sender",
        "term",
        "to",
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
        if self.context:
            text += f" context={self.context!r}"
        return f"<{text}>"
