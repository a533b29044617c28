from __future__ import annotations

import random

import pytest

import rafter_core
from rafter_core import (
    Config,
    HardState,
    InvariantError,
    Membership,
    Message,
    MessageKind,
    RawNode,
)
from tests.core.support import Driven, entry

APPEND = MessageKind.APPEND


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


def test_a_restart_continues_from_storage() -> None:
    driven = Driven()
    driven.lead_replicating()
    driven.node.propose(b"x")
    driven.pump()
    driven.acknowledge(2)
    node = RawNode(Config(node_id=1, applied=1), driven.storage, random.Random(1))
    assert (node.term, node.vote, node.commit, node.last_index) == (1, 1, 2, 2)
    assert not node.is_leader
    ready = node.ready()
    assert ready.hard_state is None
    assert [e.index for e in ready.committed] == [2]
    node.apply_done(2)
    assert node.applied == 2


def test_a_page_of_committed_entries_after_a_restart_skips_nothing() -> None:
    driven = Driven(terms=[1] * 10, hard_state=HardState(1, 0, 10), committed_bytes_per_ready_max=1)
    driven.pump()
    assert [e.index for e in driven.committed] == list(range(1, 11))


def test_applying_what_was_not_handed_out_is_refused() -> None:
    driven = Driven()
    with pytest.raises(InvariantError, match="applied index 1 is out of range"):
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
