"""The Ready loop as a driver sees it: what is handed out when, and what its completions do."""

from __future__ import annotations

from typing import Any

import pytest

import rafter_core
from rafter_core import (
    HardState,
    InvariantError,
    Membership,
    Message,
    MessageKind,
    ReadState,
    Role,
    Snapshot,
    SoftState,
)
from tests.core.network import Network
from tests.core.support import THREE, Driven, both_modes, entry

APPEND = MessageKind.APPEND
HEARTBEAT = MessageKind.HEARTBEAT


def append(term: int, index: int, log_term: int, *terms: int, commit: int = 0) -> Message:
    return Message(
        kind=APPEND,
        to=1,
        sender=term % 2 + 2,
        term=term,
        index=index,
        log_term=log_term,
        entries=[entry(t, index + i) for i, t in enumerate(terms, 1)],
        commit=commit,
    )


def test_work_is_handed_out_once() -> None:
    driven = Driven()
    driven.node.campaign()
    assert driven.node.has_ready()
    driven.node.ready()
    assert not driven.node.has_ready()
    empty = driven.node.ready()
    assert not empty.needs_storage
    assert empty.messages == empty.messages_after_sync == empty.committed == []


def test_what_was_handed_out_is_never_changed_afterwards() -> None:
    driven = Driven()
    first = driven.node.ready()
    driven.store(first)
    driven.lead_replicating()
    driven.node.read_index(b"x")
    driven.node.propose(b"x")
    second = driven.node.ready()
    count = len(second.messages)
    driven.node.propose(b"y")
    assert first.messages == first.messages_after_sync == first.read_states == []
    assert len(second.messages) == count


def test_numbers_increase_by_one_and_completions_follow_them() -> None:
    driven = Driven()
    first, second = driven.node.ready(), driven.node.ready()
    assert (first.number, second.number) == (1, 2)
    with pytest.raises(InvariantError, match="storage_done for Ready 2, expected 1"):
        driven.node.storage_done(second)
    driven.node.storage_done(first)
    with pytest.raises(InvariantError, match="expected 2"):
        driven.node.storage_done(first)


def test_a_commit_alone_is_persisted_without_a_sync() -> None:
    driven = Driven(terms=[1, 1])
    driven.node.step(Message(kind=MessageKind.HEARTBEAT, to=1, sender=2, term=1, commit=2))
    ready = driven.node.ready()
    assert ready.hard_state == HardState(1, 0, 2)
    assert not ready.must_sync


def test_several_readys_are_in_storage_at_once() -> None:
    driven = Driven()
    driven.lead_replicating()
    readys = []
    for _ in range(3):
        driven.node.propose(b"x")
        readys.append(driven.node.ready())
    assert [[e.index for e in r.entries] for r in readys] == [[2], [3], [4]]
    driven.node.step(Message(kind=MessageKind.APPEND_RESPONSE, to=1, sender=2, term=1, index=4))
    for ready in readys:
        driven.store(ready)
        assert driven.node.commit == ready.number - readys[0].number + 2


def test_a_completion_of_an_older_term_is_ignored() -> None:
    """A-B-A: (1, 1) is appended, replaced in term 2, and appended again in term 3.

    The completion of the first write comes when storage holds it or the replacement, not the third.
    """
    driven = Driven()
    node = driven.node
    node.step(append(1, 0, 0, 1))
    first = node.ready()
    node.step(append(2, 0, 0, 2))
    second = node.ready()
    node.step(append(3, 0, 0, 1, commit=1))
    third = node.ready()
    assert third.entries == [entry(1, 1)]
    driven.store(first)
    assert node.status().stable_index == 0
    driven.store(second)
    assert node.status().stable_index == 0
    assert node.ready().committed == []
    driven.store(third)
    assert node.status().stable_index == 1
    assert node.ready().committed == [entry(1, 1)]


def test_a_ready_of_the_new_term_vouches_for_entries_of_ignored_completions() -> None:
    driven = Driven()
    node = driven.node
    node.step(append(1, 0, 0, 1, 1))
    first = node.ready()
    node.step(Message(kind=MessageKind.VOTE, to=1, sender=3, term=2, index=9, log_term=1))
    node.tick()
    node._raft.become_follower(2, 0)
    second = node.ready()
    assert second.entries == []
    driven.store(first)
    assert node.status().stable_index == 0
    driven.store(second)
    assert node.status().stable_index == 2


def test_applying_what_was_not_handed_out_is_refused() -> None:
    driven = Driven()
    with pytest.raises(InvariantError, match="applied index 1 is beyond 0, handed out"):
        driven.node.apply_done(1)


def test_an_idle_node_has_no_work_between_heartbeats() -> None:
    driven = Driven(membership=Membership((1,)))
    driven.node.campaign()
    driven.pump()
    driven.tick(50)
    assert not driven.node.has_ready()


def test_everything_exported_exists_and_is_documented() -> None:
    for name in rafter_core.__all__:
        assert getattr(rafter_core, name) is not None
    assert rafter_core.__all__ == sorted(rafter_core.__all__, key=lambda n: (n.upper() != n, n))
    assert "storage_done" in (rafter_core.__doc__ or "")


def test_properties_agree_with_the_status() -> None:
    driven = Driven()
    driven.lead_replicating()
    node, status = driven.node, driven.node.status()
    assert (node.node_id, node.term, node.vote, node.leader) == (
        status.node_id,
        status.term,
        status.vote,
        status.leader,
    )
    assert (node.role, node.commit, node.applied, node.last_index) == (
        status.role,
        status.commit,
        status.applied,
        status.last_index,
    )


# Every kind of work shows, and is gone once it is taken.


def grant(driven: Driven) -> None:
    driven.node.step(Message(kind=MessageKind.VOTE, to=1, sender=2, term=1))


def take_snapshot(driven: Driven) -> None:
    snapshot = Snapshot(9, 1, THREE, b"image")
    driven.node.step(Message(kind=MessageKind.SNAPSHOT, to=1, sender=2, term=1, snapshot=snapshot))


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda driven: driven.node.tick(), []),
        (lambda driven: driven.node.campaign(), ["messages", "soft_state"]),
        (grant, ["hard_state", "messages_after_sync", "must_sync"]),
        (
            lambda driven: driven.node.step(Message(kind=HEARTBEAT, to=1, sender=2, term=1)),
            ["hard_state", "messages_after_sync", "must_sync", "soft_state"],
        ),
        (
            lambda driven: driven.node.step(append(1, 0, 0, 1)),
            ["entries", "hard_state", "messages_after_sync", "must_sync", "soft_state"],
        ),
        (
            take_snapshot,
            ["hard_state", "messages_after_sync", "must_sync", "snapshot", "soft_state"],
        ),
    ],
)
def test_a_ready_holds_what_changed_and_nothing_else(act: Any, expected: list[str]) -> None:
    driven = Driven()
    act(driven)
    assert driven.node.has_ready() is bool(expected)
    ready = driven.node.ready()
    names = [
        "committed",
        "entries",
        "hard_state",
        "messages",
        "messages_after_sync",
        "must_sync",
        "read_states",
        "snapshot",
        "soft_state",
    ]
    # The own pre-vote is among what waits, and addressed to nobody else.
    assert [name for name in names if getattr(ready, name)] == expected
    assert not driven.node.has_ready()


def test_reads_and_committed_entries_show_too() -> None:
    driven = Driven(membership=Membership((1,)))
    driven.node.campaign()
    driven.pump()
    driven.node.read_index(b"r")
    assert driven.node.has_ready()
    assert driven.node.ready().read_states == [ReadState(1, b"r")]
    assert not driven.node.has_ready()
    driven = Driven(terms=[1], hard_state=HardState(1, 0, 1))
    assert driven.node.has_ready()
    assert driven.node.ready().committed == [entry(1, 1)]
    assert not driven.node.has_ready()


def test_the_soft_state_is_handed_out_when_it_changed() -> None:
    driven = Driven()
    driven.node.step(Message(kind=HEARTBEAT, to=1, sender=2, term=1))
    assert driven.node.ready().soft_state == SoftState(2, Role.FOLLOWER)
    driven.node.step(Message(kind=HEARTBEAT, to=1, sender=2, term=1))
    assert driven.node.ready().soft_state is None
    driven.node.forget_leader()
    assert driven.node.has_ready()
    assert driven.node.ready().soft_state == SoftState(0, Role.FOLLOWER)


@both_modes
@pytest.mark.parametrize(
    ("message", "must_sync"),
    [
        (Message(kind=HEARTBEAT, to=1, sender=3, term=3), True),
        (Message(kind=HEARTBEAT, to=1, sender=2, term=2), False),
        (Message(kind=HEARTBEAT, to=1, sender=2, term=2, commit=1), False),
        (append(2, 1, 1, 2), True),
        (append(2, 1, 1, commit=1), False),
        (
            Message(
                kind=MessageKind.SNAPSHOT, to=1, sender=2, term=2, snapshot=Snapshot(9, 2, THREE)
            ),
            False,
        ),
        (Message(kind=MessageKind.VOTE, to=1, sender=3, term=3, log_term=2, index=9), True),
        (Message(kind=MessageKind.PRE_VOTE, to=1, sender=3, term=3, log_term=2, index=9), False),
    ],
)
def test_only_entries_term_and_vote_must_be_synced(
    message: Message, must_sync: bool, async_storage_writes: bool
) -> None:
    driven = Driven(
        terms=[1],
        hard_state=HardState(2, 0, 0),
        check_quorum=False,
        async_storage_writes=async_storage_writes,
    )
    driven.step(HEARTBEAT, 2, term=2)
    driven.node.step(message)
    assert driven.node.ready().must_sync is must_sync


# The order of the two modes.


def test_two_readys_in_the_synchronous_mode_need_an_advance_between_them() -> None:
    driven = Driven(async_storage_writes=False)
    driven.node.step(append(1, 0, 0, 1))
    ready = driven.node.ready()
    with pytest.raises(InvariantError, match="two Readys without a call of advance"):
        driven.node.ready()
    driven.store(ready)
    driven.node.ready()


def test_calls_of_the_other_mode_are_refused() -> None:
    synchronous = Driven(async_storage_writes=False)
    synchronous.node.campaign()
    ready = synchronous.node.ready()
    with pytest.raises(InvariantError, match="storage_done belongs to the asynchronous mode"):
        synchronous.node.storage_done(ready)
    with pytest.raises(InvariantError, match="apply_done belongs to the asynchronous mode"):
        synchronous.node.apply_done(0)
    with pytest.raises(InvariantError, match="advance belongs to the synchronous mode"):
        Driven().node.advance()


def test_advancing_without_a_ready_does_nothing() -> None:
    driven = Driven(async_storage_writes=False)
    before = driven.node.status()
    driven.node.advance()
    driven.node.ready()
    driven.node.advance()
    driven.node.advance()
    assert driven.node.status() == before


def test_the_synchronous_mode_hands_out_answers_to_send_after_storing() -> None:
    driven = Driven(async_storage_writes=False)
    driven.node.step(append(1, 0, 0, 1, commit=1))
    ready = driven.node.ready()
    assert [(m.kind, m.index) for m in ready.messages] == [(MessageKind.APPEND_RESPONSE, 1)]
    assert ready.messages_after_sync == []
    # Stored before it is applied, so one Ready does for both.
    assert ready.entries == ready.committed == [entry(1, 1)]
    assert (driven.node.applied, driven.node.status().stable_index) == (0, 0)
    driven.store(ready)
    assert (driven.node.applied, driven.node.status().stable_index) == (1, 1)


def test_the_own_vote_is_no_message_to_send() -> None:
    for mode in (True, False):
        driven = Driven(pre_vote=False, async_storage_writes=mode)
        driven.node.campaign()
        ready = driven.node.ready()
        sent = ready.messages + ready.messages_after_sync
        assert [(m.kind, m.to) for m in sent] == [(MessageKind.VOTE, 2), (MessageKind.VOTE, 3)]


def test_a_completion_that_was_never_handed_out_is_refused() -> None:
    driven = Driven()
    other = Driven()
    ready = other.node.ready()
    with pytest.raises(InvariantError, match="storage_done for Ready 1, expected 1"):
        driven.node.storage_done(ready)


def test_applying_less_than_before_moves_nothing_back() -> None:
    driven = Driven(terms=[1] * 4, hard_state=HardState(1, 0, 4))
    ready = driven.node.ready()
    driven.node.storage_done(ready)
    driven.node.apply_done(3)
    driven.node.apply_done(1)
    assert driven.node.applied == 3
    driven.node.apply_done(4)
    assert driven.node.applied == 4


# Requests that reach the wrong node.


def test_a_read_that_reaches_an_old_leader_is_passed_on_to_the_new_one() -> None:
    network = Network(count=3, check_quorum=False)
    network.campaign(1)
    # 2 still takes 1 for the leader when 3 is elected with the vote of 1.
    network.cut(3, 2, one_way=True)
    network.campaign(3)
    assert (network[1].node.leader, network[2].node.leader) == (3, 1)
    network.delivered.clear()
    network[2].node.read_index(b"r")
    network.run()
    # Who asked is kept, and so the answer goes directly to it, though it was lost here.
    passed = [m for m in network.delivered if m.kind is MessageKind.READ_INDEX]
    assert [(m.sender, m.to, m.term, m.context) for m in passed] == [
        (2, 1, 0, b"r"),
        (2, 3, 0, b"r"),
    ]
    assert network[2].reads == []
    network.heal()
    network[2].node.read_index(b"r")
    network.run()
    assert network[2].reads == [ReadState(network[3].node.commit, b"r")]
