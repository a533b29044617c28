"""Tests of rafterd.raft_post."""

from typing import Any

import pytest

from rafter_core import DecodeError, Membership, Message, MessageKind, Snapshot
from rafter_core.heartbeats import HEARTBEATS_MAX, heartbeats_to_wire
from rafter_core.serializer import message_from_wire, message_to_wire
from rafter_transport.payload import Channel, pack_item, unpack
from rafterd.raft_post import RaftPost, received

HEARTBEAT = MessageKind.HEARTBEAT
HEARTBEAT_RESPONSE = MessageKind.HEARTBEAT_RESPONSE


class Posted:
    """The exchanger's face: what was posted since the last flush, as its receiver would see it."""

    def __init__(self) -> None:
        self.items: list[tuple[int, int, Channel, Any]] = []
        self.flushed: list[tuple[int, int, Channel, Any]] = []

    def post(self, node: int, shard: int, channel: Channel, item: object) -> bool:
        self.items.append((node, shard, channel, unpack(pack_item(item))))
        return True

    def flush(self) -> None:
        self.flushed += self.items
        self.items = []

    def channels(self) -> list[tuple[int, int, Channel]]:
        return [(node, shard, channel) for node, shard, channel, _ in self.flushed]

    def messages(self, sender: int = 1) -> list[tuple[int, int, int, Message]]:
        return [
            (node, shard, *pair)
            for node, shard, channel, item in self.flushed
            for pair in received(channel, sender, [item])
        ]


class Nodes:
    """Nodes 2 and 3 have two shards each; node 4 was never heard."""

    def shard_count(self, node: int) -> int | None:
        return None if node == 4 else 2


def unexpected(_group: int, message: Message) -> None:
    raise AssertionError(f"{message} was handed on as a snapshot")


def message(to: int, kind: MessageKind = HEARTBEAT, **fields: Any) -> Message:
    return Message(**{"kind": kind, "to": to, "sender": 1, "term": 5} | fields)


def test_heartbeats_of_all_groups_to_one_shard_are_one_item() -> None:
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
        (node, shard, Channel.HEARTBEATS) for node in (2, 3) for shard in (0, 1)
    ]
    assert sorted(posted.messages(), key=lambda each: each[:3]) == sorted(
        sent, key=lambda each: each[:3]
    )


def test_responses_go_with_heartbeats_and_keep_their_kind() -> None:
    posted = Posted()
    post = RaftPost(posted, Nodes(), unexpected)
    post.send(2, [message(2)])
    post.send(4, [message(2, HEARTBEAT_RESPONSE, context=b"7")])
    post.flush()
    assert posted.channels() == [(2, 0, Channel.HEARTBEATS)]
    kinds = [(group, heard.kind) for _, _, group, heard in posted.messages()]
    assert kinds == [(2, HEARTBEAT), (4, HEARTBEAT_RESPONSE)]


def test_other_messages_are_items_of_their_own_and_keep_their_order() -> None:
    posted = Posted()
    post = RaftPost(posted, Nodes(), unexpected)
    appends = [message(2, MessageKind.APPEND, index=index) for index in (1, 2, 3)]
    post.send(2, [*appends[:2], message(2), appends[2]])
    post.flush()
    found = [heard for _, _, _, heard in posted.messages()]
    assert [each for each in found if each.kind is MessageKind.APPEND] == appends
    assert set(posted.channels()) == {(2, 0, Channel.RAFT)}


def test_a_heartbeat_alone_is_an_ordinary_message() -> None:
    posted = Posted()
    post = RaftPost(posted, Nodes(), unexpected)
    post.send(2, [message(2)])
    post.flush()
    ((_, _, channel, item),) = posted.flushed
    assert channel is Channel.RAFT
    assert message_from_wire(item) == (2, message(2))


def test_each_flush_begins_anew() -> None:
    posted = Posted()
    post = RaftPost(posted, Nodes(), unexpected)
    for _ in range(3):
        post.send(2, [message(2)])
        post.send(4, [message(2)])
        post.flush()
        post.flush()
    assert posted.channels() == [(2, 0, Channel.HEARTBEATS)] * 3


def test_nothing_goes_to_a_node_whose_shards_are_unknown() -> None:
    posted = Posted()
    post = RaftPost(posted, Nodes(), unexpected)
    post.send(1, [message(4), message(4, MessageKind.APPEND)])
    post.flush()
    assert not posted.flushed


def test_no_item_has_more_heartbeats_than_its_receiver_takes() -> None:
    posted = Posted()
    post = RaftPost(posted, Nodes(), unexpected)
    post.send(2, [message(2)] * (HEARTBEATS_MAX + 2))
    post.flush()
    assert posted.channels() == [(2, 0, Channel.HEARTBEATS)] * 2
    assert len(posted.messages()) == HEARTBEATS_MAX + 2


@pytest.mark.parametrize(
    ("channel", "item"),
    [
        (Channel.RAFT, message_to_wire(2, message(3))),
        (Channel.HEARTBEATS, heartbeats_to_wire([(2, message(3)), (4, message(3))])),
    ],
    ids=["raft", "heartbeats"],
)
def test_messages_in_the_name_of_another_node_are_refused(channel: Channel, item: Any) -> None:
    assert list(received(channel, 1, [item]))
    with pytest.raises(DecodeError, match="node 2 sent a message in the name of 1"):
        list(received(channel, 2, [item]))


@pytest.mark.parametrize("channel", [Channel.RAFT, Channel.HEARTBEATS])
def test_what_came_before_a_malformed_item_counts(channel: Channel) -> None:
    good: Any = message_to_wire(2, message(3))
    if channel is Channel.HEARTBEATS:
        good = heartbeats_to_wire([(2, message(3))])
    heard = received(channel, 1, [good, ["nonsense"]])
    assert next(heard) == (2, message(3))
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
