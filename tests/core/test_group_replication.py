"""Replication among several nodes: what is proposed arrives, commits and is applied everywhere."""

from __future__ import annotations

from typing import Any

import pytest

from rafter_core import Membership, Message, MessageKind, Role
from tests.core.network import Host, Network
from tests.core.support import both_modes, entry

LEADER = Role.LEADER


def five_with_an_entry_of_two_nodes(**config: Any) -> Network:
    """1 led term 1 and got two entries to itself and 2 only, uncommitted."""
    network = Network(count=5, check_quorum=False, **config)
    network.campaign(1)
    for node in (3, 4, 5):
        network.cut(1, node)
    network.propose(1, b"one")
    network.propose(1, b"two")
    assert network[1].node.commit == 1
    network.heal()
    return network


@both_modes
@pytest.mark.parametrize(
    ("steps", "commit", "payloads"),
    [
        (["propose 1"], 2, [b"0"]),
        (["propose 1", "campaign 2", "propose 2"], 4, [b"0", b"2"]),
        (["propose 2", "propose 3", "campaign 3", "propose 1"], 5, [b"0", b"1", b"3"]),
    ],
)
def test_proposals_are_applied_by_every_node_in_one_order(
    steps: list[str], commit: int, payloads: list[bytes], async_storage_writes: bool
) -> None:
    network = Network(count=3, check_quorum=False, async_storage_writes=async_storage_writes)
    network.campaign(1)
    for position, step in enumerate(steps):
        verb, node = step.split()
        if verb == "propose":
            assert network.propose(int(node), str(position).encode())
        else:
            network.campaign(int(node))
    for host in network.hosts.values():
        assert host.node.commit == host.node.applied == commit
        assert host.payloads == payloads
        assert host.log == network[1].log


@both_modes
def test_a_learner_gets_the_log_and_counts_for_nothing(async_storage_writes: bool) -> None:
    membership = Membership((1, 2), learners=(3,))
    network = Network(
        *(Host(node, membership, async_storage_writes=async_storage_writes) for node in (1, 2, 3))
    )
    network.campaign(1)
    network.propose(1, b"a")
    assert network[3].payloads == [b"a"]
    progress = network[1].node.status().progress[3]
    assert (progress.match, network[3].node.commit) == (2, 2)
    # The learner alone makes no quorum, and the voters do without it.
    network.cut(1, 2)
    network.propose(1, b"b")
    assert network[1].node.commit == 2
    network.heal()
    network.cut(1, 3)
    network.tick(1)
    network.propose(1, b"c")
    assert network[1].node.commit == 4


@both_modes
def test_one_node_commits_alone(async_storage_writes: bool) -> None:
    network = Network(count=1, async_storage_writes=async_storage_writes)
    network.campaign(1)
    network.propose(1, b"a")
    network.propose(1, b"b")
    assert network[1].node.commit == 3
    assert network[1].payloads == [b"a", b"b"]


@both_modes
def test_entries_of_older_terms_do_not_commit_without_one_of_the_new_term(
    async_storage_writes: bool,
) -> None:
    network = five_with_an_entry_of_two_nodes(async_storage_writes=async_storage_writes)
    # 2 takes over, but nobody gets its no-op.
    network.lose(MessageKind.APPEND)
    network.campaign(2)
    assert network[2].node.is_leader
    assert network[2].node.commit == 1
    network.heal()
    network.tick(2)
    network.propose(2, b"three")
    assert [host.node.commit for host in network.hosts.values()] == [5] * 5
    assert network[5].payloads == [b"one", b"two", b"three"]


def test_the_no_op_of_a_new_leader_commits_all_before_it() -> None:
    network = five_with_an_entry_of_two_nodes()
    network.campaign(2)
    assert [host.node.commit for host in network.hosts.values()] == [4] * 5
    assert [host.payloads for host in network.hosts.values()] == [[b"one", b"two"]] * 5


def test_an_append_of_an_older_term_is_ignored() -> None:
    network = Network(count=3, check_quorum=False)
    for node in (1, 2, 1):
        network.campaign(node)
    assert network[1].node.term == 3
    stale = Message(
        kind=MessageKind.APPEND,
        to=1,
        sender=2,
        term=2,
        index=2,
        log_term=2,
        entries=[entry(2, 3)],
    )
    network.send(stale)
    network.propose(1, b"x")
    for host in network.hosts.values():
        assert host.log == [(1, 1, b""), (2, 2, b""), (3, 3, b""), (3, 4, b"x")]
        assert host.node.commit == 4


@both_modes
@pytest.mark.parametrize(
    ("count", "unreachable", "is_taken", "is_committed"),
    [
        (3, [], True, True),
        (3, [3], True, True),
        (3, [2, 3], False, False),
        (4, [2, 3], False, False),
        (5, [2, 3], True, True),
    ],
)
def test_a_proposal_needs_an_elected_leader(
    count: int,
    unreachable: list[int],
    is_taken: bool,
    is_committed: bool,
    async_storage_writes: bool,
) -> None:
    network = Network(count=count, async_storage_writes=async_storage_writes)
    for node in unreachable:
        network.isolate(node)
    network.campaign(1)
    assert network.propose(1, b"x") is is_taken
    expected = [b"x"] if is_committed else []
    for node, host in network.hosts.items():
        assert host.payloads == ([] if node in unreachable else expected)
    assert network[1].node.term == (1 if is_taken else 0)


@pytest.mark.parametrize("unreachable", [[], [3]])
def test_a_proposal_of_a_follower_is_forwarded_and_committed(unreachable: list[int]) -> None:
    network = Network(count=3)
    for node in unreachable:
        network.isolate(node)
    network.campaign(1)
    assert network.propose(2, b"x")
    for node, host in network.hosts.items():
        if node not in unreachable:
            assert host.log == [(1, 1, b""), (1, 2, b"x")]
            assert (host.node.commit, host.payloads) == (2, [b"x"])


def test_a_proposal_made_while_no_leader_is_known_succeeds_when_it_is_made_again() -> None:
    network = Network(count=3)
    assert not network.propose(2, b"x")
    network.campaign(1)
    assert network.propose(2, b"x")
    assert network[3].payloads == [b"x"]


def test_commits_reach_followers_without_a_further_proposal() -> None:
    network = Network(count=3)
    network.campaign(1)
    assert [host.node.commit for host in network.hosts.values()] == [1, 1, 1]


def test_without_eager_commits_the_next_heartbeat_carries_them() -> None:
    network = Network(count=3, eager_commit=False)
    network.campaign(1)
    network.propose(1, b"x")
    assert [host.node.commit for host in network.hosts.values()] == [2, 1, 1]
    network.tick(1)
    assert [host.node.commit for host in network.hosts.values()] == [2, 2, 2]


def test_a_follower_that_was_away_catches_up_in_one_go() -> None:
    network = Network(count=3, message_bytes_max=1)
    network.campaign(1)
    network.isolate(3)
    for number in range(20):
        network.propose(1, b"%d" % number)
    network.heal()
    network[1].node.report_unreachable(3)
    network.delivered.clear()
    network.tick(1)
    assert network[3].payloads == network[1].payloads
    # Found by one refusal or an empty append, then one entry in each message, without waiting.
    entries = [len(m.entries) for m in network.delivered if m.to == 3 and m.entries]
    assert entries == [1] * 20


def test_a_minority_keeps_its_log_bounded_in_a_partition() -> None:
    """The leader is cut off, goes on to be proposed to, and refuses what exceeds the limit."""
    network = Network(count=3, uncommitted_bytes_max=20, check_quorum=False)
    network.campaign(1)
    network.isolate(1)
    taken = [network.propose(1, b"x" * 5) for _ in range(100)]
    assert taken == [True] * 4 + [False] * 96
    assert network[1].node.last_index == 5
    network.heal()
    network.tick(1)
    network.tick(1)
    assert network[1].node.commit == 5
    assert network[1].node.uncommitted_bytes == 0
    assert network.propose(1, b"y")
    assert network[3].payloads[-1] == b"y"
