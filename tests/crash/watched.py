"""A file system that reports every operation, and can be told to leave some of them out."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from typing import Any

from rafter_storage.file_system import FileSystem
from tests.storage.fake_file_system import FakeFileSystem

__all__ = ["WatchedFileSystem", "killed"]

_REPORTED = (
    "open", "pwritev", "write_synced", "allocate", "truncate", "sync_data",
    "sync_directory", "make_directory", "remove_directory", "rename", "link", "unlink",
)  # fmt: skip


class WatchedFileSystem:
    """Hands every call to a fake file system; calls ``watch`` after each that changed something.

    And between the two halves of each call that writes and syncs. Calls of the methods in
    ``omitted`` do nothing: what a program would be that forgot them. A program without sync_data
    forgets to sync what it writes in the same call, too.
    """

    def __init__(
        self,
        files: FakeFileSystem,
        watch: Callable[[], None],
        omitted: frozenset[str] = frozenset(),
    ) -> None:
        self.fake = files
        self._watch = watch
        self._omitted = omitted
        files.synced_write_hook = watch

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.fake, name)
        if name in self._omitted:
            return lambda *_arguments: None
        if name == "write_synced" and "sync_data" in self._omitted:
            return self.pwritev
        if name not in _REPORTED:
            return method

        @functools.wraps(method)
        def reported(*arguments: Any) -> Any:
            operations = self.fake.operations
            try:
                return method(*arguments)
            finally:
                if self.fake.operations > operations:
                    self._watch()

        return reported

    def as_file_system(self) -> FileSystem:
        """Return itself, as what it stands for."""
        return self


def killed(files: FakeFileSystem) -> FakeFileSystem:
    """Return the same file system for a process that comes after: all is pending as it was.

    The machine goes on, so that nothing was lost, and nothing became durable either.
    """
    # What watches the one does not watch the other.
    hook = files.synced_write_hook
    files.synced_write_hook = None
    copied = copy.deepcopy(files, {id(files._lock): threading.RLock()})
    files.synced_write_hook = hook
    for descriptor in [*copied._opened]:
        copied.close(descriptor)
    copied.stop_at = None
    copied.clear_failures()
    return copied
