"""Bytes on disk: the log store of a shard, and the identity of a data directory.

No event loop and no raft decisions. ``SegmentManager`` keeps the logs of all groups of a shard,
``GroupLog`` is one of them as the raft core reads it, ``SnapshotStore`` keeps what state machines
save, ``DataDirectory`` and ``Identity`` say whose data it is. ``docs/storage.md`` has the formats
to the byte and what is promised.
"""

from rafter_storage.data_directory import DataDirectory
from rafter_storage.errors import (
    CorruptionError,
    Damage,
    DataDirectoryError,
    DiskFull,
    IdentityError,
    InvalidWrite,
    LockedError,
    Poisoned,
    SnapshotCorrupted,
    SnapshotFailed,
    SnapshotRefused,
    StorageError,
)
from rafter_storage.file_system import FileSystem, RealFileSystem
from rafter_storage.group_log import GroupLog
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.identity import Identity, cluster_id_of
from rafter_storage.segment_manager import (
    FoundedGroup,
    GroupChange,
    GroupWrite,
    SegmentManager,
    Statistics,
    WriteJob,
)
from rafter_storage.snapshot_store import SnapshotStore

__all__ = [
    "CorruptionError",
    "Damage",
    "DataDirectory",
    "DataDirectoryError",
    "DiskFull",
    "FileSystem",
    "FoundedGroup",
    "GroupChange",
    "GroupLog",
    "GroupMetadata",
    "GroupWrite",
    "Identity",
    "IdentityError",
    "InvalidWrite",
    "LockedError",
    "Poisoned",
    "RealFileSystem",
    "SegmentManager",
    "SnapshotCorrupted",
    "SnapshotFailed",
    "SnapshotRefused",
    "SnapshotStore",
    "Statistics",
    "StorageError",
    "WriteJob",
    "cluster_id_of",
]
