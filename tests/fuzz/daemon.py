"""What the daemon decodes of other nodes' shards: items of requests and replies."""

import random
from typing import Any

from rafter_kv.batch import Batch, pack_commands
from rafter_transport.payload import PayloadError, pack_item, unpack
from rafterd.requests import (
    Reply,
    Request,
    Status,
    decode_reply,
    decode_request,
    encode_replies,
    encode_request,
)
from tests.fuzz.engine import Target

ORIGIN = (2, 1)
WRITES = ((b"SET", b"key", b"value"), (b"DEL", b"key", b"other"), (b"INCR", b"n"))
READS = ((b"GET", b"key"), (b"EXISTS", b"key", b"other"))


def request_seeds(generator: random.Random) -> list[bytes]:
    """Return requests of writes, of reads, and of both in any order."""
    seeds = []
    for number in range(100):
        writes = [generator.choice(WRITES) for _ in range(generator.randrange(4))]
        commands = [*writes, *(generator.choice(READS) for _ in range(generator.randrange(4)))]
        generator.shuffle(commands)
        commands = commands or [READS[0]]
        positions = [at for at, command in enumerate(commands) if command in WRITES]
        is_plain = len(positions) == len(commands)
        batch = Batch(3, 1 << 60, number, 0, commands, None if is_plain else positions)
        seeds.append(pack_item(encode_request(Request(batch, number, 1, ORIGIN))))
    return seeds


def blob_seeds(generator: random.Random) -> list[bytes]:
    """Return packed writes, as they stand within a request."""
    return [pack_commands(generator.choices(WRITES, k=count % 4 + 1)) for count in range(50)]


def with_words(blob: bytes) -> bytes:
    """Return a request of these packed writes."""
    return pack_item([1, 1, 3, 1 << 60, 7, 0, blob, None, None])


def reply_seeds(generator: random.Random) -> list[bytes]:
    """Return replies of every status, with results of every kind, or with none."""
    results: list[Any] = [b"value", 1, None, [b"a", None], "text", -5]
    return [
        pack_item(item)
        for number in range(50)
        for status in Status
        for item in encode_replies(
            Reply(number, 1, status, 0, generator.choices(results, k=number % 4), True, 2, 9)
        )
    ]


def check_request(data: bytes) -> bool:
    """Decode a request."""
    try:
        request = decode_request(unpack(data), ORIGIN)
    except PayloadError:
        return False
    assert request.origin == ORIGIN
    assert request.batch.commands
    again = decode_request(unpack(pack_item(encode_request(request))), ORIGIN)
    assert (again.ticket, again.attempt) == (request.ticket, request.attempt)
    assert list(again.batch.commands) == list(request.batch.commands)
    return True


def check_reply(data: bytes) -> bool:
    """Decode a reply."""
    try:
        reply = decode_reply(unpack(data))
    except PayloadError:
        return False
    assert type(reply.status) is Status
    assert type(reply.results) is list
    return True


TARGETS = [
    Target("requests", request_seeds, check_request),
    Target("commands of requests", blob_seeds, check_request, wrap=with_words),
    Target("replies", reply_seeds, check_reply),
]
