"""What can be made to go wrong with the fake file system, call by call; and the record of calls.

Counting is the key to exhaustive tests: every call that changes something has a number, so that a
workload can be stopped before each of them in turn, and every call of a method can be made to fail
in turn.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["METHODS", "Call", "Crashed", "Faults"]

METHODS = (
    "open", "close", "size", "pread", "pwritev", "write_synced", "allocate", "truncate",
    "sync_data", "sync_directory", "make_directory", "remove_directory", "names", "status",
    "rename", "link", "unlink", "lock", "free_bytes",
)  # fmt: skip


class Crashed(BaseException):
    """The machine has stopped: this call has not happened, and none after it will."""


class Call(NamedTuple):
    """A call as it was made. A descriptor's path is the one it was opened by."""

    method: str
    path: Path
    offset: int = 0
    length: int = 0
    target: Path | None = None


@dataclass
class _Failure:
    method: str
    calls_left: int
    number: int
    failures_left: int
    path_predicate: Callable[[Path], bool]


class Faults:
    """The faults of one fake file system. Set the attributes at any time.

    - ``operations`` counts the calls that change something: open if it creates or truncates,
      pwritev, write_synced, allocate, truncate, sync_data, sync_directory, make_directory,
      remove_directory, rename, link, unlink. Those that fail count too.
    - ``stop_at``: the operation of this number (1-based) and all later ones raise ``Crashed``
      before they do anything. Reads go on. ``has_stopped`` tells that it happened, for code that
      turns any exception into its own.
    - ``stopped_write_pieces``: if that operation is a write, this many of its first pieces of 512
      bytes still reach the file, not synced.
    - ``short_write_bytes``, ``short_read_bytes``: the most that one call writes, or one pread
      returns; None for no limit.
    - ``synced_write_hook`` is called in the middle of every write_synced, and of a pwritev through
      O_DSYNC: the bytes are written, and none of them is synced.
    - ``read_hook`` gets (path, offset, bytes read) of every pread and returns what is to be read.
    - ``journal`` lists all calls, failed ones included, if ``is_journaled``.
    """

    def __init__(self, *, is_journaled: bool = True) -> None:
        self.is_journaled = is_journaled
        self.journal: list[Call] = []
        self.operations = 0
        self.stop_at: int | None = None
        self.stopped_write_pieces = 0
        self.has_stopped = False
        self.short_write_bytes: int | None = None
        self.short_read_bytes: int | None = None
        self.synced_write_hook: Callable[[], None] | None = None
        self.read_hook: Callable[[Path, int, bytes], bytes] | None = None
        self._failures: list[_Failure] = []

    def fail(
        self,
        method: str,
        nth: int,
        number: int,
        path_predicate: Callable[[Path], bool] = lambda _path: True,
        times: int = 1,
    ) -> None:
        """Let the ``nth`` call (1-based, from now) of a method raise ``OSError`` ``number``.

        Only calls with a path the predicate accepts are counted; of rename and link, either path.
        ``times`` - 1 calls after it fail too. A failing call does nothing, with two exceptions: a
        failing sync_data leaves what was pending in doubt for ever, and so does a failing
        write_synced, or pwritev through O_DSYNC, with its own bytes: also where a real system, that
        has no such call, would not have touched them.
        """
        if method not in METHODS:
            raise ValueError(f"a file system has no method {method}")
        if nth < 1 or times < 1:
            raise ValueError("calls are counted from 1, and fail at least once")
        self._failures.append(_Failure(method, nth, number, times, path_predicate))

    def clear_failures(self) -> None:
        """Forget what ``fail`` has asked for and what has not happened yet."""
        self._failures.clear()

    def calls(self, method: str) -> list[Call]:
        """Return the calls of one method, in order."""
        if method not in METHODS:
            raise ValueError(f"a file system has no method {method}")
        return [call for call in self.journal if call.method == method]

    def _called(self, call: Call, *, is_operation: bool) -> None:
        """Record a call before it does anything; raise what it has to end with."""
        if self.is_journaled:
            self.journal.append(call)
        if is_operation:
            self.operations += 1
            if self.stop_at is not None and self.operations >= self.stop_at:
                self.has_stopped = True
                raise Crashed(f"stopped before operation {self.operations}: {call}")
        number = None
        for failure in self._failures:
            number = self._failure_of(call, failure) or number
        if number is not None:
            raise OSError(number, os.strerror(number), str(call.path))

    def _failure_of(self, call: Call, failure: _Failure) -> int | None:
        if failure.method != call.method or not failure.failures_left:
            return None
        paths = [call.path] if call.target is None else [call.path, call.target]
        if not any(map(failure.path_predicate, paths)):
            return None
        failure.calls_left -= 1
        if failure.calls_left > 0:
            return None
        failure.failures_left -= 1
        return failure.number
