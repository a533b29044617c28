"""The message form of the asynchronous mode: what is asked of the threads, and what comes back."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rafter_core import (
    Config,
    Entry,
    EntryKind,
    HardState,
    LocalMessage,
    Membership,
    MemoryStorage,
    Message,
    MessageKind,
    RawNode,
    Ready,
    RequestRefused,
    Role,
    Snapshot,
    StepError,
)
from rafter_core.conf_change import decode
from rafter_core.messages import APPEND_THREAD, APPLY_THREAD
from rafter_core.storage_messages import append_message, apply_message
from tests.core.support import THREE, entry, log_of

APPEND = MessageKind.APPEND
APPEND_RESPONSE = MessageKind.APPEND_RESPONSE
HEARTBEAT = MessageKind.HEARTBEAT
SNAPSHOT = MessageKind.SNAPSHOT
STORAGE_APPEND = MessageKind.STORAGE_APPEND
STORAGE_APPEND_RESPONSE = MessageKind.STORAGE_APPEND_RESPONSE
STORAGE_APPLY = MessageKind.STORAGE_APPLY
STORAGE_APPLY_RESPONSE = MessageKind.STORAGE_APPLY_RESPONSE
VOTE_RESPONSE = MessageKind.VOTE_RESPONSE


class Calls:
    """A node whose driver answers with `storage_done` and `apply_done`, one step at a time."""

    def __init__(self, membership: Membership = THREE, *terms: int, **config: Any) -> None:
        self.storage = MemoryStorage(membership)
        if terms:
            self.storage.append(log_of(*terms))
            self.storage.set_hard_state(HardState(terms[-1], 0, 0))
        config.setdefault("messages_wait_for_term", False)
        config.setdefault("pre_vote", False)
        self.node = RawNode(Config(node_id=1, **config), self.storage, random.Random(1))
        self.storing: deque[Ready] = deque()
        self.applying: deque[list[Entry]] = deque()
        self.sent: list[Message] = []
        self.applied: list[Entry] = []

    def take(self) -> Ready:
        ready = self.node.ready()
        self.sent += ready.messages
        self._start(ready)
        return ready

    def store_one(self) -> bool:
        """Make the next Ready durable that has anything to do with storage."""
        while self.storing:
            ready = self.storing.popleft()
            self.storage.store(ready)
            self.node.storage_done(ready)
            self.sent += ready.messages_after_sync
            if append_message(ready) is not None:
                return True
        return False

    def apply_one(self) -> bool:
        if not self.applying:
            return False
        entries = self.applying.popleft()
        self._apply(entries)
        self.node.apply_done(entries[-1].index)
        return True

    def settle(self) -> None:
        """Do all the work there is."""
        while self.node.has_ready():
            self.take()
            while self.store_one():
                pass
            while self.apply_one():
                pass

    def step(self, kind: MessageKind, sender: int = 2, **fields: Any) -> None:
        fields.setdefault("term", self.node.term)
        self.node.step(Message(kind=kind, to=1, sender=sender, **fields))

    def _start(self, ready: Ready) -> None:
        self.storing.append(ready)
        if ready.committed:
            self.applying.append(ready.committed)

    def _apply(self, entries: list[Entry]) -> None:
        self.applied += entries
        for item in entries:
            if item.kind in (EntryKind.CONFIG_CHANGE, EntryKind.CONFIG_CHANGE_V2):
                self.node.apply_conf_change(decode(item.kind, item.payload))


class Threads(Calls):
    """The same with two threads that are peers: messages to them, and their responses."""

    def __init__(self, membership: Membership = THREE, *terms: int, **config: Any) -> None:
        super().__init__(membership, *terms, **config)
        self.appends: deque[Message] = deque()
        self.applies: deque[Message] = deque()

    def _start(self, ready: Ready) -> None:
        for queue, message in (
            (self.appends, append_message(ready)),
            (self.applies, apply_message(ready)),
        ):
            if message is not None:
                queue.append(message)

    def store_one(self) -> bool:
        if not self.appends:
            return False
        message = self.appends.popleft()
        hard_state = HardState(message.term, message.vote, message.commit)
        if hard_state != HardState():
            self.storage.set_hard_state(hard_state)
        if message.snapshot is not None:
            self.storage.apply_snapshot(message.snapshot)
        self.storage.append(message.entries)
        self._release(message)
        return True

    def apply_one(self) -> bool:
        if not self.applies:
            return False
        message = self.applies.popleft()
        self._apply(list(message.entries))
        self._release(message)
        return True

    def _release(self, message: Message) -> None:
        for response in message.responses:
            if response.to == 1:
                self.node.step(response)
            else:
                self.sent.append(response)


BOTH = pytest.mark.parametrize("form", [Calls, Threads])


def kinds(messages: list[Message]) -> list[tuple[MessageKind, int, int]]:
    return [(m.kind, m.sender, m.to) for m in messages]


# ---- what is asked -----------------------------------------------------------------------------


def test_a_ready_without_anything_to_store_asks_for_nothing() -> None:
    node = Threads().node
    ready = node.ready()
    assert append_message(ready) is None
    assert apply_message(ready) is None


def test_a_heartbeat_that_teaches_nothing_asks_for_nothing() -> None:
    threads = Threads(THREE, 1)
    threads.step(HEARTBEAT, term=1)
    ready = threads.take()
    assert [m.kind for m in ready.messages] == [MessageKind.HEARTBEAT_RESPONSE]
    assert (append_message(ready), apply_message(ready)) == (None, None)


def test_a_changed_hard_state_is_stored_without_a_response() -> None:
    threads = Threads(THREE, 1)
    threads.step(HEARTBEAT, term=5)
    message = append_message(threads.take())
    assert message == Message(
        kind=STORAGE_APPEND, to=APPEND_THREAD, sender=1, term=5, vote=0, commit=0
    )


def test_an_append_carries_entries_and_both_answers() -> None:
    threads = Threads()
    entries = [entry(1, 1, b"a"), entry(1, 2, b"b")]
    threads.step(APPEND, term=1, entries=entries, commit=1)
    ready = threads.take()
    assert append_message(ready) == Message(
        kind=STORAGE_APPEND,
        to=APPEND_THREAD,
        sender=1,
        term=1,
        commit=1,
        entries=entries,
        responses=[
            Message(kind=APPEND_RESPONSE, to=2, sender=1, term=1, index=2),
            Message(
                kind=STORAGE_APPEND_RESPONSE,
                to=1,
                sender=APPEND_THREAD,
                term=1,
                log_term=1,
                index=2,
            ),
        ],
    )
    # Nothing is applied before it is durable.
    assert apply_message(ready) is None
    threads.store_one()
    assert [m.kind for m in threads.sent] == [APPEND_RESPONSE]
    assert apply_message(threads.take()) == Message(
        kind=STORAGE_APPLY,
        to=APPLY_THREAD,
        sender=1,
        entries=entries[:1],
        responses=[
            Message(kind=STORAGE_APPLY_RESPONSE, to=1, sender=APPLY_THREAD, entries=entries[:1])
        ],
    )
    assert threads.node.applied == 0
    threads.apply_one()
    assert threads.node.applied == 1


def test_entries_without_a_new_hard_state_leave_its_fields_empty() -> None:
    threads = Threads()
    threads.step(APPEND, term=1, entries=[entry(1, 1)])
    threads.take()
    threads.step(APPEND, term=1, index=1, log_term=1, entries=[entry(1, 2)])
    message = append_message(threads.take())
    assert message is not None
    assert (message.term, message.vote, message.commit) == (0, 0, 0)
    assert [m.kind for m in message.responses] == [APPEND_RESPONSE, STORAGE_APPEND_RESPONSE]
    assert (message.responses[1].term, message.responses[1].index) == (1, 2)


def test_a_refusal_waits_for_the_storage_too() -> None:
    threads = Threads(THREE, 1)
    threads.step(APPEND, term=1, index=7, log_term=1)
    ready = threads.take()
    assert not ready.needs_storage
    message = append_message(ready)
    assert message is not None
    assert kinds(list(message.responses)) == [(APPEND_RESPONSE, 1, 2)]
    assert (message.term, list(message.entries), message.snapshot) == (0, [], None)


def test_a_later_append_vouches_for_entries_that_are_still_being_stored() -> None:
    threads = Threads()
    threads.step(APPEND, term=1, entries=[entry(1, 1)])
    threads.take()
    threads.step(HEARTBEAT, term=2)
    message = append_message(threads.take())
    assert message is not None
    assert list(message.entries) == []
    (response,) = message.responses
    assert (response.kind, response.term) == (STORAGE_APPEND_RESPONSE, 2)
    assert (response.log_term, response.index) == (1, 1)


def test_a_snapshot_is_stored_and_answered_with_itself() -> None:
    threads = Threads()
    snapshot = Snapshot(11, 2, THREE, b"image")
    threads.step(SNAPSHOT, term=2, snapshot=snapshot)
    message = append_message(threads.take())
    assert message is not None
    assert message.snapshot == snapshot
    assert (message.term, message.vote, message.commit) == (2, 0, 11)
    assert kinds(list(message.responses)) == [
        (APPEND_RESPONSE, 1, 2),
        (STORAGE_APPEND_RESPONSE, APPEND_THREAD, 1),
    ]
    response = message.responses[1]
    assert (response.term, response.log_term, response.index) == (2, 0, 0)
    assert response.snapshot == snapshot
    threads.store_one()
    assert threads.node.applied == 11


def test_own_votes_and_acknowledgements_come_before_the_response_of_the_storage() -> None:
    threads = Threads()
    threads.node.campaign()
    message = append_message(threads.take())
    assert message is not None
    assert (message.term, message.vote, message.commit) == (1, 1, 0)
    assert kinds(list(message.responses)) == [(VOTE_RESPONSE, 1, 1)]
    threads.store_one()
    threads.step(VOTE_RESPONSE, 2, term=1)
    assert threads.node.is_leader
    message = append_message(threads.take())
    assert message is not None
    assert kinds(list(message.responses)) == [
        (APPEND_RESPONSE, 1, 1),
        (STORAGE_APPEND_RESPONSE, APPEND_THREAD, 1),
    ]
    assert threads.node.status().progress[1].match == 0
    threads.store_one()
    assert threads.node.status().progress[1].match == 1
    assert threads.node.status().stable_index == 1


def test_several_batches_are_applied_in_order() -> None:
    threads = Threads(Membership((1,)))
    threads.node.campaign()
    for _ in range(4):
        threads.take()
        threads.store_one()
    threads.node.propose(b"a")
    threads.take()
    threads.store_one()
    threads.take()
    assert [[e.index for e in m.entries] for m in threads.applies] == [[1], [2]]
    assert threads.node.applied == 0
    threads.apply_one()
    assert threads.node.applied == 1
    threads.apply_one()
    assert threads.node.applied == 2
    assert not threads.apply_one()


# ---- what comes back ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sender"),
    [
        (STORAGE_APPEND, APPEND_THREAD),
        (STORAGE_APPLY, APPLY_THREAD),
        (STORAGE_APPEND_RESPONSE, 2),
        (STORAGE_APPEND_RESPONSE, APPLY_THREAD),
        (STORAGE_APPEND_RESPONSE, 1),
        (STORAGE_APPLY_RESPONSE, 2),
        (STORAGE_APPLY_RESPONSE, APPEND_THREAD),
    ],
)
def test_only_the_threads_may_answer(kind: MessageKind, sender: int) -> None:
    threads = Threads(THREE, 1)
    with pytest.raises(LocalMessage, match="this kind of message never leaves its node"):
        threads.step(kind, sender, term=1)


def test_an_empty_response_of_what_applies_changes_nothing() -> None:
    threads = Threads(THREE, 1)
    threads.step(STORAGE_APPLY_RESPONSE, APPLY_THREAD, term=0)
    assert threads.node.applied == 0


@BOTH
def test_a_completion_of_an_earlier_term_says_nothing_about_entries(form: type[Calls]) -> None:
    """A-B-A: 2/1 is being stored, is replaced by 2/2, and that by 2/1 again."""
    driver = form(THREE, 1)
    replaced = entry(1, 2, b"same")
    driver.step(APPEND, 2, term=1, index=1, log_term=1, entries=[replaced])
    driver.take()
    driver.step(APPEND, 3, term=2, index=1, log_term=1, entries=[entry(2, 2, b"other")])
    driver.take()
    driver.step(APPEND, 2, term=3, index=1, log_term=1, entries=[replaced, entry(3, 3)])
    driver.take()
    assert driver.node.status().stable_index == 1
    for stored, stable in ((replaced, 1), (entry(2, 2, b"other"), 1), (replaced, 3)):
        assert driver.store_one()
        assert driver.storage.entries(2, 3, 1 << 20) == [stored]
        assert driver.node.status().stable_index == stable
    assert driver.node._raft.log.slice(2, 4, 1 << 20) == [replaced, entry(3, 3)]


@BOTH
def test_a_later_ready_of_the_new_term_vouches_for_what_was_not_replaced(
    form: type[Calls],
) -> None:
    driver = form()
    driver.step(APPEND, 2, term=1, entries=[entry(1, 1), entry(1, 2)])
    driver.take()
    driver.step(HEARTBEAT, 3, term=2)
    driver.take()
    driver.store_one()
    assert driver.node.status().stable_index == 0
    driver.store_one()
    assert driver.node.status().stable_index == 2


@BOTH
def test_a_completion_of_an_earlier_term_still_installs_its_snapshot(form: type[Calls]) -> None:
    driver = form()
    driver.step(SNAPSHOT, 2, term=2, snapshot=Snapshot(11, 2, THREE))
    driver.take()
    driver.step(APPEND, 3, term=3, index=11, log_term=2, entries=[entry(3, 12)])
    driver.store_one()
    assert (driver.node.term, driver.node.applied) == (3, 11)
    assert driver.node.status().stable_index == 11
    driver.settle()
    assert driver.node.status().stable_index == 12


@BOTH
def test_a_vote_for_itself_that_comes_back_in_a_later_term_does_not_count(
    form: type[Calls],
) -> None:
    driver = form()
    driver.node.campaign()
    driver.take()
    driver.step(HEARTBEAT, 2, term=2)
    driver.node._raft.leader = 0
    driver.store_one()
    assert (driver.node.role, driver.node.term) == (Role.FOLLOWER, 2)
    assert driver.node._raft.tracker.votes == {}


@BOTH
def test_an_own_acknowledgement_of_an_earlier_term_does_not_count(form: type[Calls]) -> None:
    driver = form()
    driver.node.campaign()
    driver.settle()
    driver.step(VOTE_RESPONSE, 2)
    driver.take()
    driver.step(HEARTBEAT, 3, term=2)
    driver.node.campaign()
    driver.step(VOTE_RESPONSE, 2, term=3)
    assert driver.node.role is Role.CANDIDATE
    while driver.store_one():
        pass
    assert driver.node.status().progress == {}
    driver.settle()
    assert driver.node.is_leader
    assert driver.node.status().progress[1].match == driver.node.last_index == 2


def test_with_the_rule_of_terms_nothing_is_lost_in_the_message_form() -> None:
    """`messages_wait_for_term` holds messages back until what is asked with them is stored."""
    threads = Threads(messages_wait_for_term=True)
    threads.step(HEARTBEAT, term=5)
    ready = threads.take()
    assert (ready.messages, threads.sent) == ([], [])
    threads.store_one()
    assert kinds(threads.sent) == [(MessageKind.HEARTBEAT_RESPONSE, 1, 2)]
    threads.step(HEARTBEAT, term=5)
    threads.settle()
    assert kinds(threads.sent) == [(MessageKind.HEARTBEAT_RESPONSE, 1, 2)] * 2


# ---- the two forms are one ---------------------------------------------------------------------

_ACTIONS = (
    "take", "take", "store", "store", "apply", "campaign", "vote", "propose", "ack", "append",
    "replace", "heartbeat", "snapshot", "read", "tick",
)  # fmt: skip


def act(driver: Calls, action: str, number: int) -> None:
    """Do one thing to a node; whatever it refuses, both forms refuse."""
    node = driver.node
    sender = 2 + number % 2
    if action == "take":
        if node.has_ready():
            driver.take()
    elif action == "store":
        driver.store_one()
    elif action == "apply":
        driver.apply_one()
    elif action == "campaign":
        node.campaign()
    elif action == "vote":
        driver.step(VOTE_RESPONSE, sender, term=max(1, node.term), reject=number == 7)
    elif action == "propose":
        node.propose(bytes(number))
    elif action == "tick":
        node.tick()
    elif action == "read":
        node.read_index(bytes([number]))
    elif node.is_leader:
        if action == "ack":
            driver.step(APPEND_RESPONSE, sender, index=max(0, node.last_index - number % 3))
    elif action != "ack":
        act_as_leader(driver, action, number, sender)


def act_as_leader(driver: Calls, action: str, number: int, sender: int) -> None:
    """Send what a leader sends; number 0 is that of a new one, in a higher term."""
    node = driver.node
    log = node._raft.log
    last, commit = node.last_index, node.commit
    is_new = number == 0
    leader = sender if is_new else node.leader or sender
    term = max(1, node.term + is_new)
    if action == "append":
        driver.step(
            APPEND, leader, term=term, index=last, log_term=log.last_term,
            entries=[entry(term, last + 1)], commit=max(0, last - number),
        )  # fmt: skip
    elif action == "heartbeat":
        driver.step(HEARTBEAT, leader, term=term, commit=min(last, commit + number))
    elif action == "replace" and is_new and last > commit:
        driver.step(
            APPEND, leader, term=term, index=commit, log_term=log.term(commit),
            entries=[entry(term, commit + 1)],
        )  # fmt: skip
    elif action == "snapshot" and is_new:
        snapshot = Snapshot(last + 3, term, THREE, b"image")
        driver.step(SNAPSHOT, leader, term=term, snapshot=snapshot)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(_ACTIONS), st.integers(0, 7)), max_size=60))
def test_both_forms_lead_through_the_same_states(actions: list[tuple[str, int]]) -> None:
    calls, threads = Calls(), Threads()
    for action, number in actions:
        outcomes = []
        for driver in (calls, threads):
            try:
                act(driver, action, number)
                outcomes.append("")
            except (RequestRefused, StepError) as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]
        assert calls.node.status() == threads.node.status()
        assert calls.sent == threads.sent
    calls.settle()
    threads.settle()
    assert calls.node.status() == threads.node.status()
    assert calls.applied == threads.applied
    assert calls.storage.initial_state() == threads.storage.initial_state()
