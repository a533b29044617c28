"""Bugs of other raft systems around log and commit, one by one (reliability.md, section 4)."""

from __future__ import annotations

from itertools import permutations

import pytest

from rafter_core import (
    Entry,
    HardState,
    InvariantError,
    Membership,
    Message,
    MessageKind,
    Ready,
    Role,
)
from rafter_core.storage_messages import append_message
from tests.core.network import Host, Network
from tests.core.support import Driven, entry, log_of

APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
FIVE = Membership((1, 2, 3, 4, 5))


def append(
    driven: Driven, term: int, index: int, log_term: int, entries: list[Entry], commit: int = 0
) -> list[Message]:
    """Step an append of node 2."""
    return driven.step(
        APPEND, 2, term=term, index=index, log_term=log_term, entries=entries, commit=commit
    )


def test_copies_of_an_entry_of_an_older_term_commit_nothing() -> None:
    """Item 15: figure 8, (c): a majority holds 2/2, and it is not committed."""
    driven = Driven(membership=FIVE, terms=(1, 2), hard_state=HardState(3, 0, 0))
    driven.lead()
    assert driven.node.term == 4
    for peer in (2, 3, 4, 5):
        driven.acknowledge(peer, 2)
        assert driven.node.commit == 0
    driven.acknowledge(2, 3)
    assert driven.node.commit == 0
    driven.acknowledge(3, 3)
    assert driven.node.commit == 3


def test_an_entry_on_a_majority_may_still_be_overwritten_and_nobody_minds() -> None:
    """Item 15: figure 8, (a) to (d): node 5 replaces 2/2 although three nodes hold it."""
    state = HardState(4, 0, 0)
    logs = {1: (1, 2), 2: (1, 2), 3: (1, 2), 4: (1,), 5: (1, 3)}
    net = Network(*(Host(n, FIVE, terms=terms, hard_state=state) for n, terms in logs.items()))
    net.campaign(5)
    assert net.leaders() == [5]
    net.tick_all(2)
    for host in net.hosts.values():
        assert [term for term, _, _ in host.log] == [1, 3, 5]
        assert host.node.commit == 3


def test_an_own_entry_on_a_majority_keeps_the_other_log_from_winning() -> None:
    """Item 15: figure 8, (e)."""
    state = HardState(4, 0, 0)
    logs = {1: (1, 2, 4), 2: (1, 2, 4), 3: (1, 2, 4), 4: (1,), 5: (1, 3)}
    net = Network(*(Host(n, FIVE, terms=terms, hard_state=state) for n, terms in logs.items()))
    net.campaign(5)
    assert net.leaders() == []


@pytest.mark.parametrize("terms", [(1,), (1, 1, 1), (1, 2, 3), (1, 1, 2, 2, 3, 3)])
def test_the_first_own_entry_commits_everything_before_it_at_once(terms: tuple[int, ...]) -> None:
    """Item 16."""
    driven = Driven(terms=terms)
    driven.lead()
    assert driven.node.commit == 0
    driven.acknowledge(2)
    assert driven.node.commit == len(terms) + 1
    assert [item.index for item in driven.committed] == list(range(1, len(terms) + 2))


def test_a_delayed_append_cuts_nothing_that_agrees() -> None:
    """Item 17."""
    driven = Driven(terms=(1, 1, 1, 1, 1))
    for index in range(5):
        for end in range(index, 5):
            (answer,) = append(
                driven, 1, index, 1 if index else 0, log_of(1, 1, 1, 1, 1)[index:end]
            )
            assert (answer.reject, answer.index) == (False, end)
            assert driven.node.last_index == 5
    assert driven.storage.entries(1, 6, 1 << 20) == log_of(1, 1, 1, 1, 1)


def test_only_a_conflict_cuts_and_never_what_is_committed() -> None:
    """Item 17."""
    driven = Driven(terms=(1, 1, 1, 1), hard_state=HardState(1, 0, 2))
    append(driven, 2, 2, 1, [entry(2, 3)])
    assert driven.storage.entries(1, 4, 1 << 20) == [*log_of(1, 1), entry(2, 3)]
    assert driven.node.last_index == 3
    # Below the commit index nothing is even looked at.
    (answer,) = append(driven, 2, 0, 0, [entry(2, 1), entry(2, 2)])
    assert (answer.reject, answer.index) == (False, 2)
    assert driven.storage.entries(1, 4, 1 << 20) == [*log_of(1, 1), entry(2, 3)]


@pytest.mark.parametrize(
    ("index", "log_term", "count", "leader_commit", "commit"),
    [
        (2, 1, 0, 4, 2),  # a probe verifies what is before it alone
        (1, 1, 1, 4, 2),
        (2, 1, 1, 4, 3),
        (2, 1, 2, 4, 4),
        (4, 1, 0, 3, 3),
        (5, 1, 0, 5, 0),  # refused: nothing is verified
    ],
)
def test_a_follower_commits_what_the_message_verified_and_no_more(
    index: int, log_term: int, count: int, leader_commit: int, commit: int
) -> None:
    """Item 18: entries 3 and 4 may differ from the leader's."""
    driven = Driven(terms=(1, 1, 1, 1))
    append(driven, 2, index, log_term, log_of(1, 1, 1, 1)[index : index + count], leader_commit)
    assert driven.node.commit == commit


def test_a_heartbeat_commits_only_what_the_follower_acknowledged() -> None:
    """Item 18: it has no entry to verify, so the leader caps the index."""
    driven = Driven(terms=(1, 1, 1))
    driven.lead()
    driven.acknowledge(2)
    assert driven.node.commit == 4
    beats = {m.to: m.commit for m in driven.tick() if m.kind is MessageKind.HEARTBEAT}
    assert beats == {2: 4, 3: 0}
    driven.acknowledge(3, 2)
    beats = {m.to: m.commit for m in driven.tick() if m.kind is MessageKind.HEARTBEAT}
    assert beats == {2: 4, 3: 2}


def aba_readys(driven: Driven) -> list[Ready]:
    """Let three leaders write entry 1: of term 1, of term 2, and that of term 1 again."""
    readys = []
    for term, written in ((1, 1), (2, 2), (3, 1)):
        driven.node.step(
            Message(kind=APPEND, to=1, sender=2, term=term, entries=[entry(written, 1)])
        )
        readys.append(driven.node.ready())
    return readys


def test_a_late_completion_of_an_older_term_makes_nothing_durable() -> None:
    """Item 20: A-B-A: storage holds B while the log says A again."""
    driven = Driven()
    stable = []
    for ready in aba_readys(driven):
        driven.storage.store(ready)
        driven.node.storage_done(ready)
        stable.append(driven.node.status().stable_index)
    assert stable == [0, 0, 1]
    assert driven.storage.entries(1, 2, 100) == [entry(1, 1)]


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_completions_of_older_terms_count_in_no_order(order: tuple[int, ...]) -> None:
    """Item 20, in the message form, where the transport may reorder."""
    driven = Driven(messages_wait_for_term=False)
    works = [append_message(ready) for ready in aba_readys(driven)]
    seen = set()
    for position in order:
        work = works[position]
        assert work is not None
        driven.node.step(work.responses[-1])
        seen.add(position)
        assert driven.node.status().stable_index == int(2 in seen)


@pytest.mark.parametrize("order", list(permutations((2, 3, 4))), ids=str)
def test_acknowledgements_in_any_order_reach_the_same_progress(order: tuple[int, ...]) -> None:
    """Item 21."""
    driven = Driven()
    driven.lead_replicating()
    for payload in (b"a", b"b", b"c"):
        driven.node.propose(payload)
        driven.pump()
    assert driven.node.status().progress[2].inflight_messages == 3
    highest = 1
    for index in order:
        driven.acknowledge(2, index)
        highest = max(highest, index)
        progress = driven.node.status().progress[2]
        assert (progress.match, progress.next) == (highest, 5)
        assert progress.inflight_messages == 4 - highest
        assert driven.node.commit == highest


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_completions_of_one_term_in_any_order_lose_no_progress(order: tuple[int, ...]) -> None:
    """Item 21: each vouches for all that was handed out before it."""
    driven = Driven(membership=Membership((1,)))
    driven.lead()
    works = []
    for payload in (b"a", b"b", b"c"):
        driven.node.propose(payload)
        work = append_message(driven.node.ready())
        assert work is not None
        driven.storage.append(work.entries)
        works.append(work)
    highest = 1
    for position in order:
        driven.node.step(works[position].responses[-1])
        highest = max(highest, position + 2)
        assert driven.node.status().stable_index == highest


def test_readys_must_be_completed_in_their_order() -> None:
    """Item 21: otherwise the driver is broken, and says so at once."""
    driven = Driven(terms=(1,))
    readys = []
    for index in (1, 2):
        driven.node.step(
            Message(
                kind=APPEND, to=1, sender=2, term=1, index=index, log_term=1,
                entries=[entry(1, index + 1)],
            )
        )  # fmt: skip
        readys.append(driven.node.ready())
    with pytest.raises(InvariantError, match="storage_done for Ready 2, expected 1"):
        driven.node.storage_done(readys[1])


def test_another_entry_at_the_index_of_a_proposal_is_told_apart_by_its_term() -> None:
    """Item 23: who proposed looks at (term, index) of what is applied."""
    net = Network(count=3)
    net.campaign(1)
    net.isolate(1)
    index, term = net[1].node.propose(b"lost"), net[1].node.term
    net.run()
    net[1].node.forget_leader()
    net.tick_all(3 * 10)
    (leader,) = (node for node in net.leaders() if node != 1)
    net.propose(leader, b"kept")
    net.heal()
    net.tick_all(2)
    assert net[1].node.role is Role.FOLLOWER
    (applied,) = (item for item in net[1].applied if item.index == index)
    assert applied.term != term
    assert net[1].payloads == [b"kept"]


def test_nothing_is_handed_out_before_a_quorum_holds_it() -> None:
    """Item 23."""
    driven = Driven()
    driven.lead_replicating()
    index = driven.node.propose(b"x")
    driven.pump()
    assert driven.node.commit == index - 1
    assert [item.index for item in driven.committed] == [1]
    driven.acknowledge(3)
    assert driven.committed[-1] == entry(1, index, b"x")


@pytest.mark.parametrize("rejected", range(7))
@pytest.mark.parametrize("hint", range(7))
@pytest.mark.parametrize("is_probing", [True, False])
def test_next_never_falls_to_match(rejected: int, hint: int, is_probing: bool) -> None:
    """Item 25: whatever old refusals still arrive."""
    driven = Driven(terms=(1, 1, 1, 1))
    driven.lead()
    driven.acknowledge(2, 3)
    if is_probing:
        driven.node.report_unreachable(2)
        driven.pump()
    driven.step(APPEND_RESPONSE, 2, index=min(rejected, 5), reject=True, reject_hint=hint)
    progress = driven.node.status().progress[2]
    assert progress.match == 3
    assert progress.next > 3
