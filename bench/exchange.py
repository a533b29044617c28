"""What many groups cost the exchanger, against one group with as many entries.

A round is what a leader's shard and a follower's do for it: appends are encoded, posted, flushed as
one frame, carried over loopback TCP, decoded and answered, and the answers come back the same way.
Both ends run in this process, so its CPU time is that of both. The two loads take turns.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from typing import Any

import uvloop

from bench.figures import Figure
from rafter_core import Entry, EntryKind, Message
from rafter_core.messages import APPEND, APPEND_RESPONSE
from rafter_transport import Channel, Exchanger, Hello, Limits, Registry
from rafterd.raft_post import RaftPost, received

HOST = "127.0.0.1"
GROUPS = 16
ENTRIES = 256
PAYLOAD_BYTES = 100
ROUNDS_PER_TURN = 100
TURNS_MORE = 4  # they are short, and the figures close to each other
RATIO_TARGET = 1.3
TERM = 7


def measure_groups(turns: int) -> list[Figure]:
    """Return the CPU time of both loads, and their ratio."""
    return uvloop.run(_measure(turns))


async def _measure(turns: int) -> list[Figure]:
    ports = _free_ports(2)
    leader = _End(1, ports)
    follower = _End(2, ports)
    follower.answers = True
    for end in (leader, follower):
        await end.exchanger.start(HOST, ports[end.node - 1])
    await asyncio.gather(leader.is_up, follower.is_up)
    many: list[float] = []
    one: list[float] = []
    for _ in range(turns * TURNS_MORE):
        for groups, results in ((GROUPS, many), (1, one)):
            results.append(await _turn(leader, groups))
    for end in (leader, follower):
        await end.exchanger.close()
    ratio = statistics.median(ours / theirs for ours, theirs in zip(many, one, strict=True))
    return [
        Figure("groups_ratio", ratio, "of one group's CPU", f"<= {RATIO_TARGET}"),
        Figure("groups_many_us", statistics.median(many), "CPU us/round", "for comparison"),
        Figure("groups_one_us", statistics.median(one), "CPU us/round", "for comparison"),
    ]


async def _turn(leader: _End, groups: int) -> float:
    """Run one turn; return the microseconds of CPU time of one round."""
    count = ENTRIES // groups
    rounds = [_appends(groups, count, number) for number in range(ROUNDS_PER_TURN)]
    started = time.process_time()
    for appends in rounds:
        await leader.ask(appends)
    return (time.process_time() - started) * 1e6 / ROUNDS_PER_TURN


def _appends(groups: int, count: int, number: int) -> list[tuple[int, Message]]:
    first_index = 1 + number * count
    payload = bytes(PAYLOAD_BYTES)
    found = []
    for group in range(1, groups + 1):
        entries = [
            Entry(TERM, index, EntryKind.NORMAL, payload)
            for index in range(first_index, first_index + count)
        ]
        message = Message(
            kind=APPEND, to=2, sender=1, term=TERM,
            index=first_index - 1, log_term=TERM, entries=entries, commit=first_index - 1,
        )  # fmt: skip
        found.append((group, message))
    return found


class _End:
    """One shard: its exchanger, and raft's way through it."""

    def __init__(self, node: int, ports: list[int]) -> None:
        loop = asyncio.get_running_loop()
        self.node = node
        self.answers = False
        self.is_up: asyncio.Future[None] = loop.create_future()
        self._missing = 0
        self._done: asyncio.Future[None] = loop.create_future()
        registry = Registry(node, {1: (HOST, ports[0]), 2: (HOST, ports[1])})
        hello = Hello(
            version_min=1, version_max=1, cluster_id=1, node_id=node, incarnation=node, shard=0,
            shards=1, client_host=HOST, client_port=1,
        )  # fmt: skip
        self.exchanger = Exchanger(
            hello=hello,
            registry=registry,
            limits=Limits(),
            handlers={Channel.RAFT: self._take},
            on_link_state=self._link_changed,
            loop=loop,
        )
        self._post = RaftPost(self.exchanger, registry, _no_snapshot)

    async def ask(self, messages: list[tuple[int, Message]]) -> None:
        """Send messages, and wait for the answer to each."""
        self._missing = len(messages)
        self._done = asyncio.get_running_loop().create_future()
        for group, message in messages:
            self._post.send(group, [message])
        self._post.flush()
        await self._done

    def _take(self, node: int, _shard: int, items: list[Any]) -> None:
        for group, message in received(node, items):
            if self.answers:
                answer = Message(
                    kind=APPEND_RESPONSE, to=node, sender=self.node, term=TERM,
                    index=message.entries[-1].index,
                )  # fmt: skip
                self._post.send(group, [answer])
            else:
                self._missing -= 1
        if self.answers:
            self._post.flush()
        elif not self._missing:
            self._done.set_result(None)

    def _link_changed(self, _node: int, _shard: int, is_up: bool) -> None:
        if is_up and not self.is_up.done():
            self.is_up.set_result(None)


def _no_snapshot(_group: int, message: Message) -> None:
    raise AssertionError(f"{message} is no append")


def _free_ports(count: int) -> list[int]:
    streams = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [stream.getsockname()[1] for stream in streams]
    for stream in streams:
        stream.close()
    return ports
