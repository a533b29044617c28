"""The way of raft messages between the engine's groups and the exchanger's channels.

What one round has for the same shard of a node leaves as one item, however many groups it speaks
of.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from rafter_core import DecodeError, Message
from rafter_core.message_wire import messages_from_wire, messages_to_wire
from rafter_core.messages import MESSAGES_MAX, SNAPSHOT
from rafter_transport.exchanger import Channel
from rafterd.placement import shard_of_group

Pair = tuple[int, Message]
Join = Callable[[Sequence[Pair]], object]


class Post(Protocol):
    """The part of the exchanger that most of the daemon uses."""

    def post(self, node: int, shard: int, channel: Channel, item: Any) -> bool:  # noqa: ANN401
        """Queue one item for the next flush; False when it was refused."""

    def flush(self) -> None:
        """Send one frame to each destination with queued items."""


class RaftCarrier(Protocol):
    """The part of the exchanger that raft's messages use."""

    def post_joined(
        self,
        node: int,
        shard: int,
        channel: Channel,
        parts: Sequence[Pair],
        join: Join,
    ) -> bool:
        """Queue parts for the next flush, joined to as few items as possible."""

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
        post: RaftCarrier,
        shard_counts: ShardCounts,
        on_snapshot: Callable[[int, Message], None],
    ) -> None:
        self._on_snapshot = on_snapshot
        self._post = post
        self._shard_counts = shard_counts
        # What the round has gathered for each node.
        self._gathered: defaultdict[int, list[Pair]] = defaultdict(list)

    def send(self, group: int, messages: Iterable[Message]) -> None:
        """Gather messages of one group; they leave with the next `flush`, as they are then."""
        for message in messages:
            if message.kind is SNAPSHOT:
                self._on_snapshot(group, message)
            else:
                self._gathered[message.to].append((group, message))

    def flush(self) -> None:
        """Send what was gathered, and what others posted, one frame to each destination."""
        if self._gathered:
            gathered, self._gathered = self._gathered, defaultdict(list)
            for node, pairs in gathered.items():
                self._post_to(node, pairs)
        self._post.flush()

    def _post_to(self, node: int, pairs: list[Pair]) -> None:
        shards = self._shard_counts.shard_count(node)
        if shards is None:
            return
        for shard, its_pairs in _by_shard(pairs, shards):
            for begin in range(0, len(its_pairs), MESSAGES_MAX):
                part = its_pairs[begin : begin + MESSAGES_MAX]
                self._post.post_joined(node, shard, Channel.RAFT, part, messages_to_wire)


def _by_shard(pairs: list[Pair], shards: int) -> Iterable[tuple[int, list[Pair]]]:
    """Divide pairs by the shards of their node; each part keeps its order."""
    if shards == 1:
        return ((0, pairs),)
    divided: defaultdict[int, list[Pair]] = defaultdict(list)
    for pair in pairs:
        divided[shard_of_group(pair[0], shards)].append(pair)
    return divided.items()


def received(node: int, items: Iterable[object]) -> Iterator[Pair]:
    """Yield the (group, message) pairs of items that `node` sent.

    Raises DecodeError at the first item that is malformed, or is in the name of another node.
    """
    for item in items:
        pairs = messages_from_wire(item)
        # The messages of an item have one sender.
        sender = pairs[0][1].sender
        if sender != node:
            raise DecodeError(f"node {node} sent a message in the name of {sender}")
        yield from pairs
