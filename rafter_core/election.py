"""Elections: pre-vote, vote, counting, and the leader's own check that it still has a quorum.

Vote requests and answers leave after the sync: a term and a vote are durable before anyone hears
of them. The vote for oneself is an acknowledgement like any other, counted when it is durable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafter_core import sending
from rafter_core.entries import NO_NODE
from rafter_core.messages import (
    CAMPAIGN_TRANSFER,
    PRE_VOTE,
    PRE_VOTE_RESPONSE,
    VOTE,
    VOTE_RESPONSE,
    Message,
)
from rafter_core.quorum import VoteResult
from rafter_core.roles import LEADER, PRE_CANDIDATE

if TYPE_CHECKING:
    from rafter_core.raft import Raft


def start(raft: Raft) -> None:
    """Start an election, with a pre-vote first if so configured. Does nothing on a leader."""
    if raft.role is LEADER:
        return
    if not raft.is_promotable():
        raft.report("campaign_refused", "this node is not a voter")
        return
    if raft.config.pre_vote:
        _ask_pre_votes(raft)
    else:
        _ask_votes(raft, b"")


def start_transfer(raft: Raft) -> None:
    """Start the election that the leader asked for: without a pre-vote, breaking leases."""
    if raft.is_promotable():
        _ask_votes(raft, CAMPAIGN_TRANSFER)
    else:
        raft.report("campaign_refused", "this node is not a voter")


def end_leader_period(raft: Raft) -> None:
    """Close one election timeout of a leader: step down without a quorum, give up a transfer."""
    if raft.config.check_quorum:
        active = raft.tracker.is_quorum_active()
        raft.tracker.forget_activity()
        if not active:
            raft.report("quorum_lost", "stepping down: a quorum was not heard from")
            raft.become_follower(raft.term, NO_NODE)
            return
    if raft.transferee != NO_NODE:
        raft.report("transfer_aborted", f"node {raft.transferee} did not take over in time")
        raft.transferee = NO_NODE


def handle_vote_request(raft: Raft, message: Message) -> None:
    """Grant or refuse a vote or pre-vote, in any role. Granting twice to a node is idempotent."""
    is_pre_vote = message.kind is PRE_VOTE
    can_vote = (
        raft.vote == message.sender
        or (raft.vote == NO_NODE and raft.leader == NO_NODE)
        # A pre-vote for a future term asks what we would do then, and then we are free.
        or (is_pre_vote and message.term > raft.term)
    )
    granted = can_vote and raft.log.is_up_to_date(message.log_term, message.index)
    raft.messages_after_sync.append(
        Message(
            kind=PRE_VOTE_RESPONSE if is_pre_vote else VOTE_RESPONSE,
            to=message.sender,
            sender=raft.node_id,
            # A grant echoes the term that was asked about; a refusal carries ours, so that a
            # lagging candidate learns it (canonical/raft#279).
            term=message.term if granted else raft.term,
            reject=not granted,
        )
    )
    if granted and not is_pre_vote:
        raft.election_elapsed = 0
        raft.vote = message.sender
    if raft.trace is not None:
        raft.report("vote_granted" if granted else "vote_refused", f"{message!r}")


def handle_vote_response(raft: Raft, message: Message) -> None:
    """Count an answer to the election under way; one to the other kind of election is ignored."""
    is_pre_vote = raft.role is PRE_CANDIDATE
    if is_pre_vote is not (message.kind is PRE_VOTE_RESPONSE):
        return
    if is_pre_vote and not message.reject and message.term != raft.term + 1:
        # A grant echoes the term that was asked about: this one answers an older question.
        return
    raft.tracker.record_vote(message.sender, not message.reject)
    result = raft.tracker.election_result()
    if result is VoteResult.WON:
        if is_pre_vote:
            _ask_votes(raft, b"")
        else:
            raft.become_leader()
            sending.broadcast_append(raft)
    elif result is VoteResult.LOST:
        # A lost pre-vote may carry a future term; we stay in ours.
        raft.become_follower(raft.term, NO_NODE)


def _ask_pre_votes(raft: Raft) -> None:
    raft.become_pre_candidate()
    term = raft.term + 1
    last_term, last_index = raft.log.last_term, raft.log.last_index
    _acknowledge_own(raft, Message(kind=PRE_VOTE_RESPONSE, term=term))
    for voter in _other_voters(raft):
        raft.messages.append(
            Message(
                kind=PRE_VOTE,
                to=voter,
                sender=raft.node_id,
                term=term,
                index=last_index,
                log_term=last_term,
            )
        )


def _ask_votes(raft: Raft, context: bytes) -> None:
    raft.become_candidate()
    last_term, last_index = raft.log.last_term, raft.log.last_index
    _acknowledge_own(raft, Message(kind=VOTE_RESPONSE, term=raft.term))
    for voter in _other_voters(raft):
        raft.messages_after_sync.append(
            Message(
                kind=VOTE,
                to=voter,
                sender=raft.node_id,
                term=raft.term,
                index=last_index,
                log_term=last_term,
                context=context,
            )
        )


def _acknowledge_own(raft: Raft, message: Message) -> None:
    message.to = message.sender = raft.node_id
    raft.acknowledgements.append(message)


def _other_voters(raft: Raft) -> list[int]:
    tracker = raft.tracker
    return [item.node for item in tracker.peers if tracker.is_voter(item.node)]
