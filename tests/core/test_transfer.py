"""Orderly hand-over of leadership: whom it reaches, what it holds back, and how it ends."""

from __future__ import annotations

from typing import Any

import pytest

from rafter_core import (
    Change,
    ChangeKind,
    ConfChange,
    HardState,
    Membership,
    Message,
    MessageKind,
    NotLeader,
    ProposalDropped,
    Role,
    TransferRefused,
)
from rafter_core.messages import CAMPAIGN_TRANSFER
from tests.core.harness import Cluster
from tests.core.network import Network
from tests.core.support import Driven, of_kind

APPEND = MessageKind.APPEND
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE
TIMEOUT_NOW = MessageKind.TIMEOUT_NOW
TRANSFER_LEADER = MessageKind.TRANSFER_LEADER


def leader(membership: Membership | None = None, **config: Any) -> Driven:
    config.setdefault("election_timeout_ticks", 10)
    driven = Driven(membership=membership or Membership((1, 2, 3)), **config)
    driven.lead_replicating()
    return driven


def led(count: int = 3, **config: Any) -> Network:
    """Return a network that node 1 leads."""
    net = Network(count=count, election_timeout_ticks=10, **config)
    net.campaign(1)
    assert net.leaders() == [1]
    return net


def transfer(net: Network, asked: int, to: int) -> None:
    net[asked].node.transfer_leadership(to)
    net.run()


# ---- handing over ------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [1, 2, 3])
@pytest.mark.parametrize("check_quorum", [False, True])
@pytest.mark.parametrize("pre_vote", [False, True])
def test_leadership_is_handed_over_and_back(asked: int, check_quorum: bool, pre_vote: bool) -> None:
    net = led(check_quorum=check_quorum, pre_vote=pre_vote)
    transfer(net, asked, 2)
    assert net.leaders() == [2]
    assert [host.node.term for host in net.hosts.values()] == [2, 2, 2]
    assert net[1].node.leader == 2
    transfer(net, asked, 1)
    assert net.leaders() == [1]
    assert net[1].node.term == 3
    assert net[1].node.status().transferee == net[2].node.status().transferee == 0
    assert net.propose(1)


def test_a_follower_that_holds_the_log_is_told_at_once() -> None:
    driven = leader()
    driven.node.transfer_leadership(2)
    assert driven.pump() == [Message(kind=TIMEOUT_NOW, to=2, sender=1, term=1)]
    assert driven.node.status().transferee == 2
    assert driven.event_names()[-2:] == ["transfer_started", "timeout_now_sent"]


def test_a_slow_follower_is_sent_what_it_lacks_and_told_when_it_has_it() -> None:
    driven = leader()
    driven.step(HEARTBEAT_RESPONSE, 2)
    driven.propose(b"x")
    driven.propose(b"y")
    driven.node.transfer_leadership(2)
    out = driven.pump()
    assert [(m.kind, m.to, m.index, len(m.entries)) for m in out] == [(APPEND, 2, 3, 0)]
    assert of_kind(driven.acknowledge(2, 2), TIMEOUT_NOW) == []
    assert of_kind(driven.acknowledge(3, 3), TIMEOUT_NOW) == []
    assert [m.to for m in of_kind(driven.acknowledge(2, 3), TIMEOUT_NOW)] == [2]


def test_a_network_waits_for_a_slow_follower() -> None:
    net = led()
    net.isolate(3)
    net.propose(1)
    transfer(net, 1, 3)
    assert net.leaders() == [1]
    net.heal()
    net.tick(1)
    assert net.leaders() == [3]
    assert net[3].node.last_index == 3


def test_a_follower_that_needs_a_snapshot_gets_it_first() -> None:
    net = led()
    net.isolate(3)
    net.propose(1)
    net.propose(1)
    net[1].storage.create_snapshot(net[1].node.applied, net[1].node.membership)
    net[1].storage.compact(net[1].node.applied)
    net.heal()
    net.delivered.clear()
    transfer(net, 1, 3)
    assert [m.kind for m in net.delivered if m.to == 3][:3] == [
        APPEND,
        MessageKind.SNAPSHOT,
        TIMEOUT_NOW,
    ]
    assert net.leaders() == [3]
    assert net[3].storage.first_index() == 4


def test_the_order_breaks_the_patience_of_followers_and_needs_no_pre_vote() -> None:
    driven = Driven(terms=[1, 1])
    driven.step(MessageKind.HEARTBEAT, 3, term=2)
    out = driven.step(TIMEOUT_NOW, 3)
    assert driven.node.role is Role.CANDIDATE
    assert driven.node.term == 3
    assert [(m.kind, m.to, m.term, m.context) for m in out] == [
        (MessageKind.VOTE, 2, 3, CAMPAIGN_TRANSFER),
        (MessageKind.VOTE, 3, 3, CAMPAIGN_TRANSFER),
    ]


@pytest.mark.parametrize("role", [Role.PRE_CANDIDATE, Role.CANDIDATE, Role.LEADER])
def test_the_order_means_nothing_to_a_node_that_follows_nobody(role: Role) -> None:
    driven = Driven(pre_vote=role is Role.PRE_CANDIDATE, hard_state=HardState(1, 0, 0))
    if role is Role.LEADER:
        driven.lead()
    else:
        driven.node.campaign()
        driven.pump()
    term = driven.node.term
    assert driven.step(TIMEOUT_NOW, 2) == []
    assert (driven.node.role, driven.node.term) == (role, term)


@pytest.mark.parametrize(
    "membership",
    [Membership((2, 3, 4)), Membership((2, 3), learners=(1,)), Membership((1, 2), witnesses=(1,))],
)
def test_the_order_means_nothing_to_a_node_that_cannot_lead(membership: Membership) -> None:
    driven = Driven(membership=membership, hard_state=HardState(2, 0, 0))
    assert driven.step(TIMEOUT_NOW, 2) == []
    assert (driven.node.role, driven.node.term) == (Role.FOLLOWER, 2)
    assert driven.event_names()[-1] == "campaign_refused"


# ---- who can be asked, and for whom ------------------------------------------------------------


@pytest.mark.parametrize(
    ("membership", "to"),
    [
        (Membership((1, 2, 3)), 9),
        (Membership((1, 2, 3)), 0),
        (Membership((1, 2, 3), learners=(4,)), 4),
        (Membership((1, 2, 3), witnesses=(3,)), 3),
    ],
)
def test_only_a_voter_that_can_lead_is_handed_leadership(membership: Membership, to: int) -> None:
    driven = leader(membership)
    with pytest.raises(TransferRefused, match=f"node {to} is not a voter that can lead"):
        driven.node.transfer_leadership(to)
    if to:
        assert driven.step(TRANSFER_LEADER, to) == []
    assert driven.node.status().transferee == 0
    assert driven.node.propose(b"x") == 2


def test_a_voter_of_the_outgoing_half_can_still_lead() -> None:
    driven = leader(Membership((1, 2), (1, 3)))
    driven.node.transfer_leadership(3)
    assert [m.to for m in of_kind(driven.pump(), TIMEOUT_NOW)] == [3]


def test_the_own_id_is_no_transfer() -> None:
    driven = leader()
    driven.node.transfer_leadership(1)
    assert driven.pump() == []
    assert driven.node.status().transferee == 0
    assert driven.node.propose(b"x") == 2


def test_a_follower_passes_the_wish_on_with_its_term() -> None:
    driven = Driven()
    driven.step(MessageKind.HEARTBEAT, 3, term=4)
    driven.node.transfer_leadership(2)
    wish = Message(kind=TRANSFER_LEADER, to=3, sender=2, term=4)
    assert driven.pump() == [wish]
    assert driven.step(TRANSFER_LEADER, 2) == [wish]


def test_without_a_leader_there_is_nothing_to_hand_over() -> None:
    driven = Driven(pre_vote=False)
    with pytest.raises(NotLeader, match="node 1 knows no leader of term 0"):
        driven.node.transfer_leadership(2)
    driven.campaign()
    with pytest.raises(NotLeader, match="node 1 knows no leader of term 1"):
        driven.node.transfer_leadership(2)


def test_a_forwarded_wish_that_finds_no_leader_is_dropped() -> None:
    driven = Driven(hard_state=HardState(3, 0, 0))
    assert driven.step(TRANSFER_LEADER, 2) == []
    assert driven.event_names()[-1] == "transfer_dropped"


# ---- while it is under way ---------------------------------------------------------------------


def test_proposals_are_dropped_until_it_ends() -> None:
    driven = leader()
    driven.propose(b"x")
    driven.node.transfer_leadership(2)
    with pytest.raises(ProposalDropped, match="leadership is being transferred to node 2"):
        driven.node.propose(b"y")
    with pytest.raises(ProposalDropped, match="leadership is being transferred to node 2"):
        driven.node.propose_conf_change(ConfChange((Change(ChangeKind.ADD_VOTER, 4),)))
    assert driven.node.last_index == 2
    driven.step(HEARTBEAT_RESPONSE, 3)
    driven.tick(9)
    assert driven.node.status().transferee == 2
    driven.tick()
    assert driven.node.status().transferee == 0
    assert driven.event_names()[-1] == "transfer_aborted"
    assert driven.node.propose(b"y") == 3


@pytest.mark.parametrize("elapsed", [0, 1, 9])
def test_the_deadline_is_one_election_timeout_from_the_wish(elapsed: int) -> None:
    driven = leader()
    driven.tick(elapsed)
    driven.node.transfer_leadership(2)
    driven.step(HEARTBEAT_RESPONSE, 3)
    driven.tick(9)
    assert driven.node.status().transferee == 2
    driven.tick()
    assert (driven.node.status().transferee, driven.node.role) == (0, Role.LEADER)


def test_asking_again_for_the_same_node_does_not_extend_the_deadline() -> None:
    driven = leader()
    driven.node.transfer_leadership(2)
    driven.pump()
    driven.tick(9)
    driven.node.transfer_leadership(2)
    assert of_kind(driven.pump(), TIMEOUT_NOW) == []
    driven.step(HEARTBEAT_RESPONSE, 3)
    driven.tick()
    assert driven.node.status().transferee == 0


def test_another_node_replaces_the_transfer_and_has_a_whole_timeout() -> None:
    driven = leader()
    driven.node.transfer_leadership(2)
    driven.tick(9)
    driven.node.transfer_leadership(3)
    assert [m.to for m in of_kind(driven.pump(), TIMEOUT_NOW)] == [3]
    assert driven.node.status().transferee == 3
    assert "transfer_aborted" in driven.event_names()
    driven.step(HEARTBEAT_RESPONSE, 3)
    driven.tick(9)
    assert driven.node.status().transferee == 3


def test_the_own_id_ends_a_transfer() -> None:
    driven = leader()
    driven.node.transfer_leadership(2)
    driven.node.transfer_leadership(1)
    assert driven.node.status().transferee == 0
    assert driven.event_names()[-1] == "transfer_aborted"
    assert driven.node.propose(b"x") == 2


def test_a_transferee_that_cannot_be_reached_costs_one_timeout_only() -> None:
    net = led()
    net.isolate(3)
    transfer(net, 1, 3)
    assert net[1].node.status().transferee == 3
    assert not net.propose(1)
    net.tick(1, 10)
    assert (net.leaders(), net[1].node.status().transferee) == ([1], 0)
    assert net.propose(1)


def test_the_order_may_come_after_the_deadline() -> None:
    """A late order costs a leadership, nothing more: what was committed meanwhile stays."""
    net = led()
    net.lose(TIMEOUT_NOW)
    transfer(net, 1, 2)
    net.tick(1, 10)
    net.heal()
    net.propose(1, b"meanwhile")
    net.send(Message(kind=TIMEOUT_NOW, to=2, sender=1, term=1))
    assert net.leaders() == [2]
    assert all(host.payloads == [b"meanwhile"] for host in net.hosts.values())


# ---- what else ends it -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (MessageKind.HEARTBEAT, {}),
        (MessageKind.VOTE, {"index": 1, "log_term": 1, "context": CAMPAIGN_TRANSFER}),
        (MessageKind.APPEND_RESPONSE, {}),
    ],
)
def test_a_transfer_dies_with_the_term(kind: MessageKind, fields: dict[str, Any]) -> None:
    driven = leader()
    driven.node.transfer_leadership(2)
    driven.step(kind, 3, term=driven.node.term + 1, **fields)
    assert driven.node.status().transferee == 0
    assert driven.node.role is Role.FOLLOWER


def test_a_higher_term_of_another_candidate_ends_a_transfer() -> None:
    net = led(check_quorum=False, pre_vote=False)
    net.isolate(3)
    transfer(net, 1, 3)
    assert net[1].node.status().transferee == 3
    net.campaign(2)
    assert net.leaders() == [2]
    assert net[1].node.status().transferee == 0


@pytest.mark.parametrize(
    ("kind", "aborted"),
    [
        (ChangeKind.REMOVE_NODE, True),
        (ChangeKind.ADD_LEARNER, True),
        (ChangeKind.UPDATE_NODE, False),
    ],
)
def test_a_transferee_that_votes_no_more_ends_the_transfer(kind: ChangeKind, aborted: bool) -> None:
    driven = leader()
    driven.node.propose_conf_change(ConfChange((Change(kind, 3),)))
    driven.pump()
    driven.node.transfer_leadership(3)
    driven.acknowledge(2)
    assert driven.node.status().transferee == (0 if aborted else 3)
    assert driven.node.is_leader
    assert ("transfer_aborted" in driven.event_names()) is aborted


def test_a_transferee_of_the_outgoing_half_alone_goes_on() -> None:
    driven = leader()
    change = ConfChange((Change(ChangeKind.REMOVE_NODE, 3), Change(ChangeKind.ADD_LEARNER, 4)))
    driven.node.propose_conf_change(change)
    driven.pump()
    driven.node.transfer_leadership(3)
    driven.acknowledge(2)
    assert driven.node.membership.voters_outgoing == (1, 2, 3)
    assert driven.node.status().transferee == 3


@pytest.mark.parametrize("check_quorum", [False, True])
def test_a_cluster_with_slow_disks_hands_over_and_back(check_quorum: bool) -> None:
    cluster = Cluster(3, 1)
    first = cluster.elect()
    cluster.run(3)
    other = cluster.nodes[first.node_id % 3 + 1]
    first.raw.transfer_leadership(other.node_id)
    cluster.run(8)
    assert other.raw.is_leader
    assert first.raw.role is Role.FOLLOWER
    other.raw.transfer_leadership(first.node_id)
    cluster.run(8)
    assert first.raw.is_leader
    cluster.converge()
