"""Chapter 3 of the thesis, elections: 3.4, 3.6.1, 3.9, and how timeouts are drawn."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest

from rafter_core import Message, MessageKind, Role
from tests.core.network import Host
from tests.core.support import Driven, of_kind
from tests.paper.support import PLAIN, TIMEOUT_TICKS, Cluster, group

# ---- how timeouts are drawn


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE], ids=lambda role: role.name)
def test_election_timeouts_are_uniform_over_a_fixed_interval(role: Role) -> None:
    """Thesis 3.4: each one is drawn anew, from the base timeout to just below twice that."""
    driven = Driven(election_timeout_ticks=TIMEOUT_TICKS, **PLAIN)
    draws: Counter[int] = Counter()
    for term in range(1, 5001):
        if role is Role.FOLLOWER:
            driven.step(MessageKind.HEARTBEAT, 2, term=term)
        else:
            driven.campaign()
        assert (driven.node.role, driven.node.term) == (role, term)
        draws[driven.node._raft.election_timeout] += 1
    assert sorted(draws) == list(range(TIMEOUT_TICKS, 2 * TIMEOUT_TICKS))
    assert 400 < min(draws.values()) <= max(draws.values()) < 600


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE], ids=lambda role: role.name)
def test_a_node_waits_exactly_as_long_as_it_has_drawn(role: Role) -> None:
    """Thesis 3.4: as a follower and as a candidate it acts at its own random tick, no other."""
    driven = Driven(election_timeout_ticks=TIMEOUT_TICKS, **PLAIN)
    waited = set()
    for _ in range(200):
        if role is Role.FOLLOWER:
            driven.step(MessageKind.HEARTBEAT, 2, term=driven.node.term + 1)
        term = driven.node.term
        timeout = driven.node._raft.election_timeout
        ticks = 0
        while driven.node.term == term:
            driven.tick()
            ticks += 1
        assert ticks == timeout
        waited.add(ticks)
    assert waited == set(range(TIMEOUT_TICKS, 2 * TIMEOUT_TICKS))


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE], ids=lambda role: role.name)
def test_usually_one_node_times_out_alone(role: Role) -> None:
    """Thesis 3.4: in less than 30 % of the rounds two of five time out at the same tick."""
    rounds = 1000
    nodes = [Driven(node_id=node, membership=group(5), seed=node, **PLAIN) for node in range(1, 6)]
    conflicts = 0
    for _ in range(rounds):
        for driven in nodes:
            if role is Role.FOLLOWER:
                driven.step(
                    MessageKind.HEARTBEAT, driven.node.node_id % 5 + 1, term=driven.node.term + 1
                )
            else:
                driven.campaign()
        timed_out = 0
        while not timed_out:
            timed_out = sum(bool(of_kind(driven.tick(), MessageKind.VOTE)) for driven in nodes)
        conflicts += timed_out > 1
    assert 0 < conflicts < 0.3 * rounds


def elect(size: int, seed: int) -> tuple[int, int]:
    """Let a group elect its first leader; return its term and how many ticks it took.

    Every message takes one to three ticks, up to a third of the shortest timeout: far worse than
    what timeouts are chosen for.
    """
    generator = random.Random(seed)
    nodes = {
        node: Driven(node_id=node, membership=group(size), seed=generator.getrandbits(32), **PLAIN)
        for node in range(1, size + 1)
    }
    arriving: defaultdict[int, list[Message]] = defaultdict(list)
    for tick in range(1, 1000):
        sent = []
        for message in arriving.pop(tick, []):
            nodes[message.to].node.step(message)
            sent += nodes[message.to].pump()
        for driven in nodes.values():
            sent += driven.tick()
        for message in sent:
            arriving[tick + generator.randint(1, 3)].append(message)
        for driven in nodes.values():
            if driven.node.is_leader:
                return driven.node.term, tick
    raise AssertionError("no leader after a thousand ticks")


@pytest.mark.parametrize("size", [3, 4, 5])
def test_votes_are_rarely_split(size: int) -> None:
    """Thesis 3.4: randomized timeouts make the first election the last one, as a rule."""
    seeds = 300
    split = sum(elect(size, seed)[0] > 1 for seed in range(seeds))
    assert 0 < split < 0.3 * seeds


def test_a_split_vote_is_resolved_by_further_terms() -> None:
    """Thesis 3.4: however often votes are split, a leader comes, within a few timeouts."""
    ticks = [elect(5, seed)[1] for seed in range(300)]
    assert min(ticks) >= TIMEOUT_TICKS
    assert max(ticks) < 4 * TIMEOUT_TICKS
    assert sum(ticks) / len(ticks) < 2 * TIMEOUT_TICKS


# ---- elections, 3.4


def test_all_nodes_follow_the_winner() -> None:
    """Thesis 3.4: one candidate, all votes, and everybody knows whom they follow."""
    cluster = Cluster(count=5, **PLAIN)
    cluster.campaign(4)
    assert cluster.leaders() == [4]
    assert [host.node.leader for host in cluster.hosts.values()] == [4] * 5
    assert [host.node.term for host in cluster.hosts.values()] == [1] * 5


def test_every_node_can_lead_in_turn() -> None:
    """Thesis 3.4: nobody is special; each campaign of an up-to-date node takes leadership over."""
    cluster = Cluster(count=3, **PLAIN)
    for term, node in enumerate((1, 2, 3, 1), 1):
        cluster.campaign(node)
        assert cluster.leaders() == [node]
        assert cluster[node].node.term == term


def test_a_minority_elects_nobody() -> None:
    """Thesis 3.4: two of five go on asking, term after term, and never lead."""
    cluster = Cluster(count=5, **PLAIN)
    cluster.partition((1, 2), (3, 4, 5))
    for _ in range(4):
        cluster.campaign(1)
    assert cluster.roles() == [Role.CANDIDATE] + [Role.FOLLOWER] * 4
    cluster.campaign(3)
    assert cluster.leaders() == [3]


def test_a_candidate_behind_a_split_vote_concedes_to_the_next_winner() -> None:
    """Thesis 3.4: of three candidates of one term nobody wins; the next term decides."""
    cluster = Cluster(count=3, **PLAIN)
    cluster.lose(MessageKind.VOTE)
    for node in (1, 2, 3):
        cluster.campaign(node)
    assert cluster.roles() == [Role.CANDIDATE] * 3
    cluster.heal()
    cluster.campaign(2)
    assert cluster.leaders() == [2]
    assert cluster.roles() == [Role.FOLLOWER, Role.LEADER, Role.FOLLOWER]
    assert {host.node.term for host in cluster.hosts.values()} == {2}


def test_a_deposed_leader_gives_way_when_it_returns() -> None:
    """Thesis 3.4: the leader of an older term becomes a follower at the first newer message."""
    cluster = Cluster(count=3, **PLAIN)
    cluster.campaign(1)
    cluster.isolate(1)
    cluster.campaign(2)
    assert cluster.leaders() == [1, 2]
    assert (cluster[1].node.term, cluster[2].node.term) == (1, 2)
    cluster.heal()
    cluster.tick(2)
    assert cluster.leaders() == [2]
    assert (cluster[1].node.term, cluster[1].node.leader) == (2, 2)


# ---- the election restriction, 3.6.1


def test_a_candidate_without_all_committed_entries_cannot_win() -> None:
    """Thesis 3.6.1: some voter of any majority holds the entry and refuses."""
    cluster = Cluster(count=3, **PLAIN)
    cluster.campaign(1)
    cluster.isolate(3)
    cluster.propose(1, b"committed")
    assert cluster[2].payloads == [b"committed"]
    cluster.heal()
    cluster.crash(1)
    cluster.campaign(3)
    assert cluster.leaders() == []
    cluster.campaign(2)
    assert cluster.leaders() == [2]
    assert cluster[3].payloads == [b"committed"]


def test_an_uncommitted_entry_may_be_lost_with_its_leader() -> None:
    """Thesis 3.6.1: only what is committed is kept; the rest is overwritten."""
    cluster = Cluster(count=3, **PLAIN)
    cluster.campaign(1)
    cluster.isolate(1)
    cluster.propose(1, b"lost")
    cluster.campaign(2)
    cluster.propose(2, b"kept")
    cluster.heal()
    cluster.tick(2)
    assert cluster[1].payloads == [b"kept"]
    assert cluster[1].log == cluster[2].log


# ---- timing and availability, 3.9


def test_heartbeats_much_faster_than_timeouts_keep_a_leader() -> None:
    """Thesis 3.9: with the broadcast far below the election timeout nobody else ever campaigns."""
    cluster = Cluster(count=5, **PLAIN)
    cluster.campaign(1)
    cluster.tick_all(20 * TIMEOUT_TICKS)
    assert cluster.leaders() == [1]
    assert {host.node.term for host in cluster.hosts.values()} == {1}


def test_a_few_lost_heartbeats_cost_no_election() -> None:
    """Thesis 3.9: the election timeout has room for several of them."""
    cluster = Cluster(count=3, **PLAIN)
    cluster.campaign(1)
    for _ in range(10):
        cluster.lose(MessageKind.HEARTBEAT)
        cluster.tick_all(TIMEOUT_TICKS - 1)
        cluster.heal()
        cluster.tick(1)
    assert cluster.leaders() == [1]
    assert cluster[1].node.term == 1


@pytest.mark.parametrize("settings", [PLAIN, {}], ids=["plain", "default"])
def test_a_crashed_leader_is_replaced_within_two_timeouts(settings: dict[str, bool]) -> None:
    """Thesis 3.9: unavailability lasts about one election timeout, here without a split vote."""
    cluster = Cluster(*[SeededHost(node, seed=node * 7) for node in range(1, 4)])
    for host in cluster.hosts.values():
        host.restart(**settings)
    cluster.campaign(1)
    cluster.crash(1)
    ticks = 0
    while not cluster.leaders():
        cluster.tick_all()
        ticks += 1
    assert TIMEOUT_TICKS <= ticks < 2 * TIMEOUT_TICKS
    assert cluster.propose(cluster.leaders()[0], b"x")
    assert cluster[2].payloads == cluster[3].payloads == [b"x"]


class SeededHost(Host):
    """A host of a group of three that draws its timeouts from a seed of its own."""

    def __init__(self, node_id: int, *, seed: int) -> None:
        self.seed = seed
        super().__init__(node_id, group(3))

    def restart(self, **changes: bool) -> None:
        """Start anew, with the seed."""
        super().restart(**changes)
        self.node._raft.generator.seed(self.seed)
