"""Proposals: taken by the leader, forwarded by followers, refused without a trace of them."""

from __future__ import annotations

from typing import Any

import pytest

from rafter_core import (
    Change,
    ChangeKind,
    ConfChange,
    Entry,
    EntryKind,
    HardState,
    Membership,
    Message,
    MessageKind,
    ProposalDropped,
    RequestRefused,
    Role,
    Transition,
)
from tests.core.network import Network
from tests.core.support import THREE, Driven, both_modes, of_kind

PROPOSE = MessageKind.PROPOSE
APPEND = MessageKind.APPEND
HEARTBEAT = MessageKind.HEARTBEAT
NORMAL = EntryKind.NORMAL


def leader(**config: Any) -> Driven:
    driven = Driven(**config)
    driven.lead_replicating()
    return driven


def follower(**config: Any) -> Driven:
    """Return node 1, following node 2 in term 1."""
    driven = Driven(**config)
    driven.step(HEARTBEAT, 2, term=1)
    return driven


def forwarded(*payloads: bytes, sender: int = 3) -> Message:
    entries = [Entry(0, 0, NORMAL, payload) for payload in payloads]
    return Message(kind=PROPOSE, to=1, sender=sender, entries=entries)


# Who takes them.


@both_modes
def test_a_leader_returns_the_index_and_appends_in_its_term(async_storage_writes: bool) -> None:
    driven = leader(async_storage_writes=async_storage_writes)
    assert driven.node.propose(b"a") == 2
    assert driven.node.propose(b"b") == 3
    driven.pump()
    assert driven.storage.entries(2, 4, 999) == [
        Entry(1, 2, NORMAL, b"a"),
        Entry(1, 3, NORMAL, b"b"),
    ]


def test_many_proposals_leave_in_one_message_for_each_follower() -> None:
    driven = leader()
    assert driven.node.propose_many([b"a", b"b", b"c"]) == 4
    ready = driven.node.ready()
    assert [e.payload for e in ready.entries] == [b"a", b"b", b"c"]
    assert [(m.to, m.index, [e.index for e in m.entries]) for m in ready.messages] == [
        (2, 1, [2, 3, 4]),
        (3, 1, [2, 3, 4]),
    ]


@pytest.mark.parametrize("driven", [leader(), follower(), Driven()])
def test_proposing_nothing_is_refused(driven: Driven) -> None:
    before = driven.node.status()
    with pytest.raises(ProposalDropped, match="nothing was proposed"):
        driven.node.propose_many([])
    assert driven.node.status() == before
    assert not driven.node.has_ready()


def test_a_follower_forwards_without_term_and_index() -> None:
    driven = follower()
    assert driven.node.propose_many([b"a", b"b"]) == 0
    (message,) = driven.pump()
    assert message == Message(
        kind=PROPOSE,
        to=2,
        sender=1,
        entries=[Entry(0, 0, NORMAL, b"a"), Entry(0, 0, NORMAL, b"b")],
    )
    assert driven.node.last_index == 0


def test_a_follower_forwards_changes_of_the_membership_too() -> None:
    driven = follower()
    change = ConfChange((Change(ChangeKind.ADD_LEARNER, 4),), is_v1=True)
    assert driven.node.propose_conf_change(change) == 0
    (message,) = driven.pump()
    assert [(e.kind, bool(e.payload)) for e in message.entries] == [(EntryKind.CONFIG_CHANGE, True)]


def test_who_proposed_is_kept_when_it_is_forwarded_again() -> None:
    driven = follower()
    driven.node.step(forwarded(b"a"))
    (message,) = driven.pump()
    assert (message.to, message.sender, message.term) == (2, 3, 0)
    assert [e.payload for e in message.entries] == [b"a"]


def test_a_leader_takes_what_is_forwarded_at_its_own_end() -> None:
    driven = leader()
    driven.node.step(forwarded(b"a", b"b"))
    sent = driven.pump()
    assert [(m.to, len(m.entries)) for m in sent] == [(2, 2), (3, 2)]
    assert driven.storage.entries(2, 4, 999) == [
        Entry(1, 2, NORMAL, b"a"),
        Entry(1, 3, NORMAL, b"b"),
    ]


def test_forwarding_can_be_switched_off() -> None:
    network = Network(count=3, forward_proposals=False)
    network.campaign(1)
    with pytest.raises(ProposalDropped, match="node 1 leads term 1, and nothing is forwarded"):
        network[2].node.propose(b"x")
    # What others forward all the same is refused likewise.
    with pytest.raises(ProposalDropped):
        network[2].node.step(
            Message(kind=PROPOSE, to=2, sender=3, entries=[Entry(0, 0, NORMAL, b"x")])
        )
    assert not network[2].node.has_ready()
    assert network.propose(1, b"y")
    assert network[2].payloads == [b"y"]


def test_reads_and_transfers_are_passed_on_though_proposals_are_not() -> None:
    driven = follower(forward_proposals=False)
    driven.node.read_index(b"r")
    driven.node.transfer_leadership(3)
    assert [(m.kind, m.to, m.sender) for m in driven.pump()] == [
        (MessageKind.READ_INDEX, 2, 1),
        (MessageKind.TRANSFER_LEADER, 2, 3),
    ]


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.PRE_CANDIDATE])
def test_without_a_leader_a_forwarded_proposal_is_refused(role: Role) -> None:
    driven = Driven(pre_vote=role is Role.PRE_CANDIDATE)
    if role is not Role.FOLLOWER:
        driven.node.campaign()
        driven.pump()
    with pytest.raises(RequestRefused, match="knows no leader of term"):
        driven.node.step(forwarded(b"a"))
    assert not driven.node.has_ready()


# When a leader does not take them.


def test_a_leader_that_hands_over_refuses() -> None:
    driven = leader()
    driven.propose()
    driven.node.transfer_leadership(2)
    driven.pump()
    before = driven.node.status()
    for request in (driven.node.propose, lambda payload: driven.node.step(forwarded(payload))):
        with pytest.raises(ProposalDropped, match="being transferred to node 2"):
            request(b"x")
    assert driven.node.status() == before


def test_a_removed_leader_that_leads_on_refuses() -> None:
    driven = Driven(membership=Membership((1, 2)), step_down_on_removal=False)
    driven.lead_replicating()
    driven.change(ConfChange((Change(ChangeKind.REMOVE_NODE, 1),)))
    driven.acknowledge(2)
    assert driven.node.is_leader
    assert driven.node.membership == Membership((2,))
    with pytest.raises(ProposalDropped, match="node 1 was removed from the group"):
        driven.node.propose(b"x")


# The limit of what is not committed.


@both_modes
def test_uncommitted_bytes_are_bounded_and_freed_by_applying(async_storage_writes: bool) -> None:
    driven = leader(uncommitted_bytes_max=30, async_storage_writes=async_storage_writes)
    for used in (10, 20, 30):
        driven.propose(b"x" * 10)
        assert driven.node.uncommitted_bytes == used
    before = driven.node.status()
    with pytest.raises(ProposalDropped, match="30 bytes are uncommitted, the limit is 30"):
        driven.node.propose(b"x")
    assert driven.node.status() == before
    assert not driven.node.has_ready()
    driven.acknowledge(2, 2)
    assert driven.node.uncommitted_bytes == 20
    driven.acknowledge(2)
    assert driven.node.uncommitted_bytes == 0
    driven.propose(b"x" * 30)
    assert driven.node.uncommitted_bytes == 30


def test_committed_but_unapplied_bytes_still_count() -> None:
    driven = leader(uncommitted_bytes_max=10)
    driven.propose(b"x" * 10)
    driven.node.step(Message(kind=MessageKind.APPEND_RESPONSE, to=1, sender=2, term=1, index=2))
    ready = driven.node.ready()
    driven.storage.store(ready)
    driven.node.storage_done(ready)
    assert (driven.node.commit, [e.index for e in ready.committed]) == (2, [2])
    with pytest.raises(ProposalDropped):
        driven.node.propose(b"x")
    driven.node.apply_done(2)
    assert driven.node.uncommitted_bytes == 0
    assert driven.node.propose(b"x") == 3


def test_one_proposal_may_exceed_the_limit() -> None:
    driven = leader(uncommitted_bytes_max=10)
    driven.propose(b"x" * 1000)
    assert driven.node.uncommitted_bytes == 1000
    with pytest.raises(ProposalDropped, match="1000 bytes are uncommitted, the limit is 10"):
        driven.node.propose(b"x")
    driven.acknowledge(2)
    assert driven.node.uncommitted_bytes == 0


@pytest.mark.parametrize(("size", "is_taken"), [(5, True), (6, False)])
def test_the_limit_itself_is_within(size: int, is_taken: bool) -> None:
    driven = leader(uncommitted_bytes_max=10)
    driven.propose(b"x" * 5)
    if is_taken:
        assert driven.node.propose(b"x" * size) == 3
    else:
        with pytest.raises(ProposalDropped):
            driven.node.propose(b"x" * size)


def test_empty_payloads_are_never_refused() -> None:
    driven = leader(uncommitted_bytes_max=10)
    driven.propose(b"x" * 1000)
    for index in range(3, 100):
        assert driven.node.propose(b"") == index
    assert driven.node.uncommitted_bytes == 1000


def test_a_joint_configuration_can_be_left_though_the_limit_is_reached() -> None:
    driven = Driven(
        membership=Membership((1, 2), voters_outgoing=(1, 2, 3)), uncommitted_bytes_max=10
    )
    driven.lead_replicating()
    driven.propose(b"x" * 10)
    with pytest.raises(ProposalDropped):
        driven.node.propose(b"x")
    driven.change(ConfChange())
    driven.acknowledge(2)
    assert driven.node.membership == Membership((1, 2))


def test_changes_of_the_membership_count_with_their_payload() -> None:
    driven = leader(uncommitted_bytes_max=10)
    driven.propose(b"x" * 10)
    change = ConfChange((Change(ChangeKind.ADD_LEARNER, 4),), Transition.AUTO, b"context")
    with pytest.raises(ProposalDropped):
        driven.node.propose_conf_change(change)
    assert driven.node.status().pending_change_index == 0
    driven.acknowledge(2)
    assert driven.node.propose_conf_change(change) == 3
    assert driven.node.uncommitted_bytes > len(b"context")
    assert driven.node.status().pending_change_index == 3


def test_many_proposals_are_taken_all_or_none() -> None:
    driven = leader(uncommitted_bytes_max=10)
    driven.propose(b"x")
    with pytest.raises(ProposalDropped):
        driven.node.propose_many([b"x" * 5, b"y" * 5])
    assert (driven.node.last_index, driven.node.uncommitted_bytes) == (2, 1)
    assert driven.node.propose_many([b"x" * 5, b"y" * 4]) == 4
    assert driven.node.uncommitted_bytes == 10


def test_forwarded_proposals_count_too() -> None:
    driven = leader(uncommitted_bytes_max=10)
    driven.node.step(forwarded(b"x" * 10))
    assert driven.node.uncommitted_bytes == 10
    with pytest.raises(ProposalDropped):
        driven.node.step(forwarded(b"x"))


def test_the_limit_counts_for_one_term() -> None:
    """Entries of earlier terms were never counted, and are not subtracted from what was."""
    driven = leader(uncommitted_bytes_max=10)
    driven.propose(b"x" * 10)
    driven.step(HEARTBEAT, 2, term=2)
    assert driven.node.uncommitted_bytes == 0
    driven.tick(10)
    driven.lead()
    assert (driven.node.term, driven.node.uncommitted_bytes) == (3, 0)
    driven.propose(b"y" * 4)
    driven.acknowledge(2, 3)
    # Applied are 10 bytes of term 1 and the no-op.
    assert (driven.node.applied, driven.node.uncommitted_bytes) == (3, 0)
    driven.propose(b"y" * 10)
    driven.acknowledge(2)
    assert driven.node.uncommitted_bytes == 0


def test_applying_as_a_follower_touches_no_count() -> None:
    driven = Driven(terms=[1], hard_state=HardState(1, 0, 0))
    entries = [Entry(1, 2, NORMAL, b"x" * 50)]
    driven.step(APPEND, 2, index=1, log_term=1, entries=entries, commit=2)
    assert (driven.node.applied, driven.node.uncommitted_bytes) == (2, 0)


def test_unstable_bytes_count_payloads_until_they_are_durable() -> None:
    driven = leader()
    driven.node.propose(b"x" * 10)
    driven.node.propose(b"x" * 5)
    ready = driven.node.ready()
    assert driven.node.unstable_bytes == 15
    driven.store(ready)
    assert driven.node.unstable_bytes == 0


def test_a_refused_change_becomes_an_empty_entry_and_is_not_counted() -> None:
    driven = leader(uncommitted_bytes_max=10)
    driven.propose(b"x" * 10)
    assert driven.node.membership == THREE
    # There is no joint configuration to be left.
    assert driven.node.propose_conf_change(ConfChange()) == 3
    (entry,) = driven.node.ready().entries
    assert entry == Entry(1, 3, NORMAL, b"")
    assert driven.node.uncommitted_bytes == 10
    assert of_kind(driven.pump(), APPEND) == []


def test_leaving_a_joint_configuration_waits_for_a_transfer_to_end() -> None:
    joint = Membership((1, 2, 3), voters_outgoing=(1, 2), auto_leave=True)
    driven = Driven(membership=joint)
    driven.lead()
    driven.node.transfer_leadership(3)
    driven.acknowledge(2)
    assert driven.event_names()[-1] == "auto_leave_postponed"
    assert driven.node.last_index == 1
    # It ends without success: the next entry that is applied makes it good.
    driven.step(MessageKind.HEARTBEAT_RESPONSE, 2)
    driven.tick(10)
    assert driven.node.status().transferee == 0
    driven.propose(b"x")
    driven.acknowledge(2)
    assert (driven.node.applied, driven.node.last_index) == (2, 3)
    driven.acknowledge(2)
    driven.acknowledge(2)
    assert driven.node.membership == THREE


def test_a_new_leader_leaves_a_joint_configuration_once_all_before_its_term_is_applied() -> None:
    joint = Membership((1, 2, 3), voters_outgoing=(1, 2), auto_leave=True)
    driven = Driven(membership=joint, terms=[1, 1, 1], committed_bytes_per_ready_max=1)
    driven.lead()
    driven.node.step(Message(kind=MessageKind.APPEND_RESPONSE, to=1, sender=2, term=2, index=4))
    proposed = []
    while driven.node.applied < 4:
        driven.store(driven.node.ready())
        proposed.append((driven.node.applied, driven.node.last_index))
    # The entries up to 3 might have held a change; the no-op at 4 cannot.
    assert [item for item in proposed if item[0]] == [(1, 4), (2, 4), (3, 5), (4, 5)]
    driven.pump()
    assert driven.storage.entries(5, 6, 999) == [Entry(2, 5, EntryKind.CONFIG_CHANGE_V2, b"")]
