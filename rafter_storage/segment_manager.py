"""The log store of all groups of a shard: group commit over one sequence of segments.

A job carries the writes of many groups to disk with one write and one sync. Three threads of
thought meet here, and only two real ones: the owner (the event loop's thread) calls ``begin``,
``complete`` and all reads; one flusher thread calls ``run`` of jobs and chores; jobs run and
complete in the order in which they were begun, and the next may be begun while one runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rafter_core.membership import Membership
from rafter_storage.buffer import FragmentPool
from rafter_storage.chores import Chore
from rafter_storage.cleaner import Cleaner
from rafter_storage.errors import CorruptionError, Damage, InvalidWrite, StorageError
from rafter_storage.file_system import REAL_FILE_SYSTEM, FileSystem
from rafter_storage.group_log import GroupLog
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.group_state import (
    Draft,
    FoundedGroup,
    GroupChange,
    GroupState,
    GroupWrite,
)
from rafter_storage.housekeeping import Housekeeper
from rafter_storage.log_space import LogSpace
from rafter_storage.log_tail import mark, open_directly, reopen
from rafter_storage.reader import RecordReader
from rafter_storage.record import PREFIX_BYTES, RecordKind, align
from rafter_storage.recovery import Recovery, SealedIndex, Tail
from rafter_storage.segment import (
    HEADER_BYTES,
    SEGMENT_BYTES_MAX,
    SegmentHeader,
    create_segment,
    draw_seed,
    segment_path,
    sequence_of,
)
from rafter_storage.segment_index import SegmentIndex
from rafter_storage.write_job import LogHead, WriteJob
from rafter_storage.writer import DIRECT_BLOCK_BYTES, SegmentWriter

__all__ = [
    "FoundedGroup",
    "GroupChange",
    "GroupWrite",
    "SegmentManager",
    "Statistics",
    "WriteJob",
]

SEGMENT_BYTES_MIN = 64 << 10


class Statistics(NamedTuple):
    """Counts since ``open`` of complete jobs, and what the log holds now.

    ``disk_bytes`` counts segments and spares as allocated, ``live_bytes`` the records that are
    needed. ``oldest_group`` is one that needs the oldest segment, None if nothing does.
    """

    appended_bytes: int
    records: int
    entries: int
    jobs: int
    syncs: int
    sync_seconds: float
    segments: int
    copied_bytes: int
    disk_bytes: int
    live_bytes: int
    oldest_sequence: int
    oldest_group: int | None
    is_disk_full: bool


class SegmentManager:
    """All groups' logs of one shard, below ``directory``/wal.

    ``create`` makes a new log, once. ``open`` recovers; then ``damaged`` says which groups must not
    be served, and why, and ``shard_damage`` is not None if that is all of them, seen or unseen.
    Every other method is for the owner thread. ``tail_bytes_max`` bounds what is kept in memory for
    each group, ``spares_max`` how many files wait to become segments; ``draw`` draws a segment's
    seed.

    The disk holds at most twice the bytes that are needed, and three segments.
    """

    def __init__(
        self,
        directory: Path,
        *,
        segment_bytes: int = 64 << 20,
        tail_bytes_max: int = 2 << 20,
        spares_max: int = 1,
        is_direct: bool = False,
        files: FileSystem = REAL_FILE_SYSTEM,
        draw: Callable[[], int] = draw_seed,
    ) -> None:
        if not SEGMENT_BYTES_MIN <= segment_bytes <= SEGMENT_BYTES_MAX:
            raise ValueError(
                f"segment_bytes is {segment_bytes}, "
                f"allowed are {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"
            )
        if tail_bytes_max < 0 or spares_max < 0:
            raise ValueError(
                f"tail_bytes_max is {tail_bytes_max} and spares_max {spares_max}: "
                "neither can be negative"
            )
        self._directory = directory / "wal"
        blocks = -(-segment_bytes // DIRECT_BLOCK_BYTES)
        self._segment_bytes = blocks * DIRECT_BLOCK_BYTES
        self._tail_bytes_max = tail_bytes_max
        self._pool = FragmentPool() if is_direct else None
        self._files = files
        self._draw = draw
        self._reader = RecordReader(files)
        self._cleaner = Cleaner(self._reader)
        self._groups: dict[int, GroupState] = {}
        self.damaged: dict[int, Damage] = {}
        self.shard_damage: Damage | None = None
        self._writer: SegmentWriter | None = None
        self._is_opened = False
        self._head: LogHead
        self._index: SegmentIndex
        self._space = LogSpace(self._segment_bytes)
        self._begun_jobs = 0
        self._completed_jobs = 0
        self._appended_bytes = 0
        self._copied_bytes = 0
        self._records = 0
        self._entries = 0
        self._syncs = 0
        self._sync_seconds = 0.0
        self._keeper = Housekeeper(files, self._directory, self._segment_bytes, spares_max)
        # Heads of segments that begun jobs have left and that are not complete to their end.
        self._sealing: deque[LogHead] = deque()

    def create(self) -> None:
        """Make a log where none has been: its directory, and its first segment. Before ``open``.

        On return both are durable, so that from then on a log without segments is one that was
        lost: whoever writes down that there is a log does so afterwards. Raises ``StorageError`` if
        there is a segment already, or the disk fails.
        """
        try:
            if self._files.status(self._directory) is None:
                self._files.make_directory(self._directory)
            # Also one that exists: an earlier try may have been killed before its sync.
            self._files.sync_directory(self._directory.parent)
            if any(sequence_of(name) for name in self._files.names(self._directory)):
                raise StorageError(f"there is a log in {self._directory} already")
            header = SegmentHeader(1, self._draw(), 0, 0, self._segment_bytes, 1)
            self._files.close(create_segment(self._files, self._directory, header))
        except OSError as error:
            raise StorageError(f"cannot make the log in {self._directory}: {error}") from error

    def open(self) -> None:
        """Recover the log, cut a torn tail, and make ready to append. Called once.

        On return everything that reads show is durable, also what a killed process had only
        written. A log that is not there, or that has lost segments, is damage to the whole shard,
        and never taken for a new one. With such damage no segment is changed, and no group can be
        read or written. Raises ``StorageError`` if the log is of a newer version or the disk
        fails.
        """
        if self._is_opened:
            raise StorageError("the log is open already, or has been")
        self._is_opened = True
        try:
            self._prepare_directory()
            recovery = Recovery(self._files, self._directory, self._tail_bytes_max)
            recovery.run()
            self._groups = recovery.groups
            self.damaged = recovery.damaged
            self.shard_damage = recovery.shard_damage
            for _, header in sorted(recovery.headers.items()):
                self._add_segment(header)
            if recovery.shard_damage is None:
                for sequence in recovery.retired:
                    self._keeper.retire(sequence, 0)
                for sealed in recovery.undumped:
                    self._keeper.seal(sealed)
                self._keeper.find_spares()
                assert recovery.tail is not None, "a log without damage has a last segment"
                self._open_tail(recovery.tail)
        except OSError as error:
            self.close()
            raise StorageError(f"cannot open the log in {self._directory}: {error}") from error
        except StorageError:
            self.close()
            raise

    # Questions.

    def group_log(
        self,
        group: int,
        founding: Membership,
        applied: int = 0,
        membership: Membership | None = None,
    ) -> GroupLog:
        """Return the log of a group, empty if the group is new here.

        ``founding`` is the configuration if none was ever recorded, ``applied`` up to where the
        state machine has the log already, and ``membership`` the configuration there, if the caller
        knows it: a snapshot does, before the log has a record of it. Raises ``CorruptionError`` if
        the group is damaged.
        """
        self._check_group(group)
        return GroupLog(self._state(group), founding, applied, self._reader, membership)

    def metadata(self, group: int) -> GroupMetadata:
        """Return the metadata of a group, as of the jobs that are complete."""
        return self._state(group).metadata

    def damage_of(self, group: int) -> Damage | None:
        """Return why a group must not be served, or None; also for groups never heard of."""
        return self.shard_damage or self.damaged.get(group)

    def condemn(self, group: int, damage: Damage) -> None:
        """Take note that a group's log proved damaged when it was read: it is not written again."""
        self.damaged.setdefault(group, damage)

    def groups(self) -> list[int]:
        """Return every group that the log has heard of, ascending."""
        return sorted(self._groups)

    def statistics(self) -> Statistics:
        """Return the counts so far."""
        oldest_sequence = self._space.oldest_on_disk
        holders = (
            group
            for group, state in self._groups.items()
            if state.record_sequence and state.oldest_sequence == oldest_sequence
        )
        return Statistics(
            self._appended_bytes,
            self._records,
            self._entries,
            self._completed_jobs,
            self._syncs,
            self._sync_seconds,
            len(self._space),
            self._copied_bytes,
            self._space.allocated_bytes + self._keeper.disk_bytes,
            self._space.live_bytes,
            oldest_sequence,
            next(holders, None),
            self._keeper.is_disk_full,
        )

    # Writing.

    def begin(
        self,
        writes: Sequence[GroupWrite],
        changes: Sequence[GroupChange] = (),
        founded: Sequence[FoundedGroup] = (),
    ) -> WriteJob:
        """Encode writes and changes and give them their place; nothing is written yet.

        May be called while earlier jobs run; how many may be on their way at once is the caller's
        to bound, and now and then there must be none: only then is the log put in order. Writes of
        one group keep their order, its changes take effect after them. The entries must not be
        changed afterwards. Changes alone are written and not synced: they are durable with the next
        job that is, and what they free is freed after that.

        Raises ``CorruptionError``, without any effect, if a group is damaged; ``InvalidWrite`` if
        a write breaks a rule of the log, after which the manager is of no further use; and
        ``Poisoned`` after that and after any failure.
        """
        writer = self._usable_writer()
        if self.damaged:
            for group in {item[0] for items in (writes, changes, founded) for item in items}:
                self._check_group(group)
        try:
            drafts = self._cleaning_drafts() if self._is_idle else []
            must_sync = bool(founded)
            for founding in founded:
                drafts.append(self._state(founding.group).begin_founding(founding))
            for write in writes:
                state = self._groups.get(write.group) or self._state(write.group)
                before = state.begun_hard_state
                drafts += state.begin_write(write)
                after = state.begun_hard_state
                if (
                    write.entries
                    or write.snapshot is not None
                    or after.term != before.term
                    or after.vote != before.vote
                ):
                    must_sync = True
            for change in changes:
                draft = self._state(change.group).begin_change(change)
                if draft is not None:
                    drafts.append(draft)
            return self._place(writer, drafts, must_sync=must_sync)
        except BaseException as error:
            writer.poison = writer.poison or f"an impossible write was asked for: {error}"
            raise

    def complete(self, job: WriteJob) -> None:
        """Let a job take effect. Called after ``run``, in the order of ``begin``."""
        if not job.has_run or job.number != self._completed_jobs + 1:
            raise StorageError(
                f"job {job.number} cannot be completed now: {self._completed_jobs} are complete, "
                f"{'it has' if job.has_run else 'it has not'} run"
            )
        self._completed_jobs += 1
        if job.roll is not None:
            self._complete_roll(job.roll)
        index = self._index
        for draft, offset, length in job.drafts:
            state = draft.state
            live_bytes = state.live_bytes
            state.apply(draft, index, offset, length)
            kind = draft.kind
            if kind is RecordKind.ENTRIES:
                self._entries += len(draft.entries)
            else:
                self._space.changed()
                if kind is RecordKind.COPY:
                    self._copied_bytes += length
                elif kind is RecordKind.REMOVED:
                    del self._groups[state.group]
                    self._space.live_bytes -= live_bytes
                    continue
            self._space.live_bytes += state.live_bytes - live_bytes
        if job.must_sync:
            if job.sequence == self._head.header.sequence:
                self._head.synced_offset = job.end
            if job.first_sequence:
                self._advance_to(job.first_sequence)
        self._records += len(job.drafts)
        self._appended_bytes += job.end - job.offset
        self._syncs += job.syncs
        self._sync_seconds += job.sync_seconds

    @property
    def needs_cleaning(self) -> bool:
        """Whether an idle log should begin a job of its own, with no writes: see ``cleaner``."""
        if not self._is_idle or self._writer is None:
            return False
        return self._oldest_needed() > self._space.begun_first_sequence or self._must_clean()

    def close(self) -> None:
        """Sync, mark the log as whole to its end, and close all files. May be called again.

        No job may be running. Jobs that were begun and not completed are given up; the log is
        then left as it is, for the next start to recover. Raises ``Poisoned`` if the sync fails.
        """
        writer, self._writer = self._writer, None
        try:
            if writer is not None and writer.poison is None and self._is_idle:
                mark(writer, self._head, self._space.first_sequence, self._pool)
        finally:
            self._reader.close()
            if writer is not None:
                writer.close()

    # Housekeeping.

    def chore(self) -> Chore | None:
        """Return the next step of housekeeping, None if there is nothing to do now.

        It runs on the flusher thread like a job, one at a time; then ``complete_chore``.
        """
        if self._writer is None or self._writer.poison is not None:
            return None
        return self._keeper.chore()

    def complete_chore(self, chore: Chore, error: Exception | None) -> None:
        """Take note that a chore has run. One that failed is tried again after ``resume``."""
        self._keeper.complete(chore, error)

    @property
    def is_disk_full(self) -> bool:
        """Whether there was no room for another segment, and is none yet as far as is known."""
        return self._keeper.is_disk_full

    def disk_is_full(self, job: WriteJob) -> None:
        """Take note that a job's ``run`` raised ``DiskFull``, before it is run again.

        Called while neither a job nor a chore runs. Spares are given up for it.
        """
        assert job.roll is not None, "only a segment is found to have no room"
        spare = self._keeper.stall(job.roll.segment_bytes)
        if job.spare is None:
            job.spare = spare
        elif spare is not None:
            self._keeper.give_back(spare)

    def resume(self) -> None:
        """Try failed housekeeping again. Called about once a second."""
        self._keeper.resume()

    # The way in.

    @property
    def _is_idle(self) -> bool:
        return self._begun_jobs == self._completed_jobs

    def _place(self, writer: SegmentWriter, drafts: list[Draft], *, must_sync: bool) -> WriteJob:
        """Make a job of drafts: give each its place, in a new segment if there is no room."""
        first_sequence = self._oldest_needed() if self._is_idle else 0
        is_marking = first_sequence > self._space.begun_first_sequence
        bytes_total = PREFIX_BYTES * is_marking
        for draft in drafts:
            bytes_total += PREFIX_BYTES + ((len(draft.body) + 7) & ~7)
        if self._pool is not None:
            bytes_total += DIRECT_BLOCK_BYTES + PREFIX_BYTES
        roll = spare = None
        if self._head.end + bytes_total > self._head.header.segment_bytes:
            roll = self._next_header(bytes_total)
            if roll.segment_bytes == self._segment_bytes:
                spare = self._keeper.take_spare()
            self._sealing.append(self._head)
            self._head = LogHead.at_start(roll)
        self._begun_jobs += 1
        head = self._head
        job = WriteJob(
            writer, self._begun_jobs, head.header.sequence, head.end, roll, spare, self._pool
        )
        job.must_sync = must_sync
        for draft in drafts:
            head.place(job, draft)
        if is_marking:
            head.place_mark(job, first_sequence)
            self._space.begun_first_sequence = first_sequence
        if self._pool is not None:
            head.place_padding(job, DIRECT_BLOCK_BYTES)
        job.settle()
        return job

    def _next_header(self, bytes_total: int) -> SegmentHeader:
        segment_bytes = max(self._segment_bytes, HEADER_BYTES + align(bytes_total))
        if segment_bytes > SEGMENT_BYTES_MAX:
            raise InvalidWrite(f"a job of {bytes_total} bytes does not fit any segment")
        header = self._head.header
        return SegmentHeader(
            sequence=header.sequence + 1,
            seed=self._draw(),
            previous_seed=header.seed,
            previous_end=self._head.end,
            segment_bytes=segment_bytes,
            # Durable before the new segment is: to roll is to sync the old one first.
            first_sequence=self._space.begun_first_sequence,
        )

    def _complete_roll(self, header: SegmentHeader) -> None:
        sealed = self._sealing.popleft()
        self._keeper.seal(SealedIndex(sealed.header, sealed.end, self._index))
        self._keeper.is_disk_full = self._keeper.is_stalled = False
        self._index = SegmentIndex(header.sequence)
        self._add_segment(header)

    def _advance_to(self, first_sequence: int) -> None:
        """Let go of the segments that a durable MARK says are not needed."""
        for header in self._space.advance_to(first_sequence):
            self._reader.forget_segment(header.sequence)
            self._keeper.retire(header.sequence, header.segment_bytes)

    def _oldest_needed(self) -> int:
        """Return the oldest segment that something complete is needed of."""
        if self.damaged:
            # Nobody can tell what a damaged group needs.
            return self._space.first_sequence
        return self._space.oldest_needed(self._groups.values(), self._index.sequence)

    def _must_clean(self) -> bool:
        """Whether the log holds too much that is not needed, and rewriting can change that."""
        oldest = self._oldest_needed()
        return (
            oldest < self._index.sequence
            and self._space.is_wasteful(oldest, self._head.end)
            and self._cleaner.is_cleanable(oldest)
            and not self.damaged
        )

    def _cleaning_drafts(self) -> list[Draft]:
        if not self._must_clean():
            return []
        return self._cleaner.drafts(self._oldest_needed(), self._groups.values())

    # Opening and closing.

    def _prepare_directory(self) -> None:
        """Remove the leftovers of an unfinished roll, and make durable which names there are."""
        if self._files.status(self._directory) is None:
            return
        for name in self._files.names(self._directory):
            if name.endswith(".tmp"):
                self._files.unlink(self._directory / name)
        self._files.sync_directory(self._directory)

    def _open_tail(self, tail: Tail) -> None:
        """Open the last segment for appending, durable up to its end."""
        space = self._space
        self._head = tail.head
        self._index = tail.segment_index
        space.begin_at(space.oldest_on_disk)
        writer = reopen(self._files, self._directory, tail, space.first_sequence)
        space.live_bytes = sum(state.live_bytes for state in self._groups.values())
        if self._pool is not None:
            writer = open_directly(self._files, self._directory, self._head, writer)
        self._writer = writer

    def _add_segment(self, header: SegmentHeader) -> None:
        path = segment_path(self._directory, header.sequence)
        self._space.add(header)
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
