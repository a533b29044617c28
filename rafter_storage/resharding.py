"""Changing a node's number of shards, while it is down: every group's log moves to its new shard.

The logs of all groups are copied to a new layout, whole and synced, and each shard's log has its
first segment, whether groups come to it or not; then the identity is replaced, which is the one
moment of the change; then the old layout is removed. The old one is never written to, except for
what any recovery does. So whatever happens in between, the directory is as it was or as it will be,
and a tree of another layout than the identity's is rubbish. Snapshots stay where they are: their
place does not depend on shards.

The first start is the change from no shards, and no groups, to as many as are configured.
"""

import contextlib
import errno
import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rafter_core.entries import HardState, entries_bytes
from rafter_core.membership import Membership
from rafter_storage.data_directory import DataDirectory, remove_tree
from rafter_storage.errors import CorruptionError, DataDirectoryError, StorageError
from rafter_storage.file_system import FileSystem
from rafter_storage.group_log import GroupLog
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.identity import Identity
from rafter_storage.segment import draw_seed
from rafter_storage.segment_manager import FoundedGroup, GroupWrite, SegmentManager

__all__ = ["Progress", "settle_layout"]

logger = logging.getLogger(__name__)

_JOB_BYTES_MAX = 1 << 20
# Jobs this much smaller than a segment leave little of it unused when they do not fit its rest.
_JOBS_PER_SEGMENT = 8
# The configuration of a group plays no part here, except as it is recorded in the metadata.
_NO_MEMBERSHIP = Membership(())
_RECORD_BYTES = 256


class Progress(NamedTuple):
    """How far a change has come. Bytes are estimates of what is written."""

    groups_done: int
    groups_total: int
    bytes_done: int
    bytes_total: int


def settle_layout(
    directory: DataDirectory,
    identity: Identity,
    shards: int,
    *,
    place: Callable[[int, int], int],
    segment_bytes: int,
    report: Callable[[Progress], None] = lambda _: None,
    draw: Callable[[], int] = draw_seed,
) -> Identity:
    """Give the node ``shards`` shards, which may be its first, and remove what is left of others.

    Called at each start, before any shard is: it opens their logs. ``identity`` is what
    ``load_or_create`` returned; the result is the directory's identity from now on, durably.
    ``place(group, shards)`` is the shard that owns a group. ``report`` is called now and then while
    groups are copied, ``draw`` draws the seeds of new segments.

    Raises ``DataDirectoryError`` if the number cannot be changed: a log is damaged or lost, the
    disk is full, anything fails. The logs are then as they were, under the identity as it was, or,
    if the very last step failed, under the one or the other. Another attempt may follow in any
    case.
    """
    _remove_other_layouts(directory, identity.layout)
    if identity.shards == shards:
        return identity
    target = identity._replace(layout=identity.layout + 1, shards=shards)
    resharding = _Resharding(directory, identity, target, place, segment_bytes, report, draw)
    try:
        with contextlib.ExitStack() as stack:
            resharding.run(stack)
    except (OSError, StorageError) as error:
        _remove_other_layouts(directory, identity.layout)
        wanted_bytes = resharding.wanted_bytes if _is_for_want_of_space(error) else 0
        raise _refusal(identity, shards, error, wanted_bytes) from error
    try:
        target.store(directory)
    except OSError as error:
        what = f"the change of node.shards from {identity.shards} to {shards}"
        raise DataDirectoryError(
            f"{what if identity.layout else 'the making of the logs'} could not be completed: "
            f"{directory.identity_path} could not be replaced: {error}\n"
            "nothing is lost: the next start goes on from here, or tries again"
        ) from error
    _remove_other_layouts(directory, target.layout)
    return target


def _refusal(
    identity: Identity, shards: int, error: Exception, wanted_bytes: int
) -> DataDirectoryError:
    """Say why the logs stay as they are. ``wanted_bytes`` is 0 unless there was no room."""
    if not identity.layout:
        space = f"; they take {wanted_bytes} bytes" if wanted_bytes else ""
        return DataDirectoryError(
            f"the logs of this node cannot be made: {error}{space}\n"
            "there is nothing to lose yet: the next start tries again"
        )
    space = f"; the copy of the logs takes about {wanted_bytes} bytes" if wanted_bytes else ""
    return DataDirectoryError(
        f"node.shards cannot change from {identity.shards} to {shards}: {error}{space}\n"
        f"nothing was changed; node.shards = {identity.shards} starts the node as before"
    )


def _remove_other_layouts(directory: DataDirectory, layout: int) -> None:
    """Remove all trees but one, as far as possible. The identity that names it is durable."""
    try:
        for other in directory.layouts():
            if other != layout:
                tree = directory.layout_directory(other)
                remove_tree(directory.files, tree)
                logger.info("removed %s, which was not used any more", tree)
    except OSError as error:
        # They take space and do no harm; the next start tries again.
        logger.warning("cannot remove logs that are not used any more: %s", error)


def _is_for_want_of_space(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return True
        error = error.__cause__
    return False


class _Source(NamedTuple):
    """A group as the old layout has it."""

    group: int
    log: GroupLog
    hard_state: HardState
    metadata: GroupMetadata


class _Resharding:
    """One copy of all groups from a layout to another."""

    def __init__(
        self,
        directory: DataDirectory,
        identity: Identity,
        target: Identity,
        place: Callable[[int, int], int],
        segment_bytes: int,
        report: Callable[[Progress], None],
        draw: Callable[[], int],
    ) -> None:
        self._directory = directory
        self._files: FileSystem = directory.files
        self._identity = identity
        self._target = target
        self._place = place
        self._segment_bytes = segment_bytes
        self._report = report
        self._draw = draw
        self._progress = Progress(0, 0, 0, 0)
        self.wanted_bytes = 0

    def run(self, stack: contextlib.ExitStack) -> None:
        """Copy; on return the new layout is whole and durable. Raises OSError, ``StorageError``."""
        tree = self._directory.layout_directory(self._target.layout)
        if self._files.status(tree) is not None:
            raise DataDirectoryError(f"{tree} is in the way: remove it, nothing in it is used")
        managers = list(self._old_managers(stack))
        shards: list[list[_Source]] = [[] for _ in range(self._target.shards)]
        for manager in managers:
            for source in (_source(manager, group) for group in manager.groups()):
                shards[self._place(source.group, self._target.shards)].append(source)
        self._check_space(
            sum(manager.statistics().live_bytes for manager in managers)
            + _RECORD_BYTES * sum(map(len, shards))
        )
        self._progress = self._progress._replace(groups_total=sum(map(len, shards)))
        self._directory.make_layout(self._target.layout, self._target.shards)
        for shard, sources in enumerate(shards):
            self._manager(self._target.layout, shard).create()
            if sources:
                self._fill(shard, sources)
                self._verify(shard, sources)
        for manager in managers:
            manager.close()

    def _old_managers(self, stack: contextlib.ExitStack) -> Iterator[SegmentManager]:
        """Recover the log of each shard."""
        identity = self._identity
        for shard in range(identity.shards):
            manager = self._open(identity.layout, shard, stack)
            if manager.shard_damage is not None:
                raise CorruptionError(manager.shard_damage, None)
            for group, damage in sorted(manager.damaged.items()):
                raise CorruptionError(damage, group)
            for group in manager.groups():
                if self._place(group, identity.shards) != shard:
                    wal = self._directory.wal_directory(identity.layout, shard)
                    raise DataDirectoryError(
                        f"{wal} has the group {group}, whose place is in shard "
                        f"{self._place(group, identity.shards)}: which of them is true is not known"
                    )
            yield manager

    def _open(self, layout: int, shard: int, stack: contextlib.ExitStack) -> SegmentManager:
        manager = self._manager(layout, shard)
        manager.open()
        stack.callback(_close_quietly, manager)
        return manager

    def _manager(self, layout: int, shard: int) -> SegmentManager:
        """Return a log for this change alone: nothing is kept in memory, nothing made ahead."""
        return SegmentManager(
            self._directory.shard_directory(layout, shard),
            segment_bytes=self._segment_bytes,
            tail_bytes_max=0,
            spares_max=0,
            files=self._files,
            draw=self._draw,
        )

    def _check_space(self, live_bytes: int) -> None:
        """Refuse what would fill the disk before the first byte is written."""
        self.wanted_bytes = live_bytes + self._target.shards * self._segment_bytes
        free_bytes = self._files.free_bytes(self._directory.path)
        self._progress = self._progress._replace(bytes_total=live_bytes)
        if free_bytes < self.wanted_bytes:
            raise DataDirectoryError(
                f"this takes about {self.wanted_bytes} bytes below {self._directory.path}, "
                f"and {free_bytes} are free"
            )

    def _fill(self, shard: int, sources: list[_Source]) -> None:
        """Copy groups to the log of one new shard, durable on return."""
        with contextlib.ExitStack() as stack:
            manager = self._open(self._target.layout, shard, stack)
            copier = _Copier(manager, min(_JOB_BYTES_MAX, self._segment_bytes // _JOBS_PER_SEGMENT))
            for number, source in enumerate(sources, self._progress.groups_done + 1):
                for bytes_written in copier.copy(source):
                    self._advance(bytes_written)
                self._progress = self._progress._replace(groups_done=number)
            self._advance(copier.flush())
            manager.close()

    def _verify(self, shard: int, sources: list[_Source]) -> None:
        """Recover a new log as a start would: the old one is about to be removed."""
        with contextlib.ExitStack() as stack:
            manager = self._open(self._target.layout, shard, stack)
            for source in sources:
                _check_copy(manager, source)
            manager.close()

    def _advance(self, bytes_written: int) -> None:
        bytes_done = self._progress.bytes_done + bytes_written
        self._progress = self._progress._replace(bytes_done=bytes_done)
        self._report(self._progress)


class _Copier:
    """Writes groups to a new log, in jobs of a bounded size. Small groups share one."""

    def __init__(self, manager: SegmentManager, job_bytes_max: int) -> None:
        self._manager = manager
        self._job_bytes_max = job_bytes_max
        self._founded: list[FoundedGroup] = []
        self._writes: list[GroupWrite] = []
        self._bytes = 0

    def copy(self, source: _Source) -> Iterator[int]:
        """Copy a group, up to a rest that waits for the next job; yield the size of each job."""
        group, log, hard_state, metadata = source
        # What is committed must be there first, so the commit index comes behind the last entries.
        begin = hard_state._replace(commit=metadata.base_index)
        self._founded.append(FoundedGroup(group, metadata, begin))
        self._bytes += _RECORD_BYTES
        if self._bytes >= self._job_bytes_max:
            yield self.flush()
        index, end = log.first_index(), log.last_index() + 1
        while index < end:
            entries = log.entries(index, end, self._job_bytes_max)
            index = entries[-1].index + 1
            self._writes.append(GroupWrite(group, None, entries))
            if index == end:
                self._writes.append(GroupWrite(group, hard_state))
            self._bytes += entries_bytes(entries) + _RECORD_BYTES
            if self._bytes >= self._job_bytes_max:
                yield self.flush()

    def flush(self) -> int:
        """Write and sync what waits; return its size in bytes."""
        written, self._bytes = self._bytes, 0
        job = self._manager.begin(self._writes, founded=self._founded)
        job.run()
        self._manager.complete(job)
        self._writes, self._founded = [], []
        return written


def _source(manager: SegmentManager, group: int) -> _Source:
    log = manager.group_log(group, _NO_MEMBERSHIP)
    return _Source(group, log, log.initial_state()[0], manager.metadata(group))


def _check_copy(manager: SegmentManager, source: _Source) -> None:
    """Hold what a new log says of a group against the old one. Raises ``StorageError``."""
    if manager.damage_of(source.group) is not None:
        raise StorageError(f"the copy is damaged: {manager.damage_of(source.group)}")
    copy = _source(manager, source.group)
    for name, found, expected in (
        ("hard state", copy.hard_state, source.hard_state),
        ("metadata", copy.metadata, source.metadata),
        ("first index", copy.log.first_index(), source.log.first_index()),
        ("last index", copy.log.last_index(), source.log.last_index()),
    ):
        if found != expected:
            raise StorageError(
                f"the copy of group {source.group} has the {name} {found}, expected {expected}"
            )


def _close_quietly(manager: SegmentManager) -> None:
    """Close a log that plays no part any more, or that has been closed with care."""
    with contextlib.suppress(OSError, StorageError):
        manager.close()
