"""What the parts of a shard are made with: its configuration, in the words of each part."""

from pathlib import Path

from rafter_core import Config as CoreConfig
from rafter_storage.data_directory import shard_directory
from rafter_storage.file_system import FileSystem
from rafter_storage.segment_manager import SegmentManager
from rafter_transport.handshake import VERSION_MAX, Hello
from rafter_transport.limits import Limits
from rafterd.boot import ShardBoot
from rafterd.config_schema import Config

__all__ = ["ITEMS_VERSION", "core_config", "link_limits", "make_hello", "open_log"]


ITEMS_VERSION = 3
"""The first version whose items are encoded as here. The links themselves speak older ones, too."""


def make_hello(boot: ShardBoot) -> Hello:
    """Return who this shard is, for the shards of other nodes."""
    config = boot.config
    return Hello(
        version_min=ITEMS_VERSION,
        version_max=VERSION_MAX,
        cluster_id=config.cluster_id,
        node_id=config.node.id,
        incarnation=boot.identity.incarnation,
        shard=boot.shard,
        shards=config.node.shards,
        client_host=config.announce_host,
        client_port=config.client.port,
        peer_host=config.peer_address.host,
        peer_port=config.peer_address.port,
    )


def link_limits(config: Config) -> Limits:
    """Return the limits of links to other nodes."""
    peer = config.peer
    return Limits(
        frame_bytes_max=peer.frame_bytes_max,
        pending_bytes_max=peer.pending_bytes_max,
        node_bytes_max=peer.node_bytes_max,
        connections_max=peer.connections_max,
        handshake_seconds=peer.handshake_seconds,
        idle_seconds=peer.idle_seconds,
        reconnect_cap_seconds=peer.reconnect_seconds_max,
    )


def core_config(config: Config, applied: int) -> CoreConfig:
    """Return the configuration of a replica whose state machine holds the log up to `applied`."""
    raft = config.raft
    return CoreConfig(
        node_id=config.node.id,
        election_timeout_ticks=raft.election_timeout_ticks,
        heartbeat_ticks=raft.heartbeat_ticks,
        eager_commit=False,
        # Routers know the leaders, and repeat under a session what was dropped.
        forward_proposals=False,
        message_bytes_max=raft.message_bytes_max,
        inflight_messages_max=raft.inflight_messages_max,
        inflight_bytes_max=raft.inflight_bytes_max,
        uncommitted_bytes_max=raft.uncommitted_bytes_max,
        committed_bytes_per_ready_max=raft.committed_bytes_per_ready_max,
        applied=applied,
    )


def open_log(boot: ShardBoot, files: FileSystem) -> SegmentManager:
    """Recover the log of this shard. Raises StorageError."""
    storage = boot.config.storage
    directory = shard_directory(Path(boot.config.node.data_dir), boot.identity.layout, boot.shard)
    store = SegmentManager(
        directory,
        segment_bytes=storage.segment_bytes,
        tail_bytes_max=storage.tail_bytes_max,
        files=files,
    )
    store.open()
    return store
