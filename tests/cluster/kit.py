"""Real nodes for tests and benchmarks: rafterd processes on loopback, each with its own disk.

Nothing here sleeps for a guess: every wait polls a condition until a deadline.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from tests import warm
from tests.ports import free_ports

Value = TypeVar("Value")

HOST = "127.0.0.1"
IS_WARM = False
"""Whether nodes are forked from a process that has imported everything, which is much quicker."""
SEGMENT_BYTES: int | None = None
"""Of the nodes' logs, unless told otherwise; None for the default. A shard writes two of them with
zeros when it first starts: 128 MiB by default, which no test of a few keys needs."""
START_SECONDS = 30.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.02
POLL_SECONDS_MAX = 0.1
PORTS_PER_NODE = 32
"""A node takes its client base port, one client port per shard, its peer ports and one for HTTP."""


def wait_for(
    condition: Callable[[], Value | None], what: str, seconds: float = START_SECONDS
) -> Value:
    """Poll until `condition` returns something true, and return that; fail after the deadline.

    It rests for twenty times as long as asking took, within POLL_SECONDS and POLL_SECONDS_MAX: the
    nodes that are asked need the processors, too.
    """
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        value = condition()
        if value:
            return value
        now = time.monotonic()
        if now > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(min(max(POLL_SECONDS, 20 * (now - asked)), POLL_SECONDS_MAX))


class Node:
    """One rafterd: its configuration file, and its process while it runs."""

    def __init__(self, node: int, directory: Path, port: int, config: str) -> None:
        self.node = node
        self.directory = directory
        self.client_port = port
        self.peer_port = port + PORTS_PER_NODE // 2
        self.http_port = port + PORTS_PER_NODE - 1
        self.config_path = directory / f"n{node}.toml"
        self.data_directory = directory / f"n{node}"
        self.log_path = directory / f"n{node}.log"
        self.config_path.write_text(config)
        self.process: subprocess.Popen[bytes] | warm.WarmProcess | None = None

    def move(self) -> None:
        """Give it other ports, in its own configuration alone. It must not be running."""
        assert not self.is_running
        text = self.config_path.read_text()
        shift = free_ports(PORTS_PER_NODE) - self.client_port
        for port in (self.client_port, self.peer_port, self.http_port):
            text = text.replace(f"{HOST}:{port}", f"{HOST}:{port + shift}")
        self.config_path.write_text(text)
        self.client_port += shift
        self.peer_port += shift
        self.http_port += shift

    @property
    def endpoint(self) -> str:
        """The address of all its shards, for clients."""
        return f"{HOST}:{self.client_port}"

    @property
    def is_running(self) -> bool:
        """Whether the supervisor is alive."""
        return self.process is not None and self.process.poll() is None

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start the process; returns at once."""
        assert not self.is_running
        everything = {**os.environ, **(environment or {})}
        with self.log_path.open("ab") as log:
            if IS_WARM:
                self.process = warm.start(
                    "rafterd.main", "--config", str(self.config_path),
                    stdout=log, stderr=log, environment=everything, directory=self.directory,
                )  # fmt: skip
            else:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "rafterd", "--config", str(self.config_path)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=everything,
                    cwd=self.directory,
                )

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """Wait until every shard serves and every group of this node has a leader."""
        try:
            wait_for(self.is_ready, f"node {self.node} is ready", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_tail()}") from None

    def is_ready(self) -> bool:
        """Ask /readyz."""
        if not self.is_running:
            raise AssertionError(f"node {self.node} ended:\n{self.log_tail()}")
        return self.http("/readyz")[0] == 200

    def accepts_clients(self) -> bool:
        """Whether somebody listens on the client port."""
        try:
            socket.create_connection((HOST, self.client_port), timeout=1).close()
        except OSError:
            return False
        return True

    def http(self, path: str) -> tuple[int, str]:
        """GET from the supervisor; (0, reason) if it does not answer."""
        # By hand: nodes that start are asked thousands of times, and a library's client takes
        # several times as much of the processors as the answer does.
        request = f"GET {path} HTTP/1.0\r\nHost: {HOST}\r\n\r\n"
        try:
            with socket.create_connection((HOST, self.http_port), timeout=2) as connection:
                connection.sendall(request.encode())
                answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        except OSError as error:
            return 0, str(error)
        head, _, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"\r\nContent-Length: (\d+)", head)
        if length is None or len(body) < int(length[1]):
            return 0, "the connection was closed before the end of the answer"
        return int(head.split(maxsplit=2)[1]), body.decode()

    def metric(self, name: str) -> float:
        """Return the sum of a metric over the shards and groups of the node; 0 while it is down."""
        text = self.http("/metrics")[1]
        values = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, values))

    def shard_pids(self) -> list[int]:
        """Return the processes of the shards: the children of the supervisor."""
        assert self.process is not None
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return [int(pid) for pid in path.read_text().split()]
        except OSError:
            return []

    def kill(self) -> None:
        """Kill -9 the supervisor and all shards at once, and wait until they are gone."""
        if self.process is None:
            return
        shards = self.shard_pids()
        for pid in (self.process.pid, *shards):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        wait_for(lambda: not any(map(_is_alive, shards)), "killed shards are gone")

    def terminate(self) -> int:
        """Stop it as systemd does, and return its exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(STOP_SECONDS)
        self.process = None
        return code

    def log(self) -> str:
        """Return everything that the node has logged, over all its lives."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log().splitlines()[-25:])


class Cluster:
    """Some nodes of one cluster, in one directory."""

    def __init__(
        self,
        directory: Path,
        nodes: int = 3,
        *,
        shards: int = 1,
        groups: int = 3,
        replication: int = 3,
        shards_of_node: Mapping[int, int] | None = None,
        extra: Mapping[str, str] | None = None,
        extra_of_node: Mapping[int, Mapping[str, str]] | None = None,
        peer_host: str = HOST,
    ) -> None:
        """Write the configurations. `extra` maps sections to further lines of TOML.

        A group has `replication` replicas, or one on each node if there are not so many.
        `peer_host` is where the nodes look for each other: with another host of loopback than the
        one they listen on, something else can stand between them.
        """
        directory.mkdir(parents=True, exist_ok=True)
        base = free_ports(nodes * PORTS_PER_NODE)
        ports = {node: base + (node - 1) * PORTS_PER_NODE for node in range(1, nodes + 1)}
        initial = [
            f"{node}@{peer_host}:{port + PORTS_PER_NODE // 2}" for node, port in ports.items()
        ]
        self.groups = groups
        self.nodes: dict[int, Node] = {}
        for node, port in ports.items():
            lines = dict(extra or {})
            for section, text in (extra_of_node or {}).get(node, {}).items():
                lines[section] = lines.get(section, "") + "\n" + text
            count = (shards_of_node or {}).get(node, shards)
            replicas = min(nodes, replication)
            config = _config(directory, node, port, count, groups, replicas, initial, lines)
            self.nodes[node] = Node(node, directory, port, config)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def __getitem__(self, node: int) -> Node:
        return self.nodes[node]

    @property
    def endpoints(self) -> str:
        """All nodes, as `rafter-cli --endpoints` takes them."""
        return ",".join(node.endpoint for node in self)

    def start(self) -> None:
        """Start all nodes and wait until each is ready."""
        for node in self:
            node.start()
        for node in self:
            node.wait_ready()

    def stop(self) -> None:
        """Kill whatever still runs."""
        for node in self:
            node.kill()

    def leader_of(self, group: int) -> int:
        """Return the node that leads a group, as the running nodes' metrics say."""
        for node in self:
            if node.is_running:
                text = node.http("/metrics")[1]
                if f'rafter_raft_is_leader{{group="{group}"}} 1.0' in text:
                    return node.node
        return 0


@contextlib.contextmanager
def running_cluster(directory: Path, nodes: int = 3, **options: object) -> Iterator[Cluster]:
    """Run a cluster for the length of a with statement; no process outlives it."""
    cluster = Cluster(directory, nodes, **options)  # type: ignore[arg-type]  # passed through
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _config(
    directory: Path,
    node: int,
    port: int,
    shards: int,
    groups: int,
    replication: int,
    initial: list[str],
    extra: Mapping[str, str],
) -> str:
    sections = {
        "node": f'id = {node}\ndata_dir = "{directory / f"n{node}"}"\nshards = {shards}',
        "client": f'listen = "{HOST}:{port}"',
        "peer": f'listen = "{HOST}:{port + PORTS_PER_NODE // 2}"',
        "http": f'listen = "{HOST}:{port + PORTS_PER_NODE - 1}"',
        "cluster": f"groups = {groups}\nreplication = {replication}\ninitial = {initial}".replace(
            "'", '"'
        ),
    }
    if SEGMENT_BYTES is not None and "segment_bytes" not in extra.get("storage", ""):
        sections["storage"] = f"segment_bytes = {SEGMENT_BYTES}"
    for section, lines in extra.items():
        sections[section] = sections.get(section, "") + "\n" + lines
    return "\n".join(f"[{section}]\n{lines}" for section, lines in sections.items())


def _is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie waiting for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
