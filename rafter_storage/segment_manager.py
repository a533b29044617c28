"""The log store of all groups of a shard: group commit over one sequence of segments.

A job carries the writes of many groups to disk with one ``pwritev`` and one sync. Three threads of
thought meet here, and only two real ones: the owner (the event loop's thread) calls ``begin``,
``complete`` and all reads; one flusher thread calls ``job.run``; jobs run and complete in the
order in which they were begun, and the next may be begun while one runs.
"""

import os
from pathlib import Path
from typing import NamedTuple

from rafter_core.entries import Entry, HardState
from rafter_core.membership import Membership
from rafter_core.serializer import pack_entries
from rafter_storage.errors import CorruptionError, Damage, InvalidWrite, StorageError
from rafter_storage.file_system import REAL_FILE_SYSTEM, Buffer, FileSystem
from rafter_storage.group_log import GroupLog, GroupState
from rafter_storage.reader import RecordReader
from rafter_storage.record import (
    PADDING,
    PREFIX_BYTES,
    RECORD_BYTES_MAX,
    RecordKind,
    align,
    encode_prefix,
)
from rafter_storage.recovery import Recovery, Tail
from rafter_storage.segment import (
    HEADER_BYTES,
    SEGMENT_BYTES_MAX,
    SegmentHeader,
    create_segment,
    draw_seed,
    segment_path,
    zero_from,
)
from rafter_storage.writer import SegmentWriter

__all__ = ["GroupWrite", "SegmentManager", "Statistics", "WriteJob"]

SEGMENT_BYTES_MIN = 64 << 10

_NO_STATE = HardState()


class GroupWrite(NamedTuple):
    """What one Ready of one group has to persist, as one unit.

    ``hard_state`` is None when it did not change. ``entries`` are contiguous and replace whatever
    the log has at ``entries[0].index`` and above.
    """

    group: int
    hard_state: HardState | None
    entries: list[Entry]


class Statistics(NamedTuple):
    """Counts since ``open``, of complete jobs. ``segments`` is how many files the log has."""

    appended_bytes: int
    records: int
    entries: int
    jobs: int
    syncs: int
    sync_seconds: float
    segments: int


# A record on its way, as ``complete`` tells the index of it: the group's state, its hard state
# from then on, the entries, and the record's offset and length. One is made per write, so it is a
# plain tuple.
_Pending = tuple[GroupState, HardState, list[Entry], int, int]


class WriteJob:
    """Writes of many groups on their way to disk. Made by ``SegmentManager.begin``."""

    __slots__ = (
        "_buffers",
        "_end",
        "_has_run",
        "_must_sync",
        "_number",
        "_offset",
        "_pending",
        "_roll",
        "_sequence",
        "_sync_seconds",
        "_syncs",
        "_writer",
    )

    def __init__(
        self,
        writer: SegmentWriter,
        number: int,
        roll: SegmentHeader | None,
        sequence: int,
        offset: int,
    ) -> None:
        self._writer = writer
        self._number = number
        self._roll = roll
        self._sequence = sequence
        self._offset = offset
        self._end = offset
        self._must_sync = False
        self._buffers: list[Buffer] = []
        self._pending: list[_Pending] = []
        self._has_run = False
        self._syncs = 0
        self._sync_seconds = 0.0

    @property
    def must_sync(self) -> bool:
        """Whether ``run`` syncs: False if only commit indexes changed."""
        return self._must_sync

    def run(self) -> None:
        """Write the job's records and, unless only commit indexes changed, sync them.

        Called on the one flusher thread, once, in the order of ``begin``. On return the job's
        entries, terms and votes are durable, and all earlier jobs' with them. Raises ``Poisoned``
        when a write or sync fails or has failed before: this job may then be on disk wholly, in
        part or not at all, and nothing may be acknowledged any more.
        """
        writer = self._writer
        writer.start(self._number)
        if self._roll is not None:
            self._sync_seconds += writer.roll(self._roll)
            self._syncs += 1
        writer.write(self._buffers, self._offset)
        if self._must_sync:
            self._sync_seconds += writer.sync()
            self._syncs += 1
        self._has_run = True


class SegmentManager:
    """All groups' logs of one shard, below ``directory``/wal.

    ``open`` recovers; then ``damaged`` says which groups must not be served, and why, and
    ``shard_damage`` is not None if that is all of them, seen or unseen. Every other method is for
    the owner thread. ``tail_bytes_max`` bounds what is kept in memory for each group.
    """

    def __init__(
        self,
        directory: Path,
        *,
        segment_bytes: int = 64 << 20,
        tail_bytes_max: int = 2 << 20,
        files: FileSystem = REAL_FILE_SYSTEM,
    ) -> None:
        if not SEGMENT_BYTES_MIN <= segment_bytes <= SEGMENT_BYTES_MAX:
            raise ValueError(
                f"segment_bytes is {segment_bytes}, "
                f"allowed are {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"
            )
        if tail_bytes_max < 0:
            raise ValueError(f"tail_bytes_max is {tail_bytes_max}, it cannot be negative")
        self._directory = directory / "wal"
        self._segment_bytes = align(segment_bytes)
        self._tail_bytes_max = tail_bytes_max
        self._files = files
        self._reader = RecordReader(files)
        self._groups: dict[int, GroupState] = {}
        self.damaged: dict[int, Damage] = {}
        self.shard_damage: Damage | None = None
        self._writer: SegmentWriter | None = None
        # Where the next job goes, and up to where its segment is known to be synced.
        self._header = SegmentHeader(0, 0, 0, 0, 0)
        self._end = 0
        self._synced_offset = 0
        self._is_marked = True
        self._begun_jobs = 0
        self._completed_jobs = 0
        self._appended_bytes = 0
        self._records = 0
        self._entries = 0
        self._syncs = 0
        self._sync_seconds = 0.0

    def open(self) -> None:
        """Recover the log, cut a torn tail, and make ready to append. Called once.

        On return everything that reads show is durable, also what a killed process had only
        written. With damage to the whole shard nothing on disk is changed, and no group can be
        read or written. Raises ``StorageError`` if the log is of a newer version or the disk
        fails.
        """
        if self._writer is not None or self._header.sequence:
            raise StorageError("the log is open already, or has been")
        try:
            self._prepare_directory()
            recovery = Recovery(self._files, self._directory, self._tail_bytes_max)
            recovery.run()
            self._groups = recovery.groups
            self.damaged = recovery.damaged
            self.shard_damage = recovery.shard_damage
            for header in recovery.headers.values():
                self._add_segment(header)
            if recovery.shard_damage is None:
                self._open_tail(recovery.tail)
        except OSError as error:
            self.close()
            raise StorageError(f"cannot open the log in {self._directory}: {error}") from error
        except StorageError:
            self.close()
            raise

    def group_log(self, group: int, membership: Membership) -> GroupLog:
        """Return the log of a group, empty if the group is new here.

        Raises ``CorruptionError`` if the group is damaged.
        """
        self._check_group(group)
        return GroupLog(self._state(group), membership, self._reader)

    def damage_of(self, group: int) -> Damage | None:
        """Return why a group must not be served, or None; also for groups never heard of."""
        return self.shard_damage or self.damaged.get(group)

    def groups(self) -> list[int]:
        """Return every group that the log has heard of, ascending."""
        return sorted(self._groups)

    def begin(self, writes: list[GroupWrite]) -> WriteJob:
        """Encode writes and give them their place in the log; nothing is written yet.

        May be called while earlier jobs run; how many may be on their way at once is the caller's
        to bound. Writes of one group keep their order. The entries must not be changed afterwards.

        Raises ``CorruptionError``, without any effect, if a group is damaged; ``InvalidWrite`` if
        a write breaks a rule of the log, after which the manager is of no further use; and
        ``Poisoned`` after that and after any failure.
        """
        writer = self._usable_writer()
        if self.damaged:
            for write in writes:
                self._check_group(write.group)
        bodies = [pack_entries(write.entries) if write.entries else b"" for write in writes]
        bytes_total = 0
        for body in bodies:
            bytes_total += PREFIX_BYTES + ((len(body) + 7) & ~7)
        roll = self._roll_for(bytes_total)
        self._begun_jobs += 1
        job = WriteJob(writer, self._begun_jobs, roll, self._header.sequence, self._end)
        try:
            for write, body in zip(writes, bodies, strict=True):
                self._encode(job, write, body)
        except BaseException as error:
            writer.poison = writer.poison or f"an impossible write was asked for: {error}"
            raise
        self._end = job._end
        self._is_marked = False
        return job

    def complete(self, job: WriteJob) -> None:
        """Make a job's entries readable. Called after ``run``, in the order of ``begin``."""
        if not job._has_run or job._number != self._completed_jobs + 1:
            raise StorageError(
                f"job {job._number} cannot be completed now: {self._completed_jobs} are complete, "
                f"{'it has' if job._has_run else 'it has not'} run"
            )
        self._completed_jobs += 1
        if job._roll is not None:
            self._add_segment(job._roll)
        sequence = job._sequence
        for state, hard_state, entries, offset, length in job._pending:
            state.hard_state = hard_state
            if entries:
                first_index = entries[0].index
                state.index.append(first_index, entries[-1].index, sequence, offset, length)
                state.index.add_terms(entries)
                state.recent.append(entries)
                self._entries += len(entries)
        if job._must_sync and sequence == self._header.sequence:
            self._synced_offset = job._end
        self._records += len(job._pending)
        self._appended_bytes += job._end - job._offset
        self._syncs += job._syncs
        self._sync_seconds += job._sync_seconds

    def statistics(self) -> Statistics:
        """Return the counts so far."""
        return Statistics(
            self._appended_bytes,
            self._records,
            self._entries,
            self._completed_jobs,
            self._syncs,
            self._sync_seconds,
            self._reader.segment_count,
        )

    def close(self) -> None:
        """Sync, mark the log as whole to its end, and close all files. May be called again.

        No job may be running. Jobs that were begun and not completed are given up; the log is
        then left as it is, for the next start to recover. Raises ``Poisoned`` if the sync fails.
        """
        writer, self._writer = self._writer, None
        try:
            is_idle = self._begun_jobs == self._completed_jobs
            if writer is not None and writer.poison is None and is_idle:
                self._mark(writer)
        finally:
            self._reader.close()
            if writer is not None:
                writer.close()

    # The way in: one record for each write.

    def _encode(self, job: WriteJob, write: GroupWrite, body: bytes) -> None:
        """Check one write, append its record to the job, and count it as begun."""
        group, hard_state, entries = write
        state = self._groups.get(group)
        if state is None:
            state = self._state(group)
        before = state.begun_hard_state
        if hard_state is None:
            hard_state = before
        elif hard_state != before:
            if hard_state.term != before.term or hard_state.vote != before.vote:
                _check_vote(group, before, hard_state)
                job._must_sync = True
            state.begun_hard_state = hard_state
        if entries:
            _check_entries(state, entries, before.commit)
            state.begun_last_index = entries[-1].index
            job._must_sync = True
        if not before.commit <= hard_state.commit <= state.begun_last_index:
            raise InvalidWrite(
                f"group {group}: commit index {hard_state.commit} after {before.commit}, "
                f"with a log that ends at {state.begun_last_index}"
            )
        offset = job._end
        length = PREFIX_BYTES + len(body)
        if length > RECORD_BYTES_MAX:
            raise InvalidWrite(f"group {group}: a record of {length} bytes, 1 GiB is allowed")
        prefix = encode_prefix(
            self._header.seed, offset, self._synced_offset, group, hard_state, entries, body
        )
        buffers = job._buffers
        buffers.append(prefix)
        if body:
            buffers.append(body)
            padding = -length & 7
            if padding:
                buffers.append(PADDING[padding])
        job._end = offset + align(length)
        job._pending.append((state, hard_state, entries, offset, length))

    def _roll_for(self, bytes_total: int) -> SegmentHeader | None:
        """Move on to a new segment if the current one has no room; return its header."""
        if self._end + bytes_total <= self._header.segment_bytes:
            return None
        segment_bytes = max(self._segment_bytes, HEADER_BYTES + bytes_total)
        if segment_bytes > SEGMENT_BYTES_MAX:
            raise InvalidWrite(f"a job of {bytes_total} bytes does not fit any segment")
        self._header = SegmentHeader(
            sequence=self._header.sequence + 1,
            seed=draw_seed(),
            previous_seed=self._header.seed,
            previous_end=self._end,
            segment_bytes=segment_bytes,
        )
        self._end = self._synced_offset = HEADER_BYTES
        return self._header

    def _mark(self, writer: SegmentWriter) -> None:
        """Sync, then write down that everything so far is synced, and sync that.

        From then on damage to any earlier record is known for what it is, and not taken for a
        torn tail. Nothing is written if the last record is a mark, or there is no room for one.
        """
        if self._is_marked or self._end + PREFIX_BYTES > self._header.segment_bytes:
            return
        writer.sync()
        end = self._end
        mark = encode_prefix(
            self._header.seed, end, end, 0, _NO_STATE, [], b"", RecordKind.SYNC_MARK
        )
        writer.write([mark], end)
        writer.sync()
        self._end = end + PREFIX_BYTES
        self._synced_offset = self._end
        self._is_marked = True

    # Opening.

    def _prepare_directory(self) -> None:
        """Make the log's directory exist durably, without leftovers of an unfinished roll."""
        if not self._directory.is_dir():
            self._files.make_directory(self._directory)
            self._files.sync_directory(self._directory.parent)
        for name in self._files.names(self._directory):
            if name.endswith(".tmp"):
                self._files.unlink(self._directory / name)
        self._files.sync_directory(self._directory)

    def _open_tail(self, tail: Tail | None) -> None:
        """Open the last segment for appending, durable and clean behind its end."""
        if tail is None:
            self._header = SegmentHeader(1, draw_seed(), 0, 0, self._segment_bytes)
            self._end = self._synced_offset = HEADER_BYTES
            descriptor = create_segment(self._files, self._directory, self._header)
            self._add_segment(self._header)
            self._writer = SegmentWriter(self._files, self._directory, self._header, descriptor)
            return
        self._header, self._end = tail.header, tail.end
        path = segment_path(self._directory, tail.header.sequence)
        descriptor = self._files.open(path, os.O_RDWR)
        self._writer = SegmentWriter(self._files, self._directory, tail.header, descriptor)
        self._files.allocate(descriptor, tail.header.segment_bytes)
        if tail.is_torn:
            zero_from(self._files, descriptor, tail.end)
        # A killed process may have left its last records in the page cache alone. They are about
        # to be believed, so they must be durable first.
        self._writer.sync()
        self._synced_offset = tail.end
        self._is_marked = tail.is_marked or tail.end == HEADER_BYTES
        self._mark(self._writer)

    def _add_segment(self, header: SegmentHeader) -> None:
        path = segment_path(self._directory, header.sequence)
        self._reader.add_segment(header.sequence, path, header.seed)

    # Small helpers.

    def _usable_writer(self) -> SegmentWriter:
        writer = self._writer
        if writer is None:
            if self.shard_damage is not None:
                raise CorruptionError(self.shard_damage, None)
            raise StorageError(f"the log in {self._directory} is not open")
        writer.check()
        return writer

    def _check_group(self, group: int) -> None:
        if self.shard_damage is not None:
            raise CorruptionError(self.shard_damage, None)
        if group in self.damaged:
            raise CorruptionError(self.damaged[group], group)

    def _state(self, group: int) -> GroupState:
        state = self._groups.get(group)
        if state is None:
            state = self._groups[group] = GroupState(group, self._tail_bytes_max)
        return state


def _check_vote(group: int, before: HardState, after: HardState) -> None:
    """Refuse a term that falls, and a second vote in one term (Raft paper, 5.2)."""
    is_second_vote = after.term == before.term and before.vote and after.vote != before.vote
    if after.term < before.term or is_second_vote:
        raise InvalidWrite(
            f"group {group}: vote {after.vote} in term {after.term} "
            f"after vote {before.vote} in term {before.term}"
        )


def _check_entries(state: GroupState, entries: list[Entry], commit: int) -> None:
    """Refuse entries that leave a gap, are out of order, or replace committed ones."""
    first_index, last_index = entries[0].index, entries[-1].index
    if not commit < first_index <= state.begun_last_index + 1:
        raise InvalidWrite(
            f"group {state.group}: entries from {first_index}, with a log that ends at "
            f"{state.begun_last_index} and is committed up to {commit}"
        )
    if last_index - first_index + 1 != len(entries):
        raise InvalidWrite(
            f"group {state.group}: {len(entries)} entries from {first_index} to {last_index}"
        )
    if not 0 < entries[0].term <= entries[-1].term:
        raise InvalidWrite(
            f"group {state.group}: entries of terms {entries[0].term} to {entries[-1].term}"
        )
