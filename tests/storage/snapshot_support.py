"""What the tests of snapshots share: short ways to make, publish and read one."""

from collections.abc import Mapping
from pathlib import Path

from xxhash import xxh3_64_intdigest

from rafter_core.membership import Membership
from rafter_storage.file_system import FileSystem
from rafter_storage.snapshot_manifest import Manifest, SnapshotFile
from rafter_storage.snapshot_reader import SnapshotInfo, SnapshotReader
from rafter_storage.snapshot_receiver import SnapshotReceiver
from rafter_storage.snapshot_store import SnapshotStore
from rafter_storage.snapshot_writer import SnapshotPaths

MEMBERSHIP = Membership((1, 2, 3))
GROUP = 7
CHUNK_BYTES = 16


def content(index: int, length: int = 40) -> bytes:
    """The state after ``index``, different for each."""
    return (b"state %d." % index * length)[:length]


def contents(index: int) -> dict[str, bytes]:
    return {"state": content(index), "extra.1": content(index + 1000, 7)}


def snapshot_file(name: str, data: bytes, chunk_bytes: int = CHUNK_BYTES) -> SnapshotFile:
    """What the manifest says of a file with these bytes, by another way than the writer's."""
    chunks = [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]
    checksums = b"".join(xxh3_64_intdigest(chunk).to_bytes(8, "little") for chunk in chunks)
    return SnapshotFile(name, len(data), chunk_bytes, checksums, xxh3_64_intdigest(data))


def manifest_of(
    index: int = 10, data: Mapping[str, bytes] | None = None, group: int = GROUP
) -> Manifest:
    files = contents(index) if data is None else data
    return Manifest(
        group,
        index,
        3,
        MEMBERSHIP,
        min(index, 4),
        tuple(snapshot_file(name, file) for name, file in files.items()),
    )


def open_store(files: FileSystem, base: Path, retained: int = 2) -> SnapshotStore:
    store = SnapshotStore(
        base / "snapshots", files=files, retained=retained, chunk_bytes=CHUNK_BYTES
    )
    store.open()
    return store


def take(
    store: SnapshotStore, index: int, data: Mapping[str, bytes] | None = None, group: int = GROUP
) -> SnapshotInfo:
    """Take a whole snapshot and take it into use."""
    writer = store.begin(group, index, 3, MEMBERSHIP, min(index, 4))
    for name, file in (contents(index) if data is None else data).items():
        writer.write(name, file)
    writer.finish()
    return store.admit(writer)


def receive(store: SnapshotStore, index: int) -> SnapshotInfo:
    """Receive a whole snapshot and take it into use."""
    receiver = begin_to_receive(store, index)
    receive_chunks(receiver, contents(index))
    receiver.finish()
    return store.admit(receiver)


def begin_to_receive(store: SnapshotStore, index: int) -> SnapshotReceiver:
    """Take an offer as the daemon does: what is there counts, what is there of others goes."""
    receiver = store.receive(manifest_of(index))
    assert not isinstance(receiver, SnapshotInfo)
    store.drop_kept(GROUP).run()
    while receiver.recover(CHUNK_BYTES):
        pass
    return receiver


def receive_chunks(
    receiver: SnapshotReceiver, data: Mapping[str, bytes], count: int = 1 << 30
) -> int:
    """Receive up to so many of the chunks that are missing; return how many came."""
    came = 0
    while came < count and (place := receiver.next_chunk) is not None:
        name, number = place
        file = receiver.manifest.file(name)
        assert file is not None
        start = number * file.chunk_bytes
        receiver.write_chunk(name, number, data[name][start : start + file.chunk_bytes])
        came += 1
    return came


def paths_in(base: Path, displaced: str | None = "displaced") -> SnapshotPaths:
    """Places for a draft without a store."""
    group = base / "group"
    aside = None if displaced is None else group / displaced
    return SnapshotPaths(group / "temporary", group / "published", aside, (group, base))


def read_all(files: FileSystem, info: SnapshotInfo) -> dict[str, bytes]:
    with SnapshotReader(files, info) as reader:
        return {file.name: b"".join(reader.chunks(file.name)) for file in info.manifest.files}
