"""Figure 2 of the paper, box "state": what a server keeps, how it begins, and what is durable."""

from __future__ import annotations

import random
from typing import Any

import pytest

from rafter_core import (
    Config,
    HardState,
    MemoryStorage,
    Message,
    MessageKind,
    ProgressMode,
    RawNode,
    Role,
)
from tests.core.network import Host
from tests.core.support import THREE, Driven, entry, of_kind
from tests.paper.support import PLAIN, group, identities


def node_over(storage: MemoryStorage, **config: Any) -> RawNode:
    """Return node 1 over a storage, driven by hand."""
    return RawNode(Config(node_id=1, **PLAIN, **config), storage, random.Random(1))


def from_peer(kind: MessageKind, sender: int, term: int, **fields: Any) -> Message:
    """Return a message to node 1."""
    return Message(kind=kind, to=1, sender=sender, term=term, **fields)


# ---- persistent state on all servers


def test_first_boot_has_term_zero_no_vote_and_an_empty_log() -> None:
    """Figure 2, state, initial values: term 0, nobody voted for, nothing logged or applied."""
    status = node_over(MemoryStorage(THREE)).status()
    assert (status.term, status.vote, status.leader) == (0, 0, 0)
    assert (status.first_index, status.last_index) == (1, 0)
    assert (status.commit, status.applied) == (0, 0)
    assert status.role is Role.FOLLOWER


def test_the_first_entry_has_index_one() -> None:
    """Figure 2, state, log[]: entries are counted from 1, each with the term it was taken in."""
    driven = Driven(membership=group(1), **PLAIN)
    driven.lead()
    assert driven.node.propose(b"x") == 2
    driven.pump()
    assert identities(driven.committed) == [(1, 1), (1, 2)]


@pytest.mark.parametrize(
    "kind",
    [
        MessageKind.APPEND,
        MessageKind.APPEND_RESPONSE,
        MessageKind.VOTE,
        MessageKind.VOTE_RESPONSE,
        MessageKind.HEARTBEAT,
        MessageKind.HEARTBEAT_RESPONSE,
        MessageKind.PRE_VOTE,
        MessageKind.PRE_VOTE_RESPONSE,
        MessageKind.TIMEOUT_NOW,
    ],
)
def test_the_term_never_decreases(kind: MessageKind) -> None:
    """Figure 2, state, currentTerm: it only grows, whatever lower term a message names."""
    driven = Driven(terms=[1, 4], **PLAIN)
    driven.step(kind, 2, term=3)
    assert (driven.node.term, driven.node.role) == (4, Role.FOLLOWER)


def test_term_and_vote_survive_a_restart() -> None:
    """Figure 2, state, votedFor: a vote given in a term still binds after a crash in that term."""
    host = Host(1, THREE, **PLAIN)
    host.node.step(from_peer(MessageKind.VOTE, 2, 3))
    assert not host.pump()[0].reject
    host.restart()
    assert (host.node.term, host.node.vote) == (3, 2)
    host.node.step(from_peer(MessageKind.VOTE, 3, 3))
    host.node.step(from_peer(MessageKind.VOTE, 2, 3))
    assert [(answer.to, answer.reject) for answer in host.pump()] == [(3, True), (2, False)]


def test_the_log_survives_a_restart() -> None:
    """Figure 2, state, log[]: after a restart a server answers for the entries it acknowledged."""
    host = Host(1, THREE, **PLAIN)
    entries = [entry(1, 1, b"a"), entry(2, 2, b"b")]
    host.node.step(from_peer(MessageKind.APPEND, 2, 2, entries=entries))
    host.pump()
    host.restart()
    assert host.log == [(1, 1, b"a"), (2, 2, b"b")]
    host.node.step(from_peer(MessageKind.APPEND, 2, 2, index=2, log_term=2))
    assert [(answer.index, answer.reject) for answer in host.pump()] == [(2, False)]


# ---- "updated on stable storage before responding"


def test_a_vote_is_told_only_once_it_is_durable() -> None:
    """Figure 2, state, persistent part: the answer waits until term and vote are on the disk."""
    node = node_over(MemoryStorage(THREE))
    node.step(from_peer(MessageKind.VOTE, 2, 1))
    ready = node.ready()
    assert ready.hard_state == HardState(1, 2, 0)
    assert ready.must_sync
    assert ready.messages == []
    assert [(m.kind, m.to, m.reject) for m in ready.messages_after_sync] == [
        (MessageKind.VOTE_RESPONSE, 2, False)
    ]


def test_an_append_is_acknowledged_only_once_it_is_durable() -> None:
    """Figure 2, state, persistent part: the answer waits until the entries are on the disk."""
    node = node_over(MemoryStorage(THREE))
    node.step(from_peer(MessageKind.APPEND, 2, 1, entries=[entry(1, 1, b"x")]))
    ready = node.ready()
    assert identities(ready.entries) == [(1, 1)]
    assert ready.must_sync
    assert ready.messages == []
    assert [(m.kind, m.to, m.index) for m in ready.messages_after_sync] == [
        (MessageKind.APPEND_RESPONSE, 2, 1)
    ]


def test_no_request_for_votes_leaves_before_the_new_term_is_durable() -> None:
    """Figure 2, state, persistent part: who asks for votes has its own term and vote on disk."""
    node = node_over(MemoryStorage(THREE))
    node.campaign()
    ready = node.ready()
    assert ready.hard_state == HardState(1, 1, 0)
    assert ready.messages == []
    assert [(m.kind, m.to) for m in ready.messages_after_sync] == [
        (MessageKind.VOTE, 2),
        (MessageKind.VOTE, 3),
    ]


def test_the_own_vote_counts_only_once_it_is_durable() -> None:
    """Figure 2, state, persistent part: not even a group of one elects before it has stored."""
    storage = MemoryStorage(group(1))
    node = node_over(storage)
    node.campaign()
    ready = node.ready()
    assert not node.is_leader
    storage.store(ready)
    node.storage_done(ready)
    assert node.is_leader


def test_a_leader_counts_its_own_copy_only_once_it_is_durable() -> None:
    """Figure 2, state, persistent part (thesis 10.2.1): the leader writes while followers do.

    Appends leave before the leader's own disk is done, so its copy must not count until then.
    """
    driven = Driven(**PLAIN)
    driven.lead_replicating()
    index = driven.node.propose(b"x")
    ready = driven.node.ready()
    assert [m.to for m in of_kind(ready.messages, MessageKind.APPEND)] == [2, 3]
    driven.node.step(from_peer(MessageKind.APPEND_RESPONSE, 2, 1, index=index))
    assert driven.node.commit == index - 1
    driven.store(ready)
    assert driven.node.commit == index


def test_acknowledgements_of_both_followers_commit_before_the_leader_has_stored() -> None:
    """Thesis 10.2.1: a majority without the leader is a majority too."""
    driven = Driven(**PLAIN)
    driven.lead_replicating()
    index = driven.node.propose(b"x")
    driven.node.ready()
    for follower in (2, 3):
        driven.node.step(from_peer(MessageKind.APPEND_RESPONSE, follower, 1, index=index))
    assert driven.node.commit == index
    assert driven.node.status().progress[1].match == index - 1


# ---- volatile state on all servers


def test_a_new_commit_index_alone_needs_no_sync() -> None:
    """Figure 2, state, commitIndex: it is volatile, since it can be learned again.

    The core hands it out with term and vote all the same, as a hint that shortens a restart.
    """
    storage = MemoryStorage(THREE)
    node = node_over(storage)
    node.step(from_peer(MessageKind.APPEND, 2, 1, entries=[entry(1, 1)]))
    ready = node.ready()
    storage.store(ready)
    node.storage_done(ready)
    node.step(from_peer(MessageKind.HEARTBEAT, 2, 1, commit=1))
    ready = node.ready()
    assert ready.hard_state == HardState(1, 0, 1)
    assert not ready.must_sync


def test_the_commit_index_is_learned_again_after_it_was_lost() -> None:
    """Figure 2, state, commitIndex: it may begin at 0 again; the leader's messages restore it."""
    driven = Driven(terms=[1, 1, 1], hard_state=HardState(1, 0, 0), **PLAIN)
    assert driven.node.commit == 0
    driven.step(MessageKind.APPEND, 2, index=3, log_term=1, commit=3)
    assert driven.node.commit == 3
    assert identities(driven.committed) == [(1, 1), (1, 2), (1, 3)]


def test_the_commit_index_never_decreases() -> None:
    """Figure 2, state, commitIndex: an older message of the leader does not set it back."""
    driven = Driven(terms=[1, 1, 1], **PLAIN)
    driven.step(MessageKind.APPEND, 2, index=3, log_term=1, commit=3)
    driven.step(MessageKind.APPEND, 2, index=3, log_term=1, commit=1)
    driven.step(MessageKind.HEARTBEAT, 2, commit=2)
    assert driven.node.commit == 3


def test_what_is_applied_only_grows_and_never_passes_the_commit_index() -> None:
    """Figure 2, state, lastApplied: each entry is handed out once, in order, after its commit."""
    driven = Driven(terms=[1, 1, 1, 1], **PLAIN)
    seen = []
    for commit in (0, 2, 1, 2, 4):
        driven.step(MessageKind.APPEND, 2, index=4, log_term=1, commit=commit)
        seen.append((driven.node.applied, driven.node.commit))
    assert seen == [(0, 0), (2, 2), (2, 2), (2, 2), (4, 4)]
    assert identities(driven.committed) == [(1, 1), (1, 2), (1, 3), (1, 4)]


# ---- volatile state on leaders


def test_a_new_leader_guesses_that_every_follower_has_its_whole_log() -> None:
    """Figure 2, state, nextIndex[] and matchIndex[]: the end of the log, and nothing known."""
    driven = Driven(terms=[1, 1, 3], **PLAIN)
    driven.lead()
    progress = driven.node.status().progress
    assert [(progress[node].next, progress[node].match) for node in (2, 3)] == [(4, 0), (4, 0)]
    assert {progress[node].mode for node in (2, 3)} == {ProgressMode.PROBE}
    assert (progress[1].next, progress[1].match) == (5, 4)


def test_next_and_match_are_forgotten_with_every_election() -> None:
    """Figure 2, state, volatile part of leaders: what an earlier leadership knew counts no more."""
    driven = Driven(terms=[1], **PLAIN)
    driven.lead_replicating()
    assert driven.node.status().progress[2].match == 2
    driven.step(MessageKind.HEARTBEAT, 3, term=7)
    assert driven.node.status().progress == {}
    driven.lead()
    progress = driven.node.status().progress[2]
    assert (progress.match, progress.next) == (0, 3)


def test_what_a_follower_is_known_to_hold_only_grows() -> None:
    """Figure 2, state, matchIndex[]: late and repeated acknowledgements take nothing back."""
    driven = Driven(**PLAIN)
    driven.lead_replicating()
    for payload in (b"a", b"b", b"c"):
        driven.node.propose(payload)
    driven.pump()
    seen = []
    for index in (3, 2, 4, 1, 4):
        driven.acknowledge(2, index)
        seen.append(driven.node.status().progress[2].match)
    assert seen == [3, 3, 4, 4, 4]
    assert driven.node.status().progress[2].next == 5
