"""Our programs in processes that start quickly: somebody has imported everything before.

A fresh interpreter takes half a second of CPU to import rafter, and a node of two shards one and a
half; the tests start hundreds. Here a *template* has done the imports, and nothing else: it
has no threads and no loops. For each process it forks, and the child calls the `main` that
`rafterd` or `rafter-cli` would call, with arguments, environment, directory and descriptors of its
own. What the interpreter itself reads when it starts (PYTHONPATH and the like) is the template's.

Tests of what a process has imported when it starts have fresh interpreters, and so have
tests/crash/real.py, the benchmarks and `make nemesis`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

PRELOADED = ("rafterd.main", "rafterd.node", "rafterd.shard", "rafter_kv.cli")
ROOT = Path(__file__).parents[1]
REQUEST_BYTES_MAX = 1 << 17
STATUS = struct.Struct("<i")
DESCRIPTORS = 4
"""Of a request: standard input, output and errors, and the pipe for the status of the end."""


class WarmProcess:
    """A process of the template, with those methods of subprocess.Popen that tests use."""

    def __init__(self, pid: int, arguments: Sequence[str], status: int) -> None:
        """`status` is the end of a pipe; what it says when the process has ended is read there."""
        self.pid = pid
        self.args = arguments
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """Return the exit code, or minus the signal that killed it; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0.0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return what `poll` does. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            readable, _, _ = select.select([self._status], [], [], timeout)
            if not readable:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            data = os.read(self._status, STATUS.size)
            os.close(self._status)
            assert data, "the template of all processes has ended"
            self.returncode = os.waitstatus_to_exitcode(*STATUS.unpack(data))
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(
    program: str,
    *arguments: str | bytes,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
    directory: Path = ROOT,
) -> WarmProcess:
    """Start `main` of a module, for example `rafterd.main`; by default with our environment."""
    words = [program, *map(os.fsdecode, arguments)]
    request = [words, dict(os.environ if environment is None else environment), str(directory)]
    data = json.dumps(request).encode()
    ours, theirs = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    try:
        files = [
            null if file == subprocess.DEVNULL else file if isinstance(file, int) else file.fileno()
            for file in (stdin, stdout, stderr)
        ]
        template, _ = _template()
        socket.send_fds(template, [data], [*files, theirs])
        answer = template.recv(STATUS.size)
    finally:
        os.close(theirs)
        os.close(null)
    assert answer, "the template of all processes has ended"
    (pid,) = STATUS.unpack(answer)
    return WarmProcess(pid, words, ours)


def run(
    program: str,
    *arguments: str | bytes,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[bytes]:
    """Run `main` of a module to its end, as subprocess.run does, and return what it printed."""
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        given.write(stdin)
        given.seek(0)
        process = start(
            program, *arguments,
            stdin=given, stdout=output, stderr=errors, environment=environment,
        )  # fmt: skip
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess(process.args, code, output.read(), errors.read())


@functools.cache
def _template() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start the template, once; it ends when this process has ended, and the socket with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", f"from tests import warm; warm.serve({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
        )

    def end() -> None:
        ours.close()
        process.kill()
        process.wait()

    # It would end by itself as well; but then the interpreter finds both left over, and says so.
    atexit.register(end)
    return ours, process


# ---- in the template -----------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Fork for each request, and tell how the children end, until nobody can ask any more."""
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    requests = socket.socket(fileno=descriptor)
    wake, wake_end = os.pipe()
    os.set_blocking(wake_end, False)
    signal.set_wakeup_fd(wake_end)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    statuses: dict[int, int] = {}
    while True:
        readable, _, _ = select.select([descriptor, wake], [], [])
        if wake in readable:
            os.read(wake, 4096)
            _reap(statuses)
        if descriptor in readable:
            data, descriptors, _, _ = socket.recv_fds(requests, REQUEST_BYTES_MAX, DESCRIPTORS)
            if not data:
                return
            *files, status = descriptors
            pid = os.fork()
            if not pid:
                requests.close()
                _become(data, files, unwanted=(wake, wake_end, status, *statuses.values()))
            statuses[pid] = status
            for file in files:
                os.close(file)
            requests.send(STATUS.pack(pid))


def _reap(statuses: dict[int, int]) -> None:
    """Tell of each child that has ended."""
    while statuses:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        pipe = statuses.pop(pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(pipe, STATUS.pack(status))
        os.close(pipe)


def _become(data: bytes, files: Sequence[int], unwanted: Sequence[int]) -> NoReturn:
    """Be the process that was asked for, in the child of a fork. Ends as any program does."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor in unwanted:
        os.close(descriptor)
    words, environment, directory = json.loads(data)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    program, *arguments = words
    module = importlib.import_module(program)
    sys.argv = [program, *arguments]
    sys.exit(module.main())
