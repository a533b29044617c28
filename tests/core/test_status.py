"""The picture of a replica: every field, and that taking it changes nothing."""

from __future__ import annotations

from rafter_core import (
    HardState,
    Membership,
    MessageKind,
    ProgressMode,
    ProgressStatus,
    Role,
    Status,
)
from tests.core.support import THREE, Driven

PROBE, REPLICATE, SNAPSHOT = tuple(ProgressMode)


def test_a_follower_shows_everything_but_progress() -> None:
    driven = Driven(terms=[1, 1, 2], hard_state=HardState(4, 2, 2))
    assert driven.node.status() == Status(
        node_id=1,
        role=Role.FOLLOWER,
        term=4,
        vote=2,
        leader=0,
        commit=2,
        applied=0,
        first_index=1,
        last_index=3,
        stable_index=3,
        transferee=0,
        uncommitted_bytes=0,
        unstable_bytes=0,
        pending_reads=0,
        pending_change_index=0,
        is_quiesced=False,
        membership=THREE,
        progress={},
    )


def test_the_leader_shows_the_progress_of_every_node_and_its_load() -> None:
    driven = Driven(membership=Membership((1, 2, 3), learners=(4,)))
    driven.lead()
    driven.acknowledge(2)
    driven.step(MessageKind.HEARTBEAT_RESPONSE, 3)
    driven.propose(b"abc")
    driven.node.propose(b"de")
    driven.node.read_index(b"r")
    driven.node.transfer_leadership(3)
    status = driven.node.status()
    assert status._replace(progress={}) == Status(
        node_id=1,
        role=Role.LEADER,
        term=1,
        vote=1,
        leader=1,
        commit=1,
        applied=1,
        first_index=1,
        last_index=3,
        stable_index=2,
        transferee=3,
        uncommitted_bytes=5,
        unstable_bytes=2,
        pending_reads=1,
        pending_change_index=0,
        is_quiesced=False,
        membership=Membership((1, 2, 3), learners=(4,)),
        progress={},
    )
    assert list(status.progress) == [1, 2, 3, 4]
    assert status.progress[1] == ProgressStatus(2, 3, REPLICATE, True, False, 0, 0)
    assert status.progress[2] == ProgressStatus(1, 4, REPLICATE, True, False, 2, 0)
    assert status.progress[3][2:4] == (PROBE, True)
    assert status.progress[4] == ProgressStatus(0, 1, PROBE, False, True, 0, 0)


def test_a_snapshot_on_its_way_is_shown() -> None:
    driven = Driven()
    driven.lead()
    driven.node._raft.tracker.progress[3].become_snapshot(7)
    assert driven.node.status().progress[3] == (0, 8, SNAPSHOT, False, False, 0, 7)


def test_a_pending_change_and_sleep_are_shown() -> None:
    driven = Driven(membership=Membership((1,)), quiesce_after_ticks=11)
    driven.lead()
    driven.tick(20)
    assert driven.node.status().is_quiesced
    assert driven.node.is_quiesced


def test_a_picture_stays_as_it_was_taken() -> None:
    driven = Driven()
    driven.lead_replicating()
    before = driven.node.status()
    driven.propose(b"x")
    driven.acknowledge(2)
    assert (before.last_index, before.progress[2].match) == (1, 1)
    assert (driven.node.status().last_index, driven.node.status().progress[2].match) == (2, 2)


def test_taking_a_status_is_no_work() -> None:
    driven = Driven()
    driven.node.status()
    assert not driven.node.has_ready()
    assert driven.node.status() == driven.node.status()
