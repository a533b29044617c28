"""Messages between the supervisor and a shard, over one SOCK_SEQPACKET socketpair.

A message is one packet holding one msgpack array whose first item names it:

- supervisor to shard: ["link", other] with one descriptor, a fresh stream socket to shard `other`,
  which was restarted (close the old one); ["rings", other, side, generation] with four, those of
  a `RingEnd`, for the same; ["log", level] and ["tls"],
  to read the TLS files again, after a reload.
- shard to supervisor: ["serving"]; ["fatal", text] before it gives up.

An unknown message is ignored by its receiver, so that a later version may say more.
"""

from __future__ import annotations

import os
import socket
from typing import NamedTuple

import msgpack

CONTROL_BYTES_MAX = 4096
DESCRIPTORS_MAX = 4


class ControlError(Exception):
    """The other end of a control socket sent something that is not a message."""


class ControlMessage(NamedTuple):
    """One message; the receiver owns the descriptors."""

    name: str
    arguments: list[object]
    descriptors: list[int]


def send_control(
    control: socket.socket, name: str, *arguments: object, descriptors: tuple[int, ...] = ()
) -> None:
    """Send one message. The descriptors are duplicated by the kernel: the caller still owns them.

    Raises BlockingIOError when the receiver is behind (nothing was sent), OSError when it is gone.
    """
    packet = msgpack.packb([name, *arguments])
    if len(packet) > CONTROL_BYTES_MAX:
        raise ValueError(f"control message {name} of {len(packet)} bytes")
    socket.send_fds(control, [packet], list(descriptors), socket.MSG_NOSIGNAL)


def send_fatal(control: socket.socket, text: str) -> None:
    """Tell the supervisor why this shard gives up; never fails, the exit code says it too."""
    try:
        send_control(control, "fatal", text[:1000])
    except OSError:
        return


def receive_control(control: socket.socket) -> ControlMessage | None:
    """Receive one message, None at end of file (the other end is gone).

    Raises BlockingIOError when there is none, ControlError on a malformed packet; descriptors that
    came with it are closed then.
    """
    try:
        packet, descriptors, _flags, _address = socket.recv_fds(
            control, CONTROL_BYTES_MAX + 1, DESCRIPTORS_MAX
        )
    except ConnectionResetError:  # the peer died with unread packets in its queue
        return None
    if not packet:
        return None
    try:
        items = msgpack.unpackb(packet)
    except (ValueError, msgpack.UnpackException) as error:
        _close_all(descriptors)
        raise ControlError(f"undecodable control packet of {len(packet)} bytes") from error
    if not isinstance(items, list) or not items or not isinstance(items[0], str):
        _close_all(descriptors)
        raise ControlError(f"control packet is not a named array: {items!r:.100}")
    return ControlMessage(items[0], items[1:], descriptors)


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
