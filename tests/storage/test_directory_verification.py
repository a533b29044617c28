"""Tests of rafter_storage.directory_verification: what fits together, and what does not."""

import errno
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from rafter_core.entries import HardState
from rafter_storage.data_directory import DataDirectory
from rafter_storage.directory_verification import (
    DirectoryKind,
    NodeReport,
    ShardLog,
    data_directory_above,
    holder_of,
    kind_of,
    logs_below,
    verify_node,
)
from rafter_storage.errors import DataDirectoryError, StorageError
from rafter_storage.file_system import REAL_FILE_SYSTEM, Buffer, FileStatus, RealFileSystem
from rafter_storage.identity import Identity
from rafter_storage.segment_manager import GroupChange
from rafter_storage.snapshot_receiver import SnapshotReceiver
from rafter_storage.snapshot_store import SnapshotStore
from tests.storage.snapshot_support import contents, manifest_of, receive_chunks
from tests.storage.support import MEMBERSHIP, append, change, entries, open_manager, segment_files
from tests.storage.verification_support import (
    flipped,
    group_place,
    make_node,
    make_small_log,
    records_of,
    tree_of,
)

FILES = REAL_FILE_SYSTEM


@pytest.fixture
def node(tmp_path: Path) -> Path:
    path = tmp_path / "node"
    make_node(path)
    return path


def verify(node: Path) -> NodeReport:
    return verify_node(FILES, node, group_place)


def shard(node: Path, number: int) -> Path:
    return node / "shards-00001" / f"{number:05d}"


def snapshot(node: Path) -> Path:
    return node / "snapshots" / f"{1:020d}" / f"{4:016x}"


class ReadOnlyFiles(RealFileSystem):
    """A disk that is mounted for reading alone, and says so to all who try."""

    def _refuse(self) -> OSError:
        return OSError(errno.EROFS, os.strerror(errno.EROFS))

    def open(self, path: Path, flags: int) -> int:
        if flags != os.O_RDONLY:
            raise self._refuse()
        return super().open(path, flags)

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        raise self._refuse()

    def write_synced(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        raise self._refuse()

    def sync_data(self, descriptor: int) -> None:
        raise self._refuse()

    def sync_directory(self, path: Path) -> None:
        raise self._refuse()

    def make_directory(self, path: Path) -> None:
        raise self._refuse()

    def rename(self, source: Path, target: Path) -> None:
        raise self._refuse()

    def unlink(self, path: Path) -> None:
        raise self._refuse()


# ---- sound -----------------------------------------------------------------------------------


def test_sound_node_has_no_damage_and_all_its_groups(node: Path) -> None:
    report = verify(node)
    assert (report.damages, report.notes) == ([], [])
    assert [log.shard for log, _ in report.logs] == [0, 1]
    assert [sorted(found.groups) for _, found in report.logs] == [[2, 4], [1, 3]]


def test_verifying_works_where_nothing_may_be_written_and_changes_nothing(node: Path) -> None:
    before = tree_of(node)
    assert verify_node(ReadOnlyFiles(), node, group_place).damages == []
    assert holder_of(ReadOnlyFiles(), node) is None
    assert tree_of(node) == before


def test_node_whose_first_start_was_broken_off_has_no_logs_and_no_damage(tmp_path: Path) -> None:
    directory = DataDirectory.acquire(tmp_path / "node")
    Identity.load_or_create(directory, cluster_name="demo", node_id=1, groups=4, replication=1)
    directory.release()
    report = verify(tmp_path / "node")
    assert (report.damages, report.logs) == ([], [])
    assert report.notes == [f"{tmp_path / 'node'} has no logs yet; the next start makes them"]


def test_shard_that_was_never_written_to_is_sound(tmp_path: Path) -> None:
    make_node(tmp_path / "node", shards=8)
    assert verify(tmp_path / "node").damages == []


# ---- damage ----------------------------------------------------------------------------------


def test_damage_of_a_log_comes_with_its_file_and_offset(node: Path) -> None:
    path = segment_files(shard(node, 1))[0]
    offset = records_of(path)[0][0]
    with flipped(path, offset + 100):
        assert [damage[:2] for damage in verify(node).damages] == [(path, offset)]


def test_every_flipped_byte_of_the_identity_is_found(node: Path) -> None:
    path = node / "identity"
    text = path.read_text(encoding="ascii")
    for offset in range(path.stat().st_size):
        if text[offset].isspace():
            continue
        with flipped(path, offset):
            assert verify(node).damages[0][:2] == (path, 0), offset


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"[" * 60_000, b"null", b"\xff"])
def test_identity_that_is_none_is_damage(node: Path, data: bytes) -> None:
    (node / "identity").write_bytes(data)
    assert verify(node).damages[0][:2] == (node / "identity", 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"format": 3},
        {"shards": 0},
        {"layout": 0},
        {"layout": -1},
        {"layout": True},
        {"layout": "1"},
    ],
)
def test_identity_that_is_whole_and_impossible_is_damage(
    node: Path, fields: dict[str, object]
) -> None:
    path = node / "identity"
    found = json.loads(path.read_bytes()) | fields
    del found["checksum"]
    words = json.dumps(found, sort_keys=True).encode()
    path.write_text(json.dumps(found | {"checksum": f"{xxh3_64_intdigest(words):016x}"}))
    damage = verify(node).damages[0]
    assert damage.path == path
    assert "this program reads format 2" in damage.reason


def test_missing_identity_is_damage(node: Path) -> None:
    (node / "identity").unlink()
    assert verify(node).damages[0].path == node / "identity"


def test_missing_log_is_damage(node: Path) -> None:
    shutil.rmtree(shard(node, 0))
    damages = verify(node).damages
    assert [damage[:] for damage in damages] == [
        (shard(node, 0) / "wal", 0, "the log of shard 0 is missing")
    ]


def test_emptied_log_is_damage(node: Path) -> None:
    wal = shard(node, 0) / "wal"
    for path in wal.iterdir():
        path.unlink()
    assert [damage.path for damage in verify(node).damages] == [wal]


def test_group_in_the_log_of_another_shard_is_damage(node: Path) -> None:
    manager = open_manager(shard(node, 0), spares_max=0)
    append(manager, 3, entries(1, 2), HardState(1, 1, 0))
    manager.close()
    damages = verify(node).damages
    assert damages == [(shard(node, 0) / "wal", 0, "group 3 is here, and belongs to shard 1")]


def test_snapshot_that_the_log_names_must_be_there(node: Path) -> None:
    shutil.rmtree(snapshot(node))
    damages = verify(node).damages
    assert [damage[:2] for damage in damages] == [(snapshot(node), 0)]
    assert "missing" in damages[0].reason
    shutil.rmtree(node / "snapshots")
    places = [damage.path for damage in verify(node).damages]
    assert places == [node / "snapshots", snapshot(node)]


def test_snapshot_with_a_bad_manifest_or_a_file_too_short_is_damage_once(node: Path) -> None:
    with flipped(snapshot(node) / "manifest", 50):
        assert [damage.path for damage in verify(node).damages] == [snapshot(node) / "manifest"]
    os.truncate(snapshot(node) / "state", 17)
    assert [damage[:2] for damage in verify(node).damages] == [(snapshot(node) / "state", 17)]


def test_snapshot_in_the_place_of_another_is_damage(node: Path) -> None:
    other = snapshot(node).with_name(f"{5:016x}")
    shutil.copytree(snapshot(node), other)
    assert [damage[:2] for damage in verify(node).damages] == [(other / "manifest", 24)]


def test_snapshot_of_another_term_than_the_log_says_is_damage(node: Path) -> None:
    manager = open_manager(shard(node, 1), spares_max=0)
    change(manager, GroupChange(3, None, (5, 2)))
    manager.close()
    place = node / "snapshots" / f"{3:020d}" / f"{5:016x}"
    assert [damage.path for damage in verify(node).damages] == [place]
    directory = DataDirectory.acquire(node)
    store = SnapshotStore(directory.snapshots_directory)
    store.open()
    draft = store.begin(3, 5, 1, MEMBERSHIP, 0)
    draft.finish()
    directory.release()
    damage = verify(node).damages[0]
    assert damage[:] == (place, 0, "the snapshot has term 1, the log says 2")


def test_what_waits_to_be_removed_is_a_note(node: Path) -> None:
    (node / "shards-00009").mkdir(0o700)
    (snapshot(node).parent / f"{9:016x}-3.taking").mkdir(0o700)
    (node / "other").write_bytes(b"")
    report = verify(node)
    assert report.damages == []
    assert len(report.notes) == 2


def test_what_has_been_received_in_part_is_a_note(node: Path) -> None:
    store = SnapshotStore(node / "snapshots")
    store.open()
    receiver = store.receive(manifest_of(20, group=1))
    assert isinstance(receiver, SnapshotReceiver)
    receive_chunks(receiver, contents(20), 2)
    receiver.leave()
    report = verify(node)
    assert report.damages == []
    assert report.notes == [f"{receiver.paths.temporary} is not a published snapshot"]


def test_wrong_modes_and_links_come_last_and_say_what_cures_them(node: Path) -> None:
    path = segment_files(shard(node, 0))[0]
    path.chmod(0o644)
    node.chmod(0o750)
    (shard(node, 1) / "wal" / "link").symlink_to(path)
    damages = verify(node).damages
    assert {damage.path: damage.reason for damage in damages} == {
        node: f"mode 0750, expected 0700: run chmod 700 {node}",
        path: f"mode 0644, expected 0600: run chmod 600 {path}",
        shard(node, 1) / "wal" / "link": "this is neither a directory nor an ordinary file",
    }
    with flipped(path, 20):
        assert verify(node).damages[0][:2] == (path, 0)
        assert "header" in verify(node).damages[0].reason


def test_owner_is_held_against_that_of_the_data_directory(node: Path) -> None:
    path = node / "identity"

    class Owned(RealFileSystem):
        """Everything belongs to user 1234, but for the identity."""

        def status(self, below: Path) -> FileStatus | None:
            found = super().status(below)
            return found and found._replace(owner=99 if below == path else 1234)

    damages = verify_node(Owned(), node, group_place).damages
    assert damages == [(path, 0, "it belongs to user 99, the data directory to 1234")]


def test_disk_that_cannot_be_listed_is_an_error(node: Path) -> None:
    class Failing(RealFileSystem):
        """No directory can be listed."""

        def names(self, path: Path) -> list[str]:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    with pytest.raises(StorageError, match="cannot read"):
        verify_node(Failing(), node, group_place)
    with pytest.raises(DataDirectoryError, match="cannot read"):
        kind_of(Failing(), node)


# ---- which directory is meant ----------------------------------------------------------------


def test_directories_are_known_for_what_they_are(node: Path) -> None:
    assert kind_of(FILES, node) == DirectoryKind(is_node=True)
    assert kind_of(FILES, shard(node, 0)) == DirectoryKind(is_shard=True)
    assert kind_of(FILES, shard(node, 0) / "wal") == DirectoryKind(is_log=True)
    for below in (node, shard(node, 0), shard(node, 0) / "wal"):
        assert data_directory_above(FILES, below) == node
    assert data_directory_above(FILES, snapshot(node) / "state") == node
    assert data_directory_above(FILES, node.parent) is None
    logs = [ShardLog(number, shard(node, number) / "wal") for number in (0, 1)]
    assert logs_below(FILES, node) == logs
    assert logs_below(FILES, shard(node, 1)) == logs[1:]
    assert logs_below(FILES, shard(node, 1) / "wal") == logs[1:]


def test_log_that_was_copied_away_is_nobodys_and_can_be_read(tmp_path: Path) -> None:
    make_small_log(tmp_path)
    (tmp_path / "wal").rename(tmp_path / "copy")
    assert kind_of(FILES, tmp_path / "copy") == DirectoryKind(is_log=True)
    assert logs_below(FILES, tmp_path / "copy") == [ShardLog(None, tmp_path / "copy")]


def test_other_paths_are_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, reason in (
        (tmp_path / "nothing", "there is no"),
        (tmp_path / "file", "not a directory"),
        (tmp_path, "is neither a node's data directory"),
    ):
        with pytest.raises(DataDirectoryError, match=reason):
            kind_of(FILES, path)


# ---- the lock --------------------------------------------------------------------------------


def test_holder_of_the_lock_is_named_and_not_disturbed(node: Path) -> None:
    assert holder_of(FILES, node) is None
    directory = DataDirectory.acquire(node)
    before = tree_of(node)
    assert holder_of(FILES, node) == str(os.getpid())
    assert tree_of(node) == before
    directory.release()
    assert holder_of(FILES, node) is None
    # And whoever looked does not hold it.
    DataDirectory.acquire(node).release()


def test_without_a_lock_nobody_runs_and_an_unreadable_one_is_an_error(node: Path) -> None:
    class Unreadable(RealFileSystem):
        """Files may not be opened."""

        def open(self, path: Path, flags: int) -> int:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))

        def status(self, path: Path) -> FileStatus | None:
            if path.parent != node:
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            return super().status(path)

    with pytest.raises(DataDirectoryError, match="whether a node is running"):
        holder_of(Unreadable(), node)
    with pytest.raises(DataDirectoryError, match="cannot read"):
        data_directory_above(Unreadable(), shard(node, 0))
    (node / "lock").unlink()
    assert holder_of(FILES, node) is None
