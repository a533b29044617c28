"""The configuration of one replica, and its validation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rafter_core.entries import NO_NODE, NUMBER_MAX
from rafter_core.errors import ConfigError


class ReadMode(Enum):
    """How a leader makes sure that it still leads before it answers a read.

    SAFE asks a quorum. LEASE relies on the clocks: see `rafter_core.reads` for what it assumes.
    """

    SAFE = "safe"
    LEASE = "lease"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How one replica behaves. All byte limits are soft: one entry always passes.

    An election starts after `election_timeout_ticks` to twice that less one, drawn anew for each
    role and term. `check_quorum` makes a leader step down that cannot hear a quorum, and makes
    followers refuse votes while their leader is alive; `pre_vote` keeps a returning replica from
    raising terms. Both belong together, are the same on all nodes of a group (a node without either
    never finds back from a term of its own), and should be off in experiments only.

    `applied` is the index up to which the state machine already holds the log when the replica
    starts, 0 for a machine in memory.

    `async_storage_writes` chooses how the driver acknowledges a Ready: with `storage_done` and
    `apply_done`, several under way at a time, or (off) with `advance`, one after the other.
    `messages_wait_for_term` holds every message back while the term or vote it rests on is not
    durable; without it requests for votes leave at once, as etcd does. It has no effect in the
    synchronous mode, where the driver stores before it sends; with the message form, which never
    calls `storage_done`, it is to be switched off.

    `eager_commit` sends an empty append as soon as the commit index advances. Switched off,
    followers learn it from the next append or heartbeat: half the messages, later applies on
    followers.

    `step_down_on_removal` makes a leader follow once a change that removes or demotes it is
    applied. An operator hands leadership over before that, and keeps a removed node running until
    the others are in the new configuration: they may need its vote to get there, and a pair always
    does. `validate_conf_changes` refuses a change while
    another one is not applied, and one that does not fit the configuration; without it somebody
    else must see to that. `forward_proposals` makes a follower pass proposals on to the leader;
    reads and transfers are always passed on.

    `priority`: a voter whose log is no shorter refuses to vote for a candidate of lower priority,
    so that among equals the node of the highest priority leads. Equal everywhere by default.

    `quiesce_after_ticks`: an idle leader lets the group fall asleep after so many ticks, 0 never.
    """

    node_id: int
    election_timeout_ticks: int = 10
    heartbeat_ticks: int = 1
    pre_vote: bool = True
    check_quorum: bool = True
    async_storage_writes: bool = True
    messages_wait_for_term: bool = True
    eager_commit: bool = True
    read_mode: ReadMode = ReadMode.SAFE
    step_down_on_removal: bool = True
    validate_conf_changes: bool = True
    forward_proposals: bool = True
    priority: int = 0
    quiesce_after_ticks: int = 0
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
        for name in ("priority", "quiesce_after_ticks"):
            if not 0 <= getattr(self, name) <= NUMBER_MAX:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must not be negative")
        if 0 < self.quiesce_after_ticks <= self.election_timeout_ticks:
            raise ConfigError(
                f"quiesce_after_ticks is {self.quiesce_after_ticks}: it must be 0 or greater than "
                f"election_timeout_ticks ({self.election_timeout_ticks})"
            )
        if self.quiesce_after_ticks and not self.check_quorum:
            raise ConfigError(
                f"quiesce_after_ticks is {self.quiesce_after_ticks}: this needs check_quorum, "
                "which tells who is there"
            )
        if self.read_mode is ReadMode.LEASE and not self.check_quorum:
            raise ConfigError('read_mode is "lease": this needs check_quorum')
        if self.inflight_bytes_max < self.message_bytes_max:
            raise ConfigError(
                f"inflight_bytes_max is {self.inflight_bytes_max}: it must be at least "
                f"message_bytes_max ({self.message_bytes_max})"
            )
        if not 0 <= self.applied <= NUMBER_MAX:
            raise ConfigError(f"applied is {self.applied}: it must be an index or 0")
