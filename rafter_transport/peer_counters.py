"""What the exchanger counts for each node that it talks to, its own with its other shards, too."""

import socket
import struct
from typing import NamedTuple

__all__ = ["PeerCounters", "PeerState", "round_trip_seconds"]

_TCP_INFO_BYTES = 104
# struct tcp_info of linux/tcp.h: eight bytes of states, then words of 32 bits, the 16th of which is
# the smoothed round-trip time in microseconds.
_ROUND_TRIP = struct.Struct("=I")
_ROUND_TRIP_OFFSET = 68


class PeerCounters:
    """Totals of one node since the start of this shard's exchanger. Written on its loop only.

    `refused_total` counts the items for it that were not taken, of all channels.
    """

    __slots__ = (
        "bytes_received_total",
        "bytes_sent_total",
        "frames_received_total",
        "frames_sent_total",
        "refused_total",
    )

    def __init__(self) -> None:
        self.frames_sent_total = 0
        self.bytes_sent_total = 0
        self.frames_received_total = 0
        self.bytes_received_total = 0
        self.refused_total = 0


class PeerState(NamedTuple):
    """How it stands with one node now, over all links to its shards.

    `pending_bytes` is what waits for them all. `round_trip_seconds` is the longest that the kernel
    has measured on one of them of late, None without a link that can tell.
    """

    links_up: int
    pending_bytes: int
    round_trip_seconds: float | None


def round_trip_seconds(stream: socket.socket) -> float | None:
    """Return the smoothed round-trip time of a TCP connection, as its kernel measures it.

    From acknowledgements of what is sent anyway, so without a frame of its own; what the peer's
    process takes is not in it. None where the system does not tell, or has not measured yet.
    """
    try:
        info = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except (OSError, AttributeError):
        return None
    if len(info) < _ROUND_TRIP_OFFSET + _ROUND_TRIP.size:
        return None
    (microseconds,) = _ROUND_TRIP.unpack_from(info, _ROUND_TRIP_OFFSET)
    return microseconds / 1_000_000 if microseconds else None
