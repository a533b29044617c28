"""Tests of rafter_storage.data_directory: modes, links, owners and the lock."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rafter_storage.data_directory import DataDirectory, check_private
from rafter_storage.errors import DataDirectoryError, LockedError

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
    assert (path / "lock").read_text() == f"{os.getpid()}\n"
    assert directory.shard_directory(7) == path / "shards" / "00007"
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


def prepared(path: Path) -> Path:
    """A data directory with a file at each place."""
    DataDirectory.acquire(path).release()
    (path / "identity").touch(0o600)
    for below in ("shards", "shards/00000", "shards/00000/wal"):
        (path / below).mkdir(mode=0o700)
    (path / "shards/00000/wal/00000000000000000001.log").touch(0o600)
    DataDirectory.acquire(path).release()
    return path


@pytest.mark.parametrize(
    "below",
    [
        *("lock", "identity", "shards", "shards/00000", "shards/00000/wal"),
        "shards/00000/wal/00000000000000000001.log",
    ],
)
def test_anything_below_that_others_may_read_is_refused(tmp_path: Path, below: str) -> None:
    path = prepared(tmp_path / "n1") / below
    path.chmod(path.stat().st_mode | 0o040)
    with pytest.raises(DataDirectoryError, match=f"{below} has mode 0[67]40, expected 0[67]00"):
        DataDirectory.acquire(tmp_path / "n1")


@pytest.mark.parametrize("below", ["identity", "shards/00000/wal/00000000000000000001.log"])
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
        check_private(tmp_path / "n1")


def test_other_files_in_the_directory_are_none_of_our_business(tmp_path: Path) -> None:
    path = prepared(tmp_path / "n1")
    (path / "lost+found").mkdir(mode=0o755)
    (path / "notes").touch(0o644)
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
