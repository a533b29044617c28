"""Who a data directory is: the identity that a node keeps for as long as its disk.

A node is (cluster id, node id, incarnation). The incarnation is drawn when the directory is made,
so that a node whose disk was emptied cannot come back under the old one and vote again in terms it
has forgotten.

It also names the layout whose logs are valid, so that replacing this one file moves a node from
one number of shards to another (``resharding``). The first start does the same, from a layout 0
without shards: the identity is there before any log is, and it names only logs that are durable
with their first segments. So a log without an identity is a loss, and a log that is named and is
missing or empty is one, too; neither is ever taken for a first start.
"""

import json
import os
import secrets
from collections.abc import Callable
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from rafter_storage.data_directory import IDENTITY_TEMPORARY_NAME, DataDirectory, is_directory
from rafter_storage.errors import DataDirectoryError, IdentityError
from rafter_storage.file_system import read_exactly, write_exactly
from rafter_storage.log_loss import find_loss

__all__ = ["IDENTITY_FORMAT", "Identity", "cluster_id_of", "draw_incarnation"]

IDENTITY_FORMAT = 2

_FILE_BYTES_MAX = 64 << 10
_FIXED = ("cluster_name", "cluster_id", "node_id", "groups", "replication")


def draw_incarnation() -> int:
    """Return a random word of 64 bits that is not 0."""
    return secrets.randbits(64) or 1


class Identity(NamedTuple):
    """Whose a data directory is, and which of its layouts is valid.

    All but ``shards`` and ``layout`` was fixed when the directory was made; ``incarnation`` is
    drawn, never 0. ``layout`` counts from 1; ``shards`` is how many shards that layout has. Both
    are 0 until the first start has made the logs.
    """

    cluster_id: int
    cluster_name: str
    node_id: int
    incarnation: int
    groups: int
    replication: int
    shards: int
    layout: int

    @classmethod
    def load_or_create(
        cls,
        directory: DataDirectory,
        *,
        cluster_name: str,
        node_id: int,
        groups: int,
        replication: int,
        cluster_id: int | None = None,
        draw: Callable[[], int] = draw_incarnation,
    ) -> "Identity":
        """Return the directory's identity, which must be the one configured, or give it one.

        Without ``cluster_id`` it is derived from the name, so that nodes that are started apart
        agree on it. The identity is durable on return, and so are the logs that it names; a new one
        names none, and ``settle_layout`` follows. Raises ``IdentityError`` naming file, found and
        expected when the directory is another's, ``DataDirectoryError`` when parts of it are
        missing or damaged.
        """
        if cluster_id is None:
            cluster_id = cluster_id_of(cluster_name)
        configured = cls(cluster_id, cluster_name, node_id, 0, groups, replication, 0, 0)
        try:
            if directory.files.status(directory.identity_path) is None:
                created = configured._replace(incarnation=draw())
                _create(directory, created)
                return created
            found = _load(directory)
            _check(directory, found, configured)
            # An earlier start may have been killed between its rename and its sync.
            directory.files.sync_directory(directory.path)
        except OSError as error:
            raise DataDirectoryError(
                f"cannot read or make the identity in {directory.path}: {error}"
            ) from error
        return found

    def store(self, directory: DataDirectory) -> None:
        """Make this the directory's identity, in the place of the one before; durable on return.

        Raises OSError. Then either of the two may be the one that the next start finds.
        """
        files = directory.files
        temporary = directory.path / IDENTITY_TEMPORARY_NAME
        descriptor = files.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            write_exactly(files, descriptor, [_encode(self)], 0)
            files.sync_data(descriptor)
        finally:
            files.close(descriptor)
        files.rename(temporary, directory.identity_path)
        files.sync_directory(directory.path)


def cluster_id_of(cluster_name: str) -> int:
    """Return the cluster id that follows from a cluster's name. Never 0."""
    return xxh3_64_intdigest(cluster_name.encode()) or 1


def _create(directory: DataDirectory, identity: Identity) -> None:
    """Make the place of snapshots, then the identity."""
    _check_unused(directory)
    directory.make_directories([directory.snapshots_directory])
    identity.store(directory)


def _check_unused(directory: DataDirectory) -> None:
    """Refuse to draw an identity over what a node has kept under another one."""
    files = directory.files
    places = [directory.snapshots_directory]
    for layout in directory.layouts():
        tree = directory.layout_directory(layout)
        places += [tree / shard / "wal" for shard in files.names(tree)]
    for place in places:
        names = files.names(place) if is_directory(files, place) else []
        if names:
            raise DataDirectoryError(
                f"{directory.identity_path} is missing, but {place / names[0]} exists: restore "
                "the identity, or move the directory away and have the node replaced"
            )


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


def _load(directory: DataDirectory) -> Identity:
    """Read the identity, believing nothing that the checksum does not cover."""
    files, path = directory.files, directory.identity_path
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
    if fields["format"] != IDENTITY_FORMAT:
        raise IdentityError(
            f"{path} has format {fields['format']}, this program reads {IDENTITY_FORMAT}: "
            "start the version of rafterd that wrote it"
        )
    checksum = fields.pop("checksum", None)
    if checksum != _checksum(fields):
        raise IdentityError(f"{path} is damaged: its checksum does not match")
    try:
        identity = Identity(
            cluster_id=int(fields["cluster_id"], 16),
            cluster_name=str(fields["cluster_name"]),
            node_id=int(fields["node_id"]),
            incarnation=int(fields["incarnation"], 16),
            groups=int(fields["groups"]),
            replication=int(fields["replication"]),
            shards=int(fields["shards"]),
            layout=int(fields["layout"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise IdentityError(f"{path} is not an identity: {error!r}") from error
    shards, layout = identity.shards, identity.layout
    if min(shards, layout) < 0 or (shards == 0) != (layout == 0):
        raise IdentityError(
            f"{path} is not an identity: it has {shards} shards in layout {layout}, "
            "both begin at 1, and are 0 together before there are logs"
        )
    return identity


def _check(directory: DataDirectory, found: Identity, configured: Identity) -> None:
    """Refuse a directory of another node or cluster, and one that has lost a part.

    Without the log of a shard its votes and entries would be forgotten. What takes reading to find
    is left to recovery, which takes the groups out that are affected.
    """
    for name in _FIXED:
        if getattr(found, name) != getattr(configured, name):
            raise IdentityError(
                f"{directory.identity_path}: {name} is {getattr(found, name)!r}, "
                f"configured is {getattr(configured, name)!r}"
            )
    if not is_directory(directory.files, directory.snapshots_directory):
        raise _lost(f"{directory.snapshots_directory} is missing", "the snapshots")
    for shard in range(found.shards):
        loss = find_loss(directory.files, directory.wal_directory(found.layout, shard))
        if loss is not None:
            raise _lost(f"{loss.path}: {loss.reason}", "votes and entries")


def _lost(what: str, content: str) -> DataDirectoryError:
    return DataDirectoryError(
        f"{what}. {content.capitalize()} of this node were there: restore them, or move the "
        "data directory away and have the node replaced"
    )


def _checksum(fields: dict[str, object]) -> str:
    return f"{xxh3_64_intdigest(json.dumps(fields, sort_keys=True).encode()):016x}"
