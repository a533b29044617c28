"""What the supervisor hands to a shard: everything that a shard process starts from."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rafter_storage.identity import Identity
    from rafter_transport.ring_pair import ShardEnd
    from rafterd.config import Config
    from rafterd.node_tls import NodeTls
    from rafterd.shared import SharedState

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_CONFIG = 78
"""EX_CONFIG: another start of the shard cannot succeed either, so the supervisor stops the node."""


@dataclass(frozen=True, slots=True)
class ShardBoot:
    """The start of one shard, made by the supervisor before the fork and used in the child alone.

    The supervisor calls `rafterd.shard.run_shard(boot) -> int` in the child; the result is the
    child's exit code. On entry: SIGTERM, SIGCHLD are at their defaults, SIGINT and SIGHUP are
    ignored (the supervisor turns them into messages), logging is set up with this shard's number,
    every descriptor of the supervisor that is not named here is closed. The shard owns all sockets
    here; they are non-blocking. `config.node.shards` is the number of shards, never 0.

    Duties of the shard: store its PID word, add to HEARTBEAT ten times a second, say ["serving"]
    on `control` once its listeners accept, start to drain on SIGTERM, exit at once when `control`
    reads end of file. See control.py for the messages.
    """

    config: Config
    identity: Identity
    shard: int
    shared: SharedState
    control: socket.socket
    """SOCK_SEQPACKET to the supervisor."""
    links: dict[int, ShardEnd]
    """The end to each other shard that was alive at the fork; later ones come as messages."""
    tls: NodeTls
