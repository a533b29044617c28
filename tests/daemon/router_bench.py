"""A router alone, with a post that records and a service that collects requests."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from rafter_kv.reply_slot import ReplySlot
from rafter_transport.exchanger import Channel
from rafter_transport.payload import pack_item, unpack
from rafterd.group_service import GroupService
from rafterd.requests import Reply, Request, Status, decode_request
from rafterd.router import Router
from rafterd.shared import GroupState, GroupWord, SharedState
from tests.daemon.fakes import FakeConnection, Place

TIMEOUT_SECONDS = 5.0
GROUP = 1
"""On nodes of one shard it lies on shard 0."""


class Sent(NamedTuple):
    """A request that left, and where it went."""

    to: Place
    request: Request

    @property
    def commands(self) -> list[list[bytes]]:
        return [list(command) for command in self.request.batch.commands]

    @property
    def names(self) -> list[tuple[int, int]]:
        """Session and sequence."""
        return [(self.request.batch.session, self.request.batch.sequence)]


class FakePost:
    """Takes items for the shards that are up, as long as there is room."""

    def __init__(self) -> None:
        self.up: set[Place] = set()
        self.item_bytes_max = 1 << 30
        self.posts = 0
        self.sent: list[Sent] = []

    def post(self, node: int, shard: int, channel: Channel, item: Any) -> bool:
        assert channel is Channel.REQUEST
        self.posts += 1
        data = pack_item(item)
        if (node, shard) not in self.up or len(data) > self.item_bytes_max:
            return False
        self.sent.append(Sent((node, shard), decode_request(unpack(data), (1, 0))))
        return True

    def flush(self) -> None:
        return


class FakeService:
    """The local group service: collects, or turns away at once like a replica that follows."""

    def __init__(self, bench: RouterBench) -> None:
        self._bench = bench
        self.denial: tuple[int, int] | None = None

    def submit(self, request: Request) -> None:
        self._bench.post.sent.append(Sent((1, 0), request))
        if self.denial is not None:
            leader, term = self.denial
            self._bench.reply(request, Status.NOT_LEADER, leader=leader, term=term)


class RouterBench:
    """The router of node 1, shard 0, and the world around it. Times are in seconds."""

    def __init__(self, members: tuple[int, ...] = (1, 2, 3), *, has_service: bool = True) -> None:
        self.now_seconds = 100.0
        self.post = FakePost()
        self.post.up = {(2, 0), (3, 0), (4, 0)}
        self.shard_counts: dict[int, int] = {2: 1, 3: 1, 4: 1}
        self.shared = SharedState(1, 2)
        if 1 in members:
            self.shared.set_group(GROUP, GroupWord.STATE, GroupState.SERVING)
        self.service = FakeService(self)
        services = {GROUP: cast("GroupService", self.service)} if has_service else {}
        self.is_scheduled = False
        self.router = Router(
            node=1,
            shard=0,
            routes={GROUP: members, 2: members},
            services=services,
            post=self.post,
            shard_counts=self,
            shared=self.shared,
            request_timeout_seconds=TIMEOUT_SECONDS,
            now_seconds=lambda: self.now_seconds,
            schedule=self._schedule,
        )
        self.connection = FakeConnection()

    def shard_count(self, node: int) -> int | None:
        return self.shard_counts.get(node)

    def _schedule(self) -> None:
        self.is_scheduled = True

    def lead(self, node: int, term: int) -> None:
        """Let this node's replica say that `node` leads."""
        self.shared.set_route(GROUP, node, term)

    def submit(self, *commands: str, connection: FakeConnection | None = None) -> ReplySlot:
        """Submit commands such as "GET key" as one chunk, without a round."""
        slot = (connection or self.connection).slot(len(commands))
        for position, text in enumerate(commands):
            command = text.encode().split()
            self.router.submit(GROUP, command, command[0] != b"GET", slot, position)
        return slot

    def round(self) -> list[Sent]:
        """Run the rounds that are asked for; return what was sent."""
        rounds = 0
        while self.is_scheduled:
            rounds += 1
            assert rounds < 10, "the router keeps itself busy"
            self.is_scheduled = False
            self.router.form_batches()
        return self.taken()

    def taken(self) -> list[Sent]:
        """Return what was sent since the last look."""
        sent = self.post.sent
        self.post.sent = []
        return sent

    def send(self, *commands: str, connection: FakeConnection | None = None) -> ReplySlot:
        """Submit one chunk and run a round; what it sends stays to be looked at."""
        slot = self.submit(*commands, connection=connection)
        sent = self.round()
        self.post.sent = sent + self.post.sent
        return slot

    def tick(self, seconds: float = 0.05) -> list[Sent]:
        """Let time pass, and return what the tick and its rounds sent."""
        self.now_seconds += seconds
        self.router.tick()
        return self.round()

    def reply(
        self,
        request: Request,
        status: Status = Status.DONE,
        results: list[Any] | None = None,
        *,
        leader: int = 0,
        term: int = 0,
    ) -> None:
        """Answer a request in one piece, without a round."""
        if results is None and status in {Status.DONE, Status.DUPLICATE}:
            results = ["+OK"] * len(request.batch.commands)
        self.router.complete(
            Reply(request.ticket, request.attempt, status, 0, results or [], True, leader, term)
        )

    def piece(self, request: Request, start: int, results: list[Any], *, is_last: bool) -> None:
        """Answer a part of a request."""
        self.router.complete(
            Reply(request.ticket, request.attempt, Status.DONE, start, results, is_last, 0, 0)
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing of what was submitted is kept."""
        return self.router.is_idle and not self.router._tickets
