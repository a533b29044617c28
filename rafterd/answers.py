"""Answers on their way back to the routers that asked.

The link to a router's shard is dialled by the first answer that needs it, so answers may have to
wait until it is up. What is lost all the same is asked for again: a router repeats a request whose
answer is overdue.
"""

from typing import Any, Protocol

from rafter_transport.exchanger import Channel
from rafterd.raft_post import Post
from rafterd.requests import Reply, encode_replies

WAITING_MAX = 4096
"""Answers that may wait for one link; a router has few batches of each group under way."""

NO_ROOM = "-ERR The reply is too large to be sent between shards"


class Links(Post, Protocol):
    """The part of the exchanger that answers need."""

    def is_up(self, node: int, shard: int) -> bool:
        """Whether items can be posted to this shard."""


class Answers:
    """Sends the answers of one shard's groups to other shards. Used on the shard's loop only."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._waiting: dict[tuple[int, int], list[list[Any]]] = {}

    def send(self, node: int, shard: int, reply: Reply) -> None:
        """Post an answer, or keep it until the link to that shard is up."""
        for item in encode_replies(reply):
            if not self._links.post(node, shard, Channel.REPLY, item):
                self._refused(node, shard, item)

    def _refused(self, node: int, shard: int, item: list[Any]) -> None:
        if self._links.is_up(node, shard):
            # Over a limit: say so in its place, the other pieces may still go.
            item[4] = [NO_ROOM] * len(item[4])
            self._links.post(node, shard, Channel.REPLY, item)
            return
        waiting = self._waiting.setdefault((node, shard), [])
        if len(waiting) < WAITING_MAX:
            waiting.append(item)

    def link_changed(self, node: int, shard: int, is_up: bool) -> None:
        """Send what waited for a link that came up; forget what one that broke would repeat."""
        waiting = self._waiting.pop((node, shard), [])
        if is_up:
            for item in waiting:
                self._links.post(node, shard, Channel.REPLY, item)
