"""Tests of rafter_storage.chores."""

import contextlib
import os
from pathlib import Path

import pytest

from rafter_core.entries import HardState
from rafter_storage.chores import STEP_BYTES, DumpIndex, PrewriteSpare, RetireSegment
from rafter_storage.index_dump import dump_path, load_dump
from rafter_storage.recovery import SealedIndex
from rafter_storage.segment import SegmentHeader, segment_path, spare_path
from rafter_storage.segment_index import SegmentIndex
from tests.storage.fake_file_system import Crashed, CrashMode, FakeFileSystem
from tests.storage.support import EIO, ENOSPC

HEADER = SegmentHeader(3, 33, 22, 5000, 1 << 16, 2)


def put(files: FakeFileSystem, path: Path, data: bytes) -> None:
    descriptor = files.open(path, os.O_RDWR | os.O_CREAT)
    files.pwritev(descriptor, [data], 0)
    files.close(descriptor)


def sealed_index() -> SealedIndex:
    index = SegmentIndex(3)
    index.section(1).append(HardState(2, 1, 0), 1, 4, 2, 4096, 200)
    return SealedIndex(HEADER, 4296, index)


def names(files: FakeFileSystem) -> list[str]:
    return files.names(files.base)


def test_dump_is_written_beside_its_segment() -> None:
    files = FakeFileSystem()
    DumpIndex(files, files.base, sealed_index()).run()
    loaded = load_dump(files, files.base, HEADER, 4296)
    assert loaded is not None
    assert loaded.section(1).hard_state == HardState(2, 1, 0)
    assert list(loaded.section(1).appended.last_indexes) == [4]
    assert names(files) == [dump_path(files.base, 3).name]


@pytest.mark.parametrize("method", ["open", "pwritev", "sync_data", "rename"])
def test_dump_that_fails_leaves_nothing_and_can_be_written_anew(method: str) -> None:
    files = FakeFileSystem()
    chore = DumpIndex(files, files.base, sealed_index())
    files.fail(method, 1, EIO)
    with pytest.raises(OSError, match="Input/output"):
        chore.run()
    assert names(files) == []
    chore.run()
    assert load_dump(files, files.base, HEADER, 4296) is not None


def test_retired_segment_is_removed_after_its_dump() -> None:
    files = FakeFileSystem()
    put(files, segment_path(files.base, 3), b"segment")
    put(files, dump_path(files.base, 3), b"dump")
    files.settle()
    chore = RetireSegment(files, files.base, 3, None)
    assert chore.spare is None
    chore.run()
    assert [call.path for call in files.calls("unlink")] == [
        dump_path(files.base, 3),
        segment_path(files.base, 3),
    ]
    assert names(files) == []
    survivor = files.crash(CrashMode.LOST)
    assert survivor.names(survivor.base) == []


def test_retired_segment_becomes_a_spare() -> None:
    files = FakeFileSystem()
    put(files, segment_path(files.base, 3), b"segment")
    files.settle()
    chore = RetireSegment(files, files.base, 3, 9)
    assert chore.spare == spare_path(files.base, 9)
    chore.run()
    assert names(files) == [spare_path(files.base, 9).name]
    survivor = files.crash(CrashMode.LOST)
    assert survivor.contents(spare_path(files.base, 9)) == b"segment"


@pytest.mark.parametrize("spare_number", [None, 9])
def test_segment_that_is_gone_already_is_retired_without_an_error(spare_number: int | None) -> None:
    files = FakeFileSystem()
    RetireSegment(files, files.base, 3, spare_number).run()
    assert names(files) == []


def test_spare_is_written_in_steps_and_named_when_it_is_whole() -> None:
    files = FakeFileSystem()
    segment_bytes = 2 * STEP_BYTES + 8192
    chore = PrewriteSpare(files, files.base, 4, segment_bytes)
    temporary = spare_path(files.base, 4).with_suffix(".tmp")
    for step in (1, 2, 3):
        assert not chore.is_done
        chore.run()
        assert len(files.calls("sync_data")) == step
        # Nothing stays open between steps.
        assert len(files.calls("open")) == len(files.calls("close")) == step
        assert names(files) == [(temporary if step < 3 else chore.spare).name]
    assert chore.is_done
    assert [call.length for call in files.calls("pwritev")] == [STEP_BYTES, STEP_BYTES, 8192]
    assert len(files.calls("allocate")) == 1
    survivor = files.crash(CrashMode.LOST)
    assert survivor.contents(chore.spare) == bytes(segment_bytes)


def test_name_of_a_spare_is_never_durable_before_its_zeros() -> None:
    segment_bytes = STEP_BYTES + 4096
    whole = FakeFileSystem()
    chore = PrewriteSpare(whole, whole.base, 1, segment_bytes)
    chore.run()
    before = whole.operations
    chore.run()
    for stop_at in range(before + 1, whole.operations + 2):
        files = FakeFileSystem()
        chore = PrewriteSpare(files, files.base, 1, segment_bytes)
        chore.run()
        files.stop_at = stop_at
        with contextlib.suppress(Crashed):
            chore.run()
        for mode in (CrashMode.LOST, CrashMode.KEPT):
            survivor = files.crash(mode)
            if survivor.status(chore.spare) is not None:
                assert survivor.contents(chore.spare) == bytes(segment_bytes)


@pytest.mark.parametrize("number", [EIO, ENOSPC])
@pytest.mark.parametrize(
    ("method", "step"),
    [
        ("open", 1),
        ("allocate", 1),
        ("pwritev", 1),
        ("sync_data", 1),
        ("open", 2),
        ("pwritev", 2),
        ("sync_data", 2),
        ("rename", 2),
    ],
)
def test_spare_that_fails_leaves_nothing_and_begins_anew(
    method: str, step: int, number: int
) -> None:
    files = FakeFileSystem()
    chore = PrewriteSpare(files, files.base, 4, 2 * STEP_BYTES)
    if step == 2:
        chore.run()
    files.fail(method, 1, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        chore.run()
    assert names(files) == []
    for _ in range(2):
        chore.run()
    assert chore.is_done
    assert files.contents(chore.spare) == bytes(2 * STEP_BYTES)
    assert names(files) == [chore.spare.name]


def test_spare_whose_name_cannot_be_made_durable_is_not_left_behind() -> None:
    # A failing directory would otherwise collect one more file with every try.
    files = FakeFileSystem()
    chore = PrewriteSpare(files, files.base, 4, 4096)
    files.fail("sync_directory", 1, EIO)
    with pytest.raises(OSError, match="Input/output"):
        chore.run()
    assert not chore.is_done
    assert names(files) == []


def test_unfinished_spare_can_be_given_up() -> None:
    files = FakeFileSystem()
    chore = PrewriteSpare(files, files.base, 4, 2 * STEP_BYTES)
    assert not chore.is_begun
    chore.give_up()
    chore.run()
    assert chore.is_begun
    chore.give_up()
    assert (chore.is_begun, names(files)) == (False, [])
    for _ in range(2):
        chore.run()
    assert chore.is_done
    assert files.contents(chore.spare) == bytes(2 * STEP_BYTES)
