"""Tests of the fake disk: what crashes leave of the bytes of files."""

import errno
import itertools
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_storage.file_system import read_exactly
from tests.storage.fake_file_system import CrashMode, FakeFileSystem
from tests.storage.fake_support import PIECE, SEEDS, after, all_after, as_letters, created, pieces

DRAWN = [CrashMode.REORDERED, CrashMode.TORN]


# ---- bytes after a crash -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", CrashMode)
def test_what_is_synced_is_there_after_every_crash(mode: CrashMode) -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", b"old")
    files.pwritev(descriptor, [pieces("abc")], 100)
    files.sync_data(descriptor)
    assert all_after(files, mode) == {b"old" + bytes(97) + pieces("abc")}


@pytest.mark.parametrize("mode", CrashMode)
def test_a_synced_write_is_there_after_every_crash(mode: CrashMode) -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", pieces("aaa"))
    files.write_synced(descriptor, [pieces("BB")], 2 * PIECE)
    assert {as_letters(data) for data in all_after(files, mode)} == {"aaBB"}


def test_a_synced_write_syncs_its_own_pieces_and_no_others() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", pieces("aaaa"))
    files.pwritev(descriptor, [pieces("BBBB")], 0)
    files.write_synced(descriptor, [pieces("C")], PIECE)
    assert as_letters(after(files, CrashMode.LOST)) == "aCaa"
    assert as_letters(after(files, CrashMode.KEPT)) == "BCBB"
    left = {as_letters(data) for data in all_after(files, CrashMode.REORDERED)}
    assert left == {f"{a}C{b}{c}" for a, b, c in itertools.product("aB", repeat=3)}
    files.sync_data(descriptor)
    assert as_letters(after(files, CrashMode.LOST)) == "BCBB"


def test_a_synced_write_takes_the_rest_of_its_pieces_and_the_size_along() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", b"a" * 10)
    files.pwritev(descriptor, [b"B" * 3 * PIECE], 5)
    files.write_synced(descriptor, [b"CC"], 0)
    size = 5 + 3 * PIECE
    assert after(files, CrashMode.LOST) == (b"CCaaa" + b"B" * (PIECE - 5)).ljust(size, b"\0")


def test_a_failed_synced_write_leaves_its_own_pieces_in_doubt_for_ever() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", pieces("aaa"))
    files.pwritev(descriptor, [pieces("B")], 2 * PIECE)
    files.fail("write_synced", 1, errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        files.write_synced(descriptor, [pieces("CC")], 0)
    files.sync_data(descriptor)
    assert as_letters(after(files, CrashMode.LOST)) == "aaB"
    left = {as_letters(data) for data in all_after(files, CrashMode.REORDERED)}
    assert left == {"aaB", "aCB", "CaB", "CCB"}
    files.write_synced(descriptor, [pieces("D")], 0)
    left = {as_letters(data) for data in all_after(files, CrashMode.REORDERED)}
    assert left == {"DaB", "DCB"}


def test_between_its_write_and_its_sync_a_synced_write_can_be_torn() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", pieces("aa"))
    left = set()
    files.synced_write_hook = lambda: left.update(all_after(files, CrashMode.REORDERED))
    files.write_synced(descriptor, [pieces("BB")], 0)
    assert {as_letters(data) for data in left} == {"aa", "aB", "Ba", "BB"}


def test_unsynced_bytes_are_lost_or_kept() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", pieces("aaa"))
    files.pwritev(descriptor, [pieces("BB")], 2 * PIECE)
    assert as_letters(after(files, CrashMode.LOST)) == "aaa"
    assert as_letters(after(files, CrashMode.KEPT)) == "aaBB"


def test_a_crash_leaves_the_file_system_it_was_taken_from_alone() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", pieces("aa"))
    files.pwritev(descriptor, [pieces("B")], 0)
    survivor = files.crash(CrashMode.LOST)
    changed = survivor.open(survivor.base / "file", os.O_RDWR)
    survivor.pwritev(changed, [pieces("C")], PIECE)
    survivor.sync_data(changed)
    assert as_letters(survivor.contents(survivor.base / "file")) == "aC"
    assert as_letters(files.contents(files.base / "file")) == "Ba"
    assert as_letters(after(files, CrashMode.LOST)) == "aa"
    files.sync_data(descriptor)
    assert as_letters(after(files, CrashMode.LOST)) == "Ba"


def test_any_pieces_of_a_write_may_survive() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", pieces("aaa"))
    files.pwritev(descriptor, [pieces("BBB")], 0)
    left = {as_letters(data) for data in all_after(files, CrashMode.REORDERED)}
    assert left == {"".join(choice) for choice in itertools.product("aB", repeat=3)}


def test_a_piece_is_as_any_of_its_writes_left_it_and_never_a_mix() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", bytes(PIECE))
    files.pwritev(descriptor, [b"aa"], 0)
    files.pwritev(descriptor, [b"bb"], 1)
    left = {data and data[:3] for data in all_after(files, CrashMode.REORDERED)}
    assert left == {b"\0\0\0", b"aa\0", b"abb"}


def test_writes_of_different_files_survive_independently() -> None:
    files = FakeFileSystem()
    for descriptor in [created(files, name, pieces("a")) for name in ["file", "other"]]:
        files.pwritev(descriptor, [pieces("B")], 0)
    survivors = [files.crash(CrashMode.REORDERED, random.Random(seed)) for seed in SEEDS]
    left = {
        tuple(as_letters(survivor.contents(files.base / name)) for name in ["file", "other"])
        for survivor in survivors
    }
    assert left == {("a", "a"), ("a", "B"), ("B", "a"), ("B", "B")}


def test_nearly_all_and_nearly_nothing_of_a_long_write_may_survive() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", pieces("a" * 100))
    files.pwritev(descriptor, [pieces("B" * 100)], 0)
    kept = [as_letters(data).count("B") for data in all_after(files, CrashMode.REORDERED)]
    assert min(kept) < 10
    assert max(kept) > 90


def test_sizes_survive_without_bytes_and_bytes_are_cut_with_sizes() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", pieces("a"))
    files.pwritev(descriptor, [pieces("bc")], PIECE)
    left = {as_letters(data) for data in all_after(files, CrashMode.REORDERED)}
    assert left == {"a", "a..", "ab.", "a.c", "abc"}


def test_of_several_sizes_any_may_survive() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file")
    files.allocate(descriptor, 100)
    files.truncate(descriptor, 200)
    left = {data and len(data) for data in all_after(files, CrashMode.REORDERED)}
    assert left == {b"", 100, 200}


def test_a_truncation_undone_brings_the_old_bytes_back_and_nothing_newer() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", pieces("aa"))
    files.truncate(descriptor, 0)
    files.pwritev(descriptor, [pieces("BB")], 0)
    left = {as_letters(data) for data in all_after(files, CrashMode.REORDERED)}
    assert left == {"aa", "", "..", "B.", ".B", "BB"}


def test_opening_with_truncation_is_a_truncation() -> None:
    files = FakeFileSystem()
    created(files, "file", pieces("aa"))
    files.open(files.base / "file", os.O_RDWR | os.O_TRUNC)
    assert files.contents(files.base / "file") == b""
    assert after(files, CrashMode.LOST) == pieces("aa")
    assert all_after(files, CrashMode.REORDERED) == {pieces("aa"), b""}


def test_a_torn_write_keeps_a_part_of_its_beginning() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", pieces("aaaaa"))
    files.pwritev(descriptor, [pieces("BB")], 0)
    files.pwritev(descriptor, [pieces("CCCC")], PIECE)
    left = {as_letters(data) for data in all_after(files, CrashMode.TORN)}
    assert left == {"BBaaa", "BCaaa", "BCCaa", "BCCCa"}


def test_a_torn_write_ends_at_a_piece_of_the_file_and_the_file_with_it() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", b"a" * 100)
    files.pwritev(descriptor, [b"b" * 1000], 100)
    assert all_after(files, CrashMode.TORN) == {
        b"a" * 100, b"a" * 100 + b"b" * 412, b"a" * 100 + b"b" * 924,
    }  # fmt: skip


def test_nothing_of_a_torn_write_is_no_change_of_the_size_either() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", b"abc")
    files.pwritev(descriptor, [b"x"], 1000)
    assert all_after(files, CrashMode.TORN) == {b"abc"}


def test_a_truncation_alone_cannot_be_torn() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", b"abc")
    files.truncate(descriptor, 1)
    assert all_after(files, CrashMode.TORN) == {b"a"}


def test_only_sizes_survive_and_old_bytes_stay() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", pieces("aa"))
    files.pwritev(descriptor, [pieces("BBB")], PIECE)
    assert as_letters(after(files, CrashMode.SIZE_ONLY)) == "aa.."
    files.truncate(descriptor, PIECE)
    files.pwritev(descriptor, [pieces("C")], PIECE)
    assert as_letters(after(files, CrashMode.SIZE_ONLY)) == "a."


def test_a_write_through_o_dsync_is_durable() -> None:
    files = FakeFileSystem()
    created(files, "file", pieces("aa"))
    descriptor = files.open(files.base / "file", os.O_WRONLY | os.O_DSYNC)
    files.pwritev(descriptor, [pieces("B")], PIECE)
    assert as_letters(after(files, CrashMode.LOST)) == "aB"
    assert files.calls("sync_data") == []


@pytest.mark.parametrize("mode", DRAWN)
def test_equal_generators_give_equal_crashes(mode: CrashMode) -> None:
    def states() -> list[bytes | None]:
        files = FakeFileSystem()
        for name in ["file", "other", "third"]:
            descriptor = created(files, name, pieces("abcd"), is_settled=False)
            files.pwritev(descriptor, [pieces("EFGH")], PIECE)
        names = [files.crash(mode, random.Random(seed)).names(files.base) for seed in range(20)]
        return [repr(names).encode(), *(after(files, mode, seed) for seed in range(20))]

    assert states() == states()


@pytest.mark.parametrize("mode", DRAWN)
def test_a_mode_that_draws_needs_a_generator(mode: CrashMode) -> None:
    files = FakeFileSystem()
    created(files, "file", b"x", is_settled=False)
    with pytest.raises(ValueError, match="needs a generator"):
        files.crash(mode)


def test_descriptors_and_locks_are_gone_after_a_crash() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file")
    assert files.lock(descriptor)
    survivor = files.crash(CrashMode.KEPT)
    with pytest.raises(OSError, match="Bad file descriptor"):
        survivor.size(descriptor)
    reopened = survivor.open(survivor.base / "file", os.O_RDWR)
    assert reopened != descriptor
    assert survivor.lock(reopened)


# ---- failed syncs ------------------------------------------------------------------------------


def failed_sync(files: FakeFileSystem, descriptor: int) -> None:
    files.fail("sync_data", 1, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        files.sync_data(descriptor)


def test_what_a_failed_sync_was_to_write_no_later_sync_makes_durable() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", pieces("aaa"))
    files.pwritev(descriptor, [pieces("B")], PIECE)
    failed_sync(files, descriptor)
    files.sync_data(descriptor)
    assert as_letters(read_exactly(files, descriptor, 10_000, 0)) == "aBa"
    assert as_letters(after(files, CrashMode.LOST)) == "aaa"
    assert as_letters(after(files, CrashMode.KEPT)) == "aBa"
    left = {as_letters(data) for data in all_after(files, CrashMode.REORDERED)}
    assert left == {"aaa", "aBa"}


def test_other_bytes_are_durable_after_a_failed_sync_and_another() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", pieces("aaa"))
    files.pwritev(descriptor, [pieces("BB")], PIECE)
    failed_sync(files, descriptor)
    files.pwritev(descriptor, [pieces("C")], 0)
    files.pwritev(descriptor, [b"D"], 2 * PIECE)
    files.sync_data(descriptor)
    # The third piece was written again, as a whole.
    third = b"D" + b"B" * (PIECE - 1)
    assert after(files, CrashMode.LOST) == pieces("Ca") + third
    left = all_after(files, CrashMode.REORDERED)
    assert left == {pieces("Ca") + third, pieces("CB") + third}


def test_the_size_that_a_failed_sync_left_becomes_durable_without_its_bytes() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", pieces("a"))
    files.pwritev(descriptor, [pieces("B")], PIECE)
    failed_sync(files, descriptor)
    assert as_letters(after(files, CrashMode.LOST)) == "a"
    files.sync_data(descriptor)
    assert as_letters(after(files, CrashMode.LOST)) == "a."
    left = {as_letters(data) for data in all_after(files, CrashMode.REORDERED)}
    assert left == {"a.", "aB"}


def test_what_was_truncated_after_a_failed_sync_does_not_come_back() -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", pieces("aa"))
    files.pwritev(descriptor, [pieces("BB")], 0)
    failed_sync(files, descriptor)
    files.truncate(descriptor, PIECE)
    files.truncate(descriptor, 2 * PIECE)
    files.sync_data(descriptor)
    left = {as_letters(data) for data in all_after(files, CrashMode.REORDERED)}
    assert left == {"a.", "B."}


def test_a_failed_write_through_o_dsync_leaves_its_bytes_in_doubt() -> None:
    files = FakeFileSystem()
    created(files, "file", pieces("aa"))
    descriptor = files.open(files.base / "file", os.O_RDWR | os.O_DSYNC)
    files.fail("pwritev", 1, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        files.pwritev(descriptor, [pieces("B")], 0)
    files.sync_data(descriptor)
    left = {as_letters(data) for data in all_after(files, CrashMode.REORDERED)}
    assert left == {"aa", "Ba"}


# ---- what always holds -------------------------------------------------------------------------

WRITES = st.tuples(st.just("write"), st.integers(0, 3000), st.integers(1, 1800))
RESIZES = st.tuples(st.sampled_from(["truncate", "allocate"]), st.integers(1, 4000), st.just(0))
SYNCS = st.tuples(st.just("sync"), st.just(0), st.just(0))


@given(
    st.lists(st.one_of(WRITES, WRITES, RESIZES, SYNCS), max_size=12),
    st.sampled_from(CrashMode),
    st.integers(0, 1 << 32),
)
def test_each_piece_is_as_the_last_sync_or_a_later_change_left_it(
    actions: list[tuple[str, int, int]], mode: CrashMode, seed: int
) -> None:
    files = FakeFileSystem()
    descriptor = created(files, "file", b"z" * 700)
    path = files.base / "file"
    history = [files.contents(path)]
    for number, (action, offset, length) in enumerate(actions, 1):
        if action == "write":
            files.pwritev(descriptor, [bytes([number]) * length], offset)
        elif action == "truncate":
            files.truncate(descriptor, offset)
        elif action == "allocate":
            files.allocate(descriptor, offset)
        else:
            files.sync_data(descriptor)
            history = []
        history.append(files.contents(path))
    left = after(files, mode, seed)
    assert left is not None
    if len(history) == 1:
        assert left == history[0]
    if mode is not CrashMode.TORN:
        assert len(left) in {len(version) for version in history}
    for start in range(0, len(left), PIECE):
        length = min(PIECE, len(left) - start)
        versions = [version[start : start + length].ljust(length, b"\0") for version in history]
        # Where the file once ended, zeros may begin although the bytes before are older.
        ends = [min(max(len(version) - start, 0), length) for version in history]
        cut = [version[:end].ljust(length, b"\0") for version in versions for end in ends]
        assert left[start : start + length] in [*versions, *cut]
