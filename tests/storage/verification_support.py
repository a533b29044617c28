"""What the tests of the offline tools share: logs with a bit of everything, and bad bytes."""

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

from rafter_core.entries import HardState
from rafter_core.membership import Membership
from rafter_core.snapshot import Snapshot
from rafter_storage.data_directory import DataDirectory
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.identity import Identity
from rafter_storage.record import RecordPrefix, align, decode_prefix, encode_prefix
from rafter_storage.resharding import settle_layout
from rafter_storage.segment import HEADER_BYTES, SegmentHeader, decode_header
from rafter_storage.segment_manager import GroupChange, GroupWrite, SegmentManager
from rafter_storage.snapshot_store import SnapshotStore
from tests.storage.support import (
    MEMBERSHIP,
    SEGMENT_BYTES,
    change,
    do_chores,
    entries,
    entry,
    log_of,
    open_manager,
    segment_files,
    write,
)

LARGE = b"x" * 25_000
JOINT = Membership((1, 2), (2, 3), (4,), (3,), auto_leave=True, witnesses=(2,))
View = tuple[int, int, HardState, GroupMetadata, list[int | None]]


def views_of(manager: SegmentManager) -> dict[int, View]:
    """What a segment manager says of each group: where its log begins and ends, and its terms."""
    found: dict[int, View] = {}
    for group in manager.groups():
        log = log_of(manager, group)
        first, last = log.first_index(), log.last_index()
        terms: list[int | None] = [log.term(index) for index in range(first, last + 1)]
        found[group] = first, last, log.initial_state()[0], manager.metadata(group), terms
    return found


def header_of(path: Path) -> SegmentHeader:
    header = decode_header(path, path.read_bytes()[:HEADER_BYTES])
    assert header is not None
    return header


def records_of(path: Path) -> list[tuple[int, RecordPrefix]]:
    """Every record of a sound segment, with its offset."""
    data, seed = path.read_bytes(), header_of(path).seed
    found = []
    offset, chain = HEADER_BYTES, seed
    while prefix := decode_prefix(seed, data, offset, offset, len(data)):
        if prefix.chain != chain:
            break
        found.append((offset, prefix))
        offset, chain = offset + align(prefix.length), prefix.checksum
    return found


def add_record(
    path: Path,
    kind: int,
    group: int,
    hard_state: HardState,
    entries_range: tuple[int, int, int],
    body: bytes = b"",
) -> int:
    """Write a record behind the last, as sound as the writer would make it; return its offset."""
    found = records_of(path)
    offset, chain = HEADER_BYTES, header_of(path).seed
    if found:
        offset, chain = found[-1][0] + align(found[-1][1].length), found[-1][1].checksum
    prefix, _ = encode_prefix(
        header_of(path).seed, offset, offset, chain, kind, group, hard_state, entries_range, body
    )
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(prefix + body)
    return offset


@contextlib.contextmanager
def patched(path: Path, offset: int, data: bytes) -> Iterator[None]:
    """Other bytes in a file, for a while."""
    with path.open("r+b") as file:
        file.seek(offset)
        before = file.read(len(data))
        file.seek(offset)
        file.write(data)
    try:
        yield
    finally:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(before)


@contextlib.contextmanager
def flipped(path: Path, offset: int) -> Iterator[None]:
    """One byte of a file, other than it was, for a while."""
    with path.open("rb") as file:
        file.seek(offset)
        byte = file.read(1)[0]
    with patched(path, offset, bytes([byte ^ 0x41])):
        yield


def make_small_log(directory: Path) -> None:
    """Three segments, the first two with an index: each kind of record, closed in order."""
    directory.mkdir(exist_ok=True)
    fill_small_log(open_manager(directory, spares_max=0))
    assert len(segment_files(directory)) == 3


def fill_small_log(manager: SegmentManager) -> None:
    """Write what `make_small_log` is to hold, and close the log."""
    write(manager, GroupWrite(1, HardState(1, 1, 0), entries(1, 3)))
    write(manager, GroupWrite(2, HardState(1, 2, 0), entries(1, 2)))
    write(manager, GroupWrite(1, HardState(2, 3, 2), [entry(3, 2), entry(4, 2)]))
    write(manager, GroupWrite(1, None, [entry(5, 2, LARGE)]))
    write(manager, GroupWrite(3, HardState(3, 0, 0), entries(1, 1, 3)))
    change(manager, GroupChange(1, (2, JOINT), (2, 1), 1))
    write(manager, GroupWrite(1, HardState(2, 3, 5), [entry(6, 2, LARGE)]))
    write(manager, GroupWrite(1, None, [entry(7, 2, LARGE)]))
    snapshot = Snapshot(9, 3, MEMBERSHIP)
    write(manager, GroupWrite(2, HardState(3, 1, 9), entries(10, 10, 3), snapshot))
    change(manager, GroupChange(3, is_removed=True))
    write(manager, GroupWrite(2, None, [entry(11, 3, LARGE)]))
    write(manager, GroupWrite(2, HardState(4, 0, 10), [entry(12, 4, LARGE)]))
    write(manager, GroupWrite(1, HardState(2, 3, 6), []))
    do_chores(manager)
    manager.close()


class Workload:
    """A node's life at random: appends, votes, snapshots, installs, removals, housekeeping."""

    def __init__(self, directory: Path, seed: int, *, is_direct: bool = False) -> None:
        self.directory = directory
        self.is_direct = is_direct
        self.random = random.Random(seed)
        self.manager = self._open()

    def _open(self) -> SegmentManager:
        return open_manager(self.directory, is_direct=self.is_direct)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        kind = self.random.randrange(20)
        group = self.random.choice((1, 1, 1, 2, 3, 4))
        if kind <= 10:
            self.append(group)
        elif kind <= 13:
            self.compact(group)
        elif kind == 14:
            self.install(group)
        elif kind == 15 and group in self.manager.groups():
            change(self.manager, GroupChange(group, is_removed=True))
        elif kind <= 17:
            do_chores(self.manager)
        elif kind == 18:
            for _ in range(self.random.randrange(4)):
                if self.manager.needs_cleaning:
                    write(self.manager)
        else:
            self.manager.close()
            self.manager = self._open()

    def append(self, group: int) -> None:
        log = log_of(self.manager, group)
        (term, vote, commit), last = log.initial_state()[0], log.last_index()
        if self.random.random() < 0.3 or not term:
            term, vote = term + 1, self.random.randrange(4)
        first = self.random.randint(max(commit, last - 3) + 1, last + 1)
        count = self.random.randrange(4)
        size = self.random.choice((1, 20, 9000))
        low = max(1, log.term(first - 1) if first > 1 else 1, term - 1)
        added = [
            entry(index, low if index == first else term, b"p" * size)
            for index in range(first, first + count)
        ]
        if added:
            last = added[-1].index
        commit = self.random.randint(commit, last)
        write(self.manager, GroupWrite(group, HardState(term, vote, commit), added))

    def compact(self, group: int) -> None:
        log = log_of(self.manager, group)
        commit = log.initial_state()[0].commit
        metadata = self.manager.metadata(group)
        if commit <= metadata.snapshot_index:
            return
        membership = Membership((1, 2, 3 + self.random.randrange(3)))
        changed = GroupChange(
            group,
            (commit, membership) if self.random.random() < 0.5 else None,
            (commit, log.term(commit)),
            self.random.randint(metadata.base_index, commit),
        )
        change(self.manager, changed)

    def install(self, group: int) -> None:
        state = log_of(self.manager, group).initial_state()[0]
        term = max(1, state.term)
        snapshot = Snapshot(state.commit + self.random.randint(1, 9), term, MEMBERSHIP)
        hard_state = HardState(term, state.vote, snapshot.index)
        write(self.manager, GroupWrite(group, hard_state, (), snapshot))


def with_full_size(directory: Path) -> None:
    """Give files of segments the size that their headers promise."""
    for path in segment_files(directory):
        os.truncate(path, header_of(path).segment_bytes)


def group_place(group: int, shards: int) -> int:
    return group % shards


def make_node(path: Path, shards: int = 2) -> None:
    """A node's data directory: four groups, and a snapshot of group 1 at 4 that its log names."""
    directory = DataDirectory.acquire(path)
    identity = Identity.load_or_create(
        directory, cluster_name="demo", node_id=1, groups=4, replication=1
    )
    identity = settle_layout(
        directory, identity, shards, place=group_place, segment_bytes=SEGMENT_BYTES
    )
    store = SnapshotStore(directory.snapshots_directory)
    store.open()
    for shard in range(shards):
        manager = open_manager(directory.shard_directory(identity.layout, shard), spares_max=0)
        for group in range(1, 5):
            if group_place(group, shards) == shard:
                write(manager, GroupWrite(group, HardState(2, 1, 5), entries(1, 6, 2)))
                if group == 1:
                    draft = store.begin(1, 4, 2, MEMBERSHIP, 2)
                    draft.write("state", b"abc" * 1000)
                    draft.finish()
                    store.admit(draft)
                    change(manager, GroupChange(1, (2, MEMBERSHIP), (4, 2), 3))
        manager.close()
    directory.release()


def tree_of(path: Path) -> dict[str, tuple[object, ...]]:
    """All that a writer could change below a directory: names, bytes, modes and times."""
    found: dict[str, tuple[object, ...]] = {}
    for below in (path, *path.rglob("*")):
        status = below.lstat()
        data = below.read_bytes() if below.is_file() else None
        found[str(below)] = (data, status.st_mode, status.st_mtime_ns, status.st_ctime_ns)
    return found
