"""Figure 2 of the paper, box "rules for servers", leaders."""

from __future__ import annotations

import pytest

from rafter_core import Entry, HardState, Message, MessageKind, ProgressMode, Role
from tests.core.support import Driven, entry, log_of, of_kind
from tests.paper.support import PLAIN, group, identities

APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
HEARTBEAT = MessageKind.HEARTBEAT
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE


def append(to: int, term: int, index: int, log_term: int, entries: list[Entry]) -> Message:
    """Return an append of node 1 that commits nothing."""
    return Message(
        kind=APPEND, to=to, sender=1, term=term, index=index, log_term=log_term, entries=entries
    )


# ---- leaders 1: authority


def test_a_new_leader_makes_itself_known_at_once() -> None:
    """Figure 2, rules for servers, leaders 1: an append to everybody, upon election.

    The paper's is empty. Here it carries the no-op of section 8, which commits what came before.
    """
    driven = Driven(terms=[1], **PLAIN)
    assert driven.lead() == [append(to, 2, 1, 1, [entry(2, 2)]) for to in (2, 3)]


@pytest.mark.parametrize("heartbeat_ticks", [1, 2, 3])
def test_an_idle_leader_repeats_its_heartbeat(heartbeat_ticks: int) -> None:
    """Figure 2, rules for servers, leaders 1, and section 5.2: to everybody, each interval."""
    driven = Driven(heartbeat_ticks=heartbeat_ticks, **PLAIN)
    driven.lead()
    for _ in range(4):
        assert driven.tick(heartbeat_ticks - 1) == []
        assert driven.tick() == [
            Message(kind=HEARTBEAT, to=to, sender=1, term=1, commit=0) for to in (2, 3)
        ]


def test_only_a_leader_beats() -> None:
    """Figure 2, rules for servers, leaders 1: followers and candidates send no heartbeats."""
    for prepare in (Driven.pump, Driven.campaign):
        driven = Driven(**PLAIN)
        prepare(driven)
        assert of_kind(driven.tick(40), HEARTBEAT) == []


# ---- leaders 2: commands of clients


def test_a_command_is_appended_and_replicated() -> None:
    """Figure 2, rules for servers, leaders 2, and section 5.3: appended, then sent in parallel."""
    driven = Driven(**PLAIN)
    driven.lead_replicating()
    assert driven.node.propose(b"some data") == 2
    ready = driven.node.ready()
    command = entry(1, 2, b"some data")
    assert ready.entries == [command]
    assert [(m.to, m.index, m.log_term, m.entries, m.commit) for m in ready.messages] == [
        (2, 1, 1, [command], 1),
        (3, 1, 1, [command], 1),
    ]


def test_a_command_is_answered_only_after_it_was_applied() -> None:
    """Figure 2, rules for servers, leaders 2: it is handed out once a majority has stored it."""
    driven = Driven(**PLAIN)
    driven.lead_replicating()
    index = driven.node.propose(b"x")
    driven.pump()
    assert entry(1, index, b"x") not in driven.committed
    driven.acknowledge(3, index)
    assert driven.committed[-1] == entry(1, index, b"x")
    assert driven.node.applied == index


@pytest.mark.parametrize(
    ("size", "acceptors", "is_acknowledged"),
    [
        (1, [], True),
        (3, [], False),
        (3, [2], True),
        (3, [2, 3], True),
        (5, [], False),
        (5, [2], False),
        (5, [2, 3], True),
        (5, [2, 3, 4], True),
        (5, [2, 3, 4, 5], True),
    ],
)
def test_a_majority_of_copies_commits(
    size: int, acceptors: list[int], is_acknowledged: bool
) -> None:
    """Paper, section 5.3: an entry is committed once more than half of the servers hold it."""
    driven = Driven(membership=group(size), **PLAIN)
    driven.lead_replicating()
    index = driven.node.propose(b"x")
    driven.pump()
    for acceptor in acceptors:
        driven.acknowledge(acceptor, index)
    assert (driven.node.commit == index) is is_acknowledged


# ---- leaders 3: replication


def test_a_follower_is_sent_all_from_its_next_index_on() -> None:
    """Figure 2, rules for servers, leaders 3: what it lacks, in one append."""
    driven = Driven(**PLAIN)
    driven.lead_replicating()
    for payload in (b"a", b"b"):
        driven.node.propose(payload)
        driven.pump()
        driven.acknowledge(2)
    driven.node.report_unreachable(3)
    appends = of_kind(driven.step(HEARTBEAT_RESPONSE, 3), APPEND)
    assert [(m.to, m.index, identities(list(m.entries))) for m in appends] == [
        (3, 1, [(1, 2), (1, 3)])
    ]


def test_a_success_moves_next_and_match() -> None:
    """Figure 2, rules for servers, leaders 3, first half: both follow the acknowledgement."""
    driven = Driven(terms=[1, 1], **PLAIN)
    driven.lead()
    progress = driven.node.status().progress[2]
    assert (progress.match, progress.next, progress.mode) == (0, 3, ProgressMode.PROBE)
    driven.acknowledge(2, 3)
    progress = driven.node.status().progress[2]
    assert (progress.match, progress.next, progress.mode) == (3, 4, ProgressMode.REPLICATE)


def test_a_failure_moves_next_back_and_tries_again() -> None:
    """Figure 2, rules for servers, leaders 3, second half: one back, and the append is repeated.

    A follower that gives no hint at all is searched entry by entry, as in the paper's figure.
    """
    driven = Driven(terms=[1, 1, 1], **PLAIN)
    driven.lead()
    tried = []
    for previous in (3, 2, 1):
        retried = driven.step(APPEND_RESPONSE, 2, index=previous, reject=True, reject_hint=previous)
        tried += [(m.to, m.index, len(m.entries)) for m in retried]
    assert tried == [(2, 2, 2), (2, 1, 3), (2, 0, 4)]


@pytest.mark.parametrize(
    ("hint", "hint_term", "next_index"),
    [
        # The follower's log is short: it ends at `hint`.
        (4, 4, 5),
        (1, 1, 2),
        # It ends in a run of term 2, which the leader does not have: skip to its term 1.
        (6, 2, 4),
        # It ends in term 5; the leader goes back to its own last entry of at most term 5.
        (7, 5, 8),
        # Nothing in common.
        (0, 0, 1),
    ],
)
def test_a_failure_skips_a_whole_term(hint: int, hint_term: int, next_index: int) -> None:
    """Paper, section 5.3, the optimisation: one refused append a term, not one an entry.

    Both sides search: the follower for its last term that is no newer than the leader's, the
    leader for its own last entry that is no newer than that.
    """
    driven = Driven(terms=[1, 1, 1, 4, 4, 5, 5, 6, 6, 6], **PLAIN)
    driven.lead()
    retried = driven.step(
        APPEND_RESPONSE, 2, index=10, reject=True, reject_hint=hint, log_term=hint_term
    )
    assert [(m.kind, m.index) for m in retried] == [(APPEND, next_index - 1)]
    assert driven.node.status().progress[2].next == next_index


def test_an_append_is_retried_without_end() -> None:
    """Paper, section 5.3: even after a command was answered, until every follower has stored it."""
    driven = Driven(**PLAIN)
    driven.lead_replicating()
    driven.node.propose(b"x")
    driven.pump()
    driven.acknowledge(2)
    for _ in range(20):
        driven.tick()
        retried = of_kind(driven.step(HEARTBEAT_RESPONSE, 3), APPEND)
        assert [(m.to, m.index) for m in retried] == [(3, 2)]
    # The empty append after the lost one is refused, and then the entry itself is sent again.
    retried = driven.step(APPEND_RESPONSE, 3, index=2, reject=True, reject_hint=1, log_term=1)
    assert [identities(list(m.entries)) for m in retried] == [[(1, 2)]]


# ---- leaders 4: commitment


def test_the_leader_tells_what_it_committed() -> None:
    """Paper, section 5.3: the commit index goes with the next append, here with one at once."""
    driven = Driven(**PLAIN)
    driven.lead_replicating()
    index = driven.node.propose(b"x")
    driven.pump()
    messages = driven.acknowledge(2, index)
    assert driven.committed[-1] == entry(1, 2, b"x")
    assert [(m.kind, m.to, m.index, len(m.entries), m.commit) for m in messages] == [
        (APPEND, 2, 2, 0, 2),
        (APPEND, 3, 2, 0, 2),
    ]


@pytest.mark.parametrize("terms", [[], [2], [1, 2], [1]])
def test_all_entries_before_a_committed_one_are_committed(terms: list[int]) -> None:
    """Paper, section 5.3: those of other leaders too, however they got into this leader's log."""
    driven = Driven(terms=terms, hard_state=HardState(2, 0, 0), **PLAIN)
    driven.lead()
    driven.node.propose(b"x")
    driven.pump()
    assert driven.committed == []
    driven.acknowledge(2)
    last = len(terms)
    assert driven.committed == [
        *log_of(*terms),
        entry(3, last + 1),
        entry(3, last + 2, b"x"),
    ]


@pytest.mark.parametrize(
    ("index", "commit"),
    [(1, 0), (2, 0), (3, 3), (4, 4)],
)
def test_only_entries_of_the_own_term_are_committed_by_counting(index: int, commit: int) -> None:
    """Figure 2, rules for servers, leaders 4, and section 5.4.2: a majority and the own term.

    Log 1, 2 of older terms, then the no-op and a command of term 3.
    """
    driven = Driven(terms=[1, 2], **PLAIN)
    driven.lead()
    driven.node.propose(b"x")
    driven.pump()
    driven.acknowledge(2, index)
    assert (driven.node.term, driven.node.commit) == (3, commit)


@pytest.mark.parametrize(
    ("matches", "commit"),
    [
        ([], 0),
        ([4], 0),
        ([4, 4], 4),
        ([4, 3], 3),
        ([2, 4], 2),
        ([4, 3, 2], 3),
        ([4, 3, 2, 1], 3),
        ([4, 4, 4, 2], 4),
        ([2, 2, 2, 2], 2),
        ([1, 1, 1, 1], 1),
    ],
)
def test_the_commit_index_is_what_a_majority_holds(matches: list[int], commit: int) -> None:
    """Figure 2, rules for servers, leaders 4: the highest index on three of five servers."""
    driven = Driven(membership=group(5), **PLAIN)
    driven.lead()
    driven.node.propose_many([b"a", b"b", b"c"])
    driven.pump()
    for follower, match in enumerate(matches, 2):
        driven.acknowledge(follower, match)
    assert driven.node.commit == commit


def test_a_leader_of_an_older_term_commits_nothing_more() -> None:
    """Figure 2, rules for servers, all servers 2 and leaders 4: late answers find no leader."""
    driven = Driven(**PLAIN)
    driven.lead_replicating()
    index = driven.node.propose(b"x")
    driven.pump()
    driven.step(MessageKind.VOTE, 3, term=2)
    driven.step(APPEND_RESPONSE, 2, term=1, index=index)
    assert (driven.node.role, driven.node.commit) == (Role.FOLLOWER, index - 1)


# ---- the follower's side of commitment


@pytest.mark.parametrize(
    ("payloads", "commit"),
    [
        ([b"some data"], 1),
        ([b"some data", b"some data2"], 2),
        ([b"some data2", b"some data"], 2),
        ([b"some data", b"some data2"], 1),
    ],
)
def test_a_follower_applies_what_it_learns_is_committed(payloads: list[bytes], commit: int) -> None:
    """Paper, section 5.3: in log order, up to the leader's commit index."""
    driven = Driven(**PLAIN)
    entries = [entry(1, index, payload) for index, payload in enumerate(payloads, 1)]
    driven.step(APPEND, 2, term=1, entries=entries, commit=commit)
    assert driven.committed == entries[:commit]
