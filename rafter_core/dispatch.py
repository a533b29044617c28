"""Which handler takes which message in which role: a table, not code.

A pair without a handler is ignored: late answers to an election that is over, or an order to take
over that reached a candidate or a leader. `tests/core/test_dispatch.py` steps through every pair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rafter_core import (
    election,
    following,
    proposals,
    quiesce,
    reads,
    replication,
    snapshots,
    storage_messages,
    transfer,
)
from rafter_core.messages import (
    APPEND,
    APPEND_RESPONSE,
    HEARTBEAT,
    HEARTBEAT_RESPONSE,
    KINDS,
    PRE_VOTE,
    PRE_VOTE_RESPONSE,
    PROPOSE,
    QUIESCE,
    READ_INDEX,
    READ_INDEX_RESPONSE,
    SNAPSHOT,
    STORAGE_APPEND_RESPONSE,
    STORAGE_APPLY_RESPONSE,
    TIMEOUT_NOW,
    TRANSFER_LEADER,
    VOTE,
    VOTE_RESPONSE,
    Message,
    MessageKind,
)
from rafter_core.roles import Role

if TYPE_CHECKING:
    from rafter_core.raft import Raft

Handler = Callable[["Raft", Message], None]

_ANY_ROLE: dict[MessageKind, Handler] = {
    VOTE: election.handle_vote_request,
    PRE_VOTE: election.handle_vote_request,
    STORAGE_APPEND_RESPONSE: storage_messages.handle_append_response,
    STORAGE_APPLY_RESPONSE: storage_messages.handle_apply_response,
}
_CANDIDATE: dict[MessageKind, Handler] = {
    PROPOSE: proposals.refuse,
    APPEND: following.concede_append,
    HEARTBEAT: following.concede_heartbeat,
    SNAPSHOT: snapshots.concede_snapshot,
    QUIESCE: quiesce.concede_quiesce,
    VOTE_RESPONSE: election.handle_vote_response,
    PRE_VOTE_RESPONSE: election.handle_vote_response,
}
BY_ROLE: dict[Role, dict[MessageKind, Handler]] = {
    Role.FOLLOWER: {
        PROPOSE: proposals.forward,
        READ_INDEX: reads.forward,
        READ_INDEX_RESPONSE: reads.handle_response,
        TRANSFER_LEADER: transfer.forward,
        APPEND: following.follow_append,
        HEARTBEAT: following.follow_heartbeat,
        SNAPSHOT: snapshots.follow_snapshot,
        QUIESCE: quiesce.follow_quiesce,
        TIMEOUT_NOW: following.handle_timeout_now,
    },
    Role.CANDIDATE: _CANDIDATE,
    Role.LEADER: {
        PROPOSE: proposals.handle,
        READ_INDEX: reads.handle_request,
        TRANSFER_LEADER: transfer.handle,
        APPEND: following.refuse_second_leader,
        HEARTBEAT: following.refuse_second_leader,
        QUIESCE: following.refuse_second_leader,
        APPEND_RESPONSE: replication.handle_append_response,
        HEARTBEAT_RESPONSE: replication.handle_heartbeat_response,
    },
    Role.PRE_CANDIDATE: _CANDIDATE,
}

HANDLERS: tuple[tuple[Handler | None, ...], ...] = tuple(
    tuple((_ANY_ROLE | BY_ROLE[role]).get(kind) for kind in KINDS) for role in Role
)
"""The same, indexed by the numbers of role and kind."""
