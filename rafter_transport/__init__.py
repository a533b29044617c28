"""rafter_transport: bytes between processes. It carries items and does not know what they mean.

It loads the module of a name when the name is first asked for: a supervisor makes links before it
forks, and has no use for an event loop.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rafter_transport.addresses import AddressError, format_address, parse_address
    from rafter_transport.backoff import Backoff, retry
    from rafter_transport.counters import Counters
    from rafter_transport.exchanger import Exchanger
    from rafter_transport.framing import FrameDecoder, FrameError
    from rafter_transport.handshake import HandshakeError, HandshakeRefusedError, Hello, Refusal
    from rafter_transport.limits import Limits
    from rafter_transport.link import Link, SocketLink
    from rafter_transport.payload import Channel, PayloadError
    from rafter_transport.registry import NodeInfo, Registry, UnknownNodeError
    from rafter_transport.worker import Worker, WorkerClosedError

__all__ = [
    "AddressError",
    "Backoff",
    "Channel",
    "Counters",
    "Exchanger",
    "FrameDecoder",
    "FrameError",
    "HandshakeError",
    "HandshakeRefusedError",
    "Hello",
    "Limits",
    "Link",
    "NodeInfo",
    "PayloadError",
    "Refusal",
    "Registry",
    "SocketLink",
    "UnknownNodeError",
    "Worker",
    "WorkerClosedError",
    "format_address",
    "parse_address",
    "retry",
]

_MODULES = {
    "AddressError": "addresses",
    "format_address": "addresses",
    "parse_address": "addresses",
    "Backoff": "backoff",
    "retry": "backoff",
    "Counters": "counters",
    "Exchanger": "exchanger",
    "FrameDecoder": "framing",
    "FrameError": "framing",
    "HandshakeError": "handshake",
    "HandshakeRefusedError": "handshake",
    "Hello": "handshake",
    "Refusal": "handshake",
    "Limits": "limits",
    "Link": "link",
    "SocketLink": "link",
    "Channel": "payload",
    "PayloadError": "payload",
    "NodeInfo": "registry",
    "Registry": "registry",
    "UnknownNodeError": "registry",
    "Worker": "worker",
    "WorkerClosedError": "worker",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - each name has its own type
    """Load a public name's module, and return the name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
