from __future__ import annotations

from typing import Any

import pytest

from rafter_core import (
    HardState,
    Membership,
    MessageKind,
    NotLeader,
    ReadDropped,
    ReadState,
    StepError,
)
from tests.core.support import Driven, of_kind

HEARTBEAT = MessageKind.HEARTBEAT
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE


def leader(count: int = 3, **config: Any) -> Driven:
    driven = Driven(membership=Membership(tuple(range(1, count + 1))), **config)
    driven.lead_replicating()
    return driven


def ask(driven: Driven, context: bytes) -> bytes:
    """Ask for a read and return the context of its heartbeats."""
    driven.node.read_index(context)
    contexts = {m.context for m in of_kind(driven.pump(), HEARTBEAT)}
    (counter,) = contexts
    return counter


def test_a_quorum_confirms_a_read_with_the_commit_index_of_its_arrival() -> None:
    driven = leader()
    counter = ask(driven, b"a")
    driven.node.propose(b"x")
    driven.pump()
    driven.acknowledge(2)
    assert driven.reads == []
    driven.step(HEARTBEAT_RESPONSE, 2, context=counter)
    assert driven.reads == [ReadState(1, b"a")]


def test_five_voters_need_two_confirmations() -> None:
    driven = leader(5)
    counter = ask(driven, b"a")
    driven.step(HEARTBEAT_RESPONSE, 2, context=counter)
    driven.step(HEARTBEAT_RESPONSE, 2, context=counter)
    assert driven.reads == []
    driven.step(HEARTBEAT_RESPONSE, 5, context=counter)
    assert driven.reads == [ReadState(1, b"a")]


def test_one_voter_answers_at_once() -> None:
    driven = leader(1)
    driven.node.read_index(b"a")
    driven.pump()
    assert driven.reads == [ReadState(1, b"a")]


def test_a_newer_confirmation_covers_older_reads_in_order() -> None:
    driven = leader()
    ask(driven, b"a")
    counter = ask(driven, b"b")
    driven.step(HEARTBEAT_RESPONSE, 3, context=counter)
    assert [state.context for state in driven.reads] == [b"a", b"b"]


def test_a_late_confirmation_covers_nothing_newer() -> None:
    """The same request asked twice must not be served by the echo of the first (etcd#20418)."""
    driven = leader()
    old = ask(driven, b"a")
    new = ask(driven, b"a")
    assert old != new
    driven.step(HEARTBEAT_RESPONSE, 2, context=old)
    assert len(driven.reads) == 1
    driven.step(HEARTBEAT_RESPONSE, 2, context=old)
    driven.step(HEARTBEAT_RESPONSE, 2)
    assert len(driven.reads) == 1
    driven.step(HEARTBEAT_RESPONSE, 2, context=new)
    assert len(driven.reads) == 2


def test_reads_are_held_until_the_own_term_has_committed() -> None:
    driven = Driven(terms=[1, 1], hard_state=HardState(1, 0, 1))
    driven.lead()
    driven.node.read_index(b"a")
    driven.node.read_index(b"b")
    assert of_kind(driven.pump(), HEARTBEAT) == []
    beats = of_kind(driven.acknowledge(2), HEARTBEAT)
    assert [m.to for m in beats] == [2, 3]
    driven.step(HEARTBEAT_RESPONSE, 2, context=beats[0].context)
    assert driven.reads == [ReadState(3, b"a"), ReadState(3, b"b")]


def test_the_periodic_heartbeat_repeats_an_unconfirmed_read() -> None:
    driven = leader()
    counter = ask(driven, b"a")
    assert {m.context for m in driven.tick()} == {counter}
    driven.step(HEARTBEAT_RESPONSE, 2, context=counter)
    assert {m.context for m in driven.tick()} == {b""}


def test_reads_are_dropped_with_the_leadership_and_never_answered() -> None:
    driven = leader()
    counter = ask(driven, b"a")
    driven.step(HEARTBEAT, 2, term=driven.node.term + 1)
    assert driven.node.status().pending_reads == 0
    driven.lead_replicating()
    driven.step(HEARTBEAT_RESPONSE, 2, context=counter)
    assert driven.reads == []
    assert ask(driven, b"b") > counter


def test_followers_refuse_reads() -> None:
    with pytest.raises(NotLeader, match="node 1 is not the leader"):
        Driven().node.read_index(b"a")


def test_waiting_reads_are_bounded() -> None:
    driven = leader(pending_reads_max=2)
    ask(driven, b"a")
    counter = ask(driven, b"b")
    with pytest.raises(ReadDropped, match="2 reads wait"):
        driven.node.read_index(b"c")
    driven.step(HEARTBEAT_RESPONSE, 2, context=counter)
    ask(driven, b"c")


@pytest.mark.parametrize("context", [b"\x01", bytes(9), b"\xff" * 8])
def test_a_confirmation_of_what_was_never_asked_is_refused(context: bytes) -> None:
    driven = leader()
    ask(driven, b"a")
    with pytest.raises(StepError, match="never asked"):
        driven.step(HEARTBEAT_RESPONSE, 2, context=context)
    assert driven.reads == []
