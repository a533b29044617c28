"""Reads what strace writes: which injection struck where, and which bytes no sync had covered.

The lines are those of `strace -f -q -y -s 0`. A line is written before the traced process goes on,
so a sync whose success a process could have seen is always in the trace.
"""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from typing import NamedTuple

SECTOR_BYTES = 512

SYNCS = ("fdatasync", "fsync")
WRITES = ("pwritev", "pwritev2")
SYNCED = ", RWF_DSYNC"
"""How the arguments end of a write that is a sync of what it writes, and of nothing else."""
RENAMES = ("rename", "renameat", "renameat2")
REMOVALS = ("unlink", "unlinkat")

_LINE = re.compile(r"(\d+)\s+(.*)")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)")
_CALL = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+|\?)(.*)")
_OPENED = re.compile(r"(\w+)\(\d+<([^>]*)>")
_QUOTED = re.compile(r'"([^"]*)"')
_PLACE = re.compile(r"\], \d+, (\d+)(?:, \w+)?$")
_UNFINISHED = "<unfinished ...>"
# Segments and groups, indexes of snapshots, any other number.
_NUMBERS = re.compile(r"\d{17,}|[0-9a-f]{16}|\d+")


class Write(NamedTuple):
    """Bytes that were handed to the kernel. Compared by identity."""

    offset: int
    length: int


class Strike(NamedTuple):
    """One call that was made to fail, or in which a thread was killed."""

    thread: int
    call: str
    path: str
    is_synced: bool = False

    @property
    def site(self) -> str:
        """The call and the kind of file, the same for all files of that kind."""
        name = Path(self.path).name
        stem = _NUMBERS.sub("*", name) if name else "a path"
        return f"{self.call}{' synced' * self.is_synced} {stem}"


class Trace:
    """The calls of a node so far. Feed it whole lines in order.

    ``durable`` is what syncs have covered, of earlier traces too, and is added to. What is written
    to a place that is durable has to be the same bytes: a recovery writes what it believes once
    more. Nothing of it can be lost.

    Bytes whose sync failed are gone until they are written again, whatever a later sync says: so
    Linux behaves when it marks pages clean that it could not write.
    """

    def __init__(self, durable: dict[str, list[Write]] | None = None) -> None:
        self.durable: dict[str, list[Write]] = {} if durable is None else durable
        self.cut: list[Strike] = []
        """The calls in which threads were killed."""
        self.failed: list[Strike] = []
        self.ended: set[int] = set()
        """Threads that are gone."""
        self.unsynced: dict[str, list[Write]] = {}
        self.dropped: dict[str, list[Write]] = {}
        self.complaints: list[str] = []
        self._complained: set[Strike] = set()
        # By thread: the beginning of a call that another thread's line interrupted, and what a
        # sync covers: the writes that had returned when it began.
        self._begun: dict[int, tuple[str, list[Write]]] = {}

    @property
    def has_struck(self) -> bool:
        """Whether a process was killed or a call has failed."""
        return bool(self.cut or self.failed)

    @property
    def broken_logs(self) -> list[Strike]:
        """The failed writes and syncs of log segments: each must end its process."""
        return [
            strike
            for strike in self.failed
            if strike.call in SYNCS + WRITES and strike.path.endswith(".log")
        ]

    def feed(self, line: str) -> None:
        """Take in one line."""
        match = _LINE.match(line)
        if match is None:
            return
        thread, text = int(match[1]), match[2]
        if text.startswith("+++"):
            self.ended.add(thread)
            return
        if text.endswith(_UNFINISHED):
            text = text.removesuffix(_UNFINISHED).rstrip()
            self._begun[thread] = (text, self._covered(text))
            return
        covered = None
        if resumed := _RESUMED.match(text):
            begun, covered = self._begun.pop(thread, ("", []))
            text = begun + resumed[1]
        if call := _CALL.match(text):
            if covered is None:
                covered = self._covered(text)
            self._took_place(thread, call, covered)

    def _covered(self, text: str) -> list[Write]:
        opened = _OPENED.match(text)
        if opened is None or opened[1] not in SYNCS:
            return []
        return list(self.unsynced.get(opened[2], ()))

    def _took_place(self, thread: int, call: re.Match[str], covered: list[Write]) -> None:
        name, arguments, result = call[1], call[2], call[3]
        quoted = _QUOTED.findall(arguments)
        opened = _OPENED.match(f"{name}({arguments}")
        path = opened[2] if opened else (quoted[0] if quoted else "")
        is_synced = name in WRITES and arguments.endswith(SYNCED)
        strike = Strike(thread, name, path, is_synced)
        self._check_thread(thread, name, path)
        if result == "?":
            self.cut.append(strike)
        elif "(INJECTED)" in call[4]:
            self.failed.append(strike)
            if name in SYNCS:
                self._forget(path, covered)
                self.dropped.setdefault(path, []).extend(covered)
        elif result.startswith("-"):
            return
        elif name in SYNCS:
            self._forget(path, covered)
            self.durable.setdefault(path, []).extend(covered)
        elif name in WRITES and (place := _PLACE.search(arguments)):
            write = Write(int(place[1]), int(result))
            durable = self.durable.setdefault(path, [])
            if is_synced:
                durable.append(write)
            else:
                self.unsynced.setdefault(path, []).extend(_parts_outside([write], durable))
            if dropped := _parts_outside(self.dropped.pop(path, []), [write]):
                self.dropped[path] = dropped
        elif name in RENAMES and len(quoted) == 2:
            self._rename(path, quoted[1])
        elif name in REMOVALS:
            for writes in (self.unsynced, self.dropped, self.durable):
                writes.pop(path, None)

    def _rename(self, path: str, target: str) -> None:
        """Let bytes follow their file, or all files of a directory."""
        for writes in (self.unsynced, self.dropped, self.durable):
            for each in [each for each in writes if f"{each}/".startswith(f"{path}/")]:
                moved = writes.pop(each)
                # A file that is used again is written with other bytes.
                if moved and writes is not self.durable:
                    writes[target + each[len(path) :]] = moved

    def _check_thread(self, thread: int, name: str, path: str) -> None:
        if name not in SYNCS + WRITES or not path.endswith(".log"):
            return
        for strike in self.broken_logs:
            if strike.thread == thread and strike not in self._complained:
                self._complained.add(strike)
                self.complaints.append(
                    f"{name} of {path} after {strike.call} of {strike.path} had failed"
                )

    def _forget(self, path: str, covered: list[Write]) -> None:
        gone = {id(write) for write in covered}
        writes = self.unsynced.get(path, [])
        self.unsynced[path] = [write for write in writes if id(write) not in gone]


def _parts_outside(writes: list[Write], others: list[Write]) -> list[Write]:
    """Return what is left of `writes` without the bytes of `others`."""
    for other in others:
        end = other.offset + other.length
        rest = []
        for each in writes:
            each_end = each.offset + each.length
            if each_end <= other.offset or end <= each.offset:
                rest.append(each)
                continue
            if each.offset < other.offset:
                rest.append(Write(each.offset, other.offset - each.offset))
            if end < each_end:
                rest.append(Write(end, each_end - end))
        writes = rest
    return writes


def lose_unsynced(trace: Trace, directory: Path, generator: random.Random, part: float) -> int:
    """Do to the files below `directory` what a power cut may do; return how many bytes are gone.

    Each sector of what no sync had covered becomes zeros with probability `part`, and all of what
    a failed sync has dropped. Creations, renames and removals stay.
    """
    lost = 0
    for writes_of_path, probability in ((trace.unsynced, part), (trace.dropped, 1.0)):
        for name, writes in sorted(writes_of_path.items()):
            path = Path(name)
            if not writes or not path.is_relative_to(directory) or not path.exists():
                continue
            descriptor = os.open(path, os.O_RDWR)
            try:
                for write in writes:
                    lost += _lose(descriptor, write, generator, probability)
            finally:
                os.close(descriptor)
    return lost


def _lose(descriptor: int, write: Write, generator: random.Random, part: float) -> int:
    lost = 0
    begin, end = write.offset, write.offset + write.length
    for sector in range(begin // SECTOR_BYTES * SECTOR_BYTES, end, SECTOR_BYTES):
        if generator.random() < part:
            first, last = max(begin, sector), min(end, sector + SECTOR_BYTES)
            os.pwrite(descriptor, bytes(last - first), first)
            lost += last - first
    return lost
