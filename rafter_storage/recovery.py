"""Recovery: what a shard's log says after any kind of end.

The segments that are needed are taken in order: of a sealed one the index is loaded from its dump,
or made by a scan; the last one is scanned to its end. What is bad is never cut if it can be proved
to have been durable: its group, or when not even the group is known the shard, is not served.

This module decides and reads; it changes no file.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NamedTuple

from rafter_storage.errors import Damage
from rafter_storage.file_system import FileSystem, read_exactly
from rafter_storage.group_state import GroupState
from rafter_storage.index_dump import load_dump
from rafter_storage.log_loss import find_loss
from rafter_storage.scan import TailScan, scan_sealed, scan_tail
from rafter_storage.segment import (
    HEADER_BYTES,
    SegmentHeader,
    decode_header,
    segment_path,
    sequence_of,
)
from rafter_storage.segment_index import SegmentIndex
from rafter_storage.write_job import LogHead

__all__ = ["Recovery", "SealedIndex", "Tail"]

logger = logging.getLogger(__name__)


class Tail(NamedTuple):
    """The last segment, where the log goes on in it, and what it says so far.

    ``unproved`` are the bytes before the head that may never have been synced.
    """

    head: LogHead
    unproved: bytes
    segment_index: SegmentIndex


class SealedIndex(NamedTuple):
    """The index of a sealed segment whose dump is to be written."""

    header: SegmentHeader
    end: int
    segment_index: SegmentIndex


class Recovery:
    """One run over the segments in ``directory``.

    After ``run``: ``groups`` holds every group, ``headers`` the identity of every segment that is
    needed, ``retired`` the sequences of those on disk that are not, ``undumped`` the sealed
    segments without a good dump, ``damaged`` the groups that must not be served, ``shard_damage``
    the reason if that is all of them, ``tail`` where the log goes on (None with shard damage).
    """

    def __init__(self, files: FileSystem, directory: Path, tail_bytes_max: int) -> None:
        self._files = files
        self._directory = directory
        self._tail_bytes_max = tail_bytes_max
        self.groups: dict[int, GroupState] = {}
        self.headers: dict[int, SegmentHeader] = {}
        self.retired: list[int] = []
        self.undumped: list[SealedIndex] = []
        self.damaged: dict[int, Damage] = {}
        self.shard_damage: Damage | None = None
        self.tail: Tail | None = None

    def run(self) -> None:
        """Recover all. Raises ``StorageError`` for unknown formats, ``OSError`` from reads."""
        loss = find_loss(self._files, self._directory)
        if loss is not None:
            self._damage_shard(loss)
            return
        numbers = (sequence_of(name) for name in self._files.names(self._directory))
        sequences = sorted(number for number in numbers if number is not None)
        header = self._read_header(sequences[-1])
        if header is None:
            return
        index = SegmentIndex(header.sequence)
        tail = scan_tail(self._files, self._directory, header, index)
        self._select(sequences, tail.first_sequence)
        for sequence, sealed in sorted(self.headers.items())[:-1]:
            if self.shard_damage is None:
                self._recover_sealed(sealed, self.headers[sequence + 1].previous_end)
        self._recover_tail(header, tail, index)
        if self.shard_damage is None:
            self._check_groups()

    def _select(self, sequences: list[int], first_sequence: int) -> None:
        """Read the headers of the segments that are needed, and hold them against each other."""
        self.retired = [sequence for sequence in sequences if sequence < first_sequence]
        needed = range(first_sequence, sequences[-1] + 1)
        missing = sorted(set(needed) - set(sequences))
        if missing:
            path = segment_path(self._directory, missing[0])
            reason = f"the segment is missing, though segment {sequences[-1]} needs it"
            self._damage_shard(Damage(path, 0, reason))
            return
        previous: SegmentHeader | None = None
        for sequence in needed:
            header = self._read_header(sequence)
            if header is None:
                return
            if previous is not None and previous.seed != header.previous_seed:
                path = segment_path(self._directory, sequence)
                reason = f"the segment does not continue segment {previous.sequence} beside it"
                self._damage_shard(Damage(path, 0, reason))
                return
            self.headers[sequence] = previous = header

    def _read_header(self, sequence: int) -> SegmentHeader | None:
        """Read a segment's header and hold it against its name; None if that is damage."""
        path = segment_path(self._directory, sequence)
        descriptor = self._files.open(path, os.O_RDONLY)
        try:
            block = read_exactly(self._files, descriptor, HEADER_BYTES, 0)
        finally:
            self._files.close(descriptor)
        header = decode_header(path, block)
        if header is None:
            self._damage_shard(Damage(path, 0, "the segment's header is damaged"))
            return None
        if header.sequence != sequence:
            reason = f"the file holds segment {header.sequence} of a log"
            self._damage_shard(Damage(path, 0, reason))
            return None
        return header

    def _recover_sealed(self, header: SegmentHeader, end: int) -> None:
        index = load_dump(self._files, self._directory, header, end)
        if index is None:
            index = SegmentIndex(header.sequence)
            fault = scan_sealed(self._files, self._directory, header, end, index)
            if fault is None:
                self.undumped.append(SealedIndex(header, end, index))
            else:
                path = segment_path(self._directory, header.sequence)
                damage = Damage(path, fault.offset, fault.reason)
                # The scan could not go on, and any group may have records behind the fault.
                self._damage_shard(damage)
                return
        self._absorb(header, index)

    def _recover_tail(self, header: SegmentHeader, tail: TailScan, index: SegmentIndex) -> None:
        path = segment_path(self._directory, header.sequence)
        for fault in tail.faults:
            damage = Damage(path, fault.offset, fault.reason)
            if fault.group is None:
                self._damage_shard(damage)
            else:
                self._damage_group(fault.group, damage)
        if self.shard_damage is not None:
            return
        if tail.torn_bytes:
            logger.warning(
                "%s: torn record at offset %d: cutting %d bytes that were never synced",
                path,
                tail.end,
                tail.torn_bytes,
            )
        self._absorb(header, index)
        # Behind a cut there must be a new mark: a job that repeats what was cut, byte for byte,
        # would otherwise be continued by the records that stood behind it. A segment without
        # records says what a mark would in its header.
        is_marked = (tail.is_marked or tail.end == HEADER_BYTES) and not tail.torn_bytes
        head = LogHead(header, tail.end, tail.chain, is_marked=is_marked)
        self.tail = Tail(head, tail.unproved, index)

    def _absorb(self, header: SegmentHeader, index: SegmentIndex) -> None:
        """Let every group take what a segment says of it."""
        path = segment_path(self._directory, header.sequence)
        for group, section in index.sections.items():
            if section.is_removed:
                self.groups.pop(group, None)
                self.damaged.pop(group, None)
                continue
            state = self.groups.get(group)
            if state is None or (section.is_reset and group not in self.damaged):
                state = self.groups[group] = GroupState(group, self._tail_bytes_max)
            if group not in self.damaged:
                fault = state.absorb(header.sequence, section)
                if fault is not None:
                    self._damage_group(group, Damage(path, 0, fault))

    def _check_groups(self) -> None:
        """Check what must hold of each whole log, and set the states up for going on."""
        for group, state in sorted(self.groups.items()):
            fault = None if group in self.damaged else state.fault()
            if fault is not None:
                self._damage_group(group, Damage(self._directory, 0, fault))
            state.start()

    def _damage_group(self, group: int, damage: Damage) -> None:
        if group not in self.damaged:
            logger.error("group %d is damaged and not served: %s", group, damage)
            self.damaged[group] = damage

    def _damage_shard(self, damage: Damage) -> None:
        logger.error("the log is damaged, no group of this shard is served: %s", damage)
        if self.shard_damage is None:
            self.shard_damage = damage
