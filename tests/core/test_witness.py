"""Witnesses: voters that acknowledge without payloads, and never lead."""

from __future__ import annotations

from typing import Any

import pytest

from rafter_core import (
    Change,
    ChangeKind,
    ConfChange,
    EntryKind,
    Membership,
    Message,
    MessageKind,
    ProgressMode,
    Role,
    Snapshot,
    TransferRefused,
)
from tests.core.network import Host, Network
from tests.core.support import Driven, both_modes, entry, of_kind

APPEND = MessageKind.APPEND
SNAPSHOT = MessageKind.SNAPSHOT
WITNESSED = Membership((1, 2, 3), witnesses=(3,))
CHANGE = ConfChange((Change(ChangeKind.ADD_LEARNER, 4),))


def witnessed(membership: Membership = WITNESSED, **config: Any) -> Network:
    return Network(*(Host(node, membership, **config) for node in membership.nodes))


def kinds(network: Network, node: int) -> list[tuple[EntryKind, bytes]]:
    storage = network[node].storage
    entries = storage.entries(1, storage.last_index() + 1, 1 << 60)
    return [(item.kind, item.payload) for item in entries]


@both_modes
def test_a_witness_stores_terms_and_indexes_but_no_payload(async_storage_writes: bool) -> None:
    network = witnessed(async_storage_writes=async_storage_writes)
    network.campaign(1)
    network.propose(1, b"secret")
    assert kinds(network, 2) == [(EntryKind.NORMAL, b""), (EntryKind.NORMAL, b"secret")]
    assert kinds(network, 3) == [(EntryKind.NORMAL, b""), (EntryKind.STRIPPED, b"")]
    assert [(term, index) for term, index, _ in network[3].log] == [(1, 1), (1, 2)]
    assert network[3].node.commit == network[3].node.applied == 2
    assert all(
        b"secret" not in e.payload for m in network.delivered if m.to == 3 for e in m.entries
    )


def test_a_witness_gets_changes_of_the_membership_whole() -> None:
    network = witnessed()
    network.campaign(1)
    network.change(1, CHANGE)
    assert kinds(network, 3)[1] == kinds(network, 1)[1]
    assert kinds(network, 3)[1][0] is EntryKind.CONFIG_CHANGE_V2
    assert network[3].node.membership == Membership((1, 2, 3), learners=(4,), witnesses=(3,))


def test_others_get_payloads_in_the_same_broadcast() -> None:
    driven = Driven(membership=WITNESSED)
    driven.lead_replicating()
    sent = of_kind(driven.propose(b"secret"), APPEND)
    assert [(m.to, m.entries[0].kind, m.entries[0].payload) for m in sent] == [
        (2, EntryKind.NORMAL, b"secret"),
        (3, EntryKind.STRIPPED, b""),
    ]
    # The log of the leader is not touched.
    assert driven.storage.entries(2, 3, 999) == [entry(1, 2, b"secret")]


def test_a_witness_is_sent_only_what_is_durable_on_the_leader() -> None:
    """Else it could be ahead of every node with payloads, and refuse them all after a crash."""
    driven = Driven(membership=WITNESSED)
    driven.lead_replicating()
    readys = []
    for _ in range(2):
        driven.node.propose(b"x")
        readys.append(driven.node.ready())
    assert [[m.to for m in ready.messages] for ready in readys] == [[2], [2]]
    # The first is durable, and so is sent; nothing more, whatever else happens.
    driven.store(readys[0])
    sent = of_kind(driven.node.ready().messages, APPEND)
    assert [(m.to, [e.index for e in m.entries]) for m in sent] == [(3, [2])]
    driven.node.step(Message(kind=MessageKind.HEARTBEAT_RESPONSE, to=1, sender=3, term=1))
    assert of_kind(driven.node.ready().messages, APPEND) == []


def test_with_a_witness_a_leader_does_not_remove_itself() -> None:
    """It may be the only one with the payloads of what the witness helped to commit."""
    for kind in (ChangeKind.REMOVE_NODE, ChangeKind.ADD_LEARNER):
        driven = Driven(membership=WITNESSED)
        driven.lead_replicating()
        driven.node.propose_conf_change(ConfChange((Change(kind, 1),)))
        (placeholder,) = driven.node.ready().entries
        assert placeholder == entry(1, 2)
    assert driven.event_names()[-1] == "conf_change_refused"


def test_what_a_witness_is_not_sent_does_not_fill_its_window() -> None:
    driven = Driven(membership=WITNESSED, inflight_bytes_max=100, message_bytes_max=100)
    driven.lead_replicating()
    sent = [[m.to for m in driven.propose(b"x" * 60)] for _ in range(4)]
    assert sent == [[2, 3], [2, 3], [3], [3]]


@both_modes
def test_a_witness_votes_and_its_acknowledgement_counts(async_storage_writes: bool) -> None:
    network = witnessed(async_storage_writes=async_storage_writes)
    network.isolate(2)
    network.campaign(1)
    assert network.leaders() == [1]
    network.propose(1, b"x")
    assert network[1].node.commit == 2
    assert network[1].payloads == [b"x"]


def test_a_witness_never_campaigns() -> None:
    network = witnessed()
    network.campaign(1)
    network.isolate(3)
    network.tick(3, 200)
    network[3].node.campaign()
    network.run()
    assert (network[3].node.role, network[3].node.term) == (Role.FOLLOWER, 1)
    driven = Driven(node_id=3, membership=WITNESSED)
    driven.step(MessageKind.HEARTBEAT, 1, term=1)
    assert driven.step(MessageKind.TIMEOUT_NOW, 1) == []
    assert (driven.node.role, driven.node.term) == (Role.FOLLOWER, 1)
    assert driven.event_names().count("campaign_refused") == 1


def test_leadership_is_not_handed_to_a_witness() -> None:
    network = witnessed()
    network.campaign(1)
    with pytest.raises(TransferRefused, match="node 3 is not a voter that can lead"):
        network[1].node.transfer_leadership(3)
    # A wish that was passed on is ignored.
    network[2].node.transfer_leadership(3)
    network.run()
    assert network[1].node.status().transferee == 0
    assert network.leaders() == [1]


def test_a_witness_that_is_ahead_of_a_candidate_refuses_it() -> None:
    """Else committed entries could be lost: 1 and 3 hold them, 2 does not."""
    network = witnessed()
    network.campaign(1)
    network.isolate(2)
    network.propose(1, b"x")
    network.heal()
    network.isolate(1)
    network.tick(2, 100)
    network.tick(3, 100)
    assert network[2].node.role is not Role.LEADER
    network.heal()
    network.tick_all(60)
    assert network.leaders() == [1]
    assert network[2].payloads == [b"x"]


def test_a_group_of_two_and_a_witness_serves_on_with_either_of_the_two() -> None:
    for down, left in ((1, 2), (2, 1)):
        network = witnessed()
        network.campaign(down)
        network.propose(down, b"before")
        network.isolate(down)
        network.tick_all(60)
        assert [node for node in network.leaders() if node != down] == [left]
        assert network.propose(left, b"after")
        assert network[left].payloads == [b"before", b"after"]
        network[left].node.read_index(b"r")
        network.run()
        assert [read.index for read in network[left].reads] == [network[left].node.commit]
        network.heal()
        network.tick_all(60)
        assert network[down].payloads == [b"before", b"after"]


def test_leader_and_witness_commit_and_the_other_voter_catches_up() -> None:
    network = witnessed()
    network.campaign(1)
    network.isolate(2)
    for number in range(5):
        network.propose(1, b"%d" % number)
    assert network[1].node.commit == network[3].node.commit == 6
    network.heal()
    network.tick_all(3)
    assert network[2].payloads == network[1].payloads == [b"0", b"1", b"2", b"3", b"4"]


def test_a_witness_is_sent_a_snapshot_without_data() -> None:
    driven = Driven(membership=WITNESSED, terms=[1, 1, 1])
    full = driven.storage.create_snapshot(3, WITNESSED, b"image")
    driven.storage.compact(3)
    driven.restart(applied=3)
    driven.lead()
    for node, data in ((2, b"image"), (3, b"")):
        (sent,) = driven.step(
            MessageKind.APPEND_RESPONSE, node, index=3, reject=True, reject_hint=0
        )
        assert (sent.kind, sent.to, sent.snapshot) == (SNAPSHOT, node, full._replace(data=data))
        assert driven.node.status().progress[node].mode is ProgressMode.SNAPSHOT


def test_a_witness_takes_a_snapshot_without_data() -> None:
    driven = Driven(node_id=3, membership=WITNESSED)
    snapshot = Snapshot(7, 2, WITNESSED)
    (answer,) = driven.step(SNAPSHOT, 1, term=2, snapshot=snapshot)
    assert (answer.kind, answer.index, answer.reject) == (MessageKind.APPEND_RESPONSE, 7, False)
    assert (driven.node.commit, driven.node.applied, driven.storage.first_index()) == (7, 7, 8)


def test_a_witness_is_added_and_removed_like_a_voter() -> None:
    network = Network(count=2)
    network.campaign(1)
    # A joining node knows the configuration that the log begins with.
    network.add(Host(3, Membership((1, 2))))
    network.change(1, ConfChange((Change(ChangeKind.ADD_WITNESS, 3),)))
    network.tick(1)
    assert network[1].node.membership == WITNESSED
    assert network[3].node.membership == WITNESSED
    network.propose(1, b"x")
    assert kinds(network, 3)[-1] == (EntryKind.STRIPPED, b"")
    network.cut(1, 2)
    network.propose(1, b"y")
    assert network[1].node.commit == network[1].node.last_index
    network.heal()
    network.tick(1)
    network.change(1, ConfChange((Change(ChangeKind.REMOVE_NODE, 3),)))
    assert network[1].node.membership == Membership((1, 2))


def test_a_proposal_at_a_witness_is_forwarded_whole() -> None:
    network = witnessed()
    network.campaign(1)
    assert network.propose(3, b"from the witness")
    assert network[2].payloads == [b"from the witness"]
    assert network[3].payloads == []


def test_a_restarted_witness_goes_on_from_its_stripped_log() -> None:
    network = witnessed()
    network.campaign(1)
    network.propose(1, b"x")
    network[3].restart()
    network.isolate(2)
    network.tick(1)
    network.propose(1, b"y")
    assert network[1].node.commit == network[3].node.commit == 3
    assert [kind for kind, _ in kinds(network, 3)] == [
        EntryKind.NORMAL,
        EntryKind.STRIPPED,
        EntryKind.STRIPPED,
    ]
