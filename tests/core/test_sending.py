from __future__ import annotations

from rafter_core import MessageKind
from rafter_core.sending import broadcast_append, broadcast_heartbeat, send_append
from tests.core.support import Driven


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
