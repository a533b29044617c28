"""Errors of the storage room, by whose fault they are.

``StorageError`` is the family. The log's own ``Compacted`` and ``Unavailable`` belong to
``rafter_core``, because the core acts on them; everything here is beyond what the core may handle.
"""

from pathlib import Path
from typing import NamedTuple

__all__ = [
    "CorruptionError",
    "Damage",
    "DataDirectoryError",
    "DiskFull",
    "IdentityError",
    "InvalidWrite",
    "LockedError",
    "Poisoned",
    "SnapshotCorrupted",
    "SnapshotFailed",
    "SnapshotRefused",
    "StorageError",
]


class StorageError(Exception):
    """Base of every error raised by ``rafter_storage``."""


class Poisoned(StorageError):
    """A write or sync failed; nothing may be acknowledged by this manager any more.

    After a failed sync the kernel may have dropped the dirty pages and marked them clean, so a
    retry that succeeds proves nothing. The only way on is to stop, start again and recover.
    """


class InvalidWrite(StorageError):
    """The caller broke a rule of the log: a gap, a lowered term, a cut below the commit index.

    Raised by ``SegmentManager.begin``, before a byte is written. It is a broken invariant of the
    caller, so the manager refuses to go on after it.
    """


class Damage(NamedTuple):
    """A place on disk that had been durable and is not readable any more."""

    path: Path
    offset: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}, offset {self.offset}: {self.reason}"


class CorruptionError(StorageError):
    """Bytes that had been synced fail their checksum or contradict the log around them.

    The replica must be repaired from its peers or removed; it must not vote or acknowledge as if
    it never had those entries. ``group`` is None when the damage cannot be put down to one group.
    """

    def __init__(self, damage: Damage, group: int | None) -> None:
        owner = "every group of this shard" if group is None else f"group {group}"
        super().__init__(f"{damage} ({owner} is affected)")
        self.damage = damage
        self.group = group


class DataDirectoryError(StorageError):
    """The data directory cannot be used as it is: modes, owner, links, missing parts."""


class LockedError(DataDirectoryError):
    """Another process holds the data directory."""


class IdentityError(DataDirectoryError):
    """The data directory belongs to another node, cluster or version than was configured."""


class SnapshotCorrupted(StorageError):
    """A snapshot on disk is not what was published: bytes, sizes or names; ``damage`` says where.

    Nothing of the place was handed out. Use the next older snapshot, or have the replica repaired
    from its peers.
    """

    def __init__(self, damage: Damage) -> None:
        super().__init__(str(damage))
        self.damage = damage


class SnapshotFailed(StorageError):
    """A snapshot could not be written; what was there before is untouched.

    The unfinished one is gone, or goes when the store is opened the next time. With
    ``is_disk_full`` it is worth trying again once there is room.
    """

    def __init__(self, message: str, *, is_disk_full: bool = False) -> None:
        super().__init__(message)
        self.is_disk_full = is_disk_full


class SnapshotRefused(StorageError):
    """The caller, or the peer it speaks for, asks for what would harm; nothing was changed."""


class DiskFull(StorageError):
    """The disk has no room for another segment. Nothing was written, and nothing is broken.

    The job that met it can be run again once there is room; until then nothing of it may be
    acknowledged.
    """
