"""What the names in a log's directory prove to be lost.

A log has had a segment ever since it was made, and is made durably before anything relies on it.
Segments leave a log oldest first, and the index of a segment is dumped once the segment after it
exists durably. So where no segment is, or where an index lies beside the last one or stands for a
later one, segments were taken away: no crash leaves that behind.

The last segment alone can be lost without a trace as long as the one before it has no index yet.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from rafter_storage.errors import Damage
from rafter_storage.file_system import FileSystem
from rafter_storage.index_dump import dumped_sequence_of
from rafter_storage.segment import segment_path, sequence_of

__all__ = ["find_loss", "loss_among"]


def find_loss(files: FileSystem, directory: Path) -> Damage | None:
    """Return what is missing of the log in ``directory``, None if its names prove nothing.

    A segment that is missing between others, or before them, is for recovery to find: it takes
    reading to know. Raises OSError.
    """
    try:
        names = files.names(directory)
    except FileNotFoundError:
        return Damage(directory, 0, "the directory of the log is missing")
    sequences = [number for name in names if (number := sequence_of(name)) is not None]
    dumps = [number for name in names if (number := dumped_sequence_of(name)) is not None]
    return loss_among(directory, sequences, dumps)


def loss_among(
    directory: Path, sequences: Collection[int], dumps: Collection[int]
) -> Damage | None:
    """Return what is missing where there are these segments, and dumps of the indexes of these."""
    if not sequences:
        reason = "the log has no segment left, and a log has had one since it was made"
        return Damage(directory, 0, reason)
    dumped = max(dumps, default=0)
    if dumped < max(sequences):
        return None
    reason = (
        f"the segment is missing, though segment {dumped} has an index, "
        "which is made once there is a segment behind it"
    )
    return Damage(segment_path(directory, dumped + 1), 0, reason)
