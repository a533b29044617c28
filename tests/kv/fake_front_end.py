"""A FrontEnd without raft: groups are key spaces in this process, applied at the loop's next turn.

It keeps the contract of the real one: commands of one group run in order, results come back
after `submit` returned, touched connections are flushed once behind them. `hold` keeps results
back until `release`, to see a connection while it waits.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import uvloop

from rafter_kv.connection import RespConnection
from rafter_kv.data_commands import DATA_COMMANDS
from rafter_kv.front_end import (
    ClientLimits,
    ClientRegistry,
    ClusterView,
    GroupView,
    NodeView,
)
from rafter_kv.keyspace import KeySpace
from rafter_kv.reply_slot import deliver
from rafter_kv.results import OK
from rafter_kv.slots import group_by_slot, slot_ranges
from rafter_transport.tls_session import TlsSession
from rafter_transport.tls_stream import TlsStream

if TYPE_CHECKING:
    from rafter_kv.reply_slot import Gather, ReplySlot
    from rafter_kv.results import Result

T = TypeVar("T")

NODES = 3
SHARDS = 2


class FakeFrontEnd:
    """Implements `rafter_kv.front_end.FrontEnd`."""

    def __init__(self, groups: int = 4, limits: ClientLimits | None = None) -> None:
        self.limits = limits or ClientLimits()
        self.clients = ClientRegistry(self.limits.connections_max)
        self.group_by_slot = group_by_slot(groups)
        self.groups = range(1, groups + 1)
        self.keyspaces = {group: KeySpace() for group in self.groups}
        self.port = 7379
        self.failure: str | None = None  # the result of every command, instead of running it
        self.statistics_resets = 0
        self.flushes = 0
        self.submitted: list[tuple[int, list[bytes], bool]] = []
        self._pending: list[tuple[int, list[bytes], ReplySlot | Gather, int]] = []
        self._touched: list[RespConnection] = []
        self._is_scheduled = False
        self._is_held = False
        self._client_id = 0

    def hold(self) -> None:
        self._is_held = True

    def release(self) -> None:
        self._is_held = False
        self._schedule()

    @property
    def pending_count(self) -> int:
        return len(self._pending)

    def submit(
        self,
        group: int,
        command: list[bytes],
        is_write: bool,
        slot: ReplySlot | Gather,
        position: int,
    ) -> None:
        self.submitted.append((group, command, is_write))
        self._pending.append((group, command, slot, position))
        self._schedule()

    def touch(self, connection: RespConnection) -> None:
        self._touched.append(connection)
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._is_scheduled = False
        if not self._is_held:
            pending, self._pending = self._pending, []
            now_ms = time.time_ns() // 1_000_000
            for group, command, slot, position in pending:
                fill(slot, position, self._execute(group, command, now_ms))
        touched, self._touched = self._touched, []
        for connection in touched:
            self.flushes += 1
            connection.flush_replies()

    def _execute(self, group: int, command: list[bytes], now_ms: int) -> Result:
        if self.failure is not None:
            return self.failure
        operation = DATA_COMMANDS[command[0]].operation
        assert operation is not None
        return operation(self.keyspaces[group], command, now_ms)

    def request_status(self, slot: ReplySlot, position: int) -> None:
        status: Result = {b"nodes": [], b"shards": [], b"groups": [{b"group": 1, b"leader": 1}]}
        asyncio.get_running_loop().call_soon(fill, slot, position, status)

    def request_replacement(self, node: int, slot: ReplySlot, position: int) -> None:
        result = OK if node <= NODES else f"-ERR node {node} is not in the cluster's map"
        asyncio.get_running_loop().call_soon(fill, slot, position, result)

    def cluster_view(self) -> ClusterView:
        ranges = slot_ranges(len(self.groups))
        ports = tuple(self.port for _ in range(SHARDS))
        return ClusterView(
            cluster_id=7,
            node=1,
            shard=0,
            nodes=tuple(
                NodeView(node, "127.0.0.1", self.port, 17379, ports) for node in range(1, NODES + 1)
            ),
            groups=tuple(
                GroupView(g, first, last, leader=1 + g % NODES, term=g, replicas=(1, 2, 3))
                for g, first, last in ranges
            ),
        )

    def server_info(self) -> Mapping[str, Mapping[str, object]]:
        keys = sum(keyspace.key_count for keyspace in self.keyspaces.values())
        return {
            "Server": {"tcp_port": self.port},
            "Raft": {"raft_groups": len(self.groups)},
            "Keyspace": {"db0": f"keys={keys},expires=0,avg_ttl=0"},
        }

    def configuration(self) -> Mapping[str, str]:
        return {"port": str(self.port)}

    def reset_statistics(self) -> None:
        self.statistics_resets += 1

    def next_client_id(self) -> int:
        self._client_id += 1
        return self._client_id


def fill(slot: ReplySlot | Gather, position: int, result: Result) -> None:
    deliver((slot,), (position,), (result,))


class FakeServer:
    """A fake front end that listens on a loopback port, with a loop and thread of its own.

    So tests can drive it with clients that block.
    """

    def __init__(
        self,
        front_end: FakeFrontEnd,
        loop: asyncio.AbstractEventLoop,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.front_end = front_end
        self.loop = loop
        self._tls = tls
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result()
        front_end.port = self.port

    async def _listen(self) -> asyncio.AbstractServer:
        front_end = self.front_end
        tls = self._tls

        def connect() -> asyncio.Protocol:
            connection = RespConnection(front_end)
            return connection if tls is None else secured(connection, tls, self.loop)

        return await self.loop.create_server(connect, sock=self._listener)

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the loop's thread and return its result."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result()

    def close(self) -> None:
        async def stop() -> None:
            self._server.close()
            for connection in list(self.front_end.clients.connections.values()):
                connection.close_after_replies()

        asyncio.run_coroutine_threadsafe(stop(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def secured(
    connection: RespConnection, tls: ssl.SSLContext, loop: asyncio.AbstractEventLoop
) -> TlsStream:
    return TlsStream(
        connection,
        TlsSession(tls, is_server=True),
        handshake_seconds=10.0,
        on_refused=lambda _host, _reason: None,
        cleartext_answer=b"",
        loop=loop,
    )


@contextmanager
def serving(
    front_end: FakeFrontEnd | None = None,
    loop: asyncio.AbstractEventLoop | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[FakeServer]:
    """Serve a fake front end for the length of a block, on uvloop if no loop is given."""
    server = FakeServer(front_end or FakeFrontEnd(), loop or uvloop.new_event_loop(), tls)
    try:
        yield server
    finally:
        server.close()
