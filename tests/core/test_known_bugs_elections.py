"""Bugs of other raft systems around elections and terms, one by one (reliability.md, section 4)."""

from __future__ import annotations

from itertools import combinations, permutations, product
from typing import Any

import pytest

from rafter_core import (
    Change,
    ChangeKind,
    ConfChange,
    HardState,
    Membership,
    MessageKind,
    RawNode,
    Ready,
    Role,
)
from rafter_core.storage_messages import append_message
from tests.core.network import Host, Network
from tests.core.support import THREE, Driven, of_kind

TIMEOUT = 10
LEADER_TICKS_MAX = 10 * TIMEOUT
VOTE = MessageKind.VOTE
VOTE_RESPONSE = MessageKind.VOTE_RESPONSE
PRE_VOTE = MessageKind.PRE_VOTE
PRE_VOTE_RESPONSE = MessageKind.PRE_VOTE_RESPONSE
SETTINGS = [
    {"pre_vote": pre_vote, "check_quorum": check_quorum}
    for pre_vote in (True, False)
    for check_quorum in (True, False)
]
EACH_SETTING = pytest.mark.parametrize("settings", SETTINGS, ids=str)
REMOVE_4 = ConfChange((Change(ChangeKind.REMOVE_NODE, 4),))


def settle(net: Network, ticks_max: int = LEADER_TICKS_MAX) -> int:
    """Let time pass until one node leads, and return it."""
    for _ in range(ticks_max):
        net.tick_all()
        leaders = net.leaders()
        if len(leaders) == 1:
            return leaders[0]
    raise AssertionError(f"no leader after {ticks_max} ticks: {net.roles()}")


def candidate_ready(node: RawNode) -> Ready:
    """Return the Ready in which a node of a founding trio becomes a candidate."""
    node.campaign()
    ready = node.ready()
    assert node.role is Role.CANDIDATE
    assert ready.hard_state == HardState(1, 1, 0)
    return ready


def test_the_own_vote_is_durable_before_a_request_for_votes_leaves() -> None:
    """Item 2."""
    ready = candidate_ready(Driven(pre_vote=False).node)
    assert ready.messages == []
    assert [(m.kind, m.to) for m in ready.messages_after_sync] == [(VOTE, 2), (VOTE, 3)]


def test_the_own_vote_is_durable_before_a_request_leaves_in_the_message_form() -> None:
    """Item 2."""
    ready = candidate_ready(Driven(pre_vote=False).node)
    work = append_message(ready)
    assert work is not None
    assert (work.term, work.vote) == (1, 1)
    assert {(m.kind, m.to) for m in work.responses} == {(VOTE, 2), (VOTE, 3), (VOTE_RESPONSE, 1)}


def test_the_own_vote_of_the_real_election_counts_and_is_stored() -> None:
    """Item 2: after a pre-vote the vote for oneself was forgotten, and somebody else got it."""
    driven = Driven(pre_vote=True)
    driven.campaign()
    assert driven.storage.initial_state()[0] == HardState(1, 1, 0)
    (answer,) = driven.step(VOTE, 2, index=9, log_term=0)
    assert (answer.kind, answer.reject) == (VOTE_RESPONSE, True)


@pytest.mark.parametrize("kind", [MessageKind.APPEND, MessageKind.HEARTBEAT])
def test_stepping_down_in_the_same_term_keeps_the_vote(kind: MessageKind) -> None:
    """Item 3."""
    driven = Driven(pre_vote=False, check_quorum=False)
    driven.campaign()
    driven.step(kind, 3)
    assert (driven.node.role, driven.node.term, driven.node.vote) == (Role.FOLLOWER, 1, 1)
    driven.node.forget_leader()
    (answer,) = driven.step(VOTE, 2)
    assert (answer.kind, answer.reject) == (VOTE_RESPONSE, True)


@pytest.mark.parametrize("terms", list(permutations((1, 2, 3, 4))), ids=str)
@pytest.mark.parametrize("kind", [MessageKind.HEARTBEAT, VOTE, MessageKind.APPEND_RESPONSE])
def test_the_term_never_falls_whatever_the_order_of_messages(
    kind: MessageKind, terms: tuple[int, ...]
) -> None:
    """Item 4."""
    driven = Driven(check_quorum=False)
    highest = 0
    for term in terms:
        driven.step(kind, 2 if kind is not VOTE else term % 2 + 2, term=term)
        highest = max(highest, term)
        assert driven.node.term == highest
        assert driven.storage.initial_state()[0].term == highest


def test_no_second_vote_is_given_after_an_old_heartbeat() -> None:
    """Item 4."""
    driven = Driven(check_quorum=False)
    (answer,) = driven.step(VOTE, 2, term=5)
    assert not answer.reject
    driven.step(MessageKind.HEARTBEAT, 3, term=4)
    (answer,) = driven.step(VOTE, 3, term=5)
    assert answer.reject
    assert driven.node.vote == 2


def test_late_and_repeated_votes_do_not_count() -> None:
    """Item 5."""
    driven = Driven(membership=Membership((1, 2, 3, 4, 5)), pre_vote=False)
    driven.campaign()
    driven.node.campaign()
    driven.pump()
    assert driven.node.term == 2
    for sender in (2, 3, 4, 5):
        driven.step(VOTE_RESPONSE, sender, term=1)
    assert driven.node.role is Role.CANDIDATE
    driven.step(VOTE_RESPONSE, 2)
    driven.step(VOTE_RESPONSE, 2)
    assert driven.node.role is Role.CANDIDATE
    driven.step(VOTE_RESPONSE, 3)
    assert driven.node.is_leader


def test_a_refusal_is_not_undone_by_a_repeated_grant_of_another_round() -> None:
    """Item 5: answers to the pre-vote are no votes."""
    driven = Driven(membership=Membership((1, 2, 3, 4, 5)), pre_vote=True)
    driven.campaign()
    assert driven.node.role is Role.CANDIDATE
    for sender in (2, 3, 4, 5):
        driven.step(PRE_VOTE_RESPONSE, sender)
    assert driven.node.role is Role.CANDIDATE


def test_granting_a_vote_again_to_the_same_candidate_is_idempotent() -> None:
    """Item 6."""
    driven = Driven()
    answers = [driven.step(VOTE, 2, term=3)[0].reject for _ in range(3)]
    assert answers == [False, False, False]
    (answer,) = driven.step(VOTE, 3, term=3)
    assert answer.reject


def test_a_lost_answer_does_not_cost_the_election() -> None:
    """Item 6."""
    net = Network(count=2, pre_vote=False)
    net.lose(VOTE_RESPONSE)
    net.campaign(1)
    assert net.leaders() == []
    net.heal()
    net.send(*of_kind(net.delivered, VOTE))
    assert net.leaders() == [1]


@pytest.mark.parametrize("check_quorum", [True, False])
@pytest.mark.parametrize("pre_votes", list(product((True, False), repeat=2)), ids=str)
def test_long_log_and_high_term_elect_when_pre_vote_is_being_switched_on(
    check_quorum: bool, pre_votes: tuple[bool, bool]
) -> None:
    """Item 7: the third node is down."""
    common: dict[str, Any] = {"check_quorum": check_quorum}
    net = Network(
        Host(1, THREE, terms=(1, 1), pre_vote=pre_votes[0], **common),
        Host(2, THREE, terms=(1,), hard_state=HardState(7, 0, 0), pre_vote=pre_votes[1], **common),
    )
    assert settle(net) == 1
    assert net[2].payloads == net[1].payloads
    assert net.propose(1, b"x")
    assert net[2].payloads == [b"x"]


@pytest.mark.parametrize("check_quorum", [True, False])
@pytest.mark.parametrize("pre_votes", list(product((True, False), repeat=2)), ids=str)
def test_a_returning_node_rejoins_whatever_the_settings(
    check_quorum: bool, pre_votes: tuple[bool, bool]
) -> None:
    """Item 7: pre-vote differs between the node and the group; check-quorum must not."""
    others: dict[str, Any] = {"pre_vote": pre_votes[0], "check_quorum": check_quorum}
    returning: dict[str, Any] = {"pre_vote": pre_votes[1], "check_quorum": check_quorum}
    net = Network(Host(1, THREE, **returning), Host(2, THREE, **others), Host(3, THREE, **others))
    net.campaign(2)
    net.isolate(1)
    net.tick_all(5 * TIMEOUT)
    assert net.leaders() == [2]
    net.heal()
    net.tick_all(LEADER_TICKS_MAX)
    (leader,) = net.leaders()
    assert {host.node.leader for host in net.hosts.values()} == {leader}
    assert net.propose(leader, b"x")
    net.tick_all(2)
    assert net[1].payloads == [b"x"]


@EACH_SETTING
def test_long_log_and_high_term_elect_in_the_middle_of_a_change(settings: dict[str, Any]) -> None:
    """Item 8: three of four voters must agree, one of them has just joined, the leader is gone."""
    hosts = [Host(node, THREE, **settings) for node in (1, 2, 3)]
    net = Network(*hosts)
    net.campaign(1)
    net.isolate(3)
    if not settings["pre_vote"]:
        net.tick(3, 5 * TIMEOUT)
        assert net[3].node.term > net[1].node.term
    net.add(Host(4, THREE, **settings))
    net.cut(3, 4)
    net.change(1, ConfChange((Change(ChangeKind.ADD_VOTER, 4),)))
    net.tick_all(2)
    assert net[2].node.membership.voters == (1, 2, 3, 4)
    net.heal()
    net.isolate(1)
    leader = settle_without(net, 1)
    assert leader != 3
    assert net.propose(leader, b"x")
    net.tick_all(2)
    assert [net[node].payloads for node in (2, 3, 4)] == [[b"x"]] * 3


def settle_without(net: Network, gone: int, ticks_max: int = LEADER_TICKS_MAX) -> int:
    """Let time pass until one of those that are left leads, and return it."""
    for _ in range(ticks_max):
        net.tick_all()
        leaders = [node for node in net.leaders() if node != gone]
        if leaders:
            return leaders[0]
    raise AssertionError(f"no leader after {ticks_max} ticks: {net.roles()}")


def test_a_refused_pre_vote_says_the_term_of_who_refuses() -> None:
    """Item 8."""
    driven = Driven(terms=(1, 2), hard_state=HardState(9, 0, 0))
    (answer,) = driven.step(PRE_VOTE, 2, term=10, index=1, log_term=1)
    assert (answer.kind, answer.reject, answer.term) == (PRE_VOTE_RESPONSE, True, 9)
    (answer,) = driven.step(PRE_VOTE, 2, term=3, index=5, log_term=2)
    assert (answer.kind, answer.reject, answer.term) == (PRE_VOTE_RESPONSE, True, 9)


def test_a_pre_candidate_has_no_leader_any_more_and_supports_others() -> None:
    """Item 9."""
    driven = Driven(check_quorum=True, pre_vote=True)
    driven.step(MessageKind.HEARTBEAT, 2, term=1)
    assert driven.step(PRE_VOTE, 3, term=2) == []
    driven.tick(2 * TIMEOUT)
    assert (driven.node.role, driven.node.leader) == (Role.PRE_CANDIDATE, 0)
    (answer,) = driven.step(PRE_VOTE, 3, term=2)
    assert (answer.kind, answer.reject) == (PRE_VOTE_RESPONSE, False)


@EACH_SETTING
def test_the_others_elect_after_the_death_of_the_leader(settings: dict[str, Any]) -> None:
    """Item 9."""
    net = Network(count=3, **settings)
    net.campaign(1)
    net.isolate(1)
    assert settle_without(net, 1, 4 * TIMEOUT) in (2, 3)


@EACH_SETTING
def test_three_of_four_elect_although_one_restarted_in_an_old_term(
    settings: dict[str, Any],
) -> None:
    """Item 10: the stale node's vote is needed."""
    four = Membership((1, 2, 3, 4))
    hosts = [
        Host(node, four, terms=(1, 5), hard_state=HardState(5, 0, 0), **settings) for node in (1, 2)
    ]
    stale = Host(3, four, terms=(1,), hard_state=HardState(1, 0, 0), **settings)
    net = Network(*hosts, stale)
    leader = settle(net)
    assert leader in (1, 2)
    assert net[3].node.term == net[leader].node.term
    assert net.propose(leader, b"x")
    assert net[3].node.last_index == net[leader].node.last_index


def links(count: int) -> list[tuple[int, int]]:
    return list(permutations(range(1, count + 1), 2))


def check_stable(net: Network) -> None:
    """Check that within the bound there is a leader with a quorum, and that it stays."""
    net.tick_all(LEADER_TICKS_MAX)
    before = [(node, net[node].node.term) for node in net.leaders()]
    assert len(before) == 1
    leader = before[0][0]
    applied = len(net[leader].applied)
    assert net.propose(leader, b"x")
    net.tick_all(5 * TIMEOUT)
    assert [(node, net[node].node.term) for node in net.leaders()] == before
    assert len(net[leader].applied) == applied + 1


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("is_one_way", [True, False])
def test_one_broken_link_leaves_a_stable_leader(count: int, is_one_way: bool) -> None:
    """Item 11: whichever link, whoever leads when it breaks."""
    pairs = links(count) if is_one_way else list(combinations(range(1, count + 1), 2))
    for one, other in pairs:
        for leader in (one, other):
            net = Network(count=count)
            net.campaign(leader)
            net.cut(one, other, one_way=is_one_way)
            check_stable(net)


def test_any_topology_of_three_has_a_stable_leader_if_two_can_talk() -> None:
    """Item 11: all 64 sets of one-way links."""
    stable = 0
    every = links(3)
    for mask in range(1 << len(every)):
        up = {link for bit, link in enumerate(every) if mask >> bit & 1}
        if not any((other, one) in up for one, other in up):
            continue
        net = Network(count=3)
        net.cut_links.update(set(every) - up)
        check_stable(net)
        stable += 1
    assert stable == 64 - 27


@pytest.mark.parametrize("settings", SETTINGS[:3], ids=str)
def test_a_removed_node_that_does_not_know_costs_no_leader(settings: dict[str, Any]) -> None:
    """Item 12: with both nets off nothing helps, as the paper says."""
    net = Network(count=4, **settings)
    net.campaign(1)
    net.isolate(4)
    net.change(1, REMOVE_4)
    net.propose(1, b"x")
    net.tick(4, 10 * TIMEOUT)
    term = net[1].node.term
    net.heal()
    for _ in range(10 * TIMEOUT):
        net.tick_all()
        assert net.leaders() == [1]
    assert net[1].node.term == term
    assert net[4].node.membership.voters == (1, 2, 3, 4)


@pytest.mark.parametrize("check_quorum", [True, False])
def test_an_isolated_member_returns_without_costing_the_leader(check_quorum: bool) -> None:
    """Item 12: by pre-votes."""
    net = Network(count=3, check_quorum=check_quorum)
    net.campaign(1)
    net.isolate(3)
    net.propose(1, b"x")
    net.tick_all(10 * TIMEOUT)
    net.heal()
    for _ in range(10 * TIMEOUT):
        net.tick_all()
        assert net.leaders() == [1]
    assert net[1].node.term == 1
    assert net[3].payloads == [b"x"]


@EACH_SETTING
def test_learners_never_campaign(settings: dict[str, Any]) -> None:
    """Item 13."""
    driven = Driven(membership=Membership((2, 3), learners=(1,)), **settings)
    assert driven.tick(20 * TIMEOUT) == []
    driven.node.campaign()
    assert driven.pump() == []
    driven.step(MessageKind.HEARTBEAT, 2, term=4)
    assert of_kind(driven.step(MessageKind.TIMEOUT_NOW, 2), VOTE) == []
    assert (driven.node.role, driven.node.term) == (Role.FOLLOWER, 4)


@EACH_SETTING
def test_a_learner_that_does_not_know_of_its_promotion_votes(settings: dict[str, Any]) -> None:
    """Item 14: the group lives on the vote of a node that takes itself for a learner."""
    founding = Membership((1, 2), learners=(3,))
    net = Network(*(Host(node, founding, **settings) for node in (1, 2, 3)))
    net.campaign(1)
    net.isolate(3)
    net.change(1, ConfChange((Change(ChangeKind.ADD_VOTER, 3),)))
    assert net[2].node.membership.voters == (1, 2, 3)
    assert net[3].node.membership == founding
    net.heal()
    net.isolate(1)
    assert settle_without(net, 1) == 2
    assert net.propose(2, b"x")
    assert net[3].payloads == [b"x"]
    assert net[3].node.membership.voters == (1, 2, 3)


def test_a_witness_is_never_ahead_of_its_leaders_disk() -> None:
    """Not in the list, found here: it would refuse its vote to the only node that can lead."""
    founding = Membership((1, 2, 3), witnesses=(3,))
    net = Network(*(Host(node, founding) for node in (1, 2, 3)))
    net.campaign(1)
    net.isolate(2)
    net[1].node.propose(b"x")
    # Node 1 crashes before its write is durable; whatever it had sent arrives.
    net.send(*(m for m in net[1].node.ready().messages if m.to == 3))
    net[1].restart()
    assert settle_without(net, 2) == 1
