"""Write jobs: the records of many groups, encoded, placed, and on their way to disk."""

from __future__ import annotations

from pathlib import Path

from rafter_core.entries import HardState
from rafter_storage.buffer import JOINED_BYTES_MAX, FragmentedBuffer, FragmentPool
from rafter_storage.errors import InvalidWrite
from rafter_storage.group_state import Draft
from rafter_storage.record import (
    PADDING,
    PREFIX_BYTES,
    RECORD_BYTES_MAX,
    RecordKind,
    align,
    encode_prefix,
)
from rafter_storage.segment import HEADER_BYTES, SegmentHeader
from rafter_storage.writer import DIRECT_BLOCK_BYTES, SegmentWriter

__all__ = ["LogHead", "WriteJob"]

_NO_STATE = HardState()

# A draft with its place: offset and length of its record.
Placed = tuple[Draft, int, int]


class WriteJob:
    """Writes of many groups on their way to disk. Made by ``SegmentManager.begin``."""

    __slots__ = (
        "_buffer",
        "_pieces",
        "_writer",
        "drafts",
        "end",
        "first_sequence",
        "has_run",
        "must_sync",
        "number",
        "offset",
        "roll",
        "sequence",
        "spare",
        "sync_seconds",
        "syncs",
    )

    def __init__(
        self,
        writer: SegmentWriter,
        number: int,
        sequence: int,
        offset: int,
        roll: SegmentHeader | None,
        spare: Path | None,
        pool: FragmentPool | None,
    ) -> None:
        self._writer = writer
        self._buffer = (
            FragmentedBuffer() if pool is None else FragmentedBuffer(DIRECT_BLOCK_BYTES, pool)
        )
        # Small pieces that follow each other, for the buffer to take all at once.
        self._pieces: list[bytes] = []
        self.number = number
        self.sequence = sequence
        self.offset = offset
        self.end = offset
        self.roll = roll
        self.spare = spare
        self.must_sync = False
        self.has_run = False
        self.syncs = 0
        self.sync_seconds = 0.0
        # The newest first sequence that a MARK of this job records, 0 for none.
        self.first_sequence = 0
        self.drafts: list[Placed] = []

    @classmethod
    def outside_of_order(
        cls, writer: SegmentWriter, head: LogHead, pool: FragmentPool | None
    ) -> WriteJob:
        """Return a job of the log's own, to be run while the flusher has nothing to do."""
        return cls(writer, 0, head.header.sequence, head.end, None, None, pool)

    def add(self, prefix: bytes, body: bytes, padding: bytes) -> None:
        """Add the bytes of a record at the end."""
        pieces = self._pieces
        pieces.append(prefix)
        if len(body) > JOINED_BYTES_MAX:
            self._buffer.extend(pieces)
            pieces.clear()
            self._buffer.append(body)
        elif body:
            pieces.append(body)
        if padding:
            pieces.append(padding)

    def settle(self) -> None:
        """Join the pieces: what can be done before `run` need not keep the disk waiting."""
        if self._pieces:
            self._buffer.extend(self._pieces)
            self._pieces.clear()
        if self._buffer.alignment == 1:
            self._buffer.settle()

    def run(self) -> None:
        """Write the job's records and, unless only commit indexes changed, sync them.

        Called on the one flusher thread, once, in the order of ``begin``. On return the job's
        entries, terms and votes are durable, and all earlier jobs' with them. Raises ``Poisoned``
        when a write or sync fails or has failed before: this job may then be on disk wholly, in
        part or not at all, and nothing may be acknowledged any more. Raises ``DiskFull`` when there
        is no room for the segment that it needs: it may be run again.
        """
        writer = self._writer
        if self.roll is None:
            writer.start(self.number)
        else:
            self.sync_seconds += writer.roll(self.number, self.roll, self.spare)
            self.syncs += 1
        if self._pieces:
            self.settle()
        if self.must_sync:
            self.sync_seconds += writer.write_synced(self._buffer, self.offset)
            self.syncs += 1
        else:
            writer.write(self._buffer, self.offset)
        self._buffer.release()
        self.has_run = True


class LogHead:
    """Where the next record of a log goes. Owner thread.

    ``synced_offset`` is up to where the segment is known to be synced, ``chain`` the checksum of
    the last record's prefix.
    """

    __slots__ = ("chain", "end", "header", "is_marked", "synced_offset")

    def __init__(self, header: SegmentHeader, end: int, chain: int, *, is_marked: bool) -> None:
        self.header = header
        self.end = end
        self.chain = chain
        self.synced_offset = end
        self.is_marked = is_marked

    @classmethod
    def at_start(cls, header: SegmentHeader) -> LogHead:
        """Return the head of a segment without records."""
        return cls(header, HEADER_BYTES, header.seed, is_marked=True)

    def place(self, job: WriteJob, draft: Draft) -> None:
        """Add a group's record to a job."""
        offset, length = self._place(
            job, draft.kind, draft.state.group, draft.hard_state, draft.entries_range, draft.body
        )
        job.drafts.append((draft, offset, length))
        self.is_marked = False

    def place_mark(self, job: WriteJob, first_sequence: int) -> None:
        """Add a MARK to a job: synced up to here, and the log begins at ``first_sequence``."""
        self._place(job, RecordKind.MARK, 0, _NO_STATE, (first_sequence, 0, 0), b"")
        job.first_sequence = first_sequence
        job.must_sync = True

    def place_padding(self, job: WriteJob, block_bytes: int) -> None:
        """Fill the job up to a multiple of ``block_bytes``."""
        missing = -self.end % block_bytes
        if not missing:
            return
        if missing < PREFIX_BYTES:
            missing += block_bytes
        body = bytes(missing - PREFIX_BYTES)
        self._place(job, RecordKind.PADDING, 0, _NO_STATE, (0, 0, 0), body)

    def _place(
        self,
        job: WriteJob,
        kind: RecordKind,
        group: int,
        hard_state: HardState,
        entries_range: tuple[int, int, int],
        body: bytes,
    ) -> tuple[int, int]:
        offset = self.end
        length = PREFIX_BYTES + len(body)
        if length > RECORD_BYTES_MAX:
            raise InvalidWrite(f"group {group}: a record of {length} bytes, 1 GiB is allowed")
        prefix, self.chain = encode_prefix(
            self.header.seed,
            offset,
            self.synced_offset,
            self.chain,
            kind,
            group,
            hard_state,
            entries_range,
            body,
        )
        job.add(prefix, body, PADDING[-length & 7])
        self.end = job.end = offset + align(length)
        return offset, length
