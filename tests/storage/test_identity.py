"""Tests of rafter_storage.identity."""

import contextlib
import errno
import json
import random
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_64_intdigest

from rafter_storage.data_directory import DataDirectory
from rafter_storage.errors import DataDirectoryError, IdentityError
from rafter_storage.file_system import REAL_FILE_SYSTEM, FileSystem
from rafter_storage.identity import Identity, cluster_id_of, draw_incarnation
from rafter_storage.segment_manager import SegmentManager
from tests.storage.fake_file_system import Crashed, CrashMode, FakeFileSystem
from tests.storage.support import SEGMENT_BYTES

CONFIGURED: dict[str, Any] = {
    "cluster_name": "demo",
    "node_id": 1,
    "groups": 8,
    "replication": 3,
}


def load(path: Path, files: FileSystem = REAL_FILE_SYSTEM, **changes: Any) -> Identity:
    directory = DataDirectory.acquire(path, files=files)
    try:
        return Identity.load_or_create(directory, **{**CONFIGURED, **changes})
    finally:
        directory.release()


def make_logs(directory: DataDirectory, layout: int, shards: int) -> None:
    directory.make_layout(layout, shards)
    for shard in range(shards):
        path = directory.shard_directory(layout, shard)
        SegmentManager(path, segment_bytes=SEGMENT_BYTES, files=directory.files).create()


def test_first_start_draws_an_identity_and_later_ones_find_it(tmp_path: Path) -> None:
    created = load(tmp_path / "n1")
    assert created.cluster_id == cluster_id_of("demo") != 0
    assert created.incarnation
    expected = Identity(cluster_id_of("demo"), "demo", 1, created.incarnation, 8, 3, 0, 0)
    assert created == expected
    assert load(tmp_path / "n1") == created
    assert (tmp_path / "n1/identity").stat().st_mode & 0o777 == 0o600


def test_another_directory_is_another_incarnation(tmp_path: Path) -> None:
    assert load(tmp_path / "a").incarnation != load(tmp_path / "b").incarnation
    assert len({draw_incarnation() for _ in range(100)} - {0}) == 100


def test_incarnation_is_drawn_by_who_makes_the_directory_and_only_then(tmp_path: Path) -> None:
    assert load(tmp_path / "n1", draw=lambda: 42).incarnation == 42
    assert load(tmp_path / "n1", draw=lambda: 43).incarnation == 42


def test_cluster_id_may_be_given(tmp_path: Path) -> None:
    assert load(tmp_path / "n1", cluster_id=42).cluster_id == 42
    assert load(tmp_path / "n1", cluster_id=42).cluster_id == 42


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cluster_name": "other"}, "cluster_name is 'demo', configured is 'other'"),
        ({"cluster_id": 7}, r"cluster_id is \d+, configured is 7"),
        ({"node_id": 2}, "node_id is 1, configured is 2"),
        ({"groups": 16}, "groups is 8, configured is 16"),
        ({"replication": 1}, "replication is 3, configured is 1"),
    ],
)
def test_directory_of_another_node_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    load(tmp_path / "n1")
    with pytest.raises(IdentityError, match=message):
        load(tmp_path / "n1", **changes)
    load(tmp_path / "n1")


def test_stored_identity_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    created = load(tmp_path / "n1")
    directory = DataDirectory.acquire(tmp_path / "n1")
    make_logs(directory, 2, 3)
    moved = created._replace(shards=3, layout=2)
    moved.store(directory)
    directory.release()
    assert load(tmp_path / "n1") == moved


def test_every_flipped_byte_is_detected_or_harmless(tmp_path: Path) -> None:
    created = load(tmp_path / "n1")
    path = tmp_path / "n1/identity"
    data = path.read_bytes()
    for position in range(len(data)):
        for mask in (0x01, 0x80):
            flipped = bytearray(data)
            flipped[position] ^= mask
            path.write_bytes(flipped)
            with contextlib.suppress(IdentityError):
                assert load(tmp_path / "n1") == created


def test_every_shortened_identity_is_detected(tmp_path: Path) -> None:
    load(tmp_path / "n1")
    path = tmp_path / "n1/identity"
    data = path.read_bytes()
    for length in range(len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(IdentityError, match="damaged"):
            load(tmp_path / "n1")


@pytest.mark.parametrize("version", [1, 3])
def test_other_format_is_refused_before_anything_else_is_read(tmp_path: Path, version: int) -> None:
    load(tmp_path / "n1")
    (tmp_path / "n1/identity").write_text(json.dumps({"format": version, "anything": []}))
    expected = f"identity has format {version}, this program reads 2: start the version of rafterd"
    with pytest.raises(IdentityError, match=expected):
        load(tmp_path / "n1")


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "2"}', '{"format": 2}', "null"])
def test_json_that_is_no_identity_is_refused(tmp_path: Path, text: str) -> None:
    load(tmp_path / "n1")
    (tmp_path / "n1/identity").write_text(text)
    with pytest.raises(IdentityError, match="damaged"):
        load(tmp_path / "n1")


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster_id": "x"},
        {"layout": 1},
        {"shards": 1},
        {"layout": -1, "shards": 1},
        {"layout": 1, "shards": -1},
    ],
)
def test_identity_whose_checksum_holds_but_whose_fields_do_not_is_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    load(tmp_path / "n1")
    fields = json.loads((tmp_path / "n1/identity").read_text()) | changes
    del fields["checksum"]
    text = json.dumps(fields, sort_keys=True).encode()
    fields["checksum"] = f"{xxh3_64_intdigest(text):016x}"
    (tmp_path / "n1/identity").write_text(json.dumps(fields))
    with pytest.raises(IdentityError, match="is not an identity"):
        load(tmp_path / "n1")


def test_words_of_64_bits_are_kept_where_no_reader_rounds_them(tmp_path: Path) -> None:
    created = load(tmp_path / "n1")
    fields = json.loads((tmp_path / "n1/identity").read_text())
    assert fields["incarnation"] == f"{created.incarnation:016x}"
    assert fields["cluster_id"] == f"{created.cluster_id:016x}"


def test_place_of_the_snapshots_is_durable_before_the_identity_is() -> None:
    files = FakeFileSystem()
    path = files.base / "n1"
    created = load(path, files)
    for stop_at in range(1, files.operations + 1):
        stopped = FakeFileSystem()
        stopped.stop_at = stop_at
        with pytest.raises(Crashed):
            load(path, stopped, draw=lambda: created.incarnation)
        for mode in CrashMode:
            for seed in range(20):
                left = stopped.crash(mode, random.Random(seed))
                if left.status(path / "identity") is not None:
                    assert load(path, left, draw=lambda: 0) == created


def test_first_start_that_crashed_anywhere_can_be_repeated_and_is_durable_then() -> None:
    files = FakeFileSystem()
    path = files.base / "n1"
    load(path, files)
    for stop_at in range(1, files.operations + 1):
        stopped = FakeFileSystem()
        stopped.stop_at = stop_at
        with pytest.raises(Crashed):
            load(path, stopped)
        for mode in CrashMode:
            left = stopped.crash(mode, random.Random(stop_at))
            created = load(path, left)
            again = left.crash(CrashMode.LOST)
            assert load(path, again, draw=lambda: 0) == created


def test_first_start_that_was_killed_anywhere_is_durable_after_the_next() -> None:
    files = FakeFileSystem()
    path = files.base / "n1"
    load(path, files)
    for stop_at in range(1, files.operations + 1):
        stopped = FakeFileSystem()
        stopped.stop_at = stop_at
        with pytest.raises(Crashed):
            load(path, stopped)
        # The process is gone, the machine is not: what was not synced still is not.
        stopped.stop_at = None
        created = load(path, stopped)
        assert load(path, stopped.crash(CrashMode.LOST), draw=lambda: 0) == created


def test_first_start_that_failed_at_any_step_can_be_repeated() -> None:
    whole = FakeFileSystem()
    load(whole.base / "n1", whole)
    methods = ("open", "pwritev", "sync_data", "rename", "make_directory", "sync_directory")
    for method in methods:
        for number in range(1, len(whole.calls(method)) + 1):
            files = FakeFileSystem()
            path = files.base / "n1"
            files.fail(method, number, errno.EIO)
            with pytest.raises(DataDirectoryError, match="Input/output error"):
                load(path, files)
            created = load(path, files)
            assert load(path, files) == created


def test_replaced_identity_is_the_old_or_the_new_one_after_a_crash_anywhere() -> None:
    files = FakeFileSystem()
    path = files.base / "n1"
    old = load(path, files)
    directory = DataDirectory.acquire(path, files=files)
    make_logs(directory, 2, 5)
    directory.release()
    new = old._replace(shards=5, layout=2)
    first = files.operations + 1
    found = set()
    for stop_at in range(first, first + 6):
        stopped = files.crash(CrashMode.KEPT)
        stopped.stop_at = stop_at - first + 2  # taking the lock is the first operation
        directory = DataDirectory.acquire(path, files=stopped)
        with contextlib.suppress(Crashed):
            new.store(directory)
        for mode in CrashMode:
            for seed in range(20):
                found.add(load(path, stopped.crash(mode, random.Random(seed))))
        if not stopped.has_stopped:
            assert load(path, stopped.crash(CrashMode.LOST)) == new
    assert found == {old, new}


def test_missing_snapshots_are_a_loss_and_not_a_first_start(tmp_path: Path) -> None:
    load(tmp_path / "n1")
    (tmp_path / "n1/snapshots").rmdir()
    expected = r"snapshots is missing\. The snapshots of this node were there: restore them, or"
    with pytest.raises(DataDirectoryError, match=expected):
        load(tmp_path / "n1")


@pytest.mark.parametrize(
    "place",
    [
        "shards-00001/00001/wal/00000000000000000001.log",
        "shards-00007/00000/wal/00000000000000000009.log",
        "snapshots/00000000000000000001",
    ],
)
def test_missing_identity_over_logs_is_not_drawn_anew(tmp_path: Path, place: str) -> None:
    load(tmp_path / "n1")
    path = tmp_path / "n1" / place
    for parent in reversed(path.parents):
        parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(0o600)
    (tmp_path / "n1/identity").unlink()
    with pytest.raises(DataDirectoryError, match=rf"identity is missing, but .*{place} exists"):
        load(tmp_path / "n1")


def test_emptied_disk_comes_back_as_another_incarnation(tmp_path: Path) -> None:
    """Reliability: an emptied disk cannot come back under the old incarnation."""
    before = load(tmp_path / "n1")
    (tmp_path / "n1").rename(tmp_path / "lost")
    assert load(tmp_path / "n1").incarnation != before.incarnation


def test_unreadable_identity_is_a_clear_error() -> None:
    files = FakeFileSystem()
    load(files.base / "n1", files)
    files.fail("pread", 1, errno.EIO)
    with pytest.raises(DataDirectoryError, match=r"cannot read or make the identity .*Input"):
        load(files.base / "n1", files)
