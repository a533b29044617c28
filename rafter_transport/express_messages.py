"""What express says on the wire: seven messages, each one frame, an array in msgpack.

    OFFER   [1, transfer, group, sender, to, chunk_count, message, manifest]
    ACCEPT  [2, transfer, next_chunk, window_chunks]
    REFUSE  [3, transfer, code, text]
    CHUNK   [4, transfer, number, checksum, data]
    ACK     [5, transfer, next_chunk]
    DONE    [6, transfer, code, text]
    CANCEL  [7, transfer, text]

The sender offers, and sends chunks once it was accepted; ACK is cumulative. `message` and
`manifest` are opaque here. `checksum` is the xxh3-64 of `data`. The decoder is strict: types are
exact, numbers in range, lengths bounded, nothing may follow.
"""

from typing import Any, NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest

from rafter_transport.handshake import NODE_ID_MAX, TEXT_CHARACTERS_MAX, U64_MAX
from rafter_transport.payload import PayloadError, unpack

NUMBER_MAX = (1 << 63) - 1
CODE_CHARACTERS_MAX = 32
OVERHEAD_BYTES = 128
"""What any message needs beside its `message`, `manifest`, `data` and texts."""

OK = "ok"
BUSY = "busy"
CHECKSUM = "checksum"
RETRIED_CODES = frozenset({BUSY, CHECKSUM, "replaced", "timed-out"})
"""The codes of a REFUSE or DONE after which the same transfer may succeed a moment later."""

_OFFER, _ACCEPT, _REFUSE, _CHUNK, _ACK, _DONE, _CANCEL = range(1, 8)
_encode = msgspec.msgpack.Encoder().encode


class ExpressError(Exception):
    """The peer does not keep to express's protocol; its connection is of no more use."""


class Offer(NamedTuple):
    """The sender has a snapshot for the receiver, who learns of it by `message`."""

    transfer: int
    group: int
    sender: int
    to: int
    chunk_count: int
    message: bytes
    manifest: bytes


class Accept(NamedTuple):
    """Send chunks from `next_chunk` on, at most `window_chunks` beyond what is acknowledged."""

    transfer: int
    next_chunk: int
    window_chunks: int


class Refuse(NamedTuple):
    """The offer is not taken. The receiver keeps nothing of it."""

    transfer: int
    code: str
    text: str


class Chunk(NamedTuple):
    """One chunk. A number counts through all files of the snapshot."""

    transfer: int
    number: int
    checksum: int
    data: bytes


class Ack(NamedTuple):
    """Every chunk before `next_chunk` is written (durable only with DONE)."""

    transfer: int
    next_chunk: int


class Done(NamedTuple):
    """The end, from the receiver: `code` OK if all is verified, durable and in use."""

    transfer: int
    code: str
    text: str


class Cancel(NamedTuple):
    """The end, from either side, because its owner wants it."""

    transfer: int
    text: str


Message = Offer | Accept | Refuse | Chunk | Ack | Done | Cancel

_KINDS: dict[type, int] = {
    Offer: _OFFER, Accept: _ACCEPT, Refuse: _REFUSE, Chunk: _CHUNK, Ack: _ACK, Done: _DONE,
    Cancel: _CANCEL,
}  # fmt: skip
_U64 = (0, U64_MAX)
_NUMBER = (0, NUMBER_MAX)
_NODE = (1, NODE_ID_MAX)
# For each kind: its class, and for each field the range of a number, bytes, or the most
# characters of a text.
_SCHEMA: dict[int, tuple[type, tuple[Any, ...]]] = {
    _OFFER: (Offer, (_U64, _NUMBER, _NODE, _NODE, _NUMBER, bytes, bytes)),
    _ACCEPT: (Accept, (_U64, _NUMBER, (1, NUMBER_MAX))),
    _REFUSE: (Refuse, (_U64, CODE_CHARACTERS_MAX, TEXT_CHARACTERS_MAX)),
    _CHUNK: (Chunk, (_U64, _NUMBER, _U64, bytes)),
    _ACK: (Ack, (_U64, _NUMBER)),
    _DONE: (Done, (_U64, CODE_CHARACTERS_MAX, TEXT_CHARACTERS_MAX)),
    _CANCEL: (Cancel, (_U64, TEXT_CHARACTERS_MAX)),
}


def make_chunk(transfer: int, number: int, data: bytes) -> Chunk:
    """Return the message for a chunk, with the checksum of its data."""
    return Chunk(transfer, number, xxh3_64_intdigest(data), data)


def is_sound(chunk: Chunk) -> bool:
    """Tell whether a chunk's data is what its sender had."""
    return bool(xxh3_64_intdigest(chunk.data) == chunk.checksum)


def readable(text: str) -> str:
    """Return a text as a peer accepts it: printable and short."""
    clean = "".join(character if character.isprintable() else " " for character in text)
    return clean[:TEXT_CHARACTERS_MAX]


def encode(message: Message) -> bytes:
    """Encode one message as a frame's payload. Its fields are the caller's to keep in range."""
    return _encode((_KINDS[type(message)], *message))


def decode(payload: bytes) -> Message:
    """Decode one frame's payload. Raises ExpressError and nothing else."""
    try:
        items = unpack(payload)
    except PayloadError as error:
        raise ExpressError(str(error)) from error
    if type(items) is not list or not items or type(items[0]) is not int:
        raise ExpressError("this is no message of express")
    found = _SCHEMA.get(items[0])
    if found is None:
        raise ExpressError(f"express has no message of kind {items[0]}")
    kind, schema = found
    fields = items[1:]
    if len(fields) != len(schema):
        raise ExpressError(f"{kind.__name__} with {len(fields)} fields, expected {len(schema)}")
    for field, rule in zip(fields, schema, strict=True):
        if not _fits(field, rule):
            raise ExpressError(f"{kind.__name__} with a field that is out of range")
    message: Message = kind(*fields)
    return message


def _fits(field: object, rule: Any) -> bool:  # noqa: ANN401 - one of three forms, see _SCHEMA
    if rule is bytes:
        return type(field) is bytes
    if isinstance(rule, tuple):
        return type(field) is int and rule[0] <= field <= rule[1]
    return type(field) is str and len(field) <= rule and field.isprintable()
