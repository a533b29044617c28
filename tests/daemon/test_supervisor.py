"""The supervisor with real processes: what it does when shards live, die, hang and drain."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import warm
from tests.daemon.waiting import DEADLINE_SECONDS, wait_readable, wait_until
from tests.ports import free_ports
from tests.transport.support import every_kind_of_link
from tests.transport.tls_support import Authority


class RunningNode:
    """A supervised_node process, its lines of output, and its ports."""

    def __init__(
        self,
        tmp_path: Path,
        behaviour: str,
        *,
        shards: int = 2,
        environment: dict[str, str] | None = None,
        **overrides: object,
    ) -> None:
        self.base = free_ports(2 * shards + 2)
        self.http_port = self.base + 2 * shards + 1
        settings = {
            "node.data_dir": str(tmp_path / "data"),
            "node.shards": str(shards),
            "client.listen": f"127.0.0.1:{self.base}",
            "peer.listen": f"127.0.0.1:{self.base + shards + 1}",
            "http.listen": f"127.0.0.1:{self.http_port}",
        } | {key.replace("__", "."): str(value) for key, value in overrides.items()}
        self.settings = settings
        self.errors = open(tmp_path / "stderr", "w+b")  # noqa: SIM115 - closed with the node
        reader, writer = os.pipe()
        self.output = open(reader, "rb")  # noqa: SIM115 - closed with the node
        self.process = warm.start(
            "tests.daemon.supervised_node", behaviour,
            *(f"{key}={value}" for key, value in settings.items()),
            stdout=writer,
            stderr=self.errors,
            environment=os.environ | (environment or {}),
        )  # fmt: skip
        os.close(writer)
        self.seen: list[str] = []
        self._partial = ""

    def read_lines(self, seconds: float) -> None:
        wait_readable(self.output, seconds)
        data = os.read(self.output.fileno(), 65536)
        assert data, f"the node ended early: {self.log()}"
        *lines, self._partial = (self._partial + data.decode()).split("\n")
        self.seen += lines

    def expect(self, pattern: str, count: int = 1) -> list[re.Match[str]]:
        """Wait until `count` lines match; return their matches."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            matches = [m for line in self.seen if (m := re.fullmatch(pattern, line))]
            if len(matches) >= count:
                return matches
            try:
                self.read_lines(max(0.0, deadline - time.monotonic()))
            except AssertionError as error:
                raise AssertionError(f"{pattern!r} not in {self.seen}; {self.log()}") from error

    def pids(self) -> dict[int, int]:
        """Return the pid of the present life of each shard."""
        return {int(m[1]): int(m[2]) for m in self.expect(r"(\d+) serving (\d+).*")}

    def wait(self) -> int:
        return self.process.wait(DEADLINE_SECONDS)

    def log(self) -> str:
        self.errors.flush()
        with open(self.errors.name, encoding="utf-8") as file:
            return file.read()

    def get(self, path: str) -> tuple[int, str]:
        """Return (status, body) of an HTTP request."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}") as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(DEADLINE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.output.close()
        self.errors.close()


StartNode = Callable[..., RunningNode]


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[StartNode]:
    nodes: list[RunningNode] = []

    def start(behaviour: str, **options: Any) -> RunningNode:
        nodes.append(RunningNode(tmp_path, behaviour, **options))
        return nodes[-1]

    yield start
    for node in nodes:
        node.close()


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@every_kind_of_link
def test_shards_are_linked_pairwise_from_the_start(start_node: StartNode, kind: str) -> None:
    node = start_node("serve", shards=3, node__shard_links=kind)
    node.expect(r"\d serving \d+ \d \d", 3)
    for shard in range(3):
        for other in {0, 1, 2} - {shard}:
            node.expect(rf"{shard} heard {other} hello from {other};.*")


def test_sigterm_drains_every_shard_and_exits_zero(start_node: StartNode) -> None:
    node = start_node("serve")
    node.expect(r"\d serving .*", 2)
    node.process.send_signal(signal.SIGTERM)
    node.expect(r"\d terminated", 2)
    assert node.wait() == 0


def test_sigint_drains_like_sigterm(start_node: StartNode) -> None:
    node = start_node("serve")
    node.expect(r"\d serving .*", 2)
    node.process.send_signal(signal.SIGINT)
    assert node.wait() == 0


def test_a_shard_that_fails_to_drain_makes_the_exit_code_one(start_node: StartNode) -> None:
    node = start_node("fail_at_drain")
    node.expect(r"\d serving .*", 2)
    node.process.send_signal(signal.SIGTERM)
    assert node.wait() == 1


def test_sigterm_is_repeated_and_shards_are_killed_after_the_drain_time(
    start_node: StartNode,
) -> None:
    node = start_node("deaf", node__drain_seconds=1.5)
    node.expect(r"\d serving .*", 2)
    pids = node.pids()
    node.process.send_signal(signal.SIGTERM)
    node.expect(r"0 terminated", 2)
    assert node.wait() == 1
    assert "did not drain in time" in node.log()
    assert all(is_gone(pid) for pid in pids.values())


def test_a_second_sigint_stops_at_once(start_node: StartNode) -> None:
    node = start_node("deaf", node__drain_seconds=600)
    node.expect(r"\d serving .*", 2)
    node.process.send_signal(signal.SIGINT)
    node.expect(r"\d terminated", 2)
    node.process.send_signal(signal.SIGINT)
    assert node.wait() == 1


@every_kind_of_link
def test_a_killed_shard_is_restarted_and_linked_to_the_others_again(
    start_node: StartNode, kind: str
) -> None:
    node = start_node("serve", shards=3, node__shard_links=kind)
    node.expect(r"\d heard \d hello from .*", 6)
    old = node.pids()
    os.kill(old[1], signal.SIGKILL)
    node.expect(r"[02] lost 1", 2)
    node.expect(r"[02] linked 1", 2)
    node.expect(r"1 serving \d+ 0 2", 2)
    node.expect(r"0 heard 1 hello from 1;", 2)
    node.expect(r"1 heard 2 hello again from 2;")
    new = node.pids()
    assert new[1] != old[1]
    assert (new[0], new[2]) == (old[0], old[2])
    assert 'rafter_shard_restarts_total{shard="1"} 1.0' in node.get("/metrics")[1]


def test_shards_killed_together_all_come_back(start_node: StartNode) -> None:
    node = start_node("serve", shards=3)
    node.expect(r"\d heard \d hello from .*", 6)
    old = node.pids()
    for pid in old.values():
        os.kill(pid, signal.SIGKILL)
    node.expect(r"\d serving .*", 6)
    wait_until(lambda: node.get("/readyz")[0] == 200)
    # Whatever the order of the restarts, each pair is connected in the end.
    for shard in range(3):
        for other in {0, 1, 2} - {shard}:
            node.expect(rf"{shard} heard {other} .*", 2)


def test_a_shard_that_raises_is_logged_and_restarted(start_node: StartNode) -> None:
    node = start_node("raising", shards=1)
    wait_until(lambda: node.log().count("shard died") >= 2)
    assert "RuntimeError: a bug in the shard" in node.log()
    node.process.send_signal(signal.SIGTERM)
    assert node.wait() == 0


def test_a_shard_that_stops_moving_is_killed_and_replaced(start_node: StartNode) -> None:
    node = start_node("still", node__watchdog_seconds=1)
    node.expect(r"0 serving .*", 2)
    assert "shard does not answer, killed" in node.log()


def test_a_shard_that_keeps_giving_up_stops_the_node(start_node: StartNode) -> None:
    node = start_node("hopeless", shards=1)
    assert node.wait() == 1
    assert node.log().count("the disk is on fire") == 5


def test_exit_code_78_of_a_shard_stops_the_node_at_once(start_node: StartNode) -> None:
    node = start_node("misconfigured")
    assert node.wait() == 1
    assert "cannot run with this configuration" in node.log()


def test_shards_exit_when_the_supervisor_is_killed(start_node: StartNode) -> None:
    node = start_node("serve", shards=3)
    node.expect(r"\d serving .*", 3)
    pids = node.pids()
    node.process.kill()
    node.expect(r"\d orphaned", 3)
    wait_until(lambda: all(is_gone(pid) for pid in pids.values()))


def test_a_node_starts_again_right_after_a_kill_of_its_supervisor(start_node: StartNode) -> None:
    node = start_node("serve")
    node.expect(r"\d serving .*", 2)
    node.process.kill()
    again = start_node("serve")
    again.expect(r"\d serving .*", 2)


def test_a_second_node_on_the_same_data_directory_is_refused(start_node: StartNode) -> None:
    node = start_node("serve")
    node.expect(r"\d serving .*", 2)
    second = start_node("serve")
    assert second.wait() == 1
    assert f"in use by process {node.process.pid}" in second.log()


@pytest.mark.parametrize(
    ("offset", "key", "purpose"),
    [
        (0, "client.listen", "clients of all shards"),
        (2, "client.listen", "clients of shard 1"),
        (3, "peer.listen", "peers of shard 0"),
        (5, "http.listen", "health and metrics"),
    ],
)
def test_a_port_in_use_is_refused_by_name(
    tmp_path: Path, start_node: StartNode, offset: int, key: str, purpose: str
) -> None:
    base = free_ports(6)
    with socket.create_server(("127.0.0.1", base + offset), reuse_port=True):
        node = start_node(
            "serve",
            client__listen=f"127.0.0.1:{base}",
            peer__listen=f"127.0.0.1:{base + 3}",
            http__listen=f"127.0.0.1:{base + 5}",
        )
        assert node.wait() == 1
    expected = f"rafterd: {key}: cannot listen on 127.0.0.1:{base + offset} ({purpose})"
    assert expected in node.log()


@every_kind_of_link
def test_a_child_has_no_descriptors_of_the_supervisor(start_node: StartNode, kind: str) -> None:
    node = start_node("descriptors", shards=3, node__shard_links=kind)
    node.expect(r"\d serving .*", 3)
    first = [match[1] for match in node.expect(r"\d descriptors (.*)", 3)]
    os.kill(node.pids()[1], signal.SIGKILL)
    restarted = node.expect(r"\d descriptors (.*)", 4)[3][1]
    for targets in (*first, restarted):
        # Besides its own sockets a shard holds the directory's lock and nothing else.
        assert [target for target in targets.split() if not target.endswith("/lock")] == []


def test_ready_is_told_only_when_every_shard_serves(tmp_path: Path, start_node: StartNode) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        node = start_node("late", environment={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "2000000"})
        node.expect(r"0 serving .*")
        early = [receive(manager) for _ in range(4)]
        assert not any("READY=1" in text for text in early)
        assert any("EXTEND_TIMEOUT_USEC=30000000" in text for text in early)
        assert any("WATCHDOG=1" in text for text in early)
        status, body = node.get("/readyz")
        assert (status, "shard_1 failed" in body) == (503, True)
        assert node.get("/livez")[0] == 200
        (tmp_path / "data" / "go").touch()
        ready = receive_until(manager, "READY=1")
        assert "STATUS=shards 2/2, groups 8/8, leaders 8, applied lag 0" in ready
        node.process.send_signal(signal.SIGTERM)
        receive_until(manager, "STOPPING=1")
        assert node.wait() == 0


def receive(manager: socket.socket) -> str:
    wait_readable(manager)
    return manager.recv(4096).decode()


def receive_until(manager: socket.socket, word: str) -> str:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while word not in (text := receive(manager)):
        assert time.monotonic() < deadline, f"{word} was never sent"
    return text


def test_sighup_changes_the_log_level_here_and_in_the_shards(
    tmp_path: Path, start_node: StartNode
) -> None:
    path, config = str(tmp_path / "notify"), tmp_path / "reload.toml"
    config.write_text('[log]\nlevel = "info"\n')
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        node = start_node("serve", environment={"NOTIFY_SOCKET": path, "RELOAD_FROM": str(config)})
        receive_until(manager, "READY=1")
        config.write_text('[log]\nlevel = "debug"\n[raft]\ntick_milliseconds = 40\n')
        node.process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in receive_until(manager, "RELOADING=1")
        receive_until(manager, "READY=1")
        node.expect(r"\d log debug", 2)
        assert "key=raft.tick_milliseconds" in node.log()
        config.write_text("[log]\nlevel = 3\n")
        node.process.send_signal(signal.SIGHUP)
        receive_until(manager, "READY=1")
        assert "not reloaded" in node.log()
        assert node.get("/livez")[0] == 200


def test_sighup_reads_the_tls_files_again_here_and_in_the_shards(
    tmp_path: Path, start_node: StartNode
) -> None:
    path = str(tmp_path / "notify")
    certificate, key = Authority(tmp_path).issue("127.0.0.1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        node = start_node(
            "serve",
            environment={"NOTIFY_SOCKET": path},
            client__tls_certificate=certificate,
            client__tls_key=key,
        )
        receive_until(manager, "READY=1")
        key.chmod(0o604)
        node.process.send_signal(signal.SIGHUP)
        receive_until(manager, "READY=1")
        assert re.search(r"not reloaded.*client\.tls_key = .*mode 0604", node.log())
        key.chmod(0o600)
        node.process.send_signal(signal.SIGHUP)
        # The refused one was not passed on: the first thing that the shards hear is this.
        node.expect(r"\d log info", 2)
        node.expect(r"\d tls", 2)
        assert sum(line.endswith(" tls") for line in node.seen) == 2


def test_a_tls_file_that_cannot_be_used_is_refused_at_the_start(
    tmp_path: Path, start_node: StartNode
) -> None:
    certificate, key = Authority(tmp_path).issue("127.0.0.1")
    key.chmod(0o640)
    node = start_node("serve", client__tls_certificate=certificate, client__tls_key=key)
    assert node.wait() == 1
    assert f"rafterd: client.tls_key = {key}: others than its owner may read it" in node.log()


def test_health_and_metrics_of_a_serving_node(start_node: StartNode) -> None:
    node = start_node("serve")
    node.expect(r"\d serving .*", 2)
    wait_until(lambda: node.get("/readyz") == (200, "ok\n"))
    assert node.get("/livez") == (200, "ok\n")
    assert "[+]group_8 ok" in node.get("/readyz?verbose")[1]
    metrics = node.get("/metrics")[1]
    assert 'rafter_shard_serving{shard="1"} 1.0' in metrics
    assert 'rafter_raft_is_leader{group="8"} 1.0' in metrics
    assert node.get("/nothing")[0] == 404


def test_the_banner_says_where_to_connect(start_node: StartNode) -> None:
    node = start_node("serve", environment={"BANNER": "1"})
    node.expect(rf"  redis-cli -p {node.base} get greeting")
    node.expect(r"Ctrl-C stops it; the data stays\.")
