"""The way of raft messages between the engine's groups and the exchanger's channels.

A message is an item of its own, but for heartbeats and their responses: those that one round has
for the same shard of a node leave as one item, however many groups they speak of.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from rafter_core import DecodeError, Message, MessageKind
from rafter_core.heartbeats import (
    HEARTBEATS_MAX,
    heartbeats_from_wire,
    heartbeats_to_wire,
    is_heartbeat,
)
from rafter_core.serializer import message_from_wire, message_to_wire
from rafter_transport.exchanger import Channel
from rafterd.placement import shard_of_group


class Post(Protocol):
    """The part of the exchanger that the engine uses."""

    def post(self, node: int, shard: int, channel: Channel, item: Any) -> bool:  # noqa: ANN401
        """Queue one item for the next flush; False when it was refused."""

    def flush(self) -> None:
        """Send one frame to each destination with queued items."""


class ShardCounts(Protocol):
    """The part of the registry that the engine uses."""

    def shard_count(self, node: int) -> int | None:
        """Return how many shards `node` has, or None while it was never heard."""


class RaftPost:
    """Sends the messages of all groups of a shard. On the shard's loop only.

    What cannot be posted is dropped: raft sends it again in its own time. Snapshots do not leave
    here; they go to `on_snapshot(group, message)`, which has to report how each of them ended.
    """

    def __init__(
        self,
        post: Post,
        shard_counts: ShardCounts,
        on_snapshot: Callable[[int, Message], None],
    ) -> None:
        self._on_snapshot = on_snapshot
        self._post = post
        self._shard_counts = shard_counts
        # What the round has gathered for each (node, shard).
        self._heartbeats: dict[tuple[int, int], list[tuple[int, Message]]] = {}

    def send(self, group: int, messages: Iterable[Message]) -> None:
        """Queue messages of one group; they leave with the next `flush`."""
        for message in messages:
            if message.kind is MessageKind.SNAPSHOT:
                self._on_snapshot(group, message)
                continue
            node = message.to
            shards = self._shard_counts.shard_count(node)
            if shards is None:
                continue
            shard = shard_of_group(group, shards)
            if is_heartbeat(message):
                self._gather(node, shard, group, message)
            else:
                self._post.post(node, shard, Channel.RAFT, message_to_wire(group, message))

    def flush(self) -> None:
        """Send what was queued, and what others posted, one frame to each destination."""
        if self._heartbeats:
            gathered, self._heartbeats = self._heartbeats, {}
            for (node, shard), heartbeats in gathered.items():
                self._post_heartbeats(node, shard, heartbeats)
        self._post.flush()

    def _gather(self, node: int, shard: int, group: int, message: Message) -> None:
        heartbeats = self._heartbeats.setdefault((node, shard), [])
        heartbeats.append((group, message))
        if len(heartbeats) == HEARTBEATS_MAX:
            del self._heartbeats[node, shard]
            self._post_heartbeats(node, shard, heartbeats)

    def _post_heartbeats(
        self, node: int, shard: int, heartbeats: list[tuple[int, Message]]
    ) -> None:
        if len(heartbeats) == 1:
            self._post.post(node, shard, Channel.RAFT, message_to_wire(*heartbeats[0]))
        else:
            self._post.post(node, shard, Channel.HEARTBEATS, heartbeats_to_wire(heartbeats))


def received(channel: Channel, node: int, items: Iterable[object]) -> Iterator[tuple[int, Message]]:
    """Yield the (group, message) pairs of items that `node` sent on RAFT or HEARTBEATS.

    Raises DecodeError at the first that is malformed, or is in the name of another node.
    """
    for item in items:
        if channel is Channel.HEARTBEATS:
            messages = heartbeats_from_wire(item)
        else:
            messages = [message_from_wire(item)]
        for group, message in messages:
            if message.sender != node:
                raise DecodeError(f"node {node} sent a message in the name of {message.sender}")
            yield group, message
