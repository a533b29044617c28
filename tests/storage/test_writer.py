"""Tests of rafter_storage.writer."""

from pathlib import Path

import pytest

from rafter_storage.errors import Poisoned, StorageError
from rafter_storage.segment import SegmentHeader, create_segment, segment_path
from rafter_storage.writer import SegmentWriter
from tests.storage.support import EIO, FaultyFiles

FIRST = SegmentHeader(1, 11, 0, 0, 1 << 16)
SECOND = SegmentHeader(2, 22, 11, 5000, 1 << 16)


def make(directory: Path) -> tuple[FaultyFiles, SegmentWriter]:
    files = FaultyFiles()
    descriptor = create_segment(files, directory, FIRST)
    files.reset()
    return files, SegmentWriter(files, directory, FIRST, descriptor)


def test_writes_go_to_the_new_segment_after_a_roll(tmp_path: Path) -> None:
    _, writer = make(tmp_path)
    writer.write([b"one", b"1"], 4096)
    writer.roll(SECOND)
    writer.write([b"two"], 4096)
    writer.close()
    assert segment_path(tmp_path, 1).read_bytes()[4096:4100] == b"one1"
    assert segment_path(tmp_path, 2).read_bytes()[4096:4099] == b"two"


def test_old_segment_is_synced_before_the_new_one_exists(tmp_path: Path) -> None:
    files, writer = make(tmp_path)
    files.fail_at["sync_data", 1] = EIO
    with pytest.raises(Poisoned, match=r"cannot sync .*0001\.log"):
        writer.roll(SECOND)
    assert not segment_path(tmp_path, 2).exists()
    writer.close()


@pytest.mark.parametrize("method", ["pwritev", "sync_data"])
def test_failed_writer_refuses_everything_without_trying(tmp_path: Path, method: str) -> None:
    files, writer = make(tmp_path)
    files.fail_at[method, 1] = EIO
    action = {"pwritev": lambda: writer.write([b"x"], 4096), "sync_data": writer.sync}[method]
    with pytest.raises(Poisoned, match="Input/output error"):
        action()
    files.reset()
    for action in (
        lambda: writer.write([b"x"], 4096),
        writer.sync,
        lambda: writer.roll(SECOND),
        lambda: writer.start(1),
        writer.check,
    ):
        with pytest.raises(Poisoned, match="Input/output error"):
            action()
    assert files.calls == []
    writer.close()


def test_interrupted_sync_poisons_too(tmp_path: Path) -> None:
    class Interrupted(FaultyFiles):
        def sync_data(self, descriptor: int) -> None:
            raise KeyboardInterrupt

    files = Interrupted()
    descriptor = FaultyFiles().open(tmp_path / "file", 0o102)
    writer = SegmentWriter(files, tmp_path, FIRST, descriptor)
    with pytest.raises(Poisoned):
        writer.sync()
    assert writer.poison is not None
    writer.close()


def test_jobs_start_in_order(tmp_path: Path) -> None:
    _, writer = make(tmp_path)
    writer.start(1)
    with pytest.raises(StorageError, match="job 3 cannot run after job 1"):
        writer.start(3)
    writer.start(2)
    writer.close()


def test_closed_writer_refuses_and_closes_once(tmp_path: Path) -> None:
    _, writer = make(tmp_path)
    writer.close()
    writer.close()
    with pytest.raises(Poisoned, match="is closed"):
        writer.write([b"x"], 4096)
