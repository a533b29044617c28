"""Changes of the membership through whole groups: joining, leaving, replacing everybody."""

from __future__ import annotations

from typing import Any

import pytest

from rafter_core import (
    ConfChange,
    EntryKind,
    HardState,
    Membership,
    MemoryStorage,
    MessageKind,
    Role,
    Snapshot,
    Transition,
)
from tests.core.network import Host, Network
from tests.core.support import THREE
from tests.replay.changes import parse_changes


def change(text: str, transition: Transition = Transition.AUTO) -> ConfChange:
    return ConfChange(parse_changes(text), transition)


class FreshSnapshots(MemoryStorage):
    """Makes a snapshot of what is applied whenever one is asked for: one that lists a new node."""

    host: Host | None = None

    def snapshot(self) -> Snapshot:
        if self.host is None or not self.host.applied:
            return super().snapshot()
        index = self.host.applied[-1].index
        return Snapshot(index, self.term(index), self.host.node.membership, b"image")


def founded(node: int, **config: Any) -> Host:
    """Return a node of a group of three whose log begins behind a snapshot of the founding."""
    storage = FreshSnapshots()
    storage.apply_snapshot(Snapshot(1, 1, THREE, b"founding"))
    storage.set_hard_state(HardState(1, 0, 1))
    storage.host = Host(node, THREE, storage=storage, **config)
    return storage.host


def led(**config: Any) -> Network:
    net = Network(*(founded(node, **config) for node in (1, 2, 3)))
    net.campaign(1)
    assert net.leaders() == [1]
    return net


def bootstrapped() -> Network:
    """Return a group of three whose log begins with the changes that founded it."""
    net = Network(*(Host(node, Membership(())) for node in (1, 2, 3)))
    for host in net.hosts.values():
        host.node.bootstrap((1, 2, 3))
    net.run()
    net.campaign(1)
    assert net.leaders() == [1]
    return net


def empty_host(net: Network, node: int) -> Host:
    """Connect a node that knows nothing, not even the members."""
    return net.add(Host(node, Membership(())))


def memberships(net: Network) -> list[Membership]:
    return [host.node.membership for host in net.hosts.values()]


@pytest.mark.parametrize("text", ["v4", "l4", "w4"])
def test_a_node_that_joins_receives_the_whole_log(text: str) -> None:
    net = bootstrapped()
    for payload in (b"a", b"b"):
        net.propose(1, payload)
    empty_host(net, 4)
    net.change(1, change(text))
    net.tick(1, 2)
    assert len(set(memberships(net))) == 1
    assert net[4].node.membership.nodes == (1, 2, 3, 4)
    assert net[4].node.commit == net[1].node.commit == 7
    if text == "w4":
        assert net[4].payloads == []
        assert [e.kind for e in net[4].storage.entries(4, 7, 1 << 20)] == [
            EntryKind.NORMAL,
            EntryKind.STRIPPED,
            EntryKind.STRIPPED,
        ]
    else:
        assert net[4].payloads == [b"a", b"b"]


def test_a_node_that_joins_behind_a_compacted_log_receives_a_snapshot() -> None:
    net = led()
    net.propose(1, b"a")
    empty_host(net, 4)
    net.change(1, change("v4"))
    net.tick(1, 2)
    assert net[4].storage.snapshot() == Snapshot(4, 2, Membership((1, 2, 3, 4)), b"image")
    assert (net[4].storage.first_index(), net[4].node.commit) == (5, 4)
    assert len(set(memberships(net))) == 1
    net.propose(1, b"b")
    assert (net[4].payloads, net[4].node.commit) == ([b"b"], 5)


def test_a_snapshot_from_before_it_joined_is_of_no_use_to_a_node() -> None:
    """Which is why a driver makes a new one: an older one does not list the node."""
    net = led()
    storage = net[1].storage
    assert isinstance(storage, FreshSnapshots)
    storage.host = None
    empty_host(net, 4)
    net.change(1, change("v4"))
    assert net[4].node.last_index == 0
    assert net[1].node.status().progress[4].pending_snapshot == 1
    storage.host = net[1]
    net[1].node.report_snapshot(4, False)
    net.tick(1, 2)
    assert net[4].node.commit == net[1].node.commit == 3
    assert len(set(memberships(net))) == 1


def test_a_learner_follows_and_counts_only_once_it_is_promoted() -> None:
    net = led()
    empty_host(net, 4)
    net.change(1, change("l4"))
    net.tick(1)
    net.cut(1, 2)
    net.cut(1, 3)
    net.propose(1, b"x")
    assert net[4].node.last_index == 4
    assert net[1].node.commit == 3
    net.heal()
    net.tick(1)
    assert net[1].node.commit == 4
    net.change(1, change("v4"))
    net.tick(1)
    assert net[4].node.membership == Membership((1, 2, 3, 4))
    net[2].node.forget_leader()
    net[3].node.forget_leader()
    net.campaign(4)
    assert net.leaders() == [4]


def test_a_learner_never_campaigns_by_itself() -> None:
    membership = Membership((1, 2), learners=(3,))
    net = Network(*(Host(node, membership, election_timeout_ticks=10) for node in (1, 2, 3)))
    net.tick(3, 50)
    assert net[3].node.role is Role.FOLLOWER
    net.tick(1, 20)
    assert net.leaders() == [1]


def test_a_learner_votes_if_asked() -> None:
    """It may have been promoted without knowing yet (etcd#10998)."""
    net = Network(
        Host(1, Membership((1, 2)), pre_vote=False),
        Host(2, Membership((1,), learners=(2,)), pre_vote=False),
    )
    net.campaign(1)
    assert net.leaders() == [1]


@pytest.mark.parametrize("step_down", [False, True])
def test_a_leader_removes_itself(step_down: bool) -> None:
    net = led(step_down_on_removal=step_down)
    net.change(1, change("r1"))
    net.tick(1)
    assert net[1].node.is_leader is not step_down
    assert net[2].node.membership == net[3].node.membership == Membership((2, 3))
    net[3].node.forget_leader()
    net.campaign(2)
    assert 2 in net.leaders()
    assert net.propose(2, b"x")
    assert net[2].payloads == net[3].payloads == [b"x"]
    assert net[1].payloads == []


def test_every_voter_is_replaced_at_once() -> None:
    net = led()
    net.propose(1, b"a")
    for node in (4, 5, 6):
        empty_host(net, node)
    net.change(1, change("r1 r2 r3 v4 v5 v6"))
    net.tick(1, 3)
    assert net[4].node.membership == net[5].node.membership == Membership((4, 5, 6))
    assert net[1].node.role is Role.FOLLOWER
    net[5].node.forget_leader()
    net[6].node.forget_leader()
    net.campaign(4)
    assert net.leaders() == [4]
    net.propose(4, b"b")
    assert [net[node].payloads for node in (4, 5, 6)] == [[b"b"]] * 3
    assert net[1].payloads == [b"a"]


def test_a_joint_configuration_stands_still_without_one_of_its_halves() -> None:
    net = led()
    for node in (4, 5):
        empty_host(net, node)
    net.change(1, change("r2 r3 v4 v5", Transition.JOINT_EXPLICIT))
    net.tick(1, 2)
    assert net[1].node.membership.halves == ((1, 4, 5), (1, 2, 3))
    commit = net[1].node.commit
    net.isolate(4)
    net.isolate(5)
    net.propose(1, b"x")
    assert net[1].node.commit == commit
    net.heal()
    net.tick(1)
    assert net[1].node.commit == commit + 1
    net.change(1, change(""))
    net.tick(1)
    assert net[1].node.membership == Membership((1, 4, 5))


def test_a_demoted_voter_becomes_a_learner_when_the_joint_configuration_is_left() -> None:
    net = led()
    net.change(1, change("l3", Transition.JOINT_EXPLICIT))
    net.tick(1)
    joint = Membership((1, 2), (1, 2, 3), learners_next=(3,))
    assert memberships(net) == [joint] * 3
    net.change(1, change(""))
    net.tick(1)
    assert memberships(net) == [Membership((1, 2), learners=(3,))] * 3


def test_a_leader_that_dies_in_the_middle_is_relieved_of_leaving() -> None:
    """The joint configuration was entered by a leader that is gone: the next one leaves it."""
    net = led()
    empty_host(net, 4)
    net[1].is_applying = False
    net.change(1, change("v4 r3"))
    net.tick(1)
    assert net[2].node.membership.auto_leave
    assert net[1].node.membership == THREE
    net.isolate(1)
    net[3].node.forget_leader()
    net[4].node.forget_leader()
    net.campaign(2)
    assert 2 in net.leaders()
    net.tick(2, 2)
    assert net[2].node.membership == Membership((1, 2, 4))


def test_a_node_that_was_removed_disturbs_nobody() -> None:
    net = led()
    term = net[1].node.term
    net.isolate(3)
    net.change(1, change("r3"))
    net.heal()
    net.tick(3, 100)
    assert net.leaders() == [1]
    assert net[1].node.term == net[2].node.term == net[3].node.term == term
    assert any(m.kind is MessageKind.PRE_VOTE and m.sender == 3 for m in net.delivered)


def test_a_slow_machine_holds_back_the_change_on_its_node_alone() -> None:
    net = led()
    net[3].is_applying = False
    net.change(1, change("l2"))
    net.tick(1)
    assert net[1].node.membership == Membership((1, 3), learners=(2,))
    assert net[3].node.membership == Membership((1, 2, 3))
    net.campaign(3)
    assert net[3].node.role is Role.FOLLOWER
    net[3].apply_withheld()
    assert net[3].node.membership == Membership((1, 3), learners=(2,))
