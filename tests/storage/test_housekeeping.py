"""Tests of rafter_storage.housekeeping."""

import errno
import os
from pathlib import Path

import pytest

from rafter_storage.chores import STEP_BYTES, Chore, DumpIndex, PrewriteSpare, RetireSegment
from rafter_storage.housekeeping import Housekeeper
from rafter_storage.index_dump import dump_path
from rafter_storage.recovery import SealedIndex
from rafter_storage.segment import SegmentHeader, segment_path, spare_path
from rafter_storage.segment_index import SegmentIndex
from tests.storage.fake_file_system import FakeFileSystem
from tests.storage.support import EIO, ENOSPC

SEGMENT_BYTES = 1 << 16


def keeper_of(
    files: FakeFileSystem, spares_max: int = 1, segment_bytes: int = SEGMENT_BYTES
) -> Housekeeper:
    keeper = Housekeeper(files, files.base, segment_bytes, spares_max)
    keeper.find_spares()
    return keeper


def put(files: FakeFileSystem, path: Path, length: int = SEGMENT_BYTES) -> None:
    descriptor = files.open(path, os.O_RDWR | os.O_CREAT)
    files.allocate(descriptor, length)
    files.close(descriptor)


def sealed(sequence: int) -> SealedIndex:
    header = SegmentHeader(sequence, sequence * 11, 0, 0, SEGMENT_BYTES, 1)
    return SealedIndex(header, 4096, SegmentIndex(sequence))


def do(keeper: Housekeeper) -> Chore | None:
    """Do the next chore; an error is reported as the flusher does."""
    chore = keeper.chore()
    if chore is not None:
        error = None
        try:
            chore.run()
        except OSError as failure:
            error = failure
        keeper.complete(chore, error)
    return chore


def do_all(keeper: Housekeeper) -> list[Chore]:
    done = []
    while (chore := do(keeper)) is not None:
        done.append(chore)
        assert len(done) < 100, "chores do not come to an end"
    return done


def names(files: FakeFileSystem) -> list[str]:
    return files.names(files.base)


@pytest.mark.parametrize("spares_max", [0, 1, 3])
def test_spares_are_prewritten_up_to_their_number(spares_max: int) -> None:
    files = FakeFileSystem()
    keeper = keeper_of(files, spares_max)
    done = do_all(keeper)
    assert [type(chore) for chore in done] == [PrewriteSpare] * spares_max
    assert keeper.disk_bytes == spares_max * SEGMENT_BYTES
    taken = {keeper.take_spare() for _ in range(spares_max)}
    assert taken == {spare_path(files.base, number + 1) for number in range(spares_max)}
    assert keeper.take_spare() is None
    assert keeper.disk_bytes == 0


def test_large_spare_is_prewritten_step_by_step() -> None:
    files = FakeFileSystem()
    keeper = keeper_of(files, segment_bytes=3 * STEP_BYTES)
    first = do(keeper)
    # What is allocated counts while it is not done.
    assert keeper.disk_bytes == 3 * STEP_BYTES
    assert keeper.take_spare() is None
    assert [do(keeper), do(keeper), do(keeper)] == [first, first, None]
    assert keeper.take_spare() is not None


def test_spares_of_an_earlier_process_are_taken_over_and_others_removed() -> None:
    files = FakeFileSystem()
    put(files, spare_path(files.base, 3))
    put(files, spare_path(files.base, 5), SEGMENT_BYTES - 4096)
    put(files, spare_path(files.base, 6), SEGMENT_BYTES * 2)
    put(files, spare_path(files.base, 8))
    put(files, spare_path(files.base, 9))
    put(files, files.base / "other", 10)
    keeper = keeper_of(files, spares_max=2)
    kept = [spare_path(files.base, 3), spare_path(files.base, 8)]
    assert names(files) == ["other", *(path.name for path in kept)]
    assert keeper.disk_bytes == 2 * SEGMENT_BYTES
    assert keeper.chore() is None
    assert {keeper.take_spare(), keeper.take_spare()} == set(kept)
    # Numbers go on behind the greatest that was ever seen.
    do(keeper)
    assert keeper.take_spare() == spare_path(files.base, 10)


def test_retired_segment_becomes_a_spare_if_one_is_wanted_and_it_has_the_size() -> None:
    files = FakeFileSystem()
    keeper = keeper_of(files, spares_max=1)
    for sequence, segment_bytes in ((1, 2 * SEGMENT_BYTES), (2, SEGMENT_BYTES), (3, SEGMENT_BYTES)):
        put(files, segment_path(files.base, sequence), segment_bytes)
        keeper.retire(sequence, segment_bytes)
    assert keeper.disk_bytes == 4 * SEGMENT_BYTES
    assert [type(chore) for chore in do_all(keeper)] == [RetireSegment] * 3
    spare = keeper.take_spare()
    assert spare is not None
    assert names(files) == [spare.name]


def test_retired_segment_is_removed_while_a_spare_is_being_made() -> None:
    files = FakeFileSystem()
    keeper = keeper_of(files, segment_bytes=2 * STEP_BYTES)
    do(keeper)
    put(files, segment_path(files.base, 1), 2 * STEP_BYTES)
    keeper.retire(1, 2 * STEP_BYTES)
    do_all(keeper)
    assert names(files) == [spare_path(files.base, 1).name]
    assert keeper.disk_bytes == 2 * STEP_BYTES


def test_retired_segments_go_oldest_first_and_before_everything_else() -> None:
    files = FakeFileSystem()
    keeper = keeper_of(files, spares_max=2)
    for sequence in (1, 2):
        put(files, segment_path(files.base, sequence))
    keeper.seal(sealed(3))
    for sequence in (1, 2):
        keeper.retire(sequence, 0)
    done = do_all(keeper)
    assert [type(chore) for chore in done] == [
        RetireSegment,
        RetireSegment,
        DumpIndex,
        PrewriteSpare,
        PrewriteSpare,
    ]
    removed = [call.path for call in files.calls("unlink") if call.path.suffix == ".log"]
    assert removed == [segment_path(files.base, 1), segment_path(files.base, 2)]


def test_sealed_segments_are_dumped_in_order() -> None:
    files = FakeFileSystem()
    keeper = keeper_of(files, spares_max=0)
    for sequence in (4, 5):
        keeper.seal(sealed(sequence))
    do_all(keeper)
    assert names(files) == [dump_path(files.base, sequence).name for sequence in (4, 5)]


def test_segment_that_is_retired_before_its_dump_gets_none() -> None:
    files = FakeFileSystem()
    keeper = keeper_of(files, spares_max=0)
    for sequence in (4, 5):
        keeper.seal(sealed(sequence))
    keeper.retire(4, 0)
    do_all(keeper)
    assert names(files) == [dump_path(files.base, 5).name]


def test_segment_that_is_retired_during_its_dump_leaves_none() -> None:
    files = FakeFileSystem()
    keeper = keeper_of(files, spares_max=0)
    keeper.seal(sealed(4))
    keeper.seal(sealed(5))
    chore = keeper.chore()
    assert isinstance(chore, DumpIndex)
    keeper.retire(4, 0)
    chore.run()
    keeper.complete(chore, None)
    do_all(keeper)
    assert names(files) == [dump_path(files.base, 5).name]


@pytest.mark.parametrize("number", [ENOSPC, errno.EDQUOT])
def test_prewriting_that_finds_no_room_pauses_and_heals(number: int) -> None:
    files = FakeFileSystem()
    keeper = keeper_of(files)
    files.fail("allocate", 1, number)
    do(keeper)
    assert keeper.is_disk_full
    assert keeper.disk_bytes == 0
    assert names(files) == []
    # Not tried again at once, and not called full any longer than it is.
    assert keeper.chore() is None
    keeper.resume()
    assert keeper.is_disk_full
    do_all(keeper)
    assert not keeper.is_disk_full
    assert keeper.take_spare() is not None


def test_other_failures_pause_without_a_full_disk() -> None:
    files = FakeFileSystem()
    keeper = keeper_of(files)
    keeper.seal(sealed(4))
    files.fail("pwritev", 1, EIO)
    do(keeper)
    assert not keeper.is_disk_full
    assert keeper.chore() is None
    keeper.resume()
    do_all(keeper)
    assert len(names(files)) == 2


def test_error_that_is_not_the_systems_pauses_too() -> None:
    keeper = keeper_of(FakeFileSystem())
    chore = keeper.chore()
    assert chore is not None
    keeper.complete(chore, ValueError("no"))
    assert keeper.chore() is None
    assert not keeper.is_disk_full


def test_no_spare_is_kept_on_a_full_disk() -> None:
    files = FakeFileSystem()
    keeper = keeper_of(files)
    keeper.is_disk_full = True
    put(files, segment_path(files.base, 1))
    keeper.retire(1, SEGMENT_BYTES)
    chore = do(keeper)
    assert isinstance(chore, RetireSegment)
    assert chore.spare is None
    assert names(files) == []


@pytest.mark.parametrize("method", ["unlink", "rename", "sync_directory"])
def test_failed_retirement_is_done_again_and_every_spare_is_a_file(method: str) -> None:
    files = FakeFileSystem()
    keeper = keeper_of(files, spares_max=2)
    put(files, segment_path(files.base, 1))
    put(files, dump_path(files.base, 1))
    keeper.retire(1, SEGMENT_BYTES)
    files.fail(method, 1, EIO)
    do(keeper)
    assert keeper.chore() is None
    keeper.resume()
    do_all(keeper)
    assert segment_path(files.base, 1).name not in names(files)
    spares = []
    while (spare := keeper.take_spare()) is not None:
        spares.append(spare.name)
    assert sorted(spares) == names(files), "a spare is no file, or a file no spare"


def test_stalled_job_gets_a_spare_that_fits_it() -> None:
    files = FakeFileSystem()
    keeper = keeper_of(files)
    do_all(keeper)
    assert keeper.stall(SEGMENT_BYTES) == spare_path(files.base, 1)
    assert keeper.is_disk_full
    assert keeper.disk_bytes == 0


def test_spare_that_was_not_needed_is_taken_by_the_next() -> None:
    keeper = keeper_of(FakeFileSystem())
    do_all(keeper)
    spare = keeper.take_spare()
    assert spare is not None
    keeper.give_back(spare)
    assert keeper.chore() is None
    assert keeper.take_spare() == spare


def test_stalled_job_gets_the_room_of_spares_that_do_not_fit_it() -> None:
    files = FakeFileSystem()
    keeper = keeper_of(files, spares_max=2)
    do_all(keeper)
    files.fail("unlink", 1, EIO)
    assert keeper.stall(3 * SEGMENT_BYTES) is None
    # One cannot be removed: it is found again at the next start.
    assert len(names(files)) == 1
    assert keeper.take_spare() is None


def test_stalled_job_gets_the_room_of_the_spare_that_is_being_made() -> None:
    files = FakeFileSystem()
    keeper = keeper_of(files, segment_bytes=2 * STEP_BYTES)
    do(keeper)
    assert len(names(files)) == 1
    assert keeper.stall(2 * STEP_BYTES) is None
    assert names(files) == []
    assert keeper.disk_bytes == 0
    # And no other takes it, while segments that leave and dumps go on.
    keeper.retire(1, 2 * STEP_BYTES)
    keeper.seal(sealed(4))
    assert [type(chore) for chore in do_all(keeper)] == [RetireSegment, DumpIndex]
    keeper.is_disk_full = keeper.is_stalled = False
    assert isinstance(do_all(keeper)[0], PrewriteSpare)
    assert keeper.take_spare() is not None


def test_room_of_a_spare_that_was_never_begun_need_not_be_given_up() -> None:
    files = FakeFileSystem()
    keeper = keeper_of(files)
    assert keeper.chore() is not None
    assert keeper.stall(SEGMENT_BYTES) is None
    assert names(files) == []
