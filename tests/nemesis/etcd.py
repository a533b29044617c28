"""etcd as a reference: a cluster of real nodes, spoken to over the JSON gateway of its v3 API.

The commands of the workload are Redis's; each is one request to etcd that does the same, and its
answer is turned into Redis's. So the clients, and all that judges them, are those of rafter.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tests.nemesis.clients import ANSWER_SECONDS, Address, LostError
from tests.nemesis.workload import Words
from tests.ports import HOST, free_ports

END_SECONDS = 10.0


def why_absent() -> str:
    """Return why there is no etcd, or an empty string."""
    return "" if shutil.which("etcd") else "etcd is not installed (etcd-server)"


class RefusedError(Exception):
    """An answer that is an error; it may have been executed."""


def encode(data: bytes) -> str:
    """Return bytes as the gateway wants them."""
    return base64.b64encode(data).decode()


def request_of(words: Words) -> tuple[str, dict[str, Any]]:
    """Return path and body of the request that does what a command says."""
    name, key, *values = words
    named: dict[str, Any] = {"key": encode(key)}
    if name == b"GET":
        return "/v3/kv/range", named
    if name == b"DEL":
        return "/v3/kv/deleterange", named
    put = {**named, "value": encode(values[0])}
    if name == b"GETSET":
        return "/v3/kv/put", {**put, "prev_kv": True}
    if values[1:] == [b"NX"]:
        absent = {**named, "target": "CREATE", "result": "EQUAL", "create_revision": "0"}
        return "/v3/kv/txn", {"compare": [absent], "success": [{"request_put": put}]}
    return "/v3/kv/put", put


def reply_of(words: Words, answer: dict[str, Any]) -> Any:
    """Return what Redis would have replied."""
    name = words[0]
    if name == b"GET":
        found = answer.get("kvs")
        return base64.b64decode(found[0]["value"]) if found else None
    if name == b"DEL":
        return int(answer.get("deleted", 0))
    if name == b"GETSET":
        before = answer.get("prev_kv")
        return base64.b64decode(before["value"]) if before else None
    if words[3:] == (b"NX",):
        return b"OK" if answer.get("succeeded") else None
    return b"OK"


class EtcdConnection:
    """A connection to one node; its requests are made one by one, in a thread."""

    def __init__(self, address: Address) -> None:
        self._http = http.client.HTTPConnection(*address, timeout=ANSWER_SECONDS)
        self._commands: deque[Words] = deque()

    @classmethod
    async def open(cls, address: Address) -> EtcdConnection:
        """Connect. Raises LostError if nobody is there."""
        connection = cls(address)
        try:
            await asyncio.to_thread(connection._http.connect)
        except OSError as error:
            raise LostError(str(error)) from None
        return connection

    def send(self, commands: Sequence[Words]) -> None:
        """Take commands; each is sent when its reply is asked for."""
        self._commands.extend(commands)

    async def receive(self) -> Any:
        """Return the next reply. Raises LostError if there is none."""
        words = self._commands.popleft()
        try:
            status, answer = await asyncio.to_thread(self._ask, *request_of(words))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise LostError(f"{type(error).__name__}: {error}") from None
        if status != http.client.OK:
            return RefusedError(str(answer.get("error", status)))
        return reply_of(words, answer)

    def _ask(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self._http.request("POST", path, json.dumps(body))
        response = self._http.getresponse()
        answer = json.loads(response.read())
        return response.status, answer if isinstance(answer, dict) else {}

    def close(self) -> None:
        """Close it."""
        self._http.close()


class EtcdCluster:
    """Some nodes on loopback, each of which can be killed and paused; a context manager."""

    def __init__(self, directory: Path, nodes: int = 3) -> None:
        self._directory = directory
        self._base = free_ports(2 * nodes)
        self._nodes = list(range(nodes))
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        for node in self._nodes:
            self.start(node)
        return self

    def __exit__(self, *_: object) -> None:
        for node in self._nodes:
            self.kill(node)

    @property
    def addresses(self) -> list[Address]:
        """Where clients find the nodes."""
        return [(HOST, self._base + 2 * node) for node in self._nodes]

    def start(self, node: int) -> None:
        """Start a node, with the data it had."""
        client, peer = (f"http://{HOST}:{self._base + 2 * node + part}" for part in (0, 1))
        initial = ",".join(f"n{n}=http://{HOST}:{self._base + 2 * n + 1}" for n in self._nodes)
        with (self._directory / f"n{node}.log").open("ab") as log:
            self._processes[node] = subprocess.Popen(
                ["etcd", "--name", f"n{node}", "--data-dir", str(self._directory / f"n{node}"),
                 "--listen-client-urls", client, "--advertise-client-urls", client,
                 "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                 "--initial-cluster", initial, "--initial-cluster-state", "new",
                 "--heartbeat-interval", "50", "--election-timeout", "500"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def kill(self, node: int) -> None:
        """Kill -9 a node, and wait until it is gone."""
        process = self._processes.pop(node, None)
        if process is not None:
            process.kill()
            process.wait(END_SECONDS)

    def pause(self, node: int) -> None:
        """Stop a node where it is."""
        os.kill(self._processes[node].pid, signal.SIGSTOP)

    def go_on(self, node: int) -> None:
        """Let a paused node go on."""
        os.kill(self._processes[node].pid, signal.SIGCONT)
