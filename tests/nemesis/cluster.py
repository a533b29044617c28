"""The cluster of a round, and what can be done to it from outside: its processes, network, disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Self

from tests.cluster.kit import Cluster, Node
from tests.faults.cluster import Network, cluster_behind_proxies
from tests.faults.proxy import CUT
from tests.nemesis.plan import Shape

SMALL_DISK_BYTES = 48 << 20
REFILL_SECONDS = 0.2
COMMAND_SECONDS = 10.0

CONFIG = {
    "node": "drain_seconds = 5.0",
    "client": "request_timeout_seconds = 2.0\nvalue_bytes_max = 65536",
    "storage": "segment_bytes = 1048576",
    "snapshot": "log_bytes = 131072\nlog_entries = 4000\nchunk_bytes = 4096",
}
"""Small segments and snapshots: logs are cut, and nodes left behind by it, within every round."""


class Cuts:
    """Which nodes are kept from hearing which others: cuts may overlap, each is taken back once."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._counts: Counter[tuple[int, int]] = Counter()
        self._lock = threading.Lock()

    def cut(self, pairs: Iterable[tuple[int, int]]) -> None:
        """For each (speaker, listener): nothing that one says gets to the other from now on."""
        with self._lock:
            for pair in pairs:
                self._counts[pair] += 1
                speaker, listener = pair
                # A connection carries what the node that dialled it has to say.
                for proxy in self._network.to[listener]:
                    proxy.set(there=CUT, back=CUT, node=speaker)

    def join(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Take cuts back. Connections that have lost something stay dead until the nodes notice."""
        with self._lock:
            for pair in pairs:
                self._counts[pair] -= 1
                speaker, listener = pair
                if not self._counts[pair]:
                    for proxy in self._network.to[listener]:
                        proxy.set(node=speaker)

    @property
    def pairs(self) -> set[tuple[int, int]]:
        """Those that are cut now."""
        with self._lock:
            return {pair for pair, count in self._counts.items() if count}


class SmallDisk:
    """A file system of its own in memory, which can be filled to its last byte.

    Mounted while the context lasts; nothing else of the machine's can become full.
    """

    def __init__(self, directory: Path, size_bytes: int = SMALL_DISK_BYTES) -> None:
        self.directory = directory
        self._size_bytes = size_bytes
        self._filler = directory / "filler"

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        options = f"size={self._size_bytes},mode=700"
        _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.directory))
        return self

    def __exit__(self, *_: object) -> None:
        # Lazily: somebody who still looks at it shall not be what a run ends with.
        _run("umount", "--lazy", str(self.directory))

    @contextlib.contextmanager
    def filled(self) -> Iterator[None]:
        """Leave no room, and take what becomes free, until the end of the with statement."""
        is_over = threading.Event()

        def refill() -> None:
            while True:
                self._fill()
                if is_over.wait(REFILL_SECONDS):
                    return

        thread = threading.Thread(target=refill, name="filler", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join(COMMAND_SECONDS)
            self._filler.unlink(missing_ok=True)

    def _fill(self) -> None:
        with self._filler.open("ab") as file:
            room = os.statvfs(self.directory)
            free_bytes = room.f_bavail * room.f_frsize
            if free_bytes:
                # Somebody else may have taken it meanwhile.
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), file.tell(), free_bytes)


class Ground:
    """A running cluster with everything that faults need. Faults run in threads of their own."""

    def __init__(self, cluster: Cluster, network: Network, disks: dict[int, SmallDisk]) -> None:
        self.cluster = cluster
        self.cuts = Cuts(network)
        self.disks = disks
        self.locks = {node.node: threading.Lock() for node in cluster}
        """Who does something to the processes of a node holds its lock."""

    @property
    def numbers(self) -> list[int]:
        """All nodes."""
        return [node.node for node in self.cluster]

    @contextlib.contextmanager
    def holding(self, nodes: Iterable[int]) -> Iterator[list[Node]]:
        """Keep other faults from the processes of these nodes."""
        with contextlib.ExitStack() as stack:
            for node in sorted(nodes):
                stack.enter_context(self.locks[node])
            yield [self.cluster[node] for node in nodes]


@contextlib.contextmanager
def running_ground(directory: Path, shape: Shape, small_disk: int = 0) -> Iterator[Ground]:
    """Run a cluster of this shape; one node may have a small disk."""
    with contextlib.ExitStack() as stack:
        disks = {}
        if small_disk:
            disk = SmallDisk(directory / f"n{small_disk}")
            disks[small_disk] = stack.enter_context(disk)
        cluster, network = stack.enter_context(
            cluster_behind_proxies(
                directory,
                shape.nodes,
                shards=shape.shards,
                groups=shape.groups,
                replication=shape.replication,
                extra=CONFIG,
            )
        )
        yield Ground(cluster, network, disks)


# ---- what is possible here -----------------------------------------------------------------------


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


@cache
def why_no_small_disk() -> str:
    """Return why no file system can be mounted here, or an empty string."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return "only root can mount a small disk"
    with tempfile.TemporaryDirectory(prefix="rafter-disk-") as directory:
        try:
            with SmallDisk(Path(directory) / "disk", 1 << 20):
                return ""
        except OSError as error:
            return f"no small disk can be mounted: {error}"


@cache
def why_no_failing_syncs() -> str:
    """Return why strace cannot be attached to a process here, or an empty string."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    # It is told when to try by the end of its input, so strace is there before it syncs.
    program = (
        "import os, sys\n"
        "sys.stdin.read()\n"
        "try: os.fsync(os.open('.', os.O_RDONLY))\n"
        "except OSError: sys.exit(5)\n"
    )
    process = subprocess.Popen([sys.executable, "-S", "-c", program], stdin=subprocess.PIPE)
    try:
        with failing_syncs(process.pid):
            process.communicate(timeout=COMMAND_SECONDS)
    except OSError as error:
        return str(error)
    finally:
        process.kill()
        process.wait()
    return "" if process.returncode == 5 else "strace does not make syncs fail here"


SYNCS = "fdatasync,fsync,pwritev,pwritev2"
"""What makes data durable: the log may be written to files that sync at each write."""


@contextlib.contextmanager
def failing_syncs(pid: int) -> Iterator[None]:
    """Let all syncs of a process fail with EIO. Raises OSError if strace cannot be attached."""
    process = subprocess.Popen(
        ["strace", "-f", "-o", "/dev/null", "-p", str(pid), "-e", f"trace={SYNCS}",
         "-e", f"inject={SYNCS}:error=EIO"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        if "attached" not in line:
            raise OSError(f"strace cannot be attached: {line.strip()}")
        yield
    finally:
        process.terminate()  # it lets go of what it traces
        try:
            process.wait(COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()
