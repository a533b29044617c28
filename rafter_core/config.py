"""The configuration of one replica, and its validation."""

from __future__ import annotations

from dataclasses import dataclass

from rafter_core.entries import NO_NODE, NUMBER_MAX
from rafter_core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How one replica behaves. All byte limits are soft: one entry always passes.

    An election starts after `election_timeout_ticks` to twice that less one, drawn anew for each
    role and term. `check_quorum` makes a leader step down that cannot hear a quorum, and makes
    followers refuse votes while their leader is alive; `pre_vote` keeps a returning replica from
    raising terms. Both belong together and should be switched off only in experiments.

    `applied` is the index up to which the state machine already holds the log when the replica
    starts, 0 for a machine in memory.

    `eager_commit` sends an empty append as soon as the commit index advances. Switched off,
    followers learn it from the next append or heartbeat: half the messages, later applies on
    followers.
    """

    node_id: int
    election_timeout_ticks: int = 10
    heartbeat_ticks: int = 1
    pre_vote: bool = True
    check_quorum: bool = True
    eager_commit: bool = True
    message_bytes_max: int = 1 << 20
    inflight_messages_max: int = 256
    inflight_bytes_max: int = 16 << 20
    uncommitted_bytes_max: int = 64 << 20
    committed_bytes_per_ready_max: int = 4 << 20
    pending_reads_max: int = 4096
    applied: int = 0

    def validate(self) -> None:
        """Raise ConfigError, naming the field, its value and what is allowed."""
        if not NO_NODE < self.node_id <= NUMBER_MAX:
            raise ConfigError(f"node_id is {self.node_id}: it must be from 1 to {NUMBER_MAX}")
        if self.heartbeat_ticks < 1:
            raise ConfigError(f"heartbeat_ticks is {self.heartbeat_ticks}: it must be at least 1")
        if self.election_timeout_ticks <= self.heartbeat_ticks:
            raise ConfigError(
                f"election_timeout_ticks is {self.election_timeout_ticks}: it must be greater than "
                f"heartbeat_ticks ({self.heartbeat_ticks})"
            )
        for name in (
            "message_bytes_max",
            "inflight_messages_max",
            "uncommitted_bytes_max",
            "committed_bytes_per_ready_max",
            "pending_reads_max",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.inflight_bytes_max < self.message_bytes_max:
            raise ConfigError(
                f"inflight_bytes_max is {self.inflight_bytes_max}: it must be at least "
                f"message_bytes_max ({self.message_bytes_max})"
            )
        if not 0 <= self.applied <= NUMBER_MAX:
            raise ConfigError(f"applied is {self.applied}: it must be an index or 0")
