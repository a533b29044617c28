"""Idle groups sleep: no ticks, no messages, until there is something to do or to elect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rafter_core import (
    Change,
    ChangeKind,
    ConfChange,
    Membership,
    Message,
    MessageKind,
    RawNode,
    ReadMode,
    Role,
    Snapshot,
    StepError,
)
from tests.core.network import Host, Network
from tests.core.support import THREE, Driven, both_modes, entry, of_kind

APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
HEARTBEAT = MessageKind.HEARTBEAT
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE
QUIESCE = MessageKind.QUIESCE
TIMEOUT = 10
AFTER = 15


def led(count: int = 3, **config: Any) -> Network:
    """Return a group with leader 1 that sleeps after a while."""
    config = {"quiesce_after_ticks": AFTER, "heartbeat_ticks": 2} | config
    network = Network(count=count, election_timeout_ticks=TIMEOUT, **config)
    network.campaign(1)
    assert network.leaders() == [1]
    return network


def sleepers(network: Network) -> list[int]:
    return [node for node, host in network.hosts.items() if host.node.is_quiesced]


def asleep(count: int = 3, **config: Any) -> Network:
    """Return a group of which every node sleeps."""
    network = led(count, **config)
    network.tick_all(2 * AFTER)
    assert sleepers(network) == list(network.hosts)
    return network


def leader(**config: Any) -> Driven:
    config = {"quiesce_after_ticks": AFTER, "heartbeat_ticks": 2} | config
    driven = Driven(election_timeout_ticks=TIMEOUT, **config)
    driven.lead_replicating()
    return driven


def idle_tick(driven: Driven, *answering: int) -> list[Message]:
    """Let a tick pass in which these nodes answer heartbeats."""
    messages = driven.tick()
    for node in answering:
        if not driven.node.is_quiesced:
            driven.step(HEARTBEAT_RESPONSE, node)
    return messages


def sleeping_leader(**config: Any) -> Driven:
    driven = leader(**config)
    for _ in range(2 * AFTER):
        idle_tick(driven, *(node for node in driven.node.membership.nodes if node != 1))
    assert driven.node.is_quiesced
    return driven


def sleeping_follower(**config: Any) -> Driven:
    """Return node 1, asleep behind leader 2 with one entry of term 1."""
    driven = Driven(election_timeout_ticks=TIMEOUT, quiesce_after_ticks=AFTER, **config)
    driven.step(APPEND, 2, term=1, entries=[entry(1, 1)], commit=1)
    driven.step(QUIESCE, 2, index=1, log_term=1, commit=1)
    assert driven.node.is_quiesced
    return driven


# Falling asleep.


@both_modes
@pytest.mark.parametrize("heartbeat_ticks", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_an_idle_group_falls_asleep_and_stays_so(
    count: int, heartbeat_ticks: int, async_storage_writes: bool
) -> None:
    network = led(count, heartbeat_ticks=heartbeat_ticks, async_storage_writes=async_storage_writes)
    network.tick_all(AFTER + TIMEOUT + heartbeat_ticks)
    assert sleepers(network) == list(network.hosts)
    network.delivered.clear()
    network.tick_all(20 * TIMEOUT)
    assert network.delivered == []
    assert sleepers(network) == list(network.hosts)
    assert network.leaders() == [1]
    assert {host.node.term for host in network.hosts.values()} == {1}


def test_without_the_option_nobody_sleeps() -> None:
    network = led(quiesce_after_ticks=0)
    network.tick_all(20 * AFTER)
    assert sleepers(network) == []


def test_the_leader_tells_its_followers_where_the_log_ends_after_so_many_idle_ticks() -> None:
    driven = leader()
    for _ in range(AFTER - 1):
        assert of_kind(idle_tick(driven, 2, 3), QUIESCE) == []
        assert not driven.node.is_quiesced
    orders = of_kind(idle_tick(driven), QUIESCE)
    assert [(m.to, m.sender, m.term, m.index, m.log_term, m.commit) for m in orders] == [
        (2, 1, 1, 1, 1, 1),
        (3, 1, 1, 1, 1, 1),
    ]
    assert driven.node.is_quiesced
    assert driven.node.status().is_quiesced
    assert driven.event_names()[-1] == "asleep"


def test_sleeping_nodes_take_no_ticks() -> None:
    for driven in (sleeping_leader(), sleeping_follower()):
        before = driven.node.status()
        ticks = driven.node._raft.ticks
        for _ in range(100):
            driven.node.tick()
        assert driven.node.status() == before
        assert driven.node._raft.ticks == ticks
        assert not driven.node.has_ready()


@pytest.mark.parametrize("request_of", ["proposal", "read"])
def test_activity_postpones_sleep_by_the_whole_time(request_of: str) -> None:
    driven = leader()
    for _ in range(AFTER - 1):
        idle_tick(driven, 2, 3)
    if request_of == "proposal":
        driven.propose()
        driven.acknowledge(2)
        driven.acknowledge(3)
    else:
        driven.node.read_index(b"r")
        (beat, _) = driven.pump()
        driven.step(HEARTBEAT_RESPONSE, 2, context=beat.context)
        assert len(driven.reads) == 1
    for _ in range(AFTER - 1):
        idle_tick(driven, 2, 3)
        assert not driven.node.is_quiesced
    idle_tick(driven)
    assert driven.node.is_quiesced


def unapplied(driven: Driven) -> None:
    """Commit an entry that the driver takes and never reports as applied."""
    driven.node.propose(b"x")
    ready = driven.node.ready()
    driven.storage.store(ready)
    driven.node.storage_done(ready)
    for node in (2, 3):
        driven.node.step(Message(kind=APPEND_RESPONSE, to=1, sender=node, term=1, index=2))
    ready = driven.node.ready()
    assert [item.index for item in ready.committed] == [2]
    driven.storage.store(ready)
    driven.node.storage_done(ready)


def lagging(driven: Driven) -> None:
    driven.propose()
    driven.acknowledge(2)


def probing(driven: Driven) -> None:
    """Follower 3 has all, but is not known to have it by a way that the leader trusts."""
    driven.node.report_unreachable(3)


@pytest.mark.parametrize("act", [unapplied, lagging, probing])
def test_a_leader_with_something_left_to_do_stays_awake(act: Callable[[Driven], None]) -> None:
    driven = leader()
    act(driven)
    for _ in range(3 * AFTER):
        driven.node.tick()
        assert not driven.node.is_quiesced
        for node in (2, 3):
            driven.node.step(Message(kind=HEARTBEAT_RESPONSE, to=1, sender=node, term=1))
        driven.node._raft.messages.clear()
    assert driven.node.is_leader


def test_a_leader_with_a_waiting_read_stays_awake() -> None:
    driven = leader()
    driven.node.read_index(b"r")
    for _ in range(3 * AFTER):
        # They answer, but not to the read.
        idle_tick(driven)
        assert not driven.node.is_quiesced
        for node in (2, 3):
            driven.step(HEARTBEAT_RESPONSE, node)
    assert driven.node.status().pending_reads == 1


def test_a_leader_that_hands_over_stays_awake() -> None:
    driven = leader()
    for _ in range(AFTER - 2):
        idle_tick(driven, 2, 3)
    driven.node.transfer_leadership(2)
    for _ in range(TIMEOUT - 1):
        idle_tick(driven, 2, 3)
        assert not driven.node.is_quiesced
    assert driven.node.status().transferee == 2
    # It fails with the next tick, the first idle one: then the whole time has to pass.
    for _ in range(AFTER - 1):
        idle_tick(driven, 2, 3)
        assert driven.node.status().transferee == 0
        assert not driven.node.is_quiesced
    idle_tick(driven)
    assert driven.node.is_quiesced


def test_a_joint_configuration_keeps_awake() -> None:
    joint = Membership((1, 2, 3), voters_outgoing=(1, 2))
    driven = leader(membership=joint)
    for _ in range(3 * AFTER):
        idle_tick(driven)
        assert not driven.node.is_quiesced
        for node in (2, 3):
            driven.step(HEARTBEAT_RESPONSE, node)
    network = Network(*(Host(node, joint, quiesce_after_ticks=AFTER) for node in (1, 2, 3)))
    network.campaign(1)
    network.tick_all(5 * AFTER)
    assert sleepers(network) == []
    network.change(1, ConfChange())
    network.tick_all(3 * AFTER)
    assert sleepers(network) == [1, 2, 3]


def test_a_follower_that_is_not_heard_keeps_awake() -> None:
    """Else it could not learn that the group sleeps, and would campaign again and again."""
    network = led()
    network.isolate(3)
    network.tick_all(5 * AFTER)
    assert 1 not in sleepers(network)
    network.heal()
    network.tick_all(3 * AFTER)
    assert sleepers(network) == [1, 2, 3]


def test_learners_and_witnesses_sleep_too() -> None:
    membership = Membership((1, 2, 3), learners=(4,), witnesses=(3,))
    network = Network(*(Host(node, membership, quiesce_after_ticks=AFTER) for node in (1, 2, 3, 4)))
    network.campaign(1)
    network.propose(1)
    network.tick_all(4 * AFTER)
    assert sleepers(network) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("index", "log_term", "commit", "sleeps"),
    [(1, 1, 1, True), (2, 1, 2, False), (1, 2, 1, False), (0, 0, 0, False), (1, 1, 0, False)],
)
def test_a_follower_sleeps_only_if_its_log_ends_there(
    index: int, log_term: int, commit: int, sleeps: bool
) -> None:
    driven = Driven(quiesce_after_ticks=AFTER)
    driven.step(APPEND, 2, term=2, entries=[entry(1, 1)])
    answers = driven.step(QUIESCE, 2, index=index, log_term=log_term, commit=commit)
    assert driven.node.is_quiesced is sleeps
    # It says nothing, or no.
    expected = [] if sleeps else [(HEARTBEAT_RESPONSE, 2, 2, True)]
    assert [(m.kind, m.to, m.term, m.reject) for m in answers] == expected
    assert driven.node.commit == (1 if sleeps else 0)


def test_a_follower_that_refuses_wakes_its_leader() -> None:
    network = led()
    network.lose(APPEND)
    network[1].node.propose(b"x")
    network.run()
    network.heal()
    order = Message(kind=QUIESCE, to=3, sender=1, term=1, index=2, log_term=1, commit=2)
    network.send(order)
    assert sleepers(network) == []
    network.tick_all(4 * AFTER)
    assert network[3].payloads == [b"x"]
    assert sleepers(network) == [1, 2, 3]


def test_a_follower_that_never_sleeps_keeps_the_group_awake() -> None:
    voters = Membership((1, 2, 3))
    network = Network(
        *(Host(node, voters, quiesce_after_ticks=0 if node == 3 else AFTER) for node in (1, 2, 3))
    )
    network.campaign(1)
    for _ in range(6 * AFTER):
        network.tick_all()
        assert 1 not in sleepers(network)
        assert 3 not in sleepers(network)
    assert network.leaders() == [1]
    assert network[1].node.term == 1


def test_a_follower_that_is_never_to_sleep_says_that_it_is_awake() -> None:
    driven = Driven(quiesce_after_ticks=0)
    driven.step(APPEND, 2, term=1, entries=[entry(1, 1)], commit=1)
    answers = driven.step(QUIESCE, 2, index=1, log_term=1, commit=1)
    assert [(m.kind, m.to, m.reject) for m in answers] == [(HEARTBEAT_RESPONSE, 2, True)]
    assert not driven.node.is_quiesced


def test_a_candidate_that_is_told_to_sleep_concedes() -> None:
    driven = Driven(pre_vote=False, quiesce_after_ticks=AFTER, terms=[1])
    driven.node.campaign()
    driven.pump()
    assert driven.node.role is Role.CANDIDATE
    driven.step(QUIESCE, 2, index=1, log_term=1, commit=1)
    node = driven.node
    assert (node.role, node.leader, node.is_quiesced) == (Role.FOLLOWER, 2, True)


def test_the_order_to_sleep_tells_who_leads() -> None:
    driven = Driven(terms=[1], quiesce_after_ticks=AFTER)
    driven.tick(4)
    driven.step(QUIESCE, 3, index=1, log_term=1, commit=1)
    assert (driven.node.leader, driven.node._raft.election_elapsed) == (3, 0)
    driven = Driven(terms=[1], quiesce_after_ticks=AFTER)
    driven.step(HEARTBEAT, 2)
    with pytest.raises(StepError, match="node 2 leads term 1"):
        driven.step(QUIESCE, 3, index=1, log_term=1, commit=1)
    assert not driven.node.is_quiesced


def test_the_order_of_a_deposed_leader_is_answered_with_the_term() -> None:
    driven = Driven(quiesce_after_ticks=AFTER)
    driven.step(HEARTBEAT, 3, term=5)
    answers = driven.step(QUIESCE, 2, term=4)
    assert [(m.kind, m.to, m.term) for m in answers] == [(APPEND_RESPONSE, 2, 5)]
    assert not driven.node.is_quiesced


# Waking up.

REQUESTS: list[Callable[[RawNode], object]] = [
    lambda node: node.propose(b"x"),
    lambda node: node.propose_many([b"x", b"y"]),
    lambda node: node.propose_conf_change(ConfChange((Change(ChangeKind.ADD_LEARNER, 4),))),
    lambda node: node.read_index(b"r"),
    lambda node: node.transfer_leadership(3),
    lambda node: node.campaign(),
    lambda node: node.forget_leader(),
    lambda node: node.report_unreachable(2),
    lambda node: node.report_snapshot(2, is_ok=True),
]


@pytest.mark.parametrize("request_of", REQUESTS)
@pytest.mark.parametrize("make", [sleeping_leader, sleeping_follower])
def test_any_request_wakes(
    make: Callable[[], Driven], request_of: Callable[[RawNode], object]
) -> None:
    driven = make()
    request_of(driven.node)
    assert not driven.node.is_quiesced
    assert "awake" in driven.event_names()


def test_looking_wakes_nobody() -> None:
    for driven in (sleeping_leader(), sleeping_follower()):
        driven.node.status()
        driven.node.set_priority(3)
        driven.node.tick()
        assert not driven.node.has_ready()
        driven.pump()
        assert driven.node.is_quiesced


@pytest.mark.parametrize(
    "kind",
    [
        MessageKind.APPEND,
        MessageKind.HEARTBEAT,
        MessageKind.SNAPSHOT,
        MessageKind.TIMEOUT_NOW,
        MessageKind.VOTE,
        MessageKind.PRE_VOTE,
        MessageKind.PROPOSE,
        MessageKind.READ_INDEX,
        MessageKind.TRANSFER_LEADER,
    ],
)
@pytest.mark.parametrize("sender", [2, 3])
def test_any_message_wakes_a_follower(kind: MessageKind, sender: int) -> None:
    is_of_leader = kind in (APPEND, HEARTBEAT, MessageKind.SNAPSHOT)
    if is_of_leader:
        sender = 2
    driven = sleeping_follower()
    fields: dict[str, Any] = {}
    if kind in (MessageKind.PROPOSE, MessageKind.READ_INDEX):
        fields["term"] = 0
        fields["entries"] = [entry(0, 0, b"x")]
    elif kind is MessageKind.SNAPSHOT:
        fields["snapshot"] = Snapshot(1, 1, THREE)
    driven.step(kind, sender, **fields)
    assert not driven.node.is_quiesced


@pytest.mark.parametrize(
    "kind",
    [
        MessageKind.APPEND_RESPONSE,
        MessageKind.VOTE,
        MessageKind.PRE_VOTE,
        MessageKind.PROPOSE,
        MessageKind.READ_INDEX,
        MessageKind.TRANSFER_LEADER,
    ],
)
def test_any_request_of_a_peer_wakes_a_leader_which_wakes_the_others(kind: MessageKind) -> None:
    driven = sleeping_leader()
    fields: dict[str, Any] = {}
    if kind in (MessageKind.PROPOSE, MessageKind.READ_INDEX):
        fields["term"] = 0
        fields["entries"] = [entry(0, 0, b"x")]
    elif kind is MessageKind.VOTE:
        # Of an older term: nothing else comes of it.
        fields["term"] = 1
    beats = of_kind(driven.step(kind, 2, **fields), HEARTBEAT)
    assert not driven.node.is_quiesced
    assert [m.to for m in beats][:2] == [2, 3]


def test_late_answers_to_heartbeats_do_not_wake_a_leader() -> None:
    driven = sleeping_leader()
    for node in (2, 3, 2):
        assert driven.step(HEARTBEAT_RESPONSE, node) == []
    assert driven.node.is_quiesced


def test_a_no_of_a_follower_wakes_a_leader() -> None:
    driven = sleeping_leader()
    beats = driven.step(HEARTBEAT_RESPONSE, 2, reject=True)
    assert [(m.kind, m.to) for m in beats] == [(HEARTBEAT, 2), (HEARTBEAT, 3)]
    assert not driven.node.is_quiesced


def test_an_answer_of_another_term_wakes_a_leader() -> None:
    driven = sleeping_leader()
    driven.step(HEARTBEAT_RESPONSE, 2, term=2)
    assert not driven.node.is_quiesced
    assert (driven.node.role, driven.node.term) == (Role.FOLLOWER, 2)


def test_a_stray_heartbeat_response_wakes_a_follower() -> None:
    driven = sleeping_follower()
    driven.step(HEARTBEAT_RESPONSE, 3)
    assert not driven.node.is_quiesced


def test_a_follower_that_wakes_by_itself_pokes_its_leader() -> None:
    driven = sleeping_follower()
    driven.node.report_unreachable(3)
    (poke,) = driven.pump()
    assert (poke.kind, poke.to, poke.term, poke.reject) == (HEARTBEAT_RESPONSE, 2, 1, True)
    # The leader itself need not be told.
    driven = sleeping_follower()
    (answer,) = driven.step(HEARTBEAT, 2, commit=1)
    assert (answer.kind, answer.reject) == (HEARTBEAT_RESPONSE, False)


@pytest.mark.parametrize("node", [1, 2, 3])
def test_a_proposal_wakes_everybody_and_is_applied_everywhere(node: int) -> None:
    network = asleep()
    assert network.propose(node, b"x")
    assert sleepers(network) == []
    assert [host.payloads for host in network.hosts.values()] == [[b"x"]] * 3
    network.tick_all(4 * AFTER)
    assert sleepers(network) == [1, 2, 3]
    assert network[1].node.term == 1


@pytest.mark.parametrize("node", [1, 2, 3])
def test_a_read_wakes_everybody_and_is_answered(node: int) -> None:
    network = asleep()
    network[node].node.read_index(b"r")
    network.run()
    assert [read.context for read in network[node].reads] == [b"r"]
    assert sleepers(network) == []


def test_a_woken_follower_wakes_its_leader_which_wakes_the_rest() -> None:
    network = asleep()
    network[3].node.report_unreachable(2)
    network.run()
    assert sleepers(network) == []
    assert network.leaders() == [1]


def test_a_sleeping_group_changes_its_leader_on_request() -> None:
    network = asleep()
    network[1].node.transfer_leadership(3)
    network.run()
    assert network.leaders() == [3]
    network.tick_all(4 * AFTER)
    assert sleepers(network) == [1, 2, 3]


def test_a_woken_follower_has_a_whole_election_timeout_to_hear_its_leader() -> None:
    driven = sleeping_follower()
    driven.node.report_unreachable(2)
    raft = driven.node._raft
    assert raft.election_elapsed == 0
    driven.pump()
    assert of_kind(driven.tick(raft.election_timeout - 1), MessageKind.PRE_VOTE) == []
    assert len(of_kind(driven.tick(), MessageKind.PRE_VOTE)) == 2


def test_a_woken_leader_counts_everything_anew() -> None:
    driven = sleeping_leader(heartbeat_ticks=2)
    raft = driven.node._raft
    assert (raft.election_elapsed, raft.heartbeat_elapsed) == (AFTER % TIMEOUT, AFTER % 2)
    driven.node.report_unreachable(9)
    assert (raft.election_elapsed, raft.heartbeat_elapsed) == (0, 0)
    assert [m.to for m in of_kind(driven.pump(), HEARTBEAT)] == [2, 3]
    beats = []
    for _ in range(AFTER - 1):
        beats.append(len(of_kind(idle_tick(driven, 2, 3), HEARTBEAT)))
        assert not driven.node.is_quiesced
    assert beats == ([0, 2] * AFTER)[: AFTER - 1]
    idle_tick(driven)
    assert driven.node.is_quiesced


# Nobody is there any more.


@pytest.mark.parametrize("wake", ["report", "propose", "read"])
def test_a_group_whose_sleeping_leader_died_elects_once_it_is_used(wake: str) -> None:
    network = asleep()
    network.isolate(1)
    network.tick_all(10 * TIMEOUT)
    assert sleepers(network) == [1, 2, 3]
    if wake == "report":
        network[2].node.report_unreachable(1)
    elif wake == "propose":
        network[2].node.propose(b"lost")
    else:
        network[2].node.read_index(b"lost")
    network.tick_all(6 * TIMEOUT)
    new = [node for node in network.leaders() if node != 1]
    assert len(new) == 1
    assert network.propose(new[0], b"x")
    assert network[5 - new[0]].payloads == [b"x"]


def test_a_sleeping_leader_that_comes_back_follows_the_new_one() -> None:
    network = asleep()
    network.isolate(1)
    network[2].node.report_unreachable(1)
    network.tick_all(6 * TIMEOUT)
    network.heal()
    network.tick_all(2 * TIMEOUT)
    (leader_now,) = network.leaders()
    assert leader_now != 1
    assert network[1].node.leader == leader_now
    network.tick_all(4 * AFTER)
    assert sleepers(network) == [1, 2, 3]


def test_a_follower_that_restarts_while_the_group_sleeps_is_taken_back() -> None:
    network = asleep()
    network[3].restart()
    assert sleepers(network) == [1, 2]
    network.tick_all(4 * TIMEOUT)
    assert network[3].node.leader == 1
    assert network.leaders() == [1]
    network.tick_all(4 * AFTER)
    assert sleepers(network) == [1, 2, 3]


def test_a_sleeping_leader_that_wakes_alone_steps_down() -> None:
    network = asleep()
    network.isolate(1)
    network[1].node.propose(b"x")
    network.run()
    network.tick(1, 2 * TIMEOUT + 1)
    assert not network[1].node.is_leader


# Leases.


def test_a_lease_does_not_outlive_sleep() -> None:
    driven = sleeping_leader(read_mode=ReadMode.LEASE)
    driven.node.read_index(b"r")
    beats = of_kind(driven.pump(), HEARTBEAT)
    # Right after waking up, a quorum has to be asked.
    assert driven.reads == []
    driven.step(HEARTBEAT_RESPONSE, 2, context=beats[-1].context)
    assert [read.context for read in driven.reads] == [b"r"]


def test_an_echo_from_before_the_sleep_renews_no_lease() -> None:
    driven = leader(read_mode=ReadMode.LEASE)
    beats: list[Message] = []
    for _ in range(2 * AFTER):
        beats = of_kind(idle_tick(driven), HEARTBEAT) or beats
        for node in (2, 3):
            if not driven.node.is_quiesced:
                driven.step(HEARTBEAT_RESPONSE, node)
    assert driven.node.is_quiesced
    late = beats[-1].context
    driven.node.report_unreachable(9)  # Wakes.
    driven.pump()
    driven.step(HEARTBEAT_RESPONSE, 2, context=late)
    driven.node.read_index(b"r")
    driven.pump()
    assert driven.reads == []
