"""Tests of rafter_storage.snapshot_directory."""

import errno
import os
from pathlib import Path

import pytest

from rafter_storage.errors import DataDirectoryError, StorageError
from rafter_storage.file_system import REAL_FILE_SYSTEM
from rafter_storage.snapshot_directory import (
    SnapshotRemoval,
    group_directory,
    is_unfinished,
    load_groups,
    place_of,
    published_name,
    removing_group,
    temporary_name,
)
from rafter_storage.snapshot_files import write_manifest
from tests.storage.fake_file_system import CrashMode, FakeFileSystem
from tests.storage.snapshot_support import GROUP, manifest_of, open_store, take


def group_with(*indexes: int) -> tuple[FakeFileSystem, Path]:
    files = FakeFileSystem()
    store = open_store(files, files.base)
    for index in indexes:
        take(store, index)
    files.settle()
    return files, group_directory(store.root, GROUP)


def test_places_have_names_that_sort_and_are_read_back() -> None:
    root = Path("/data/snapshots")
    path = group_directory(root, 7) / published_name(0xABC)
    assert str(path) == "/data/snapshots/00000000000000000007/0000000000000abc"
    assert place_of(path) == (7, 0xABC)
    assert temporary_name(0xABC, 3, "taking") == "0000000000000abc-3.taking"
    assert removing_group(root, 7, 3).name == "00000000000000000007-3.removing"
    for ending in ("taking", "receiving", "importing"):
        assert is_unfinished(path.with_name(temporary_name(0xABC, 3, ending)))
    for other in (path, path.with_name(temporary_name(0xABC, 3, "damaged")), path.parent):
        assert not is_unfinished(other)
    for other in (root, path.parent, path / "state", path.with_name("0abc-1.taking")):
        assert place_of(other) is None


@pytest.mark.parametrize("ending", ["taking", "importing", "removing"])
def test_unfinished_is_removed_and_published_is_kept(ending: str) -> None:
    """Even with a whole manifest: what was not renamed was not acknowledged (item 34)."""
    files, group = group_with(10, 20)
    files.rename(group / published_name(20), group / temporary_name(20, 5, ending))
    (loaded,) = load_groups(files, group.parent, None)
    assert [info.index for info in loaded.snapshots] == [10]
    assert (loaded.damaged, loaded.last_number) == ([], 5)
    assert files.names(group) == [published_name(10)]


def drafts_in(*drafts: tuple[int, int]) -> tuple[FakeFileSystem, Path]:
    """A group with a snapshot of index 10, and drafts of these indexes and numbers."""
    files, group = group_with(10)
    for index, number in drafts:
        path = group / temporary_name(index, number, "receiving")
        files.make_directory(path)
        write_manifest(files, path, manifest_of(index))
    files.settle()
    return files, group


@pytest.mark.parametrize(
    ("drafts", "kept"),
    [
        ([(9, 4)], None),
        ([(10, 4)], None),
        ([(11, 4)], (11, 4)),
        ([(11, 4), (300, 2), (20, 3)], (300, 2)),
        ([(20, 9), (20, 10), (20, 2)], (20, 10)),
    ],
)
def test_the_newest_draft_of_a_newer_snapshot_is_kept_and_no_other(
    drafts: list[tuple[int, int]], kept: tuple[int, int] | None
) -> None:
    files, group = drafts_in(*drafts)
    (loaded,) = load_groups(files, group.parent, None)
    assert [info.index for info in loaded.snapshots] == [10]
    assert loaded.last_number == max(number for _, number in drafts)
    if kept is None:
        assert loaded.draft is None
        assert files.names(group) == [published_name(10)]
    else:
        path = group / temporary_name(*kept, "receiving")
        assert loaded.draft == (path, manifest_of(kept[0]))
        assert files.names(group) == [published_name(10), path.name]


def test_a_draft_whose_manifest_flipped_in_any_byte_is_removed() -> None:
    """Nothing else says what it is to become, or of which group and index."""
    files, group = drafts_in((20, 3))
    path = group / temporary_name(20, 3, "receiving")
    for offset in range(len(files.contents(path / "manifest"))):
        for bit in (offset % 8, (offset + 3) % 8):
            survivor = files.crash(CrashMode.KEPT)
            survivor.flip_bit(path / "manifest", offset, bit)
            (loaded,) = load_groups(survivor, group.parent, None)
            assert loaded.draft is None
            assert survivor.names(group) == [published_name(10)]


def test_a_newer_draft_that_says_nothing_makes_way_for_an_older_one() -> None:
    files, group = drafts_in((20, 3), (30, 4), (40, 5), (50, 6))
    files.unlink(group / temporary_name(50, 6, "receiving") / "manifest")
    wrong = group / temporary_name(40, 5, "receiving")
    files.unlink(wrong / "manifest")
    write_manifest(files, wrong, manifest_of(41))
    files.rename(group / temporary_name(30, 4, "receiving"), group / "elsewhere")
    files.close(files.open(group / temporary_name(30, 4, "receiving"), os.O_WRONLY | os.O_CREAT))
    (loaded,) = load_groups(files, group.parent, None)
    assert loaded.draft == (group / temporary_name(20, 3, "receiving"), manifest_of(20))
    assert files.names(group) == [
        published_name(10),
        temporary_name(20, 3, "receiving"),
        "elsewhere",
    ]


def test_group_being_removed_is_removed() -> None:
    files, group = group_with(10)
    files.rename(group, removing_group(group.parent, GROUP, 3))
    assert [*load_groups(files, group.parent, frozenset({8}))] == []
    assert files.names(group.parent) != []
    assert [*load_groups(files, group.parent, frozenset({GROUP}))] == []
    assert files.names(group.parent) == []


def test_groups_of_others_are_left_alone() -> None:
    """Several shards use one root, each for its own groups."""
    files, group = group_with(10)
    files.make_directory(group / temporary_name(20, 1, "taking"))
    assert [*load_groups(files, group.parent, frozenset({8}))] == []
    assert len(files.names(group)) == 2


def test_names_that_are_not_ours_are_left_alone() -> None:
    files, group = group_with(10)
    ours = len(files.paths())
    for path in (group.parent / "lost+found", group / "notes", group / "a-1.taking"):
        files.make_directory(path)
    (loaded,) = load_groups(files, group.parent, None)
    assert [info.index for info in loaded.snapshots] == [10]
    assert len(files.paths()) == ours + 3


@pytest.mark.parametrize("name", ["state", "extra.1", "manifest"])
def test_published_snapshot_that_is_not_whole_is_damage_and_stays(name: str) -> None:
    """The older one is used, and the newest is not silently deleted (items 28, 34)."""
    files, group = group_with(10, 20)
    path = group / published_name(20)
    files.unlink(path / name)
    (loaded,) = load_groups(files, group.parent, None)
    assert [info.index for info in loaded.snapshots] == [10]
    (damaged,) = loaded.damaged
    assert (damaged.group, damaged.index, damaged.path) == (GROUP, 20, path)
    assert damaged.damage.path == path / name
    assert "missing" in damaged.damage.reason
    assert files.status(path) is not None


def test_empty_directory_with_a_published_name_is_damage() -> None:
    files, group = group_with(10)
    files.make_directory(group / published_name(20))
    (loaded,) = load_groups(files, group.parent, None)
    assert [damaged.index for damaged in loaded.damaged] == [20]


def test_swapped_snapshots_are_damage() -> None:
    files, group = group_with(10, 20)
    files.rename(group / published_name(10), group / "x")
    files.rename(group / published_name(20), group / published_name(10))
    files.rename(group / "x", group / published_name(20))
    (loaded,) = load_groups(files, group.parent, None)
    assert loaded.snapshots == []
    assert [damaged.index for damaged in loaded.damaged] == [10, 20]


@pytest.mark.parametrize(("index", "is_kept"), [(10, False), (20, False), (30, True)])
def test_displaced_damage_stays_until_a_sound_one_of_its_index_is_there(
    index: int, is_kept: bool
) -> None:
    files, group = group_with(10, 20)
    path = group / temporary_name(index, 9, "damaged")
    files.make_directory(path)
    (loaded,) = load_groups(files, group.parent, None)
    assert (files.status(path) is not None) == is_kept
    assert [damaged.path for damaged in loaded.damaged] == ([path] if is_kept else [])
    assert loaded.last_number == 9


@pytest.mark.parametrize("name", ["", "state", "manifest"])
def test_wrong_modes_are_refused(tmp_path: Path, name: str) -> None:
    info = take(open_store(REAL_FILE_SYSTEM, tmp_path), 10)
    (info.path / name).chmod(0o750)
    with pytest.raises(DataDirectoryError, match=f"{name} has mode 0750, expected 0[67]00: run"):
        [*load_groups(REAL_FILE_SYSTEM, tmp_path / "snapshots", None)]


@pytest.mark.parametrize("depth", ["group", "snapshot", "file"])
def test_links_are_refused(tmp_path: Path, depth: str) -> None:
    info = take(open_store(REAL_FILE_SYSTEM, tmp_path), 10)
    path = {"group": info.path.parent, "snapshot": info.path, "file": info.path / "state"}[depth]
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataDirectoryError, match="neither a directory nor an ordinary file"):
        [*load_groups(REAL_FILE_SYSTEM, tmp_path / "snapshots", None)]


def test_file_in_the_place_of_a_snapshot_is_refused() -> None:
    files, group = group_with(10)
    files.close(files.open(group / published_name(20), os.O_WRONLY | os.O_CREAT))
    with pytest.raises(DataDirectoryError, match="is not a directory"):
        [*load_groups(files, group.parent, None)]


def test_link_with_a_temporary_name_is_removed_and_not_followed(tmp_path: Path) -> None:
    info = take(open_store(REAL_FILE_SYSTEM, tmp_path), 10)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_bytes(b"x")
    link = info.path.with_name(temporary_name(20, 1, "taking"))
    link.symlink_to(tmp_path / "elsewhere")
    [*load_groups(REAL_FILE_SYSTEM, tmp_path / "snapshots", None)]
    assert not link.is_symlink()
    assert (tmp_path / "elsewhere/file").read_bytes() == b"x"


def test_removal_is_durable_in_name_before_a_file_is_touched() -> None:
    files, group = group_with(10, 20)
    target = group / temporary_name(10, 5, "removing")
    files.rename(group / published_name(10), target)
    files.journal.clear()
    SnapshotRemoval(files, group, [target]).run()
    changes = [call.method for call in files.journal if call.method in {"sync_directory", "unlink"}]
    assert changes == ["sync_directory", "unlink", "unlink", "unlink", "sync_directory"]
    assert files.names(group) == [published_name(20)]


def test_removal_of_nothing_touches_nothing_and_a_failed_one_says_so() -> None:
    files, group = group_with(10)
    files.journal.clear()
    SnapshotRemoval(files, group, []).run()
    assert files.journal == []
    files.fail("sync_directory", 1, errno.EIO)
    with pytest.raises(StorageError, match="cannot remove snapshots in"):
        SnapshotRemoval(files, group, [group / published_name(10)]).run()
    assert files.names(group) == [published_name(10)]
