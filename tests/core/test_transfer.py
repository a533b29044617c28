from __future__ import annotations

import pytest

from rafter_core import MessageKind, NotLeader, ProposalDropped, Role, TransferRefused
from tests.core.harness import Cluster
from tests.core.support import Driven, of_kind

TIMEOUT_NOW = MessageKind.TIMEOUT_NOW


def leader() -> Driven:
    driven = Driven(election_timeout_ticks=10)
    driven.lead_replicating()
    return driven


def test_a_follower_that_holds_the_log_is_told_at_once() -> None:
    driven = leader()
    driven.node.transfer_leadership(2)
    assert [(m.kind, m.to) for m in driven.pump()] == [(TIMEOUT_NOW, 2)]


def test_a_slow_follower_is_told_when_it_has_caught_up() -> None:
    driven = leader()
    driven.node.propose(b"x")
    driven.pump()
    driven.node.transfer_leadership(2)
    assert of_kind(driven.pump(), TIMEOUT_NOW) == []
    assert [m.to for m in of_kind(driven.acknowledge(2), TIMEOUT_NOW)] == [2]


def test_proposals_are_dropped_meanwhile_and_flow_again_after_one_timeout() -> None:
    driven = leader()
    driven.node.propose(b"x")
    driven.pump()
    driven.node.transfer_leadership(2)
    with pytest.raises(ProposalDropped, match="transferred to node 2"):
        driven.node.propose(b"y")
    driven.step(MessageKind.HEARTBEAT_RESPONSE, 3)
    driven.tick(10)
    assert driven.node.status().transferee == 0
    driven.node.propose(b"y")


def test_asking_again_for_the_same_node_does_not_extend_the_deadline() -> None:
    driven = leader()
    driven.node.transfer_leadership(2)
    driven.tick(9)
    driven.node.transfer_leadership(2)
    assert of_kind(driven.pump(), TIMEOUT_NOW) == []
    driven.step(MessageKind.HEARTBEAT_RESPONSE, 3)
    driven.tick()
    assert driven.node.status().transferee == 0


def test_another_node_replaces_the_transfer_and_the_own_id_ends_it() -> None:
    driven = leader()
    driven.node.transfer_leadership(2)
    driven.node.transfer_leadership(3)
    assert driven.node.status().transferee == 3
    driven.node.transfer_leadership(1)
    assert driven.node.status().transferee == 0
    assert driven.node.propose(b"x")


def test_a_transfer_dies_with_the_term() -> None:
    driven = leader()
    driven.node.transfer_leadership(2)
    driven.step(MessageKind.HEARTBEAT, 3, term=driven.node.term + 1)
    assert driven.node.status().transferee == 0


def test_only_the_leader_transfers_and_only_to_voters() -> None:
    with pytest.raises(NotLeader):
        Driven().node.transfer_leadership(2)
    with pytest.raises(TransferRefused, match="node 9 is not a voter"):
        leader().node.transfer_leadership(9)


@pytest.mark.parametrize("check_quorum", [False, True])
def test_a_cluster_hands_over_and_back(check_quorum: bool) -> None:
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
