"""Two ends of a control socket, as a supervisor and a shard hold them."""

import socket

from rafterd.control import ControlMessage, receive_control

Ends = tuple[socket.socket, socket.socket]


def receive(control: socket.socket) -> ControlMessage:
    message = receive_control(control)
    assert message is not None
    return message
