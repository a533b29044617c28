"""Small builders and a synchronous driver, shared by the tests of the core."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from rafter_core import (
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

THREE = Membership((1, 2, 3))


def entry(term: int, index: int, payload: bytes = b"") -> Entry:
    return Entry(term, index, EntryKind.NORMAL, payload)


def log_of(*terms: int) -> list[Entry]:
    """Return entries from index 1 on with these terms."""
    return [entry(term, index) for index, term in enumerate(terms, 1)]


class Driven:
    """A node with the driver's duties done at once, and everything that came out of it."""

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
        self.storage = MemoryStorage(membership)
        entries = log_of(*terms)
        self.storage.append(entries)
        if hard_state is not None:
            self.storage.set_hard_state(hard_state)
        elif entries:
            self.storage.set_hard_state(HardState(entries[-1].term, 0, 0))
        self.events: list[TraceEvent] = []
        self.node = RawNode(
            Config(node_id=node_id, **config), self.storage, random.Random(seed), self.events.append
        )
        self.committed: list[Entry] = []
        self.reads: list[ReadState] = []

    def store(self, ready: Ready) -> list[Message]:
        """Do all duties of one Ready and return its messages."""
        self.storage.store(ready)
        self.node.storage_done(ready)
        self.reads += ready.read_states
        self.committed += ready.committed
        if ready.committed:
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

    def event_names(self) -> list[str]:
        return [event.name for event in self.events]


def of_kind(messages: list[Message], kind: MessageKind) -> list[Message]:
    return [message for message in messages if message.kind is kind]
