"""Chapter 3 of the thesis, the leadership transfer extension: 3.10."""

from __future__ import annotations

import pytest

from rafter_core import Membership, MessageKind, ProposalDropped, Role, TransferRefused
from tests.core.support import Driven, of_kind
from tests.paper.support import TIMEOUT_TICKS, led_cluster

TIMEOUT_NOW = MessageKind.TIMEOUT_NOW


def test_leadership_goes_to_the_target_without_any_timeout() -> None:
    """Thesis 3.10: the target campaigns at once and wins, in the next term."""
    cluster = led_cluster()
    cluster[1].node.transfer_leadership(3)
    cluster.run()
    assert cluster.leaders() == [3]
    assert cluster[3].node.term == 2
    assert [host.node.leader for host in cluster.hosts.values()] == [3, 3, 3]


def test_the_prior_leader_stops_taking_commands() -> None:
    """Thesis 3.10, step 1: or the target could never catch up."""
    driven = Driven()
    driven.lead_replicating()
    driven.node.transfer_leadership(2)
    with pytest.raises(ProposalDropped, match="being transferred"):
        driven.node.propose(b"x")
    assert driven.node.last_index == 1
    assert driven.node.is_leader


def test_the_target_is_brought_up_to_date_first() -> None:
    """Thesis 3.10, step 2: it is told to take over only once it holds the whole log."""
    driven = Driven()
    driven.lead_replicating()
    driven.node.propose(b"a")
    driven.node.propose(b"b")
    driven.pump()
    driven.node.transfer_leadership(2)
    assert of_kind(driven.pump(), TIMEOUT_NOW) == []
    assert of_kind(driven.acknowledge(2, 2), TIMEOUT_NOW) == []
    assert [(m.to, m.term) for m in of_kind(driven.acknowledge(2, 3), TIMEOUT_NOW)] == [(2, 1)]


def test_a_target_that_lags_gets_what_it_lacks() -> None:
    """Thesis 3.10, step 2: with the log that it missed it can win."""
    cluster = led_cluster()
    cluster.isolate(3)
    for payload in (b"a", b"b"):
        cluster.propose(1, payload)
    cluster.heal()
    assert cluster[3].node.last_index == 1
    cluster[1].node.transfer_leadership(3)
    cluster.run()
    cluster.tick(1)
    assert cluster.leaders() == [3]
    assert cluster[3].payloads == [b"a", b"b"]


def test_the_order_to_take_over_acts_like_a_timeout() -> None:
    """Thesis 3.10, step 3: a new term and requests for votes, at once and without a pre-vote."""
    driven = Driven(node_id=2)
    driven.step(MessageKind.HEARTBEAT, 1, term=1)
    messages = driven.step(TIMEOUT_NOW, 1)
    assert (driven.node.role, driven.node.term) == (Role.CANDIDATE, 2)
    assert [(m.kind, m.to, m.term, m.context) for m in messages] == [
        (MessageKind.VOTE, to, 2, b"CampaignTransfer") for to in (1, 3)
    ]


def test_the_order_of_an_older_leader_is_ignored() -> None:
    """Thesis 3.10, step 3, and paper 5.1: a delayed order must not unseat the next leader."""
    driven = Driven(node_id=2)
    driven.step(MessageKind.HEARTBEAT, 3, term=4)
    assert driven.step(TIMEOUT_NOW, 1, term=3) == []
    assert (driven.node.role, driven.node.term) == (Role.FOLLOWER, 4)


def test_voters_do_not_protect_a_leader_that_hands_over() -> None:
    """Thesis 3.10 and 4.2.3: this election may disrupt, the leader itself has asked for it."""
    driven = Driven(node_id=3)
    driven.step(MessageKind.HEARTBEAT, 1, term=1)
    assert driven.step(MessageKind.VOTE, 2, term=2) == []
    answers = driven.step(MessageKind.VOTE, 2, term=2, context=b"CampaignTransfer")
    assert [(m.to, m.reject) for m in answers] == [(2, False)]


def test_a_transfer_that_takes_too_long_is_given_up() -> None:
    """Thesis 3.10: after an election timeout the leader takes commands again."""
    cluster = led_cluster()
    cluster.crash(3)
    cluster.tick(1, 4)
    cluster[1].node.transfer_leadership(3)
    cluster.run()
    # Counted from the request, wherever the leader's own check of its quorum stands.
    cluster.tick(1, TIMEOUT_TICKS - 1)
    assert cluster[1].node.status().transferee == 3
    assert not cluster.propose(1, b"x")
    cluster.tick(1)
    assert cluster[1].node.status().transferee == 0
    assert cluster.propose(1, b"x")
    assert cluster[2].payloads == [b"x"]
    assert (cluster.leaders(), cluster[1].node.term) == ([1], 1)


def test_asking_again_does_not_prolong_a_transfer() -> None:
    """Thesis 3.10: the deadline is that of the first request."""
    driven = Driven(check_quorum=False)
    driven.lead()
    driven.node.transfer_leadership(2)
    driven.tick(TIMEOUT_TICKS - 1)
    driven.node.transfer_leadership(2)
    driven.tick()
    assert driven.node.status().transferee == 0


def test_a_target_that_did_not_win_loses_nothing() -> None:
    """Thesis 3.10: whoever wins next, safety is untouched; here the prior leader goes on."""
    cluster = led_cluster()
    cluster.lose(TIMEOUT_NOW)
    cluster[1].node.transfer_leadership(3)
    cluster.run()
    cluster.heal()
    cluster.tick_all(2 * TIMEOUT_TICKS)
    assert cluster.leaders() == [1]
    assert cluster.propose(1, b"x")
    assert [host.payloads for host in cluster.hosts.values()] == [[b"x"]] * 3


def test_a_follower_passes_the_wish_on() -> None:
    """Thesis 3.10: anybody may ask; the leader acts."""
    cluster = led_cluster()
    cluster[2].node.transfer_leadership(2)
    cluster.run()
    assert cluster.leaders() == [2]


def test_only_a_voter_can_be_the_target() -> None:
    """Thesis 3.10 and 4.2.1: neither a stranger nor a learner can win, so nothing begins."""
    driven = Driven(membership=Membership((1, 2), learners=(3,)))
    driven.lead_replicating()
    for target in (3, 9):
        with pytest.raises(TransferRefused):
            driven.node.transfer_leadership(target)
    assert driven.node.status().transferee == 0
    assert driven.node.propose(b"x") == 2


def test_a_transfer_ends_with_the_term() -> None:
    """Thesis 3.10: when somebody else wins meanwhile, the old wish means nothing."""
    driven = Driven()
    driven.lead()
    driven.node.transfer_leadership(2)
    driven.step(MessageKind.HEARTBEAT, 3, term=5)
    assert (driven.node.role, driven.node.status().transferee) == (Role.FOLLOWER, 0)


def test_leadership_can_be_handed_back() -> None:
    """Thesis 3.10: a transfer leaves a group in which the next one works just as well."""
    cluster = led_cluster(count=5)
    for target in (4, 1, 5, 1):
        leader = cluster.leaders()[0]
        cluster[leader].node.transfer_leadership(target)
        cluster.run()
        assert cluster.leaders() == [target]
    assert cluster[1].node.term == 5


def test_a_server_about_to_be_shut_down_hands_over_first() -> None:
    """Thesis 3.10: then the group is without a leader for a round of messages, not a timeout."""
    cluster = led_cluster()
    cluster[1].node.transfer_leadership(2)
    cluster.run()
    cluster.crash(1)
    assert cluster.propose(2, b"x")
    assert cluster[3].payloads == [b"x"]


def test_a_learner_told_to_take_over_does_not() -> None:
    """Thesis 3.10 and 4.2.1: whoever cannot lead ignores the order."""
    driven = Driven(node_id=3, membership=Membership((1, 2), learners=(3,)))
    assert driven.step(TIMEOUT_NOW, 1, term=1) == []
    assert (driven.node.role, driven.node.term) == (Role.FOLLOWER, 1)
