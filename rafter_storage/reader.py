"""Reading records back, each verified before a byte of it is believed."""

import os
from collections import OrderedDict
from pathlib import Path

from rafter_core.entries import Entry
from rafter_core.errors import DecodeError
from rafter_core.serializer import unpack_entries
from rafter_storage.errors import CorruptionError, Damage, StorageError
from rafter_storage.file_system import FileSystem, read_exactly
from rafter_storage.record import PREFIX_BYTES, RecordKind, decode_prefix, is_body_valid
from rafter_storage.segment import SEGMENT_BYTES_MAX

__all__ = ["RecordReader"]

_DESCRIPTORS_MAX = 16
_WITH_ENTRIES = (RecordKind.ENTRIES, RecordKind.COPY)


class RecordReader:
    """Reads records of any segment of one shard. Owner thread only.

    Holds a bounded number of files open, and the last record it decoded, because a large record
    is often asked for in several portions.
    """

    def __init__(self, files: FileSystem) -> None:
        self._files = files
        self._segments: dict[int, tuple[Path, int]] = {}
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        self._last_place: tuple[int, int] = (0, 0)
        self._last_entries: list[Entry] = []

    @property
    def segment_count(self) -> int:
        """How many segments the log has."""
        return len(self._segments)

    def add_segment(self, sequence: int, path: Path, seed: int) -> None:
        """Make a segment's records readable. The file must exist."""
        self._segments[sequence] = (path, seed)

    def forget_segment(self, sequence: int) -> None:
        """Let go of a segment that is about to be removed, or to become another one."""
        del self._segments[sequence]
        descriptor = self._descriptors.pop(sequence, None)
        if descriptor is not None:
            self._files.close(descriptor)
        if self._last_place[0] == sequence:
            self._last_place = (0, 0)

    def path(self, sequence: int) -> Path:
        """Return the file of a segment."""
        return self._segments[sequence][0]

    def read(self, group: int, sequence: int, offset: int, length: int) -> list[Entry]:
        """Return the entries of the record at ``offset``; the list must not be changed.

        Raises ``CorruptionError`` unless the record is there, whole, and of this group, and
        ``StorageError`` if the disk cannot be read.
        """
        if self._last_place == (sequence, offset):
            return self._last_entries
        path, seed = self._segments[sequence]
        try:
            data = read_exactly(self._files, self._descriptor(sequence, path), length, offset)
        except OSError as error:
            raise StorageError(f"cannot read {path} at offset {offset}: {error}") from error
        prefix = decode_prefix(seed, data, 0, offset, SEGMENT_BYTES_MAX)
        if prefix is None:
            raise CorruptionError(Damage(path, offset, "the record's prefix is damaged"), group)
        if not is_body_valid(seed, prefix, data, 0, offset):
            raise CorruptionError(Damage(path, offset, "the record's body is damaged"), group)
        if prefix.kind not in _WITH_ENTRIES or prefix.group != group or not prefix.first_index:
            reason = (
                f"the record is of kind {prefix.kind} and of group {prefix.group}, "
                f"the index expects entries of group {group}"
            )
            raise CorruptionError(Damage(path, offset, reason), group)
        try:
            entries = unpack_entries(memoryview(data)[PREFIX_BYTES:])
        except DecodeError as error:
            reason = f"the record's entries cannot be decoded: {error}"
            raise CorruptionError(Damage(path, offset, reason), group) from error
        self._last_place = (sequence, offset)
        self._last_entries = entries
        return entries

    def close(self) -> None:
        """Close all files."""
        while self._descriptors:
            self._files.close(self._descriptors.popitem()[1])

    def _descriptor(self, sequence: int, path: Path) -> int:
        """Return an open descriptor, closing the one least recently used when there are many."""
        descriptor = self._descriptors.get(sequence)
        if descriptor is not None:
            self._descriptors.move_to_end(sequence)
            return descriptor
        if len(self._descriptors) >= _DESCRIPTORS_MAX:
            self._files.close(self._descriptors.popitem(last=False)[1])
        descriptor = self._files.open(path, os.O_RDONLY)
        self._descriptors[sequence] = descriptor
        return descriptor
