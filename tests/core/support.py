"""Small builders and a synchronous driver, shared by the tests of the core."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest

from rafter_core import (
    ConfChange,
    Config,
    Entry,
    EntryKind,
    HardState,
    Membership,
    MemoryStorage,
    Message,
    MessageKind,
    RawNode,
    ReadState,
    Ready,
    TraceEvent,
)
from rafter_core.conf_change import decode

THREE = Membership((1, 2, 3))

# For tests that hold in both modes of the driver's work: the argument goes into the configuration.
both_modes = pytest.mark.parametrize(
    "async_storage_writes", [True, False], ids=["asynchronous", "synchronous"]
)
with_and_without_pre_vote = pytest.mark.parametrize(
    "pre_vote", [False, True], ids=["vote", "pre_vote"]
)


def entry(term: int, index: int, payload: bytes = b"") -> Entry:
    return Entry(term, index, EntryKind.NORMAL, payload)


def log_of(*terms: int) -> list[Entry]:
    """Return entries from index 1 on with these terms."""
    return [entry(term, index) for index, term in enumerate(terms, 1)]


class Driven:
    """A node with the driver's duties done at once, and everything that came out of it.

    Works in both modes: `async_storage_writes` in the configuration decides, as for a real driver.
    """

    def __init__(
        self,
        *,
        node_id: int = 1,
        membership: Membership = THREE,
        terms: Iterable[int] = (),
        hard_state: HardState | None = None,
        seed: int = 1,
        **config: Any,
    ) -> None:
        self.is_async: bool = config.get("async_storage_writes", True)
        self.storage = MemoryStorage(membership)
        entries = log_of(*terms)
        self.storage.append(entries)
        if hard_state is not None:
            self.storage.set_hard_state(hard_state)
        elif entries:
            self.storage.set_hard_state(HardState(entries[-1].term, 0, 0))
        self._config = {"node_id": node_id, **config}
        self._seed = seed
        self.restart()

    def restart(self, **changes: Any) -> None:
        """Start (anew) from what is stored, with nothing applied unless `applied` says so."""
        self._config.update(changes)
        self.events: list[TraceEvent] = []
        self.committed: list[Entry] = []
        self.reads: list[ReadState] = []
        self.node = RawNode(
            Config(**self._config), self.storage, random.Random(self._seed), self.events.append
        )

    def store(self, ready: Ready) -> list[Message]:
        """Do all duties of one Ready and return its messages."""
        self.storage.store(ready)
        if self.is_async:
            self.node.storage_done(ready)
        self.reads += ready.read_states
        self.committed += ready.committed
        for item in ready.committed:
            if item.kind in (EntryKind.CONFIG_CHANGE, EntryKind.CONFIG_CHANGE_V2):
                self.node.apply_conf_change(decode(item.kind, item.payload))
        if not self.is_async:
            self.node.advance()
        elif ready.committed:
            self.node.apply_done(ready.committed[-1].index)
        return ready.messages + ready.messages_after_sync

    def pump(self) -> list[Message]:
        """Turn the loop until there is no more work; return all messages in order."""
        messages: list[Message] = []
        while self.node.has_ready():
            messages += self.store(self.node.ready())
        return messages

    def step(self, kind: MessageKind, sender: int, **fields: Any) -> list[Message]:
        """Step one message, of the current term unless given, and pump."""
        fields.setdefault("term", self.node.term)
        self.node.step(Message(kind=kind, to=self.node.node_id, sender=sender, **fields))
        return self.pump()

    def tick(self, count: int = 1) -> list[Message]:
        messages: list[Message] = []
        for _ in range(count):
            self.node.tick()
            messages += self.pump()
        return messages

    def campaign(self) -> list[Message]:
        """Reach the real election: with pre-votes of everybody where they are on."""
        self.node.campaign()
        messages = self.pump()
        for message in messages:
            if message.kind is MessageKind.PRE_VOTE:
                messages = self.step(
                    MessageKind.PRE_VOTE_RESPONSE, message.to, term=self.node.term + 1
                )
                if messages:
                    break
        return messages

    def lead(self) -> list[Message]:
        """Win an election with the vote of every peer; return the first appends."""
        messages = self.campaign()
        out: list[Message] = []
        for message in messages:
            if message.kind is MessageKind.VOTE and not self.node.is_leader:
                out = self.step(MessageKind.VOTE_RESPONSE, message.to)
        assert self.node.is_leader
        return out

    def lead_replicating(self) -> None:
        """Lead, with every follower holding the whole log."""
        self.lead()
        for peer in self.node.status().progress:
            if peer != self.node.node_id:
                self.acknowledge(peer)

    def acknowledge(self, sender: int, index: int | None = None) -> list[Message]:
        return self.step(
            MessageKind.APPEND_RESPONSE,
            sender,
            index=self.node.last_index if index is None else index,
        )

    def propose(self, payload: bytes = b"x") -> list[Message]:
        """Propose, and pump."""
        self.node.propose(payload)
        return self.pump()

    def change(self, change: ConfChange) -> list[Message]:
        """Propose a change of the membership, and pump."""
        self.node.propose_conf_change(change)
        return self.pump()

    def event_names(self) -> list[str]:
        return [event.name for event in self.events]


def of_kind(messages: list[Message], kind: MessageKind) -> list[Message]:
    return [message for message in messages if message.kind is kind]
