"""A network of nodes whose drivers work at once: messages flow until nothing moves any more.

For tests that follow one scenario step by step. Messages are delivered in the order in which they
were sent; links can be cut one way, nodes isolated, kinds of messages lost. What is random and what
crashes is in `harness`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

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
    ProposalDropped,
    RawNode,
    ReadState,
    Ready,
    RequestRefused,
    Role,
    StepError,
)
from rafter_core.conf_change import decode
from tests.core.support import log_of

DELIVERIES_MAX = 20_000


class Host:
    """One node with its storage and what came out of it. The driver's work is done at once."""

    def __init__(
        self,
        node_id: int,
        membership: Membership,
        *,
        terms: Iterable[int] = (),
        hard_state: HardState | None = None,
        storage: MemoryStorage | None = None,
        **config: Any,
    ) -> None:
        self.node_id = node_id
        self.config = config
        if storage is None:
            storage = MemoryStorage(membership)
            entries = log_of(*terms)
            storage.append(entries)
            if entries or hard_state is not None:
                last_term = entries[-1].term if entries else 0
                storage.set_hard_state(hard_state or HardState(last_term, 0, 0))
        self.storage = storage
        self.applied: list[Entry] = []
        self.reads: list[ReadState] = []
        self.errors: list[Exception] = []
        self.is_applying = True
        self.unapplied: list[Entry] = []
        self.restart()

    def restart(self, **changes: Any) -> None:
        """Start anew from what is stored; the applied entries are kept (a durable machine)."""
        self.config.update(changes)
        applied = self.applied[-1].index if self.applied else self.storage.first_index() - 1
        self.node = RawNode(
            Config(node_id=self.node_id, applied=applied, **self.config),
            self.storage,
            random.Random(self.node_id),
        )

    def pump(self) -> list[Message]:
        """Turn the loop until there is no more work; return all messages in order."""
        messages: list[Message] = []
        while self.node.has_ready():
            messages += self._handle(self.node.ready())
        return messages

    def apply_withheld(self) -> list[Message]:
        """Apply what was handed out while `is_applying` was off (asynchronous mode)."""
        self.is_applying = True
        entries, self.unapplied = self.unapplied, []
        self._apply(entries)
        if entries:
            self.node.apply_done(entries[-1].index)
        return self.pump()

    def _handle(self, ready: Ready) -> list[Message]:
        self.storage.store(ready)
        self.reads += ready.read_states
        is_async = self.config.get("async_storage_writes", True)
        if is_async:
            self.node.storage_done(ready)
        if self.is_applying:
            self._apply(ready.committed)
        else:
            self.unapplied += ready.committed
        if not is_async:
            self.node.advance()
        elif ready.committed and self.is_applying:
            self.node.apply_done(ready.committed[-1].index)
        return ready.messages + ready.messages_after_sync

    def _apply(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.applied.append(entry)
            if entry.kind in (EntryKind.CONFIG_CHANGE, EntryKind.CONFIG_CHANGE_V2):
                self.node.apply_conf_change(decode(entry.kind, entry.payload))

    @property
    def log(self) -> list[tuple[int, int, bytes]]:
        """Return (term, index, payload) of every stored entry."""
        first, last = self.storage.first_index(), self.storage.last_index()
        entries = self.storage.entries(first, last + 1, 1 << 60) if last >= first else []
        return [(entry.term, entry.index, entry.payload) for entry in entries]

    @property
    def payloads(self) -> list[bytes]:
        """Return the payloads that were applied, without no-ops and changes of the membership."""
        return [e.payload for e in self.applied if e.payload and e.kind is EntryKind.NORMAL]


class Network:
    """Nodes 1..count (or the given hosts), connected."""

    def __init__(self, *hosts: Host, count: int = 0, **config: Any) -> None:
        membership = Membership(tuple(range(1, count + 1)))
        made = hosts or [Host(node, membership, **config) for node in range(1, count + 1)]
        self.hosts = {host.node_id: host for host in made}
        self.cut_links: set[tuple[int, int]] = set()
        self.lost_kinds: set[MessageKind] = set()
        self.delivered: list[Message] = []
        self._queue: deque[Message] = deque()

    def __getitem__(self, node: int) -> Host:
        return self.hosts[node]

    def add(self, host: Host) -> Host:
        """Connect one more node."""
        self.hosts[host.node_id] = host
        return host

    # What is broken.

    def cut(self, one: int, other: int, *, one_way: bool = False) -> None:
        """Lose all messages between two nodes, or only those from one to the other."""
        self.cut_links.add((one, other))
        if not one_way:
            self.cut_links.add((other, one))

    def isolate(self, node: int) -> None:
        """Lose all messages from and to a node."""
        for other in self.hosts:
            if other != node:
                self.cut(node, other)

    def lose(self, *kinds: MessageKind) -> None:
        """Lose all messages of these kinds."""
        self.lost_kinds.update(kinds)

    def heal(self) -> None:
        """Lose nothing any more."""
        self.cut_links.clear()
        self.lost_kinds.clear()

    # What happens.

    def send(self, *messages: Message) -> None:
        """Deliver messages and all that follows from them."""
        self._queue.extend(messages)
        self.run()

    def run(self) -> None:
        """Do all work there is, until nothing moves."""
        for host in self.hosts.values():
            self._queue.extend(host.pump())
        self._deliver_all()

    def _deliver_all(self) -> None:
        for _ in range(DELIVERIES_MAX):
            if not self._queue:
                return
            self._deliver(self._queue.popleft())
        raise AssertionError("the network does not come to rest")

    def campaign(self, node: int) -> None:
        """Let a node stand for election."""
        self.hosts[node].node.campaign()
        self.run()

    def propose(self, node: int, payload: bytes = b"somedata") -> bool:
        """Propose at a node; return False if it was refused."""
        try:
            self.hosts[node].node.propose(payload)
        except ProposalDropped:
            return False
        self.run()
        return True

    def change(self, node: int, change: ConfChange) -> None:
        """Propose a change of the membership at a node."""
        self.hosts[node].node.propose_conf_change(change)
        self.run()

    def tick(self, node: int, count: int = 1) -> None:
        """Let time pass for one node."""
        self.run()
        for _ in range(count):
            self._tick(self.hosts[node])

    def tick_all(self, count: int = 1) -> None:
        """Let time pass for every node."""
        self.run()
        hosts = list(self.hosts.values())
        for _ in range(count):
            for host in hosts:
                self._tick(host)

    def _tick(self, host: Host) -> None:
        host.node.tick()
        self._queue.extend(host.pump())
        self._deliver_all()

    def roles(self) -> list[Role]:
        return [host.node.role for host in self.hosts.values()]

    def leaders(self) -> list[int]:
        """Return the nodes that believe to lead."""
        return [host.node_id for host in self.hosts.values() if host.node.is_leader]

    def _deliver(self, message: Message) -> None:
        if message.kind in self.lost_kinds or (message.sender, message.to) in self.cut_links:
            return
        host = self.hosts.get(message.to)
        if host is None:
            return
        self.delivered.append(message)
        try:
            host.node.step(message)
        except (StepError, RequestRefused) as error:
            host.errors.append(error)
        self._queue.extend(host.pump())
