"""Tests of a log that is written past the page cache (``is_direct``)."""

import os
from pathlib import Path

import pytest

from rafter_core.entries import Entry, HardState
from rafter_storage.segment import HEADER_BYTES
from tests.storage.fake_file_system import CrashMode, FakeFileSystem
from tests.storage.log_on_fake_disk import on_fake_disk, reopened
from tests.storage.support import (
    SEGMENT_BYTES,
    FaultyFiles,
    abandon,
    all_entries,
    append,
    do_chores,
    entry,
    log_of,
    open_manager,
    segment_files,
)


def has_direct_io(directory: Path) -> bool:
    try:
        descriptor = os.open(directory / "probe", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    except OSError:
        return False
    os.close(descriptor)
    (directory / "probe").unlink()
    return True


def test_log_goes_on_when_it_is_switched_between_buffered_and_direct(tmp_path: Path) -> None:
    if not has_direct_io(tmp_path):
        pytest.skip("this file system refuses O_DIRECT")
    files = FakeFileSystem()
    for disk, directory in ((files, files.base), (FaultyFiles(), tmp_path)):
        expected: list[Entry] = []
        for round_number, is_direct in enumerate([False, True, True, False, True, False]):
            manager = open_manager(directory, disk, tail_bytes_max=0, is_direct=is_direct)
            assert (manager.damaged, manager.shard_damage) == ({}, None)
            assert all_entries(log_of(manager, 1)) == expected
            for _ in range(3):
                index = len(expected) + 1
                added = [entry(index), entry(index + 1, payload=b"y" * (1 + 7000 * round_number))]
                append(manager, 1, added, HardState(1, 1, index))
                expected += added
            do_chores(manager)
            assert all_entries(log_of(manager, 1)) == expected
            if round_number % 2:
                abandon(manager)
            else:
                manager.close()
    assert len(segment_files(tmp_path)) > 2


def test_direct_jobs_are_whole_blocks_and_need_no_sync() -> None:
    files, manager = on_fake_disk(is_direct=True)
    files.journal.clear()
    for index in range(1, 8):
        append(manager, 1, [entry(index, payload=b"z" * (index * 1013 % 4096))])
    writes = files.calls("pwritev")
    assert len(writes) == 7
    assert all(call.offset % 4096 == 0 == call.length % 4096 for call in writes)
    assert files.calls("sync_data") == []
    survivor = files.crash(CrashMode.LOST)
    recovered = open_manager(survivor.base, survivor)
    assert len(all_entries(log_of(recovered, 1))) == 7
    recovered.close()
    manager.close()


def test_log_that_ends_anywhere_in_a_segment_can_go_on_directly() -> None:
    for missing in range(8, 4200, 40):
        files, manager = on_fake_disk()
        payload_bytes = SEGMENT_BYTES - HEADER_BYTES - 112 - missing
        append(manager, 1, [entry(1, payload=b"x" * payload_bytes)])
        manager = reopened(files, manager, is_direct=True)
        append(manager, 1, [entry(2)])
        manager = reopened(files, manager, is_direct=False)
        assert manager.damaged == {}
        assert log_of(manager, 1).last_index() == 2
        sizes = {len(files.contents(path)) for path in files.paths() if path.suffix == ".log"}
        assert sizes == {SEGMENT_BYTES}, "a segment is larger than its header says"
        manager.close()
