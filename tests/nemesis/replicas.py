"""Compares the replicas of stopped nodes by their bytes: logs and snapshots, played to one index.

What is read through a running cluster comes from its leaders alone. So, once the nodes are stopped,
each replica's state is made from its own disk, up to the index that all of them had applied, and
hashed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from rafter_core.entries import Entry, EntryKind
from rafter_core.state_machine import Update
from rafter_kv.machine import KeyValueMachine
from rafter_storage.directory_verification import logs_below, verify_node
from rafter_storage.file_system import REAL_FILE_SYSTEM
from rafter_storage.inspection import SegmentWalk, decode_body, list_log, sealed_end
from rafter_storage.snapshot_reader import SnapshotInfo
from rafter_storage.snapshot_store import SnapshotStore
from rafterd.placement import shard_of_group
from rafterd.snapshot_taker import IMAGE_NAME
from tests.linear.cheap import Violation, diverged_replicas


class Copy(NamedTuple):
    """The state that a replica's disk holds at an index; `missing` says why there is none."""

    node: int
    group: int
    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    hash: int
    missing: str = ""


def damages(directories: Iterable[Path]) -> list[str]:
    """Return what `rafterd wal verify` would say against data directories of stopped nodes."""
    return [
        str(damage)
        for directory in directories
        for damage in verify_node(REAL_FILE_SYSTEM, directory, shard_of_group).damages
    ]


def compare(
    directories: Mapping[int, Path], applied: Mapping[int, Mapping[int, int]]
) -> tuple[list[Copy], list[Violation]]:
    """Make the state of each replica and compare. `applied` is group -> node -> index.

    The nodes, whose directories these are, must be stopped.
    """
    copies: list[Copy] = []
    found: list[Violation] = []
    logs = {node: _entries(directory) for node, directory in directories.items()}
    for group, indexes in applied.items():
        target = min(indexes.values())
        of_group = [
            _copy(node, group, target, directories[node], logs[node].get(group, {}))
            for node in indexes
        ]
        copies += of_group
        found += [
            Violation("missing replica", f"group {group}, node {copy.node}: {copy.missing}")
            for copy in of_group
            if copy.missing
        ]
        hashes: dict[Hashable, dict[int, Hashable]] = {
            copy.node: {copy.index: copy.hash} for copy in of_group if not copy.missing
        }
        found += [
            Violation(each.check, f"group {group}: {each.text}")
            for each in diverged_replicas(hashes)
        ]
    return copies, found


def _entries(directory: Path) -> dict[int, dict[int, Entry]]:
    """Return the entries in a node's logs, by group and index: of several the one written last."""
    entries: dict[int, dict[int, Entry]] = {}
    for log in logs_below(REAL_FILE_SYSTEM, directory):
        for entry, group in _walk(log.directory):
            entries.setdefault(group, {})[entry.index] = entry
    return entries


def _walk(directory: Path) -> Iterator[tuple[Entry, int]]:
    segments = list_log(REAL_FILE_SYSTEM, directory).segments
    for number, segment in enumerate(segments):
        if segment.header is None:
            continue  # for `damages` to judge
        following = segments[number + 1] if number + 1 < len(segments) else None
        for found in SegmentWalk(REAL_FILE_SYSTEM, segment, sealed_end(segment, following)):
            if found.prefix is None or found.fault is not None:
                continue
            content = decode_body(found.prefix, found.body)
            if isinstance(content, list):
                for entry in content:
                    yield entry, found.prefix.group


def _copy(node: int, group: int, target: int, directory: Path, log: Mapping[int, Entry]) -> Copy:
    machine = KeyValueMachine()
    machine.open()
    index = 0
    if snapshot := _newest_snapshot(directory, group, target):
        index = snapshot[1].index
        with snapshot[0].read(snapshot[1]) as reader:
            machine.recover_from_snapshot(reader.chunks(IMAGE_NAME))
    for each in range(index + 1, target + 1):
        entry = log.get(each)
        if entry is None:
            return Copy(node, group, target, 0, f"its disk has no entry {each} of {target}")
        if entry.kind is EntryKind.NORMAL and entry.payload:
            machine.update([Update(entry.index, entry.payload)])
    return Copy(node, group, target, machine.hash())


def _newest_snapshot(
    directory: Path, group: int, target: int
) -> tuple[SnapshotStore, SnapshotInfo] | None:
    store = SnapshotStore(directory / "snapshots")
    store.open([group])
    snapshots = [info for info in store.snapshots(group) if info.index <= target]
    return (store, snapshots[-1]) if snapshots else None
