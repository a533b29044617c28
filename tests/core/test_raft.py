from __future__ import annotations

from typing import Any

import pytest

from rafter_core import ConfigError, Message, MessageKind, Role, StepError
from tests.core.support import Driven, entry

APPEND = MessageKind.APPEND


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"to": 2, "sender": 3}, "not from a peer to node 1"),
        ({"sender": 1}, "not from a peer"),
        ({"sender": 0}, "not from a peer"),
        ({"term": 0}, "not from a peer"),
        ({"kind": MessageKind.STORAGE_APPEND_RESPONSE}, "cannot send this kind"),
        ({"entries": [entry(1, 2)]}, "do not continue"),
        ({"entries": [entry(1, 1), entry(1, 3)]}, "do not continue"),
        ({"entries": [entry(2, 1)]}, "do not continue"),
        ({"index": 4, "log_term": 2, "entries": [entry(1, 5)]}, "do not continue"),
    ],
)
def test_what_no_peer_sends_is_refused_without_effect(fields: dict[str, Any], text: str) -> None:
    driven = Driven()
    before = driven.node.status()
    message: dict[str, Any] = {"kind": APPEND, "to": 1, "sender": 2, "term": 1}
    with pytest.raises(StepError, match=text):
        driven.node.step(Message(**(message | fields)))
    assert driven.node.status() == before
    assert not driven.node.has_ready()


def test_an_impossible_configuration_does_not_start() -> None:
    with pytest.raises(ConfigError, match="heartbeat_ticks is 0"):
        Driven(heartbeat_ticks=0)


def test_a_node_starts_as_follower_without_work() -> None:
    driven = Driven(terms=[1, 2])
    assert (driven.node.role, driven.node.term, driven.node.leader) == (Role.FOLLOWER, 2, 0)
    assert not driven.node.has_ready()


def test_ticks_of_a_leader_never_start_an_election() -> None:
    driven = Driven(check_quorum=False)
    driven.lead_replicating()
    driven.tick(100)
    assert driven.node.is_leader


def test_a_candidate_tries_again_in_a_new_term() -> None:
    driven = Driven(pre_vote=False)
    driven.tick(19)
    assert (driven.node.role, driven.node.term) == (Role.CANDIDATE, 1)
    driven.tick(19)
    assert (driven.node.role, driven.node.term) == (Role.CANDIDATE, 2)


def test_the_timeout_is_drawn_anew_in_each_term() -> None:
    driven = Driven(pre_vote=False, election_timeout_ticks=50)
    drawn = set()
    for _ in range(10):
        driven.node.campaign()
        drawn.add(driven.node._raft.election_timeout)
    assert len(drawn) > 3
