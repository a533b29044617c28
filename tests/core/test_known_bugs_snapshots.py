"""Bugs of other raft systems around snapshots, one by one (reliability.md, section 4)."""

from __future__ import annotations

import pytest

from rafter_core import (
    HardState,
    Membership,
    MemoryStorage,
    Message,
    MessageKind,
    ProgressMode,
    Ready,
    Snapshot,
)
from rafter_core.storage_messages import append_message
from tests.core.network import Host, Network
from tests.core.support import THREE, Driven, entry, log_of, of_kind

APPEND = MessageKind.APPEND
SNAPSHOT = MessageKind.SNAPSHOT


def snapshot_message(index: int, term: int, *, at: int = 1, data: bytes = b"") -> Message:
    snapshot = Snapshot(index, term, THREE, data)
    return Message(kind=SNAPSHOT, to=1, sender=2, term=at, snapshot=snapshot)


def receive(driven: Driven, message: Message) -> list[Message]:
    driven.node.step(message)
    return driven.pump()


@pytest.mark.parametrize("index", [1, 2])
def test_a_snapshot_of_what_is_committed_is_ignored(index: int) -> None:
    """Item 29: an older one would roll the machine back."""
    driven = Driven(terms=(1, 1, 1, 1), hard_state=HardState(1, 0, 2))
    driven.pump()
    (answer,) = receive(driven, snapshot_message(index, 1))
    assert (answer.kind, answer.index, answer.reject) == (MessageKind.APPEND_RESPONSE, 2, False)
    assert driven.node.last_index == 4
    assert driven.storage.first_index() == 1
    assert driven.storage.entries(1, 5, 1 << 20) == log_of(1, 1, 1, 1)


def test_a_snapshot_of_what_stands_in_the_log_commits_and_keeps_the_rest() -> None:
    """Item 29."""
    driven = Driven(terms=(1, 1, 1, 1))
    (answer,) = receive(driven, snapshot_message(3, 1))
    assert answer.index == 3
    assert (driven.node.commit, driven.node.last_index) == (3, 4)
    assert driven.committed == log_of(1, 1, 1)
    assert driven.storage.first_index() == 1


def test_a_snapshot_of_another_history_replaces_the_log() -> None:
    """Item 29."""
    driven = Driven(terms=(1, 1, 1, 1), hard_state=HardState(1, 0, 1))
    driven.pump()
    (answer,) = receive(driven, snapshot_message(3, 2, at=2))
    assert answer.index == 3
    assert (driven.node.commit, driven.node.applied, driven.node.last_index) == (3, 3, 3)
    assert driven.storage.first_index() == 4
    assert driven.committed == log_of(1)


def test_a_snapshot_that_comes_twice_is_taken_once() -> None:
    """Item 29."""
    driven = Driven()
    receive(driven, snapshot_message(5, 1))
    driven.step(APPEND, 2, index=5, log_term=1, entries=[entry(1, 6)], commit=6)
    (answer,) = receive(driven, snapshot_message(5, 1))
    assert answer.index == 6
    assert (driven.node.last_index, driven.node.applied) == (6, 6)


@pytest.mark.parametrize("count", [0, 3, 5])
def test_an_append_from_the_beginning_after_compaction_applies_nothing_twice(count: int) -> None:
    """Item 30."""
    driven = Driven(terms=(1, 1, 1, 1), hard_state=HardState(1, 0, 3))
    driven.pump()
    assert driven.committed == log_of(1, 1, 1)
    driven.storage.create_snapshot(3, THREE)
    driven.storage.compact(3)
    (answer,) = driven.step(
        APPEND, 2, term=1, index=0, entries=log_of(1, 1, 1, 1, 1)[:count], commit=count
    )
    assert (answer.kind, answer.index, answer.reject) == (MessageKind.APPEND_RESPONSE, 3, False)
    assert driven.committed == log_of(1, 1, 1)
    assert (driven.node.commit, driven.node.last_index) == (3, 4)
    driven.step(APPEND, 2, term=1, index=3, log_term=1, entries=log_of(1, 1, 1, 1, 1)[3:], commit=5)
    assert driven.committed == log_of(1, 1, 1, 1, 1)


def test_a_snapshot_is_installed_while_earlier_entries_are_being_applied() -> None:
    """Item 31: what was handed out before is overtaken, nothing is handed out meanwhile."""
    driven = Driven(terms=(1, 1, 1))
    node = driven.node
    node.step(Message(kind=MessageKind.HEARTBEAT, to=1, sender=2, term=1, commit=3))
    applying = node.ready()
    driven.storage.store(applying)
    node.storage_done(applying)
    assert [item.index for item in applying.committed] == [1, 2, 3]
    node.step(snapshot_message(10, 1))
    installing = node.ready()
    assert installing.snapshot is not None
    entries = [entry(1, 11), entry(1, 12)]
    node.step(
        Message(
            kind=APPEND, to=1, sender=2, term=1, index=10, log_term=1, entries=entries, commit=12
        )
    )
    appending = node.ready()
    assert (installing.committed, appending.committed) == ([], [])
    assert (node.commit, node.applied) == (12, 0)
    node.apply_done(3)
    assert node.applied == 3
    for ready in (installing, appending):
        driven.storage.store(ready)
        node.storage_done(ready)
    assert (node.applied, node.membership) == (10, THREE)
    # A report of the overtaken entries changes nothing any more.
    node.apply_done(2)
    assert node.applied == 10
    assert node.ready().committed == entries


def test_a_receiver_that_restarts_in_the_middle_is_sent_a_snapshot_anew() -> None:
    """Item 32: the core's part: the leader goes on from what the driver reports."""
    net = Network(count=3)
    net.campaign(1)
    net.isolate(3)
    for number in range(5):
        net.propose(1, b"%d" % number)
    leader = net[1]
    leader.storage.create_snapshot(5, THREE, b"image")
    leader.storage.compact(5)
    net.heal()
    net.lose(SNAPSHOT)
    net.tick_all(2)
    assert leader.node.status().progress[3].mode is ProgressMode.SNAPSHOT
    assert leader.node.status().progress[3].pending_snapshot == 5
    for _ in range(3):
        net[3].restart()
        leader.node.report_snapshot(3, is_ok=False)
        net.tick_all(2)
        assert leader.node.status().progress[3].mode is ProgressMode.SNAPSHOT
    net.heal()
    leader.node.report_snapshot(3, is_ok=False)
    net.tick_all(2)
    assert net[3].storage.snapshot().data == b"image"
    assert net[3].payloads == [b"4"]
    assert leader.node.status().progress[3].match == leader.node.last_index


def install(driven: Driven, readys: list[Ready]) -> None:
    for ready in readys:
        driven.storage.store(ready)
        driven.node.storage_done(ready)


@pytest.mark.parametrize("is_taken_between", [True, False])
def test_two_snapshots_in_quick_succession_are_both_survived(is_taken_between: bool) -> None:
    """Item 33: the second comes while the first is being installed, or before it is handed out."""
    driven = Driven()
    readys = []
    driven.node.step(snapshot_message(5, 1, data=b"first"))
    if is_taken_between:
        readys.append(driven.node.ready())
    driven.node.step(snapshot_message(9, 1, data=b"second"))
    readys.append(driven.node.ready())
    install(driven, readys)
    assert driven.storage.snapshot() == Snapshot(9, 1, THREE, b"second")
    assert (driven.node.applied, driven.node.commit, driven.node.last_index) == (9, 9, 9)
    driven.pump()
    assert driven.committed == []
    driven.step(APPEND, 2, index=9, log_term=1, entries=[entry(1, 10)], commit=10)
    assert driven.committed == [entry(1, 10)]


def test_two_snapshots_in_quick_succession_in_the_message_form() -> None:
    """Item 33: the response of the first one comes after the second was received."""
    driven = Driven(messages_wait_for_term=False)
    works = []
    for index in (5, 9):
        driven.node.step(snapshot_message(index, 1))
        work = append_message(driven.node.ready())
        assert work is not None
        assert work.snapshot is not None
        driven.storage.apply_snapshot(work.snapshot)
        works.append(work)
    applied = []
    for work in works:
        driven.node.step(work.responses[-1])
        applied.append(driven.node.applied)
    assert applied == [5, 9]
    assert not driven.node.has_ready()


def test_a_leader_does_not_send_a_second_snapshot_while_one_is_under_way() -> None:
    """Item 33."""
    storage = MemoryStorage()
    storage.apply_snapshot(Snapshot(5, 1, Membership((1, 2))))
    storage.set_hard_state(HardState(1, 0, 5))
    net = Network(Host(1, THREE, storage=storage), Host(2, Membership((1, 2))))
    net.lose(SNAPSHOT)
    net[1].node.campaign()
    net.run()
    # Node 2 grants its vote with an empty log, and is sent a snapshot as soon as it refuses.
    assert net.leaders() == [1]
    sent = 0
    for _ in range(5):
        net[1].node.propose(b"x")
        messages = net[1].pump()
        sent += len(of_kind(messages, SNAPSHOT))
    assert sent == 0
    assert net[1].node.status().progress[2].mode is ProgressMode.SNAPSHOT
