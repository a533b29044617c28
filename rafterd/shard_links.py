"""What connects the shards of a node: rings in shared memory, or socketpairs.

The supervisor makes the pairs and hands their ends out: at the fork, and as control messages to the
sisters of a shard that it restarts.
"""

from __future__ import annotations

import os
import socket

from rafter_transport.ring_pair import RingEnd, ShardEnd, is_supported, make_ring_pair
from rafterd.control import ControlError, ControlMessage, send_control


class ShardLinks:
    """Makes pairs of ends. `kind` is "auto", "ring" or "socket" (`node.shard_links`)."""

    def __init__(self, kind: str) -> None:
        self.has_rings = kind == "ring" or (kind == "auto" and is_supported())
        self._generation = 0

    def make(self) -> tuple[ShardEnd, ShardEnd]:
        """Make a fresh pair, never to be used again: the ends for two shards.

        Raises OSError when the system gives no descriptors.
        """
        self._generation += 1
        if self.has_rings:
            return make_ring_pair(self._generation)
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        one.setblocking(False)
        other.setblocking(False)
        return one, other


def send_end(control: socket.socket, other: int, end: ShardEnd) -> None:
    """Send a shard the end to shard `other`; the caller still owns its copy.

    Raises as `send_control` does.
    """
    if isinstance(end, RingEnd):
        send_control(control, "rings", other, end.side, end.generation, descriptors=end.descriptors)
    else:
        send_control(control, "link", other, descriptors=(end.fileno(),))


def received_end(message: ControlMessage) -> tuple[int, ShardEnd]:
    """Return (other shard, end) of a message by `send_end`. Raises ControlError for another one.

    The end owns the message's descriptors; those of another message are closed.
    """
    match message:
        case ("link", [int(other)], [descriptor]):
            stream = socket.socket(fileno=descriptor)
            stream.setblocking(False)
            return other, stream
        case ("rings", [int(other), int(side), int(generation)], [memory, event, theirs, lifeline]):
            return other, RingEnd((memory, event, theirs, lifeline), side, generation)
    for descriptor in message.descriptors:
        os.close(descriptor)
    raise ControlError(f"this is no link: {message}")
