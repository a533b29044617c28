"""The commands `rafterd wal` and `rafterd snapshot`: a look at what is on disk, node or no node.

They only read. Output is plain text, one fact a line, made to be searched; errors and damage go to
standard error. Exit codes: 0 all is well, 1 damage, 2 there is nothing to judge.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import click

from rafter_core.entries import Entry
from rafter_core.errors import DecodeError
from rafter_core.membership import Membership
from rafter_storage.directory_verification import (
    ShardLog,
    data_directory_above,
    holder_of,
    kind_of,
    logs_below,
    verify_node,
)
from rafter_storage.errors import Damage, StorageError
from rafter_storage.file_system import REAL_FILE_SYSTEM
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.inspection import (
    BAD_BODY,
    BAD_CHAIN,
    BAD_PREFIX,
    Content,
    FoundRecord,
    LogListing,
    SegmentFile,
    SegmentWalk,
    decode_body,
    list_log,
    read_dump,
    sealed_end,
)
from rafter_storage.log_verification import LogReport, verify_log
from rafter_storage.record import RecordKind
from rafter_storage.snapshot_reader import FAULTS_MAX, SnapshotReport
from rafter_storage.snapshot_transfer import verify_path
from rafterd.placement import shard_of_group

__all__ = ["snapshot", "wal"]

EXIT_DAMAGED = 1
EXIT_UNUSABLE = 2

_PAYLOAD_BYTES_SHOWN = 32
_FLAGS = {BAD_PREFIX: "bad-prefix", BAD_CHAIN: "bad-chain", BAD_BODY: "bad-body"}
_KIND_NAMES = {int(kind): kind.name for kind in RecordKind}

_FORCE_OPTION = click.option(
    "--force", is_flag=True, help="Look although the node is running; what it writes may look bad."
)
_ALL_OPTION = click.option("--all", "is_all", is_flag=True, help="List all damage, not the first.")
_DIRECTORY = click.Path(path_type=Path)


@click.group()
def wal() -> None:
    """Print or verify the logs of a node that is not running. Nothing is ever written."""


@wal.command("dump")
@click.argument("directory", type=_DIRECTORY)
@click.option("--group", type=int, help="Records of this group alone.")
@click.option("--segment", "sequence", type=int, help="This segment alone, by its number.")
@click.option("--entries", "is_with_entries", is_flag=True, help="Print each entry as well.")
@_FORCE_OPTION
def wal_dump(
    directory: Path, group: int | None, sequence: int | None, is_with_entries: bool, force: bool
) -> None:
    """Print the records in DIRECTORY: a node's data directory, a shard's, or a log's.

    Bad records are printed with flags and do not change the exit code: wal verify judges.
    """
    path = directory.resolve()
    try:
        _check_stopped(path, force=force)
        for log in logs_below(REAL_FILE_SYSTEM, path):
            listing = list_log(REAL_FILE_SYSTEM, log.directory)
            click.echo(f"log shard={_shard(log)} directory={log.directory}")
            for line in _dump_log(log.directory, listing, group, sequence, is_with_entries):
                click.echo(line)
    except StorageError as error:
        _refuse(error)


@wal.command("verify")
@click.argument("directory", type=_DIRECTORY)
@_ALL_OPTION
@_FORCE_OPTION
def wal_verify(directory: Path, is_all: bool, force: bool) -> None:
    """Read every byte in DIRECTORY, as of wal dump, and check it against all that must hold.

    Of a data directory also the identity, the modes, and that snapshots are there. Exit code 1:
    the place of the first damage is on standard error.
    """
    path = directory.resolve()
    try:
        _check_stopped(path, force=force)
        if kind_of(REAL_FILE_SYSTEM, path).is_node:
            node = verify_node(REAL_FILE_SYSTEM, path, shard_of_group)
            logs, damages, notes = node.logs, node.damages, node.notes
        else:
            logs = [
                (log, verify_log(REAL_FILE_SYSTEM, log.directory))
                for log in logs_below(REAL_FILE_SYSTEM, path)
            ]
            damages = [damage for _, report in logs for damage in report.damages]
            notes = [note for _, report in logs for note in report.notes]
        # It may have been started meanwhile, and then this has read what it was writing.
        if damages:
            _check_stopped(path, force=force)
    except StorageError as error:
        _refuse(error)
    for log, report in logs:
        for line in _summary(log, report):
            click.echo(line)
    for note in notes:
        click.echo(f"note: {note}")
    _conclude(path, damages, is_all=is_all)


@click.group()
def snapshot() -> None:
    """Verify snapshots. Nothing is ever written."""


@snapshot.command("verify")
@click.argument("path", metavar="FILE_OR_DIRECTORY", type=_DIRECTORY)
@_ALL_OPTION
@_FORCE_OPTION
def snapshot_verify(path: Path, is_all: bool, force: bool) -> None:
    """Check every byte of a snapshot: its directory, its manifest alone, or one of its files.

    It may be one of a node or an exported one. Exit code 1: the place of the first damage is on
    standard error.
    """
    path = path.resolve()
    try:
        _check_stopped(path, force=force)
        report = verify_path(path)
        if report.faults:
            _check_stopped(path, force=force)
    except StorageError as error:
        _refuse(error)
    for line in _snapshot_lines(report):
        click.echo(line)
    _conclude(path, list(report.faults), is_all=is_all, is_cut=len(report.faults) >= FAULTS_MAX)


def _check_stopped(path: Path, *, force: bool) -> None:
    """Refuse to look at what a node is writing: it would look damaged and not be."""
    if force:
        return
    data_directory = data_directory_above(REAL_FILE_SYSTEM, path)
    holder = None if data_directory is None else holder_of(REAL_FILE_SYSTEM, data_directory)
    if holder is not None:
        raise StorageError(
            f"the data directory {data_directory} is in use by process {holder}: stop it first, "
            "or look with --force, and do not trust what is said to be damaged"
        )


def _refuse(error: StorageError) -> NoReturn:
    click.echo(f"rafterd: {error}", err=True)
    sys.exit(EXIT_UNUSABLE)


def _conclude(path: Path, damages: list[Damage], *, is_all: bool, is_cut: bool = False) -> None:
    """Say that all is well, or where the damage is, and exit."""
    if not damages:
        click.echo(f"{path}: ok")
        return
    for damage in damages if is_all else damages[:1]:
        click.echo(f"rafterd: {damage}", err=True)
    more = len(damages) - 1
    if is_cut:
        click.echo(
            f"rafterd: there may be more, no more than {FAULTS_MAX} are looked for", err=True
        )
    elif more and not is_all:
        click.echo(f"rafterd: and {more} more; --all lists them", err=True)
    sys.exit(EXIT_DAMAGED)


def _summary(log: ShardLog, report: LogReport) -> Iterator[str]:
    yield (
        f"log shard={_shard(log)} segments={report.segments} "
        f"first_sequence={report.first_sequence} records={report.records} "
        f"record_bytes={report.record_bytes} groups={len(report.groups)} "
        f"damages={len(report.damages)} directory={log.directory}"
    )
    for group, history in report.groups.items():
        term, vote, commit = history.hard_state
        metadata = history.metadata
        yield (
            f"group {group} shard={_shard(log)} entries={history.first_index}.."
            f"{history.last_index} term={term} vote={vote} commit={commit} "
            f"base={metadata.base_index}@{metadata.base_term} "
            f"snapshot={metadata.snapshot_index}@{metadata.snapshot_term}"
        )


def _dump_log(
    directory: Path,
    listing: LogListing,
    group: int | None,
    sequence: int | None,
    is_with_entries: bool,
) -> Iterator[str]:
    segments = listing.segments
    for number, segment in enumerate(segments):
        if sequence is not None and segment.sequence != sequence:
            continue
        header = segment.header
        if header is None:
            yield f"segment {segment.sequence} fault={segment.fault!r} file={segment.path}"
            continue
        following = segments[number + 1] if number + 1 < len(segments) else None
        end = sealed_end(segment, following)
        walk = SegmentWalk(REAL_FILE_SYSTEM, segment, end)
        yield _segment_line(directory, segment, walk, end)
        for found in walk:
            prefix = found.prefix
            if group is None or prefix is None or _group_of(found) == group:
                yield _record_line(segment, found)
                yield from _content_lines(found, is_with_entries)
        if walk.torn_bytes:
            yield f"  torn offset={walk.end} bytes={walk.torn_bytes}"
    if sequence is not None and sequence not in {segment.sequence for segment in segments}:
        yield f"segment {sequence} is not there"


def _segment_line(directory: Path, segment: SegmentFile, walk: SegmentWalk, end: int | None) -> str:
    header = segment.header
    assert header is not None, "the caller has looked"
    index = "none"
    if end is None:
        for _ in walk:
            pass
    else:
        found = read_dump(REAL_FILE_SYSTEM, directory, header, end)
        index = {False: "missing", True: "bad"}[found] if isinstance(found, bool) else "good"
    return (
        f"segment {segment.sequence} state={'tail' if end is None else 'sealed'} "
        f"seed={header.seed:016x} bytes={segment.size} end={walk.end if end is None else end} "
        f"first_sequence={header.first_sequence} index={index} file={segment.path}"
    )


def _record_line(segment: SegmentFile, found: FoundRecord) -> str:
    place = f"  record segment={segment.sequence} offset={found.offset}"
    flags = "" if found.fault is None else f" flags={_FLAGS.get(found.fault, 'unreadable')}"
    prefix = found.prefix
    if prefix is None:
        return place + flags
    kind = _KIND_NAMES.get(prefix.kind, str(prefix.kind))
    line = f"{place} kind={kind} bytes={prefix.length} synced={prefix.synced_offset}"
    if prefix.kind == RecordKind.MARK:
        line += f" first_sequence={prefix.first_index}"
    elif prefix.kind != RecordKind.PADDING:
        term, vote, commit = prefix.hard_state
        line += f" group={prefix.group} term={term} vote={vote} commit={commit}"
        if prefix.first_index:
            line += f" entries={prefix.first_index}..{prefix.last_index}@{prefix.entries_term}"
    return line + flags


def _group_of(found: FoundRecord) -> int | None:
    prefix = found.prefix
    if prefix is None or prefix.kind in (RecordKind.MARK, RecordKind.PADDING):
        return None
    return prefix.group


def _content_lines(found: FoundRecord, is_with_entries: bool) -> Iterator[str]:
    """Yield what is in a record's body: metadata always, entries if they are wanted."""
    if found.prefix is None or found.fault == BAD_BODY:
        return
    try:
        content: Content = decode_body(found.prefix, found.body)
    except DecodeError as error:
        yield f"    bad: {error}"
        return
    if isinstance(content, GroupMetadata):
        yield from _metadata_lines(content)
    elif content is not None and is_with_entries:
        for entry in content:
            yield _entry_line(entry)


def _metadata_lines(metadata: GroupMetadata) -> Iterator[str]:
    yield (
        f"    metadata base={metadata.base_index}@{metadata.base_term} "
        f"snapshot={metadata.snapshot_index}@{metadata.snapshot_term}"
    )
    for index, membership in metadata.memberships:
        yield f"    membership index={index} {_membership(membership)}"


def _entry_line(entry: Entry) -> str:
    term, index, kind, payload = entry
    shown = repr(payload[:_PAYLOAD_BYTES_SHOWN])
    ellipsis = "..." if len(payload) > _PAYLOAD_BYTES_SHOWN else ""
    return (
        f"    entry index={index} term={term} kind={kind.name} bytes={len(payload)} "
        f"payload={shown}{ellipsis}"
    )


def _membership(membership: Membership) -> str:
    parts = []
    for name, value in membership._asdict().items():
        if isinstance(value, tuple) and value:
            parts.append(f"{name}={','.join(map(str, value))}")
        elif value is True:
            parts.append(f"{name}=yes")
    return " ".join(parts)


def _snapshot_lines(report: SnapshotReport) -> Iterator[str]:
    manifest = report.manifest
    if manifest is None:
        return
    yield (
        f"snapshot group={manifest.group} index={manifest.index} term={manifest.term} "
        f"files={len(manifest.files)} bytes={manifest.size_bytes} "
        f"imported={'yes' if manifest.is_imported else 'no'} directory={report.path}"
    )
    yield f"membership index={manifest.membership_index} {_membership(manifest.membership)}"
    for file in manifest.files:
        yield (
            f"file {file.name} bytes={file.size} chunks={file.chunk_count} "
            f"chunk_bytes={file.chunk_bytes} checksum={file.checksum:016x}"
        )


def _shard(log: ShardLog) -> str:
    return "unknown" if log.shard is None else str(log.shard)
