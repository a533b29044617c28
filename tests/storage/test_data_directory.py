"""Tests of rafter_storage.data_directory: modes, links, owners and the lock."""

import errno
import os
import random
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rafter_storage.data_directory import DataDirectory, check_private, remove_tree
from rafter_storage.errors import DataDirectoryError, LockedError
from rafter_storage.file_system import REAL_FILE_SYSTEM
from tests.storage.fake_file_system import Crashed, CrashMode, FakeFileSystem

HOLD = """
import sys
from pathlib import Path
from rafter_storage.data_directory import DataDirectory
directory = DataDirectory.acquire(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""

FORK = """
import os, sys
from pathlib import Path
from rafter_storage.data_directory import DataDirectory
directory = DataDirectory.acquire(Path(sys.argv[1]))
if os.fork():
    os._exit(0)
print("held", flush=True)
sys.stdin.read()
"""


def spawn(script: str, path: Path) -> subprocess.Popen[str]:
    """Start another process on the directory and wait until it holds it."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_directory_is_made_private_with_what_is_missing_above(tmp_path: Path) -> None:
    path = tmp_path / "data" / "n1"
    directory = DataDirectory.acquire(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((path / "lock").stat().st_mode) == 0o600
    assert (path / "lock").read_text().strip() == str(os.getpid())
    directory.release()


def test_each_layout_has_its_shards_and_all_share_the_snapshots(tmp_path: Path) -> None:
    path = tmp_path / "n1"
    directory = DataDirectory.acquire(path)
    assert directory.layout_directory(3) == path / "shards-00003"
    assert directory.shard_directory(3, 7) == path / "shards-00003/00007"
    assert directory.wal_directory(3, 7) == path / "shards-00003/00007/wal"
    assert directory.snapshots_directory == path / "snapshots"
    directory.make_layout(3, 2)
    directory.make_layout(3, 2)
    directory.make_layout(123456, 1)
    assert directory.wal_directory(3, 1).is_dir()
    assert not directory.shard_directory(3, 2).exists()
    for other in ("shards-3", "shards-00000", "shards-000004", "shards-00005.old", "shards"):
        (path / other).mkdir()
    assert directory.layouts() == [3, 123456]
    directory.release()


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o777, 0o701, 0o500])
def test_directory_with_another_mode_is_refused_and_the_cure_is_named(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "n1"
    path.mkdir()
    path.chmod(mode)
    expected = rf"n1 has mode {mode:04o}, expected 0700: run chmod 700 {re.escape(str(path))}"
    with pytest.raises(DataDirectoryError, match=expected):
        DataDirectory.acquire(path)


DIRECTORIES = (
    "shards-00001", "shards-00001/00000", "shards-00001/00000/wal", "snapshots", "snapshots/1",
)  # fmt: skip
FILES = (
    "lock", "identity", "identity.tmp", "shards-00001/00000/wal/00000000000000000001.log",
    "snapshots/1/chunk",
)  # fmt: skip


def prepared(path: Path) -> Path:
    """A data directory with a file at each place."""
    DataDirectory.acquire(path).release()
    for below in (*DIRECTORIES, "shards-00002"):
        (path / below).mkdir(mode=0o700)
    for below in FILES[1:]:
        (path / below).touch(0o600)
    DataDirectory.acquire(path).release()
    return path


@pytest.mark.parametrize("below", [*DIRECTORIES, *FILES, "shards-00002"])
def test_anything_below_that_others_may_read_is_refused(tmp_path: Path, below: str) -> None:
    path = prepared(tmp_path / "n1") / below
    path.chmod(path.stat().st_mode | 0o040)
    with pytest.raises(DataDirectoryError, match=f"{below} has mode 0[67]40, expected 0[67]00"):
        DataDirectory.acquire(tmp_path / "n1")


@pytest.mark.parametrize("below", [*FILES, "shards-00001/00000", "shards-00002", "snapshots"])
def test_links_inside_are_refused(tmp_path: Path, below: str) -> None:
    path = prepared(tmp_path / "n1") / below
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataDirectoryError, match=f"{below} is neither a directory nor"):
        DataDirectory.acquire(tmp_path / "n1")


def test_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(tmp_path / "n1")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(DataDirectoryError, match=r"belongs to user \d+, but this process runs as"):
        check_private(REAL_FILE_SYSTEM, tmp_path / "n1")


def test_directory_that_is_a_link_is_for_the_caller_to_resolve(tmp_path: Path) -> None:
    prepared(tmp_path / "n1")
    (tmp_path / "link").symlink_to(tmp_path / "n1")
    with pytest.raises(DataDirectoryError, match="link is neither a directory nor"):
        DataDirectory.acquire(tmp_path / "link")
    DataDirectory.acquire((tmp_path / "link").resolve()).release()


def test_other_files_in_the_directory_are_none_of_our_business(tmp_path: Path) -> None:
    path = prepared(tmp_path / "n1")
    (path / "lost+found").mkdir(mode=0o755)
    (path / "notes").touch(0o644)
    (path / "shards-00001.old").mkdir(mode=0o755)
    (path / "shards").symlink_to(tmp_path)
    DataDirectory.acquire(path).release()


def test_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n1").touch(0o600)
    with pytest.raises(DataDirectoryError, match="cannot use the data directory"):
        DataDirectory.acquire(tmp_path / "n1")


def test_second_process_is_refused_and_the_holder_is_named(tmp_path: Path) -> None:
    process = spawn(HOLD, tmp_path / "n1")
    try:
        with pytest.raises(LockedError, match=f"n1 is in use by process {process.pid}: stop it"):
            DataDirectory.acquire(tmp_path / "n1")
    finally:
        process.communicate("")
    DataDirectory.acquire(tmp_path / "n1").release()


def test_second_holder_in_the_same_process_is_refused(tmp_path: Path) -> None:
    directory = DataDirectory.acquire(tmp_path / "n1")
    with pytest.raises(LockedError, match=f"in use by process {os.getpid()}"):
        DataDirectory.acquire(tmp_path / "n1")
    directory.release()
    directory.release()
    DataDirectory.acquire(tmp_path / "n1").release()


def test_killed_holder_leaves_no_lock_behind(tmp_path: Path) -> None:
    process = spawn(HOLD, tmp_path / "n1")
    process.kill()
    process.communicate()
    DataDirectory.acquire(tmp_path / "n1").release()


def test_forked_child_holds_the_lock_after_its_parent_is_gone(tmp_path: Path) -> None:
    process = spawn(FORK, tmp_path / "n1")
    assert process.wait() == 0
    with pytest.raises(LockedError, match=f"in use by process {process.pid}"):
        DataDirectory.acquire(tmp_path / "n1")
    process.communicate("")
    # The child ends once its input is closed; its last file goes with it.
    for _ in range(10_000):
        try:
            DataDirectory.acquire(tmp_path / "n1").release()
            break
        except LockedError:
            os.sched_yield()
    else:
        pytest.fail("the lock outlived every process that held it")


def test_release_in_the_parent_does_not_free_a_forked_child(tmp_path: Path) -> None:
    directory = DataDirectory.acquire(tmp_path / "n1")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    directory.release()
    with pytest.raises(LockedError):
        DataDirectory.acquire(tmp_path / "n1")
    os.close(writer)
    os.waitpid(child, 0)
    DataDirectory.acquire(tmp_path / "n1").release()


def test_everything_works_on_another_file_system_too() -> None:
    files = FakeFileSystem()
    path = files.base / "a/n1"
    directory = DataDirectory.acquire(path, files=files)
    directory.make_layout(1, 2)
    with pytest.raises(LockedError, match=f"in use by process {os.getpid()}"):
        DataDirectory.acquire(path, files=files)
    directory.release()
    directory = DataDirectory.acquire(path, files=files)
    assert directory.layouts() == [1]
    assert not Path(path).exists()


def test_directory_made_by_a_start_that_was_killed_is_durable_after_the_next() -> None:
    def acquire(files: FakeFileSystem) -> None:
        DataDirectory.acquire(files.base / "a/b/n1", files=files)

    files = FakeFileSystem()
    acquire(files)
    for stop_at in range(1, files.operations + 1):
        files = FakeFileSystem()
        files.stop_at = stop_at
        with pytest.raises(Crashed):
            acquire(files)
        # The process is gone, the machine is not: what was not synced still is not.
        files.stop_at = None
        acquire(files)
        after = files.crash(CrashMode.LOST)
        assert after.status(after.base / "a/b/n1") is not None


def test_parent_that_may_not_be_read_was_made_by_somebody_else() -> None:
    files = FakeFileSystem()
    files.make_directory(files.base / "n1")
    files.fail("sync_directory", 1, errno.EACCES)
    DataDirectory.acquire(files.base / "n1", files=files).release()
    files.fail("sync_directory", 1, errno.EIO)
    with pytest.raises(DataDirectoryError, match="cannot use the data directory"):
        DataDirectory.acquire(files.base / "n1", files=files)


def test_full_disk_costs_the_name_of_the_holder_and_not_the_start() -> None:
    files = FakeFileSystem(capacity_bytes=0)
    path = files.base / "n1"
    directory = DataDirectory.acquire(path, files=files)
    with pytest.raises(LockedError, match="in use by process unknown"):
        DataDirectory.acquire(path, files=files)
    directory.release()
    files.fail("pwritev", 1, errno.EIO)
    with pytest.raises(DataDirectoryError, match="Input/output error"):
        DataDirectory.acquire(path, files=files)
    DataDirectory.acquire(path, files=files).release()


def test_removed_tree_stays_removed_and_a_crash_in_between_leaves_a_part() -> None:
    def made(files: FakeFileSystem) -> Path:
        directory = DataDirectory.acquire(files.base / "n1", files=files)
        directory.make_layout(1, 2)
        for shard in range(2):
            path = directory.wal_directory(1, shard) / "1.log"
            files.close(files.open(path, os.O_CREAT | os.O_WRONLY))
        files.settle()
        return directory.layout_directory(1)

    files = FakeFileSystem()
    tree = made(files)
    before = files.operations
    remove_tree(files, tree)
    assert files.crash(CrashMode.LOST).status(tree) is None
    for stop_at in range(before + 1, files.operations + 1):
        for mode in CrashMode:
            stopped = FakeFileSystem()
            made(stopped)
            stopped.stop_at = stop_at
            with pytest.raises(Crashed):
                remove_tree(stopped, tree)
            left = stopped.crash(mode, random.Random(stop_at))
            if left.status(tree) is not None:
                remove_tree(left, tree)


def test_links_in_a_tree_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "tree/below").mkdir(parents=True)
    (tmp_path / "tree/below/link").symlink_to(tmp_path / "kept")
    remove_tree(REAL_FILE_SYSTEM, tmp_path / "tree")
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "file"]
