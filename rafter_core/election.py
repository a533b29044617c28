"""Elections: pre-vote, vote, counting, and the leader's own check that it still has a quorum.

Votes, the one for oneself included, are given after they are durable. Requests for votes wait for
that too, unless `Config.messages_wait_for_term` is off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafter_core import sending, transfer
from rafter_core.config import Config, ReadMode
from rafter_core.entries import NO_NODE, EntryKind, HardState
from rafter_core.messages import (
    CAMPAIGN_TRANSFER,
    PRE_VOTE,
    PRE_VOTE_RESPONSE,
    VOTE,
    VOTE_RESPONSE,
    Message,
    MessageKind,
)
from rafter_core.quorum import VoteResult
from rafter_core.roles import FOLLOWER, LEADER, PRE_CANDIDATE

if TYPE_CHECKING:
    from rafter_core.raft import Raft

_CHANGES = (EntryKind.CONFIG_CHANGE, EntryKind.CONFIG_CHANGE_V2)


def campaign(raft: Raft) -> None:
    """Start an election because the driver asks for one, unless that could break a lease."""
    if raft.config.read_mode is ReadMode.LEASE and raft.guards_leader():
        raft.report("campaign_refused", "the leader may hold a lease")
        return
    start(raft)


def start(raft: Raft) -> None:
    """Start an election, with a pre-vote first if so configured. Does nothing on a leader."""
    if not _may_campaign(raft):
        return
    if raft.config.pre_vote:
        _ask_pre_votes(raft)
    else:
        _ask_votes(raft, b"")


def start_transfer(raft: Raft) -> None:
    """Start the election that the leader asked for: without a pre-vote, breaking leases."""
    if _may_campaign(raft):
        _ask_votes(raft, CAMPAIGN_TRANSFER)


def restart_patience_ticks(config: Config, hard_state: HardState) -> int:
    """Return for how many ticks after its start a node votes for nobody.

    With leases it may have confirmed one just before it restarted (its term says that it took part
    in something), and has to honour that for as long as it would have.
    """
    if config.read_mode is ReadMode.LEASE and hard_state.term:
        return config.election_timeout_ticks
    return 0


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
        transfer.abort(raft, "it did not take over in time")


def forget_leader(raft: Raft) -> None:
    """As a follower, take the leader for lost. Does nothing where leases rest on patience."""
    if raft.config.read_mode is ReadMode.LEASE:
        raft.report("leader_kept", "there are leases")
    elif raft.role is FOLLOWER and raft.leader != NO_NODE:
        raft.report("leader_forgotten", f"node {raft.leader}")
        raft.leader = NO_NODE


def handle_vote_request(raft: Raft, message: Message) -> None:
    """Grant or refuse a vote or pre-vote, in any role. Granting twice to a node is idempotent."""
    is_pre_vote = message.kind is PRE_VOTE
    if raft.ticks < raft.patience_end_ticks and message.context != CAMPAIGN_TRANSFER:
        raft.report("vote_ignored", f"of node {message.sender}: there may be a lease")
        return
    can_vote = (
        raft.vote == message.sender
        or (raft.vote == NO_NODE and raft.leader == NO_NODE)
        # A pre-vote for a future term asks what we would do then, and then we are free.
        or (is_pre_vote and message.term > raft.term)
    )
    granted = (
        can_vote
        and raft.log.is_up_to_date(message.log_term, message.index)
        and not _is_preferred(raft, message)
    )
    if not granted and not raft.term:
        # There is no term to teach, and no message without one.
        return
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


def _may_campaign(raft: Raft) -> bool:
    if raft.role is LEADER:
        return False
    if not raft.is_promotable():
        raft.report("campaign_refused", "this node cannot lead")
        return False
    if _has_unapplied_change(raft):
        raft.report("campaign_refused", "a committed change of the membership is not applied yet")
        return False
    return True


def _has_unapplied_change(raft: Raft) -> bool:
    """Return whether a change of the membership is committed and not in force here yet.

    With the older configuration a node could win with a quorum that is none any more (etcd#12133).
    """
    log = raft.log
    page_bytes = raft.config.committed_bytes_per_ready_max
    for page in log.scan(log.applied + 1, log.committed + 1, page_bytes):
        for entry in page:
            if entry.kind in _CHANGES:
                return True
    return False


def _is_preferred(raft: Raft, message: Message) -> bool:
    """Return whether this node itself should lead rather than the candidate: see Config.priority.

    Only if it could win as well, its log being equal, and not against the will of the leader.
    """
    log = raft.log
    return (
        raft.priority > message.priority
        and message.context != CAMPAIGN_TRANSFER
        and message.index == log.last_index
        and message.log_term == log.last_term
        and raft.is_promotable()
    )


def _ask_pre_votes(raft: Raft) -> None:
    raft.become_pre_candidate()
    _ask(raft, PRE_VOTE, PRE_VOTE_RESPONSE, raft.term + 1, b"")


def _ask_votes(raft: Raft, context: bytes) -> None:
    raft.become_candidate()
    _ask(raft, VOTE, VOTE_RESPONSE, raft.term, context)


def _ask(
    raft: Raft,
    kind: MessageKind,
    response_kind: MessageKind,
    term: int,
    context: bytes,
) -> None:
    log = raft.log
    for voter in raft.tracker.membership.all_voters:
        if voter == raft.node_id:
            # The own vote, a message like any other's once it is durable.
            raft.messages_after_sync.append(
                Message(kind=response_kind, to=voter, sender=voter, term=term)
            )
            continue
        raft.messages.append(
            Message(
                kind=kind,
                to=voter,
                sender=raft.node_id,
                term=term,
                index=log.last_index,
                log_term=log.last_term,
                context=context,
                priority=raft.priority,
            )
        )
