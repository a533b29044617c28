"""Logs on a fake disk: how several tests begin."""

from __future__ import annotations

from rafter_core.entries import Entry
from rafter_storage.segment_manager import SegmentManager
from tests.storage.fake_file_system import FakeFileSystem
from tests.storage.support import abandon, entry, open_manager

LARGE = b"x" * 25_000
"""Two entries with this fill a segment of the tests' size."""


def on_fake_disk(**options: object) -> tuple[FakeFileSystem, SegmentManager]:
    files = FakeFileSystem()
    return files, open_manager(files.base, files, **options)  # type: ignore[arg-type]


def large(index: int) -> Entry:
    return entry(index, payload=b"%d" % index + LARGE)


def written(files: FakeFileSystem) -> list[str]:
    """What reached the disk since the journal was cleared, and emptied it."""
    methods = (
        "allocate", "pwritev", "write_synced", "sync_data", "rename", "sync_directory", "unlink",
    )  # fmt: skip
    found = [call.method for call in files.journal if call.method in methods]
    files.journal.clear()
    return found


def reopened(files: FakeFileSystem, manager: SegmentManager, **options: object) -> SegmentManager:
    abandon(manager)
    return open_manager(files.base, files, **options)  # type: ignore[arg-type]
