"""The follower's side: what it appends, what it refuses, what it commits, and how it answers."""

from __future__ import annotations

import pytest

from rafter_core import HardState, InvariantError, Message, MessageKind, Role, StepError
from tests.core.support import Driven, both_modes, entry

APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
HEARTBEAT = MessageKind.HEARTBEAT
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE


def test_an_append_is_acknowledged_after_it_is_durable() -> None:
    driven = Driven()
    driven.node.step(Message(kind=APPEND, to=1, sender=2, term=1, entries=[entry(1, 1)], commit=1))
    ready = driven.node.ready()
    assert ready.messages == []
    assert ready.hard_state == HardState(1, 0, 1)
    assert ready.committed == []
    (answer,) = ready.messages_after_sync
    assert (answer.kind, answer.to, answer.index, answer.reject) == (APPEND_RESPONSE, 2, 1, False)
    driven.store(ready)
    assert [e.index for e in driven.node.ready().committed] == [1]


@pytest.mark.parametrize(
    ("index", "log_term", "hint", "hint_term"),
    [(9, 3, 4, 3), (4, 4, 4, 3), (9, 2, 2, 2), (9, 1, 0, 0)],
)
def test_a_refusal_says_where_the_logs_may_agree(
    index: int, log_term: int, hint: int, hint_term: int
) -> None:
    driven = Driven(terms=[2, 2, 3, 3])
    (answer,) = driven.step(APPEND, 2, term=5, index=index, log_term=log_term)
    assert answer.reject
    assert (answer.index, answer.reject_hint, answer.log_term) == (index, hint, hint_term)


@both_modes
@pytest.mark.parametrize(
    ("index", "log_term", "new_terms", "commit", "last", "committed"),
    [
        # The previous entry does not match, or is not there.
        (2, 3, [], 3, None, 0),
        (3, 3, [], 3, None, 0),
        # It matches; what is to be committed is capped by what was verified.
        (1, 1, [], 1, 2, 1),
        (0, 0, [2], 1, 1, 1),
        (2, 2, [2, 2], 3, 4, 3),
        (2, 2, [2], 4, 3, 3),
        (1, 1, [2], 4, 2, 2),
        (1, 1, [], 3, 2, 1),
        (1, 1, [2], 3, 2, 2),
        (2, 2, [], 3, 2, 2),
        (2, 2, [], 4, 2, 2),
        # Entries that are here already cut nothing; those that conflict cut the rest.
        (0, 0, [1], 0, 2, 0),
        (0, 0, [1, 2], 0, 2, 0),
        (1, 1, [3, 3], 0, 3, 0),
    ],
)
def test_an_append_is_taken_where_it_matches(
    index: int,
    log_term: int,
    new_terms: list[int],
    commit: int,
    last: int | None,
    committed: int,
    async_storage_writes: bool,
) -> None:
    driven = Driven(terms=[1, 2], async_storage_writes=async_storage_writes)
    entries = [entry(term, index + i) for i, term in enumerate(new_terms, 1)]
    (answer,) = driven.step(
        APPEND, 2, term=3, index=index, log_term=log_term, entries=entries, commit=commit
    )
    assert answer.reject is (last is None)
    assert answer.index == index + (0 if last is None else len(entries))
    assert driven.node.last_index == (2 if last is None else last)
    assert driven.node.commit == driven.node.applied == committed


@pytest.mark.parametrize(("commit", "expected"), [(3, 3), (2, 2), (1, 2)])
def test_a_heartbeat_never_takes_the_commit_index_back(commit: int, expected: int) -> None:
    driven = Driven(terms=[1, 2, 3], hard_state=HardState(3, 0, 2))
    (answer,) = driven.step(HEARTBEAT, 2, commit=commit)
    assert (answer.kind, answer.to, answer.term) == (HEARTBEAT_RESPONSE, 2, 3)
    assert driven.node.commit == expected


def test_an_append_behind_the_commit_index_is_answered_with_it() -> None:
    driven = Driven(terms=[1, 1, 1], hard_state=HardState(1, 0, 3))
    (answer,) = driven.step(APPEND, 2, index=1, log_term=1, entries=[entry(1, 2)])
    assert (answer.index, answer.reject) == (3, False)


def test_conflicting_entries_are_replaced() -> None:
    driven = Driven(terms=[1, 1, 1], hard_state=HardState(1, 0, 1))
    driven.step(APPEND, 2, term=2, index=1, log_term=1, entries=[entry(2, 2)])
    assert driven.storage.entries(1, 3, 999) == [entry(1, 1), entry(2, 2)]
    assert driven.node.last_index == 2


def test_the_commit_index_of_an_append_is_capped_by_what_it_verified() -> None:
    driven = Driven(terms=[1, 1, 1])
    driven.step(APPEND, 2, index=1, log_term=1, commit=3)
    assert driven.node.commit == 1


def test_a_heartbeat_advances_the_commit_index_and_echoes_the_context() -> None:
    driven = Driven(terms=[1, 1])
    (answer,) = driven.step(HEARTBEAT, 2, commit=2, context=b"12345678")
    assert (answer.kind, answer.context) == (HEARTBEAT_RESPONSE, b"12345678")
    assert driven.node.commit == 2
    driven.step(HEARTBEAT, 2, commit=1)
    assert driven.node.commit == 2


def test_a_lost_log_is_noticed_by_the_leaders_commit_index() -> None:
    driven = Driven()
    with pytest.raises(InvariantError, match="truncated or lost"):
        driven.step(HEARTBEAT, 2, term=1, commit=5)


def test_the_answer_to_the_first_heartbeat_of_a_term_waits_for_the_term() -> None:
    driven = Driven()
    driven.node.step(Message(kind=HEARTBEAT, to=1, sender=2, term=1))
    first = driven.node.ready()
    assert first.messages == []
    assert first.messages_after_sync[0].kind is HEARTBEAT_RESPONSE
    driven.node.step(Message(kind=HEARTBEAT, to=1, sender=2, term=1))
    second = driven.node.ready()
    assert second.messages == []
    driven.store(first)
    driven.store(second)
    driven.node.step(Message(kind=HEARTBEAT, to=1, sender=2, term=1))
    assert driven.node.ready().messages[0].kind is HEARTBEAT_RESPONSE


@pytest.mark.parametrize("kind", [APPEND, HEARTBEAT])
def test_a_candidate_concedes_to_the_leader_of_its_term(kind: MessageKind) -> None:
    for pre_vote in (False, True):
        driven = Driven(pre_vote=pre_vote, terms=[1])
        driven.node.campaign()
        driven.pump()
        driven.step(kind, 3)
        assert (driven.node.role, driven.node.leader) == (Role.FOLLOWER, 3)


@pytest.mark.parametrize("kind", [APPEND, HEARTBEAT])
def test_a_second_leader_of_a_term_is_refused(kind: MessageKind) -> None:
    driven = Driven()
    driven.step(HEARTBEAT, 2, term=1)
    with pytest.raises(StepError, match="node 2 leads term 1"):
        driven.step(kind, 3)
    leader = Driven()
    leader.lead()
    with pytest.raises(StepError, match="node 1 leads term 1 itself"):
        leader.step(kind, 3)
    assert leader.node.is_leader


@pytest.mark.parametrize("pre_vote", [False, True])
@pytest.mark.parametrize("check_quorum", [False, True])
@pytest.mark.parametrize("kind", [APPEND, HEARTBEAT])
def test_a_deposed_leader_learns_the_term(
    pre_vote: bool, check_quorum: bool, kind: MessageKind
) -> None:
    driven = Driven(hard_state=HardState(5, 0, 0), pre_vote=pre_vote, check_quorum=check_quorum)
    answers = driven.step(kind, 2, term=4)
    if pre_vote or check_quorum:
        assert [(m.kind, m.term, m.index) for m in answers] == [(APPEND_RESPONSE, 5, 0)]
    else:
        assert answers == []
    assert driven.node.leader == 0


def test_a_lagging_pre_candidate_learns_the_term() -> None:
    driven = Driven(hard_state=HardState(5, 0, 0))
    (answer,) = driven.step(MessageKind.PRE_VOTE, 2, term=4)
    assert (answer.kind, answer.term, answer.reject) == (MessageKind.PRE_VOTE_RESPONSE, 5, True)


def test_hearing_the_leader_restarts_the_timer() -> None:
    driven = Driven()
    for _ in range(30):
        driven.tick(5)
        driven.step(HEARTBEAT, 2, term=1)
    assert driven.node.role is Role.FOLLOWER


def test_timeout_now_starts_an_election_at_once_without_pre_vote() -> None:
    driven = Driven()
    driven.step(HEARTBEAT, 2, term=1)
    votes = driven.step(MessageKind.TIMEOUT_NOW, 2)
    assert {(m.kind, m.context) for m in votes} == {(MessageKind.VOTE, b"CampaignTransfer")}
    assert driven.node.role is Role.CANDIDATE
