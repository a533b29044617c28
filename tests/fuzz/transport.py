"""What the transport decodes: what comes from another node, or out of a ring."""

import functools
import itertools
import mmap
import os
import random
import struct
from typing import Any

from rafter_transport.express_limits import ExpressLimits
from rafter_transport.express_messages import (
    Accept,
    Ack,
    Cancel,
    Chunk,
    Done,
    ExpressError,
    Message,
    Offer,
    Refuse,
    decode,
    encode,
    make_chunk,
)
from rafter_transport.express_receiver import ReceiveMachine, Task
from rafter_transport.express_sender import SendMachine
from rafter_transport.framing import HEADER_BYTES, FrameDecoder, FrameError, frame_header
from rafter_transport.handshake import (
    HandshakeError,
    HandshakeRefusedError,
    Hello,
    Refusal,
    check,
    decode_answer,
    decode_hello,
    encode_accepted,
    encode_hello,
    encode_refused,
    validate_hello,
)
from rafter_transport.payload import PayloadError, join_payload, pack_item, unpack_payload
from rafter_transport.registry import Registry
from rafter_transport.ring import FRAMES_PER_BUNDLE, RingConsumer, RingProducer, format_ring
from rafter_transport.ring import HEADER_BYTES as RING_HEADER_BYTES
from rafter_transport.ring_pair import is_supported
from tests.fuzz.engine import Target

FRAME_BYTES_MAX = 300
LOCAL = Hello(1, 2, 7, 1, 100, 0, 2, "127.0.0.1", 7379)
EXPRESS_LIMITS = ExpressLimits(chunk_bytes_max=16, window_bytes=48, manifest_bytes_max=64)
CHUNK_COUNT = 9
OFFER = Offer(5, 7, 1, 2, CHUNK_COUNT, b"message", b"manifest")
RING_BYTES = 256
_RING_WORDS = struct.Struct("<QQ")
_TAIL_OFFSET, _HEAD_OFFSET = 16 * 8, 32 * 8


def frame(payload: bytes) -> bytes:
    """Return a payload as it stands in a stream."""
    return frame_header(len(payload)) + payload


# Frames -------------------------------------------------------------------------------------------


def frame_seeds(generator: random.Random) -> list[bytes]:
    """Return streams of whole frames, some of them with an unfinished one behind."""
    return [
        b"".join(
            frame(generator.randbytes(generator.choice((0, 1, 5, FRAME_BYTES_MAX))))
            for _ in range(generator.randint(1, 4))
        )
        + generator.choice((b"", b"\x05", b"\x05\0\0\0ab"))
        for _ in range(100)
    ]


def check_frames(data: bytes) -> bool:
    """Cut a stream into frames, at once and in chunks: the same comes out, and no byte is lost."""
    decoder = FrameDecoder(FRAME_BYTES_MAX)
    pieces = FrameDecoder(FRAME_BYTES_MAX)
    size = 1 + len(data) % 61
    found: list[bytes] = []
    try:
        for begin in range(0, len(data), size):
            found += pieces.feed(data[begin : begin + size])
            assert pieces.partial_bytes <= HEADER_BYTES + FRAME_BYTES_MAX
    except FrameError:
        try:
            decoder.feed(data)
        except FrameError:
            return False
        raise AssertionError("whole it is accepted, in chunks it is not") from None
    assert decoder.feed(data) == found
    rest = data[len(data) - decoder.partial_bytes :]
    assert b"".join(map(frame, found)) + rest == data
    return True


# Payloads -----------------------------------------------------------------------------------------


def payload_seeds(generator: random.Random) -> list[bytes]:
    """Return payloads of several channels."""
    items: tuple[Any, ...] = (
        b"",
        b"bytes",
        0,
        -1,
        1 << 63,
        "text",
        None,
        True,
        1.5,
        [],
        [[1, [b"x"]], 2],
    )
    return [
        join_payload(
            {
                channel: [
                    pack_item(generator.choice(items)) for _ in range(generator.choice((0, 1, 20)))
                ]
                for channel in generator.sample(range(1, 16), generator.randint(0, 4))
            }
        )
        for _ in range(100)
    ]


def check_payload(data: bytes) -> bool:
    """Decode a payload to channels of plain items."""
    try:
        parts = unpack_payload(data)
    except PayloadError:
        return False
    for channel, items in parts:
        assert type(channel) is int
        assert_plain(items)
    return True


def assert_plain(item: Any) -> None:
    """Tell that a value is made of nothing but the kinds that an item may have."""
    pending = [item]
    while pending:
        value = pending.pop()
        if type(value) is list:
            pending += value
        else:
            assert value is None or type(value) in (bytes, int, str, float, bool)


# The handshake ------------------------------------------------------------------------------------


def handshake_seeds(generator: random.Random) -> list[bytes]:
    """Return hellos of this version, of an older and of later ones, and both answers."""
    seeds = []
    for lane, host, node in itertools.product((0, 1, 255), ("", "::1", "h" * 255), (1, 2, 65535)):
        hello = LOCAL._replace(lane=lane, client_host=host, node_id=node)
        incarnation = generator.randrange(1 << 64)
        seeds += [encode_hello(hello), encode_accepted(hello._replace(incarnation=incarnation))]
    seeds += [
        encode_hello(LOCAL._replace(version_max=1)),
        encode_hello(LOCAL._replace(shards=1024)),
    ]
    seeds.append(encode_refused(Refusal("cluster", "other cluster")))
    return seeds


def check_handshake(data: bytes) -> bool:
    """Decode the first frame of a connection as a hello, and as an answer, and judge it."""
    accepted = False
    registry = Registry(LOCAL.node_id, {1: ("127.0.0.1", 1), 2: ("127.0.0.1", 2)})
    for decoder, encoder in ((decode_hello, encode_hello), (decode_answer, encode_accepted)):
        try:
            hello = decoder(data)
        except HandshakeRefusedError as error:
            accepted = str(error).isprintable()
            continue
        except HandshakeError:
            continue
        validate_hello(hello)
        assert decoder(encoder(hello)) == hello
        refusal = check(LOCAL, hello, expected=(2, 0)) or registry.check(hello)
        if refusal is None:
            registry.learn(hello)
        else:
            assert refusal.text.isprintable()
        accepted = True
    return accepted


# Express ------------------------------------------------------------------------------------------


def express_seeds(generator: random.Random) -> list[bytes]:
    """Return each message of express."""
    messages: tuple[Message, ...] = (
        OFFER, Accept(5, 0, 3), Refuse(5, "busy", "later"), Ack(5, 3), Done(5, "ok", ""),
        Cancel(5, "by the sender"), make_chunk(5, 2, generator.randbytes(16)),
    )  # fmt: skip
    return [encode(message) for message in messages]


def check_express(data: bytes) -> bool:
    """Decode one message of express."""
    try:
        message = decode(data)
    except ExpressError:
        return False
    assert decode(encode(message)) == message
    return True


def sender_stream(generator: random.Random) -> list[bytes]:
    """Return all that a sender says, in frames; sometimes with a word more."""
    chunks = [make_chunk(5, number, bytes([number]) * 16) for number in range(CHUNK_COUNT)]
    ends: tuple[Message, ...] = (Cancel(5, "enough"), OFFER, chunks[0])
    seeds = []
    for count in range(CHUNK_COUNT + 1):
        messages: list[Message] = [OFFER, *chunks[:count]]
        if generator.random() < 0.5 and count < CHUNK_COUNT:
            messages.append(generator.choice(ends[:1]))
        seeds.append(b"".join(frame(encode(message)) for message in messages))
    return seeds


def check_receiver(data: bytes) -> bool:
    """Let a receiving transfer hear a stream, working now at once and now a message later."""
    machine = ReceiveMachine(2, 1, EXPRESS_LIMITS, 0.0)
    written: list[Chunk] = []
    try:
        payloads = FrameDecoder(EXPRESS_LIMITS.frame_bytes_max).feed(data)
    except FrameError:
        return False
    for number, payload in enumerate(payloads):
        try:
            answer = machine.receive(decode(payload), float(number))
        except ExpressError as error:
            machine.lose(str(error))
            break
        if answer is not None:
            decode(encode(answer))
        if len(data) & 1 or number & 1:
            _work(machine, written, float(number))
    _work(machine, written, 100.0)
    machine.expire(1e9)
    assert machine.outcome is not None
    assert [chunk.number for chunk in written] == [*range(len(written))]
    return machine.offer is not None


def _work(machine: ReceiveMachine, written: list[Chunk], now_seconds: float) -> None:
    """Do what the machine asks for, as a disk would that never fails."""
    answer: Message | None = None
    while (task := machine.task) is not Task.NOTHING:
        if task is Task.BEGIN:
            machine.begin()
            answer = machine.begun(0, CHUNK_COUNT, 16, now_seconds)
        elif task is Task.WRITE:
            chunks = machine.take()
            assert 0 < len(chunks) <= EXPRESS_LIMITS.window_chunks(16)
            written += chunks
            answer = machine.wrote(len(chunks), now_seconds)
        else:
            machine.finish()
            answer = machine.finished()
        if answer is not None:
            decode(encode(answer))


def receiver_stream(generator: random.Random) -> list[bytes]:
    """Return all that a receiver says, in frames, in several ways."""
    seeds = []
    for resumed in range(CHUNK_COUNT + 1):
        messages: list[Message] = [Accept(5, resumed, 3)]
        acknowledged = resumed
        while acknowledged < CHUNK_COUNT:
            acknowledged = min(CHUNK_COUNT, acknowledged + generator.randint(1, 3))
            messages.append(Ack(5, acknowledged))
        messages.append(Done(5, "ok", ""))
        seeds.append(b"".join(frame(encode(message)) for message in messages))
    return [*seeds, frame(encode(Refuse(5, "busy", "later"))), frame(encode(Cancel(5, "enough")))]


def check_sender(data: bytes) -> bool:
    """Let a sending transfer hear a stream, and send what it may behind each message."""
    machine = SendMachine(
        OFFER, window_chunks=3, progress_seconds=30.0, finish_seconds=30.0, now_seconds=0.0
    )
    try:
        payloads = FrameDecoder(EXPRESS_LIMITS.frame_bytes_max).feed(data)
    except FrameError:
        return False
    for number, payload in enumerate(payloads):
        try:
            machine.receive(decode(payload), float(number))
        except ExpressError as error:
            machine.fail(str(error))
            break
        while (chunk := machine.next_to_send) is not None:
            assert machine.acknowledged <= chunk < machine.acknowledged + 3
            machine.sent(chunk, float(number))
    was_answered = machine.outcome is not None or machine.acknowledged > 0
    machine.expire(1e9)
    assert machine.outcome is not None
    assert 0 <= machine.acknowledged <= CHUNK_COUNT
    return was_answered


# Rings --------------------------------------------------------------------------------------------


@functools.cache
def ring_memory() -> tuple[mmap.mmap, int]:
    """Return memory for one ring, and what wakes nobody."""
    return mmap.mmap(-1, RING_HEADER_BYTES + RING_BYTES), os.eventfd(0, os.EFD_NONBLOCK)


def ring_seeds(generator: random.Random) -> list[bytes]:
    """Return contents of rings as producers leave them, wrapped or not, one frame unfinished."""
    memory, descriptor = ring_memory()
    seeds = []
    for _ in range(100):
        memory[:] = bytes(len(memory))
        format_ring(memory, 0, 1, RING_BYTES)
        producer = RingProducer(memory, 0, descriptor)
        consumer = RingConsumer(memory, 0, descriptor, FRAME_BYTES_MAX)
        for _ in range(generator.randint(1, 8)):
            if generator.random() < 0.5:
                producer.push(generator.randbytes(generator.choice((0, 1, 30, FRAME_BYTES_MAX))))
            else:
                producer.push_some([generator.randbytes(generator.randint(0, 9)) for _ in "abcd"])
            if generator.random() < 0.5:
                consumer.pop_all(2)
                producer.advance()
        producer.push(b"the last")
        words = memory[_TAIL_OFFSET : _TAIL_OFFSET + 8] + memory[_HEAD_OFFSET : _HEAD_OFFSET + 8]
        if words[:8] != words[8:]:
            seeds.append(words + memory[RING_HEADER_BYTES:])
        producer.release()
        consumer.release()
    return seeds


def check_ring(data: bytes) -> bool:
    """Take what there is from a ring whose indexes and content are anything."""
    memory, descriptor = ring_memory()
    memory[:] = bytes(len(memory))
    format_ring(memory, 0, 1, RING_BYTES)
    words = data[: _RING_WORDS.size].ljust(_RING_WORDS.size, b"\0")
    content = data[_RING_WORDS.size : _RING_WORDS.size + RING_BYTES]
    memory[_TAIL_OFFSET : _TAIL_OFFSET + 8] = words[:8]
    memory[_HEAD_OFFSET : _HEAD_OFFSET + 8] = words[8:]
    memory[RING_HEADER_BYTES : RING_HEADER_BYTES + len(content)] = content
    consumer = RingConsumer(memory, 0, descriptor, FRAME_BYTES_MAX)
    producer = RingProducer(memory, 0, descriptor)
    was_taken = False
    try:
        while not consumer.is_empty:
            taken_bytes = consumer.taken_bytes
            frames = consumer.pop_all(3)
            assert len(frames) <= 2 + FRAMES_PER_BUNDLE
            assert all(len(found) <= FRAME_BYTES_MAX for found in frames)
            assert consumer.taken_bytes > taken_bytes
            was_taken = True
        producer.push(b"x" * FRAME_BYTES_MAX)
    except FrameError:
        was_taken = False
    finally:
        consumer.release()
        producer.release()
    return was_taken


def _wide_nesting(size: int) -> bytes:
    """Return arrays in each other, each of which announces as many items as there are bytes."""
    head = b"\xdd" + struct.pack(">I", size - 5_000)
    return (head * 1000).ljust(size, b"\xc0")


TARGETS = [
    Target("frames", frame_seeds, check_frames, is_msgpack=False),
    # A decoder that reserves what is announced is busy for seconds: msgpack before 1.2.4.
    Target("payloads", payload_seeds, check_payload, hostile=(_wide_nesting(1 << 20),)),
    Target("handshakes", handshake_seeds, check_handshake),
    Target("express messages", express_seeds, check_express),
    Target("express to a receiver", sender_stream, check_receiver, is_msgpack=False),
    Target("express to a sender", receiver_stream, check_sender, is_msgpack=False),
]
if is_supported():
    TARGETS.append(Target("rings", ring_seeds, check_ring, is_msgpack=False))
