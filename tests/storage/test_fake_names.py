"""Tests of the fake directories: which names crashes leave."""

import errno
import itertools
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.storage.fake_file_system import CrashMode, FakeFileSystem
from tests.storage.fake_support import (
    NEW,
    SEEDS,
    after,
    all_after,
    as_letters,
    created,
    names_after,
    pieces,
)

# ---- names after a crash -----------------------------------------------------------------------


def test_a_synced_file_may_be_gone_until_its_directory_is_synced() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", b"abc", is_settled=False)
    files.sync_data(descriptor)
    assert after(files, CrashMode.LOST) is None
    assert all_after(files, CrashMode.REORDERED) == {None, b"abc"}
    files.sync_directory(files.base)
    assert {after(files, mode) for mode in CrashMode} == {b"abc"}


def test_a_name_may_survive_without_its_bytes() -> None:
    files = FakeFileSystem()
    created(files, "file", pieces("ab"), is_settled=False)
    files.sync_directory(files.base)
    assert after(files, CrashMode.LOST) == b""
    assert as_letters(after(files, CrashMode.SIZE_ONLY)) == ".."
    left = {as_letters(data) for data in all_after(files, CrashMode.REORDERED)}
    assert left == {"", "..", "a.", ".b", "ab"}


def test_created_names_survive_in_any_combination() -> None:
    files = FakeFileSystem()
    for name in "abc":
        created(files, name, is_settled=False)
    every = {tuple(c) for count in range(4) for c in itertools.combinations("abc", count)}
    assert names_after(files, CrashMode.REORDERED) == every
    assert names_after(files, CrashMode.LOST) == {()}
    assert names_after(files, CrashMode.KEPT) == {("a", "b", "c")}


def test_a_removal_is_undone_until_the_directory_is_synced() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", b"abc")
    files.unlink(files.base / "file")
    files.close(descriptor)
    assert all_after(files, CrashMode.REORDERED) == {None, b"abc"}
    assert after(files, CrashMode.LOST) == b"abc"
    assert after(files, CrashMode.KEPT) is None
    files.sync_directory(files.base)
    assert {after(files, mode) for mode in CrashMode} == {None}


def test_a_rename_leaves_the_old_name_or_the_new_one() -> None:
    files = FakeFileSystem()
    created(files, "old")
    files.rename(files.base / "old", files.base / "new")
    assert names_after(files, CrashMode.REORDERED) == {("old",), ("new",)}
    assert names_after(files, CrashMode.LOST) == {("old",)}
    files.sync_directory(files.base)
    assert {names for mode in CrashMode for names in names_after(files, mode)} == {("new",)}


def test_a_replaced_file_is_there_until_the_new_one_is() -> None:
    files = FakeFileSystem()
    created(files, "file", b"old")
    created(files, "temporary", b"new")
    files.rename(files.base / "temporary", files.base / "file")
    assert all_after(files, CrashMode.REORDERED) == {b"old", b"new"}
    assert after(files, CrashMode.LOST) == b"old"


def test_a_rename_never_survives_the_loss_of_what_it_renamed() -> None:
    files = FakeFileSystem()
    created(files, "temporary", is_settled=False)
    files.rename(files.base / "temporary", files.base / "file")
    assert names_after(files, CrashMode.REORDERED) == {(), ("temporary",), ("file",)}


def test_a_rename_of_unsynced_bytes_may_leave_none_of_them() -> None:
    files = FakeFileSystem()
    created(files, "file", b"old")
    created(files, "temporary", b"new", is_settled=False)
    files.rename(files.base / "temporary", files.base / "file")
    files.sync_directory(files.base)
    assert after(files, CrashMode.LOST) == b""
    assert after(files, CrashMode.SIZE_ONLY) == b"\0\0\0"


def test_a_rename_to_another_directory_is_durable_with_the_target() -> None:
    files = FakeFileSystem()
    for name in ["a", "b"]:
        files.make_directory(files.base / name)
    created(files, "a/file", b"abc")
    files.rename(files.base / "a" / "file", files.base / "b" / "file")
    files.sync_directory(files.base / "a")
    for seed in SEEDS:
        old = after(files, CrashMode.REORDERED, seed, "a/file")
        new = after(files, CrashMode.REORDERED, seed, "b/file")
        assert {old, new} == {None, b"abc"}
    assert after(files, CrashMode.LOST, name="a/file") == b"abc"
    files.sync_directory(files.base / "b")
    assert after(files, CrashMode.LOST, name="a/file") is None
    assert after(files, CrashMode.LOST, name="b/file") == b"abc"


def test_a_file_renamed_into_a_new_directory_is_never_lost_with_it() -> None:
    files = FakeFileSystem()
    created(files, "file", b"abc")
    files.make_directory(files.base / "new")
    files.rename(files.base / "file", files.base / "new" / "file")
    lefts = [files.crash(CrashMode.REORDERED, random.Random(seed)).paths() for seed in SEEDS]
    assert {tuple(path.relative_to(files.base).as_posix() for path in left) for left in lefts} == {
        ("file",), ("file", "new"), ("new", "new/file"),
    }  # fmt: skip
    files.sync_directory(files.base / "new")
    assert after(files, CrashMode.LOST, name="new/file") == b"abc"


def test_a_file_moved_out_of_a_removed_directory_is_never_lost_with_it() -> None:
    files = FakeFileSystem()
    files.make_directory(files.base / "old")
    created(files, "old/file", b"abc")
    files.rename(files.base / "old" / "file", files.base / "file")
    files.remove_directory(files.base / "old")
    assert names_after(files, CrashMode.REORDERED) == {("old",), ("file", "old"), ("file",)}
    files.sync_directory(files.base)
    assert names_after(files, CrashMode.LOST) == {("file",)}


def test_a_synced_removal_of_a_directory_takes_with_it_what_was_moved_out() -> None:
    files = FakeFileSystem()
    for name in ["new", "old"]:
        files.make_directory(files.base / name)
    created(files, "old/file", b"abc")
    files.rename(files.base / "old" / "file", files.base / "new" / "file")
    files.remove_directory(files.base / "old")
    files.sync_directory(files.base)
    survivor = files.crash(CrashMode.LOST)
    assert survivor.paths() == [files.base / "new", files.base / "new" / "file"]


def test_a_replaced_directory_is_lost_only_with_what_was_moved_out_of_it() -> None:
    files = FakeFileSystem()
    for name in ["new", "old", "other"]:
        files.make_directory(files.base / name)
    created(files, "old/file", b"abc")
    files.rename(files.base / "old" / "file", files.base / "other" / "file")
    files.rename(files.base / "new", files.base / "old")
    for seed in SEEDS:
        survivor = files.crash(CrashMode.REORDERED, random.Random(seed))
        assert sum(path.name == "file" for path in survivor.paths()) == 1


def test_a_link_in_a_new_directory_and_its_source_are_never_both_lost() -> None:
    files = FakeFileSystem()
    created(files, "file", b"abc")
    files.make_directory(files.base / "new")
    files.link(files.base / "file", files.base / "new" / "file")
    files.unlink(files.base / "file")
    for seed in SEEDS:
        survivor = files.crash(CrashMode.REORDERED, random.Random(seed))
        assert sum(path.name == "file" for path in survivor.paths()) in {1, 2}


def test_a_link_then_a_removal_never_loses_both_names() -> None:
    files = FakeFileSystem()
    created(files, "old")
    files.link(files.base / "old", files.base / "new")
    files.unlink(files.base / "old")
    assert names_after(files, CrashMode.REORDERED) == {("old",), ("new", "old"), ("new",)}
    survivor = files.crash(CrashMode.KEPT)
    assert survivor.names(files.base) == ["new"]


def test_linked_files_are_still_one_file_after_a_crash() -> None:
    files = FakeFileSystem()
    created(files, "file", b"abc")
    files.link(files.base / "file", files.base / "other")
    survivor = files.crash(CrashMode.KEPT)
    descriptor = survivor.open(survivor.base / "file", os.O_RDWR)
    survivor.pwritev(descriptor, [b"X"], 0)
    assert survivor.contents(survivor.base / "other") == b"Xbc"


def test_a_directory_may_be_gone_with_all_its_durable_files() -> None:
    files = FakeFileSystem()
    files.make_directory(files.base / "directory")
    descriptor = created(files, "directory/file", b"abc", is_settled=False)
    files.sync_data(descriptor)
    files.sync_directory(files.base / "directory")
    assert names_after(files, CrashMode.LOST) == {()}
    files.sync_directory(files.base)
    assert after(files, CrashMode.LOST, name="directory/file") == b"abc"


def test_names_in_a_directory_are_not_durable_with_the_directorys_own() -> None:
    files = FakeFileSystem()
    files.make_directory(files.base / "directory")
    created(files, "directory/file", is_settled=False)
    files.sync_directory(files.base)
    assert files.crash(CrashMode.LOST).paths() == [files.base / "directory"]


def test_the_removal_of_a_directory_is_undone() -> None:
    files = FakeFileSystem()
    files.make_directory(files.base / "directory")
    created(files, "directory/file", b"abc")
    files.unlink(files.base / "directory" / "file")
    files.remove_directory(files.base / "directory")
    lefts = [files.crash(CrashMode.REORDERED, random.Random(seed)).paths() for seed in SEEDS]
    assert {len(left) for left in lefts} == {0, 1, 2}
    assert after(files, CrashMode.LOST, name="directory/file") == b"abc"
    files.sync_directory(files.base)
    assert files.crash(CrashMode.LOST).paths() == []


def test_syncing_a_descriptor_of_a_directory_syncs_its_names() -> None:
    files = FakeFileSystem()
    created(files, "file", is_settled=False)
    files.sync_data(files.open(files.base, os.O_RDONLY | os.O_DIRECTORY))
    assert names_after(files, CrashMode.LOST) == {("file",)}


def test_a_failed_sync_of_a_directory_leaves_its_names_pending() -> None:
    files = FakeFileSystem()
    created(files, "file", is_settled=False)
    files.fail("sync_directory", 1, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        files.sync_directory(files.base)
    assert names_after(files, CrashMode.REORDERED) == {(), ("file",)}


# ---- what always holds -------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c", "sub/a", "sub/b", "new/a"])
NAME_ACTIONS = st.one_of(
    st.tuples(st.just("create"), NAMES, NAMES),
    st.tuples(st.just("rename"), NAMES, NAMES),
    st.tuples(st.just("rename"), NAMES, NAMES),
    st.tuples(st.just("link"), NAMES, NAMES),
    st.tuples(st.just("unlink"), NAMES, NAMES),
    st.tuples(st.just("sync"), NAMES, NAMES),
    st.tuples(st.just("make_directory"), st.just("new/a"), NAMES),
    st.tuples(st.just("remove_directory"), NAMES, NAMES),
    st.tuples(st.just("move_directory"), st.just("sub/a"), st.just("new/a")),
)


def act_on_names(files: FakeFileSystem, action: str, path: Path, other: Path, number: int) -> None:
    if action == "create":
        descriptor = files.open(path, NEW | os.O_EXCL)
        files.pwritev(descriptor, [b"%d" % number], 0)
        files.sync_data(descriptor)
        files.close(descriptor)
    elif action == "rename":
        files.rename(path, other)
    elif action == "link":
        files.link(path, other)
    elif action == "unlink":
        files.unlink(path)
    elif action == "sync":
        files.sync_directory(path.parent)
    elif action == "move_directory":
        files.rename(path.parent, other.parent)
    else:
        method = files.make_directory if action == "make_directory" else files.remove_directory
        method(path.parent)


def identities(files: FakeFileSystem) -> set[bytes]:
    """The contents of all files: here each file has its own."""
    found = [path for path in files.paths() if (files.status(path) or (True,))[0] is False]
    return {files.contents(path) for path in found}


@given(st.lists(NAME_ACTIONS, max_size=14), st.sampled_from(CrashMode), st.integers(0, 1 << 32))
def test_no_crash_loses_a_durable_file_that_was_not_removed(
    actions: list[tuple[str, str, str]], mode: CrashMode, seed: int
) -> None:
    files = FakeFileSystem()
    files.make_directory(files.base / "sub")
    for number, name in enumerate(["a", "b", "sub/a", "sub/b"], 100):
        act_on_names(files, "create", files.base / name, files.base, number)
    files.settle()
    kept = identities(files)
    assert len(kept) == 4
    for number, (action, name, other) in enumerate(actions):
        try:
            act_on_names(files, action, files.base / name, files.base / other, number)
        except OSError:
            continue
        # What has lost its last name at any time may be gone.
        kept &= identities(files)
    survivor = files.crash(mode, random.Random(seed))
    assert kept <= identities(survivor)
    # And once every directory is synced, all is as it was seen.
    for path in [files.base, *files.paths()]:
        status = files.status(path)
        if status and status.is_directory:
            files.sync_directory(path)
    survivor = files.crash(mode, random.Random(seed))
    assert survivor.paths() == files.paths()
    assert identities(survivor) == identities(files)
