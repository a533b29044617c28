"""Changes of the membership on one node: what is admitted, and what comes into force when."""

from __future__ import annotations

from typing import Any

import pytest

from rafter_core import (
    ConfChange,
    Entry,
    EntryKind,
    HardState,
    InvariantError,
    Membership,
    Message,
    MessageKind,
    PeerNotFound,
    ProgressMode,
    ProposalDropped,
    Role,
    Transition,
)
from rafter_core.conf_change import encode
from tests.core.support import THREE, Driven, of_kind
from tests.replay.changes import parse_changes

APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE
NO_OP = (EntryKind.NORMAL, b"")


def change(
    text: str, transition: Transition = Transition.AUTO, *, is_v1: bool = False
) -> ConfChange:
    """Return a change like `v1 l2 r3`; the empty text leaves a joint configuration."""
    return ConfChange(parse_changes(text), transition, is_v1=is_v1)


def leader(membership: Membership = THREE, **config: Any) -> Driven:
    driven = Driven(membership=membership, **config)
    driven.lead_replicating()
    return driven


def commit_all(driven: Driven) -> None:
    """Let every node acknowledge everything, until nothing moves."""
    for _ in range(10):
        driven.pump()
        if driven.node.applied == driven.node.last_index:
            return
        for node in driven.node.membership.nodes:
            if node != 1 and node in driven.node.status().progress:
                driven.acknowledge(node)
    raise AssertionError("it does not come to rest")


def entry_at(driven: Driven, index: int) -> Entry:
    (found,) = driven.node._raft.log.slice(index, index + 1, 1 << 20)
    return found


# ---- admitted ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_v1", [False, True])
def test_a_change_is_appended_and_remembered_as_pending(is_v1: bool) -> None:
    driven = leader()
    proposal = change("v4", is_v1=is_v1)
    assert driven.node.propose_conf_change(proposal) == 2
    kind = EntryKind.CONFIG_CHANGE if is_v1 else EntryKind.CONFIG_CHANGE_V2
    assert entry_at(driven, 2) == Entry(1, 2, kind, encode(proposal))
    status = driven.node.status()
    assert (status.pending_change_index, status.membership) == (2, THREE)
    appends = of_kind(driven.pump(), APPEND)
    assert [(m.to, len(m.entries)) for m in appends] == [(2, 1), (3, 1)]


def test_a_second_change_meanwhile_becomes_an_empty_entry() -> None:
    driven = leader()
    driven.node.propose_conf_change(change("v4"))
    assert driven.node.propose_conf_change(change("v5")) == 3
    assert entry_at(driven, 3) == Entry(1, 3, *NO_OP)
    assert driven.node.status().pending_change_index == 2
    (refusal,) = [event for event in driven.events if event.name == "conf_change_refused"]
    assert refusal.detail == "one may be unapplied at 2, applied is 1"
    commit_all(driven)
    assert driven.node.membership == Membership((1, 2, 3, 4))
    driven.node.propose_conf_change(change("v5"))
    assert driven.node.status().pending_change_index == 4
    assert entry_at(driven, 4).kind is EntryKind.CONFIG_CHANGE_V2


def test_of_several_changes_in_one_batch_the_first_is_admitted() -> None:
    driven = leader()
    payload = encode(change("v4"))
    v2 = EntryKind.CONFIG_CHANGE_V2
    entries = [
        Entry(0, 0, EntryKind.NORMAL, b"a"),
        Entry(0, 0, v2, payload),
        Entry(0, 0, v2, encode(change("v5"))),
        Entry(0, 0, EntryKind.NORMAL, b"b"),
    ]
    driven.step(MessageKind.PROPOSE, 2, term=0, entries=entries)
    assert [entry_at(driven, index)[2:] for index in range(2, 6)] == [
        (EntryKind.NORMAL, b"a"),
        (v2, payload),
        NO_OP,
        (EntryKind.NORMAL, b"b"),
    ]
    assert driven.node.status().pending_change_index == 3


def test_a_refused_change_counts_no_bytes() -> None:
    driven = leader()
    driven.node.propose_conf_change(change("v4"))
    before = driven.node.uncommitted_bytes
    assert before == len(encode(change("v4")))
    driven.node.propose_conf_change(change("v5"))
    assert driven.node.uncommitted_bytes == before


JOINT = Membership((1, 2), (1, 3))


@pytest.mark.parametrize(
    ("membership", "proposal", "why"),
    [
        (JOINT, change("v4"), "the configuration is joint and must be left first"),
        (
            JOINT,
            change("v4", Transition.JOINT_EXPLICIT),
            "the configuration is joint and must be left first",
        ),
        (JOINT, change("", Transition.JOINT_EXPLICIT), "config is already joint"),
        (THREE, change(""), "the configuration is not joint, there is nothing to leave"),
        (
            THREE,
            change("", Transition.JOINT_IMPLICIT),
            "the configuration is not joint, there is nothing to leave",
        ),
        (THREE, change("r1 r2 r3"), "removed all voters"),
        (Membership((1,)), change("r1"), "removed all voters"),
        (
            Membership((1, 2), witnesses=(2,)),
            change("r1"),
            "no voter is left that stores payloads",
        ),
        (
            Membership((1, 2, 3), witnesses=(3,)),
            change("r1"),
            "with witnesses a leader is not removed, leadership has to be handed over first",
        ),
        (
            Membership((1, 2, 3), witnesses=(3,)),
            change("l1 v4"),
            "with witnesses a leader is not removed, leadership has to be handed over first",
        ),
    ],
)
def test_a_change_that_does_not_fit_becomes_an_empty_entry(
    membership: Membership, proposal: ConfChange, why: str
) -> None:
    driven = leader(membership)
    index = driven.node.propose_conf_change(proposal)
    assert entry_at(driven, index) == Entry(1, index, *NO_OP)
    (refusal,) = [event for event in driven.events if event.name == "conf_change_refused"]
    assert refusal.detail == why
    assert driven.node.status().pending_change_index == 0
    commit_all(driven)
    assert driven.node.membership == membership


@pytest.mark.parametrize("text", ["r2", "r3", "v4", "l1 v1"])
def test_with_witnesses_other_changes_are_admitted(text: str) -> None:
    driven = leader(Membership((1, 2, 3), witnesses=(3,)))
    driven.change(change(text))
    assert entry_at(driven, 2).kind is EntryKind.CONFIG_CHANGE_V2
    assert "conf_change_refused" not in driven.event_names()


def test_the_reasons_are_looked_at_in_order() -> None:
    driven = leader(JOINT)
    driven.node.propose_conf_change(change(""))
    driven.node.propose_conf_change(change("v4"))
    (refusal,) = [event for event in driven.events if event.name == "conf_change_refused"]
    assert refusal.detail == "one may be unapplied at 2, applied is 1"


def test_without_validation_only_what_nobody_could_apply_is_refused() -> None:
    driven = leader(validate_conf_changes=False)
    for text in ("v4", "v5", "", "r1 r2 r3"):
        index = driven.node.propose_conf_change(change(text))
        assert entry_at(driven, index).kind is EntryKind.CONFIG_CHANGE_V2
        assert driven.node.status().pending_change_index == index
    driven.step(
        MessageKind.PROPOSE,
        2,
        term=0,
        entries=[Entry(0, 0, EntryKind.CONFIG_CHANGE_V2, b"\xc1")],
    )
    assert entry_at(driven, 6) == Entry(1, 6, *NO_OP)
    assert driven.node.status().pending_change_index == 5


@pytest.mark.parametrize("kind", [EntryKind.CONFIG_CHANGE, EntryKind.CONFIG_CHANGE_V2])
def test_bytes_that_are_no_change_become_an_empty_entry(kind: EntryKind) -> None:
    driven = leader()
    driven.step(MessageKind.PROPOSE, 2, term=0, entries=[Entry(0, 0, kind, b"\xc1")])
    assert entry_at(driven, 2) == Entry(1, 2, *NO_OP)
    (refusal,) = [event for event in driven.events if event.name == "conf_change_refused"]
    assert refusal.detail.startswith("a configuration change is not msgpack")


def test_a_follower_passes_a_change_on() -> None:
    driven = Driven()
    driven.step(MessageKind.HEARTBEAT, 3, term=4)
    assert driven.node.propose_conf_change(change("v4")) == 0
    entries = [Entry(0, 0, EntryKind.CONFIG_CHANGE_V2, encode(change("v4")))]
    assert driven.pump() == [
        Message(kind=MessageKind.PROPOSE, to=3, sender=1, entries=entries),
    ]


@pytest.mark.parametrize("has_change", [False, True])
def test_a_new_leader_admits_a_change_once_everything_before_it_is_applied(
    has_change: bool,
) -> None:
    """What stands in its log may be a change; it does not look, and waits."""
    driven = Driven(terms=[1], hard_state=HardState(1, 0, 0))
    if has_change:
        driven.storage.append([Entry(1, 2, EntryKind.CONFIG_CHANGE_V2, encode(change("v4")))])
        driven.restart()
    driven.lead()
    last = 2 if has_change else 1
    assert driven.node.status().pending_change_index == last
    driven.node.propose_conf_change(change("v5"))
    assert entry_at(driven, last + 2) == Entry(2, last + 2, *NO_OP)
    commit_all(driven)
    driven.node.propose_conf_change(change("v5"))
    assert entry_at(driven, last + 3).kind is EntryKind.CONFIG_CHANGE_V2


def test_an_empty_log_holds_no_pending_change() -> None:
    driven = Driven()
    driven.lead()
    assert driven.node.status().pending_change_index == 0
    driven.node.propose_conf_change(change("v4"))
    assert entry_at(driven, 2).kind is EntryKind.CONFIG_CHANGE_V2


def test_losing_the_leadership_forgets_the_pending_change() -> None:
    driven = leader()
    driven.node.propose_conf_change(change("v4"))
    driven.pump()
    driven.step(APPEND_RESPONSE, 2, term=5)
    assert driven.node.status().pending_change_index == 0


# ---- in force ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "text", "after"),
    [
        (Membership((1,)), "v2", Membership((1, 2))),
        (Membership((1,)), "l2", Membership((1,), learners=(2,))),
        (Membership((1,)), "v1", Membership((1,))),
        (Membership((1,), learners=(2,)), "v2", Membership((1, 2))),
        (Membership((1, 2)), "l2", Membership((1,), learners=(2,))),
        (Membership((1, 2)), "r2", Membership((1,))),
        (Membership((1,), learners=(2,)), "r2", Membership((1,))),
        (Membership((1, 2)), "u2", Membership((1, 2))),
        (Membership((1, 2)), "w3", Membership((1, 2, 3), witnesses=(3,))),
        (Membership((1,)), "v3 v2", Membership((1, 2, 3), (1,), auto_leave=True)),
    ],
)
def test_applying_a_change_returns_what_is_in_force(
    before: Membership, text: str, after: Membership
) -> None:
    driven = Driven(membership=before)
    assert driven.node.apply_conf_change(change(text)) == after
    assert driven.node.membership == after == driven.node.status().membership
    assert tuple(driven.node._raft.tracker.progress) == after.nodes
    assert driven.pump() == []


@pytest.mark.parametrize(
    ("membership", "text", "why"),
    [
        (Membership((1,)), "r1", "removed all voters"),
        (Membership((1,), learners=(2,)), "l1", "removed all voters"),
        (JOINT, "v4", "can't apply simple config change in joint config"),
        (JOINT, "v4 v5", "config is already joint"),
        (THREE, "", "can't leave a non-joint config"),
    ],
)
def test_applying_what_should_not_have_been_admitted_stops_the_shard(
    membership: Membership, text: str, why: str
) -> None:
    driven = Driven(membership=membership)
    with pytest.raises(InvariantError, match=f"cannot be applied to Membership.*: {why}"):
        driven.node.apply_conf_change(change(text))
    assert driven.node.membership == membership


def test_the_same_node_added_twice_is_added_once() -> None:
    driven = leader(Membership((1,)))
    for text in ("v2", "v2", "v3"):
        driven.change(change(text))
        commit_all(driven)
    assert driven.node.membership == THREE
    kinds = [item.kind for item in driven.committed]
    assert kinds.count(EntryKind.CONFIG_CHANGE_V2) == 3


def test_a_change_is_in_force_when_it_is_applied_not_before() -> None:
    driven = leader()
    driven.node.propose_conf_change(change("r3"))
    driven.pump()
    assert driven.node.membership == THREE
    driven.acknowledge(2)
    assert driven.node.membership == Membership((1, 2))
    with pytest.raises(PeerNotFound):
        driven.acknowledge(3)


@pytest.mark.parametrize(
    ("membership", "expected"),
    [
        (Membership((1,)), True),
        (THREE, True),
        (Membership(()), False),
        (Membership((2, 3)), False),
        (Membership((2, 3), learners=(1,)), False),
        (Membership((2, 3), (1, 2)), True),
        (Membership((1, 2), (2, 3)), True),
        (Membership((2, 3), (1, 2), learners_next=(1,)), True),
        (Membership((1, 2), witnesses=(1,)), False),
    ],
)
def test_who_may_lead(membership: Membership, expected: bool) -> None:
    driven = Driven(membership=membership, election_timeout_ticks=10)
    driven.node.campaign()
    assert (driven.node.role is not Role.FOLLOWER) is expected
    idle = Driven(membership=membership, election_timeout_ticks=10)
    idle.tick(20)
    assert (idle.node.role is not Role.FOLLOWER) is expected


@pytest.mark.parametrize("kind", [EntryKind.CONFIG_CHANGE, EntryKind.CONFIG_CHANGE_V2])
@pytest.mark.parametrize("order", [False, True])
def test_a_committed_change_that_is_not_applied_forbids_to_campaign(
    kind: EntryKind, order: bool
) -> None:
    is_v1 = kind is EntryKind.CONFIG_CHANGE
    driven = Driven(pre_vote=False)
    payload = encode(change("r3", is_v1=is_v1))
    driven.node.step(
        Message(kind=APPEND, to=1, sender=2, term=1, entries=[Entry(1, 1, kind, payload)], commit=1)
    )
    ready = driven.node.ready()
    driven.storage.store(ready)
    driven.node.storage_done(ready)
    applying = driven.node.ready()
    assert [item.index for item in applying.committed] == [1]
    if order:
        driven.node.step(Message(kind=MessageKind.TIMEOUT_NOW, to=1, sender=2, term=1))
    else:
        driven.node.campaign()
    assert driven.node.role is Role.FOLLOWER
    assert driven.event_names()[-1] == "campaign_refused"
    driven.store(applying)
    driven.node.campaign()
    assert driven.node.status().role is Role.CANDIDATE


# ---- what a leader does then -------------------------------------------------------------------


def test_a_smaller_quorum_commits_what_was_pending() -> None:
    driven = leader(Membership((1, 2)))
    driven.node.propose_conf_change(change("r2"))
    driven.node.propose(b"hello")
    driven.pump()
    assert driven.node.commit == 1
    # The change needs both; then one is enough for what stands behind it.
    driven.acknowledge(2, 2)
    assert (driven.node.commit, driven.node.applied) == (3, 3)
    assert driven.node.membership == Membership((1,))
    assert driven.committed[-1].payload == b"hello"


def test_a_smaller_quorum_tells_the_others_at_once() -> None:
    driven = leader(Membership((1, 2, 3, 4)))
    driven.propose(b"hello")
    driven.acknowledge(2)
    assert driven.node.commit == 1
    out = driven.node.apply_conf_change(change("r4"))
    assert out == THREE
    assert driven.node.commit == 2
    appends = of_kind(driven.pump(), APPEND)
    assert [(m.to, m.commit, len(m.entries)) for m in appends] == [(2, 2, 0), (3, 2, 0)]


def test_a_smaller_quorum_releases_reads_that_were_held() -> None:
    driven = Driven(membership=Membership((1, 2, 3, 4)), terms=[1])
    driven.lead()
    driven.acknowledge(2)
    driven.node.read_index(b"a")
    assert of_kind(driven.pump(), MessageKind.HEARTBEAT) == []
    driven.node.apply_conf_change(change("r4"))
    beats = of_kind(driven.pump(), MessageKind.HEARTBEAT)
    assert [m.to for m in beats] == [2, 3]
    driven.step(HEARTBEAT_RESPONSE, 2, context=beats[0].context)
    assert [state.index for state in driven.reads] == [2]


def test_a_new_node_is_probed_at_once_and_others_are_left_alone() -> None:
    driven = leader()
    driven.node.propose(b"x")
    driven.pump()
    driven.acknowledge(2)
    driven.acknowledge(3)
    driven.node.apply_conf_change(change("l4"))
    (append,) = driven.pump()
    assert (append.to, append.index, append.log_term) == (4, 1, 1)
    assert [item.index for item in append.entries] == [2]
    item = driven.node.status().progress[4]
    assert (item.match, item.next, item.mode) == (0, 2, ProgressMode.PROBE)
    assert (item.recent_active, item.flow_paused) == (True, True)


def test_a_new_node_counts_as_active_for_one_period() -> None:
    driven = leader(Membership((1,)), election_timeout_ticks=10)
    driven.node.apply_conf_change(change("v2"))
    driven.tick(10)
    assert driven.node.is_leader
    driven.tick(9)
    assert driven.node.is_leader
    driven.tick()
    assert not driven.node.is_leader


def test_a_follower_that_applies_a_change_sends_nothing() -> None:
    driven = Driven()
    driven.step(MessageKind.HEARTBEAT, 3, term=4)
    driven.node.apply_conf_change(change("v4"))
    assert driven.pump() == []
    assert driven.node.status().progress == {}


@pytest.mark.parametrize("text", ["r1", "l1"])
def test_a_removed_or_demoted_leader_steps_down(text: str) -> None:
    driven = leader()
    driven.change(change(text))
    driven.acknowledge(2)
    assert (driven.node.role, driven.node.term, driven.node.leader) == (Role.FOLLOWER, 1, 0)
    assert "stepped_down" in driven.event_names()
    driven.tick(100)
    assert (driven.node.role, driven.node.term) == (Role.FOLLOWER, 1)


@pytest.mark.parametrize("eager_commit", [False, True])
def test_a_leader_that_steps_down_has_told_the_others_why(eager_commit: bool) -> None:
    driven = leader(eager_commit=eager_commit)
    driven.change(change("r1"))
    appends = of_kind(driven.acknowledge(2), APPEND)
    assert driven.node.role is Role.FOLLOWER
    assert {(m.to, m.commit) for m in appends} == {(2, 2), (3, 2)}


def test_a_removed_leader_leads_on_if_so_configured_but_takes_nothing_more() -> None:
    driven = leader(step_down_on_removal=False)
    driven.change(change("r1"))
    driven.propose(b"before")
    driven.acknowledge(2, 2)
    assert driven.node.is_leader
    assert driven.node.membership == Membership((2, 3))
    with pytest.raises(ProposalDropped, match="node 1 was removed from the group"):
        driven.node.propose(b"x")
    # It counts the others alone, and goes on to replicate and to beat.
    assert driven.node.commit == 2
    driven.acknowledge(3, 3)
    assert driven.node.commit == 2
    driven.acknowledge(2, 3)
    assert driven.node.commit == 3
    assert [m.to for m in of_kind(driven.tick(), MessageKind.HEARTBEAT)] == [2, 3]


def test_a_demoted_leader_leads_on_if_so_configured() -> None:
    driven = leader(step_down_on_removal=False)
    driven.change(change("l1"))
    driven.acknowledge(2)
    assert driven.node.is_leader
    assert driven.node.membership == Membership((2, 3), learners=(1,))
    assert driven.node.propose(b"x") == 3
    driven.pump()
    driven.acknowledge(2)
    assert driven.node.commit == 2
    driven.acknowledge(3)
    assert driven.node.commit == 3


# ---- joint configurations ----------------------------------------------------------------------


def test_a_commit_needs_both_halves() -> None:
    driven = leader(Membership((1, 2, 3), (1, 4, 5)))
    driven.propose(b"x")
    driven.acknowledge(2)
    driven.acknowledge(3)
    assert driven.node.commit == 1
    driven.acknowledge(5)
    assert driven.node.commit == 2


def test_an_election_needs_both_halves() -> None:
    driven = Driven(membership=Membership((1, 2, 3), (1, 4, 5)), pre_vote=False)
    requests = of_kind(driven.campaign(), MessageKind.VOTE)
    assert [m.to for m in requests] == [2, 3, 4, 5]
    driven.step(MessageKind.VOTE_RESPONSE, 2)
    driven.step(MessageKind.VOTE_RESPONSE, 3)
    assert driven.node.role is Role.CANDIDATE
    driven.step(MessageKind.VOTE_RESPONSE, 4)
    assert driven.node.is_leader


def test_an_election_is_lost_in_either_half() -> None:
    driven = Driven(membership=Membership((1, 2, 3), (1, 4, 5)), pre_vote=False)
    driven.campaign()
    driven.step(MessageKind.VOTE_RESPONSE, 4, reject=True)
    assert driven.node.role is Role.CANDIDATE
    driven.step(MessageKind.VOTE_RESPONSE, 5, reject=True)
    assert driven.node.status().role is Role.FOLLOWER


@pytest.mark.parametrize(
    ("heard", "leads"), [((2, 3), False), ((4, 5), False), ((2, 4), True), ((3, 5), True)]
)
def test_the_check_of_the_quorum_needs_both_halves(heard: tuple[int, ...], leads: bool) -> None:
    driven = leader(Membership((1, 2, 3), (1, 4, 5)), election_timeout_ticks=10)
    driven.tick(10)
    assert driven.node.is_leader
    for node in heard:
        driven.step(HEARTBEAT_RESPONSE, node)
    driven.tick(10)
    assert driven.node.is_leader is leads


def test_an_explicit_joint_configuration_is_left_by_an_empty_change() -> None:
    driven = leader()
    driven.change(change("v4 l3", Transition.JOINT_EXPLICIT))
    commit_all(driven)
    assert driven.node.membership == Membership((1, 2, 4), (1, 2, 3), learners_next=(3,))
    driven.propose(b"x")
    commit_all(driven)
    assert driven.node.membership.is_joint
    driven.change(change(""))
    commit_all(driven)
    assert driven.node.membership == Membership((1, 2, 4), learners=(3,))


@pytest.mark.parametrize("transition", [Transition.AUTO, Transition.JOINT_IMPLICIT])
def test_an_implicit_joint_configuration_is_left_by_the_leader(transition: Transition) -> None:
    driven = leader()
    driven.change(change("v4 r3", transition))
    driven.acknowledge(2)
    driven.acknowledge(3)
    assert driven.node.membership == Membership((1, 2, 4), (1, 2, 3), auto_leave=True)
    assert driven.node.last_index == 3
    assert entry_at(driven, 3) == Entry(1, 3, EntryKind.CONFIG_CHANGE_V2, b"")
    assert driven.node.status().pending_change_index == 3
    # Anything applied meanwhile does not propose it a second time.
    driven.propose(b"x")
    driven.acknowledge(4, 3)
    driven.acknowledge(2, 3)
    assert driven.node.membership == Membership((1, 2, 4))
    assert driven.node.last_index == 4


def test_an_implicit_single_change_goes_through_a_joint_configuration_if_asked_to() -> None:
    driven = leader(Membership((1,)))
    driven.change(change("l2", Transition.JOINT_IMPLICIT))
    assert driven.node.membership == Membership((1,), learners=(2,))
    assert [item.kind for item in driven.committed] == [
        EntryKind.NORMAL,
        EntryKind.CONFIG_CHANGE_V2,
        EntryKind.CONFIG_CHANGE_V2,
    ]


def test_the_next_leader_leaves_what_an_earlier_one_entered() -> None:
    driven = leader(Membership((1,)))
    driven.node.propose_conf_change(change("l2", Transition.JOINT_IMPLICIT))
    driven.store(driven.node.ready())
    # It hears of a higher term before the change is applied.
    driven.node.step(Message(kind=HEARTBEAT_RESPONSE, to=1, sender=1, term=2))
    driven.pump()
    assert driven.node.role is Role.FOLLOWER
    assert driven.node.membership == Membership((1,), (1,), (2,), auto_leave=True)
    assert driven.node.last_index == 2
    driven.tick(5)
    assert driven.node.membership.is_joint
    driven.lead()
    assert driven.node.membership == Membership((1,), learners=(2,))
    assert [item.kind for item in driven.committed][-2:] == [NO_OP[0], EntryKind.CONFIG_CHANGE_V2]


def test_leaving_waits_for_the_end_of_a_transfer() -> None:
    driven = leader()
    driven.change(change("v4 r3"))
    driven.node.transfer_leadership(2)
    driven.acknowledge(3)
    assert driven.node.membership.auto_leave
    assert driven.node.last_index == 2
    assert "auto_leave_postponed" in driven.event_names()
    driven.node.transfer_leadership(1)
    driven.propose(b"x")
    driven.acknowledge(2)
    driven.acknowledge(3)
    assert driven.node.last_index == 4
    assert entry_at(driven, 4) == Entry(1, 4, EntryKind.CONFIG_CHANGE_V2, b"")
    commit_all(driven)
    assert driven.node.membership == Membership((1, 2, 4))


def test_leaving_is_never_refused_for_want_of_room() -> None:
    size = len(encode(change("v4 r3")))
    driven = leader(uncommitted_bytes_max=size + 100)
    driven.change(change("v4 r3"))
    driven.propose(bytes(100))
    assert driven.node.uncommitted_bytes == size + 100
    driven.acknowledge(2, 2)
    assert driven.node.membership.auto_leave
    assert entry_at(driven, 4) == Entry(1, 4, EntryKind.CONFIG_CHANGE_V2, b"")
    assert driven.node.uncommitted_bytes == 100
    with pytest.raises(ProposalDropped, match="100 bytes are uncommitted"):
        driven.node.propose(bytes(size + 1))
    assert driven.node.propose(bytes(size)) == 5


def test_entering_is_not_left_before_the_entry_is_applied() -> None:
    """With changes withheld from the machine the leader proposes nothing."""
    driven = leader()
    driven.node.propose_conf_change(change("v4 r3"))
    driven.store(driven.node.ready())
    driven.node.step(Message(kind=APPEND_RESPONSE, to=1, sender=2, term=1, index=2))
    applying = driven.node.ready()
    assert [item.index for item in applying.committed] == [2]
    driven.node.apply_conf_change(change("v4 r3"))
    assert driven.node.membership.auto_leave
    assert driven.node.last_index == 2
    driven.storage.store(applying)
    driven.node.storage_done(applying)
    assert driven.node.last_index == 2
    driven.node.apply_done(2)
    assert driven.node.last_index == 3
