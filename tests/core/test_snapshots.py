"""Snapshots on the wire: when one is sent, what it pauses, how it is taken and how it ends."""

from __future__ import annotations

from typing import Any

import pytest

from rafter_core import (
    Entry,
    HardState,
    InvariantError,
    Membership,
    Message,
    MessageKind,
    ProgressMode,
    ProgressStatus,
    RawNode,
    Role,
    Snapshot,
    SnapshotUnavailable,
    StepError,
)
from rafter_core.log import RaftLog
from tests.core.network import Host, Network
from tests.core.support import THREE, Driven, both_modes, entry, of_kind

APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE
SNAPSHOT = MessageKind.SNAPSHOT
PROBE, REPLICATE, IN_SNAPSHOT = tuple(ProgressMode)

IMAGE = Snapshot(11, 11, Membership((1, 2)), b"image")


def leader_behind_snapshot(
    snapshot: Snapshot = IMAGE, *, is_active: bool = True, **config: Any
) -> Driven:
    """Return a leader whose log begins behind a snapshot, at 12; node 2 was heard from or not.

    What it knows about node 2 stands at `next` 12 until that refuses or acknowledges something.
    """
    driven = Driven(membership=Membership(()), **config)
    driven.storage.apply_snapshot(snapshot)
    driven.storage.set_hard_state(HardState(11, 0, 11))
    driven.restart(applied=snapshot.index)
    driven.lead()
    if is_active:
        driven.step(HEARTBEAT_RESPONSE, 2)
    return driven


def waiting_for_snapshot(**config: Any) -> Driven:
    """Return such a leader that has just sent its snapshot: node 2 holds nothing at all."""
    driven = leader_behind_snapshot(**config)
    (message,) = driven.step(APPEND_RESPONSE, 2, index=11, reject=True, reject_hint=0)
    assert message.kind is SNAPSHOT
    return driven


def progress(driven: Driven, node: int = 2) -> ProgressStatus:
    return driven.node.status().progress[node]


# ---- sending -----------------------------------------------------------------------------------


def test_a_follower_that_needs_what_is_compacted_is_sent_the_snapshot() -> None:
    driven = leader_behind_snapshot()
    assert (progress(driven).next, progress(driven).mode) == (12, PROBE)
    out = driven.step(APPEND_RESPONSE, 2, index=11, reject=True, reject_hint=0)
    assert out == [Message(kind=SNAPSHOT, to=2, sender=1, term=12, snapshot=IMAGE)]
    item = progress(driven)
    assert (item.match, item.next, item.mode, item.pending_snapshot) == (0, 12, IN_SNAPSHOT, 11)
    assert "snapshot_sent" in driven.event_names()


@pytest.mark.parametrize(("hint", "kind"), [(11, APPEND), (10, SNAPSHOT), (5, SNAPSHOT)])
def test_a_snapshot_is_sent_only_if_the_log_does_not_reach_back(
    hint: int, kind: MessageKind
) -> None:
    driven = leader_behind_snapshot()
    driven.node._raft.tracker.progress[2].reset(0, 13)
    driven.node._raft.tracker.progress[2].recent_active = True
    (message,) = driven.step(APPEND_RESPONSE, 2, index=12, reject=True, reject_hint=hint)
    assert message.kind is kind


def test_nothing_is_sent_while_a_snapshot_is_on_its_way() -> None:
    driven = waiting_for_snapshot()
    assert driven.propose() == []
    assert driven.step(HEARTBEAT_RESPONSE, 2) == []
    assert driven.step(APPEND_RESPONSE, 2, index=0) == []
    assert [m.kind for m in driven.tick()] == [MessageKind.HEARTBEAT]
    item = progress(driven)
    assert (item.mode, item.next, item.pending_snapshot) == (IN_SNAPSHOT, 12, 11)


def test_a_follower_that_is_not_active_is_sent_no_snapshot() -> None:
    driven = leader_behind_snapshot(is_active=False)
    tracked = driven.node._raft.tracker.progress[2]
    tracked.reset(0, 1)
    driven.tick()
    assert driven.propose() == []
    assert driven.event_names()[-1] == "snapshot_not_sent"
    assert (progress(driven).mode, progress(driven).pending_snapshot) == (PROBE, 0)
    # Its first sign of life brings it.
    assert [m.kind for m in driven.step(HEARTBEAT_RESPONSE, 2)] == [SNAPSHOT]


def test_a_snapshot_that_is_not_at_hand_is_sent_later() -> None:
    driven = Driven(membership=Membership((1, 2)), terms=[1, 1, 1], hard_state=HardState(1, 0, 3))
    driven.storage.compact(2)
    driven.restart(applied=2)
    driven.lead()
    assert driven.step(APPEND_RESPONSE, 2, index=3, reject=True, reject_hint=0) == []
    assert driven.event_names()[-1] == "append_rejected" or "snapshot_not_sent" in (
        driven.event_names()
    )
    assert progress(driven).mode is PROBE
    driven.storage.create_snapshot(3, Membership((1, 2)), b"late")
    (message,) = driven.step(HEARTBEAT_RESPONSE, 2)
    assert message.snapshot == Snapshot(3, 1, Membership((1, 2)), b"late")
    assert progress(driven).pending_snapshot == 3


def test_a_witness_is_sent_no_data() -> None:
    membership = Membership((1, 2, 3), witnesses=(3,))
    driven = leader_behind_snapshot(Snapshot(11, 11, membership, b"image"), node_id=1)
    driven.step(HEARTBEAT_RESPONSE, 3)
    (message,) = driven.step(APPEND_RESPONSE, 3, index=11, reject=True, reject_hint=0)
    assert message.snapshot == Snapshot(11, 11, membership, b"")
    (message,) = driven.step(APPEND_RESPONSE, 2, index=11, reject=True, reject_hint=0)
    assert message.snapshot == Snapshot(11, 11, membership, b"image")


def test_the_leader_sends_the_snapshot_that_it_received_itself_last() -> None:
    driven = Driven(membership=Membership(()))
    driven.step(SNAPSHOT, 2, term=11, snapshot=IMAGE)
    driven.lead()
    driven.step(HEARTBEAT_RESPONSE, 2)
    (message,) = driven.step(APPEND_RESPONSE, 2, index=11, reject=True, reject_hint=0)
    assert message.snapshot == IMAGE


# ---- how it ends -------------------------------------------------------------------------------


def test_a_failed_snapshot_is_probed_from_match_after_a_sign_of_life() -> None:
    driven = waiting_for_snapshot()
    driven.node.report_snapshot(2, False)
    item = progress(driven)
    assert (item.mode, item.match, item.next, item.pending_snapshot) == (PROBE, 0, 1, 0)
    assert item.flow_paused
    assert driven.pump() == driven.propose() == []
    assert driven.event_names()[-1] == "snapshot_reported"
    assert [m.kind for m in driven.step(HEARTBEAT_RESPONSE, 2)] == [SNAPSHOT]


def test_a_sent_snapshot_is_probed_behind_it_after_a_sign_of_life() -> None:
    driven = waiting_for_snapshot()
    driven.node.report_snapshot(2, True)
    item = progress(driven)
    assert (item.mode, item.match, item.next, item.pending_snapshot) == (PROBE, 0, 12, 0)
    assert item.flow_paused
    assert driven.pump() == driven.propose() == []
    (message,) = driven.step(HEARTBEAT_RESPONSE, 2)
    assert (message.kind, message.index, len(message.entries)) == (APPEND, 11, 2)


@pytest.mark.parametrize("is_ok", [False, True])
def test_a_report_about_a_follower_without_a_snapshot_changes_nothing(is_ok: bool) -> None:
    driven = Driven()
    driven.lead_replicating()
    before = driven.node.status()
    for node in (1, 2, 9):
        driven.node.report_snapshot(node, is_ok)
    assert driven.node.status() == before
    follower = Driven()
    follower.node.report_snapshot(2, is_ok)
    assert follower.node.status() == Driven().node.status()


@pytest.mark.parametrize(
    ("index", "mode", "match", "next_index"),
    [
        # From index 11 on the log can go on, whichever snapshot that came from.
        (0, IN_SNAPSHOT, 0, 12),
        (10, IN_SNAPSHOT, 10, 12),
        (11, REPLICATE, 11, 13),
        (12, REPLICATE, 12, 13),
    ],
)
def test_an_acknowledgement_ends_the_wait_if_the_log_reaches_back_to_it(
    index: int, mode: ProgressMode, match: int, next_index: int
) -> None:
    driven = waiting_for_snapshot()
    out = driven.step(APPEND_RESPONSE, 2, index=index)
    item = progress(driven)
    assert (item.mode, item.match, item.next) == (mode, match, next_index)
    assert item.pending_snapshot == (11 if mode is IN_SNAPSHOT else 0)
    expected = {11: [(APPEND, 11, 1)], 12: [(APPEND, 12, 0)]}.get(index, [])
    assert [(m.kind, m.index, len(m.entries)) for m in out] == expected
    assert ("snapshot_acknowledged" in driven.event_names()) is (mode is REPLICATE)


def test_a_snapshot_from_elsewhere_ends_the_wait_too() -> None:
    """Not only the pending one: any that reconnects the follower with the log."""
    driven = waiting_for_snapshot()
    driven.node._raft.tracker.progress[2].become_snapshot(12)
    driven.step(APPEND_RESPONSE, 2, index=11)
    assert progress(driven).mode is REPLICATE


def test_a_refusal_during_a_snapshot_sends_nothing() -> None:
    driven = waiting_for_snapshot()
    assert driven.step(APPEND_RESPONSE, 2, index=11, reject=True, reject_hint=3) == []
    assert progress(driven).mode is IN_SNAPSHOT


def test_an_unreachable_follower_keeps_waiting_for_its_snapshot() -> None:
    driven = waiting_for_snapshot()
    driven.node.report_unreachable(2)
    assert (progress(driven).mode, progress(driven).pending_snapshot) == (IN_SNAPSHOT, 11)


def test_a_slow_follower_of_a_network_is_restored_and_follows_on() -> None:
    net = Network(count=3)
    net.campaign(1)
    net.isolate(3)
    for _ in range(100):
        net.propose(1, b"x")
    storage = net[1].storage
    storage.create_snapshot(net[1].node.applied, net[1].node.membership, b"image")
    storage.compact(net[1].node.applied)
    net.heal()
    net.tick(1)
    assert of_kind(net.delivered, SNAPSHOT)
    net.propose(1, b"y")
    assert net[3].node.commit == net[1].node.commit == 102
    assert net[3].storage.snapshot().data == b"image"
    assert net[3].payloads == [b"y"]


# ---- taking ------------------------------------------------------------------------------------


def restored(driven: Driven, snapshot: Snapshot, sender: int = 2, **fields: Any) -> list[Message]:
    return driven.step(SNAPSHOT, sender, snapshot=snapshot, **{"term": 11, **fields})


@both_modes
def test_a_snapshot_replaces_log_and_configuration(async_storage_writes: bool) -> None:
    driven = Driven(membership=Membership(()), node_id=1, async_storage_writes=async_storage_writes)
    out = restored(driven, IMAGE)
    assert out == [Message(kind=APPEND_RESPONSE, to=2, sender=1, term=11, index=11)]
    status = driven.node.status()
    assert (status.last_index, status.first_index, status.commit, status.applied) == (
        11, 12, 11, 11,
    )  # fmt: skip
    assert (status.term, status.leader, status.role) == (11, 2, Role.FOLLOWER)
    assert status.membership == IMAGE.membership
    assert driven.storage.snapshot() == IMAGE
    assert driven.node._raft.log.term(11) == 11
    # The same again is ignored, and answered by what is committed.
    assert restored(driven, IMAGE) == out
    assert driven.event_names()[-1] == "snapshot_ignored"


@pytest.mark.parametrize(
    "membership",
    [
        Membership((2, 3), learners=(1,)),
        Membership((2, 3), (1, 2, 3)),
        Membership((2, 3), (1, 2, 3), learners_next=(1,), auto_leave=True),
        Membership((1, 2, 3), (2, 3, 4), learners=(5,)),
        Membership((1, 2, 3), witnesses=(1,)),
    ],
)
def test_every_form_of_configuration_is_restored(membership: Membership) -> None:
    driven = Driven(membership=Membership(()))
    restored(driven, Snapshot(11, 11, membership))
    assert driven.node.membership == membership
    assert tuple(driven.node._raft.tracker.progress) == membership.nodes
    restarted = Driven(membership=membership)
    assert driven.node._raft.is_promotable() is restarted.node._raft.is_promotable()


@pytest.mark.parametrize(
    ("before", "after", "is_promotable"),
    [
        (THREE, Membership((2, 3), learners=(1,)), False),
        (Membership((2, 3), learners=(1,)), THREE, True),
    ],
)
def test_a_snapshot_may_demote_and_promote_its_receiver(
    before: Membership, after: Membership, is_promotable: bool
) -> None:
    driven = Driven(membership=before)
    assert driven.node._raft.is_promotable() is not is_promotable
    restored(driven, Snapshot(11, 11, after))
    assert driven.node.membership == after
    assert driven.node._raft.is_promotable() is is_promotable
    driven.node.campaign()
    assert (driven.node.role is Role.PRE_CANDIDATE) is is_promotable


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_snapshot_of_what_is_committed_is_ignored(index: int) -> None:
    driven = Driven(terms=[1, 1, 1, 1], hard_state=HardState(1, 0, 3))
    out = restored(driven, Snapshot(index, 1, Membership((1, 2))), term=1)
    assert [(m.kind, m.index) for m in out] == [(APPEND_RESPONSE, 3)]
    assert (driven.node.last_index, driven.node.commit) == (4, 3)
    assert driven.node.membership == THREE
    assert driven.event_names()[-1] == "snapshot_ignored"


def test_a_snapshot_of_what_the_log_holds_only_commits_it() -> None:
    driven = Driven(terms=[1, 1, 1, 1], hard_state=HardState(1, 0, 1))
    out = restored(driven, Snapshot(3, 1, Membership((1, 2))), term=1)
    assert [(m.kind, m.index) for m in out] == [(APPEND_RESPONSE, 3)]
    assert (driven.node.last_index, driven.node.commit, driven.node.applied) == (4, 3, 3)
    assert driven.node.membership == THREE
    assert [item.index for item in driven.committed] == [1, 2, 3]
    assert driven.event_names()[-1] == "snapshot_ignored"


@pytest.mark.parametrize(("term", "index"), [(2, 3), (2, 4), (1, 5)])
def test_a_snapshot_of_another_history_replaces_the_log(term: int, index: int) -> None:
    driven = Driven(terms=[1, 1, 1, 1], hard_state=HardState(1, 0, 1))
    out = restored(driven, Snapshot(index, term, THREE), term=2)
    assert [(m.kind, m.index) for m in out] == [(APPEND_RESPONSE, index)]
    assert (driven.node.last_index, driven.node.commit) == (index, index)
    assert driven.node._raft.log.last_term == term
    assert driven.event_names()[-1] == "snapshot_restored"


def test_a_snapshot_for_a_group_without_this_node_is_ignored() -> None:
    driven = Driven(terms=[1, 1], hard_state=HardState(1, 0, 1))
    out = restored(driven, Snapshot(11, 11, Membership((2, 3))))
    assert [(m.kind, m.index) for m in out] == [(APPEND_RESPONSE, 1)]
    assert (driven.node.last_index, driven.node.membership) == (2, THREE)
    assert driven.event_names()[-1] == "snapshot_ignored"


def test_a_snapshot_of_an_older_term_is_not_even_looked_at() -> None:
    driven = Driven(hard_state=HardState(12, 0, 0))
    assert restored(driven, IMAGE, term=11) == []
    assert driven.node.last_index == 0


@pytest.mark.parametrize("pre_vote", [False, True])
def test_a_candidate_concedes_to_who_sends_a_snapshot(pre_vote: bool) -> None:
    driven = Driven(pre_vote=pre_vote, hard_state=HardState(11, 0, 0))
    driven.node.campaign()
    driven.pump()
    out = restored(driven, Snapshot(12, 11, THREE), term=driven.node.term)
    assert [(m.kind, m.index) for m in out] == [(APPEND_RESPONSE, 12)]
    assert (driven.node.role, driven.node.leader) == (Role.FOLLOWER, 2)


def test_a_leader_takes_no_snapshot() -> None:
    driven = Driven()
    driven.lead_replicating()
    assert restored(driven, Snapshot(11, 1, THREE), term=1) == []
    assert (driven.node.last_index, driven.node.is_leader) == (1, True)


@pytest.mark.parametrize("term", [11, 12])
def test_a_snapshot_holds_off_the_election(term: int) -> None:
    driven = Driven(election_timeout_ticks=10, hard_state=HardState(11, 0, 0))
    driven.node._raft.election_timeout = 10
    driven.tick(9)
    restored(driven, IMAGE._replace(membership=THREE), term=term)
    assert driven.node.leader == 2
    driven.node._raft.election_timeout = 10
    driven.tick(9)
    assert driven.node.role is Role.FOLLOWER
    driven.tick()
    assert driven.node.status().role is Role.PRE_CANDIDATE


@pytest.mark.parametrize(
    ("snapshot", "text"),
    [
        (None, "not a snapshot to restore: there is none"),
        (
            Snapshot(3, 1, Membership((2, 1))),
            r"not a snapshot to restore: voters \(2, 1\) do not ascend",
        ),
        (Snapshot(3, 1, Membership((1,), learners=(1,))), "a node is both voter and learner"),
    ],
)
def test_a_malformed_snapshot_is_refused(snapshot: Snapshot | None, text: str) -> None:
    driven = Driven()
    with pytest.raises(StepError, match=text):
        driven.step(SNAPSHOT, 2, term=1, snapshot=snapshot)
    assert (driven.node.term, driven.node.last_index) == (0, 0)


# ---- while it is being stored and others are being applied -------------------------------------


def follower(**config: Any) -> Driven:
    """Return a follower of node 2 that holds four entries, two of them committed."""
    return Driven(terms=[1, 1, 1, 1], hard_state=HardState(1, 0, 2), **config)


def step(node: RawNode, kind: MessageKind, **fields: Any) -> None:
    node.step(Message(kind=kind, to=1, sender=2, **{"term": 2, **fields}))


def test_a_node_with_a_snapshot_that_is_not_durable_does_not_campaign() -> None:
    driven = Driven()
    step(driven.node, SNAPSHOT, snapshot=Snapshot(11, 2, THREE))
    driven.node.campaign()
    assert driven.node.role is Role.FOLLOWER
    ready = driven.node.ready()
    driven.node.campaign()
    assert driven.node.role is Role.FOLLOWER
    driven.store(ready)
    driven.node.campaign()
    assert driven.node.status().role is Role.PRE_CANDIDATE


def test_a_ready_hands_out_the_snapshot_once_with_its_acknowledgement() -> None:
    driven = Driven()
    snapshot = Snapshot(11, 2, THREE, b"image")
    step(driven.node, SNAPSHOT, snapshot=snapshot)
    assert driven.node.has_ready()
    ready = driven.node.ready()
    assert (ready.snapshot, ready.entries, ready.committed) == (snapshot, [], [])
    assert ready.hard_state == HardState(2, 0, 11)
    assert [m.index for m in ready.messages_after_sync] == [11]
    assert not driven.node.has_ready()
    assert driven.node.applied == 0
    driven.store(ready)
    assert (driven.node.applied, driven.node.commit) == (11, 11)
    assert not driven.node.has_ready()


def test_entries_behind_a_snapshot_wait_for_it_to_be_installed() -> None:
    driven = Driven()
    step(driven.node, SNAPSHOT, snapshot=Snapshot(11, 2, THREE))
    first = driven.node.ready()
    step(driven.node, APPEND, index=11, log_term=2, entries=[entry(2, 12)], commit=12)
    second = driven.node.ready()
    assert [item.index for item in second.entries] == [12]
    assert second.committed == []
    driven.store(first)
    assert not driven.node.has_ready()
    driven.store(second)
    assert [item.index for item in driven.node.ready().committed] == [12]


def test_a_snapshot_may_arrive_while_older_entries_are_being_applied() -> None:
    driven = follower()
    applying = driven.node.ready()
    assert [item.index for item in applying.committed] == [1, 2]
    driven.storage.store(applying)
    driven.node.storage_done(applying)
    step(driven.node, SNAPSHOT, snapshot=Snapshot(11, 2, THREE))
    arriving = driven.node.ready()
    assert arriving.committed == []
    # The older entries are reported in the middle: nothing moves back.
    driven.node.apply_done(1)
    assert driven.node.applied == 1
    driven.storage.store(arriving)
    driven.node.storage_done(arriving)
    assert driven.node.applied == 11
    driven.node.apply_done(2)
    assert (driven.node.applied, driven.node.commit) == (11, 11)
    step(driven.node, APPEND, index=11, log_term=2, entries=[entry(2, 12)], commit=12)
    driven.pump()
    assert [item.index for item in driven.committed] == [12]


@pytest.mark.parametrize("snapshot", [Snapshot(1, 1, THREE), Snapshot(2, 1, THREE)])
def test_a_snapshot_that_is_ignored_leaves_what_is_being_applied(snapshot: Snapshot) -> None:
    driven = follower()
    applying = driven.node.ready()
    step(driven.node, SNAPSHOT, snapshot=snapshot)
    later = driven.node.ready()
    assert (later.snapshot, later.committed) == (None, [])
    driven.store(applying)
    driven.store(later)
    assert driven.node.applied == 2


def test_a_snapshot_that_is_in_the_log_goes_on_with_what_is_being_applied() -> None:
    driven = follower()
    applying = driven.node.ready()
    step(driven.node, SNAPSHOT, snapshot=Snapshot(4, 1, THREE))
    later = driven.node.ready()
    assert (later.snapshot, [item.index for item in later.committed]) == (None, [3, 4])
    driven.store(applying)
    driven.store(later)
    assert driven.node.applied == 4


def test_a_second_snapshot_may_overtake_the_first() -> None:
    driven = Driven()
    step(driven.node, SNAPSHOT, snapshot=Snapshot(11, 2, THREE))
    first = driven.node.ready()
    step(driven.node, SNAPSHOT, snapshot=Snapshot(15, 2, THREE))
    second = driven.node.ready()
    assert second.snapshot == Snapshot(15, 2, THREE)
    driven.store(first)
    assert driven.node.applied == 11
    assert driven.node.status().first_index == 16
    driven.node.campaign()
    assert driven.node.role is Role.FOLLOWER
    driven.store(second)
    assert (driven.node.applied, driven.node.last_index) == (15, 15)


def test_a_conf_change_below_the_snapshot_is_not_handed_out_again() -> None:
    driven = follower()
    step(driven.node, SNAPSHOT, snapshot=Snapshot(11, 2, Membership((1, 2))))
    driven.pump()
    assert driven.committed == []
    assert driven.node.membership == Membership((1, 2))


def test_a_snapshot_of_a_machine_that_is_ahead_of_nothing_opens_where_it_ends() -> None:
    driven = Driven(membership=Membership(()))
    restored(driven, IMAGE)
    host = Host(1, Membership(()), storage=driven.storage)
    assert (host.node.applied, host.node.commit, host.node.membership) == (
        11, 11, IMAGE.membership,
    )  # fmt: skip
    with pytest.raises(InvariantError, match="the entries between them are gone"):
        driven.restart(applied=10)


def test_the_log_offers_no_snapshot_before_one_exists() -> None:
    log: RaftLog = Driven(terms=[1]).node._raft.log
    with pytest.raises(SnapshotUnavailable):
        log.snapshot()
    assert isinstance(log.slice(1, 2, 100)[0], Entry)
