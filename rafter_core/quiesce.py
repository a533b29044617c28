"""Sleep of idle groups: no ticks, no heartbeats, until any message or request wakes them.

A leader falls asleep when nothing has happened for `quiesce_after_ticks` ticks and every follower
holds the whole log and was heard from lately. QUIESCE tells the followers, which fall asleep too if
their log ends at the same entry. A sleeping node lets no time pass: it neither campaigns nor checks
its quorum. A lease does not outlive the sleep.

Whatever reaches a sleeping node wakes it, but for late answers to the last heartbeats. A follower
then pokes its leader with a heartbeat response that says no, and a leader that wakes sends
heartbeats at once, which wakes the others; if the leader is gone, the follower's election timer
runs out as usual. As nobody listens for heartbeats meanwhile, a
driver must report an unreachable node to its sleeping groups (`report_unreachable`), or the death
of a sleeping leader is noticed only when the group is used. (The idea is that of dragonboat's
quiesce, CockroachDB's quiescence and TiKV's hibernated regions.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafter_core import following
from rafter_core.entries import NO_NODE
from rafter_core.messages import HEARTBEAT_RESPONSE, QUIESCE, Message
from rafter_core.progress import REPLICATE
from rafter_core.replication import beat
from rafter_core.roles import LEADER

if TYPE_CHECKING:
    from rafter_core.raft import Raft


def count_idle_tick(raft: Raft) -> None:
    """As the leader: note a tick in which nothing was to do, and fall asleep after enough."""
    if not _is_idle(raft):
        raft.idle_ticks = 0
        return
    raft.idle_ticks += 1
    if raft.idle_ticks < raft.config.quiesce_after_ticks:
        return
    if not all(progress.recent_active for progress in raft.tracker.peers):
        return
    log = raft.log
    for progress in raft.tracker.peers:
        raft.messages.append(
            Message(
                kind=QUIESCE,
                to=progress.node,
                sender=raft.node_id,
                term=raft.term,
                index=log.last_index,
                log_term=log.last_term,
                commit=log.committed,
            )
        )
    _fall_asleep(raft)


def follow_quiesce(raft: Raft, message: Message) -> None:
    """As a follower: fall asleep with the leader, or tell it that there is still something to do.

    A node that is configured never to sleep does not let the leader sleep either.
    """
    following.hear_leader(raft, message)
    log = raft.log
    if (
        raft.config.quiesce_after_ticks
        and message.commit == log.last_index == message.index
        and log.last_term == message.log_term
    ):
        log.commit_to(message.commit)
        _fall_asleep(raft)
        return
    _poke_leader(raft)


def concede_quiesce(raft: Raft, message: Message) -> None:
    """As a candidate: somebody leads this term, and sleeps; follow."""
    raft.become_follower(message.term, message.sender)
    follow_quiesce(raft, message)


def wake(raft: Raft, sender: int = NO_NODE) -> None:
    """Let time go on, because of a message of `sender` or a request of this node's driver."""
    raft.is_quiesced = False
    raft.idle_ticks = 0
    raft.election_elapsed = 0
    raft.report("awake", f"by node {sender}" if sender else "by a request")
    if raft.role is LEADER:
        raft.heartbeat_elapsed = 0
        beat(raft)
    elif raft.leader not in (NO_NODE, sender):
        _poke_leader(raft)


def sleeps_through(raft: Raft, message: Message) -> bool:
    """Return whether a message is an ordinary answer to a heartbeat from before the sleep."""
    return (
        message.kind is HEARTBEAT_RESPONSE
        and message.term == raft.term
        and not message.reject
        and raft.role is LEADER
    )


def _is_idle(raft: Raft) -> bool:
    """Return whether nothing is to be done for anybody."""
    log = raft.log
    last_index = log.last_index
    if log.applied != last_index or raft.transferee != NO_NODE or not raft.reads.is_empty:
        return False
    if raft.tracker.membership.is_joint:
        return False
    return all(
        progress.match == last_index and progress.mode is REPLICATE
        for progress in raft.tracker.peers
    )


def _fall_asleep(raft: Raft) -> None:
    raft.is_quiesced = True
    raft.reads.void_lease()
    raft.report("asleep", f"leader {raft.leader}")


def _poke_leader(raft: Raft) -> None:
    raft.messages.append(
        Message(
            kind=HEARTBEAT_RESPONSE,
            to=raft.leader,
            sender=raft.node_id,
            term=raft.term,
            reject=True,
        )
    )
