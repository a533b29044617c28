"""Changes of the membership through the one object a driver uses: proposed, applied, left again."""

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
    Ready,
    Transition,
)
from tests.core.network import Network
from tests.core.support import Driven, both_modes

ADD, REMOVE, LEARNER = ChangeKind.ADD_VOTER, ChangeKind.REMOVE_NODE, ChangeKind.ADD_LEARNER
WITNESS, UPDATE = ChangeKind.ADD_WITNESS, ChangeKind.UPDATE_NODE
AUTO, IMPLICIT, EXPLICIT = Transition


class Recorder(Driven):
    """Remembers every configuration that was in force."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.seen = [self.node.membership]

    def store(self, ready: Ready) -> list[Message]:
        messages = super().store(ready)
        if self.node.membership != self.seen[-1]:
            self.seen.append(self.node.membership)
        return messages


def alone(*, async_storage_writes: bool) -> Recorder:
    """Return a leader that is the only member, so that everything commits by itself."""
    driven = Recorder(membership=Membership((1,)), async_storage_writes=async_storage_writes)
    driven.node.campaign()
    driven.pump()
    return driven


CASES = [
    # V1, and V2 with one change: one step.
    (ConfChange((Change(ADD, 2),), is_v1=True), Membership((1, 2)), None),
    (ConfChange((Change(ADD, 2),)), Membership((1, 2)), None),
    (ConfChange((Change(LEARNER, 2),)), Membership((1,), learners=(2,)), None),
    (ConfChange((Change(WITNESS, 2),)), Membership((1, 2), witnesses=(2,)), None),
    (ConfChange((Change(UPDATE, 2),)), Membership((1,)), None),
    (ConfChange((Change(REMOVE, 7),)), Membership((1,)), None),
    # One change, but a joint configuration is asked for.
    (
        ConfChange((Change(LEARNER, 2),), EXPLICIT),
        Membership((1,), (1,), (2,)),
        Membership((1,), learners=(2,)),
    ),
    (
        ConfChange((Change(LEARNER, 2),), IMPLICIT),
        Membership((1,), (1,), (2,), (), True),
        Membership((1,), learners=(2,)),
    ),
    # More than one: joint, and left by the leader itself unless told otherwise.
    (
        ConfChange((Change(ADD, 2), Change(LEARNER, 1), Change(LEARNER, 3))),
        Membership((2,), (1,), (3,), (1,), True),
        Membership((2,), learners=(1, 3)),
    ),
    (
        ConfChange((Change(ADD, 2), Change(LEARNER, 1), Change(LEARNER, 3)), EXPLICIT),
        Membership((2,), (1,), (3,), (1,)),
        Membership((2,), learners=(1, 3)),
    ),
    (
        ConfChange((Change(ADD, 2), Change(ADD, 3), Change(LEARNER, 4)), IMPLICIT),
        Membership((1, 2, 3), (1,), (4,), (), True),
        Membership((1, 2, 3), learners=(4,)),
    ),
]


@both_modes
@pytest.mark.parametrize(("change", "entered", "left"), CASES)
def test_a_change_leads_to_this_configuration(
    change: ConfChange, entered: Membership, left: Membership | None, async_storage_writes: bool
) -> None:
    driven = alone(async_storage_writes=async_storage_writes)
    driven.node.propose(b"before")
    driven.change(change)
    is_alone = entered.voters == (1,)
    assert driven.seen[1:2] == ([] if entered == Membership((1,)) else [entered])
    if left is None:
        assert driven.node.membership == entered
        return
    # It is left once both halves have the entry; here the other voters are silent so far.
    assert driven.seen[2:] == ([left] if is_alone and entered.auto_leave else [])
    if not entered.auto_leave:
        driven.change(ConfChange())
    for node in (2, 2):
        if driven.node.is_leader and not is_alone:
            driven.acknowledge(node)
    assert driven.seen[1:] == [entered, left]
    last = driven.committed[-1]
    assert (last.kind, last.payload) == (EntryKind.CONFIG_CHANGE_V2, b"")


def test_applying_returns_the_configuration_in_force() -> None:
    driven = alone(async_storage_writes=True)
    assert driven.node.apply_conf_change(ConfChange((Change(LEARNER, 2),))) == Membership(
        (1,), learners=(2,)
    )
    assert driven.node.membership == Membership((1,), learners=(2,))


@both_modes
@pytest.mark.parametrize("is_v1", [False, True])
def test_adding_a_node_twice_changes_nothing_the_second_time(
    is_v1: bool, async_storage_writes: bool
) -> None:
    driven = alone(async_storage_writes=async_storage_writes)
    first = ConfChange((Change(ADD, 1),), is_v1=is_v1)
    for change in (first, first, ConfChange((Change(ADD, 2),), is_v1=is_v1)):
        driven.change(change)
    assert driven.node.membership == Membership((1, 2))
    kind = EntryKind.CONFIG_CHANGE if is_v1 else EntryKind.CONFIG_CHANGE_V2
    assert [item.kind for item in driven.committed[1:]] == [kind] * 3


@both_modes
def test_a_second_change_before_the_first_is_applied_becomes_an_empty_entry(
    async_storage_writes: bool,
) -> None:
    driven = alone(async_storage_writes=async_storage_writes)
    driven.node.propose_conf_change(ConfChange((Change(LEARNER, 2),)))
    driven.node.propose_conf_change(ConfChange((Change(LEARNER, 3),)))
    driven.pump()
    assert driven.node.membership == Membership((1,), learners=(2,))
    assert [item.kind for item in driven.committed[1:]] == [
        EntryKind.CONFIG_CHANGE_V2,
        EntryKind.NORMAL,
    ]


@both_modes
def test_a_joint_configuration_is_left_by_a_leader_that_lost_and_regained_leadership(
    async_storage_writes: bool,
) -> None:
    """The leader that entered it stepped down before it could propose to leave (etcd#12136)."""
    driven = alone(async_storage_writes=async_storage_writes)
    driven.node.propose_conf_change(ConfChange((Change(LEARNER, 2),), IMPLICIT))
    ready = driven.node.ready()
    while not ready.committed:
        driven.store(ready)
        ready = driven.node.ready()
    # A higher term comes in between taking the entry and applying it.
    driven.node.step(
        Message(
            kind=MessageKind.HEARTBEAT,
            to=1,
            sender=3,
            term=driven.node.term + 1,
        )
    )
    driven.store(ready)
    driven.pump()
    joint = Membership((1,), (1,), (2,), (), True)
    assert driven.node.membership == joint
    assert not driven.node.is_leader
    driven.tick(10)
    driven.node.campaign()
    driven.pump()
    assert driven.node.is_leader
    assert driven.node.membership == Membership((1,), learners=(2,))


@both_modes
def test_every_node_applies_the_same_changes(async_storage_writes: bool) -> None:
    network = Network(count=3, async_storage_writes=async_storage_writes)
    network.campaign(1)
    network.change(2, ConfChange((Change(LEARNER, 3), Change(ADD, 4))))
    for node in (1, 2, 3):
        assert network[node].node.membership == Membership((1, 2, 4), learners=(3,))
    assert [item.kind for item in network[3].applied] == [
        EntryKind.NORMAL,
        EntryKind.CONFIG_CHANGE_V2,
        EntryKind.CONFIG_CHANGE_V2,
    ]
