"""Tests of rafter_storage.snapshot_receiver."""

import errno
import os
import random
from collections.abc import Mapping
from dataclasses import replace

import pytest

from rafter_storage.errors import SnapshotFailed, SnapshotRefused
from rafter_storage.snapshot_manifest import Manifest, encode_manifest
from rafter_storage.snapshot_reader import verify_directory
from rafter_storage.snapshot_receiver import SnapshotReceiver
from tests.storage.fake_file_system import Crashed, CrashMode, FakeFileSystem
from tests.storage.snapshot_support import (
    CHUNK_BYTES,
    contents,
    manifest_of,
    paths_in,
    read_all,
    receive_chunks,
    snapshot_file,
)

SHAPES: dict[str, Mapping[str, bytes]] = {
    "no files": {},
    "an empty file": {"state": b""},
    "whole chunks": {"state": bytes(range(2 * CHUNK_BYTES))},
    "a last chunk of one byte": {"state": bytes(range(CHUNK_BYTES + 1))},
    "several files": {"a": b"", "b": bytes(range(40)), "c": b"", "d": b"xyz", "e": bytes(32),
                      "f": b""},
}  # fmt: skip


def receiver_on(
    files: FakeFileSystem, manifest: Manifest | None = None, *, is_kept: bool = False
) -> SnapshotReceiver:
    return SnapshotReceiver(files, paths_in(files.base), manifest or manifest_of(), is_kept=is_kept)


def chunk_of(name: str, number: int) -> bytes:
    return contents(10)[name][number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]


def names(files: FakeFileSystem) -> list[str]:
    return [path.relative_to(files.base / "group").as_posix() for path in files.paths()[1:]]


def killed_after(count: int, data: Mapping[str, bytes] | None = None) -> FakeFileSystem:
    """Return the disk of a process that was killed behind so many chunks."""
    files = FakeFileSystem()
    data = contents(10) if data is None else data
    receiver = receiver_on(files, manifest_of(10, data))
    assert receive_chunks(receiver, data, count) == count
    return files


def recovered_on(
    files: FakeFileSystem, data: Mapping[str, bytes] | None = None, bytes_max: int = 1 << 20
) -> SnapshotReceiver:
    receiver = receiver_on(files, manifest_of(10, data), is_kept=True)
    while receiver.recover(bytes_max):
        pass
    return receiver


def finish(receiver: SnapshotReceiver, data: Mapping[str, bytes] | None = None) -> int:
    """Receive the rest and publish; return how many chunks had to come."""
    data = contents(10) if data is None else data
    count = receive_chunks(receiver, data)
    assert receiver.finish().manifest == manifest_of(10, data)
    return count


def test_manifest_is_durable_before_a_byte_comes_and_the_rest_before_the_name() -> None:
    """So a draft says what it is to become, and what has its name is whole (items 26, 32, 34)."""
    files = FakeFileSystem()
    receiver = receiver_on(files)
    assert files.journal == []
    finish(receiver)
    steps = [
        (call.method, call.path.name)
        for call in files.journal
        if call.method in {"pwritev", "sync_data", "sync_directory", "rename"}
    ]
    assert steps == [
        ("pwritev", "manifest"),
        ("sync_data", "manifest"),
        ("sync_directory", "temporary"),
        ("sync_directory", "group"),
        ("sync_directory", files.base.name),
        ("pwritev", "state"),
        ("pwritev", "state"),
        ("pwritev", "state"),
        ("sync_data", "state"),
        ("pwritev", "extra.1"),
        ("sync_data", "extra.1"),
        ("sync_directory", "temporary"),
        ("rename", "temporary"),
        ("sync_directory", "group"),
        ("sync_directory", files.base.name),
    ]
    assert len(files.calls("open")) == len(files.calls("close"))


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_published_is_the_sender_s_to_the_byte(shape: str) -> None:
    data = SHAPES[shape]
    files = FakeFileSystem()
    receiver = receiver_on(files, manifest_of(10, data))
    finish(receiver, data)
    assert receiver.info is not None
    assert read_all(files, receiver.info) == data
    written = files.contents(files.base / "group/published/manifest")
    assert written == encode_manifest(manifest_of(10, data))
    assert len(names(files)) == len(data) + 2


def test_receiver_tells_what_it_has_and_goes_on_after_a_broken_link() -> None:
    """Consecutive numbers within each file; resumed at any chunk (item 32)."""
    files = FakeFileSystem()
    receiver = receiver_on(files)
    seen = []
    while (place := receiver.next_chunk) is not None:
        seen.append((place, receiver.received))
        receiver.write_chunk(*place, chunk_of(*place))
    assert seen == [
        (("state", 0), {"state": 0, "extra.1": 0}),
        (("state", 1), {"state": 1, "extra.1": 0}),
        (("state", 2), {"state": 2, "extra.1": 0}),
        (("extra.1", 0), {"state": 3, "extra.1": 0}),
    ]
    assert receiver.received == {"state": 3, "extra.1": 1}
    info = receiver.finish()
    assert receiver.received == {"state": 3, "extra.1": 1}
    assert info.manifest == manifest_of()
    assert read_all(files, info) == contents(10)


@pytest.mark.parametrize(
    ("name", "number", "data", "message"),
    [
        ("state", 0, chunk_of("state", 0), r"chunk 0 of 'state' came, \('state', 1\) is due"),
        ("state", 2, chunk_of("state", 2), "is due"),
        ("extra.1", 0, chunk_of("extra.1", 0), "is due"),
        ("../x", 1, b"", "is due"),
        ("state", 1, chunk_of("state", 1)[:-1], "has 15 bytes, expected 16"),
        ("state", 1, chunk_of("state", 1) + b"x", "has 17 bytes, expected 16"),
        ("state", 1, b"", "has 0 bytes"),
        ("state", 1, chunk_of("state", 0), "does not match its checksum"),
        ("state", 1, bytes(16), "does not match its checksum"),
    ],
)
def test_wrong_chunk_is_refused_and_the_right_one_may_follow(
    name: str, number: int, data: bytes, message: str
) -> None:
    """Lost, repeated, swapped, cut and misdirected chunks: none is written."""
    files = FakeFileSystem()
    receiver = receiver_on(files)
    receiver.write_chunk("state", 0, chunk_of("state", 0))
    with pytest.raises(SnapshotRefused, match=message):
        receiver.write_chunk(name, number, data)
    with pytest.raises(SnapshotRefused, match=r"not whole, \('state', 1\) is due"):
        receiver.finish()
    receive_chunks(receiver, contents(10))
    with pytest.raises(SnapshotRefused, match="None is due"):
        receiver.write_chunk("extra.1", 1, b"")
    assert read_all(files, receiver.finish()) == contents(10)


def test_manifest_that_contradicts_itself_publishes_nothing() -> None:
    manifest = manifest_of()
    state, extra = manifest.files
    wrong = replace(manifest, files=(state._replace(checksum=state.checksum ^ 1), extra))
    files = FakeFileSystem()
    receiver = receiver_on(files, wrong)
    with pytest.raises(SnapshotFailed, match="state is not what the manifest says"):
        receive_chunks(receiver, contents(10))
    assert names(files) == []
    with pytest.raises(SnapshotRefused, match="that is none"):
        receiver_on(files, replace(manifest, files=(state, state)))


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize(
    ("method", "count"),
    [("make_directory", 2), ("open", 3), ("pwritev", 5), ("sync_data", 3), ("sync_directory", 5),
     ("rename", 1)],
)  # fmt: skip
def test_any_failure_ends_the_draft_and_leaves_nothing_behind(
    method: str, count: int, error: int
) -> None:
    for nth in range(1, count + 1):
        files = FakeFileSystem()
        files.fail(method, nth, error)
        receiver = receiver_on(files)
        with pytest.raises(SnapshotFailed, match=r"cannot \w+ for .*published") as caught:
            finish(receiver)
        assert not files._failures[0].failures_left
        assert caught.value.is_disk_full == (error != errno.EIO)
        is_renamed = method == "sync_directory" and nth in {5, 6}
        assert names(files) == [] or is_renamed


# ---- after a restart -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_kept_draft_goes_on_behind_any_chunk(shape: str) -> None:
    """Only a last chunk that was still in memory comes again (item 32)."""
    data = SHAPES[shape]
    chunks = sum(file.chunk_count for file in manifest_of(10, data).files)
    for count in range(1, chunks + 1):
        files = killed_after(count, data)
        receiver = recovered_on(files, data)
        assert count - 1 <= sum(receiver.received.values()) <= count
        assert sum(receiver.received.values()) + finish(receiver, data) == chunks
        assert receiver.info is not None
        assert read_all(files, receiver.info) == data
        assert len(names(files)) == len(data) + 2


@pytest.mark.parametrize("bytes_max", [1, CHUNK_BYTES, CHUNK_BYTES + 1, 1000])
def test_a_draft_is_verified_in_steps(bytes_max: int) -> None:
    data = {"state": bytes(range(10 * CHUNK_BYTES)), "extra": b"x"}
    files = killed_after(10, data)
    receiver = receiver_on(files, manifest_of(10, data), is_kept=True)
    steps = 0
    while True:
        files.journal.clear()
        is_more = receiver.recover(bytes_max)
        read = sum(call.length for call in files.calls("pread"))
        assert read < bytes_max + CHUNK_BYTES
        steps += 1
        if not is_more:
            break
    assert steps >= 10 * CHUNK_BYTES // (bytes_max + CHUNK_BYTES)
    assert receiver.recover(bytes_max) is False
    assert receiver.next_chunk == ("extra", 0)
    assert finish(receiver, data) == 1


def test_nothing_is_written_or_published_before_the_draft_was_looked_at() -> None:
    files = killed_after(2)
    receiver = receiver_on(files, is_kept=True)
    for action in (
        lambda: receiver.write_chunk("state", 0, chunk_of("state", 0)),
        receiver.finish,
    ):
        with pytest.raises(SnapshotRefused, match="has not been looked at"):
            action()
    assert receiver.recover(CHUNK_BYTES)


def test_every_byte_of_a_draft_that_flips_is_noticed() -> None:
    """Its chunk and those behind it come again."""
    for offset in range(len(contents(10)["state"])):
        files = killed_after(4)
        files.flip_bit(files.base / "group/temporary/state", offset, offset % 8)
        receiver = recovered_on(files)
        assert receiver.next_chunk == ("state", offset // CHUNK_BYTES)
        finish(receiver)
        assert receiver.info is not None
        assert read_all(files, receiver.info) == contents(10)


@pytest.mark.parametrize("tail", [b"", b"x", bytes(CHUNK_BYTES), bytes(100)])
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 39, 40])
def test_sizes_are_not_believed(length: int, tail: bytes) -> None:
    """A file may be shorter than what came, and end in zeros or in anything else."""
    files = killed_after(4)
    path = files.base / "group/temporary/state"
    descriptor = files.open(path, os.O_WRONLY)
    files.truncate(descriptor, length)
    files.pwritev(descriptor, [tail], length)
    receiver = recovered_on(files)
    # The last chunk is whole only if the file was not cut; what is behind it does not count.
    expected = ("extra.1", 0) if length == 40 else ("state", length // CHUNK_BYTES)
    assert receiver.next_chunk == expected
    finish(receiver)
    assert receiver.info is not None
    assert read_all(files, receiver.info) == contents(10)


def test_files_behind_a_missing_one_are_written_anew() -> None:
    data = SHAPES["several files"]
    for missing in ("a", "b", "c", "d"):
        files = killed_after(6, data)
        files.unlink(files.base / "group/temporary" / missing)
        receiver = recovered_on(files, data)
        # One without bytes is made anew by whatever comes next.
        assert receiver.next_chunk in {("b", 0), ("d", 0)}
        finish(receiver, data)
        assert receiver.info is not None
        assert read_all(files, receiver.info) == data


def test_a_directory_in_the_place_of_a_file_ends_the_draft() -> None:
    files = killed_after(4)
    path = files.base / "group/temporary/state"
    files.unlink(path)
    files.make_directory(path)
    with pytest.raises(SnapshotFailed, match="cannot recover"):
        recovered_on(files)
    assert names(files) == []


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize(
    ("method", "count"),
    [("open", 3), ("pread", 3), ("truncate", 1), ("pwritev", 4), ("sync_data", 2), ("unlink", 1)],
)
def test_any_failure_to_recover_ends_the_draft(method: str, count: int, error: int) -> None:
    for nth in range(1, count + 1):
        files = killed_after(4)
        if method == "unlink":
            files.flip_bit(files.base / "group/temporary/state", 0, 0)
        files.fail(method, nth, error)
        receiver = receiver_on(files, is_kept=True)
        with pytest.raises(SnapshotFailed, match="cannot recover") as caught:
            receiver.recover(1000)
        assert caught.value.is_disk_full == (error != errno.EIO)
        assert names(files) == []
        with pytest.raises(SnapshotRefused, match="is over"):
            receiver.recover(1000)


def test_what_was_left_can_be_gone_on_with() -> None:
    """At the end of a process that stops in order."""
    files = FakeFileSystem()
    receiver = receiver_on(files)
    receive_chunks(receiver, contents(10), 2)
    receiver.leave()
    receiver.leave()
    receiver.abort()
    assert receiver.is_over
    assert len(files.calls("open")) == len(files.calls("close"))
    again = recovered_on(files)
    assert again.received == {"state": 2, "extra.1": 0}
    finish(again)
    again.leave()
    assert again.info is not None
    assert read_all(files, again.info) == contents(10)


def test_a_draft_that_nobody_goes_on_with_can_be_aborted() -> None:
    files = killed_after(2)
    receiver_on(files, is_kept=True).abort()
    assert names(files) == []


def test_bytes_behind_a_failed_sync_are_written_again() -> None:
    """The cache calls them clean, and a sync of what is read there would prove nothing."""
    for nth in (2, 3):
        files = FakeFileSystem()
        files.fail("sync_data", nth, errno.EIO)
        files.fail("unlink", 1, errno.EIO)  # killed before it could remove the draft
        with pytest.raises(SnapshotFailed):
            finish(receiver_on(files))
        assert "temporary/state" in names(files)
        files.clear_failures()
        finish(recovered_on(files))
        survivor = files.crash(CrashMode.LOST)
        report = verify_directory(survivor, survivor.base / "group/published")
        assert (report.manifest, report.faults) == (manifest_of(), ())


STATES = [(CrashMode.LOST, 1), (CrashMode.KEPT, 1), (CrashMode.SIZE_ONLY, 1),
          (CrashMode.TORN, 2), (CrashMode.REORDERED, 8)]  # fmt: skip
LONG = {"state": bytes(range(256)) * 6, "none": b"", "extra": bytes(reversed(range(256))) * 2}
"""Longer than the pieces of 512 bytes that a disk writes."""
LONG_MANIFEST = replace(
    manifest_of(10, LONG), files=tuple(snapshot_file(name, LONG[name], 300) for name in LONG)
)


def go_on(files: FakeFileSystem) -> None:
    """Take over what there is of the long one, and receive the rest."""
    receiver = receiver_on(files, LONG_MANIFEST, is_kept=True)
    while receiver.recover(300):
        pass
    receive_chunks(receiver, LONG)
    receiver.finish()


def test_a_power_cut_in_the_second_life_leaves_what_the_third_ends() -> None:
    """At every operation; and what the third publishes survives the next power cut."""
    step = 1
    while True:
        files = FakeFileSystem(is_journaled=False)
        receive_chunks(receiver_on(files, LONG_MANIFEST), LONG, 7)
        files.operations, files.stop_at = 0, step
        try:
            go_on(files)
            break
        except Crashed:
            pass
        for mode, count in STATES:
            for seed in range(count):
                check_third_life(files.crash(mode, random.Random(seed * 1000 + step)))
        step += 1
    assert step > 20


def check_third_life(files: FakeFileSystem) -> None:
    published = files.base / "group/published"
    if files.status(published) is None:
        go_on(files)
        files = files.crash(CrashMode.LOST)
    report = verify_directory(files, published)
    assert (report.manifest, report.faults) == (LONG_MANIFEST, ())
