"""Tests of rafter_storage.snapshot_transfer."""

import errno
from pathlib import Path

import pytest

from rafter_core.membership import Membership
from rafter_storage.errors import (
    Damage,
    SnapshotCorrupted,
    SnapshotFailed,
    SnapshotRefused,
    StorageError,
)
from rafter_storage.file_system import REAL_FILE_SYSTEM
from rafter_storage.snapshot_directory import temporary_name
from rafter_storage.snapshot_files import write_manifest
from rafter_storage.snapshot_reader import SnapshotInfo
from rafter_storage.snapshot_store import SnapshotStore
from rafter_storage.snapshot_transfer import export_snapshot, import_snapshot, verify_path
from tests.storage.fake_file_system import Crashed, CrashMode, FakeFileSystem
from tests.storage.snapshot_support import GROUP, contents, open_store, read_all, take

ALONE = Membership((2,))


def exported() -> tuple[FakeFileSystem, SnapshotStore, SnapshotInfo]:
    files = FakeFileSystem()
    store = open_store(files, files.base)
    info = export_snapshot(take(store, 10), files.base / "copy", files=files)
    files.settle()
    return files, store, info


def imported(files: FakeFileSystem, store: SnapshotStore, group: int = 9) -> SnapshotInfo:
    return import_snapshot(
        store, files.base / "copy", group, ALONE, membership_index=10, files=files
    )


def test_exported_snapshot_is_the_same_and_stands_for_itself() -> None:
    files, store, info = exported()
    original = store.newest(GROUP)
    assert original is not None
    for name in ("state", "extra.1", "manifest"):
        assert files.contents(info.path / name) == files.contents(original.path / name)
    store.remove_group(GROUP).run()
    report = verify_path(info.path, files=files)
    assert (report.faults, report.manifest) == ((), original.manifest)


def test_import_brings_the_snapshot_in_with_another_membership() -> None:
    files, store, source = exported()
    info = imported(files, store)
    assert store.newest(9) == info
    assert read_all(files, info) == contents(10)
    manifest = info.manifest
    assert (manifest.group, manifest.index, manifest.term) == (9, 10, 3)
    assert (manifest.membership, manifest.is_imported) == (ALONE, True)
    assert open_store(files, files.base).newest(9) == info
    assert not source.manifest.is_imported


def test_index_of_the_membership_is_not_that_of_the_snapshot() -> None:
    """An import once took the snapshot's index for it (matrixone issue 24966)."""
    files, store, source = exported()
    assert source.membership_index == 4
    info = import_snapshot(store, source.path, GROUP + 1, ALONE, membership_index=6, files=files)
    assert (info.index, info.membership_index) == (10, 6)
    with pytest.raises(SnapshotRefused, match="would look older than the one that it replaces"):
        import_snapshot(store, source.path, 20, ALONE, membership_index=3, files=files)
    with pytest.raises(SnapshotRefused, match="is of index 11, the snapshot of index 10"):
        import_snapshot(store, source.path, 20, ALONE, membership_index=11, files=files)
    with pytest.raises(SnapshotRefused, match="no voters"):
        import_snapshot(store, source.path, 20, Membership(()), membership_index=5, files=files)


def test_import_is_refused_where_another_snapshot_would_win() -> None:
    files, store, _ = exported()
    with pytest.raises(SnapshotRefused, match="group 7 has a snapshot of index 10"):
        imported(files, store, GROUP)
    newer = take(store, 20, group=9)
    store.mark_damaged(newer, Damage(newer.path, 0, "rotten"))
    with pytest.raises(SnapshotRefused, match="damaged snapshot of index 20: remove the group"):
        imported(files, store)
    store.remove_group(9).run()
    assert imported(files, store) == store.newest(9)


@pytest.mark.parametrize("name", ["state", "extra.1", "manifest"])
def test_damaged_source_is_neither_exported_nor_imported(name: str) -> None:
    files, store, info = exported()
    files.flip_bit(info.path / name, 3, 3)
    with pytest.raises(SnapshotCorrupted, match=f"copy/{name}"):
        imported(files, store)
    assert store.groups() == [GROUP]
    if name != "manifest":
        original = store.newest(GROUP)
        assert original is not None
        files.flip_bit(original.path / name, 3, 3)
        with pytest.raises(SnapshotCorrupted, match=name):
            export_snapshot(original, files.base / "other", files=files)
    leftovers = [path for path in files.paths() if path.suffix in {".importing", ".exporting"}]
    assert leftovers == []


def test_nothing_is_overwritten_by_an_export() -> None:
    files, _, info = exported()
    renames = len(files.calls("rename"))
    with pytest.raises(SnapshotRefused, match="copy exists: remove it"):
        export_snapshot(info, files.base / "copy", files=files)
    files.make_directory(files.base / "other.exporting")
    with pytest.raises(SnapshotRefused, match=r"other\.exporting exists"):
        export_snapshot(info, files.base / "other", files=files)
    with pytest.raises(SnapshotRefused, match="not a directory to export into"):
        export_snapshot(info, files.base / "a/b", files=files)
    assert len(files.calls("rename")) == renames


def test_failed_export_leaves_nothing() -> None:
    files, _, info = exported()
    files.fail("status", 1, errno.EIO)
    with pytest.raises(StorageError, match="cannot export"):
        export_snapshot(info, files.base / "other", files=files)
    files.fail("pwritev", 3, errno.ENOSPC)
    with pytest.raises(SnapshotFailed):
        export_snapshot(info, files.base / "other", files=files)
    assert [path for path in files.paths() if path.name.startswith("other")] == []


@pytest.mark.parametrize("mode", [CrashMode.LOST, CrashMode.KEPT, CrashMode.SIZE_ONLY])
def test_crash_at_any_step_exports_all_or_nothing(mode: CrashMode) -> None:
    files, _, info = exported()
    files.operations = 0
    export_snapshot(info, files.base / "other", files=files)
    for step in range(1, files.operations + 1):
        files, _, info = exported()
        files.operations = 0
        files.stop_at = step
        with pytest.raises(Crashed):
            export_snapshot(info, files.base / "other", files=files)
        survivor = files.crash(mode)
        if survivor.status(survivor.base / "other") is not None:
            assert verify_path(survivor.base / "other", files=survivor).faults == ()


def test_check_by_path_takes_a_directory_or_a_file_and_names_the_first_damage() -> None:
    files, store, info = exported()
    original = store.newest(GROUP)
    assert original is not None
    files.flip_bit(original.path / "state", 20, 0)
    first = verify_path(original.path, files=files).faults[0]
    assert (first.path, first.offset) == (original.path / "state", 16)
    assert verify_path(original.path / "state", files=files).faults == (first,)
    assert verify_path(original.path / "extra.1", files=files).faults == ()
    assert verify_path(original.path / "manifest", files=files).faults == ()
    assert verify_path(info.path, files=files).faults == ()


def test_check_by_path_sees_a_snapshot_in_the_place_of_another() -> None:
    files, store, _ = exported()
    original = store.newest(GROUP)
    assert original is not None
    moved = original.path.with_name(f"{11:016x}")
    files.rename(original.path, moved)
    faults = verify_path(moved, files=files).faults
    assert "the manifest of index 10, expected 11" in faults[0].reason


def test_check_by_path_of_something_else_says_so() -> None:
    files, _, info = exported()
    with pytest.raises(SnapshotRefused, match="there is no"):
        verify_path(files.base / "gone", files=files)
    faults = verify_path(files.base, files=files).faults
    assert [damage.reason for damage in faults] == ["the manifest is missing"]
    draft = files.base / temporary_name(10, 3, "receiving")
    files.make_directory(draft)
    write_manifest(files, draft, info.manifest)
    for path in (draft, draft / "manifest"):
        with pytest.raises(SnapshotRefused, match="holds a part of a snapshot"):
            verify_path(path, files=files)
    files.rename(info.path / "state", info.path / "other")
    with pytest.raises(SnapshotRefused, match="knows no file other"):
        verify_path(info.path / "other", files=files)
    files.fail("status", 1, errno.EIO)
    with pytest.raises(StorageError, match="cannot read"):
        verify_path(info.path, files=files)


def test_round_trip_on_the_real_file_system(tmp_path: Path) -> None:
    store = open_store(REAL_FILE_SYSTEM, tmp_path)
    info = export_snapshot(take(store, 10), tmp_path / "copy")
    assert verify_path(info.path).faults == ()
    back = import_snapshot(store, info.path, 9, ALONE, membership_index=5)
    assert read_all(REAL_FILE_SYSTEM, back) == contents(10)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "copy").iterdir()} == {0o600}
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700
