"""Leases: how long a leader answers reads alone, and everything that ends this."""

from __future__ import annotations

import re
from typing import Any

import pytest

from rafter_core import (
    Config,
    ConfigError,
    HardState,
    Membership,
    Message,
    MessageKind,
    ReadMode,
    ReadState,
    Role,
)
from rafter_core.election import restart_patience_ticks
from rafter_core.messages import CAMPAIGN_TRANSFER
from tests.core.network import Network
from tests.core.support import Driven, of_kind

HEARTBEAT = MessageKind.HEARTBEAT
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE
VOTE = MessageKind.VOTE
PRE_VOTE = MessageKind.PRE_VOTE

T = 10  # ticks of an election timeout; a lease lasts four fifths of that


def leader(membership: Membership | None = None, **config: Any) -> Driven:
    """Return a leader that holds no lease yet."""
    config.setdefault("election_timeout_ticks", T)
    config.setdefault("read_mode", ReadMode.LEASE)
    driven = Driven(membership=membership or Membership((1, 2, 3)), **config)
    driven.lead_replicating()
    return driven


def beat(driven: Driven) -> bytes:
    """Let one tick pass and return the context of its heartbeats."""
    (context,) = {m.context for m in of_kind(driven.tick(), HEARTBEAT)}
    return context


def echo(driven: Driven, context: bytes, *senders: int) -> None:
    for sender in senders or (2,):
        driven.step(HEARTBEAT_RESPONSE, sender, context=context)


def answers_at_once(driven: Driven) -> bool:
    """Ask for a read, and tell whether it needed nobody."""
    count = len(driven.reads)
    driven.node.read_index(b"r")
    out = driven.pump()
    is_answered = len(driven.reads) == count + 1
    assert bool(of_kind(out, HEARTBEAT)) is not is_answered
    return is_answered


def leased(**config: Any) -> Driven:
    """Return a leader whose lease has just begun."""
    driven = leader(**config)
    echo(driven, beat(driven))
    assert answers_at_once(driven)
    return driven


# ---- how long ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("timeout", "length"), [(10, 8), (20, 16), (9, 7), (5, 4), (4, 3), (2, 1)])
def test_a_lease_lasts_four_fifths_of_an_election_timeout(timeout: int, length: int) -> None:
    driven = leader(election_timeout_ticks=timeout)
    echo(driven, beat(driven))
    for _ in range(length - 1):
        driven.tick()
        assert answers_at_once(driven)
    driven.step(HEARTBEAT_RESPONSE, 3)  # keeps the quorum active, and renews nothing
    driven.tick()
    assert not answers_at_once(driven)


def test_a_read_under_a_lease_has_the_commit_index_of_its_arrival() -> None:
    driven = leased()
    driven.propose(b"x")
    driven.acknowledge(2)
    driven.propose(b"y")
    driven.node.read_index(b"a")
    driven.pump()
    assert driven.reads[-1] == ReadState(2, b"a")


def test_without_an_echo_a_quorum_is_asked() -> None:
    driven = leader()
    assert not answers_at_once(driven)
    beat(driven)
    assert not answers_at_once(driven)


def test_in_the_safe_mode_there_is_no_lease() -> None:
    driven = leader(read_mode=ReadMode.SAFE)
    assert beat(driven) == b""
    driven.step(HEARTBEAT_RESPONSE, 2)
    assert not answers_at_once(driven)


def test_every_heartbeat_has_a_number_of_its_own() -> None:
    driven = leader()
    contexts = [beat(driven) for _ in range(3)]
    assert contexts == [bytes([number]) + bytes(7) for number in (1, 2, 3)]


def test_a_lease_starts_when_its_heartbeat_was_sent_not_when_it_was_echoed() -> None:
    driven = leader()
    context = beat(driven)
    driven.tick(7)
    echo(driven, context)
    assert answers_at_once(driven)
    driven.tick()
    assert not answers_at_once(driven)


def test_an_echo_that_took_longer_than_a_lease_starts_none() -> None:
    driven = leader()
    context = beat(driven)
    driven.tick(8)
    echo(driven, context)
    assert not answers_at_once(driven)


def test_each_round_renews_the_lease() -> None:
    driven = leased()
    for _ in range(3 * T):
        echo(driven, beat(driven))
        assert answers_at_once(driven)


def test_a_late_echo_does_not_shorten_what_a_newer_one_gave() -> None:
    driven = leader()
    older = beat(driven)
    driven.tick(3)
    newer = beat(driven)
    echo(driven, newer)
    echo(driven, older)
    driven.tick(7)
    assert answers_at_once(driven)
    driven.tick()
    assert not answers_at_once(driven)


def test_rounds_too_old_to_be_worth_anything_are_forgotten() -> None:
    driven = leader(check_quorum=True)
    for _ in range(5 * T):
        driven.tick()
        driven.step(HEARTBEAT_RESPONSE, 2)
    assert len(driven.node._raft.reads._lease_rounds) == T


def test_the_echo_of_a_read_confirms_the_rounds_before_it() -> None:
    driven = leader()
    beat(driven)
    driven.node.read_index(b"a")
    (context,) = {m.context for m in of_kind(driven.pump(), HEARTBEAT)}
    echo(driven, context)
    assert driven.reads == [ReadState(1, b"a")]
    assert answers_at_once(driven)
    driven.tick(7)
    assert answers_at_once(driven)
    driven.tick()
    assert not answers_at_once(driven)


# ---- who must echo -----------------------------------------------------------------------------


def test_a_quorum_must_echo() -> None:
    driven = leader(Membership((1, 2, 3, 4, 5)))
    context = beat(driven)
    echo(driven, context, 2)
    assert not answers_at_once(driven)
    echo(driven, context, 4)
    assert answers_at_once(driven)


def test_learners_do_not_count() -> None:
    driven = leader(Membership((1, 2, 3), learners=(4, 5)))
    context = beat(driven)
    echo(driven, context, 4, 5)
    assert not answers_at_once(driven)


def test_both_halves_of_a_joint_configuration_must_echo() -> None:
    driven = leader(Membership((1, 2, 3), (3, 4, 5)))
    context = beat(driven)
    echo(driven, context, 2, 4)
    assert not answers_at_once(driven)
    echo(driven, context, 5)
    assert answers_at_once(driven)


def test_a_quorum_of_several_heartbeats_starts_the_lease_at_the_oldest_of_them() -> None:
    driven = leader(Membership((1, 2, 3, 4, 5)))
    first = beat(driven)
    driven.tick(3)
    second = beat(driven)
    echo(driven, second, 2)
    echo(driven, first, 3)
    driven.tick(3)
    assert answers_at_once(driven)
    driven.tick()
    assert not answers_at_once(driven)


def test_an_acknowledgement_of_entries_renews_nothing() -> None:
    driven = leader()
    driven.propose(b"x")
    driven.acknowledge(2)
    assert not answers_at_once(driven)


def test_one_voter_needs_no_lease() -> None:
    driven = Driven(membership=Membership((1,)), read_mode=ReadMode.LEASE)
    driven.lead()
    driven.node.read_index(b"a")
    driven.pump()
    assert driven.reads == [ReadState(1, b"a")]


# ---- what ends it ------------------------------------------------------------------------------


def test_a_lease_is_worth_nothing_before_the_first_commit_of_the_term() -> None:
    driven = Driven(
        terms=[1], hard_state=HardState(1, 0, 1), election_timeout_ticks=T,
        read_mode=ReadMode.LEASE,
    )  # fmt: skip
    driven.tick(T)  # the patience after a restart
    driven.lead()
    echo(driven, beat(driven))
    driven.node.read_index(b"a")
    assert of_kind(driven.pump(), HEARTBEAT) == []
    assert driven.reads == []
    (context,) = {m.context for m in of_kind(driven.acknowledge(2), HEARTBEAT)}
    assert driven.reads == []
    echo(driven, context)
    assert driven.reads == [ReadState(2, b"a")]


def test_an_order_to_take_over_voids_the_lease_until_the_term_ends() -> None:
    driven = leased()
    driven.node.transfer_leadership(2)
    assert of_kind(driven.pump(), MessageKind.TIMEOUT_NOW)
    assert not answers_at_once(driven)
    for _ in range(2 * T):
        echo(driven, beat(driven))
        assert driven.node.is_leader
        assert not answers_at_once(driven)
    assert driven.node.status().transferee == 0


def test_the_next_term_has_leases_again() -> None:
    driven = leased()
    driven.node.transfer_leadership(2)
    driven.pump()
    driven.step(MessageKind.APPEND_RESPONSE, 2, term=2)
    driven.lead_replicating()
    assert not answers_at_once(driven)
    echo(driven, beat(driven))
    assert answers_at_once(driven)


def test_a_lease_dies_with_the_term() -> None:
    driven = leased()
    context = beat(driven)
    driven.step(MessageKind.APPEND_RESPONSE, 2, term=2)
    driven.lead_replicating()
    echo(driven, context)
    assert not answers_at_once(driven)


def test_while_a_transfer_waits_for_a_slow_node_a_quorum_is_asked() -> None:
    driven = leased()
    driven.propose(b"x")
    driven.node.transfer_leadership(2)
    assert of_kind(driven.pump(), MessageKind.TIMEOUT_NOW) == []
    assert not answers_at_once(driven)
    driven.node.transfer_leadership(1)
    assert answers_at_once(driven)


def test_a_lease_does_not_outlive_the_sleep() -> None:
    driven = leased(quiesce_after_ticks=11)
    for _ in range(50):
        if driven.node.is_quiesced:
            break
        context = beat(driven)
        if not driven.node.is_quiesced:
            echo(driven, context, 2, 3)
    assert driven.node.is_quiesced
    driven.node.read_index(b"a")
    woken = of_kind(driven.pump(), HEARTBEAT)
    assert not driven.node.is_quiesced
    assert driven.node.status().pending_reads == 1
    # The echo of a heartbeat from before the sleep is worth nothing.
    echo(driven, context)
    assert driven.node.status().pending_reads == 1
    assert not answers_at_once(driven)
    echo(driven, woken[-1].context)
    assert driven.node.status().pending_reads == 1
    assert answers_at_once(driven)


def test_a_leader_that_lost_its_quorum_answers_nothing() -> None:
    driven = leased()
    driven.tick(2 * T)
    assert driven.node.role is not Role.LEADER
    assert driven.node.status().pending_reads == 0


# ---- patience of followers ---------------------------------------------------------------------


def test_followers_keep_their_leader_in_mind() -> None:
    driven = Driven(read_mode=ReadMode.LEASE)
    driven.step(HEARTBEAT, 3, term=4)
    driven.node.forget_leader()
    driven.pump()
    assert driven.node.leader == 3
    assert driven.event_names()[-1] == "leader_kept"


def test_without_leases_followers_may_forget_their_leader() -> None:
    driven = Driven()
    driven.step(HEARTBEAT, 3, term=4)
    driven.node.forget_leader()
    driven.pump()
    assert (driven.node.leader, driven.node.term) == (0, 4)
    assert driven.event_names()[-1] == "leader_forgotten"


@pytest.mark.parametrize(
    ("read_mode", "term", "expected"),
    [
        (ReadMode.LEASE, 0, 0),
        (ReadMode.LEASE, 1, T),
        (ReadMode.LEASE, 7, T),
        (ReadMode.SAFE, 7, 0),
    ],
)
def test_a_node_that_took_part_guards_leases_after_a_restart(
    read_mode: ReadMode, term: int, expected: int
) -> None:
    config = Config(node_id=1, election_timeout_ticks=T, read_mode=read_mode)
    assert restart_patience_ticks(config, HardState(term, 0, 0)) == expected


@pytest.mark.parametrize("kind", [VOTE, PRE_VOTE])
@pytest.mark.parametrize(("ticks", "is_answered"), [(0, False), (T - 1, False), (T, True)])
def test_after_a_restart_a_node_votes_for_nobody_for_an_election_timeout(
    kind: MessageKind, ticks: int, is_answered: bool
) -> None:
    driven = Driven(
        hard_state=HardState(4, 3, 0), election_timeout_ticks=T, read_mode=ReadMode.LEASE
    )
    driven.node._raft.election_timeout = 2 * T  # so that it does not campaign itself meanwhile
    driven.tick(ticks)
    out = driven.step(kind, 2, term=5)
    assert bool(out) is is_answered
    if not is_answered:
        assert (driven.node.term, driven.event_names()[-1]) == (4, "vote_ignored")


def test_after_a_restart_the_order_to_take_over_is_still_obeyed() -> None:
    driven = Driven(
        hard_state=HardState(4, 3, 0), election_timeout_ticks=T, read_mode=ReadMode.LEASE
    )
    (answer,) = driven.step(VOTE, 2, term=5, context=CAMPAIGN_TRANSFER)
    assert not answer.reject


def test_a_new_node_votes_at_once() -> None:
    driven = Driven(election_timeout_ticks=T, read_mode=ReadMode.LEASE)
    (answer,) = driven.step(VOTE, 2, term=1)
    assert not answer.reject


@pytest.mark.parametrize("restarted", [(), (2,), (2, 3)])
def test_no_other_leader_arises_under_a_lease(restarted: tuple[int, ...]) -> None:
    """The leader is cut off right after its lease began, and the others even restart."""
    net = Network(count=3, election_timeout_ticks=T, read_mode=ReadMode.LEASE)
    net.campaign(1)
    net.tick_all(2)
    net.isolate(1)
    for node in restarted:
        net[node].restart()
    served = 0
    for _ in range(4 * T):
        net.tick_all()
        count = len(net[1].reads)
        if net[1].node.is_leader:
            net[1].node.read_index(b"r")
            net.run()
        if len(net[1].reads) > count:
            served += 1
            assert net.leaders() == [1]
    assert served == 7
    assert net.leaders() in ([2], [3])


@pytest.mark.parametrize(
    ("read_mode", "ticks", "is_refused"),
    [
        (ReadMode.LEASE, 0, True),
        (ReadMode.LEASE, T - 1, True),
        (ReadMode.LEASE, T, False),
        (ReadMode.SAFE, 0, False),
    ],
)
def test_a_driver_cannot_make_a_follower_break_a_lease(
    read_mode: ReadMode, ticks: int, is_refused: bool
) -> None:
    driven = Driven(election_timeout_ticks=T, read_mode=read_mode)
    driven.step(HEARTBEAT, 3, term=4)
    driven.node._raft.election_timeout = 2 * T
    driven.tick(ticks)
    driven.node.campaign()
    assert (driven.node.role is Role.FOLLOWER) is is_refused
    assert (driven.event_names()[-1] == "campaign_refused") is is_refused


def test_the_order_to_take_over_is_obeyed_under_a_lease() -> None:
    driven = Driven(election_timeout_ticks=T, read_mode=ReadMode.LEASE)
    driven.step(HEARTBEAT, 3, term=4)
    driven.step(MessageKind.TIMEOUT_NOW, 3)
    assert (driven.node.role, driven.node.term) == (Role.CANDIDATE, 5)


def test_without_leases_a_higher_term_frees_the_vote() -> None:
    driven = Driven(election_timeout_ticks=T, pre_vote=False)
    driven.step(HEARTBEAT, 3, term=4, context=b"\x01" + bytes(7))
    driven.step(MessageKind.APPEND_RESPONSE, 2, term=6)
    assert [m.reject for m in driven.step(VOTE, 2, term=6)] == [False]


def test_the_order_to_take_over_ends_the_patience_of_the_others() -> None:
    driven = Driven(election_timeout_ticks=T, read_mode=ReadMode.LEASE)
    driven.step(HEARTBEAT, 3, term=4, context=b"\x01" + bytes(7))
    assert [m.reject for m in driven.step(VOTE, 2, term=5, context=CAMPAIGN_TRANSFER)] == [False]


@pytest.mark.parametrize("same_term", [False, True])
def test_a_higher_term_does_not_end_the_patience_of_a_follower(same_term: bool) -> None:
    """An old heartbeat of this node, from when it led, reaches a candidate of a higher term. Its
    answer raises the term here, while the lease that this node confirmed is still in force."""
    driven = Driven(election_timeout_ticks=T, read_mode=ReadMode.LEASE, pre_vote=False)
    driven.node._raft.election_timeout = 2 * T
    driven.step(HEARTBEAT, 3, term=4, context=b"\x01" + bytes(7))
    driven.step(MessageKind.APPEND_RESPONSE, 2, term=6)
    term = 6 if same_term else 7
    granted = [m for m in driven.step(VOTE, 2, term=term) if not m.reject]
    assert granted == []
    driven.node._raft.election_timeout = 2 * T
    driven.tick(T)
    assert [m.reject for m in driven.step(VOTE, 2, term=term)] == [False]


# ---- through the network -----------------------------------------------------------------------


def test_followers_are_answered_under_the_lease_too() -> None:
    net = Network(count=3, election_timeout_ticks=T, read_mode=ReadMode.LEASE)
    net.campaign(1)
    net.tick(1)
    net.propose(1)
    net.delivered.clear()
    net[2].node.read_index(b"a")
    net.run()
    assert net[2].reads == [ReadState(2, b"a")]
    assert [m.kind for m in net.delivered] == [
        MessageKind.READ_INDEX,
        MessageKind.READ_INDEX_RESPONSE,
    ]


def test_a_forwarded_read_is_answered_at_once() -> None:
    driven = leased()
    assert driven.step(MessageKind.READ_INDEX, 3, term=0, context=b"a") == [
        Message(kind=MessageKind.READ_INDEX_RESPONSE, to=3, sender=1, term=1, index=1, context=b"a")
    ]


# ---- configuration -----------------------------------------------------------------------------


def test_leases_need_the_check_of_the_quorum() -> None:
    text = 'read_mode is "lease": this needs check_quorum'
    with pytest.raises(ConfigError, match=re.escape(text)):
        Config(node_id=1, read_mode=ReadMode.LEASE, check_quorum=False).validate()
    Config(node_id=1, read_mode=ReadMode.LEASE).validate()
    Config(node_id=1, read_mode=ReadMode.SAFE, check_quorum=False).validate()
