"""What nodes say of their groups, and who led them when, as somebody saw it who asked all along."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.nemesis.clients import Address, Connection, LostError

WATCH_SECONDS = 0.5
STATUS_SECONDS = 3.0


class ReplicaStatus(NamedTuple):
    """One replica of a group, as its node says."""

    commit: int
    applied: int
    keys: int
    state: str


class GroupStatus(NamedTuple):
    """A group: its leader in the newest term that a node knew, 0 for none, and its replicas.

    `members` are the nodes that should have one; those that did not answer are no `replicas`.
    """

    group: int
    leader: int
    term: int
    members: tuple[int, ...]
    replicas: dict[int, ReplicaStatus]


class Led(NamedTuple):
    """That a leader was first seen, in nanoseconds. Node 0 is nobody."""

    at: int
    group: int
    node: int
    term: int


async def ask_groups(address: Address) -> list[GroupStatus]:
    """Ask a node what all nodes know of the groups. Raises LostError if it does not answer."""
    connection = await Connection.open(address)
    with contextlib.closing(connection):
        connection.send([(b"HELLO", b"3"), (b"RAFTER.STATUS",)])
        await connection.receive(STATUS_SECONDS)
        reply = await connection.receive(STATUS_SECONDS)
    if isinstance(reply, Exception):
        raise LostError(str(reply))
    return [_group_status(row) for row in reply[b"groups"]]


def _group_status(row: dict[bytes, Any]) -> GroupStatus:
    replicas = {
        replica[b"node"]: ReplicaStatus(
            replica[b"commit"], replica[b"applied"], replica[b"keys"], replica[b"state"].decode()
        )
        for replica in row[b"replicas"]
    }
    return GroupStatus(
        row[b"group"], row[b"leader"], row[b"term"], tuple(row[b"members"]), replicas
    )


class LeaderWatch:
    """Asks one node after the other, and remembers each leader that it was not told of before."""

    def __init__(
        self,
        addresses: Sequence[Address],
        generator: random.Random,
        now: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.seen: list[Led] = []
        self._addresses = list(addresses)
        self._generator = generator
        self._now = now
        self._latest: dict[int, tuple[int, int]] = {}

    async def run(self, is_over: asyncio.Event) -> None:
        """Watch until it is over."""
        while not is_over.is_set():
            with contextlib.suppress(LostError):
                for status in await ask_groups(self._generator.choice(self._addresses)):
                    self.take(status)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS):
                    await is_over.wait()

    def take(self, status: GroupStatus) -> None:
        """Take in what a node says. One that was left behind knows older terms: that is no news."""
        news = (status.term, status.leader)
        if news > self._latest.get(status.group, (0, 0)):
            self._latest[status.group] = news
            self.seen.append(Led(self._now(), status.group, status.leader, status.term))
