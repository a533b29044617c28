"""Kills a real rafterd at its syncs, writes and renames, or fails them: `make crash-real`.

    python -m tests.crash.real [--kills 200] [--seed 1] [--start 0] [--last N]

Each run starts one node under strace, which strikes at the N-th call of some kind, while clients
write. What no sync had covered by then is lost, as in a power cut. Mostly the node then starts
again without strace, and every acknowledged write must be there; sometimes the next run strikes
first. The data directory goes on into the next run, so that recoveries of recoveries are met; every
20 runs a new one is taken.

Where the blow falls depends on timing, the rest on seed and number. A failed run keeps its
directory, and prints the command that does the same again. A failed sync is taken for what it may
be on Linux: what it covered is gone, even if a later sync succeeds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rafter_storage.snapshot_transfer import verify_path
from tests.cluster.kit import POLL_SECONDS, Cluster, Node
from tests.crash.clients import Clients, read_all
from tests.crash.history import History
from tests.crash.injection import RUNS_OF_DIRECTORY, Injection, plan, why_impossible
from tests.crash.trace import Trace, Write, lose_unsynced

STRIKE_SECONDS = 12.0
"""How long a run waits for its injection; a call that is not made so often is not met."""
WRITES_MAX = 6_000
"""Nor does it wait when so many writes were acknowledged."""
STOP_SECONDS = 10.0
"""How long a shard may live on after a write or sync of its log has failed."""
GO_ON_SECONDS = 1.5
BOOT_SECONDS = 20.0
END_SECONDS = 5.0
MISSES_MAX_PART = 0.5

CONFIG = {
    "client": "value_bytes_max = 65536",
    "storage": "segment_bytes = 1048576",
    "snapshot": "log_bytes = 65536\nchunk_bytes = 4096",
}
"""Small segments: a few hundred writes make a roll, and some more a snapshot and a cut."""

WITHOUT_SYNCED_WRITES = "import os\nvars(os).pop('RWF_DSYNC', None)\n"


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Outcome(NamedTuple):
    """What one run came to. `sites` are the calls that were struck; `problems` what was lost."""

    injection: Injection
    sites: list[str]
    is_before_writes: bool
    acknowledged: int
    lost_bytes: int
    problems: list[str]

    @property
    def has_struck(self) -> bool:
        """Whether the injection was met."""
        return bool(self.sites)


class Life:
    """One data directory, over several runs, and all that its clients know."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.history = History()
        self.snapshots = 0
        """The most snapshots that were there at once."""
        self._durable: dict[str, list[Write]] = {}
        self._node: Node = Cluster(directory, 1, shards=1, groups=2, extra=CONFIG)[1]

    def run(self, seed: int, number: int, injection: Injection) -> Outcome:
        """Strike once, start again and compare. No process is left behind."""
        output = self.directory / "trace"
        output.unlink(missing_ok=True)
        trace = Trace(self._durable)
        problems: list[str] = []
        with Clients(number, self._node.client_port, self.history) as clients:
            with self._traced(injection, output) as supervisor, output.open() as lines:
                tail = _Tail(lines.fileno(), trace)
                is_before_writes = self._wait_for_strike(tail, supervisor, clients)
                if not injection.is_kill and trace.has_struck:
                    problems += self._wait_for_stop(tail, injection)
                # What is cut from here on is this function's own doing.
                struck = list(trace.cut if injection.is_kill else trace.failed)
                _end(supervisor)
                tail.read()
            acknowledged = clients.acknowledged
        generator = random.Random(f"{seed}/{number}/loss")
        lost_bytes = lose_unsynced(trace, self._node.data_directory, generator, injection.lost_part)
        problems += trace.complaints
        if injection.is_compared:
            problems += self.compare()
        sites = [strike.site for strike in struck if strike.call in injection.names]
        if injection.is_kill:
            del sites[1:]  # other threads that were in a call of the same name
        return Outcome(injection, sites, is_before_writes, acknowledged, lost_bytes, problems)

    @contextlib.contextmanager
    def _traced(self, injection: Injection, output: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Run the node under strace, in a process group of its own that is killed in the end."""
        node = [sys.executable, "-m", "rafterd", "--config", str(self._node.config_path)]
        output.touch()
        with self._node.log_path.open("ab") as log:
            process = subprocess.Popen(
                [*injection.strace_command(output), *node],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                cwd=self.directory, start_new_session=True, env=self._environment(injection),
            )  # fmt: skip
        try:
            yield process
        finally:
            # The leader of the group is not reaped before: its number cannot be another's.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _environment(self, injection: Injection) -> dict[str, str]:
        """Return a node's environment: without synced writes, of a Python that has no such flag."""
        if injection.has_synced_writes:
            return dict(os.environ)
        customs = self.directory / "customs"
        customs.mkdir(exist_ok=True)
        (customs / "sitecustomize.py").write_text(WITHOUT_SYNCED_WRITES)
        paths = [str(customs), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def _wait_for_strike(
        self, tail: _Tail, process: subprocess.Popen[bytes], clients: Clients
    ) -> bool:
        """Wait until the injection was met, or will not be; tell if nothing was written before."""
        deadline = time.monotonic() + STRIKE_SECONDS
        while not tail.trace.has_struck and time.monotonic() < deadline:
            if _has_ended(process) or clients.acknowledged > WRITES_MAX:
                break
            time.sleep(POLL_SECONDS)
            tail.read()
        tail.read()
        return clients.acknowledged == 0

    def _wait_for_stop(self, tail: _Tail, injection: Injection) -> list[str]:
        """Wait until each thread whose log is broken is gone; let the next shard serve a while."""
        deadline = time.monotonic() + STOP_SECONDS
        while any(each.thread not in tail.trace.ended for each in tail.trace.broken_logs):
            if time.monotonic() > deadline:
                return [f"the shard still runs {STOP_SECONDS} s after {tail.trace.broken_logs[0]}"]
            time.sleep(POLL_SECONDS)
            tail.read()
        deadline = time.monotonic() + (GO_ON_SECONDS if injection.goes_on else 0.0)
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            tail.read()
        return []

    def compare(self) -> list[str]:
        """Start the node as it is and read everything; return what is wrong."""
        damaged = self._damaged_snapshots()
        self._node.start()
        try:
            self._node.wait_ready(BOOT_SECONDS)
            found = read_all(self._node.client_port, list(self.history.of_key))
        except (AssertionError, OSError) as error:
            return [f"the node does not serve what it had: {error}", *damaged]
        finally:
            self._node.kill()
        losses = self.history.losses(found)
        self.history.settle(found)
        return damaged + [str(loss) for loss in losses]

    def _damaged_snapshots(self) -> list[str]:
        """Return what is wrong with the snapshots on disk: no crash leaves one that is not whole.

        The node goes on with the one before, or with the whole log, and nothing else would tell.
        """
        published = [
            path for path in self._node.data_directory.glob("snapshots/*/*") if "." not in path.name
        ]
        self.snapshots = max(self.snapshots, len(published))
        return [str(fault) for path in published for fault in verify_path(path).faults]


class _Tail:
    """Feeds a trace with the whole lines that a growing file has got."""

    def __init__(self, descriptor: int, trace: Trace) -> None:
        self.trace = trace
        self._descriptor = descriptor
        self._rest = b""

    def read(self) -> None:
        """Take in what is there."""
        while data := os.read(self._descriptor, 1 << 20):
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self.trace.feed(line.decode())


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill all that strace traces, and wait until it has written down the end."""
    pending = _children(process.pid)
    while pending:
        pid = pending.pop()
        pending += _children(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + END_SECONDS
    while not _has_ended(process) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Look without reaping: the group's number must stay taken until all of it is killed."""
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, options) is not None


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


class Tally:
    """The figures of all runs."""

    def __init__(self) -> None:
        self.kills = 0
        self.failures = 0
        self.misses = 0
        self.lost = 0
        self.acknowledged = 0
        self.lost_bytes = 0
        self.before_writes = 0
        self.sites: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        """Count one run."""
        self.acknowledged += outcome.acknowledged
        self.lost_bytes += outcome.lost_bytes
        self.lost += len(outcome.problems)
        if not outcome.has_struck:
            self.misses += 1
        elif outcome.injection.is_kill:
            self.kills += 1
        else:
            self.failures += len(outcome.sites)
        if outcome.has_struck:
            self.before_writes += outcome.is_before_writes
        effect = "killed at" if outcome.injection.is_kill else "failed"
        self.sites.update(f"{effect} {site}" for site in outcome.sites)

    @property
    def runs(self) -> int:
        """How many runs there were."""
        return sum(self.sites.values()) + self.misses

    def report(self) -> None:
        """Print the figures; the last line is the sum."""
        for site, count in sorted(self.sites.items()):
            say(f"{count:5} {site}")
        say(
            f"{self.acknowledged} writes acknowledged, {self.lost_bytes} unsynced bytes lost, "
            f"{self.before_writes} strikes before the first write, "
            f"{self.misses} runs without a strike"
        )
        say(f"{self.kills} kills, {self.failures} failed syncs, {self.lost} lost")


def main() -> int:
    """Run until so many kills were done; the exit code is 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0, help="number of the first run")
    parser.add_argument("--last", type=int, help="number of the last run, whatever --kills says")
    arguments = parser.parse_args()
    if reason := why_impossible():
        say(reason)
        return 1
    tally = Tally()
    number = arguments.start
    while arguments.last is not None or tally.kills < arguments.kills:
        if not run_directory(arguments, number, tally):
            break
        number = (number // RUNS_OF_DIRECTORY + 1) * RUNS_OF_DIRECTORY
        if arguments.last is not None and number > arguments.last:
            break
    tally.report()
    return int(tally.lost > 0)


def run_directory(arguments: argparse.Namespace, first: int, tally: Tally) -> bool:
    """Do the runs of one data directory; False if it was kept because something is wrong."""
    directory = Path(tempfile.mkdtemp(prefix="rafter-crash-"))
    life = Life(directory)
    end = (first // RUNS_OF_DIRECTORY + 1) * RUNS_OF_DIRECTORY
    if arguments.last is not None:
        end = min(end, arguments.last + 1)
    for number in range(first, end):
        if arguments.last is None and tally.kills >= arguments.kills:
            break
        started = time.monotonic()
        injection = plan(arguments.seed, number)
        is_last = number + 1 == end or tally.kills + injection.is_kill == arguments.kills
        if is_last:
            injection = injection._replace(is_compared=True)
        outcome = life.run(arguments.seed, number, injection)
        tally.add(outcome)
        where = outcome.sites[0] if outcome.sites else "not met"
        say(
            f"{number:4} {injection}: {where}; {outcome.acknowledged} acknowledged, "
            f"{outcome.lost_bytes} bytes lost, {time.monotonic() - started:.1f} s"
        )
        if outcome.problems:
            for problem in outcome.problems[:20]:
                say(f"LOST: {problem}")
            say(f"kept: {directory}")
            say(
                f"again: python -m tests.crash.real --seed {arguments.seed} "
                f"--start {first} --last {number}"
            )
            return False
        if tally.misses > 10 and tally.misses > MISSES_MAX_PART * tally.runs:
            tally.lost += 1
            say(f"LOST: {tally.misses} injections were never met, so little is tested")
            return False
    shutil.rmtree(directory)
    return True


if __name__ == "__main__":
    sys.exit(main())
