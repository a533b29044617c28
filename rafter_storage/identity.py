"""Who a data directory is: the identity that a node keeps for as long as its disk.

A node is (cluster id, node id, incarnation). The incarnation is drawn when the directory is made,
so that a node whose disk was emptied cannot come back under the old one and vote again in terms it
has forgotten. The file is written last of all when a directory is made: with an identity there has
always been a place for each shard's log, and a missing one is a loss, not a first start.
"""

import json
import os
import secrets
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from rafter_storage.data_directory import DataDirectory
from rafter_storage.errors import DataDirectoryError, IdentityError
from rafter_storage.file_system import FileSystem, read_exactly, write_exactly
from rafter_storage.segment import sequence_of

__all__ = ["IDENTITY_FORMAT", "Identity", "cluster_id_of"]

IDENTITY_FORMAT = 1

_FILE_BYTES_MAX = 64 << 10


class Identity(NamedTuple):
    """What was fixed when the data directory was made. ``incarnation`` is drawn, never 0."""

    cluster_id: int
    cluster_name: str
    node_id: int
    incarnation: int
    groups: int
    replication: int
    shards: int

    @classmethod
    def load_or_create(
        cls,
        directory: DataDirectory,
        *,
        cluster_name: str,
        node_id: int,
        groups: int,
        replication: int,
        shards: int,
        cluster_id: int | None = None,
    ) -> "Identity":
        """Return the directory's identity, which must be the one configured, or give it one.

        Without ``cluster_id`` it is derived from the name, so that nodes that are started apart
        agree on it. On return the identity and the shards' directories are durable. Raises
        ``IdentityError`` naming file, found and expected when the directory is another's,
        ``DataDirectoryError`` when parts of it are missing or damaged.
        """
        if cluster_id is None:
            cluster_id = cluster_id_of(cluster_name)
        configured = cls(cluster_id, cluster_name, node_id, 0, groups, replication, shards)
        try:
            if os.path.lexists(directory.identity_path):
                found = _load(directory.files, directory.identity_path)
                _check(directory.identity_path, found, configured)
                _check_shards(directory, found)
                return found
            created = configured._replace(incarnation=secrets.randbits(64) or 1)
            _create(directory, created)
        except OSError as error:
            raise DataDirectoryError(
                f"cannot read or make the identity in {directory.path}: {error}"
            ) from error
        return created


def cluster_id_of(cluster_name: str) -> int:
    """Return the cluster id that follows from a cluster's name. Never 0."""
    return xxh3_64_intdigest(cluster_name.encode()) or 1


def _create(directory: DataDirectory, identity: Identity) -> None:
    """Make the shards' directories, then the identity: temporary, synced, renamed, synced."""
    files = directory.files
    shards = directory.shard_directory(0).parent
    for path in sorted(shards.glob("*/wal/*")):
        if sequence_of(path.name) is not None:
            raise DataDirectoryError(
                f"{directory.identity_path} is missing, but {path} exists: restore the identity, "
                "or move the directory away and let the node join as a new one"
            )
    wanted = [shards]
    for shard in range(identity.shards):
        wanted += [directory.shard_directory(shard), directory.shard_directory(shard) / "wal"]
    for path in wanted:
        if not path.is_dir():
            files.make_directory(path)
        files.sync_directory(path.parent)
    temporary = directory.identity_path.with_suffix(".tmp")
    descriptor = files.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_exactly(files, descriptor, [_encode(identity)], 0)
        files.sync_data(descriptor)
    finally:
        files.close(descriptor)
    files.rename(temporary, directory.identity_path)
    files.sync_directory(directory.path)


def _encode(identity: Identity) -> bytes:
    """Write an identity as JSON. Words of 64 bits are in hexadecimal, which no reader rounds."""
    fields: dict[str, object] = {
        "format": IDENTITY_FORMAT,
        **identity._asdict(),
        "cluster_id": f"{identity.cluster_id:016x}",
        "incarnation": f"{identity.incarnation:016x}",
    }
    fields["checksum"] = _checksum(fields)
    return json.dumps(fields, indent=2).encode() + b"\n"


def _load(files: FileSystem, path: Path) -> Identity:
    """Read an identity, believing nothing that the checksum does not cover."""
    descriptor = files.open(path, os.O_RDONLY)
    try:
        data = read_exactly(files, descriptor, _FILE_BYTES_MAX, 0)
    finally:
        files.close(descriptor)
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise IdentityError(f"{path} is damaged: {error}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("format"), int):
        raise IdentityError(f"{path} is damaged: it names no format")
    if fields["format"] > IDENTITY_FORMAT:
        raise IdentityError(
            f"{path} has format {fields['format']}, this program reads up to {IDENTITY_FORMAT}: "
            "start the version of rafterd that wrote it"
        )
    checksum = fields.pop("checksum", None)
    if checksum != _checksum(fields):
        raise IdentityError(f"{path} is damaged: its checksum does not match")
    try:
        return Identity(
            cluster_id=int(fields["cluster_id"], 16),
            cluster_name=str(fields["cluster_name"]),
            node_id=int(fields["node_id"]),
            incarnation=int(fields["incarnation"], 16),
            groups=int(fields["groups"]),
            replication=int(fields["replication"]),
            shards=int(fields["shards"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise IdentityError(f"{path} is not an identity: {error!r}") from error


def _check(path: Path, found: Identity, configured: Identity) -> None:
    """Refuse a directory that belongs to another node or cluster than configured."""
    for name in ("cluster_name", "cluster_id", "node_id", "groups", "replication"):
        if getattr(found, name) != getattr(configured, name):
            raise IdentityError(
                f"{path}: {name} is {getattr(found, name)!r}, "
                f"configured is {getattr(configured, name)!r}"
            )
    if found.shards != configured.shards:
        raise IdentityError(
            "changes of node.shards between starts are not supported yet: "
            f"{path} has {found.shards}, configured is {configured.shards}"
        )


def _check_shards(directory: DataDirectory, identity: Identity) -> None:
    """Refuse to go on without the log of a shard: its votes and entries would be forgotten."""
    for shard in range(identity.shards):
        path = directory.shard_directory(shard) / "wal"
        if not path.is_dir():
            raise DataDirectoryError(
                f"{path} is missing: the votes and entries of this node were there; restore it, "
                "or move the directory away and let the node join as a new one"
            )


def _checksum(fields: dict[str, object]) -> str:
    return f"{xxh3_64_intdigest(json.dumps(fields, sort_keys=True).encode()):016x}"
