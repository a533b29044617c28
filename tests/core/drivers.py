"""The three ways in which a driver may do a Ready's work, each with delays of its own.

- callbacks: `storage_done` and `apply_done`, several Readys under way.
- messages: etcd's message form; every response comes back on its own, in order for each thread.
- synchronous: one Ready at a time, then `advance`; inputs go on meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from rafter_core import Entry, HardState, Message, PeerNotFound, Ready
from rafter_core.storage_messages import append_message, apply_message

if TYPE_CHECKING:
    from tests.core.chaos_node import Node

Item = TypeVar("Item")


class Delayed(Generic[Item]):
    """Work that ends in the order in which it was given, each after a delay at least."""

    def __init__(self, node: Node, delay: Callable[[], int]) -> None:
        self._node = node
        self._delay = delay
        self._items: deque[tuple[int, Item]] = deque()

    def add(self, item: Item) -> None:
        """Begin one piece of work."""
        due = self._node.cluster.now + self._delay()
        if self._items:
            due = max(due, self._items[-1][0])
        self._items.append((due, item))

    def take(self) -> Item | None:
        """Return what has ended by now, one at a time."""
        if self._items and self._items[0][0] <= self._node.cluster.now:
            return self._items.popleft()[1]
        return None

    def __len__(self) -> int:
        return len(self._items)


class Driver(Protocol):
    """What does the work of one replica between two crashes."""

    def can_take(self) -> bool:
        """Return whether another Ready may be taken now."""
        ...

    def take(self, ready: Ready) -> None:
        """Begin the work of a Ready."""
        ...

    def finish(self) -> bool:
        """End one piece of work that is due. Return False if there is none."""
        ...

    def is_settled(self) -> bool:
        """Return whether no snapshot is being installed, so that the machine may be looked at."""
        ...


class CallbackDriver:
    """The asynchronous mode with `storage_done` and `apply_done`."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.storing: Delayed[Ready] = Delayed(node, node.storage_delay)
        self.applying: Delayed[list[Entry]] = Delayed(node, node.apply_delay)
        self.installing = 0

    def can_take(self) -> bool:
        return True

    def take(self, ready: Ready) -> None:
        node = self.node
        node.send(ready.messages, is_after_sync=False)
        if ready.snapshot is not None:
            self.installing += 1
        if ready.committed:
            node.check_durable(ready.committed)
            self.applying.add(ready.committed)
        self.storing.add(ready)

    def finish(self) -> bool:
        node = self.node
        ready = self.storing.take()
        if ready is not None:
            node.persist(ready.hard_state, ready.entries, ready.snapshot)
            if ready.snapshot is not None:
                self.installing -= 1
            if node.draw.random() < 0.5:
                node.call(lambda: node.raw.storage_done(ready))
                node.send(ready.messages_after_sync, is_after_sync=True)
            else:
                node.send(ready.messages_after_sync, is_after_sync=True)
                node.call(lambda: node.raw.storage_done(ready))
            return True
        entries = None if self.installing else self.applying.take()
        if entries is not None:
            node.apply(entries)
            node.call(lambda: node.raw.apply_done(entries[-1].index))
            return True
        return False

    def is_settled(self) -> bool:
        return not self.installing


class MessageDriver:
    """The asynchronous mode with storage threads as peers."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.storing: Delayed[Message] = Delayed(node, node.storage_delay)
        self.applying: Delayed[Message] = Delayed(node, node.apply_delay)
        self.stored: Delayed[Message] = Delayed(node, node.response_delay)
        self.applied: Delayed[Message] = Delayed(node, node.response_delay)
        self.installing = 0

    def can_take(self) -> bool:
        return True

    def take(self, ready: Ready) -> None:
        node = self.node
        node.send(ready.messages, is_after_sync=False)
        if ready.snapshot is not None:
            self.installing += 1
        to_store, to_apply = append_message(ready), apply_message(ready)
        if to_store is not None:
            self.storing.add(to_store)
        if to_apply is not None:
            node.check_durable(to_apply.entries)
            self.applying.add(to_apply)

    def finish(self) -> bool:
        node = self.node
        work: Message | None = self.storing.take()
        if work is not None:
            hard_state = HardState(work.term, work.vote, work.commit)
            node.persist(hard_state if any(hard_state) else None, work.entries, work.snapshot)
            if work.snapshot is not None:
                self.installing -= 1
            for response in work.responses:
                self.stored.add(response)
            return True
        work = None if self.installing else self.applying.take()
        if work is not None:
            node.apply(work.entries)
            for response in work.responses:
                self.applied.add(response)
            return True
        for thread in (self.stored, self.applied):
            done: Message | None = thread.take()
            if done is not None:
                self._deliver(done)
                return True
        return False

    def is_settled(self) -> bool:
        return not self.installing

    def _deliver(self, response: Message) -> None:
        node = self.node
        if response.to != node.node_id:
            node.send([response], is_after_sync=True)
            return
        try:
            node.call(lambda: node.raw.step(response))
        except PeerNotFound:
            # This node itself was removed meanwhile.
            assert node.node_id not in node.raw.membership.nodes


class SyncDriver:
    """The synchronous mode: one Ready at a time."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.working: Delayed[Ready] = Delayed(node, node.storage_delay)

    def can_take(self) -> bool:
        return not self.working

    def take(self, ready: Ready) -> None:
        assert not ready.messages_after_sync
        self.working.add(ready)

    def finish(self) -> bool:
        node = self.node
        ready = self.working.take()
        if ready is None:
            return False
        node.persist(ready.hard_state, ready.entries, ready.snapshot)
        node.send(ready.messages, is_after_sync=True)
        if ready.committed:
            node.check_durable(ready.committed)
            node.apply(ready.committed)
        node.call(node.raw.advance)
        return True

    def is_settled(self) -> bool:
        return True


DRIVERS: dict[str, Callable[[Node], Driver]] = {
    "callbacks": CallbackDriver,
    "messages": MessageDriver,
    "synchronous": SyncDriver,
}
