"""Recovery: what a shard's log says after any kind of end.

Every segment is read once, in order. A record that is not valid is *torn* when nothing proves that
it had ever been synced: then the log is cut there, and everything behind it goes too, since it was
not synced either. The proof is a later record whose ``synced_offset`` lies beyond it, or a later
segment, which is only made once the one before is synced. What is bad and proved is *corruption*:
it is never cut, and its group (or, when not even the group is known, the shard) is not served.

This module decides and reads; it changes no file. Cutting the tail is the segment manager's.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rafter_core.errors import DecodeError
from rafter_core.serializer import unpack_entries
from rafter_storage.errors import Damage, StorageError
from rafter_storage.file_system import FileSystem, read_exactly
from rafter_storage.group_log import GroupState
from rafter_storage.record import (
    ALIGNMENT,
    MAGIC_BYTES,
    PREFIX_BYTES,
    RecordKind,
    RecordPrefix,
    align,
    decode_prefix,
    is_body_valid,
)
from rafter_storage.segment import (
    HEADER_BYTES,
    LoadedSegment,
    SegmentHeader,
    decode_header,
    load_segment,
    segment_path,
    sequence_of,
)

__all__ = ["Recovery", "Tail"]

logger = logging.getLogger(__name__)


class Tail(NamedTuple):
    """The last segment, and where the log goes on in it.

    ``is_torn`` says that bytes behind ``end`` must be zeroed before anything is written.
    ``is_marked`` says that the last record is a sync mark.
    """

    header: SegmentHeader
    end: int
    is_torn: bool
    is_marked: bool


class _Found(NamedTuple):
    """One step of a scan: a record, or a place where one should have begun."""

    offset: int
    prefix: RecordPrefix | None
    is_valid: bool


class Recovery:
    """One run over the segments in ``directory``.

    After ``run``: ``groups`` holds every group seen, ``headers`` the identity of every intact
    segment, ``damaged`` the groups that must not be served, ``shard_damage`` the reason if that
    is all of them, ``tail`` where the log goes on (None without segments or with shard damage).
    """

    def __init__(self, files: FileSystem, directory: Path, tail_bytes_max: int) -> None:
        self._files = files
        self._directory = directory
        self._tail_bytes_max = tail_bytes_max
        self.groups: dict[int, GroupState] = {}
        self.headers: dict[int, SegmentHeader] = {}
        self.damaged: dict[int, Damage] = {}
        self.shard_damage: Damage | None = None
        self.tail: Tail | None = None
        self.records = 0

    def run(self) -> None:
        """Scan everything. Raises ``StorageError`` for unknown formats, ``OSError`` from reads."""
        sequences = self._sequences()
        for sequence in sequences:
            self._read_header(sequence)
        for sequence, header in self.headers.items():
            path = segment_path(self._directory, sequence)
            segment = load_segment(self._files, path)
            if sequence == sequences[-1]:
                self._scan_last(path, header, segment)
            else:
                self._scan_sealed(path, header, segment)
        self._check_groups()

    def _sequences(self) -> list[int]:
        """List the segments, noticing the ones that are missing between or before them."""
        numbers = (sequence_of(name) for name in self._files.names(self._directory))
        sequences = sorted(number for number in numbers if number is not None)
        for expected, found in enumerate(sequences, 1):
            if expected != found:
                path = segment_path(self._directory, expected)
                reason = f"the segment is missing, though segment {found} exists"
                self._damage_shard(Damage(path, 0, reason))
                break
        return sequences

    def _read_header(self, sequence: int) -> None:
        """Read a segment's header and hold it against its name and the segment before."""
        path = segment_path(self._directory, sequence)
        descriptor = self._files.open(path, os.O_RDONLY)
        try:
            block = read_exactly(self._files, descriptor, HEADER_BYTES, 0)
        finally:
            self._files.close(descriptor)
        header = decode_header(path, block)
        if header is None:
            self._damage_shard(Damage(path, 0, "the segment's header is damaged"))
            return
        if header.sequence != sequence:
            reason = f"the file holds segment {header.sequence} of a log"
            self._damage_shard(Damage(path, 0, reason))
            return
        previous = self.headers.get(sequence - 1)
        if previous is not None and previous.seed != header.previous_seed:
            reason = f"the segment does not continue segment {previous.sequence} beside it"
            self._damage_shard(Damage(path, 0, reason))
        self.headers[sequence] = header

    def _scan_sealed(self, path: Path, header: SegmentHeader, segment: LoadedSegment) -> None:
        """Scan a segment that was synced to its end, because another one follows."""
        following = self.headers.get(header.sequence + 1)
        # Without the header behind it the shard is damaged anyway: scan for what can be told.
        end = segment.used if following is None else following.previous_end
        reached = HEADER_BYTES
        for found in _scan(header.seed, segment, end):
            if found.is_valid:
                reached, _ = self._apply(path, header.sequence, segment, found)
            else:
                proof = "which a later segment proves to have been synced"
                reached, _ = self._damage(path, found, proof)
        if following is not None and reached > end:
            reason = f"the last record reaches beyond the end of the segment's records at {end}"
            self._damage_shard(Damage(path, end, reason))

    def _scan_last(self, path: Path, header: SegmentHeader, segment: LoadedSegment) -> None:
        """Scan the segment that was being written, and find where the log ends."""
        end = HEADER_BYTES
        is_marked = False
        synced_offset = 0
        # From the first bad record on nothing is applied until the proof for it is in.
        held: list[_Found] = []
        for found in _scan(header.seed, segment, segment.used):
            if found.prefix is not None:
                synced_offset = max(synced_offset, found.prefix.synced_offset)
            if held or not found.is_valid:
                held.append(found)
            else:
                end, is_marked = self._apply(path, header.sequence, segment, found)
        is_torn = False
        for found in held:
            if found.is_valid:
                end, is_marked = self._apply(path, header.sequence, segment, found)
            elif found.offset < synced_offset:
                reason = f"which had been synced up to offset {synced_offset}"
                end, is_marked = self._damage(path, found, reason)
            else:
                is_torn = True
                end = found.offset
                logger.warning(
                    "%s: torn record at offset %d: cutting %d bytes that were never synced",
                    path,
                    end,
                    segment.used - end,
                )
                break
        if self.shard_damage is None:
            self.tail = Tail(header, end, is_torn, is_marked)

    def _apply(
        self, path: Path, sequence: int, segment: LoadedSegment, found: _Found
    ) -> tuple[int, bool]:
        """Take a valid record into the index; return where it ends and whether it is a mark."""
        offset, prefix = found.offset, found.prefix
        assert prefix is not None
        self.records += 1
        end = offset + align(prefix.length)
        if prefix.kind == RecordKind.SYNC_MARK:
            return end, True
        if prefix.kind != RecordKind.ENTRIES:
            raise StorageError(
                f"{path}, offset {offset}: a record of kind {prefix.kind}, which this program "
                "does not know: start the version of rafterd that wrote it"
            )
        state = self.groups.get(prefix.group)
        if state is None:
            state = self.groups[prefix.group] = GroupState(prefix.group, self._tail_bytes_max)
        if self.shard_damage is None and prefix.group not in self.damaged:
            reason = self._index(state, sequence, segment, offset, prefix)
            if reason is not None:
                self._damage_group(prefix.group, Damage(path, offset, reason))
        return end, False

    def _index(
        self,
        state: GroupState,
        sequence: int,
        segment: LoadedSegment,
        offset: int,
        prefix: RecordPrefix,
    ) -> str | None:
        """Index a record of a sound group; return what is wrong if it contradicts the log."""
        first_index, last_index = prefix.first_index, prefix.last_index
        if first_index:
            index = state.index
            if not index.first_index <= first_index <= index.last_index + 1:
                return f"entries from {first_index} do not follow the log's {index.last_index}"
            if first_index <= state.hard_state.commit:
                return f"entries from {first_index} replace the committed {state.hard_state.commit}"
            if prefix.first_term == prefix.last_term:
                index.append(first_index, last_index, sequence, offset, prefix.length)
                index.add_term(first_index, prefix.last_term)
            else:
                body = segment.data[offset + PREFIX_BYTES : offset + prefix.length]
                try:
                    entries = unpack_entries(bytes(body))
                except DecodeError as error:
                    return f"the record's entries cannot be decoded: {error}"
                index.append(first_index, last_index, sequence, offset, prefix.length)
                index.add_terms(entries)
        state.hard_state = prefix.hard_state
        return None

    def _check_groups(self) -> None:
        """Check what must hold of each whole log, and set the states up for going on."""
        if self.shard_damage is not None:
            self.damaged = dict.fromkeys(self.groups, self.shard_damage)
            return
        for group, state in sorted(self.groups.items()):
            last_index = state.index.last_index
            if group not in self.damaged and state.hard_state.commit > last_index:
                reason = (
                    f"group {group} has the commit index {state.hard_state.commit}, "
                    f"but its log ends at {last_index}"
                )
                self._damage_group(group, Damage(self._directory, 0, reason))
            state.begun_hard_state = state.hard_state
            state.begun_last_index = last_index
            state.recent.restart(last_index)

    def _damage(self, path: Path, found: _Found, proof: str) -> tuple[int, bool]:
        """Note a bad record that had been synced; return what ``_apply`` does."""
        prefix = found.prefix
        if prefix is None:
            reason = f"no valid record prefix, {proof}"
            self._damage_shard(Damage(path, found.offset, reason))
            return found.offset, False
        reason = f"the body of a record of group {prefix.group} is damaged, {proof}"
        self._damage_group(prefix.group, Damage(path, found.offset, reason))
        return found.offset + align(prefix.length), False

    def _damage_group(self, group: int, damage: Damage) -> None:
        if group not in self.damaged:
            logger.error("group %d is damaged and not served: %s", group, damage)
            self.damaged[group] = damage

    def _damage_shard(self, damage: Damage) -> None:
        logger.error("the log is damaged, no group of this shard is served: %s", damage)
        if self.shard_damage is None:
            self.shard_damage = damage


def _scan(seed: int, segment: LoadedSegment, end: int) -> Iterator[_Found]:
    """Yield what stands at each record's place up to ``end``, going on behind what is bad."""
    data = segment.data
    offset = HEADER_BYTES
    while offset < end:
        prefix = decode_prefix(seed, data, offset, offset, len(data))
        if prefix is None:
            yield _Found(offset, None, False)
            offset = _find_prefix(seed, segment, offset + ALIGNMENT, end)
        else:
            yield _Found(offset, prefix, is_body_valid(seed, prefix, data, offset, offset))
            offset += align(prefix.length)


def _find_prefix(seed: int, segment: LoadedSegment, start: int, end: int) -> int:
    """Return the offset of the next valid prefix at ``start`` or behind, or ``end``."""
    data = segment.data
    offset = data.find(MAGIC_BYTES, start, end)
    while offset >= 0:
        if offset % ALIGNMENT == 0 and decode_prefix(seed, data, offset, offset, len(data)):
            return offset
        offset = data.find(MAGIC_BYTES, offset + 1, end)
    return end
