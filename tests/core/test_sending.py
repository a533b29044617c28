"""What is sent to a follower, seen from the functions that send it."""

from __future__ import annotations

from rafter_core import (
    HardState,
    MemoryStorage,
    MessageKind,
    ProgressMode,
    Snapshot,
    SnapshotUnavailable,
)
from rafter_core.sending import broadcast_append, broadcast_heartbeat, send_append
from tests.core.support import THREE, Driven


def leader() -> Driven:
    driven = Driven()
    driven.lead_replicating()
    return driven


def test_nothing_new_is_sent_only_where_empty_is_allowed() -> None:
    raft = leader().node._raft
    progress = raft.tracker.progress[2]
    assert not send_append(raft, progress, is_empty_allowed=False)
    assert send_append(raft, progress, is_empty_allowed=True)
    assert raft.messages[-1].entries == []


def test_a_paused_follower_is_sent_nothing() -> None:
    raft = leader().node._raft
    progress = raft.tracker.progress[2]
    progress.flow_paused = True
    assert not send_append(raft, progress, is_empty_allowed=True)
    broadcast_append(raft)
    assert [message.to for message in raft.messages] == [3]


def test_heartbeats_carry_the_read_counter_in_eight_bytes() -> None:
    raft = leader().node._raft
    broadcast_heartbeat(raft, 258)
    broadcast_heartbeat(raft, 0)
    assert [message.context for message in raft.messages] == [b"\x02\x01" + bytes(6)] * 2 + [
        b""
    ] * 2
    assert {message.kind for message in raft.messages} == {MessageKind.HEARTBEAT}


def behind() -> Driven:
    """Return a leader whose log begins at 4, and whose follower 2 has nothing of it."""
    driven = Driven(terms=[1, 1, 1])
    driven.storage.create_snapshot(3, THREE, b"image")
    driven.storage.compact(3)
    driven.restart(applied=3)
    driven.lead()
    return driven


def test_a_snapshot_goes_to_a_node_that_was_heard_from_lately() -> None:
    raft = behind().node._raft
    progress = raft.tracker.progress[2]
    progress.next = 2
    progress.flow_paused = False
    for is_active in (False, True):
        progress.recent_active = is_active
        assert send_append(raft, progress, is_empty_allowed=True) is is_active
        assert progress.mode is (ProgressMode.SNAPSHOT if is_active else ProgressMode.PROBE)
    assert [(m.kind, m.to) for m in raft.messages] == [(MessageKind.SNAPSHOT, 2)]
    assert (progress.pending_snapshot, progress.next) == (3, 4)


class Busy(MemoryStorage):
    """Makes snapshots in the background: there is none yet."""

    def snapshot(self) -> Snapshot:
        raise SnapshotUnavailable("in the making")


def test_a_snapshot_that_is_not_there_yet_is_asked_for_again() -> None:
    driven = behind()
    raft = driven.node._raft
    progress = raft.tracker.progress[2]
    progress.next = 2
    progress.flow_paused = False
    progress.recent_active = True
    raft.log._storage = Busy()
    raft.log._storage.apply_snapshot(Snapshot(3, 1, THREE))
    for _ in range(2):
        assert not send_append(raft, progress, is_empty_allowed=True)
        assert (progress.mode, progress.is_paused) == (ProgressMode.PROBE, False)
    assert driven.event_names().count("snapshot_not_sent") == 2
    raft.log._storage = driven.storage
    assert send_append(raft, progress, is_empty_allowed=True)


def test_an_append_tells_the_commit_index_and_the_entry_before() -> None:
    driven = Driven(terms=[1, 2, 2], hard_state=HardState(2, 0, 2))
    driven.lead()
    raft = driven.node._raft
    progress = raft.tracker.progress[2]
    progress.flow_paused = False
    progress.next = 2
    assert send_append(raft, progress, is_empty_allowed=False)
    (message,) = raft.messages
    assert (message.index, message.log_term, message.commit, message.term) == (1, 1, 2, 3)
    assert [(e.term, e.index) for e in message.entries] == [(2, 2), (2, 3), (3, 4)]
    assert progress.sent_commit == 2


def test_heartbeats_tell_the_commit_index_as_far_as_it_is_acknowledged() -> None:
    driven = Driven(terms=[1, 1], hard_state=HardState(1, 0, 2))
    driven.lead()
    raft = driven.node._raft
    raft.tracker.progress[3].match = 1
    broadcast_heartbeat(raft, 0)
    assert [(m.to, m.commit, m.context) for m in raft.messages] == [(2, 0, b""), (3, 1, b"")]
    assert [raft.tracker.progress[node].sent_commit for node in (2, 3)] == [0, 1]
