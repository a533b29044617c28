"""`make bench`: one node and three nodes on loopback, driven by redis-benchmark.

For each number of clients and pipeline depth it prints the rate, the latency and the CPU time per
command of the driven node and of the others. CPU time is what to compare: rates move with whatever
else the machine does. All nodes and the load generator share the machine, every write is synced on
a majority before its reply.
"""

import argparse
import csv
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from tests.cluster.kit import Cluster, Node, running_cluster

SHAPES = ((1, 1), (50, 1), (50, 16), (512, 16))
"""Clients x pipeline."""
COMMANDS = {(1, 1): 3_000, (50, 1): 60_000, (50, 16): 400_000, (512, 16): 600_000}
RUN_SECONDS_MAX = 120
KEYS = 100_000
VALUE_BYTES = 64
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

LEADERS_ON_FIRST = {
    1: {"raft": 'first_leader = "self"'},
    2: {"raft": 'first_leader = "none"\nelection_timeout_ticks = 60'},
    3: {"raft": 'first_leader = "none"\nelection_timeout_ticks = 60'},
}


class Row(NamedTuple):
    """One run of redis-benchmark."""

    test: str
    rate: float
    p50_ms: float
    p99_ms: float
    driven_us: float
    others_us: float


def main() -> None:
    """Measure what the arguments ask for and print one table per set-up."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--shards", type=int, default=1, help="shards per node (default 1)")
    parser.add_argument("--scale", type=float, default=1.0, help="length of the runs")
    parser.add_argument("--shape", action="append", help="only this one, such as 50x16")
    parser.add_argument("--only", choices=("one", "three", "spread"), action="append")
    arguments = parser.parse_args()
    _install_redis_benchmark()
    console = Console()
    setups = {
        "one": (1, "one node", {}),
        "three": (3, "three nodes, all groups led by the driven node", LEADERS_ON_FIRST),
        "spread": (3, "three nodes, leaders spread over them", {}),
    }
    shapes = [tuple(map(int, s.split("x"))) for s in arguments.shape or ()] or list(SHAPES)
    for name, (nodes, title, extra) in setups.items():
        if arguments.only and name not in arguments.only:
            continue
        options = {"shards": arguments.shards, "groups": arguments.groups, "extra_of_node": extra}
        with (
            tempfile.TemporaryDirectory(prefix="rafter-bench-") as directory,
            running_cluster(Path(directory), nodes, **options) as cluster,
        ):
            console.print(_measure(cluster, title, shapes, arguments))


def _install_redis_benchmark() -> None:
    if shutil.which("redis-benchmark"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit("bench needs redis-benchmark: install your system's redis-tools package")
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(["apt-get", "install", "-y", "-qq", "redis-tools"], check=True)


def _measure(
    cluster: Cluster, title: str, shapes: list[tuple[int, ...]], arguments: argparse.Namespace
) -> Table:
    table = Table(
        title=f"{title}; {arguments.shards} shard(s) a node, {arguments.groups} groups",
        caption=f"{VALUE_BYTES}-byte values, {KEYS} keys, sync on; CPU of rafterd, µs a command",
    )
    for column in ("clientsxpipeline", "test", "rate /s", "p50 ms", "p99 ms", "CPU driven"):
        table.add_column(column, justify="right")
    if len(cluster.nodes) > 1:
        table.add_column("CPU each other", justify="right")
    for clients, pipeline in shapes:
        for test in ("set", "get"):
            row = _run(cluster, test, clients, pipeline, arguments.scale)
            cells = [
                f"{clients}x{pipeline}", row.test, f"{row.rate:,.0f}", f"{row.p50_ms:.2f}",
                f"{row.p99_ms:.2f}", f"{row.driven_us:.2f}",
            ]  # fmt: skip
            if len(cluster.nodes) > 1:
                cells.append(f"{row.others_us:.2f}")
            table.add_row(*cells)
    return table


def _run(cluster: Cluster, test: str, clients: int, pipeline: int, scale: float) -> Row:
    commands = int(COMMANDS.get((clients, pipeline), 100_000) * scale)
    driven, *others = cluster
    before = [_cpu_seconds(node) for node in cluster]
    command = [
        "redis-benchmark", "-h", "127.0.0.1", "-p", str(driven.client_port), "-t", test,
        "-c", str(clients), "-P", str(pipeline), "-n", str(commands), "-r", str(KEYS),
        "-d", str(VALUE_BYTES), "--csv",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=RUN_SECONDS_MAX, check=True
    )
    after = [_cpu_seconds(node) for node in cluster]
    used_us = [(b - a) / commands * 1e6 for a, b in zip(before, after, strict=True)]
    fields = next(csv.DictReader(io.StringIO(done.stdout)))
    return Row(
        fields["test"],
        float(fields["rps"]),
        float(fields["p50_latency_ms"]),
        float(fields["p99_latency_ms"]),
        used_us[0],
        sum(used_us[1:]) / max(1, len(others)),
    )


def _cpu_seconds(node: Node) -> float:
    """Return the CPU time, user and system, that a node's processes have used."""
    assert node.process is not None
    ticks = 0
    for pid in (node.process.pid, *node.shard_pids()):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / CLOCK_TICKS


if __name__ == "__main__":
    main()
