"""Snapshots of real stores over express on loopback, and what a manifest may not do."""

import asyncio
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from xxhash import xxh3_64_intdigest

from rafter_storage.file_system import REAL_FILE_SYSTEM
from rafter_storage.snapshot_manifest import SnapshotFile, encode_manifest
from rafter_storage.snapshot_store import SnapshotStore
from rafter_transport.express_ends import SinkError, SourceError
from rafter_transport.express_limits import ExpressLimits
from rafterd.express_files import PARKED_MAX, PARKED_SECONDS, ChunkMap, ExpressFiles
from tests.storage.snapshot_support import GROUP, manifest_of, open_store, read_all, take
from tests.transport.express_support import QUICK_EXPRESS, Station, two_nodes
from tests.transport.support import LOOPS, run

Result = TypeVar("Result")
CONTENTS: dict[str, Mapping[str, bytes]] = {
    "no files": {},
    "an empty file": {"state": b""},
    "exact multiple": {"state": bytes(range(64))},
    "several files": {
        "state": bytes(range(250)) * 4,
        "empty": b"",
        "extra.1": b"x" * 17,
        "z": b"1",
    },
}


def unfinished(base: Path) -> list[Path]:
    return [*base.rglob("*.receiving")]


async def on_thread(function: Callable[[], Result], /) -> Result:
    return await asyncio.to_thread(function)


def store_in(base: Path) -> SnapshotStore:
    base.mkdir(mode=0o700, exist_ok=True)
    return open_store(REAL_FILE_SYSTEM, base)


def send_once(loop_kind: str, source_base: Path, target: SnapshotStore) -> list[object]:
    async def main() -> list[object]:
        nodes = two_nodes()
        files, sending = ExpressFiles(target), ExpressFiles(store_in(source_base))
        newest = sending._store.newest(GROUP)
        assert newest is not None
        async with (
            Station(1, nodes, limits=ExpressLimits()) as sender,
            Station(2, nodes, limits=ExpressLimits(), open_sink=files.sink) as receiver,
        ):
            assert sender.express.send(2, 0, GROUP, b"install", sending.source(newest))
            await sender.until(lambda: sender.sent != [])
            return [*sender.sent, *receiver.received]

    return run(loop_kind, main())


@pytest.mark.parametrize("loop_kind", LOOPS)
@pytest.mark.parametrize("content", CONTENTS)
def test_a_snapshot_arrives_byte_for_byte_and_in_use(
    loop_kind: str, content: str, tmp_path: Path
) -> None:
    source, target = store_in(tmp_path / "source"), store_in(tmp_path / "target")
    taken = take(source, 10, CONTENTS[content])
    ends = send_once(loop_kind, tmp_path / "source", target)
    assert ends == [(GROUP, 2, True, ""), (GROUP, 1, b"install")]
    newest = target.newest(GROUP)
    assert newest is not None
    assert newest.manifest == taken.manifest
    assert read_all(REAL_FILE_SYSTEM, newest) == CONTENTS[content]
    assert target.verify(newest) == []
    # It is durable under its name: a start finds it, and a further offer needs no chunk.
    again = store_in(tmp_path / "target")
    assert [info.index for info in again.snapshots(GROUP)] == [10]
    assert send_once(loop_kind, tmp_path / "source", again) == ends


def test_an_older_snapshot_is_refused_for_good(tmp_path: Path) -> None:
    source, target = store_in(tmp_path / "source"), store_in(tmp_path / "target")
    take(source, 10)
    take(target, 20)
    ends = send_once("asyncio", tmp_path / "source", target)
    assert len(ends) == 1
    assert str(ends[0]).startswith("(7, 2, False, 'refused: group 7 has a snapshot of index 20")


def test_a_corrupt_snapshot_is_not_sent_and_goes_out_of_use(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    info = take(store, 10)
    (info.path / "state").write_bytes(b"?" * 40)
    source = ExpressFiles(store).source(info)
    with pytest.raises(SourceError, match="checksum"):
        source.read_chunk(0)
    source.close()
    assert store.newest(GROUP) is None
    assert len(store.damaged) == 1


def test_a_snapshot_that_is_sent_is_not_retired(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    source = ExpressFiles(store).source(take(store, 10))
    for index in (20, 30):
        take(store, index)
    store.retire(GROUP).run()
    assert [info.index for info in store.snapshots(GROUP)] == [10, 20, 30]
    source.close()
    store.retire(GROUP).run()
    assert [info.index for info in store.snapshots(GROUP)] == [20, 30]


def forged(name: bytes) -> bytes:
    """A manifest whose one file has this name, with checksums that match."""
    manifest = manifest_of(10, {"X" * len(name): b"data"})
    data = encode_manifest(manifest).replace(b"X" * len(name), name)
    header, body = data[:32], data[40:]
    checksum = xxh3_64_intdigest(body, seed=xxh3_64_intdigest(header))
    return header + struct.pack("<Q", checksum) + body


@pytest.mark.parametrize(
    "name",
    [b"../../escaped", b"/tmp/escaped", b"..", b"a/b", b"manifest", b".hidden", b"a\x00b",
     b"a\nb", b"\xff\xfe", b"a\\b"],
)  # fmt: skip
def test_no_name_from_the_wire_becomes_a_path_unvalidated(name: bytes, tmp_path: Path) -> None:
    store = store_in(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    sink = ExpressFiles(store).sink(GROUP, forged(name))
    with pytest.raises(SinkError) as caught:
        asyncio.run(sink.begin(on_thread))
    assert caught.value.code == "manifest"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_forged_manifest_with_a_sound_name_would_be_taken(tmp_path: Path) -> None:
    # So the refusals above are for the names.
    sink = ExpressFiles(store_in(tmp_path)).sink(GROUP, forged(b"sound"))
    assert asyncio.run(sink.begin(on_thread)) == (0, 1, 4)


@pytest.mark.parametrize("group", [GROUP + 1])
def test_a_manifest_of_another_group_is_refused(group: int, tmp_path: Path) -> None:
    sink = ExpressFiles(store_in(tmp_path)).sink(group, encode_manifest(manifest_of(10)))
    with pytest.raises(SinkError, match="group 7, expected 8"):
        asyncio.run(sink.begin(on_thread))


def test_a_part_is_kept_for_the_same_manifest_and_makes_way_for_another(tmp_path: Path) -> None:
    async def main() -> None:
        files = ExpressFiles(store_in(tmp_path))
        data = {"state": bytes(range(40)), "extra": b"abc"}
        manifest = encode_manifest(manifest_of(10, data))
        first = files.sink(GROUP, manifest)
        assert await first.begin(on_thread) == (0, 4, 16)
        await on_thread(lambda: first.write_chunk(0, data["state"][:16]))
        with pytest.raises(SinkError, match="is due"):
            first.write_chunk(2, data["state"][32:])
        first.suspend()
        assert files.parked_groups == [GROUP]
        second = files.sink(GROUP, manifest)
        assert await second.begin(on_thread) == (1, 4, 16)
        second.suspend()
        other = replace(manifest_of(10, data), term=9)
        third = files.sink(GROUP, encode_manifest(other))
        assert await third.begin(on_thread) == (0, 4, 16)
        assert files.parked_groups == []
        assert unfinished(tmp_path) == []
        await third.abort(on_thread)

    asyncio.run(main())


class Clock:
    def __init__(self) -> None:
        self.now_seconds = 1000.0

    def __call__(self) -> float:
        return self.now_seconds


async def park(files: ExpressFiles, group: int) -> None:
    sink = files.sink(group, encode_manifest(manifest_of(10, {"a": b"x" * 20}, group)))
    await sink.begin(on_thread)
    sink.write_chunk(0, b"x" * 16)
    sink.suspend()


def test_parts_are_kept_up_to_a_limit(tmp_path: Path) -> None:
    async def main() -> None:
        files = ExpressFiles(store_in(tmp_path))
        for group in range(PARKED_MAX + 3):
            await park(files, group)
        assert files.parked_groups == [*range(2, PARKED_MAX + 3)]
        assert len(unfinished(tmp_path)) == PARKED_MAX + 1

    asyncio.run(main())


def test_parts_that_nobody_comes_back_for_are_removed_in_time(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        files = ExpressFiles(store_in(tmp_path), clock)
        await park(files, 1)
        clock.now_seconds += PARKED_SECONDS - 1
        await park(files, 2)
        assert files.outdated() == []
        clock.now_seconds += 1
        (remove,) = files.outdated()
        remove()
        assert files.parked_groups == [2]
        assert len(unfinished(tmp_path)) == 1
        # Those from before a restart as well, counted from there.
        again = ExpressFiles(store_in(tmp_path), clock)
        clock.now_seconds += PARKED_SECONDS - 1
        assert again.outdated() == []
        clock.now_seconds += 1
        (remove,) = again.outdated()
        remove()
        assert unfinished(tmp_path) == []
        assert again.outdated() == []

    asyncio.run(main())


def test_what_was_received_before_a_restart_is_gone_on_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def main() -> None:
        data = {"state": bytes(range(200)), "extra": b"abc"}
        manifest = manifest_of(10, data)
        files = ExpressFiles(store_in(tmp_path))
        sink = files.sink(GROUP, encode_manifest(manifest))
        assert await sink.begin(on_thread) == (0, 14, 16)
        for number in range(5):
            await on_thread(
                lambda number=number: sink.write_chunk(  # type: ignore[misc]
                    number, data["state"][number * 16 :][:16]
                )
            )
        sink.suspend()
        await files.leave(on_thread)
        assert files.parked_groups == []
        store = store_in(tmp_path)
        again = ExpressFiles(store).sink(GROUP, encode_manifest(manifest))
        assert await again.begin(on_thread) == (5, 14, 16)
        assert "group 7: 5 of 14 chunks of the snapshot of index 10 have come" in caplog.text
        again.suspend()
        other = ExpressFiles(store_in(tmp_path)).sink(
            GROUP, encode_manifest(replace(manifest, term=9))
        )
        assert await other.begin(on_thread) == (0, 14, 16)
        assert unfinished(tmp_path) == []

    asyncio.run(main())


def test_a_kept_part_that_cannot_be_read_ends_the_transfer_and_is_gone(tmp_path: Path) -> None:
    async def main() -> None:
        await park(ExpressFiles(store_in(tmp_path)), GROUP)
        (draft,) = unfinished(tmp_path)
        (draft / "a").unlink()
        (draft / "a").mkdir(0o700)
        sink = ExpressFiles(store_in(tmp_path)).sink(
            GROUP, encode_manifest(manifest_of(10, {"a": b"x" * 20}))
        )
        with pytest.raises(SinkError, match="cannot recover") as caught:
            await sink.begin(on_thread)
        assert caught.value.code == "disk"
        await sink.abort(on_thread)
        assert unfinished(tmp_path) == []

    asyncio.run(main())


SLOW_EXPRESS = QUICK_EXPRESS._replace(bytes_per_second=16_000, tries_max=1000)


@pytest.mark.parametrize("loop_kind", LOOPS)
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_transfer_goes_on_where_it_was_when_its_receiver_restarts(
    loop_kind: str, is_killed: bool, tmp_path: Path
) -> None:
    """In the first file, at its end, and in the last one; nearly nothing comes twice."""
    data = {"state": bytes(range(256)) * 8, "empty": b"", "extra": bytes(range(200)) * 5}
    source = ExpressFiles(store_in(tmp_path / "source"))
    info = take(source._store, 10, data)
    chunks = sum(file.chunk_count for file in info.manifest.files)

    async def main() -> None:
        nodes = two_nodes()

        async def receive(until_chunk: int | None) -> None:
            store = store_in(tmp_path / "target")
            files = ExpressFiles(store)
            async with Station(2, nodes, limits=QUICK_EXPRESS, open_sink=files.sink) as receiver:
                if until_chunk is None:
                    await sender.until(lambda: sender.sent != [])
                    newest = store.newest(GROUP)
                    assert newest is not None
                    assert read_all(REAL_FILE_SYSTEM, newest) == data
                    assert store.verify(newest) == []
                else:
                    await receiver.until(
                        lambda: any(
                            transfer.chunks >= until_chunk
                            for transfer in receiver.express.transfers()
                        )
                    )
            if not is_killed:
                await files.leave(on_thread)

        async with Station(1, nodes, limits=SLOW_EXPRESS) as sender:
            assert sender.express.send(2, 0, GROUP, b"install", source.source(info))
            for until_chunk in (10, 127, 128, 170, None):
                await receive(until_chunk)
            assert sender.sent == [(GROUP, 2, True, "")]
            assert sender.counters.sends_resumed_total >= 4
            # At most a window and what was in memory for each restart.
            assert chunks <= sender.counters.chunks_sent_total <= chunks + 4 * 8
        assert unfinished(tmp_path) == []

    run(loop_kind, main())


def test_chunks_are_numbered_through_all_files_that_have_any() -> None:
    manifest = manifest_of(10, {"a": b"x" * 33, "none": b"", "b": b"y" * 16})
    chunks = ChunkMap(manifest)
    assert chunks.chunk_count == 4
    assert chunks.chunk_bytes == 16
    assert [chunks.place(number) for number in range(4)] == [
        ("a", 0), ("a", 1), ("a", 2), ("b", 0),
    ]  # fmt: skip
    for number in (-1, 4):
        with pytest.raises(IndexError):
            chunks.place(number)
    small = replace(manifest, files=(SnapshotFile("a", 3, 1 << 20, b"\0" * 8, 0),))
    assert ChunkMap(small).chunk_bytes == 3
