"""The follower's side: appends, heartbeats, and the order to take over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafter_core import election
from rafter_core.config import ReadMode
from rafter_core.entries import NO_NODE
from rafter_core.errors import StepError
from rafter_core.messages import APPEND_RESPONSE, HEARTBEAT_RESPONSE, Message

if TYPE_CHECKING:
    from rafter_core.raft import Raft


def follow_append(raft: Raft, message: Message) -> None:
    """Take an append of the current leader."""
    hear_leader(raft, message)
    handle_append(raft, message)


def follow_heartbeat(raft: Raft, message: Message) -> None:
    """Take a heartbeat of the current leader."""
    hear_leader(raft, message)
    handle_heartbeat(raft, message)


def concede_append(raft: Raft, message: Message) -> None:
    """As a candidate: somebody else leads this term; follow, then take the append."""
    raft.become_follower(message.term, message.sender)
    handle_append(raft, message)


def concede_heartbeat(raft: Raft, message: Message) -> None:
    """As a candidate: somebody else leads this term; follow, then take the heartbeat."""
    raft.become_follower(message.term, message.sender)
    handle_heartbeat(raft, message)


def handle_append(raft: Raft, message: Message) -> None:
    """Append, or say where the logs may agree. The answer leaves once the entries are durable."""
    log = raft.log
    index = message.index
    if index < log.committed:
        # Everything up to the commit index matches by definition.
        raft.send_after_sync(APPEND_RESPONSE, message.sender, index=log.committed)
        return
    matched = log.maybe_append(message.log_term, index, message.entries, message.commit)
    if matched is not None:
        raft.send_after_sync(APPEND_RESPONSE, message.sender, index=matched)
        return
    hint, hint_term = log.find_conflict_by_term(min(index, log.last_index), message.log_term)
    raft.send_after_sync(
        APPEND_RESPONSE,
        message.sender,
        index=index,
        log_term=hint_term,
        reject=True,
        reject_hint=hint,
    )
    raft.report("append_refused", f"{message!r}: hint {hint_term}/{hint}")


def handle_heartbeat(raft: Raft, message: Message) -> None:
    """Advance the commit index; echo the context, which confirms reads."""
    raft.log.commit_to(message.commit)
    if message.context and raft.config.read_mode is ReadMode.LEASE:
        # The answer may give the leader a lease: whatever else is heard, nobody gets a vote.
        raft.patience_end_ticks = raft.ticks + raft.config.election_timeout_ticks
    raft.messages.append(
        Message(
            kind=HEARTBEAT_RESPONSE,
            to=message.sender,
            sender=raft.node_id,
            term=raft.term,
            context=message.context,
        )
    )


def handle_timeout_now(raft: Raft, message: Message) -> None:
    """Take over from the leader, at once."""
    raft.report("timeout_now_received", f"from node {message.sender}")
    election.start_transfer(raft)


def refuse_second_leader(raft: Raft, message: Message) -> None:
    """As the leader: nobody else can lead this term (paper, election safety)."""
    raise StepError(f"node {raft.node_id} leads term {raft.term} itself: {message!r}")


def hear_leader(raft: Raft, message: Message) -> None:
    """Note that the leader of this term lives. Raises StepError if it is not the one known."""
    if raft.leader != message.sender:
        if raft.leader != NO_NODE:
            raise StepError(f"node {raft.leader} leads term {raft.term}: {message!r}")
        raft.leader = message.sender
        raft.report("leader_known", f"node {message.sender}")
    raft.election_elapsed = 0
