"""Linearizable reads: confirmed by a quorum, with the commit index of their arrival."""

from __future__ import annotations

from typing import Any

import pytest

from rafter_core import (
    HardState,
    Membership,
    Message,
    MessageKind,
    PeerNotFound,
    ReadDropped,
    ReadState,
    Role,
    StepError,
)
from tests.core.network import Host, Network
from tests.core.support import Driven, of_kind

HEARTBEAT = MessageKind.HEARTBEAT
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE
READ_INDEX = MessageKind.READ_INDEX
READ_INDEX_RESPONSE = MessageKind.READ_INDEX_RESPONSE


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


# ---- on the leader -----------------------------------------------------------------------------


def test_a_quorum_confirms_a_read_with_the_commit_index_of_its_arrival() -> None:
    driven = leader()
    counter = ask(driven, b"a")
    driven.node.propose(b"x")
    driven.pump()
    driven.acknowledge(2)
    assert driven.node.commit == 2
    assert driven.reads == []
    assert driven.node.status().pending_reads == 1
    driven.step(HEARTBEAT_RESPONSE, 2, context=counter)
    assert driven.reads == [ReadState(1, b"a")]
    assert driven.node.status().pending_reads == 0


def test_the_heartbeats_of_a_read_carry_its_number_in_eight_little_endian_bytes() -> None:
    driven = leader()
    driven.node.read_index(b"a")
    beats = of_kind(driven.pump(), HEARTBEAT)
    assert [(m.to, m.context, m.commit) for m in beats] == [
        (2, b"\x01" + bytes(7), 1),
        (3, b"\x01" + bytes(7), 1),
    ]
    assert ask(driven, b"b") == b"\x02" + bytes(7)
    for _ in range(254):
        driven.node.read_index(b"c")
    driven.pump()
    assert ask(driven, b"d") == b"\x01\x01" + bytes(6)


def test_five_voters_need_two_confirmations() -> None:
    driven = leader(5)
    counter = ask(driven, b"a")
    driven.step(HEARTBEAT_RESPONSE, 2, context=counter)
    driven.step(HEARTBEAT_RESPONSE, 2, context=counter)
    assert driven.reads == []
    driven.step(HEARTBEAT_RESPONSE, 5, context=counter)
    assert driven.reads == [ReadState(1, b"a")]


def test_learners_are_asked_and_do_not_count() -> None:
    driven = Driven(membership=Membership((1, 2, 3), learners=(4,)))
    driven.lead_replicating()
    driven.node.read_index(b"a")
    beats = of_kind(driven.pump(), HEARTBEAT)
    assert [m.to for m in beats] == [2, 3, 4]
    driven.step(HEARTBEAT_RESPONSE, 4, context=beats[0].context)
    assert driven.reads == []
    driven.step(HEARTBEAT_RESPONSE, 3, context=beats[0].context)
    assert driven.reads == [ReadState(1, b"a")]


def test_a_joint_configuration_confirms_in_both_halves() -> None:
    driven = Driven(membership=Membership((1, 2, 3), (3, 4, 5)))
    driven.lead_replicating()
    counter = ask(driven, b"a")
    driven.step(HEARTBEAT_RESPONSE, 2, context=counter)
    driven.step(HEARTBEAT_RESPONSE, 4, context=counter)
    assert driven.reads == []
    driven.step(HEARTBEAT_RESPONSE, 5, context=counter)
    assert driven.reads == [ReadState(1, b"a")]


@pytest.mark.parametrize("learners", [(), (2, 3)])
def test_one_voter_answers_at_once(learners: tuple[int, ...]) -> None:
    driven = Driven(membership=Membership((1,), learners=learners))
    driven.lead_replicating()
    driven.node.read_index(b"a")
    driven.pump()
    assert driven.reads == [ReadState(1, b"a")]
    assert driven.node.status().pending_reads == 0


def test_one_voter_waits_for_the_first_commit_of_its_term() -> None:
    """After a restart its commit index may lag behind what it acknowledged before."""
    driven = Driven(membership=Membership((1,)), terms=[1, 1, 1], hard_state=HardState(1, 1, 1))
    driven.node.campaign()
    while not driven.node.is_leader:
        driven.store(driven.node.ready())
    driven.node.read_index(b"a")
    assert (driven.reads, driven.node.commit, driven.node.status().pending_reads) == ([], 1, 1)
    driven.pump()
    assert driven.node.commit == 4
    assert driven.reads == [ReadState(4, b"a")]


def test_a_newer_confirmation_covers_older_reads_in_order() -> None:
    driven = leader()
    ask(driven, b"a")
    driven.propose()
    driven.acknowledge(2)
    counter = ask(driven, b"b")
    driven.step(HEARTBEAT_RESPONSE, 3, context=counter)
    assert driven.reads == [ReadState(1, b"a"), ReadState(2, b"b")]


def test_an_older_confirmation_leaves_newer_reads_waiting() -> None:
    driven = leader()
    first = ask(driven, b"a")
    ask(driven, b"b")
    driven.step(HEARTBEAT_RESPONSE, 3, context=first)
    assert driven.reads == [ReadState(1, b"a")]
    assert driven.node.status().pending_reads == 1


def test_a_quorum_need_not_confirm_with_the_same_heartbeat() -> None:
    driven = leader(5)
    first = ask(driven, b"a")
    second = ask(driven, b"b")
    driven.step(HEARTBEAT_RESPONSE, 2, context=second)
    assert driven.reads == []
    driven.step(HEARTBEAT_RESPONSE, 3, context=first)
    assert driven.reads == [ReadState(1, b"a")]
    driven.step(HEARTBEAT_RESPONSE, 3, context=second)
    assert driven.reads == [ReadState(1, b"a"), ReadState(1, b"b")]


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


def test_the_periodic_heartbeat_repeats_an_unconfirmed_read() -> None:
    driven = leader()
    counter = ask(driven, b"a")
    assert {m.context for m in driven.tick()} == {counter}
    driven.step(HEARTBEAT_RESPONSE, 2, context=counter)
    assert {m.context for m in driven.tick()} == {b""}


@pytest.mark.parametrize("context", [b"\x01", bytes(9), b"\xff" * 8, b"\x02" + bytes(7)])
def test_a_confirmation_of_what_was_never_asked_is_refused(context: bytes) -> None:
    driven = leader()
    ask(driven, b"a")
    with pytest.raises(StepError, match="never asked"):
        driven.step(HEARTBEAT_RESPONSE, 2, context=context)
    assert driven.reads == []


# ---- the first commit of a term ----------------------------------------------------------------


def test_reads_are_held_until_the_own_term_has_committed() -> None:
    driven = Driven(terms=[1, 1], hard_state=HardState(1, 0, 1))
    driven.lead()
    driven.node.read_index(b"a")
    driven.node.read_index(b"b")
    assert of_kind(driven.pump(), HEARTBEAT) == []
    assert driven.node.status().pending_reads == 2
    beats = of_kind(driven.acknowledge(2), HEARTBEAT)
    assert [m.to for m in beats] == [2, 3]
    assert driven.reads == []
    driven.step(HEARTBEAT_RESPONSE, 2, context=beats[0].context)
    assert driven.reads == [ReadState(3, b"a"), ReadState(3, b"b")]


def test_an_older_term_that_commits_does_not_release_reads() -> None:
    driven = Driven(terms=[1, 1], hard_state=HardState(1, 0, 0))
    driven.lead()
    driven.node.read_index(b"a")
    assert of_kind(driven.acknowledge(2, 2), HEARTBEAT) == []
    assert driven.node.commit == 0
    assert of_kind(driven.acknowledge(2, 3), HEARTBEAT) != []


def test_a_new_leader_of_a_network_answers_after_its_first_commit() -> None:
    net = Network(
        *(
            Host(node, Membership((1, 2, 3)), terms=[1, 1], hard_state=HardState(1, 0, commit))
            for node, commit in ((1, 1), (2, 2), (3, 2))
        )
    )
    net.lose(MessageKind.APPEND)
    net.campaign(1)
    assert net.leaders() == [1]
    net[1].node.read_index(b"a")
    net.run()
    assert (net[1].reads, net[1].node.commit) == ([], 1)
    net.heal()
    net.tick(1)
    assert net[1].node.commit == 3
    assert net[1].reads == [ReadState(3, b"a")]
    net[1].node.read_index(b"b")
    net.run()
    assert net[1].reads[1:] == [ReadState(3, b"b")]


# ---- of followers ------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_every_node_reads_what_was_committed_when_it_asked(asked: int) -> None:
    net = Network(count=3)
    net.campaign(1)
    for round_number in range(1, 4):
        for _ in range(10):
            net.propose(1)
        context = b"read %d" % round_number
        net[asked].node.read_index(context)
        net.run()
        assert net[asked].reads[-1] == ReadState(1 + 10 * round_number, context)
    assert [len(host.reads) for host in net.hosts.values()] == [
        3 if node == asked else 0 for node in (1, 2, 3)
    ]
    assert net[1].node.status().pending_reads == 0


def test_a_learner_reads_too() -> None:
    membership = Membership((1,), learners=(2,))
    net = Network(*(Host(node, membership) for node in (1, 2)))
    net.campaign(1)
    net.propose(1)
    net[2].node.read_index(b"a")
    net.run()
    assert net[2].reads == [ReadState(2, b"a")]


def test_a_follower_passes_a_read_on() -> None:
    driven = Driven()
    driven.step(HEARTBEAT, 3, term=4)
    driven.node.read_index(b"a")
    (message,) = driven.pump()
    assert message == Message(kind=READ_INDEX, to=3, sender=1, context=b"a")
    assert driven.node.status().pending_reads == 0
    driven.step(READ_INDEX_RESPONSE, 3, index=7, context=b"a")
    assert driven.reads == [ReadState(7, b"a")]


def test_a_follower_passes_on_what_was_passed_to_it_keeping_who_asked() -> None:
    driven = Driven()
    driven.step(HEARTBEAT, 3, term=4)
    (message,) = driven.step(READ_INDEX, 2, term=0, context=b"a")
    assert message == Message(kind=READ_INDEX, to=3, sender=2, context=b"a")


def test_the_leader_answers_the_node_that_asked() -> None:
    driven = leader()
    beats = of_kind(driven.step(READ_INDEX, 3, term=0, context=b"a"), HEARTBEAT)
    out = driven.step(HEARTBEAT_RESPONSE, 2, context=beats[0].context)
    assert out == [Message(kind=READ_INDEX_RESPONSE, to=3, sender=1, term=1, index=1, context=b"a")]
    assert driven.reads == []


def test_an_answer_of_an_older_term_is_no_answer() -> None:
    driven = Driven()
    driven.step(HEARTBEAT, 3, term=4)
    driven.step(READ_INDEX_RESPONSE, 3, term=3, index=7, context=b"a")
    assert driven.reads == []


def test_an_answer_of_a_stranger_is_refused() -> None:
    driven = Driven()
    driven.step(HEARTBEAT, 3, term=4)
    with pytest.raises(PeerNotFound):
        driven.step(READ_INDEX_RESPONSE, 9, index=7, context=b"a")
    assert driven.reads == []


def test_a_leader_takes_no_answers() -> None:
    driven = leader()
    driven.step(READ_INDEX_RESPONSE, 2, index=7, context=b"a")
    assert driven.reads == []


def test_without_a_leader_reads_are_refused() -> None:
    driven = Driven(pre_vote=False)
    with pytest.raises(ReadDropped, match="node 1 knows no leader of term 0"):
        driven.node.read_index(b"a")
    driven.campaign()
    assert driven.node.role is Role.CANDIDATE
    with pytest.raises(ReadDropped, match="node 1 knows no leader of term 1"):
        driven.node.read_index(b"a")


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE])
def test_a_forwarded_read_that_finds_no_leader_is_dropped(role: Role) -> None:
    driven = Driven(pre_vote=role is Role.PRE_CANDIDATE)
    if role is not Role.FOLLOWER:
        driven.node.campaign()
        driven.pump()
    assert driven.node.role is role
    assert driven.step(READ_INDEX, 2, term=0, context=b"a") == []
    assert ("read_dropped" in driven.event_names()) is (role is Role.FOLLOWER)


# ---- what ends reads ---------------------------------------------------------------------------


def test_reads_are_dropped_with_the_leadership_and_never_answered() -> None:
    driven = leader()
    counter = ask(driven, b"a")
    driven.step(HEARTBEAT, 2, term=driven.node.term + 1)
    assert driven.node.status().pending_reads == 0
    driven.lead_replicating()
    driven.step(HEARTBEAT_RESPONSE, 2, context=counter)
    assert driven.reads == []
    assert ask(driven, b"b") > counter


def test_held_reads_are_dropped_with_the_leadership_too() -> None:
    driven = Driven(terms=[1])
    driven.lead()
    driven.node.read_index(b"a")
    driven.pump()
    assert driven.node.status().pending_reads == 1
    assert not driven.node._raft.reads.is_empty
    driven.step(HEARTBEAT, 2, term=driven.node.term + 1)
    assert driven.node.status().pending_reads == 0
    driven.lead_replicating()
    assert driven.reads == []


def test_a_leader_without_a_quorum_drops_its_reads() -> None:
    driven = leader(election_timeout_ticks=10)
    ask(driven, b"a")
    driven.tick(20)
    assert driven.node.role is not Role.LEADER
    assert (driven.reads, driven.node.status().pending_reads) == ([], 0)


def test_a_request_that_a_deposed_leader_repeats_is_confirmed_by_no_old_echo() -> None:
    """The echo of the first attempt is delayed beyond a whole leadership of another node."""
    net = Network(count=3)
    net.campaign(1)
    net.lose(HEARTBEAT_RESPONSE)
    net[1].node.read_index(b"same")
    net.run()
    (old,) = {m.context for m in net.delivered if m.kind is HEARTBEAT and m.context}
    term = net[1].node.term
    net.heal()
    net.isolate(1)
    net[3].node.forget_leader()
    net.campaign(2)
    assert net.leaders() == [1, 2]
    net.propose(2)
    # The deposed leader, which does not know it, asks again; then the old echo comes in.
    net[1].node.read_index(b"same")
    net.run()
    echo = Message(kind=HEARTBEAT_RESPONSE, to=1, sender=3, term=term, context=old)
    net[1].node.step(echo)
    net.run()
    assert net[1].reads == [ReadState(1, b"same")]
    assert net[1].node.status().pending_reads == 1


def test_confirmed_reads_leave_nothing_behind() -> None:
    driven = leader()
    counter = ask(driven, b"a")
    driven.step(READ_INDEX, 3, term=0, context=b"b")
    assert driven.node.status().pending_reads == 2
    assert not driven.node._raft.reads.is_empty
    driven.step(HEARTBEAT_RESPONSE, 2, context=counter)
    driven.step(HEARTBEAT_RESPONSE, 3, context=b"\x02" + bytes(7))
    queue = driven.node._raft.reads
    assert queue.is_empty
    assert (len(queue.pending), len(queue.held), queue.newest_pending) == (0, 0, 0)


# ---- the bound ---------------------------------------------------------------------------------


def test_waiting_reads_are_bounded() -> None:
    driven = leader(pending_reads_max=2)
    ask(driven, b"a")
    counter = ask(driven, b"b")
    with pytest.raises(ReadDropped, match="2 reads wait for confirmation"):
        driven.node.read_index(b"c")
    assert driven.step(READ_INDEX, 2, term=0, context=b"d") == []
    assert driven.event_names()[-1] == "read_dropped"
    assert driven.node.status().pending_reads == 2
    driven.step(HEARTBEAT_RESPONSE, 2, context=counter)
    ask(driven, b"c")
    assert driven.node.status().pending_reads == 1


def test_held_reads_count_against_the_bound() -> None:
    driven = Driven(terms=[1], pending_reads_max=2)
    driven.lead()
    driven.node.read_index(b"a")
    driven.step(READ_INDEX, 2, term=0, context=b"b")
    with pytest.raises(ReadDropped, match="2 reads wait"):
        driven.node.read_index(b"c")
    assert driven.node.status().pending_reads == 2
