"""What is done to a node, and when: a pure function of seed and number, and how strace is told."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

TRACED = (
    "fdatasync", "fsync", "pwritev", "pwritev2", "rename", "renameat", "renameat2",
    "unlink", "unlinkat", "fallocate", "ftruncate",
)  # fmt: skip

# A name for strace stands for whatever the C library makes of it.
KILL_CALLS = {
    "fdatasync": "fdatasync",
    "fsync": "fsync",
    "pwritev": "pwritev,pwritev2",
    "rename": "rename,renameat,renameat2",
    "fallocate": "fallocate",
    "unlink": "unlink,unlinkat",
}
_KILL_TURNS = (
    "fdatasync", "fsync", "pwritev", "rename", "unlink",
    "fallocate", "fdatasync", "fsync", "pwritev", "rename",
)  # fmt: skip
_FAILURE_TURNS = ("fdatasync", "fsync", "pwritev")

# strace counts for each thread by itself. A start makes some of each call in its main thread, each
# roll some in the flusher's, and each snapshot some in its own: the higher counts are reached by
# writing alone.
_COUNT_MAX = {
    "fdatasync": 150, "fsync": 12, "pwritev": 150, "rename": 8, "fallocate": 4, "unlink": 6,
}  # fmt: skip
_COUNT_AT_START = 4

RUNS_OF_DIRECTORY = 20
"""After so many runs a new data directory is taken."""
_FAILURE_EVERY = 5


class Injection(NamedTuple):
    """At the `nth` `call` of a thread: SIGKILL, or EIO.

    `lost_part` of the sectors that no sync had covered is zeroed afterwards. `goes_on`: after EIO
    the node may restart its shard and serve for a while before it is killed. Without `is_compared`
    the next injection strikes before anybody has looked, so that it meets what this one left.
    With `has_synced_writes` the node writes and syncs its log in one call where it can, else always
    in two, where the second can fail or never come.
    """

    call: str
    nth: int
    is_kill: bool
    lost_part: float
    goes_on: bool = False
    is_compared: bool = True
    has_synced_writes: bool = False

    @property
    def names(self) -> list[str]:
        """The system calls that it means."""
        return KILL_CALLS[self.call].split(",")

    def __str__(self) -> str:
        what = "SIGKILL" if self.is_kill else "EIO"
        after = ", goes on" if self.goes_on else ""
        if self.has_synced_writes:
            after += ", synced writes"
        return f"{what} at {self.call} {self.nth}{after}, {self.lost_part:.0%} of unsynced lost"

    def strace_command(self, output: Path) -> list[str]:
        """Return the command before the traced program's."""
        effect = "signal=KILL" if self.is_kill else "error=EIO"
        command = ["strace", "-f", "-q", "-y", "-s", "0", "-o", str(output)]
        if not self.is_kill:
            command.append("--seccomp-bpf")  # three times as fast; a signal would not arrive
        command += ["-e", "trace=" + ",".join(TRACED)]
        return [*command, "-e", f"inject={KILL_CALLS[self.call]}:{effect}:when={self.nth}"]


def plan(seed: int, number: int) -> Injection:
    """Return what run `number` does. The kinds of calls take turns, the counts are drawn."""
    generator = random.Random(f"{seed}/{number}")
    lost_part = generator.choice((0.0, 0.5, 1.0))
    is_compared = generator.random() < 0.7
    # The first run of a directory strikes while it is being made.
    is_at_start = number % RUNS_OF_DIRECTORY == 0 or generator.random() < 0.25
    is_kill = number % _FAILURE_EVERY != _FAILURE_EVERY - 1
    if is_kill:
        turn = number - number // _FAILURE_EVERY
        call = _KILL_TURNS[turn % len(_KILL_TURNS)]
    else:
        call = _FAILURE_TURNS[number // _FAILURE_EVERY % len(_FAILURE_TURNS)]
    count_max = _COUNT_MAX.get(call, 1)
    count = generator.randint(1, min(count_max, _COUNT_AT_START) if is_at_start else count_max)
    goes_on = not is_kill and generator.random() < 0.5
    # One that syncs in the same call makes few other syncs.
    has_synced_writes = generator.random() < (0.25 if call == "fdatasync" else 0.75)
    if call == "fdatasync" and count > _COUNT_AT_START:
        has_synced_writes = False
    return Injection(call, count, is_kill, lost_part, goes_on, is_compared, has_synced_writes)


@cache
def why_impossible() -> str:
    """Return why strace cannot inject here, or an empty string."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    program = "import os; os.fsync(os.open('.', os.O_RDONLY))"
    done = subprocess.run(
        ["strace", "-f", "-q", "-o", "/dev/null", "-e", "trace=fsync",
         "-e", "inject=fsync:signal=KILL:when=1", sys.executable, "-S", "-c", program],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    if done.returncode != -9:
        return f"strace cannot kill here: {done.stderr.strip() or done.returncode}"
    return ""
