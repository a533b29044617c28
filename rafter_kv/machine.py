"""The replicated state machine of a key-value group.

It turns committed entries into changes of a key space, once each however often a router repeats a
batch. The outcome is a function of the log: the time is the entry's stamp, and what the leader
attaches to an entry (its decoded batches) saves work and changes nothing.
"""

from collections.abc import Generator, Iterable, Sequence
from typing import Any, NamedTuple

from xxhash import xxh3_64_intdigest

from rafter_core.state_machine import Update
from rafter_kv.batch import Batch, BatchError, PayloadError, unpack_commands, unpack_payload
from rafter_kv.data_commands import OPERATIONS, READ_OPERATIONS
from rafter_kv.keyspace import BUCKET_MASK, KeySpace
from rafter_kv.results import OK, Arguments, Result
from rafter_kv.sessions import Sessions, Status
from rafter_kv.snapshots import ImageReader, PreparedSnapshot, session_body, write_image

DUE_KEYS_PER_UPDATE_MAX = 64
"""Keys past their deadline that one entry removes. Those left are hidden, and go with the next."""

_HASH_MASK = (1 << 64) - 1


class BatchOutcome(NamedTuple):
    """What became of one batch.

    With RUN and DUPLICATE, and a batch at hand, ``results`` has one value for each of its
    commands; without one it has those of the writes. Otherwise it is empty. The list may be the
    one that the session keeps: do not change it.
    """

    status: Status
    results: list[Result]


class KeyValueMachine:
    """Implements ``rafter_core.state_machine.StateMachine``."""

    def __init__(self) -> None:
        self._keyspace = KeySpace()
        self._sessions = Sessions()
        self._stamp_ms = 0
        self._counts = 0, 0
        # The key space that these are of, None once it may have changed.
        self._counted: KeySpace | None = None

    @property
    def stamp_ms(self) -> int:
        """The log's time: the latest stamp of an applied entry. It never goes back."""
        return self._stamp_ms

    @property
    def key_count(self) -> int:
        """The number of keys. Some 40 µs after a change, nothing if there was none."""
        return self._count()[0]

    @property
    def expires_count(self) -> int:
        """The number of keys that have a deadline. Takes as long as `key_count`."""
        return self._count()[1]

    @property
    def session_count(self) -> int:
        """Count the sessions that are remembered."""
        return len(self._sessions)

    @property
    def next_deadline_ms(self) -> int | None:
        """The earliest deadline of a key that is not removed yet; None without deadlines.

        When it has passed and nothing is being written, the leader proposes an entry without
        batches: its stamp is what removes the keys, on all replicas alike.
        """
        return self._keyspace.deadlines.next_ms()

    def open(self) -> int:
        """Start from nothing: the log and the snapshot under it are the only copy on disk."""
        return 0

    def update(self, updates: list[Update]) -> list[object]:
        """Apply entries in order; for each, return the list of its batches' ``BatchOutcome``.

        ``Update.context``, if there is one, is the list of the entry's batches in their order.
        Raises PayloadError for an entry that cannot be read; the replica must then stop.
        """
        self._counted = None
        return [self._apply(update) for update in updates]

    def lookup(self, query: object) -> list[Result]:
        """Evaluate reads: query is (commands, now_ms), the result one value per command.

        Keys that are past their deadline at ``now_ms``, or at the log's time if that is later,
        are hidden. Raises ValueError for a command that is not a read.
        """
        assert isinstance(query, tuple), "a query is (commands, now_ms)"
        commands, now_ms = query
        now_ms = max(now_ms, self._stamp_ms)
        keyspace = self._keyspace
        buckets, deadlines = keyspace.buckets, keyspace.deadlines.by_bucket
        results: list[Result] = []
        for command in commands:
            if command[0] == b"GET":
                # The body of KeySpace.get, without the calls.
                key = command[1]
                number = xxh3_64_intdigest(key) & BUCKET_MASK
                value = buckets[number].get(key)
                if key in deadlines[number] and deadlines[number][key] <= now_ms:
                    value = None
                results.append(value)
            else:
                operation = READ_OPERATIONS.get(command[0])
                if operation is None:
                    raise ValueError(f"{command[0]!r} is not a read")
                results.append(operation(keyspace, command, now_ms))
        return results

    def prepare_snapshot(self) -> PreparedSnapshot:
        """Hold the state still for one image. Updates go on; what they change is copied first.

        Takes no time that grows with the number of keys. One at a time: an earlier one that is
        still open is given up, and reading on in it raises. ``save_snapshot`` closes it.
        """
        return PreparedSnapshot(self._keyspace.freeze(), self._sessions, self._stamp_ms)

    def save_snapshot(self, prepared: object) -> Generator[bytes, None, None]:
        """Yield the image in chunks. May run on another thread than the updates.

        When the iterator ends or is closed, ``prepared`` is closed with it. Raises RuntimeError
        if the state was prepared anew meanwhile.
        """
        assert isinstance(prepared, PreparedSnapshot), "that was not prepared here"
        try:
            yield from write_image(prepared)
        finally:
            prepared.close()

    def recover_from_snapshot(self, chunks: Iterable[bytes]) -> None:
        """Replace the state by that of an image. On SnapshotError it is left as it was.

        May run on another thread than the rest: counts and look-ups see the old state or the new.
        An image that is being made is given up, as by ``prepare_snapshot``.
        """
        reader = ImageReader()
        reader.read(chunks)
        parts = self._keyspace.release()
        self._keyspace, self._sessions = reader.keyspace, reader.sessions
        self._stamp_ms = reader.stamp_ms
        # One by one: to free millions of values at once would stop all other threads. A look-up
        # that is under way keeps what it still needs.
        while parts:
            parts.pop()

    def close(self) -> None:
        """Let go of the state."""
        self._keyspace, self._sessions = KeySpace(), Sessions()

    def hash(self) -> int:
        """Digest keys, values, deadlines, sessions with their results, and the log's time.

        Equal on all replicas that applied the same entries, however they came by them. Walks all
        keys (about a second for a million): for tests and for checks on demand.
        """
        deadlines = self._keyspace.deadlines.by_bucket
        digest = xxh3_64_intdigest(b"%d" % self._stamp_ms)
        for number, bucket in enumerate(self._keyspace.buckets):
            if not bucket:  # most of them, in a small key space
                continue
            for key, value in bucket.items():
                seed = xxh3_64_intdigest(key, seed=deadlines[number].get(key, 0) & _HASH_MASK)
                digest += xxh3_64_intdigest(value, seed=seed)
        for identity, session in self._sessions.items():
            digest += xxh3_64_intdigest(session_body(identity, session))
        return digest & _HASH_MASK

    def _count(self) -> tuple[int, int]:
        """Count keys and deadlines. Shards ask ten times a second, and most groups are at rest."""
        keyspace = self._keyspace
        if self._counted is not keyspace:
            self._counts = keyspace.key_count, keyspace.expires_count
            self._counted = keyspace
        return self._counts

    def _apply(self, update: Update) -> list[BatchOutcome]:
        if not update.payload:
            return []
        stamp_ms, items = unpack_payload(update.payload)
        batches = update.context
        if batches is not None:
            assert isinstance(batches, list), "the context of an entry is a list of batches"
            assert 4 * len(batches) == len(items), "the batches at hand are not the entry's"
        now_ms = self._stamp_ms = max(self._stamp_ms, stamp_ms)
        self._keyspace.remove_due(now_ms, DUE_KEYS_PER_UPDATE_MAX)
        self._sessions.evict(now_ms)
        return [
            self._apply_batch(items[4 * at : 4 * at + 4], batches[at] if batches else None)
            for at in range(len(items) // 4)
        ]

    def _apply_batch(self, fields: list[Any], batch: Batch | None) -> BatchOutcome:
        identity, sequence, acknowledged_below, blob = fields
        status, session = self._sessions.admit(
            identity, sequence, acknowledged_below, self._stamp_ms
        )
        if session is None:
            return BatchOutcome(status, [])
        positions = None if batch is None else batch.write_positions
        if status is Status.DUPLICATE:
            written = session.results[sequence]
            if batch is None:
                return BatchOutcome(status, written)
            if len(batch.writes()) != len(written):
                # Its router used a number twice. What it asks about now was never applied.
                return BatchOutcome(Status.EXPIRED, [])
            if positions is None:
                return BatchOutcome(status, written)
            return BatchOutcome(status, self._answer_again(batch, positions, written))
        results = self._run(_commands(blob) if batch is None else batch.commands)
        session.record(
            sequence, results if positions is None else [results[at] for at in positions]
        )
        return BatchOutcome(status, results)

    def _run(self, commands: Sequence[Arguments]) -> list[Result]:
        """Run commands at the log's time. This is the hot loop: a plain SET makes one call."""
        keyspace, now_ms = self._keyspace, self._stamp_ms
        buckets, deadlines = keyspace.buckets, keyspace.deadlines.by_bucket
        is_thawed = keyspace.frozen is None
        results: list[Result] = []
        for command in commands:
            if len(command) == 3 and command[0] == b"SET" and is_thawed:
                # The body of KeySpace.put, without the calls.
                key = command[1]
                number = xxh3_64_intdigest(key) & BUCKET_MASK
                buckets[number][key] = command[2]
                if key in deadlines[number]:
                    keyspace.deadlines.discard(number, key)
                results.append(OK)
            else:
                operation = OPERATIONS.get(command[0])
                if operation is None:
                    raise PayloadError(f"an entry holds {command[0]!r}, unknown to this version")
                results.append(operation(keyspace, command, now_ms))
        return results

    def _answer_again(
        self, batch: Batch, positions: list[int], written: list[Result]
    ) -> list[Result]:
        """Join the writes' results of the first time with the reads' of now."""
        by_position = dict(zip(positions, written, strict=True))
        reads = [command for at, command in enumerate(batch.commands) if at not in by_position]
        read = iter(self.lookup((reads, self._stamp_ms)))
        return [
            by_position[at] if at in by_position else next(read)
            for at in range(len(batch.commands))
        ]


def _commands(blob: bytes) -> Sequence[Arguments]:
    """Unpack what the leader checked before it proposed it; a failure here is not a client's."""
    try:
        return unpack_commands(blob)
    except BatchError as error:
        raise PayloadError(str(error)) from error
