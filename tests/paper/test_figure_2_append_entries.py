"""Figure 2 of the paper, box "AppendEntries RPC": its arguments, its result, its receiver.

Unlike the paper, the core has a message of its own for heartbeats. It carries no entries and
verifies nothing, so its commit index is capped by what the follower is known to hold.
"""

from __future__ import annotations

import pytest

from rafter_core import Entry, HardState, Message, MessageKind, Role
from tests.core.support import Driven, entry, log_of, of_kind
from tests.paper.support import PLAIN, group, identities, stored

APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
HEARTBEAT = MessageKind.HEARTBEAT
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE


# ---- arguments and results


def test_an_append_carries_the_six_arguments() -> None:
    """Figure 2, AppendEntries RPC, arguments: term, leader, previous entry, entries, commit."""
    driven = Driven(terms=[1, 2], **PLAIN)
    driven.lead_replicating()
    driven.node.propose(b"x")
    assert of_kind(driven.pump(), APPEND)[0] == Message(
        kind=APPEND,
        to=2,
        sender=1,
        term=3,
        index=3,
        log_term=3,
        entries=[entry(3, 4, b"x")],
        commit=3,
    )


def test_several_entries_travel_in_one_append() -> None:
    """Figure 2, AppendEntries RPC, arguments: entries[] may hold more than one."""
    driven = Driven(**PLAIN)
    driven.lead_replicating()
    driven.node.propose_many([b"a", b"b", b"c"])
    appends = of_kind(driven.pump(), APPEND)
    assert [identities(list(m.entries)) for m in appends] == [[(1, 2), (1, 3), (1, 4)]] * 2


def test_the_sender_of_an_append_is_the_leader_to_turn_to() -> None:
    """Figure 2, AppendEntries RPC, arguments: leaderId tells a follower where clients belong."""
    driven = Driven(**PLAIN)
    driven.step(APPEND, 3, term=2)
    assert driven.node.leader == 3
    assert driven.node.propose(b"x") == 0
    assert [(m.kind, m.to) for m in driven.pump()] == [(MessageKind.PROPOSE, 3)]


def test_a_success_carries_the_term_and_what_matches_now() -> None:
    """Figure 2, AppendEntries RPC, results: the current term, success, and here also the index.

    Messages are not calls, so the answer says itself up to where the logs agree.
    """
    driven = Driven(**PLAIN)
    assert driven.step(APPEND, 2, term=4, entries=log_of(1, 4)) == [
        Message(kind=APPEND_RESPONSE, to=2, sender=1, term=4, index=2)
    ]


def test_a_failure_carries_the_term_and_a_hint() -> None:
    """Figure 2, AppendEntries RPC, results, and section 5.3: where the logs may agree instead."""
    driven = Driven(terms=[1, 1, 2], **PLAIN)
    assert driven.step(APPEND, 2, term=5, index=7, log_term=4) == [
        Message(
            kind=APPEND_RESPONSE,
            to=2,
            sender=1,
            term=5,
            index=7,
            log_term=2,
            reject=True,
            reject_hint=3,
        )
    ]


# ---- receiver 1


def test_an_append_of_an_older_term_is_refused() -> None:
    """Figure 2, AppendEntries RPC, receiver 1: no entry of a deposed leader is taken.

    The refusal is an answer in our term, which is what makes the sender step down.
    """
    driven = Driven(terms=[1, 2])
    assert driven.step(APPEND, 2, term=1, index=1, log_term=1, entries=[entry(1, 2)]) == [
        Message(kind=APPEND_RESPONSE, to=2, sender=1, term=2)
    ]
    assert stored(driven) == [(1, 1, b""), (2, 2, b"")]
    assert driven.node.leader == 0


def test_an_append_of_an_older_term_is_not_even_answered_in_the_plain_algorithm() -> None:
    """Figure 2, AppendEntries RPC, receiver 1: the core follows etcd and keeps silent here.

    Without pre-vote and check-quorum the deposed leader hears the term with the next request for
    votes or append of the new one; with either of them it might not, hence the answer above.
    """
    driven = Driven(terms=[1, 2], **PLAIN)
    assert driven.step(APPEND, 2, term=1, index=1, log_term=1, entries=[entry(1, 2)]) == []
    assert stored(driven) == [(1, 1, b""), (2, 2, b"")]


def test_a_deposed_leader_learns_the_term_from_the_refusal() -> None:
    """Figure 2, AppendEntries RPC, results: the term is there for the leader to update itself."""
    driven = Driven(**PLAIN)
    driven.lead()
    driven.step(APPEND_RESPONSE, 2, term=6)
    assert (driven.node.role, driven.node.term, driven.node.leader) == (Role.FOLLOWER, 6, 0)


# ---- receiver 2


@pytest.mark.parametrize(
    ("index", "log_term", "reject", "answer_index", "hint", "hint_term"),
    [
        # Matching: everywhere, before the first entry too, and before the commit index.
        (0, 0, False, 1, 0, 0),
        (1, 1, False, 1, 0, 0),
        (2, 2, False, 2, 0, 0),
        # Another term stands there: look before it.
        (2, 1, True, 2, 1, 1),
        (2, 3, True, 2, 2, 2),
        # Nothing stands there.
        (3, 3, True, 3, 2, 2),
        (9, 1, True, 9, 1, 1),
    ],
)
def test_the_previous_entry_must_match(
    index: int, log_term: int, reject: bool, answer_index: int, hint: int, hint_term: int
) -> None:
    """Figure 2, AppendEntries RPC, receiver 2: refuse unless the previous entry is held.

    What is committed matches by definition: an append before that is answered with the commit
    index. A refusal repeats the previous index, so that a late one can be told from a fresh one.
    """
    driven = Driven(terms=[1, 2], hard_state=HardState(2, 0, 1), **PLAIN)
    answer = driven.step(APPEND, 2, term=3, index=index, log_term=log_term)[-1]
    assert (answer.reject, answer.index) == (reject, answer_index)
    assert (answer.reject_hint, answer.log_term) == (hint, hint_term)


def test_a_refused_append_changes_nothing_but_still_comes_from_the_leader() -> None:
    """Figure 2, AppendEntries RPC, receiver 2: the entries are not taken, the leader is heard."""
    driven = Driven(terms=[1, 2], election_timeout_ticks=10, **PLAIN)
    driven.tick(9)
    driven.step(APPEND, 2, index=5, log_term=2, entries=[entry(2, 6)], commit=6)
    assert stored(driven) == [(1, 1, b""), (2, 2, b"")]
    assert (driven.node.commit, driven.node.leader) == (0, 2)
    driven.tick(9)
    assert driven.node.role is Role.FOLLOWER


# ---- receivers 3 and 4


@pytest.mark.parametrize(
    ("index", "log_term", "entries", "log", "written"),
    [
        (2, 2, [entry(3, 3)], [1, 2, 3], [(3, 3)]),
        (1, 1, [entry(3, 2), entry(4, 3)], [1, 3, 4], [(3, 2), (4, 3)]),
        (0, 0, [entry(1, 1)], [1, 2], []),
        (0, 0, [entry(3, 1)], [3], [(3, 1)]),
        (0, 0, [entry(1, 1), entry(2, 2), entry(4, 3)], [1, 2, 4], [(4, 3)]),
        (0, 0, [entry(1, 1), entry(4, 2)], [1, 4], [(4, 2)]),
        (1, 1, [entry(2, 2)], [1, 2], []),
    ],
)
def test_the_log_becomes_the_leaders(
    index: int,
    log_term: int,
    entries: list[Entry],
    log: list[int],
    written: list[tuple[int, int]],
) -> None:
    """Figure 2, AppendEntries RPC, receivers 3 and 4: conflicts go, what is missing is added.

    Only what is new is handed out to be stored: `written`.
    """
    driven = Driven(terms=[1, 2], hard_state=HardState(4, 0, 0), **PLAIN)
    message = Message(
        kind=APPEND, to=1, sender=2, term=4, index=index, log_term=log_term, entries=entries
    )
    driven.node.step(message)
    ready = driven.node.ready()
    assert identities(ready.entries) == written
    driven.store(ready)
    assert [term for term, _, _ in stored(driven)] == log


def test_a_conflict_removes_every_entry_after_it() -> None:
    """Figure 2, AppendEntries RPC, receiver 3: also those that the append does not reach."""
    driven = Driven(terms=[1, 2, 2, 2, 2], **PLAIN)
    driven.step(APPEND, 2, term=3, index=1, log_term=1, entries=[entry(3, 2)])
    assert stored(driven) == [(1, 1, b""), (3, 2, b"")]
    assert driven.node.last_index == 2


def test_an_entry_that_agrees_is_kept_with_all_after_it() -> None:
    """Figure 2, AppendEntries RPC, receiver 3: only a conflict removes, not a short append.

    A delayed append may end before entries that were acknowledged already.
    """
    driven = Driven(terms=[1, 2, 2, 2], **PLAIN)
    answers = driven.step(APPEND, 2, index=1, log_term=1, entries=[entry(2, 2)])
    assert [term for term, _, _ in stored(driven)] == [1, 2, 2, 2]
    assert [(m.index, m.reject) for m in answers] == [(2, False)]


@pytest.mark.parametrize("count", range(5))
def test_no_prefix_of_a_log_shortens_it(count: int) -> None:
    """Figure 2, AppendEntries RPC, receivers 3 and 4: any earlier append is harmless again."""
    terms = [1, 1, 2, 3]
    driven = Driven(terms=terms, **PLAIN)
    driven.step(APPEND, 2, entries=log_of(*terms[:count]))
    assert [term for term, _, _ in stored(driven)] == terms


def test_a_committed_entry_is_never_removed() -> None:
    """Figure 2, AppendEntries RPC, receiver 3: a conflict there is impossible, and not looked for.

    An append from before the commit index is answered with that index; its entries are ignored.
    """
    driven = Driven(terms=[1, 1, 1], hard_state=HardState(1, 0, 3), **PLAIN)
    answers = driven.step(APPEND, 2, term=2, index=2, log_term=1, entries=[entry(2, 3)])
    assert [(m.index, m.reject) for m in answers] == [(3, False)]
    assert [term for term, _, _ in stored(driven)] == [1, 1, 1]


def test_the_same_append_twice_is_the_same_as_once() -> None:
    """Figure 2, AppendEntries RPC, receiver 4, and section 5.5: the call is idempotent."""
    driven = Driven(terms=[1], **PLAIN)
    answers = [
        driven.step(APPEND, 2, term=2, index=1, log_term=1, entries=[entry(2, 2, b"x")], commit=2)
        for _ in range(3)
    ]
    assert answers[0] == answers[1] == answers[2]
    assert stored(driven) == [(1, 1, b""), (2, 2, b"x")]
    assert identities(driven.committed) == [(1, 1), (2, 2)]


# ---- receiver 5


@pytest.mark.parametrize(
    ("index", "log_term", "entries", "leader_commit", "commit"),
    [
        (3, 1, [], 0, 0),
        (3, 1, [], 2, 2),
        (3, 1, [], 3, 3),
        # Capped by the last entry of the append, or its previous one.
        (3, 1, [], 9, 3),
        (3, 1, [entry(2, 4)], 9, 4),
        (3, 1, [entry(2, 4), entry(2, 5)], 4, 4),
        # The log is longer, but what follows is not verified by this append.
        (1, 1, [], 3, 1),
        (1, 1, [entry(1, 2)], 3, 2),
    ],
)
def test_the_commit_index_follows_as_far_as_the_append_verifies(
    index: int, log_term: int, entries: list[Entry], leader_commit: int, commit: int
) -> None:
    """Figure 2, AppendEntries RPC, receiver 5: the smaller of leaderCommit and the last new one."""
    driven = Driven(terms=[1, 1, 1], hard_state=HardState(2, 0, 0), **PLAIN)
    driven.step(APPEND, 2, index=index, log_term=log_term, entries=entries, commit=leader_commit)
    assert driven.node.commit == commit
    assert [entry.index for entry in driven.committed] == list(range(1, commit + 1))


# ---- the heartbeat


def test_a_heartbeat_has_no_entries_and_is_answered() -> None:
    """Figure 2, AppendEntries RPC, purpose: it serves as heartbeat, a message of its own here."""
    driven = Driven(terms=[1, 2], **PLAIN)
    assert driven.step(HEARTBEAT, 3, term=5, commit=1, context=b"12345678") == [
        Message(kind=HEARTBEAT_RESPONSE, to=3, sender=1, term=5, context=b"12345678")
    ]
    assert (driven.node.term, driven.node.leader, driven.node.commit) == (5, 3, 1)


def test_a_heartbeat_commits_only_what_the_follower_is_known_to_hold() -> None:
    """Figure 2, AppendEntries RPC, receiver 5: a heartbeat verifies nothing, so the leader caps.

    Of the entries 1 to 3, held as `matches` says, those up to 2 are committed.
    """
    matches = {2: 3, 3: 2, 4: 1}
    driven = Driven(membership=group(5), **PLAIN)
    driven.lead()
    driven.node.propose_many([b"a", b"b"])
    driven.pump()
    for follower, match in matches.items():
        driven.acknowledge(follower, match)
    assert driven.node.commit == 2
    heartbeats = of_kind(driven.tick(), HEARTBEAT)
    assert [(m.to, m.commit) for m in heartbeats] == [(2, 2), (3, 2), (4, 1), (5, 0)]
    assert {(m.term, m.index, m.log_term, len(m.entries)) for m in heartbeats} == {(1, 0, 0, 0)}
