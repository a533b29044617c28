"""Bugs of other raft systems around the transfer of leadership (reliability.md, section 4)."""

from __future__ import annotations

from typing import Any

import pytest

from rafter_core import NO_NODE, MessageKind, ProposalDropped, Role
from tests.core.network import Network
from tests.core.support import Driven, of_kind

TIMEOUT = 10
SETTINGS = [
    {"pre_vote": pre_vote, "check_quorum": check_quorum}
    for pre_vote in (True, False)
    for check_quorum in (True, False)
]
EACH_SETTING = pytest.mark.parametrize("settings", SETTINGS, ids=str)


@EACH_SETTING
def test_a_transfer_that_hangs_ends_after_one_election_timeout(settings: dict[str, Any]) -> None:
    """Item 47: writes are refused meanwhile, and flow again."""
    net = Network(count=3, **settings)
    net.campaign(1)
    net.isolate(3)
    leader = net[1].node
    leader.transfer_leadership(3)
    net.run()
    refused = 0
    while leader.status().transferee:
        assert not net.propose(1, b"refused")
        refused += 1
        net.tick(1)
    assert refused == TIMEOUT
    assert leader.is_leader
    assert net.propose(1, b"x")
    assert net[2].payloads == [b"x"]


def test_an_order_that_is_lost_ends_after_one_election_timeout_too() -> None:
    """Item 47."""
    net = Network(count=3)
    net.campaign(1)
    net.lose(MessageKind.TIMEOUT_NOW)
    net[1].node.transfer_leadership(2)
    net.tick_all(TIMEOUT - 1)
    assert net[1].node.status().transferee == 2
    net.tick_all()
    assert net[1].node.status().transferee == NO_NODE
    assert net.propose(1, b"x")


def test_a_transfer_dies_with_the_term() -> None:
    """Item 47: the flag of an old leadership must not refuse the writes of a new one."""
    driven = Driven()
    driven.lead_replicating()
    driven.node.propose(b"x")
    driven.pump()
    driven.node.transfer_leadership(2)
    with pytest.raises(ProposalDropped, match="transferred to node 2"):
        driven.node.propose(b"y")
    driven.step(MessageKind.HEARTBEAT, 3, term=driven.node.term + 1)
    assert driven.node.status().transferee == NO_NODE
    driven.tick(3 * TIMEOUT)
    driven.lead_replicating()
    assert driven.node.status().transferee == NO_NODE
    assert driven.node.propose(b"y") == driven.node.last_index
    assert of_kind(driven.acknowledge(2), MessageKind.TIMEOUT_NOW) == []


@EACH_SETTING
def test_a_transfer_under_load_moves_the_leadership_and_loses_nothing(
    settings: dict[str, Any],
) -> None:
    """Item 47."""
    net = Network(count=3, **settings)
    net.campaign(1)
    accepted = []
    for number in range(6 * TIMEOUT):
        payload = b"%d" % number
        (leader,) = net.leaders()
        if net.propose(leader, payload):
            accepted.append(payload)
        if number % TIMEOUT == 3:
            net[leader].node.transfer_leadership(leader % 3 + 1)
            net.run()
            assert net.leaders() == [leader % 3 + 1]
            assert net[leader].node.role is Role.FOLLOWER
        net.tick_all()
    assert len(accepted) == 6 * TIMEOUT
    assert [host.payloads for host in net.hosts.values()] == [accepted] * 3


@EACH_SETTING
def test_a_transfer_to_a_node_that_lags_waits_for_it_and_succeeds(settings: dict[str, Any]) -> None:
    """Item 47."""
    net = Network(count=3, **settings)
    net.campaign(1)
    net.isolate(2)
    for number in range(5):
        net.propose(1, b"%d" % number)
    net.heal()
    net[1].node.transfer_leadership(2)
    net.run()
    net.tick(1)
    assert net.leaders() == [2]
    assert net.propose(2, b"x")
    assert net[1].payloads == [b"0", b"1", b"2", b"3", b"4", b"x"]
