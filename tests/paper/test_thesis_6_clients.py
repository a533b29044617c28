"""Chapter 6 of the thesis, clients: 6.2 routing requests, 6.3 linearizable semantics.

Sessions (6.3) belong to the state machine. The core's part is to say what became of a proposal: it
succeeded if the entry that is applied at its index has its term, and failed if another one has.
"""

from __future__ import annotations

import pytest

from rafter_core import (
    MessageKind,
    ProposalDropped,
    Role,
)
from tests.paper.support import PLAIN, TIMEOUT_TICKS, Cluster, led_cluster

# ---- routing requests to the leader, 6.2


def test_a_follower_passes_a_command_on_to_the_leader() -> None:
    """Thesis 6.2: one of the two ways: the server that was asked forwards."""
    cluster = led_cluster()
    assert cluster[3].node.propose(b"x") == 0
    cluster.run()
    assert [host.payloads for host in cluster.hosts.values()] == [[b"x"]] * 3


def test_a_follower_that_does_not_forward_names_the_leader() -> None:
    """Thesis 6.2: the other way: it refuses, and tells whom to ask."""
    cluster = led_cluster(forward_proposals=False)
    with pytest.raises(ProposalDropped, match="node 1 leads"):
        cluster[3].node.propose(b"x")
    assert cluster[3].node.leader == 1


def test_without_a_leader_a_command_is_refused_at_once() -> None:
    """Thesis 6.2: then asking again later is safe, nothing was taken."""
    cluster = Cluster(count=3)
    with pytest.raises(ProposalDropped):
        cluster[1].node.propose(b"x")
    cluster.run()
    assert cluster[1].log == []


@pytest.mark.parametrize(("check_quorum", "is_leader"), [(True, False), (False, True)])
def test_a_leader_without_a_majority_steps_down(check_quorum: bool, is_leader: bool) -> None:
    """Thesis 6.2: or clients would wait for a leader that can commit nothing.

    It has an election timeout to hear a majority; the one under way may have begun with answers.
    """
    cluster = led_cluster(check_quorum=check_quorum)
    cluster.isolate(1)
    cluster.tick(1, 2 * TIMEOUT_TICKS)
    assert cluster[1].node.is_leader is is_leader
    assert cluster[1].node.term == 1


def test_a_leader_that_hears_a_bare_majority_stays() -> None:
    """Thesis 6.2: it counts itself; two of five followers are enough."""
    cluster = led_cluster(count=5)
    cluster.crash(4, 5)
    cluster.tick(1, 10 * TIMEOUT_TICKS)
    assert cluster.leaders() == [1]
    cluster.crash(3)
    cluster.tick(1, 2 * TIMEOUT_TICKS)
    assert cluster.leaders() == []


# ---- linearizable semantics, 6.3: what became of a command


def test_a_command_succeeded_if_its_entry_is_applied_at_its_index() -> None:
    """Thesis 6.3: the pair of term and index that the leader gave it is its identity."""
    cluster = led_cluster()
    node = cluster[1].node
    index, term = node.propose(b"x"), node.term
    cluster.run()
    assert [e.payload for e in cluster[1].applied if (e.term, e.index) == (term, index)] == [b"x"]


def test_a_command_failed_if_another_entry_is_applied_at_its_index() -> None:
    """Thesis 6.3: a deposed leader learns so for certain, and the client may ask again."""
    cluster = led_cluster(**PLAIN)
    cluster.isolate(1)
    node = cluster[1].node
    index, term = node.propose(b"lost"), node.term
    cluster.run()
    cluster.campaign(2)
    cluster.propose(2, b"other")
    cluster.heal()
    cluster.tick(2, 2)
    assert index == 2
    at_index = cluster[1].applied[index - 1]
    assert (at_index.index, at_index.term > term) == (index, True)
    assert cluster[1].payloads == [b"other"]


def test_a_command_of_a_deposed_leader_may_still_succeed() -> None:
    """Thesis 6.3: until its index is applied the outcome is unknown; an error would be a lie."""
    cluster = led_cluster(**PLAIN)
    cluster.lose(MessageKind.APPEND_RESPONSE)
    node = cluster[1].node
    index, term = node.propose(b"x"), node.term
    cluster.run()
    cluster.isolate(1)
    cluster.lost_kinds.clear()
    cluster.campaign(2)
    assert cluster[1].payloads == []
    cluster.heal()
    cluster.tick(2, 2)
    assert node.role is Role.FOLLOWER
    assert [(e.term, e.index) for e in cluster[1].applied if e.payload == b"x"] == [(term, index)]


def test_a_command_that_is_proposed_again_is_applied_twice() -> None:
    """Thesis 6.3: the log knows no duplicates, so the state machine must (sessions)."""
    cluster = led_cluster()
    for _ in range(2):
        cluster.propose(1, b"serial 7: increment")
    assert cluster[3].payloads == [b"serial 7: increment"] * 2


def test_every_machine_sees_commands_in_one_order() -> None:
    """Thesis 6.3: whoever took them, so that sessions expire alike on every server."""
    cluster = led_cluster()
    for number in range(9):
        cluster.propose(number % 3 + 1, b"%d" % number)
    expected = [b"%d" % number for number in range(9)]
    assert [host.payloads for host in cluster.hosts.values()] == [expected] * 3
