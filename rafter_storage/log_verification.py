"""Verifying a shard's log as a whole: every byte that means something, and what it all says.

Damage is what was durable and is not as it was written, or what contradicts itself. What a crash or
a kill leaves behind (a torn tail, segments and files on their way out) is told in notes.
"""

from __future__ import annotations

from pathlib import Path

from rafter_core.errors import DecodeError
from rafter_storage.errors import Damage
from rafter_storage.file_system import FileSystem
from rafter_storage.group_history import GroupHistory
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.index import Slot
from rafter_storage.index_dump import dump_path
from rafter_storage.inspection import (
    FoundRecord,
    LogListing,
    SegmentFile,
    SegmentWalk,
    decode_body,
    list_log,
    read_dump,
    sealed_end,
)
from rafter_storage.log_loss import loss_among
from rafter_storage.record import RecordKind, RecordPrefix
from rafter_storage.segment import segment_path, spare_number_of
from rafter_storage.segment_index import Section, SegmentIndex

__all__ = ["LogReport", "verify_log"]

_WITHOUT_GROUP = (RecordKind.MARK, RecordKind.PADDING)


class LogReport:
    """What was found in the log in ``directory``: all damage, in the order in which it is met.

    ``groups`` holds every group that is there. ``record_bytes`` counts whole records of the
    segments that are needed, ``segments`` those segments.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.damages: list[Damage] = []
        self.notes: list[str] = []
        self.groups: dict[int, GroupHistory] = {}
        self.segments = 0
        self.first_sequence = 0
        self.records = 0
        self.record_bytes = 0

    def damage(self, path: Path, offset: int, reason: str) -> None:
        """Add damage."""
        self.damages.append(Damage(path, offset, reason))


def verify_log(files: FileSystem, directory: Path) -> LogReport:
    """Read all of a log and report. Nothing is written, and one record is in memory at a time.

    Beside that, memory is needed for each group and each change of its term, and for one segment's
    index. Raises ``StorageError`` if the disk cannot be read for another reason than damage.
    """
    report = LogReport(directory)
    listing = list_log(files, directory)
    sequences = [segment.sequence for segment in listing.segments]
    loss = loss_among(directory, sequences, listing.dumps)
    if loss is not None:
        report.damages.append(loss)
    if listing.segments:
        _Verification(files, report, listing).run()
    _note_others(report, listing)
    return report


def _note_others(report: LogReport, listing: LogListing) -> None:
    sequences = {segment.sequence for segment in listing.segments}
    for sequence in listing.dumps:
        if sequence not in sequences:
            path = dump_path(report.directory, sequence)
            report.notes.append(f"{path} is the index of a segment that has gone")
    for name in listing.others:
        if spare_number_of(name) is None:
            report.notes.append(f"{report.directory / name} is no part of the log")


class _Verification:
    """One run over a log that has segments."""

    def __init__(self, files: FileSystem, report: LogReport, listing: LogListing) -> None:
        self._files = files
        self._report = report
        self._listing = listing
        self._segments = {segment.sequence: segment for segment in listing.segments}
        self._tail = listing.segments[-1]

    def run(self) -> None:
        """Verify; the report has it all on return."""
        report = self._report
        first_sequence = report.first_sequence = self._find_first_sequence()
        for segment in self._listing.segments:
            if segment.sequence < first_sequence:
                report.notes.append(
                    f"{segment.path} is not needed, the log begins at segment {first_sequence}"
                )
        for sequence in range(first_sequence, self._tail.sequence + 1):
            needed = self._segments.get(sequence)
            if needed is None:
                path = segment_path(report.directory, sequence)
                reason = f"the segment is missing, though segment {self._tail.sequence} needs it"
                report.damage(path, 0, reason)
            else:
                report.segments += 1
                self._verify_segment(needed)
        for _, history in sorted(report.groups.items()):
            report.damages += history.damages()
        report.groups = {
            group: history
            for group, history in sorted(report.groups.items())
            if not history.is_removed
        }

    def _find_first_sequence(self) -> int:
        """Return the oldest segment that is needed, by the tail or else the newest sound header."""
        for segment in reversed(self._listing.segments):
            if segment.header is None:
                continue
            found = segment.header.first_sequence
            if segment is self._tail:
                walk = SegmentWalk(self._files, segment, None)
                for _ in walk:
                    pass
                found = walk.first_sequence
            else:
                # The tail may have said otherwise: then what is gone may rightly be gone.
                found = max(found, self._listing.segments[0].sequence)
            if 1 <= found <= segment.sequence:
                return found
            reason = f"the log is said to begin at segment {found}, this is {segment.sequence}"
            self._report.damage(segment.path, 0, reason)
            break
        return self._listing.segments[0].sequence

    def _verify_segment(self, segment: SegmentFile) -> None:
        report = self._report
        header = segment.header
        if header is None:
            report.damage(segment.path, 0, segment.fault or "the segment cannot be read")
            return
        if segment.size != header.segment_bytes:
            offset = min(segment.size, header.segment_bytes)
            reason = f"the file has {segment.size} bytes, its header says {header.segment_bytes}"
            report.damage(segment.path, offset, reason)
        self._verify_link(segment)
        is_tail = segment is self._tail
        end = sealed_end(segment, self._segments.get(segment.sequence + 1))
        damages_before = len(report.damages)
        index = SegmentIndex(segment.sequence)
        walk = SegmentWalk(self._files, segment, end)
        first_sequence = header.first_sequence
        for found in walk:
            self._take(segment, found, index)
            prefix = found.prefix
            if prefix is not None and prefix.kind == RecordKind.MARK and found.fault is None:
                if prefix.first_index < first_sequence:
                    reason = (
                        f"the log begins at segment {prefix.first_index} after {first_sequence}"
                    )
                    report.damage(segment.path, found.offset, reason)
                first_sequence = prefix.first_index
        if walk.torn_bytes:
            report.notes.append(
                f"{segment.path}, offset {walk.end}: {walk.torn_bytes} bytes of a torn tail, which "
                "was never synced; the next start cuts it"
            )
        if not is_tail and end is not None:
            is_whole = len(report.damages) == damages_before
            self._verify_dump(segment, end, index if is_whole else None)

    def _verify_link(self, segment: SegmentFile) -> None:
        """Hold a header against that of the segment before."""
        header = segment.header
        assert header is not None
        if segment.sequence == 1 and (header.previous_seed or header.previous_end):
            reason = "the first segment of a log says that it continues another"
            self._report.damage(segment.path, 0, reason)
        before = self._segments.get(segment.sequence - 1)
        if before is None or before.header is None or before.sequence < self._report.first_sequence:
            return
        if before.header.seed != header.previous_seed:
            reason = f"the segment does not continue segment {before.sequence} beside it"
            self._report.damage(segment.path, 0, reason)
        elif sealed_end(before, segment) is None:
            reason = f"the segment before it cannot end at {header.previous_end}"
            self._report.damage(segment.path, 0, reason)
        if header.first_sequence < before.header.first_sequence:
            reason = (
                f"the log begins at segment {header.first_sequence}, "
                f"and began at {before.header.first_sequence} before"
            )
            self._report.damage(segment.path, 0, reason)

    def _take(self, segment: SegmentFile, found: FoundRecord, index: SegmentIndex) -> None:
        """Take what stands at one place into the picture."""
        report, path, offset = self._report, segment.path, found.offset
        prefix, reason = found.prefix, found.fault
        if prefix is None:
            report.damage(path, offset, f"{reason}, and it had been synced")
            return
        report.records += 1
        report.record_bytes += prefix.length
        metadata = None
        name = "" if prefix.kind in _WITHOUT_GROUP else f"group {prefix.group}: "
        if reason is None:
            try:
                content = decode_body(prefix, found.body)
                metadata = content if isinstance(content, GroupMetadata) else None
            except DecodeError as error:
                reason = str(error)
        if reason is not None:
            report.damage(path, offset, f"{name}{reason}")
        if prefix.kind in _WITHOUT_GROUP or prefix.kind not in list(RecordKind):
            return
        history = report.groups.get(prefix.group)
        if history is None:
            history = report.groups[prefix.group] = GroupHistory(prefix.group)
        if metadata is None and prefix.kind in (RecordKind.GROUP, RecordKind.RESET):
            history.lose((path, offset))
            return
        for fault in history.take(prefix, metadata, (path, offset)):
            report.damage(path, offset, f"{name}{fault}")
        _enter(index, prefix, metadata, offset)

    def _verify_dump(self, segment: SegmentFile, end: int, scanned: SegmentIndex | None) -> None:
        """Hold a segment's dump against its records, ``scanned``, if those are sound."""
        header = segment.header
        assert header is not None
        found = read_dump(self._files, self._report.directory, header, end)
        if found is False:
            return
        path = dump_path(self._report.directory, segment.sequence)
        if found is True:
            reason = "the index is damaged: remove it, the next start makes it anew"
            self._report.damage(path, 0, reason)
        elif scanned is not None:
            assert isinstance(found, SegmentIndex)
            for group in sorted({*found.sections, *scanned.sections}):
                if _fields(found, group) != _fields(scanned, group):
                    reason = (
                        f"group {group}: the index says other things than the segment's records"
                    )
                    self._report.damage(path, 0, reason)


def _enter(
    index: SegmentIndex, prefix: RecordPrefix, metadata: GroupMetadata | None, offset: int
) -> None:
    """Let the index of a segment, as its dump should have it, take a sound record."""
    section = index.section(prefix.group)
    entries_range = (prefix.first_index, prefix.last_index, prefix.entries_term)
    if metadata is not None:
        take = section.reset if prefix.kind == RecordKind.RESET else section.describe
        take(prefix.hard_state, metadata)
    elif prefix.kind == RecordKind.COPY:
        section.copy(prefix.hard_state, Slot(*entries_range, index.sequence, offset, prefix.length))
    elif prefix.kind == RecordKind.REMOVED:
        section.remove()
    else:
        section.append(prefix.hard_state, *entries_range, offset, prefix.length)


def _fields(index: SegmentIndex, group: int) -> tuple[object, ...] | None:
    section: Section | None = index.sections.get(group)
    if section is None:
        return None
    columns = [column.tolist() for column in section.appended.columns()]
    return (
        section.is_reset,
        section.is_removed,
        section.hard_state,
        section.metadata,
        section.truncated_from,
        section.copies,
        section.fault,
        columns,
    )
