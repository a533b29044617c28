"""The handshake: what two shards tell each other before anything else, and why they part.

The dialling side sends a hello and waits. The accepting side answers with its own hello, or with
the reason of its refusal and a closed connection. Each is one frame of at most HANDSHAKE_BYTES_MAX:

    hello     ["rafter", 1, version_min, version_max, cluster_id, …, lane, peer_host, peer_port]
    accepted  ["rafter", 2, version_min, version_max, cluster_id, …]
    refused   ["rafter", 3, code, text]

The lane says what the connection is for; version 1 has no such field, and one lane. The peer
address is where other nodes dial the sender's; versions before 3 do not tell it.

A later version may append fields to a hello and must not change those before them, so that two
versions which cannot work together can still say so. Decoding is strict: the other end is
a stranger until it is checked.
"""

import re
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

from rafter_transport.payload import PayloadError, unpack

VERSION_MIN = 1
VERSION_MAX = 3
"""The versions of the peer protocol that this code speaks."""

LANE_VERSION = 2
"""The first version with a lane in its hello."""
ADDRESS_VERSION = 3
"""The first version whose hello says where the sender's node is dialled."""
PULSE_VERSION = 3
"""The first version whose two ends both send pulses (`rafter_transport.liveness`)."""

NODE_ID_MAX = (1 << 16) - 1
SHARDS_MAX = 1024
U64_MAX = (1 << 64) - 1
PORT_MAX = 65535
TEXT_CHARACTERS_MAX = 512
LANE_MAX = 255

_MAGIC = "rafter"
_HELLO, _ACCEPTED, _REFUSED = 1, 2, 3
_HOST = re.compile(r"[A-Za-z0-9._:%-]{0,255}")
_FIELDS_BEFORE_LANE = 9
_FIELDS_BEFORE_ADDRESS = 10
_encode = msgspec.msgpack.Encoder().encode


class Lane(IntEnum):
    """What a connection between nodes is for."""

    EXCHANGE = 0
    EXPRESS = 1


class Hello(NamedTuple):
    """Who one end is, and which lane it wants.

    `client_host` and `client_port` are where its node serves clients. `lane` may be one that this
    version does not know; an answer's is 0. `peer_host` and `peer_port` are where shard 0 of its
    node is dialled, shard i on `peer_port` + i; "" and 0 if it does not say.
    """

    version_min: int
    version_max: int
    cluster_id: int
    node_id: int
    incarnation: int
    shard: int
    shards: int
    client_host: str
    client_port: int
    lane: int = Lane.EXCHANGE
    peer_host: str = ""
    peer_port: int = 0

    @property
    def node_facts(self) -> tuple[int, int, str, int, str, int]:
        """What all shards of a node say alike, from its start to its end."""
        address = self.peer_host, self.peer_port
        return self.incarnation, self.shards, self.client_host, self.client_port, *address


class Refusal(NamedTuple):
    """Why a handshake ends: a short code to count and group by, a sentence for the operator."""

    code: str
    text: str

    def __str__(self) -> str:
        return self.text


class HandshakeError(Exception):
    """The other end does not keep to the handshake. `code` groups errors of one kind."""

    code = "malformed"


class HandshakeRefusedError(HandshakeError):
    """The handshake was well-formed, and one end refused the other."""

    def __init__(self, refusal: Refusal, *, by_peer: bool) -> None:
        super().__init__(f"refused by the peer: {refusal.text}" if by_peer else refusal.text)
        self.code = refusal.code
        self.refusal = refusal
        self.by_peer = by_peer


def encode_hello(hello: Hello) -> bytes:
    """Encode the frame that opens a connection. Raises HandshakeError for a value out of range."""
    return _encode_fields(_HELLO, hello)


def encode_accepted(hello: Hello) -> bytes:
    """Encode the answer that accepts; it carries the accepting side's own hello."""
    return _encode_fields(_ACCEPTED, hello)


def encode_refused(refusal: Refusal) -> bytes:
    """Encode the answer that refuses."""
    text = refusal.text[:TEXT_CHARACTERS_MAX]
    return _encode((_MAGIC, _REFUSED, refusal.code, text))


def decode_hello(payload: bytes) -> Hello:
    """Decode the first frame of an accepted connection. Raises HandshakeError."""
    kind, fields = _decode(payload)
    if kind != _HELLO:
        raise HandshakeError("the connection does not begin with a hello")
    return _hello_from_fields(fields)


def decode_answer(payload: bytes) -> Hello:
    """Decode the answer to our hello.

    Raises HandshakeRefusedError if the peer refuses, HandshakeError if it makes no sense.
    """
    kind, fields = _decode(payload)
    if kind == _ACCEPTED:
        return _hello_from_fields(fields)
    if kind != _REFUSED:
        raise HandshakeError("the hello was not answered by an answer")
    if len(fields) != 2 or not all(_is_text(field) for field in fields):
        raise HandshakeError("refused by the peer, without a readable reason")
    raise HandshakeRefusedError(Refusal(*fields), by_peer=True)


def check(
    local: Hello, remote: Hello, *, expected: tuple[int, int] | None = None
) -> Refusal | None:
    """Return why `local` does not work with `remote`, or None.

    `expected` is the (node, shard) that was dialled. Whether the node belongs to the cluster's map
    and still has its incarnation is for `Registry.check`.
    """
    if remote.version_max < local.version_min or remote.version_min > local.version_max:
        return Refusal(
            "version",
            f"no common version: the peer speaks {remote.version_min} to {remote.version_max}, "
            f"this node {local.version_min} to {local.version_max}",
        )
    if remote.cluster_id != local.cluster_id:
        return Refusal(
            "cluster",
            f"other cluster: the peer has cluster id {remote.cluster_id:016x}, "
            f"this node {local.cluster_id:016x}",
        )
    if remote.node_id == local.node_id:
        return Refusal("own-node", f"the peer says that it is node {local.node_id}, as this one is")
    if expected is not None and (remote.node_id, remote.shard) != expected:
        return Refusal(
            "other-peer",
            f"node {expected[0]} shard {expected[1]} was dialled, "
            f"but node {remote.node_id} shard {remote.shard} answers",
        )
    return None


def common_version(local: Hello, remote: Hello) -> int:
    """Return the version both ends use after `check` found none missing: the highest common one."""
    return min(local.version_max, remote.version_max)


def validate_hello(hello: Hello) -> None:
    """Raise HandshakeError if a field of ours or of the peer's has a wrong type or range."""
    *numbers, client_host, client_port, lane, peer_host, peer_port = hello
    numbers += [client_port, peer_port]
    if any(type(number) is not int for number in numbers) or type(lane) not in (int, Lane):
        raise HandshakeError("a hello's number is not a number")
    tells_address = hello.version_max >= ADDRESS_VERSION
    limits = (
        ("version_min", 1, U64_MAX), ("version_max", hello.version_min, U64_MAX),
        ("cluster_id", 0, U64_MAX), ("node_id", 1, NODE_ID_MAX), ("incarnation", 0, U64_MAX),
        ("shards", 1, SHARDS_MAX), ("shard", 0, hello.shards - 1), ("client_port", 0, PORT_MAX),
        ("lane", 0, LANE_MAX if hello.version_max >= LANE_VERSION else 0),
        # Each shard has a port.
        ("peer_port", 0, PORT_MAX + 1 - hello.shards if tells_address else 0),
    )  # fmt: skip
    for name, lowest, highest in limits:
        if not lowest <= getattr(hello, name) <= highest:
            raise HandshakeError(
                f"{name} = {getattr(hello, name)}: must be from {lowest} to {highest}"
            )
    # They end up in replies to clients and in logs, one line each: nothing that could break a line.
    for name, host in (("client_host", client_host), ("peer_host", peer_host)):
        if type(host) is not str or _HOST.fullmatch(host) is None:
            raise HandshakeError(f"{name} = {host!r}: not a host name or address")
    if bool(peer_host) != bool(peer_port):
        raise HandshakeError(f"peer address {peer_host!r}, {peer_port}: a host and a port, or none")


def _encode_fields(kind: int, hello: Hello) -> bytes:
    validate_hello(hello)
    return _encode((_MAGIC, kind, *hello[: _field_count(hello.version_max)]))


def _decode(payload: bytes) -> tuple[int, list[Any]]:
    """Return the kind and the fields behind it."""
    try:
        message = unpack(payload)
    except PayloadError as error:
        raise HandshakeError(str(error)) from error
    if type(message) is not list or len(message) < 2 or message[0] != _MAGIC:
        raise HandshakeError("the peer does not speak rafter's peer protocol")
    if type(message[1]) is not int:
        raise HandshakeError("the handshake's kind is not a number")
    return message[1], message[2:]


def _field_count(version_max: object) -> int:
    """Return how many fields the hello has of an end whose highest version this is."""
    if type(version_max) is not int or version_max < LANE_VERSION:
        return _FIELDS_BEFORE_LANE
    return _FIELDS_BEFORE_ADDRESS if version_max < ADDRESS_VERSION else len(Hello._fields)


def _hello_from_fields(fields: list[Any]) -> Hello:
    count = _field_count(fields[1] if len(fields) > 1 else None)
    if len(fields) < count:
        raise HandshakeError(f"hello with {len(fields)} fields, expected {count}")
    hello = Hello(*fields[:count])
    validate_hello(hello)
    if len(fields) > count and hello.version_max <= VERSION_MAX:
        raise HandshakeError(
            f"hello with {len(fields)} fields, but version {hello.version_max} has {count}"
        )
    return hello


def _is_text(field: object) -> bool:
    """Whether a field of the peer's may stand in our log."""
    return type(field) is str and len(field) <= TEXT_CHARACTERS_MAX and field.isprintable()
