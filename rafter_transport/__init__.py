"""rafter_transport: bytes between processes. It carries items and does not know what they mean."""

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
    "format_address",
    "parse_address",
    "retry",
]
