"""Batches: what a router sends to a group in one piece, and how they lie in a log entry.

A batch holds commands of many connections in their order. Its writes are packed once, where the
batch is made; the same bytes (``blob``) travel to the leader, into the log and to the followers.
Its reads never enter the log: the leader evaluates them between the writes, at apply.

The payload of an entry is msgpack ``[stamp_ms, [session, sequence, acknowledged_below, blob, …]]``.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack

from rafter_kv.data_commands import DATA_COMMANDS

WORD_MAX = (1 << 64) - 1
COMMANDS_MAX = 1 << 16
"""Commands in one batch."""


class BatchError(ValueError):
    """A batch from another process is malformed. Refuse it; it must not reach the log."""


class PayloadError(Exception):
    """A committed entry cannot be read: a newer format, or a bug. The replica must stop."""


class Payload(NamedTuple):
    """An entry's content; ``items`` is flat, four fields for each batch, in the order above."""

    stamp_ms: int
    items: list[Any]


class Batch:
    """Commands for one group, to be applied once however often they are sent.

    ``session`` and ``sequence`` identify it (see ``sessions``). ``write_positions`` says which of
    ``commands`` are writes, None that all are; ``blob`` is the msgpack of the writes alone.
    Nobody changes a batch once it is made.
    """

    __slots__ = (
        "acknowledged_below",
        "blob",
        "commands",
        "group",
        "sequence",
        "session",
        "write_positions",
    )

    def __init__(
        self,
        group: int,
        session: int,
        sequence: int,
        acknowledged_below: int,
        commands: Sequence[Sequence[bytes]],
        write_positions: list[int] | None = None,
        blob: bytes | None = None,
    ) -> None:
        self.group = group
        self.session = session
        self.sequence = sequence
        self.acknowledged_below = acknowledged_below
        self.commands = commands
        self.write_positions = write_positions
        self.blob = pack_commands(self.writes()) if blob is None else blob

    def writes(self) -> Sequence[Sequence[bytes]]:
        """Return the writes in their order."""
        if self.write_positions is None:
            return self.commands
        return [self.commands[position] for position in self.write_positions]

    def to_wire(self) -> list[object]:
        """Return the batch as values for msgpack; the blob goes as it is."""
        positions = self.write_positions
        reads = b""
        if positions is not None:
            writes = set(positions)
            reads = pack_commands(
                [command for at, command in enumerate(self.commands) if at not in writes]
            )
        return [
            self.group,
            self.session,
            self.sequence,
            self.acknowledged_below,
            self.blob,
            positions,
            reads,
        ]

    @classmethod
    def from_wire(cls, item: object) -> "Batch":
        """Rebuild a batch and check everything that apply relies on. Raises BatchError."""
        if not isinstance(item, list) or len(item) != 7:
            raise BatchError("a batch has 7 fields")
        *words, blob, positions, reads_blob = item
        for word in words:
            if type(word) is not int or not 0 <= word <= WORD_MAX:
                raise BatchError("group, session, sequence and acknowledged_below are words")
        writes = unpack_commands(blob)
        _check_commands(writes, is_write=True)
        commands = writes
        if positions is not None:
            reads = unpack_commands(reads_blob)
            _check_commands(reads, is_write=False)
            commands = _interleave(writes, positions, reads)
        group, session, sequence, acknowledged_below = words
        return cls(group, session, sequence, acknowledged_below, commands, positions, blob)


def pack_commands(commands: Sequence[Sequence[bytes]]) -> bytes:
    """Pack commands into a blob."""
    packed: bytes = msgpack.packb(commands)
    return packed


def unpack_commands(blob: object) -> list[tuple[bytes, ...]]:
    """Unpack a blob, without looking into its commands. Raises BatchError unless it is a list.

    Commands become tuples, since the garbage collector stops looking at a tuple of bytes.
    """
    if type(blob) is not bytes:
        raise BatchError("a blob is bytes")
    try:
        commands = msgpack.unpackb(blob, use_list=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise BatchError(f"a blob is not msgpack: {error}") from error
    if type(commands) is not tuple:
        raise BatchError("a blob holds a list of commands")
    return list(commands)


def pack_payload(stamp_ms: int, batches: Sequence[Batch]) -> bytes:
    """Make the payload of one entry, on the leader."""
    items: list[int | bytes] = []
    for batch in batches:
        items += (batch.session, batch.sequence, batch.acknowledged_below, batch.blob)
    packed: bytes = msgpack.packb([stamp_ms, items])
    return packed


def unpack_payload(payload: bytes) -> Payload:
    """Read the payload of a committed entry. Raises PayloadError: then the replica must stop."""
    try:
        stamp_ms, items = msgpack.unpackb(payload)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise PayloadError(f"an entry of {len(payload)} bytes is unreadable: {error}") from error
    if type(stamp_ms) is not int or type(items) is not list or len(items) % 4:
        raise PayloadError("an entry holds something else than a stamp and batches")
    return Payload(stamp_ms, items)


def _check_commands(commands: Sequence[Sequence[bytes]], *, is_write: bool) -> None:
    """Refuse what operations do not expect: they trust names and arities."""
    if len(commands) > COMMANDS_MAX:
        raise BatchError(f"a batch has at most {COMMANDS_MAX} commands")
    for command in commands:
        if type(command) is not tuple or not command:
            raise BatchError("a command is a non-empty list")
        for argument in command:
            if type(argument) is not bytes:
                raise BatchError("arguments are bytes")
        spec = DATA_COMMANDS.get(command[0])
        if spec is None or spec.is_write != is_write:
            raise BatchError(f"{command[0][:32]!r} is no {'write' if is_write else 'read'}")
        if not spec.accepts(len(command)):
            raise BatchError(f"{command[0]!r} does not take {len(command) - 1} arguments")


def _interleave(
    writes: list[tuple[bytes, ...]], positions: object, reads: list[tuple[bytes, ...]]
) -> list[tuple[bytes, ...]]:
    """Put writes and reads back in the order in which their connections sent them."""
    count = len(writes) + len(reads)
    if (
        type(positions) is not list
        or len(positions) != len(writes)
        or any(type(position) is not int for position in positions)
        or sorted(set(positions)) != positions
        or (positions and not 0 <= positions[0] <= positions[-1] < count)
    ):
        raise BatchError("write positions must be distinct, ascending and as many as the writes")
    written = dict(zip(positions, writes, strict=True))
    remaining = iter(reads)
    return [written[at] if at in written else next(remaining) for at in range(count)]
