"""Redis as a counterexample: a primary, two asynchronous replicas, and a failover by force.

A replica that is promoted knows only what had reached it. What the primary acknowledged after its
link to the replicas was cut is lost, and a judge that is worth anything must say so.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import Self

import redis

from tests.cluster.kit import wait_for
from tests.cluster.workload import connect
from tests.faults.proxy import CUT, Proxy
from tests.nemesis.clients import Address
from tests.ports import HOST, free_ports

SERVERS = 3
END_SECONDS = 10.0


def why_absent() -> str:
    """Return why there is no Redis, or an empty string."""
    return "" if shutil.which("redis-server") else "redis-server is not installed"


class RedisReplicas:
    """Server 0 is the primary at first; the others replicate from it through a proxy."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._base = free_ports(SERVERS)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            for server in range(SERVERS):
                self._start(server)
            for server in range(SERVERS):
                wait_for(lambda server=server: self._answers(server), "redis answers")  # type: ignore[misc]  # mypy infers no lambda with defaults
            self._proxy = self._stack.enter_context(Proxy((HOST, self._base)))
            for server in range(1, SERVERS):
                self._command(server, "REPLICAOF", *map(str, self._proxy.address))
                wait_for(lambda server=server: self._is_linked(server), "a replica has all")  # type: ignore[misc]  # mypy infers no lambda with defaults
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait(END_SECONDS)
        self._stack.close()

    def address(self, server: int) -> Address:
        """Where clients find a server."""
        return HOST, self._base + server

    def cut_replication(self) -> None:
        """Let nothing that the primary says reach the replicas any more."""
        self._proxy.set(there=CUT, back=CUT)

    def kill_primary(self) -> None:
        """Kill -9 server 0."""
        self._processes[0].kill()
        self._processes[0].wait(END_SECONDS)

    def promote(self, server: int) -> None:
        """Make a replica the primary by force, and the other one its replica."""
        self._command(server, "REPLICAOF", "NO", "ONE")
        self._command(3 - server, "REPLICAOF", *map(str, self.address(server)))

    def _start(self, server: int) -> None:
        with (self._directory / f"redis-{server}.log").open("ab") as log:
            process = subprocess.Popen(
                ["redis-server", "--port", str(self._base + server), "--bind", HOST,
                 "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0",
                 "--dir", str(self._directory)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._processes.append(process)

    def _command(self, server: int, *words: str) -> object:
        client = connect(self._base + server)
        try:
            return client.execute_command(*words)  # type: ignore[no-untyped-call]
        finally:
            client.close()

    def _answers(self, server: int) -> bool:
        try:
            self._command(server, "PING")
        except redis.ConnectionError:
            return False
        return True

    def _is_linked(self, server: int) -> bool:
        info = self._command(server, "INFO", "replication")
        assert isinstance(info, dict)
        return bool(info["master_link_status"] == "up")
