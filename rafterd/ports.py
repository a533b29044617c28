"""Opening of ports: a probe of those the shards will bind, and the supervisor's own listener."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable

from rafterd.address import Address
from rafterd.config_check import Port

HTTP_BACKLOG = 128


class PortError(Exception):
    """A port cannot be listened on; the text names address, key and reason."""


def probe(ports: Iterable[Port]) -> None:
    """Bind each port for a moment, alone, and raise PortError with all that cannot be had.

    The shards bind with SO_REUSEPORT, with which a second node of the same user would share the
    clients of the first instead of failing. The probe goes without it. It is a courtesy to whoever
    starts a node, not a lock: between it and the shards' own bind the port may still be lost.
    """
    problems: list[str] = []
    for port in ports:
        try:
            with contextlib.ExitStack() as stack:
                for listener in _bind(port.address):
                    stack.enter_context(listener)
        except OSError as error:
            problems.append(_describe(port, error))
    if problems:
        raise PortError("\n".join(problems))


def listen(port: Port) -> socket.socket:
    """Return a listening, non-blocking socket on a port. Raises PortError."""
    try:
        listener, *others = _bind(port.address)
        for other in others:
            other.close()
        listener.listen(HTTP_BACKLOG)
    except OSError as error:
        raise PortError(_describe(port, error)) from error
    listener.setblocking(False)
    return listener


def _bind(address: Address) -> list[socket.socket]:
    """Bind every address that a host stands for."""
    bound: list[socket.socket] = []
    infos = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    try:
        for family, kind, protocol, _name, sockaddr in dict.fromkeys(infos):
            listener = socket.socket(family, kind, protocol)
            bound.append(listener)
            # Connections of the last run that linger in TIME_WAIT must not refuse the next one.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(sockaddr)
    except OSError:
        for listener in bound:
            listener.close()
        raise
    return bound


def _describe(port: Port, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        reason = f"the host name cannot be resolved: {error.strerror}"
    elif error.errno == errno.EADDRINUSE:
        reason = "the port is in use by another process"
    elif error.errno == errno.EADDRNOTAVAIL:
        reason = "the address is not one of this machine"
    elif error.errno == errno.EACCES:
        reason = "ports below 1024 need a privilege that this process does not have"
    else:
        reason = os.strerror(error.errno or 0)
    return f"{port.key}: cannot listen on {port.address} ({port.purpose}): {reason}"
