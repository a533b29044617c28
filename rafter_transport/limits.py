"""The limits of the transport in one table."""

from typing import NamedTuple

from rafter_transport.framing import LENGTH_MAX

HANDSHAKE_BYTES_MAX = 4096
"""Frames of a handshake are held to this whatever the configuration says."""


class Limits(NamedTuple):
    """What one shard's transport may use, and how long it waits.

    `pending_bytes_max` bounds what waits for one destination: posted items and the bytes that its
    socket has not taken yet. `node_bytes_max` bounds what waits for all shards of one node
    together, and likewise what the unfinished frames on its connections hold.
    `connections_max` bounds accepted connections, and `handshaking_max` those among them that
    have not finished their handshake.

    `idle_seconds` is how long nothing may come on a connection of the exchanger's with another
    node; both ends send something every second, or thrice in their `idle_seconds`.
    `unacknowledged_seconds` is how long a peer's kernel may leave sent bytes unacknowledged, or its
    window shut, before the connection is given up.
    """

    frame_bytes_max: int = 16 << 20
    pending_bytes_max: int = 64 << 20
    node_bytes_max: int = 256 << 20
    connections_max: int = 1024
    handshaking_max: int = 256
    connect_seconds: float = 5.0
    handshake_seconds: float = 5.0
    idle_seconds: float = 10.0
    close_seconds: float = 2.0
    unacknowledged_seconds: float = 10.0
    reconnect_base_seconds: float = 0.05
    reconnect_factor: float = 2.0
    reconnect_cap_seconds: float = 1.0

    def validate(self) -> None:
        """Raise ValueError naming the first impossible value and what is allowed."""
        if not HANDSHAKE_BYTES_MAX <= self.frame_bytes_max <= LENGTH_MAX:
            raise ValueError(
                f"frame_bytes_max = {self.frame_bytes_max}: "
                f"must be from {HANDSHAKE_BYTES_MAX} to {LENGTH_MAX}"
            )
        if self.pending_bytes_max < self.frame_bytes_max:
            # A frame that fits the link but never its queue could not be sent at all.
            raise ValueError(
                f"pending_bytes_max = {self.pending_bytes_max}: "
                f"must be at least frame_bytes_max ({self.frame_bytes_max})"
            )
        if self.node_bytes_max < self.pending_bytes_max:
            raise ValueError(
                f"node_bytes_max = {self.node_bytes_max}: "
                f"must be at least pending_bytes_max ({self.pending_bytes_max})"
            )
        for name in ("connections_max", "handshaking_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        for name in self._fields:
            if name.endswith("_seconds") and getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be more than 0")
        if self.reconnect_factor < 1:
            raise ValueError(f"reconnect_factor = {self.reconnect_factor}: must be at least 1")
        if self.reconnect_cap_seconds < self.reconnect_base_seconds:
            raise ValueError(
                f"reconnect_cap_seconds = {self.reconnect_cap_seconds}: must be at least "
                f"reconnect_base_seconds ({self.reconnect_base_seconds})"
            )
