"""Nodes with their storage, and the messages between them, moved one step at a time.

A node's work is done only when a directive says so: handling a Ready, storing and applying what the
two storage threads were given (in asynchronous mode), delivering the messages that wait.

The state machine appends: the data of a snapshot is what was there before and the payload of each
entry that was applied, for a membership change its context.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from rafter_core.conf_change import decode
from rafter_core.config import Config
from rafter_core.entries import Entry, EntryKind, HardState
from rafter_core.errors import (
    Compacted,
    LocalMessage,
    NotLeader,
    PeerNotFound,
    ProposalDropped,
    RaftError,
    RequestRefused,
    SnapshotOutOfDate,
    SnapshotUnavailable,
    StepError,
    Unavailable,
)
from rafter_core.membership import Membership
from rafter_core.memory_storage import MemoryStorage
from rafter_core.messages import APPEND_THREAD, APPLY_THREAD, Message, MessageKind
from rafter_core.raw_node import RawNode
from rafter_core.snapshot import Snapshot
from rafter_core.storage_messages import append_message, apply_message
from tests.replay import describe
from tests.replay.changes import CommandError
from tests.replay.datadriven import TranscriptError
from tests.replay.output import Output

_THREADS = (APPEND_THREAD, APPLY_THREAD)
_NO_SNAPSHOT = Snapshot(0, 0, Membership(()))
_ERROR_TEXTS: tuple[tuple[type[RaftError], str], ...] = (
    (ProposalDropped, "raft proposal dropped"),
    (NotLeader, "raft proposal dropped"),
    (PeerNotFound, "raft: cannot step as peer not found"),
    (LocalMessage, "raft: cannot step raft local message"),
    (Compacted, "requested index is unavailable due to compaction"),
    (Unavailable, "requested entry at index is unavailable"),
    (SnapshotOutOfDate, "requested index is older than the existing snapshot"),
    (SnapshotUnavailable, "snapshot is temporarily unavailable"),
)


def error_text(error: RaftError) -> str:
    """Return an error the way etcd words it."""
    for kind, text in _ERROR_TEXTS:
        if isinstance(error, kind):
            return text
    return str(error)


class HistoryStorage(MemoryStorage):
    """Storage that answers with the newest state that was applied when asked for a snapshot."""

    def __init__(self, first: Snapshot) -> None:
        super().__init__()
        self.history = [first]
        self.is_snapshot_available = True

    def snapshot(self) -> Snapshot:
        """Return the newest element of the history, stored or not."""
        if not self.is_snapshot_available:
            raise SnapshotUnavailable("a directive says so")
        return self.history[-1]

    def stored_snapshot(self) -> Snapshot:
        """Return the newest snapshot that was stored. Raises SnapshotUnavailable."""
        return super().snapshot()


@dataclass(slots=True)
class Node:
    """One node, and the work that waits for its two storage threads."""

    config: Config
    storage: HistoryStorage
    raw_node: RawNode
    append_work: deque[Message] = field(default_factory=deque)
    apply_work: deque[Message] = field(default_factory=deque)

    @property
    def id(self) -> int:
        """Return the id: nodes count from one in the order they were added."""
        return self.config.node_id


class Environment:
    """All nodes and all messages of one transcript."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.messages: list[Message] = []
        self.output = Output()

    def node(self, node_id: int) -> Node:
        """Return a node by its id. Raises TranscriptError if there is none."""
        if not 1 <= node_id <= len(self.nodes):
            raise TranscriptError(f"there is no node {node_id}")
        return self.nodes[node_id - 1]

    def named(self, node_ids: Iterable[int]) -> list[Node]:
        """Return nodes by their ids, in that order. Raises TranscriptError."""
        return [self.node(node_id) for node_id in node_ids]

    def add_node(self, config: Config, first: Snapshot | None) -> None:
        """Add the next node: from a snapshot, or blank and without a configuration."""
        node_id = len(self.nodes) + 1
        storage = HistoryStorage(first or _NO_SNAPSHOT)
        if first is not None:
            storage.apply_snapshot(first)
        config = replace(config, node_id=node_id)
        raw_node = RawNode(config, storage, random.Random(node_id))
        self.nodes.append(Node(config, storage, raw_node))

    def restart(self, node: Node) -> None:
        """Stop a node at once and start it again from what was stored.

        The machine is durable by itself: it holds all that was applied. Work that waits for storage
        is lost with the node, and so are its messages to itself.
        """
        storage = node.storage
        stored, applied = storage.stored_snapshot(), storage.history[-1]
        if applied.index > stored.index:
            storage.create_snapshot(applied.index, applied.membership, applied.data)
        elif applied.index < stored.index:
            storage.history.append(stored)
        node.append_work.clear()
        node.apply_work.clear()
        self.messages = [
            message
            for message in self.messages
            if not (_is_local(message) and node.id in {message.sender, message.to})
        ]
        node.config = replace(node.config, applied=storage.history[-1].index)
        node.raw_node = RawNode(node.config, storage, random.Random(node.id))

    # ---- messages ----------------------------------------------------------------------------

    def take_messages(
        self, to: int, kind: MessageKind | None = None, *, is_dropped: bool = False
    ) -> list[Message]:
        """Take a recipient's messages out of the queue, in order. Local ones are never dropped."""
        taken: list[Message] = []
        kept: list[Message] = []
        for message in self.messages:
            is_taken = (
                message.to == to
                and kind in {None, message.kind}
                and not (is_dropped and _is_local(message))
            )
            (taken if is_taken else kept).append(message)
        self.messages = kept
        return taken

    def deliver(self, messages: Iterable[Message]) -> None:
        """Print each message and step it into its recipient; a refusal is printed below it."""
        for message in messages:
            self.output.write(f"{describe.message(message)}\n")
            try:
                self.node(message.to).raw_node.step(message)
            except StepError as error:
                self.output.write(f"{error_text(error)}\n")
            except RequestRefused as error:
                # Of forwarded requests, etcd's Step returns an error for proposals alone.
                if message.kind is MessageKind.PROPOSE:
                    self.output.write(f"{error_text(error)}\n")

    def drop(self, messages: Iterable[Message]) -> None:
        """Print messages that are lost."""
        for message in messages:
            self.output.write(f"dropped: {describe.message(message)}\n")

    # ---- work of one node --------------------------------------------------------------------

    def process_ready(self, node: Node) -> None:
        """Take a Ready and print it. In synchronous mode store and apply it too."""
        is_async = node.config.async_storage_writes
        ready = node.raw_node.ready()
        messages = list(ready.messages)
        if is_async:
            local = (append_message(ready), apply_message(ready))
            messages += [message for message in local if message is not None]
        self.output.write(describe.ready(ready, messages))
        if not is_async:
            _store(node, ready.hard_state, ready.snapshot, ready.entries)
            _apply(node, ready.committed)
        for message in messages:
            if message.to == APPEND_THREAD:
                node.append_work.append(message)
            elif message.to == APPLY_THREAD:
                node.apply_work.append(message)
            else:
                self.messages.append(message)
        if not is_async:
            node.raw_node.advance()

    def process_append_thread(self, node: Node) -> None:
        """Store what the append thread was given first, and queue its responses."""
        if not node.append_work:
            self.output.write("no append work to perform")
            return
        message = node.append_work.popleft()
        state = HardState(message.term, message.vote, message.commit)
        self._process(message, lambda: _store(node, state, message.snapshot, message.entries))

    def process_apply_thread(self, node: Node) -> None:
        """Apply what the apply thread was given first, and queue its response."""
        if not node.apply_work:
            self.output.write("no apply work to perform")
            return
        message = node.apply_work.popleft()
        self._process(message, lambda: _apply(node, message.entries))

    def _process(self, message: Message, work: Callable[[], None]) -> None:
        self.output.write(f"Processing:\n{describe.message(message, has_responses=False)}\n")
        work()
        self.output.write("Responses:\n")
        for response in message.responses:
            self.output.write(f"{describe.message(response)}\n")
        self.messages += message.responses

    # ---- until nothing is left ---------------------------------------------------------------

    def stabilize(self, nodes: Sequence[Node]) -> None:
        """Let the nodes work, and send to each other, until none of them has anything to do.

        What goes to other nodes stays queued. A phase takes what there is when it comes to a node;
        what that causes waits for the next round.
        """
        is_busy = True
        while is_busy:
            is_busy = False
            for phase in (self._ready_phase, self._message_phase, self._storage_phases):
                is_busy |= phase(nodes)

    def _ready_phase(self, nodes: Sequence[Node]) -> bool:
        is_busy = False
        for node in nodes:
            if node.raw_node.has_ready():
                is_busy = True
                self.output.write(f"> {node.id} handling Ready\n")
                with self.output.indented():
                    self.process_ready(node)
        return is_busy

    def _message_phase(self, nodes: Sequence[Node]) -> bool:
        is_busy = False
        for node in nodes:
            messages = self.take_messages(node.id)
            if messages:
                is_busy = True
                self.output.write(f"> {node.id} receiving messages\n")
                with self.output.indented():
                    self.deliver(messages)
        return is_busy

    def _storage_phases(self, nodes: Sequence[Node]) -> bool:
        is_busy = False
        for node in nodes:
            if node.append_work:
                is_busy = True
                self.output.write(f"> {node.id} processing append thread\n")
                while node.append_work:
                    with self.output.indented():
                        self.process_append_thread(node)
        for node in nodes:
            if node.apply_work:
                is_busy = True
                self.output.write(f"> {node.id} processing apply thread\n")
                while node.apply_work:
                    with self.output.indented():
                        self.process_apply_thread(node)
        return is_busy


def _is_local(message: Message) -> bool:
    return message.sender == message.to or message.sender in _THREADS or message.to in _THREADS


def _store(
    node: Node, state: HardState | None, snapshot: Snapshot | None, entries: Sequence[Entry]
) -> None:
    """Make durable what a Ready or a message to the append thread holds."""
    if state is not None and any(state):
        node.storage.set_hard_state(state)
    if snapshot is not None and snapshot.index:
        if entries:
            raise CommandError("can't apply snapshot and entries at the same time")
        node.storage.apply_snapshot(snapshot)
    else:
        node.storage.append(entries)


def _apply(node: Node, entries: Iterable[Entry]) -> None:
    """Extend the node's history by one state for each entry."""
    history = node.storage.history
    for entry in entries:
        newest = history[-1]
        update = entry.payload
        membership = newest.membership
        if entry.kind in {EntryKind.CONFIG_CHANGE, EntryKind.CONFIG_CHANGE_V2}:
            change = decode(entry.kind, entry.payload)
            update = change.context
            membership = node.raw_node.apply_conf_change(change)
        history.append(Snapshot(entry.index, entry.term, membership, newest.data + update))
