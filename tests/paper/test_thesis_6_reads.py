"""Chapter 6.4 of the thesis, read-only queries: step by step, and with clocks (6.4.1)."""

from __future__ import annotations

from typing import Any

import pytest

from rafter_core import (
    ConfigError,
    Membership,
    MessageKind,
    ReadDropped,
    ReadMode,
    ReadState,
    RequestRefused,
    Role,
)
from tests.core.network import Host
from tests.core.support import Driven, of_kind
from tests.paper.support import PLAIN, TIMEOUT_TICKS, Cluster, group, led_cluster

HEARTBEAT = MessageKind.HEARTBEAT
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE
LEASE: dict[str, Any] = {"read_mode": ReadMode.LEASE}


def read(cluster: Cluster, node: int, context: bytes) -> list[ReadState]:
    """Ask a node for a read; return what it has confirmed so far."""
    cluster[node].node.read_index(context)
    cluster.run()
    return cluster[node].reads


# ---- read-only queries, 6.4


def test_a_read_waits_for_the_first_commit_of_the_term() -> None:
    """Thesis 6.4, step 1: before that the leader may not know what is committed."""
    driven = Driven(terms=[1])
    driven.lead()
    driven.node.read_index(b"r")
    assert of_kind(driven.pump(), HEARTBEAT) == []
    assert driven.step(HEARTBEAT_RESPONSE, 2) != []
    assert driven.reads == []
    # Now a majority has the no-op of index 2; the round of the read follows.
    heartbeats = of_kind(driven.acknowledge(2, 2), HEARTBEAT)
    assert [m.to for m in heartbeats] == [2, 3]
    driven.step(HEARTBEAT_RESPONSE, 2, context=heartbeats[0].context)
    assert driven.reads == [ReadState(2, b"r")]


def test_the_read_index_is_the_commit_index_when_the_read_arrives() -> None:
    """Thesis 6.4, step 2: what is committed later need not be seen, and is not waited for."""
    driven = Driven()
    driven.lead_replicating()
    driven.node.propose(b"not committed yet")
    driven.pump()
    driven.node.read_index(b"r")
    heartbeats = of_kind(driven.pump(), HEARTBEAT)
    driven.acknowledge(2)
    assert driven.node.commit == 2
    driven.step(HEARTBEAT_RESPONSE, 2, context=heartbeats[0].context)
    assert driven.reads == [ReadState(1, b"r")]


@pytest.mark.parametrize(
    ("size", "answering", "is_confirmed"),
    [(3, [], False), (3, [2], True), (5, [2], False), (5, [2, 5], True), (5, [2, 2, 2], False)],
)
def test_a_majority_must_confirm_the_leader(
    size: int, answering: list[int], is_confirmed: bool
) -> None:
    """Thesis 6.4, step 3: one round of heartbeats; each server counts once, the leader too."""
    driven = Driven(membership=group(size))
    driven.lead_replicating()
    driven.node.read_index(b"r")
    heartbeats = of_kind(driven.pump(), HEARTBEAT)
    for follower in answering:
        driven.step(HEARTBEAT_RESPONSE, follower, context=heartbeats[0].context)
    assert (driven.reads == [ReadState(1, b"r")]) is is_confirmed


def test_answers_to_earlier_heartbeats_confirm_nothing() -> None:
    """Thesis 6.4, step 3: the round must begin after the read has arrived (etcd#20418)."""
    driven = Driven()
    driven.lead_replicating()
    driven.node.read_index(b"first")
    old = of_kind(driven.pump(), HEARTBEAT)[0].context
    driven.node.read_index(b"second")
    new = of_kind(driven.pump(), HEARTBEAT)[0].context
    assert old != new
    driven.step(HEARTBEAT_RESPONSE, 2, context=b"")
    assert driven.reads == []
    driven.step(HEARTBEAT_RESPONSE, 2, context=old)
    assert driven.reads == [ReadState(1, b"first")]
    driven.step(HEARTBEAT_RESPONSE, 2, context=old)
    assert driven.reads == [ReadState(1, b"first")]
    driven.step(HEARTBEAT_RESPONSE, 2, context=new)
    assert driven.reads == [ReadState(1, b"first"), ReadState(1, b"second")]


def test_one_round_confirms_every_read_before_it() -> None:
    """Thesis 6.4: reads may be collected, the newest round answers for all of them."""
    driven = Driven()
    driven.lead_replicating()
    for context in (b"a", b"b", b"c"):
        driven.node.read_index(context)
    rounds = of_kind(driven.pump(), HEARTBEAT)
    driven.step(HEARTBEAT_RESPONSE, 3, context=rounds[-1].context)
    assert [state.context for state in driven.reads] == [b"a", b"b", b"c"]


def test_a_lost_round_is_repeated() -> None:
    """Thesis 6.4, step 3: the periodic heartbeat asks again while a read waits."""
    cluster = led_cluster()
    cluster.lose(HEARTBEAT)
    assert read(cluster, 1, b"r") == []
    cluster.heal()
    cluster.tick(1)
    assert cluster[1].reads == [ReadState(1, b"r")]


def test_a_read_is_confirmed_before_its_index_is_applied() -> None:
    """Thesis 6.4, step 4: the driver waits until its machine has reached the read index."""
    cluster = led_cluster()
    cluster[1].is_applying = False
    cluster.propose(1, b"x")
    assert read(cluster, 1, b"r") == [ReadState(2, b"r")]
    assert cluster[1].node.applied == 1
    cluster[1].apply_withheld()
    assert cluster[1].node.applied == 2
    assert cluster[1].payloads == [b"x"]


def test_a_read_sees_every_command_that_was_answered_before() -> None:
    """Thesis 6.4, step 5: on any server, even on one that has not applied the command yet."""
    cluster = led_cluster()
    cluster.isolate(3)
    cluster.propose(1, b"x")
    assert cluster[1].payloads == [b"x"]
    cluster.heal()
    assert cluster[3].node.commit == 1
    assert read(cluster, 3, b"r") == [ReadState(2, b"r")]


def test_a_read_leaves_no_trace_in_the_log() -> None:
    """Thesis 6.4: that is what makes it cheap: no entry, no sync."""
    cluster = led_cluster()
    logs = [host.log for host in cluster.hosts.values()]
    read(cluster, 1, b"r")
    read(cluster, 2, b"s")
    assert [host.log for host in cluster.hosts.values()] == logs
    assert cluster.sent(MessageKind.APPEND) == []


def test_a_follower_asks_the_leader_for_a_read_index() -> None:
    """Thesis 6.4: so that followers may serve reads; the leader does steps 1 to 3 for them."""
    cluster = led_cluster()
    assert read(cluster, 2, b"r") == [ReadState(1, b"r")]
    assert cluster[1].reads == []
    assert [(m.sender, m.to) for m in cluster.sent(MessageKind.READ_INDEX)] == [(2, 1)]
    assert [(m.to, m.index) for m in cluster.sent(MessageKind.READ_INDEX_RESPONSE)] == [(2, 1)]


def test_a_learner_may_serve_reads_too() -> None:
    """Thesis 6.4 and 4.2.1: it asks like a follower, and does not count in the round."""
    membership = Membership((1, 2), learners=(3,))
    cluster = Cluster(*[Host(node, membership) for node in (1, 2, 3)])
    cluster.campaign(1)
    assert read(cluster, 3, b"r") == [ReadState(1, b"r")]
    cluster.crash(2)
    assert read(cluster, 3, b"s") == [ReadState(1, b"r")]


def test_a_deposed_leader_serves_no_read() -> None:
    """Thesis 6.4: it cannot finish a round any more, and drops what waits when it learns so."""
    cluster = led_cluster(**PLAIN)
    cluster.isolate(1)
    cluster.campaign(2)
    cluster.propose(2, b"new")
    assert read(cluster, 1, b"r") == []
    assert cluster[1].node.status().pending_reads == 1
    cluster.tick(1, TIMEOUT_TICKS)
    cluster.heal()
    cluster.tick(2)
    cluster.tick(1, 2)
    assert cluster[1].node.role is Role.FOLLOWER
    assert (cluster[1].reads, cluster[1].node.status().pending_reads) == ([], 0)


def test_a_server_without_a_leader_refuses_a_read() -> None:
    """Thesis 6.4: there is nobody to confirm it."""
    cluster = Cluster(count=3)
    with pytest.raises(ReadDropped):
        cluster[1].node.read_index(b"r")
    assert issubclass(ReadDropped, RequestRefused)


def test_the_only_voter_needs_no_round() -> None:
    """Thesis 6.4: it is the majority; the read is confirmed at once."""
    driven = Driven(membership=group(1))
    driven.lead()
    driven.node.read_index(b"r")
    assert driven.pump() == []
    assert driven.reads == [ReadState(1, b"r")]


def test_in_a_joint_configuration_both_majorities_confirm() -> None:
    """Thesis 6.4 and 4.3: a leader of the other half could otherwise exist already."""
    driven = Driven(membership=Membership((1, 4, 5), (1, 2, 3)))
    driven.lead_replicating()
    driven.node.read_index(b"r")
    context = of_kind(driven.pump(), HEARTBEAT)[0].context
    for follower in (2, 3):
        driven.step(HEARTBEAT_RESPONSE, follower, context=context)
    assert driven.reads == []
    driven.step(HEARTBEAT_RESPONSE, 5, context=context)
    assert driven.reads == [ReadState(1, b"r")]


# ---- clocks instead of messages, 6.4.1


def leading_with_lease() -> Driven:
    """Return a leader that has sent heartbeats at tick 1, which node 2 has answered."""
    driven = Driven(**LEASE)
    driven.lead_replicating()
    heartbeats = of_kind(driven.tick(), HEARTBEAT)
    driven.step(HEARTBEAT_RESPONSE, 2, context=heartbeats[0].context)
    return driven


def test_a_lease_answers_reads_without_messages() -> None:
    """Thesis 6.4.1: while the last round of heartbeats vouches for the leader."""
    driven = leading_with_lease()
    driven.node.read_index(b"r")
    assert driven.pump() == []
    assert driven.reads == [ReadState(1, b"r")]


def test_without_a_confirmed_round_there_is_no_lease() -> None:
    """Thesis 6.4.1: an election alone gives none; then the read asks a majority as in 6.4."""
    driven = Driven(**LEASE)
    driven.lead_replicating()
    driven.node.read_index(b"r")
    heartbeats = of_kind(driven.pump(), HEARTBEAT)
    assert driven.reads == []
    driven.step(HEARTBEAT_RESPONSE, 2, context=heartbeats[0].context)
    assert driven.reads == [ReadState(1, b"r")]


@pytest.mark.parametrize(("ticks", "is_answered"), [(0, True), (7, True), (8, False), (9, False)])
def test_a_lease_ends_before_any_follower_may_elect_another(ticks: int, is_answered: bool) -> None:
    """Thesis 6.4.1: an election timeout after the round was *sent*, less a bound on clock drift.

    Followers are loyal for ten ticks from when they heard; the leader trusts in eight of its own.
    """
    driven = leading_with_lease()
    # The answers to all later rounds are lost.
    driven.tick(ticks)
    driven.node.read_index(b"r")
    driven.pump()
    assert (driven.reads == [ReadState(1, b"r")]) is is_answered


def test_a_lease_counts_from_the_sending_not_from_the_answer() -> None:
    """Thesis 6.4.1: an answer that took long to arrive proves only what was true long ago."""
    driven = Driven(**LEASE)
    driven.lead_replicating()
    first = of_kind(driven.tick(), HEARTBEAT)[0].context
    driven.tick(8)
    driven.step(HEARTBEAT_RESPONSE, 2, context=first)
    driven.node.read_index(b"r")
    driven.pump()
    assert driven.reads == []


def test_every_answered_round_extends_the_lease() -> None:
    """Thesis 6.4.1: so that it never ends while a majority answers."""
    driven = leading_with_lease()
    for number in range(3 * TIMEOUT_TICKS):
        heartbeats = of_kind(driven.tick(), HEARTBEAT)
        driven.step(HEARTBEAT_RESPONSE, 3, context=heartbeats[0].context)
        driven.node.read_index(b"%d" % number)
        driven.pump()
        assert len(driven.reads) == number + 1


def test_a_lease_too_waits_for_the_first_commit_of_the_term() -> None:
    """Thesis 6.4.1 and 6.4, step 1: clocks say who leads, not what is committed."""
    driven = Driven(**LEASE)
    driven.lead()
    heartbeats = of_kind(driven.tick(), HEARTBEAT)
    driven.step(HEARTBEAT_RESPONSE, 2, context=heartbeats[0].context)
    driven.node.read_index(b"r")
    driven.pump()
    assert driven.reads == []
    heartbeats = of_kind(driven.acknowledge(2, 1), HEARTBEAT)
    driven.step(HEARTBEAT_RESPONSE, 2, context=heartbeats[0].context)
    assert driven.reads == [ReadState(1, b"r")]


def test_a_leader_that_hands_over_gives_up_its_lease() -> None:
    """Thesis 6.4.1: the new leader wins without anybody's patience having run out."""
    driven = leading_with_lease()
    driven.node.transfer_leadership(2)
    assert len(of_kind(driven.pump(), MessageKind.TIMEOUT_NOW)) == 1
    driven.node.read_index(b"r")
    assert [m.to for m in of_kind(driven.pump(), HEARTBEAT)] == [2, 3]
    assert driven.reads == []


def test_followers_keep_the_promise_that_a_lease_rests_on() -> None:
    """Thesis 6.4.1 and 4.2.3: within an election timeout they elect nobody else."""
    cluster = led_cluster(**LEASE)
    cluster.tick(1)
    cluster.isolate(1)
    cluster.tick(2, TIMEOUT_TICKS - 1)
    cluster.tick(3, TIMEOUT_TICKS - 1)
    cluster.campaign(2)
    assert cluster.leaders() == [1]
    cluster[1].node.read_index(b"r")
    cluster.run()
    assert cluster[1].reads == [ReadState(1, b"r")]


def test_a_restarted_follower_keeps_the_promise_too() -> None:
    """Thesis 6.4.1: it may have confirmed a round just before it crashed, and has forgotten."""
    driven = Driven(terms=[1], **LEASE)
    assert driven.step(MessageKind.VOTE, 2, term=2, index=1, log_term=1) == []
    driven.tick(TIMEOUT_TICKS)
    answers = driven.step(MessageKind.VOTE, 2, term=2, index=1, log_term=1)
    assert [m.reject for m in of_kind(answers, MessageKind.VOTE_RESPONSE)] == [False]


def test_leases_need_loyal_voters() -> None:
    """Thesis 6.4.1: without check-quorum nobody keeps the promise: no such node starts."""
    with pytest.raises(ConfigError, match="check_quorum"):
        Driven(check_quorum=False, **LEASE)
