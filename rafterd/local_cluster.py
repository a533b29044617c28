"""`python -m rafterd.local_cluster`: three nodes on loopback in the foreground, to try things with.

Each node is a real `rafterd` command with its own configuration file and data below one directory.
Their lines come out with the node's number in front. Type `kill 2` and `start 2` to see a
failover. Ctrl-C stops all three; the data stays for the next time.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import click

from rafterd.select_loop import run_turn
from rafterd.signals import SignalPipe

NODES = (1, 2, 3)
PORT_STEP = 100
"""Between the ports of neighbouring nodes: room for the ports of the shards."""
READ_BYTES = 65536
LINE_BYTES_MAX = 1 << 16


class LocalNode:
    """One node: its configuration and, while it runs, its process."""

    def __init__(self, number: int, config_path: Path) -> None:
        self.number = number
        self.config_path = config_path
        self.process: subprocess.Popen[bytes] | None = None
        self._partial = b""

    @property
    def is_running(self) -> bool:
        """Whether its process has not been waited for."""
        return self.process is not None

    def command(self) -> list[str]:
        """Return the command of the node."""
        return [sys.executable, "-m", "rafterd", "--config", str(self.config_path), "--no-banner"]

    def start(self) -> BinaryIO:
        """Start the process and return its output, both streams in one."""
        self.process = subprocess.Popen(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        return self.process.stdout  # type: ignore[return-value]  # typeshed says IO[bytes]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its supervisor."""
        if self.process is not None:
            self.process.send_signal(number)

    def finish(self) -> int:
        """Wait for the process, whose output has ended; return its exit code."""
        assert self.process is not None
        status = self.process.wait()
        self.process = None
        return status

    def lines(self, data: bytes) -> list[str]:
        """Return the complete lines so far; `data` empty means the output ended."""
        *complete, self._partial = (self._partial + data).split(b"\n")
        if self._partial and (not data or len(self._partial) > LINE_BYTES_MAX):
            complete.append(self._partial)
            self._partial = b""
        return [line.decode(errors="replace") for line in complete]


class LocalCluster:
    """The nodes and the loop over their output, the keyboard and signals."""

    def __init__(self, nodes: list[LocalNode]) -> None:
        self._nodes = {node.number: node for node in nodes}
        self._selector = selectors.DefaultSelector()
        self._is_stopping = False
        self._has_failed = False

    def run(self, keyboard: int | None) -> int:
        """Run until all nodes have ended. `keyboard` is a descriptor to read commands from."""
        signals = SignalPipe((signal.SIGINT, signal.SIGTERM))
        self._selector.register(
            signals.descriptor, selectors.EVENT_READ, lambda _mask: self._on_signals(signals.read())
        )
        if keyboard is not None:
            self._selector.register(
                keyboard, selectors.EVENT_READ, lambda _mask: self._on_keyboard(keyboard)
            )
        try:
            for node in self._nodes.values():
                self._start(node)
            while not (self._is_stopping and not self._running()):
                run_turn(self._selector)
        finally:
            for node in self._running():
                node.signal(signal.SIGKILL)
                node.finish()
            signals.close()
            self._selector.close()
        return int(self._has_failed)

    def _running(self) -> list[LocalNode]:
        return [node for node in self._nodes.values() if node.is_running]

    def _start(self, node: LocalNode) -> None:
        output = node.start()
        self._selector.register(
            output, selectors.EVENT_READ, lambda _mask: self._on_output(node, output.fileno())
        )
        assert node.process is not None
        click.echo(f"[{node.number}] started, process {node.process.pid}")

    def _on_output(self, node: LocalNode, descriptor: int) -> None:
        data = os.read(descriptor, READ_BYTES)
        for line in node.lines(data):
            click.echo(f"[{node.number}] {line}")
        if data:
            return
        assert node.process is not None
        assert node.process.stdout is not None
        self._selector.unregister(node.process.stdout)
        node.process.stdout.close()
        status = node.finish()
        click.echo(f"[{node.number}] ended with status {status}")
        if self._is_stopping:
            self._has_failed |= status not in {0, -signal.SIGTERM}
        elif not self._running():
            self._is_stopping = self._has_failed = True  # nothing left to try

    def _on_signals(self, numbers: list[int]) -> None:
        # The terminal sends Ctrl-C to the nodes too; SIGTERM is for signals to this process alone,
        # and does no harm to a node that already stops.
        is_impatient = self._is_stopping and signal.SIGINT in numbers
        self._stop(signal.SIGINT if is_impatient else signal.SIGTERM)

    def _stop(self, number: signal.Signals) -> None:
        self._is_stopping = True
        for node in self._running():
            node.signal(number)

    def _on_keyboard(self, descriptor: int) -> None:
        data = os.read(descriptor, READ_BYTES)
        if not data:
            self._selector.unregister(descriptor)
        for line in data.decode(errors="replace").splitlines():
            self._command(line.split())

    def _command(self, words: list[str]) -> None:
        match words:
            case []:
                return
            case ["quit" | "exit"]:
                self._stop(signal.SIGTERM)
            case ["kill" | "stop" | "start" as verb, number] if number in map(str, self._nodes):
                node = self._nodes[int(number)]
                if verb == "start" and not node.is_running:
                    self._start(node)
                elif verb == "kill":
                    node.signal(signal.SIGKILL)
                elif verb == "stop":
                    node.signal(signal.SIGTERM)
                else:
                    click.echo(f"node {number} runs already")
            case _:
                click.echo("kill N, stop N, start N (N is 1, 2 or 3), or quit")


def write_config(directory: Path, number: int, shards: int, base_port: int) -> Path:
    """Write the configuration of one node and return its path."""
    offset = (number - 1) * PORT_STEP
    initial = ", ".join(
        f'"{node}@127.0.0.1:{base_port + 10_000 + (node - 1) * PORT_STEP}"' for node in NODES
    )
    text = f"""\
# Written by rafterd.local_cluster at each start.
[node]
id = {number}
data_dir = {json.dumps(str(directory / f"n{number}"), ensure_ascii=False)}
shards = {shards}
[client]
listen = "127.0.0.1:{base_port + offset}"
[peer]
listen = "127.0.0.1:{base_port + 10_000 + offset}"
[http]
listen = "127.0.0.1:{base_port + 2_000 + offset}"
[cluster]
name = "local"
groups = 8
replication = 3
initial = [{initial}]
"""
    path = directory / f"n{number}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def greeting(base_port: int) -> str:
    """Return what is printed before the nodes start."""
    ports = [base_port + (node - 1) * PORT_STEP for node in NODES]
    endpoints = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"""\
Three nodes on loopback, clients on {", ".join(map(str, ports))}.

In another terminal:
  rafter-cli --endpoints {endpoints} status
  rafter-cli --endpoints {endpoints} put greeting hello
  redis-cli -p {ports[1]} get greeting

Here: kill 1 (as kill -9), start 1, stop 1, quit. Ctrl-C stops all; the data stays.
"""


@click.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data/cluster"),
    show_default=True,
    help="Where configurations and data go.",
)
@click.option("--shards", type=click.IntRange(1, 16), default=1, show_default=True)
@click.option("--base-port", type=click.IntRange(1024, 50_000), default=7379, show_default=True)
def main(directory: Path, shards: int, base_port: int) -> None:
    """Run three nodes on loopback in the foreground."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    nodes = [
        LocalNode(number, write_config(directory, number, shards, base_port)) for number in NODES
    ]
    click.echo(greeting(base_port))
    keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
    sys.exit(LocalCluster(nodes).run(keyboard))


if __name__ == "__main__":
    main()
