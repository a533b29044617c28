"""Tests of rafterd.raft_post."""

from collections.abc import Sequence
from typing import Any

import pytest

from rafter_core import DecodeError, Membership, Message, MessageKind, Snapshot
from rafter_core.message_wire import messages_to_wire
from rafter_core.messages import MESSAGES_MAX
from rafter_transport.payload import Channel, pack_item, unpack
from rafterd.raft_post import Join, Pair, RaftPost, received

HEARTBEAT = MessageKind.HEARTBEAT


class Posted:
    """The exchanger's face: what was posted since the last flush, as its receiver would see it."""

    def __init__(self) -> None:
        self.items: list[tuple[int, int, Channel, Any]] = []
        self.flushed: list[tuple[int, int, Channel, Any]] = []

    def post_joined(
        self, node: int, shard: int, channel: Channel, parts: Sequence[Pair], join: Join
    ) -> bool:
        self.items.append((node, shard, channel, unpack(pack_item(join(parts)))))
        return True

    def flush(self) -> None:
        self.flushed += self.items
        self.items = []

    def channels(self) -> list[tuple[int, int, Channel]]:
        return [(node, shard, channel) for node, shard, channel, _ in self.flushed]

    def messages(self, sender: int = 1) -> list[tuple[int, int, int, Message]]:
        return [
            (node, shard, *pair)
            for node, shard, _, item in self.flushed
            for pair in received(sender, [item])
        ]


class Nodes:
    """Nodes 2 and 3 have two shards each, or as many as given; node 4 was never heard."""

    def __init__(self, shards: int = 2) -> None:
        self.shards = shards

    def shard_count(self, node: int) -> int | None:
        return None if node == 4 else self.shards


def unexpected(_group: int, message: Message) -> None:
    raise AssertionError(f"{message} was handed on as a snapshot")


def message(to: int, kind: MessageKind = HEARTBEAT, **fields: Any) -> Message:
    return Message(**{"kind": kind, "to": to, "sender": 1, "term": 5} | fields)


def test_messages_of_all_groups_to_one_shard_are_one_item() -> None:
    posted = Posted()
    post = RaftPost(posted, Nodes(), unexpected)
    sent = []
    for group in range(1, 9):
        for node in (2, 3):
            beat = message(node, commit=group, context=b"read" * (group % 2))
            sent.append((node, group % 2, group, beat))
            post.send(group, [beat])
    assert not posted.flushed
    post.flush()
    assert sorted(posted.channels()) == [
        (node, shard, Channel.RAFT) for node in (2, 3) for shard in (0, 1)
    ]
    assert sorted(posted.messages(), key=lambda each: each[:3]) == sorted(
        sent, key=lambda each: each[:3]
    )


@pytest.mark.parametrize("shards", [1, 2])
def test_messages_to_one_shard_keep_their_order(shards: int) -> None:
    posted = Posted()
    post = RaftPost(posted, Nodes(shards), unexpected)
    sent: list[Pair] = []
    for group in (4, 2, 6, 2):
        messages = [
            message(2, kind, index=len(sent))
            for kind in (MessageKind.APPEND, HEARTBEAT, MessageKind.APPEND_RESPONSE)
        ]
        post.send(group, messages)
        sent += [(group, each) for each in messages]
    post.flush()
    assert posted.channels() == [(2, 0, Channel.RAFT)]
    assert [(group, heard) for _, _, group, heard in posted.messages()] == sent


def test_each_flush_begins_anew() -> None:
    posted = Posted()
    post = RaftPost(posted, Nodes(), unexpected)
    for _ in range(3):
        post.send(2, [message(2)])
        post.flush()
        post.flush()
    assert posted.channels() == [(2, 0, Channel.RAFT)] * 3
    assert len(posted.messages()) == 3


def test_nothing_goes_to_a_node_whose_shards_are_unknown() -> None:
    posted = Posted()
    post = RaftPost(posted, Nodes(), unexpected)
    post.send(1, [message(4), message(4, MessageKind.APPEND)])
    post.flush()
    assert not posted.flushed


def test_no_item_has_more_messages_than_its_receiver_takes() -> None:
    posted = Posted()
    post = RaftPost(posted, Nodes(), unexpected)
    post.send(2, [message(2)] * (MESSAGES_MAX + 2))
    post.flush()
    assert posted.channels() == [(2, 0, Channel.RAFT)] * 2
    assert len(posted.messages()) == MESSAGES_MAX + 2


def test_messages_in_the_name_of_another_node_are_refused() -> None:
    item = messages_to_wire([(2, message(3)), (4, message(3))])
    assert list(received(1, [item]))
    with pytest.raises(DecodeError, match="node 2 sent a message in the name of 1"):
        list(received(2, [item]))


def test_what_came_before_a_malformed_item_counts() -> None:
    good = messages_to_wire([(2, message(3)), (4, message(3))])
    heard = received(1, [good, ["nonsense"]])
    assert [next(heard), next(heard)] == [(2, message(3)), (4, message(3))]
    with pytest.raises(DecodeError):
        next(heard)


def test_a_snapshot_is_handed_on_and_not_posted() -> None:
    posted = Posted()
    handed: list[tuple[int, Message]] = []
    post = RaftPost(posted, Nodes(), lambda group, message: handed.append((group, message)))
    snapshot = message(2, MessageKind.SNAPSHOT, snapshot=Snapshot(7, 3, Membership((1, 2))))
    append = message(3, MessageKind.APPEND)
    post.send(9, [snapshot, append])
    post.flush()
    assert handed == [(9, snapshot)]
    assert [node for node, *_ in posted.flushed] == [3]
