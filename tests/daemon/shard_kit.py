"""Whole shards for tests: their boot, forked processes, and other nodes played by an exchanger."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from rafter_core import Message, MessageKind
from rafter_storage.data_directory import shard_directory
from rafter_storage.identity import Identity
from rafter_storage.segment_manager import SegmentManager
from rafter_transport import Channel
from rafter_transport.handshake import VERSION_MAX, VERSION_MIN, Hello
from rafter_transport.ring_pair import ShardEnd
from rafterd.boot import ShardBoot
from rafterd.config import Config, load_config
from rafterd.control import ControlMessage, receive_control
from rafterd.node_tls import NodeTls
from rafterd.raft_post import received
from rafterd.shard import run_shard
from rafterd.shard_process import RunShard, fork_shard
from rafterd.shard_services import ShardServices
from rafterd.shared import Counter, SharedState
from tests.daemon.engine_bench import to_item, until
from tests.daemon.waiting import DEADLINE_SECONDS, wait_readable, wait_until
from tests.ports import free_ports
from tests.transport.support import HOST, Peer

PORTS_PER_NODE = 8
INCARNATION = 77
LAYOUT = 3


def make_config(
    directory: Path, *, nodes: int = 1, shards: int = 1, groups: int = 2, **overrides: object
) -> Config:
    """Return the configuration of node 1 of `nodes`, on free ports, with short ticks."""
    return make_configs(directory, nodes=nodes, shards=shards, groups=groups, **overrides)[1]


def make_configs(
    directory: Path, *, nodes: int, shards: int = 1, groups: int = 2, **overrides: object
) -> dict[int, Config]:
    """Return the configurations of all nodes of a cluster by their ids."""
    base = free_ports(PORTS_PER_NODE * nodes)
    common: dict[str, object] = {
        "node.shards": shards,
        "cluster.groups": groups,
        "raft.tick_milliseconds": 10,
        "storage.segment_bytes": 1 << 20,
        "client.value_bytes_max": 1 << 16,
    }
    if nodes > 1:
        common["cluster.initial"] = ",".join(
            f"{node}@{HOST}:{base + 4 + PORTS_PER_NODE * (node - 1)}"
            for node in range(1, nodes + 1)
        )
        common["cluster.replication"] = nodes
    common |= {key.replace("__", "."): value for key, value in overrides.items()}
    configs = {}
    for node in range(1, nodes + 1):
        first = base + PORTS_PER_NODE * (node - 1)
        settings: dict[str, object] = {
            "node.id": node,
            "node.data_dir": directory / ("data" if node == 1 else f"data{node}"),
            "client.listen": f"{HOST}:{first}",
            "peer.listen": f"{HOST}:{first + 4}",
            "http.listen": f"{HOST}:{first + 7}",
        } | common
        overrides_of_node = {key: str(value) for key, value in settings.items()}
        configs[node] = load_config(overrides=overrides_of_node).config
    return configs


def make_boot(
    config: Config,
    control: socket.socket,
    *,
    shard: int = 0,
    shared: SharedState | None = None,
    links: Mapping[int, ShardEnd] | None = None,
) -> ShardBoot:
    """Return what the supervisor would hand to a shard; makes its log."""
    directory = shard_directory(Path(config.node.data_dir), LAYOUT, shard)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (directory / "wal").exists():
        SegmentManager(directory, segment_bytes=config.storage.segment_bytes).create()
    identity = Identity(
        config.cluster_id, config.cluster.name, config.node.id, INCARNATION,
        config.cluster.groups, config.cluster.replication, config.node.shards,
        LAYOUT,
    )  # fmt: skip
    shared = shared or SharedState(config.node.shards, config.cluster.groups)
    return ShardBoot(config, identity, shard, shared, control, dict(links or {}), NodeTls(config))


def segment_of(config: Config, shard: int = 0) -> Path:
    """Return the newest segment of a shard's log."""
    directory = shard_directory(Path(config.node.data_dir), LAYOUT, shard)
    return max((directory / "wal").glob("*.log"))


class RunningServices:
    """One shard's services on the running loop, ticked by the test."""

    def __init__(self, config: Config, shard: int = 0, shared: SharedState | None = None) -> None:
        self.config = config
        self.fatal: list[BaseException] = []
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ends = ends
        self.boot = make_boot(config, ends[0], shard=shard, shared=shared)
        self.shared = self.boot.shared
        self.services = ShardServices(self.boot, asyncio.get_running_loop(), self.fatal.append)

    async def __aenter__(self) -> Self:
        await self.services.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.services.close()
        for end in self._ends:
            end.close()

    async def tick_until(self, condition: Any) -> Any:
        """Let ticks pass until a condition holds."""

        def tick() -> Any:
            self.services.tick()
            return condition()

        return await until(tick)

    async def lead(self) -> None:
        """As the only member of all groups: lead them."""
        replicas = self.services.engine.replicas.values()
        await self.tick_until(lambda: all(r.is_leader and r.node.applied for r in replicas))


def make_peer(
    config: Config, node: int, *, shard: int = 0, shards: int = 1, incarnation: int | None = None
) -> Peer:
    """Return an exchanger that speaks for a shard of another node of the cluster."""
    hello = Hello(
        version_min=VERSION_MIN,
        version_max=VERSION_MAX,
        cluster_id=config.cluster_id,
        node_id=node,
        incarnation=incarnation or INCARNATION + node,
        shard=shard,
        shards=shards,
        client_host=HOST,
        client_port=7379,
    )
    nodes = {number: (address.host, address.port) for number, address in config.nodes.items()}
    return Peer(hello, nodes)


def send_raft(peer: Peer, group: int, message: Message) -> None:
    """Send one raft message to node 1."""
    peer.send(1, 0, Channel.RAFT, to_item(group, message))


def raft_kinds(peer: Peer) -> list[MessageKind]:
    """Return the kinds of the raft messages that a peer has had from node 1, in order."""
    items = peer.recorder.of(Channel.RAFT)
    return [message.kind for _, message in received(1, items)]


class Client:
    """One RESP connection, blocking, for shards in other processes."""

    def __init__(self, port: int) -> None:
        self.stream = socket.create_connection((HOST, port), DEADLINE_SECONDS)
        self.file = self.stream.makefile("rb")

    def send(self, *arguments: bytes) -> None:
        parts = [b"*%d\r\n" % len(arguments)]
        parts += [b"$%d\r\n%s\r\n" % (len(argument), argument) for argument in arguments]
        self.stream.sendall(b"".join(parts))

    def read(self) -> bytes | None:
        """Return one simple or bulk reply; None at the end of the connection."""
        line = self.file.readline()
        if not line:
            return None
        if line[:1] != b"$" or line == b"$-1\r\n":
            return line.rstrip()
        return self.file.read(int(line[1:]) + 2)[:-2]

    def ask(self, *arguments: bytes) -> bytes | None:
        self.send(*arguments)
        return self.read()

    def close(self) -> None:
        self.file.close()
        self.stream.close()


def _as_in_production(entry_point: RunShard) -> RunShard:
    """Undo what the tests' process has set: its warnings are errors."""

    def run(boot: ShardBoot) -> int:
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        return entry_point(boot)

    return run


class ForkedShard:
    """A real shard process, forked as the supervisor does it."""

    def __init__(
        self,
        config: Config,
        *,
        shard: int = 0,
        shared: SharedState | None = None,
        links: Mapping[int, ShardEnd] | None = None,
        entry_point: RunShard = run_shard,
    ) -> None:
        self.config = config
        self.shard = shard
        self.shared = shared or SharedState(config.node.shards, config.cluster.groups)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        boot = make_boot(config, theirs, shard=shard, shared=self.shared, links=links)
        # A supervisor is small; this process may have run thousands of tests, and its child would
        # look through all that is left of them.
        gc.freeze()
        self.pid = fork_shard(boot, _as_in_production(entry_point), self.control.close)
        gc.unfreeze()
        self.code: int | None = None
        self._clients: list[Client] = []
        theirs.close()
        for link in (links or {}).values():
            link.close()

    def get(self, counter: Counter) -> int:
        return self.shared.get(self.shard, counter)

    def receive(self) -> ControlMessage | None:
        wait_readable(self.control)
        return receive_control(self.control)

    def wait_serving(self) -> None:
        assert self.receive() == ("serving", [], [])

    def client(self) -> Client:
        """Connect to its own port; the connection is closed with the shard."""
        client = Client(self.config.client.shard_port(self.shard))
        self._clients.append(client)
        return client

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for its end; return the exit code, or minus the signal."""

        def reaped() -> bool:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            return pid != 0

        wait_until(reaped, what="the end of the shard")
        assert self.code is not None
        return self.code

    def close(self) -> None:
        if self.code is None:
            self.kill()
            self.wait()
        for client in self._clients:
            client.close()
        self.control.close()
